//! How often somebody may call: exactly so often, and again after as long as was told. LM.

use std::net::IpAddr;
use std::time::Duration;

use aegis_mock::Mock;
use serde_json::json;

use crate::client::{Answer, Client, GCP, scope, spawn_with};

/// A second person of the tenant, with a grant of her own.
const SECOND: &str = r#"
[[user]]
uid = "u-two"
tenants = ["business-default"]
[[grant]]
principal = "user:u-two"
actions = ["create"]
selector = "provider:gcp:app:billing-prod:account:deploy-bot"
"#;

async fn person(mock: &Mock, uid: &str) -> Client {
    Client::of_person(mock, uid, &[scope("create", GCP)]).await
}

fn accepted(answer: &Answer) {
    assert_eq!((answer.status, answer.reason()), (200, "ok"));
}

/// It was refused; for how long.
fn throttled(answer: &Answer) -> Duration {
    assert_eq!((answer.status, answer.reason()), (429, "rate_limited"));
    assert_eq!(answer.text("/code"), "resource_exhausted");
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    let told = &answer.body["details"][0]["debug"]["retryAfterSeconds"];
    assert_eq!(told, &json!(seconds));
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn calls_are_limited_per_principal() {
    let mock = spawn_with(&format!("[throttle]\nper_principal_minute = 3\n{SECOND}")).await;
    let (one, again, other) = (
        person(&mock, "u-demo").await,
        person(&mock, "u-demo").await,
        person(&mock, "u-two").await,
    );
    // Another key is no other principal.
    accepted(&one.create(GCP, &json!({})).await);
    accepted(&one.create(GCP, &json!({})).await);
    accepted(&again.create(GCP, &json!({})).await);
    let wait = throttled(&one.create(GCP, &json!({})).await);
    throttled(&again.create(GCP, &json!({})).await);
    accepted(&other.create(GCP, &json!({})).await);
    assert_eq!(mock.leases().len(), 4);
    mock.advance(wait);
    for _ in 0..3 {
        accepted(&one.create(GCP, &json!({})).await);
    }
    throttled(&one.create(GCP, &json!({})).await);
}

#[tokio::test]
async fn calls_are_limited_per_tenant() {
    let mock = spawn_with(&format!("[throttle]\nper_tenant_minute = 3\n{SECOND}")).await;
    let (one, other) = (person(&mock, "u-demo").await, person(&mock, "u-two").await);
    accepted(&one.create(GCP, &json!({})).await);
    accepted(&other.create(GCP, &json!({})).await);
    accepted(&one.create(GCP, &json!({})).await);
    throttled(&one.create(GCP, &json!({})).await);
    let wait = throttled(&other.create(GCP, &json!({})).await);
    mock.advance(wait);
    accepted(&other.create(GCP, &json!({})).await);
}

#[tokio::test]
async fn logins_begun_are_limited_per_address() {
    let mock = spawn_with("[throttle]\nbegin_per_address_minute = 3\n").await;
    let (client, again) = (Client::new(&mock), Client::new(&mock));
    accepted(&client.begin(&json!({})).await);
    accepted(&again.begin(&json!({})).await);
    accepted(&client.begin(&json!({})).await);
    let wait = throttled(&client.begin(&json!({})).await);
    throttled(&again.begin(&json!({})).await);
    // The neighbour on the same machine is another address.
    let elsewhere = reqwest::Client::builder().no_proxy();
    let elsewhere = elsewhere
        .local_address(IpAddr::from([127, 0, 0, 2]))
        .build();
    let body = json!({
        "tenantId": "business-default", "popKeyId": client.key.id(), "popJwk": client.key.jwk(),
    });
    let request = elsewhere
        .unwrap()
        .post(client.url("BeginMcpOauthDeviceAuthorization"))
        .header("connect-protocol-version", "1")
        .header("content-type", "application/json")
        .body(body.to_string());
    accepted(&client.send(request).await);
    assert_eq!(mock.pending_user_codes().len(), 4);
    mock.advance(wait);
    accepted(&client.begin(&json!({})).await);
}

/// What does not get as far as the throttle is not counted: shape, token, proof and tenant come
/// first.
#[tokio::test]
async fn calls_refused_before_use_up_nothing() {
    let mock = spawn_with("[throttle]\nper_principal_minute = 1\nper_tenant_minute = 1\n").await;
    let client = person(&mock, "u-demo").await;
    let target = json!({"provider": GCP[0], "app": GCP[1], "account": GCP[2]});
    let rows = [
        (
            "tenant_mismatch",
            json!({"target": target, "tenantId": "other"}),
        ),
        ("target_malformed", json!({"target": {}})),
        (
            "proof_missing",
            json!({"target": target, "requestProof": null}),
        ),
    ];
    for (reason, body) in rows {
        let answer = client.call("CreateCredentialLease", &body).await;
        assert_eq!(answer.reason(), reason);
    }
    accepted(&client.create(GCP, &json!({})).await);
    throttled(&client.create(GCP, &json!({})).await);
}

#[tokio::test]
async fn without_throttles_nobody_waits() {
    let limits = "per_principal_minute = 1\nper_tenant_minute = 1\nbegin_per_address_minute = 1\n";
    let mock = spawn_with(&format!("[throttle]\nenabled = false\n{limits}")).await;
    let client = person(&mock, "u-demo").await;
    for _ in 0..5 {
        accepted(&client.create(GCP, &json!({})).await);
        accepted(&client.begin(&json!({})).await);
    }
    // The limit of guesses is none of them.
    let guess = async || {
        let request = client
            .post("ApproveMcpOauthDeviceAuthorization")
            .bearer_auth(mock.demo_id_token())
            .body(json!({"userCode": "BBBB-BBBB", "approve": true}).to_string());
        client.send(request).await
    };
    for _ in 0..5 {
        assert_eq!(guess().await.reason(), "device_code_unknown");
    }
    throttled(&guess().await);
}

/// The number of the contract is the one in force: the call after the last is refused. The other
/// two would take a loaded machine longer than their minute; a test of the policy has them.
#[tokio::test]
async fn thirty_logins_may_be_begun_in_a_minute() {
    let mock = spawn_with("").await;
    let client = Client::new(&mock);
    for _ in 0..30 {
        accepted(&client.begin(&json!({})).await);
    }
    throttled(&client.begin(&json!({})).await);
}
