//! Taking access back: by its holder, and by an operator.

use aegis_mock::{ControlError, Mock, Revocable};
use serde_json::{Value, json};

use crate::client::{Answer, BOOTSTRAP, Client, GCP};
use crate::control::{self, Control};
use crate::workload::{
    begun, bootstrap, create_by_certificate, lease_scopes, renew, renew_bound, spawn, token,
};

const REVOKE: &str = "RevokeBrokerAccess";

async fn revoke(client: &Client, target: &str) -> Answer {
    let body = json!({"target": target, "reason": "logout"});
    client.call(REVOKE, &body).await
}

async fn create(client: &Client) -> String {
    let answer = client.create(GCP, &json!({})).await;
    answer.reason().to_owned()
}

/// What an answer counts: tokens, keys, leases.
fn counts(answer: &Answer) -> [u64; 3] {
    assert_eq!(answer.reason(), "ok", "{}", answer.body);
    ["tokens", "keys", "leases"].map(|name| answer.body[name].as_u64().unwrap_or(0))
}

/// The jti of a token that was handed out.
fn jti(token: &str) -> String {
    use base64::Engine as _;
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims);
    let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

/// A session of the first workload that has a certificate, and a lease.
async fn other_session(mock: &Mock) -> (Client, String) {
    let svid = bootstrap(&begun(mock).await).await;
    let mut client = Client::over_tls(mock, Some(&svid.identity));
    let answer = renew(&client, &svid, &json!({})).await;
    client.adopt(&answer);
    let lease = client.lease(GCP, &json!({"maxRedemptions": 2})).await;
    (client, lease)
}

/// "A token's end is the token's alone; a key's ends its tokens and leases; a session's all three."
#[tokio::test]
async fn a_token_a_key_and_a_session_end_what_is_theirs() {
    let mock = spawn(None).await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let lease = client.lease(GCP, &json!({})).await;
    let redeemed = client.redeem(&lease).await;
    let secret = redeemed.text("/credential/gcpAccessToken/accessToken");
    assert_eq!(counts(&revoke(&client, "token").await), [1, 0, 0]);
    assert_eq!(create(&client).await, "token_revoked");
    assert_eq!(client.whoami("gcp", secret).await, 200);

    let client = Client::logged_in(&mock, &[GCP]).await;
    let lease = client.lease(GCP, &json!({})).await;
    let redeemed = client.redeem(&lease).await;
    let secret = redeemed.text("/credential/gcpAccessToken/accessToken");
    assert_eq!(counts(&revoke(&client, "pop_key").await), [1, 1, 1]);
    assert_eq!(create(&client).await, "key_revoked");
    assert_eq!(client.whoami("gcp", secret).await, 401);
    let begun = client.begin(&json!({})).await;
    assert_eq!((begun.status, begun.reason()), (401, "key_revoked"));

    let client = Client::logged_in(&mock, &[GCP]).await;
    client.lease(GCP, &json!({})).await;
    client.lease(GCP, &json!({})).await;
    assert_eq!(counts(&revoke(&client, "session").await), [1, 1, 2]);
    assert_eq!(create(&client).await, "session_ended");
    let events: Vec<_> = mock
        .audit()
        .into_iter()
        .filter(|event| event.reason == "logout")
        .collect();
    let told: Vec<&str> = events.iter().map(|event| &*event.action).collect();
    assert_eq!(
        told,
        [
            "token.revoke",
            "key.revoke",
            "lease.revoke",
            "session.end",
            "lease.revoke",
            "lease.revoke",
        ]
    );
    assert!(events.iter().all(|event| event.outcome == "ok"));
    // What ended by one call has its id and its proof.
    let ids: Vec<&str> = events[3..].iter().map(|event| &*event.request_id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(events.iter().all(|event| !event.proof_jti.is_empty()));
}

#[tokio::test]
async fn a_session_takes_its_certificates_along() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let svid = bootstrap(&client).await;
    let mut bound = Client::over_tls(&mock, Some(&svid.identity));
    let answer = renew_bound(&bound, &svid).await;
    bound.adopt(&answer);
    let (other, lease) = other_session(&mock).await;
    assert_eq!(other.redeem(&lease).await.reason(), "ok");
    let session = answer.text("/tokenInfo/sessionId").to_owned();
    mock.revoke(&Revocable::SessionId(session.clone())).unwrap();
    assert_eq!(
        create_by_certificate(&bound, &svid).await.reason(),
        "session_ended"
    );
    assert_eq!(renew_bound(&bound, &svid).await.reason(), "session_ended");
    let again = mock.revoke(&Revocable::SessionId(session));
    assert_eq!(again, Err(ControlError::NothingToRevoke));
    // Another session of the same workload goes on.
    assert_eq!(other.redeem(&lease).await.reason(), "ok");
}

#[tokio::test]
async fn an_operator_ends_whatever_has_a_name() {
    let mock = control::spawn().await;
    let control = Control::of(&mock);
    let ask = async |what: Value| control.post("revoke", what).await;

    let client = Client::logged_in(&mock, &[GCP]).await;
    let lease = client.lease(GCP, &json!({})).await;
    assert_eq!(ask(json!({ "leaseId": lease })).await, 200);
    assert_eq!(client.redeem(&lease).await.reason(), "lease_revoked");
    assert_eq!(ask(json!({ "leaseId": lease })).await, 404);
    assert_eq!(ask(json!({"tokenJti": jti(&client.token)})).await, 200);
    assert_eq!(create(&client).await, "token_revoked");
    assert_eq!(ask(json!({"tokenJti": jti(&client.token)})).await, 404);

    let client = Client::logged_in(&mock, &[GCP]).await;
    assert_eq!(ask(json!({"popKeyId": client.key.id()})).await, 200);
    assert_eq!(create(&client).await, "key_revoked");
    assert_eq!(ask(json!({"popKeyId": "pop-unknown"})).await, 404);

    let clients = [
        Client::logged_in(&mock, &[GCP]).await,
        Client::logged_in(&mock, &[GCP]).await,
    ];
    assert_eq!(ask(json!({"principal": "user:u-demo"})).await, 200);
    for client in &clients {
        assert_eq!(create(client).await, "session_ended");
    }
    assert_eq!(ask(json!({"principal": "user:u-demo"})).await, 404);
    for wrong in [
        json!({}),
        json!({"leaseId": 1}),
        json!({"everything": "x"}),
        json!({"leaseId": "a", "principal": "b"}),
    ] {
        let status = ask(wrong).await;
        assert!(status == 400 || status == 422, "{status}");
    }
}

#[tokio::test]
async fn what_is_asked_to_be_revoked_is_named_and_granted() {
    let mock = spawn(None).await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let rows = [
        (
            json!({"target": "lease", "reason": "logout"}),
            "target_malformed",
        ),
        (
            json!({"target": "", "reason": "logout"}),
            "target_malformed",
        ),
        (
            json!({"target": "token", "reason": "because"}),
            "revoke_reason_unknown",
        ),
        (json!({"target": "token"}), "revoke_reason_unknown"),
        (
            json!({"target": "token", "reason": "logout", "tenantId": "other"}),
            "tenant_mismatch",
        ),
    ];
    for (body, reason) in rows {
        assert_eq!(client.call(REVOKE, &body).await.reason(), reason, "{body}");
    }
    assert_eq!(create(&client).await, "ok");
    // What cannot be recorded is not done.
    mock.fault(REVOKE, aegis_mock::FaultKind::AuditUnavailable, 1);
    assert_eq!(
        revoke(&client, "session").await.reason(),
        "audit_unavailable"
    );
    assert_eq!(create(&client).await, "ok");
}

/// A login's tokens end with it, those for the bootstrap too.
#[tokio::test]
async fn the_end_of_a_session_is_the_end_of_its_bootstrap() {
    let mock = spawn(None).await;
    let client = begun(&mock).await;
    let mut leases = Client::new(&mock);
    let workload = token(&mock, &json!({}));
    let answer = leases
        .exchange_workload(&workload, &json!({"requestedScopes": lease_scopes()}))
        .await;
    leases.adopt(&answer);
    let principal = answer.text("/tokenInfo/principal").to_owned();
    mock.revoke(&Revocable::Principal(principal)).unwrap();
    let answer = client
        .call("BeginSpiffeBootstrap", &json!({"workloadName": "host-01"}))
        .await;
    assert_eq!(answer.reason(), "session_ended");
    assert_eq!(create(&leases).await, "session_ended");
    // Nobody is shut out for good: identity is another matter.
    let fresh = token(&mock, &json!({}));
    let answer = Client::new(&mock)
        .exchange_workload(&fresh, &json!({"requestedScopes": [BOOTSTRAP]}))
        .await;
    assert_eq!(answer.reason(), "ok");
}
