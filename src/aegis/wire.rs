//! The messages of `aegis.md` 3 and 10 as they travel: proto-JSON, both spellings read,
//! lowerCamel written. The one place of this module with serde types.
//!
//! Answers: unknown members are ignored (OA-11), a name that occurs twice is refused, whether
//! spelt alike or in both casings (CN-5). Secrets go from the wiping body buffer straight into
//! [`SecretString`]. Errors of serde quote what they read, so none of them leaves this file.

#![warn(clippy::arithmetic_side_effects)]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use crate::model::MaterialKind;
use crate::secret::{SecretBuffer, SecretString};
use crate::time::UnixTime;

/// How deep an answer may nest (LM).
const MAX_DEPTH: u8 = 64;

/// The longest secret we take (LM).
const MAX_SECRET: usize = 64 * 1024;

/// A message could not be read or written. Never says what was in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WireError;

// ---- requests ----

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestProof<'a> {
    pub(super) proof_type: &'static str,
    pub(super) dpop_jwt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BeginRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) requested_scopes: &'a [String],
    pub(super) requested_ttl_seconds: u64,
    pub(super) pop_key_id: &'a str,
    pub(super) client_display_name: &'a str,
    pub(super) pop_jwk: Jwk<'a>,
}

#[derive(Serialize)]
pub(super) struct Jwk<'a> {
    pub(super) kty: &'static str,
    pub(super) crv: &'static str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExchangeRequest<'a> {
    /// Exposed here and nowhere else: the body is its way to the server.
    pub(super) device_code: &'a str,
    pub(super) pop_key_id: &'a str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) target: TargetOut<'a>,
    pub(super) requested_ttl_seconds: u64,
    pub(super) max_redemptions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) purpose: Option<&'a str>,
    pub(super) idempotency_key: &'a str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
pub(super) struct TargetOut<'a> {
    pub(super) provider: &'a str,
    pub(super) app: &'a str,
    pub(super) account: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RedeemRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) lease_id: &'a str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RevokeRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) lease_id: &'a str,
    pub(super) reason: &'static str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RevokeAccessRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) target: &'static str,
    pub(super) reason: &'static str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListEventsRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) page_size: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) page_token: &'a str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BeginBootstrapRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) workload_name: &'a str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CompleteBootstrapRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) challenge_id: &'a str,
    /// Exposed here and nowhere else: the body is its way to the server.
    pub(super) challenge_token: &'a str,
    /// Base64.
    pub(super) csr_der: &'a str,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExchangeWorkloadRequest<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) mode: &'static str,
    pub(super) mtls_fingerprint: &'a str,
    pub(super) nonce: &'a str,
    pub(super) requested_scopes: &'a [String],
    pub(super) requested_ttl_seconds: u64,
    pub(super) pop_key_id: &'a str,
    pub(super) pop_jwk: Jwk<'a>,
    pub(super) request_proof: Option<RequestProof<'a>>,
}

/// Writes a message into `body`, which must have room for it.
pub(super) fn encode<T: Serialize>(message: &T, body: &mut SecretBuffer) -> Result<(), WireError> {
    serde_json::to_writer(body, message).ok().ok_or(WireError)
}

// ---- answers ----

/// What every answer may have although a success must not: an `error` member.
pub(super) trait Success {
    /// Whether it has one.
    fn has_error(&self) -> bool;
}

macro_rules! success {
    ($($name:ident),*) => {
        $(impl Success for $name {
            fn has_error(&self) -> bool {
                self.error.is_some()
            }
        })*
    };
}

success!(
    BeginResponse,
    ExchangeResponse,
    CreateResponse,
    RedeemResponse,
    RevokeResponse,
    RevokeAccessResponse,
    ListEventsResponse,
    BeginBootstrapResponse,
    CompleteBootstrapResponse,
    BrokerTokenResponse
);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BeginResponse {
    error: Option<IgnoredAny>,
    #[serde(alias = "device_code")]
    pub(super) device_code: Option<Secret>,
    #[serde(alias = "user_code")]
    pub(super) user_code: Option<String>,
    #[serde(alias = "verification_uri")]
    pub(super) verification_uri: Option<String>,
    #[serde(alias = "verification_uri_complete")]
    pub(super) verification_uri_complete: Option<String>,
    #[serde(alias = "interval_seconds", default)]
    pub(super) interval_seconds: Number,
    #[serde(alias = "expires_in_seconds", default)]
    pub(super) expires_in_seconds: Number,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExchangeResponse {
    error: Option<IgnoredAny>,
    pub(super) status: Option<String>,
    #[serde(alias = "broker_token")]
    pub(super) broker_token: Option<Secret>,
    #[serde(alias = "token_info")]
    pub(super) token_info: Option<TokenInfo>,
    #[serde(alias = "interval_seconds", default)]
    pub(super) interval_seconds: Number,
    #[serde(alias = "bootstrap_token")]
    pub(super) bootstrap_token: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenInfo {
    #[serde(alias = "expires_at")]
    pub(super) expires_at: Option<Time>,
    #[serde(alias = "expires_in_seconds", default)]
    pub(super) expires_in_seconds: Number,
    #[serde(alias = "granted_scopes")]
    pub(super) granted_scopes: Option<Vec<String>>,
    pub(super) principal: Option<String>,
    #[serde(alias = "tenant_id")]
    pub(super) tenant_id: Option<String>,
    #[serde(alias = "pop_key_id")]
    pub(super) pop_key_id: Option<String>,
    pub(super) binding: Option<String>,
    pub(super) thumbprint: Option<String>,
    #[serde(alias = "session_id")]
    pub(super) session_id: Option<String>,
    #[serde(alias = "session_expires_at")]
    pub(super) session_expires_at: Option<Time>,
}

#[derive(Deserialize)]
pub(super) struct CreateResponse {
    error: Option<IgnoredAny>,
    pub(super) lease: Option<Lease>,
}

/// The same as far as it takes to revoke what was made, whatever stands in the other fields.
#[derive(Deserialize)]
pub(super) struct CreatedName {
    pub(super) lease: LeaseName,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeaseName {
    #[serde(alias = "lease_id")]
    pub(super) lease_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the contract's names")]
pub(super) struct Lease {
    #[serde(alias = "lease_id")]
    pub(super) lease_id: Option<String>,
    pub(super) target: Option<TargetIn>,
    pub(super) state: Option<String>,
    #[serde(alias = "created_at")]
    pub(super) created_at: Option<Time>,
    #[serde(alias = "expires_at")]
    pub(super) expires_at: Option<Time>,
    #[serde(alias = "max_redemptions", default)]
    pub(super) max_redemptions: Number,
    #[serde(alias = "redemptions_used", default)]
    pub(super) redemptions_used: Number,
}

#[derive(Deserialize)]
pub(super) struct TargetIn {
    #[serde(default)]
    pub(super) provider: String,
    #[serde(default)]
    pub(super) app: String,
    #[serde(default)]
    pub(super) account: String,
}

#[derive(Deserialize)]
pub(super) struct RedeemResponse {
    error: Option<IgnoredAny>,
    pub(super) credential: Option<Credential>,
    pub(super) lease: Option<Lease>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Credential {
    pub(super) kind: Option<String>,
    #[serde(alias = "expires_at")]
    pub(super) expires_at: Option<Time>,
    #[serde(alias = "gcp_access_token")]
    gcp_access_token: Option<Parts>,
    #[serde(alias = "aws_session_credentials")]
    aws_session_credentials: Option<Parts>,
    #[serde(alias = "github_token")]
    github_token: Option<Parts>,
    #[serde(alias = "kubernetes_token")]
    kubernetes_token: Option<Parts>,
    #[serde(alias = "database_login")]
    database_login: Option<Parts>,
    #[serde(alias = "generic_secret")]
    generic_secret: Option<Parts>,
    #[serde(alias = "gcp_subject_token")]
    gcp_subject_token: Option<Parts>,
}

impl Credential {
    /// The member of the contract's `oneof`, if there is exactly one.
    pub(super) fn into_only(self) -> Option<(MaterialKind, Parts)> {
        let members = [
            (MaterialKind::GcpAccessToken, self.gcp_access_token),
            (
                MaterialKind::AwsSessionCredentials,
                self.aws_session_credentials,
            ),
            (MaterialKind::GithubToken, self.github_token),
            (MaterialKind::KubernetesToken, self.kubernetes_token),
            (MaterialKind::DatabaseLogin, self.database_login),
            (MaterialKind::GenericSecret, self.generic_secret),
            (MaterialKind::GcpSubjectToken, self.gcp_subject_token),
        ];
        let mut members = members
            .into_iter()
            .filter_map(|(kind, parts)| Some((kind, parts?)));
        let only = members.next()?;
        members.next().is_none().then_some(only)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RevokeResponse {
    error: Option<IgnoredAny>,
    pub(super) lease: Option<Lease>,
    #[serde(alias = "already_terminal", default)]
    pub(super) already_terminal: Option<bool>,
}

/// Counts of what ended, which nothing here depends on.
#[derive(Deserialize)]
pub(super) struct RevokeAccessResponse {
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListEventsResponse {
    error: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) events: Vec<AuditEventIn>,
    #[serde(alias = "next_page_token")]
    pub(super) next_page_token: Option<String>,
}

/// An event, absent fields empty as the contract has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct AuditEventIn {
    #[serde(alias = "event_id")]
    pub(super) event_id: String,
    pub(super) seq: Number,
    #[serde(alias = "occurred_at")]
    pub(super) occurred_at: Option<Time>,
    #[serde(alias = "tenant_id")]
    pub(super) tenant_id: String,
    pub(super) action: String,
    pub(super) outcome: String,
    pub(super) principal: String,
    #[serde(alias = "session_id")]
    pub(super) session_id: String,
    #[serde(alias = "lease_id")]
    pub(super) lease_id: String,
    pub(super) target: String,
    pub(super) reason: String,
    #[serde(alias = "request_id")]
    pub(super) request_id: String,
    #[serde(alias = "proof_type")]
    pub(super) proof_type: String,
    #[serde(alias = "key_thumbprint")]
    pub(super) key_thumbprint: String,
    #[serde(alias = "proof_jti")]
    pub(super) proof_jti: String,
    #[serde(alias = "prev_hash")]
    pub(super) prev_hash: String,
    pub(super) hash: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BeginBootstrapResponse {
    error: Option<IgnoredAny>,
    #[serde(alias = "challenge_id")]
    pub(super) challenge_id: Option<String>,
    #[serde(alias = "challenge_token")]
    pub(super) challenge_token: Option<Secret>,
    #[serde(alias = "spiffe_id")]
    pub(super) spiffe_id: Option<String>,
}

/// The bundle that it may bring is not looked at: whose certificates are believed is configured.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CompleteBootstrapResponse {
    error: Option<IgnoredAny>,
    /// Base64, the leaf first.
    #[serde(alias = "svid_chain", default)]
    pub(super) svid_chain: Vec<String>,
    #[serde(alias = "mtls_fingerprint")]
    pub(super) mtls_fingerprint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BrokerTokenResponse {
    error: Option<IgnoredAny>,
    #[serde(alias = "broker_token")]
    pub(super) broker_token: Option<Secret>,
    #[serde(alias = "token_info")]
    pub(super) token_info: Option<TokenInfo>,
}

/// A Connect error body. Its message is not even kept.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorBody {
    pub(super) code: Option<String>,
    #[serde(default)]
    pub(super) details: Vec<ErrorDetail>,
    #[serde(alias = "broker_token")]
    broker_token: Option<IgnoredAny>,
    #[serde(alias = "bootstrap_token")]
    bootstrap_token: Option<IgnoredAny>,
    #[serde(alias = "access_token")]
    access_token: Option<IgnoredAny>,
    credential: Option<IgnoredAny>,
}

impl ErrorBody {
    /// Whether a refusal holds what only a success may.
    pub(super) fn has_secret(&self) -> bool {
        self.broker_token.is_some()
            || self.bootstrap_token.is_some()
            || self.access_token.is_some()
            || self.credential.is_some()
    }
}

#[derive(Deserialize)]
pub(super) struct ErrorDetail {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) value: String,
}

/// Reads one message from the whole of `body`.
pub(super) fn decode<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, WireError> {
    let mut shape = serde_json::Deserializer::from_slice(body);
    Shape { depth: 0 }
        .deserialize(&mut shape)
        .ok()
        .ok_or(WireError)?;
    serde_json::from_slice(body).ok().ok_or(WireError)
}

// ---- values ----

/// A secret of at most 64 KiB on its way into a [`SecretString`].
pub(super) struct Secret(pub(super) SecretString);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
                if text.len() > MAX_SECRET {
                    return Err(E::custom("too long"));
                }
                Ok(Secret(SecretString::copy_from(text)))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Secret, E> {
                self.visit_str(&Zeroizing::new(text))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The members of a kind of material by their names on the wire. Which of them are secret is not
/// known here: all are taken as such.
pub(super) struct Parts(Vec<(String, Part)>);

/// What stands in one of them.
pub(super) enum Part {
    Text(SecretString),
    Number(i64),
    List(Vec<SecretString>),
    /// In the order of the wire, no name twice.
    Map(Vec<(String, SecretString)>),
    /// No type that any kind of material has.
    Other,
}

impl Parts {
    /// The member of that name of the contract, in either of its two spellings; both at once are
    /// an error (CN-5).
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Part>, WireError> {
        let camel = camel_case(name);
        let is_it = |(other, _): &mut (String, Part)| *other == name || *other == camel;
        let mut found = self.0.extract_if(.., is_it);
        let part = found.next().map(|(_, part)| part);
        if found.next().is_some() {
            return Err(WireError);
        }
        Ok(part)
    }
}

/// `access_token` as proto-JSON writes it: `accessToken`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut text, word| {
        let mut letters = word.chars();
        text.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        text.push_str(letters.as_str());
        text
    })
}

impl Part {
    fn text(self) -> Option<SecretString> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::List(_) | Self::Map(_) | Self::Other => None,
        }
    }

    /// Whether it says nothing: proto-JSON may write out what is not set.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Number(number) => *number == 0,
            Self::List(texts) => texts.is_empty(),
            Self::Map(pairs) => pairs.is_empty(),
            Self::Other => false,
        }
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Parts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("credential material")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
                let mut parts = Vec::new();
                while let Some((name, part)) = map.next_entry::<String, Option<Part>>()? {
                    parts.extend(part.map(|part| (name, part)));
                }
                Ok(Parts(parts))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Part;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a part of credential material")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Part, E> {
                if text.len() > MAX_SECRET {
                    return Err(E::custom("too long"));
                }
                Ok(Part::Text(SecretString::copy_from(text)))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Part, E> {
                self.visit_str(&Zeroizing::new(text))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Part, E> {
                Ok(Part::Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Part, E> {
                Ok(i64::try_from(number).map_or(Part::Other, Part::Number))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Part, E> {
                Ok(Part::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Part, E> {
                Ok(Part::Other)
            }

            fn visit_unit<E>(self) -> Result<Part, E> {
                Ok(Part::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Part, A::Error> {
                let mut texts = Some(Vec::new());
                while let Some(part) = seq.next_element::<Part>()? {
                    texts = texts.zip(part.text()).map(|(mut texts, text)| {
                        texts.push(text);
                        texts
                    });
                }
                Ok(texts.map_or(Part::Other, Part::List))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
                let mut pairs = Some(Vec::new());
                while let Some((name, part)) = map.next_entry::<String, Part>()? {
                    pairs = pairs.zip(part.text()).map(|(mut pairs, text)| {
                        pairs.push((name, text));
                        pairs
                    });
                }
                Ok(pairs.map_or(Part::Other, Part::Map))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// A whole number that came as a number or as text. Fractions are cut off, what is beyond the
/// type saturates, what is no number counts as missing (OA-11, HY-17).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Number(pub(super) Option<i64>);

impl Number {
    fn of_float(value: f64) -> Self {
        // Within this range an f64 is exact enough to be printed and read as an integer.
        const EDGE: f64 = 9e15;
        if value.is_nan() {
            Self(None)
        } else if value >= EDGE {
            Self(Some(i64::MAX))
        } else if value <= -EDGE {
            Self(Some(i64::MIN))
        } else {
            Self(format!("{:.0}", value.trunc()).parse().ok())
        }
    }

    fn of_text(text: &str) -> Self {
        let text = text.trim();
        match text.parse::<i64>() {
            Ok(value) => Self(Some(value)),
            Err(_) if text.len() <= 32 && text.bytes().all(is_numeric) => {
                text.parse().map_or(Self(None), Self::of_float)
            }
            Err(_) => Self(None),
        }
    }
}

const fn is_numeric(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(Some(value)))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(Some(i64::try_from(value).unwrap_or(i64::MAX))))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number::of_float(value))
            }

            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(Number::of_text(text))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Number, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Number, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// An RFC 3339 timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) UnixTime);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Name::deserialize(deserializer)?;
        UnixTime::parse_rfc3339(&text.0)
            .map(Self)
            .ok_or_else(|| D::Error::custom("not a timestamp"))
    }
}

// ---- the look before reading ----

/// Walks a value without keeping it: nothing deeper than 64, no name twice in one object.
#[derive(Clone, Copy)]
struct Shape {
    depth: u8,
}

impl Shape {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.saturating_add(1);
        if depth > MAX_DEPTH {
            return Err(E::custom("too deep"));
        }
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("json")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        while items.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        let mut names = BTreeSet::new();
        while let Some(Name(name)) = map.next_key()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a name twice"));
            }
            map.next_value_seed(inside)?;
        }
        Ok(())
    }
}

/// Text that is borrowed where it needs no unescaping.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::many;

    fn number(json: &str) -> Result<Option<i64>, WireError> {
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            n: Number,
        }
        decode::<One>(json.as_bytes()).map(|one| one.n.0)
    }

    /// OA-11, HY-17: numbers of every kind, none of them a panic.
    #[test]
    fn numbers_are_read_whatever_they_look_like() {
        #[rustfmt::skip]
        let rows = [
            ("missing", "{}", Ok(None)),
            ("null", r#"{"n":null}"#, Ok(None)),
            ("zero", r#"{"n":0}"#, Ok(Some(0))),
            ("plain", r#"{"n":600}"#, Ok(Some(600))),
            ("text", r#"{"n":"600"}"#, Ok(Some(600))),
            ("negative", r#"{"n":-5}"#, Ok(Some(-5))),
            ("negative text", r#"{"n":"-5"}"#, Ok(Some(-5))),
            ("fraction", r#"{"n":599.9}"#, Ok(Some(599))),
            ("fraction text", r#"{"n":"599.9"}"#, Ok(Some(599))),
            ("small fraction", r#"{"n":0.4}"#, Ok(Some(0))),
            ("exponent", r#"{"n":6e2}"#, Ok(Some(600))),
            ("exponent text", r#"{"n":"6e2"}"#, Ok(Some(600))),
            ("u64 max", r#"{"n":18446744073709551615}"#, Ok(Some(i64::MAX))),
            ("beyond u64", r#"{"n":99999999999999999999999}"#, Ok(Some(i64::MAX))),
            ("huge", r#"{"n":1e300}"#, Ok(Some(i64::MAX))),
            ("huge negative", r#"{"n":-1e300}"#, Ok(Some(i64::MIN))),
            ("huge text", r#"{"n":"99999999999999999999"}"#, Ok(Some(i64::MAX))),
            ("infinite", r#"{"n":1e999}"#, Err(WireError)),
            ("word", r#"{"n":"soon"}"#, Ok(None)),
            ("infinity as text", r#"{"n":"inf"}"#, Ok(None)),
            ("empty text", r#"{"n":""}"#, Ok(None)),
            ("boolean", r#"{"n":true}"#, Ok(None)),
            ("list", r#"{"n":[1]}"#, Ok(None)),
            ("object", r#"{"n":{"a":1}}"#, Ok(None)),
        ];
        for (name, json, expected) in rows {
            assert_eq!(number(json), expected, "{name}");
        }
    }

    /// CN-5: both spellings are read, both at once are a duplicate; duplicates are refused at
    /// any depth, known or not; unknown members and other casings are passed over.
    #[test]
    fn names_are_read_in_two_spellings_and_once() {
        #[rustfmt::skip]
        let rows = [
            ("lowerCamel", r#"{"brokerToken":"t","status":"success"}"#, Some(true)),
            ("snake_case", r#"{"broker_token":"t","status":"success"}"#, Some(true)),
            ("both", r#"{"broker_token":"t","brokerToken":"t"}"#, None),
            ("twice", r#"{"brokerToken":"t","brokerToken":"t"}"#, None),
            ("twice by escape", r#"{"brokerToken":"t","broker\u0054oken":"t"}"#, None),
            ("upper case", r#"{"BrokerToken":"t"}"#, Some(false)),
            ("unknown", r#"{"brokerToken":"t","new":{"a":[1,2]}}"#, Some(true)),
            ("unknown twice", r#"{"brokerToken":"t","new":1,"new":2}"#, None),
            ("twice inside unknown", r#"{"new":[{"a":1,"a":2}]}"#, None),
            ("wrong type", r#"{"brokerToken":1}"#, None),
            ("null", r#"{"brokerToken":null}"#, Some(false)),
            ("list", r#"["brokerToken"]"#, None),
            ("text", r#""brokerToken""#, None),
            ("trailing", r#"{"brokerToken":"t"} x"#, None),
            ("cut off", r#"{"brokerToken":"t"#, None),
            ("empty", "", None),
        ];
        for (name, json, token) in rows {
            let read = decode::<ExchangeResponse>(json.as_bytes()).ok();
            assert_eq!(
                read.map(|read| read.broker_token.is_some()),
                token,
                "{name}"
            );
        }
    }

    /// LM: depth 64 is read, 65 is not, and a million is no stack overflow.
    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            // The object itself is the first level.
            let inner = depth - 1;
            format!(r#"{{"x":{}{}}}"#, "[".repeat(inner), "]".repeat(inner))
        };
        assert!(decode::<ExchangeResponse>(nested(64).as_bytes()).is_ok());
        assert!(decode::<ExchangeResponse>(nested(65).as_bytes()).is_err());
        assert!(decode::<ExchangeResponse>("[".repeat(1_000_000).as_bytes()).is_err());
    }

    /// LM: a secret of 64 KiB is taken, one byte more is not; escapes are undone.
    #[test]
    fn secrets_are_bounded_and_unescaped() {
        let answer = |secret: &str| format!(r#"{{"accessToken":"{secret}"}}"#);
        let read = |json: &str| {
            let mut parts = decode::<Parts>(json.as_bytes()).ok()?;
            match parts.take("access_token") {
                Ok(Some(Part::Text(secret))) => Some(secret),
                Ok(_) | Err(_) => None,
            }
        };
        assert!(read(&answer(&"s".repeat(MAX_SECRET))).is_some());
        assert!(read(&answer(&"s".repeat(MAX_SECRET + 1))).is_none());
        assert_eq!(
            read(&answer("a\\u0062c")).unwrap(),
            SecretString::copy_from("abc")
        );
    }

    #[test]
    fn requests_are_written_in_lower_camel() {
        let request = ExchangeRequest {
            device_code: "mdc_1",
            pop_key_id: "pop-x",
            request_proof: Some(RequestProof {
                proof_type: "dpop_jwt",
                dpop_jwt: "a.b.c",
                nonce: None,
            }),
        };
        let mut body = SecretBuffer::with_capacity(1024);
        encode(&request, &mut body).unwrap();
        assert_eq!(
            std::str::from_utf8(body.expose()).unwrap(),
            r#"{"deviceCode":"mdc_1","popKeyId":"pop-x","requestProof":{"proofType":"dpop_jwt","dpopJwt":"a.b.c"}}"#
        );
        let mut small = SecretBuffer::with_capacity(16);
        assert_eq!(encode(&request, &mut small), Err(WireError));
    }

    proptest! {
        #![proptest_config(many())]

        /// Any bytes are an answer or a refusal, never a panic.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _read = decode::<RedeemResponse>(&bytes).is_ok();
            let _read = decode::<ErrorBody>(&bytes).is_ok();
        }

        /// The same for text that is nearly an answer.
        #[test]
        fn any_value_in_a_member_is_read_or_refused(value in "[\\[\\]{}\"0-9eE+\\-.,:a-z\\\\u]{0,40}") {
            let json = format!(r#"{{"intervalSeconds":{value},"expiresInSeconds":"{value}"}}"#);
            let _read = decode::<BeginResponse>(json.as_bytes()).is_ok();
        }
    }
}
