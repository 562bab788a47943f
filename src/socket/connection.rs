//! One peer's conversation: lines in, answers out as they become ready.
//!
//! Everything runs in the connection's one task. A request costs a boxed future and no task of
//! its own; dropping the connection drops its waits, never the core's work.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::WriteHalf;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::frame::{FrameError, LineDecoder};
use super::wire::{self, Answer, Ask, Fault, Id, Outcome};
use crate::broker::handle::{Connection, PeerProcess};
use crate::model::{ErrorCode, Refusal};
use crate::secret::SecretBuffer;

/// A peer that says nothing at all would hold a place for ever.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// A line comes in one piece from any honest peer; half a line is a stuck or hostile one.
const BEGUN_LINE: Duration = Duration::from_secs(5);

/// How long a peer may leave an answer unread before it is given up.
const UNREAD: Duration = Duration::from_secs(30);

/// One read. A request is a few hundred bytes.
const CHUNK: usize = 4096;

/// Holds every usual answer; larger ones get a buffer of their own for as long as it takes.
const WRITE_BUFFER: usize = 8 * 1024;

/// Why a conversation ended before the peer ended it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// Nothing came, or half a line stayed half.
    #[error("the peer was too slow")]
    Slow,
    /// Answers were not read.
    #[error("the peer does not read its answers")]
    Unread,
    /// The process that connected is no longer there, so nothing is released to whoever is.
    #[error("the peer's process is gone")]
    PeerGone,
    /// The peer sent what is not a line of ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

type Waiting = Pin<Box<dyn Future<Output = Result<Outcome, Refusal>> + Send>>;

/// Asks the core.
pub(super) fn ask_core(core: &Arc<Connection>, ask: Ask) -> Waiting {
    let core = Arc::clone(core);
    Box::pin(async move {
        Ok(match ask {
            Ask::Status => Outcome::Status(core.status().await?),
            Ask::LoginBegin(profile) => Outcome::Login(core.login_begin(profile).await?),
            Ask::LoginWait(profile) => Outcome::Login(core.login_wait(profile).await?),
            Ask::LoginCancel(profile) => Outcome::Login(core.login_cancel(profile).await?),
            Ask::Logout(profile) => Outcome::Ended(core.logout(profile).await?),
            Ask::Lock => Outcome::Ended(core.lock().await?),
            Ask::Targets(profile) => Outcome::Targets(core.targets(profile).await?),
            Ask::Credential(profile, request) => {
                Outcome::Delivered(core.credential(profile, request).await?)
            }
            Ask::Http(profile, request) => {
                Outcome::Http(core.http_request(profile, request).await?)
            }
            Ask::LeaseCreate(profile, request) => {
                Outcome::Lease(core.lease_create(profile, request).await?)
            }
            Ask::LeaseRedeem(lease_id, exposure) => {
                Outcome::Delivered(core.lease_redeem_for(lease_id, exposure).await?)
            }
            Ask::LeaseRevoke(lease_id) => Outcome::Lease(core.lease_revoke(lease_id).await?),
            Ask::Leases => Outcome::Leases(core.leases().await?),
            Ask::AuditReconcile => Outcome::Reconciled(Box::new(core.audit_reconcile().await?)),
            Ask::AuditVerify => Outcome::Audit(core.audit_verify().await?),
        })
    })
}

/// Talks with one peer until it hangs up, or until `shutdown` is cancelled and what was under
/// way is answered. `ask` is the way to the core, `peer` is asked for its life before material
/// is written (PE-4). At `in_flight` requests under way reading stops.
pub(super) async fn run(
    mut stream: UnixStream,
    peer: &dyn PeerProcess,
    ask: impl Fn(Ask) -> Waiting,
    in_flight: usize,
    shutdown: &CancellationToken,
) -> Result<(), ConnectionError> {
    let (mut input, mut output) = stream.split();
    let mut decoder = LineDecoder::default();
    let mut calls = InFlight {
        limit: in_flight,
        waiting: Vec::new(),
    };
    let mut writer = Writer {
        buffer: SecretBuffer::with_capacity(WRITE_BUFFER),
        peer,
    };
    let mut chunk = [0; CHUNK];
    let mut first = Some(Instant::now() + FIRST_MESSAGE);
    let mut begun = None;
    // Whether more may come from the peer.
    let mut open = true;
    // One wait for the whole conversation: a new one for every request takes the token's lock.
    let mut stop = pin!(shutdown.cancelled());
    loop {
        while open && calls.has_room() {
            match decoder.next_line() {
                Ok(None) => break,
                Ok(Some(line)) => {
                    (first, begun) = (None, None);
                    match wire::decode(line) {
                        Ok(call) => calls.waiting.push((call.id, ask(call.ask))),
                        Err(answer) => writer.send(&mut output, &answer).await?,
                    }
                }
                Err(error) => {
                    let refusal =
                        Refusal::new(ErrorCode::InvalidRequest).with_message(&error.to_string());
                    let answer = Answer::refusal(None, Fault::Request, refusal);
                    writer.send(&mut output, &answer).await?;
                    return Err(error.into());
                }
            }
        }
        if !open && calls.waiting.is_empty() {
            return Ok(());
        }
        let reading = open && calls.has_room();
        if !reading || !decoder.has_begun() {
            // A line does not age while nobody reads it.
            begun = None;
        } else if begun.is_none() {
            begun = Some(Instant::now() + BEGUN_LINE);
        }
        let deadline = first.into_iter().chain(begun).min();
        tokio::select! {
            biased;
            (id, answer) = calls.next(), if !calls.waiting.is_empty() => {
                let content = answer.map_err(|refusal| (Fault::Refused, Box::new(refusal)));
                let answer = Answer { id: Some(id), content };
                writer.send(&mut output, &answer).await?;
            }
            read = input.read(&mut chunk), if reading => match read? {
                0 if has_hung_up(output.as_ref()) => return Ok(()),
                // Only its sending side is closed: it still waits for its answers.
                0 => open = false,
                length => decoder.push(chunk.get(..length).unwrap_or_default()),
            },
            () = hang_up(output.as_ref()), if !reading => return Ok(()),
            () = reached(deadline), if reading && deadline.is_some() => {
                return Err(ConnectionError::Slow);
            }
            // Never asked again once it is over: `open` stays false.
            () = &mut stop, if open => open = false,
        }
    }
}

/// Tells a peer no before it said anything, if that can be done without waiting.
pub(super) fn turn_away(stream: &UnixStream, refusal: Refusal) {
    let mut buffer = SecretBuffer::with_capacity(WRITE_BUFFER);
    Answer::refusal(None, Fault::Refused, refusal).encode(&mut buffer);
    // A fresh socket has room; a peer that is gone needs no answer.
    if let Err(error) = rustix::net::send(
        stream,
        buffer.expose(),
        rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
    ) {
        tracing::debug!(%error, "a peer was turned away without an answer");
    }
}

/// The requests that wait for the core, each with its id.
struct InFlight {
    limit: usize,
    waiting: Vec<(Id, Waiting)>,
}

impl InFlight {
    fn has_room(&self) -> bool {
        self.waiting.len() < self.limit
    }

    /// The next answer that is ready, whichever it is. Never resolves when nothing waits.
    async fn next(&mut self) -> (Id, Result<Outcome, Refusal>) {
        poll_fn(|context| {
            let ready = self
                .waiting
                .iter_mut()
                .enumerate()
                .find_map(|(at, (_, waiting))| match waiting.as_mut().poll(context) {
                    Poll::Ready(answer) => Some((at, answer)),
                    Poll::Pending => None,
                });
            match ready {
                Some((at, answer)) => Poll::Ready((self.waiting.swap_remove(at).0, answer)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// Writes answers from one buffer that is wiped after each.
struct Writer<'a> {
    buffer: SecretBuffer,
    peer: &'a dyn PeerProcess,
}

impl Writer<'_> {
    async fn send(
        &mut self,
        output: &mut WriteHalf<'_>,
        answer: &Answer,
    ) -> Result<(), ConnectionError> {
        if answer.carries_material() && !self.peer.is_alive() {
            return Err(ConnectionError::PeerGone);
        }
        answer.encode(&mut self.buffer);
        let written = timeout(UNREAD, output.write_all(self.buffer.expose())).await;
        if self.buffer.len() > WRITE_BUFFER {
            self.buffer = SecretBuffer::with_capacity(WRITE_BUFFER);
        } else {
            self.buffer.clear();
        }
        match written {
            Ok(written) => Ok(written?),
            Err(_elapsed) => Err(ConnectionError::Unread),
        }
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Whether the peer closed both directions, so that nobody is left to read an answer.
fn has_hung_up(stream: &UnixStream) -> bool {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    match poll(&mut fds, Some(&at_once)) {
        Ok(_) => fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)),
        Err(_) => true,
    }
}

/// Resolves when the peer has closed both directions; for when nothing is read that would tell.
/// Without a descriptor to spare it never does: then the peer's going is seen when it is written
/// to, and who only half closed still gets the answers that were recorded as given.
async fn hang_up(stream: &UnixStream) {
    if watch_hang_up(stream).await.is_err() {
        pending::<()>().await;
    }
}

/// On a descriptor of its own, because it clears a readiness that writing needs.
async fn watch_hang_up(stream: &UnixStream) -> io::Result<()> {
    let own = stream.as_fd().try_clone_to_owned()?;
    let own = UnixStream::from_std(own.into())?;
    loop {
        if own.ready(Interest::WRITABLE).await?.is_write_closed() {
            return Ok(());
        }
        // Forgets that there is room to write, so that only a change wakes this again.
        let cleared: io::Result<()> =
            own.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()));
        drop(cleared);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tokio::sync::{mpsc, oneshot};
    use tokio::task::JoinHandle;

    use super::super::frame::MAX_LINE;
    use super::*;
    use crate::broker::handle::{Delivery, EndedView, PortFuture, SessionEnd};
    use crate::model::{
        Field, FieldValue, HolderClass, LeaseId, LeaseState, LeaseView, Material, MaterialKind,
        Selector,
    };
    use crate::secret::SecretString;
    use crate::time::UnixTime;

    /// What is configured where nobody says otherwise.
    const MAX_IN_FLIGHT: usize = 64;

    #[derive(Debug)]
    struct Peer(AtomicBool);

    impl PeerProcess for Peer {
        fn is_alive(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn exited(&self) -> PortFuture<()> {
            Box::pin(pending())
        }
    }

    type Question = (Ask, oneshot::Sender<Result<Outcome, Refusal>>);

    /// One end of a connection whose core is the test.
    struct Door {
        stream: BufReader<UnixStream>,
        questions: mpsc::UnboundedReceiver<Question>,
        peer: Arc<Peer>,
        shutdown: CancellationToken,
        task: JoinHandle<Result<(), ConnectionError>>,
    }

    impl Door {
        fn open() -> Self {
            let (theirs, ours) = UnixStream::pair().unwrap();
            let (asked, questions) = mpsc::unbounded_channel();
            let peer = Arc::new(Peer(AtomicBool::new(true)));
            let shutdown = CancellationToken::new();
            let (process, stop) = (Arc::clone(&peer), shutdown.clone());
            let task = tokio::spawn(async move {
                let ask = |ask: Ask| -> Waiting {
                    let (reply, answer) = oneshot::channel();
                    asked.send((ask, reply)).unwrap();
                    Box::pin(async move { answer.await.unwrap() })
                };
                run(ours, &*process, ask, MAX_IN_FLIGHT, &stop).await
            });
            Self {
                stream: BufReader::new(theirs),
                questions,
                peer,
                shutdown,
                task,
            }
        }

        async fn say(&mut self, text: impl AsRef<[u8]>) {
            self.stream.write_all(text.as_ref()).await.unwrap();
        }

        async fn hear(&mut self) -> String {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.unwrap();
            line
        }

        async fn asked(&mut self) -> Question {
            self.questions.recv().await.unwrap()
        }
    }

    fn ended(revoked: usize) -> Outcome {
        Outcome::Ended(EndedView {
            revoked,
            unconfirmed: 0,
            session: SessionEnd::Confirmed,
        })
    }

    fn delivery(secret: &str) -> Outcome {
        let at = UnixTime::from_millis(1_800_000_000_000);
        Outcome::Delivered(Delivery {
            lease: LeaseView {
                lease_id: LeaseId::parse("lse_1").unwrap(),
                selector: Selector::parse("gcp/a/b").unwrap(),
                state: LeaseState::Exhausted,
                holder: HolderClass::None,
                expires_at: at,
                max_redemptions: 1,
                redemptions_used: 1,
                revocable: true,
            },
            material: Arc::new(Material {
                kind: MaterialKind::GenericSecret,
                fields: vec![Field {
                    name: Box::from("value"),
                    value: FieldValue::Secret(SecretString::copy_from(secret)),
                }],
                expires_at: at,
            }),
        })
    }

    fn lock(id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"lock"}}"#) + "\n"
    }

    const GET: &str = "{\"jsonrpc\":\"2.0\",\"id\":\"g\",\"method\":\"credential.get\",\"params\":{\"selector\":\"gcp/a/b\"}}\n";

    /// PE-8: answers go out as they are ready, each under the id that asked, equal ids on other
    /// connections or not.
    #[tokio::test]
    async fn answers_go_to_the_connection_and_id_that_asked() {
        let (mut left, mut right) = (Door::open(), Door::open());
        left.say(lock("1") + &lock("\"a\"")).await;
        right.say(lock("1")).await;
        let (_, first) = left.asked().await;
        let (_, second) = left.asked().await;
        let (_, other) = right.asked().await;
        second.send(Ok(ended(2))).unwrap();
        assert_eq!(
            left.hear().await,
            "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{\"revoked\":2,\"unconfirmed\":0,\"session\":\"confirmed\"}}\n"
        );
        other.send(Ok(ended(3))).unwrap();
        assert!(
            right
                .hear()
                .await
                .contains("\"id\":1,\"result\":{\"revoked\":3,")
        );
        first.send(Ok(ended(1))).unwrap();
        assert!(
            left.hear()
                .await
                .contains("\"id\":1,\"result\":{\"revoked\":1,")
        );
    }

    /// IN-4, IN-16: bad lines are answered, and the connection goes on.
    #[tokio::test]
    async fn a_bad_line_is_answered_and_the_next_one_served() {
        let mut door = Door::open();
        let lines: [&[u8]; 5] = [b"nonsense\n", b"\xff\xfe\x00\n", b"\n", b"[]\n", b"{}\n"];
        for line in lines {
            door.say(line).await;
            let answer = door.hear().await;
            assert!(answer.contains("\"code\":\"invalid_request\""), "{answer}");
        }
        let refused = door.questions.try_recv().is_err();
        assert!(refused, "nothing of it reached the core");
        door.say(lock("7")).await;
        door.asked().await.1.send(Ok(ended(0))).unwrap();
        assert!(door.hear().await.contains("\"id\":7"));
    }

    /// SP-9: an HTTP request is refused, and nothing after it is looked at.
    #[tokio::test]
    async fn an_http_request_is_refused_and_the_connection_closed() {
        let mut door = Door::open();
        let body = lock("1");
        door.say(format!("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n{body}"))
            .await;
        assert!(door.hear().await.contains("not an HTTP server"));
        assert_eq!(door.hear().await, "");
        assert!(matches!(
            door.task.await.unwrap(),
            Err(ConnectionError::Frame(FrameError::Http))
        ));
        assert!(door.questions.recv().await.is_none());
    }

    /// LM: an endless line is refused once it is too long, and the connection closed.
    #[tokio::test]
    async fn an_endless_line_is_refused_and_the_connection_closed() {
        let door = Door::open();
        let (input, mut output) = door.stream.into_inner().into_split();
        let writing =
            tokio::spawn(async move { while output.write_all(&[b' '; 4096]).await.is_ok() {} });
        let mut lines = BufReader::new(input).lines();
        let answer = lines.next_line().await.unwrap().unwrap();
        assert!(answer.contains("256 KiB"), "{answer}");
        writing.await.unwrap();
        assert!(matches!(
            door.task.await.unwrap(),
            Err(ConnectionError::Frame(FrameError::TooLong))
        ));
    }

    /// LM: the longest line is served.
    #[tokio::test]
    async fn the_longest_line_is_served() {
        let mut door = Door::open();
        let request = lock("1");
        let spaces = " ".repeat(MAX_LINE + 1 - request.len());
        door.say(spaces + &request).await;
        door.asked().await.1.send(Ok(ended(0))).unwrap();
        assert!(door.hear().await.contains("\"id\":1"));
    }

    /// LM: who says nothing, or half a line, is hung up on.
    #[tokio::test(start_paused = true)]
    async fn silence_and_half_lines_end_the_connection() {
        let begun = Instant::now();
        let mut silent = Door::open();
        assert_eq!(silent.hear().await, "");
        assert_eq!(begun.elapsed().as_secs(), 10);
        let begun = Instant::now();
        let mut half = Door::open();
        half.say("{").await;
        assert_eq!(half.hear().await, "");
        assert_eq!(begun.elapsed().as_secs(), 5);
        let mut late = Door::open();
        late.say(lock("1") + "{").await;
        let (_, reply) = late.asked().await;
        assert_eq!(late.hear().await, "", "its wait is dropped");
        assert!(reply.is_closed());
        for door in [silent, half, late] {
            assert!(matches!(
                door.task.await.unwrap(),
                Err(ConnectionError::Slow)
            ));
        }
    }

    /// After its first message a connection may be idle, and a wait may take its time.
    #[tokio::test(start_paused = true)]
    async fn a_wait_has_no_limit_of_the_doors_own() {
        let mut door = Door::open();
        door.say(lock("1")).await;
        let (_, reply) = door.asked().await;
        tokio::time::advance(Duration::from_hours(1)).await;
        reply.send(Ok(ended(0))).unwrap();
        assert!(door.hear().await.contains("\"id\":1"));
    }

    /// LM: the 65th request is not read before one of the others is answered; then it is.
    #[tokio::test]
    async fn reading_stops_at_64_requests_in_flight() {
        let mut door = Door::open();
        for id in 0..=MAX_IN_FLIGHT {
            door.say(lock(&id.to_string())).await;
        }
        let mut waiting = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            waiting.push(door.asked().await.1);
        }
        assert!(door.questions.try_recv().is_err());
        waiting.remove(0).send(Ok(ended(0))).unwrap();
        assert!(door.hear().await.contains("\"id\":0"));
        let (_, last) = door.asked().await;
        last.send(Ok(ended(0))).unwrap();
        assert!(door.hear().await.contains("\"id\":64"));
    }

    /// A peer that hangs up is not waited for, even while nothing is read from it.
    #[tokio::test]
    async fn a_peer_that_hangs_up_drops_its_waits() {
        for count in [1, MAX_IN_FLIGHT] {
            let mut door = Door::open();
            for id in 0..count {
                door.say(lock(&id.to_string())).await;
            }
            let mut replies = Vec::new();
            for _ in 0..count {
                replies.push(door.asked().await.1);
            }
            drop(door.stream);
            door.task.await.unwrap().unwrap();
            assert!(replies.iter().all(oneshot::Sender::is_closed), "{count}");
        }
    }

    /// A peer that only stops sending still gets its answers: `printf … | socat - UNIX:…`.
    #[tokio::test]
    async fn a_half_closed_connection_is_answered() {
        let mut door = Door::open();
        door.say(lock("1")).await;
        door.stream.shutdown().await.unwrap();
        let (_, reply) = door.asked().await;
        reply.send(Ok(ended(0))).unwrap();
        assert!(door.hear().await.contains("\"id\":1"));
        door.task.await.unwrap().unwrap();
    }

    /// Half-closed or not: once nobody can read the answer, nobody waits for it.
    #[tokio::test]
    async fn a_half_closed_connection_may_hang_up_too() {
        let mut door = Door::open();
        door.say(lock("1")).await;
        door.stream.shutdown().await.unwrap();
        let (_, reply) = door.asked().await;
        drop(door.stream);
        door.task.await.unwrap().unwrap();
        assert!(reply.is_closed());
    }

    /// PE-4: material is not released to whoever holds the socket of a process that is gone;
    /// what is no secret is answered.
    #[tokio::test]
    async fn material_is_not_written_once_the_peer_is_dead() {
        let mut door = Door::open();
        door.say(GET).await;
        door.asked().await.1.send(Ok(delivery("canary-1"))).unwrap();
        assert!(door.hear().await.contains("canary-1"));
        door.peer.0.store(false, Ordering::Relaxed);
        door.say(lock("1")).await;
        door.asked().await.1.send(Ok(ended(0))).unwrap();
        assert!(door.hear().await.contains("\"id\":1"));
        door.say(GET).await;
        door.asked().await.1.send(Ok(delivery("canary-2"))).unwrap();
        assert_eq!(door.hear().await, "");
        assert!(matches!(
            door.task.await.unwrap(),
            Err(ConnectionError::PeerGone)
        ));
    }

    /// LM: answers that nobody reads end the connection.
    #[tokio::test(start_paused = true)]
    async fn unread_answers_end_the_connection() {
        let mut door = Door::open();
        door.say(GET).await;
        let large = "x".repeat(900 * 1024);
        let begun = Instant::now();
        door.asked().await.1.send(Ok(delivery(&large))).unwrap();
        assert!(matches!(
            door.task.await.unwrap(),
            Err(ConnectionError::Unread)
        ));
        assert_eq!(begun.elapsed().as_secs(), 30);
    }

    /// At the end of the daemon nothing new is read, and what is under way is answered.
    #[tokio::test]
    async fn shutdown_answers_what_is_under_way() {
        let mut door = Door::open();
        door.say(lock("1")).await;
        let (_, reply) = door.asked().await;
        door.shutdown.cancel();
        reply.send(Ok(ended(5))).unwrap();
        assert!(door.hear().await.contains("\"revoked\":5"));
        assert_eq!(door.hear().await, "");
        door.task.await.unwrap().unwrap();
    }
}
