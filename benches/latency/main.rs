//! What a credential costs, end to end: `cargo bench --bench latency -- --help`.
//!
//! The bundled server, the daemon and the floors are started here, in a private folder, on
//! loopback only. A subject and its floor take turns within a round, and rounds rotate their
//! order, so that a busy machine is busy for both. Ratios are what counts; nothing is asserted.
//!
//! Read [`rows`] (what is measured), [`rounds`] (in which order), `floors`, `bare`, `relay`,
//! `minimal`, `tiny/` and `peers` (beside what), `house` and `household` (what runs), `load`, `lease`,
//! `cli`, `start`, `stall`, `scale`, `mcp` and `proof` (how), `idle` and `soak` (what is looked at
//! and not timed), `report`.

mod args;
mod bare;
mod cli;
mod client;
mod clock;
mod cold;
mod daemon;
mod floor;
mod floors;
mod house;
mod household;
mod idle;
mod lease;
mod load;
mod machine;
mod mcp;
mod minimal;
mod peers;
mod proof;
mod relay;
mod report;
mod rounds;
mod rows;
mod scale;
mod soak;
mod stall;
mod start;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Failed, Part};
use household::Household;
use machine::Machine;

/// As in the daemon, so that a proof here costs what it costs there.
#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.floor.zip(arguments.at.as_deref()) {
        Some((part, at)) => be(part, at),
        None if arguments.list => rows::list(&arguments),
        None if !arguments.bench => report::say(
            "not run: it measures for a minute and asserts nothing; cargo bench --bench latency does",
        ),
        None => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&*error);
            ExitCode::FAILURE
        }
    }
}

fn be(part: Part, at: &Path) -> Result<(), Failed> {
    match part {
        Part::Jsonrpc => floors::serve(at),
        Part::Echo => relay::echo(at),
        Part::Relay => relay::relay(at),
        Part::Minimal => minimal::serve(at),
    }
}

fn measure(arguments: &Arguments) -> Result<(), Failed> {
    let chosen = rows::chosen(arguments)?;
    let mut household = if chosen.needs_daemon() {
        Some(Household::start(&arguments.bin)?)
    } else {
        None
    };
    let before = Machine::look(&arguments.bin);
    let measured = rounds::run(arguments, &chosen, household.as_mut())?;
    report::print(arguments, &before, &measured)?;
    match household {
        Some(household) => household.stop(),
        None => Ok(()),
    }
}
