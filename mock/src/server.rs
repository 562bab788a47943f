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
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;
use url::Url;

use crate::audit::AuditRecord;
use crate::broker::leases::LeaseRecord;
use crate::check::{Check, Checks};
use crate::control::{self, ControlError};
use crate::encoding::random_secret;
use crate::fault::FaultKind;
use crate::identity::DEMO_UID;
use crate::journal::RequestRecord;
use crate::page::{self, PageCheck};
use crate::policy::{Policy, PolicyError};
use crate::revocations::{StateFile, StateFileError};
use crate::state::{SecretRecord, Shared};
use crate::web::{self, CloseConnection, Peer};
use crate::wire;

/// All headers of a request together; more is answered with 431.
const MAX_HEADERS: usize = 64 * 1024;

/// Without descriptors nothing can be accepted until some are free, which nobody tells.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);

/// What is under way when the server stops has this long to be answered: the slowest answer is
/// computed at once, and a peer that sends half a request never ends.
const DRAIN: Duration = Duration::from_secs(2);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API listens; port 0 for any free one.
    pub listen: SocketAddr,
    /// Where the control API listens, if it shall.
    pub control: Option<SocketAddr>,
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
}

impl Default for Options {
    /// Any free loopback port, no control API, the demo policy, no state file, every check.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            control: None,
            policy_toml: None,
            leave_out: None,
            state: None,
            page_without: None,
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

    let mut shared = Shared::new(url_of(address)?, policy, state_file);
    shared.page_without = options.page_without;
    shared.state().leases.restore(revoked);
    let shared = Arc::new(shared);
    let stop = watch::Sender::new(false);
    let checks = Checks::without(options.leave_out);
    let app = web::router(Arc::clone(&shared), checks, stop.subscribe());
    let mut tasks = vec![tokio::spawn(serve(listener, app, stop.subscribe()))];

    let control_token: Arc<str> = random_secret("ctl_").into();
    let mut control_url = None;
    if let Some((listener, address)) = control {
        let token = Arc::clone(&control_token);
        let app = control::router(Arc::clone(&shared), token, address.port());
        tasks.push(tokio::spawn(serve(listener, app, stop.subscribe())));
        control_url = Some(url_of(address)?);
    }
    Ok(Mock {
        shared,
        control_url,
        control_token,
        stop,
        tasks,
    })
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

fn url_of(address: SocketAddr) -> Result<Url, url::ParseError> {
    Url::parse(&format!("http://{address}/"))
}

/// Accepts until told to stop, then lets the answers under way finish, for [`DRAIN`] at most.
async fn serve(listener: TcpListener, app: Router, mut stop: watch::Receiver<bool>) {
    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            (stream, peer) = accept(&listener) => connect(stream, peer, app.clone(), &connections),
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

fn connect(stream: TcpStream, peer: SocketAddr, app: Router, connections: &GracefulShutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn off Nagle's algorithm");
    }
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let app = app.clone();
        async move {
            request.extensions_mut().insert(Peer(peer));
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
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %error, "connection ended early");
        }
    });
}

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub struct Mock {
    shared: Arc<Shared>,
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
