//! Proofs of possession, RFC 9449.
//!
//! [`verify`] is a pure function of a proof and what is expected of it.
//! [`nonce`] and [`replay`] hold what must be remembered between proofs.

#![warn(clippy::arithmetic_side_effects)]

pub(crate) mod nonce;
pub(crate) mod replay;
#[cfg(test)]
mod tests;

use crate::check::{Check, Checks};
use crate::encoding::{base64url, from_any_base64url, sha256};
use crate::json::Json;
use crate::jwk::{Algorithm, PublicKey};

pub(crate) const MAX_BYTES: usize = 8 * 1024;
const MAX_JTI: usize = 256;
/// How old a proof may be, in seconds.
pub(crate) const MAX_AGE: i64 = 60;
/// How far a proof may lie in the future, in seconds.
pub(crate) const MAX_LEAD: i64 = 10;
/// Members of a JWK that only a private or a symmetric key has.
const PRIVATE: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "r"];

/// What a proof has to be about.
pub(crate) struct Expected<'a> {
    pub(crate) method: &'a str,
    /// The URL that was called.
    pub(crate) url: &'a str,
    /// The access token that is sent along.
    pub(crate) token: Option<&'a str>,
    /// Unix seconds.
    pub(crate) now: i64,
}

/// A proof that holds, but for nonce, replay and whose key it is.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) jti: String,
    pub(crate) iat: i64,
    pub(crate) nonce: Option<String>,
    pub(crate) kid: Option<String>,
    pub(crate) thumbprint: String,
}

/// Checks a proof by itself: RFC 9449 §4.3 without 10 (nonce), the binding half
/// of 12, and §11.1 (replay).
pub(crate) fn verify(jwt: &str, expected: &Expected<'_>, checks: Checks) -> Result<Proof, Check> {
    checks.require(Check::ProofSize, jwt.len() <= MAX_BYTES)?;
    let parts: Vec<&str> = jwt.split('.').collect();
    checks.require(Check::ProofForm, parts.len() == 3)?;
    let [header_part, payload_part, signature, ..] = parts.as_slice() else {
        return Err(Check::ProofForm);
    };
    let header = object(header_part, checks)?;
    let payload = object(payload_part, checks)?;
    let signature = bytes(signature, checks)?;

    let typ = text(&header, "typ");
    checks.require(Check::ProofType, typ == Some("dpop+jwt"))?;
    let algorithm = text(&header, "alg").and_then(Algorithm::by_name);
    checks.require(Check::ProofAlgorithm, algorithm.is_some())?;
    let plain = header.member("crit").is_none() && header.member("b64").is_none();
    checks.require(Check::ProofCritical, plain)?;
    let kid = optional_text(&header, "kid");
    checks.require(Check::ProofKeyId, kid.is_some())?;
    let jwk = header.member("jwk").ok_or(Check::ProofKey)?;
    let public = PRIVATE.iter().all(|name| jwk.member(name).is_none());
    checks.require(Check::ProofPrivateKey, public)?;
    let key = read_key(jwk, checks).ok_or(Check::ProofKey)?;
    let fits = algorithm.is_none_or(|algorithm| algorithm == key.algorithm);
    checks.require(Check::ProofKeyKind, fits)?;
    let signed = format!("{header_part}.{payload_part}");
    let verified = key.verifies(signed.as_bytes(), &signature);
    checks.require(Check::ProofSignature, verified)?;

    let htm = text(&payload, "htm");
    checks.require(Check::ProofMethod, htm == Some(expected.method))?;
    let here = address(expected.url).ok_or(Check::ProofUrl)?;
    let claimed = text(&payload, "htu").and_then(address);
    checks.require(Check::ProofUrl, claimed == Some(here))?;
    let jti = text(&payload, "jti");
    checks.require(Check::ProofId, jti.is_some_and(is_id))?;
    let iat = payload.member("iat").and_then(Json::integer);
    let fresh = iat.is_some_and(|iat| in_window(iat, expected.now));
    checks.require(Check::ProofIssuedAt, fresh)?;
    let wanted = expected.token.map(|t| base64url(&sha256(t.as_bytes())));
    let ath = optional_text(&payload, "ath");
    checks.require(Check::ProofTokenHash, ath == Some(wanted))?;
    let nonce = optional_text(&payload, "nonce");
    checks.require(Check::ProofNonce, nonce.is_some())?;

    Ok(Proof {
        jti: jti.unwrap_or_default().to_owned(),
        iat: iat.unwrap_or(expected.now),
        nonce: nonce.flatten(),
        kid: kid.flatten(),
        thumbprint: key.thumbprint,
    })
}

/// What a proof says of itself, unchecked: for the journal only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) jti: Option<String>,
    pub(crate) htm: Option<String>,
    pub(crate) htu: Option<String>,
    pub(crate) jkt: Option<String>,
}

pub(crate) fn peek(jwt: &str) -> Claimed {
    let mut parts = jwt.split('.');
    let mut next = || {
        parts
            .next()
            .and_then(|part| object(part, Checks::default()).ok())
    };
    let (header, payload) = (next(), next());
    let claim = |name| {
        payload
            .as_ref()
            .and_then(|payload| payload.member(name))
            .and_then(Json::text)
            .map(|text| text.chars().take(MAX_JTI).collect())
    };
    Claimed {
        jti: claim("jti"),
        htm: claim("htm"),
        htu: claim("htu"),
        jkt: header
            .as_ref()
            .and_then(|header| header.member("jwk"))
            .and_then(|jwk| read_key(jwk, Checks::default()))
            .map(|key| key.thumbprint),
    }
}

fn in_window(iat: i64, now: i64) -> bool {
    let age = now.checked_sub(iat);
    age.is_some_and(|age| (-MAX_LEAD..=MAX_AGE).contains(&age))
}

fn is_id(jti: &str) -> bool {
    (1..=MAX_JTI).contains(&jti.chars().count()) && !jti.chars().any(char::is_control)
}

fn bytes(part: &str, checks: Checks) -> Result<Vec<u8>, Check> {
    let bytes = from_any_base64url(part).ok_or(Check::ProofEncoding)?;
    checks.require(Check::ProofEncoding, base64url(&bytes) == part)?;
    Ok(bytes)
}

fn object(part: &str, checks: Checks) -> Result<Json, Check> {
    let bytes = bytes(part, checks)?;
    let (json, whole) = Json::parse_start(&bytes).ok_or(Check::ProofJson)?;
    if !matches!(json, Json::Object(_)) {
        return Err(Check::ProofJson);
    }
    checks.require(Check::ProofJson, whole)?;
    checks.require(Check::ProofDuplicate, !json.has_duplicates())?;
    Ok(json)
}

fn text<'a>(json: &'a Json, name: &str) -> Option<&'a str> {
    json.member(name).and_then(Json::text)
}

/// The outer `None` is for a member that is there and no text.
#[expect(
    clippy::option_option,
    reason = "absent and malformed are different answers"
)]
fn optional_text(json: &Json, name: &str) -> Option<Option<String>> {
    match json.member(name) {
        None => Some(None),
        Some(value) => value.text().map(|text| Some(text.to_owned())),
    }
}

fn read_key(jwk: &Json, checks: Checks) -> Option<PublicKey> {
    // A `y` that is there must be text, also where none belongs.
    let y = optional_text(jwk, "y")?;
    let (kty, crv) = if checks.make(Check::ProofKey) {
        (text(jwk, "kty")?, text(jwk, "crv")?)
    } else {
        PublicKey::names_by_shape(y.is_some())
    };
    PublicKey::from_members(kty, crv, text(jwk, "x")?, y.as_deref())
}

/// An http(s) address without query and fragment, its scheme and host in lower
/// case and its default port left out. The path stays byte for byte.
fn address(text: &str) -> Option<(String, String, u16, String)> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end)?;
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let bracket = authority.rfind(']').map_or(0, |at| at.saturating_add(1));
    let (host, port) = match authority.get(bracket..)?.rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at_checked(bracket.checked_add(colon)?)?;
            let digits = port.strip_prefix(':')?;
            // One way to write it: `parse` would take `+80` and `080`, too.
            if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (host, digits.parse().ok()?)
        }
        None => (authority, default_port),
    };
    if host.is_empty() || host.contains('@') {
        return None;
    }
    Some((scheme, host.to_ascii_lowercase(), port, path.to_owned()))
}
