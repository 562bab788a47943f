//! A daemon from being spawned to its first reply, on a folder that it has used before.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use crate::args::{Failed, Part};
use crate::clock::nanos;
use crate::daemon::Daemon;
use crate::floor::Floor;
use crate::house::{Furniture, House, furnish};
use crate::household::request;
use crate::load::{self, Exchange, Run, histogram};
use crate::machine::Usage;

const STATUS: &[u8] =
    b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"broker.status\",\"params\":{}}\n";

/// The folder, and what the floor answers.
#[derive(Debug)]
pub(crate) struct Starts {
    bin: PathBuf,
    folder: PathBuf,
    answer: Vec<u8>,
}

impl Starts {
    pub(crate) fn prepare(bin: &Path, house: &House, exchange: &Exchange) -> Result<Self, Failed> {
        let folder = house.folder().join("start");
        std::fs::create_dir(&folder)?;
        furnish(&folder, &Furniture::PLAIN.config(&house.server().mock))?;
        Ok(Self {
            bin: bin.to_owned(),
            folder,
            answer: exchange.answer(),
        })
    }

    /// Daemons, each ended once it has said how it stands.
    pub(crate) fn daemons(&mut self, count: u32) -> Result<Run, Failed> {
        each(count, || {
            let begun = nanos();
            let mut daemon = Daemon::start(&self.bin, &self.folder)?;
            let is_right = is_answered(daemon.socket(), STATUS)?;
            let took = nanos().saturating_sub(begun);
            let used = Usage::of(daemon.id());
            daemon.stop()?;
            std::fs::remove_file(self.folder.join("notify"))?;
            Ok((took, is_right, used))
        })
    }

    /// Floors, each ended once it has answered.
    pub(crate) fn floors(&mut self, count: u32) -> Result<Run, Failed> {
        let socket = self.folder.join("floor.sock");
        each(count, || {
            let begun = nanos();
            let floor = Floor::start(Part::Jsonrpc, &socket, &self.answer)?;
            let is_right = is_answered(&socket, &request())?;
            let took = nanos().saturating_sub(begun);
            let used = Usage::of(floor.id());
            drop(floor);
            std::fs::remove_file(&socket)?;
            Ok((took, is_right, used))
        })
    }
}

/// Credentials that the log tells of before the first kill; the logins after each add more.
const RECORDS: u32 = 5_000;

/// What each killed daemon leaves to be given back.
const LEFT: Furniture = Furniture {
    leases: 64,
    ..Furniture::PLAIN
};

/// A daemon that is killed with leases and a log, and the next one.
#[derive(Debug)]
pub(crate) struct Killed {
    bin: PathBuf,
    house: House,
}

impl Killed {
    pub(crate) fn prepare(bin: &Path, exchange: &Exchange) -> Result<Self, Failed> {
        let house = House::start(bin, LEFT)?;
        load::run(house.daemon(), exchange, 1, RECORDS)?;
        Ok(Self {
            bin: bin.to_owned(),
            house,
        })
    }

    /// Daemons, each started where one was killed, until it says how it stands: it has verified the
    /// log by then, and knows which leases it has to give back at its login.
    pub(crate) fn daemons(&mut self, count: u32) -> Result<Run, Failed> {
        each(count, || {
            self.house.kill()?;
            let begun = nanos();
            self.house.start_again(&self.bin)?;
            let (socket, pid) = self.house.daemon();
            let is_right = is_answered(socket, STATUS)?;
            let took = nanos().saturating_sub(begun);
            let used = Usage::of(pid);
            self.house.log_in()?;
            Ok((took, is_right, used))
        })
    }

    pub(crate) fn stop(self) -> Result<(), Failed> {
        self.house.stop()
    }
}

fn each(
    count: u32,
    mut start: impl FnMut() -> Result<(u64, bool, Usage), Failed>,
) -> Result<Run, Failed> {
    let mut run = Run {
        times: histogram()?,
        elapsed: 0,
        errors: 0,
        used: Usage::default(),
    };
    for _ in 0..count {
        let (took, is_right, used) = start()?;
        run.times.saturating_record(took);
        run.elapsed = run.elapsed.saturating_add(took);
        run.errors = run.errors.saturating_add(u64::from(!is_right));
        run.used = run.used.plus(used);
    }
    Ok(run)
}

fn is_answered(socket: &Path, request: &[u8]) -> Result<bool, Failed> {
    let mut stream = BufReader::new(load::connect(socket)?);
    stream.get_mut().write_all(request)?;
    let mut reply = Vec::with_capacity(4096);
    stream.read_until(b'\n', &mut reply)?;
    Ok(Exchange::is_result(&reply))
}
