//! Workload identity, SPIFFE and client certificates: the reference flow, on real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use aegis_mock::{Check, Mock, Options};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use serde_json::{Map, Value, json};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::client::{
    Answer, BOOTSTRAP, Client, GCP, Key, TENANT, base64url, merge, now, policy, random, scope,
    sha256,
};

pub(crate) const EXCHANGE: &str = "ExchangeWorkloadToken";
pub(crate) const BEGIN: &str = "BeginSpiffeBootstrap";
pub(crate) const COMPLETE: &str = "CompleteSpiffeBootstrap";
pub(crate) const CREATE: &str = "CreateCredentialLease";
pub(crate) const PRINCIPAL: &str = "mcp:desktop-broker:build-01";
const ID: &str = "spiffe://aegis.example/tenant/business-default/mcp/desktop-broker/host-01";

/// A server with a TLS listener and nobody in a hurry.
pub(crate) async fn spawn(leave_out: Option<Check>) -> Mock {
    spawn_with(leave_out, "").await
}

pub(crate) async fn spawn_with(leave_out: Option<Check>, more: &str) -> Mock {
    let settings = "[throttle]\nenabled = false\n";
    aegis_mock::spawn(Options {
        tls: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        policy_toml: Some(format!("{}\n{more}", policy(settings))),
        leave_out,
        ..Options::default()
    })
    .await
    .unwrap()
}

pub(crate) fn lease_scopes() -> Vec<String> {
    ["create", "redeem", "revoke"]
        .map(|action| scope(action, GCP))
        .to_vec()
}

/// A token of the first workload, but for these claims.
pub(crate) fn token(mock: &Mock, claims: &Value) -> String {
    mock.workload_token(claims.as_object().unwrap())
}

/// The first workload with a token for the bootstrap.
pub(crate) async fn begun(mock: &Mock) -> Client {
    let mut client = Client::new(mock);
    let answer = client
        .exchange_workload(&token(mock, &json!({})), &json!({}))
        .await;
    client.adopt(&answer);
    client
}

/// A certificate with its key.
pub(crate) struct Svid {
    pub(crate) fingerprint: String,
    /// Both, in PEM.
    pub(crate) identity: String,
}

/// Nothing but the key.
pub(crate) fn plain_csr(key: &KeyPair) -> Vec<u8> {
    csr(key, |_| {})
}

pub(crate) fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

pub(crate) async fn begin(client: &Client) -> Answer {
    let body = json!({"workloadName": "host-01"});
    let answer = client.call(BEGIN, &body).await;
    assert_eq!(answer.reason(), "ok", "{}", answer.body);
    answer
}

pub(crate) fn answer_to(challenge: &Answer, csr: &[u8]) -> Value {
    json!({
        "challengeId": challenge.text("/challengeId"),
        "challengeToken": challenge.text("/challengeToken"),
        "csrDer": STANDARD.encode(csr),
    })
}

/// An SVID for the session that the client's bootstrap token is of.
pub(crate) async fn bootstrap(client: &Client) -> Svid {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    bootstrap_with(client, &key).await
}

async fn bootstrap_with(client: &Client, key: &KeyPair) -> Svid {
    let challenge = begin(client).await;
    let answer = client
        .call(COMPLETE, &answer_to(&challenge, &plain_csr(key)))
        .await;
    assert_eq!(answer.reason(), "ok", "{}", answer.body);
    let der = STANDARD.decode(answer.text("/svidChain/0")).unwrap();
    Svid {
        fingerprint: answer.text("/mtlsFingerprint").to_owned(),
        identity: pem(&der) + &key.serialize_pem(),
    }
}

fn pem(der: &[u8]) -> String {
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        STANDARD.encode(der)
    )
}

/// What an exchange in mode `mtls` says, beside its proof.
pub(crate) fn renewal(svid: &Svid, scopes: &[String]) -> Value {
    json!({
        "mode": "mtls",
        "mtlsFingerprint": svid.fingerprint,
        "popKeyId": svid.fingerprint,
        "nonce": random(),
        "requestedScopes": scopes,
    })
}

/// A token for leases, by certificate, bound to the client's key.
pub(crate) async fn renew(client: &Client, svid: &Svid, extra: &Value) -> Answer {
    let mut body = renewal(svid, &lease_scopes());
    merge(&mut body, extra);
    client.send(client.unbound(EXCHANGE, &body)).await
}

/// The proof that goes with a token bound to a certificate.
pub(crate) fn mtls_proof(svid: &Svid) -> Value {
    json!({"proofType": "mtls", "nonce": random(), "mtlsFingerprint": svid.fingerprint})
}

/// A token for leases, by certificate, bound to it.
pub(crate) async fn renew_bound(client: &Client, svid: &Svid) -> Answer {
    let mut body = renewal(svid, &lease_scopes());
    body["tenantId"] = json!(TENANT);
    body["requestProof"] = mtls_proof(svid);
    client
        .send(client.post(EXCHANGE).body(body.to_string()))
        .await
}

pub(crate) fn target() -> Value {
    json!({"target": {"provider": GCP[0], "app": GCP[1], "account": GCP[2]}})
}

/// A create, proven by certificate.
pub(crate) async fn create_by_certificate(client: &Client, svid: &Svid) -> Answer {
    let request = client.request_with(CREATE, &target(), &mtls_proof(svid));
    client.send(request).await
}

/// The seeds' reference flow: identity token, bootstrap, SVID, exchange by certificate, lease.
#[tokio::test]
async fn a_workload_gets_from_its_identity_token_to_a_lease() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let svid = bootstrap(&client).await;

    let mut renewed = Client::over_tls(&mock, Some(&svid.identity));
    renewed.key = Key::generate();
    let answer = renew(&renewed, &svid, &json!({})).await;
    renewed.adopt(&answer);
    let info = &answer.body["tokenInfo"];
    assert_eq!(info["binding"], "jkt");
    assert_eq!(info["thumbprint"], renewed.key.thumbprint());
    assert_eq!(info["popKeyId"], renewed.key.id());
    assert_eq!(info["principal"], PRINCIPAL);
    assert_eq!(info["role"], "auditor");
    assert_eq!(info["grantedScopes"], json!(lease_scopes()));
    let lease = renewed.lease(GCP, &json!({"maxRedemptions": 2})).await;
    let redeemed = renewed.redeem(&lease).await;
    let secret = redeemed.text("/credential/gcpAccessToken/accessToken");
    let plain = Client::new(&mock);
    assert_eq!(plain.whoami("gcp", secret).await, 200);

    // And bound to the certificate, which stands for the key that the lease was made with.
    let mut bound = Client::over_tls(&mock, Some(&svid.identity));
    let answer = renew_bound(&bound, &svid).await;
    bound.adopt(&answer);
    let info = &answer.body["tokenInfo"];
    assert_eq!(info["binding"], "x5t#S256");
    assert_eq!(info["thumbprint"], svid.fingerprint);
    assert_eq!(info["popKeyId"], svid.fingerprint);
    let own = create_by_certificate(&bound, &svid).await;
    assert_eq!(own.reason(), "ok", "{}", own.body);
    let body = json!({ "leaseId": lease });
    let request = bound.request_with("RedeemCredentialLease", &body, &mtls_proof(&svid));
    let answer = bound.send(request).await;
    assert_eq!(answer.text("/lease/state"), "exhausted");
    let body = json!({"leaseId": lease, "reason": "released"});
    let request = bound.request_with("RevokeCredentialLease", &body, &mtls_proof(&svid));
    assert_eq!(bound.send(request).await.text("/lease/state"), "revoked");
    assert_eq!(plain.whoami("gcp", secret).await, 401);

    let told: Vec<String> = mock.audit().into_iter().map(|event| event.action).collect();
    let expected = [
        "token.exchange_workload",
        "spiffe.begin",
        "spiffe.complete",
        "token.exchange_workload",
        "lease.create",
        "lease.redeem",
        "token.exchange_workload",
        "lease.create",
        "lease.redeem",
        "lease.revoke",
    ];
    assert_eq!(told, expected);
    let last = mock.audit().pop().unwrap();
    assert_eq!(
        (&*last.proof_type, &*last.key_thumbprint),
        ("mtls", &*svid.fingerprint)
    );
    let proven = mock
        .requests()
        .into_iter()
        .rev()
        .find_map(|request| request.jti);
    assert_eq!(proven.unwrap(), last.proof_jti);
    // One session holds it all together.
    let session = last.session_id;
    assert!(mock.audit().iter().all(|event| event.session_id == session));
}

/// SP-1, SP-2, SP-3, SP-4, SP-5.
#[tokio::test]
async fn an_svid_is_what_the_standard_says_and_nothing_of_the_csr_but_its_key() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let bundle = reqwest::get(mock.api().join(".well-known/spiffe-bundle").unwrap()).await;
    let bundle: Value = serde_json::from_slice(&bundle.unwrap().bytes().await.unwrap()).unwrap();
    let root = STANDARD
        .decode(bundle["keys"][0]["x5c"][0].as_str().unwrap())
        .unwrap();
    let (_, ca) = X509Certificate::from_der(&root).unwrap();
    assert!(ca.is_ca());
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let challenge = begin(&client).await;
        assert_eq!(challenge.text("/spiffeId"), ID);
        assert_eq!(challenge.body["expiresInSeconds"], 300);
        // What else could be asked for without being refused.
        let request = csr(&key, |params| {
            params
                .distinguished_name
                .push(DnType::CommonName, "somebody");
            params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
            params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        });
        let answer = client
            .call(COMPLETE, &answer_to(&challenge, &request))
            .await;
        assert_eq!(answer.reason(), "ok", "{}", answer.body);
        assert_eq!(answer.body["svidChain"].as_array().unwrap().len(), 1);
        assert_eq!(answer.text("/trustBundle/0"), STANDARD.encode(&root));
        let der = STANDARD.decode(answer.text("/svidChain/0")).unwrap();
        assert_eq!(answer.text("/mtlsFingerprint"), sha256(&der));

        let (rest, svid) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        svid.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(svid.issuer(), ca.subject());
        assert_eq!(
            svid.public_key().subject_public_key.data,
            key.public_key_raw()
        );
        assert!(svid.subject().iter().next().is_none());
        let san = svid.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical);
        assert!(
            matches!(san.value.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == ID)
        );
        assert!(!svid.is_ca());
        let usage = svid.key_usage().unwrap().unwrap();
        assert!(usage.critical);
        assert_eq!(usage.value.flags, 1, "more than digitalSignature");
        let extended = svid.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.any);
        let validity = svid.validity();
        let lives = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert!((1..=3600).contains(&lives), "{lives}");
        let now = i64::try_from(now()).unwrap();
        assert!(validity.not_before.timestamp() < now && validity.not_after.timestamp() > now);
        let known = svid.extensions().iter().all(|extension| {
            !matches!(
                extension.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
            )
        });
        assert!(known);
    }
}

/// A row of bad input: what is sent, and what is said.
type Bad<T> = (&'static str, T, &'static str);

/// Each refusal is recorded with its reason, and nothing came of any of them.
fn nothing_came_of(mock: &Mock, reasons: &[&str], before: usize) {
    let told: Vec<String> = mock
        .audit()
        .into_iter()
        .filter(|event| event.outcome == "denied" && !event.action.starts_with("anomaly."))
        .map(|event| event.reason)
        .collect();
    assert_eq!(told, reasons);
    assert_eq!(mock.secrets().len(), before, "something was handed out");
}

/// OA-18.
#[tokio::test]
async fn bad_workload_tokens_are_refused_each_with_its_reason() {
    let mock = spawn(None).await;
    let client = Client::new(&mock);
    let at = |seconds: i64| json!(i64::try_from(now()).unwrap() + seconds);
    let good = token(&mock, &json!({}));
    let [header, claims, signature] = parts(&good);
    let unsigned = |alg: &str| {
        let header = json!({"typ": "JWT", "alg": alg}).to_string();
        format!("{}.{claims}.", base64url(header.as_bytes()))
    };
    let own = Key::generate();
    let body: Value = serde_json::from_slice(&decode(claims)).unwrap();
    let forged = |header: Value| own.sign(&header, &body);
    let swapped = {
        let mut wider = body.clone();
        wider["sub"] = json!("repo:example/other");
        let wider = base64url(wider.to_string().as_bytes());
        format!("{header}.{wider}.{signature}")
    };
    let twice = format!("{{\"sub\":\"x\",{}", &body.to_string()[1..]);
    let twice = format!("{header}.{}.{signature}", base64url(twice.as_bytes()));
    let signed = |claims: Value| token(&mock, &claims);
    let (invalid, issuer, audience) = (
        "workload_token_invalid",
        "workload_token_issuer",
        "workload_token_audience",
    );
    let (expired, early) = ("workload_token_expired", "workload_token_not_yet_valid");
    let subject = "workload_token_subject";
    let rows: Vec<Bad<String>> = vec![
        ("no token", "nonsense".to_owned(), invalid),
        ("two parts", format!("{header}.{claims}"), invalid),
        ("four parts", format!("{good}.x"), invalid),
        ("padded", format!("{header}=.{claims}.{signature}"), invalid),
        ("a claim twice", twice, invalid),
        ("alg none", unsigned("none"), invalid),
        ("alg None", unsigned("None"), invalid),
        ("no signature", unsigned("ES256"), invalid),
        (
            "another key",
            forged(json!({"typ": "JWT", "alg": "ES256"})),
            invalid,
        ),
        (
            "its own key along",
            forged(json!({"typ": "JWT", "alg": "ES256", "jwk": own.jwk()})),
            invalid,
        ),
        ("other claims under the signature", swapped, invalid),
        ("too long", "a".repeat(17 * 1024), invalid),
        ("expired", signed(json!({"exp": at(-1)})), expired),
        ("no end", signed(json!({"exp": null})), expired),
        (
            "an end in words",
            signed(json!({"exp": "tomorrow"})),
            expired,
        ),
        ("made in the future", signed(json!({"iat": at(60)})), early),
        ("made at no time", signed(json!({"iat": null})), early),
        ("good in the future", signed(json!({"nbf": at(60)})), early),
        (
            "good for years",
            signed(json!({"exp": at(90_000)})),
            invalid,
        ),
        (
            "another audience",
            signed(json!({"aud": "aegis-console"})),
            audience,
        ),
        ("no audience", signed(json!({"aud": null})), audience),
        (
            "two audiences",
            signed(json!({"aud": ["aegis-api", "x"]})),
            audience,
        ),
        (
            "another issuer",
            signed(json!({"iss": "https://evil.example"})),
            issuer,
        ),
        ("no issuer", signed(json!({"iss": null})), issuer),
        (
            "an issuer not allowed",
            signed(json!({"iss": format!("{}idp/other", mock.api())})),
            issuer,
        ),
        (
            "an unknown workload",
            signed(json!({"sub": "repo:evil/x"})),
            subject,
        ),
        ("no workload", signed(json!({"sub": null})), subject),
        (
            "another issuer's workload",
            signed(json!({"iss": format!("{}idp/cluster", mock.api())})),
            subject,
        ),
    ];
    let before = mock.secrets().len();
    let mut reasons = Vec::new();
    for (name, token, reason) in rows {
        let answer = client.exchange_workload(&token, &json!({})).await;
        assert_eq!((answer.status, answer.reason()), (401, reason), "{name}");
        reasons.push(reason);
    }
    nothing_came_of(&mock, &reasons, before);
    // One audience in a list is one audience.
    let listed = signed(json!({"aud": ["aegis-api"]}));
    let answer = client.exchange_workload(&listed, &json!({})).await;
    assert_eq!(answer.reason(), "ok");
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().unwrap()
}

fn decode(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .unwrap()
}

/// The other signature of the same: s and the order less s.
fn malleated(token: &str) -> String {
    // The order of P-256, SEC 2.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let [header, claims, signature] = parts(token);
    let mut signature = decode(signature);
    let mut borrow = 0;
    for place in (0..32).rev() {
        let less = i16::from(ORDER[place]) - i16::from(signature[32 + place]) - borrow;
        borrow = i16::from(less < 0);
        signature[32 + place] = u8::try_from(less.rem_euclid(256)).unwrap();
    }
    format!("{header}.{claims}.{}", base64url(&signature))
}

#[tokio::test]
async fn a_workload_token_is_good_once_or_for_one_key() {
    let mock = spawn(None).await;
    let client = Client::new(&mock);
    let once = token(&mock, &json!({}));
    let ask = async |client: &Client, token: &str, extra: Value| {
        let answer = client.exchange_workload(token, &extra).await;
        answer.reason().to_owned()
    };
    assert_eq!(ask(&client, &once, json!({})).await, "ok");
    let replayed = "workload_token_replayed";
    assert_eq!(ask(&client, &once, json!({})).await, replayed);
    assert_eq!(ask(&client, &malleated(&once), json!({})).await, replayed);
    // What was refused before the token was used leaves it good.
    let other = token(&mock, &json!({}));
    let wide = json!({"requestedScopes": [scope("create", ["aws", "a", "b"])]});
    assert_eq!(ask(&client, &other, wide).await, "scope_not_granted");
    let elsewhere = json!({"tenantId": "other"});
    assert_eq!(ask(&client, &other, elsewhere).await, "tenant_mismatch");
    assert_eq!(ask(&client, &other, json!({})).await, "ok");

    // The nonce is another matter, and of the workload's own.
    let nonce = json!({ "nonce": random() });
    assert_eq!(
        ask(&client, &token(&mock, &json!({})), nonce.clone()).await,
        "ok"
    );
    let again = ask(&client, &token(&mock, &json!({})), nonce.clone()).await;
    assert_eq!(again, "nonce_replayed");
    let cluster = json!({
        "iss": format!("{}idp/cluster", mock.api()), "sub": "system:serviceaccount:build:broker",
    });
    let projected = token(&mock, &cluster);
    assert_eq!(ask(&client, &projected, nonce).await, "ok");
    // Such tokens are good again, for who came first.
    assert_eq!(ask(&client, &projected, json!({})).await, "ok");
    assert_eq!(
        ask(&Client::new(&mock), &projected, json!({})).await,
        replayed
    );
}

#[tokio::test]
async fn what_an_exchange_lacks_or_has_too_much_is_named() {
    let mock = spawn(None).await;
    let client = Client::new(&mock);
    let good = token(&mock, &json!({}));
    let mixture = json!([BOOTSTRAP, scope("create", GCP)]);
    let rows = [
        ("no mode", json!({"mode": ""}), "field_missing", "mode"),
        (
            "another mode",
            json!({"mode": "OIDC"}),
            "type_mismatch",
            "mode",
        ),
        (
            "no token",
            json!({"workloadToken": ""}),
            "field_missing",
            "workload_token",
        ),
        ("no nonce", json!({"nonce": ""}), "field_missing", "nonce"),
        (
            "a short nonce",
            json!({"nonce": "a".repeat(21)}),
            "type_mismatch",
            "nonce",
        ),
        (
            "a nonce of other letters",
            json!({"nonce": "+".repeat(22)}),
            "type_mismatch",
            "nonce",
        ),
        (
            "a fingerprint",
            json!({"mtlsFingerprint": "x"}),
            "type_mismatch",
            "mtls_fingerprint",
        ),
        (
            "no scopes",
            json!({"requestedScopes": []}),
            "field_missing",
            "requested_scopes",
        ),
        (
            "a mixture",
            json!({ "requestedScopes": mixture }),
            "scope_mixed",
            "requested_scopes",
        ),
        (
            "a wildcard",
            json!({"requestedScopes": ["*"]}),
            "scope_wildcard",
            "requested_scopes",
        ),
        (
            "a long life",
            json!({"requestedTtlSeconds": 901}),
            "ttl_out_of_range",
            "requested_ttl_seconds",
        ),
        (
            "no key",
            json!({"popJwk": null}),
            "field_missing",
            "pop_jwk",
        ),
        (
            "half a key",
            json!({"popJwk": {"kty": "EC"}}),
            "pop_jwk_invalid",
            "pop_jwk",
        ),
        (
            "no key's name",
            json!({"popKeyId": ""}),
            "field_missing",
            "pop_key_id",
        ),
        (
            "no tenant",
            json!({"tenantId": ""}),
            "field_missing",
            "tenant_id",
        ),
    ];
    for (name, extra, reason, field) in rows {
        let answer = client.exchange_workload(&good, &extra).await;
        assert_eq!((answer.status, answer.reason()), (400, reason), "{name}");
        assert_eq!(answer.text("/details/0/debug/field"), field, "{name}");
    }
    assert_eq!(
        client.exchange_workload(&good, &json!({})).await.reason(),
        "ok"
    );
    let minted = client
        .mint(
            &mock.demo_id_token(),
            &json!({"requestedScopes": [BOOTSTRAP, scope("create", GCP)]}),
        )
        .await;
    assert_eq!(minted.reason(), "scope_mixed");
}

/// A rotated JWKS: the window is as long as that of keys, and then the old is gone.
#[tokio::test]
async fn a_token_of_a_rotated_key_is_good_for_the_window() {
    let mock = spawn(None).await;
    let client = Client::new(&mock);
    let (one, two) = (token(&mock, &json!({})), token(&mock, &json!({})));
    let keys = async || {
        let jwks = reqwest::get(mock.api().join("idp/jwks").unwrap())
            .await
            .unwrap();
        let jwks: Value = serde_json::from_slice(&jwks.bytes().await.unwrap()).unwrap();
        jwks["keys"].as_array().unwrap().len()
    };
    assert_eq!(keys().await, 1);
    mock.rotate_keys();
    assert_eq!(keys().await, 2);
    mock.advance(Duration::from_secs(110));
    let answer = client.exchange_workload(&one, &json!({})).await;
    assert_eq!(answer.reason(), "ok");
    mock.advance(Duration::from_secs(10));
    assert_eq!(keys().await, 1);
    let answer = client.exchange_workload(&two, &json!({})).await;
    assert_eq!(answer.reason(), "workload_token_invalid");
    let fresh = token(&mock, &json!({}));
    assert_eq!(
        client.exchange_workload(&fresh, &json!({})).await.reason(),
        "ok"
    );
}

/// SP-5: each fault of a request is a `csr_invalid`, and leaves the challenge unanswered.
#[tokio::test]
async fn bad_certificate_requests_are_refused_and_nothing_is_signed() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let good = plain_csr(&key);
    let other = |algorithm| plain_csr(&KeyPair::generate_for(algorithm).unwrap());
    let names = |names: Vec<SanType>| csr(&key, |params| params.subject_alt_names = names);
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let mut tampered = good.clone();
    *tampered.last_mut().unwrap() ^= 1;
    // The same signature under another key.
    let (mut swapped, own) = (good.clone(), key.public_key_raw());
    let stranger = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let place = good
        .windows(own.len())
        .position(|part| part == own)
        .unwrap();
    swapped[place..place + own.len()].copy_from_slice(stranger.public_key_raw());
    let mut longer = good.clone();
    longer.push(0);
    let dns = SanType::DnsName("evil.example".try_into().unwrap());
    let mail = SanType::Rfc822Name("a@evil.example".try_into().unwrap());
    let rows: Vec<Bad<Vec<u8>>> = vec![
        (
            "no request",
            b"nonsense".to_vec(),
            "csr is not a PKCS #10 request",
        ),
        (
            "half of one",
            good[..100].to_vec(),
            "csr is not a PKCS #10 request",
        ),
        ("more behind", longer, "csr is not a PKCS #10 request"),
        (
            "a certificate",
            {
                let params = CertificateParams::default();
                params.self_signed(&key).unwrap().der().to_vec()
            },
            "csr is not a PKCS #10 request",
        ),
        (
            "too long",
            vec![0x30; 9000],
            "csr is not a PKCS #10 request",
        ),
        (
            "a tampered signature",
            tampered,
            "csr signature does not verify",
        ),
        (
            "another key under it",
            swapped,
            "csr signature does not verify",
        ),
        (
            "an RSA key",
            other(&PKCS_RSA_SHA256),
            "csr key is not on P-256 or P-384",
        ),
        (
            "an Ed25519 key",
            other(&PKCS_ED25519),
            "csr key is not on P-256 or P-384",
        ),
        (
            "a P-521 key",
            other(&PKCS_ECDSA_P521_SHA512),
            "csr key is not on P-256 or P-384",
        ),
        (
            "an authority",
            csr(&key, |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            "csr asks for a certificate authority",
        ),
        (
            "a key that signs certificates",
            csr(&key, |params| {
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            }),
            "csr asks for a certificate authority",
        ),
        (
            "a DNS name",
            names(vec![dns.clone()]),
            "csr asks for other names than one URI",
        ),
        (
            "a DNS name besides",
            names(vec![uri(ID), dns]),
            "csr asks for other names than one URI",
        ),
        (
            "a mail address",
            names(vec![mail]),
            "csr asks for other names than one URI",
        ),
        (
            "an address",
            names(vec![SanType::IpAddress([127, 0, 0, 1].into())]),
            "csr asks for other names than one URI",
        ),
        (
            "two URIs",
            names(vec![uri(ID), uri(ID)]),
            "csr asks for other names than one URI",
        ),
        (
            "another URI",
            names(vec![uri("spiffe://aegis.example/tenant/other")]),
            "csr asks for another URI than the challenge's",
        ),
        (
            "another host's URI",
            names(vec![uri(&ID.replace("host-01", "host-02"))]),
            "csr asks for another URI than the challenge's",
        ),
    ];
    let challenge = begin(&client).await;
    let before = mock.secrets().len();
    let mut reasons = Vec::new();
    for (name, request, message) in rows {
        let answer = client
            .call(COMPLETE, &answer_to(&challenge, &request))
            .await;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "csr_invalid"),
            "{name}"
        );
        assert_eq!(answer.text("/message"), message, "{name}");
        assert_eq!(answer.text("/details/0/debug/field"), "csr_der", "{name}");
        reasons.push("csr_invalid");
    }
    nothing_came_of(&mock, &reasons, before);
    let issued = |mock: &Mock| {
        let events = mock.audit().into_iter();
        events
            .filter(|event| event.action == "spiffe.complete" && event.outcome == "ok")
            .count()
    };
    assert_eq!(issued(&mock), 0);
    let answer = client.call(COMPLETE, &answer_to(&challenge, &good)).await;
    assert_eq!(answer.reason(), "ok");
    assert_eq!(issued(&mock), 1);
}

#[tokio::test]
async fn a_challenge_is_answered_once_in_time_by_whom_it_was_made_for() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = plain_csr(&key);
    let challenge = begin(&client).await;
    let unknown = ("challenge_unknown", 400);
    let told = |answer: &Answer| (answer.reason().to_owned(), answer.status);
    let same = |answer: &Answer, (reason, status): (&str, u16)| {
        assert_eq!(told(answer), (reason.to_owned(), status));
    };

    // The same workload in another session, another workload, another person.
    let mut others = vec![begun(&mock).await, Client::new(&mock)];
    let cluster = json!({
        "iss": format!("{}idp/cluster", mock.api()), "sub": "system:serviceaccount:build:broker",
    });
    let answer = others[1]
        .exchange_workload(&token(&mock, &cluster), &json!({}))
        .await;
    others[1].adopt(&answer);
    others.push(Client::with_scopes(&mock, &[BOOTSTRAP.to_owned()]).await);
    for other in &others {
        same(
            &other.call(COMPLETE, &answer_to(&challenge, &request)).await,
            unknown,
        );
    }
    let mut wrong = answer_to(&challenge, &request);
    wrong["challengeToken"] = json!("cht_guess");
    same(&client.call(COMPLETE, &wrong).await, unknown);
    wrong["challengeId"] = json!(format!("chl_{}", "0".repeat(26)));
    same(&client.call(COMPLETE, &wrong).await, unknown);

    let answer = client
        .call(COMPLETE, &answer_to(&challenge, &request))
        .await;
    assert_eq!(answer.reason(), "ok");
    let again = client
        .call(COMPLETE, &answer_to(&challenge, &request))
        .await;
    same(&again, ("challenge_used", 400));

    // Longer than the token that asked lives: another one of the session answers.
    let svid = bootstrap(&client).await;
    let mut renewed = Client::over_tls(&mock, Some(&svid.identity));
    let late = begin(&client).await;
    mock.advance(Duration::from_mins(5));
    let scopes = json!({"requestedScopes": [BOOTSTRAP]});
    let answer = renew(&renewed, &svid, &scopes).await;
    renewed.adopt(&answer);
    let answer = renewed.call(COMPLETE, &answer_to(&late, &request)).await;
    same(&answer, ("challenge_expired", 400));
}

/// SP-7: a bootstrap token bootstraps and does nothing else; and nothing else bootstraps.
#[tokio::test]
async fn a_bootstrap_token_can_do_nothing_but_bootstrap() {
    let mock = spawn(None).await;
    let scopes = [lease_scopes(), vec![BOOTSTRAP.to_owned()]].concat();
    let mut client = Client::new(&mock);
    let codes = client.begin(&json!({ "requestedScopes": scopes })).await;
    mock.approve(codes.text("/userCode")).unwrap();
    let answer = client.exchange(codes.text("/deviceCode")).await;
    client.adopt(&answer);
    assert_eq!(
        answer.body["tokenInfo"]["grantedScopes"],
        json!(lease_scopes())
    );
    let lease = client.lease(GCP, &json!({})).await;
    let refused = client
        .call(BEGIN, &json!({"workloadName": "host-01"}))
        .await;
    assert_eq!(
        (refused.status, refused.reason()),
        (403, "scope_not_granted")
    );

    answer.text("/bootstrapToken").clone_into(&mut client.token);
    let calls = [
        (CREATE, target()),
        ("RedeemCredentialLease", json!({ "leaseId": lease })),
        (
            "RevokeCredentialLease",
            json!({"leaseId": lease, "reason": "released"}),
        ),
        ("ListBrokerAuditEvents", json!({})),
        (
            "RevokeBrokerAccess",
            json!({"target": "session", "reason": "logout"}),
        ),
    ];
    for (method, body) in calls {
        let answer = client.call(method, &body).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (403, "scope_not_granted"),
            "{method}"
        );
    }
    let answer = client
        .call(BEGIN, &json!({"workloadName": "host-01"}))
        .await;
    assert_eq!(answer.reason(), "ok");
    // It lives five minutes, whatever the login's tokens do.
    mock.advance(Duration::from_mins(5));
    let answer = client
        .call(BEGIN, &json!({"workloadName": "host-01"}))
        .await;
    assert_eq!(answer.reason(), "token_expired");

    // A login for the bootstrap alone has one token.
    let alone = Client::with_scopes(&mock, &[BOOTSTRAP.to_owned()]).await;
    let answer = alone.call(BEGIN, &json!({"workloadName": "host-01"})).await;
    assert_eq!(answer.reason(), "ok");
    for name in ["", ".", "..", "a/b", "a b", "a%2f"] {
        let answer = alone.call(BEGIN, &json!({ "workloadName": name })).await;
        let reason = if name.is_empty() {
            "field_missing"
        } else {
            "type_mismatch"
        };
        assert_eq!(answer.reason(), reason, "{name}");
    }
}

/// OA-19: what a header or a body says of a certificate proves nothing.
#[tokio::test]
async fn a_token_bound_to_a_certificate_is_worth_nothing_without_that_connection() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let (svid, second) = (bootstrap(&client).await, bootstrap(&client).await);
    let mut bound = Client::over_tls(&mock, Some(&svid.identity));
    let answer = renew_bound(&bound, &svid).await;
    bound.adopt(&answer);
    let with = |mut client: Client| {
        client.token.clone_from(&bound.token);
        client
    };
    let plain = with(Client::new(&mock));
    let anonymous = with(Client::over_tls(&mock, None));
    let other = with(Client::over_tls(&mock, Some(&second.identity)));
    let mismatch = "client_certificate_mismatch";
    for (name, client) in [("plain", &plain), ("none", &anonymous), ("other", &other)] {
        for named in [&svid, &second] {
            let answer = create_by_certificate(client, named).await;
            assert_eq!((answer.status, answer.reason()), (401, mismatch), "{name}");
        }
    }
    assert_eq!(
        create_by_certificate(&bound, &second).await.reason(),
        mismatch
    );
    let mut proof = mtls_proof(&svid);
    let ask = async |proof: &Value| {
        let request = bound.request_with(CREATE, &target(), proof);
        bound.send(request).await.reason().to_owned()
    };
    assert_eq!(ask(&proof).await, "ok");
    assert_eq!(ask(&proof).await, "proof_replayed");
    proof["nonce"] = json!("short");
    assert_eq!(ask(&proof).await, "proof_invalid");
    // DPoP does not stand in for it, nor is it there besides.
    let request = bound.request(CREATE, &target());
    assert_eq!(bound.send(request).await.reason(), "binding_mismatch");
    let mut both = mtls_proof(&svid);
    both["dpopJwt"] = json!("a.b.c");
    assert_eq!(ask(&both).await, "proof_ambiguous");
    let request = bound.request_with(CREATE, &target(), &mtls_proof(&svid));
    let answer = bound.send(request.header("dpop", "a.b.c")).await;
    assert_eq!(answer.reason(), "proof_ambiguous");
    // And a token bound to a key is not proven by a certificate.
    let mut keyed = Client::over_tls(&mock, Some(&svid.identity));
    let answer = renew(&keyed, &svid, &json!({})).await;
    keyed.adopt(&answer);
    let answer = create_by_certificate(&keyed, &svid).await;
    assert_eq!(answer.reason(), "proof_invalid");
    let leases = mock.leases().len();
    assert_eq!(leases, 1);
}

/// The chain is judged before a byte is heard; a certificate of ours that we never issued is nobody's.
#[tokio::test]
async fn a_certificate_of_another_authority_gets_no_connection() {
    let mock = spawn(None).await;
    let foreign = {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "aegis-mock SPIFFE CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &ca).unwrap();
        pem(leaf.der()) + &key.serialize_pem()
    };
    let client = Client::over_tls(&mock, Some(&foreign));
    let answer = client.try_send(client.post(EXCHANGE).body("{}")).await;
    assert!(answer.is_err());
    assert!(mock.requests().is_empty());
    // Nor does a client that trusts another CA talk to this server.
    let elsewhere = spawn(None).await;
    let ca = reqwest::Certificate::from_pem(elsewhere.tls_ca().as_bytes()).unwrap();
    let stranger = reqwest::Client::builder().tls_certs_only([ca]).no_proxy();
    let health = mock.tls().unwrap().join("healthz").unwrap();
    assert!(
        stranger
            .build()
            .unwrap()
            .get(health.clone())
            .send()
            .await
            .is_err()
    );

    // What another life of the server has signed for.
    let svid = bootstrap(&begun(&mock).await).await;
    mock.reset();
    let known = Client::over_tls(&mock, Some(&svid.identity));
    let answer = renew(&known, &svid, &json!({})).await;
    assert_eq!(answer.reason(), "client_certificate_mismatch");
    // Without a certificate the port is like the other one, by its own address.
    let anonymous = Client::over_tls(&mock, None);
    let answer = anonymous
        .exchange_workload(&token(&mock, &json!({})), &json!({}))
        .await;
    assert_eq!(answer.reason(), "ok");
    let htu = mock.requests().pop().unwrap().htu.unwrap();
    assert!(htu.starts_with(mock.tls().unwrap().as_str()), "{htu}");
}

#[tokio::test]
async fn an_svid_renews_its_session_until_either_ends_and_never_widens_it() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let svid = bootstrap(&client).await;
    let renewed = Client::over_tls(&mock, Some(&svid.identity));
    let ask = async |extra: Value| {
        let answer = renew(&renewed, &svid, &extra).await;
        (answer.status, answer.reason().to_owned())
    };
    let refused = |status, reason: &str| (status, reason.to_owned());
    assert_eq!(ask(json!({})).await, refused(200, "ok"));
    let wide = json!({"requestedScopes": [scope("create", ["aws", "a", "b"])]});
    assert_eq!(ask(wide).await, refused(403, "scope_not_granted"));
    let mixed = json!({"requestedScopes": [BOOTSTRAP, scope("create", GCP)]});
    assert_eq!(ask(mixed).await, refused(400, "scope_mixed"));
    let elsewhere = json!({"tenantId": "other"});
    assert_eq!(ask(elsewhere).await, refused(403, "tenant_mismatch"));
    let nonce = json!({ "nonce": random() });
    assert_eq!(ask(nonce.clone()).await, refused(200, "ok"));
    assert_eq!(ask(nonce).await, refused(400, "nonce_replayed"));
    let mismatch = refused(401, "client_certificate_mismatch");
    assert_eq!(ask(json!({"mtlsFingerprint": "x"})).await, mismatch);
    assert_eq!(ask(json!({"popKeyId": "x"})).await, mismatch);
    let token = json!({"workloadToken": "x"});
    assert_eq!(ask(token).await, refused(400, "type_mismatch"));
    mock.advance(Duration::from_mins(58));
    assert_eq!(ask(json!({})).await, refused(200, "ok"));
    mock.advance(Duration::from_mins(2));
    assert_eq!(ask(json!({})).await, mismatch);
}

/// The dual-key window: old and new key are both good for 120 s, and a lease made with the old one
/// is the new one's, too.
#[tokio::test]
async fn a_new_key_takes_the_place_of_the_old_within_two_minutes() {
    let mock = spawn(None).await;
    let svid = bootstrap(&begun(&mock).await).await;
    let mut old = Client::over_tls(&mock, Some(&svid.identity));
    let answer = renew(&old, &svid, &json!({})).await;
    old.adopt(&answer);
    let lease = old.lease(GCP, &json!({"maxRedemptions": 3})).await;
    let mut new = Client::over_tls(&mock, Some(&svid.identity));
    let answer = renew(&new, &svid, &json!({})).await;
    new.adopt(&answer);
    assert_eq!(old.redeem(&lease).await.reason(), "ok");
    assert_eq!(new.redeem(&lease).await.reason(), "ok");
    mock.advance(Duration::from_secs(110));
    assert_eq!(old.create(GCP, &json!({})).await.reason(), "ok");
    mock.advance(Duration::from_secs(10));
    let refused = old.create(GCP, &json!({})).await;
    assert_eq!((refused.status, refused.reason()), (401, "key_revoked"));
    assert_eq!(new.redeem(&lease).await.reason(), "ok");
    // A key's name stays that key's.
    let mut other = Client::over_tls(&mock, Some(&svid.identity));
    other.key = Key::generate();
    let proof = {
        let header = json!({
            "typ": "dpop+jwt", "alg": "ES256", "kid": new.key.id(), "jwk": other.key.jwk(),
        });
        let claims = json!({
            "htm": "POST", "htu": other.url(EXCHANGE), "jti": random(), "iat": now(),
        });
        other.key.sign(&header, &claims)
    };
    let taken = json!({"requestProof": {"proofType": "dpop_jwt", "dpopJwt": proof}});
    let answer = renew(&other, &svid, &taken).await;
    assert_eq!((answer.status, answer.reason()), (409, "pop_key_conflict"));
}

/// The CI-style request URL.
#[tokio::test]
async fn a_ci_job_gets_its_token_for_one_audience_with_its_bearer() {
    let mock = spawn(None).await;
    let (url, bearer) = mock.actions_request();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |query: &str, bearer: &str| {
        let request = http.get(format!("{url}{query}")).bearer_auth(bearer);
        Answer::read(request.send().await.unwrap()).await.unwrap()
    };
    let answer = get("&audience=aegis-api", &bearer).await;
    assert_eq!(answer.status, 200);
    let client = Client::new(&mock);
    let exchanged = client
        .exchange_workload(answer.text("/value"), &json!({}))
        .await;
    assert_eq!(exchanged.reason(), "ok");
    let other = get("&audience=sts.example", &bearer).await;
    let exchanged = client
        .exchange_workload(other.text("/value"), &json!({}))
        .await;
    assert_eq!(exchanged.reason(), "workload_token_audience");
    assert_eq!(get("&audience=aegis-api", "guess").await.status, 401);
    assert_eq!(get("", &bearer).await.status, 400);
    assert_eq!(get("&audience=a&audience=b", &bearer).await.status, 400);
}

/// A claim that is asked for is in the token, and `null` takes one out.
#[tokio::test]
async fn tokens_can_be_asked_for_at_control() {
    let mock = crate::control::spawn().await;
    let control = crate::control::Control::of(&mock);
    let asked = json!({"claims": {"sub": "x", "jti": null}});
    let answer: Value = serde_json::from_str(&control.told("workload-token", asked).await).unwrap();
    let [_, claims, _] = parts(answer["token"].as_str().unwrap());
    let claims: Map<String, Value> = serde_json::from_slice(&decode(claims)).unwrap();
    assert_eq!(claims["sub"], "x");
    assert_eq!(claims["aud"], "aegis-api");
    assert!(!claims.contains_key("jti"));
    assert_eq!(control.post("keys/rotate", json!({})).await, 200);
    assert_eq!(
        control.get("actions").await["url"],
        mock.actions_request().0
    );
    assert_eq!(
        control.post("workload-token", json!({"claim": {}})).await,
        422
    );
}
