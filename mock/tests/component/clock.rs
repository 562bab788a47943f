//! Time: everything that lapses goes by the server's clock, which a test moves.

use std::fs;
use std::path::Path;
use std::time::Duration;

use aegis_mock::Mock;
use serde_json::{Value, json};

use crate::client::{Client, GCP, spawn, spawn_with};

const REVOKE: &str = "RevokeCredentialLease";

async fn refusal(client: &Client, method: &str, body: &Value) -> String {
    client.call(method, body).await.reason().to_owned()
}

/// What lapses, after how long, and what is then said.
#[tokio::test]
async fn whatever_lapses_does_so_when_the_clock_is_moved() {
    type Rows = [(&'static str, u64, &'static str); 6];
    const ROWS: Rows = [
        ("device code", 600, "expired_token"),
        ("token", 600, "token_expired"),
        ("nonce", 300, "use_dpop_nonce"),
        ("lease", 300, "lease_expired"),
        ("session", 60, "session_ended"),
        ("id token", 3600, "token_expired"),
    ];
    for (what, seconds, expected) in ROWS {
        let mock = server(what).await;
        let client = Client::logged_in(&mock, &[GCP]).await;
        let begun = client.begin(&json!({})).await;
        let lease = client.lease(GCP, &json!({})).await;
        let id_token = mock.demo_id_token();
        let asked = async || match what {
            "device code" => {
                let answer = client.exchange(begun.text("/deviceCode")).await;
                answer.text("/status").to_owned()
            }
            "lease" => refusal(&client, "RedeemCredentialLease", &json!({"leaseId": lease})).await,
            "id token" => {
                let request = client
                    .post("ApproveMcpOauthDeviceAuthorization")
                    .bearer_auth(&id_token)
                    .body(json!({"userCode": "BBBB-BBBB", "approve": true}).to_string());
                client.send(request).await.reason().to_owned()
            }
            _ => {
                refusal(
                    &client,
                    REVOKE,
                    &json!({"leaseId": lease, "reason": "released"}),
                )
                .await
            }
        };
        if what != "lease" {
            assert_ne!(asked().await, expected, "{what}, before");
        }
        mock.advance(Duration::from_secs(seconds));
        assert_eq!(asked().await, expected, "{what}");
    }
}

/// A nonce and a session are shorter than what else would lapse.
async fn server(what: &str) -> Mock {
    match what {
        "session" => {
            let demo = include_str!("../../../config/aegis-mock.toml");
            let short = demo.replace("max_session_seconds = 28800", "max_session_seconds = 60");
            let mock = spawn().await;
            mock.set_policy(&short).unwrap();
            mock
        }
        // With nonces off, a proof without a current one is none of the reasons.
        "device code" | "lease" => spawn_with("[server]\nnonce = \"off\"\n").await,
        _ => spawn().await,
    }
}

/// The window for a proof's `iat` does not move with it, so that a client in real time goes on.
#[tokio::test]
async fn proofs_are_judged_by_real_time() {
    let mock = spawn().await;
    mock.advance(Duration::from_hours(24 * 365));
    let client = Client::logged_in(&mock, &[GCP]).await;
    let answer = client.create(GCP, &json!({})).await;
    assert_eq!(answer.reason(), "ok");
}

/// Time is read in one file; what else waits in real time waits for sockets.
#[test]
fn one_file_reads_the_time() {
    let mut readers = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            for word in [
                "SystemTime::now",
                "Instant::now",
                "tokio::time",
                "elapsed()",
            ] {
                if text.contains(word) {
                    readers.push((name.clone(), word));
                }
            }
        }
    }
    readers.sort_unstable();
    let expected = [
        ("clock.rs", "Instant::now"),
        ("clock.rs", "SystemTime::now"),
        ("clock.rs", "elapsed()"),
        ("clock.rs", "tokio::time"),
        ("server.rs", "tokio::time"),
    ];
    assert_eq!(
        readers,
        expected.map(|(file, word)| (file.to_owned(), word))
    );
}
