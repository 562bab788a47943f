//! Misbehaviour on demand.

use std::time::Duration;

use aegis_mock::{FaultKind, Mock};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::client::{Answer, Client, GCP, spawn};
use crate::control::{self, Control};

const CREATE: &str = "CreateCredentialLease";
const REDEEM: &str = "RedeemCredentialLease";
const EXCHANGE: &str = "ExchangeMcpOauthDeviceAuthorization";

#[tokio::test]
async fn refusals_on_demand_do_nothing_and_wear_off() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let rows = [
        (FaultKind::Unavailable, 503, "unavailable"),
        (FaultKind::Internal, 500, "internal"),
        (FaultKind::RateLimited, 429, "rate_limited"),
        (FaultKind::NonceOnce, 401, "use_dpop_nonce"),
    ];
    for (kind, status, code) in rows {
        mock.fault(CREATE, kind, 2);
        for _ in 0..2 {
            let answer = client.create(GCP, &json!({})).await;
            assert_eq!(answer.status, status);
            let told = answer.body["details"][0]["debug"]["reason"].as_str();
            assert_eq!(told.unwrap_or(answer.text("/code")), code);
            let wait = (kind == FaultKind::RateLimited).then_some("1");
            assert_eq!(answer.header("retry-after"), wait);
            assert!(
                answer
                    .text("/details/0/debug/requestId")
                    .starts_with("req_")
            );
        }
        assert!(mock.leases().is_empty());
    }
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
    let tried = mock
        .requests()
        .iter()
        .filter(|r| r.method == CREATE && r.jti.is_some())
        .count();
    assert_eq!(tried, 9);
}

/// `aegis.md` 9: what cannot be recorded is not done, whichever call it is.
#[tokio::test]
async fn a_ledger_that_fails_lets_nothing_happen() {
    let mock = spawn().await;
    let fails = |method| mock.fault(method, FaultKind::AuditUnavailable, 1);
    let mut client = Client::new(&mock);
    let refused = |answer: &Answer| {
        assert_eq!((answer.status, answer.reason()), (503, "audit_unavailable"));
        assert_eq!(answer.text("/code"), "unavailable");
    };
    fails("BeginMcpOauthDeviceAuthorization");
    refused(&client.begin(&json!({})).await);
    assert!(mock.pending_user_codes().is_empty());

    let begin = client.begin(&json!({})).await;
    let code = begin.text("/deviceCode");
    fails(EXCHANGE);
    mock.advance(Duration::from_secs(5));
    // A pending poll is not recorded, so it does not meet the fault.
    let poll = client.exchange(code).await;
    assert_eq!(poll.text("/status"), "authorization_pending");
    mock.approve(begin.text("/userCode")).unwrap();
    refused(&client.exchange(code).await);
    let success = client.exchange(code).await;
    success.text("/brokerToken").clone_into(&mut client.token);
    client.nonce = success.header("dpop-nonce").map(str::to_owned);

    fails(CREATE);
    refused(&client.create(GCP, &json!({})).await);
    assert!(mock.leases().is_empty());
    let id = client.lease(GCP, &json!({})).await;
    fails(REDEEM);
    let secrets = mock.secrets().len();
    refused(&client.redeem(&id).await);
    assert_eq!(mock.leases()[0].redemptions_used, 0);
    assert_eq!(mock.secrets().len(), secrets);
    fails("RevokeCredentialLease");
    refused(&client.revoke(&id).await);
    assert_eq!(client.redeem(&id).await.reason(), "ok");

    let told = mock.audit().into_iter();
    let told: Vec<_> = told.map(|event| (event.action, event.outcome)).collect();
    let expected = [
        "login.begin",
        "login.approve",
        "login.exchange",
        "lease.create",
        "lease.redeem",
    ];
    assert_eq!(
        told,
        expected.map(|action| (action.to_owned(), "ok".to_owned()))
    );
}

#[tokio::test]
async fn nonces_can_be_asked_for_without_end() {
    let mock = spawn().await;
    let mut client = Client::logged_in(&mock, &[GCP]).await;
    mock.fault(CREATE, FaultKind::NonceAlways, 1);
    for _ in 0..3 {
        let answer = client.create(GCP, &json!({})).await;
        assert_eq!(answer.reason(), "use_dpop_nonce");
        client.nonce = answer.header("dpop-nonce").map(str::to_owned);
    }
    mock.fault(CREATE, FaultKind::NonceAlways, 0);
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
}

#[tokio::test]
async fn a_closed_connection_is_before_or_after_the_deed() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    for (kind, leases) in [
        (FaultKind::CloseBefore, 0),
        (FaultKind::CloseAfterCommit, 1),
    ] {
        mock.fault(CREATE, kind, 1);
        let body = json!({"target": {"provider": GCP[0], "app": GCP[1], "account": GCP[2]}});
        let answer = client.try_send(client.request(CREATE, &body)).await;
        assert!(answer.is_err());
        assert_eq!(mock.leases().len(), leases);
        assert_eq!(mock.requests().pop().unwrap().result, "closed");
    }
}

#[tokio::test]
async fn a_stalled_answer_ends_with_the_server() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    mock.fault(REDEEM, FaultKind::Stall, 1);
    let id = client.lease(GCP, &json!({})).await;
    let request = client.request(REDEEM, &json!({ "leaseId": id }));
    let stop = async {
        let stalled = mock
            .wait_for_request(|request| request.result == "stalled")
            .await;
        assert_eq!(stalled.method, REDEEM);
        assert!(stalled.jti.is_some());
        assert_eq!(mock.leases()[0].redemptions_used, 0);
        mock.stop().await;
    };
    let (answer, ()) = tokio::join!(client.try_send(request), stop);
    assert!(answer.is_err());
}

/// A peer that sends half a request keeps no server from ending.
#[tokio::test]
async fn half_a_request_does_not_keep_the_server() {
    let mock = spawn().await;
    let address = mock.api().socket_addrs(|| None).unwrap()[0];
    let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
    peer.write_all(b"POST /aegis").await.unwrap();
    // The next connection is accepted after that one.
    let health = reqwest::get(mock.api().join("healthz").unwrap()).await;
    assert_eq!(health.unwrap().status(), 200);
    let stopped = tokio::time::timeout(Duration::from_mins(1), mock.stop());
    assert!(stopped.await.is_ok());
}

#[tokio::test]
async fn spoiled_answers_come_after_the_deed() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({"maxRedemptions": 3})).await;
    mock.fault(REDEEM, FaultKind::BadJson, 1);
    let answer = client.redeem(&id).await;
    assert_eq!((answer.status, answer.body), (200, json!(null)));
    mock.fault(REDEEM, FaultKind::HugeBody, 1);
    let answer = client.redeem(&id).await;
    assert!(answer.text("/status").len() > 10_000_000);
    assert_eq!(mock.leases()[0].redemptions_used, 2);
}

#[tokio::test]
async fn a_login_can_be_answered_wrongly() {
    let mock = spawn().await;
    for kind in [
        FaultKind::WrongThumbprint,
        FaultKind::WiderScope,
        FaultKind::ShortExpiry,
    ] {
        let client = Client::new(&mock);
        let begin = client.begin(&json!({})).await;
        mock.approve(begin.text("/userCode")).unwrap();
        mock.fault(EXCHANGE, kind, 1);
        let answer = client.exchange(begin.text("/deviceCode")).await;
        assert_eq!(answer.text("/status"), "success");
        let info = &answer.body["tokenInfo"];
        let wrong = info["thumbprint"] != client.key.thumbprint();
        let wider = info["grantedScopes"].as_array().unwrap().len() > 3;
        let short = info["expiresInSeconds"] == 1;
        let told = [wrong, wider, short];
        assert_eq!(told.iter().filter(|told| **told).count(), 1, "{kind:?}");
    }
    let client = Client::new(&mock);
    let begin = client.begin(&json!({})).await;
    mock.fault(EXCHANGE, FaultKind::SlowDown, 1);
    mock.fault(EXCHANGE, FaultKind::ApprovedFirst, 2);
    mock.advance(Duration::from_mins(1));
    let statuses = async |count: usize| {
        let mut statuses = Vec::new();
        for _ in 0..count {
            let answer = client.exchange(begin.text("/deviceCode")).await;
            statuses.push(answer.text("/status").to_owned());
        }
        statuses
    };
    assert_eq!(statuses(1).await, ["slow_down"]);
    mock.approve(begin.text("/userCode")).unwrap();
    assert_eq!(statuses(3).await, ["approved", "approved", "success"]);
}

#[tokio::test]
async fn leases_and_material_can_end_after_a_second() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({"maxRedemptions": 2})).await;
    mock.fault(REDEEM, FaultKind::ShortExpiry, 1);
    let answer = client.redeem(&id).await;
    let secret = answer.text("/credential/gcpAccessToken/accessToken");
    assert_eq!(client.whoami("gcp", secret).await, 200);
    mock.advance(Duration::from_secs(1));
    assert_eq!(client.whoami("gcp", secret).await, 401);
    assert_eq!(client.redeem(&id).await.reason(), "ok");

    mock.fault(CREATE, FaultKind::ShortExpiry, 1);
    let id = client.lease(GCP, &json!({})).await;
    mock.advance(Duration::from_secs(1));
    assert_eq!(client.redeem(&id).await.reason(), "lease_expired");
}

#[tokio::test]
async fn a_redemption_can_be_answered_with_another_target() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({"maxRedemptions": 2})).await;
    mock.fault(REDEEM, FaultKind::WrongTarget, 1);
    let account = "/lease/target/account";
    assert_ne!(client.redeem(&id).await.text(account), GCP[2]);
    assert_eq!(client.redeem(&id).await.text(account), GCP[2]);
    assert_eq!(mock.leases()[0].redemptions_used, 2);
}

#[tokio::test]
async fn a_skewed_clock_refuses_proofs_and_dates_its_answers_so() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let straight = client.create(GCP, &json!({})).await;
    mock.fault(CREATE, FaultKind::ClockSkew, 1);
    let skewed = client.create(GCP, &json!({})).await;
    assert_eq!(skewed.reason(), "proof_invalid");
    assert_ne!(
        skewed.header("date").unwrap()[..19],
        straight.header("date").unwrap()[..19]
    );
    assert!(skewed.header("date").unwrap().ends_with(" GMT"));
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
}

/// Every kind by the name that control knows it by, the call it is shown at, and what is seen.
const NAMES: [(&str, &str, &str); 18] = [
    ("unavailable", CREATE, "unavailable, 0 leases"),
    ("internal", CREATE, "internal, 0 leases"),
    ("rate_limited", CREATE, "rate_limited, 0 leases"),
    ("audit_unavailable", CREATE, "audit_unavailable, 0 leases"),
    ("stall", CREATE, "stalled, 0 leases"),
    ("close_before", CREATE, "closed, 0 leases"),
    ("close_after_commit", CREATE, "closed, 1 leases"),
    ("nonce_once", CREATE, "use_dpop_nonce, 0 leases"),
    ("nonce_always", CREATE, "use_dpop_nonce, 0 leases"),
    ("clock_skew", CREATE, "proof_invalid, 0 leases"),
    ("bad_json", CREATE, "no JSON, 1 leases"),
    ("huge_body", CREATE, "16 MiB, 1 leases"),
    ("short_expiry", CREATE, "ok for 1 s, 1 leases"),
    ("wrong_target", REDEEM, "another target"),
    ("slow_down", EXCHANGE, "slow_down"),
    ("approved_first", EXCHANGE, "approved"),
    ("wrong_thumbprint", EXCHANGE, "another key"),
    ("wider_scope", EXCHANGE, "4 scopes"),
];

/// The table has every kind there is: control names them to who asks for another.
#[tokio::test]
async fn no_kind_is_forgotten() {
    let mock = control::spawn().await;
    let unknown = json!({"method": CREATE, "kind": "nonsense"});
    let told = Control::of(&mock).told("fault", unknown).await;
    let (_, list) = told.split_once("expected one of ").unwrap();
    let mut known: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let mut named = NAMES.map(|(name, ..)| name);
    let mut all = FaultKind::ALL.map(FaultKind::as_str);
    known.sort_unstable();
    named.sort_unstable();
    all.sort_unstable();
    assert_eq!(known, named);
    assert_eq!(known, all);
}

/// The first thing about a lease's answer that is not as it should be.
async fn created(mock: &Mock, client: &Client) -> String {
    let target = json!({"target": {"provider": GCP[0], "app": GCP[1], "account": GCP[2]}});
    let stalled = mock.wait_for_request(|request| request.result == "stalled");
    let answer = tokio::select! {
        answer = client.try_send(client.request(CREATE, &target)) => answer,
        _ = stalled => return format!("stalled, {} leases", mock.leases().len()),
    };
    let leases = mock.leases();
    let seen = match answer {
        Err(_closed) => "closed".to_owned(),
        Ok(answer) if answer.status != 200 => answer.reason().to_owned(),
        Ok(answer) if answer.body.is_null() => "no JSON".to_owned(),
        Ok(answer) if answer.body["status"].is_string() => {
            format!("{} MiB", answer.text("/status").len() >> 20)
        }
        Ok(_) => {
            let lives = leases[0].expires_at.duration_since(leases[0].created_at);
            format!("ok for {} s", lives.unwrap().as_secs())
        }
    };
    format!("{seen}, {} leases", leases.len())
}

async fn redeemed(client: &Client, lease: &str) -> String {
    let answer = client.redeem(lease).await;
    if answer.text("/lease/target/account") == GCP[2] {
        return "the target".to_owned();
    }
    "another target".to_owned()
}

async fn exchanged(client: &Client, device_code: &str) -> String {
    let answer = client.exchange(device_code).await;
    let status = answer.text("/status");
    if status != "success" {
        return status.to_owned();
    }
    let scopes = answer.body["tokenInfo"]["grantedScopes"]
        .as_array()
        .unwrap();
    if answer.text("/tokenInfo/thumbprint") != client.key.thumbprint() {
        return "another key".to_owned();
    }
    format!("{} scopes", scopes.len())
}

/// `aegis.md` 15: no kind is missing, each has the effect that its name says, and each wears off.
#[tokio::test]
async fn every_kind_is_known_by_its_name_and_does_what_it_says() {
    for (name, method, expected) in NAMES {
        let mock = control::spawn().await;
        let control = Control::of(&mock);
        let client = Client::logged_in(&mock, &[GCP]).await;
        let begun = client.begin(&json!({})).await;
        mock.approve(begun.text("/userCode")).unwrap();
        let device_code = begun.text("/deviceCode");
        let lease = match method {
            REDEEM => client.lease(GCP, &json!({"maxRedemptions": 2})).await,
            _ => String::new(),
        };
        let fault = json!({"method": method, "kind": name});
        assert_eq!(control.post("fault", fault).await, 200, "{name}");
        let ask = async || match method {
            REDEEM => redeemed(&client, &lease).await,
            EXCHANGE => exchanged(&client, device_code).await,
            _ => created(&mock, &client).await,
        };
        assert_eq!(ask().await, expected, "{name}");
        if name == "nonce_always" {
            assert_eq!(ask().await, expected, "{name}");
            continue;
        }
        // Once, as was asked for. What was consumed yields no second token.
        if !matches!(name, "stall" | "wrong_thumbprint" | "wider_scope") {
            assert_ne!(ask().await, expected, "{name}");
        }
    }
}
