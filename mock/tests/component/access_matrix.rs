//! Each check of tokens, identities, challenges, requests and certificates, against a server that
//! leaves it out: what it catches is let through there, and only there.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use aegis_mock::{Check, Mock, Revocable};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P521_SHA512, SanType,
};
use serde_json::{Value, json};

use crate::client::{Answer, BOOTSTRAP, Client, GCP, Key, base64url, now, random, scope};
use crate::evidence::figure;
use crate::workload::{
    BEGIN, COMPLETE, CREATE, Svid, answer_to, begin, begun, bootstrap, create_by_certificate, csr,
    mtls_proof, plain_csr, renew, renew_bound, spawn, target, token,
};

type Making<'m> = Pin<Box<dyn Future<Output = Answer> + 'm>>;
type Make = fn(&Mock) -> Making<'_>;

/// A call that one check refuses.
struct Row {
    check: Check,
    reason: &'static str,
    make: Make,
}

/// An `async` block as a row has it.
macro_rules! row {
    ($check:ident, $reason:literal, |$mock:ident| $body:expr) => {
        Row {
            check: Check::$check,
            reason: $reason,
            make: |$mock| Box::pin(async move { $body }),
        }
    };
}

async fn exchange(mock: &Mock, claims: Value) -> Answer {
    let token = token(mock, &claims);
    Client::new(mock)
        .exchange_workload(&token, &json!({}))
        .await
}

/// What that text is in place of a part of a good token.
async fn exchange_spoiled(mock: &Mock, spoil: impl Fn([&str; 3]) -> String) -> Answer {
    let good = token(mock, &json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let spoiled = spoil(parts.try_into().unwrap());
    Client::new(mock)
        .exchange_workload(&spoiled, &json!({}))
        .await
}

fn at(seconds: i64) -> Value {
    json!(i64::try_from(now()).unwrap() + seconds)
}

async fn complete(mock: &Mock, request: &[u8]) -> Answer {
    let client = begun(mock).await;
    let challenge = begin(&client).await;
    client.call(COMPLETE, &answer_to(&challenge, request)).await
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A client whose token is bound to a certificate, and the certificate.
async fn bound(mock: &Mock) -> (Client, Svid) {
    let svid = bootstrap(&begun(mock).await).await;
    let mut client = Client::over_tls(mock, Some(&svid.identity));
    let answer = renew_bound(&client, &svid).await;
    client.adopt(&answer);
    (client, svid)
}

async fn with_proof(client: &Client, proof: &Value) -> Answer {
    let request = client.request_with(CREATE, &target(), proof);
    client.send(request).await
}

fn access() -> Vec<Row> {
    vec![
        row!(TokenCurrent, "token_revoked", |mock| {
            let client = Client::logged_in(mock, &[GCP]).await;
            let body = json!({"target": "token", "reason": "logout"});
            assert_eq!(
                client.call("RevokeBrokerAccess", &body).await.reason(),
                "ok"
            );
            client.create(GCP, &json!({})).await
        }),
        row!(KeyAlive, "key_revoked", |mock| {
            let client = Client::logged_in(mock, &[GCP]).await;
            mock.revoke(&Revocable::PopKeyId(client.key.id())).unwrap();
            client.create(GCP, &json!({})).await
        }),
        row!(KeyCurrent, "key_revoked", |mock| {
            let svid = bootstrap(&begun(mock).await).await;
            let mut old = Client::over_tls(mock, Some(&svid.identity));
            let answer = renew(&old, &svid, &json!({})).await;
            old.adopt(&answer);
            let new = Client::over_tls(mock, Some(&svid.identity));
            assert_eq!(renew(&new, &svid, &json!({})).await.reason(), "ok");
            mock.advance(Duration::from_mins(2));
            old.create(GCP, &json!({})).await
        }),
        row!(BootstrapOnly, "scope_not_granted", |mock| {
            let client = begun(mock).await;
            client.call("ListBrokerAuditEvents", &json!({})).await
        }),
        row!(BootstrapScope, "scope_not_granted", |mock| {
            let client = Client::logged_in(mock, &[GCP]).await;
            client
                .call(BEGIN, &json!({"workloadName": "host-01"}))
                .await
        }),
        row!(ScopeMixed, "scope_mixed", |mock| {
            let scopes = json!({"requestedScopes": [BOOTSTRAP, scope("create", GCP)]});
            let token = token(mock, &json!({}));
            Client::new(mock).exchange_workload(&token, &scopes).await
        }),
        row!(SessionScopes, "scope_not_granted", |mock| {
            let scopes = json!({"requestedScopes": [scope("create", ["aws", "a", "b"])]});
            let token = token(mock, &json!({}));
            Client::new(mock).exchange_workload(&token, &scopes).await
        }),
        row!(PageToken, "page_token_invalid", |mock| {
            let client = Client::logged_in(mock, &[GCP]).await;
            let body = json!({"pageToken": "0.0.forged"});
            client.call("ListBrokerAuditEvents", &body).await
        }),
    ]
}

fn workload() -> Vec<Row> {
    vec![
        row!(WorkloadForm, "workload_token_invalid", |mock| {
            exchange_spoiled(mock, |[header, claims, signature]| {
                format!("{header}.{claims}.{signature}.x")
            })
            .await
        }),
        row!(WorkloadAlgorithm, "workload_token_invalid", |mock| {
            let header = base64url(json!({"alg": "none"}).to_string().as_bytes());
            let spoil = |[_, claims, _]: [&str; 3]| format!("{header}.{claims}.");
            exchange_spoiled(mock, spoil).await
        }),
        row!(WorkloadIssuer, "workload_token_issuer", |mock| {
            exchange(mock, json!({"iss": "https://evil.example"})).await
        }),
        row!(WorkloadSignature, "workload_token_invalid", |mock| {
            let good = token(mock, &json!({}));
            let claims = good.split('.').nth(1).unwrap();
            let claims: Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
            let forged = Key::generate().sign(&json!({"alg": "ES256"}), &claims);
            Client::new(mock)
                .exchange_workload(&forged, &json!({}))
                .await
        }),
        row!(WorkloadAudience, "workload_token_audience", |mock| {
            exchange(mock, json!({"aud": "aegis-console"})).await
        }),
        row!(WorkloadAlive, "workload_token_expired", |mock| {
            exchange(mock, json!({"exp": at(-60)})).await
        }),
        row!(WorkloadStarted, "workload_token_not_yet_valid", |mock| {
            exchange(mock, json!({"nbf": at(60)})).await
        }),
        row!(WorkloadLifetime, "workload_token_invalid", |mock| {
            exchange(mock, json!({"exp": at(90_000)})).await
        }),
        row!(WorkloadSubject, "workload_token_subject", |mock| {
            exchange(mock, json!({"sub": "repo:evil/x"})).await
        }),
        row!(ExchangeNonce, "nonce_replayed", |mock| {
            let (client, nonce) = (Client::new(mock), json!({ "nonce": random() }));
            let one = token(mock, &json!({}));
            assert_eq!(client.exchange_workload(&one, &nonce).await.reason(), "ok");
            client
                .exchange_workload(&token(mock, &json!({})), &nonce)
                .await
        }),
        row!(ExchangeNonce, "nonce_replayed", |mock| {
            let svid = bootstrap(&begun(mock).await).await;
            let client = Client::over_tls(mock, Some(&svid.identity));
            let nonce = json!({ "nonce": random() });
            assert_eq!(renew(&client, &svid, &nonce).await.reason(), "ok");
            renew(&client, &svid, &nonce).await
        }),
        row!(WorkloadReplay, "workload_token_replayed", |mock| {
            let (client, one) = (Client::new(mock), token(mock, &json!({})));
            assert_eq!(
                client.exchange_workload(&one, &json!({})).await.reason(),
                "ok"
            );
            client.exchange_workload(&one, &json!({})).await
        }),
    ]
}

fn spiffe() -> Vec<Row> {
    vec![
        row!(ChallengeOwner, "challenge_unknown", |mock| {
            let (client, other) = (begun(mock).await, begun(mock).await);
            let challenge = begin(&client).await;
            other
                .call(COMPLETE, &answer_to(&challenge, &plain_csr(&p256())))
                .await
        }),
        row!(ChallengeToken, "challenge_unknown", |mock| {
            let client = begun(mock).await;
            let mut answer = answer_to(&begin(&client).await, &plain_csr(&p256()));
            answer["challengeToken"] = json!("cht_guess");
            client.call(COMPLETE, &answer).await
        }),
        row!(ChallengeUnused, "challenge_used", |mock| {
            let client = begun(mock).await;
            let challenge = begin(&client).await;
            let answer = answer_to(&challenge, &plain_csr(&p256()));
            assert_eq!(client.call(COMPLETE, &answer).await.reason(), "ok");
            client.call(COMPLETE, &answer).await
        }),
        row!(ChallengeAge, "challenge_expired", |mock| {
            let client = begun(mock).await;
            let svid = bootstrap(&client).await;
            let challenge = begin(&client).await;
            mock.advance(Duration::from_mins(5));
            let mut renewed = Client::over_tls(mock, Some(&svid.identity));
            let scopes = json!({"requestedScopes": [BOOTSTRAP]});
            let answer = renew(&renewed, &svid, &scopes).await;
            renewed.adopt(&answer);
            renewed
                .call(COMPLETE, &answer_to(&challenge, &plain_csr(&p256())))
                .await
        }),
        row!(CsrForm, "csr_invalid", |mock| {
            let mut longer = plain_csr(&p256());
            longer.push(0);
            complete(mock, &longer).await
        }),
        row!(CsrKey, "csr_invalid", |mock| {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
            complete(mock, &plain_csr(&key)).await
        }),
        row!(CsrSignature, "csr_invalid", |mock| {
            let mut tampered = plain_csr(&p256());
            *tampered.last_mut().unwrap() ^= 1;
            complete(mock, &tampered).await
        }),
        row!(CsrAuthority, "csr_invalid", |mock| {
            let request = csr(&p256(), |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            });
            complete(mock, &request).await
        }),
        row!(CsrNames, "csr_invalid", |mock| {
            let request = csr(&p256(), |params| {
                params.subject_alt_names = vec![SanType::DnsName("x.example".try_into().unwrap())];
            });
            complete(mock, &request).await
        }),
        row!(CsrUri, "csr_invalid", |mock| {
            let request = csr(&p256(), |params| {
                let other = "spiffe://aegis.example/tenant/other".try_into().unwrap();
                params.subject_alt_names = vec![SanType::URI(other)];
            });
            complete(mock, &request).await
        }),
    ]
}

fn mtls() -> Vec<Row> {
    vec![
        row!(MtlsKind, "binding_mismatch", |mock| {
            let (client, svid) = bound(mock).await;
            let mut proof = mtls_proof(&svid);
            proof["proofType"] = json!("dpop_jwt");
            with_proof(&client, &proof).await
        }),
        row!(MtlsAlone, "proof_ambiguous", |mock| {
            let (client, svid) = bound(mock).await;
            let mut proof = mtls_proof(&svid);
            proof["dpopJwt"] = json!("a.b.c");
            with_proof(&client, &proof).await
        }),
        row!(MtlsAlone, "proof_ambiguous", |mock| {
            let (client, svid) = bound(mock).await;
            let request = client.request_with(CREATE, &target(), &mtls_proof(&svid));
            client.send(request.header("dpop", "a.b.c")).await
        }),
        row!(CertificateAlive, "client_certificate_mismatch", |mock| {
            let svid = bootstrap(&begun(mock).await).await;
            mock.advance(Duration::from_hours(1));
            let client = Client::over_tls(mock, Some(&svid.identity));
            renew(&client, &svid, &json!({})).await
        }),
        row!(CertificateBinding, "client_certificate_mismatch", |mock| {
            let first = begun(mock).await;
            let (svid, second) = (bootstrap(&first).await, bootstrap(&first).await);
            let mut client = Client::over_tls(mock, Some(&svid.identity));
            let answer = renew_bound(&client, &svid).await;
            client.adopt(&answer);
            let mut other = Client::over_tls(mock, Some(&second.identity));
            other.token.clone_from(&client.token);
            create_by_certificate(&other, &second).await
        }),
        row!(CertificateField, "client_certificate_mismatch", |mock| {
            let (client, svid) = bound(mock).await;
            let mut proof = mtls_proof(&svid);
            proof["mtlsFingerprint"] = json!(base64url(&[7; 32]));
            with_proof(&client, &proof).await
        }),
        row!(CertificateField, "client_certificate_mismatch", |mock| {
            let svid = bootstrap(&begun(mock).await).await;
            let client = Client::over_tls(mock, Some(&svid.identity));
            renew(&client, &svid, &json!({"popKeyId": "pop-x"})).await
        }),
        row!(MtlsNonce, "proof_invalid", |mock| {
            let (client, svid) = bound(mock).await;
            let mut proof = mtls_proof(&svid);
            proof["nonce"] = json!("short");
            with_proof(&client, &proof).await
        }),
        row!(MtlsReplay, "proof_replayed", |mock| {
            let (client, svid) = bound(mock).await;
            let proof = mtls_proof(&svid);
            assert_eq!(with_proof(&client, &proof).await.reason(), "ok");
            with_proof(&client, &proof).await
        }),
    ]
}

fn rows() -> Vec<Row> {
    let parts = [access(), workload(), spiffe(), mtls()];
    parts.into_iter().flatten().collect()
}

/// What another check would catch as well, and say in its own words: a signature that nobody can
/// read as one of ours does not verify, whatever its algorithm is called.
const CAUGHT_AGAIN: [Check; 2] = [Check::CsrKey, Check::WorkloadAlgorithm];

#[tokio::test]
async fn each_check_of_access_refuses_and_would_be_missed() {
    for row in rows() {
        let name = row.check.name();
        let mock = spawn(None).await;
        let answer = (row.make)(&mock).await;
        assert_eq!(answer.reason(), row.reason, "{name}: {}", answer.body);
        let field = answer.text("/message");
        assert_eq!(field, row.check.message(), "{name}");
        let event = mock
            .audit()
            .into_iter()
            .rev()
            .find(|event| event.outcome == "denied");
        assert_eq!(event.unwrap().reason, row.reason, "{name}");

        let mock = spawn(Some(row.check)).await;
        let answer = (row.make)(&mock).await;
        if CAUGHT_AGAIN.contains(&row.check) {
            assert_ne!(
                answer.reason(),
                "ok",
                "{name} is not caught again: take it off the list"
            );
            assert_ne!(answer.text("/message"), row.check.message(), "{name}");
        } else {
            assert_eq!(
                answer.reason(),
                "ok",
                "{name} is caught elsewhere: {}",
                answer.body
            );
        }
    }
    let checks = groups().count();
    figure(&format!(
        "{checks} checks of tokens, identities, challenges, requests and certificates left out one by one: each turned a row red"
    ));
}

fn groups() -> impl Iterator<Item = Check> {
    [Check::ACCESS, Check::WORKLOAD, Check::SPIFFE, Check::MTLS]
        .into_iter()
        .flatten()
        .copied()
}

#[test]
fn each_check_has_a_row() {
    let judged: BTreeSet<&str> = rows().iter().map(|row| row.check.name()).collect();
    let all: BTreeSet<&str> = groups().map(Check::name).collect();
    assert_eq!(judged, all);
}
