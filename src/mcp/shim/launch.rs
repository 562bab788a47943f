use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::iter;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::deadline::Deadline;
use crate::model::shell_word;

/// The name of the socket on which a daemon that is being started says that it is ready. Only
/// who has the turn to start one binds it, in the private folder.
const NOTIFY: &str = "start.sock";

/// The name of the log of a daemon that is being started, in the same folder, until it serves.
const NEW_LOG: &str = "start.log";

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
    /// one's as soon as it serves; nowhere unless named.
    pub log: Option<PathBuf>,
}

/// A daemon that was started and has not said yet that it is ready.
#[derive(Debug)]
pub(super) struct Starting {
    child: Child,
    exited: OwnedFd,
    readiness: Readiness,
    log: Option<NewLog>,
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
        let log = match &self.log {
            Some(place) => Some(NewLog::open(folder, place)?),
            None => None,
        };
        let errors = match &log {
            Some(log) => log.file.try_clone()?.into(),
            None => Stdio::null(),
        };
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.folders.iter().map(|(name, folder)| (name, folder)))
            .env("NOTIFY_SOCKET", &readiness.path)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()?;
        let exited = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Starting {
            child,
            exited,
            readiness,
            log,
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
                self.log.take().map_or(Ok(()), NewLog::keep)?;
                return Ok(Started::Ready);
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok(Started::Ended(status));
            }
        }
        self.log.take().map_or(Ok(()), NewLog::keep)?;
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

/// What a daemon writes to while it is not known whether it will serve. One that loses to another
/// must leave the other's log alone. Gone when dropped, unless kept.
#[derive(Debug)]
struct NewLog {
    file: File,
    path: PathBuf,
    place: PathBuf,
}

impl NewLog {
    fn open(folder: &Path, place: &Path) -> io::Result<Self> {
        let path = folder.join(NEW_LOG);
        // One that a killed predecessor left behind.
        remove(&path)?;
        let file = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            file,
            path,
            place: place.to_owned(),
        })
    }

    /// Puts it in the place of the earlier one, whose daemon cannot run any more.
    fn keep(self) -> io::Result<()> {
        std::fs::rename(&self.path, &self.place)
    }
}

impl Drop for NewLog {
    fn drop(&mut self) {
        // The next one replaces it where this fails. One that was kept is not there any more.
        drop(remove(&self.path));
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    /// A second daemon, which will lose to the first, leaves its log alone, and none of its own.
    #[test]
    fn the_log_of_a_daemon_that_serves_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("daemon.log");
        std::fs::write(&log, "first\n").unwrap();
        let loser = Launch {
            program: PathBuf::from("/bin/sh"),
            arguments: ["-c", "echo second >&2"].map(OsString::from).to_vec(),
            folders: Vec::new(),
            log: Some(log.clone()),
        };
        // What a start that was killed left behind is in nobody's way.
        std::fs::write(folder.path().join(NEW_LOG), "left").unwrap();
        let deadline = Deadline::after(Duration::from_secs(30)).unwrap();
        for _ in 0..2 {
            let starting = loser.spawn(folder.path()).unwrap();
            let outcome = starting.outcome(&deadline).unwrap();
            assert!(matches!(outcome, Started::Ended(_)), "{outcome:?}");
            assert_eq!(std::fs::read_to_string(&log).unwrap(), "first\n");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// A daemon that takes long gets the place all the same: it is left to go on.
    #[test]
    fn the_log_of_a_slow_daemon_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("daemon.log");
        std::fs::write(&log, "first\n").unwrap();
        let slow = Launch {
            program: PathBuf::from("/bin/cat"),
            arguments: vec![folder.path().join("gate").into()],
            folders: Vec::new(),
            log: Some(log.clone()),
        };
        let gate = folder.path().join("gate");
        let kind = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &gate, kind, mode, 0).unwrap();
        let over = Deadline::after(Duration::from_nanos(1)).unwrap();
        let outcome = slow.spawn(folder.path()).unwrap().outcome(&over).unwrap();
        assert!(matches!(outcome, Started::TooSlow), "{outcome:?}");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "");
        let mode = std::fs::metadata(&log).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Ends it.
        drop(File::options().write(true).open(&gate).unwrap());
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
