//! The single road to Aegis: Connect unary over HTTP (`aegis.md` 1, 4, 12).
//!
//! Every HTTP try has its own proof and is bounded: 10 s to connect, 30 s for the whole call
//! with all its tries, 64 KiB of headers, 1 MiB of body. No redirect, no proxy but a configured one, no compression,
//! at most four requests at a time. Nothing of a request or an answer is logged but the method,
//! the status, the code and the request id.

use std::collections::VecDeque;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName,
    HeaderValue, RETRY_AFTER,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::error::{
    AegisError, ConnectCode, During, MAX_RETRY_AFTER, NetworkFault, ProtocolFault, Reason,
    Rejection,
};
use super::error_info::{self, ErrorInfo};
use super::wire::{self, ErrorBody, RequestProof};
use super::{AegisSettings, Network, SettingsError, certificate};
use crate::broker::ports::{CALL_LIMIT, Certainty, Identity, Tries};
use crate::dpop::{Htm, Htu, Nonce, Proof, ProofClaims, ProofKey, TokenHash};
use crate::model::{CleanText, ProofJti, RequestId};
use crate::secret::{SecretBuffer, SecretString};
use crate::time::{Clock, Now, Timestamp, UnixTime};

/// For TCP and TLS (LM).
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Requests at a time (`aegis.md` 1).
const MAX_CONNECTIONS: usize = 4;

/// How long an unused connection is kept: a lease is redeemed right after it is made.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Of an answer, all names and values together (LM).
const MAX_HEADERS: usize = 64 * 1024;

/// Of an answer, decoded, which is as it came (LM).
const MAX_BODY: usize = 1024 * 1024;

/// What a body buffer starts with where the server does not say how much will come.
const FIRST_BODY: usize = 16 * 1024;

/// Room for a request: 96 scopes of 256 characters are the longest thing we send.
const MAX_REQUEST: usize = 64 * 1024;

/// Tries of a call that may be repeated (`aegis.md` 12). With the one repeat for a nonce and the one
/// for a refused proof, all but the last fit into a trace ([`MAX_EARLIER_TRIES`]).
///
/// [`MAX_EARLIER_TRIES`]: crate::broker::ports::MAX_EARLIER_TRIES
const MAX_TRIES: u32 = 4;

/// Repeats after `internal` and its like, which seldom pass (`aegis.md` 12).
const MAX_INTERNAL_REPEATS: u32 = 2;

/// Full jitter between 0 and this, doubled with each try, up to the cap (`aegis.md` 12).
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The cap of that.
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// Three refused proofs within this are a possible key compromise (`aegis.md` 12).
const REFUSAL_WINDOW: Duration = Duration::from_mins(5);

/// That many of them.
const MAX_REFUSALS: usize = 3;

/// How many refused proofs are remembered, over all keys.
const MAX_REMEMBERED_REFUSALS: usize = 16;

/// How far a server's clock must be from ours to be followed, `Date` being in whole seconds,
/// and how far it may be at most (`aegis.md` 4).
const CLOCK_OFFSET: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_hours(24);

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT_MS: HeaderName = HeaderName::from_static("connect-timeout-ms");
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The calls we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rpc {
    Begin,
    Exchange,
    Create,
    Redeem,
    Revoke,
    RevokeAccess,
    ListEvents,
    BeginBootstrap,
    CompleteBootstrap,
    /// Over TLS with an SVID, at an address of its own.
    ExchangeSvid,
}

impl Rpc {
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Begin => "aegis.v1.IdentityGatewayService/BeginMcpOauthDeviceAuthorization",
            Self::Exchange => "aegis.v1.IdentityGatewayService/ExchangeMcpOauthDeviceAuthorization",
            Self::Create => "aegis.v1.BrokerService/CreateCredentialLease",
            Self::Redeem => "aegis.v1.BrokerService/RedeemCredentialLease",
            Self::Revoke => "aegis.v1.BrokerService/RevokeCredentialLease",
            Self::RevokeAccess => "aegis.v1.BrokerService/RevokeBrokerAccess",
            Self::ListEvents => "aegis.v1.BrokerService/ListBrokerAuditEvents",
            Self::BeginBootstrap => "aegis.v1.BrokerService/BeginSpiffeBootstrap",
            Self::CompleteBootstrap => "aegis.v1.BrokerService/CompleteSpiffeBootstrap",
            Self::ExchangeSvid => "aegis.v1.BrokerService/ExchangeWorkloadToken",
        }
    }

    /// Whether it may be sent again although it may have had its effect: create under its
    /// idempotency key, revoking, what only reads, and what makes another challenge or another
    /// token of the same session (CN-4). The pace of exchange is the core's.
    const fn repeats(self) -> bool {
        match self {
            Self::Create
            | Self::Revoke
            | Self::RevokeAccess
            | Self::ListEvents
            | Self::BeginBootstrap
            | Self::ExchangeSvid => true,
            Self::Begin | Self::Exchange | Self::Redeem | Self::CompleteBootstrap => false,
        }
    }

    pub(super) const fn during(self) -> During {
        match self {
            Self::Begin => During::Begin,
            Self::Exchange => During::Poll,
            Self::Create
            | Self::Redeem
            | Self::Revoke
            | Self::RevokeAccess
            | Self::ListEvents
            | Self::BeginBootstrap
            | Self::CompleteBootstrap
            | Self::ExchangeSvid => During::Call,
        }
    }
}

/// Writes a request around the proof of this try.
pub(super) type Encode<'a> = dyn Fn(Option<RequestProof<'_>>, &mut SecretBuffer) -> Result<(), wire::WireError>
    + Send
    + Sync
    + 'a;

/// One call.
pub(super) struct Call<'a> {
    pub(super) rpc: Rpc,
    /// Signs a proof for every try, where the call needs one.
    pub(super) key: Option<&'a ProofKey>,
    /// Goes into `Authorization` and the proof's `ath`.
    pub(super) token: Option<&'a SecretString>,
    /// The client certificate, where the call goes over TLS with one.
    pub(super) identity: Option<&'a Arc<Identity>>,
    pub(super) encode: &'a Encode<'a>,
    /// When it is over, with all its tries.
    pub(super) deadline: Instant,
}

/// A 200 with its body, unread.
pub(super) struct Reply {
    pub(super) body: SecretBuffer,
    /// Before the first try was sent: lifetimes count from here (LC-2).
    pub(super) sent: Now,
    /// The server's clock, by its `Date` header.
    pub(super) date: Option<UnixTime>,
}

impl Reply {
    /// The server's clock, at its latest, where it shows one: its points in time are seen from
    /// there. A `Date` leaves out up to a second, which must lengthen no life (LC-2).
    pub(super) fn server_now(&self) -> UnixTime {
        let left_out = Duration::from_millis(999);
        let date = self.date.map(|date| date.plus(left_out));
        date.unwrap_or(self.sent.unix)
    }
}

/// A call that failed, and whether any of its tries may have had its effect.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: AegisError,
    pub(super) certainty: Certainty,
}

/// The road.
pub(super) struct Transport {
    endpoints: Endpoints,
    plain_http: bool,
    network: Network,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
    /// A mutex of std: held for a few instructions (once for building a client), never across
    /// an await.
    memory: Mutex<Memory>,
}

/// What outlives one call.
#[derive(Default)]
struct Memory {
    client: Option<reqwest::Client>,
    /// The one that shows an SVID, by that one's fingerprint.
    certified: Option<(Box<str>, reqwest::Client)>,
    /// The newest of each of the two origins we talk to (DP-12).
    nonce: Option<Nonce>,
    certified_nonce: Option<Nonce>,
    offset: Option<ClockOffset>,
    /// Thumbprint and time of refused proofs.
    refusals: VecDeque<(Box<str>, Timestamp)>,
}

/// How far the server's clock is from ours, learnt once for a key, which is once per login.
struct ClockOffset {
    thumbprint: Box<str>,
    ahead: bool,
    by: Duration,
}

struct Endpoint {
    url: Url,
    htu: Htu,
}

struct Endpoints {
    begin: Endpoint,
    exchange: Endpoint,
    create: Endpoint,
    redeem: Endpoint,
    revoke: Endpoint,
    revoke_access: Endpoint,
    list_events: Endpoint,
    begin_bootstrap: Endpoint,
    complete_bootstrap: Endpoint,
    exchange_svid: Endpoint,
}

/// What a try left behind, whether it succeeded or not.
#[derive(Default)]
struct Marks {
    sent: bool,
    request_id: Option<RequestId>,
    nonce: NonceHeader,
    date: Option<UnixTime>,
}

/// The `DPoP-Nonce` header of an answer.
#[derive(Default)]
enum NonceHeader {
    #[default]
    Missing,
    One(Nonce),
    /// Doubled or illegal.
    Unusable,
}

impl Transport {
    pub(super) fn new(
        settings: &AegisSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SettingsError> {
        let plain_http = check_base(settings)?;
        Ok(Self {
            endpoints: Endpoints::new(
                &settings.base_url,
                settings
                    .renewing
                    .as_ref()
                    .map_or(&settings.base_url, |renewing| &renewing.mtls_url),
            )?,
            plain_http,
            network: settings.network.clone(),
            clock,
            turns: Semaphore::new(MAX_CONNECTIONS),
            memory: Mutex::default(),
        })
    }

    /// Forgets client, pool, buffers, nonce and clock offset (HY-7). Calls under way keep their
    /// connection until they end.
    pub(super) fn drop_connections(&self) {
        let mut memory = self.memory();
        memory.client = None;
        memory.certified = None;
        memory.nonce = None;
        memory.certified_nonce = None;
        memory.offset = None;
    }

    /// Makes the call with all its tries, until `read` can use a reply. One that it cannot use
    /// leaves open whether the call had its effect.
    pub(super) async fn call<T>(
        &self,
        call: Call<'_>,
        tries: &Tries,
        mut read: impl FnMut(&Reply) -> Result<T, AegisError>,
    ) -> Result<T, Failed> {
        let deadline = call.deadline;
        let sent = self.clock.now();
        let token_hash = call.token.map(TokenHash::of);
        let mut certainty = Certainty::NotDone;
        let mut repeats = Repeats::default();
        let mut answered_nonce = None;
        loop {
            let nonce = answered_nonce
                .take()
                .or_else(|| self.memory().nonce_for(&call).clone());
            let mut marks = Marks::default();
            let attempt = self.attempt(
                &call,
                nonce.as_ref(),
                token_hash.as_ref(),
                tries,
                &mut marks,
            );
            let result = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(result) => result,
                Err(_elapsed) => Err(AegisError::Timeout { sent: marks.sent }),
            };
            if let NonceHeader::One(nonce) = &marks.nonce {
                *self.memory().nonce_for(&call) = Some(nonce.clone());
            }
            let date = marks.date;
            let answer = result.and_then(|body| read(&Reply { body, sent, date }));
            let error = match answer {
                Ok(answer) => {
                    tracing::debug!(
                        method = call.rpc.path(),
                        request_id = marks.request_id.as_ref().map(RequestId::as_str),
                        "aegis answered"
                    );
                    return Ok(answer);
                }
                Err(error) => error,
            };
            tracing::debug!(
                method = call.rpc.path(),
                request_id = marks.request_id.as_ref().map(RequestId::as_str),
                %error,
                "aegis call failed"
            );
            if error.certainty() == Certainty::Unknown {
                certainty = Certainty::Unknown;
            }
            let error = match self.after(error, &call, &mut marks, &mut repeats) {
                Next::End(error) => error,
                Next::Now(nonce) => {
                    answered_nonce = nonce;
                    continue;
                }
                Next::Later { error, pause } => {
                    if pause < deadline.saturating_duration_since(Instant::now()) {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    error
                }
            };
            return Err(Failed { error, certainty });
        }
    }

    /// Decides what follows a failed try.
    fn after(
        &self,
        error: AegisError,
        call: &Call<'_>,
        marks: &mut Marks,
        repeats: &mut Repeats,
    ) -> Next {
        if let (Some(key), Some(reason)) = (call.key, error.refusal()) {
            if reason == Reason::UseDpopNonce {
                return match std::mem::take(&mut marks.nonce) {
                    NonceHeader::One(_) if repeats.nonce => {
                        Next::End(AegisError::Protocol(ProtocolFault::NonceLoop))
                    }
                    NonceHeader::One(nonce) => {
                        repeats.nonce = true;
                        Next::Now(Some(nonce))
                    }
                    NonceHeader::Missing | NonceHeader::Unusable => {
                        Next::End(AegisError::Protocol(ProtocolFault::NonceMissing))
                    }
                };
            }
            if reason.refuses_proof() {
                if self.is_suspect(key) {
                    return Next::End(error.of_suspect_key());
                }
                if reason == Reason::ProofInvalid && !repeats.proof {
                    repeats.proof = true;
                    self.learn_offset(key, marks.date);
                    return Next::Now(None);
                }
                return Next::End(error);
            }
        }
        match pause(&error, call.rpc, repeats) {
            Some(pause) => Next::Later { error, pause },
            None => Next::End(error),
        }
    }

    /// One HTTP exchange.
    async fn attempt(
        &self,
        call: &Call<'_>,
        nonce: Option<&Nonce>,
        token_hash: Option<&TokenHash>,
        tries: &Tries,
        marks: &mut Marks,
    ) -> Result<SecretBuffer, AegisError> {
        let deadline = call.deadline;
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await.ok().ok_or(AegisError::Client)?;
        if deadline <= Instant::now() {
            // A turn that comes with the end of the time is none.
            return Err(AegisError::Timeout { sent: false });
        }
        let client = match call.identity {
            Some(identity) => self.certified(identity)?,
            None => self.client()?,
        };
        let endpoint = self.endpoints.of(call.rpc);
        // Signed once it is our turn, so that `iat` is when the request leaves.
        let proof = call
            .key
            .map(|key| {
                Proof::sign(
                    key,
                    &ProofClaims {
                        htm: Htm::Post,
                        htu: &endpoint.htu,
                        issued_at: self.issued_at(key),
                        nonce,
                        token_hash,
                    },
                )
            })
            .transpose()?;
        let body = encode(call, proof.as_ref(), nonce)?;
        let jti = proof
            .as_ref()
            .and_then(|proof| ProofJti::parse(proof.jti()).ok());

        let remaining = deadline
            .saturating_duration_since(Instant::now())
            .as_millis()
            .to_string();
        let mut request = client
            .post(endpoint.url.clone())
            .header(PROTOCOL_VERSION, "1")
            .header(TIMEOUT_MS, remaining)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .body(body);
        if let Some(token) = call.token {
            request = request.header(AUTHORIZATION, bearer(token)?);
        }
        if tries.sent(jti).is_err() {
            // Nobody waits for it any more.
            return Err(AegisError::Timeout { sent: false });
        }
        marks.sent = true;
        let mut response = request.send().await.map_err(|error| {
            let sent = !(error.is_connect() || error.is_builder());
            let fault = network_fault(&error);
            AegisError::Unreachable { fault, sent }
        })?;

        let headers = response.headers();
        marks.request_id = single(headers, &REQUEST_ID).and_then(|id| RequestId::parse(id).ok());
        tries.answered(marks.request_id.clone());
        marks.nonce = nonce_header(headers);
        marks.date = single(headers, &DATE).and_then(parse_http_date);
        let status = response.status().as_u16();
        if size(headers) > MAX_HEADERS {
            return Err(fault_of(status, ProtocolFault::HeadersTooLarge));
        }
        if (300..400).contains(&status) {
            return Err(AegisError::Protocol(ProtocolFault::Redirect));
        }
        let retry_after = single(headers, &RETRY_AFTER).and_then(|value| {
            parse_retry_after(value, marks.date.unwrap_or(self.clock.now().unix))
        });
        if !is_plain_json(headers) {
            return Err(match status {
                200 => AegisError::Protocol(ProtocolFault::NotPlainJson),
                _ => unreadable(status, retry_after),
            });
        }
        match (status, read_body(&mut response).await) {
            (200, body) => body,
            (_, Ok(body)) => Err(refusal(status, body.expose(), retry_after)),
            (_, Err(_)) => Err(unreadable(status, retry_after)),
        }
    }

    fn client(&self) -> Result<reqwest::Client, AegisError> {
        let mut memory = self.memory();
        if let Some(client) = &memory.client {
            return Ok(client.clone());
        }
        let builder = self.network.trust(self.builder(!self.plain_http));
        let client = builder.build().ok().ok_or(AegisError::Client)?;
        memory.client = Some(client.clone());
        Ok(client)
    }

    /// The client that shows this SVID. That of another one goes, with its connections.
    fn certified(&self, identity: &Arc<Identity>) -> Result<reqwest::Client, AegisError> {
        let mut memory = self.memory();
        let fingerprint = &identity.svid.fingerprint;
        if let Some((of, client)) = &memory.certified
            && of == fingerprint
        {
            return Ok(client.clone());
        }
        let tls = certificate::config(identity, self.network.authorities())?;
        let builder = self.builder(true).tls_backend_preconfigured(tls);
        let client = builder.build().ok().ok_or(AegisError::Client)?;
        memory.certified = Some((fingerprint.clone(), client.clone()));
        Ok(client)
    }

    fn builder(&self, https_only: bool) -> reqwest::ClientBuilder {
        self.network
            .apply(reqwest::Client::builder())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .https_only(https_only)
            .connect_timeout(CONNECT_LIMIT)
            .pool_max_idle_per_host(MAX_CONNECTIONS)
            .pool_idle_timeout(IDLE_LIMIT)
            .http2_max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
    }

    /// Our wall clock, or the server's where one of this key's proofs was refused for it.
    fn issued_at(&self, key: &ProofKey) -> UnixTime {
        let now = self.clock.now().unix;
        match &self.memory().offset {
            Some(offset) if *offset.thumbprint == *key.thumbprint() => {
                if offset.ahead {
                    now.plus(offset.by)
                } else {
                    let behind = u64::try_from(offset.by.as_millis()).unwrap_or(u64::MAX);
                    UnixTime::from_millis(now.as_millis().saturating_sub(behind))
                }
            }
            Some(_) | None => now,
        }
    }

    /// Takes the server's clock for the proofs of this key, once (`aegis.md` 4).
    fn learn_offset(&self, key: &ProofKey, date: Option<UnixTime>) {
        let Some(date) = date else { return };
        let now = self.clock.now().unix;
        let ahead = date > now;
        let by = if ahead {
            now.until(date)
        } else {
            date.until(now)
        };
        let mut memory = self.memory();
        let known = memory
            .offset
            .as_ref()
            .is_some_and(|offset| *offset.thumbprint == *key.thumbprint());
        if known || !CLOCK_OFFSET.contains(&by) {
            return;
        }
        tracing::warn!(
            offset_s = by.as_secs(),
            ahead,
            "the issuer's clock differs from this machine's; proofs follow it until the next login"
        );
        memory.offset = Some(ClockOffset {
            thumbprint: Box::from(key.thumbprint()),
            ahead,
            by,
        });
    }

    /// Notes a refused proof and says whether it is the third of its key in five minutes.
    fn is_suspect(&self, key: &ProofKey) -> bool {
        let now = self.clock.now().boot;
        let mut memory = self.memory();
        memory
            .refusals
            .retain(|(_, at)| at.until(now) < REFUSAL_WINDOW);
        while memory.refusals.len() >= MAX_REMEMBERED_REFUSALS {
            memory.refusals.pop_front();
        }
        memory
            .refusals
            .push_back((Box::from(key.thumbprint()), now));
        let of_this_key = memory
            .refusals
            .iter()
            .filter(|(thumbprint, _)| **thumbprint == *key.thumbprint())
            .count();
        of_this_key >= MAX_REFUSALS
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Of the origin that this call goes to.
    const fn nonce_for(&mut self, call: &Call<'_>) -> &mut Option<Nonce> {
        match call.identity {
            Some(_) => &mut self.certified_nonce,
            None => &mut self.nonce,
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// What a call has used up.
#[derive(Default)]
struct Repeats {
    nonce: bool,
    proof: bool,
    unreadable: bool,
    failures: u32,
}

/// What follows a failed try.
enum Next {
    /// Nothing.
    End(AegisError),
    /// Another at once, with this nonce if there is one.
    Now(Option<Nonce>),
    /// Another after a pause, if that fits into the call.
    Later { error: AegisError, pause: Duration },
}

impl Endpoints {
    /// Below `base`, and below `mtls` what takes a client certificate.
    fn new(base: &Url, mtls: &Url) -> Result<Self, SettingsError> {
        let endpoint_at = |base: &Url, rpc: Rpc| {
            let base = base.as_str().trim_end_matches('/');
            let url = Url::parse(&format!("{base}/{}", rpc.path()))
                .ok()
                .ok_or(SettingsError::Shape)?;
            let htu = Htu::new(&url).ok().ok_or(SettingsError::Shape)?;
            Ok(Endpoint { url, htu })
        };
        let endpoint = |rpc: Rpc| endpoint_at(base, rpc);
        Ok(Self {
            begin: endpoint(Rpc::Begin)?,
            exchange: endpoint(Rpc::Exchange)?,
            create: endpoint(Rpc::Create)?,
            redeem: endpoint(Rpc::Redeem)?,
            revoke: endpoint(Rpc::Revoke)?,
            revoke_access: endpoint(Rpc::RevokeAccess)?,
            list_events: endpoint(Rpc::ListEvents)?,
            begin_bootstrap: endpoint(Rpc::BeginBootstrap)?,
            complete_bootstrap: endpoint(Rpc::CompleteBootstrap)?,
            exchange_svid: endpoint_at(mtls, Rpc::ExchangeSvid)?,
        })
    }

    const fn of(&self, rpc: Rpc) -> &Endpoint {
        match rpc {
            Rpc::Begin => &self.begin,
            Rpc::Exchange => &self.exchange,
            Rpc::Create => &self.create,
            Rpc::Redeem => &self.redeem,
            Rpc::Revoke => &self.revoke,
            Rpc::RevokeAccess => &self.revoke_access,
            Rpc::ListEvents => &self.list_events,
            Rpc::BeginBootstrap => &self.begin_bootstrap,
            Rpc::CompleteBootstrap => &self.complete_bootstrap,
            Rpc::ExchangeSvid => &self.exchange_svid,
        }
    }
}

/// Checks the base URL; true where it is plain http on loopback.
fn check_base(settings: &AegisSettings) -> Result<bool, SettingsError> {
    let base = &settings.base_url;
    let bare = base.username().is_empty()
        && base.password().is_none()
        && base.query().is_none()
        && base.fragment().is_none();
    if !bare || base.host().is_none() {
        return Err(SettingsError::Shape);
    }
    match base.scheme() {
        "https" => Ok(false),
        "http" if settings.allow_insecure_loopback && is_loopback(base) => Ok(true),
        _ => Err(SettingsError::Insecure),
    }
}

/// Whether the host is a literal loopback address; names do not count.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => Ipv4Addr::is_loopback(&address),
        Some(Host::Ipv6(address)) => Ipv6Addr::is_loopback(&address),
        Some(Host::Domain(_)) | None => false,
    }
}

/// How long to wait before the next try, if there is to be one.
fn pause(error: &AegisError, rpc: Rpc, repeats: &mut Repeats) -> Option<Duration> {
    if !rpc.repeats() {
        return None;
    }
    let (limit, retry_after) = match error {
        AegisError::Unreachable { .. } => (MAX_TRIES, None),
        AegisError::Rejected(rejection) => match rejection.code {
            ConnectCode::ResourceExhausted if rejection.reason == Some(Reason::BodyTooLarge) => {
                return None;
            }
            ConnectCode::ResourceExhausted | ConnectCode::Unavailable => {
                (MAX_TRIES, rejection.retry_after)
            }
            ConnectCode::Internal
            | ConnectCode::Unknown
            | ConnectCode::DataLoss
            | ConnectCode::Aborted
            | ConnectCode::DeadlineExceeded => (
                MAX_INTERNAL_REPEATS.saturating_add(1),
                rejection.retry_after,
            ),
            ConnectCode::Canceled
            | ConnectCode::InvalidArgument
            | ConnectCode::NotFound
            | ConnectCode::AlreadyExists
            | ConnectCode::PermissionDenied
            | ConnectCode::FailedPrecondition
            | ConnectCode::OutOfRange
            | ConnectCode::Unimplemented
            | ConnectCode::Unauthenticated => return None,
        },
        // It may have been a moment's: asked once more, the issuer names the lease that it made.
        AegisError::Protocol(fault) if fault.is_unreadable() && !repeats.unreadable => {
            repeats.unreadable = true;
            (MAX_TRIES, None)
        }
        AegisError::Request(_)
        | AegisError::Crypto(_)
        | AegisError::Client
        | AegisError::Timeout { .. }
        | AegisError::Protocol(_)
        | AegisError::Token(_)
        | AegisError::Identity(_)
        | AegisError::KeySuspect(_) => return None,
    };
    repeats.failures = repeats.failures.saturating_add(1);
    if repeats.failures >= limit || retry_after.is_some_and(|after| after > MAX_RETRY_AFTER) {
        return None;
    }
    let ceiling = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(repeats.failures.saturating_sub(1)))
        .min(MAX_PAUSE);
    Some(
        retry_after
            .unwrap_or_default()
            .saturating_add(jitter(ceiling)),
    )
}

/// Of a call that begins now.
pub(super) fn deadline() -> Instant {
    let now = Instant::now();
    now.checked_add(CALL_LIMIT).unwrap_or(now)
}

/// A request's bytes. They leave the wiping buffer for one of the HTTP client's own, of exact
/// size; the binary's zero-on-free allocator wipes that one (HY-6).
fn encode(
    call: &Call<'_>,
    proof: Option<&Proof>,
    nonce: Option<&Nonce>,
) -> Result<Vec<u8>, AegisError> {
    let proof = proof.map(|proof| RequestProof {
        proof_type: "dpop_jwt",
        dpop_jwt: proof.jwt(),
        nonce: nonce.map(Nonce::as_str),
    });
    let mut buffer = SecretBuffer::with_capacity(MAX_REQUEST);
    (call.encode)(proof, &mut buffer)
        .ok()
        .ok_or(AegisError::Request("request too large"))?;
    Ok(buffer.expose().to_vec())
}

fn bearer(token: &SecretString) -> Result<HeaderValue, AegisError> {
    const SCHEME: &str = "Bearer ";
    let mut text = Zeroizing::new(String::with_capacity(
        SCHEME.len().saturating_add(token.len()),
    ));
    text.push_str(SCHEME);
    text.push_str(token.expose());
    let mut value = HeaderValue::from_str(&text)
        .ok()
        .ok_or(AegisError::Request("token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The one value of a header; `None` where it is missing, doubled or not visible ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

fn nonce_header(headers: &HeaderMap) -> NonceHeader {
    if !headers.contains_key(DPOP_NONCE) {
        return NonceHeader::Missing;
    }
    single(headers, &DPOP_NONCE)
        .and_then(|text| Nonce::parse(text).ok())
        .map_or(NonceHeader::Unusable, NonceHeader::One)
}

fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len().saturating_add(value.len()))
        .fold(0, usize::saturating_add)
}

fn is_plain_json(headers: &HeaderMap) -> bool {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| value.as_bytes() != b"identity");
    let json = single(headers, &CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
    json && !encoded
}

/// Reads at most 1 MiB into a buffer that wipes itself; a buffer that is outgrown is wiped
/// before the next one is used.
async fn read_body(response: &mut reqwest::Response) -> Result<SecretBuffer, AegisError> {
    let too_large = AegisError::Protocol(ProtocolFault::BodyTooLarge);
    let announced = response
        .content_length()
        .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large);
    }
    let mut capacity = announced.unwrap_or(FIRST_BODY);
    let mut body = SecretBuffer::with_capacity(capacity);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|_broken| AegisError::Unreachable {
            fault: NetworkFault::Broken,
            sent: true,
        })?
    {
        let length = body.len().saturating_add(chunk.len());
        if length > MAX_BODY {
            return Err(too_large);
        }
        if length > capacity {
            capacity = length.saturating_mul(4).min(MAX_BODY);
            let mut larger = SecretBuffer::with_capacity(capacity);
            larger.extend(body.expose()).ok().ok_or(too_large.clone())?;
            body = larger;
        }
        body.extend(&chunk).ok().ok_or(too_large.clone())?;
    }
    Ok(body)
}

/// A fault of an answer's frame, which only of a 200 is the answer itself.
fn fault_of(status: u16, fault: ProtocolFault) -> AegisError {
    match status {
        200 => AegisError::Protocol(fault),
        _ => unreadable(status, None),
    }
}

/// A refusal whose body says nothing (CN-1). Where the status says that there is no such method,
/// Aegis would have said so in its own words: it is another server, and stays one.
const fn unreadable(status: u16, retry_after: Option<Duration>) -> AegisError {
    match status {
        404 | 405 | 501 => AegisError::Protocol(ProtocolFault::NotAegis(status)),
        _ => AegisError::Rejected(Rejection {
            status,
            code: ConnectCode::of_status(status),
            reason: None,
            word: None,
            retry_after,
            readable: false,
            has_info: false,
        }),
    }
}

/// The kind of the error that this one was made of: a wrapped one is not a source of its wrapper.
fn innermost_kind(error: &io::Error) -> io::ErrorKind {
    let causes = std::iter::successors(Some(error), |error| error.get_ref()?.downcast_ref());
    causes.last().map_or(io::ErrorKind::Other, io::Error::kind)
}

/// Why no answer came, as far as the HTTP client tells.
fn network_fault(error: &reqwest::Error) -> NetworkFault {
    if !error.is_connect() {
        return NetworkFault::Broken;
    }
    if error.is_timeout() {
        return NetworkFault::Slow;
    }
    if error.is_dns() {
        return NetworkFault::NameNotFound;
    }
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let kind = causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .map(innermost_kind)
        .last();
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => NetworkFault::Refused,
        // While it connects, nobody but TLS reads.
        Some(io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => NetworkFault::Tls,
        _ => NetworkFault::NoConnection,
    }
}

/// Reads a Connect error body (`aegis.md` 12).
fn refusal(status: u16, body: &[u8], retry_after: Option<Duration>) -> AegisError {
    let Ok(body) = wire::decode::<ErrorBody>(body) else {
        return unreadable(status, retry_after);
    };
    if body.has_secret() {
        return AegisError::Protocol(ProtocolFault::SecretInRefusal);
    }
    let Some(code) = body.code.as_deref().and_then(ConnectCode::parse) else {
        return unreadable(status, retry_after);
    };
    let info = body
        .details
        .iter()
        .find(|detail| detail.kind == error_info::TYPE)
        .and_then(|detail| ErrorInfo::decode(&detail.value));
    let word = info
        .as_ref()
        .filter(|info| !info.reason.is_empty())
        .filter(|info| info.reason.bytes().all(is_word))
        .and_then(|info| CleanText::exact(&info.reason, 64));
    AegisError::Rejected(Rejection {
        status,
        code,
        reason: word
            .as_ref()
            .and_then(|word| Reason::of_word(word.as_str())),
        word,
        retry_after: retry_after.max(info.as_ref().and_then(|info| info.retry_after)),
        readable: true,
        has_info: info.is_some_and(|info| !info.reason.is_empty()),
    })
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// `Retry-After`: seconds, or a date seen from the server's own clock (RFC 9110 §10.2.3).
fn parse_retry_after(value: &str, server_now: UnixTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(
            value.parse().unwrap_or(u64::from(u32::MAX)),
        ));
    }
    parse_http_date(value).map(|date| server_now.until(date))
}

/// An HTTP date in the one form that is sent today (RFC 9110 §5.6.7).
fn parse_http_date(value: &str) -> Option<UnixTime> {
    if !value.ends_with(" GMT") {
        return None;
    }
    let date =
        ::time::OffsetDateTime::parse(value, &::time::format_description::well_known::Rfc2822)
            .ok()?;
    let seconds = u64::try_from(date.unix_timestamp()).ok()?;
    Some(UnixTime::from_millis(seconds.checked_mul(1000)?))
}

/// Between zero and `ceiling`, evenly. Without random bytes: the ceiling.
fn jitter(ceiling: Duration) -> Duration {
    let mut random = [0; 8];
    if rand::fill(&mut random).is_err() {
        return ceiling;
    }
    let millis = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    let pick = u64::from_le_bytes(random).checked_rem(millis.saturating_add(1));
    Duration::from_millis(pick.unwrap_or(millis))
}

#[cfg(test)]
mod tests {
    use ConnectCode as Code;

    use super::*;

    fn settings(base: &str, loopback: bool) -> AegisSettings {
        AegisSettings {
            base_url: Url::parse(base).unwrap(),
            allow_insecure_loopback: loopback,
            allow_missing_token_info: false,
            network: Network::default(),
            renewing: None,
        }
    }

    /// OA-7: https, or http on a loopback literal where allowed.
    #[test]
    fn only_https_and_allowed_loopback_are_called() {
        #[rustfmt::skip]
        let rows = [
            ("https", "https://aegis.example", false, Ok(false)),
            ("https with a path", "https://aegis.example/a/", false, Ok(false)),
            ("http", "http://aegis.example", true, Err(SettingsError::Insecure)),
            ("loopback, not allowed", "http://127.0.0.1:7460", false, Err(SettingsError::Insecure)),
            ("loopback", "http://127.0.0.1:7460", true, Ok(true)),
            ("other loopback", "http://127.9.9.9", true, Ok(true)),
            ("loopback 6", "http://[::1]:7460", true, Ok(true)),
            ("https on loopback", "https://127.0.0.1", true, Ok(false)),
            ("a name for loopback", "http://localhost:7460", true, Err(SettingsError::Insecure)),
            ("looks like loopback", "http://127.0.0.1.example", true, Err(SettingsError::Insecure)),
            ("any address", "http://0.0.0.0", true, Err(SettingsError::Insecure)),
            ("user", "https://u@aegis.example", false, Err(SettingsError::Shape)),
            ("password", "https://:p@aegis.example", false, Err(SettingsError::Shape)),
            ("query", "https://aegis.example/?a=b", false, Err(SettingsError::Shape)),
            ("fragment", "https://aegis.example/#a", false, Err(SettingsError::Shape)),
            ("no host", "data:x", false, Err(SettingsError::Shape)),
            ("other scheme", "ftp://aegis.example", false, Err(SettingsError::Insecure)),
        ];
        for (name, base, loopback, expected) in rows {
            assert_eq!(check_base(&settings(base, loopback)), expected, "{name}");
        }
    }

    /// Every URL stays below its base, with or without a final slash.
    #[test]
    fn endpoints_hang_below_the_base() {
        for base in ["https://h.example:8443/x", "https://h.example:8443/x/"] {
            let base = Url::parse(base).unwrap();
            let endpoints = Endpoints::new(&base, &base).unwrap();
            let create = endpoints.of(Rpc::Create);
            assert_eq!(
                create.url.as_str(),
                "https://h.example:8443/x/aegis.v1.BrokerService/CreateCredentialLease"
            );
            assert_eq!(create.htu.as_str(), create.url.as_str());
        }
    }

    /// HY-17: dates and pauses from outside.
    #[test]
    fn dates_and_pauses_are_read_or_passed_over() {
        let now = UnixTime::from_millis(1_795_341_612_000);
        let date = "Sun, 22 Nov 2026 10:00:12 GMT";
        assert_eq!(
            parse_http_date(date).unwrap().to_string(),
            "2026-11-22T10:00:12.000Z"
        );
        let rows = [
            ("seconds", "30", Some(Duration::from_secs(30))),
            ("zero", "0", Some(Duration::ZERO)),
            (
                "huge",
                "99999999999999999999999",
                Some(Duration::from_secs(u64::from(u32::MAX))),
            ),
            ("past date", date, Some(Duration::ZERO)),
            ("negative", "-1", None),
            ("fraction", "1.5", None),
            ("empty", "", None),
            ("word", "soon", None),
        ];
        for (name, value, expected) in rows {
            assert_eq!(parse_retry_after(value, now), expected, "{name}");
        }
        for bad in [
            "",
            "GMT",
            "Sun, 22 Nov 2026 10:00:12 +0000",
            "Sun, 31 Feb 2026 10:00:12 GMT",
        ] {
            assert_eq!(parse_http_date(bad), None, "{bad}");
        }
    }

    /// A name that has no address is told from an address where nobody is. Nobody is asked for one.
    #[tokio::test]
    async fn a_name_without_an_address_is_told_apart() {
        struct Nowhere;

        impl reqwest::dns::Resolve for Nowhere {
            fn resolve(&self, _name: reqwest::dns::Name) -> reqwest::dns::Resolving {
                Box::pin(async { Err("no address".into()) })
            }
        }

        let client = reqwest::Client::builder().no_proxy().dns_resolver(Nowhere);
        let request = client.build().unwrap().get("https://aegis.invalid/");
        let error = request.send().await.unwrap_err();
        assert_eq!(network_fault(&error), NetworkFault::NameNotFound);
    }

    #[test]
    fn jitter_stays_below_its_ceiling() {
        for _ in 0..1000 {
            assert!(jitter(FIRST_PAUSE) <= FIRST_PAUSE);
        }
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }

    /// CN-1 and `aegis.md` 12: what a refusal's body says, and what is made of it.
    #[test]
    fn refusals_are_read_by_code_and_reason() {
        let info = r#"[{"type":"aegis.v1.ErrorInfo","value":"Cg51c2VfZHBvcF9ub25jZRIGcmVxXzA1","debug":{"reason":"policy_denied"}}]"#;
        let with = |code: &str, details: &str| {
            format!(r#"{{"code":"{code}","message":"\u001b[2J","details":{details}}}"#)
        };
        let read = |status: u16, body: &str| {
            let error = refusal(status, body.as_bytes(), None);
            if let AegisError::Rejected(said) = error {
                Ok((said.code, said.reason, said.readable, said.has_info))
            } else {
                Err(error)
            }
        };
        #[rustfmt::skip]
        let rows = [
            ("with info", 401, with("unauthenticated", info), Ok((Code::Unauthenticated, Some(Reason::UseDpopNonce), true, true))),
            ("debug alone counts for nothing", 403, with("permission_denied", r#"[{"type":"aegis.v1.ErrorInfo","debug":{"reason":"policy_denied"}}]"#), Ok((Code::PermissionDenied, None, true, false))),
            ("bad base64", 403, with("permission_denied", r#"[{"type":"aegis.v1.ErrorInfo","value":"%"}]"#), Ok((Code::PermissionDenied, None, true, false))),
            ("another detail", 403, with("permission_denied", r#"[{"type":"x","value":"CgFh"}]"#), Ok((Code::PermissionDenied, None, true, false))),
            ("no details", 404, r#"{"code":"not_found"}"#.to_owned(), Ok((Code::NotFound, None, true, false))),
            ("code beats status", 500, r#"{"code":"unavailable"}"#.to_owned(), Ok((Code::Unavailable, None, true, false))),
            ("unknown code", 503, r#"{"code":"odd"}"#.to_owned(), Ok((Code::Unavailable, None, false, false))),
            ("no code", 400, "{}".to_owned(), Ok((Code::Internal, None, false, false))),
            ("html", 502, "<html>".to_owned(), Ok((Code::Unavailable, None, false, false))),
            ("empty", 403, String::new(), Ok((Code::PermissionDenied, None, false, false))),
            ("code is a number", 401, r#"{"code":7}"#.to_owned(), Ok((Code::Unauthenticated, None, false, false))),
            ("a token in it", 401, r#"{"code":"unauthenticated","brokerToken":"t"}"#.to_owned(), Err(AegisError::Protocol(ProtocolFault::SecretInRefusal))),
            ("a credential in it", 500, r#"{"credential":{"kind":"x"}}"#.to_owned(), Err(AegisError::Protocol(ProtocolFault::SecretInRefusal))),
        ];
        for (name, status, body, expected) in rows {
            assert_eq!(read(status, &body), expected, "{name}");
        }
    }
}
