//! Every rule that a test may switch off: on it refuses, off it does not, and no other does.

use aegis_mock::Mock;
use serde_json::{Value, json};

use crate::client::{Answer, Client, GCP, spawn_with};

/// The switch and what it refuses with.
const SWITCHES: [(&str, &str); 9] = [
    ("field_names", "unknown_field"),
    ("protocol_version", "protocol_version_missing"),
    ("nonce_required", "use_dpop_nonce"),
    ("scope_grammar", "scope_action_only"),
    ("ttl_range", "ttl_out_of_range"),
    ("host", "host_refused"),
    ("origin", "origin_refused"),
    ("no_store", "no-store"),
    ("replay", "proof_replayed"),
];

const BEGIN: &str = "BeginMcpOauthDeviceAuthorization";
const CREATE: &str = "CreateCredentialLease";

/// Does what that rule forbids, and nothing else that is forbidden; what is said of it.
async fn offend(switch: &str, mock: &Mock) -> String {
    let client = Client::new(mock);
    let body = json!({
        "tenantId": "business-default", "popKeyId": client.key.id(), "popJwk": client.key.jwk(),
    });
    let begin = |body: &Value| client.post(BEGIN).body(body.to_string());
    let said = |answer: Answer| answer.reason().to_owned();
    let with = async |name: &'static str, value: &str| {
        let mut request = begin(&body).build().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        let request = reqwest::RequestBuilder::from_parts(reqwest::Client::new(), request);
        said(client.send(request).await)
    };
    match switch {
        "field_names" => said(client.begin(&json!({"admin": true})).await),
        "protocol_version" => {
            let mut request = begin(&body).build().unwrap();
            request.headers_mut().remove("connect-protocol-version");
            let request = reqwest::RequestBuilder::from_parts(reqwest::Client::new(), request);
            said(client.send(request).await)
        }
        "nonce_required" => {
            let mut client = Client::logged_in(mock, &[GCP]).await;
            client.nonce = None;
            said(client.create(GCP, &json!({})).await)
        }
        "scope_grammar" => {
            let scopes = json!({"requestedScopes": ["credential.lease.create"]});
            said(client.begin(&scopes).await)
        }
        "ttl_range" => {
            let client = Client::logged_in(mock, &[GCP]).await;
            let answer = client.create(GCP, &json!({"requestedTtlSeconds": 1})).await;
            if answer.status == 200 {
                // Cut to what there is.
                let lease = mock.leases().pop().unwrap();
                let lives = lease.expires_at.duration_since(lease.created_at);
                assert_eq!(lives.unwrap().as_secs(), 30);
            }
            said(answer)
        }
        "host" => with("host", "evil.example").await,
        "origin" => with("origin", "https://evil.example").await,
        "no_store" => {
            let answer = client.send(begin(&body)).await;
            answer.header("cache-control").unwrap_or("ok").to_owned()
        }
        "replay" => {
            let client = Client::logged_in(mock, &[GCP]).await;
            let nonce = client.nonce.as_deref();
            let proof = client
                .key
                .proof(&client.url(CREATE), nonce, Some(&client.token));
            let proof = json!({"proofType": "dpop_jwt", "dpopJwt": proof});
            let target = json!({"target": {"provider": GCP[0], "app": GCP[1], "account": GCP[2]}});
            let send = async || {
                client
                    .send(client.request_with(CREATE, &target, &proof))
                    .await
            };
            assert_eq!(send().await.reason(), "ok");
            said(send().await)
        }
        unknown => panic!("no test of {unknown}"),
    }
}

/// One by one, so that a switch that does another's work shows.
#[tokio::test]
async fn each_rule_refuses_until_it_alone_is_switched_off() {
    for off in [None]
        .into_iter()
        .chain(SWITCHES.map(|(name, _)| Some(name)))
    {
        let settings = off.map_or_else(String::new, |off| format!("[strictness]\n{off} = false\n"));
        let mock = spawn_with(&settings).await;
        for (switch, reason) in SWITCHES {
            let expected = if off == Some(switch) { "ok" } else { reason };
            let found = offend(switch, &mock).await;
            assert_eq!(found, expected, "{switch}, without {off:?}");
        }
    }
}

/// The table above has every switch of the file, which a test of the policy holds to the code.
#[test]
fn no_switch_is_forgotten() {
    let file = include_str!("../../../config/aegis-mock.toml");
    let (_, rest) = file.split_once("\n[strictness]\n").unwrap();
    let (section, _) = rest.split_once("\n[").unwrap();
    let in_file: Vec<&str> = section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(in_file, SWITCHES.map(|(name, _)| name));
}
