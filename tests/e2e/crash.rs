use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Mutex;
use std::time::Duration;

use aegis_broker::audit::{self, Keys};
use aegis_broker::broker::ports::{AuditAction, AuditOutcome};
use aegis_broker::time::{Clock as _, SystemClock};
use aegis_mock::{AuditRecord, FaultKind, LeaseState};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::evidence::canaries::{Canaries, in_every_form};
use super::evidence::{figure, times};
use super::house::{Daemon, House, Peer, SELECTOR, files, find};

/// What is promised about leases that a crash left open, from the login on. This is a bound of the
/// contract, held against times that the server recorded, and no measure of speed: the broker
/// sends these revocations before it answers the login.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// LC-10, AU-5: SIGKILL with live leases: the next daemon starts alone, its log verifies, and
/// the leases are revoked within 5 s of its next login. No lease comes back to life.
#[test]
fn leases_of_a_killed_daemon_are_revoked_at_the_next_login() {
    let house = House::new();
    let daemon = house.daemon();
    house.log_in();
    let material = house.material();
    house.json(&["lease", "create", SELECTOR]);
    daemon.kill();
    assert_eq!(
        house.server.whoami(&material),
        200,
        "nobody could revoke it yet"
    );

    let daemon = house.daemon();
    let status = house.json(&["status"]);
    assert_eq!(status["unconfirmed_revocations"], 2, "{status}");
    assert_eq!(house.refusal(&["get", SELECTOR]).0, "login_required");
    house.log_in();
    // Both revocations were sent before the login was answered; a stop waits for them.
    assert!(daemon.stop().success());
    assert_eq!(house.server.whoami(&material), 401);
    let states: Vec<_> = house
        .server
        .mock
        .leases()
        .iter()
        .map(|lease| lease.state)
        .collect();
    assert_eq!(states, vec![LeaseState::Revoked; 2]);
    let revoked_after = after_login(&house);
    assert_eq!(revoked_after.len(), 2);
    let in_time = |after: &Option<Duration>| after.is_some_and(|after| after <= REVOKED_WITHIN);
    assert!(revoked_after.iter().all(in_time), "{revoked_after:?}");
    let report = audit::verify::verify(&house.audit(), &Keys::none()).unwrap();
    assert_eq!(report.damage, None);
}

/// How long after the exchange that granted the newest login each revocation of a lease was
/// carried out, by the times that the server recorded; `None` where that was before it.
fn after_login(house: &House) -> Vec<Option<Duration>> {
    let events = house.server.mock.audit();
    let done = |action: &'static str| {
        let is_done = move |event: &&AuditRecord| event.action == action && event.outcome == "ok";
        events.iter().filter(is_done)
    };
    let login = done("login.exchange").next_back().unwrap().occurred_at;
    done("lease.revoke")
        .map(|revoked| revoked.occurred_at.duration_since(login).ok())
        .collect()
}

/// What a daemon is killed at.
#[derive(Debug, Clone, Copy)]
enum Act {
    Begin,
    Exchange,
    Create,
    Redeem,
    Revoke,
    Get,
    Logout,
}

/// When in it.
#[derive(Debug, Clone, Copy)]
enum When {
    /// The server has this call and does not answer.
    Stalled(&'static str),
    /// The server has done this call and its answer is lost.
    Lost(&'static str),
    /// The server has done this call and answers.
    Answered(&'static str),
    /// So many bytes of the next record of the audit log are written.
    Writing(u64),
}

const BEGIN: &str = "BeginMcpOauthDeviceAuthorization";
const EXCHANGE: &str = "ExchangeMcpOauthDeviceAuthorization";
const CREATE: &str = "CreateCredentialLease";
const REDEEM: &str = "RedeemCredentialLease";
const REVOKE: &str = "RevokeCredentialLease";

/// AU-1, AU-5, LC-6, LC-10, HY-4: SIGKILL with each call under way, done with its answer lost, and
/// answered. See [`Killing::round`] for what holds after each.
#[test]
fn a_daemon_killed_in_a_call_starts_again_alone() {
    let rows = [
        (Act::Begin, BEGIN),
        (Act::Exchange, EXCHANGE),
        (Act::Create, CREATE),
        (Act::Redeem, REDEEM),
        (Act::Revoke, REVOKE),
        (Act::Get, REDEEM),
        (Act::Logout, REVOKE),
    ];
    let killing = Killing::new();
    for _ in 0..times(1, 16) {
        for (act, method) in rows {
            for when in [When::Stalled, When::Lost, When::Answered] {
                killing.round(act, when(method));
            }
        }
    }
    killing.end("in a call");
}

/// The same at a record: its file may not become any longer, so that the kernel ends the daemon at
/// the first byte, or the kill meets half a line.
#[test]
fn a_daemon_killed_in_a_record_starts_again_alone() {
    let acts = [
        Act::Begin,
        Act::Exchange,
        Act::Create,
        Act::Redeem,
        Act::Revoke,
    ];
    let killing = Killing::new();
    for _ in 0..times(1, 20) {
        for act in acts {
            // Nothing of it, its first byte, much of it.
            for written in [0, 1, 150] {
                killing.round(act, When::Writing(written));
            }
        }
    }
    killing.end("in a record");
}

/// The same anywhere in a busy life.
#[test]
fn a_daemon_killed_at_any_point_starts_again_alone() {
    let killing = Killing::new();
    let seeds = 0..times(15, 400);
    for seed in seeds.clone() {
        killing.busy_round(seed.into());
    }
    killing.end(&format!("anywhere, seeds {seeds:?}"));
}

/// A house whose daemon is killed again and again.
struct Killing {
    house: House,
    /// What peers were handed, and how long each start took.
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    kills: usize,
    /// The leases of the material that peers were handed in this round, each time.
    handed: Vec<String>,
    revoked_later: usize,
    torn: usize,
    slowest_start: Duration,
    slowest_revocation: Duration,
}

impl Killing {
    fn new() -> Self {
        Self {
            house: House::new(),
            counts: Mutex::default(),
        }
    }

    /// Kills a daemon at that point of that act, between a start and a login that find everything
    /// as it should be.
    fn round(&self, act: Act, when: When) {
        let name = format!("{act:?}, {when:?}");
        let daemon = self.start(&name);
        let last = self.last_request();
        if matches!(act, Act::Begin | Act::Exchange) {
            self.kill_at_login(daemon, act, when);
        } else {
            self.log_in(&name);
            self.kill_at_lease(daemon, act, when);
        }
        let tries = self.house.server.mock.requests();
        let redeemed = tries
            .iter()
            .filter(|one| one.seq > last && one.method == REDEEM);
        assert!(redeemed.count() <= 1, "{name}: redeemed twice");
        self.check(&name);
    }

    /// Eight peers ask for this and that, some are answered, and the kill meets the others wherever
    /// they are.
    fn busy_round(&self, seed: u64) {
        let name = format!("seed {seed}");
        let mut random = Random(seed);
        let daemon = self.start(&name);
        if random.below(4) > 0 {
            self.log_in(&name);
        }
        let mut peers: Vec<_> = (0..8).map(|_| self.house.connect()).collect();
        for peer in &mut peers {
            for _ in 0..=random.below(3) {
                match random.below(4) {
                    0 => send(peer, "lease.create", &json!({ "selector": SELECTOR })),
                    1 => send(peer, "login.begin", &json!({})),
                    2 => send(peer, "broker.status", &json!({})),
                    _ => send(peer, "credential.get", &json!({ "selector": SELECTOR })),
                }
            }
        }
        let answered = usize::try_from(random.below(9)).unwrap();
        for peer in peers.iter_mut().take(answered) {
            let answer = peer.receive().unwrap();
            self.note(&answer);
        }
        daemon.kill();
        self.check(&name);
    }

    /// Alone, and with a log that verifies.
    fn start(&self, name: &str) -> Daemon {
        let before = SystemClock.now().boot;
        let level = if name.contains("Writing") {
            "off"
        } else {
            "trace"
        };
        let daemon = self.house.start(&mut self.house.daemon_command(), level);
        let took = before.until(SystemClock.now().boot);
        let mut counts = self.counts();
        counts.slowest_start = counts.slowest_start.max(took);
        daemon
    }

    /// What the log says is open is revoked, within 5 s by the server's own times.
    fn log_in(&self, name: &str) {
        let status = self.house.ask("broker.status", &json!({}));
        let open = status["result"]["unconfirmed_revocations"].as_u64();
        let open = usize::try_from(open.unwrap()).unwrap();
        let last = self.last_request();
        self.house.log_in();
        let revoked = Mutex::new(BTreeSet::new());
        self.house.server.wait_for_call(|call| {
            let mut revoked = revoked.lock().unwrap();
            if call.seq > last && call.method == REVOKE && call.result == "ok" {
                revoked.insert(call.seq);
            }
            revoked.len() >= open
        });
        let after: Vec<_> = after_login(&self.house).into_iter().flatten().collect();
        assert_eq!(after.len(), open, "{name}");
        let slowest = after.iter().max().copied().unwrap_or_default();
        assert!(slowest <= REVOKED_WITHIN, "{name}: {after:?}");
        let mut counts = self.counts();
        counts.revoked_later += open;
        counts.slowest_revocation = counts.slowest_revocation.max(slowest);
    }

    fn kill_at_login(&self, daemon: Daemon, act: Act, when: When) {
        let mut peer = self.house.connect();
        let mut last = self.last_request();
        if matches!(act, Act::Exchange) {
            let shown = peer.ask("login.begin", &json!({}));
            // First: once it is armed the next poll may be its end, and nobody there to send to.
            send(&mut peer, "login.wait", &json!({}));
            // Before the first poll, which comes an interval later.
            let code = find(&shown, "user_code").unwrap();
            self.house.server.mock.approve(&code).unwrap();
            last = self.last_request();
            self.arm(&daemon, when);
        } else {
            self.arm(&daemon, when);
            send(&mut peer, "login.begin", &json!({}));
        }
        self.kill(daemon, when, last, &mut peer);
    }

    fn kill_at_lease(&self, daemon: Daemon, act: Act, when: When) {
        let mut peer = self.house.connect();
        let selector = json!({ "selector": SELECTOR });
        let mut id = String::new();
        if matches!(act, Act::Redeem | Act::Revoke) {
            id = find(&peer.ask("lease.create", &selector), "lease_id").unwrap();
        }
        if matches!(act, Act::Logout) {
            let answer = peer.ask("credential.get", &selector);
            assert!(answer["result"]["fields"].is_object(), "{answer}");
            self.note(&answer);
        }
        let last = self.last_request();
        self.arm(&daemon, when);
        let lease = json!({ "lease_id": id });
        match act {
            Act::Create => send(&mut peer, "lease.create", &selector),
            Act::Redeem => send(&mut peer, "lease.redeem", &lease),
            Act::Revoke => send(&mut peer, "lease.revoke", &lease),
            Act::Get => send(&mut peer, "credential.get", &selector),
            Act::Logout => send(&mut peer, "logout", &json!({})),
            Act::Begin | Act::Exchange => panic!("not about a lease"),
        }
        self.kill(daemon, when, last, &mut peer);
        // What came before the end.
        while let Some(answer) = peer.receive() {
            self.note(&answer);
        }
    }

    fn arm(&self, daemon: &Daemon, when: When) {
        let mock = &self.house.server.mock;
        match when {
            When::Stalled(method) => mock.fault(method, FaultKind::Stall, 1),
            When::Lost(method) => mock.fault(method, FaultKind::CloseAfterCommit, 1),
            When::Answered(_) => {}
            When::Writing(bytes) => {
                let segments = files(&self.house.audit()).into_iter();
                let segments =
                    segments.filter(|(path, _)| path.extension().is_some_and(|end| end == "jsonl"));
                let (_, newest) = segments.max().unwrap();
                let length = u64::try_from(newest.len()).unwrap();
                daemon.limit_files_to(length + bytes);
            }
        }
    }

    fn kill(&self, daemon: Daemon, when: When, last: u64, peer: &mut Peer) {
        let wait = |method: &str, result: &str| {
            self.house.server.wait_for_call(|call| {
                call.seq > last && call.method == method && call.result == result
            });
        };
        match when {
            When::Stalled(method) => wait(method, "stalled"),
            When::Lost(method) => wait(method, "closed"),
            When::Answered(method) => wait(method, "ok"),
            // The kernel ends a process that begins to write where it may not.
            When::Writing(0) => {
                let ended = daemon.ended();
                assert_eq!(ended.signal(), Some(Signal::XFSZ.as_raw()), "{ended}");
                return;
            }
            // It wrote as much as it could: nothing leaves. The mending of the log that follows at
            // once is a write where it may not, which may end it before the answer is out.
            When::Writing(_) => {
                self.counts().torn += 1;
                let Some(answer) = peer.receive() else {
                    let ended = daemon.ended();
                    assert_eq!(ended.signal(), Some(Signal::XFSZ.as_raw()), "{ended}");
                    return;
                };
                assert!(!answer["result"]["fields"].is_object(), "{answer}");
            }
        }
        daemon.kill();
    }

    /// After a kill: the log verifies, no lease was asked for material oftener than it may be, each
    /// redemption that the log has is one at the server, and whatever was handed out in this round
    /// was redeemed and has its records.
    fn check(&self, name: &str) {
        self.counts().kills += 1;
        let audit = self.house.audit();
        let report = audit::verify::verify(&audit, &Keys::none()).unwrap();
        assert_eq!(report.damage, None, "{name}");
        let records = audit::verify::read(&audit, usize::MAX).unwrap();
        let ours = |action| {
            let records = records.iter().map(|entry| &entry.record);
            let done = records.filter(move |record| {
                record.action == action && record.outcome == AuditOutcome::Ok
            });
            per_lease(done.filter_map(|record| Some(record.lease_id.as_ref()?.as_str().to_owned())))
        };
        let (redeemed, delivered) = (ours(AuditAction::LeaseRedeem), ours(AuditAction::Deliver));
        let mock = &self.house.server.mock;
        let mut tries = mock.audit();
        tries.retain(|event| event.action == "lease.redeem" && !event.lease_id.is_empty());
        // The server refuses what is too much; the daemon does not even ask.
        let asked = per_lease(tries.iter().map(|event| event.lease_id.clone()));
        for lease in mock.leases() {
            let asked = asked.get(&lease.lease_id).copied().unwrap_or_default();
            assert!(asked <= lease.max_redemptions, "{name}: {asked}, {lease:?}");
        }
        tries.retain(|event| event.outcome == "ok");
        let done = per_lease(tries.into_iter().map(|event| event.lease_id));
        for (id, count) in &redeemed {
            assert!(
                Some(count) <= done.get(id),
                "{name}: {id}: {count}, {done:?}"
            );
        }
        for id in delivered.keys() {
            assert!(redeemed.contains_key(id), "{name}: {id} was never redeemed");
        }
        let handed = std::mem::take(&mut self.counts().handed);
        for (id, count) in per_lease(handed.into_iter()) {
            assert!(
                delivered.get(&id) >= Some(&count),
                "{name}: {id} left without its record"
            );
        }
    }

    /// Nothing that a daemon wrote was deleted since: one look is as good as many.
    fn no_secret_on_disk(&self, name: &str) {
        let secrets = self.house.server.mock.secrets().into_iter();
        let forms = secrets.flat_map(|secret| in_every_form(&secret.kind, &secret.value));
        let canaries = Canaries::new(forms.collect());
        for (path, bytes) in files(self.house.folder.path()) {
            if !bytes.starts_with(b"\x7fELF") {
                let seen = canaries.seen_in(&bytes);
                assert!(seen.is_empty(), "{name}: {seen:?} in {}", path.display());
            }
        }
    }

    /// One more login: of the leases that anybody knows, and of all that were redeemed, none lives.
    fn end(&self, name: &str) {
        let daemon = self.start(name);
        self.log_in(name);
        assert!(daemon.stop().success());
        for lease in self.house.server.mock.leases() {
            // One that was made at the issuer and whose answer the kill swallowed was never
            // redeemed and is unknown here: it runs out.
            assert!(
                lease.state == LeaseState::Revoked || lease.redemptions_used == 0,
                "{lease:?}"
            );
        }
        self.no_secret_on_disk(name);
        let counts = self.counts();
        let aside = files(&self.house.audit()).into_iter();
        let aside = aside.filter(|(path, _)| path.to_string_lossy().contains("/torn-"));
        // What the daemon's own mending has cut off in time is not there to be moved.
        let (aside, torn) = (aside.count(), counts.torn);
        assert!(
            aside <= torn && (aside > 0 || torn == 0),
            "{name}: {aside}, {torn}"
        );
        figure(&format!(
            "{} kills {name}, {aside} of {torn} torn lines moved aside: {} leases revoked later, within {:?} of the login at most; \
             slowest start {:?}, of a debug build beside other tests",
            counts.kills, counts.revoked_later, counts.slowest_revocation, counts.slowest_start
        ));
    }

    /// Notes whose material it is, if it has any.
    fn note(&self, answer: &Value) {
        if answer["result"]["fields"].is_object() {
            let id = find(answer, "lease_id").unwrap();
            self.counts().handed.push(id);
        }
    }

    fn last_request(&self) -> u64 {
        let requests = self.house.server.mock.requests();
        requests.last().map_or(0, |last| last.seq)
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }
}

/// How often each lease is named.
fn per_lease(ids: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

fn send(peer: &mut Peer, method: &str, params: &Value) {
    let line = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    peer.send(format!("{line}\n").as_bytes());
}

/// `SplitMix64`: the same numbers for the same seed, anywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
