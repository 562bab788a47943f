//! One lease made: through the daemon, and by nothing but an HTTP client with a token of its own.
//! Every lease is revoked once the clock has stopped, so that neither table fills.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::args::Failed;
use crate::bare::Bare;
use crate::clock::nanos;
use crate::house::{Furniture, House, SELECTOR};
use crate::load::{self, Exchange, Run, histogram};
use crate::machine::Usage;

/// Leases that live at once: the daemon has room for 1,024.
const AT_ONCE: u32 = 400;

/// Who makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// The daemon, asked on its socket.
    Broker,
    /// reqwest, with proofs that are signed before the clock starts.
    Ready,
    /// reqwest, which signs each proof when its turn has come.
    Signing,
}

impl Maker {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Broker => "lease.create",
            Self::Ready => "reqwest, proof ready",
            Self::Signing => "reqwest, signing",
        }
    }
}

/// A house, and a client of its server that goes past the daemon.
#[derive(Debug)]
pub(crate) struct Leases {
    bare: Bare,
    house: House,
}

impl Leases {
    pub(crate) fn prepare(bin: &Path) -> Result<Self, Failed> {
        let house = House::start(bin, Furniture::PLAIN)?;
        Ok(Self {
            bare: Bare::log_in(&house.server().mock)?,
            house,
        })
    }

    pub(crate) fn keep_logged_in(&mut self) -> Result<(), Failed> {
        if self.house.keep_logged_in()? {
            self.bare = Bare::log_in(&self.house.server().mock)?;
        }
        Ok(())
    }

    /// Makes that many leases, [`AT_ONCE`] at most, one after the other.
    pub(crate) fn run(&mut self, maker: Maker, requests: u32) -> Result<Run, Failed> {
        let count = requests.min(AT_ONCE);
        match maker {
            Maker::Broker => {
                let (socket, pid) = self.house.daemon();
                Socket::open(socket)?.make(pid, count)
            }
            Maker::Ready => self.bare.make_with_ready_proofs(count),
            Maker::Signing => self.bare.make(count),
        }
    }

    pub(crate) fn stop(self) -> Result<(), Failed> {
        self.house.stop()
    }
}

/// A connection to `broker.sock`.
struct Socket {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Socket {
    fn open(socket: &Path) -> Result<Self, Failed> {
        Ok(Self {
            stream: BufReader::new(load::connect(socket)?),
            line: Vec::with_capacity(4096),
        })
    }

    fn ask(&mut self, request: &[u8]) -> Result<&[u8], Failed> {
        self.stream.get_mut().write_all(request)?;
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line)?;
        Ok(&self.line)
    }

    fn make(&mut self, pid: u32, count: u32) -> Result<Run, Failed> {
        let create = create_request();
        let warm = vec![lease_id(self.ask(&create)?)?];
        self.revoke(&warm)?;
        let mut run = Run {
            times: histogram()?,
            elapsed: 0,
            errors: 0,
            used: Usage::default(),
        };
        let mut made = Vec::new();
        let used = Usage::of(pid);
        let begun = nanos();
        for _ in 0..count {
            let at = nanos();
            let reply = self.ask(&create)?;
            run.times.saturating_record(nanos().saturating_sub(at));
            made.push(reply.to_vec());
        }
        run.elapsed = nanos().saturating_sub(begun);
        run.used = Usage::of(pid).since(&used);
        let made: Vec<_> = made.iter().flat_map(|reply| lease_id(reply)).collect();
        let missing = u64::from(count).saturating_sub(u64::try_from(made.len())?);
        run.errors = run.errors.saturating_add(missing);
        self.revoke(&made)?;
        Ok(run)
    }

    fn revoke(&mut self, leases: &[String]) -> Result<(), Failed> {
        for lease in leases {
            let request = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"lease.revoke\",\"params\":{{\"lease_id\":\"{lease}\"}}}}\n"
            );
            if !Exchange::is_result(self.ask(request.as_bytes())?) {
                return Err("a lease was not revoked".into());
            }
        }
        Ok(())
    }
}

/// The line that makes a lease.
pub(crate) fn create_request() -> Vec<u8> {
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"lease.create\",\"params\":{{\"selector\":\"{SELECTOR}\"}}}}\n"
    )
    .into_bytes()
}

fn lease_id(reply: &[u8]) -> Result<String, Failed> {
    let reply: Value = serde_json::from_slice(reply)?;
    let id = reply.pointer("/result/lease_id").and_then(Value::as_str);
    Ok(id.ok_or("no lease was made")?.to_owned())
}
