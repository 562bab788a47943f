//! Tokens, proofs and nonces over the wire.

use std::time::Duration;

use aegis_mock::Carrier;
use serde_json::{Value, json};

use crate::client::{Client, GCP, Key, base64url, now, random, sha256, spawn, spawn_with};

const CREATE: &str = "CreateCredentialLease";

fn create() -> Value {
    json!({"target": {"provider": GCP[0], "app": GCP[1], "account": GCP[2]}})
}

#[tokio::test]
async fn a_proof_travels_in_exactly_one_place() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let proof = || {
        client.key.proof(
            &client.url(CREATE),
            client.nonce.as_deref(),
            Some(&client.token),
        )
    };
    let in_body = || json!({"proofType": "dpop_jwt", "dpopJwt": proof()});
    let request = |scheme: &str, body: Value, headers: usize| {
        let mut request = client
            .post(CREATE)
            .header("authorization", format!("{scheme} {}", client.token));
        for _ in 0..headers {
            request = request.header("dpop", proof());
        }
        let mut message = create();
        message["tenantId"] = json!("business-default");
        message["requestProof"] = body;
        request.body(message.to_string())
    };
    let mtls = json!({"proofType": "mtls", "mtlsFingerprint": "AAAA"});
    let both_modes =
        json!({"proofType": "dpop_jwt", "dpopJwt": proof(), "mtlsFingerprint": "AAAA"});
    let rows = [
        ("body", request("Bearer", in_body(), 0), "ok"),
        ("header", request("DPoP", Value::Null, 1), "ok"),
        (
            "scheme in another case",
            request("dpop", Value::Null, 1),
            "ok",
        ),
        (
            "nowhere",
            request("Bearer", Value::Null, 0),
            "proof_missing",
        ),
        (
            "nowhere with DPoP",
            request("DPoP", Value::Null, 0),
            "proof_missing",
        ),
        (
            "Bearer with header",
            request("Bearer", Value::Null, 1),
            "proof_ambiguous",
        ),
        (
            "Bearer with both",
            request("Bearer", in_body(), 1),
            "proof_ambiguous",
        ),
        (
            "DPoP with body",
            request("DPoP", in_body(), 0),
            "proof_ambiguous",
        ),
        (
            "DPoP with both",
            request("DPoP", in_body(), 1),
            "proof_ambiguous",
        ),
        (
            "two headers",
            request("DPoP", Value::Null, 2),
            "proof_ambiguous",
        ),
        (
            "empty proof",
            request("Bearer", json!({}), 0),
            "proof_invalid",
        ),
        (
            "no JWT",
            request("Bearer", json!({"proofType": "dpop_jwt"}), 0),
            "proof_missing",
        ),
        (
            "mtls without TLS",
            request("Bearer", mtls, 0),
            "proof_invalid",
        ),
        (
            "two modes",
            request("Bearer", both_modes, 0),
            "proof_ambiguous",
        ),
    ];
    for (name, request, reason) in rows {
        let answer = client.send(request).await;
        assert_eq!(answer.reason(), reason, "{name}: {}", answer.body);
        if reason != "ok" {
            assert_eq!(answer.status, 401, "{name}");
            assert!(
                answer
                    .header("www-authenticate")
                    .unwrap()
                    .starts_with("DPoP ")
            );
        }
    }
    let carriers: Vec<_> = mock
        .requests()
        .iter()
        .skip(2)
        .take(2)
        .map(|r| r.carrier)
        .collect();
    assert_eq!(carriers, [Carrier::Body, Carrier::Header]);
}

#[tokio::test]
async fn a_token_is_of_ours_alive_and_bound() {
    let mock = spawn().await;
    let mut client = Client::logged_in(&mock, &[GCP]).await;
    let request = |authorization: Option<&str>| {
        let request = client.request(CREATE, &create());
        let mut request = request.build().unwrap();
        request.headers_mut().remove("authorization");
        if let Some(value) = authorization {
            request
                .headers_mut()
                .insert("authorization", value.parse().unwrap());
        }
        reqwest::RequestBuilder::from_parts(reqwest::Client::new(), request)
    };
    let rows = [
        ("none", None, "token_missing"),
        ("empty", Some(String::new()), "token_invalid"),
        ("no scheme", Some(client.token.clone()), "token_invalid"),
        (
            "Basic",
            Some(format!("Basic {}", client.token)),
            "token_invalid",
        ),
        (
            "unknown",
            Some("Bearer unknown".to_owned()),
            "token_invalid",
        ),
        (
            "cut",
            Some(format!("Bearer {}", &client.token[1..])),
            "token_invalid",
        ),
        (
            "two spaces",
            Some(format!("Bearer  {}", client.token)),
            "token_invalid",
        ),
    ];
    for (name, authorization, reason) in rows {
        let answer = client.send(request(authorization.as_deref())).await;
        assert_eq!((answer.status, answer.reason()), (401, reason), "{name}");
    }

    let own = std::mem::replace(&mut client.key, Key::generate());
    assert_eq!(
        client.create(GCP, &json!({})).await.reason(),
        "binding_mismatch"
    );
    client.key = own;
    mock.advance(Duration::from_mins(10));
    let expired = client.create(GCP, &json!({})).await;
    assert_eq!((expired.status, expired.reason()), (401, "token_expired"));
}

#[tokio::test]
async fn bad_proofs_are_refused_over_the_wire() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let good_header =
        json!({"typ": "dpop+jwt", "alg": "ES256", "kid": client.key.id(), "jwk": client.key.jwk()});
    let good_payload = || {
        json!({
            "htm": "POST", "htu": client.url(CREATE), "jti": random(), "iat": now(),
            "nonce": client.nonce, "ath": sha256(client.token.as_bytes()),
        })
    };
    let payload = |name: &str, value: Value| {
        let mut payload = good_payload();
        payload[name] = value;
        client.key.sign(&good_header, &payload)
    };
    let header = |name: &str, value: Value| {
        let mut header = good_header.clone();
        header[name] = value;
        client.key.sign(&header, &good_payload())
    };
    let mut private = client.key.jwk();
    private["d"] = json!(base64url(&[1; 32]));
    let rows = [
        ("good", payload("x", json!(1)), "ok"),
        (
            "RPC of another name",
            payload("htu", json!(client.url("RedeemCredentialLease"))),
            "proof_invalid",
        ),
        (
            "token of another",
            payload("ath", json!(sha256(b"other"))),
            "proof_invalid",
        ),
        (
            "too old",
            payload("iat", json!(now() - 120)),
            "proof_invalid",
        ),
        (
            "too early",
            payload("iat", json!(now() + 120)),
            "proof_invalid",
        ),
        (
            "oldest number",
            payload("iat", json!(i64::MIN)),
            "proof_invalid",
        ),
        (
            "another kid",
            header("kid", json!("pop-other")),
            "proof_invalid",
        ),
        ("private key", header("jwk", private), "proof_invalid"),
        (
            "too large",
            payload("x", json!("x".repeat(8192))),
            "proof_invalid",
        ),
        ("no nonce", payload("nonce", Value::Null), "proof_invalid"),
        (
            "old nonce",
            payload("nonce", json!("stale")),
            "use_dpop_nonce",
        ),
    ];
    for (name, proof, reason) in rows {
        let proof = json!({"proofType": "dpop_jwt", "dpopJwt": proof});
        let answer = client
            .send(client.request_with(CREATE, &create(), &proof))
            .await;
        assert_eq!(answer.reason(), reason, "{name}: {}", answer.body);
    }
    let proof = client.key.proof(
        &client.url(CREATE),
        client.nonce.as_deref(),
        Some(&client.token),
    );
    let proof = json!({"proofType": "dpop_jwt", "dpopJwt": proof, "nonce": "another"});
    let answer = client
        .send(client.request_with(CREATE, &create(), &proof))
        .await;
    assert_eq!(answer.reason(), "proof_invalid");
}

/// DP-7.
#[tokio::test]
async fn a_captured_proof_is_worth_nothing() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let created = client.create(GCP, &json!({})).await;
    let id = created.header("x-request-id").unwrap().to_owned();
    let captured = mock
        .wait_for_request(|request| request.request_id == id)
        .await;
    assert_eq!(captured.result, "ok");
    assert_eq!(captured.principal.as_deref(), Some("user:u-demo"));
    assert_eq!(captured.jkt, Some(client.key.thumbprint()));
    let proof = json!({"proofType": "dpop_jwt", "dpopJwt": captured.proof.unwrap()});
    let replayed = client
        .send(client.request_with(CREATE, &create(), &proof))
        .await;
    assert_eq!(
        (replayed.status, replayed.reason()),
        (401, "proof_replayed")
    );
    let last = mock.requests().pop().unwrap();
    assert_eq!(
        (last.result.as_str(), last.reason.as_deref()),
        ("unauthenticated", Some("proof_replayed"))
    );
    assert_eq!(last.jti, captured.jti);
    assert!(
        mock.audit()
            .iter()
            .any(|event| event.reason == "proof_replayed")
    );
}

/// DP-8, DP-10.
#[tokio::test]
async fn a_proof_without_a_current_nonce_is_asked_for_one() {
    let mock = spawn().await;
    let mut client = Client::logged_in(&mock, &[GCP]).await;
    client.nonce = None;
    let refused = client.create(GCP, &json!({})).await;
    assert_eq!((refused.status, refused.reason()), (401, "use_dpop_nonce"));
    assert_eq!(
        refused.header("www-authenticate"),
        Some(r#"DPoP error="use_dpop_nonce", algs="ES256 EdDSA""#)
    );
    client.nonce = refused.header("dpop-nonce").map(str::to_owned);
    let answer = client.create(GCP, &json!({})).await;
    assert_eq!(answer.reason(), "ok");
    assert_eq!(answer.header("dpop-nonce"), client.nonce.as_deref());

    mock.rotate_nonce();
    assert_eq!(
        client.create(GCP, &json!({})).await.reason(),
        "use_dpop_nonce"
    );
    mock.advance(Duration::from_mins(1));
    let newer = client
        .create(GCP, &json!({}))
        .await
        .header("dpop-nonce")
        .map(str::to_owned);
    assert_ne!(newer, client.nonce);
}

#[tokio::test]
async fn a_single_use_nonce_serves_one_proof() {
    let mock = spawn_with("[server]\nnonce = \"single_use\"\n").await;
    let mut client = Client::logged_in(&mock, &[GCP]).await;
    let first = client.create(GCP, &json!({})).await;
    assert_eq!(first.reason(), "ok");
    assert_eq!(
        client.create(GCP, &json!({})).await.reason(),
        "use_dpop_nonce"
    );
    client.nonce = first.header("dpop-nonce").map(str::to_owned);
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
}

#[tokio::test]
async fn nonces_can_be_off() {
    let mock = spawn_with("[server]\nnonce = \"off\"\n").await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    assert_eq!(client.nonce, None);
    let answer = client.create(GCP, &json!({})).await;
    assert_eq!((answer.reason(), answer.header("dpop-nonce")), ("ok", None));
}
