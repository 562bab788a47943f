//! The load: one thread, any number of connections, each with one request under way.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::args::Failed;
use crate::clock::nanos;
use crate::machine::Usage;

/// Longer than any answer that is still worth measuring.
pub(crate) const STALLED: Duration = Duration::from_secs(10);

/// Ten seconds in nanoseconds: what does not fit has stalled.
const LONGEST: u64 = 10_000_000_000;

/// Three digits are more than a shared machine has.
const DIGITS: u8 = 3;

/// What is said and what must come back.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Exchange {
    /// Asks once and takes the answer for what every further answer must look like.
    pub(crate) fn learn(mut stream: impl Read + Write, request: &[u8]) -> Result<Self, Failed> {
        stream.write_all(request)?;
        let mut reply = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut reply)?;
        let exchange = Self {
            request: request.to_vec(),
            reply,
        };
        if exchange.result().is_empty() {
            return Err("the first answer is not a result".into());
        }
        Ok(exchange)
    }

    const BEGIN: &str = r#"{"jsonrpc":"2.0","id":7,"result":"#;

    /// The whole reply, a line.
    pub(crate) fn reply(&self) -> &[u8] {
        &self.reply
    }

    /// The result member of the reply.
    pub(crate) fn result(&self) -> &str {
        std::str::from_utf8(&self.reply)
            .ok()
            .and_then(|reply| reply.strip_prefix(Self::BEGIN)?.strip_suffix("}\n"))
            .unwrap_or_default()
    }

    /// What a floor is told to answer: the result in a line of its own.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let mut line = self.result().as_bytes().to_vec();
        line.push(b'\n');
        line
    }

    pub(crate) fn reply_bytes(&self) -> usize {
        self.reply.len()
    }

    /// A result of the same length. The order of members is not the floor's to keep.
    fn is_right(&self, reply: &[u8]) -> bool {
        reply.len() == self.reply.len() && Self::is_result(reply)
    }

    /// Whether that is an answer, and not a refusal.
    pub(crate) fn is_result(reply: &[u8]) -> bool {
        reply.starts_with(Self::BEGIN.as_bytes()) && reply.ends_with(b"}\n")
    }
}

/// One side of one round.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) times: Histogram<u64>,
    pub(crate) elapsed: u64,
    pub(crate) errors: u64,
    pub(crate) used: Usage,
}

pub(crate) fn histogram() -> Result<Histogram<u64>, Failed> {
    Ok(Histogram::new_with_max(LONGEST, DIGITS)?)
}

/// A connection whose reads do not wait for ever.
pub(crate) fn connect(socket: &Path) -> Result<UnixStream, Failed> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(STALLED))?;
    Ok(stream)
}

/// `requests` in all, over `connections` that are opened and warmed before the clock starts.
pub(crate) fn run(
    (socket, server): (&Path, u32),
    exchange: &Exchange,
    connections: u16,
    requests: u32,
) -> Result<Run, Failed> {
    if connections == 1 {
        return converse((connect(socket)?, &[server]), exchange, requests);
    }
    let mut crowd = Crowd::open(socket, connections)?;
    let warm = requests / 10 + u32::from(connections);
    timed((&mut crowd, &[server]), exchange, warm, requests)
}

/// `requests` one after the other over a stream that is open, and warmed before the clock
/// starts. `servers` are all that do work for it.
pub(crate) fn converse(
    (stream, servers): (impl Read + Write, &[u32]),
    exchange: &Exchange,
    requests: u32,
) -> Result<Run, Failed> {
    let mut alone = Alone(Peer::new(stream));
    let warm = requests / 10 + 1;
    timed((&mut alone, servers), exchange, warm, requests)
}

fn timed(
    (load, servers): (&mut dyn Load, &[u32]),
    exchange: &Exchange,
    warm: u32,
    requests: u32,
) -> Result<Run, Failed> {
    let mut warming = Tally::new()?;
    load.drive(exchange, warm, &mut warming)?;
    let mut tally = Tally::new()?;
    let used = Usage::of_all(servers);
    let begun = nanos();
    load.drive(exchange, requests, &mut tally)?;
    let elapsed = nanos().saturating_sub(begun);
    Ok(Run {
        times: tally.times,
        elapsed,
        errors: tally.errors.saturating_add(warming.errors),
        used: Usage::of_all(servers).since(&used),
    })
}

struct Tally {
    times: Histogram<u64>,
    errors: u64,
}

impl Tally {
    fn new() -> Result<Self, Failed> {
        Ok(Self {
            times: histogram()?,
            errors: 0,
        })
    }

    fn note(&mut self, since: u64, is_right: bool) {
        self.times.saturating_record(nanos().saturating_sub(since));
        if !is_right {
            self.errors = self.errors.saturating_add(1);
        }
    }
}

trait Load {
    fn drive(
        &mut self,
        exchange: &Exchange,
        requests: u32,
        tally: &mut Tally,
    ) -> Result<(), Failed>;
}

/// One connection: write, wait in the kernel, read.
struct Alone<S>(Peer<S>);

impl<S: Read + Write> Load for Alone<S> {
    fn drive(
        &mut self,
        exchange: &Exchange,
        requests: u32,
        tally: &mut Tally,
    ) -> Result<(), Failed> {
        for _ in 0..requests {
            self.0.ask(exchange)?;
            while !self.0.hear(exchange, tally)? {}
        }
        Ok(())
    }
}

/// Many: one wait for all of them.
struct Crowd {
    peers: Vec<Peer<UnixStream>>,
    epoll: std::os::fd::OwnedFd,
    ready: Vec<epoll::Event>,
}

impl Crowd {
    fn open(socket: &Path, connections: u16) -> Result<Self, Failed> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut peers = Vec::new();
        for index in 0..u64::from(connections) {
            let peer = Peer::new(UnixStream::connect(socket)?);
            peer.stream.set_nonblocking(true)?;
            epoll::add(
                &epoll,
                &peer.stream,
                EventData::new_u64(index),
                EventFlags::IN,
            )?;
            peers.push(peer);
        }
        Ok(Self {
            ready: Vec::with_capacity(peers.len()),
            peers,
            epoll,
        })
    }
}

impl Load for Crowd {
    fn drive(
        &mut self,
        exchange: &Exchange,
        requests: u32,
        tally: &mut Tally,
    ) -> Result<(), Failed> {
        let limit = Timespec {
            tv_sec: i64::try_from(STALLED.as_secs())?,
            tv_nsec: 0,
        };
        let mut left = requests;
        let mut waiting = 0_u32;
        for peer in &mut self.peers {
            if left > 0 {
                peer.ask(exchange)?;
                left -= 1;
                waiting += 1;
            }
        }
        while waiting > 0 {
            self.ready.clear();
            epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut self.ready),
                Some(&limit),
            )?;
            if self.ready.is_empty() {
                return Err("no answer for ten seconds".into());
            }
            for event in &self.ready {
                let index = usize::try_from(event.data.u64())?;
                let peer = self.peers.get_mut(index).ok_or("no such connection")?;
                if peer.hear(exchange, tally)? {
                    waiting -= 1;
                    if left > 0 {
                        peer.ask(exchange)?;
                        left -= 1;
                        waiting += 1;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One connection and the answer that is on its way.
struct Peer<S> {
    stream: S,
    asked: u64,
    buffer: [u8; 8192],
    filled: usize,
}

impl<S: Read + Write> Peer<S> {
    const fn new(stream: S) -> Self {
        Self {
            stream,
            asked: 0,
            buffer: [0; 8192],
            filled: 0,
        }
    }

    fn ask(&mut self, exchange: &Exchange) -> Result<(), Failed> {
        self.asked = nanos();
        Ok(self.stream.write_all(&exchange.request)?)
    }

    /// Takes what came. True when the answer is whole.
    fn hear(&mut self, exchange: &Exchange, tally: &mut Tally) -> Result<bool, Failed> {
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let length = match self.stream.read(room) {
            Ok(0) => return Err("a connection was closed, or an answer is too long".into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error.into()),
        };
        self.filled = self.filled.saturating_add(length);
        let reply = self.buffer.get(..self.filled).unwrap_or_default();
        if reply.last() != Some(&b'\n') {
            return Ok(false);
        }
        tally.note(self.asked, exchange.is_right(reply));
        self.filled = 0;
        Ok(true)
    }
}
