//! A person signs in for a client: authorization code with PKCE (RFC 6749 §4.1, RFC 7636, RFC 9207).
//!
//! Looking at the page stores nothing: the request travels in the form and is read again as if it
//! had just come. What is wrong with the client or its redirect is told to the person; everything
//! else to the client, by its redirect.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, Extension, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::ISSUER;
use crate::audit::Entry;
use crate::clock::Moment;
use crate::encoding::{Hash, base64url, from_base64url, random_id, random_secret, sha256};
use crate::page::{self, Authorize, PageCheck, WrongPassword};
use crate::policy::Client;
use crate::revoke::Cause;
use crate::state::{Shared, State as Server};
use crate::web::{Peer, says_origin};

/// RFC 6749 §4.1.2: ten minutes at most; a client comes at once.
const CODE_LIFETIME: Duration = Duration::from_mins(1);
/// How long a code that was used, or not, is still known.
const REMEMBERED: Duration = Duration::from_hours(1);
const MAX_CODES: usize = 1024;
const SIGN_IN: &str = "/idp/sign-in";
/// The longest form has a request of [`MAX_QUERY`] in it.
const MAX_FORM: usize = 16 * 1024;
const MAX_QUERY: usize = 8 * 1024;
/// Of `state` and `nonce`.
const MAX_OPAQUE: usize = 1024;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/idp/authorize", get(authorize))
        .route(SIGN_IN, post(sign_in))
        .layer(from_fn_with_state(Arc::clone(&shared), protect))
        .route("/idp/token", post(token))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .with_state(shared)
}

/// A person who has signed in, on their way to the client.
#[derive(Debug)]
struct Code {
    client_id: String,
    redirect_uri: String,
    challenge: String,
    nonce: Option<String>,
    uid: String,
    expires_at: Moment,
    /// The `jti` of what it was redeemed for.
    redeemed: Option<String>,
}

/// The codes, by hash.
#[derive(Debug, Default)]
pub(super) struct Codes {
    by_hash: HashMap<Hash, Code>,
}

/// A request that a client may make.
#[derive(Debug)]
struct Authorization {
    client_id: String,
    redirect_uri: String,
    state: Option<String>,
    challenge: String,
    nonce: Option<String>,
}

/// Why a request is not granted.
enum Unfit {
    /// Nobody knows whether the redirect is the client's.
    Client(&'static str),
    /// Told to the client.
    Redirected {
        redirect_uri: String,
        state: Option<String>,
        error: &'static str,
    },
}

impl Authorization {
    /// Reads a request as it stands in an address.
    fn read(query: &str, server: &Server) -> Result<Self, Unfit> {
        if query.len() > MAX_QUERY {
            return Err(Unfit::Client("The request is too long."));
        }
        let mut parameters: HashMap<String, String> = HashMap::new();
        let mut doubled = false;
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            doubled |= parameters
                .insert(name.into_owned(), value.into_owned())
                .is_some();
        }
        if doubled {
            return Err(Unfit::Client("The request says something twice."));
        }
        let mut take = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
        let client_id = take("client_id").unwrap_or_default();
        let client = server.policy.client(&client_id);
        let client = client.ok_or(Unfit::Client("No such program is known here."))?;
        let redirect_uri = take("redirect_uri").unwrap_or_default();
        if !may_redirect(client, &redirect_uri) {
            let words = "The program asks to be answered at an address that is not its own.";
            return Err(Unfit::Client(words));
        }
        let state = take("state");
        let unfit = |error| Unfit::Redirected {
            redirect_uri: redirect_uri.clone(),
            state: state.clone().filter(|state| is_opaque(state)),
            error,
        };
        if state.as_deref().is_some_and(|state| !is_opaque(state)) {
            return Err(unfit("invalid_request"));
        }
        if take("response_type").as_deref() != Some("code") {
            return Err(unfit("unsupported_response_type"));
        }
        if take("response_mode").is_some_and(|mode| mode != "query") {
            return Err(unfit("invalid_request"));
        }
        let scope = take("scope").unwrap_or_default();
        if !scope.split(' ').any(|word| word == "openid") {
            return Err(unfit("invalid_scope"));
        }
        // OA-2: `plain`, which is also what leaving the method out means, is no protection.
        if take("code_challenge_method").as_deref() != Some("S256") {
            return Err(unfit("invalid_request"));
        }
        let challenge = take("code_challenge")
            .filter(|challenge| challenge.len() == 43 && from_base64url(challenge).is_some());
        let challenge = challenge.ok_or_else(|| unfit("invalid_request"))?;
        let nonce = take("nonce");
        if nonce.as_deref().is_some_and(|nonce| !is_opaque(nonce)) {
            return Err(unfit("invalid_request"));
        }
        Ok(Self {
            client_id,
            redirect_uri,
            state,
            challenge,
            nonce,
        })
    }
}

fn is_opaque(text: &str) -> bool {
    text.len() <= MAX_OPAQUE && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// OA-4: byte for byte one of the client's; only the port of a loopback literal is free (RFC 8252
/// §7.3).
fn may_redirect(client: &Client, asked: &str) -> bool {
    client.redirect_uris.iter().any(|known| {
        known == asked
            || without_port(asked).is_some_and(|asked| *known == asked)
                && without_port(known).as_deref() == Some(known)
    })
}

/// A loopback address as it would be without its port; `None` for any other address, and for one
/// that is not written as it would be read.
fn without_port(text: &str) -> Option<String> {
    let mut url = Url::parse(text).ok()?;
    let literal = matches!(url.host_str(), Some("127.0.0.1" | "[::1]"));
    if !literal || url.scheme() != "http" || url.as_str() != text || url.fragment().is_some() {
        return None;
    }
    url.set_port(None).ok()?;
    Some(url.into())
}

/// Where a client is told something.
fn answer(shared: &Shared, redirect_uri: &str, members: &[(&str, &str)]) -> Response {
    let Ok(mut url) = Url::parse(redirect_uri) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    url.query_pairs_mut()
        .extend_pairs(members.iter().filter(|(_, value)| !value.is_empty()))
        .append_pair("iss", &shared.issuer(ISSUER));
    // 303: what was sent to us is not sent on.
    let mut response = Redirect::to(url.as_str()).into_response();
    response.headers_mut().insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

fn refuse(shared: &Shared, unfit: Unfit) -> Response {
    match unfit {
        Unfit::Client(words) => page::refuse(StatusCode::BAD_REQUEST, "Not signed in", words),
        Unfit::Redirected {
            redirect_uri,
            state,
            error,
        } => {
            let state = state.unwrap_or_default();
            answer(
                shared,
                &redirect_uri,
                &[("error", error), ("state", &state)],
            )
        }
    }
}

/// Where the browser may go once the form is sent: the redirect's origin. In an answer's
/// extensions.
#[derive(Clone)]
struct FormTarget(String);

/// The headers of a page, and no form from another site.
async fn protect(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let looks = request.method() == Method::GET || request.method() == Method::HEAD;
    let from_here = says_origin(&request).unwrap_or(looks);
    let strict = shared.state().policy.strictness.origin && !shared.page_lacks(PageCheck::Origin);
    let mut response = if strict && !from_here {
        let words = "The form was not sent by a page of this server.";
        page::refuse(StatusCode::FORBIDDEN, "Not from here", words)
    } else {
        next.run(request).await
    };
    let target = response.extensions_mut().remove::<FormTarget>();
    let target = target.map(|target| target.0);
    page::add_headers(&shared, &mut response, target.as_deref());
    response
}

async fn authorize(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let asked = Authorization::read(&query, &shared.state());
    match asked {
        Ok(asked) => show(&shared, &headers, &query, &asked, "", None),
        Err(unfit) => refuse(&shared, unfit),
    }
}

fn page<'a>(query: &'a str, asked: &'a Authorization) -> Authorize<'a> {
    Authorize {
        path: ISSUER,
        action: SIGN_IN,
        query,
        client: &asked.client_id,
    }
}

/// The sign-in, for that request.
fn show(
    shared: &Shared,
    headers: &HeaderMap,
    query: &str,
    asked: &Authorization,
    name: &str,
    wrong: Option<&WrongPassword>,
) -> Response {
    let mut response = page(query, asked).show(shared, headers, name, wrong);
    if let Ok(url) = Url::parse(&asked.redirect_uri) {
        let origin = url.origin().ascii_serialization();
        response.extensions_mut().insert(FormTarget(origin));
    }
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    form_token: String,
    name: String,
    password: String,
    query: String,
}

async fn sign_in(
    State(shared): State<Arc<Shared>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    form: Result<axum::Form<SignIn>, FormRejection>,
) -> Response {
    let form = match form {
        Ok(axum::Form(form)) => form,
        Err(rejection) => return page::unreadable(&rejection),
    };
    let asked = match Authorization::read(&form.query, &shared.state()) {
        Ok(asked) => asked,
        Err(unfit) => return refuse(&shared, unfit),
    };
    if !page(&form.query, &asked).accepts(&shared, &headers, &form.form_token) {
        return page::out_of_date();
    }
    let id = random_id("req_");
    let uid = match page::check_password(&shared, peer, &form.name, &form.password, id) {
        Ok(uid) => uid,
        Err(wrong) => {
            return show(
                &shared,
                &headers,
                &form.query,
                &asked,
                &form.name,
                Some(&wrong),
            );
        }
    };
    let state = asked.state.clone().unwrap_or_default();
    let redirect_uri = asked.redirect_uri.clone();
    let now = shared.clock.now();
    let code = shared.state().begin_code(asked, uid, now);
    match code {
        Some(code) => answer(
            &shared,
            &redirect_uri,
            &[("code", &code), ("state", &state)],
        ),
        None => answer(
            &shared,
            &redirect_uri,
            &[("error", "temporarily_unavailable"), ("state", &state)],
        ),
    }
}

impl Server {
    fn begin_code(&mut self, asked: Authorization, uid: String, now: Moment) -> Option<String> {
        let codes = &mut self.idp.codes.by_hash;
        codes.retain(|_, code| now < code.expires_at.plus(REMEMBERED));
        if codes.len() >= MAX_CODES {
            return None;
        }
        let code = random_secret("oac_");
        let kept = Code {
            client_id: asked.client_id,
            redirect_uri: asked.redirect_uri,
            challenge: asked.challenge,
            nonce: asked.nonce,
            uid,
            expires_at: now.plus(CODE_LIFETIME),
            redeemed: None,
        };
        codes.insert(sha256(code.as_bytes()), kept);
        self.secret("authorization_code", &code);
        Some(code)
    }

    /// Takes back an ID token, and the sessions that were made for it.
    fn revoke_id_token(&mut self, jti: &str, now: Moment) {
        self.idp.revoked.insert(jti.to_owned());
        let sessions = self
            .broker_sessions
            .live(now, |session| session.id_token.as_deref() == Some(jti));
        let entry = Entry {
            request_id: random_id("req_"),
            ..Entry::default()
        };
        let cause = Cause {
            entry,
            reason: "leak_detected",
        };
        for session in sessions {
            self.end_session(&session, &cause, now);
        }
    }
}

#[derive(Deserialize)]
struct TokenRequest {
    grant_type: Option<String>,
    code: Option<String>,
    redirect_uri: Option<String>,
    client_id: Option<String>,
    code_verifier: Option<String>,
}

/// RFC 6749 §5.2.
fn denied(error: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
}

async fn token(
    State(shared): State<Arc<Shared>>,
    form: Result<axum::Form<TokenRequest>, FormRejection>,
) -> Response {
    let Ok(axum::Form(form)) = form else {
        return denied("invalid_request");
    };
    let mut response = match shared.redeem_code(&form) {
        Ok(token) => Json(json!({
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": "openid",
            // `OpenID` Connect Core §3.1.3.3 wants one; nothing here takes it.
            "access_token": random_secret("oat_"),
            "id_token": token,
        }))
        .into_response(),
        Err(error) => denied(error),
    };
    // OA-21, whatever the policy says of other answers.
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

impl Shared {
    fn redeem_code(&self, request: &TokenRequest) -> Result<String, &'static str> {
        match request.grant_type.as_deref() {
            Some("authorization_code") => {}
            Some(_) => return Err("unsupported_grant_type"),
            None => return Err("invalid_request"),
        }
        let (Some(code), Some(client_id), Some(redirect_uri), Some(verifier)) = (
            request.code.as_deref(),
            request.client_id.as_deref(),
            request.redirect_uri.as_deref(),
            request.code_verifier.as_deref(),
        ) else {
            return Err("invalid_request");
        };
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        if state.policy.client(client_id).is_none() {
            return Err("invalid_client");
        }
        let hash = sha256(code.as_bytes());
        let Some(known) = state.idp.codes.by_hash.get(&hash) else {
            return Err("invalid_grant");
        };
        // OA-3: somebody has it who should not; nobody knows which of the two.
        if let Some(jti) = known.redeemed.clone() {
            state.revoke_id_token(&jti, now);
            return Err("invalid_grant");
        }
        let fits = known.client_id == client_id
            && known.redirect_uri == redirect_uri
            && now < known.expires_at
            && is_verifier(verifier)
            && base64url(&sha256(verifier.as_bytes())) == known.challenge;
        if !fits {
            // A code that was tried in vain is not tried again.
            state.idp.codes.by_hash.remove(&hash);
            let entry = Entry {
                action: "auth.failed",
                outcome: "denied",
                ..Entry::default()
            };
            state.ledger.append(entry, now);
            return Err("invalid_grant");
        }
        let (uid, nonce) = (known.uid.clone(), known.nonce.clone());
        let (token, jti) = self.sign_id_token(state, &uid, client_id, nonce.as_deref());
        if let Some(known) = state.idp.codes.by_hash.get_mut(&hash) {
            known.redeemed = Some(jti);
        }
        Ok(token)
    }
}

/// RFC 7636 §4.1.
fn is_verifier(text: &str) -> bool {
    (43..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OA-4.
    #[test]
    fn a_redirect_is_the_clients_own_but_for_the_port_of_a_loopback_literal() {
        let client = Client {
            id: "c".to_owned(),
            redirect_uris: [
                "http://127.0.0.1/callback",
                "http://[::1]/callback",
                "https://app.example/callback",
                "http://localhost/callback",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        for good in [
            "http://127.0.0.1/callback",
            "http://127.0.0.1:1/callback",
            "http://127.0.0.1:65535/callback",
            "http://[::1]:8080/callback",
            "https://app.example/callback",
            "http://localhost/callback",
        ] {
            assert!(may_redirect(&client, good), "{good}");
        }
        for bad in [
            "",
            "callback",
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8080/",
            "http://127.0.0.1:8080/callback/",
            "http://127.0.0.1:8080/Callback",
            "http://127.0.0.1:8080/callback?x=1",
            "http://127.0.0.1:8080/callback#x",
            "http://127.0.0.1:8080/x/../callback",
            "http://127.0.0.1:8080/call%62ack",
            "http://127.0.0.1:080/callback",
            "http://127.0.0.1:80/callback",
            "http://127.0.0.2:8080/callback",
            "http://127.1:8080/callback",
            "http://2130706433:8080/callback",
            "http://user@127.0.0.1:8080/callback",
            "http://127.0.0.1.evil.example/callback",
            "https://127.0.0.1:8080/callback",
            "HTTP://127.0.0.1:8080/callback",
            "http://localhost:8080/callback",
            "https://app.example:8443/callback",
            "https://app.example/callback/",
            "https://evil.example/callback",
            "javascript:alert(1)",
        ] {
            assert!(!may_redirect(&client, bad), "{bad}");
        }
    }
}
