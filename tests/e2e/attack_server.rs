//! Servers that lie.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use super::house::{House, PATIENCE, config, text};

/// A server that answers with interim responses (RFC 9110 §15.2) without end keeps one call
/// waiting, and nobody else.
#[test]
fn endless_interim_responses_do_not_keep_others_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (begun, storming) = mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let server = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 16 * 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            let storm = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000);
            while stream.write_all(&storm).is_ok() {
                let _is_waited_for = begun.send(()).is_ok();
            }
            over.store(true, Ordering::SeqCst);
        }
    });
    let house = House::new();
    house.write("config.toml", &config(&url));
    let daemon = house.daemon();
    let mut waiting = house.connect();
    waiting.send(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"login.begin\"}\n");
    storming.recv_timeout(PATIENCE).unwrap();
    for _ in 0..5 {
        let status = house.ask("broker.status", &json!({}));
        assert_eq!(status["result"]["product"], "aegis-broker", "{status}");
        assert!(
            !over.load(Ordering::SeqCst),
            "answered after the storm only"
        );
    }
    daemon.kill();
    server.join().unwrap();
}

/// DG-5, CN-1: what answers without the protocol's words is no Aegis server, and nobody need try
/// again; a server that breaks may recover. Both are told with the place and in plain words, to a
/// person and to a program, and nothing of the body is.
#[test]
fn what_is_not_an_aegis_server_is_said_to_be_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let rows = [
        ("404 Not Found", "aegis_protocol", "not an aegis server"),
        (
            "405 Method Not Allowed",
            "aegis_protocol",
            "not an aegis server",
        ),
        (
            "501 Not Implemented",
            "aegis_protocol",
            "not an aegis server",
        ),
        ("200 OK", "aegis_protocol", "not an aegis server"),
        (
            "500 Internal Server Error",
            "aegis_unavailable",
            "status 500",
        ),
        ("503 Service Unavailable", "aegis_unavailable", "status 503"),
    ];
    let server = thread::spawn(move || {
        for (status, ..) in rows {
            // One for the command, one for the program.
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 16 * 1024];
                assert!(stream.read(&mut request).unwrap() > 0);
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<h1>canary</h1>"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    let house = House::new();
    house.write("config.toml", &config(&url));
    let daemon = house.daemon();
    for (status, code, cause) in rows {
        let output = house.run(&["login"]);
        let told = text(&output);
        assert!(told.contains(&url) && told.contains(cause), "{told}");
        let answer = house.ask("login.begin", &json!({}));
        let error = &answer["error"];
        assert_eq!(error["data"]["code"], code, "{status}: {answer}");
        let final_word = Value::from(code == "aegis_protocol");
        assert_eq!(error["data"]["do_not_retry"], final_word, "{answer}");
        let message = error["message"].as_str().unwrap();
        assert!(told.contains(message), "{message} is not in {told}");
        assert!(!told.contains("canary") && !answer.to_string().contains("canary"));
    }
    daemon.kill();
    server.join().unwrap();
}
