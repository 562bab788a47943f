//! TLS with an SVID as client certificate, whose key signs and does nothing else.

use std::fmt;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ClientConfig, RootCertStore, SignatureAlgorithm, SignatureScheme};

use super::error::AegisError;
use crate::broker::ports::Identity;
use crate::svid::IdentityKey;

/// TLS as a client with that SVID, towards the authorities that are given, else the system's.
pub(super) fn config(
    identity: &Arc<Identity>,
    authorities: Option<&[Vec<u8>]>,
) -> Result<ClientConfig, AegisError> {
    let failed = AegisError::Client;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .ok()
        .ok_or(failed.clone())?;
    let builder = if let Some(authorities) = authorities {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(CertificateDer::from(authority.clone()))
                .ok()
                .ok_or(failed.clone())?;
        }
        builder.with_root_certificates(roots)
    } else {
        let verifier = rustls_platform_verifier::Verifier::new(provider)
            .ok()
            .ok_or(failed)?;
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
    };
    let shown = Shown(Arc::new(CertifiedKey::new(
        chain(identity),
        Arc::new(Key(Arc::clone(identity))),
    )));
    let mut config = builder.with_client_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session that is taken up again would not show the certificate anew.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    let chain = identity.svid.chain.iter();
    chain.map(|der| CertificateDer::from(der.clone())).collect()
}

/// Shows the one certificate to whoever asks for one.
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        schemes.contains(&SCHEME).then(|| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

/// What a P-256 key signs TLS with.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// The key as TLS signs with it: it is not copied, and goes with the identity.
#[derive(Debug, Clone)]
struct Key(Arc<Identity>);

impl Key {
    fn key(&self) -> &IdentityKey {
        &self.0.key
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer: Box<dyn Signer> = Box::new(self.clone());
        offered.contains(&SCHEME).then_some(signer)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key()
            .sign(message)
            .map_err(|_failed| rustls::Error::General("the key did not sign".to_owned()))
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}
