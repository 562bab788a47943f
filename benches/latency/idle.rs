//! What processes do that nobody asks for anything, and how much memory they keep.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::args::{Failed, Part};
use crate::floor::Floor;
use crate::house::{Furniture, House};
use crate::load::Exchange;
use crate::machine::{Memory, Usage};

/// By then what was said has gone through, and every thread waits again.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);

/// By then a daemon has closed the connection of its last call to the issuer, which it looks for
/// every 30 s, and nothing that it holds is due before its lease ends, 14 minutes after the login.
const UNUSED: Duration = Duration::from_secs(65);

/// What an idle process did all the same.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) name: &'static str,
    pub(crate) used: Usage,
    pub(crate) memory: Memory,
}

/// A process that is left alone.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
}

/// Watches all of them for that long. `wait` waits.
pub(crate) fn watch(
    all: &[Watched],
    mut wait: impl FnMut(Duration) -> Result<(), Failed>,
    time: Duration,
) -> Result<Vec<Idle>, Failed> {
    wait(SETTLED)?;
    let before: Vec<_> = all.iter().map(|one| Usage::of(one.pid)).collect();
    wait(time)?;
    let watched = all.iter().zip(&before).map(|(one, before)| Idle {
        name: one.name,
        used: Usage::of(one.pid).since(before),
        memory: Memory::of(one.pid),
    });
    Ok(watched.collect())
}

/// A daemon nobody has logged in to, one that has been and holds a token, a lease and an HTTP
/// client, and the floor; and the second again, once its connection is closed.
pub(crate) fn daemons(
    bin: &Path,
    exchange: &Exchange,
    time: Duration,
) -> Result<Vec<Idle>, Failed> {
    let logged_out = House::start_logged_out(bin, Furniture::PLAIN)?;
    let logged_in = House::start(bin, Furniture::PLAIN)?;
    let socket = logged_in.folder().join("floor.sock");
    let floor = Floor::start(Part::Jsonrpc, &socket, &exchange.answer())?;
    let all = [
        ("daemon, logged out", logged_out.daemon().1),
        ("daemon, logged in", logged_in.daemon().1),
        ("floor-jsonrpc", floor.id()),
    ]
    .map(|(name, pid)| Watched { name, pid });
    let mut idle = watch(&all, |time| outlive(&all, time), time)?;
    let later = [("daemon, logged in, later", logged_in.daemon().1)]
        .map(|(name, pid)| Watched { name, pid });
    outlive(&later, UNUSED.saturating_sub(time))?;
    idle.extend(watch(&later, |time| outlive(&later, time), time)?);
    logged_out.stop()?;
    logged_in.stop()?;
    Ok(idle)
}

/// Waits for that long, unless one of them ends.
pub(crate) fn outlive(all: &[Watched], time: Duration) -> Result<(), Failed> {
    let processes = all.iter().map(|one| {
        let pid = i32::try_from(one.pid).ok().and_then(Pid::from_raw);
        Ok(pidfd_open(pid.ok_or("no process")?, PidfdFlags::empty())?)
    });
    let processes = processes.collect::<Result<Vec<_>, Failed>>()?;
    let mut ends: Vec<_> = processes
        .iter()
        .map(|process| PollFd::new(process, PollFlags::IN))
        .collect();
    let limit = Timespec::try_from(time).map_err(io::Error::other)?;
    if retry_on_intr(|| poll(&mut ends, Some(&limit)))? > 0 {
        return Err("an idle process ended".into());
    }
    Ok(())
}
