//! Spikes: an event, an alert, and where the policy says so a pause. And the header that names
//! people without a token.

use std::process::Stdio;
use std::time::Duration;

use aegis_mock::{Mock, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::client::{Client, GCP, OWNER, TENANT, policy, scope, spawn_with};
use crate::control::{self, Control};

const LOOSE: &str = "[anomaly]\nissuances_per_minute = 100\ndenials_per_minute = 4\n";

fn spikes(mock: &Mock) -> Vec<String> {
    let alerts = mock.alerts().into_iter();
    let told: Vec<String> = alerts
        .map(|alert| format!("{} {} {}", alert.kind, alert.principal, alert.count))
        .collect();
    let recorded = mock.audit().into_iter();
    let recorded: Vec<String> = recorded
        .filter(|event| event.action.starts_with("anomaly."))
        .map(|event| format!("{} {}", event.action, event.principal))
        .collect();
    let told_short: Vec<String> = told
        .iter()
        .map(|words| words.rsplit_once(' ').unwrap().0.to_owned())
        .collect();
    assert_eq!(told_short, recorded);
    told
}

async fn denied(client: &Client) -> String {
    client.create(OWNER, &json!({})).await.reason().to_owned()
}

async fn login(mock: &Mock) -> Client {
    Client::with_scopes(mock, &[scope("create", GCP), scope("create", OWNER)]).await
}

#[tokio::test]
async fn denials_and_replays_in_a_minute_are_told_once() {
    let mock = spawn_with(LOOSE).await;
    let client = login(&mock).await;
    for _ in 0..3 {
        assert_eq!(denied(&client).await, "policy_denied");
    }
    assert!(spikes(&mock).is_empty());
    for _ in 0..6 {
        denied(&client).await;
    }
    assert_eq!(spikes(&mock), ["anomaly.denied_spike user:u-demo 4"]);
    mock.advance(Duration::from_mins(1));
    for _ in 0..4 {
        denied(&client).await;
    }
    assert_eq!(spikes(&mock).len(), 2);
    // It is told, not acted on.
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");

    mock.advance(Duration::from_mins(1));
    let body = json!({"target": {"provider": GCP[0], "app": GCP[1], "account": GCP[2]}});
    let request = client.request("CreateCredentialLease", &body);
    let mut told = Vec::new();
    for _ in 0..4 {
        let answer = client.send(request.try_clone().unwrap()).await;
        told.push(answer.reason().to_owned());
    }
    assert_eq!(told[1..], ["proof_replayed"; 3]);
    assert_eq!(spikes(&mock)[2..], ["anomaly.replay user:u-demo 3"]);
}

#[tokio::test]
async fn many_leases_in_a_minute_are_a_spike() {
    let mock = spawn_with("[anomaly]\nissuances_per_minute = 3\ntenant_factor = 2\n").await;
    let client = login(&mock).await;
    for _ in 0..5 {
        assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
    }
    // The login is one of them.
    assert_eq!(
        spikes(&mock),
        [
            "anomaly.issuance_spike user:u-demo 3",
            "anomaly.issuance_spike  6"
        ]
    );
    let tenants: Vec<String> = mock
        .alerts()
        .into_iter()
        .map(|alert| alert.tenant_id)
        .collect();
    assert_eq!(tenants, [TENANT, TENANT]);
}

#[tokio::test]
async fn who_causes_a_spike_waits_where_the_policy_says_so() {
    let mock = spawn_with(&format!("{LOOSE}on_anomaly = \"throttle\"\n")).await;
    let client = login(&mock).await;
    for _ in 0..4 {
        denied(&client).await;
    }
    let answer = client.create(GCP, &json!({})).await;
    assert_eq!((answer.status, answer.reason()), (429, "rate_limited"));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    mock.advance(Duration::from_secs(wait));
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
}

#[tokio::test]
async fn control_shows_alerts_and_totals() {
    let mock = control::spawn().await;
    let control = Control::of(&mock);
    let settings = json!({"toml": policy(LOOSE)});
    assert_eq!(control.post("policy", settings).await, 200);
    let client = login(&mock).await;
    for _ in 0..4 {
        denied(&client).await;
    }
    let seen = control.get("alerts").await;
    assert_eq!(seen["alerts"][0]["kind"], "anomaly.denied_spike");
    assert_eq!(seen["alerts"][0]["principal"], "user:u-demo");
    assert_eq!(seen["alerts"][0]["tenantId"], TENANT);
    assert_eq!(seen["alerts"][0]["count"], 4);
    assert_eq!(
        seen["totals"],
        json!({"issuances": 1, "denials": 4, "replays": 0, "alerts": 1})
    );
}

/// A seed's hard requirement: the header is refused and recorded, unless both switches are on.
#[tokio::test]
async fn the_insecure_user_header_needs_both_switches() {
    for (allowed, insecure, heard) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, true),
    ] {
        let mock = aegis_mock::spawn(Options {
            allow_insecure_user_header: allowed,
            dev_insecure: insecure,
            ..Options::default()
        })
        .await
        .unwrap();
        let client = Client::new(&mock);
        let mint = async |user: &str| {
            let body = json!({"requestedScopes": [scope("create", GCP)]});
            let request = client.unbound("MintUserApiToken", &body);
            client
                .send(request.header("x-aegis-insecure-user", user))
                .await
        };
        let answer = mint("u-demo").await;
        if heard {
            assert_eq!(answer.text("/tokenInfo/principal"), "user:u-demo");
            assert_eq!(mint("u-nobody").await.reason(), "token_invalid");
            continue;
        }
        assert_eq!(
            (answer.status, answer.reason()),
            (401, "insecure_user_header")
        );
        let event = mock.audit().pop().unwrap();
        assert_eq!(
            (&*event.outcome, &*event.reason),
            ("denied", "insecure_user_header")
        );
        // An ID token beside it does not help.
        let request = client.unbound("MintUserApiToken", &json!({}));
        let request = request.bearer_auth(mock.demo_id_token());
        let answer = client
            .send(request.header("x-aegis-insecure-user", "u-demo"))
            .await;
        assert_eq!(answer.reason(), "insecure_user_header");
    }
}

/// The same of the program: the variable alone is not enough, nor is any word but `true`.
#[tokio::test]
async fn the_program_asks_for_variable_and_option() {
    for (variable, option, heard) in [
        ("true", true, true),
        ("true", false, false),
        ("TRUE", true, false),
        ("1", true, false),
        ("", true, false),
    ] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aegis-mock"));
        command.args(["--listen", "127.0.0.1:0", "--tls", "127.0.0.1:0"]);
        if option {
            command.arg("--dev-insecure");
        }
        let mut child = command
            .env("ALLOW_INSECURE_USER_HEADER", variable)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(
            line["tls"]
                .as_str()
                .unwrap()
                .starts_with("https://127.0.0.1:")
        );
        let client = Client::at(line["api"].as_str().unwrap());
        let body = json!({"requestedScopes": [scope("create", GCP)]});
        let request = client.unbound("MintUserApiToken", &body);
        let answer = client
            .send(request.header("x-aegis-insecure-user", "u-demo"))
            .await;
        let reason = if heard { "ok" } else { "insecure_user_header" };
        assert_eq!(answer.reason(), reason, "{variable} {option}");
        child.kill().await.unwrap();
    }
}
