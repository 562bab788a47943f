use std::time::Duration;

use aegis_broker::audit::{self, Keys};
use aegis_mock::{AuditRecord, LeaseState};
use serde_json::json;

use super::house::{House, SELECTOR};

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

/// SIGKILL at many points of a busy life: the next start needs no help, the log verifies each
/// time, and in the end nothing is live that nobody knows.
#[test]
fn a_daemon_killed_at_any_point_starts_again_alone() {
    let house = House::new();
    for round in 0_u32..12 {
        let daemon = house.daemon();
        if round % 3 != 0 {
            house.log_in();
        }
        // Requests are on their way, none of them awaited: the kill meets them wherever they are.
        let mut peers: Vec<_> = (0..8).map(|_| house.connect()).collect();
        for (index, peer) in peers.iter_mut().enumerate() {
            let method = if index % 2 == 0 {
                "credential.get"
            } else {
                "lease.create"
            };
            let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"selector": SELECTOR}});
            peer.send(format!("{line}\n").as_bytes());
        }
        for peer in peers.iter_mut().take(usize::try_from(round).unwrap() % 8) {
            peer.receive();
        }
        daemon.kill();
        let report = audit::verify::verify(&house.audit(), &Keys::none()).unwrap();
        assert_eq!(report.damage, None, "round {round}");
    }
    let daemon = house.daemon();
    house.log_in();
    assert!(daemon.stop().success());
    // A lease that was made at the issuer and whose answer the kill swallowed was never redeemed
    // and is unknown here: it runs out. What was redeemed is known, and revoked.
    for lease in house.server.mock.leases() {
        assert!(
            lease.state == LeaseState::Revoked || lease.redemptions_used == 0,
            "{lease:?}"
        );
    }
}
