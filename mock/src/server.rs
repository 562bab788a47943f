//! Sockets and the handle that tests hold.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use url::Url;

use crate::anomaly::AlertRecord;
use crate::audit::AuditRecord;
use crate::broker::leases::LeaseRecord;
use crate::check::{Check, Checks};
use crate::control::{self, ControlError, Revocable};
use crate::encoding::random_secret;
use crate::fault::FaultKind;
use crate::identity::DEMO_UID;
use crate::journal::RequestRecord;
use crate::page::{self, PageCheck};
use crate::policy::{Policy, PolicyError};
use crate::revocations::{StateFile, StateFileError};
use crate::spiffe_ca::fingerprint;
use crate::state::{SecretRecord, Shared};
use crate::tls::Tls;
use crate::web::{self, CloseConnection, Peer};
use crate::wire;

/// All headers of a request together; more is answered with 431.
const MAX_HEADERS: usize = 64 * 1024;

/// Without descriptors nothing can be accepted until some are free, which nobody tells.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);

/// What is under way when the server stops has this long to be answered: the slowest answer is
/// computed at once, and a peer that sends half a request never ends.
const DRAIN: Duration = Duration::from_secs(2);

/// A handshake takes a round trip or two; a peer that says nothing has this long.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API listens; port 0 for any free one.
    pub listen: SocketAddr,
    /// Where the control API listens, if it shall.
    pub control: Option<SocketAddr>,
    /// Where the API listens over TLS, with optional client certificates, if it shall.
    pub tls: Option<SocketAddr>,
    /// The text of a policy file; the built-in demo policy if there is none.
    pub policy_toml: Option<String>,
    /// A check that is not made, so that a test can show that it would be missed. Nothing but a
    /// program that embeds the server can ask for this.
    pub leave_out: Option<Check>,
    /// A file in which revocations outlive the server; its folder is made where it is missing. With
    /// none, they end with everything else.
    pub state: Option<PathBuf>,
    /// For the tests of the tests: a check that the approval page leaves out. No file, no argument
    /// and no control command can ask for it.
    pub page_without: Option<PageCheck>,
    /// `ALLOW_INSECURE_USER_HEADER`: `X-Aegis-Insecure-User` names a person in place of an ID token.
    /// Without `dev_insecure` it is refused all the same.
    pub allow_insecure_user_header: bool,
    /// That this is somebody's own machine, and that they know what that header means.
    pub dev_insecure: bool,
}

impl Default for Options {
    /// Any free loopback port, no TLS, no control API, the demo policy, no state file, every check.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            control: None,
            tls: None,
            policy_toml: None,
            leave_out: None,
            state: None,
            page_without: None,
            allow_insecure_user_header: false,
            dev_insecure: false,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// This server vouches for nobody: it stays on the machine.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StateFileError),
    /// It has no thread to run on.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// There is no TLS to be had.
    #[error("cannot offer TLS: {0}")]
    Tls(String),
    /// The address makes no URL.
    #[error("address makes no URL")]
    Url(#[from] url::ParseError),
}

/// Starts a server on the current runtime.
///
/// # Errors
/// Where the policy or the state file cannot be used or an address not be listened on. Nothing
/// listens then.
pub async fn spawn(options: Options) -> Result<Mock, SpawnError> {
    let policy = Policy::parse(options.policy_toml.as_deref())?;
    let (state_file, revoked) = match &options.state {
        Some(path) => {
            let (file, revoked) = StateFile::open(path)?;
            (Some(file), revoked)
        }
        None => (None, Vec::new()),
    };
    let (listener, address) = listen(options.listen).await?;
    let control = match options.control {
        Some(address) => Some(listen(address).await?),
        None => None,
    };

    let secure = match options.tls {
        Some(address) => Some(listen(address).await?),
        None => None,
    };

    let mut shared = Shared::new(url_of("http", address)?, policy, state_file);
    shared.page_without = options.page_without;
    shared.allow_insecure_user = options.allow_insecure_user_header && options.dev_insecure;
    shared.state().leases.restore(revoked);
    let shared = Arc::new(shared);
    let stop = watch::Sender::new(false);
    let checks = Checks::without(options.leave_out);
    let app = web::router(Arc::clone(&shared), checks, stop.subscribe());
    let plain = Door { address, tls: None };
    let served = serve(listener, plain, app.clone(), stop.subscribe());
    let mut tasks = vec![tokio::spawn(served)];

    let (mut tls_url, mut tls_ca) = (None, String::new());
    if let Some((listener, address)) = secure {
        let tls = Tls::new(&shared).map_err(|error| SpawnError::Tls(error.to_string()))?;
        tls_ca = tls.ca;
        let door = Door {
            address,
            tls: Some(tls.acceptor),
        };
        let served = serve(listener, door, app, stop.subscribe());
        tasks.push(tokio::spawn(served));
        tls_url = Some(url_of("https", address)?);
    }
    let tls_ca: Arc<str> = tls_ca.into();

    let control_token: Arc<str> = random_secret("ctl_").into();
    let mut control_url = None;
    if let Some((listener, address)) = control {
        let token = Arc::clone(&control_token);
        let ca = Arc::clone(&tls_ca);
        let app = control::router(Arc::clone(&shared), token, address.port(), ca);
        let door = Door { address, tls: None };
        tasks.push(tokio::spawn(serve(listener, door, app, stop.subscribe())));
        control_url = Some(url_of("http", address)?);
    }
    Ok(Mock {
        shared,
        tls_url,
        tls_ca,
        control_url,
        control_token,
        stop,
        tasks,
    })
}

/// What a listener is.
#[derive(Clone)]
struct Door {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SpawnError> {
    if !address.ip().is_loopback() {
        return Err(SpawnError::NotLoopback(address));
    }
    let failed = |source| SpawnError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn url_of(scheme: &str, address: SocketAddr) -> Result<Url, url::ParseError> {
    Url::parse(&format!("{scheme}://{address}/"))
}

/// Accepts until told to stop, then lets the answers under way finish, for [`DRAIN`] at most.
async fn serve(listener: TcpListener, door: Door, app: Router, mut stop: watch::Receiver<bool>) {
    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            (stream, peer) = accept(&listener) => {
                let connection = welcome(stream, peer, door.clone(), app.clone(), connections.watcher());
                tokio::spawn(connection);
            }
            // An error means that the handle was dropped: that stops us, too.
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    if timeout(DRAIN, connections.shutdown()).await.is_err() {
        tracing::debug!("connections were left that did not end");
    }
}

/// The next connection, however often it takes.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => tracing::warn!(%error, "cannot accept a connection"),
        }
        sleep(EXHAUSTED_PAUSE).await;
    }
}

/// Serves one connection to its end, behind its handshake where there is one.
async fn welcome(
    stream: TcpStream,
    address: SocketAddr,
    door: Door,
    app: Router,
    watcher: Watcher,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn off Nagle's algorithm");
    }
    let peer = Peer {
        address,
        port: door.address.port(),
        secure: door.tls.is_some(),
        certificate: None,
    };
    let Some(acceptor) = door.tls else {
        return converse(stream, peer, app, watcher).await;
    };
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return;
        }
        Err(_elapsed) => {
            tracing::debug!("handshake took too long");
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.map(|certificate| fingerprint(certificate).into());
    converse(
        stream,
        Peer {
            certificate,
            ..peer
        },
        app,
        watcher,
    )
    .await;
}

async fn converse<S>(stream: S, peer: Peer, app: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let app = app.clone();
        let peer = peer.clone();
        async move {
            request.extensions_mut().insert(peer);
            let answer: Result<_, Infallible> = app.oneshot(request.map(Body::new)).await;
            let response = match answer {
                Ok(response) => response,
                Err(never) => match never {},
            };
            // An error makes hyper close the connection without a word.
            match response.extensions().get::<CloseConnection>() {
                Some(CloseConnection) => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
                None => Ok(response),
            }
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(MAX_HEADERS);
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error = %error, "connection ended early");
    }
}

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub struct Mock {
    shared: Arc<Shared>,
    tls_url: Option<Url>,
    tls_ca: Arc<str>,
    control_url: Option<Url>,
    control_token: Arc<str>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Mock {
    /// The base URL of the API, with a slash at the end.
    pub fn api(&self) -> &Url {
        &self.shared.api
    }

    /// The base URL of the API over TLS, if it listens.
    pub fn tls(&self) -> Option<&Url> {
        self.tls_url.as_ref()
    }

    /// The CA of that listener, in PEM; empty where there is none.
    pub fn tls_ca(&self) -> &str {
        &self.tls_ca
    }

    /// The base URL of the control API, if it listens.
    pub fn control(&self) -> Option<&Url> {
        self.control_url.as_ref()
    }

    /// The bearer token for the control API.
    pub fn control_token(&self) -> &str {
        &self.control_token
    }

    /// Approves a device authorization as the demo user.
    ///
    /// # Errors
    /// Where there is nothing to approve.
    pub fn approve(&self, user_code: &str) -> Result<(), ControlError> {
        self.approve_as(DEMO_UID, user_code)
    }

    /// Approves a device authorization as another person of the policy.
    ///
    /// # Errors
    /// Where there is nothing to approve.
    pub fn approve_as(&self, uid: &str, user_code: &str) -> Result<(), ControlError> {
        self.shared.decide_by_control(user_code, uid, true)
    }

    /// Denies a device authorization as the demo user.
    ///
    /// # Errors
    /// Where there is nothing to deny.
    pub fn deny(&self, user_code: &str) -> Result<(), ControlError> {
        self.shared.decide_by_control(user_code, DEMO_UID, false)
    }

    /// Ends a device authorization's life.
    ///
    /// # Errors
    /// Where there is none with this code.
    pub fn expire(&self, user_code: &str) -> Result<(), ControlError> {
        self.shared.expire_by_control(user_code)
    }

    /// The codes that a person could enter now.
    pub fn pending_user_codes(&self) -> Vec<String> {
        let now = self.shared.clock.now();
        self.shared.state().logins.pending_user_codes(now)
    }

    /// Where a person approves.
    pub fn page(&self) -> String {
        format!("{}/device", wire::origin(&self.shared.api))
    }

    /// The name that the demo user signs in with at the page.
    pub fn demo_name(&self) -> &'static str {
        page::name_of(DEMO_UID)
    }

    /// The password that goes with it, and with every other name of the policy.
    pub fn demo_password(&self) -> &str {
        self.shared.password.expose()
    }

    /// A signed identity token: of the policy's first workload, for this server, good for ten
    /// minutes, but for the claims given. A claim of `null` is left out.
    pub fn workload_token(&self, claims: &Map<String, Value>) -> String {
        self.shared.sign_workload_token(claims)
    }

    /// Where a CI job asks for its identity token (`GET url&audience=…`), and with which bearer.
    pub fn actions_request(&self) -> (String, String) {
        self.shared.actions_request()
    }

    /// Signs with new keys from now on. What the ones before have signed is good for 120 s.
    pub fn rotate_keys(&self) {
        self.shared.rotate_keys();
    }

    /// Takes something back, as an operator would. Not saved in a state file before the next
    /// revocation by a call.
    ///
    /// # Errors
    /// Where there is nothing of that name that lives.
    pub fn revoke(&self, what: &Revocable) -> Result<(), ControlError> {
        self.shared.revoke_by_control(what)
    }

    /// The spikes so far, oldest first.
    pub fn alerts(&self) -> Vec<AlertRecord> {
        self.shared
            .state()
            .ledger
            .monitor
            .alerts()
            .cloned()
            .collect()
    }

    /// An ID token of the demo user, as a sign-in would yield it.
    pub fn demo_id_token(&self) -> String {
        self.shared.demo_id_token()
    }

    /// Moves all lifetimes on: codes, nonces, tokens, leases, throttles. The
    /// window for a proof's `iat` and the `Date` header stay.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// Makes the next `count` fitting calls of an RPC show a fault; 0 takes the
    /// fault back. `method` is the RPC's bare name.
    pub fn fault(&self, method: &str, kind: FaultKind, count: u32) {
        self.shared.state().faults.set(method, kind, count);
    }

    /// Makes every nonce handed out so far stale.
    pub fn rotate_nonce(&self) {
        self.shared.state().nonces.rotate();
    }

    /// Puts another policy in force.
    ///
    /// # Errors
    /// Where the text is no policy; the old one stays.
    pub fn set_policy(&self, policy_toml: &str) -> Result<(), PolicyError> {
        let policy = Policy::parse(Some(policy_toml))?;
        self.shared.change_policy(policy);
        Ok(())
    }

    /// Forgets logins, tokens, leases, audit, journal, faults; keeps the policy.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Every RPC try so far.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.journal.records().iter().cloned().collect()
    }

    /// The first RPC try, past or to come, that matches.
    pub async fn wait_for_request(
        &self,
        matches: impl Fn(&RequestRecord) -> bool,
    ) -> RequestRecord {
        self.shared.journal.wait(matches).await
    }

    /// The leases, oldest first.
    pub fn leases(&self) -> Vec<LeaseRecord> {
        let now = self.shared.clock.now();
        let mut state = self.shared.state();
        state.expire_leases(now);
        state
            .leases
            .all()
            .map(|lease| lease.to_record(now))
            .collect()
    }

    /// Every secret that was handed out: device codes, tokens, material.
    pub fn secrets(&self) -> Vec<SecretRecord> {
        self.shared.state().secrets.clone()
    }

    /// The audit events of all tenants in the order they were written.
    pub fn audit(&self) -> Vec<AuditRecord> {
        let now = self.shared.clock.now();
        let mut state = self.shared.state();
        state.expire_leases(now);
        state.ledger.records().to_vec()
    }

    /// Stops listening, finishes the answers under way within 2 s, lets go of stalled ones.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::warn!(%error, "server task failed");
            }
        }
    }
}
