//! The TLS listener: a certificate of its own throw-away CA, and clients that may show an SVID.
//!
//! A client certificate is checked in the handshake, against the SPIFFE CA and by the server's
//! clock. What it is worth is decided call by call.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::clock::Moment;
use crate::spiffe_ca::{Root, serial, validity};
use crate::state::Shared;

const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24 * 30);

/// What a listener cannot be made of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot configure TLS")]
    Rustls(#[from] rustls::Error),
    #[error("cannot verify client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// TLS as it is offered, and the CA that a client has to trust for it.
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    /// PEM.
    pub(crate) ca: String,
}

impl Tls {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Self, TlsError> {
        let now = shared.clock.real();
        let root = Root::generate("aegis-mock TLS CA", None, now);
        let (certificate, key) = certificate(&root, now)?;
        let provider = Arc::new(default_provider());

        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(shared.spiffe_ca.root().to_vec()))?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()?;
        let clock = Arc::new(ServerTime(Arc::clone(shared)));
        let mut config = ServerConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], key.into())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Each connection shows its certificate anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca: root.pem(),
        })
    }
}

/// For the names that the server goes by.
fn certificate(
    root: &Root,
    now: Moment,
) -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    (params.not_before, params.not_after) = validity(now, CERTIFICATE_LIFETIME);
    let certificate = root.sign(&params, &key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((CertificateDer::from(certificate), key))
}

/// Real time, as the server reads it.
#[derive(Debug)]
struct ServerTime(Arc<Shared>);

impl TimeProvider for ServerTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.clock.real().unix_seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
