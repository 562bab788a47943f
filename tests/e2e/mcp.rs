use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::house::{House, PATIENCE, SELECTOR, text};

/// A client of `mcp.sock` that knows lines of JSON.
struct Client {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
    next: u64,
    transcript: String,
}

impl Client {
    fn connect(house: &House) -> Self {
        let stream = UnixStream::connect(house.socket().with_file_name("mcp.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self {
            reader: BufReader::new(stream.try_clone().unwrap()),
            stream,
            next: 1,
            transcript: String::new(),
        };
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "t", "version": "0" },
        });
        let begun = client.ask("initialize", &params);
        assert_eq!(begun["result"]["protocolVersion"], json!("2025-11-25"));
        client
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        let id = self.next;
        self.next += 1;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        writeln!(self.stream, "{request}").unwrap();
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        self.transcript.push_str(&line);
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["id"], json!(id), "{answer}");
        answer
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        self.ask("tools/call", &params)["result"]["structuredContent"].clone()
    }
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
    let mut client = Client::connect(&house);
    assert!(client.call("status", &json!({}))["result"].is_object());
    assert!(daemon.stop().success());
    for socket in &sockets {
        assert!(!socket.exists(), "{}", socket.display());
    }
    let mut line = String::new();
    assert_eq!(client.reader.read_line(&mut line).unwrap_or(0), 0, "{line}");
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
    let mut client = Client::connect(&house);
    let shown = client.call("login", &json!({}));
    assert_eq!(shown["result"]["status"], json!("pending"), "{shown}");
    let code = shown["result"]["device"]["user_code"].as_str().unwrap();
    house.server.mock.approve(code).unwrap();
    let done = house.run(&["login", "--json"]);
    assert!(done.status.success(), "{}", text(&done));
    let signed_in = client.call("login", &json!({}));
    assert_eq!(signed_in["result"]["status"], json!("already_signed_in"));

    let made = client.call(
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
    let ended = client.call("lease_revoke", &handle);
    assert_eq!(ended["result"]["lease"]["state"], json!("revoked"));
    assert_eq!(house.server.whoami(material), 401);

    let bad = client.call("status", &json!({ MARKER: 1 }));
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
