//! `aegis-broker mcp` with the real daemon behind it, which it starts by itself.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde_json::json;

use super::house::{House, PATIENCE, Peer, SELECTOR, contains, find, policy, text};
use super::lifecycle::approve_as_the_log_says;
use super::line_client::LineClient;

/// A daemon that a shim started: nobody's child by the time it matters. Dropped, it is killed.
struct Started {
    process: OwnedFd,
    pid: i32,
}

impl Started {
    fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.process, signal).unwrap();
    }

    fn is_over(&self, limit: Timespec) -> bool {
        let mut process = [PollFd::new(&self.process, PollFlags::IN)];
        poll(&mut process, Some(&limit)) == Ok(1)
    }

    /// Ends it, and waits for that.
    fn end(self, signal: Signal) {
        self.signal(signal);
        assert!(self.is_over(Timespec::try_from(PATIENCE).unwrap()));
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Over already where it was ended.
        pidfd_send_signal(&self.process, Signal::KILL).unwrap_or_default();
    }
}

/// A house with the daemon's files where a daemon that is told nothing looks for them.
fn house() -> House {
    let house = House::new();
    drop(house.daemon_command());
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(house.path(".config/aegis-broker"))
        .unwrap();
    house.write(".config/aegis-broker/aegis-broker.toml", &house.config());
    house.write(".config/aegis-broker/policy.toml", &policy("allow"));
    house
}

/// What most clients hand over: no `XDG_RUNTIME_DIR`.
fn shim(house: &House) -> Command {
    let mut command = house.command(&["mcp", "--socket"]);
    command
        .arg(house.runtime().join("aegis-broker/mcp.sock"))
        .env_remove("XDG_RUNTIME_DIR");
    command
}

/// Ends what a failed test leaves running.
struct Leftovers<'a>(&'a House);

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        drop(daemons(self.0));
    }
}

/// Every daemon of that house that runs.
fn daemons(house: &House) -> Vec<Started> {
    let folder = house.runtime().join("aegis-broker");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else {
            continue;
        };
        // It may be gone by now. One that has ended and was not reaped has no command line.
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if contains(&words, "\0daemon\0") && contains(&words, folder.to_str().unwrap()) {
            found.push(Started { process, pid });
        }
    }
    found
}

/// The one daemon of that house.
fn daemon(house: &House) -> Started {
    let mut daemons = daemons(house);
    let pids: Vec<_> = daemons.iter().map(|daemon| daemon.pid).collect();
    assert_eq!(pids.len(), 1, "{pids:?}");
    daemons.remove(0)
}

/// Many clients at once get one daemon, started once, and every one is served; it outlives them,
/// and the next client finds it.
#[test]
fn many_clients_at_once_start_one_daemon() {
    let house = house();
    let _leftovers = Leftovers(&house);
    let clients: Vec<_> = (0..16)
        .map(|_| LineClient::start(&mut shim(&house)))
        .collect();
    let mut clients: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            client.greet();
            client
        })
        .collect();
    let daemon = daemon(&house);
    for client in &mut clients {
        let answer = client.ask("tools/call", &json!({ "name": "status", "arguments": {} }));
        assert_eq!(answer["isError"], false, "{answer}");
        client.close();
    }
    for client in clients {
        let (errors, status) = client.end();
        assert!(status.success(), "{errors}");
        assert_eq!(errors, "");
    }
    let mut next = LineClient::greeting(&mut shim(&house));
    let answer = next.ask_modern(
        "tools/call",
        &json!({ "name": "target_list", "arguments": {} }),
    );
    assert_eq!(answer["isError"], false, "{answer}");
    assert_eq!(self::daemon(&house).pid, daemon.pid);
    let left: Vec<_> = fs::read_dir(house.runtime().join("aegis-broker"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 3, "two sockets and a lock: {left:?}");
    daemon.end(Signal::TERM);
}

/// Two kinds of start at once: whichever daemon gets the lock, every client is served, and the
/// other daemon ends by itself.
#[test]
fn a_daemon_that_is_starting_already_is_waited_for() {
    let house = house();
    let _leftovers = Leftovers(&house);
    let mut clients: Vec<_> = (0..4)
        .map(|_| LineClient::start(&mut shim(&house)))
        .collect();
    let mut by_hand = house.command(&["daemon"]);
    let mut by_hand = by_hand.stderr(Stdio::null()).spawn().unwrap();
    for client in &mut clients {
        client.greet();
        let tools = client.ask("tools/list", &json!({}));
        assert!(tools["tools"].is_array(), "{tools}");
    }
    let door = UnixStream::connect(house.socket()).unwrap();
    let serving = socket_peercred(&door).unwrap().pid;
    let process = pidfd_open(serving, PidfdFlags::empty()).unwrap();
    drop(door);
    for mut client in clients {
        client.close();
        assert!(client.end().1.success());
    }
    let pid = serving.as_raw_pid();
    Started { process, pid }.end(Signal::TERM);
    let own = by_hand.wait().unwrap();
    let expected = if serving == Pid::from_child(&by_hand) {
        0
    } else {
        75
    };
    assert_eq!(own.code(), Some(expected));
}

/// A client that ends its server's whole process group does not end the daemon; a daemon that is
/// killed ends the shim; the next shim starts another one in place of what the kill left behind.
#[test]
fn the_daemon_lives_on_and_is_replaced_when_it_is_killed() {
    let house = house();
    let _leftovers = Leftovers(&house);
    let client = LineClient::greeting(shim(&house).process_group(0));
    let first = daemon(&house);
    kill_process_group(Pid::from_child(&client.child), Signal::TERM).unwrap();
    assert!(!client.end().1.success(), "it was killed");
    assert!(!first.is_over(Timespec::default()));

    let client = LineClient::greeting(&mut shim(&house));
    let pid = first.pid;
    first.end(Signal::KILL);
    let (errors, status) = client.end();
    assert_eq!(status.code(), Some(69), "{errors}");

    let mut client = LineClient::greeting(&mut shim(&house));
    let second = daemon(&house);
    assert_ne!(second.pid, pid);
    client.close();
    assert!(client.end().1.success());
    second.end(Signal::TERM);
}

/// T2: `printf request | aegis-broker mcp` starts the daemon and gets its answer.
#[test]
fn a_request_from_a_pipe_gets_its_answer_from_a_new_daemon() {
    let house = house();
    let _leftovers = Leftovers(&house);
    let request = format!("{}\n", super::line_client::INITIALIZE);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "printf %s \"$1\" | \"$2\" mcp --socket \"$3\"", "sh"])
        .arg(request)
        .arg(&house.broker)
        .arg(house.runtime().join("aegis-broker/mcp.sock"));
    house.surround(&mut shell);
    let output = shell.output().unwrap();
    let daemon = daemon(&house);
    assert!(output.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    daemon.end(Signal::TERM);
}

/// T1, MC-1: nothing but messages on standard output, however much is logged.
#[test]
fn ten_thousand_calls_at_trace_are_ten_thousand_messages() {
    let house = house();
    let _leftovers = Leftovers(&house);
    let mut command = shim(&house);
    command.env("RUST_LOG", "trace,rmcp::service=trace");
    let mut client = LineClient::greeting(&mut command);
    let daemon = daemon(&house);
    let call = json!({ "name": "status", "arguments": {} });
    for _ in 0..10_000 {
        let answer = client.ask("tools/call", &call);
        assert_eq!(answer["isError"], false, "{answer}");
    }
    client.close();
    let (errors, status) = client.end();
    assert!(status.success());
    assert_eq!(errors, "");
    daemon.end(Signal::TERM);
}

/// LM: a daemon that has no place for one more says so before it is asked, which no client
/// understands: the shim answers in its place, in both eras, with what to do, and loses nothing of
/// what the client said.
#[test]
fn a_daemon_that_is_full_is_told_as_an_answer() {
    let house = house();
    let config = format!("{}\n[limits]\nconnections = 1\n", house.config());
    house.write("config.toml", &config);
    let daemon = house.daemon();
    let mut held = Peer::connect(&house.socket().with_file_name("mcp.sock"));
    held.ask("ping", &json!({}));
    // In the words of this socket: -32000 is for servers to give out, and this one does not.
    let told = Peer::connect(&house.socket().with_file_name("mcp.sock")).receive();
    let error = told.expect("an answer")["error"].clone();
    assert_eq!(error["code"], json!(-32603), "{error}");
    assert_eq!(error["data"]["code"], json!("rate_limited"), "{error}");
    assert_eq!(error["data"]["do_not_retry"], json!(false), "{error}");
    let call = json!({ "name": "status", "arguments": {} });
    let mut legacy = LineClient::greeting(&mut shim(&house));
    assert_eq!(
        legacy.ask("tools/list", &json!({}))["tools"]
            .as_array()
            .unwrap()
            .len(),
        10
    );
    let mut modern = LineClient::start(&mut shim(&house));
    let found = modern.ask_modern("server/discover", &json!({}));
    assert!(found["supportedVersions"].is_array(), "{found}");
    let answers = [
        legacy.ask("tools/call", &call),
        modern.ask_modern("tools/call", &call),
    ];
    for answer in answers {
        assert_eq!(answer["isError"], true, "{answer}");
        let error = &answer["structuredContent"]["error"];
        assert_eq!(error["code"], "daemon_unavailable", "{answer}");
        let text = error.to_string();
        assert!(text.contains("too many connections"), "{text}");
        assert!(text.contains("reconnect this server"), "{text}");
    }
    for mut client in [legacy, modern] {
        client.close();
        let (errors, status) = client.end();
        assert!(status.success(), "{errors}");
        assert!(errors.contains("too many connections"), "{errors}");
    }
    // T2: also where the request was all that there was.
    let mut client = LineClient::start(&mut shim(&house));
    client.say(super::line_client::INITIALIZE);
    client.close();
    assert_eq!(client.answer()["result"]["protocolVersion"], "2025-11-25");
    assert!(client.end().1.success());
    // Whoever holds the place is served all the while, and when it goes there is room.
    held.ask("ping", &json!({}));
    held.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(held.receive(), None);
    let mut client = LineClient::greeting(&mut shim(&house));
    assert_eq!(client.ask("tools/call", &call)["isError"], false);
    client.close();
    assert!(client.end().1.success());
    assert!(daemon.stop().success());
}

/// `mcp --mock` needs no file at all: a client starts it, logs in and has a lease.
#[test]
fn the_bundled_server_is_a_client_away() {
    let house = House::new();
    drop(house.daemon_command());
    let _leftovers = Leftovers(&house);
    let mut client = LineClient::greeting(shim(&house).arg("--mock"));
    let daemon = daemon(&house);
    let login = json!({ "name": "login", "arguments": {} });
    let shown = client.ask("tools/call", &login);
    let code = find(&shown["structuredContent"], "user_code").expect("a code");
    let log = fs::read_to_string(house.runtime().join("aegis-broker/mock.log")).unwrap();
    approve_as_the_log_says(&house, &log, &code);
    assert!(house.run(&["login"]).status.success());
    // What the client is told works in a shell that was told nothing, whatever the credential's
    // fields are, though it can be redeemed but once.
    fs::create_dir(house.path("bin")).unwrap();
    std::os::unix::fs::symlink(&house.broker, house.path("bin/aegis-broker")).unwrap();
    for (selector, field) in [
        (SELECTOR, "access_token"),
        ("generic/demo-db/reader", "password"),
    ] {
        let wish = json!({ "name": "lease_create", "arguments": { "selector": selector } });
        let made = client.ask("tools/call", &wish);
        let told = find(&made["structuredContent"], "command").expect("a command");
        let mut shell = Command::new("/bin/sh");
        house.surround(shell.args(["-c", &told]));
        let redeemed = shell
            .env("PATH", house.path("bin"))
            .env_remove("XDG_RUNTIME_DIR")
            .output()
            .unwrap();
        assert!(redeemed.status.success(), "{told}: {}", text(&redeemed));
        let credential: serde_json::Value = serde_json::from_slice(&redeemed.stdout).unwrap();
        assert!(credential["fields"][field].is_string(), "{told}");
    }
    client.close();
    assert!(client.end().1.success());
    daemon.end(Signal::TERM);
}

/// The log of the bundled server's daemon is that of the one that runs: a start that finds it still
/// there touches nothing, and the next daemon's takes its place.
#[test]
fn the_log_says_how_to_approve_at_the_server_that_runs() {
    let house = House::new();
    drop(house.daemon_command());
    let _leftovers = Leftovers(&house);
    let log = house.runtime().join("aegis-broker/mock.log");
    let approvals = || fs::read_to_string(&log).unwrap().matches("Bearer ").count();
    let client = |how: &str| {
        let mut client = LineClient::start(shim(&house).arg("--mock"));
        client.greet();
        client.close();
        assert!(client.end().1.success(), "{how}");
        fs::read_to_string(&log).unwrap()
    };
    let told = client("the first");
    assert_eq!(approvals(), 1);
    let first = daemon(&house);
    // Its socket is out of reach, so that others are started, which lose to it.
    let door = house.runtime().join("aegis-broker/mcp.sock");
    let elsewhere = door.with_file_name("elsewhere");
    fs::rename(&door, &elsewhere).unwrap();
    assert_eq!(client("a degraded one"), told);
    fs::rename(&elsewhere, &door).unwrap();
    assert_eq!(daemon(&house).pid, first.pid);
    first.end(Signal::TERM);
    assert_ne!(client("the second"), told);
    assert_eq!(approvals(), 1);
    daemon(&house).end(Signal::TERM);
}
