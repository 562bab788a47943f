//! The control API: what a test does to the server from another process.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::audit::Entry;
use crate::encoding::{random_id, sha256};
use crate::fault::FaultKind;
use crate::identity::DEMO_UID;
use crate::policy::Policy;
use crate::revoke::Cause;
use crate::schema::Method;
use crate::state::Shared;
use crate::web::{host, is_loopback_name};

/// Why a control command could not be obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No device authorization has this code.
    #[error("no device authorization has this user code")]
    UnknownUserCode,
    /// It is denied, expired or consumed.
    #[error("the device authorization is no longer pending")]
    NotPending,
    /// The person does not belong to the tenant it is for.
    #[error("the user is not a member of the tenant")]
    NotAMember,
    /// There is nothing of that name that lives.
    #[error("there is nothing of that name to revoke")]
    NothingToRevoke,
}

/// What can be taken back, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Revocable {
    /// One token, by its `jti`.
    TokenJti(String),
    /// The keys of that `pop_key_id`, or of that fingerprint.
    PopKeyId(String),
    /// One session.
    SessionId(String),
    /// One lease.
    LeaseId(String),
    /// Every session of a principal, in whatever tenant.
    Principal(String),
}

/// More calls than a test makes. A fault that is not wanted any more ends with `reset`.
const MAX_COUNT: u32 = 1000;

#[derive(Clone)]
struct Control {
    shared: Arc<Shared>,
    token: Arc<str>,
    port: u16,
    /// PEM; empty without a TLS listener.
    tls_ca: Arc<str>,
}

pub(crate) fn router(shared: Arc<Shared>, token: Arc<str>, port: u16, tls_ca: Arc<str>) -> Router {
    let control = Control {
        shared,
        token,
        port,
        tls_ca,
    };
    Router::new()
        .route("/_ctl/approve", post(approve))
        .route("/_ctl/deny", post(deny))
        .route("/_ctl/expire", post(expire))
        .route("/_ctl/clock", post(clock))
        .route("/_ctl/fault", post(fault))
        .route("/_ctl/nonce/rotate", post(rotate_nonce))
        .route("/_ctl/keys/rotate", post(rotate_keys))
        .route("/_ctl/policy", post(policy))
        .route("/_ctl/revoke", post(revoke))
        .route("/_ctl/workload-token", post(workload_token))
        .route("/_ctl/reset", post(reset))
        .route("/_ctl/requests", get(requests))
        .route("/_ctl/leases", get(leases))
        .route("/_ctl/secrets", get(secrets))
        .route("/_ctl/audit", get(audit))
        .route("/_ctl/alerts", get(alerts))
        .route("/_ctl/tls-ca", get(tls_authority))
        .route("/_ctl/actions", get(actions))
        .route("/_ctl/id-token", post(id_token))
        .layer(from_fn_with_state(control.clone(), admit))
        .with_state(control)
}

async fn admit(State(control): State<Control>, request: Request, next: Next) -> Response {
    let mut response = match check(&control, &request) {
        Ok(()) => next.run(request).await,
        Err((status, why)) => refuse(status, why),
    };
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

/// Only this machine, only the holder of the token, never a browser.
fn check(control: &Control, request: &Request) -> Result<(), (StatusCode, &'static str)> {
    let headers = request.headers();
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let here = host(request).is_some_and(|host| is_loopback_name(&host, Some(control.port)));
    if !here || headers.contains_key(header::ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "not from here"));
    }
    let token = header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    // Compared as hashes, so that timing tells nothing of the token.
    let expected = sha256(control.token.as_bytes());
    if token.map(|token| sha256(token.as_bytes())) != Some(expected) {
        return Err((StatusCode::UNAUTHORIZED, "the control token is required"));
    }
    Ok(())
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({"error": why}))).into_response()
}

fn done() -> Response {
    Json(json!({})).into_response()
}

fn obeyed(result: Result<(), ControlError>) -> Response {
    match result {
        Ok(()) => done(),
        Err(error @ (ControlError::UnknownUserCode | ControlError::NothingToRevoke)) => {
            refuse(StatusCode::NOT_FOUND, &error.to_string())
        }
        Err(error @ (ControlError::NotPending | ControlError::NotAMember)) => {
            refuse(StatusCode::CONFLICT, &error.to_string())
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UserCode {
    user_code: String,
}

async fn approve(State(control): State<Control>, Json(code): Json<UserCode>) -> Response {
    obeyed(
        control
            .shared
            .decide_by_control(&code.user_code, DEMO_UID, true),
    )
}

async fn deny(State(control): State<Control>, Json(code): Json<UserCode>) -> Response {
    obeyed(
        control
            .shared
            .decide_by_control(&code.user_code, DEMO_UID, false),
    )
}

async fn expire(State(control): State<Control>, Json(code): Json<UserCode>) -> Response {
    obeyed(control.shared.expire_by_control(&code.user_code))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Advance {
    advance_seconds: u32,
}

async fn clock(State(control): State<Control>, Json(by): Json<Advance>) -> Response {
    let by = Duration::from_secs(by.advance_seconds.into());
    control.shared.clock.advance(by);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetFault {
    method: String,
    kind: FaultKind,
    #[serde(default = "once")]
    count: u32,
}

fn once() -> u32 {
    1
}

async fn fault(State(control): State<Control>, Json(fault): Json<SetFault>) -> Response {
    if !Method::is_offered(&fault.method) {
        return refuse(StatusCode::NOT_FOUND, "no such method");
    }
    if !(1..=MAX_COUNT).contains(&fault.count) {
        return refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "count is not in 1 to 1000",
        );
    }
    let mut state = control.shared.state();
    state.faults.set(&fault.method, fault.kind, fault.count);
    done()
}

async fn rotate_nonce(State(control): State<Control>) -> Response {
    control.shared.state().nonces.rotate();
    done()
}

async fn rotate_keys(State(control): State<Control>) -> Response {
    control.shared.rotate_keys();
    done()
}

async fn revoke(State(control): State<Control>, Json(what): Json<Revocable>) -> Response {
    match control.shared.revoke_by_control(&what) {
        Ok(()) if control.shared.save_revocations().await.is_err() => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "it has ended, and that cannot be saved",
        ),
        result => obeyed(result),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadToken {
    #[serde(default)]
    claims: Map<String, Value>,
}

async fn workload_token(
    State(control): State<Control>,
    Json(wanted): Json<WorkloadToken>,
) -> Response {
    let token = control.shared.sign_workload_token(&wanted.claims);
    Json(json!({ "token": token })).into_response()
}

/// An ID token of the demo person, as a sign-in at the console would yield it.
async fn id_token(State(control): State<Control>) -> Response {
    Json(json!({ "token": control.shared.demo_id_token() })).into_response()
}

async fn alerts(State(control): State<Control>) -> Response {
    let state = control.shared.state();
    let monitor = &state.ledger.monitor;
    let alerts: Vec<_> = monitor.alerts().collect();
    Json(json!({ "alerts": alerts, "totals": monitor.totals() })).into_response()
}

async fn tls_authority(State(control): State<Control>) -> Response {
    match &*control.tls_ca {
        "" => refuse(StatusCode::NOT_FOUND, "there is no TLS listener"),
        pem => {
            let kind = [(header::CONTENT_TYPE, "application/x-pem-file")];
            (kind, pem.to_owned()).into_response()
        }
    }
}

/// Where a CI job asks for its token, and with which bearer.
async fn actions(State(control): State<Control>) -> Response {
    let (url, token) = control.shared.actions_request();
    Json(json!({ "url": url, "token": token })).into_response()
}

impl Shared {
    /// Takes something back, as an operator would.
    pub(crate) fn revoke_by_control(&self, what: &Revocable) -> Result<(), ControlError> {
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.expire_leases(now);
        let entry = Entry {
            request_id: random_id("req_"),
            ..Entry::default()
        };
        let cause = Cause {
            entry,
            reason: "user_request",
        };
        let found = match what {
            Revocable::TokenJti(jti) => {
                let tokens = state.tokens.live(now, |token| token.jti == *jti);
                for token in &tokens {
                    state.revoke_token(token, &cause, now);
                }
                !tokens.is_empty()
            }
            Revocable::PopKeyId(id) => {
                let mut keys = state.keys.named(id);
                keys.extend(state.tenant_of_svid(id).map(|tenant| (tenant, id.clone())));
                for (tenant, thumbprint) in &keys {
                    state.revoke_key(tenant, thumbprint, "", &cause, now);
                }
                !keys.is_empty()
            }
            Revocable::SessionId(id) => state.end_session(id, &cause, now).is_some(),
            Revocable::LeaseId(id) => {
                let leases = state.leases.unended(now, |lease| lease.id == *id);
                state.end_leases(&leases, &cause, now) > 0
            }
            Revocable::Principal(principal) => {
                let sessions = state
                    .broker_sessions
                    .live(now, |session| session.principal == *principal);
                for session in &sessions {
                    state.end_session(session, &cause, now);
                }
                !sessions.is_empty()
            }
        };
        if found {
            Ok(())
        } else {
            Err(ControlError::NothingToRevoke)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPolicy {
    toml: String,
}

async fn policy(State(control): State<Control>, Json(policy): Json<SetPolicy>) -> Response {
    match Policy::parse(Some(&policy.toml)) {
        Ok(policy) => {
            control.shared.change_policy(policy);
            done()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn reset(State(control): State<Control>) -> Response {
    control.shared.reset();
    done()
}

async fn requests(State(control): State<Control>) -> Response {
    let requests: Vec<_> = control.shared.journal.records().iter().cloned().collect();
    Json(json!({ "requests": requests })).into_response()
}

async fn leases(State(control): State<Control>) -> Response {
    let now = control.shared.clock.now();
    let mut state = control.shared.state();
    state.expire_leases(now);
    let leases: Vec<Value> = state
        .leases
        .all()
        .filter_map(|lease| {
            let mut value = serde_json::to_value(lease.to_message(now)).ok()?;
            let members = value.as_object_mut()?;
            members.insert("principal".to_owned(), json!(lease.principal));
            members.insert("jkt".to_owned(), json!(lease.jkt));
            Some(value)
        })
        .collect();
    Json(json!({ "leases": leases })).into_response()
}

async fn secrets(State(control): State<Control>) -> Response {
    let secrets = control.shared.state().secrets.clone();
    Json(json!({ "secrets": secrets })).into_response()
}

async fn audit(State(control): State<Control>) -> Response {
    let now = control.shared.clock.now();
    let mut state = control.shared.state();
    state.expire_leases(now);
    Json(json!({ "events": state.ledger.records() })).into_response()
}
