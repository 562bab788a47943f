//! The approval page: where a person signs in, compares the code, and approves or denies.
//!
//! Five pages made here, without a script. What a page is about is kept in the session, not in
//! its address, and looking at one changes nothing. `html.rs` keeps text from becoming markup,
//! `views.rs` has the pages, `session.rs` knows who signed in and which forms are good; this file
//! has the surface: headers, `Origin`, cookies, and a handler for each address.

mod html;
mod session;
mod views;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Extension, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html as HtmlResponse, IntoResponse as _, Redirect, Response};
use axum::routing::get;
use serde::Deserialize;

use crate::audit::Entry;
use crate::encoding::{random_id, user_code};
use crate::errors::{Reason, Refusal};
use crate::identity::device::{Standing, Wish};
use crate::policy::Policy;
use crate::state::Shared;
use crate::web::{Peer, identify, note, says_origin};

use html::Html;
use session::Stage;

pub(crate) use session::{Form, Password, Sessions};

/// What keeps the page from being used against who sits in front of it. A test that shows one of
/// them must fail where it is left out, or it shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCheck {
    /// The token in each form.
    FormToken,
    /// The headers that forbid framing.
    Framing,
    /// That a request names this machine as its `Host`.
    Host,
    /// That a form comes from a page of this server.
    Origin,
    /// `HttpOnly` and `SameSite` of the cookie.
    Cookie,
    /// The limit of wrong codes and passwords.
    Guesses,
}

const ENTRY: &str = "/device";
const SIGN_IN: &str = "/device/sign-in";
const CODE: &str = "/device/code";
const REVIEW: &str = "/device/review";
const DECISION: &str = "/device/decision";
const RESULT: &str = "/device/result";
const SIGN_OUT: &str = "/device/sign-out";
const STYLE: &str = "/device/style.css";

/// The longest form is the sign-in, with a few hundred bytes.
const MAX_FORM: usize = 4 * 1024;
/// Wrong passwords in a minute from one address.
const MAX_TRIES: u32 = 5;

/// What every answer says. Nothing loads but our style sheet, nothing is sent anywhere but here,
/// and nobody frames it. The referrer stays for our own requests only: with none at all a browser
/// would say `Origin: null` with our own forms.
const HEADERS: [(header::HeaderName, &str); 8] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (
        header::HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        header::HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::X_DNS_PREFETCH_CONTROL, "off"),
];

const CSP: header::HeaderName = header::CONTENT_SECURITY_POLICY;
/// The part of it that says where forms go.
const FORM_ACTION: &str = "form-action 'self'";

/// Those of them that keep the page out of frames, and what they forbid besides.
const FRAMING: [header::HeaderName; 2] = [header::CONTENT_SECURITY_POLICY, header::X_FRAME_OPTIONS];

/// Where a person signs in and approves, below the server's address.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(ENTRY, get(entry))
        .route(SIGN_IN, get(start_over).post(sign_in))
        .route(CODE, get(start_over).post(enter_code))
        .route(REVIEW, get(review))
        .route(DECISION, get(start_over).post(decide))
        .route(RESULT, get(result))
        .route(SIGN_OUT, get(start_over).post(sign_out))
        .route(STYLE, get(style))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(from_fn_with_state(Arc::clone(&shared), protect))
        .with_state(shared)
}

/// The uid behind a name: a person's uid, its `u-` left out or not.
fn uid_of<'a>(policy: &'a Policy, name: &str) -> Option<&'a str> {
    let mut uids = policy.users.iter().map(|user| user.uid.as_str());
    uids.find(|uid| *uid == name || uid.strip_prefix("u-") == Some(name))
}

/// The name that a person signs in with.
pub(crate) fn name_of(uid: &str) -> &str {
    uid.strip_prefix("u-").unwrap_or(uid)
}

/// Under which id journal and audit have the request.
#[derive(Clone)]
struct RequestId(String);

/// Puts the headers on whatever is answered, and lets no other site send a form.
async fn protect(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let id = random_id("req_");
    let sent = (request.method() != Method::GET && request.method() != Method::HEAD)
        .then(|| request.uri().path().trim_start_matches('/').to_owned());
    let strict = shared.state().policy.strictness.origin && !shared.page_lacks(PageCheck::Origin);
    let mut response = if strict && !is_from_here(&request) {
        refuse(
            StatusCode::FORBIDDEN,
            "Not from here",
            "The form was not sent by a page of this server.",
        )
    } else {
        request.extensions_mut().insert(RequestId(id.clone()));
        next.run(request).await
    };
    if let Some(path) = sent {
        let at = shared.clock.real();
        note(&shared, at, path, &id, result_word(response.status()), None);
    }
    add_headers(&shared, &mut response, None);
    identify(&mut response, &id);
    response
}

/// The headers of every answer. `form_target` is where else a form may lead: a browser holds the
/// answer to a form to that, too.
pub(crate) fn add_headers(shared: &Shared, response: &mut Response, form_target: Option<&str>) {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let (Some(target), Some(policy)) = (form_target, headers.get(CSP)) {
        let policy = policy.to_str().unwrap_or_default();
        let wider = policy.replace(FORM_ACTION, &format!("{FORM_ACTION} {target}"));
        if let Ok(wider) = HeaderValue::from_str(&wider) {
            headers.insert(CSP, wider);
        }
    }
    if shared.page_lacks(PageCheck::Framing) {
        for name in FRAMING {
            headers.remove(name);
        }
    }
}

/// Whether the browser says that the page it was on is ours: it must with a form, and it must not
/// say otherwise when it looks. `Host` has been checked before.
fn is_from_here(request: &Request) -> bool {
    let looks = request.method() == Method::GET || request.method() == Method::HEAD;
    match says_origin(request) {
        Some(ours) => ours,
        None => looks,
    }
}

/// What the journal says of a form.
fn result_word(status: StatusCode) -> &'static str {
    match status {
        StatusCode::SEE_OTHER => "ok",
        StatusCode::FORBIDDEN => "permission_denied",
        StatusCode::TOO_MANY_REQUESTS => "resource_exhausted",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        _ => "invalid_argument",
    }
}

fn show(status: StatusCode, page: Html) -> Response {
    (status, HtmlResponse(page.document())).into_response()
}

pub(crate) fn refuse(status: StatusCode, title: &str, words: &str) -> Response {
    show(status, views::refused(title, words))
}

/// A form that was not made for this browser and this moment, or a session that is over: which of
/// them is nobody's business.
pub(crate) fn out_of_date() -> Response {
    refuse(
        StatusCode::FORBIDDEN,
        "This form is out of date",
        "It was sent before, belongs to another sign-in, or your sign-in has ended.",
    )
}

pub(crate) fn unreadable(rejection: &FormRejection) -> Response {
    refuse(
        rejection.status(),
        "Not a form of this page",
        "What was sent cannot be read.",
    )
}

fn wait(mut page: Response, seconds: u32) -> Response {
    let headers = page.headers_mut();
    headers.insert(header::RETRY_AFTER, seconds.max(1).into());
    page
}

/// The name of a cookie of ours, which is that of a path. It has the port in it, because cookies
/// do not tell ports apart.
fn cookie_name(shared: &Shared, path: &str) -> String {
    let port = shared.api.port_or_known_default().unwrap_or_default();
    format!("aegis_{}_{port}", path.trim_start_matches('/'))
}

/// The visitor's cookie, if there is one, and one only.
fn cookie(shared: &Shared, headers: &HeaderMap) -> Option<String> {
    cookie_of(shared, headers, ENTRY)
}

fn cookie_of(shared: &Shared, headers: &HeaderMap, path: &str) -> Option<String> {
    let name = cookie_name(shared, path);
    let mut values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .filter(|(known, _)| *known == name)
        .map(|(_, value)| value);
    let value = values.next()?;
    (values.next().is_none() && session::is_id(value)).then(|| value.to_owned())
}

/// Sets the cookie; an empty one ends it.
fn set_cookie(response: &mut Response, shared: &Shared, id: &str) {
    set_cookie_of(response, shared, id, ENTRY);
}

fn set_cookie_of(response: &mut Response, shared: &Shared, id: &str, path: &str) {
    let name = cookie_name(shared, path);
    let over = if id.is_empty() { "; Max-Age=0" } else { "" };
    let kept = if shared.page_lacks(PageCheck::Cookie) {
        ""
    } else {
        "; HttpOnly; SameSite=Strict"
    };
    let cookie = format!("{name}={id}; Path={path}{kept}{over}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// Somebody who has signed in, and the forms for their next page.
struct Person {
    id: String,
    uid: String,
    stage: Stage,
    /// For the form that the page is about.
    token: String,
    /// For the way out.
    leave: String,
}

fn person(shared: &Shared, headers: &HeaderMap, form: Form) -> Option<Person> {
    let id = cookie(shared, headers)?;
    let now = shared.clock.now();
    let state = shared.state();
    let session = state.sessions.get(&id, now)?.clone();
    let (token, leave) = (
        state.sessions.token(&id, form),
        state.sessions.token(&id, Form::SignOut),
    );
    drop(state);
    Some(Person {
        id,
        uid: session.uid,
        stage: session.stage,
        token,
        leave,
    })
}

/// Takes a form of somebody who has signed in; the person as their next page needs them.
fn take(shared: &Shared, headers: &HeaderMap, form: Form, token: &str) -> Option<Person> {
    let id = cookie(shared, headers)?;
    let now = shared.clock.now();
    let mut state = shared.state();
    let token = shared.judged(&state.sessions, &id, form, token);
    let taken = state.sessions.take(&id, form, &token, now);
    drop(state);
    taken.and_then(|_session| person(shared, headers, form))
}

impl Shared {
    /// Whether a test has left that out.
    pub(crate) fn page_lacks(&self, check: PageCheck) -> bool {
        self.page_without == Some(check)
    }

    /// How often somebody may guess wrongly in a minute.
    pub(crate) fn guesses(&self, most: u32) -> u32 {
        if self.page_lacks(PageCheck::Guesses) {
            return u32::MAX;
        }
        most
    }

    /// The token to judge a form by: the one that came with it.
    fn judged(&self, sessions: &Sessions, id: &str, form: Form, token: &str) -> String {
        if self.page_lacks(PageCheck::FormToken) {
            return sessions.token(id, form);
        }
        token.to_owned()
    }
}

fn address(peer: Option<Extension<Peer>>) -> IpAddr {
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| {
        peer.0.address.ip()
    })
}

async fn style() -> Response {
    let kind = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (kind, include_str!("style.css")).into_response()
}

/// A form's address, opened by hand.
async fn start_over() -> Redirect {
    Redirect::to(ENTRY)
}

#[derive(Deserialize)]
struct Suggestion {
    user_code: Option<String>,
}

/// `verification_uri` and `verification_uri_complete`.
async fn entry(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    suggestion: Result<Query<Suggestion>, QueryRejection>,
) -> Response {
    // What is no code is not repeated.
    let code = suggestion
        .ok()
        .and_then(|Query(given)| user_code(&given.user_code?));
    let code = code.as_deref();
    if let Some(person) = person(&shared, &headers, Form::Code) {
        let page = views::enter_code(&person.token, &person.leave, code, None);
        return show(StatusCode::OK, page);
    }
    let known = cookie(&shared, &headers);
    let is_new = known.is_none();
    let id = known.unwrap_or_else(session::new_id);
    let token = shared.state().sessions.token(&id, Form::SignIn);
    let mut response = show(StatusCode::OK, views::sign_in(&token, "", code, None));
    if is_new {
        set_cookie(&mut response, &shared, &id);
    }
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    form_token: String,
    name: String,
    password: String,
    user_code: Option<String>,
}

async fn sign_in(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    form: Result<axum::Form<SignIn>, FormRejection>,
) -> Response {
    let form = match form {
        Ok(axum::Form(form)) => form,
        Err(rejection) => return unreadable(&rejection),
    };
    let Some(id) = cookie(&shared, &headers) else {
        return out_of_date();
    };
    let now = shared.clock.now();
    {
        let state = shared.state();
        let token = shared.judged(&state.sessions, &id, Form::SignIn, &form.form_token);
        if !state.sessions.accepts(&id, Form::SignIn, &token) {
            return out_of_date();
        }
    }
    let code = form.user_code.as_deref().and_then(user_code);
    let uid = match check_password(&shared, peer, &form.name, &form.password, request_id) {
        Ok(uid) => uid,
        Err(wrong) => {
            let words = Some(wrong.words);
            let page = views::sign_in(&form.form_token, &form.name, code.as_deref(), words);
            return wrong.show(page);
        }
    };
    let mut state = shared.state();
    // Under a new number: one that somebody planted before is worth nothing now.
    state.sessions.sign_out(&id);
    let Some(id) = state.sessions.sign_in(&uid, now) else {
        let words = "Too many people are signed in. Try again later.";
        return wait(refuse(StatusCode::SERVICE_UNAVAILABLE, "Full", words), 60);
    };
    drop(state);
    let next = code.map_or_else(
        || ENTRY.to_owned(),
        |code| format!("{ENTRY}?user_code={code}"),
    );
    let mut response = Redirect::to(&next).into_response();
    set_cookie(&mut response, &shared, &id);
    response
}

/// Why somebody is not signed in.
pub(crate) struct WrongPassword {
    pub(crate) words: &'static str,
    status: StatusCode,
    wait_seconds: Option<u32>,
}

impl WrongPassword {
    fn show(&self, page: Html) -> Response {
        let page = show(self.status, page);
        match self.wait_seconds {
            Some(seconds) => wait(page, seconds),
            None => page,
        }
    }
}

/// The uid of who knows name and password. Wrong ones are limited.
pub(crate) fn check_password(
    shared: &Shared,
    peer: Option<Extension<Peer>>,
    name: &str,
    password: &str,
    request_id: String,
) -> Result<String, WrongPassword> {
    let limited = |seconds| WrongPassword {
        words: "Too many wrong passwords. Wait a minute.",
        status: StatusCode::TOO_MANY_REQUESTS,
        wait_seconds: Some(seconds),
    };
    let now = shared.clock.now();
    let mut state = shared.state();
    let tries = format!("sign-in {}", address(peer));
    let most = shared.guesses(MAX_TRIES);
    state.throttle.check(&tries, most, now).map_err(limited)?;
    let uid = uid_of(&state.policy, name).filter(|_| shared.password.is(password));
    if let Some(uid) = uid {
        return Ok(uid.to_owned());
    }
    state.throttle.count(tries, most, now).map_err(limited)?;
    let entry = Entry {
        action: "auth.failed",
        outcome: "denied",
        request_id,
        ..Entry::default()
    };
    state.ledger.append(entry, now);
    Err(WrongPassword {
        words: "Name and password do not fit.",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        wait_seconds: None,
    })
}

/// The sign-in at the identity provider: below another path, with a cookie of its own.
pub(crate) struct Authorize<'a> {
    /// Of the cookie.
    pub(crate) path: &'static str,
    pub(crate) action: &'static str,
    /// What the client asks for, as it stood in the address.
    pub(crate) query: &'a str,
    pub(crate) client: &'a str,
}

impl Authorize<'_> {
    /// The page, after a wrong try or not.
    pub(crate) fn show(
        &self,
        shared: &Shared,
        headers: &HeaderMap,
        name: &str,
        wrong: Option<&WrongPassword>,
    ) -> Response {
        let known = cookie_of(shared, headers, self.path);
        let is_new = known.is_none();
        let id = known.unwrap_or_else(session::new_id);
        let token = shared.state().sessions.token(&id, Form::Authorize);
        let words = wrong.map(|wrong| wrong.words);
        let page = views::sign_in_for(&token, self, name, words);
        let mut response = match wrong {
            Some(wrong) => wrong.show(page),
            None => show(StatusCode::OK, page),
        };
        if is_new {
            set_cookie_of(&mut response, shared, &id, self.path);
        }
        response
    }

    /// Whether a form was made for this browser.
    pub(crate) fn accepts(&self, shared: &Shared, headers: &HeaderMap, token: &str) -> bool {
        cookie_of(shared, headers, self.path).is_some_and(|id| {
            let state = shared.state();
            let token = shared.judged(&state.sessions, &id, Form::Authorize, token);
            state.sessions.accepts(&id, Form::Authorize, &token)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    form_token: String,
    user_code: String,
}

async fn enter_code(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    form: Result<axum::Form<Code>, FormRejection>,
) -> Response {
    let form = match form {
        Ok(axum::Form(form)) => form,
        Err(rejection) => return unreadable(&rejection),
    };
    let Some(person) = take(&shared, &headers, Form::Code, &form.form_token) else {
        return out_of_date();
    };
    let again = |status, words: &str| {
        let given: String = form.user_code.chars().take(32).collect();
        let page = views::enter_code(&person.token, &person.leave, Some(&given), Some(words));
        show(status, page)
    };
    let wrong = StatusCode::UNPROCESSABLE_ENTITY;
    match shared.look_up_on_page(&form.user_code, &person.uid, address(peer)) {
        Ok((wish, Standing::Pending)) => {
            let Wish { user_code, .. } = wish;
            let stage = Stage::Reviewing { user_code };
            shared.state().sessions.reach(&person.id, stage);
            Redirect::to(REVIEW).into_response()
        }
        Ok((_, Standing::Expired)) => again(
            wrong,
            "That code has expired. Start the login again on your device; it shows a new one.",
        ),
        Ok((_, Standing::Decided)) => again(
            wrong,
            "That login was decided before. Start it again on your device if you need it.",
        ),
        Err(refusal) => {
            audit(&shared, &refusal, &person.uid, request_id);
            if refusal.reason == Some(Reason::RateLimited) {
                let words = "Too many wrong codes. Wait a minute, then enter the code again.";
                let page = again(StatusCode::TOO_MANY_REQUESTS, words);
                return wait(page, refusal.retry_after_seconds);
            }
            again(
                wrong,
                "No login has that code. Compare it with the one on your device.",
            )
        }
    }
}

/// A refusal that belongs to no tenant: no code was found.
fn audit(shared: &Shared, refusal: &Refusal, uid: &str, request_id: String) {
    let entry = Entry {
        action: "auth.failed",
        outcome: "denied",
        reason: refusal.reason.map_or("", Reason::as_str),
        principal: format!("user:{uid}"),
        request_id,
        ..Entry::default()
    };
    let now = shared.clock.now();
    shared.state().ledger.append(entry, now);
}

async fn review(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let reviewed = person(&shared, &headers, Form::Decision).and_then(|person| {
        let Stage::Reviewing { user_code } = &person.stage else {
            return None;
        };
        let wish = shared.remembered_on_page(user_code)?;
        Some((person, wish))
    });
    let Some((person, wish)) = reviewed else {
        return Redirect::to(ENTRY).into_response();
    };
    let name = name_of(&person.uid);
    show(
        StatusCode::OK,
        views::review(&person.token, &person.leave, &wish, name),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    form_token: String,
    decision: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Approve,
    Deny,
}

async fn decide(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    headers: HeaderMap,
    form: Result<axum::Form<Decision>, FormRejection>,
) -> Response {
    let form = match form {
        Ok(axum::Form(form)) => form,
        Err(rejection) => return unreadable(&rejection),
    };
    let person = take(&shared, &headers, Form::Decision, &form.form_token);
    let Some(person) = person else {
        return out_of_date();
    };
    let Stage::Reviewing { user_code } = person.stage else {
        return out_of_date();
    };
    let approve = form.decision == Verdict::Approve;
    let found = match shared.decide_on_page(&user_code, &person.uid, approve, &request_id) {
        Ok(found) => found,
        // Forgotten since, as old codes are.
        Err(refusal) if refusal.reason == Some(Reason::DeviceCodeUnknown) => Standing::Expired,
        Err(_refusal) => {
            return refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "Nothing was decided",
                "The server cannot write down your decision, so it does not act on it.",
            );
        }
    };
    let stage = Stage::Decided { approve, found };
    shared.state().sessions.reach(&person.id, stage);
    Redirect::to(RESULT).into_response()
}

async fn result(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match person(&shared, &headers, Form::Code) {
        Some(Person {
            stage: Stage::Decided { approve, found },
            leave,
            ..
        }) => show(StatusCode::OK, views::result(&leave, approve, found)),
        _ => Redirect::to(ENTRY).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignOut {
    form_token: String,
}

async fn sign_out(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    form: Result<axum::Form<SignOut>, FormRejection>,
) -> Response {
    let form = match form {
        Ok(axum::Form(form)) => form,
        Err(rejection) => return unreadable(&rejection),
    };
    let Some(person) = take(&shared, &headers, Form::SignOut, &form.form_token) else {
        return out_of_date();
    };
    shared.state().sessions.sign_out(&person.id);
    let mut response = Redirect::to(ENTRY).into_response();
    set_cookie(&mut response, &shared, "");
    response
}
