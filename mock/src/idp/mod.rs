//! The identity provider: people sign in with a code and PKCE, workloads get signed tokens.
//!
//! Its issuer is the API's address and `/idp`; the policy may name more below that, which differ in
//! how their workload tokens may be used again. `authorize.rs` has the sign-in and the token
//! endpoint, `workload.rs` judges workload tokens. Its keys can be rotated.

mod authorize;
mod id_token;
pub(crate) mod workload;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use crate::clock::Moment;
use crate::encoding::{random_id, random_secret, sha256};
use crate::identity::tokens::KeyRing;
use crate::state::Shared;
use crate::web::{identify, note};
use crate::wire;

pub(crate) use id_token::INSECURE_USER;

/// The issuer's path.
pub(crate) const ISSUER: &str = "/idp";
const WORKLOAD_TOKEN_TTL: Duration = Duration::from_mins(10);
/// Who takes workload tokens.
pub(crate) const API_AUDIENCE: &str = "aegis-api";
/// The path of the CI request URL.
const ACTIONS: &str = "idp/actions/token";
/// The longest audience that is asked for.
const MAX_AUDIENCE: usize = 256;

/// What the identity provider remembers.
#[derive(Debug)]
pub(crate) struct Idp {
    pub(crate) keys: KeyRing,
    codes: authorize::Codes,
    /// The `jti` of ID tokens that are worth nothing any more.
    revoked: HashSet<String>,
    /// What a CI job shows at the request URL.
    actions: String,
}

impl Default for Idp {
    fn default() -> Self {
        Self {
            keys: KeyRing::generate(),
            codes: authorize::Codes::default(),
            revoked: HashSet::new(),
            actions: random_secret("act_"),
        }
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/idp/jwks", get(jwks))
        .route("/idp/.well-known/openid-configuration", get(metadata))
        .route(
            "/idp/{name}/.well-known/openid-configuration",
            get(metadata),
        )
        .route("/idp/actions/token", get(actions))
        .with_state(Arc::clone(&shared))
        .merge(authorize::router(Arc::clone(&shared)))
        .layer(from_fn_with_state(shared, noted))
}

/// Gives each request its id, and a place in the journal to those that want something.
async fn noted(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let id = random_id("req_");
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let looks = request.method() == Method::GET && path != ACTIONS;
    let mut response = next.run(request).await;
    if !looks {
        let at = shared.clock.real();
        note(&shared, at, path, &id, result_word(response.status()), None);
    }
    identify(&mut response, &id);
    response
}

fn result_word(status: StatusCode) -> &'static str {
    match status {
        StatusCode::OK | StatusCode::SEE_OTHER => "ok",
        StatusCode::UNAUTHORIZED => "unauthenticated",
        StatusCode::FORBIDDEN => "permission_denied",
        StatusCode::TOO_MANY_REQUESTS => "resource_exhausted",
        _ => "invalid_argument",
    }
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    let now = shared.clock.now();
    let keys = shared.state().idp.keys.jwks(now);
    Json(keys).into_response()
}

/// `OpenID` Connect Discovery 1.0 §3, for each issuer of the policy.
async fn metadata(State(shared): State<Arc<Shared>>, name: Option<Path<String>>) -> Response {
    let path = name.map_or_else(
        || ISSUER.to_owned(),
        |Path(name)| format!("{ISSUER}/{name}"),
    );
    let known = path == ISSUER || shared.state().policy.issuer(&path).is_some();
    if !known {
        return StatusCode::NOT_FOUND.into_response();
    }
    let origin = wire::origin(&shared.api);
    let issuer = format!("{origin}{path}");
    Json(json!({
        "issuer": issuer,
        "jwks_uri": format!("{origin}/idp/jwks"),
        "authorization_endpoint": format!("{origin}/idp/authorize"),
        "token_endpoint": format!("{origin}/idp/token"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "scopes_supported": ["openid"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "jti", "nonce"],
        "authorization_response_iss_parameter_supported": true,
    }))
    .into_response()
}

/// The request URL of a CI job: `GET url&audience=…` with its bearer.
async fn actions(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let bearer = values
        .next()
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let expected = sha256(shared.state().idp.actions.as_bytes());
    let ours = bearer.is_some_and(|bearer| sha256(bearer.as_bytes()) == expected);
    if !ours || values.next().is_some() {
        let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
        let why = Json(json!({"message": "the request token is required"}));
        return (StatusCode::UNAUTHORIZED, challenge, why).into_response();
    }
    let query = query.unwrap_or_default();
    let mut audiences = url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "audience")
        .map(|(_, value)| value.into_owned());
    let audience = audiences.next().filter(|audience| {
        (1..=MAX_AUDIENCE).contains(&audience.len()) && !audience.chars().any(char::is_control)
    });
    let (Some(audience), None) = (audience, audiences.next()) else {
        let why = Json(json!({"message": "one audience is required"}));
        return (StatusCode::BAD_REQUEST, why).into_response();
    };
    let mut claims = Map::new();
    claims.insert("aud".to_owned(), json!(audience));
    let token = shared.sign_workload_token(&claims);
    Json(json!({ "value": token })).into_response()
}

impl Shared {
    /// A workload's identity token: of the policy's first workload, for us, for ten minutes, but
    /// for the claims given; a claim of `null` is left out.
    pub(crate) fn sign_workload_token(&self, claims: &Map<String, Value>) -> String {
        let now = self.clock.now();
        let mut state = self.state();
        let first = state.policy.workloads.first();
        let path = first.map_or(ISSUER, |workload| workload.issuer.as_str());
        let subject = first.map_or("", |workload| workload.subject.as_str());
        let mut all = json!({
            "iss": self.issuer(path),
            "sub": subject,
            "aud": API_AUDIENCE,
            "iat": now.unix_seconds(),
            "nbf": now.unix_seconds(),
            "exp": now.plus(WORKLOAD_TOKEN_TTL).unix_seconds(),
            "jti": random_id("wlt_"),
        });
        if let Some(all) = all.as_object_mut() {
            for (name, value) in claims {
                if value.is_null() {
                    all.remove(name);
                } else {
                    all.insert(name.clone(), value.clone());
                }
            }
        }
        let token = state.idp.keys.sign("JWT", &all);
        state.secret("workload_token", &token);
        token
    }

    /// Where a CI job asks for its token, and with which bearer.
    pub(crate) fn actions_request(&self) -> (String, String) {
        let url = format!("{}/idp/actions/token?run=1", wire::origin(&self.api));
        (url, self.state().idp.actions.clone())
    }

    /// Signs with new keys from now on, identity and broker tokens alike.
    pub(crate) fn rotate_keys(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        state.idp.keys.rotate(now);
        state.signer.rotate(now);
    }

    /// An issuer as its tokens have it.
    pub(crate) fn issuer(&self, path: &str) -> String {
        format!("{}{path}", wire::origin(&self.api))
    }
}

/// Seconds since the epoch, as claims have them.
fn seconds(claims: &Value, name: &str) -> Option<i64> {
    claims.get(name).and_then(Value::as_i64)
}

/// Whether a moment that a claim names is over.
fn is_over(seconds: Option<i64>, now: Moment) -> bool {
    seconds.is_none_or(|end| now.unix_seconds() >= end)
}
