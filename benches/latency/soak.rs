//! Many requests, and what they leave behind.

use std::path::Path;
use std::time::Duration;

use crate::args::Failed;
use crate::house::{Furniture, House};
use crate::idle::{SETTLED, Watched, outlive};
use crate::load::{self, Exchange};
use crate::machine::Memory;

/// On how many connections.
const CONNECTIONS: [u16; 2] = [1, 128];

/// What a daemon had after the first tenth of its requests, and after the last.
#[derive(Debug)]
pub(crate) struct Soak {
    pub(crate) connections: u16,
    pub(crate) requests: u32,
    pub(crate) errors: u64,
    pub(crate) early: Memory,
    pub(crate) late: Memory,
}

/// That many cached requests, to a new daemon for each number of connections.
pub(crate) fn soak(bin: &Path, exchange: &Exchange, requests: u32) -> Result<Vec<Soak>, Failed> {
    CONNECTIONS
        .into_iter()
        .map(|connections| one(bin, exchange, connections, requests))
        .collect()
}

fn one(bin: &Path, exchange: &Exchange, connections: u16, requests: u32) -> Result<Soak, Failed> {
    let house = House::start(bin, Furniture::PLAIN)?;
    let daemon = house.daemon();
    let first = requests / 10;
    // Its own warming is part of the first tenth.
    let run = load::run(daemon, exchange, connections, first)?;
    let early = settled(daemon.1)?;
    let rest = load::run(
        daemon,
        exchange,
        connections,
        requests.saturating_sub(first),
    )?;
    let late = settled(daemon.1)?;
    house.stop()?;
    Ok(Soak {
        connections,
        requests,
        errors: run.errors.saturating_add(rest.errors),
        early,
        late,
    })
}

/// What it has once its connections are closed and its records are on the disk.
fn settled(pid: u32) -> Result<Memory, Failed> {
    let daemon = [Watched {
        name: "daemon",
        pid,
    }];
    outlive(&daemon, SETTLED.saturating_add(Duration::from_secs(1)))?;
    Ok(Memory::of(pid))
}
