use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::house::{House, Peer, SELECTOR, text};

/// Calls a tool, for its structured content.
fn call(model: &mut Peer, tool: &str, arguments: &Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments });
    model.ask("tools/call", &params)["result"]["structuredContent"].clone()
}

/// PE-1, PE-2: both sockets are private, and both are gone with the daemon.
#[test]
fn both_sockets_are_private_and_go_with_the_daemon() {
    let house = House::new();
    let daemon = house.daemon();
    let sockets = ["broker.sock", "mcp.sock"].map(|name| house.socket().with_file_name(name));
    for socket in &sockets {
        let mode = fs::symlink_metadata(socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", socket.display());
    }
    let mut client = house.connect_model();
    assert!(call(&mut client, "status", &json!({}))["result"].is_object());
    assert!(daemon.stop().success());
    for socket in &sockets {
        assert!(!socket.exists(), "{}", socket.display());
    }
    assert_eq!(client.receive(), None, "and every connection with them");
}

/// MC-4, T12: through the shipped daemon: log in with the code a model was shown, create, redeem
/// with the command the model was told, revoke; nothing secret reaches the model.
/// HY-9: whatever `RUST_LOG` says, what a client sends is not logged.
#[test]
fn a_model_gets_a_handle_and_a_command_the_credential() {
    const MARKER: &str = "canary-in-an-argument-4711";
    let house = House::new();
    let level = "trace,rmcp=trace,rmcp::service=trace";
    let daemon = house.start(&mut house.daemon_command(), level);
    let mut client = house.connect_model();
    let shown = call(&mut client, "login", &json!({}));
    assert_eq!(shown["result"]["status"], json!("pending"), "{shown}");
    let code = shown["result"]["device"]["user_code"].as_str().unwrap();
    house.server.mock.approve(code).unwrap();
    let done = house.run(&["login", "--json"]);
    assert!(done.status.success(), "{}", text(&done));
    let signed_in = call(&mut client, "login", &json!({}));
    assert_eq!(signed_in["result"]["status"], json!("already_signed_in"));

    let made = call(
        &mut client,
        "lease_create",
        &json!({ "selector": SELECTOR, "reason": MARKER }),
    );
    let command = made["result"]["how_to_use"]["command"].as_str().unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[0], "aegis-broker", "{made}");
    let redeemed = house.json(&words[1..]);
    let material = redeemed["fields"]["access_token"].as_str().unwrap();
    assert_eq!(house.server.whoami(material), 200);
    let handle = json!({ "lease_id": made["result"]["lease"]["lease_id"] });
    let ended = call(&mut client, "lease_revoke", &handle);
    assert_eq!(ended["result"]["lease"]["state"], json!("revoked"));
    assert_eq!(house.server.whoami(material), 401);

    let bad = call(&mut client, "status", &json!({ MARKER: 1 }));
    assert_eq!(bad["error"]["code"], json!("invalid_request"));
    let unknown = client.ask(MARKER, &json!({}));
    assert_eq!(unknown["error"]["code"], json!(-32601), "{unknown}");
    let secrets = house.server.mock.secrets();
    assert!(secrets.iter().any(|secret| secret.value == material));
    for secret in secrets {
        assert!(
            !client.transcript.contains(&secret.value),
            "{}",
            secret.kind
        );
    }
    assert!(daemon.stop().success());
    let log = fs::read_to_string(house.path("daemon.log")).unwrap();
    assert!(log.contains("DEBUG aegis_broker"), "nothing was logged");
    assert!(client.transcript.contains(MARKER), "the marker is blind");
    assert!(!log.contains(MARKER), "{log}");
    for level in ["TRACE", "DEBUG", " INFO", " WARN"] {
        let loud = format!("{level} rmcp");
        assert!(!log.contains(&loud), "rmcp is heard at {level}");
    }
}
