//! Everything that a run needs, each part started when it is first wanted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Failed, Part};
use crate::cli::Commands;
use crate::cold::Cold;
use crate::floor::Floor;
use crate::house::{Furniture, House, SELECTOR};
use crate::lease::Leases;
use crate::load::{self, Exchange, Run};
use crate::mcp::Models;
use crate::peers::{Peer, Peers};
use crate::scale::Scale;
use crate::stall::Stall;
use crate::start::{Killed, Starts};

/// Dropped, all of it is ended.
#[derive(Debug)]
pub(crate) struct Household {
    models: Option<Models>,
    leases: Option<Leases>,
    commands: Option<Commands>,
    starts: Option<Starts>,
    killed: Option<Killed>,
    stall: Option<Stall>,
    scale: Option<Scale>,
    peers: Peers,
    bin: PathBuf,
    floor: Option<Floor>,
    exchange: Exchange,
    interrupted: Arc<AtomicBool>,
    house: House,
}

impl Household {
    /// Starts the house that most rows are measured in.
    pub(crate) fn start(bin: &Path) -> Result<Self, Failed> {
        let house = House::start(bin, Furniture::PLAIN)?;
        let interrupted = watch_for_signals(house.server().runtime())?;
        let exchange = Exchange::learn(load::connect(house.daemon().0)?, &request())?;
        Ok(Self {
            models: None,
            leases: None,
            commands: None,
            starts: None,
            killed: None,
            stall: None,
            scale: None,
            peers: Peers::default(),
            bin: bin.to_owned(),
            floor: None,
            exchange,
            interrupted,
            house,
        })
    }

    /// Renews the logins that are no longer fresh.
    pub(crate) fn keep_logged_in(&mut self) -> Result<(), Failed> {
        self.house.keep_logged_in()?;
        if let Some(leases) = &mut self.leases {
            leases.keep_logged_in()?;
        }
        if let Some(scale) = &mut self.scale {
            scale.keep_logged_in()?;
        }
        Ok(())
    }

    /// What a cached request is, and what comes back.
    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(crate) fn daemon(&self) -> (&Path, u32) {
        self.house.daemon()
    }

    /// The floor. It answers with what the daemon answered.
    pub(crate) fn floor(&mut self) -> Result<(&Path, u32), Failed> {
        let floor = or_made(&mut self.floor, || {
            let socket = self.house.folder().join("floor.sock");
            Floor::start(Part::Jsonrpc, &socket, &self.exchange.answer())
        })?;
        Ok((floor.socket(), floor.id()))
    }

    /// The door for models.
    pub(crate) fn models(&mut self) -> Result<&Models, Failed> {
        let house = &self.house;
        or_made(&mut self.models, || {
            let config = Furniture::PLAIN.config(&house.server().mock);
            let cold = Cold::prepare(house.folder().join("cold"), &config)?;
            let (socket, daemon) = house.daemon();
            let socket = socket.with_file_name("mcp.sock");
            Models::prepare(&self.bin, (&socket, daemon), house.folder(), cold)
        })
        .map(|models| &*models)
    }

    /// Leases made and ended.
    pub(crate) fn leases(&mut self) -> Result<&mut Leases, Failed> {
        or_made(&mut self.leases, || Leases::prepare(&self.bin))
    }

    /// Commands as whole processes.
    pub(crate) fn commands(&mut self) -> Result<&Commands, Failed> {
        let house = &self.house;
        or_made(&mut self.commands, || {
            Commands::prepare(&self.bin, house.daemon().0, house.folder())
        })
        .map(|commands| &*commands)
    }

    /// Daemons that are started.
    pub(crate) fn starts(&mut self) -> Result<&mut Starts, Failed> {
        or_made(&mut self.starts, || {
            Starts::prepare(&self.bin, &self.house, &self.exchange)
        })
    }

    /// Daemons that are killed.
    pub(crate) fn killed(&mut self) -> Result<&mut Killed, Failed> {
        or_made(&mut self.killed, || {
            Killed::prepare(&self.bin, &self.exchange)
        })
    }

    /// A daemon whose issuer stalls.
    pub(crate) fn stall(&mut self) -> Result<&mut Stall, Failed> {
        or_made(&mut self.stall, || Stall::prepare(&self.bin))
    }

    /// A daemon that holds much, and one that holds little.
    pub(crate) fn scale(&mut self) -> Result<&mut Scale, Failed> {
        or_made(&mut self.scale, || Scale::prepare(&self.bin))
    }

    /// Requests to an agent that others made.
    pub(crate) fn peer(&mut self, peer: Peer, requests: u32) -> Result<Run, Failed> {
        self.peers.run(peer, self.house.folder(), requests)
    }

    /// Whether somebody pressed Ctrl-C.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Ends everything and says so if something did not end well.
    pub(crate) fn stop(mut self) -> Result<(), Failed> {
        drop(self.floor.take());
        drop(self.models.take());
        drop(std::mem::take(&mut self.peers));
        if let Some(leases) = self.leases.take() {
            leases.stop()?;
        }
        if let Some(killed) = self.killed.take() {
            killed.stop()?;
        }
        if let Some(stall) = self.stall.take() {
            stall.stop()?;
        }
        if let Some(scale) = self.scale.take() {
            scale.stop()?;
        }
        self.house.stop()
    }
}

/// What is there, made first where nothing is.
fn or_made<T>(
    place: &mut Option<T>,
    make: impl FnOnce() -> Result<T, Failed>,
) -> Result<&mut T, Failed> {
    let there = match place.take() {
        Some(there) => there,
        None => make()?,
    };
    Ok(place.insert(there))
}

/// The line that asks for a cached credential.
pub(crate) fn request() -> Vec<u8> {
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"credential.get\",\"params\":{{\"selector\":\"{SELECTOR}\"}}}}\n"
    )
    .into_bytes()
}

/// From now on SIGINT and SIGTERM do no more than set what is returned.
fn watch_for_signals(runtime: &Handle) -> io::Result<Arc<AtomicBool>> {
    let _runtime = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
        }
    });
    Ok(interrupted)
}
