//! The SPIFFE CA: one-time challenges, certificate requests, and the SVIDs that come of them.
//!
//! Of a request nothing is taken but its key. The certificate is made from what the challenge was
//! for: one SPIFFE ID, no subject, no authority, an hour at most.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    EcdsaVerificationAlgorithm, UnparsedPublicKey,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::check::{Check, Checks};
use crate::clock::Moment;
use crate::encoding::{Hash, base64, base64url, random, random_id, random_secret, sha256};

/// How long a challenge may be answered.
pub(crate) const CHALLENGE_LIFETIME: Duration = Duration::from_mins(5);
/// How long one that is over is known as such.
const REMEMBERED: Duration = Duration::from_hours(1);
/// How long an SVID lives; its dates begin a minute before, for clocks that are behind.
const SVID_LIFETIME: Duration = Duration::from_mins(59);
const LEAD: Duration = Duration::from_mins(1);
/// The roots outlive every server.
const ROOT_LIFETIME: Duration = Duration::from_hours(24 * 365);
/// The longest request that is looked at.
const MAX_CSR: usize = 8 * 1024;
const MAX_ID: usize = 2048;
/// Challenges that are known at once, answered or not.
const MAX_CHALLENGES: usize = 10_000;

const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";
const ECDSA_WITH_SHA384: &str = "1.2.840.10045.4.3.3";

/// An X.509 root that ends with the process.
#[derive(Debug)]
pub(crate) struct Root {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Of its key, as a JWK has them.
    x: String,
    y: String,
}

impl Root {
    #[expect(
        clippy::expect_used,
        reason = "AWS-LC makes a P-256 key whenever it has memory, and these parameters are a certificate"
    )]
    pub(crate) fn generate(name: &str, san: Option<SanType>, now: Moment) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        // SEC 1, uncompressed: 4, x, y.
        let point = key.public_key_raw();
        let x = base64url(point.get(1..33).unwrap_or_default());
        let y = base64url(point.get(33..65).unwrap_or_default());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = san.into_iter().collect();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(now, ROOT_LIFETIME);
        params.serial_number = Some(serial());
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        Self { issuer, x, y }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> &[u8] {
        self.issuer.der()
    }

    /// Signs what the parameters say, for that key.
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<Vec<u8>, rcgen::Error> {
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(certificate.der().to_vec())
    }
}

/// Dates that begin [`LEAD`] ago and last from now for `lifetime`.
pub(crate) fn validity(now: Moment, lifetime: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let date = |at: Moment| {
        OffsetDateTime::from_unix_timestamp(at.unix_seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    let lead = i64::try_from(LEAD.as_millis()).unwrap_or(0);
    let start = Moment::from_unix_millis(now.unix_millis().saturating_sub(lead));
    (date(start), date(now.plus(lifetime)))
}

/// 127 random bits, as RFC 5280 §4.1.2.2 wants them: positive.
pub(crate) fn serial() -> SerialNumber {
    let mut bytes = random::<16>();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

/// The authority of one trust domain.
#[derive(Debug)]
pub(crate) struct SpiffeCa {
    trust_domain: String,
    root: Root,
}

/// A certificate that was issued, and when it ends.
#[derive(Debug)]
pub(crate) struct Issued {
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// base64url SHA-256 of it.
    pub(crate) fingerprint: String,
    /// As the certificate says.
    pub(crate) not_after: Moment,
}

impl SpiffeCa {
    /// `trust_domain` is one.
    pub(crate) fn generate(trust_domain: &str, now: Moment) -> Self {
        let id = format!("spiffe://{trust_domain}");
        let san = id.try_into().ok().map(SanType::URI);
        Self {
            trust_domain: trust_domain.to_owned(),
            root: Root::generate("aegis-mock SPIFFE CA", san, now),
        }
    }

    pub(crate) fn root(&self) -> &[u8] {
        self.root.der()
    }

    /// The SPIFFE ID of a broker; `None` where the standard has no such ID.
    pub(crate) fn id(&self, tenant_id: &str, workload_name: &str) -> Option<String> {
        if !is_segment(tenant_id) || !is_segment(workload_name) {
            return None;
        }
        let id = format!(
            "spiffe://{}/tenant/{tenant_id}/mcp/desktop-broker/{workload_name}",
            self.trust_domain
        );
        (id.len() <= MAX_ID).then_some(id)
    }

    /// The SPIFFE trust bundle: a JWK set.
    pub(crate) fn bundle(&self) -> Value {
        json!({
            "keys": [{
                "use": "x509-svid", "kty": "EC", "crv": "P-256", "x": self.root.x, "y": self.root.y,
                "x5c": [base64(self.root.der())],
            }],
            "spiffe_sequence": 1,
            "spiffe_refresh_hint": 300,
        })
    }

    /// Makes an SVID for the key of a request. `now` is real time: certificates are judged by
    /// clocks that nobody moves.
    pub(crate) fn sign(&self, request: &Request, id: &str, now: Moment) -> Option<Issued> {
        let key = SubjectPublicKeyInfo::from_der(&request.key).ok()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_owned().try_into().ok()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        let (not_before, not_after) = validity(now, SVID_LIFETIME);
        (params.not_before, params.not_after) = (not_before, not_after);
        let certificate = self.root.sign(&params, &key).ok()?;
        Some(Issued {
            fingerprint: fingerprint(&certificate),
            certificate,
            not_after: Moment::from_unix_millis(not_after.unix_timestamp().saturating_mul(1000)),
        })
    }
}

/// base64url SHA-256 of a certificate's DER (RFC 8705 §3.1).
pub(crate) fn fingerprint(certificate: &[u8]) -> String {
    base64url(&sha256(certificate))
}

/// A trust domain: `[a-z0-9._-]`.
pub(crate) fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
}

/// A path segment: `[A-Za-z0-9._-]`, and no way up.
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// What is left of a certificate request: its key, as `SubjectPublicKeyInfo` in DER.
#[derive(Debug)]
pub(crate) struct Request {
    key: Vec<u8>,
}

impl Request {
    /// Reads a request for a certificate of that ID.
    pub(crate) fn read(der: &[u8], id: &str, checks: Checks) -> Result<Self, Check> {
        let malformed = Check::CsrForm;
        checks.require(malformed, der.len() <= MAX_CSR)?;
        let Ok((rest, request)) = X509CertificationRequest::from_der(der) else {
            return Err(malformed);
        };
        checks.require(malformed, rest.is_empty())?;
        let info = &request.certification_request_info;
        let key = &info.subject_pki;
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok())
            .map(|curve| curve.to_id_string())
            .unwrap_or_default();
        let on_curve = key.algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY
            && matches!(curve.as_str(), P256 | P384);
        checks.require(Check::CsrKey, on_curve)?;

        let hash = request.signature_algorithm.algorithm.to_id_string();
        let signed = algorithm(&curve, &hash).is_some_and(|algorithm| {
            let key = UnparsedPublicKey::new(algorithm, &*key.subject_public_key.data);
            key.verify(info.raw, &request.signature_value.data).is_ok()
        });
        checks.require(Check::CsrSignature, signed)?;
        check_extensions(&request, id, checks)?;
        Ok(Self {
            key: key.raw.to_vec(),
        })
    }
}

/// Every pair of the two curves and the two hashes.
fn algorithm(curve: &str, signature: &str) -> Option<&'static EcdsaVerificationAlgorithm> {
    Some(match (curve, signature) {
        (P256, ECDSA_WITH_SHA256) => &ECDSA_P256_SHA256_ASN1,
        (P256, ECDSA_WITH_SHA384) => &ECDSA_P256_SHA384_ASN1,
        (P384, ECDSA_WITH_SHA256) => &ECDSA_P384_SHA256_ASN1,
        (P384, ECDSA_WITH_SHA384) => &ECDSA_P384_SHA384_ASN1,
        _ => return None,
    })
}

/// What is asked for besides is not given; what must not even be asked for is refused.
fn check_extensions(
    request: &X509CertificationRequest<'_>,
    id: &str,
    checks: Checks,
) -> Result<(), Check> {
    let attributes = request.certification_request_info.iter_attributes();
    let (mut authority, mut names) = (false, Vec::new());
    for attribute in attributes {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
            continue;
        };
        for extension in &asked.extensions {
            let extension = extension.parsed_extension();
            if let ParsedExtension::BasicConstraints(constraints) = extension {
                authority |= constraints.ca;
            } else if let ParsedExtension::KeyUsage(usage) = extension {
                authority |= usage.key_cert_sign() || usage.crl_sign();
            } else if let ParsedExtension::SubjectAlternativeName(san) = extension {
                names.extend(&san.general_names);
            } else if let ParsedExtension::ParseError { .. } = extension {
                // Written so that nobody can read it, it could be any of those.
                return Err(Check::CsrForm);
            }
        }
    }
    checks.require(Check::CsrAuthority, !authority)?;
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| {
            let GeneralName::URI(uri) = name else {
                return None;
            };
            Some(*uri)
        })
        .collect();
    let only_one = names.len() == uris.len() && uris.len() <= 1;
    checks.require(Check::CsrNames, only_one)?;
    checks.require(Check::CsrUri, uris.iter().all(|uri| *uri == id))
}

/// An SVID that was issued, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Svid {
    pub(crate) fingerprint: String,
    pub(crate) session_id: String,
    /// By the clock of lifetimes.
    pub(crate) not_after: Moment,
}

/// The SVIDs that were issued, by fingerprint.
#[derive(Debug, Default)]
pub(crate) struct Svids {
    by_fingerprint: HashMap<String, Svid>,
}

impl Svids {
    pub(crate) fn insert(&mut self, svid: Svid, now: Moment) {
        self.by_fingerprint
            .retain(|_, known| now < known.not_after.plus(REMEMBERED));
        self.by_fingerprint.insert(svid.fingerprint.clone(), svid);
    }

    pub(crate) fn get(&self, fingerprint: &str) -> Option<&Svid> {
        self.by_fingerprint.get(fingerprint)
    }

    /// Of that session.
    pub(crate) fn of_session(&self, session_id: &str) -> Vec<String> {
        let all = self.by_fingerprint.values();
        all.filter(|svid| svid.session_id == session_id)
            .map(|svid| svid.fingerprint.clone())
            .collect()
    }
}

/// For whom a challenge is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) tenant_id: String,
    pub(crate) principal: String,
    pub(crate) session_id: String,
}

#[derive(Debug)]
struct Challenge {
    token: Hash,
    bearer: Bearer,
    spiffe_id: String,
    expires_at: Moment,
    used: bool,
}

/// The challenges that are known.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    by_id: HashMap<String, Challenge>,
}

impl Challenges {
    /// Makes a challenge: its id and its token. `None` where there are too many.
    pub(crate) fn begin(
        &mut self,
        bearer: Bearer,
        spiffe_id: String,
        now: Moment,
    ) -> Option<(String, String)> {
        self.by_id
            .retain(|_, challenge| now < challenge.expires_at.plus(REMEMBERED));
        if self.by_id.len() >= MAX_CHALLENGES {
            return None;
        }
        let (id, token) = (random_id("chl_"), random_secret("cht_"));
        let challenge = Challenge {
            token: sha256(token.as_bytes()),
            bearer,
            spiffe_id,
            expires_at: now.plus(CHALLENGE_LIFETIME),
            used: false,
        };
        self.by_id.insert(id.clone(), challenge);
        Some((id, token))
    }

    /// The SPIFFE ID that a challenge is about, if this caller may answer it now.
    pub(crate) fn check(
        &self,
        id: &str,
        token: &str,
        bearer: &Bearer,
        now: Moment,
        checks: Checks,
    ) -> Result<String, Check> {
        let challenge = self.by_id.get(id).ok_or(Check::ChallengeOwner)?;
        checks.require(Check::ChallengeOwner, challenge.bearer == *bearer)?;
        let known = sha256(token.as_bytes()) == challenge.token;
        checks.require(Check::ChallengeToken, known)?;
        checks.require(Check::ChallengeUnused, !challenge.used)?;
        checks.require(Check::ChallengeAge, now < challenge.expires_at)?;
        Ok(challenge.spiffe_id.clone())
    }

    /// It has been answered.
    pub(crate) fn use_up(&mut self, id: &str) {
        if let Some(challenge) = self.by_id.get_mut(id) {
            challenge.used = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_the_alphabets_of_the_standard() {
        let ca = SpiffeCa::generate("aegis.example", Moment::from_unix_millis(0));
        assert_eq!(
            ca.id("business-default", "host-01").as_deref(),
            Some("spiffe://aegis.example/tenant/business-default/mcp/desktop-broker/host-01")
        );
        for name in [
            "", ".", "..", "a/b", "a%2f", "a b", "a:1", "ä", "a?b", "a#b", "u@h",
        ] {
            assert_eq!(ca.id("t", name), None, "{name}");
            assert_eq!(ca.id(name, "w"), None, "{name}");
        }
        assert!(ca.id("t", "...").is_some());
        assert!(ca.id("t", &"w".repeat(1900)).is_some());
        assert!(ca.id("t", &"w".repeat(2048)).is_none());
        for (domain, fits) in [
            ("aegis.example", true),
            ("a_b-c.1", true),
            ("", false),
            ("Aegis.example", false),
            ("aegis.example:443", false),
            ("user@aegis.example", false),
            ("aegis%2eexample", false),
            ("aegis.example/x", false),
        ] {
            assert_eq!(is_trust_domain(domain), fits, "{domain}");
        }
    }

    #[test]
    fn a_challenge_is_for_one_bearer_once_within_five_minutes() {
        let at = |seconds| Moment::from_unix_millis(0).plus(Duration::from_secs(seconds));
        let bearer = |session: &str| Bearer {
            tenant_id: "t".to_owned(),
            principal: "p".to_owned(),
            session_id: session.to_owned(),
        };
        let mut challenges = Challenges::default();
        let (id, token) = challenges
            .begin(bearer("s"), "spiffe://x/y".to_owned(), at(0))
            .unwrap();
        let check = |challenges: &Challenges, token: &str, session: &str, seconds| {
            let checks = Checks::default();
            challenges.check(&id, token, &bearer(session), at(seconds), checks)
        };
        assert!(check(&challenges, &token, "s", 299).is_ok());
        let late = check(&challenges, &token, "s", 300);
        assert_eq!(late, Err(Check::ChallengeAge));
        assert_eq!(
            check(&challenges, &token, "o", 1),
            Err(Check::ChallengeOwner)
        );
        assert_eq!(
            check(&challenges, "cht_", "s", 1),
            Err(Check::ChallengeToken)
        );
        challenges.use_up(&id);
        let again = check(&challenges, &token, "s", 1);
        assert_eq!(again, Err(Check::ChallengeUnused));
    }
}
