//! Three revisions on one door (MC-12), and what is no revision at all.

use serde_json::{Value, json};

use super::client::{Client, LEGACY, MODERN, door};
use crate::world::World;

const REVISIONS: [&str; 3] = ["2025-06-18", LEGACY, MODERN];

/// A connection may be probed in the newer era and then begin in the older one. Tools, and
/// nothing else, under our own name.
#[tokio::test(start_paused = true)]
async fn both_eras_are_served_on_one_connection() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let discovered = client
        .ask("server/discover", Client::modern(json!({}), &json!({})))
        .await;
    let discovered = &discovered["result"];
    assert_eq!(discovered["supportedVersions"], json!(REVISIONS));
    assert_eq!(discovered["resultType"], json!("complete"));
    assert_eq!(discovered["capabilities"], json!({ "tools": {} }));
    let begun = client.initialize(LEGACY, json!({})).await;
    let begun = &begun["result"];
    assert_eq!(begun["protocolVersion"], json!(LEGACY));
    assert_eq!(begun["serverInfo"]["name"], json!("aegis-broker"));
    assert_eq!(
        begun["serverInfo"]["version"],
        json!(env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(begun["capabilities"], json!({ "tools": {} }));
    assert!(begun["instructions"].is_string());
    let status = client.done("status", json!({})).await;
    assert_eq!(status["login"]["state"], json!("logged_out"));
}

/// A handshake is answered with what was asked for where it is served, else with the newest
/// revision that has one; never with the newer era.
#[tokio::test(start_paused = true)]
async fn a_handshake_is_answered_with_a_revision_that_has_one() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let rows = [
        ("2025-06-18", "2025-06-18"),
        (LEGACY, LEGACY),
        ("2024-11-05", LEGACY),
        (MODERN, LEGACY),
        ("2099-01-01", LEGACY),
        ("", LEGACY),
    ];
    for (asked, answered) in rows {
        let mut client = Client::connect(&door);
        let begun = client.initialize(asked, json!({})).await;
        assert_eq!(
            begun["result"]["protocolVersion"],
            json!(answered),
            "{asked}"
        );
        client.done("status", json!({})).await;
    }
}

/// MC-12: the newer era without its words is told which are missing; an unknown revision, which
/// there are; and both may try again.
#[tokio::test(start_paused = true)]
async fn a_modern_request_without_its_words_is_told_so() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let answer = client.ask("tools/list", json!({})).await;
    assert_eq!(answer["error"]["code"], json!(-32602), "{answer}");
    let mut params = Client::modern(json!({}), &json!({}));
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    let answer = client.ask("tools/list", params).await;
    assert_eq!(answer["error"]["code"], json!(-32022), "{answer}");
    assert_eq!(answer["error"]["data"]["supported"], json!(REVISIONS));
    let mut params = Client::modern(json!({}), &json!({}));
    params["_meta"]
        .as_object_mut()
        .unwrap()
        .remove("io.modelcontextprotocol/clientCapabilities");
    let answer = client.ask("tools/list", params).await;
    assert_eq!(answer["error"]["code"], json!(-32602), "{answer}");
    let answer = client
        .ask("tools/list", Client::modern(json!({}), &json!({})))
        .await;
    assert_eq!(answer["result"]["resultType"], json!("complete"));
    // The connection is the newer era's now; each request still carries its words.
    let answer = client.ask("tools/list", json!({})).await;
    assert_eq!(answer["error"]["code"], json!(-32602), "{answer}");
}

/// The newer era has no handshake: what does not look like the older one's is a method that is not
/// there.
#[tokio::test(start_paused = true)]
async fn a_handshake_of_the_newer_era_is_not_there() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let modern = Client::modern(json!({}), &json!({}));
    let answer = client.ask("initialize", modern).await;
    assert_eq!(answer["error"]["code"], json!(-32601), "{answer}");
}

/// A client that gave up its probe says so first; that is no reason to end the conversation.
#[tokio::test(start_paused = true)]
async fn a_notification_may_come_first() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let cancelled = json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": { "requestId": 1, "reason": "timeout" },
    });
    client.say(&cancelled).await;
    client
        .say(&json!({ "jsonrpc": "2.0", "id": 7, "result": {} }))
        .await;
    let begun = client.initialize(LEGACY, json!({})).await;
    assert_eq!(begun["result"]["protocolVersion"], json!(LEGACY));
}

/// T3: in the newer era the server asks nothing; T6: the list is sorted and the same for
/// everybody in both eras, before a login and after it.
#[tokio::test(start_paused = true)]
async fn the_list_of_tools_is_the_same_for_everybody_and_always() {
    let world = World::new().await;
    let daemon = world.daemon();
    let door = door(&daemon);
    let mut old = Client::legacy(&door, json!({})).await;
    let mut new = Client::connect(&door);
    let modern = Client::modern(json!({}), &json!({}));
    let before = old.ask("tools/list", json!({})).await["result"]["tools"].to_string();
    let other = new.ask("tools/list", modern.clone()).await;
    assert_eq!(other["result"]["tools"].to_string(), before);
    world.log_in(&daemon.connect()).await;
    old.done("status", json!({})).await;
    old.done("logout", json!({})).await;
    for list in [
        old.ask("tools/list", json!({})).await,
        new.ask("tools/list", modern).await,
    ] {
        assert_eq!(list["result"]["tools"].to_string(), before);
    }
    let tools: Vec<Value> = serde_json::from_str(&before).unwrap();
    let names: Vec<&str> = tools
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    let expected = [
        "audit_list",
        "http_request",
        "lease_create",
        "lease_list",
        "lease_revoke",
        "login",
        "logout",
        "policy_explain",
        "status",
        "target_list",
    ];
    assert_eq!(names, expected);
}

/// Everything else that MCP knows is not there.
#[tokio::test(start_paused = true)]
async fn what_is_not_tools_is_not_there() {
    let world = World::new().await;
    let mut client = Client::legacy(&door(&world.daemon()), json!({})).await;
    for method in [
        "resources/templates/list",
        "completion/complete",
        "logging/setLevel",
        "tasks/get",
        "nobody/knows",
    ] {
        let params = json!({ "level": "debug", "taskId": "t", "ref": { "type": "ref/prompt", "name": "x" }, "argument": { "name": "a", "value": "b" } });
        let answer = client.ask(method, params).await;
        assert_eq!(answer["error"]["code"], json!(-32601), "{method}: {answer}");
    }
    let pong = client.ask("ping", json!({})).await;
    assert_eq!(pong["result"], json!({}));
}
