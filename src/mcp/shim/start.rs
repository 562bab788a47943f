use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::deadline::Deadline;
use super::launch::{Launch, Started};
use crate::model::{ErrorCode, Refusal};

/// A client's first request waits for all of this; what takes longer is told to the person
/// rather than waited for. A daemon is ready within a fraction of a second; the rest is for a busy
/// machine. It stays well below the 60 s after which clients give a request up, and about as long
/// as a person watches a client start before looking for what is wrong.
const START_WITHIN: Duration = Duration::from_secs(5);

/// The first pause before looking again for a daemon that somebody else started; each further
/// one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The way to the daemon.
pub trait Door {
    /// A connection to it, after everything that can be checked of it was.
    ///
    /// # Errors
    /// `daemon_unreachable` when nobody listens, anything else when nobody must be asked.
    fn connect(&self) -> Result<UnixStream, Refusal>;

    /// The private folder of its socket, made where it is missing.
    ///
    /// # Errors
    /// `runtime_folder_unsafe`, `io_error`.
    fn folder(&self) -> Result<PathBuf, Refusal>;
}

/// Connects to the daemon, and where none listens starts one by `launch` first, within 5 s.
///
/// Of many who come at once, one starts it, and the others wait for that one by a lock on the
/// folder, so that the kernel wakes them whatever becomes of it. Whether a daemon may run is not
/// decided here but by the daemon's own lock.
///
/// # Errors
/// What the door says; `daemon_unreachable` when none can be started.
pub fn reach(door: &dyn Door, launch: Option<&Launch>) -> Result<UnixStream, Refusal> {
    match (door.connect(), launch) {
        (Err(refusal), Some(launch)) if is_absence(&refusal) => start(door, launch),
        (answer, _) => answer,
    }
}

fn is_absence(refusal: &Refusal) -> bool {
    refusal.code == ErrorCode::DaemonUnreachable
}

fn start(door: &dyn Door, launch: &Launch) -> Result<UnixStream, Refusal> {
    let folder = door.folder()?;
    let failed = |error: &io::Error| {
        let message = format!("the daemon cannot be started: {error}");
        unavailable(&message).with_fix(&by_hand(launch))
    };
    let deadline = Deadline::after(START_WITHIN).map_err(|error| failed(&error))?;
    let _turn = turn(&folder, &deadline)
        .map_err(|error| failed(&error))?
        .ok_or_else(|| no_turn(&folder))?;
    let mut pause = FIRST_PAUSE;
    loop {
        // Who had the turn before may have started it, or the one who holds its lock be ready.
        match door.connect() {
            Err(refusal) if is_absence(&refusal) => {}
            answer => return answer,
        }
        let started = launch
            .spawn(&folder)
            .and_then(|daemon| daemon.outcome(&deadline));
        match started.map_err(|error| failed(&error))? {
            Started::Ready => return door.connect(),
            Started::Ended(status) if lost_to_another(status) => {}
            Started::Ended(status) => {
                let message = format!("the daemon was started and ended: {status}");
                return Err(unavailable(&message).with_fix(&by_hand(launch)));
            }
            Started::TooSlow => return Err(too_slow()),
        }
        // Another daemon is starting, or on its way out. Nobody tells us when it is through.
        if !deadline.pause(pause).map_err(|error| failed(&error))? {
            return Err(held(&folder));
        }
        pause = pause.saturating_mul(2);
    }
}

/// The right to start a daemon in that folder, until dropped; `None` when the deadline comes
/// first. A lock of the folder itself: there is no file to leave behind, and the kernel gives it
/// on whenever its holder dies.
fn turn(folder: &Path, deadline: &Deadline) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::empty())?);
    match file.try_lock() {
        Ok(()) => return Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // A lock cannot be waited for beside a deadline, so a thread waits for it. Where the
    // deadline comes first it is left behind, and gives up the lock as soon as it has it.
    let (locked, lock_over) = io::pipe()?;
    let waiting = thread::Builder::new()
        .name("turn".to_owned())
        .spawn(move || {
            let result = file.lock();
            drop(lock_over);
            result.map(|()| file)
        })?;
    if !deadline.wait_for(&[locked.as_fd()])? {
        return Ok(None);
    }
    let file = waiting
        .join()
        .map_err(|_panic| io::Error::other("a mistake of ours"))?;
    file.map(Some)
}

fn lost_to_another(status: ExitStatus) -> bool {
    status.code() == Some(i32::from(ErrorCode::AlreadyRunning.exit_status()))
}

/// What makes a daemon say why it does not start, and what to do after it was mended. The same
/// daemon in the same folders, whatever the person's terminal says about those.
fn by_hand(launch: &Launch) -> String {
    let command = launch.in_words();
    format!(
        "run this in a terminal, it says what is wrong: `{command}`; then reconnect this server"
    )
}

fn too_slow() -> Refusal {
    unavailable("the daemon was started and is not ready yet")
        .with_fix("wait a moment, then reconnect this server")
}

/// Somebody else starts a daemon, or locked the folder for reasons of its own.
fn no_turn(folder: &Path) -> Refusal {
    let folder = folder.display();
    unavailable(&format!(
        "another process has held the lock on the folder {folder} for too long; no daemon was started"
    ))
    .with_fix(&format!(
        "wait a moment, then reconnect this server; if that does not help, end what `fuser {folder}` \
         names"
    ))
}

/// Whoever holds the daemon's own lock does not answer here.
fn held(folder: &Path) -> Refusal {
    let folder = folder.display();
    unavailable(&format!(
        "another process holds the daemon's lock in {folder}, and no daemon answers on its socket \
         for models"
    ))
    .with_fix(&format!(
        "end what `fuser {folder}/*.lock` names, then reconnect this server"
    ))
}

fn unavailable(message: &str) -> Refusal {
    Refusal::new(ErrorCode::DaemonUnreachable).with_message(message)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::channel;

    use super::*;

    /// A door that opens after a number of knocks.
    struct Fake {
        folder: tempfile::TempDir,
        opens_after: usize,
        knocks: Cell<usize>,
        otherwise: ErrorCode,
    }

    impl Fake {
        fn new(opens_after: usize, otherwise: ErrorCode) -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                opens_after,
                knocks: Cell::new(0),
                otherwise,
            }
        }
    }

    impl Door for Fake {
        fn connect(&self) -> Result<UnixStream, Refusal> {
            self.knocks.set(self.knocks.get() + 1);
            if self.knocks.get() <= self.opens_after {
                return Err(self.otherwise.into());
            }
            Ok(UnixStream::pair().unwrap().0)
        }

        fn folder(&self) -> Result<PathBuf, Refusal> {
            Ok(self.folder.path().to_owned())
        }
    }

    /// A daemon that is a line of shell.
    fn shell(script: &str) -> Launch {
        Launch {
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".into(), script.into()],
            folders: Vec::new(),
            log: None,
        }
    }

    const ABSENT: ErrorCode = ErrorCode::DaemonUnreachable;

    /// What must not be asked is not started anew, and where nothing may be started nothing is.
    #[test]
    fn only_an_absent_daemon_is_started() {
        let rows = [
            (ErrorCode::RuntimeFolderUnsafe, Some(shell("exit 0"))),
            (ABSENT, None),
        ];
        for (code, launch) in rows {
            let door = Fake::new(usize::MAX, code);
            let refusal = reach(&door, launch.as_ref()).unwrap_err();
            assert_eq!(refusal, code.into());
            assert_eq!(door.knocks.get(), 1);
        }
    }

    /// A daemon that ends by itself is said so at once, with what to do.
    #[test]
    fn a_daemon_that_does_not_start_is_said_so() {
        let door = Fake::new(usize::MAX, ABSENT);
        let refusal = reach(&door, Some(&shell("exit 78"))).unwrap_err();
        assert!(refusal.message().contains("exit status: 78"), "{refusal}");
        assert!(
            refusal.fix().contains("`/bin/sh -c 'exit 78'`"),
            "{refusal}"
        );
        let door = Fake::new(usize::MAX, ABSENT);
        let nothing = Launch {
            program: PathBuf::from("/nonexistent"),
            arguments: Vec::new(),
            folders: Vec::new(),
            log: None,
        };
        let refusal = reach(&door, Some(&nothing)).unwrap_err();
        assert!(refusal.message().contains("cannot be started"), "{refusal}");
        let left = std::fs::read_dir(door.folder.path()).unwrap().count();
        assert_eq!(left, 0, "nothing is left in the folder");
    }

    /// A daemon that loses to another one is not an error: the other one is waited for.
    #[test]
    fn the_winner_of_a_race_is_waited_for() {
        let door = Fake::new(3, ABSENT);
        reach(&door, Some(&shell("exit 75"))).unwrap();
        assert_eq!(door.knocks.get(), 4);
    }

    /// Who had to wait for its turn finds the daemon that was started meanwhile.
    #[test]
    fn one_at_a_time_starts_a_daemon() {
        let door = Fake::new(1, ABSENT);
        let folder = door.folder.path().to_owned();
        let deadline = Deadline::after(Duration::from_secs(30)).unwrap();
        let first = turn(&folder, &deadline).unwrap().unwrap();
        let over = Deadline::after(Duration::from_nanos(1)).unwrap();
        assert!(
            turn(&folder, &over).unwrap().is_none(),
            "not before its end"
        );
        let (told, heard) = channel();
        let second = thread::spawn(move || {
            told.send(()).unwrap();
            reach(&door, Some(&shell("exit 78"))).unwrap();
            door.knocks.get()
        });
        heard.recv().unwrap();
        let told = no_turn(&folder);
        assert!(told.message().contains("lock on the folder"), "{told}");
        assert!(told.fix().contains(folder.to_str().unwrap()));
        drop(first);
        assert_eq!(second.join().unwrap(), 2, "none was started");
    }
}
