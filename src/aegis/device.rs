//! The device login (`aegis.md` 5 and 6): what is asked, and what of an answer is believed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::error::{AegisError, ConnectCode, ProtocolFault, Reason, TokenFault};
use super::spiffe::BOOTSTRAP;
use super::transport::{Call, Reply, Rpc, deadline, is_loopback};
use super::wire::{
    self, BeginRequest, BeginResponse, ExchangeRequest, ExchangeResponse, TokenInfo,
};
use super::{AegisSettings, Inner, bad, half, success};
use crate::broker::ports::{
    BeginDeviceAuthorization, DeviceAuthorization, DeviceExchange, Failure, Session, Tries,
};
use crate::dpop::ProofKey;
use crate::model::{
    CleanText, MAX_CODE_LIFE, MAX_DISPLAY_NAME, MAX_SCOPES, MAX_TOKEN_TTL, MAX_USER_CODE,
    MIN_TOKEN_TTL, PopKeyId, Principal, Scope, SessionId, TenantId,
};
use crate::secret::SecretString;
use crate::time::UnixTime;

/// Of one scope, in characters.
const MAX_SCOPE: usize = 256;

/// Lifetimes of a token that may be asked for.
const TOKEN_TTL: std::ops::RangeInclusive<Duration> = MIN_TOKEN_TTL..=MAX_TOKEN_TTL;

/// What a token lives at most, whatever the server says (OA-11).
const MAX_TOKEN_LIFE: Duration = Duration::from_mins(15);

/// What a session lasts at most (`aegis.md` 6).
const MAX_SESSION_LIFE: Duration = Duration::from_hours(8);

/// What it lives at most where the server says nothing (`aegis.md` 6).
const UNSAID_TOKEN_LIFE: Duration = Duration::from_mins(10);

/// Between polls where the server names none (RFC 8628 §3.2).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// Where the server names none.
const DEFAULT_CODE_LIFE: Duration = Duration::from_mins(10);

/// In bytes; they are about 40.
const MAX_DEVICE_CODE: usize = 4096;
const MAX_TOKEN: usize = 16 * 1024;

/// Letters and digits of a user code; fewer could be guessed at (DG-10).
const MIN_USER_CODE: usize = 4;

/// In characters.
const MAX_URI: usize = 2048;

pub(super) async fn begin(
    inner: &Inner,
    mut request: BeginDeviceAuthorization,
    tries: &Tries,
) -> Result<DeviceAuthorization, Failure> {
    let deadline = deadline();
    let room = request.scopes.len() < MAX_SCOPES;
    request.renews = request.renews && room && inner.settings.renewing.is_some();
    let mut answer = begin_once(inner, &request, deadline, tries).await;
    if request.renews && answer.as_ref().is_err_and(refuses_scopes) {
        // Perhaps for the one scope that is not the person's wish (`aegis.md` 6), once.
        request.renews = false;
        answer = begin_once(inner, &request, deadline, tries).await;
    }
    let conflict = answer.as_ref().is_err_and(|failure| {
        failure
            .reason
            .as_ref()
            .is_some_and(|reason| reason.as_str() == Reason::PopKeyConflict.as_str())
    });
    if conflict {
        // Another key, once (`aegis.md` 12), in what is left of the time.
        return begin_once(inner, &request, deadline, tries).await;
    }
    answer
}

/// Whether it was refused for what it asked for.
fn refuses_scopes(failure: &Failure) -> bool {
    const WORDS: [Reason; 5] = [
        Reason::ScopeUnknown,
        Reason::ScopeMalformed,
        Reason::ScopeActionOnly,
        Reason::ScopeNotGranted,
        Reason::PolicyDenied,
    ];
    let word = failure.reason.as_ref().map(CleanText::as_str);
    word.is_some_and(|word| {
        let codes = [ConnectCode::PermissionDenied, ConnectCode::InvalidArgument];
        WORDS.iter().any(|reason| reason.as_str() == word)
            || codes.iter().any(|code| code.as_str() == word)
    })
}

async fn begin_once(
    inner: &Inner,
    request: &BeginDeviceAuthorization,
    deadline: Instant,
    tries: &Tries,
) -> Result<DeviceAuthorization, Failure> {
    let refused = |error| inner.refused(Rpc::Begin.during(), error);
    let mut scopes: Vec<String> = request.scopes.iter().map(Scope::to_string).collect();
    if request.renews {
        scopes.push(BOOTSTRAP.to_owned());
    }
    check(request, &scopes).map_err(refused)?;
    let key = ProofKey::generate().map_err(|error| refused(error.into()))?;
    let key = Arc::new(key);
    let encode = |_: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = BeginRequest {
            tenant_id: request.tenant.as_str(),
            requested_scopes: &scopes,
            requested_ttl_seconds: request.token_ttl.as_secs(),
            pop_key_id: key.id(),
            client_display_name: request.client_display_name.as_str(),
            pop_jwk: wire::Jwk {
                kty: "EC",
                crv: "P-256",
                x: key.x(),
                y: key.y(),
            },
        };
        wire::encode(&message, body)
    };
    let call = Call {
        rpc: Rpc::Begin,
        key: None,
        token: None,
        identity: None,
        encode: &encode,
        deadline,
    };
    inner
        .ask(call, tries, |reply| {
            begun(&inner.settings, request, Arc::clone(&key), reply)
        })
        .await
}

/// What the contract allows to be asked (`aegis.md` 3, 6, 7).
fn check(request: &BeginDeviceAuthorization, scopes: &[String]) -> Result<(), AegisError> {
    let well = |good: bool, what: &'static str| {
        if good {
            Ok(())
        } else {
            Err(AegisError::Request(what))
        }
    };
    well(!scopes.is_empty(), "no scopes")?;
    well(scopes.len() <= MAX_SCOPES, "too many scopes")?;
    well(
        scopes.iter().all(|scope| scope.len() <= MAX_SCOPE),
        "scope too long",
    )?;
    well(
        TOKEN_TTL.contains(&request.token_ttl),
        "token lifetime out of range",
    )?;
    let name = request.client_display_name.as_str();
    well(
        !name.is_empty() && name.chars().count() <= MAX_DISPLAY_NAME,
        "display name too long or empty",
    )
}

fn begun(
    settings: &AegisSettings,
    request: &BeginDeviceAuthorization,
    key: Arc<ProofKey>,
    reply: &Reply,
) -> Result<DeviceAuthorization, AegisError> {
    let answer: BeginResponse = success(reply)?;
    let device_code = answer
        .device_code
        .map(|code| code.0)
        .filter(|code| {
            (1..=MAX_DEVICE_CODE).contains(&code.len())
                && code.expose().bytes().all(|byte| byte.is_ascii_graphic())
        })
        .ok_or(bad("device_code"))?;
    let user_code = answer
        .user_code
        .filter(|code| is_typeable(code))
        .and_then(|code| CleanText::exact(&code, MAX_USER_CODE))
        .ok_or(bad("user_code"))?;
    let (verification_uri, origin) = answer
        .verification_uri
        .and_then(|uri| showable_uri(settings, &uri))
        .ok_or(bad("verification_uri"))?;
    // A convenience: one that may not be shown, or leads elsewhere, is left out.
    let verification_uri_complete = answer
        .verification_uri_complete
        .and_then(|uri| showable_uri(settings, &uri))
        .filter(|(_, other)| *other == origin)
        .map(|(uri, _)| uri);
    let life = match answer.expires_in_seconds.0 {
        None | Some(0) => DEFAULT_CODE_LIFE,
        Some(seconds) => seconds_of(seconds).ok_or(bad("expires_in_seconds"))?,
    }
    .min(MAX_CODE_LIFE);
    let pop_key_id = PopKeyId::parse(key.id())
        .ok()
        .ok_or(AegisError::Request("pop_key_id"))?;
    Ok(DeviceAuthorization {
        request: request.clone(),
        device_code,
        user_code,
        verification_uri,
        verification_uri_complete,
        interval: interval(answer.interval_seconds).unwrap_or(DEFAULT_INTERVAL),
        expires_at: reply.sent.boot.plus(life),
        expires_at_unix: reply.sent.unix.plus(life),
        key,
        pop_key_id,
    })
}

/// Whether a person can type it and a model is told nothing else by it: letters and digits, with
/// hyphens and spaces between (RFC 8628 §6.1 wants even less).
fn is_typeable(code: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b' ');
    let typed = code.bytes().filter(u8::is_ascii_alphanumeric).count();
    typed >= MIN_USER_CODE && code.bytes().all(legal)
}

/// A URI that may be shown and opened (OA-7, OA-15): https, or http on a loopback literal where
/// allowed; where a profile pins one, at that origin; without user info; as the parser writes it. With its origin.
fn showable_uri(settings: &AegisSettings, text: &str) -> Option<(CleanText, url::Origin)> {
    if text.chars().count() > MAX_URI {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let secure = match url.scheme() {
        "https" => true,
        "http" => settings.allow_insecure_loopback && is_loopback(&url),
        _ => false,
    };
    let allowed = settings.network.allows_login_at(&url.origin());
    if !allowed || !secure || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let shown = CleanText::exact(url.as_str(), MAX_URI)?;
    Some((shown, url.origin()))
}

/// At least 1 s, at most the life of a code; `None` where the server named none.
fn interval(number: wire::Number) -> Option<Duration> {
    let seconds = number.0.and_then(seconds_of)?;
    Some(seconds.min(MAX_CODE_LIFE))
}

/// One second or more.
fn seconds_of(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

pub(super) async fn exchange(
    inner: &Inner,
    authorization: &DeviceAuthorization,
    tries: &Tries,
) -> Result<DeviceExchange, Failure> {
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = ExchangeRequest {
            device_code: authorization.device_code.expose(),
            pop_key_id: authorization.pop_key_id.as_str(),
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = Call {
        rpc: Rpc::Exchange,
        key: Some(&authorization.key),
        token: None,
        identity: None,
        encode: &encode,
        deadline: deadline(),
    };
    inner
        .ask(call, tries, |reply| {
            exchanged(&inner.settings, authorization, reply)
        })
        .await
}

/// The status table of `aegis.md` 5.
fn exchanged(
    settings: &AegisSettings,
    authorization: &DeviceAuthorization,
    reply: &Reply,
) -> Result<DeviceExchange, AegisError> {
    let answer: ExchangeResponse = success(reply)?;
    let interval = interval(answer.interval_seconds);
    let status = answer.status.as_deref().unwrap_or_default();
    if status != "success" && answer.broker_token.is_some() {
        return Err(bad("broker_token"));
    }
    match status {
        "authorization_pending" | "approved" => Ok(DeviceExchange::Pending { interval }),
        "slow_down" => Ok(DeviceExchange::SlowDown { interval }),
        "access_denied" => Ok(DeviceExchange::AccessDenied),
        "expired_token" => Ok(DeviceExchange::ExpiredToken),
        "success" => {
            let token = broker_token(answer.broker_token)?;
            let bootstrap = answer.bootstrap_token.map(|token| token.0).filter(is_token);
            let brought = (token, bootstrap);
            session(settings, authorization, brought, answer.token_info, reply)
                .map(|session| DeviceExchange::Success(Box::new(session)))
        }
        _ => Err(bad("status")),
    }
}

/// The token of an answer that has to bring one.
pub(super) fn broker_token(answered: Option<wire::Secret>) -> Result<SecretString, AegisError> {
    let token = answered.map(|token| token.0).filter(is_token);
    token.ok_or(bad("broker_token"))
}

/// Whether it can be sent as a bearer token (RFC 6750 §2.1, `b64token`).
fn is_token(token: &SecretString) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (1..=MAX_TOKEN).contains(&token.len()) && token.expose().bytes().all(legal)
}

/// Believes a token only where `token_info` says what was asked for (`aegis.md` 6, 17.6).
fn session(
    settings: &AegisSettings,
    authorization: &DeviceAuthorization,
    (token, bootstrap): (SecretString, Option<SecretString>),
    info: Option<TokenInfo>,
    reply: &Reply,
) -> Result<Session, AegisError> {
    let asked = &authorization.request;
    // One that nobody asked for is not kept.
    let renews = asked.renews && settings.renewing.is_some();
    let believed = match info {
        Some(info) => {
            let asked = Asked {
                thumbprint: authorization.key.thumbprint(),
                pop_key_id: &authorization.pop_key_id,
                tenant: &asked.tenant,
                scopes: &asked.scopes,
                token_ttl: asked.token_ttl,
            };
            believe(&asked, info, reply)?
        }
        None if settings.allow_missing_token_info => Believed {
            principal: Principal::parse("unknown")
                .ok()
                .ok_or(AegisError::Protocol(ProtocolFault::Field("principal")))?,
            session_id: None,
            scopes: asked.scopes.clone(),
            life: asked.token_ttl.min(UNSAID_TOKEN_LIFE),
            session_life: asked.token_ttl.min(UNSAID_TOKEN_LIFE),
            checked: false,
        },
        None => return Err(AegisError::Token(TokenFault::InfoMissing)),
    };
    Ok(Session {
        principal: believed.principal,
        tenant: asked.tenant.clone(),
        session_id: believed.session_id,
        token,
        key: Arc::clone(&authorization.key),
        pop_key_id: authorization.pop_key_id.clone(),
        scopes: believed.scopes,
        expires_at: reply.sent.boot.plus(believed.life),
        expires_at_unix: reply.sent.unix.plus(believed.life),
        renew_at: reply.sent.boot.plus(half(believed.life)),
        ends_at: reply.sent.boot.plus(believed.session_life),
        bootstrap: bootstrap.filter(|_| renews && believed.checked),
        binding_checked: believed.checked,
    })
}

/// What a token was asked to be.
pub(super) struct Asked<'a> {
    pub(super) thumbprint: &'a str,
    pub(super) pop_key_id: &'a PopKeyId,
    pub(super) tenant: &'a TenantId,
    pub(super) scopes: &'a [Scope],
    pub(super) token_ttl: Duration,
}

/// What is believed of it.
pub(super) struct Believed {
    pub(super) principal: Principal,
    pub(super) session_id: Option<SessionId>,
    pub(super) scopes: Vec<Scope>,
    pub(super) life: Duration,
    /// Until the session ends.
    pub(super) session_life: Duration,
    checked: bool,
}

pub(super) fn believe(
    asked: &Asked<'_>,
    info: TokenInfo,
    reply: &Reply,
) -> Result<Believed, AegisError> {
    let missing = || AegisError::Token(TokenFault::InfoMissing);
    let wrong = |good: bool, fault: TokenFault| {
        if good {
            Ok(())
        } else {
            Err(AegisError::Token(fault))
        }
    };
    let said = |text: Option<String>| text.filter(|text| !text.is_empty()).ok_or_else(missing);

    let thumbprint = said(info.thumbprint)?;
    let binding = said(info.binding)?;
    let tenant = said(info.tenant_id)?;
    let principal = said(info.principal)?;
    let granted = info
        .granted_scopes
        .filter(|scopes| !scopes.is_empty())
        .ok_or_else(missing)?;
    wrong(thumbprint == asked.thumbprint, TokenFault::Thumbprint)?;
    wrong(binding == "jkt", TokenFault::Binding)?;
    wrong(
        TenantId::parse(&tenant).is_ok_and(|tenant| tenant == *asked.tenant),
        TokenFault::Tenant,
    )?;
    wrong(
        info.pop_key_id
            .is_none_or(|id| id.is_empty() || id == asked.pop_key_id.as_str()),
        TokenFault::PopKeyId,
    )?;
    let mut scopes: Vec<Scope> = Vec::with_capacity(granted.len().min(MAX_SCOPES));
    for text in granted {
        let scope = Scope::parse(&text)
            .ok()
            .filter(|scope| asked.scopes.contains(scope))
            .ok_or(AegisError::Token(TokenFault::Scope))?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    let session_end = info.session_expires_at;
    Ok(Believed {
        session_life: session_end.map_or(MAX_SESSION_LIFE, |end| {
            reply.server_now().until(end.0).min(MAX_SESSION_LIFE)
        }),
        principal: Principal::parse(&principal).ok().ok_or(bad("principal"))?,
        session_id: match info.session_id.as_deref() {
            None | Some("") => None,
            Some(id) => Some(SessionId::parse(id).ok().ok_or(bad("session_id"))?),
        },
        scopes,
        life: token_life(
            asked.token_ttl,
            info.expires_in_seconds,
            [info.expires_at, info.session_expires_at],
            reply,
        )?,
        checked: true,
    })
}

/// The earliest of what the server says, at most 15 min; what was asked for, at most 10 min,
/// where it says nothing. Points in time are seen from the server's own clock, where it shows
/// one; beside a number of seconds, which says the same without any clock, from whichever clock
/// lets them be later, so that a `Date` that is off ends no login.
fn token_life(
    asked: Duration,
    expires_in: wire::Number,
    ends: [Option<wire::Time>; 2],
    reply: &Reply,
) -> Result<Duration, AegisError> {
    let relative = match expires_in.0 {
        None | Some(0) => None,
        Some(seconds) => Some(seconds_of(seconds).unwrap_or(Duration::ZERO)),
    };
    let ours = reply.sent.unix;
    let server_now: UnixTime = match (relative, reply.date) {
        (Some(_), Some(date)) => date.min(ours),
        (None, Some(_)) => reply.server_now(),
        (_, None) => ours,
    };
    let [token_end, session_end] = ends.map(|end| end.map(|end| server_now.until(end.0)));
    let said = [relative, token_end].into_iter().flatten().min();
    let life = said
        .unwrap_or_else(|| asked.min(UNSAID_TOKEN_LIFE))
        .min(session_end.unwrap_or(MAX_TOKEN_LIFE))
        .min(MAX_TOKEN_LIFE);
    if life.is_zero() {
        return Err(AegisError::Token(TokenFault::Lifetime));
    }
    Ok(life)
}
