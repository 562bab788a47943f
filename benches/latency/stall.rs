//! A daemon whose issuer has stopped answering: what is held is served all the same.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use aegis_mock::{FaultKind, Mock};

use crate::args::Failed;
use crate::house::{Furniture, House};
use crate::lease::create_request;
use crate::load::{self, Exchange, Run};

/// Calls that get no answer: as many as the daemon sends at once.
const CALLS: u32 = 4;

const METHOD: &str = "CreateCredentialLease";

/// The daemon and its server.
#[derive(Debug)]
pub(crate) struct Stall {
    house: House,
}

impl Stall {
    pub(crate) fn prepare(bin: &Path) -> Result<Self, Failed> {
        let house = House::start(bin, Furniture::PLAIN)?;
        Ok(Self { house })
    }

    /// Cached requests while [`CALLS`] leases wait for the issuer.
    pub(crate) fn run(
        &mut self,
        exchange: &Exchange,
        connections: u16,
        requests: u32,
    ) -> Result<Run, Failed> {
        // Gives up the calls of the last time.
        self.house.log_in_again()?;
        let (socket, pid) = self.house.daemon();
        let waiting = self.stalled(socket)?;
        let mut run = load::run((socket, pid), exchange, connections, requests)?;
        if is_answered(&waiting)? {
            // Then it was not measured beside a stall.
            run.errors = run.errors.saturating_add(1);
        }
        Ok(run)
    }

    /// A connection whose requests have all reached the issuer, which keeps them.
    fn stalled(&self, socket: &Path) -> Result<UnixStream, Failed> {
        let server = self.house.server();
        let earlier = newest(&server.mock);
        server.mock.fault(METHOD, FaultKind::Stall, CALLS);
        let mut stream = load::connect(socket)?;
        for _ in 0..CALLS {
            stream.write_all(&create_request())?;
        }
        let mut seen = earlier;
        for _ in 0..CALLS {
            let next = server.mock.wait_for_request(|record| {
                record.seq > seen && record.method == METHOD && record.result == "stalled"
            });
            seen = server.block_on(next).seq;
        }
        Ok(stream)
    }

    pub(crate) fn stop(self) -> Result<(), Failed> {
        self.house.stop()
    }
}

/// The number of the last request that the server has seen.
fn newest(mock: &Mock) -> u64 {
    mock.requests().last().map_or(0, |record| record.seq)
}

fn is_answered(stream: &UnixStream) -> Result<bool, Failed> {
    stream.set_nonblocking(true)?;
    match rustix::net::recv(stream, &mut [0_u8; 1], rustix::net::RecvFlags::PEEK) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
