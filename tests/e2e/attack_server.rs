//! Servers that lie.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use serde_json::json;

use super::house::{House, PATIENCE};

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
    let config = house
        .config()
        .replace(house.server.mock.api().as_str(), &url);
    house.write("config.toml", &config);
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
