use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{PidfdFlags, getppid, pidfd_open};

use super::deadline::{Deadline, wait};
use super::opening::{Opened, Rest, TurnedAway, open};

/// One read. A message that is longer takes several.
const BUFFER: usize = 64 * 1024;

/// Answers that are under way when the client is gone have this long: as long as the daemon's
/// library finishes calls after the end of its input. Nothing comes later, so that waiting longer
/// would only leave an orphan.
const LINGER: Duration = Duration::from_secs(5);

/// How a relay came to its end.
#[derive(Debug)]
pub enum Relayed {
    /// The client was done, or is gone.
    ClientLeft,
    /// The daemon hung up on a client that is still there.
    DaemonLeft,
    /// The daemon had no place for one more; the client has heard nothing yet.
    TurnedAway(TurnedAway),
}

/// What the client that started this process gave it: stdio, and being its parent.
#[derive(Debug)]
pub struct Inherited {
    /// Nothing where the parent is out of sight, as in a container.
    parent: Option<OwnedFd>,
}

impl Inherited {
    /// Taken as early as possible, so that the parent is the one that started us.
    pub fn new() -> Self {
        Self {
            parent: parent_process(),
        }
    }

    /// Moves bytes between standard input and output and `daemon` until one side ends.
    ///
    /// When the client closes its side or dies (MC-3), no more is read from it, and what the
    /// daemon still answers is written for at most 5 s.
    ///
    /// A daemon that has no place for one more says so instead of its first answer; then nothing
    /// was written, and somebody else can [go on](Self::go_on).
    ///
    /// # Errors
    /// When threads or descriptors have run out. A side that breaks is an end, not an error.
    pub fn relay(&self, daemon: &UnixStream) -> io::Result<Relayed> {
        let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let parent = self.parent.as_ref();
        match open(&input, parent, daemon, LINGER)? {
            Opened::Served(rest) => relay(input, output, parent, daemon, (rest, LINGER)),
            Opened::TurnedAway(turned_away) => Ok(Relayed::TurnedAway(turned_away)),
        }
    }

    /// The same for a client that a daemon turned away: `stand_in` hears all that it said.
    ///
    /// # Errors
    /// As [`relay`](Self::relay).
    pub fn go_on(&self, turned_away: TurnedAway, stand_in: &UnixStream) -> io::Result<Relayed> {
        let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let rest = Rest {
            to_daemon: turned_away.said,
            ..Rest::default()
        };
        relay(
            input,
            output,
            self.parent.as_ref(),
            stand_in,
            (rest, LINGER),
        )
    }
}

impl Default for Inherited {
    fn default() -> Self {
        Self::new()
    }
}

/// A descriptor that is readable once the parent has exited. The client's own end of our
/// standard input may be held open by others it started.
fn parent_process() -> Option<OwnedFd> {
    let parent = getppid()?;
    let process = pidfd_open(parent, PidfdFlags::empty()).ok()?;
    // Still it, and not another one that took over its number.
    (getppid() == Some(parent)).then_some(process)
}

/// A thread blocks for each direction and this one for their ends: nobody wakes up while nobody
/// says anything. Each begins with what is left from before. Threads that are left behind end with
/// the process.
fn relay(
    input: impl AsFd + Send + 'static,
    output: impl AsFd + Send + 'static,
    parent: Option<&OwnedFd>,
    daemon: &UnixStream,
    (rest, linger): (Rest, Duration),
) -> io::Result<Relayed> {
    // Who left is told in a byte, since either thread may be the one that finds out.
    let (over, tell) = io::pipe()?;
    let (daemon_over, daemon_side) = io::pipe()?;
    let tell_too = tell.try_clone()?;
    let (to_daemon, from_daemon) = (daemon.try_clone()?, daemon.try_clone()?);
    let (said, heard) = (rest.to_daemon, rest.to_client);
    thread::Builder::new()
        .name("to-daemon".to_owned())
        .spawn(move || {
            let left = match pump(&said, &input, &to_daemon) {
                Broken::From => CLIENT,
                Broken::To => DAEMON,
            };
            drop(write_all(&tell, &[left]));
        })?;
    thread::Builder::new()
        .name("to-client".to_owned())
        .spawn(move || {
            let left = match pump(&heard, &from_daemon, &output) {
                Broken::From => DAEMON,
                Broken::To => CLIENT,
            };
            drop(write_all(&tell_too, &[left]));
            drop(daemon_side);
        })?;
    let mut ended = Relayed::ClientLeft;
    let deadline = if let Some(deadline) = rest.linger {
        deadline
    } else {
        let mut ends = vec![over.as_fd()];
        ends.extend(parent.map(AsFd::as_fd));
        let mut left = [CLIENT];
        // Else the parent is gone.
        if wait(&ends, None)?.first() == Some(&true) {
            read(&over, &mut left)?;
        }
        if left == [DAEMON] {
            ended = Relayed::DaemonLeft;
        }
        // Fails only where the daemon is gone, which the next wait sees.
        drop(daemon.shutdown(Shutdown::Write));
        Deadline::after(linger)?
    };
    deadline.wait_for(&[daemon_over.as_fd()])?;
    Ok(ended)
}

const CLIENT: u8 = b'c';
const DAEMON: u8 = b'd';

/// Which side of a direction ended it.
enum Broken {
    From,
    To,
}

/// Moves what is left from before, then bytes until `from` ends or `to` breaks.
fn pump(rest: &[u8], from: &impl AsFd, to: &impl AsFd) -> Broken {
    if write_all(to, rest).is_err() {
        return Broken::To;
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = read(from, &mut buffer).unwrap_or_default();
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Broken::From;
        }
        if write_all(to, bytes).is_err() {
            return Broken::To;
        }
    }
}

fn write_all(to: &impl AsFd, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        let written = write(to, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

pub(super) fn read(from: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match retry_on_intr(|| rustix::io::read(from, &mut *buffer)) {
            Err(Errno::AGAIN) => ready(from, PollFlags::IN)?,
            result => return Ok(result?),
        }
    }
}

fn write(to: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match retry_on_intr(|| rustix::io::write(to, bytes)) {
            Err(Errno::AGAIN) => ready(to, PollFlags::OUT)?,
            result => return Ok(result?),
        }
    }
}

/// Waits for a descriptor that somebody who shares it made non-blocking, or that limits its
/// waits. Its flags are not ours to change.
fn ready(fd: &impl AsFd, what: PollFlags) -> io::Result<()> {
    retry_on_intr(|| poll(&mut [PollFd::new(fd, what)], None))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};
    use std::sync::mpsc::{Receiver, channel};

    use rustix::process::Pid;

    use super::*;

    /// Far longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A relay between a client and a daemon that are both the test.
    struct Ends {
        client: UnixStream,
        daemon: UnixStream,
        over: Receiver<Relayed>,
    }

    fn relayed(parent: Option<OwnedFd>, linger: Duration) -> Ends {
        let (client, stdio) = UnixStream::pair().unwrap();
        let (daemon, socket) = UnixStream::pair().unwrap();
        // Somebody who shares the descriptor made it non-blocking.
        stdio.set_nonblocking(true).unwrap();
        let (told, over) = channel();
        thread::spawn(move || {
            let input = stdio.try_clone().unwrap();
            let rest = Rest::default();
            let ended = relay(input, stdio, parent.as_ref(), &socket, (rest, linger));
            told.send(ended.unwrap()).unwrap();
        });
        for stream in [&client, &daemon] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Ends {
            client,
            daemon,
            over,
        }
    }

    /// A descriptor that does not block, and a side that reads late, are waited for.
    #[test]
    fn non_blocking_descriptors_are_waited_for() {
        let mut ends = relayed(None, PATIENCE);
        let bytes = vec![7; 10 * BUFFER];
        let (mut sender, sent) = (ends.client.try_clone().unwrap(), bytes.clone());
        let sending = thread::spawn(move || sender.write_all(&sent).unwrap());
        let mut received = vec![0; bytes.len()];
        ends.daemon.read_exact(&mut received).unwrap();
        assert!(received == bytes);
        sending.join().unwrap();
        let (mut sender, sent) = (ends.daemon.try_clone().unwrap(), bytes.clone());
        let sending = thread::spawn(move || sender.write_all(&sent).unwrap());
        ends.client.read_exact(&mut received).unwrap();
        assert!(received == bytes);
        sending.join().unwrap();
        drop(ends.daemon);
        let ended = ends.over.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(ended, Relayed::DaemonLeft), "{ended:?}");
    }

    /// A client that hears no more has left, and a daemon that hears no more: whichever direction
    /// finds out.
    #[test]
    fn who_left_is_found_out_by_either_direction() {
        let ends = relayed(None, Duration::from_millis(1));
        ends.client.shutdown(Shutdown::Read).unwrap();
        let mut daemon = ends.daemon.try_clone().unwrap();
        let speaking = thread::spawn(move || while daemon.write(&[0; 4096]).is_ok() {});
        let ended = ends.over.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(ended, Relayed::ClientLeft), "{ended:?}");
        ends.daemon.shutdown(Shutdown::Both).unwrap();
        speaking.join().unwrap();

        let ends = relayed(None, PATIENCE);
        let mut client = ends.client.try_clone().unwrap();
        let speaking = thread::spawn(move || while client.write(&[0; 4096]).is_ok() {});
        drop(ends.daemon);
        let ended = ends.over.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(ended, Relayed::DaemonLeft), "{ended:?}");
        ends.client.shutdown(Shutdown::Both).unwrap();
        speaking.join().unwrap();
    }

    /// T2: a daemon that does not end is not waited for without a limit, even where the client
    /// does not read.
    #[test]
    fn what_is_under_way_has_a_limit() {
        let ends = relayed(None, Duration::from_millis(1));
        let mut flood = ends.daemon.try_clone().unwrap();
        let flooding = thread::spawn(move || while flood.write(&[0; 4096]).is_ok() {});
        ends.client.shutdown(Shutdown::Write).unwrap();
        ends.over.recv_timeout(PATIENCE).unwrap();
        ends.daemon.shutdown(Shutdown::Both).unwrap();
        flooding.join().unwrap();
    }

    /// MC-3: the end of the parent is the end of the input.
    #[test]
    fn the_end_of_the_parent_is_the_end_of_the_input() {
        let mut parent = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&parent), PidfdFlags::empty()).unwrap();
        let mut ends = relayed(Some(process), PATIENCE);
        drop(parent.stdin.take());
        let mut rest = String::new();
        ends.daemon.read_to_string(&mut rest).unwrap();
        ends.daemon.write_all(b"answer").unwrap();
        drop(ends.daemon);
        let ended = ends.over.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(ended, Relayed::ClientLeft), "{ended:?}");
        let mut answer = [0; 6];
        ends.client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        parent.wait().unwrap();
    }
}
