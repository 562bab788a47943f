//! The rounds: who has its turn when, and what comes of it.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::args::{Arguments, Failed};
use crate::cli::Program;
use crate::clock::real;
use crate::household::Household;
use crate::idle::{self, Idle};
use crate::lease::Maker;
use crate::load::{self, Run};
use crate::machine::Usage;
use crate::mcp::Way;
use crate::proof::Signing;
use crate::rows::{Chosen, Row};
use crate::soak::{self, Soak};

/// Proofs of one round and side at most: at 20 µs a piece nobody needs more.
const MAX_PROOFS: u32 = 5_000;

/// Starts of one row and side at least, over all rounds.
const MIN_STARTS: u32 = 40;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) rows: Vec<Measured>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) soak: Vec<Soak>,
    pub(crate) notes: Vec<String>,
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
        if let Some(household) = household.as_deref_mut() {
            household.keep_logged_in()?;
        }
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
    let mut results = Results {
        rows,
        idle: Vec::new(),
        soak: Vec::new(),
        notes: Vec::new(),
    };
    if let Some(household) = household {
        rest(arguments, chosen, household, &mut results)?;
    }
    Ok(results)
}

/// What is not done in rounds.
fn rest(
    arguments: &Arguments,
    chosen: &Chosen,
    household: &mut Household,
    results: &mut Results,
) -> Result<(), Failed> {
    if chosen.rows.contains(&Row::Scale) {
        results.notes.push(household.scale()?.said().to_owned());
    }
    let time = Duration::from_secs(arguments.idle.into());
    if chosen.models_idle {
        results.idle.extend(household.models()?.idle(time)?);
    }
    if chosen.idle {
        let idle = idle::daemons(&arguments.bin, household.exchange(), time)?;
        results.idle.extend(idle);
    }
    if chosen.soak {
        results.soak = soak::soak(&arguments.bin, household.exchange(), arguments.soak)?;
    }
    Ok(())
}

/// How long what comes back is, where both sides send the same.
fn reply_bytes(row: Row, household: Option<&mut Household>) -> Result<Option<usize>, Failed> {
    Ok(match row {
        Row::Get { .. } | Row::Stall { .. } => Some(present(household)?.exchange().reply_bytes()),
        Row::Scale => Some(present(household)?.scale()?.exchange().reply_bytes()),
        Row::Call { .. } => Some(present(household)?.models()?.exchange().reply_bytes()),
        Row::Proof
        | Row::Lease { .. }
        | Row::Command { .. }
        | Row::Daemon
        | Row::Killed
        | Row::Start(_)
        | Row::Peer(_) => None,
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
    let starts = MIN_STARTS.div_ceil(u32::from(arguments.rounds));
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
        Row::Lease { beside } => {
            let maker = if is_floor { beside } else { Maker::Broker };
            present(household)?.leases()?.run(maker, requests)
        }
        Row::Command { beside } => {
            let program = if is_floor { beside } else { Program::Get };
            present(household)?.commands()?.run(program, starts)
        }
        Row::Daemon | Row::Killed if is_floor => present(household)?.starts()?.floors(starts),
        Row::Killed => present(household)?.killed()?.daemons(starts),
        Row::Daemon => present(household)?.starts()?.daemons(starts),
        Row::Stall { connections } => {
            let household = present(household)?;
            let exchange = household.exchange().clone();
            if is_floor {
                load::run(household.daemon(), &exchange, connections, requests)
            } else {
                household.stall()?.run(&exchange, connections, requests)
            }
        }
        Row::Scale => present(household)?.scale()?.run(is_floor, requests),
        Row::Call { stdio, beside } => {
            let models = present(household)?.models()?;
            models.calls(way(beside), stdio, requests)
        }
        Row::Peer(peer) if is_floor => present(household)?.peer(peer, requests.min(MAX_PROOFS)),
        Row::Peer(_) => {
            let household = present(household)?;
            load::run(household.daemon(), household.exchange(), 1, requests)
        }
        Row::Start(start) => {
            let models = present(household)?.models()?;
            models.starts(way(Way::Minimal), start, starts)
        }
    }
}
