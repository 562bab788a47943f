use std::ffi::{OsStr, OsString};
use std::io;
use std::iter;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::deadline::Deadline;
use crate::model::shell_word;

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
    /// Folders that it is told in its environment, as variables: what a person's terminal says may
    /// differ from what the client passed on.
    pub folders: Vec<(&'static str, PathBuf)>,
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
            .envs(self.folders.iter().map(|(name, folder)| (name, folder)))
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

    /// What a person types in a shell to start the same daemon.
    pub(super) fn in_words(&self) -> String {
        let folders = self
            .folders
            .iter()
            .map(|(name, folder)| format!("{name}={}", quoted(folder.as_os_str())));
        let words = iter::once(self.program.as_os_str())
            .chain(self.arguments.iter().map(OsString::as_os_str))
            .map(quoted);
        folders.chain(words).collect::<Vec<_>>().join(" ")
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

/// What is not text is shown as well as it can be.
fn quoted(word: &OsStr) -> String {
    shell_word(&word.to_string_lossy())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    /// A second daemon, which will lose to the first, leaves its log alone; a pipe that nobody reads
    /// is an error and not a wait.
    #[test]
    fn the_log_of_an_earlier_daemon_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("daemon.log");
        let shell = |word: &str, log: &Path| Launch {
            program: PathBuf::from("/bin/sh"),
            arguments: ["-c", "echo $0 >&2", word].map(OsString::from).to_vec(),
            folders: Vec::new(),
            log: Some(log.to_owned()),
        };
        let deadline = Deadline::after(Duration::from_secs(30)).unwrap();
        for word in ["first", "second"] {
            let starting = shell(word, &log).spawn(folder.path()).unwrap();
            let outcome = starting.outcome(&deadline).unwrap();
            assert!(matches!(outcome, Started::Ended(_)), "{word}");
        }
        let kept = std::fs::read_to_string(&log).unwrap();
        assert_eq!(kept, "first\nsecond\n");
        let mode = std::fs::metadata(&log).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let pipe = folder.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, Mode::from_raw_mode(0o600), 0).unwrap();
        let error = shell("third", &pipe).spawn(folder.path()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(6), "ENXIO: {error}");
    }

    /// What is shown is what is done, as a shell reads it.
    #[test]
    fn the_words_for_a_shell_are_what_is_started() {
        let script = r#"[ "$1" = "it's" ] && [ "$FOLDER" = "/a b/\$c" ]"#;
        let launch = Launch {
            program: PathBuf::from("/bin/sh"),
            arguments: ["-c", script, "sh", "it's"].map(OsString::from).to_vec(),
            folders: vec![("FOLDER", PathBuf::from("/a b/$c"))],
            log: None,
        };
        let mut shell = Command::new("/bin/sh");
        let status = shell.arg("-c").arg(launch.in_words()).status().unwrap();
        assert!(status.success(), "{}", launch.in_words());
        let simple = Launch {
            program: PathBuf::from("/usr/bin/aegis-broker"),
            arguments: ["daemon", "--mock"].map(OsString::from).to_vec(),
            folders: vec![("XDG_STATE_HOME", PathBuf::from("/home/u/.local/state"))],
            log: None,
        };
        assert_eq!(
            simple.in_words(),
            "XDG_STATE_HOME=/home/u/.local/state /usr/bin/aegis-broker daemon --mock"
        );
    }
}
