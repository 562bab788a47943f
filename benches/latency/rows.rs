//! What is measured beside what, in which order.

use hdrhistogram::Histogram;

use crate::args::{Arguments, Failed};
use crate::clock::real;
use crate::household::Household;
use crate::load::{self, Run};
use crate::machine::Usage;
use crate::proof::Signing;
use crate::report;

/// Names for `--only`, and what they are.
const MEASURES: [(&str, &str); 2] = [
    (
        "get",
        "credential.get from memory over broker.sock, beside a JSON-RPC echo of equal bytes",
    ),
    (
        "proof",
        "one DPoP proof, beside a bare ES256 signature over the same bytes",
    ),
];

/// Proofs of one round and side at most: at 20 µs a piece nobody needs more.
const MAX_PROOFS: u32 = 5_000;

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Get { connections: u16 },
    Proof,
}

impl Row {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Get { connections } => format!("get/{connections}"),
            Self::Proof => "proof".to_owned(),
        }
    }

    pub(crate) const fn sides(self) -> [&'static str; 2] {
        match self {
            Self::Get { .. } => ["credential.get", "floor-jsonrpc"],
            Self::Proof => ["DPoP proof", "bare signature"],
        }
    }

    pub(crate) const fn needs_daemon(self) -> bool {
        matches!(self, Self::Get { .. })
    }
}

/// Says what there is.
pub(crate) fn list(arguments: &Arguments) -> Result<(), Failed> {
    for (name, what) in MEASURES {
        report::say(&format!("{name:8}{what}"))?;
    }
    let conns: Vec<String> = arguments.conns.iter().map(u16::to_string).collect();
    report::say(&format!("connections: {}", conns.join(", ")))
}

/// What `--only` and `--conns` leave.
pub(crate) fn chosen(arguments: &Arguments) -> Result<Vec<Row>, Failed> {
    for name in &arguments.only {
        if MEASURES.iter().all(|(known, _)| known != name) {
            return Err(format!("there is no measure {name}: see --list").into());
        }
    }
    let wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
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
    Ok(rows)
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
    rows: &[Row],
    mut household: Option<&mut Household>,
) -> Result<Vec<Measured>, Failed> {
    let signing = Signing::prepare()?;
    let reply_bytes = household.as_ref().map(|all| all.exchange().reply_bytes());
    let mut measured = Vec::new();
    for row in rows {
        let [subject, floor] = row.sides();
        measured.push(Measured {
            row: *row,
            reply_bytes: reply_bytes.filter(|_| row.needs_daemon()),
            sides: [Side::new(subject)?, Side::new(floor)?],
        });
    }
    let mut first = 0_usize;
    for round in 0..arguments.rounds {
        let count = measured.len();
        for step in 0..count {
            let at = (usize::from(round) + step) % count.max(1);
            let Some(measured) = measured.get_mut(at) else {
                continue;
            };
            for turn in 0..2 {
                if household.as_ref().is_some_and(|all| all.is_interrupted()) {
                    return Err("interrupted".into());
                }
                let at = (first + turn) % 2;
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
        first += 1;
    }
    Ok(measured)
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
    match row {
        Row::Get { connections } => {
            let household = household.ok_or("no daemon was started")?;
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
    }
}
