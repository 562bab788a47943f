//! What a caller wants of a token: scopes, lifetime, and the key it is to be bound to.

use crate::check::{Check, Checks};
use crate::errors::{Reason, Refusal};
use crate::jwk::PublicKey;
use crate::policy::Policy;
use crate::proto::Jwk;
use crate::{scope, wire};

const DEFAULT_TOKEN_TTL: u32 = 600;
const TOKEN_TTL: std::ops::RangeInclusive<u32> = 60..=900;

/// The scopes asked for, if they are scopes.
pub(crate) fn scopes(
    scopes: Vec<String>,
    policy: &Policy,
    checks: Checks,
) -> Result<Vec<String>, Refusal> {
    if scopes.is_empty() {
        return Err(Refusal::missing("requested_scopes"));
    }
    if !policy.strictness.scope_grammar {
        return Ok(scopes);
    }
    let refuse = |check| Refusal::from(check).field("requested_scopes");
    checks
        .require(Check::ScopeCount, scopes.len() <= scope::MAX_SCOPES)
        .map_err(refuse)?;
    // One bad scope anywhere decides, the gravest first.
    let providerless = policy.server.allow_providerless_scopes;
    let failed: Vec<Check> = scopes
        .iter()
        .filter_map(|scope| scope::judge(scope, providerless, checks).err())
        .collect();
    for check in [
        Check::ScopeWildcard,
        Check::ScopeShape,
        Check::ScopeSegment,
        Check::ScopeAction,
        Check::ScopeActionOnly,
    ] {
        if failed.contains(&check) {
            return Err(refuse(check));
        }
    }
    Ok(scopes)
}

/// The scopes of one token: of leases, or `spiffe.bootstrap` alone.
pub(crate) fn scopes_of_one_token(
    asked: Vec<String>,
    policy: &Policy,
    checks: Checks,
) -> Result<Vec<String>, Refusal> {
    let asked = scopes(asked, policy, checks)?;
    let bootstraps = asked.iter().any(|scope| scope == scope::BOOTSTRAP);
    let alone = asked.iter().all(|scope| scope == scope::BOOTSTRAP);
    checks
        .require(Check::ScopeMixed, !bootstraps || alone)
        .map_err(|check| Refusal::from(check).field("requested_scopes"))?;
    Ok(asked)
}

/// How many seconds a token is to live.
pub(crate) fn ttl(seconds: i32, policy: &Policy) -> Result<u32, Refusal> {
    let strict = policy.strictness.ttl_range;
    wire::in_range(seconds, DEFAULT_TOKEN_TTL, &TOKEN_TTL, strict).ok_or_else(|| {
        Refusal::new(Reason::TtlOutOfRange, "a token lives 60 to 900 seconds")
            .field("requested_ttl_seconds")
    })
}

/// The thumbprint of a key that is to be registered.
pub(crate) fn key(jwk: Option<&Jwk>) -> Result<String, Refusal> {
    let jwk = jwk.ok_or_else(|| Refusal::missing("pop_jwk"))?;
    let y = Some(jwk.y.as_str()).filter(|y| !y.is_empty());
    PublicKey::from_members(&jwk.kty, &jwk.crv, &jwk.x, y)
        .map(|key| key.thumbprint)
        .ok_or_else(|| {
            Refusal::new(Reason::PopJwkInvalid, "not a public P-256 or Ed25519 key")
                .field("pop_jwk")
        })
}

/// The name of a key.
pub(crate) fn key_id(text: &str) -> Result<&str, Refusal> {
    if text.is_empty() {
        return Err(Refusal::missing("pop_key_id"));
    }
    if !is_key_id(text) {
        return Err(Refusal::new(
            Reason::TypeMismatch,
            "key id is 1 to 64 of A-Z a-z 0-9 . _ -",
        )
        .field("pop_key_id"));
    }
    Ok(text)
}

pub(crate) fn is_key_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Why a key is not registered.
pub(crate) fn unregistered(reason: Reason) -> Refusal {
    let message = if reason == Reason::KeyRevoked {
        "key was revoked"
    } else {
        "key id stands for another key"
    };
    Refusal::new(reason, message)
}
