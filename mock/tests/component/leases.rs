//! Leases from making to their end.

use std::time::Duration;

use aegis_mock::LeaseState;
use serde_json::json;

use crate::client::{Client, GCP, GENERIC, OWNER, policy, random, scope, spawn, spawn_with};
use crate::device::all;

const STAGING: [&str; 3] = ["gcp", "billing-staging", "deploy-bot"];

#[tokio::test]
async fn material_works_until_its_lease_is_revoked() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let created = client
        .create(
            GCP,
            &json!({"requestedTtlSeconds": 300, "purpose": "deploy"}),
        )
        .await;
    assert_eq!(created.text("/lease/state"), "active");
    assert_eq!(created.text("/lease/purpose"), "deploy");
    assert_eq!(created.body["lease"]["maxRedemptions"], 1);
    let id = created.text("/lease/leaseId");
    assert!(id.starts_with("lse_") && id.len() == 30);

    let redeemed = client.redeem(id).await;
    assert_eq!(redeemed.text("/lease/state"), "exhausted");
    assert_eq!(redeemed.text("/credential/kind"), "gcp_access_token");
    let secret = redeemed.text("/credential/gcpAccessToken/accessToken");
    assert!(secret.starts_with("mock-gcp-"));
    assert_eq!(client.whoami("gcp", secret).await, 200);
    assert_eq!(client.whoami("aws", secret).await, 401);
    assert_eq!(client.whoami("gcp", "mock-gcp-guess").await, 401);
    assert!(
        mock.secrets()
            .iter()
            .any(|s| s.kind == "access_token" && s.value == secret)
    );

    let again = client.redeem(id).await;
    assert_eq!((again.status, again.reason()), (400, "lease_exhausted"));

    let revoked = client.revoke(id).await;
    assert_eq!(revoked.text("/lease/state"), "revoked");
    assert_eq!(revoked.body.get("alreadyTerminal"), None);
    assert_eq!(client.whoami("gcp", secret).await, 401);
    assert_eq!(client.redeem(id).await.reason(), "lease_revoked");
    let twice = client.revoke(id).await;
    assert_eq!(twice.body["alreadyTerminal"], true);
    assert_eq!(mock.leases()[0].state, LeaseState::Revoked);
    assert_eq!(mock.leases()[0].jkt, client.key.thumbprint());

    let shown = mock.requests().into_iter();
    let shown: Vec<_> = shown
        .filter(|request| request.method == "whoami")
        .map(|request| (request.result, request.principal))
        .collect();
    let (opened, refused) = ("ok".to_owned(), "unauthenticated".to_owned());
    let nobody = (refused, None);
    let demo = (opened, Some("user:u-demo".to_owned()));
    assert_eq!(shown, [demo, nobody.clone(), nobody.clone(), nobody]);
}

#[tokio::test]
async fn generic_material_works_by_any_of_its_fields_until_it_expires() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GENERIC]).await;
    let id = client
        .lease(
            GENERIC,
            &json!({"requestedTtlSeconds": 30, "maxRedemptions": 2}),
        )
        .await;
    let redeemed = client.redeem(&id).await;
    assert_eq!(redeemed.text("/lease/state"), "active");
    assert_eq!(redeemed.text("/credential/kind"), "generic_secret");
    let fields = ["username", "password"].map(|name| {
        redeemed
            .text(&format!("/credential/genericSecret/fields/{name}"))
            .to_owned()
    });
    for secret in &fields {
        assert_eq!(client.whoami("generic", secret).await, 200);
    }
    mock.advance(Duration::from_secs(30));
    for secret in &fields {
        assert_eq!(client.whoami("generic", secret).await, 401);
    }
    assert_eq!(client.redeem(&id).await.reason(), "lease_expired");
    let revoked = client.revoke(&id).await;
    assert_eq!(revoked.text("/lease/state"), "expired");
    assert_eq!(revoked.body["alreadyTerminal"], true);
    assert!(
        mock.audit()
            .iter()
            .any(|event| event.action == "lease.expire" && event.lease_id == id)
    );
}

/// LC-6.
#[tokio::test]
async fn parallel_redemptions_yield_no_more_than_the_maximum() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({"maxRedemptions": 3})).await;
    let answers = all(24, || client.redeem(&id)).await;
    let count = |reason| answers.iter().filter(|a| a.reason() == reason).count();
    assert_eq!((count("ok"), count("lease_exhausted")), (3, 21));
    assert_eq!(mock.leases()[0].redemptions_used, 3);
}

/// LC-5.
#[tokio::test]
async fn no_redemption_succeeds_once_a_revoke_has_answered() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({"maxRedemptions": 10})).await;
    let revoked = async {
        let answer = client.revoke(&id).await;
        assert_eq!(answer.reason(), "ok");
        client.redeem(&id).await
    };
    let (after, _) = tokio::join!(revoked, all(9, || client.redeem(&id)));
    assert_eq!(after.reason(), "lease_revoked");
}

#[tokio::test]
async fn create_refuses_what_is_out_of_bounds() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP, OWNER]).await;
    let target = |provider, app, account| json!({"target": {"provider": provider, "app": app, "account": account}});
    let rows = [
        ("defaults", json!({}), "ok"),
        ("shortest", json!({"requestedTtlSeconds": 30}), "ok"),
        ("longest", json!({"requestedTtlSeconds": "3600"}), "ok"),
        ("most", json!({"maxRedemptions": 10}), "ok"),
        (
            "too short",
            json!({"requestedTtlSeconds": 29}),
            "ttl_out_of_range",
        ),
        (
            "too long",
            json!({"requestedTtlSeconds": 3601}),
            "ttl_out_of_range",
        ),
        (
            "too many",
            json!({"maxRedemptions": 11}),
            "redemptions_out_of_range",
        ),
        (
            "negative",
            json!({"maxRedemptions": -1}),
            "redemptions_out_of_range",
        ),
        ("no target", json!({"target": null}), "field_missing"),
        ("empty target", json!({"target": {}}), "target_malformed"),
        (
            "wildcard",
            target("gcp", "billing-prod", "*"),
            "target_malformed",
        ),
        (
            "upper case",
            target("GCP", "billing-prod", "deploy-bot"),
            "target_malformed",
        ),
        (
            "path",
            target("gcp", "../x", "deploy-bot"),
            "target_malformed",
        ),
        (
            "long purpose",
            json!({"purpose": "a".repeat(201)}),
            "type_mismatch",
        ),
        (
            "purpose with control",
            json!({"purpose": "a\nb"}),
            "type_mismatch",
        ),
        (
            "short idempotency key",
            json!({"idempotencyKey": "short"}),
            "type_mismatch",
        ),
        (
            "no scope",
            target("gcp", "billing-staging", "deploy-bot"),
            "scope_not_granted",
        ),
        (
            "unknown target",
            target("gcp", "nowhere", "nobody"),
            "scope_not_granted",
        ),
        (
            "denied",
            target("gcp", "billing-prod", "owner"),
            "policy_denied",
        ),
        ("no tenant", json!({"tenantId": ""}), "field_missing"),
        (
            "other tenant",
            json!({"tenantId": "other"}),
            "tenant_mismatch",
        ),
        (
            "tenant before scope",
            json!({"tenantId": "other", "target": {"provider": "a", "app": "b", "account": "c"}}),
            "tenant_mismatch",
        ),
    ];
    for (name, extra, reason) in rows {
        let answer = client.create(GCP, &extra).await;
        assert_eq!(answer.reason(), reason, "{name}: {}", answer.body);
    }
}

#[tokio::test]
async fn every_action_needs_its_own_scope() {
    let mock = spawn().await;
    let client = Client::with_scopes(&mock, &[scope("create", GCP)]).await;
    let id = client.lease(GCP, &json!({})).await;
    assert_eq!(client.redeem(&id).await.reason(), "scope_not_granted");
    assert_eq!(client.revoke(&id).await.reason(), "scope_not_granted");
    // No union: create here and redeem there is not redeem here.
    let scopes = [scope("create", GCP), scope("redeem", STAGING)];
    let client = Client::with_scopes(&mock, &scopes).await;
    let id = client.lease(GCP, &json!({})).await;
    assert_eq!(client.redeem(&id).await.reason(), "scope_not_granted");
    assert_eq!(
        client.create(STAGING, &json!({})).await.reason(),
        "scope_not_granted"
    );
}

/// LC-9.
#[tokio::test]
async fn a_lease_of_another_key_is_as_unknown_as_none() {
    let mock = spawn().await;
    let owner = Client::logged_in(&mock, &[GCP]).await;
    let id = owner.lease(GCP, &json!({})).await;
    let other = Client::logged_in(&mock, &[GCP]).await;
    for lease_id in [id.as_str(), "lse_00000000000000000000000000", "nonsense"] {
        let answer = other.redeem(lease_id).await;
        assert_eq!((answer.status, answer.reason()), (404, "lease_not_found"));
        assert_eq!(answer.text("/message"), "no such lease");
    }
    // The same person may still end it.
    assert_eq!(other.revoke(&id).await.reason(), "ok");
    assert_eq!(
        other
            .revoke("lse_00000000000000000000000000")
            .await
            .reason(),
        "lease_not_found"
    );
}

/// A stranger learns nothing; whoever holds the revoke grant may break the glass.
#[tokio::test]
async fn another_person_may_revoke_with_a_grant_and_otherwise_sees_nothing() {
    let other = "[[user]]\nuid = \"u-other\"\ntenants = [\"business-default\"]\n";
    let mock = spawn_with("").await;
    mock.set_policy(&format!("{}\n{other}", policy("")))
        .unwrap();
    let owner = Client::logged_in(&mock, &[GCP]).await;
    let id = owner.lease(GCP, &json!({})).await;
    let stranger = Client::of_person(&mock, "u-other", &[scope("revoke", STAGING)]).await;
    for lease_id in [id.as_str(), "lse_00000000000000000000000000"] {
        let answer = stranger.revoke(lease_id).await;
        assert_eq!((answer.status, answer.reason()), (404, "lease_not_found"));
    }
    let scopes = [scope("redeem", GCP), scope("revoke", GCP)];
    let holder = Client::of_person(&mock, "u-other", &scopes).await;
    assert_eq!(holder.redeem(&id).await.reason(), "lease_not_found");
    assert_eq!(holder.revoke(&id).await.reason(), "ok");
    assert_eq!(owner.redeem(&id).await.reason(), "lease_revoked");
    let last = mock
        .audit()
        .into_iter()
        .rfind(|event| event.action == "lease.revoke");
    assert_eq!(last.unwrap().principal, "user:u-other");
}

#[tokio::test]
async fn an_idempotency_key_yields_the_same_lease() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let key = random();
    let first = client.lease(GCP, &json!({"idempotencyKey": key})).await;
    let second = client.lease(GCP, &json!({"idempotencyKey": key})).await;
    assert_eq!(first, second);
    let other = client
        .create(GCP, &json!({"idempotencyKey": key, "maxRedemptions": 2}))
        .await;
    assert_eq!(other.reason(), "idempotency_mismatch");
    assert_eq!(mock.leases().len(), 1);
}

#[tokio::test]
async fn a_policy_taken_back_stops_redemption() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({})).await;
    mock.set_policy("[[tenant]]\nid = \"business-default\"\n")
        .unwrap();
    assert_eq!(client.redeem(&id).await.reason(), "policy_denied");
    assert_eq!(
        client.create(GCP, &json!({})).await.reason(),
        "policy_denied"
    );
    mock.set_policy(&policy("")).unwrap();
    assert_eq!(client.redeem(&id).await.reason(), "ok");
    assert!(
        mock.audit()
            .iter()
            .any(|event| event.action == "policy.changed")
    );
}

#[tokio::test]
async fn unknown_revoke_reasons_are_refused() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({})).await;
    for reason in ["", "because", "Released"] {
        let body = json!({"leaseId": id, "reason": reason});
        let answer = client.call("RevokeCredentialLease", &body).await;
        assert_eq!(answer.reason(), "revoke_reason_unknown");
    }
}

#[tokio::test]
async fn ended_leases_stay_listed_for_a_day() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({})).await;
    client.revoke(&id).await;
    assert_eq!(mock.leases()[0].state, LeaseState::Revoked);
    mock.advance(Duration::from_mins(24 * 60 + 5));
    assert!(mock.leases().is_empty());
}

/// Each event's hash covers the one before.
#[tokio::test]
async fn everything_that_happens_to_a_lease_is_in_the_chain() {
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let id = client.lease(GCP, &json!({})).await;
    let redeemed = client.redeem(&id).await;
    client.redeem(&id).await;
    client.revoke(&id).await;
    let events = mock.audit();
    for (before, after) in events.iter().zip(&events[1..]) {
        assert_eq!(after.prev_hash, before.hash);
        assert_eq!(after.seq, before.seq + 1);
    }
    let about: Vec<_> = events.iter().filter(|event| event.lease_id == id).collect();
    let words: Vec<_> = about
        .iter()
        .map(|e| (e.action.as_str(), e.outcome.as_str(), e.reason.as_str()))
        .collect();
    assert_eq!(
        words,
        [
            ("lease.create", "ok", ""),
            ("lease.redeem", "ok", ""),
            ("lease.redeem", "denied", "lease_exhausted"),
            ("lease.revoke", "ok", "released"),
        ]
    );
    assert_eq!(
        about[1].request_id,
        redeemed.header("x-request-id").unwrap()
    );
    assert_eq!(about[1].key_thumbprint, client.key.thumbprint());
    let journal = mock.requests();
    let tried = journal
        .iter()
        .find(|r| r.request_id == about[1].request_id)
        .unwrap();
    assert_eq!(tried.jti.as_deref(), Some(about[1].proof_jti.as_str()));
}

/// Every kind of the contract: named as its member, each secret in it noted, good at its provider
/// until the lease is revoked, and at no other.
#[tokio::test]
async fn material_of_every_kind_works_until_it_is_revoked() {
    let rows: [([&str; 3], &str, &str, &[&str]); 7] = [
        (GCP, "gcp_access_token", "gcpAccessToken", &["accessToken"]),
        (
            ["aws", "billing-prod", "deployer"],
            "aws_session_credentials",
            "awsSessionCredentials",
            &["secretAccessKey", "sessionToken"],
        ),
        (
            ["github", "website", "release-bot"],
            "github_token",
            "githubToken",
            &["token"],
        ),
        (
            ["kubernetes", "staging", "deployer"],
            "kubernetes_token",
            "kubernetesToken",
            &["token"],
        ),
        (
            ["postgres", "orders", "reporter"],
            "database_login",
            "databaseLogin",
            &["password"],
        ),
        (
            ["gcp", "billing-prod", "federated"],
            "gcp_subject_token",
            "gcpSubjectToken",
            &["subjectToken"],
        ),
        (
            GENERIC,
            "generic_secret",
            "genericSecret",
            &["fields/username", "fields/password"],
        ),
    ];
    let mock = spawn().await;
    let client = Client::logged_in(&mock, &rows.map(|(target, ..)| target)).await;
    for (target, kind, member, secrets) in rows {
        let before = mock.secrets().len();
        let id = client.lease(target, &json!({})).await;
        let redeemed = client.redeem(&id).await;
        assert_eq!(redeemed.text("/credential/kind"), kind);
        let ends = redeemed.text("/lease/expiresAt");
        assert_eq!(redeemed.text("/credential/expiresAt"), ends, "{kind}");
        let secret = |name: &str| {
            redeemed
                .text(&format!("/credential/{member}/{name}"))
                .to_owned()
        };
        let secrets: Vec<_> = secrets.iter().map(|name| secret(name)).collect();
        let noted: Vec<_> = mock.secrets().drain(before..).map(|s| s.value).collect();
        assert_eq!(noted.len(), secrets.len(), "{kind}");
        for secret in &secrets {
            assert!(noted.contains(secret) && secret.len() > 40, "{kind}");
            assert_eq!(client.whoami(target[0], secret).await, 200, "{kind}");
            assert_eq!(client.whoami("elsewhere", secret).await, 401, "{kind}");
        }
        client.revoke(&id).await;
        for secret in &secrets {
            assert_eq!(client.whoami(target[0], secret).await, 401, "{kind}");
        }
    }
}

#[tokio::test]
async fn what_is_no_text_in_a_message_is_none() {
    let mock = spawn().await;
    let github = ["github", "website", "release-bot"];
    let postgres = ["postgres", "orders", "reporter"];
    let client = Client::logged_in(&mock, &[github, postgres]).await;
    let redeem = async |target| client.redeem(&client.lease(target, &json!({})).await).await;
    let token = &redeem(github).await.body["credential"]["githubToken"];
    assert_eq!(token["repositories"], json!(["website", "website-assets"]));
    let permissions = json!({"contents": "write", "metadata": "read"});
    assert_eq!(token["permissions"], permissions);
    let login = &redeem(postgres).await.body["credential"]["databaseLogin"];
    assert_eq!(login["port"], 5432);
}
