use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::deadline::Deadline;

/// The name of the socket on which a daemon that is being started says that it is ready. Only
/// who has the turn to start one binds it, in the private folder.
const NOTIFY: &str = "start.sock";

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments; they hold no secret.
    pub arguments: Vec<OsString>,
    /// A file in the private folder for what it says on standard error, in place of an earlier
    /// one's; nowhere unless named.
    pub log: Option<PathBuf>,
}

/// A daemon that was started and has not said yet that it is ready.
#[derive(Debug)]
pub(super) struct Starting {
    child: Child,
    exited: OwnedFd,
    readiness: Readiness,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Started {
    /// It serves.
    Ready,
    /// It ended before it served.
    Ended(ExitStatus),
    /// It does not serve yet. It is left to go on.
    TooSlow,
}

impl Launch {
    /// Starts a daemon that outlives us and whoever started us: a process group of its own, so
    /// that a client that ends our group does not end it, and none of our streams or folders.
    pub(super) fn spawn(&self, folder: &Path) -> io::Result<Starting> {
        let readiness = Readiness::bind(folder.join(NOTIFY))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env("NOTIFY_SOCKET", &readiness.path)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.errors()?)
            .spawn()?;
        let exited = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Starting {
            child,
            exited,
            readiness,
        })
    }

    fn errors(&self) -> io::Result<Stdio> {
        let Some(log) = &self.log else {
            return Ok(Stdio::null());
        };
        // Another daemon may be writing it still. A pipe that nobody reads is an error, not a wait.
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(log, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
        Ok(file.into())
    }
}

impl Starting {
    /// Waits until it serves, ends, or the deadline comes.
    pub(super) fn outcome(mut self, deadline: &Deadline) -> io::Result<Started> {
        while deadline.wait_for(&[self.readiness.socket.as_fd(), self.exited.as_fd()])? {
            if self.readiness.is_told()? {
                return Ok(Started::Ready);
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok(Started::Ended(status));
            }
        }
        Ok(Started::TooSlow)
    }
}

/// Where a daemon says that it serves. Gone when dropped.
#[derive(Debug)]
struct Readiness {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Readiness {
    fn bind(path: PathBuf) -> io::Result<Self> {
        // One that a killed predecessor left behind.
        remove(&path)?;
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path })
    }

    fn is_told(&self) -> io::Result<bool> {
        let mut message = [0; 256];
        match self.socket.recv(&mut message) {
            Ok(_) => Ok(message.starts_with(b"READY=1")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        // The next one replaces it where this fails.
        drop(remove(&self.path));
    }
}

fn remove(socket: &Path) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
