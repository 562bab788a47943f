//! `ListBrokerAuditEvents`: who sees what, page by page, and that the chain can be checked.

use std::time::Duration;

use aegis_mock::Mock;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::{Answer, Client, GCP, sha256, spawn_with};
use crate::workload::{lease_scopes, token};

const LIST: &str = "ListBrokerAuditEvents";
const MORE: &str = r#"
[[user]]
uid = "u-two"
tenants = ["business-default"]
[[grant]]
principal = "user:u-two"
actions = ["create", "redeem"]
selector = "provider:gcp:app:billing-prod:account:deploy-bot"
"#;

async fn list(client: &Client, body: &Value) -> Answer {
    client.call(LIST, body).await
}

fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.reason(), "ok", "{}", answer.body);
    answer.body["events"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn seqs(answer: &Answer) -> Vec<u64> {
    let number = |event: &Value| event["seq"].as_str().unwrap().parse().unwrap();
    events(answer).iter().map(number).collect()
}

/// An administrator and a person without a role, each with a few events.
async fn scene() -> (Mock, Client, Client) {
    let mock = spawn_with(MORE).await;
    let admin = Client::logged_in(&mock, &[GCP]).await;
    let person = Client::of_person(&mock, "u-two", &lease_scopes()).await;
    for client in [&admin, &person] {
        let id = client.lease(GCP, &json!({})).await;
        assert_eq!(client.redeem(&id).await.reason(), "ok");
        assert_eq!(client.revoke(&id).await.reason(), "ok");
    }
    (mock, admin, person)
}

/// `aegis.md` 11, computed from the answer alone.
fn hash(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let at = OffsetDateTime::parse(&text("occurredAt"), &Rfc3339).unwrap();
    let lines = [
        "aegis-audit-v1".to_owned(),
        text("eventId"),
        text("seq"),
        (at.unix_timestamp_nanos() / 1_000_000).to_string(),
        text("tenantId"),
        text("action"),
        text("outcome"),
        text("principal"),
        text("sessionId"),
        text("leaseId"),
        text("target"),
        text("reason"),
        text("requestId"),
        text("proofType"),
        text("keyThumbprint"),
        text("proofJti"),
        text("prevHash"),
    ];
    sha256(lines.join("\n").as_bytes())
}

#[tokio::test]
async fn an_administrator_sees_the_whole_chain_and_can_check_it() {
    let (mock, admin, _) = scene().await;
    let answer = list(&admin, &json!({})).await;
    let all = events(&answer);
    assert_eq!(all.len(), mock.audit().len());
    let mut before = "A".repeat(43);
    for (event, seq) in all.iter().zip(1..) {
        assert_eq!(event["seq"], seq.to_string());
        assert_eq!(event["prevHash"], before);
        before = hash(event);
        assert_eq!(event["hash"], before);
    }
    assert_eq!(answer.text("/headHash"), before);
    assert_eq!(answer.text("/headSeq"), all.len().to_string());
    assert!(answer.body.get("nextPageToken").is_none());
    // Listings are not themselves recorded.
    assert_eq!(events(&list(&admin, &json!({})).await).len(), all.len());
}

#[tokio::test]
async fn without_a_role_there_is_only_what_is_ones_own() {
    let (mock, _, person) = scene().await;
    let answer = list(&person, &json!({})).await;
    let own = events(&answer);
    assert!(own.iter().all(|event| event["principal"] == "user:u-two"));
    let told: Vec<&str> = own
        .iter()
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        told,
        [
            "login.approve",
            "login.exchange",
            "lease.create",
            "lease.redeem",
            "lease.revoke"
        ]
    );
    for event in &own {
        assert_eq!(event["hash"], hash(event));
    }
    // The head is the tenant's.
    assert_eq!(answer.text("/headSeq"), mock.audit().len().to_string());
    assert_eq!(answer.text("/headHash"), mock.audit().last().unwrap().hash);
    // Another role is no role for this.
    let mut workload = Client::new(&mock);
    let exchanged = workload
        .exchange_workload(
            &token(&mock, &json!({})),
            &json!({"requestedScopes": lease_scopes()}),
        )
        .await;
    assert_eq!(exchanged.text("/tokenInfo/role"), "auditor");
    workload.adopt(&exchanged);
    assert_eq!(events(&list(&workload, &json!({})).await).len(), 1);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let (mock, admin, person) = scene().await;
    let whole = seqs(&list(&admin, &json!({})).await);
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let body = json!({"pageSize": 3, "pageToken": page_token});
        let answer = list(&admin, &body).await;
        let page = seqs(&answer);
        assert!((1..=3).contains(&page.len()));
        found.extend(page);
        match answer.body["nextPageToken"].as_str() {
            Some(next) => next.clone_into(&mut page_token),
            None => break,
        }
    }
    assert_eq!(found, whole);

    let answer = list(&admin, &json!({"pageSize": 3})).await;
    let next = answer.text("/nextPageToken").to_owned();
    let mut forged = next.clone();
    forged.replace_range(..1, "9");
    let refused = async |client: &Client, body: Value| {
        let answer = list(client, &body).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "page_token_invalid"),
            "{body}"
        );
        assert_eq!(answer.text("/details/0/debug/field"), "page_token");
    };
    refused(&admin, json!({"pageToken": "nonsense"})).await;
    refused(&admin, json!({ "pageToken": forged })).await;
    // It is of this listing and of nobody else's.
    refused(&admin, json!({"pageToken": next, "sinceSeq": "1"})).await;
    refused(
        &admin,
        json!({"pageToken": next, "actions": ["lease.create"]}),
    )
    .await;
    refused(&person, json!({ "pageToken": next })).await;
    // Its page may be of another size.
    let answer = list(&admin, &json!({"pageToken": next, "pageSize": 200})).await;
    // What was refused since is there, too.
    assert!(seqs(&answer).starts_with(&whole[3..]));
    mock.advance(Duration::from_secs(590));
    let body = json!({ "pageToken": next });
    assert_eq!(list(&admin, &body).await.reason(), "use_dpop_nonce");
    // Ten minutes, and the session's next token: the listing is the principal's.
    let admin = Client::logged_in(&mock, &[GCP]).await;
    assert_eq!(list(&admin, &body).await.reason(), "ok");
    mock.advance(Duration::from_secs(10));
    refused(&admin, body).await;
}

#[tokio::test]
async fn a_listing_is_narrowed_and_its_bounds_hold() {
    let (mock, admin, _) = scene().await;
    let lease = &mock.leases()[0].lease_id;
    let of_lease = list(&admin, &json!({ "leaseId": lease })).await;
    assert_eq!(events(&of_lease).len(), 3);
    let created = list(
        &admin,
        &json!({"actions": ["lease.create", "lease.redeem"]}),
    )
    .await;
    assert_eq!(events(&created).len(), 4);
    let last = list(
        &admin,
        &json!({"sinceSeq": (mock.audit().len() - 1).to_string()}),
    )
    .await;
    assert_eq!(events(&last).len(), 1);
    let none = list(&admin, &json!({"sinceSeq": "9223372036854775807"})).await;
    assert!(events(&none).is_empty());
    let rows = [
        (json!({"pageSize": 201}), "page_size"),
        (json!({"pageSize": -1}), "page_size"),
        (json!({"sinceSeq": "-1"}), "since_seq"),
        (json!({"actions": ["lease.*"]}), "actions"),
        (json!({"leaseId": "lse_x"}), "lease_id"),
    ];
    for (body, field) in rows {
        let answer = list(&admin, &body).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "type_mismatch"),
            "{body}"
        );
        assert_eq!(answer.text("/details/0/debug/field"), field);
    }
    for fits in [1, 200] {
        assert_eq!(
            list(&admin, &json!({ "pageSize": fits })).await.reason(),
            "ok"
        );
    }
    let refused = list(&admin, &json!({"tenantId": "other"})).await;
    assert_eq!(refused.reason(), "tenant_mismatch");
    let recorded = mock.audit().pop().unwrap();
    assert_eq!(
        (&*recorded.action, &*recorded.outcome),
        ("audit.list", "denied")
    );
}
