//! `aegis-broker mcp`: what an MCP client starts. Its standard output is the protocol.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Context, default_socket, render};
use crate::config::{Environment as _, ProcessEnvironment};
use crate::mcp::shim::{self, Door, Inherited, Launch, Relayed};
use crate::model::{ErrorCode, Refusal};
use crate::socket::client::{self, MCP_SOCKET};

/// Where the bundled server's daemon says how to approve a login. Any other daemon's log would
/// grow with its life: who wants to read it starts the daemon under a supervisor.
const MOCK_LOG: &str = "mock.log";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where no daemon runs yet, start one with the bundled server; `mock.log` beside the socket
    /// says how to approve a login there
    #[arg(long)]
    mock: bool,
}

/// Relays until the client or the daemon hangs up.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Refusal> {
    let client = Inherited::new();
    let reached = socket(context).and_then(|socket| {
        let launch = launch(&socket, arguments)?;
        shim::reach(&SocketDoor(socket), launch.as_ref())
    });
    let daemon = reached.or_else(|refusal| stand_in(&refusal))?;
    match client.relay(&daemon).map_err(|error| no_means(&error))? {
        Relayed::ClientLeft => Ok(()),
        // Clients show why in a log, and start us again.
        Relayed::DaemonLeft => Err(Refusal::new(ErrorCode::DaemonUnreachable)
            .with_message("the daemon ended the connection")),
        Relayed::TurnedAway(turned_away) => {
            let server = stand_in(turned_away.refusal())?;
            client
                .go_on(turned_away, &server)
                .map(drop)
                .map_err(|error| no_means(&error))
        }
    }
}

/// Clients show why in a log; to the model every call says it.
fn stand_in(refusal: &Refusal) -> Result<UnixStream, Refusal> {
    render::refusal_as_text(refusal);
    shim::degraded(refusal).map_err(|error| no_means(&error))
}

fn socket(context: &Context) -> Result<PathBuf, Refusal> {
    let socket = match &context.socket {
        Some(socket) => socket.clone(),
        None => default_socket(MCP_SOCKET)?,
    };
    // The daemon is started elsewhere.
    std::path::absolute(socket).map_err(|error| no_means(&error))
}

/// How to start the daemon that listens there. A socket of another name than the daemon's own is
/// one that somebody else arranged for.
fn launch(socket: &Path, arguments: &Arguments) -> Result<Option<Launch>, Refusal> {
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Ok(None);
    };
    if name != MCP_SOCKET {
        return Ok(None);
    }
    let mut words = vec!["daemon".into(), "--runtime-dir".into(), folder.into()];
    if arguments.mock {
        words.push("--mock".into());
    }
    Ok(Some(Launch {
        program: std::env::current_exe().map_err(|error| no_means(&error))?,
        arguments: words,
        folders: folders(),
        log: arguments.mock.then(|| folder.join(MOCK_LOG)),
    }))
}

/// Where the daemon will look for its files: said outright, so that what a person starts by hand
/// looks there too.
fn folders() -> Vec<(&'static str, PathBuf)> {
    let here = ProcessEnvironment::new();
    [
        ("XDG_CONFIG_HOME", here.config_home()),
        ("XDG_STATE_HOME", here.state_home()),
    ]
    .into_iter()
    .filter_map(|(name, folder)| Some((name, folder?)))
    .collect()
}

fn no_means(error: &std::io::Error) -> Refusal {
    Refusal::new(ErrorCode::Io).with_message(&format!("nothing can be relayed: {error}"))
}

/// A socket of a daemon of ours.
#[derive(Debug)]
struct SocketDoor(PathBuf);

impl Door for SocketDoor {
    fn connect(&self) -> Result<UnixStream, Refusal> {
        client::connect(&self.0)
    }

    fn folder(&self) -> Result<PathBuf, Refusal> {
        client::prepare_folder(&self.0)?;
        Ok(self.0.parent().map(Path::to_owned).unwrap_or_default())
    }
}
