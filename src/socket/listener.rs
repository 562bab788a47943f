//! Who may connect: peers of our uid, up to a number of them at a time.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{connection, peer};
use crate::broker::handle::{Handle, PeerProcess};
use crate::model::{ErrorCode, PeerFacts, Refusal};

/// What one door takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections. Beyond it a peer is told `rate_limited`.
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
    serve_with(listener, limits.connections, shutdown, move |caller| {
        let (handle, stop) = (handle.clone(), stop.clone());
        async move {
            if let Err(error) = converse(caller, &handle, limits.in_flight, &stop).await {
                tracing::debug!(%error, "a connection ended early");
            }
        }
    })
    .await
}

/// The same way in for a conversation of another kind, at most `connections` at a time: what
/// must be true of every peer is made sure of once.
///
/// # Errors
/// When the listening socket itself fails.
pub async fn serve_with<F: Future<Output = ()> + Send + 'static>(
    listener: UnixListener,
    connections: usize,
    shutdown: CancellationToken,
    converse: impl Fn(Caller) -> F + Clone + Send + 'static,
) -> io::Result<()> {
    accept(listener, connections, shutdown, move |stream| {
        let converse = converse.clone();
        async move {
            match peer::identify(&stream) {
                Ok((facts, process)) => {
                    let process = Arc::new(process);
                    converse(Caller {
                        stream,
                        facts,
                        process,
                    })
                    .await;
                }
                Err(error) => tracing::debug!(%error, "a peer was turned away"),
            }
        }
    })
    .await
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
                        .with_message("too many connections are open");
                    connection::turn_away(
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
        let server = tokio::spawn(accept(listener, 2, shutdown.clone(), echo));
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
