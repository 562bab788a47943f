//! Leases made by a model: a handle, and nothing that a handle stands for.

use aegis_broker::broker::ports::{AuditAction, AuditOutcome};
use aegis_broker::model::LeaseId;
use aegis_mock::{FaultKind, LeaseState};
use serde_json::json;

use super::client::{Client, door};
use crate::world::{CREATE, DEPLOY, World, secret};

/// T12, MC-4, IN-9: the model gets a handle, a program redeems it, and no secret of the server's
/// is in what the client was sent, in the log at TRACE or in the audit log.
#[tokio::test(start_paused = true)]
async fn a_model_gets_a_handle_and_a_program_the_credential() {
    let world = World::new().await;
    let (daemon, program) = world.logged_in().await;
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    let arguments =
        json!({ "selector": DEPLOY, "ttl_s": 60, "max_redemptions": 2, "reason": "plan" });
    let made = client.done("lease_create", arguments).await;
    let handle = made["lease"]["lease_id"].as_str().unwrap().to_owned();
    assert_eq!(made["lease"]["state"], json!("active"));
    assert_eq!(made["lease"]["max_redemptions"], json!(2));
    let command = format!("aegis-broker lease redeem {handle} --format json");
    assert_eq!(made["how_to_use"]["command"], json!(command));
    let request: serde_json::Value =
        serde_json::from_str(made["how_to_use"]["socket_request"].as_str().unwrap()).unwrap();
    assert_eq!(request["method"], json!("lease.redeem"));
    assert_eq!(request["params"]["lease_id"], json!(handle));

    let lease_id = LeaseId::parse(&handle).unwrap();
    let delivery = program.lease_redeem(lease_id).await.unwrap();
    let material = secret(&delivery);
    assert_eq!(world.whoami("gcp", &material).await, 200);

    let listed = client.done("lease_list", json!({})).await;
    assert_eq!(listed["leases"][0]["lease_id"], json!(handle));
    assert_eq!(listed["leases"][0]["redemptions_used"], json!(1));
    let audit = client.done("audit_list", json!({})).await;
    assert_eq!(audit["decisions"][0]["action"], json!("lease.create"));
    assert_eq!(audit["decisions"][0]["outcome"], json!("ok"));
    assert_eq!(audit["decisions"][0]["rule"], json!("all"));
    assert_eq!(audit["decisions"][0]["lease_id"], json!(handle));
    for tool in ["status", "target_list", "login"] {
        client.done(tool, json!({})).await;
    }
    let ended = client
        .done("lease_revoke", json!({ "lease_id": handle }))
        .await;
    assert_eq!(ended["lease"]["state"], json!("revoked"));
    assert_eq!(world.whoami("gcp", &material).await, 401);
    let again = client
        .done("lease_revoke", json!({ "lease_id": handle }))
        .await;
    assert_eq!(again["lease"]["state"], json!("revoked"), "and it stays so");
    world.assert_nothing_secret_in(&client.transcript);
}

/// MC-6, LC-9, T16: a handle gives another client nothing: it sees, ends and learns nothing of
/// it, and an unknown one is answered alike.
#[tokio::test(start_paused = true)]
async fn a_handle_of_another_client_is_not_there() {
    let world = World::new().await;
    let (daemon, _person) = world.logged_in().await;
    let door = door(&daemon);
    let mut owner = Client::legacy(&door, json!({})).await;
    let mut other = Client::legacy(&door, json!({})).await;
    let made = owner
        .done("lease_create", json!({ "selector": DEPLOY }))
        .await;
    let handle = made["lease"]["lease_id"].clone();
    let foreign = other
        .refused("lease_revoke", json!({ "lease_id": handle }))
        .await;
    let unknown = other
        .refused("lease_revoke", json!({ "lease_id": "lse_unknown" }))
        .await;
    assert_eq!(foreign, unknown);
    assert_eq!(foreign["code"], json!("lease_not_found"));
    let listed = other.done("lease_list", json!({})).await;
    assert_eq!(listed["leases"], json!([]));
    let listed = owner.done("lease_list", json!({})).await;
    assert_eq!(listed["leases"][0]["state"], json!("active"));
}

/// LC-7: a lease ends with the client's process, not with its connection.
#[tokio::test(start_paused = true)]
async fn a_lease_ends_with_the_client_that_made_it() {
    let world = World::new().await;
    let (daemon, _person) = world.logged_in().await;
    let door = door(&daemon);
    let mut client = Client::legacy(&door, json!({})).await;
    client
        .done("lease_create", json!({ "selector": DEPLOY }))
        .await;
    let peer = client.hang_up().await;
    let mut again = Client::connect_as(&door, peer);
    again.initialize(super::client::LEGACY, json!({})).await;
    let listed = again.done("lease_list", json!({})).await;
    assert_eq!(listed["leases"][0]["state"], json!("active"));
    again.peer.exit();
    world.wait_for_a_revocation().await;
    let leases = world.mock.leases();
    assert_eq!(leases[0].state, LeaseState::Revoked);
}

/// T4, MC-2, LC-8: a call that was cancelled is not answered, and the lease that comes all the
/// same is given back.
#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_waits_for_any_more_is_given_back() {
    let world = World::new().await;
    let (daemon, _person) = world.logged_in().await;
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    // The first answer gets lost; the core asks again under the same key.
    world.mock.fault(CREATE, FaultKind::CloseAfterCommit, 1);
    let params = json!({ "name": "lease_create", "arguments": { "selector": DEPLOY } });
    let id = client.request("tools/call", params).await;
    world
        .mock
        .wait_for_request(|request| request.method == CREATE)
        .await;
    let cancelled = json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": { "requestId": id },
    });
    client.say(&cancelled).await;
    client.done("status", json!({})).await;
    world.after(std::time::Duration::from_mins(2)).await;
    client.done("status", json!({})).await;
    assert!(!world.mock.leases().is_empty());
    assert!(
        world
            .mock
            .leases()
            .iter()
            .all(|lease| lease.state == LeaseState::Revoked),
        "{:?}",
        world.mock.leases()
    );
    let listed = client.done("lease_list", json!({})).await;
    for lease in listed["leases"].as_array().unwrap() {
        assert_ne!(lease["state"], json!("active"));
    }
}

/// Answers that are due are still written when the client has nothing more to say (T2).
#[tokio::test(start_paused = true)]
async fn answers_that_are_due_come_after_the_end_of_input() {
    let world = World::new().await;
    let (daemon, _person) = world.logged_in().await;
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    let params = json!({ "name": "lease_create", "arguments": { "selector": DEPLOY } });
    let id = client.request("tools/call", params).await;
    client.finish();
    let answer = client.line().await.unwrap();
    assert_eq!(answer["id"], json!(id));
    assert_eq!(answer["result"]["isError"], json!(false), "{answer}");
    assert_eq!(client.line().await, None);
    client.ended().await;
    let records = world.records();
    let made = records.iter().filter(|record| {
        record.action == AuditAction::LeaseCreate && record.outcome == AuditOutcome::Ok
    });
    assert_eq!(made.count(), 1);
}
