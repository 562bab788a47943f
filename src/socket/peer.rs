//! Who is at the other end, as the kernel says it.
//!
//! The uid decides. Everything else is a hint (PE-3), read once per connection in the order that
//! makes it belong to one process: pidfd, folder in `/proc`, still alive, then the rest relative
//! to that folder (PE-4). No command line is ever read (PE-6).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat, statat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::exe_hash::ExeHashes;
use crate::broker::handle::{Needs, PeerProcess, PortFuture};
use crate::model::{Ancestor, CleanText, FileId, Origin, PeerFacts, ProcessId};

/// How many ancestors are looked at (PE-5).
const MAX_DEPTH: usize = 16;

/// The longest executable path that is shown; the kernel's own `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// The longest base name that is shown; the kernel's `NAME_MAX`.
const MAX_NAME: usize = 255;

/// Files of `/proc` that are read here are one page at most.
const MAX_PROC_FILE: usize = 4096;

/// Why a peer is turned away.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// Of another uid.
    #[error("the peer is another user")]
    OtherUser,
    /// It exited, or cannot be told apart from a process that took its number.
    #[error("the peer is gone")]
    Gone,
    /// The kernel could not say.
    #[error("the peer cannot be identified")]
    Kernel(#[from] io::Error),
}

impl From<rustix::io::Errno> for PeerError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Kernel(error.into())
    }
}

/// The one hard check (PE-2): the kernel's word that the peer has our uid. Made before a byte of
/// the peer's is read.
pub(super) fn check_uid(stream: &UnixStream) -> Result<(), PeerError> {
    is_ours(
        stream.peer_cred()?.uid(),
        rustix::process::geteuid().as_raw(),
    )
}

fn is_ours(peer: u32, ours: u32) -> Result<(), PeerError> {
    if peer == ours {
        Ok(())
    } else {
        Err(PeerError::OtherUser)
    }
}

/// Reads what the kernel knows about the peer, and what the policy needs beside.
pub(super) async fn identify(
    stream: &UnixStream,
    needs: Needs,
    hashes: &ExeHashes,
) -> Result<(PeerFacts, PeerHandle), PeerError> {
    let (mut facts, handle, folder) = identify_in(stream)?;
    if needs.cgroup {
        let read = read_file(&folder, "cgroup");
        facts.origin.cgroup = read.ok().and_then(|text| parse_cgroup(&text));
    }
    if needs.exe_hash {
        facts.origin.exe_hash = hashes.of(&folder).await;
    }
    Ok((facts, handle))
}

/// The one group of `cgroup(7)` version 2, or of systemd's own hierarchy beside version 1.
fn parse_cgroup(text: &[u8]) -> Option<CleanText> {
    // A path that was cut would name another group.
    if text.len() >= MAX_PROC_FILE {
        return None;
    }
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let path = lines.find_map(|line| {
        let (_, of_kind) = line.split_once(':')?;
        let path = of_kind.strip_prefix(':');
        path.or_else(|| of_kind.strip_prefix("name=systemd:"))
    })?;
    CleanText::exact(path, MAX_PATH).filter(|path| path.as_str().starts_with('/'))
}

/// What is always known, and the process's folder.
fn identify_in(stream: &UnixStream) -> Result<(PeerFacts, PeerHandle, OwnedFd), PeerError> {
    let pidfd = match getsockopt(stream, PeerPidfd) {
        Ok(pidfd) => pidfd,
        // Linux before 6.5 has no such option. Any other error means the peer is gone.
        Err(nix::errno::Errno::ENOPROTOOPT) => {
            let pid = stream.peer_cred()?.pid().and_then(Pid::from_raw);
            pidfd_open(pid.ok_or(PeerError::Gone)?, PidfdFlags::empty())?
        }
        Err(_) => return Err(PeerError::Gone),
    };
    let pid = pid_of(&pidfd)?;
    let folder = open_folder(pid)?;
    if !is_running(pidfd.as_fd()) {
        return Err(PeerError::Gone);
    }
    let stat = read_stat(&folder)?;
    let process = ProcessId {
        pid: pid.as_raw_pid(),
        started: stat.started,
    };
    let above = ancestors(&folder, &stat);
    let names = above.iter().filter_map(|ancestor| ancestor.name.clone());
    let facts = PeerFacts {
        process,
        // A path that cannot be shown as it is names no program in a rule either.
        exe: executable(&folder)
            .and_then(|path| CleanText::exact(&String::from_utf8(path).ok()?, MAX_PATH)),
        ancestors: names.collect(),
        origin: Origin {
            exe_file: executable_file(&folder),
            session_leader: leader(stat.session, process, &above),
            has_terminal: stat.terminal != 0,
            ancestors: above,
            cgroup: None,
            exe_hash: None,
        },
    };
    Ok((facts, PeerHandle { pidfd }, folder))
}

/// A peer's process, held by a descriptor that no other process can take over.
#[derive(Debug)]
pub(super) struct PeerHandle {
    pidfd: OwnedFd,
}

impl PeerProcess for PeerHandle {
    fn is_alive(&self) -> bool {
        is_running(self.pidfd.as_fd())
    }

    /// Needs the runtime's I/O driver. A process that cannot be watched counts as gone, so that
    /// what it holds ends early rather than never.
    fn exited(&self) -> PortFuture<()> {
        // A descriptor of its own: one number can be registered with the driver only once.
        let pidfd = self.pidfd.try_clone();
        Box::pin(async move {
            match pidfd.and_then(watch) {
                Ok(watched) => drop(watched.readable().await),
                Err(error) => tracing::warn!(%error, "a peer cannot be watched"),
            }
        })
    }
}

#[expect(
    deprecated,
    reason = "the replacement is an unsafe function, for types that could close or change their \
              descriptor; `OwnedFd` cannot"
)]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// A pidfd is readable once its process has exited.
fn is_running(pidfd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&at_once)) == Ok(0)
}

/// The number of a pidfd's process in our namespace.
fn pid_of(pidfd: &OwnedFd) -> Result<Pid, PeerError> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = read_all(openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)?;
    String::from_utf8_lossy(&info)
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok())
        // -1 stands for a process that was reaped, 0 for one of another namespace.
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw)
        .ok_or(PeerError::Gone)
}

fn open_folder(pid: Pid) -> Result<OwnedFd, PeerError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(
        CWD,
        format!("/proc/{}", pid.as_raw_pid()),
        flags,
        Mode::empty(),
    )?)
}

/// What is used of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// The number of its session's leader.
    session: i32,
    /// The device of its controlling terminal; 0 without one.
    terminal: i32,
    started: u64,
}

fn read_stat(folder: &OwnedFd) -> Result<Stat, PeerError> {
    let text = read_file(folder, "stat")?;
    parse_stat(&String::from_utf8_lossy(&text)).ok_or(PeerError::Gone)
}

/// The name in parentheses may hold anything, so fields are counted after the last `)`: parent
/// is field 4, session 6, terminal 7, start time 22 (`proc_pid_stat(5)`).
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let terminal = fields.next()?.parse().ok()?;
    let started = fields.nth(14)?.parse().ok()?;
    Some(Stat {
        parent,
        session,
        terminal,
        started,
    })
}

/// The executable's path; `None` where the kernel does not show it.
fn executable(folder: &OwnedFd) -> Option<Vec<u8>> {
    let path = readlinkat(folder, "exe", Vec::new()).ok()?;
    Some(path.into_bytes())
}

/// Which file that is; `None` where the kernel does not show it.
fn executable_file(folder: &OwnedFd) -> Option<FileId> {
    let found = statat(folder, "exe", rustix::fs::AtFlags::empty()).ok()?;
    Some(FileId {
        device: found.st_dev,
        inode: found.st_ino,
    })
}

/// The leader of that session, where it is the process itself or one above it. One that has exited
/// leaves nothing but its number.
fn leader(session: i32, process: ProcessId, above: &[Ancestor]) -> Option<ProcessId> {
    std::iter::once(process)
        .chain(above.iter().map(|ancestor| ancestor.process))
        .find(|candidate| candidate.pid == session)
}

/// The processes above, nearest first, with their executables' base names. Ends at another uid, at
/// pid 1, at [`MAX_DEPTH`], or where anything does not fit together. One that shows no executable
/// has no name; its parents are looked at all the same.
fn ancestors(child: &OwnedFd, child_stat: &Stat) -> Vec<Ancestor> {
    let mut above = Vec::new();
    let mut nearest: Option<(OwnedFd, Stat)> = None;
    for _ in 0..MAX_DEPTH {
        let (folder, stat) = match &nearest {
            Some((folder, stat)) => (folder, stat),
            None => (child, child_stat),
        };
        let pid = stat.parent;
        let Some(parent) = parent_of(folder, stat) else {
            break;
        };
        above.push(Ancestor {
            process: ProcessId {
                pid,
                started: parent.1.started,
            },
            name: base_name(&parent.0),
        });
        nearest = Some(parent);
    }
    above
}

/// The base name of a process's executable, if it can be shown as it is.
fn base_name(folder: &OwnedFd) -> Option<CleanText> {
    let path = executable(folder)?;
    let name = Path::new(std::ffi::OsStr::from_bytes(&path)).file_name()?;
    CleanText::exact(name.to_str()?, MAX_NAME)
}

fn parent_of(child: &OwnedFd, child_stat: &Stat) -> Option<(OwnedFd, Stat)> {
    let pid = Pid::from_raw(child_stat.parent).filter(|pid| !pid.is_init())?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let folder = open_folder(pid).ok()?;
    if !is_running(pidfd.as_fd()) || !is_of_our_uid(&folder) {
        return None;
    }
    let stat = read_stat(&folder).ok()?;
    let still = read_stat(child).ok()?;
    // A parent that exited leaves its child to another one, and its number to anybody.
    (still == *child_stat && stat.started <= child_stat.started).then_some((folder, stat))
}

/// A process's folder belongs to its effective uid, or to root when it is not dumpable; then its
/// `status` says whose it is.
fn is_of_our_uid(folder: &OwnedFd) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    let owner = statat(folder, "", rustix::fs::AtFlags::EMPTY_PATH).map(|found| found.st_uid);
    if owner == Ok(ours) {
        return true;
    }
    let Ok(status) = read_file(folder, "status") else {
        return false;
    };
    let text = String::from_utf8_lossy(&status);
    let uids = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| {
        uids.split_ascii_whitespace()
            .all(|uid| uid.parse() == Ok(ours))
    })
}

fn read_file(folder: &OwnedFd, name: &str) -> Result<Vec<u8>, PeerError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    read_all(openat(folder, name, flags, Mode::empty())?)
}

fn read_all(file: OwnedFd) -> Result<Vec<u8>, PeerError> {
    let mut text = vec![0; MAX_PROC_FILE];
    let length = io::Read::read(&mut std::fs::File::from(file), &mut text)?;
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PE-2: equality of uids, nothing else; root is not let in either.
    #[test]
    fn only_our_own_uid_is_let_in() {
        assert!(is_ours(1000, 1000).is_ok());
        for peer in [0, 999, 1001, u32::MAX] {
            assert!(is_ours(peer, 1000).is_err(), "{peer}");
        }
    }

    #[test]
    fn stat_is_counted_after_the_last_parenthesis() {
        let tail = "S 41 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 98765 20 21\n";
        for name in ["sh", "a b", "x) R 1", ") S 7 ("] {
            assert_eq!(
                parse_stat(&format!("42 ({name}) {tail}")),
                Some(Stat {
                    parent: 41,
                    session: 3,
                    terminal: 4,
                    started: 98765
                }),
                "{name}"
            );
        }
        for text in ["", "42 (sh", "42 (sh) S", "42 (sh) S x 3 4"] {
            assert_eq!(parse_stat(text), None, "{text}");
        }
    }

    /// PE-3, PE-5, PE-6: what is known of a peer is this process's own path and start time, and
    /// base names without a slash.
    #[tokio::test]
    async fn this_process_is_identified_as_itself() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        check_uid(&ours).unwrap();
        let (facts, process, _folder) = identify_in(&ours).unwrap();
        assert_eq!(
            u32::try_from(facts.process.pid).unwrap(),
            std::process::id()
        );
        let exe = std::env::current_exe().unwrap();
        assert_eq!(facts.exe.as_ref().unwrap().as_str(), exe.to_str().unwrap());
        assert!(facts.ancestors.len() <= MAX_DEPTH);
        let file = std::fs::metadata(&exe).unwrap();
        let file = FileId {
            device: std::os::unix::fs::MetadataExt::dev(&file),
            inode: std::os::unix::fs::MetadataExt::ino(&file),
        };
        assert_eq!(facts.origin.exe_file, Some(file));
        assert!(facts.is_or_is_below(facts.process));
        let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        let above = &facts.origin.ancestors[0];
        assert_eq!(above.process.pid, parent);
        assert!(facts.is_or_is_below(above.process));
        let reused = ProcessId {
            started: above.process.started + 1,
            ..above.process
        };
        assert!(!facts.is_or_is_below(reused), "a number alone is nobody");
        for name in &facts.ancestors {
            assert!(!name.as_str().contains('/'), "{name}");
        }
        assert!(process.is_alive());
    }

    /// PE-3: a control group is read whole or not at all.
    #[test]
    fn the_control_group_is_the_one_of_version_2_or_of_systemd() {
        let long = format!("0::/{}\n", "a".repeat(MAX_PROC_FILE));
        let rows: [(&str, Option<&str>); 7] = [
            ("0::/user.slice/a.service\n", Some("/user.slice/a.service")),
            ("3:cpu:/x\n1:name=systemd:/y.scope\n", Some("/y.scope")),
            ("3:cpu:/x\n", None),
            ("0::relative\n", None),
            ("0::/a\u{1b}b\n", None),
            ("", None),
            (&long, None),
        ];
        for (text, expected) in rows {
            let found = parse_cgroup(text.as_bytes());
            assert_eq!(found.as_ref().map(CleanText::as_str), expected, "{text}");
        }
    }

    /// PE-3: what the policy does not ask for is not read; what it asks for is this process's.
    #[tokio::test]
    async fn what_the_policy_needs_is_read_and_no_more() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let hashes = ExeHashes::default();
        let (facts, _process) = identify(&ours, Needs::default(), &hashes).await.unwrap();
        assert_eq!((facts.origin.cgroup, facts.origin.exe_hash), (None, None));
        let needs = Needs {
            cgroup: true,
            exe_hash: true,
        };
        let (facts, _process) = identify(&ours, needs, &hashes).await.unwrap();
        let group = std::fs::read("/proc/self/cgroup").unwrap();
        assert_eq!(facts.origin.cgroup, parse_cgroup(&group));
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &program);
        let hash: [u8; 32] = hash.as_ref().try_into().unwrap();
        assert_eq!(
            facts.origin.exe_hash,
            Some(crate::model::FileHash::new(hash))
        );
    }

    /// LC-7: the end of a process is an event; whoever asks, and how often, hears of it.
    #[tokio::test]
    async fn the_end_of_a_process_is_heard_by_everyone_who_waits() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let process = PeerHandle {
            pidfd: pidfd_open(pid, PidfdFlags::empty()).unwrap(),
        };
        assert!(process.is_alive());
        let (first, second) = (process.exited(), process.exited());
        drop(child.stdin.take());
        tokio::join!(first, second);
        assert!(!process.is_alive());
        child.wait().unwrap();
        assert!(
            pid_of(&process.pidfd).is_err(),
            "a reaped process has no number"
        );
    }
}
