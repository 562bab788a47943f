//! Many at once, with real processes and threads.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::thread;

use aegis_mock::LeaseState;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::{Value, json};

use super::evidence::{figure, times};
use super::house::{House, PATIENCE, Peer, SELECTOR, find};

/// A group of processes that does not outlive a test that failed.
struct Running(Option<rustix::process::Pid>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            match kill_process_group(group, Signal::KILL) {
                // They have ended by themselves.
                Ok(()) | Err(Errno::SRCH) => {}
                // A second panic would hide the first.
                Err(error) => assert!(thread::panicking(), "{error}"),
            }
        }
    }
}

/// PE-1: of many daemons that start at once on one folder one serves, and the others say so.
#[test]
#[expect(
    clippy::zombie_processes,
    reason = "they are waited for as the group that they are"
)]
fn of_many_daemons_at_once_one_serves() {
    let house = House::new();
    let notify = house.path("notify");
    let told = UnixDatagram::bind(&notify).unwrap();
    let count = times(40, 200);
    // A group of their own, led by the first.
    let mut group = 0;
    let mut running = Running(None);
    let mut left = BTreeMap::new();
    for _ in 0..count {
        let mut command = house.daemon_command();
        command.env("NOTIFY_SOCKET", &notify).process_group(group);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        if group == 0 {
            group = pid;
            running.0 = rustix::process::Pid::from_raw(group);
        }
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        left.insert(
            pid.as_raw_nonzero().get(),
            pidfd_open(pid, PidfdFlags::empty()).unwrap(),
        );
    }
    let mut next_end = || {
        let mut ends: Vec<_> = left
            .values()
            .map(|it| PollFd::new(it, PollFlags::IN))
            .collect();
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let ended = poll(&mut ends, Some(&patience)).unwrap();
        assert!(ended > 0, "{} run, and none of them ends", left.len());
        let end = waitpid(Pid::from_raw(-group), None).unwrap();
        left.remove(&end.pid().unwrap().as_raw());
        end
    };
    for _ in 1..count {
        let end = next_end();
        assert!(matches!(end, WaitStatus::Exited(_, 75)), "{end:?}");
    }
    house.log_in();
    assert_eq!(house.server.whoami(&house.material()), 200);
    kill_process_group(running.0.unwrap(), Signal::TERM).unwrap();
    let end = next_end();
    running.0 = None;
    assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}");
    let mut ready = 0;
    told.set_nonblocking(true).unwrap();
    let mut message = [0; 256];
    while let Ok(length) = told.recv(&mut message) {
        ready += usize::from(message[..length].starts_with(b"READY=1"));
    }
    assert_eq!(ready, 1);
    figure(&format!("1 of {count} daemons served"));
}

/// Redeems from eight connections at once, twice each, and revokes from another once so many
/// answers are there, where that is wanted. Answers the lease and the material that came.
fn race(house: &House, max: usize, revoke_after: Option<usize>) -> (String, Vec<String>) {
    let create = json!({ "selector": SELECTOR, "max_redemptions": max });
    let made = house.ask("lease.create", &create);
    let id = find(&made, "lease_id").unwrap();
    let line = |method: &str| {
        let params = json!({ "lease_id": id });
        let line = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        format!("{line}\n").into_bytes()
    };
    let mut peers: Vec<_> = (0..8).map(|_| house.connect()).collect();
    thread::scope(|scope| {
        for peer in &mut peers {
            scope.spawn(|| (0..2).for_each(|_| peer.send(&line("lease.redeem"))));
        }
    });
    let mut left: Vec<_> = (0..16).map(|number| number % 8).collect();
    let mut answers = Vec::new();
    if let Some(count) = revoke_after {
        let early = left.drain(..count);
        answers.extend(early.map(|peer: usize| peers[peer].receive().unwrap()));
        let mut revoking = house.connect();
        revoking.send(&line("lease.revoke"));
        let answer = revoking.receive().unwrap();
        let state = find(&answer, "state");
        assert_eq!(state.as_deref(), Some("revoked"), "{answer}");
    }
    answers.extend(left.into_iter().map(|peer| peers[peer].receive().unwrap()));
    let token = |answer: &Value| find(answer, "access_token");
    (id, answers.iter().filter_map(token).collect())
}

/// LC-6: however many redeem at once, exactly as many succeed as may, each with material of its own.
#[test]
fn redemptions_at_once_yield_exactly_the_maximum() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let rounds = times(10, 500);
    for round in 0..rounds {
        let max = [1, 3, 10][usize::try_from(round % 3).unwrap()];
        let (_, mut tokens) = race(&house, max, None);
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), max, "round {round}");
    }
    figure(&format!(
        "{rounds} races of 16 redemptions: exactly the maximum"
    ));
}

/// LC-5: once a revocation is confirmed nothing is redeemed any more at the server, and nothing
/// that was redeemed before works.
#[test]
fn nothing_works_after_a_revocation_that_races_redemptions() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let rounds = times(20, 500);
    let mut before = 0;
    for round in 0..rounds {
        let (id, tokens) = race(&house, 10, Some(usize::try_from(round % 5).unwrap()));
        before += tokens.len();
        for token in tokens {
            assert_eq!(house.server.whoami(&token), 401, "round {round}");
        }
        let later = json!({ "lease_id": id });
        let later = house.ask("lease.redeem", &later);
        assert_eq!(later["error"]["data"]["code"], "lease_revoked", "{later}");
    }
    // As the server recorded it: no redemption of a lease after its revocation.
    let mut revoked = BTreeMap::new();
    for event in house.server.mock.audit() {
        if event.outcome != "ok" {
            continue;
        }
        match event.action.as_str() {
            "lease.revoke" => drop(revoked.insert(event.lease_id, event.seq)),
            "lease.redeem" => {
                let over = revoked.get(&event.lease_id);
                assert_eq!(over, None, "redeemed after {over:?}");
            }
            _ => {}
        }
    }
    let leases = house.server.mock.leases();
    assert!(
        leases
            .iter()
            .all(|lease| lease.state == LeaseState::Revoked)
    );
    figure(&format!(
        "{rounds} races of 16 redemptions with a revocation: {before} came before it, 0 work after"
    ));
}

/// PE-8, IN-3: a hundred connections use the same id again and again, each asks for its own lease,
/// and each gets that.
#[test]
fn equal_ids_on_a_hundred_connections_do_not_cross() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let mut peers: Vec<(Peer, String)> = (0..100)
        .map(|_| {
            let mut peer = house.connect();
            let made = peer.ask("lease.create", &json!({ "selector": SELECTOR }));
            (peer, find(&made, "lease_id").unwrap())
        })
        .collect();
    let rounds = times(20, 1000);
    for round in 0..rounds {
        for (peer, id) in &mut peers {
            let params = json!({ "lease_id": id });
            let line = json!({
                "jsonrpc": "2.0", "id": 7, "method": "lease.revoke", "params": params,
            });
            peer.send(format!("{line}\n").as_bytes());
        }
        for (peer, id) in &mut peers {
            let answer = peer.receive().unwrap();
            assert_eq!(answer["id"], 7);
            let answered = find(&answer, "lease_id");
            assert_eq!(answered.as_ref(), Some(&*id), "round {round}: {answer}");
        }
    }
    let answers = rounds * 100;
    figure(&format!(
        "{answers} answers under one id on 100 connections: 0 crossed"
    ));
}

/// DG-13: a hundred processes' worth of connections that log in at once see one code, and the server
/// one login.
#[test]
fn logins_at_once_are_one_flow() {
    let house = House::new();
    let _daemon = house.daemon();
    let mut peers: Vec<_> = (0..100).map(|_| house.connect()).collect();
    thread::scope(|scope| {
        for peer in &mut peers {
            scope.spawn(|| {
                for id in [1, 2] {
                    let line = json!({ "jsonrpc": "2.0", "id": id, "method": "login.begin" });
                    peer.send(format!("{line}\n").as_bytes());
                }
            });
        }
    });
    let answers = peers
        .iter_mut()
        .flat_map(|peer| [peer.receive(), peer.receive()]);
    let mut codes: Vec<_> = answers
        .map(|answer| find(&answer.unwrap(), "user_code").unwrap())
        .collect();
    assert_eq!(codes.len(), 200);
    codes.dedup();
    assert_eq!(codes.len(), 1);
    let begun = house.server.mock.requests().into_iter();
    let begun = begun.filter(|call| call.method == "BeginMcpOauthDeviceAuthorization");
    assert_eq!(begun.count(), 1);
    figure("200 logins at once: 1 flow");
}
