//! A world: the bundled server, a folder for the audit log, and daemons over it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use aegis_broker::aegis::{AegisClient, AegisSettings, Network};
use aegis_broker::audit::verify::{Entry, read, verify};
use aegis_broker::audit::{FileAuditLog, Keys, Opened};
use aegis_broker::broker::actor::{Actor, Parts};
use aegis_broker::broker::handle::{
    Connection, CredentialRequest, Delivery, Handle, LeaseRequest, ModelConnection,
};
use aegis_broker::broker::policy::Policy;
use aegis_broker::broker::ports::{
    AuditError, AuditLog, AuditRecord, AuditReport, OwnCalls, PeerProcess, PortFuture,
};
use aegis_broker::broker::state::{Resumed, Settings, State};
use aegis_broker::http::{Resolve, Sender, SystemResolver};
use aegis_broker::keystore::MemoryKeyStore;
use aegis_broker::model::{
    Action, CleanText, Effect, ErrorCode, Exposure, Field, FieldValue, Gate, HolderClass,
    Injection, LeaseView, LoginPhase, LoginView, OnLeak, Origin, PeerFacts, ProcessId, ProfileName,
    Refusal, Rule, Selector, SelectorPattern, Target, TenantId,
};
use aegis_broker::time::{Clock, Now, SystemClock, Timestamp, UnixTime};
use aegis_mock::{Mock, RequestRecord};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::evidence::canaries::{Canaries, in_every_form, plain};

/// What a proof is called.
const PROOF: &str = "proof";

pub(crate) const BEGIN: &str = "BeginMcpOauthDeviceAuthorization";
pub(crate) const EXCHANGE: &str = "ExchangeMcpOauthDeviceAuthorization";
pub(crate) const CREATE: &str = "CreateCredentialLease";
pub(crate) const REDEEM: &str = "RedeemCredentialLease";
pub(crate) const REVOKE: &str = "RevokeCredentialLease";

/// Yields one token.
pub(crate) const DEPLOY: &str = "gcp/billing-prod/deploy-bot";
/// Yields a name and a password.
pub(crate) const READER: &str = "generic/demo-db/reader";

pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// Longer than any code of a device login lives.
pub(crate) const LONGER_THAN_A_CODE: Duration = Duration::from_mins(20);

/// Reads tokio's clock, which is paused, so that one movement moves timers and expiry.
#[derive(Debug)]
struct TestClock {
    started: tokio::time::Instant,
    base: UnixTime,
    looks: Arc<AtomicUsize>,
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let passed = self.started.elapsed();
        Now {
            boot: Timestamp::from_millis(1_000_000).plus(passed),
            unix: self.base.plus(passed),
        }
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) mock: Mock,
    pub(crate) base_url: Url,
    http: reqwest::Client,
    home: TempDir,
    clock: Arc<dyn Clock>,
    looks: Arc<AtomicUsize>,
    targets: Vec<&'static str>,
    /// Those of the catalogue that are decoys.
    pub(crate) decoys: Vec<&'static str>,
    pub(crate) gate: Gate,
    /// Where the broker itself may use a target's credential.
    pub(crate) injections: Vec<(&'static str, Arc<Injection>)>,
    /// What names lead to.
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) on_leak: OnLeak,
    logged_before: usize,
}

impl World {
    /// With the demo policy, and as many calls as anybody likes.
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// With these settings in the server's policy beside.
    pub(crate) async fn with(settings: &str) -> Self {
        let logged_before = log().len();
        let options = aegis_mock::Options {
            policy_toml: Some(server_policy(settings)),
            ..aegis_mock::Options::default()
        };
        let mock = aegis_mock::spawn(options).await.unwrap();
        let clock = TestClock {
            started: tokio::time::Instant::now(),
            base: SystemClock.now().unix,
            looks: Arc::default(),
        };
        Self {
            base_url: mock.api().clone(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            home: TempDir::new().unwrap(),
            looks: Arc::clone(&clock.looks),
            targets: vec![DEPLOY, READER],
            decoys: Vec::new(),
            gate: Gate::default(),
            injections: Vec::new(),
            resolver: Arc::new(SystemResolver),
            on_leak: OnLeak::Record,
            clock: Arc::new(clock),
            logged_before,
            mock,
        }
    }

    fn injection(&self, target: &str) -> Option<Arc<Injection>> {
        let mut bound = self.injections.iter();
        let (_, injection) = bound.find(|(name, _)| *name == target)?;
        Some(Arc::clone(injection))
    }

    /// With other targets in the catalogue.
    pub(crate) async fn with_targets(targets: &[&'static str]) -> Self {
        Self {
            targets: targets.to_vec(),
            ..Self::new().await
        }
    }

    pub(crate) fn audit_folder(&self) -> PathBuf {
        self.home.path().join("audit")
    }

    /// Starts a daemon over the audit folder.
    pub(crate) fn daemon(&self) -> Daemon {
        let (log, resumed) = self.open_log();
        let sink = Sink::new(log);
        let (handle, shutdown, core) = self.core(Box::new(sink.clone()), resumed);
        Daemon {
            handle,
            sink,
            shutdown,
            core,
        }
    }

    /// A daemon as it is shipped, with nothing between its core and its audit log.
    pub(crate) fn plain_daemon(&self) -> Handle {
        let (log, resumed) = self.open_log();
        let (handle, _, _) = self.core(Box::new(log), resumed);
        handle
    }

    fn open_log(&self) -> (FileAuditLog, Resumed) {
        let Opened {
            log,
            open_leases,
            mut last_principals,
            torn_tail: _,
        } = FileAuditLog::open(
            &self.audit_folder(),
            &MemoryKeyStore::new(),
            self.clock.now(),
        )
        .unwrap();
        let resumed = Resumed {
            principal: last_principals.remove(&settings(self).profile),
            open_leases,
        };
        (log, resumed)
    }

    fn core(
        &self,
        audit: Box<dyn AuditLog>,
        resumed: Resumed,
    ) -> (Handle, CancellationToken, JoinHandle<()>) {
        let clock = Arc::clone(&self.clock);
        let aegis = AegisClient::new(
            AegisSettings {
                base_url: self.base_url.clone(),
                allow_insecure_loopback: true,
                allow_missing_token_info: false,
                network: Network::default(),
                renewing: None,
            },
            Arc::clone(&clock),
        )
        .unwrap();
        let shutdown = CancellationToken::new();
        let (actor, handle) = Actor::new(
            Parts {
                state: State::new(
                    settings(self),
                    policy_with(self.on_leak),
                    resumed,
                    clock.now(),
                ),
                aegis: Arc::new(aegis),
                http: Arc::new(Sender::new(Arc::clone(&self.resolver))),
                audit,
                clock,
                shutdown: shutdown.clone(),
            },
            256,
        );
        (handle, shutdown, tokio::spawn(actor.run()))
    }

    /// Logs in on this connection and approves as the demo person.
    pub(crate) async fn log_in(&self, connection: &Connection) {
        let code = user_code(&connection.login_begin(None).await.unwrap());
        self.mock.approve(&code).unwrap();
        let view = connection.login_wait(None).await.unwrap();
        assert!(is_logged_in(&view), "{view:?}");
    }

    /// The same, whatever login there is or is under way.
    pub(crate) async fn log_in_again(&self, connection: &Connection) {
        let view = connection.login_begin(None).await.unwrap();
        if !is_logged_in(&view) {
            self.mock.approve(&user_code(&view)).unwrap();
            connection.login_wait(None).await.unwrap();
        }
    }

    /// A daemon with one connection that is logged in.
    pub(crate) async fn logged_in(&self) -> (Daemon, Connection) {
        let daemon = self.daemon();
        let connection = daemon.connect();
        self.log_in(&connection).await;
        (daemon, connection)
    }

    /// How the provider answers whoever shows this secret.
    pub(crate) async fn whoami(&self, provider: &str, secret: &str) -> u16 {
        let url = self
            .mock
            .api()
            .join(&format!("fake/{provider}/whoami"))
            .unwrap();
        let response = self.http.get(url).bearer_auth(secret).send().await.unwrap();
        response.status().as_u16()
    }

    /// The tries of one RPC that the server saw.
    pub(crate) fn tries(&self, method: &str) -> Vec<RequestRecord> {
        let mut tries = self.mock.requests();
        tries.retain(|request| request.method == method);
        tries
    }

    /// Waits for the request of that number, counted from 1 over all methods.
    pub(crate) async fn wait_for_request_number(&self, number: u64) {
        self.mock
            .wait_for_request(|request| request.seq >= number)
            .await;
    }

    /// Waits until the server has revoked one of its leases.
    pub(crate) async fn wait_for_a_revocation(&self) {
        self.mock
            .wait_for_request(|request| request.method == REVOKE && request.result == "ok")
            .await;
    }

    /// How often anybody has looked at the clock: whenever the core wakes up it does.
    pub(crate) fn looks_at_the_clock(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Lets time pass while nobody does anything: the server must see no request.
    pub(crate) async fn nothing_is_sent_for(&self, how_long: Duration) {
        let last = self.mock.requests().last().map_or(0, |last| last.seq);
        let more = self.mock.wait_for_request(|request| request.seq > last);
        let more = tokio::time::timeout(how_long, more).await;
        assert!(
            more.is_err(),
            "a request came: {:?}",
            more.map(|r| r.method)
        );
    }

    /// Lets time pass with everybody at work.
    pub(crate) async fn after(&self, how_long: Duration) {
        let never = std::future::pending::<()>();
        assert!(tokio::time::timeout(how_long, never).await.is_err());
    }

    /// The audit records, oldest first.
    pub(crate) fn records(&self) -> Vec<AuditRecord> {
        let entries = read(&self.audit_folder(), usize::MAX).unwrap();
        entries
            .into_iter()
            .map(|Entry { record, .. }| record)
            .collect()
    }

    /// The log as anybody can check it.
    pub(crate) fn verify(&self) -> AuditReport {
        verify(&self.audit_folder(), &Keys::none()).unwrap()
    }

    /// Every byte of the audit folder.
    pub(crate) fn audit_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in fs::read_dir(self.audit_folder()).unwrap() {
            let path = entry.unwrap().path();
            bytes.extend_from_slice(path.to_string_lossy().as_bytes());
            match fs::read(&path) {
                Ok(content) => bytes.extend(content),
                // A daemon that runs gives its new anchor the old one's name at each sync.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    assert!(path.ends_with("anchor.new"), "{} is gone", path.display());
                }
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        bytes
    }

    /// Everything that may not be seen anywhere, with what it is called: what the server handed
    /// out, and the signatures of the proofs it was sent.
    pub(crate) fn canaries(&self) -> Vec<(String, String)> {
        let secrets = self.mock.secrets();
        let secrets = secrets
            .into_iter()
            .map(|secret| (secret.kind, secret.value));
        let proofs = self.mock.requests();
        let signatures = proofs.into_iter().filter_map(|request| {
            let proof = request.proof?;
            let (_, signature) = proof.rsplit_once('.')?;
            Some((PROOF.to_owned(), signature.to_owned()))
        });
        secrets.chain(signatures).collect()
    }

    /// HY-4, DG-9: none of the server's secrets is in the audit folder, in what was logged at
    /// TRACE by anybody since this world began, or in `texts`, in any form or piece.
    pub(crate) fn assert_nothing_secret_in(&self, texts: &str) {
        let canaries = self.canaries();
        let forms = canaries.iter().flat_map(|(kind, secret)| {
            // A proof is in base64 already.
            if kind == PROOF {
                vec![plain(kind, secret)]
            } else {
                in_every_form(kind, secret)
            }
        });
        let search = Canaries::new(forms.collect());
        // The control: the same search finds each of them where they are.
        let all: String = canaries.iter().map(|(_, secret)| secret.as_str()).collect();
        let seen = search.seen_in(all.as_bytes());
        let seen: usize = seen.values().map(|sighting| sighting.whole).sum();
        assert_eq!(seen, canaries.len(), "the search is blind");
        let logged = log()[self.logged_before..].to_vec();
        assert!(
            String::from_utf8_lossy(&logged).contains("aegis_broker::aegis::transport"),
            "nothing was logged"
        );
        let rows = [
            ("audit", self.audit_bytes()),
            ("log", logged),
            ("answers", texts.as_bytes().to_vec()),
        ];
        for (place, bytes) in rows {
            let seen = search.seen_in(&bytes);
            assert!(seen.is_empty(), "{place} holds {seen:?}");
        }
    }
}

/// The demo policy with other settings; nobody is throttled.
fn server_policy(settings: &str) -> String {
    let demo = include_str!("../../config/aegis-mock.toml");
    let (_, rest) = demo.split_at(demo.find("[[tenant]]").unwrap());
    format!("{settings}\n[throttle]\nenabled = false\n{rest}")
}

fn settings(world: &World) -> Settings {
    Settings {
        profile: ProfileName::parse("work").unwrap(),
        tenant: TenantId::parse("business-default").unwrap(),
        client_display_name: CleanText::new("Component tests", 64),
        token_ttl: Duration::from_mins(10),
        renews: false,
        targets: world
            .targets
            .iter()
            .map(|target| Target {
                selector: selector(target),
                description: None,
                actions: Action::ALL.to_vec(),
                ttl: Duration::from_mins(5),
                decoy: world.decoys.contains(target),
                inject: world.injection(target),
            })
            .collect(),
        gate: world.gate,
        key_store: "memory",
        audit_folder: PathBuf::from("/state/audit"),
    }
}

pub(crate) fn policy() -> Policy {
    policy_with(OnLeak::Record)
}

fn policy_with(on_leak: OnLeak) -> Policy {
    Policy::new(vec![Rule {
        id: CleanText::new("all", 16),
        effect: Effect::Allow,
        selectors: vec![SelectorPattern::parse("*/*/*").unwrap()],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: None,
        on_leak,
    }])
}

pub(crate) fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

/// A core that runs.
pub(crate) struct Daemon {
    pub(crate) handle: Handle,
    pub(crate) sink: Sink,
    shutdown: CancellationToken,
    core: JoinHandle<()>,
}

impl Daemon {
    /// A connection of a new process, which lives for ever.
    pub(crate) fn connect(&self) -> Connection {
        self.connect_as(&Peer::new())
    }

    pub(crate) fn connect_as(&self, peer: &Peer) -> Connection {
        connect(&self.handle, peer)
    }

    /// The way to the core of a new model's process.
    pub(crate) fn connect_model(&self) -> ModelConnection {
        let peer = Peer::new();
        let process = Arc::new(peer.process.clone());
        self.handle.connect_model(peer.facts, process).unwrap()
    }

    /// As SIGTERM would, to the end.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.core.await.unwrap();
    }

    /// Until the core ends by itself, once no door is left.
    pub(crate) async fn end_without_doors(self) {
        drop(self.handle);
        self.core.await.unwrap();
    }

    /// As SIGKILL would: nothing is revoked, nothing is recorded.
    pub(crate) async fn crash(self) {
        self.core.abort();
        assert!(self.core.await.unwrap_err().is_cancelled());
        drop(self.handle);
        // The lock of the folder goes with the last copy.
        drop(self.sink);
    }
}

/// A local process.
pub(crate) struct Peer {
    pub(crate) facts: PeerFacts,
    pub(crate) process: Process,
    exited: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
pub(crate) struct Process {
    exited: watch::Receiver<bool>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        static NEXT_PID: AtomicI32 = AtomicI32::new(1000);
        let (exited, watched) = watch::channel(false);
        Self {
            facts: PeerFacts {
                process: ProcessId {
                    pid: NEXT_PID.fetch_add(1, Ordering::Relaxed),
                    started: 1,
                },
                exe: Some(CleanText::new("/usr/bin/peer", 64)),
                ancestors: Vec::new(),
                origin: Origin::default(),
            },
            process: Process { exited: watched },
            exited,
        }
    }

    pub(crate) fn exit(&self) {
        self.exited.send_replace(true);
    }
}

impl PeerProcess for Process {
    fn is_alive(&self) -> bool {
        !*self.exited.borrow()
    }

    fn exited(&self) -> PortFuture<()> {
        let mut exited = self.exited.clone();
        Box::pin(async move {
            if exited.wait_for(|exited| *exited).await.is_err() {
                // Its test is over and never let it exit.
                std::future::pending::<()>().await;
            }
        })
    }
}

pub(crate) fn connect(handle: &Handle, peer: &Peer) -> Connection {
    let process = Arc::new(peer.process.clone());
    handle.connect(peer.facts.clone(), process).unwrap()
}

/// The real audit log, with a disk that can be full and an end that can be closed.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    // Held for one batch or flush.
    log: Arc<Mutex<FileAuditLog>>,
    batch: Vec<(AuditRecord, Now)>,
    closed: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
    writes: Arc<AtomicUsize>,
}

impl Sink {
    fn new(log: FileAuditLog) -> Self {
        Self {
            log: Arc::new(Mutex::new(log)),
            batch: Vec::new(),
            closed: Arc::default(),
            full: Arc::default(),
            writes: Arc::default(),
        }
    }

    /// Takes no record at all from now on, or takes them again.
    pub(crate) fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    /// Takes records and cannot write them, or can again.
    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// How many batches were written.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    pub(crate) fn flush(&self) -> Result<(), AuditError> {
        self.log().flush()
    }

    fn log(&self) -> MutexGuard<'_, FileAuditLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuditLog for Sink {
    fn stage(&mut self, record: &AuditRecord, now: Now) -> Result<(), AuditError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(AuditError);
        }
        self.batch.push((record.clone(), now));
        Ok(())
    }

    fn write(&mut self) -> Result<(), AuditError> {
        let batch = std::mem::take(&mut self.batch);
        if self.full.load(Ordering::SeqCst) || self.closed.load(Ordering::SeqCst) {
            return Err(AuditError);
        }
        if batch.is_empty() {
            return self.log().write();
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        let mut log = self.log();
        for (record, now) in &batch {
            log.stage(record, *now)?;
        }
        log.write()
    }

    fn verify(&self) -> PortFuture<Result<AuditReport, AuditError>> {
        self.log().verify()
    }

    fn calls(&self) -> PortFuture<Result<OwnCalls, AuditError>> {
        self.log().calls()
    }
}

/// What a login shows the person.
pub(crate) fn user_code(view: &LoginView) -> String {
    let LoginPhase::AwaitingApproval(device) = &view.phase else {
        panic!("no code to show: {:?}", view.phase);
    };
    device.user_code.as_str().to_owned()
}

pub(crate) fn is_logged_in(view: &LoginView) -> bool {
    matches!(view.phase, LoginPhase::LoggedIn { .. })
}

/// `credential.get` as a one-shot command asks.
pub(crate) async fn get(connection: &Connection, target: &str) -> Result<Delivery, Refusal> {
    get_held(connection, target, HolderClass::None).await
}

pub(crate) async fn get_held(
    connection: &Connection,
    target: &str,
    holder: HolderClass,
) -> Result<Delivery, Refusal> {
    let request = CredentialRequest {
        selector: selector(target),
        min_valid_for: Duration::ZERO,
        reason: None,
        holder,
    };
    connection.credential(None, request).await
}

/// `lease.create` for so many redemptions.
pub(crate) async fn create(
    connection: &Connection,
    target: &str,
    max_redemptions: u32,
    holder: HolderClass,
) -> Result<LeaseView, Refusal> {
    let request = LeaseRequest {
        selector: selector(target),
        ttl: None,
        max_redemptions,
        reason: None,
        holder,
    };
    connection.lease_create(None, request).await
}

/// The secret that a provider asks for.
pub(crate) fn secret(delivery: &Delivery) -> String {
    let material = &delivery.material;
    let field = material
        .field("access_token")
        .or_else(|| material.field("password"));
    match field {
        Some(Field {
            value: FieldValue::Secret(secret),
            ..
        }) => secret.expose().to_owned(),
        other => panic!("no secret: {other:?}"),
    }
}

/// The code of a no.
pub(crate) fn code<T>(answer: Result<T, Refusal>) -> Option<ErrorCode> {
    answer.err().map(|refusal| refusal.code)
}

/// A claim of the proof that a try carried.
pub(crate) fn claim(request: &RequestRecord, name: &str) -> Option<String> {
    let payload = request.proof.as_ref()?.split('.').nth(1)?;
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    payload.get(name)?.as_str().map(str::to_owned)
}

/// Everything that anybody logged, at TRACE, dependencies and server included.
fn log() -> MutexGuard<'static, Vec<u8>> {
    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static ONCE: Once = Once::new();

    struct Writer;

    impl std::io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
            log.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(|| Writer)
            .init();
    });
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}
