//! Proofs of possession, RFC 9449.
//!
//! [`verify`] is a pure function of a proof and what is expected of it.
//! [`nonce`] and [`replay`] hold what must be remembered between proofs.

#![warn(clippy::arithmetic_side_effects)]

pub(crate) mod nonce;
pub(crate) mod replay;
#[cfg(test)]
mod tests;

use crate::encoding::{base64url, from_base64url, sha256};
use crate::json::Json;
use crate::jwk::{Algorithm, PublicKey};

pub(crate) const MAX_BYTES: usize = 8 * 1024;
const MAX_JTI: usize = 256;
/// How old a proof may be, in seconds.
pub(crate) const MAX_AGE: i64 = 60;
/// How far a proof may lie in the future, in seconds.
const MAX_LEAD: i64 = 10;
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

/// The first check a proof failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Size,
    Form,
    Encoding,
    Json,
    Duplicate,
    Type,
    Algorithm,
    Critical,
    Key,
    PrivateKey,
    KeyId,
    Signature,
    Method,
    Url,
    Id,
    IssuedAt,
    TokenHash,
    Nonce,
}

impl Fault {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Size => "proof is larger than 8 KiB",
            Self::Form => "proof is not a compact JWS",
            Self::Encoding => "proof is not canonical base64url",
            Self::Json => "proof header or payload is not a JSON object",
            Self::Duplicate => "proof has a name twice",
            Self::Type => "proof typ is not dpop+jwt",
            Self::Algorithm => "proof alg is not accepted",
            Self::Critical => "proof has critical extensions",
            Self::Key => "proof jwk is not a public key for its alg",
            Self::PrivateKey => "proof jwk has a private member",
            Self::KeyId => "proof kid is not text",
            Self::Signature => "proof signature does not verify",
            Self::Method => "proof htm is not the method called",
            Self::Url => "proof htu is not the address called",
            Self::Id => "proof jti is missing or malformed",
            Self::IssuedAt => "proof iat is missing or out of the window",
            Self::TokenHash => "proof ath does not fit the token",
            Self::Nonce => "proof nonce is not text",
        }
    }
}

/// Checks a proof by itself: RFC 9449 §4.3 without 10 (nonce), the binding half
/// of 12, and §11.1 (replay).
pub(crate) fn verify(jwt: &str, expected: &Expected<'_>) -> Result<Proof, Fault> {
    if jwt.len() > MAX_BYTES {
        return Err(Fault::Size);
    }
    let parts: Vec<&str> = jwt.split('.').collect();
    let [header_part, payload_part, signature] = parts.as_slice() else {
        return Err(Fault::Form);
    };
    let header = decode(header_part)?;
    let payload = decode(payload_part)?;
    let signature = from_base64url(signature).ok_or(Fault::Encoding)?;

    let text = |json: &Json, name: &str| json.member(name).and_then(Json::text).map(str::to_owned);
    if text(&header, "typ").as_deref() != Some("dpop+jwt") {
        return Err(Fault::Type);
    }
    let algorithm = match text(&header, "alg").as_deref() {
        Some("ES256") => Algorithm::Es256,
        Some("EdDSA") => Algorithm::EdDsa,
        _ => return Err(Fault::Algorithm),
    };
    if header.member("crit").is_some() {
        return Err(Fault::Critical);
    }
    let kid = optional_text(&header, "kid").ok_or(Fault::KeyId)?;
    let key = header.member("jwk").ok_or(Fault::Key)?;
    let key = public_key(key, algorithm)?;
    let signed = jwt
        .rsplit_once('.')
        .map_or(jwt, |(signed, _signature)| signed);
    if !key.verifies(signed.as_bytes(), &signature) {
        return Err(Fault::Signature);
    }

    if text(&payload, "htm").as_deref() != Some(expected.method) {
        return Err(Fault::Method);
    }
    let here = address(expected.url).ok_or(Fault::Url)?;
    let claimed = text(&payload, "htu").ok_or(Fault::Url)?;
    if address(&claimed).as_ref() != Some(&here) {
        return Err(Fault::Url);
    }
    let jti = text(&payload, "jti").ok_or(Fault::Id)?;
    let length = jti.chars().count();
    if !(1..=MAX_JTI).contains(&length) || jti.chars().any(char::is_control) {
        return Err(Fault::Id);
    }
    let iat = payload
        .member("iat")
        .and_then(Json::integer)
        .filter(|iat| in_window(*iat, expected.now))
        .ok_or(Fault::IssuedAt)?;
    let ath = optional_text(&payload, "ath").ok_or(Fault::TokenHash)?;
    let wanted = expected.token.map(|t| base64url(&sha256(t.as_bytes())));
    if ath != wanted {
        return Err(Fault::TokenHash);
    }
    let nonce = optional_text(&payload, "nonce").ok_or(Fault::Nonce)?;

    Ok(Proof {
        jti,
        iat,
        nonce,
        kid,
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
    let mut next = || parts.next().and_then(|part| decode(part).ok());
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
            .and_then(read_key)
            .map(|key| key.thumbprint),
    }
}

fn in_window(iat: i64, now: i64) -> bool {
    let age = now.checked_sub(iat);
    age.is_some_and(|age| (-MAX_LEAD..=MAX_AGE).contains(&age))
}

fn decode(part: &str) -> Result<Json, Fault> {
    let bytes = from_base64url(part).ok_or(Fault::Encoding)?;
    match Json::parse(&bytes) {
        Some(object @ Json::Object(_)) if object.has_duplicates() => Err(Fault::Duplicate),
        Some(object @ Json::Object(_)) => Ok(object),
        _ => Err(Fault::Json),
    }
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

fn public_key(jwk: &Json, algorithm: Algorithm) -> Result<PublicKey, Fault> {
    if PRIVATE.iter().any(|name| jwk.member(name).is_some()) {
        return Err(Fault::PrivateKey);
    }
    read_key(jwk)
        .filter(|key| key.algorithm == algorithm)
        .ok_or(Fault::Key)
}

fn read_key(jwk: &Json) -> Option<PublicKey> {
    let member = |name| jwk.member(name).and_then(Json::text);
    // A `y` that is there must be text, also where none belongs.
    let y = optional_text(jwk, "y")?;
    PublicKey::from_members(member("kty")?, member("crv")?, member("x")?, y.as_deref())
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
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
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
