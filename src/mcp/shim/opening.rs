use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use serde_json::Value;

use super::deadline::{Deadline, wait};
use super::relay::read;
use crate::model::{ErrorCode, Refusal};

/// What is remembered of what the client said, and one read of it. A client that says more before
/// it is answered is served as it is: its connection was taken, or the refusal reaches it as bytes.
const REMEMBERED: usize = 64 * 1024;

/// A refusal is a few hundred bytes; a first line that is longer is none.
const MAX_REFUSAL: usize = 4096;

/// What the first words of a conversation came to.
#[derive(Debug)]
pub(super) enum Opened {
    /// The daemon serves, or will say itself what is wrong.
    Served(Rest),
    /// It has no place for one more.
    TurnedAway(TurnedAway),
}

/// What a relay begins with.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Bytes of the client's that the daemon had no room for yet.
    pub(super) to_daemon: Vec<u8>,
    /// Bytes of the daemon's that the client has not seen.
    pub(super) to_client: Vec<u8>,
    /// Until when answers are waited for, where the client has ended its side already.
    pub(super) linger: Option<Deadline>,
}

/// A client that the daemon has no place for, with what it said so far, so that somebody else can
/// answer it.
#[derive(Debug)]
pub struct TurnedAway {
    refusal: Refusal,
    pub(super) said: Vec<u8>,
}

impl TurnedAway {
    /// Why, and what to do.
    pub const fn refusal(&self) -> &Refusal {
        &self.refusal
    }
}

/// Passes on what the client says until the daemon says its first words, and looks at those: a
/// server never speaks before it is asked, except to refuse, and a client would understand
/// neither that nor the end that follows. Whatever else it says is for the client.
pub(super) fn open(
    input: &impl AsFd,
    parent: Option<&OwnedFd>,
    daemon: &UnixStream,
    linger: Duration,
) -> io::Result<Opened> {
    let mut conversation = Conversation::default();
    let mut chunk = vec![0; REMEMBERED];
    loop {
        let mut sides = vec![daemon.as_fd()];
        if conversation.listens() {
            sides.push(input.as_fd());
            sides.extend(parent.map(AsFd::as_fd));
        }
        let ready = match &conversation.linger {
            Some(deadline) => vec![deadline.wait_for(&sides)?],
            None => wait(&sides, None)?,
        };
        match ready.as_slice() {
            [true, ..] => {
                let fresh = read(daemon, &mut chunk).unwrap_or_default();
                conversation
                    .heard
                    .extend_from_slice(chunk.get(..fresh).unwrap_or_default());
                if fresh == 0 || conversation.has_a_line() {
                    return Ok(conversation.judged());
                }
            }
            [false, true, ..] => {
                let fresh = read(input, &mut chunk).unwrap_or_default();
                match chunk.get(..fresh).unwrap_or_default() {
                    [] => {
                        // Fails only where the daemon is gone, which the next look sees.
                        drop(daemon.shutdown(Shutdown::Write));
                        conversation.linger = Some(Deadline::after(linger)?);
                    }
                    words => conversation.pass_on(words, daemon),
                }
                if conversation.is_long() {
                    return Ok(Opened::Served(conversation.rest()));
                }
            }
            // The parent is gone, or nothing came in time: the relay knows what to do.
            _ => return Ok(Opened::Served(conversation.rest())),
        }
    }
}

/// The first words of both sides.
#[derive(Debug, Default)]
struct Conversation {
    said: Vec<u8>,
    /// How much of it is on its way.
    sent: usize,
    heard: Vec<u8>,
    /// The daemon takes no more.
    closed: bool,
    linger: Option<Deadline>,
}

impl Conversation {
    /// Whether the client is listened to.
    const fn listens(&self) -> bool {
        !self.closed && self.linger.is_none()
    }

    /// Sends what the daemon has room for: to wait for it here would be not to hear it.
    fn pass_on(&mut self, words: &[u8], daemon: &UnixStream) {
        self.said.extend_from_slice(words);
        match send(daemon, words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(length) => self.sent = self.sent.saturating_add(length),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.closed = true,
        }
    }

    /// More than is remembered, or than the daemon has room for.
    fn is_long(&self) -> bool {
        !self.closed && (self.said.len() > REMEMBERED || self.sent < self.said.len())
    }

    fn has_a_line(&self) -> bool {
        self.heard.contains(&b'\n') || self.heard.len() > MAX_REFUSAL
    }

    fn judged(self) -> Opened {
        match refusal(&self.heard) {
            Some(refusal) => Opened::TurnedAway(TurnedAway {
                refusal,
                said: self.said,
            }),
            None => Opened::Served(self.rest()),
        }
    }

    fn rest(mut self) -> Rest {
        Rest {
            to_daemon: self.said.split_off(self.sent.min(self.said.len())),
            to_client: self.heard,
            linger: self.linger,
        }
    }
}

/// The refusal that this is, if it is one: an error of nobody's request with a code of ours.
fn refusal(bytes: &[u8]) -> Option<Refusal> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let message: Value = serde_json::from_slice(line).ok()?;
    let about = message.pointer("/error/data")?;
    let word = |name| about.get(name).and_then(Value::as_str);
    if !message.get("id")?.is_null() {
        return None;
    }
    let code = ErrorCode::parse(word("code")?)?;
    let said = message.pointer("/error/message").and_then(Value::as_str);
    let fix = word("fix").unwrap_or(code.fix());
    Some(
        Refusal::new(code)
            .with_message(said.unwrap_or(code.message()))
            .with_fix(&format!("{fix}; then reconnect this server")),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    const REFUSAL: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"too many","data":{"code":"rate_limited","fix":"wait"}}}"#;

    fn opened(said: &[u8], heard: &[u8]) -> (Opened, Vec<u8>) {
        let (mut client, stdio) = UnixStream::pair().unwrap();
        let (mut daemon, socket) = UnixStream::pair().unwrap();
        client.write_all(said).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        daemon.write_all(heard).unwrap();
        daemon.shutdown(Shutdown::Write).unwrap();
        let opened = open(&stdio, None, &socket, PATIENCE).unwrap();
        drop(socket);
        let mut passed_on = Vec::new();
        daemon.read_to_end(&mut passed_on).unwrap();
        (opened, passed_on)
    }

    /// Only a refusal is taken for one; everything else is the client's to read, byte for byte.
    #[test]
    fn a_refusal_is_told_from_an_answer() {
        let (opened, _) = opened(b"", format!("{REFUSAL}\n").as_bytes());
        let Opened::TurnedAway(turned_away) = opened else {
            panic!("served");
        };
        let refusal = turned_away.refusal();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert_eq!(refusal.message(), "too many");
        assert_eq!(refusal.fix(), "wait; then reconnect this server");
        let long = format!("{}{REFUSAL}\n", " ".repeat(MAX_REFUSAL + 1));
        for answer in [
            r#"{"jsonrpc":"2.0","id":0,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a line was too long"}}"#,
            r#"{"jsonrpc":"2.0","id":0,"error":{"code":1,"data":{"code":"rate_limited"}}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"data":{"code":"unheard_of"}}}"#,
            "not json\n",
            "",
            long.get(..MAX_REFUSAL + 1).unwrap(),
        ] {
            let (opened, _) = self::opened(b"", answer.as_bytes());
            let Opened::Served(rest) = opened else {
                panic!("{answer}");
            };
            assert_eq!(rest.to_client, answer.as_bytes());
        }
    }

    /// Nothing that the client said is lost or said twice: it is sent, or it is left to send.
    #[test]
    fn what_the_client_said_is_kept_whole() {
        let (client, stdio) = UnixStream::pair().unwrap();
        let (mut daemon, socket) = UnixStream::pair().unwrap();
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 * REMEMBERED).collect();
        let (mut writer, all) = (client.try_clone().unwrap(), bytes.clone());
        let writing = std::thread::spawn(move || writer.write_all(&all));
        let opened = open(&stdio, None, &socket, PATIENCE).unwrap();
        let Opened::Served(rest) = opened else {
            panic!("turned away");
        };
        drop((stdio, client));
        drop(socket);
        let mut kept = Vec::new();
        daemon.read_to_end(&mut kept).unwrap();
        kept.extend_from_slice(&rest.to_daemon);
        assert!(kept.len() > REMEMBERED && bytes.starts_with(&kept));
        // It was cut off on purpose.
        drop(writing.join().unwrap());
    }

    /// T2: a client that has ended its side, and a daemon that says nothing, end in time.
    #[test]
    fn a_silent_daemon_is_waited_for_with_a_limit() {
        let (client, stdio) = UnixStream::pair().unwrap();
        let (_daemon, socket) = UnixStream::pair().unwrap();
        drop(client);
        let opened = open(&stdio, None, &socket, Duration::from_millis(1)).unwrap();
        let Opened::Served(rest) = opened else {
            panic!("turned away");
        };
        assert!(rest.linger.is_some());
    }
}
