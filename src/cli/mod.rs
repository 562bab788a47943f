//! The command line: one file per subcommand.
//!
//! A command parses its arguments into types, asks the daemon through
//! [`socket::client`](crate::socket::client) and hands the answer to `render`, the only place
//! that writes: standard output is data, everything else is standard error. Nothing here starts
//! a runtime, opens a file or logs on the way to a credential.

mod audit;

mod daemon;

#[cfg(feature = "mock")]
mod demo;

mod exit;

mod get;

mod lease;

mod lock;

mod login;

mod logout;

mod mcp;

mod output;

mod render;

mod status;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{self, ProcessEnvironment};
use crate::model::{ErrorCode, ProfileName, Refusal};
use crate::socket::client::{Client, SOCKET};

/// A local credential broker: short-lived, sender-constrained credentials for agents, commands
/// and scripts.
#[derive(Debug, Parser)]
#[command(name = "aegis-broker", version, propagate_version = true)]
struct Arguments {
    /// The daemon's socket, instead of the one in the runtime folder
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Write one JSON object a line to standard output, errors too
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Daemon(daemon::Arguments),
    /// Serve an MCP client on standard input and output, through the daemon
    Mcp(mcp::Arguments),
    /// Log in by approving on another device
    Login(login::Arguments),
    /// End the session: revoke its leases and wipe everything
    Logout(logout::Arguments),
    /// Like logout, and serve nothing until the next login
    Lock,
    /// Show how everything stands
    Status,
    /// Write a credential to standard output
    Get(get::Arguments),
    /// Work with leases
    #[command(subcommand)]
    Lease(lease::Command),
    /// Look at the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Show the whole story on an empty machine, against the bundled server
    #[cfg(feature = "mock")]
    Demo(demo::Options),
}

/// What every command needs to know.
#[derive(Debug)]
struct Context {
    socket: Option<PathBuf>,
    json: bool,
}

impl Context {
    fn connect(&self) -> Result<Client, Refusal> {
        match &self.socket {
            Some(socket) => Client::connect(socket),
            None => Client::connect(&default_socket(SOCKET)?),
        }
    }
}

/// Where the daemon of this user has the socket of that name, unless it was told otherwise.
fn default_socket(name: &str) -> Result<PathBuf, Refusal> {
    let folder = config::runtime_dir(&ProcessEnvironment::new()).map_err(|error| {
        Refusal::new(ErrorCode::RuntimeFolderUnsafe).with_message(&error.to_string())
    })?;
    Ok(folder.join(name))
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::usage(&error),
    };
    let context = Context {
        socket: arguments.socket,
        // Standard output of `mcp` is the client's.
        json: arguments.json && !matches!(arguments.command, Command::Mcp(_)),
    };
    let done = match &arguments.command {
        Command::Daemon(arguments) => daemon::run(arguments),
        Command::Mcp(arguments) => mcp::run(&context, arguments),
        Command::Login(arguments) => login::run(&context, arguments),
        Command::Logout(arguments) => logout::run(&context, arguments),
        Command::Lock => lock::run(&context),
        Command::Status => status::run(&context),
        Command::Get(arguments) => get::run(&context, arguments),
        Command::Lease(command) => lease::run(&context, command),
        Command::Audit(command) => audit::run(&context, command),
        #[cfg(feature = "mock")]
        Command::Demo(options) => demo::command(&context, *options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            render::refusal(&context, &refusal);
            exit::of(refusal.code)
        }
    }
}

/// Ends a process that could not be hardened, before it did anything.
pub fn not_hardened(error: &io::Error) -> ExitCode {
    let refusal = Refusal::new(ErrorCode::Internal)
        .with_message(&format!("this process cannot be protected: {error}"));
    let context = Context {
        socket: None,
        json: false,
    };
    render::refusal(&context, &refusal);
    exit::of(refusal.code)
}

/// Reads a profile's name from an argument.
fn profile(text: &str) -> Result<ProfileName, String> {
    ProfileName::parse(text).map_err(|error| error.to_string())
}

/// Reads `90`, `90s`, `15m` or `1h` from an argument.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at_checked(at).unwrap_or((text, "")),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let seconds = number.parse::<u64>().ok().zip(factor);
    seconds
        .and_then(|(number, factor)| number.checked_mul(factor))
        .map(Duration::from_secs)
        .ok_or_else(|| "a duration is a number with s, m or h: 90s, 15m, 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_numbers_with_a_unit() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("15m"), Ok(Duration::from_mins(15)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        for text in [
            "",
            "m",
            "-1",
            "1d",
            "1.5h",
            "1m30s",
            "5 m",
            "ä",
            "99999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("18446744073709551615h").is_err(), "no overflow");
    }
}
