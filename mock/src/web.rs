//! The HTTP surface: what surrounds every RPC, and the few plain pages.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json as AxumJson, Router};
use connectrpc::deadline::DeadlinePolicy;
use connectrpc::{ConnectError, ConnectRpcService, ErrorCode};
use serde_json::json;
use time::format_description::well_known::Rfc2822;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::access::rate_limited;
use crate::audit::Entry;
use crate::broker::Broker;
use crate::call::{Call, Road};
use crate::check::{Check, Checks};
use crate::clock::Moment;
use crate::encoding::random_id;
use crate::errors::{DPOP_NONCE, Reason, Refusal};
use crate::fault::FaultKind;
use crate::identity::Identity;
use crate::idp::{self, INSECURE_USER};
use crate::journal::{Carrier, RequestRecord};
use crate::json::Json;
use crate::page::{self, PageCheck};
use crate::policy::Strictness;
use crate::proto::{BrokerServiceExt as _, IdentityGatewayServiceExt as _};
use crate::schema::Method as Rpc;
use crate::state::Shared;

const MAX_BODY: usize = 64 * 1024;
const HUGE: usize = 16 * 1024 * 1024;
/// How far `clock_skew` moves the clock of proofs.
const SKEW: Duration = Duration::from_hours(1);
/// What a client may ask for at most with `Connect-Timeout-Ms`.
const MAX_DEADLINE: Duration = Duration::from_secs(30);
/// What the journal calls a use of material.
const WHOAMI: &str = "whoami";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// What comes before a message of gRPC: flags and length.
const GRPC_PREFIX: usize = 5;

/// In an answer's extensions: close the connection instead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloseConnection;

/// In a request's extensions: it was refused before it got to its handler.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub(crate) ConnectError);

/// In a request's extensions: who sent it, and to which listener.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The port that was called.
    pub(crate) port: u16,
    /// Whether over TLS.
    pub(crate) secure: bool,
    /// Fingerprint of the client certificate that was shown in the handshake.
    pub(crate) certificate: Option<Arc<str>>,
}

fn is_secure(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    peer.is_some_and(|peer| peer.secure)
}

fn scheme(request: &Request) -> &'static str {
    if is_secure(request) { "https" } else { "http" }
}

/// What the surface needs.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) shared: Arc<Shared>,
    connect: ConnectRpcService,
    checks: Checks,
    /// Turns when the server stops.
    stopping: watch::Receiver<bool>,
}

pub(crate) fn router(
    shared: Arc<Shared>,
    checks: Checks,
    stopping: watch::Receiver<bool>,
) -> Router {
    let services = Arc::new(Identity(Arc::clone(&shared))).register(connectrpc::Router::new());
    let services = Arc::new(Broker(Arc::clone(&shared))).register(services);
    let page = page::router(Arc::clone(&shared));
    let idp = idp::router(Arc::clone(&shared));
    let web = Web {
        shared,
        connect: ConnectRpcService::new(services)
            .with_deadline_policy(DeadlinePolicy::new().with_max(MAX_DEADLINE)),
        checks,
        stopping,
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/spiffe-bundle", get(spiffe_bundle))
        .route("/fake/{provider}/whoami", get(whoami))
        .fallback(rpc_or_nothing)
        .with_state(web.clone())
        .merge(page)
        .merge(idp)
        .layer(axum::middleware::from_fn_with_state(web, surround))
}

/// `Host` and caching, the same for every page.
async fn surround(
    State(web): State<Web>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    let strict = web.shared.state().policy.strictness.clone();
    let path = request.uri().path();
    let is_page = path.starts_with("/device");
    // The RPCs word both refusals themselves, and the page that of a foreign `Origin`.
    let is_rpc = path.starts_with("/aegis.");
    let asks_host = strict.host && !(is_page && web.shared.page_lacks(PageCheck::Host));
    let asks_origin = strict.origin && !is_page;
    let foreign = (asks_host && !is_our_host(&request))
        || (asks_origin && says_origin(&request) == Some(false));
    let mut response = if foreign && !is_rpc {
        StatusCode::FORBIDDEN.into_response()
    } else {
        next.run(request).await
    };
    if strict.no_store {
        let no_store = HeaderValue::from_static("no-store");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, no_store);
    }
    response
}

fn is_our_host(request: &Request) -> bool {
    let port = request.extensions().get::<Peer>().map(|peer| peer.port);
    host(request).is_some_and(|host| is_loopback_name(&host, port))
}

/// The host that was called: `:authority` or `Host`, once, and the same where both are there.
pub(crate) fn host(request: &Request) -> Option<String> {
    let mut values = request.headers().get_all(header::HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return None;
    }
    match (request.uri().authority(), first) {
        (Some(authority), None) => Some(authority.as_str().to_ascii_lowercase()),
        (None, Some(host)) => host.to_str().ok().map(str::to_ascii_lowercase),
        (Some(authority), Some(host)) => host
            .to_str()
            .ok()
            .filter(|host| host.eq_ignore_ascii_case(authority.as_str()))
            .map(str::to_ascii_lowercase),
        (None, None) => None,
    }
}

/// Whether a browser says that the page it was on is of the server it now asks: with one `Origin`,
/// which is the host that was called. `None` where it says nothing.
pub(crate) fn says_origin(request: &Request) -> Option<bool> {
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    let origin = origins.next()?.to_str().ok();
    let ours = host(request).map(|host| format!("{}://{host}", scheme(request)));
    Some(origins.next().is_none() && origin.is_some() && origin == ours.as_deref())
}

/// Whether `host` is this port of the machine itself, so that no name that
/// merely resolves to it gets through.
pub(crate) fn is_loopback_name(host: &str, port: Option<u16>) -> bool {
    let (name, given) = match host.rsplit_once(':') {
        Some((name, given)) if !given.ends_with(']') => (name, given.parse().ok()),
        _ => (host, Some(80)),
    };
    matches!(name, "127.0.0.1" | "localhost" | "[::1]") && given == port
}

async fn jwks(State(web): State<Web>) -> Response {
    let now = web.shared.clock.now();
    let keys = web.shared.state().signer.jwks(now);
    AxumJson(keys).into_response()
}

async fn spiffe_bundle(State(web): State<Web>) -> Response {
    AxumJson(web.shared.spiffe_ca.bundle()).into_response()
}

/// The provider at the other end: takes material while its lease lives.
async fn whoami(
    State(web): State<Web>,
    Path(provider): Path<String>,
    headers: HeaderMap,
) -> Response {
    let now = web.shared.clock.now();
    let secret = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let state = web.shared.state();
    let lease = secret.and_then(|secret| state.leases.whose(&provider, secret, now));
    let (principal, result, mut response) = if let Some(lease) = lease {
        let who = AxumJson(json!({
            "provider": lease.target.provider,
            "app": lease.target.app,
            "account": lease.target.account,
            "expiresAt": lease.expires_at.rfc3339(),
        }));
        (Some(lease.principal.clone()), "ok", who.into_response())
    } else {
        let refusal = (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Bearer")],
            AxumJson(json!({"error": "invalid_token"})),
        );
        let code = ErrorCode::Unauthenticated.as_str();
        (None, code, refusal.into_response())
    };
    drop(state);
    let request_id = random_id("req_");
    let at = web.shared.clock.real();
    web.shared.journal.push(RequestRecord {
        principal,
        ..bare_record(at, WHOAMI.to_owned(), &request_id, result, None)
    });
    identify(&mut response, &request_id);
    response
}

async fn rpc_or_nothing(State(web): State<Web>, request: Request) -> Response {
    if !request.uri().path().starts_with("/aegis.") {
        return StatusCode::NOT_FOUND.into_response();
    }
    rpc(web, request).await
}

/// One RPC try, from its headers to its place in the journal.
async fn rpc(web: Web, request: Request) -> Response {
    let shared = &web.shared;
    let request_id = random_id("req_");
    let path = request.uri().path().to_owned();
    let mut response = if let Some(method) = Rpc::by_path(&path) {
        let tongue = Tongue::of(request.headers());
        let frame = (tongue == Some(Tongue::Grpc)).then(|| empty_grpc_call(&request));
        match offered(&web, tongue, method, &request_id, request).await {
            Ok(response) => response,
            Err(error) => word(&web, frame, error).await,
        }
    } else {
        let name = path.rsplit('/').next().unwrap_or_default();
        let name: String = name.chars().take(64).collect();
        let at = shared.clock.real();
        note(shared, at, name, &request_id, "unimplemented", None);
        Refusal::bare(ErrorCode::Unimplemented, "no such method")
            .into_error(&request_id)
            .with_http_status(StatusCode::NOT_FOUND)
            .into_response()
    };
    identify(&mut response, &request_id);
    response
}

/// Tells the caller the id under which the journal has the request.
pub(crate) fn identify(response: &mut Response, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

/// A try that ends before there is a [`Call`].
pub(crate) fn note(
    shared: &Shared,
    at: Moment,
    method: String,
    request_id: &str,
    result: &str,
    reason: Option<Reason>,
) {
    let record = bare_record(at, method, request_id, result, reason);
    shared.journal.push(record);
}

/// What there is to write down of a request that carried no proof.
fn bare_record(
    at: Moment,
    method: String,
    request_id: &str,
    result: &str,
    reason: Option<Reason>,
) -> RequestRecord {
    RequestRecord {
        seq: 0,
        at: at.system_time(),
        method,
        request_id: request_id.to_owned(),
        carrier: Carrier::None,
        jti: None,
        htm: None,
        htu: None,
        jkt: None,
        proof: None,
        principal: None,
        result: result.to_owned(),
        reason: reason.map(|reason| reason.as_str().to_owned()),
    }
}

/// How a caller speaks: what the content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tongue {
    /// Connect, the message as JSON.
    Json,
    /// Connect, the message in binary.
    Proto,
    /// gRPC: one message in binary behind five bytes of flags and length.
    Grpc,
}

impl Tongue {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match content_type.to_ascii_lowercase().as_str() {
            "application/json"
            | "application/json; charset=utf-8"
            | "application/json;charset=utf-8" => Some(Self::Json),
            "application/proto" => Some(Self::Proto),
            "application/grpc" | "application/grpc+proto" => Some(Self::Grpc),
            _ => None,
        }
    }
}

/// A refusal in the caller's own words. Those of gRPC are put together by the library: it is
/// given a call without a message, whose handler finds the refusal in the call's place.
async fn word(web: &Web, grpc: Option<Request>, error: ConnectError) -> Response {
    let Some(mut request) = grpc else {
        // The library's own conversion leaves the headers out.
        let headers = error.response_headers().clone();
        let mut response = error.into_response();
        for (name, value) in &headers {
            response.headers_mut().insert(name, value.clone());
        }
        return response;
    };
    request.extensions_mut().insert(Refused(error));
    let answer: Result<_, Infallible> = web.connect.clone().oneshot(request).await;
    match answer {
        Ok(answer) => answer.map(Body::new),
        Err(never) => match never {},
    }
}

/// The same call without its message.
fn empty_grpc_call(request: &Request) -> Request {
    let mut empty = Request::new(Body::from(&[0; GRPC_PREFIX][..]));
    *empty.method_mut() = Method::POST;
    *empty.version_mut() = request.version();
    request.uri().clone_into(empty.uri_mut());
    let content_type = HeaderValue::from_static("application/grpc");
    empty
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    empty
}

/// An answer, or what is to be told instead.
async fn offered(
    web: &Web,
    tongue: Option<Tongue>,
    method: Rpc,
    request_id: &str,
    request: Request,
) -> Result<Response, ConnectError> {
    let shared = &web.shared;
    let at = shared.clock.real();
    let refuse = |error: ConnectError, reason: Option<Reason>| {
        let name = method.name().to_owned();
        note(shared, at, name, request_id, error.code.as_str(), reason);
        Err(error)
    };
    let tongue = match check_head(shared, tongue, &request) {
        Ok(tongue) => tongue,
        Err(Unfit::Refused(refusal)) => {
            let reason = refusal.reason;
            if reason == Some(Reason::InsecureUserHeader) {
                audit_unread(shared, request_id, Reason::InsecureUserHeader);
            }
            return refuse(refusal.into_error(request_id), reason);
        }
        Err(Unfit::Http(error)) => return refuse(error, None),
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        let refusal = Refusal::new(Reason::BodyTooLarge, "body is larger than 64 KiB");
        return refuse(refusal.into_error(request_id), Some(Reason::BodyTooLarge));
    };
    let body_proof = match check_body(web, method, tongue, &body) {
        Ok(proof) => proof,
        Err(refusal) => {
            let reason = refusal.reason;
            if let Some(reason) = reason {
                audit_unread(shared, request_id, reason);
            }
            return refuse(refusal.into_error(request_id), reason);
        }
    };

    let fault = shared.state().faults.take(
        method.name(),
        &[
            FaultKind::Unavailable,
            FaultKind::Internal,
            FaultKind::RateLimited,
            FaultKind::Stall,
            FaultKind::CloseBefore,
            FaultKind::ClockSkew,
        ],
    );
    let proof_clock = if fault == Some(FaultKind::ClockSkew) {
        at.plus(SKEW)
    } else {
        at
    };
    let request = Request::from_parts(parts, Body::from(body));
    let host = host(&request).unwrap_or_default();
    let peer = request.extensions().get::<Peer>();
    let road = Road {
        peer: peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip()),
        url: format!("{}://{host}{}", scheme(&request), request.uri().path()),
        certificate: peer.and_then(|peer| peer.certificate.clone()),
    };
    let call = Arc::new(Call::new(
        method.name(),
        request_id.to_owned(),
        road,
        request.headers().clone(),
        at,
        proof_clock,
        web.checks,
        body_proof,
    ));

    let refusal = match fault {
        Some(FaultKind::Unavailable) => Refusal::bare(ErrorCode::Unavailable, "try again"),
        Some(FaultKind::Internal) => Refusal::bare(ErrorCode::Internal, "something broke"),
        Some(FaultKind::RateLimited) => rate_limited(1),
        Some(kind @ FaultKind::Stall) => {
            shared
                .journal
                .push(call.record("stalled", Some(kind.as_str())));
            let mut stopping = web.stopping.clone();
            // An error means that the server is gone: that ends the wait, too.
            drop(stopping.wait_for(|stopping| *stopping).await);
            return Ok(close());
        }
        Some(kind @ FaultKind::CloseBefore) => {
            shared
                .journal
                .push(call.record("closed", Some(kind.as_str())));
            return Ok(close());
        }
        _ => return Ok(serve(web, &call, request).await),
    };
    let error = call.refuse(refusal);
    let reason = call.trace().reason;
    shared
        .journal
        .push(call.record(error.code.as_str(), reason));
    Err(error)
}

/// Records a request that was refused before anybody knew whose it is.
fn audit_unread(shared: &Shared, request_id: &str, reason: Reason) {
    let entry = Entry {
        action: "auth.failed",
        outcome: "denied",
        reason: reason.as_str(),
        request_id: request_id.to_owned(),
        ..Entry::default()
    };
    let now = shared.clock.now();
    shared.state().ledger.append(entry, now);
}

/// Lets the service answer, then spoils the answer if that was asked for.
async fn serve(web: &Web, call: &Arc<Call>, mut request: Request) -> Response {
    let shared = &web.shared;
    request.extensions_mut().insert(Arc::clone(call));
    let answer: Result<_, Infallible> = web.connect.clone().oneshot(request).await;
    let mut response = match answer {
        Ok(answer) => answer.map(Body::new),
        Err(never) => match never {},
    };
    let trace = call.trace().clone();
    if let Some(nonce) = trace.nonce.and_then(|nonce| nonce.parse().ok()) {
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
    if call.proof_clock != call.at
        && let Ok(date) = http_date(call.proof_clock).parse()
    {
        response.headers_mut().insert(header::DATE, date);
    }
    // Not the status: gRPC answers 200 to everything.
    let fault = if trace.result == Some("ok") {
        shared.state().faults.take(
            call.method,
            &[
                FaultKind::CloseAfterCommit,
                FaultKind::BadJson,
                FaultKind::HugeBody,
            ],
        )
    } else {
        None
    };
    let result = trace.result.unwrap_or("invalid_argument");
    match fault {
        Some(FaultKind::CloseAfterCommit) => {
            shared
                .journal
                .push(call.record("closed", Some(FaultKind::CloseAfterCommit.as_str())));
            return close();
        }
        Some(FaultKind::BadJson) => *response.body_mut() = Body::from(r#"{"lease":{"#),
        Some(FaultKind::HugeBody) => {
            let text = format!(r#"{{"status":"{}"}}"#, "a".repeat(HUGE));
            *response.body_mut() = Body::from(text);
        }
        _ => {}
    }
    if fault.is_some() {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let reason = fault.map(FaultKind::as_str).or(trace.reason);
    shared.journal.push(call.record(result, reason));
    response
}

fn close() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(CloseConnection);
    response
}

/// RFC 9110 §5.6.7.
fn http_date(at: Moment) -> String {
    let date = time::OffsetDateTime::from_unix_timestamp(at.unix_seconds()).ok();
    let date = date.and_then(|at| at.format(&Rfc2822).ok());
    date.unwrap_or_default().replace("+0000", "GMT")
}

enum Unfit {
    Refused(Refusal),
    Http(ConnectError),
}

impl From<Refusal> for Unfit {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Checks method and headers.
fn check_head(shared: &Shared, tongue: Option<Tongue>, request: &Request) -> Result<Tongue, Unfit> {
    let strict = shared.state().policy.strictness.clone();
    if strict.host && !is_our_host(request) {
        return Err(Refusal::new(Reason::HostRefused, "not the host of this server").into());
    }
    let headers = request.headers();
    // The page of a browser's own address, as the API says it; over TLS, as it was called.
    let ours = if is_secure(request) {
        format!("https://{}", host(request).unwrap_or_default())
    } else {
        crate::wire::origin(&shared.api)
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let foreign = origins.next().is_some_and(|origin| origin != ours.as_str());
    if strict.origin && (foreign || origins.next().is_some()) {
        return Err(Refusal::new(Reason::OriginRefused, "not for other origins").into());
    }
    if request.method() != Method::POST {
        let mut error = ConnectError::method_not_allowed("POST only");
        let post = HeaderValue::from_static("POST");
        error.response_headers_mut().insert(header::ALLOW, post);
        return Err(Unfit::Http(error));
    }
    let Some(tongue) = tongue else {
        let known = "application/json, application/proto or application/grpc";
        return Err(Unfit::Http(ConnectError::unsupported_media_type(known)));
    };
    if [header::CONTENT_ENCODING, GRPC_ENCODING]
        .iter()
        .filter_map(|name| headers.get(name))
        .any(|encoding| encoding != "identity")
    {
        return Err(Refusal::bare(ErrorCode::Unimplemented, "no encoding but identity").into());
    }
    match tongue {
        Tongue::Json | Tongue::Proto => check_connect(&strict, headers)?,
        Tongue::Grpc => check_grpc(headers)?,
    }
    if headers.contains_key(INSECURE_USER) && !shared.allow_insecure_user {
        return Err(Refusal::new(
            Reason::InsecureUserHeader,
            "the insecure user header is off",
        )
        .into());
    }
    Ok(tongue)
}

/// The two headers of Connect's own.
fn check_connect(strict: &Strictness, headers: &HeaderMap) -> Result<(), Refusal> {
    let version = headers.get("connect-protocol-version");
    if version.is_some_and(|version| version != "1")
        || (strict.protocol_version && version.is_none())
    {
        return Err(Refusal::new(
            Reason::ProtocolVersionMissing,
            "Connect-Protocol-Version: 1 is required",
        ));
    }
    let timeout = headers.get("connect-timeout-ms").map(HeaderValue::as_bytes);
    if timeout.is_some_and(|digits| !is_number(digits, 10)) {
        return Err(
            Refusal::new(Reason::TypeMismatch, "timeout is at most 10 digits")
                .field("Connect-Timeout-Ms"),
        );
    }
    Ok(())
}

/// The timeout of gRPC: a number and a unit.
fn check_grpc(headers: &HeaderMap) -> Result<(), Refusal> {
    let timeout = headers.get("grpc-timeout").map(HeaderValue::as_bytes);
    let fits = match timeout {
        None => true,
        Some([digits @ .., unit]) => b"HMSmun".contains(unit) && is_number(digits, 8),
        Some([]) => false,
    };
    if fits {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::TypeMismatch,
        "timeout is at most 8 digits and a unit",
    )
    .field("grpc-timeout"))
}

fn is_number(digits: &[u8], longest: usize) -> bool {
    (1..=longest).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

/// The one message of a gRPC call, which is not compressed.
fn grpc_message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<GRPC_PREFIX>()?;
    let [0, length @ ..] = *prefix else {
        return None;
    };
    (usize::try_from(u32::from_be_bytes(length)) == Ok(message.len())).then_some(message)
}

/// Checks the raw body; the proof in it, for the journal.
fn check_body(
    web: &Web,
    method: Rpc,
    tongue: Tongue,
    body: &Bytes,
) -> Result<Option<String>, Refusal> {
    let strict = web.shared.state().policy.strictness.field_names && web.checks.make(Check::Body);
    let message = match tongue {
        Tongue::Json => None,
        Tongue::Proto => Some(&**body),
        Tongue::Grpc => Some(grpc_message(body).ok_or_else(|| {
            Refusal::new(Reason::TypeMismatch, "body is not one plain gRPC message")
        })?),
    };
    if let Some(message) = message {
        if strict {
            method.check_proto(message)?;
        }
        return Ok(None);
    }
    let malformed = || Refusal::new(Reason::TypeMismatch, "body is not JSON of bounded depth");
    let body = Json::parse(body).ok_or_else(malformed)?;
    if strict {
        method.check_json(&body)?;
    }
    let proof = ["requestProof", "request_proof"]
        .into_iter()
        .find_map(|name| body.member(name))
        .filter(|proof| !matches!(proof, Json::Null));
    Ok(proof.map(|proof| {
        ["dpopJwt", "dpop_jwt"]
            .into_iter()
            .find_map(|name| proof.member(name))
            .and_then(Json::text)
            .unwrap_or_default()
            .to_owned()
    }))
}
