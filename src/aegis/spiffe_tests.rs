//! Bootstrap and renewal against a small server of our own: plain HTTP for the calls with a token,
//! TLS that demands an SVID for the exchange. Certificates are judged by real clocks, so is this.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::tests::read_request;
use super::*;
use crate::broker::ports::Disposition;
use crate::dpop::ProofKey;
use crate::model::{Action, ErrorCode, PopKeyId, Principal, Scope, SessionId, TenantId};
use crate::secret::SecretString;
use crate::time::SystemClock;

const ID: &str = "spiffe://aegis.example/tenant/business-default/mcp/desktop-broker/host-01";
const TOKEN: &str = "example-broker-token-0002";
const BOOTSTRAP: &str = "example-bootstrap-token";

/// An authority, its certificate good for a day around now.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = around_now(86_400);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn around_now(seconds: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    let lead = time::Duration::seconds(60);
    (now - lead, now + time::Duration::seconds(seconds))
}

/// The SVID that a request asks for, by that authority.
fn svid(request: &[u8], by: &CertifiedIssuer<'static, KeyPair>) -> Vec<u8> {
    let (_, request) = X509CertificationRequest::from_der(request).unwrap();
    let key = request.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    (params.not_before, params.not_after) = around_now(3500);
    params.signed_by(&key, by).unwrap().der().to_vec()
}

fn fingerprint(der: &[u8]) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    URL_SAFE_NO_PAD.encode(digest(&SHA256, der))
}

/// A request as the server saw it.
struct Asked {
    method: String,
    body: Value,
    bearer: Option<String>,
    /// Of the client's certificate, where there was TLS.
    peer: Option<String>,
}

impl Asked {
    fn proof(&self, part: usize) -> Value {
        let jwt = self.body["requestProof"]["dpopJwt"].as_str().unwrap();
        let part = jwt.split('.').nth(part).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    /// Of the key that the proof is of.
    fn thumbprint(&self) -> String {
        let id = self.proof(0)["kid"].as_str().unwrap().to_owned();
        id.strip_prefix("pop-").unwrap().to_owned()
    }
}

/// What the server does that it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    /// The certificate is of an authority that nobody configured.
    OtherAuthority,
    /// The token is another person's.
    OtherPrincipal,
    /// It may do more than was asked for.
    WiderScope,
    /// It is not bound to the new key.
    OtherKey,
}

struct House {
    plain: Url,
    tls: Url,
    /// Of the TLS listener.
    ca: Vec<u8>,
    /// Of SVIDs, PEM.
    bundle: Vec<u8>,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl House {
    async fn start(lie: Lie) -> Self {
        let (spiffe, stranger, web) = (authority(), authority(), authority());
        let bundle = spiffe.pem().into_bytes();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(spiffe.der().to_vec()))
            .unwrap();
        let acceptor = acceptor(&web, roots);
        let signer = Arc::new(if lie == Lie::OtherAuthority {
            stranger
        } else {
            spiffe
        });
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |scheme: &str, listener: &TcpListener| {
            let address = listener.local_addr().unwrap();
            Url::parse(&format!("{scheme}://{address}")).unwrap()
        };
        let house = Self {
            plain: at("http", &plain),
            tls: at("https", &tls),
            ca: web.pem().into_bytes(),
            bundle,
            seen: Arc::clone(&seen),
        };
        let (log, by) = (Arc::clone(&seen), Arc::clone(&signer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = plain.accept().await.unwrap();
                let (log, by) = (Arc::clone(&log), Arc::clone(&by));
                tokio::spawn(serve(stream, None, log, by, lie));
            }
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = tls.accept().await.unwrap();
                let (log, by) = (Arc::clone(&seen), Arc::clone(&signer));
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let shown = stream.get_ref().1.peer_certificates().unwrap();
                    let peer = fingerprint(&shown[0]);
                    serve(stream, Some(peer), log, by, lie).await;
                });
            }
        });
        house
    }

    fn client(&self) -> AegisClient {
        self.client_trusting(&self.ca)
    }

    fn client_trusting(&self, ca: &[u8]) -> AegisClient {
        let settings = AegisSettings {
            base_url: self.plain.clone(),
            allow_insecure_loopback: true,
            allow_missing_token_info: false,
            network: Network::default().trusting(ca).unwrap(),
            renewing: Some(Renewing {
                bundle: Bundle::from_pem(&self.bundle).unwrap(),
                mtls_url: self.tls.clone(),
                workload_name: "host-01".to_owned(),
                token_ttl: Duration::from_mins(10),
            }),
        };
        AegisClient::new(settings, Arc::new(SystemClock)).unwrap()
    }

    fn methods(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|asked| asked.method.clone()).collect()
    }
}

fn acceptor(web: &CertifiedIssuer<'static, KeyPair>, clients: RootCertStore) -> TlsAcceptor {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = around_now(3600);
    let certificate = params.signed_by(&key, web).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(clients), Arc::clone(&provider))
            .build()
            .unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers one request.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Option<String>,
    log: Arc<Mutex<Vec<Asked>>>,
    by: Arc<CertifiedIssuer<'static, KeyPair>>,
    lie: Lie,
) {
    let Some((head, body)) = read_request(&mut stream).await else {
        return;
    };
    let path = head.split(' ').nth(1).unwrap();
    let bearer = head
        .lines()
        .find_map(|line| line.strip_prefix("authorization: Bearer "));
    let asked = Asked {
        method: path.rsplit('/').next().unwrap().to_owned(),
        body,
        bearer: bearer.map(str::to_owned),
        peer,
    };
    let answer = answer(&asked, &by, lie).to_string();
    log.lock().unwrap().push(asked);
    let reply = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    );
    let _gone = stream.write_all(reply.as_bytes()).await.is_err();
    let _gone = stream.shutdown().await.is_err();
}

fn answer(asked: &Asked, by: &CertifiedIssuer<'static, KeyPair>, lie: Lie) -> Value {
    match asked.method.as_str() {
        "BeginSpiffeBootstrap" => json!({
            "challengeId": "chl_1", "challengeToken": "challenge", "spiffeId": ID,
            "expiresInSeconds": 300,
        }),
        "CompleteSpiffeBootstrap" => {
            let request = asked.body["csrDer"].as_str().unwrap();
            let leaf = svid(&STANDARD.decode(request).unwrap(), by);
            json!({
                "svidChain": [STANDARD.encode(&leaf)], "mtlsFingerprint": fingerprint(&leaf),
                // Not to be believed, whatever it is.
                "trustBundle": [STANDARD.encode(by.der())],
            })
        }
        "ExchangeWorkloadToken" => {
            let mut scopes: Vec<String> =
                serde_json::from_value(asked.body["requestedScopes"].clone()).unwrap();
            if lie == Lie::WiderScope {
                scopes.push("credential.lease.create:provider:a:app:b:account:other".to_owned());
            }
            let principal = if lie == Lie::OtherPrincipal {
                "user:u-other"
            } else {
                "user:u-demo"
            };
            let thumbprint = if lie == Lie::OtherKey {
                "x".repeat(43)
            } else {
                asked.thumbprint()
            };
            json!({
                "brokerToken": TOKEN,
                "tokenInfo": {
                    "expiresInSeconds": 600, "grantedScopes": scopes, "principal": principal,
                    "tenantId": "business-default", "binding": "jkt", "thumbprint": thumbprint,
                    "sessionId": "ses_1",
                },
            })
        }
        other => panic!("{other}"),
    }
}

fn session() -> Arc<Session> {
    let key = Arc::new(ProofKey::generate().unwrap());
    let now = SystemClock.now();
    let selector = Selector::parse("gcp/billing-prod/deploy-bot").unwrap();
    let scope = |action| Scope {
        action,
        selector: selector.clone(),
    };
    Arc::new(Session {
        principal: Principal::parse("user:u-demo").unwrap(),
        tenant: TenantId::parse("business-default").unwrap(),
        session_id: SessionId::parse("ses_1").ok(),
        token: SecretString::copy_from("example-broker-token-0001"),
        pop_key_id: PopKeyId::parse(key.id()).unwrap(),
        key,
        scopes: Action::ALL.map(scope).to_vec(),
        expires_at: now.boot.plus(Duration::from_mins(10)),
        expires_at_unix: now.unix.plus(Duration::from_mins(10)),
        renew_at: now.boot.plus(Duration::from_mins(5)),
        ends_at: now.boot.plus(Duration::from_hours(8)),
        bootstrap: Some(SecretString::copy_from(BOOTSTRAP)),
        binding_checked: true,
    })
}

/// `aegis.md` 6, 8: a bootstrap token becomes an SVID, the SVID a token of a new key and another
/// SVID; each call carries the credential and the proof that are its own, over the connection that
/// is its own.
#[tokio::test]
async fn a_session_is_renewed_by_its_certificate() {
    let house = House::start(Lie::None).await;
    let client = house.client();
    let session = session();
    let first = client.bootstrap_identity(Arc::clone(&session)).await;
    let first = Arc::new(first.outcome.unwrap());
    assert!(first.renew_at < first.expires_at);

    let next = client.renew_session(Arc::clone(&session), Arc::clone(&first));
    let next = next.await.outcome.unwrap();
    assert_eq!(next.token.expose(), TOKEN);
    assert_ne!(next.key.thumbprint(), session.key.thumbprint(), "a new key");
    assert_eq!(next.ends_at, session.ends_at, "a session never gets longer");
    assert!(next.bootstrap.is_none());

    let next = Arc::new(next);
    let second = client.renew_identity(Arc::clone(&next), Arc::clone(&first));
    let second = second.await.outcome.unwrap();
    assert_ne!(second.svid.fingerprint, first.svid.fingerprint);
    assert_ne!(second.key.public_point(), first.key.public_point());

    let seen = house.seen.lock().unwrap();
    let row = |asked: &Asked| (asked.method.clone(), asked.bearer.clone());
    let bearer = |token: &str| Some(token.to_owned());
    let (begin, complete) = ("BeginSpiffeBootstrap", "CompleteSpiffeBootstrap");
    let exchange = "ExchangeWorkloadToken";
    assert_eq!(
        seen.iter().map(row).collect::<Vec<_>>(),
        [
            (begin.to_owned(), bearer(BOOTSTRAP)),
            (complete.to_owned(), bearer(BOOTSTRAP)),
            (exchange.to_owned(), None),
            (exchange.to_owned(), None),
            (begin.to_owned(), bearer(TOKEN)),
            (complete.to_owned(), bearer(TOKEN)),
        ]
    );
    let exchanges: Vec<_> = seen
        .iter()
        .filter(|asked| asked.method == exchange)
        .collect();
    for asked in &exchanges {
        let fingerprint = Some(&*first.svid.fingerprint);
        assert_eq!(
            asked.peer.as_deref(),
            fingerprint,
            "the certificate that was shown"
        );
        assert_eq!(asked.body["mtlsFingerprint"].as_str(), fingerprint);
        assert_eq!(asked.body["popKeyId"].as_str(), fingerprint);
        assert_eq!(asked.body["mode"], "mtls");
        let url = format!("{}aegis.v1.BrokerService/{exchange}", house.tls);
        assert_eq!(asked.proof(1)["htu"], url, "with the TLS port");
    }
    assert_ne!(exchanges[0].body["nonce"], exchanges[1].body["nonce"]);
    assert_eq!(exchanges[0].thumbprint(), next.key.thumbprint());
    // Another key would take the place of the session's at the issuer.
    assert_eq!(exchanges[1].thumbprint(), next.key.thumbprint());
    assert_eq!(
        exchanges[1].body["requestedScopes"],
        json!(["spiffe.bootstrap"])
    );
}

/// SP-6, OA-12: a certificate or a token that is not the one that was asked for is thrown away.
#[tokio::test]
async fn what_was_not_asked_for_is_thrown_away() {
    let house = House::start(Lie::OtherAuthority).await;
    let answer = house.client().bootstrap_identity(session()).await;
    let failure = answer.outcome.unwrap_err();
    assert_eq!(failure.code, ErrorCode::AegisProtocol);
    assert_eq!(
        failure.reason.unwrap().as_str(),
        "the_certificate_is_of_another_authority"
    );

    for lie in [Lie::OtherPrincipal, Lie::WiderScope, Lie::OtherKey] {
        let house = House::start(lie).await;
        let client = house.client();
        let session = session();
        let by = client.bootstrap_identity(Arc::clone(&session)).await;
        let by = Arc::new(by.outcome.unwrap());
        let next = client.renew_session(Arc::clone(&session), Arc::clone(&by));
        let failure = next.await.outcome.unwrap_err();
        assert_eq!(failure.disposition, Disposition::Fault, "{lie:?}");
        let next = client.renew_identity(session, by);
        assert!(next.await.outcome.is_err(), "{lie:?}");
    }
}

/// OA-7: TLS is refused in both directions: a server of another authority hears nothing, and a
/// server that does not know the certificate's authority answers nothing.
#[tokio::test]
async fn wrong_certificates_are_refused_in_both_directions() {
    let house = House::start(Lie::None).await;
    let session = session();
    let by = house
        .client()
        .bootstrap_identity(Arc::clone(&session))
        .await;
    let by = Arc::new(by.outcome.unwrap());
    let heard = house.methods().len();
    // An hour's patience of the retries is not what this is about.
    let stranger = house.client_trusting(authority().pem().as_bytes());
    let failure = stranger
        .renew_session(Arc::clone(&session), Arc::clone(&by))
        .await
        .outcome
        .unwrap_err();
    assert_eq!(failure.reason.unwrap().as_str(), "tls_failed");
    assert_eq!(house.methods().len(), heard, "something was sent");

    // An identity of another house.
    let other = House::start(Lie::None).await;
    let foreign = other
        .client()
        .bootstrap_identity(Arc::clone(&session))
        .await;
    let foreign = Arc::new(foreign.outcome.unwrap());
    let answer = house.client().renew_session(session, foreign).await;
    let failure = answer.outcome.unwrap_err();
    assert_eq!(failure.code, ErrorCode::AegisUnavailable);
    assert_eq!(house.methods().len(), heard, "something was heard");
}
