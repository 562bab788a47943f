//! The matrix of proofs: a table of bad and good ones, on every RPC that wants a proof, in both
//! carriers, with and without a nonce. And the same table against a server that leaves out a check.

pub(crate) mod draft;
mod rows;
pub(crate) mod scene;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use self::draft::{Carrier, Draft};
use self::rows::{Row, rows};
use self::scene::{NonceRule, Rpc, Scene};
use crate::client::{Answer, GCP, Key};
use crate::evidence::{figure, times};
use aegis_mock::{AuditRecord, Check, Mock};
use serde_json::json;
use tokio::task::JoinSet;

/// What the table holds at least for every RPC in every carrier, so that it cannot shrink unseen.
/// The contract asks for 120.
const AT_LEAST_BAD: usize = 320;
const AT_LEAST_GOOD: usize = 33;

/// What the checks answer that do not say `proof_invalid`.
const ANSWERS: [(Check, &str); 11] = [
    (Check::TokenPresent, "token_missing"),
    (Check::TokenForm, "token_invalid"),
    (Check::TokenAlive, "token_expired"),
    (Check::SessionAlive, "session_ended"),
    (Check::ProofPresent, "proof_missing"),
    (Check::ProofPlace, "proof_ambiguous"),
    (Check::ProofOneKind, "proof_ambiguous"),
    (Check::ProofBinding, "binding_mismatch"),
    (Check::NoncePresent, "use_dpop_nonce"),
    (Check::NonceCurrent, "use_dpop_nonce"),
    (Check::Replay, "proof_replayed"),
];

fn reason(check: Check) -> &'static str {
    let found = ANSWERS.iter().find(|(known, _)| *known == check);
    found.map_or("proof_invalid", |(_, reason)| reason)
}

/// Whether that is the answer of that check.
fn is_by(answer: &Answer, check: Check) -> bool {
    if check == Check::Body {
        let reasons = ["type_mismatch", "duplicate_field", "unknown_field"];
        return answer.status == 400 && reasons.contains(&answer.reason());
    }
    (answer.status, answer.reason()) == (401, reason(check))
}

async fn send(scene: &Scene, rpc: Rpc, carrier: Carrier, row: &Row) -> Answer {
    let mut draft = Draft::new(scene, rpc).await;
    (row.forge)(&mut draft, carrier);
    let (first, request) = draft.requests(carrier).await;
    if let Some(first) = first {
        let answer = scene.client.send(first).await;
        assert_eq!(answer.reason(), "ok", "{}: {}", row.name, answer.body);
    }
    scene.client.send(request).await
}

/// One RPC, one carrier, one rule: all rows.
async fn judge(scene: &Scene, rpc: Rpc, carrier: Carrier, rows: &[Row]) {
    scene.drop_lease();
    let (mut denied, mut good) = (Vec::new(), 0);
    for row in rows {
        if !row.applies(rpc, carrier, scene.rule) {
            continue;
        }
        let answer = send(scene, rpc, carrier, row).await;
        let what = format!(
            "{} at {} ({carrier:?}, nonce {:?}): {} {}",
            row.name,
            rpc.method(),
            scene.rule,
            answer.status,
            answer.body
        );
        let Some(check) = row.check else {
            good += 1;
            assert_eq!(answer.reason(), "ok", "{what}");
            continue;
        };
        assert!(is_by(&answer, check), "{what}");
        let request_id = answer.header("x-request-id").unwrap().to_owned();
        denied.push((request_id, answer.reason().to_owned()));
        if check == Check::Body {
            continue;
        }
        assert_eq!(answer.text("/message"), check.message(), "{what}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("DPoP ") && challenge.ends_with(r#"algs="ES256 EdDSA""#));
        let nonce = answer.headers.get_all("dpop-nonce").iter().count();
        assert_eq!(
            nonce,
            usize::from(answer.reason() == "use_dpop_nonce"),
            "{what}"
        );
    }
    let bad = denied.len();
    assert!(
        bad >= AT_LEAST_BAD,
        "only {bad} bad rows at {rpc:?}, {carrier:?}"
    );
    assert!(
        good >= AT_LEAST_GOOD,
        "only {good} good rows at {rpc:?}, {carrier:?}"
    );
    check_audit(&scene.mock, &denied);
    let (method, rule) = (rpc.method(), scene.rule);
    figure(&format!(
        "{method}, {carrier:?}, nonce {rule:?}: {bad} bad proofs refused, {good} good ones accepted"
    ));
}

/// Each denial is in the audit, with its reason.
fn check_audit(mock: &Mock, denied: &[(String, String)]) {
    let events = mock.audit().into_iter();
    let denials: HashMap<String, AuditRecord> = events
        .filter(|event| event.outcome == "denied")
        .map(|event| (event.request_id.clone(), event))
        .collect();
    for (request_id, reason) in denied {
        assert_eq!(&denials[request_id].reason, reason);
    }
}

/// DP-1 to DP-8, DP-10, OA-20.
#[tokio::test]
async fn bad_proofs_are_refused_and_good_ones_accepted_where_a_nonce_is_required() {
    for rpc in Rpc::ALL {
        // A server each, so that no nonce grows old on a busy machine.
        let scene = Scene::set(NonceRule::Required, None, Key::generate()).await;
        for carrier in Carrier::ALL {
            judge(&scene, rpc, carrier, &rows()).await;
        }
    }
}

/// DP-1 to DP-7.
#[tokio::test]
async fn bad_proofs_are_refused_and_good_ones_accepted_where_no_nonce_is_required() {
    for rpc in Rpc::ALL {
        // A server each, so that no nonce grows old on a busy machine.
        let scene = Scene::set(NonceRule::Optional, None, Key::generate()).await;
        for carrier in Carrier::ALL {
            judge(&scene, rpc, carrier, &rows()).await;
        }
    }
}

/// The other kind of key that is offered.
#[tokio::test]
async fn good_proofs_by_ed25519_keys_are_accepted() {
    let scene = Scene::set(NonceRule::Required, None, Key::generate_ed25519()).await;
    for rpc in Rpc::ALL {
        for carrier in Carrier::ALL {
            for row in rows().iter().filter(|row| row.check.is_none()) {
                if row.applies(rpc, carrier, scene.rule) {
                    let answer = send(&scene, rpc, carrier, row).await;
                    assert_eq!(answer.reason(), "ok", "{}: {}", row.name, answer.body);
                }
            }
        }
    }
}

/// DP-7.
#[tokio::test]
async fn of_a_thousand_equal_proofs_at_once_one_is_accepted() {
    let scene = Scene::set(NonceRule::Required, None, Key::generate()).await;
    let few = usize::try_from(times(50, 5000)).unwrap();
    for rpc in Rpc::ALL.into_iter().filter(|rpc| !rpc.ends_its_token()) {
        let count = if rpc == Rpc::Create { 1000 } else { few };
        let draft = Draft::new(&scene, rpc).await;
        let (_, request) = draft.requests(Carrier::Body).await;
        // One connection, all at once.
        let http = reqwest::Client::builder().no_proxy();
        let http = http.http2_prior_knowledge().build().unwrap();
        let request = request.build().unwrap();
        let mut tries = JoinSet::new();
        for _ in 0..count {
            let sent = http.execute(request.try_clone().unwrap());
            tries.spawn(async { Answer::read(sent.await.unwrap()).await.unwrap() });
        }
        let answers = tries.join_all().await;
        let said = |reason| answers.iter().filter(|a| a.reason() == reason).count();
        assert_eq!(
            (said("ok"), said("proof_replayed")),
            (1, count - 1),
            "{rpc:?}"
        );
        figure(&format!("{count} equal proofs at {rpc:?}: 1 accepted"));
    }
}

/// DP-8: the one before is good until it is 300 s old.
#[tokio::test]
async fn a_nonce_outlives_the_next_one() {
    let scene = Scene::set(NonceRule::Required, None, Key::generate()).await;
    let client = &scene.client;
    scene.mock.advance(Duration::from_secs(61));
    let answer = client.create(GCP, &json!({})).await;
    assert_eq!(answer.reason(), "ok");
    assert_ne!(answer.header("dpop-nonce"), Some(scene.nonce.as_str()));
    scene.mock.advance(Duration::from_secs(230));
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
    scene.mock.advance(Duration::from_secs(10));
    let answer = client.create(GCP, &json!({})).await;
    assert_eq!(answer.reason(), "use_dpop_nonce");
}

/// A table that misses nothing: without a check, some row that names it goes red, on every RPC
/// that the check is for.
#[tokio::test]
async fn each_check_of_proofs_would_be_missed() {
    let rows = rows();
    let mut shown = 0;
    for check in Check::PROOF {
        let scene = Scene::set(NonceRule::Required, Some(*check), Key::generate()).await;
        for rpc in Rpc::ALL {
            scene.drop_lease();
            let (mut tried, mut red) = (0, 0);
            for carrier in Carrier::ALL {
                for row in &rows {
                    if row.check == Some(*check) && row.applies(rpc, carrier, scene.rule) {
                        let answer = send(&scene, rpc, carrier, row).await;
                        tried += 1;
                        red += u32::from(!is_by(&answer, *check));
                    }
                }
                // It is the check that makes the difference.
                let good = rows.iter().find(|row| row.check.is_none()).unwrap();
                let answer = send(&scene, rpc, carrier, good).await;
                assert_eq!(answer.reason(), "ok", "{check:?} {rpc:?}: {}", answer.body);
            }
            shown += u32::from(red > 0);
            assert!(
                red > 0 || tried == 0,
                "no row of {tried} shows at {rpc:?} that {check:?} is gone"
            );
        }
    }
    let checks = Check::PROOF.len();
    figure(&format!(
        "{checks} checks of proofs left out one by one: {shown} times a row went red, at each RPC in question"
    ));
}

#[test]
fn each_row_has_a_name_and_each_check_a_row() {
    let rows = rows();
    let mut names = HashSet::new();
    for row in &rows {
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(row.name.chars().all(kebab), "{}", row.name);
        assert!(names.insert(row.name), "{} is there twice", row.name);
        assert!(!row.source.is_empty(), "{}", row.name);
    }
    let judged: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| row.check)
        .map(Check::name)
        .collect();
    let all: BTreeSet<&str> = Check::PROOF.iter().copied().map(Check::name).collect();
    assert_eq!(judged, all);
}

/// The RPCs above are those whose request has a member for a proof.
#[test]
fn every_rpc_that_wants_a_proof_is_tried() {
    let files = [
        include_str!("../../../proto/aegis/v1/identity.proto"),
        include_str!("../../../proto/aegis/v1/broker.proto"),
    ];
    let mut found = BTreeSet::new();
    for file in files {
        for message in file.split("\nmessage ").skip(1) {
            if message.contains("RequestProof request_proof") {
                let name = message.split(' ').next().unwrap();
                found.insert(name.trim_end_matches("Request"));
            }
        }
    }
    let tried: BTreeSet<&str> = Rpc::ALL.into_iter().map(Rpc::method).collect();
    assert_eq!(found, tried);
}
