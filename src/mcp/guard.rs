//! What one peer may cost. The MCP library reads as fast as it can, queues without bound, waits
//! without limit and drops an overlong line in silence, so each of that is bounded around it:
//! [`Lines`] on the way in, [`Patient`] on the way out, [`Guard`] between them and the library.

use std::collections::HashSet;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rmcp::model::{ClientNotification, ErrorData, JsonRpcMessage, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

/// The longest line; beyond it the peer is told so and the connection ends (LM).
pub(super) const MAX_LINE: usize = 1024 * 1024;

/// Values of one line. The library keeps a whole tree of what was said at the beginning and of each
/// call under way, some 700 bytes for a value; what clients really send has a few dozen.
const MAX_VALUES: usize = 1024;

/// Answers that may wait to be written. At it nothing more is read from that peer. As many as it
/// may have calls under way unless configured otherwise (LM): a client that reads its answers
/// never meets it, and one that does not costs what these are long and no more.
const MAX_UNSENT: usize = 64;

/// Messages of one peer in a row; then everybody else has a turn. The library takes as many as there
/// are, and makes a task of each.
const IN_A_ROW: u8 = 16;

/// A peer that asks for nothing at all would hold a place for ever.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// A line comes in one piece from any honest peer; half a line is a stuck or hostile one.
const BEGUN_LINE: Duration = Duration::from_secs(5);

/// How long a peer may leave an answer unread before it is given up (LM): as on `broker.sock`, as
/// long as a call to Aegis may take. A client that lives reads within milliseconds, one that is
/// busy with something else within seconds; one that is stuck must not keep its answers here.
const UNREAD: Duration = Duration::from_secs(30);

/// Why a conversation ended before the peer ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A line was longer than [`MAX_LINE`].
    Overlong,
    /// A line had more than [`MAX_VALUES`] values.
    Crowded,
    /// It speaks another protocol, HTTP by the look of it (SP-9).
    NotMcp,
    /// No request came, or half a line stayed half.
    Slow,
    /// Answers were not read.
    Unread,
    /// An id was used again while its request was under way. The library would drop an answer, and
    /// nobody could count what is left to do.
    Repeated,
}

impl Fault {
    /// What the peer is told, where it may still be listening.
    fn farewell(self) -> Option<String> {
        match self {
            Self::Overlong => Some(format!("a line was longer than {MAX_LINE} bytes")),
            Self::Crowded => Some(format!("a line had more than {MAX_VALUES} values")),
            Self::NotMcp => Some("this socket takes JSON-RPC messages, one a line".to_owned()),
            Self::Repeated => {
                Some("an id was used again before its request was answered".to_owned())
            }
            Self::Slow | Self::Unread => None,
        }
    }
}

/// What the three parts of one conversation know in common.
#[derive(Debug, Default)]
struct Common {
    fault: OnceLock<Fault>,
    /// The peer has asked for something, so that it may be silent from now on.
    started: AtomicBool,
    /// Reading was held back, so a line that has begun did not age.
    held: AtomicBool,
}

impl Common {
    fn fail(&self, fault: Fault) {
        // The first fault is the one that counts.
        self.fault.get_or_init(|| fault);
    }
}

/// A guarded transport over two halves of a connection, for a peer that may have that many calls
/// under way. Needs a runtime with time.
pub(super) fn guarded<R, W>(
    input: R,
    output: W,
    in_flight: usize,
) -> Guard<AsyncRwTransport<RoleServer, Lines<R>, Patient<W>>>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let common = Arc::new(Common::default());
    let input = Lines::new(input, Arc::clone(&common));
    let output = Patient {
        inner: output,
        common: Arc::clone(&common),
        patience: None,
    };
    Guard {
        // Its own limit is never reached: `Lines` ends before it.
        inner: AsyncRwTransport::new(input, output)
            .with_max_line_length(MAX_LINE.saturating_mul(2)),
        unsent: Arc::new(AtomicUsize::new(0)),
        under_way: HashSet::new(),
        // One call too many is answered at once, and a cancellation must still be read.
        most: in_flight.saturating_add(MAX_UNSENT),
        in_a_row: 0,
        common,
        farewell: None,
    }
}

/// The transport the library sees.
pub(super) struct Guard<T> {
    inner: T,
    unsent: Arc<AtomicUsize>,
    /// Requests that the library has taken and not answered.
    under_way: HashSet<RequestId>,
    /// How many of those there may be.
    most: usize,
    in_a_row: u8,
    common: Arc<Common>,
    /// The last message of ours, on its way. Kept here because `receive` is often begun anew.
    farewell: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Guard<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answered = match &item {
            JsonRpcMessage::Response(response) => Some(&response.id),
            JsonRpcMessage::Error(error) => error.id.as_ref(),
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
        };
        if let Some(id) = answered {
            self.under_way.remove(id);
        }
        let waiting = Waiting::new(&self.unsent);
        let sent = self.inner.send(item);
        async move {
            let _waiting = waiting;
            sent.await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let full =
            self.unsent.load(Ordering::Relaxed) >= MAX_UNSENT || self.under_way.len() >= self.most;
        if full && self.common.fault.get().is_none() {
            self.common.held.store(true, Ordering::Relaxed);
            // Needs no waker: the service begins this anew after every event, and a message that
            // was sent or could not be sent is one.
            pending::<()>().await;
        }
        loop {
            if self.common.fault.get() == Some(&Fault::Repeated) {
                // Nothing more is read from that peer, whose input has not ended.
                self.say_farewell().await;
                return None;
            }
            if self.in_a_row >= IN_A_ROW {
                yield_now().await;
                self.in_a_row = 0;
            }
            let Some(message) = self.inner.receive().await else {
                self.say_farewell().await;
                return None;
            };
            self.in_a_row = self.in_a_row.saturating_add(1);
            match &message {
                JsonRpcMessage::Request(request) => {
                    if !self.under_way.insert(request.id.clone()) {
                        self.common.fail(Fault::Repeated);
                        continue;
                    }
                    self.common.started.store(true, Ordering::Relaxed);
                }
                // A client that gave up its probe says so before it asks for anything. The
                // library takes only requests for a beginning.
                JsonRpcMessage::Notification(_)
                | JsonRpcMessage::Response(_)
                | JsonRpcMessage::Error(_)
                    if !self.common.started.load(Ordering::Relaxed) =>
                {
                    continue;
                }
                JsonRpcMessage::Notification(notification) => {
                    // What is cancelled gets no answer (MC-2).
                    if let ClientNotification::CancelledNotification(cancelled) =
                        &notification.notification
                        && let Some(id) = &cancelled.params.request_id
                    {
                        self.under_way.remove(id);
                    }
                }
                JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
            }
            return Some(message);
        }
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.inner.close()
    }
}

impl<T: Transport<RoleServer>> Guard<T> {
    /// Tells the peer why nothing more is read from it, once.
    async fn say_farewell(&mut self) {
        if self.farewell.is_none()
            && let Some(text) = self.common.fault.get().and_then(|fault| fault.farewell())
        {
            let error = ErrorData::invalid_request(text, None);
            let sent = self.inner.send(JsonRpcMessage::error(error, None));
            self.farewell = Some(Box::pin(async move {
                // A peer that is gone needs no answer.
                drop(sent.await);
            }));
        }
        if let Some(farewell) = &mut self.farewell {
            farewell.await;
            self.farewell = Some(Box::pin(async {}));
        }
    }
}

/// One message that is not written yet; counted until it is, or is given up.
struct Waiting {
    unsent: Arc<AtomicUsize>,
}

impl Waiting {
    fn new(unsent: &Arc<AtomicUsize>) -> Self {
        unsent.fetch_add(1, Ordering::Relaxed);
        Self {
            unsent: Arc::clone(unsent),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.unsent.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What comes in: whole lines, and the end of input as soon as one is too much or too slow.
pub(super) struct Lines<R> {
    inner: R,
    common: Arc<Common>,
    /// Bytes of the line that has begun.
    length: usize,
    values: Values,
    /// Until when the first request must be there. Lines that are none do not count.
    first: Instant,
    /// Until when the line that has begun must be whole.
    begun: Option<Instant>,
    /// Whether anything came at all.
    touched: bool,
    alarm: Pin<Box<Sleep>>,
}

/// How many values a line of JSON has so far: each follows a comma, a colon or an opening bracket
/// that stands outside of strings.
#[derive(Debug, Default)]
struct Values {
    count: usize,
    in_string: bool,
    escaped: bool,
}

impl Values {
    fn look_at(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b',' | b':' | b'[' | b'{' if !self.in_string => {
                    self.count = self.count.saturating_add(1);
                }
                _ => {}
            }
        }
    }
}

impl<R> Lines<R> {
    fn new(inner: R, common: Arc<Common>) -> Self {
        let first = Instant::now() + FIRST_MESSAGE;
        Self {
            inner,
            common,
            length: 0,
            values: Values::default(),
            first,
            begun: None,
            touched: false,
            alarm: Box::pin(sleep_until(first)),
        }
    }

    /// Takes note of what came, and says how much of it may be read: all of it, or what came
    /// whole before the first fault.
    fn came(&mut self, bytes: &[u8]) -> usize {
        if !self.touched {
            self.touched = true;
            // A message is an object; a request line of HTTP begins with its method.
            if bytes.first().is_some_and(u8::is_ascii_uppercase) {
                self.common.fail(Fault::NotMcp);
                return 0;
            }
        }
        let (mut seen, mut whole) = (0_usize, 0);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if let Err(fault) = self.line_grew(piece) {
                self.common.fail(fault);
                return whole;
            }
            seen = seen.saturating_add(piece.len());
            if piece.ends_with(b"\n") {
                whole = seen;
            }
        }
        seen
    }

    /// Takes note of more of one line, with which it may be whole.
    fn line_grew(&mut self, piece: &[u8]) -> Result<(), Fault> {
        if self.length == 0 {
            self.begun = Some(Instant::now() + BEGUN_LINE);
        }
        let whole = piece.ends_with(b"\n");
        self.length = self.length.saturating_add(piece.len());
        if self.length.saturating_sub(usize::from(whole)) > MAX_LINE {
            return Err(Fault::Overlong);
        }
        self.values.look_at(piece);
        if self.values.count > MAX_VALUES {
            return Err(Fault::Crowded);
        }
        if whole {
            (self.length, self.begun) = (0, None);
            self.values = Values::default();
        }
        Ok(())
    }

    /// Whether a deadline has passed; if not, this task is woken at the next.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let started = self.common.started.load(Ordering::Relaxed);
        let first = (!started).then_some(self.first);
        let Some(deadline) = first.into_iter().chain(self.begun).min() else {
            return false;
        };
        if self.alarm.deadline() != deadline {
            self.alarm.as_mut().reset(deadline);
        }
        self.alarm.as_mut().poll(context).is_ready()
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Lines<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.common.held.swap(false, Ordering::Relaxed) && this.begun.is_some() {
            this.begun = Some(Instant::now() + BEGUN_LINE);
        }
        if this.common.fault.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let fresh = buffer.filled().get(before..).unwrap_or_default();
                let good = this.came(fresh);
                buffer.set_filled(before.saturating_add(good));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if this.is_late(context) => {
                this.common.fail(Fault::Slow);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// What goes out: an error as soon as one message stays unread for too long.
pub(super) struct Patient<W> {
    inner: W,
    common: Arc<Common>,
    /// Runs from a message's first wait until it is written whole.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<W> Patient<W> {
    /// Lets through what could be done at once; else waits, but not for ever.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            return done;
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + UNREAD)));
        ready!(patience.as_mut().poll(context));
        self.common.fail(Fault::Unread);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn is_given_up(&self) -> bool {
        self.common.fault.get() == Some(&Fault::Unread)
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Patient<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_given_up() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.bounded(context, written)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(context);
        if flushed.is_ready() {
            this.patience = None;
        }
        this.bounded(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use rmcp::model::ServerResult;
    use tokio::io::{AsyncWriteExt as _, duplex};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    /// LM: requests are taken as they are answered, however fast they come; a cancellation is no
    /// answer and makes room all the same.
    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_bounded() {
        let (mut client, ours) = duplex(1024 * 1024);
        let (input, output) = tokio::io::split(ours);
        let mut guard = guarded(input, output, 2);
        let mut lines = String::new();
        for id in 0..100 {
            writeln!(lines, r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#).unwrap();
        }
        client.write_all(lines.as_bytes()).await.unwrap();
        let most = 2 + MAX_UNSENT;
        for _ in 0..most {
            assert!(guard.receive().await.is_some());
        }
        assert!(
            timeout(SOON, guard.receive()).await.is_err(),
            "one too many"
        );
        for id in [7, 8] {
            let answer = JsonRpcMessage::response(ServerResult::empty(()), RequestId::Number(id));
            guard.send(answer).await.unwrap();
        }
        for _ in 0..2 {
            assert!(guard.receive().await.is_some());
        }
        assert!(
            timeout(SOON, guard.receive()).await.is_err(),
            "as many as were answered"
        );
    }
}
