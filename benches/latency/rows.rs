//! What is measured beside what.

use crate::args::{Arguments, Failed};
use crate::cli::Program;
use crate::client::Stdio;
use crate::lease::Maker;
use crate::mcp::{Start, Way};
use crate::peers::Peer;
use crate::report;

/// Names for `--only`, and what they are.
const MEASURES: [(&str, &str); 13] = [
    (
        "get",
        "credential.get from memory over broker.sock, beside a JSON-RPC echo of equal bytes",
    ),
    (
        "proof",
        "one DPoP proof, beside a bare ES256 signature over the same bytes",
    ),
    (
        "lease",
        "one lease.create over broker.sock, beside reqwest with a ready proof, and beside one that signs in line",
    ),
    (
        "cli/get",
        "aegis-broker get as a whole process, beside an empty static program, and beside a one-shot client",
    ),
    (
        "daemon/start",
        "a daemon from being spawned to its first reply, beside the floor of get",
    ),
    (
        "daemon/killed",
        "the same where one was killed, with a log to verify and leases to give back; to be within 500 ms",
    ),
    (
        "stall",
        "credential.get from memory while the issuer stalls on other calls, beside the same when quiet",
    ),
    (
        "scale",
        "credential.get from memory of a daemon that is full, beside one that holds 10 selectors",
    ),
    (
        "mcp/call",
        "tools/call of status through the shim, beside a relay to an echo, and beside the MCP library alone",
    ),
    (
        "mcp/start",
        "a started shim to its reply, daemon up and absent, beside the MCP library alone",
    ),
    (
        "mcp/idle",
        "context switches and memory of a shim that is left alone, beside a relay",
    ),
    (
        "idle",
        "the same of a daemon, logged out and logged in, beside the floor of get",
    ),
    (
        "soak",
        "memory, descriptors and threads after the first tenth of many requests and at their end",
    ),
];

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Get {
        connections: u16,
    },
    Proof,
    Lease {
        beside: Maker,
    },
    Command {
        beside: Program,
    },
    Daemon,
    /// Where another one was killed.
    Killed,
    Stall {
        connections: u16,
    },
    Scale,
    /// Through the shim, beside another way.
    Call {
        stdio: Stdio,
        beside: Way,
    },
    Start(Start),
    Peer(Peer),
}

/// In the order of the table, after those of `get`.
const ROWS: [Row; 16] = [
    Row::Proof,
    Row::Lease {
        beside: Maker::Ready,
    },
    Row::Lease {
        beside: Maker::Signing,
    },
    Row::Command {
        beside: Program::Empty,
    },
    Row::Command {
        beside: Program::OneShot,
    },
    Row::Daemon,
    Row::Killed,
    Row::Stall { connections: 1 },
    Row::Stall { connections: 16 },
    Row::Scale,
    Row::Call {
        stdio: Stdio::Pipes,
        beside: Way::Relay,
    },
    Row::Call {
        stdio: Stdio::Sockets,
        beside: Way::Relay,
    },
    Row::Call {
        stdio: Stdio::Pipes,
        beside: Way::Minimal,
    },
    Row::Start(Start::Up),
    Row::Start(Start::Absent),
    Row::Start(Start::Call),
];

impl Row {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Get { connections } => format!("get/{connections}"),
            Self::Proof => "proof".to_owned(),
            Self::Lease {
                beside: Maker::Signing,
            } => "lease/signing".to_owned(),
            Self::Lease { .. } => "lease/ready".to_owned(),
            Self::Command {
                beside: Program::OneShot,
            } => "cli/get/oneshot".to_owned(),
            Self::Command { .. } => "cli/get/empty".to_owned(),
            Self::Daemon => "daemon/start".to_owned(),
            Self::Killed => "daemon/killed".to_owned(),
            Self::Stall { connections } => format!("stall/{connections}"),
            Self::Scale => "scale".to_owned(),
            Self::Call {
                beside: Way::Minimal,
                ..
            } => "mcp/call/rmcp".to_owned(),
            Self::Call { stdio, .. } => match stdio {
                Stdio::Pipes => "mcp/call/pipe".to_owned(),
                Stdio::Sockets => "mcp/call/socket".to_owned(),
            },
            Self::Peer(peer) => format!("peer/{}", peer.program()),
            Self::Start(Start::Up) => "mcp/start/up".to_owned(),
            Self::Start(Start::Absent) => "mcp/start/absent".to_owned(),
            Self::Start(Start::Call) => "mcp/start/call".to_owned(),
        }
    }

    /// The name for `--only`.
    pub(crate) const fn measure(self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::Proof => "proof",
            Self::Lease { .. } => "lease",
            Self::Command { .. } => "cli/get",
            Self::Daemon => "daemon/start",
            Self::Killed => "daemon/killed",
            Self::Stall { .. } => "stall",
            Self::Scale => "scale",
            Self::Call { .. } => "mcp/call",
            Self::Start(_) => "mcp/start",
            Self::Peer(_) => "peer",
        }
    }

    pub(crate) const fn sides(self) -> [&'static str; 2] {
        match self {
            Self::Get { .. } => ["credential.get", "floor-jsonrpc"],
            Self::Proof => ["DPoP proof", "bare signature"],
            Self::Lease { beside } => [Maker::Broker.name(), beside.name()],
            Self::Command { beside } => [Program::Get.name(), beside.name()],
            Self::Daemon => ["daemon", "floor-jsonrpc"],
            Self::Killed => ["daemon after a kill", "floor-jsonrpc"],
            Self::Stall { .. } => ["issuer stalls", "quiet"],
            Self::Scale => ["full", "10 selectors"],
            Self::Call { beside, .. } => [Way::Shim.name(), beside.name()],
            Self::Peer(peer) => ["credential.get", peer.name()],
            Self::Start(_) => [Way::Shim.name(), Way::Minimal.name()],
        }
    }
}

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) rows: Vec<Row>,
    pub(crate) models_idle: bool,
    pub(crate) idle: bool,
    pub(crate) soak: bool,
}

impl Chosen {
    pub(crate) fn needs_daemon(&self) -> bool {
        self.models_idle || self.idle || self.soak || self.rows.iter().any(|row| *row != Row::Proof)
    }
}

/// Says what there is.
pub(crate) fn list(arguments: &Arguments) -> Result<(), Failed> {
    for (name, what) in MEASURES {
        report::say(&format!("{name:14}{what}"))?;
    }
    let conns: Vec<String> = arguments.conns.iter().map(u16::to_string).collect();
    report::say(&format!("connections: {}", conns.join(", ")))
}

/// What `--only` and `--conns` leave.
pub(crate) fn chosen(arguments: &Arguments) -> Result<Chosen, Failed> {
    for name in &arguments.only {
        if MEASURES.iter().all(|(known, _)| !is_meant(name, known)) {
            return Err(format!("there is no measure {name}: see --list").into());
        }
    }
    let wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| is_meant(only, name))
    };
    let mut rows = Vec::new();
    if wanted("get") {
        let of = |connections: &u16| Row::Get {
            connections: *connections,
        };
        rows.extend(arguments.conns.iter().map(of));
    }
    rows.extend(ROWS.into_iter().filter(|row| wanted(row.measure())));
    if arguments.peers {
        rows.extend(peers()?);
    }
    Ok(Chosen {
        rows,
        models_idle: wanted("mcp/idle"),
        idle: wanted("idle"),
        soak: wanted("soak"),
    })
}

/// Those that are installed; of the others it is said that they are not.
fn peers() -> Result<Vec<Row>, Failed> {
    let (here, absent): (Vec<_>, Vec<_>) = Peer::ALL.into_iter().partition(|peer| peer.is_here());
    for peer in absent {
        report::say(&format!("skipped: {} is not installed", peer.program()))?;
    }
    Ok(here.into_iter().map(Row::Peer).collect())
}

/// A measure is meant by its name, and by the group that its name begins with.
fn is_meant(only: &str, name: &str) -> bool {
    name.strip_prefix(only)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
