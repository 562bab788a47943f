//! Who may connect: peers of our uid, up to a number of them at a time.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::exe_hash::ExeHashes;
use super::{connection, peer};
use crate::broker::handle::{Handle, PeerProcess};
use crate::model::{ErrorCode, PeerFacts, ProcessId, Refusal};

/// What one door takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections. Beyond it a peer is told `rate_limited`, and so is a process that holds half
    /// of them.
    pub connections: usize,
    /// Requests under way on one connection. At it nothing more is read from that peer.
    pub in_flight: usize,
}

/// A peer that was turned away comes back after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Without descriptors or memory nothing can be accepted until some are free: when a connection
/// of ours ends, or another process gives some back, which nobody tells.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);

/// What is under way when the daemon stops has this long to be answered.
const DRAIN: Duration = Duration::from_secs(2);

/// A peer that may come in: of our uid, and told apart by the kernel.
#[derive(Debug)]
pub struct Caller {
    /// Its connection. Not a byte of it was read.
    pub stream: UnixStream,
    /// What the kernel says about it.
    pub facts: PeerFacts,
    /// Its process.
    pub process: Arc<dyn PeerProcess>,
}

/// Serves programs on `broker.sock` until `shutdown` is cancelled, then lets those that wait for
/// an answer have it for at most 2 s.
///
/// # Errors
/// When the listening socket itself fails.
pub async fn serve(
    listener: UnixListener,
    handle: Handle,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let stop = shutdown.clone();
    let looks = handle.clone();
    let talk = move |caller| {
        let (handle, stop) = (handle.clone(), stop.clone());
        async move {
            if let Err(error) = converse(caller, &handle, limits.in_flight, &stop).await {
                tracing::debug!(%error, "a connection ended early");
            }
        }
    };
    let turn_away = connection::turn_away;
    serve_with(
        listener,
        looks,
        limits.connections,
        shutdown,
        talk,
        turn_away,
    )
    .await
}

/// The same way in for a conversation of another kind, at most `connections` at a time: what
/// must be true of every peer is made sure of once, and what the policy behind `handle` looks at is
/// read once. A process that holds half of the connections
/// is told `rate_limited` when it asks for more. Whoever has no place is told so by `turn_away`,
/// which must not wait.
///
/// # Errors
/// When the listening socket itself fails.
pub async fn serve_with<F: Future<Output = ()> + Send + 'static>(
    listener: UnixListener,
    handle: Handle,
    connections: usize,
    shutdown: CancellationToken,
    converse: impl Fn(Caller) -> F + Clone + Send + 'static,
    turn_away: impl Fn(&UnixStream, Refusal) + Clone + Send + 'static,
) -> io::Result<()> {
    let places = Places::new(connections);
    let hashes = ExeHashes::default();
    let over_share = turn_away.clone();
    let admit = move |stream| {
        let (converse, places) = (converse.clone(), places.clone());
        let (needs, hashes) = (handle.needs(), hashes.clone());
        let turn_away = over_share.clone();
        async move {
            let (facts, process) = match peer::identify(&stream, needs, &hashes).await {
                Ok(identified) => identified,
                Err(error) => {
                    tracing::debug!(%error, "a peer was turned away");
                    return;
                }
            };
            match places.take(facts.process) {
                Ok(_place) => {
                    let process = Arc::new(process);
                    converse(Caller {
                        stream,
                        facts,
                        process,
                    })
                    .await;
                }
                Err(refusal) => turn_away(&stream, refusal),
            }
        }
    };
    accept(listener, connections, shutdown, admit, turn_away).await
}

/// How many connections each process holds. One program that opens them without end must not
/// keep everybody else out, so one process gets half of a socket's, rounded up: more than an
/// honest one ever holds, and as many are left for the others. Cloning shares it.
#[derive(Debug, Clone)]
struct Places {
    share: usize,
    /// Locked to change one number only; no entry is zero.
    taken: Arc<Mutex<HashMap<ProcessId, usize>>>,
}

/// One connection of a process, until dropped.
#[derive(Debug)]
struct Place {
    process: ProcessId,
    places: Places,
}

impl Places {
    fn new(connections: usize) -> Self {
        Self {
            share: connections.div_ceil(2),
            taken: Arc::default(),
        }
    }

    fn take(&self, process: ProcessId) -> Result<Place, Refusal> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.get(&process).copied().unwrap_or_default();
        if held >= self.share {
            return Err(Refusal {
                retry_after: Some(RETRY_AFTER),
                ..Refusal::new(ErrorCode::RateLimited)
                    .with_message("this process holds too many connections")
                    .with_fix(&format!(
                        "close some: one process may hold {} at a time",
                        self.share
                    ))
            });
        }
        taken.insert(process, held.saturating_add(1));
        Ok(Place {
            process,
            places: self.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.process) {
            Some(held) if *held > 1 => *held = held.saturating_sub(1),
            _ => {
                taken.remove(&self.process);
            }
        }
    }
}

async fn converse(
    caller: Caller,
    handle: &Handle,
    in_flight: usize,
    shutdown: &CancellationToken,
) -> Result<(), connection::ConnectionError> {
    let Caller {
        stream,
        facts,
        process,
    } = caller;
    let core = match handle.connect(facts, Arc::clone(&process)) {
        Ok(core) => Arc::new(core),
        Err(refusal) => {
            connection::turn_away(&stream, refusal);
            return Ok(());
        }
    };
    let ask = |ask| connection::ask_core(&core, ask);
    connection::run(stream, &*process, ask, in_flight, shutdown).await
}

/// The accept loop. `converse` is given peers of our uid only.
async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: UnixListener,
    limit: usize,
    shutdown: CancellationToken,
    converse: impl Fn(UnixStream) -> F,
    turn_away: impl Fn(&UnixStream, Refusal),
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                note(&ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = peer::check_uid(&stream) {
                    tracing::warn!(%error, "a peer was turned away");
                } else if connections.len() >= limit {
                    let refusal = Refusal::new(ErrorCode::RateLimited)
                        .with_message("too many connections are open")
                        .with_fix("close a program that holds one, or raise `limits.connections`");
                    turn_away(
                        &stream,
                        Refusal {
                            retry_after: Some(RETRY_AFTER),
                            ..refusal
                        },
                    );
                } else {
                    connections.spawn(converse(stream));
                }
            }
            // The peer hung up before it was accepted.
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, "no connection can be accepted for now");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    Some(ended) = connections.join_next() => note(&ended),
                    () = sleep(EXHAUSTED_PAUSE) => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
    drop(listener);
    let drained = timeout(DRAIN, async {
        while let Some(ended) = connections.join_next().await {
            note(&ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!("connections were cut off at the end");
        connections.shutdown().await;
    }
    Ok(())
}

fn note(ended: &Result<(), tokio::task::JoinError>) {
    if ended.is_err() {
        // The panic hook has said where.
        tracing::error!("a connection ended by a mistake of ours");
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let errno = error.raw_os_error();
    exhausted
        .iter()
        .any(|one| errno == Some(one.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream as StdStream;
    use std::path::Path;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;
    use crate::socket::folder::{RuntimeFolder, SOCKET};

    /// PE-2, LM: one more than the limit is told so and goes; when one ends, the next comes in.
    /// At shutdown those that are there are waited for.
    #[tokio::test]
    async fn the_limit_is_answered_and_the_end_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let folder = RuntimeFolder::prepare(&root.path().join("f")).unwrap();
        let mut instance = folder.lock().unwrap();
        let listener = UnixListener::from_std(instance.bind(SOCKET).unwrap()).unwrap();
        let path = instance.folder().join(SOCKET);
        let shutdown = CancellationToken::new();
        let (started, mut starts) = mpsc::channel(8);
        let (ended, mut ends) = mpsc::channel(8);
        let echo = move |mut stream: UnixStream| {
            let (started, ended) = (started.clone(), ended.clone());
            async move {
                started.send(()).await.unwrap();
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                stream.write_all(&byte).await.unwrap();
                ended.send(()).await.unwrap();
            }
        };
        let server = tokio::spawn(accept(
            listener,
            2,
            shutdown.clone(),
            echo,
            connection::turn_away,
        ));
        let mut first = UnixStream::connect(&path).await.unwrap();
        let mut second = UnixStream::connect(&path).await.unwrap();
        starts.recv().await.unwrap();
        starts.recv().await.unwrap();

        let mut third = UnixStream::connect(&path).await.unwrap();
        let mut answer = String::new();
        third.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("\"code\":\"rate_limited\""), "{answer}");
        assert!(answer.contains("\"retry_after_s\":1"), "{answer}");
        assert!(answer.contains("\"id\":null"), "{answer}");

        first.write_all(b"x").await.unwrap();
        ends.recv().await.unwrap();
        first.read_to_string(&mut answer).await.unwrap();
        let mut fourth = UnixStream::connect(&path).await.unwrap();
        starts.recv().await.unwrap();

        shutdown.cancel();
        for stream in [&mut second, &mut fourth] {
            stream.write_all(b"y").await.unwrap();
        }
        server.await.unwrap().unwrap();
        for mut stream in [second, fourth] {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "y");
        }
        assert!(refused(&path), "nobody listens any more");
    }

    /// LM: one process holds at most half of the connections, whatever becomes of them; others do
    /// not notice. What ends is given back, and nothing is kept of who holds none.
    #[test]
    fn a_process_holds_at_most_its_share() {
        let process = |pid| ProcessId { pid, started: 1 };
        let places = Places::new(5);
        let mut greedy: Vec<_> = (0..3).map(|_| places.take(process(1)).unwrap()).collect();
        let refusal = places.take(process(1)).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert!(refusal.fix().contains("hold 3"), "{}", refusal.fix());
        let other = places.take(process(2)).unwrap();
        let namesake = places.take(ProcessId { pid: 1, started: 2 }).unwrap();
        drop(greedy.pop());
        greedy.push(places.take(process(1)).unwrap());
        places.take(process(1)).unwrap_err();
        drop((greedy, other, namesake));
        assert!(places.taken.lock().unwrap().is_empty());
        drop(Places::new(1).take(process(1)).unwrap());
    }

    fn refused(path: &Path) -> bool {
        match StdStream::connect(path) {
            Ok(mut stream) => stream.read(&mut [0]).is_err(),
            Err(_) => true,
        }
    }

    #[test]
    fn accept_errors_are_told_apart() {
        use rustix::io::Errno;
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(is_exhaustion(&error(Errno::MFILE)));
        assert!(is_exhaustion(&error(Errno::NFILE)));
        assert!(is_of_the_peer(&error(Errno::CONNABORTED)));
        assert!(!is_exhaustion(&error(Errno::BADF)) && !is_of_the_peer(&error(Errno::BADF)));
    }
}
