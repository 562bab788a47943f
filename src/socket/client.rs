//! The other end of `broker.sock`: a blocking client for commands. No runtime, no threads.

use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use zeroize::Zeroizing;

use super::folder::{self, RuntimeFolder};
pub use super::folder::{MCP_SOCKET, SOCKET};
use super::wire::{self, Method, Misunderstood, Params};
use super::{API_VERSION, folder::FolderError};
pub use crate::broker::handle::TargetView;
use crate::model::{
    CleanText, ErrorCode, Exposure, HolderClass, LeaseId, LeaseState, LeaseView, LoginView,
    MAX_CODE_LIFE, ProfileName, Refusal, Selector,
};
use crate::secret::SecretBuffer;
use crate::time::{Clock as _, SystemClock, Timestamp};

pub use super::audit::{ForeignEvent, MissingCall, Reconciled};
pub use crate::broker::handle::{Delivery, EndedView as Ended, LostSession, SessionEnd};

/// How long a busy daemon may take to have room for a connection. The kernel does the waiting.
const CONNECT: Duration = Duration::from_secs(1);

/// The daemon answers these from memory; what is longer is a daemon that hangs.
const QUICK: Duration = Duration::from_secs(10);

/// The daemon's calls of at most 30 s each, four of them where a redemption got lost, and some
/// more.
const CALL: Duration = Duration::from_secs(135);

/// As long as a device code lives; its last poll may take 30 s.
const LOGIN: Duration = MAX_CODE_LIFE.saturating_add(Duration::from_mins(1));

/// The first buffer of a reply; each further one is four times as large.
const REPLY_BUFFER: usize = 8 * 1024;

/// The longest reply that is read.
const MAX_REPLY: usize = wire::MAX_ANSWER;

/// One read.
const CHUNK: usize = 4096;

/// Connects to a socket of the daemon's, after its folder was found to be private and ours, and
/// only to a listener of our own uid (PE-2). The stream keeps a write from waiting longer than a
/// second at a time.
///
/// # Errors
/// `daemon_unreachable`, `runtime_folder_unsafe`.
pub fn connect(socket: &Path) -> Result<UnixStream, Refusal> {
    folder::check_length(socket).map_err(|error| error.at(socket))?;
    let parent = folder_of(socket)?;
    RuntimeFolder::check(parent).map_err(|error| error.at(parent))?;
    let address = SocketAddrUnix::new(socket).map_err(|error| unreachable(&error.into()))?;
    let connected = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .and_then(|fd| {
        // Where the backlog is full the kernel waits this long for room.
        set_socket_timeout(&fd, Timeout::Send, Some(CONNECT))?;
        rustix::net::connect(&fd, &address)?;
        Ok(fd)
    });
    let fd = connected.map_err(|error| unreachable(&error.into()))?;
    let listener = socket_peercred(&fd).map_err(|error| unreachable(&error.into()))?;
    if listener.uid != rustix::process::geteuid() {
        return Err(Refusal::new(ErrorCode::RuntimeFolderUnsafe)
            .with_message("another user's process listens on the socket"));
    }
    Ok(UnixStream::from(fd))
}

/// Makes the folder of a socket private and ours where it is missing, as the daemon would, for
/// who is about to start one.
///
/// # Errors
/// `runtime_folder_unsafe`, `io_error`.
pub fn prepare_folder(socket: &Path) -> Result<(), Refusal> {
    folder::check_length(socket).map_err(|error| error.at(socket))?;
    let parent = folder_of(socket)?;
    RuntimeFolder::prepare(parent).map_err(|error| error.at(parent))?;
    Ok(())
}

fn folder_of(socket: &Path) -> Result<&Path, Refusal> {
    socket
        .parent()
        .ok_or_else(|| FolderError::NotAFolder.at(socket))
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// What a request came to: what it means, and the bytes it was said in.
#[derive(Debug)]
pub struct ClientReply<T> {
    /// The result, as a type.
    pub view: T,
    line: SecretBuffer,
    result: Range<usize>,
}

impl<T> ClientReply<T> {
    /// The result as the daemon wrote it: one JSON object. May hold secrets.
    pub fn expose_json(&self) -> &[u8] {
        self.line
            .expose()
            .get(self.result.clone())
            .unwrap_or_default()
            .trim_ascii()
    }
}

/// What `broker.status` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `aegis-broker`.
    pub product: CleanText,
    /// The daemon's version.
    pub version: CleanText,
    /// The version of its protocol.
    pub api: u32,
    /// The login of the configured profile.
    pub login: LoginView,
    /// Leases that are live.
    pub live_leases: u64,
    /// Leases whose end the issuer has not confirmed.
    pub unconfirmed_revocations: u64,
    /// Targets whose leases can only run out.
    pub irrevocable_targets: u64,
    /// Connections open now, this one included.
    pub connections: u64,
    /// Where long-lived secrets rest.
    pub key_store: CleanText,
    /// How many rules the policy has.
    pub policy_rules: u64,
    /// What follows the token there is: `svid` or `login`.
    pub renewal: CleanText,
    /// Why the last session ended that nobody here ended, until the next login.
    pub lost: Option<LostSession>,
    /// Where the audit log is written; `None` where that path is no plain text.
    pub audit_folder: Option<PathBuf>,
}

/// What `audit.verify` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditStatus {
    /// Records that were read.
    pub records: u64,
    /// Of these, records whose MAC was checked.
    pub keyed: u64,
    /// Whether a crash left half a line at the end.
    pub torn_tail: bool,
    /// The first thing wrong, if anything is.
    pub damage: Option<Damage>,
}

/// Where an audit log stops being what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub file: CleanText,
    /// At which line, from 1.
    pub line: u64,
    /// What is wrong.
    pub what: CleanText,
}

impl Client {
    /// Connects to the daemon, as [`connect`] does.
    ///
    /// # Errors
    /// `daemon_unreachable`, `runtime_folder_unsafe`.
    pub fn connect(socket: &Path) -> Result<Self, Refusal> {
        connect(socket).map(|stream| Self { stream })
    }

    /// How everything stands.
    ///
    /// # Errors
    /// What the daemon says; `internal` when it speaks another version of the protocol.
    pub fn status(&mut self) -> Result<ClientReply<Status>, Refusal> {
        let reply = self.exchange(Method::BrokerStatus, &Params::default(), QUICK)?;
        let (version, api) = wire::decode_greeting(reply.expose_json()).map_err(mismatch)?;
        if api != API_VERSION {
            return Err(Refusal::new(ErrorCode::Internal)
                .with_message(&format!(
                    "the daemon is version {version} with protocol {api}, this command is version {} with protocol {API_VERSION}",
                    env!("CARGO_PKG_VERSION")
                ))
                .with_fix(RESTART));
        }
        reply.understood(wire::decode_status)
    }

    /// Starts the device login or joins the one that runs.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn login_begin(
        &mut self,
        profile: Option<&ProfileName>,
    ) -> Result<ClientReply<LoginView>, Refusal> {
        self.exchange(Method::LoginBegin, &of_profile(profile), CALL)?
            .understood(wire::decode_login)
    }

    /// Waits for the login's end, as long as a login can take.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn login_wait(
        &mut self,
        profile: Option<&ProfileName>,
    ) -> Result<ClientReply<LoginView>, Refusal> {
        self.exchange(Method::LoginWait, &of_profile(profile), LOGIN)?
            .understood(wire::decode_login)
    }

    /// Ends the login that runs, for everybody.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn login_cancel(
        &mut self,
        profile: Option<&ProfileName>,
    ) -> Result<ClientReply<LoginView>, Refusal> {
        self.exchange(Method::LoginCancel, &of_profile(profile), QUICK)?
            .understood(wire::decode_login)
    }

    /// Ends the session.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn logout(&mut self, profile: Option<&ProfileName>) -> Result<ClientReply<Ended>, Refusal> {
        self.exchange(Method::Logout, &of_profile(profile), QUICK)?
            .understood(wire::decode_ended)
    }

    /// Ends the session, and nothing is served until the next login.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn lock(&mut self) -> Result<ClientReply<Ended>, Refusal> {
        self.exchange(Method::Lock, &Params::default(), QUICK)?
            .understood(wire::decode_ended)
    }

    /// The catalogue.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn targets(
        &mut self,
        profile: Option<&ProfileName>,
    ) -> Result<ClientReply<Vec<TargetView>>, Refusal> {
        self.exchange(Method::TargetList, &of_profile(profile), QUICK)?
            .understood(wire::decode_targets)
    }

    /// Credential material for a selector.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn credential(
        &mut self,
        selector: &Selector,
        min_valid_for: Option<Duration>,
        reason: Option<&str>,
        profile: Option<&ProfileName>,
    ) -> Result<ClientReply<Delivery>, Refusal> {
        let params = Params {
            selector: Some(selector.short().into()),
            min_valid_for_s: min_valid_for.map(|duration| duration.as_secs()),
            reason: reason.map(Into::into),
            ..of_profile(profile)
        };
        self.exchange(Method::CredentialGet, &params, CALL)?
            .understood(wire::decode_delivery)
    }

    /// Makes a lease that no process holds: it ends with its time, with logout, lock or revoke.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn lease_create(
        &mut self,
        selector: &Selector,
        ttl: Option<Duration>,
        max_redemptions: Option<u32>,
        reason: Option<&str>,
        profile: Option<&ProfileName>,
    ) -> Result<ClientReply<LeaseView>, Refusal> {
        let params = Params {
            max_redemptions,
            ..of_new_lease(selector, ttl, reason, profile)
        };
        self.exchange(Method::LeaseCreate, &params, CALL)?
            .understood(wire::decode_lease)
    }

    /// Redeems a lease once.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn lease_redeem(&mut self, lease_id: &LeaseId) -> Result<ClientReply<Delivery>, Refusal> {
        self.exchange(Method::LeaseRedeem, &of_lease(lease_id), CALL)?
            .understood(wire::decode_delivery)
    }

    /// A lease for a child process: its own, which dies with this process, or is given back before.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn lease_for_child(
        &mut self,
        selector: &Selector,
        ttl: Option<Duration>,
        reason: Option<&str>,
        profile: Option<&ProfileName>,
    ) -> Result<ClientReply<LeaseView>, Refusal> {
        let params = Params {
            holder: Some(HolderClass::Child.as_str().into()),
            ..of_new_lease(selector, ttl, reason, profile)
        };
        self.exchange(Method::LeaseCreate, &params, CALL)?
            .understood(wire::decode_lease)
    }

    /// Redeems a lease once for a child process (AP-4).
    ///
    /// # Errors
    /// What the daemon says.
    pub fn redeem_for_child(
        &mut self,
        lease_id: &LeaseId,
    ) -> Result<ClientReply<Delivery>, Refusal> {
        let params = Params {
            exposure: Some(Exposure::Exec.as_str().into()),
            ..of_lease(lease_id)
        };
        self.exchange(Method::LeaseRedeem, &params, CALL)?
            .understood(wire::decode_delivery)
    }

    /// Ends a child's lease after the child: says whether the issuer has confirmed it within ten
    /// seconds.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn lease_give_back(&mut self, lease_id: &LeaseId) -> Result<bool, Refusal> {
        let reply = self
            .exchange(Method::LeaseRevoke, &of_lease(lease_id), QUICK)?
            .understood(wire::decode_lease)?;
        Ok(reply.view.state != LeaseState::Revoking)
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn lease_revoke(&mut self, lease_id: &LeaseId) -> Result<ClientReply<LeaseView>, Refusal> {
        self.exchange(Method::LeaseRevoke, &of_lease(lease_id), CALL)?
            .understood(wire::decode_lease)
    }

    /// The leases of the daemon's run.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn leases(&mut self) -> Result<ClientReply<Vec<LeaseView>>, Refusal> {
        self.exchange(Method::LeaseList, &Params::default(), QUICK)?
            .understood(wire::decode_leases)
    }

    /// Compares the audit log with the issuer's record.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn audit_reconcile(&mut self) -> Result<ClientReply<Reconciled>, Refusal> {
        self.exchange(Method::AuditReconcile, &Params::default(), CALL)?
            .understood(wire::decode_reconciled)
    }

    /// Checks the audit log with the daemon's keys.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn audit_verify(&mut self) -> Result<ClientReply<AuditStatus>, Refusal> {
        self.exchange(Method::AuditVerify, &Params::default(), CALL)?
            .understood(wire::decode_audit)
    }

    /// One line out, one line in, within `limit`.
    fn exchange(
        &mut self,
        method: Method,
        params: &Params<'_>,
        limit: Duration,
    ) -> Result<ClientReply<()>, Refusal> {
        let deadline = SystemClock.now().boot.plus(limit);
        let request = wire::encode_request(method, params);
        // A daemon that turned us away has said why before it hung up.
        let sent = self.stream.write_all(&request);
        let line = match self.read_line(deadline) {
            Ok(line) => line,
            Err(error) => return Err(lost(&sent.err().unwrap_or(error))),
        };
        match wire::decode_reply(line.expose()).map_err(mismatch)? {
            Ok(result) => Ok(ClientReply {
                view: (),
                line,
                result,
            }),
            Err(refusal) => Err(refusal),
        }
    }

    fn read_line(&mut self, deadline: Timestamp) -> io::Result<SecretBuffer> {
        let mut line = SecretBuffer::with_capacity(REPLY_BUFFER);
        let mut capacity = REPLY_BUFFER;
        let mut chunk = Zeroizing::new([0; CHUNK]);
        loop {
            let left = SystemClock.now().boot.until(deadline);
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let length = match self.stream.read(&mut *chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            };
            let piece = chunk.get(..length).unwrap_or_default();
            while line.extend(piece).is_err() {
                if capacity >= MAX_REPLY {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                capacity = capacity.saturating_mul(4);
                let mut larger = SecretBuffer::with_capacity(capacity);
                if larger.extend(line.expose()).is_err() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                line = larger;
            }
            if piece.ends_with(b"\n") {
                return Ok(line);
            }
        }
    }
}

impl ClientReply<()> {
    fn understood<T>(
        self,
        decode: impl FnOnce(&[u8]) -> Result<T, Misunderstood>,
    ) -> Result<ClientReply<T>, Refusal> {
        let view = decode(self.expose_json()).map_err(mismatch)?;
        Ok(ClientReply {
            view,
            line: self.line,
            result: self.result,
        })
    }
}

/// The `error` object that `--json` prints for a refusal, with a line feed.
pub fn refusal_json(refusal: &Refusal) -> Vec<u8> {
    wire::encode_refusal(refusal)
}

const RESTART: &str = "restart the daemon: stop it and run `aegis-broker daemon`, or `systemctl --user restart aegis-broker`";

fn of_profile(profile: Option<&ProfileName>) -> Params<'_> {
    Params {
        profile: profile.map(|profile| profile.as_str().into()),
        ..Params::default()
    }
}

fn of_new_lease<'a>(
    selector: &'a Selector,
    ttl: Option<Duration>,
    reason: Option<&'a str>,
    profile: Option<&'a ProfileName>,
) -> Params<'a> {
    Params {
        selector: Some(selector.short().into()),
        ttl_s: ttl.map(|duration| duration.as_secs()),
        reason: reason.map(Into::into),
        ..of_profile(profile)
    }
}

fn of_lease(lease_id: &LeaseId) -> Params<'_> {
    Params {
        lease_id: Some(lease_id.as_str().into()),
        ..Params::default()
    }
}

fn unreachable(error: &io::Error) -> Refusal {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    let kind = error.kind();
    let refusal = Refusal::new(ErrorCode::DaemonUnreachable);
    if matches!(kind, NotFound | ConnectionRefused) {
        refusal
    } else if kind == WouldBlock {
        refusal
            .with_message("the daemon is too busy to answer")
            .with_fix("try again in a moment")
    } else {
        refusal.with_message(&format!("no daemon can be reached: {error}"))
    }
}

fn lost(error: &io::Error) -> Refusal {
    let message = if error.kind() == io::ErrorKind::TimedOut {
        "the daemon did not answer in time"
    } else if error.kind() == io::ErrorKind::InvalidData {
        "the daemon's answer is too long"
    } else {
        "the daemon hung up without an answer"
    };
    Refusal::new(ErrorCode::DaemonUnreachable)
        .with_message(message)
        .with_fix("see the daemon's log; after an upgrade, restart it")
}

fn mismatch(error: Misunderstood) -> Refusal {
    Refusal::new(ErrorCode::Internal)
        .with_message(&error.to_string())
        .with_fix(RESTART)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread::JoinHandle;

    use super::*;

    /// A folder with a daemon in it that answers each connection's first line with the next
    /// script.
    struct Fake {
        root: tempfile::TempDir,
        thread: JoinHandle<Vec<String>>,
    }

    impl Fake {
        fn start(scripts: Vec<Vec<u8>>) -> Self {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("f");
            RuntimeFolder::prepare(&folder).unwrap();
            let listener = UnixListener::bind(folder.join(SOCKET)).unwrap();
            let thread = std::thread::spawn(move || {
                let mut requests = Vec::new();
                for script in scripts {
                    let (stream, _) = listener.accept().unwrap();
                    let mut line = String::new();
                    BufReader::new(&stream).read_line(&mut line).unwrap();
                    requests.push(line);
                    (&stream).write_all(&script).unwrap();
                }
                requests
            });
            Self { root, thread }
        }

        fn folder(&self) -> PathBuf {
            self.root.path().join("f")
        }

        fn client(&self) -> Client {
            Client::connect(&self.folder().join(SOCKET)).unwrap()
        }

        fn requests(self) -> Vec<String> {
            self.thread.join().unwrap()
        }
    }

    fn refused(socket: &Path) -> ErrorCode {
        Client::connect(socket).unwrap_err().code
    }

    /// PE-1, PE-2: a client does not even connect below a folder that is not private.
    #[test]
    fn a_folder_that_is_not_private_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("f");
        RuntimeFolder::prepare(&folder).unwrap();
        let socket = folder.join(SOCKET);
        let _listener = UnixListener::bind(&socket).unwrap();
        drop(Client::connect(&socket).unwrap());
        let link = root.path().join("link");
        symlink(&folder, &link).unwrap();
        assert_eq!(refused(&link.join(SOCKET)), ErrorCode::RuntimeFolderUnsafe);
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(refused(&socket), ErrorCode::RuntimeFolderUnsafe);
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&folder, Some(12_345), None).unwrap();
            assert_eq!(refused(&socket), ErrorCode::RuntimeFolderUnsafe);
        }
    }

    /// LM: where all places for who waits to be accepted are taken, a client waits for one, and not
    /// for ever.
    #[test]
    fn a_place_to_wait_in_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("f");
        RuntimeFolder::prepare(&folder).unwrap();
        let socket = folder.join(SOCKET);
        let address = SocketAddrUnix::new(&socket).unwrap();
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let listener = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = Client::connect(&socket).unwrap();
        let refusal = Client::connect(&socket).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::DaemonUnreachable);
        assert!(refusal.message().contains("busy"), "{refusal}");
        let waits = std::thread::spawn(move || Client::connect(&socket).map(|_| ()));
        drop(rustix::net::accept(&listener).unwrap());
        waits.join().unwrap().unwrap();
    }

    #[test]
    fn no_daemon_is_said_so() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("f");
        let socket = folder.join(SOCKET);
        assert_eq!(refused(&socket), ErrorCode::DaemonUnreachable);
        RuntimeFolder::prepare(&folder).unwrap();
        assert_eq!(refused(&socket), ErrorCode::DaemonUnreachable);
        drop(UnixListener::bind(&socket).unwrap());
        assert_eq!(refused(&socket), ErrorCode::DaemonUnreachable, "stale");
        let long = root.path().join("x".repeat(108));
        assert_eq!(refused(&long), ErrorCode::RuntimeFolderUnsafe);
    }

    #[test]
    fn an_answer_is_read_whole_however_long() {
        let secret = "s3".repeat(40_000);
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"lease":{{"lease_id":"lse_1","selector":"gcp/a/b","state":"exhausted","holder":"none","expires_at":"2026-11-22T10:00:00.000Z","max_redemptions":1,"redemptions_used":1,"revocable":true}},"kind":"gcp_access_token","fields":{{"access_token":"{secret}"}},"secret_fields":["access_token"],"expires_at":"2026-11-22T10:00:00.000Z","later":[1]}}}}"#
        );
        let fake = Fake::start(vec![format!("{line}\n").into_bytes()]);
        let selector = Selector::parse("gcp/a/b").unwrap();
        let minutes = Some(Duration::from_mins(5));
        let reply = fake
            .client()
            .credential(&selector, minutes, Some("why"), None)
            .unwrap();
        let field = reply.view.material.field("access_token").unwrap();
        match &field.value {
            crate::model::FieldValue::Secret(value) => assert_eq!(value.expose(), secret),
            crate::model::FieldValue::Public(_) => panic!("it is a secret"),
        }
        assert!(reply.expose_json().starts_with(b"{\"lease\""));
        assert!(reply.expose_json().ends_with(b"[1]}"));
        assert_eq!(
            fake.requests(),
            [
                "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"credential.get\",\"params\":{\"selector\":\"gcp/a/b\",\"min_valid_for_s\":300,\"reason\":\"why\"}}\n"
            ]
        );
    }

    #[test]
    fn refusals_and_strange_answers_are_told_apart() {
        let refusal = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"not logged in","data":{"code":"login_required","retryable":false,"do_not_retry":false,"fix":"run `aegis-broker login`","retry_after_s":3,"request_id":"req-1","login":{"user_code":"ABCD-EFGH","verification_uri":"https://x.example/d","expires_at":"2026-11-22T10:00:00.000Z","client_display_name":"Aegis Broker on host-01","scopes":[]}}}}"#;
        let early = br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"too many requests","data":{"code":"rate_limited"}}}"#;
        let rows: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
            ("refusal", refusal.to_vec(), ErrorCode::LoginRequired),
            ("turned away", early.to_vec(), ErrorCode::RateLimited),
            ("nothing", Vec::new(), ErrorCode::DaemonUnreachable),
            ("no JSON", b"hello\n".to_vec(), ErrorCode::Internal),
            (
                "another id",
                br#"{"jsonrpc":"2.0","id":2,"result":{}}"#.to_vec(),
                ErrorCode::Internal,
            ),
            (
                "another shape",
                br#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_vec(),
                ErrorCode::Internal,
            ),
            (
                "a later code",
                br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"m","data":{"code":"brand_new"}}}"#.to_vec(),
                ErrorCode::Internal,
            ),
        ];
        for (name, mut script, code) in rows {
            if !script.is_empty() {
                script.push(b'\n');
            }
            let fake = Fake::start(vec![script]);
            let refusal = fake.client().leases().unwrap_err();
            assert_eq!(refusal.code, code, "{name}");
            if name == "refusal" {
                assert_eq!(refusal.message, None, "the code's own");
                assert_eq!(refusal.retry_after, Some(Duration::from_secs(3)));
                assert_eq!(refusal.login.unwrap().user_code.as_str(), "ABCD-EFGH");
            }
            fake.requests();
        }
    }

    /// A daemon of another version is named, with what to do.
    #[test]
    fn another_protocol_is_named() {
        let status = br#"{"jsonrpc":"2.0","id":1,"result":{"product":"aegis-broker","version":"9.1.0","api":9}}
"#;
        let fake = Fake::start(vec![status.to_vec()]);
        let refusal = fake.client().status().unwrap_err();
        assert!(refusal.message().contains("9.1.0"), "{refusal}");
        assert!(refusal.fix().contains("restart"), "{}", refusal.fix());
        fake.requests();
    }
}
