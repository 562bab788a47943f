//! The door for models: the shipped shim, the relay floor and the minimal server, side by side.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::args::{Failed, Part};
use crate::client::{CALL, Server, Stdio};
use crate::clock::nanos;
use crate::cold::Cold;
use crate::floor::Floor;
use crate::house::write;
use crate::idle::{Idle, Watched, watch};
use crate::load::{self, Exchange, Run, histogram};
use crate::machine::Usage;

/// Which way a call takes from the client to whoever answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `aegis-broker mcp`, and the daemon behind it.
    Shim,
    /// Two threads that move bytes, and an echo behind them.
    Relay,
    /// The library on the client's own descriptors, and nobody behind it.
    Minimal,
}

impl Way {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Shim => "shim",
            Self::Relay => "floor-relay",
            Self::Minimal => "rmcp",
        }
    }
}

/// Where a start begins and how far it is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// To the first reply, with the daemon up.
    Up,
    /// To the first reply, where the shim has to start the daemon.
    Absent,
    /// To the reply to the first call, where the shim has to start the daemon.
    Call,
}

/// What is needed to send a call any way.
#[derive(Debug)]
pub(crate) struct Models {
    bin: PathBuf,
    socket: PathBuf,
    daemon: u32,
    cold: Cold,
    exchange: Exchange,
    answer: PathBuf,
    echo: Floor,
}

impl Models {
    /// Learns what the daemon behind `socket` answers to a call, and has the floors say the same.
    pub(crate) fn prepare(
        bin: &Path,
        (socket, daemon): (&Path, u32),
        folder: &Path,
        cold: Cold,
    ) -> Result<Self, Failed> {
        let mut server = Server::start(shim(bin, socket, cold.home()), Stdio::Pipes)?;
        greet(&mut server)?;
        let exchange = Exchange::learn(server.stdio()?, format!("{CALL}\n").as_bytes())?;
        server.end()?;
        if !exchange.result().contains(r#""isError":false"#) {
            return Err("the first call was refused".into());
        }
        let answer = folder.join("answer.json");
        write(&answer, exchange.result())?;
        Ok(Self {
            bin: bin.to_owned(),
            socket: socket.to_owned(),
            daemon,
            cold,
            echo: Floor::start(Part::Echo, &folder.join("echo.sock"), exchange.reply())?,
            exchange,
            answer,
        })
    }

    pub(crate) const fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Calls of a tool, one after the other.
    pub(crate) fn calls(&self, way: Way, stdio: Stdio, requests: u32) -> Result<Run, Failed> {
        let mut server = self.ready(way, stdio)?;
        let mut all = vec![server.id()];
        all.extend(self.behind(way));
        let run = load::converse((server.stdio()?, &all), &self.exchange, requests)?;
        server.end()?;
        Ok(run)
    }

    /// Starts, one after the other.
    pub(crate) fn starts(&self, way: Way, start: Start, count: u32) -> Result<Run, Failed> {
        let mut run = Run {
            times: histogram()?,
            elapsed: 0,
            errors: 0,
            used: Usage::default(),
        };
        for _ in 0..count {
            if way == Way::Shim && start != Start::Up {
                self.start_both(start, &mut run)?;
            } else {
                self.start_one(way, start, &mut run)?;
            }
        }
        Ok(run)
    }

    fn start_one(&self, way: Way, start: Start, run: &mut Run) -> Result<(), Failed> {
        let server = begin(self.command(way)?, start, run)?;
        run.used = run.used.plus(Usage::of(server.id()));
        server.end()
    }

    /// A shim, and the daemon that it starts.
    fn start_both(&self, start: Start, run: &mut Run) -> Result<(), Failed> {
        let command = shim(&self.bin, &self.cold.mcp_socket(), self.cold.home());
        let server = begin(command, start, run)?;
        // Where there is none, the answer was the shim's own.
        let daemon = self.cold.daemon()?.ok_or("the shim started no daemon")?;
        run.used = run.used.plus(Usage::of_all(&[server.id(), daemon.id()]));
        server.end()?;
        daemon.end()
    }

    /// Watches servers that have answered one call each and are then left alone.
    pub(crate) fn idle(&self, time: Duration) -> Result<Vec<Idle>, Failed> {
        let mut shim = self.asked_once(Way::Shim)?;
        let mut relay = self.asked_once(Way::Relay)?;
        let all = [(Way::Shim, shim.id()), (Way::Relay, relay.id())].map(|(way, pid)| Watched {
            name: way.name(),
            pid,
        });
        let idle = watch(&all, |time| shim.be_quiet(time), time)?;
        // Nor did the other one say anything, or end.
        relay.be_quiet(Duration::ZERO)?;
        shim.end()?;
        relay.end()?;
        Ok(idle)
    }

    fn asked_once(&self, way: Way) -> Result<Server, Failed> {
        let mut server = self.ready(way, Stdio::Pipes)?;
        if server.ask(CALL)? {
            Ok(server)
        } else {
            Err("a call was refused".into())
        }
    }

    /// A server that waits for calls.
    fn ready(&self, way: Way, stdio: Stdio) -> Result<Server, Failed> {
        let mut server = Server::start(self.command(way)?, stdio)?;
        // An echo would answer the notification too.
        if way != Way::Relay {
            greet(&mut server)?;
        }
        Ok(server)
    }

    fn command(&self, way: Way) -> Result<Command, Failed> {
        match way {
            Way::Shim => Ok(shim(&self.bin, &self.socket, self.cold.home())),
            Way::Relay => Part::Relay.command(self.echo.socket()),
            Way::Minimal => Part::Minimal.command(&self.answer),
        }
    }

    /// The process that answers, where it is another one than the client started.
    fn behind(&self, way: Way) -> Option<u32> {
        match way {
            Way::Shim => Some(self.daemon),
            Way::Relay => Some(self.echo.id()),
            Way::Minimal => None,
        }
    }
}

/// The shim with as little of an environment as clients hand over.
fn shim(bin: &Path, socket: &Path, home: &Path) -> Command {
    let mut command = Command::new(bin);
    command
        .arg("mcp")
        .arg("--socket")
        .arg(socket)
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

fn greet(server: &mut Server) -> Result<(), Failed> {
    if !server.initialize()? {
        return Err("a server refused to be initialized".into());
    }
    server.initialized()
}

/// Starts a server and times it to the reply that counts.
fn begin(command: Command, start: Start, run: &mut Run) -> Result<Server, Failed> {
    let begun = nanos();
    let mut server = Server::start(command, Stdio::Pipes)?;
    let mut is_right = server.initialize()?;
    if start == Start::Call {
        server.initialized()?;
        is_right &= server.ask(CALL)?;
    }
    let took = nanos().saturating_sub(begun);
    run.times.saturating_record(took);
    run.elapsed = run.elapsed.saturating_add(took);
    run.errors = run.errors.saturating_add(u64::from(!is_right));
    Ok(server)
}
