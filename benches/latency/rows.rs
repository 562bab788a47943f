//! What is measured beside what, in which order.

use hdrhistogram::Histogram;

use crate::args::{Arguments, Failed};
use crate::client::Stdio;
use crate::clock::real;
use crate::household::Household;
use crate::load::{self, Run};
use crate::machine::Usage;
use crate::mcp::{Idle, Start, Way};
use crate::proof::Signing;
use crate::report;

/// Names for `--only`, and what they are.
const MEASURES: [(&str, &str); 5] = [
    (
        "get",
        "credential.get from memory over broker.sock, beside a JSON-RPC echo of equal bytes",
    ),
    (
        "proof",
        "one DPoP proof, beside a bare ES256 signature over the same bytes",
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
        "context switches of a shim that is left alone for ten seconds, beside a relay",
    ),
];

/// Proofs of one round and side at most: at 20 µs a piece nobody needs more.
const MAX_PROOFS: u32 = 5_000;

/// Starts of one row and side at least, over all rounds.
const MIN_STARTS: u32 = 40;

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Get {
        connections: u16,
    },
    Proof,
    /// Through the shim, beside another way.
    Call {
        stdio: Stdio,
        beside: Way,
    },
    Start(Start),
}

/// In the order of the table.
const MODELS: [Row; 6] = [
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
            Self::Call {
                beside: Way::Minimal,
                ..
            } => "mcp/call/rmcp".to_owned(),
            Self::Call { stdio, .. } => match stdio {
                Stdio::Pipes => "mcp/call/pipe".to_owned(),
                Stdio::Sockets => "mcp/call/socket".to_owned(),
            },
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
            Self::Call { .. } => "mcp/call",
            Self::Start(_) => "mcp/start",
        }
    }

    pub(crate) const fn sides(self) -> [&'static str; 2] {
        match self {
            Self::Get { .. } => ["credential.get", "floor-jsonrpc"],
            Self::Proof => ["DPoP proof", "bare signature"],
            Self::Call { beside, .. } => [Way::Shim.name(), beside.name()],
            Self::Start(_) => [Way::Shim.name(), Way::Minimal.name()],
        }
    }
}

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Chosen {
    rows: Vec<Row>,
    idle: bool,
}

impl Chosen {
    pub(crate) fn needs_daemon(&self) -> bool {
        self.idle || self.rows.iter().any(|row| *row != Row::Proof)
    }
}

/// Says what there is.
pub(crate) fn list(arguments: &Arguments) -> Result<(), Failed> {
    for (name, what) in MEASURES {
        report::say(&format!("{name:11}{what}"))?;
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
    if wanted("proof") {
        rows.push(Row::Proof);
    }
    rows.extend(MODELS.into_iter().filter(|row| wanted(row.measure())));
    Ok(Chosen {
        rows,
        idle: wanted("mcp/idle"),
    })
}

/// A measure is meant by its name, and by the group that its name begins with.
fn is_meant(only: &str, name: &str) -> bool {
    name.strip_prefix(only)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) rows: Vec<Measured>,
    pub(crate) idle: Vec<Idle>,
}

/// Everything that was measured of a row: the subject, then its floor.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) reply_bytes: Option<usize>,
    pub(crate) sides: [Side; 2],
}

/// All rounds of one side.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) all: Histogram<u64>,
    pub(crate) medians: Vec<f64>,
    pub(crate) tails: Vec<f64>,
    pub(crate) rates: Vec<f64>,
    pub(crate) used: Usage,
    pub(crate) errors: u64,
}

impl Side {
    fn new(name: &'static str) -> Result<Self, Failed> {
        Ok(Self {
            name,
            all: load::histogram()?,
            medians: Vec::new(),
            tails: Vec::new(),
            rates: Vec::new(),
            used: Usage::default(),
            errors: 0,
        })
    }

    fn add(&mut self, run: &Run) -> Result<(), Failed> {
        self.medians.push(real(run.times.value_at_quantile(0.5)));
        self.tails.push(real(run.times.value_at_quantile(0.99)));
        let seconds = real(run.elapsed.max(1)) / 1e9;
        self.rates.push(real(run.times.len()) / seconds);
        self.used = self.used.plus(run.used);
        self.errors = self.errors.saturating_add(run.errors);
        Ok(self.all.add(&run.times)?)
    }
}

/// Runs every row `--rounds` times. Neither side of a row is always first, nor any row.
pub(crate) fn run(
    arguments: &Arguments,
    chosen: &Chosen,
    mut household: Option<&mut Household>,
) -> Result<Results, Failed> {
    let signing = Signing::prepare()?;
    let mut rows = Vec::new();
    for row in &chosen.rows {
        let [subject, floor] = row.sides();
        rows.push(Measured {
            row: *row,
            reply_bytes: reply_bytes(*row, household.as_deref_mut())?,
            sides: [Side::new(subject)?, Side::new(floor)?],
        });
    }
    let count = rows.len();
    for round in 0..usize::from(arguments.rounds) {
        for step in 0..count {
            let Some(measured) = rows.get_mut((round + step) % count.max(1)) else {
                continue;
            };
            for turn in 0..2 {
                if household.as_ref().is_some_and(|all| all.is_interrupted()) {
                    return Err("interrupted".into());
                }
                let at = (round + turn) % 2;
                let run = one(
                    arguments,
                    measured.row,
                    at == 1,
                    household.as_deref_mut(),
                    &signing,
                )?;
                if let Some(side) = measured.sides.get_mut(at) {
                    side.add(&run)?;
                }
            }
        }
    }
    let mut idle = Vec::new();
    if chosen.idle {
        idle.extend(present(household)?.models()?.idle()?);
    }
    Ok(Results { rows, idle })
}

/// How long what comes back is, where both sides send the same.
fn reply_bytes(row: Row, household: Option<&mut Household>) -> Result<Option<usize>, Failed> {
    Ok(match row {
        Row::Get { .. } => Some(present(household)?.exchange().reply_bytes()),
        Row::Call { .. } => Some(present(household)?.models()?.exchange().reply_bytes()),
        Row::Proof | Row::Start(_) => None,
    })
}

fn present(household: Option<&mut Household>) -> Result<&mut Household, Failed> {
    Ok(household.ok_or("no daemon was started")?)
}

/// One side of one row of one round.
fn one(
    arguments: &Arguments,
    row: Row,
    is_floor: bool,
    household: Option<&mut Household>,
    signing: &Signing,
) -> Result<Run, Failed> {
    let requests = arguments.requests;
    let way = |floor| if is_floor { floor } else { Way::Shim };
    match row {
        Row::Get { connections } => {
            let household = present(household)?;
            let (socket, pid) = if is_floor {
                household.floor()?
            } else {
                household.daemon()
            };
            let socket = socket.to_owned();
            load::run((&socket, pid), household.exchange(), connections, requests)
        }
        Row::Proof if is_floor => signing.signatures(requests.min(MAX_PROOFS)),
        Row::Proof => signing.proofs(requests.min(MAX_PROOFS)),
        Row::Call { stdio, beside } => {
            let models = present(household)?.models()?;
            models.calls(way(beside), stdio, requests)
        }
        Row::Start(start) => {
            let models = present(household)?.models()?;
            let count = MIN_STARTS.div_ceil(u32::from(arguments.rounds));
            models.starts(way(Way::Minimal), start, count)
        }
    }
}
