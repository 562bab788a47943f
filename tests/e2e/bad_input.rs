use std::io::Write as _;
use std::process::Command;

use serde_json::json;

use super::house::{House, Peer, SELECTOR};

const LINE: usize = 256 * 1024;

/// IN-16, SP-9, IN-4: whatever comes on the socket is answered with a stable code or hung up on;
/// the daemon lives on and serves others.
#[test]
fn any_bytes_leave_the_daemon_alive() {
    let house = House::new();
    let mut daemon = house.daemon();
    house.log_in();
    let get = |selector: &str| {
        json!({"jsonrpc": "2.0", "id": 1, "method": "credential.get", "params": {"selector": selector}})
            .to_string()
    };
    let nested = "[".repeat(60_000) + &"]".repeat(60_000);
    let rows: Vec<(&str, Vec<u8>, Option<&str>)> =
        vec![
        ("not JSON", b"hello".to_vec(), Some("invalid_request")),
        (
            "binary",
            vec![0xff, 0x00, 0xfe, 0x80],
            Some("invalid_request"),
        ),
        ("empty line", Vec::new(), Some("invalid_request")),
        ("a number", b"42".to_vec(), Some("invalid_request")),
        ("a batch", b"[]".to_vec(), Some("invalid_request")),
        (
            "no version",
            br#"{"id":1,"method":"lock"}"#.to_vec(),
            Some("invalid_request"),
        ),
        (
            "notification",
            br#"{"jsonrpc":"2.0","method":"lock"}"#.to_vec(),
            Some("invalid_request"),
        ),
        (
            "unknown method",
            br#"{"jsonrpc":"2.0","id":1,"method":"secret.dump"}"#.to_vec(),
            Some("method_unknown"),
        ),
        (
            "unknown member",
            br#"{"jsonrpc":"2.0","id":1,"method":"lease.list","x":1}"#.to_vec(),
            Some("invalid_request"),
        ),
        (
            "unknown parameter",
            br#"{"jsonrpc":"2.0","id":1,"method":"lease.list","params":{"x":1}}"#.to_vec(),
            Some("invalid_request"),
        ),
        (
            "method in capitals",
            br#"{"jsonrpc":"2.0","id":1,"METHOD":"lock"}"#.to_vec(),
            Some("invalid_request"),
        ),
        (
            "method twice",
            br#"{"jsonrpc":"2.0","id":1,"method":"lease.list","method":"lock"}"#.to_vec(),
            Some("invalid_request"),
        ),
        (
            "wrong type",
            br#"{"jsonrpc":"2.0","id":1,"method":"credential.get","params":{"selector":7}}"#
                .to_vec(),
            Some("invalid_request"),
        ),
        (
            "array for params",
            br#"{"jsonrpc":"2.0","id":1,"method":"lease.list","params":[]}"#.to_vec(),
            Some("invalid_request"),
        ),
        (
            "deep",
            [vec![b'['; 100_000], vec![b']'; 100_000]].concat(),
            Some("invalid_request"),
        ),
        (
            "wildcard",
            get("gcp/billing-prod/*").into_bytes(),
            Some("selector_invalid"),
        ),
        (
            "partial",
            get("gcp/billing-prod").into_bytes(),
            Some("selector_invalid"),
        ),
        (
            "confusable",
            get("gcp/billing-prod/deploy-b\u{43e}t").into_bytes(),
            Some("selector_invalid"),
        ),
        (
            "capital",
            get("GCP/billing-prod/deploy-bot").into_bytes(),
            Some("selector_invalid"),
        ),
        (
            "NUL in a selector",
            get("gcp/billing-prod/deploy-bot\0").into_bytes(),
            Some("selector_invalid"),
        ),
        (
            "C1 in a selector",
            get("gcp/billing-prod/deploy\u{85}bot").into_bytes(),
            Some("selector_invalid"),
        ),
        (
            "half a surrogate",
            get("gcp/billing-prod/S").replace('S', r"\ud800").into_bytes(),
            Some("invalid_request"),
        ),
        (
            "selector twice, once escaped",
            get("gcp/billing-prod/deploy-bot")
                .replace("{\"sel", r#"{"\u0073elector":"a/b/c","sel"#)
                .into_bytes(),
            Some("invalid_request"),
        ),
        (
            "deep parameters",
            get("D").replace("\"D\"", &nested).into_bytes(),
            Some("invalid_request"),
        ),
        (
            "an id beyond every integer",
            get("a/b/c").replace("\"id\":1", "\"id\":1e999").into_bytes(),
            Some("invalid_request"),
        ),
        (
            "two requests on a line",
            get("gcp/billing-prod/deploy-bot").repeat(2).into_bytes(),
            Some("invalid_request"),
        ),
        (
            "unknown lease",
            br#"{"jsonrpc":"2.0","id":1,"method":"lease.redeem","params":{"lease_id":"lse_x"}}"#
                .to_vec(),
            Some("lease_not_found"),
        ),
        (
            "unknown profile",
            br#"{"jsonrpc":"2.0","id":1,"method":"logout","params":{"profile":"other"}}"#.to_vec(),
            Some("profile_unknown"),
        ),
        (
            "http",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r".to_vec(),
            Some("invalid_request"),
        ),
        (
            "one byte too long",
            vec![b'x'; LINE + 1],
            Some("invalid_request"),
        ),
        ("endless", vec![b'x'; LINE * 3], Some("invalid_request")),
    ];
    for (name, mut line, expected) in rows {
        line.push(b'\n');
        let mut peer = house.connect();
        // The daemon may hang up before it has read all of it.
        drop(peer.stream.write_all(&line));
        let answer = peer.receive();
        let code = answer.as_ref().map(|answer| {
            answer["error"]["data"]["code"]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {answer}"))
                .to_owned()
        });
        if let Some(code) = &code {
            assert_eq!(Some(code.as_str()), expected, "{name}");
        } else {
            // Only what is cut off may end in a reset that swallowed the answer.
            assert!(line.len() > LINE, "{name}: no answer");
        }
        if let Some(answer) = answer {
            assert!(!answer.to_string().contains("hello"), "{name} is quoted");
        }
        assert!(daemon.is_running(), "{name}");
    }
    house.material();
}

/// LM: one process gets half of the connections; the next one is told so, on both sockets, those
/// that are there stay served, room comes back, and other processes do not notice.
#[test]
fn a_process_that_holds_half_of_the_connections_is_told_so() {
    let house = House::new();
    let _daemon = house.daemon();
    for name in ["broker.sock", "mcp.sock"] {
        let socket = house.socket().with_file_name(name);
        let mut held: Vec<_> = (0..128).map(|_| Peer::connect(&socket)).collect();
        let mut one_more = Peer::connect(&socket);
        let answer = one_more.receive().expect("told so");
        assert_eq!(answer["error"]["data"]["code"], "rate_limited", "{name}");
        let fix = answer["error"]["data"]["fix"].as_str().unwrap();
        assert!(fix.contains("128"), "{fix}");
        assert_eq!(one_more.receive(), None, "and hung up on");
        assert!(house.run(&["status"]).status.success(), "{name}");
        // The daemon's own end of a connection closes last: after that there is room.
        let mut freed = held.pop().unwrap();
        freed.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(freed.receive(), None);
        let line = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        for mut peer in [held.remove(0), Peer::connect(&socket)] {
            peer.send(format!("{line}\n").as_bytes());
            assert_eq!(peer.receive().unwrap()["id"], 1, "{name}");
        }
    }
}

/// LM: one connection too many is told so; the one that is there stays served.
#[test]
fn the_last_connection_too_many_is_turned_away() {
    let house = House::new();
    let config = format!("{}\n[limits]\nconnections = 1\n", house.config());
    house.write("config.toml", &config);
    let _daemon = house.daemon();
    let mut peer = house.connect();
    peer.ask("lease.list", &json!({}));
    assert_eq!(house.refusal(&["status"]).0, "rate_limited");
    peer.ask("broker.status", &json!({}));
}

/// LM: a session's limit of open files is too low for all the connections that may be there, so
/// the daemon raises its own: each of them is served, and the call to the server that one of them
/// needs is made.
#[test]
fn a_low_limit_of_open_files_keeps_nobody_out() {
    let house = House::new();
    let plain = house.daemon_command();
    let mut low = Command::new("sh");
    house.surround(&mut low);
    low.args(["-c", r#"ulimit -S -n 64; exec "$0" "$@""#]);
    low.arg(plain.get_program()).args(plain.get_args());
    let daemon = house.start(&mut low, "info");
    // As many as one process may hold.
    let mut peers: Vec<_> = (0..128).map(|_| house.connect()).collect();
    for peer in &mut peers {
        let answer = peer.ask("broker.status", &json!({}));
        assert_eq!(answer["result"]["product"], "aegis-broker", "{answer}");
    }
    let begun = peers[0].ask("login.begin", &json!({}));
    assert_eq!(begun["result"]["state"], "awaiting_approval", "{begun}");
    assert!(daemon.stop().success());
}

/// A peer that hangs up with its request under way costs nobody anything.
#[test]
fn hanging_up_halfway_leaves_no_live_lease() {
    let house = House::new();
    let daemon = house.daemon();
    house.log_in();
    for _ in 0..20 {
        let mut peer = house.connect();
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": "lease.create", "params": {"selector": SELECTOR, "holder": "connection"}});
        peer.send(format!("{line}\n").as_bytes());
        drop(peer);
    }
    house.material();
    assert!(daemon.stop().success());
    for lease in house.server.mock.leases() {
        assert_eq!(lease.state, aegis_mock::LeaseState::Revoked, "{lease:?}");
    }
}
