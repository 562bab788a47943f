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

mod exec;

mod exit;

mod get;

mod lease;

mod lock;

mod login;

mod logout;

mod mcp;

mod output;

mod policy;

mod render;

mod status;

mod targets;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{self, Overrides, Paths, ProcessEnvironment};
use crate::model::{
    CleanText, ErrorCode, MAX_LEASE_TTL, MAX_REASON, MIN_LEASE_TTL, ProfileName, Refusal,
};
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
    /// Show what there is to ask for
    Targets(targets::Arguments),
    /// Write a credential to standard output
    Get(get::Arguments),
    /// Run a command with credentials in its environment, which end with it
    Exec(exec::Arguments),
    /// Work with leases
    #[command(subcommand)]
    Lease(lease::Command),
    /// Look at the policy file
    #[command(subcommand)]
    Policy(policy::Command),
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

/// Where this user's files are, for a command that asks no daemon: the sockets' folder need not be
/// there. `fix` says what to name where they have no place.
fn files(overrides: Overrides, fix: &str) -> Result<Paths, Refusal> {
    let overrides = Overrides {
        runtime_dir: Some(PathBuf::new()),
        ..overrides
    };
    Paths::resolve(&ProcessEnvironment::new(), &overrides).map_err(|error| {
        Refusal::new(ErrorCode::ConfigInvalid)
            .with_message(&error.to_string())
            .with_fix(fix)
    })
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let context = Context {
        socket: arguments.socket,
        // Standard output of `mcp` is the client's.
        json: arguments.json && !matches!(arguments.command, Command::Mcp(_)),
    };
    let done = match &arguments.command {
        Command::Exec(arguments) => return status_of(&context, exec::run(&context, arguments)),
        Command::Daemon(_) if context.socket.is_some() => Err(makes_its_own_socket()),
        Command::Daemon(arguments) => daemon::run(arguments),
        Command::Mcp(arguments) => mcp::run(&context, arguments),
        Command::Login(arguments) => login::run(&context, arguments),
        Command::Logout(arguments) => logout::run(&context, arguments),
        Command::Lock => lock::run(&context),
        Command::Status => status::run(&context),
        Command::Targets(arguments) => targets::run(&context, arguments),
        Command::Get(arguments) => get::run(&context, arguments),
        Command::Lease(command) => lease::run(&context, command),
        Command::Policy(command) => policy::run(&context, command),
        Command::Audit(command) => audit::run(&context, command),
        #[cfg(feature = "mock")]
        Command::Demo(_) if context.socket.is_some() => Err(makes_its_own_socket()),
        #[cfg(feature = "mock")]
        Command::Demo(options) => demo::command(&context, *options),
    };
    status_of(&context, done.map(|()| ExitCode::SUCCESS))
}

/// Says what went wrong, if anything did.
fn status_of(context: &Context, done: Result<ExitCode, Refusal>) -> ExitCode {
    done.unwrap_or_else(|refusal| {
        render::refusal(context, &refusal);
        exit::of(refusal.code)
    })
}

fn makes_its_own_socket() -> Refusal {
    Refusal::new(ErrorCode::Usage)
        .with_message("--socket names the socket of a daemon that runs; this command starts one")
        .with_fix("leave it out; `daemon --runtime-dir` names the folder of a daemon's sockets")
}

/// What clap has to say: help and version are data, a mistake is `usage`.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return match render::data(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(refusal) => exit::of(refusal.code),
        };
    }
    if wants_json(std::env::args_os().skip(1)) {
        // The first paragraph says what is wrong; the rest is the usage, which `--help` shows.
        let what = text.split("\n\n").next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        let context = Context {
            socket: None,
            json: true,
        };
        render::refusal(
            &context,
            &Refusal::new(ErrorCode::Usage).with_message(&what),
        );
    } else {
        render::progress(&text);
    }
    exit::of(ErrorCode::Usage)
}

/// Whether a command line that could not be read asks for JSON, and not for `mcp`, whose standard
/// output is the client's (MC-1).
fn wants_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<_> = arguments.take_while(|argument| argument != "--").collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    has("--json") && !has("mcp")
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

/// Reads how long a new lease is to live.
fn ttl(text: &str) -> Result<Duration, String> {
    bounded(text, MIN_LEASE_TTL, "30s to 1h")
}

/// Reads how long something must still be valid.
fn min_valid_for(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::ZERO, "at most 1h")
}

/// What the daemon would refuse is refused here, in the words of the command line.
fn bounded(text: &str, least: Duration, bounds: &str) -> Result<Duration, String> {
    duration(text).and_then(|duration| {
        let fits = (least..=MAX_LEASE_TTL).contains(&duration);
        fits.then_some(duration)
            .ok_or_else(|| format!("it is {bounds}"))
    })
}

/// Reads why somebody asks.
fn reason(text: &str) -> Result<String, String> {
    CleanText::exact(text, MAX_REASON)
        .map(|_checked| text.to_owned())
        .ok_or_else(|| format!("it is at most {MAX_REASON} printable characters"))
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

    /// After `--` nothing is a flag.
    #[test]
    fn json_is_asked_for_by_its_flag_alone() {
        let asked = |line: &str| wants_json(line.split(' ').map(OsString::from));
        assert!(asked("aegis-broker --json nonsense"));
        assert!(asked("aegis-broker get --json"));
        assert!(!asked("aegis-broker get -- --json"));
        assert!(!asked("aegis-broker get --jsonish"));
        assert!(!asked("aegis-broker mcp --json --nonsense"));
    }

    /// The bounds are those of docs/socket-protocol.md.
    #[test]
    fn what_the_daemon_would_refuse_is_refused_by_flag() {
        assert_eq!(ttl("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(ttl("1h"), Ok(Duration::from_hours(1)));
        assert!(ttl("29s").is_err() && ttl("3601").is_err());
        assert_eq!(min_valid_for("0"), Ok(Duration::ZERO));
        assert!(min_valid_for("61m").is_err());
        assert!(reason(&"ä".repeat(200)).is_ok());
        assert!(reason(&"ä".repeat(201)).is_err() && reason("a\u{1b}[m").is_err());
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
