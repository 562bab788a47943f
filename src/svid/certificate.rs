use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime as TlsTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::{IdentityKey, SpiffeId, SvidError};
use crate::time::UnixTime;

/// What an SVID may live at most (SP-6).
const MAX_LIFE: Duration = Duration::from_hours(1);

/// Certificates of one chain, and of one bundle.
const MAX_CHAIN: usize = 8;
const MAX_BUNDLE: usize = 64;

/// Of one certificate, in bytes.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// The authorities whose SVIDs are believed.
#[derive(Clone)]
pub struct Bundle {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Bundle {
    /// The authorities of a PEM file.
    ///
    /// # Errors
    /// [`SvidError::Bundle`] where it holds none, too many, or something that is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SvidError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
            .take(MAX_BUNDLE.saturating_add(1))
            .collect();
        Self::from_certificates(found.ok().ok_or(SvidError::Bundle)?)
    }

    /// These authorities, DER.
    ///
    /// # Errors
    /// [`SvidError::Bundle`].
    pub fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, SvidError> {
        Self::from_certificates(certificates.into_iter().map(CertificateDer::from).collect())
    }

    fn from_certificates(found: Vec<CertificateDer<'_>>) -> Result<Self, SvidError> {
        let wrong = SvidError::Bundle;
        if !(1..=MAX_BUNDLE).contains(&found.len()) {
            return Err(wrong);
        }
        let mut roots = RootCertStore::empty();
        for certificate in found {
            roots.add(certificate.into_owned()).ok().ok_or(wrong)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .ok()
            .ok_or(wrong)?;
        Ok(Self { verifier })
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bundle")
    }
}

/// An SVID that was found to be what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// DER, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// base64url SHA-256 of the leaf (RFC 8705 §3.1).
    pub fingerprint: Box<str>,
    /// When it ends, by its own dates.
    pub not_after: UnixTime,
}

impl Svid {
    /// Believes a chain, leaf first, for this key and id (SP-1, SP-2, SP-4, SP-6).
    ///
    /// # Errors
    /// [`SvidError`]: the first thing that is wrong.
    pub fn verified(
        chain: Vec<Vec<u8>>,
        bundle: &Bundle,
        key: &IdentityKey,
        id: &SpiffeId,
        now: UnixTime,
    ) -> Result<Self, SvidError> {
        let bounded = chain.iter().all(|one| one.len() <= MAX_CERTIFICATE);
        if !bounded || chain.len() > MAX_CHAIN {
            return Err(SvidError::Form);
        }
        let (leaf, rest) = chain.split_first().ok_or(SvidError::Form)?;
        let (trailing, parsed) = X509Certificate::from_der(leaf)
            .ok()
            .ok_or(SvidError::Form)?;
        if !trailing.is_empty() {
            return Err(SvidError::Form);
        }
        check_name(&parsed, id)?;
        if &*parsed.public_key().subject_public_key.data != key.public_point() {
            return Err(SvidError::OtherKey);
        }
        check_usage(&parsed)?;
        let not_after = check_lifetime(&parsed, now)?;
        let as_der = |der: &Vec<u8>| CertificateDer::from(der.clone());
        let intermediates: Vec<_> = rest.iter().map(as_der).collect();
        let at = TlsTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
        bundle
            .verifier
            .verify_client_cert(&as_der(leaf), &intermediates, at)
            .ok()
            .ok_or(SvidError::Authority)?;
        let fingerprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, leaf)).into();
        Ok(Self {
            chain,
            fingerprint,
            not_after,
        })
    }
}

/// SP-1: one name, a URI, and the one that was promised.
fn check_name(certificate: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), SvidError> {
    let wrong = SvidError::Name;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .ok_or(wrong)?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return Err(wrong);
    };
    let found = SpiffeId::parse(uri).ok().ok_or(wrong)?;
    // Where there is no other name, whoever does not know this one must not pass it over.
    let nameless = certificate.subject().iter().count() == 0;
    if found == *id && (names.critical || !nameless) {
        Ok(())
    } else {
        Err(wrong)
    }
}

/// SP-2: no authority, signatures alone, and both ends of TLS where it says which.
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let wrong = SvidError::Usage;
    let constraints = certificate.basic_constraints().ok().ok_or(wrong)?;
    if constraints.is_some_and(|found| found.value.ca) {
        return Err(wrong);
    }
    let usage = certificate.key_usage().ok().flatten().ok_or(wrong)?;
    let only_signs =
        usage.value.digital_signature() && !usage.value.key_cert_sign() && !usage.value.crl_sign();
    if !usage.critical || !only_signs {
        return Err(wrong);
    }
    let extended = certificate.extended_key_usage().ok().ok_or(wrong)?;
    if extended.is_some_and(|found| !found.value.server_auth || !found.value.client_auth) {
        return Err(wrong);
    }
    Ok(())
}

/// SP-6: it lives now, and no longer than an hour in all.
fn check_lifetime(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<UnixTime, SvidError> {
    let at = |timestamp: i64| {
        u64::try_from(timestamp)
            .ok()
            .and_then(|seconds| seconds.checked_mul(1000))
            .map(UnixTime::from_millis)
            .ok_or(SvidError::Lifetime)
    };
    let validity = certificate.validity();
    let not_before = at(validity.not_before.timestamp())?;
    let not_after = at(validity.not_after.timestamp())?;
    if not_before <= now && now < not_after && not_before.until(not_after) <= MAX_LIFE {
        Ok(not_after)
    } else {
        Err(SvidError::Lifetime)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName,
        ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
        SubjectPublicKeyInfo,
    };
    use time::OffsetDateTime;

    use super::*;

    const ID: &str = "spiffe://aegis.example/tenant/t/mcp/desktop-broker/b";
    const NOW: UnixTime = UnixTime::from_millis(1_795_341_600_000);

    fn date(offset_seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_341_600 + offset_seconds).unwrap()
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (date(-3600), date(36_000));
        CertifiedIssuer::self_signed(params, key).unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    /// What an authority that keeps the contract signs.
    fn good() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(ID)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) = (date(-60), date(3540));
        params
    }

    fn spki(key: &IdentityKey) -> SubjectPublicKeyInfo {
        let id = SpiffeId::parse(ID).unwrap();
        let request = key.request(&id).unwrap();
        let (_, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&request)
                .unwrap();
        SubjectPublicKeyInfo::from_der(parsed.certification_request_info.subject_pki.raw).unwrap()
    }

    fn verify(
        change: impl FnOnce(&mut CertificateParams),
        now: UnixTime,
    ) -> Result<Svid, SvidError> {
        let authority = authority();
        let bundle = Bundle::from_der(vec![authority.der().to_vec()]).unwrap();
        let key = IdentityKey::generate().unwrap();
        let mut params = good();
        change(&mut params);
        let leaf = params.signed_by(&spki(&key), &authority).unwrap();
        let id = SpiffeId::parse(ID).unwrap();
        Svid::verified(vec![leaf.der().to_vec()], &bundle, &key, &id, now)
    }

    /// SP-6: what was asked for is believed, and named by the leaf's hash.
    #[test]
    fn a_good_certificate_is_believed() {
        let svid = verify(|_| {}, NOW).unwrap();
        assert_eq!(NOW.until(svid.not_after), Duration::from_mins(59));
        assert_eq!(svid.fingerprint.len(), 43);
        assert_eq!(svid.chain.len(), 1);
    }

    /// SP-1, SP-2, SP-4, SP-6: one thing wrong is enough.
    #[test]
    fn each_thing_that_is_wrong_is_refused() {
        type Change = fn(&mut CertificateParams);
        #[rustfmt::skip]
        let rows: &[(&str, Change, SvidError)] = &[
            ("no name", |p| p.subject_alt_names.clear(), SvidError::Name),
            ("another id", |p| p.subject_alt_names = vec![uri("spiffe://aegis.example/tenant/t/mcp/desktop-broker/c")], SvidError::Name),
            ("another trust domain", |p| p.subject_alt_names = vec![uri("spiffe://evil.example/tenant/t/mcp/desktop-broker/b")], SvidError::Name),
            ("the root", |p| p.subject_alt_names = vec![uri("spiffe://aegis.example")], SvidError::Name),
            ("another scheme", |p| p.subject_alt_names = vec![uri("https://aegis.example/x")], SvidError::Name),
            ("two ids", |p| p.subject_alt_names = vec![uri(ID), uri(ID)], SvidError::Name),
            ("a host beside", |p| p.subject_alt_names.push(SanType::DnsName("localhost".try_into().unwrap())), SvidError::Name),
            ("an authority", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), SvidError::Usage),
            ("no usage", |p| p.key_usages.clear(), SvidError::Usage),
            ("signs certificates", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), SvidError::Usage),
            ("signs lists", |p| p.key_usages.push(KeyUsagePurpose::CrlSign), SvidError::Usage),
            ("no signatures", |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement], SvidError::Usage),
            ("servers alone", |p| { p.extended_key_usages.pop(); }, SvidError::Usage),
            ("clients alone", |p| { p.extended_key_usages.remove(0); }, SvidError::Usage),
            ("over", |p| p.not_after = date(0), SvidError::Lifetime),
            ("not begun", |p| p.not_before = date(1), SvidError::Lifetime),
            ("too long", |p| p.not_after = date(3541), SvidError::Lifetime),
        ];
        for (name, change, expected) in rows {
            assert_eq!(verify(change, NOW), Err(*expected), "{name}");
        }
        // A clock that is off by minutes meets a certificate that does not live yet, or no more.
        for now in [
            UnixTime::from_millis(1_795_341_600_000 - 61_000),
            NOW.plus(MAX_LIFE),
        ] {
            assert_eq!(verify(|_| {}, now), Err(SvidError::Lifetime));
        }
    }

    /// SP-6: of another authority, for another key, or no certificate at all.
    #[test]
    fn strangers_are_refused() {
        let (ours, other) = (authority(), authority());
        let bundle = Bundle::from_der(vec![ours.der().to_vec()]).unwrap();
        let key = IdentityKey::generate().unwrap();
        let id = SpiffeId::parse(ID).unwrap();
        let leaf = |by: &CertifiedIssuer<'static, KeyPair>, key: &IdentityKey| {
            good().signed_by(&spki(key), by).unwrap().der().to_vec()
        };
        let verify = |chain: Vec<Vec<u8>>| Svid::verified(chain, &bundle, &key, &id, NOW);
        assert!(verify(vec![leaf(&ours, &key)]).is_ok());
        assert_eq!(verify(vec![leaf(&other, &key)]), Err(SvidError::Authority));
        let brought = vec![leaf(&other, &key), other.der().to_vec()];
        assert_eq!(
            verify(brought),
            Err(SvidError::Authority),
            "with its own root"
        );
        let foreign = IdentityKey::generate().unwrap();
        assert_eq!(
            verify(vec![leaf(&ours, &foreign)]),
            Err(SvidError::OtherKey)
        );
        let mut touched = leaf(&ours, &key);
        let last = touched.len() - 1;
        touched[last] ^= 1;
        assert_eq!(
            verify(vec![touched]),
            Err(SvidError::Authority),
            "its signature"
        );
        let mut longer = leaf(&ours, &key);
        longer.push(0);
        for chain in [
            Vec::new(),
            vec![b"x".to_vec()],
            vec![longer],
            vec![leaf(&ours, &key); MAX_CHAIN + 1],
            vec![vec![0; MAX_CERTIFICATE + 1]],
        ] {
            assert_eq!(verify(chain), Err(SvidError::Form));
        }
    }

    #[test]
    fn a_bundle_holds_authorities() {
        let root = authority();
        assert!(Bundle::from_pem(root.pem().as_bytes()).is_ok());
        for pem in [
            String::new(),
            "x".to_owned(),
            root.pem().repeat(MAX_BUNDLE + 1),
        ] {
            let bundle = Bundle::from_pem(pem.as_bytes());
            assert_eq!(bundle.err(), Some(SvidError::Bundle));
        }
        assert_eq!(
            Bundle::from_der(vec![vec![1, 2, 3]]).err(),
            Some(SvidError::Bundle)
        );
    }
}
