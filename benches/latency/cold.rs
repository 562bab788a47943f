//! A home where no daemon runs, for those who have to start one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::Failed;
use crate::house::write;

/// How long a daemon may take to end on a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// The home. Dropped, no daemon of it runs.
#[derive(Debug)]
pub(crate) struct Cold {
    home: PathBuf,
}

impl Cold {
    /// Where nobody has been yet. A daemon finds `config` there.
    pub(crate) fn prepare(home: PathBuf, config: &str) -> Result<Self, Failed> {
        let folder = home.join(".config").join("aegis-broker");
        fs::create_dir_all(&folder)?;
        write(&folder.join("aegis-broker.toml"), config)?;
        Ok(Self { home })
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The socket that a daemon will have.
    pub(crate) fn mcp_socket(&self) -> PathBuf {
        self.home.join("run").join("mcp.sock")
    }

    /// The daemon that listens there, known by its socket: it is no child of ours.
    pub(crate) fn daemon(&self) -> Result<Option<Daemon>, Failed> {
        let Ok(stream) = UnixStream::connect(self.mcp_socket()) else {
            return Ok(None);
        };
        let pid = socket_peercred(&stream)?.pid;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Some(Daemon { pid, process }))
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        // One is left where a measurement broke off.
        if let Ok(Some(daemon)) = self.daemon() {
            drop(daemon.end());
        }
    }
}

/// A daemon that somebody else started.
#[derive(Debug)]
pub(crate) struct Daemon {
    pid: Pid,
    process: OwnedFd,
}

impl Daemon {
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Ends it, and waits until it has gone.
    pub(crate) fn end(self) -> Result<(), Failed> {
        pidfd_send_signal(&self.process, Signal::TERM)?;
        if !has_ended(&self.process)? {
            pidfd_send_signal(&self.process, Signal::KILL)?;
            return Err("a daemon did not end when it was told to".into());
        }
        Ok(())
    }
}

fn has_ended(process: &OwnedFd) -> io::Result<bool> {
    let limit = Timespec::try_from(ENDED_WITHIN).map_err(io::Error::other)?;
    let mut exit = [PollFd::new(process, PollFlags::IN)];
    Ok(retry_on_intr(|| poll(&mut exit, Some(&limit)))? > 0)
}
