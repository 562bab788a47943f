//! Holders that are real processes, which exit and are killed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::house::{House, Peer, SELECTOR, find};

/// Where this program is started to hold leases: the socket, and what they die with.
const HOLD: &str = "AEGIS_E2E_HOLDER";
const CLASS: &str = "AEGIS_E2E_HOLDER_CLASS";

/// LC-7: a lease of each class ends at the server with the process that holds it, whether that
/// exits or is killed; one that nothing holds outlives it. The server's journal is the witness.
#[test]
fn a_lease_ends_with_its_process_however_that_ends() {
    if let Some(socket) = std::env::var_os(HOLD) {
        return hold(Path::new(&socket), &std::env::var(CLASS).unwrap());
    }
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let mut revoked = 0;
    for class in ["child", "client", "connection"] {
        for killed in [false, true] {
            let row = format!("{class}, killed: {killed}");
            let mut process = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("holders::a_lease_ends_with_its_process_however_that_ends")
                .env(HOLD, house.socket())
                .env(CLASS, class)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut told = String::new();
            let mut said = BufReader::new(process.stderr.take().unwrap());
            said.read_line(&mut told).unwrap();
            let (held, free) = told.trim_end().split_once(' ').unwrap();
            assert_eq!(house.server.whoami(held), 200, "{row}");
            let seen = last_call(&house);
            if killed {
                process.kill().unwrap();
            } else {
                drop(process.stdin.take());
            }
            assert_eq!(process.wait().unwrap().success(), !killed, "{row}");
            revoked += 1;
            wait_for_a_call_after(&house, seen, "RevokeCredentialLease");
            assert_eq!(house.server.whoami(held), 401, "{row}");
            assert_eq!(house.server.whoami(free), 200, "{row}");
        }
    }
    assert_eq!(reasons(&house), vec!["holder_exited"; revoked]);
    let status = house.json(&["status"]);
    assert_eq!(status["live_leases"], revoked, "those of nobody: {status}");
}

/// The number of the last call in the journal.
fn last_call(house: &House) -> u64 {
    house
        .server
        .mock
        .requests()
        .last()
        .map_or(0, |last| last.seq)
}

fn wait_for_a_call_after(house: &House, seen: u64, method: &str) {
    house
        .server
        .wait_for_call(|call| call.seq > seen && call.method == method && call.result == "ok");
}

/// Why leases were revoked, as the server was told.
fn reasons(house: &House) -> Vec<String> {
    let events = house.server.mock.audit().into_iter();
    let revoked = events.filter(|event| event.action == "lease.revoke");
    revoked.map(|event| event.reason).collect()
}

/// Takes a lease that dies with this process and one that does not, says their tokens on standard
/// error, and lives on until its standard input ends.
fn hold(socket: &Path, class: &str) {
    let mut peer = Peer::connect(socket);
    let mut token = |class: &str| {
        let params = json!({ "selector": SELECTOR, "holder": class });
        let lease = peer.ask("lease.create", &params);
        let id = json!({ "lease_id": find(&lease, "lease_id") });
        find(&peer.ask("lease.redeem", &id), "access_token").unwrap()
    };
    let line = format!("{} {}\n", token(class), token("none"));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// LC-7, AU-2: what `exec` clears away after its command is recorded as the end of its holder, here
/// and at the server, also where the policy lets nobody revoke, and where the wrapper is killed.
#[test]
fn the_end_of_a_command_is_recorded_as_the_end_of_its_holder() {
    let house = House::new();
    let rule = "[[rule]]\nid = \"use\"\neffect = \"allow\"\nactions = [\"create\", \"redeem\"]\nexpose = \"exec\"\n";
    house.write(
        "policy.toml",
        &format!("{rule}selectors = [\"{SELECTOR}\"]\n"),
    );
    let _daemon = house.daemon();
    house.log_in();
    let ran = house.run(&["exec", "--use", SELECTOR, "--", "true"]);
    assert!(ran.status.success() && ran.stderr.is_empty());
    assert_eq!(reasons(&house), ["holder_exited"]);

    let seen = last_call(&house);
    let mut killed = house.command(&["exec", "--use", SELECTOR, "--", "cat"]);
    let mut killed = killed.stdin(Stdio::piped()).spawn().unwrap();
    wait_for_a_call_after(&house, seen, "RedeemCredentialLease");
    let seen = last_call(&house);
    let pid = rustix::process::Pid::from_raw(killed.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    // Its command's input ends with it.
    drop(killed.stdin.take());
    killed.wait().unwrap();
    wait_for_a_call_after(&house, seen, "RevokeCredentialLease");
    assert_eq!(reasons(&house), ["holder_exited"; 2]);

    let shown = house.run(&["audit", "show", "--json"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let words: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["action"] == "lease.revoke")
        .map(|record| record["reason"].clone())
        .collect();
    assert!(words.iter().all(|word| word == "holder_exited"), "{shown}");
    assert!(!words.is_empty(), "{shown}");
}
