//! Audit before delivery, and reconciliation with the server's own events.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use aegis_broker::broker::handle::Connection;
use aegis_broker::broker::ports::{AuditAction, AuditLog as _, AuditOutcome, AuditRecord, Try};
use aegis_broker::model::{ErrorCode, HolderClass};
use aegis_broker::time::{Clock as _, SystemClock};
use aegis_mock::{FaultKind, LeaseState as ServerState};
use tokio::task::JoinSet;

use crate::world::{
    CREATE, DEPLOY, Daemon, EXCHANGE, READER, REDEEM, REVOKE, World, code, create, get, policy,
    secret, selector, user_code,
};

/// Breaks or heals the audit log of a daemon.
type Turn = fn(&World, &Daemon);

/// AU-1, AU-2: while a record cannot be written nothing is delivered, and nothing created or
/// redeemed at the issuer that no record would tell of; afterwards everything is again.
#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_without_its_record() {
    let rows: [(&str, bool, Turn, Turn); 6] = [
        ("log closed, nothing held", false, close, open),
        ("log closed, material held", true, close, open),
        ("disk full, nothing held", false, fill, make_room),
        ("disk full, material held", true, fill, make_room),
        ("no sync, nothing held", false, block_anchor, free_anchor),
        ("no sync, material held", true, block_anchor, free_anchor),
    ];
    for (name, held, fail, heal) in rows {
        let world = World::new().await;
        let (daemon, connection) = world.logged_in().await;
        if held {
            get(&connection, DEPLOY).await.unwrap();
        }
        let asked = world.tries(CREATE).len() + world.tries(REDEEM).len();
        fail(&world, &daemon);
        for _ in 0..50 {
            let refused = get(&connection, DEPLOY).await;
            assert_eq!(code(refused), Some(ErrorCode::AuditUnavailable), "{name}");
        }
        let lease = create(&connection, READER, 1, HolderClass::None).await;
        assert_eq!(code(lease), Some(ErrorCode::AuditUnavailable), "{name}");
        assert!(connection.status().await.is_ok(), "{name}");
        let now_asked = world.tries(CREATE).len() + world.tries(REDEEM).len();
        assert_eq!(now_asked, asked, "{name}");

        heal(&world, &daemon);
        let material = secret(&get(&connection, DEPLOY).await.unwrap());
        assert_eq!(world.whoami("gcp", &material).await, 200, "{name}");
        daemon.stop().await;
        assert!(
            world
                .mock
                .leases()
                .iter()
                .all(|lease| lease.state == ServerState::Revoked),
            "{name}: a lease was forgotten"
        );
        assert_eq!(world.verify().damage, None, "{name}");
        assert_eq!(deliveries(&world), 1 + usize::from(held), "{name}");
    }
}

/// What leaves a record in the log.
#[derive(Debug, Clone, Copy)]
enum Act {
    Get,
    GetHeld,
    GetUnknown,
    Create,
    Redeem,
    Revoke,
    Begin,
    Login,
    Cancel,
    Logout,
    Lock,
    Policy,
    Refused,
}

/// Does it, and says how it was answered.
async fn act(
    world: &World,
    daemon: &Daemon,
    connection: &Connection,
    act: Act,
) -> Option<ErrorCode> {
    let mut leases = connection.leases().await.unwrap().into_iter();
    let lease = leases.find(|lease| lease.selector == selector(READER));
    let lease = lease.map(|lease| lease.lease_id);
    match act {
        Act::Get => code(get(connection, READER).await),
        Act::GetHeld => code(get(connection, DEPLOY).await),
        Act::GetUnknown => code(get(connection, "gcp/nobody/knows").await),
        Act::Create => code(create(connection, DEPLOY, 1, HolderClass::None).await),
        Act::Redeem => code(connection.lease_redeem(lease.unwrap()).await),
        Act::Revoke => code(connection.lease_revoke(lease.unwrap()).await),
        Act::Begin => code(connection.login_begin(None).await),
        Act::Login => {
            let shown = user_code(&connection.login_begin(None).await.unwrap());
            world.mock.approve(&shown).unwrap();
            code(connection.login_wait(None).await)
        }
        Act::Cancel => {
            connection.login_begin(None).await.unwrap();
            code(connection.login_cancel(None).await)
        }
        Act::Logout => code(connection.logout(None).await),
        Act::Lock => code(connection.lock().await),
        Act::Policy => code(daemon.handle.replace_policy(policy())),
        Act::Refused => code(daemon.handle.policy_refused()),
    }
}

/// AU-1, LC-5: a full disk meets everything that leaves a record: nothing secret and no new lease
/// is handed out, while who ends something is not kept from it. The daemon lives, has room again
/// and serves.
#[tokio::test(start_paused = true)]
async fn a_full_disk_meets_everything_that_leaves_a_record() {
    let no = Some(ErrorCode::AuditUnavailable);
    let rows = [
        (Act::Get, no),
        (Act::GetHeld, no),
        (Act::GetUnknown, Some(ErrorCode::TargetUnknown)),
        (Act::Create, no),
        (Act::Redeem, no),
        (Act::Revoke, None),
        (Act::Begin, None),
        (Act::Login, None),
        (Act::Cancel, None),
        (Act::Logout, None),
        (Act::Lock, None),
        (Act::Policy, None),
        (Act::Refused, None),
    ];
    for (what, expected) in rows {
        let world = World::new().await;
        let (daemon, connection) = world.logged_in().await;
        get(&connection, DEPLOY).await.unwrap();
        create(&connection, READER, 3, HolderClass::None)
            .await
            .unwrap();
        if matches!(what, Act::Begin | Act::Login | Act::Cancel) {
            connection.logout(None).await.unwrap();
        }
        let (written, asked) = (world.records().len(), world.tries(REDEEM).len());
        daemon.sink.set_full(true);
        let told = act(&world, &daemon, &connection, what).await;
        assert_eq!(told, expected, "{what:?}");
        assert!(connection.status().await.is_ok(), "{what:?}");
        assert_eq!(world.records().len(), written, "{what:?}");
        assert_eq!(world.tries(REDEEM).len(), asked, "{what:?}");

        daemon.sink.set_full(false);
        world.log_in_again(&connection).await;
        let material = secret(&get(&connection, DEPLOY).await.unwrap());
        assert_eq!(world.whoami("gcp", &material).await, 200, "{what:?}");
        daemon.sink.set_full(true);
        daemon.stop().await;
        let leases = world.mock.leases();
        let is_over = |state| state == ServerState::Revoked;
        assert!(leases.iter().all(|lease| is_over(lease.state)), "{what:?}");
        assert_eq!(world.verify().damage, None, "{what:?}");
    }
}

/// AU-1, AU-2: callers that ask at the same time share one write, and each has its record.
#[tokio::test(start_paused = true)]
async fn a_crowd_shares_one_write() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    get(&connection, DEPLOY).await.unwrap();
    let connection = Arc::new(connection);
    for crowd in [1_usize, 40] {
        let (writes, records) = (daemon.sink.writes(), deliveries(&world));
        let mut gets = JoinSet::new();
        for _ in 0..crowd {
            let connection = Arc::clone(&connection);
            gets.spawn(async move { get(&connection, DEPLOY).await.map(|_| ()) });
        }
        for answer in gets.join_all().await {
            answer.unwrap();
        }
        assert_eq!(daemon.sink.writes(), writes + 1, "{crowd}");
        assert_eq!(deliveries(&world), records + crowd, "{crowd}");
    }
}

fn deliveries(world: &World) -> usize {
    world
        .records()
        .iter()
        .filter(|record| record.action == AuditAction::Deliver)
        .count()
}

fn close(_: &World, daemon: &Daemon) {
    daemon.sink.set_closed(true);
}

fn open(_: &World, daemon: &Daemon) {
    daemon.sink.set_closed(false);
}

fn fill(_: &World, daemon: &Daemon) {
    daemon.sink.set_full(true);
}

fn make_room(_: &World, daemon: &Daemon) {
    daemon.sink.set_full(false);
}

/// The anchor's place is taken, so that the next sync fails.
fn block_anchor(world: &World, daemon: &Daemon) {
    // Nothing is left to sync, so that the place is free.
    daemon.sink.flush().unwrap();
    fs::create_dir(world.audit_folder().join("anchor.new")).unwrap();
    let record = AuditRecord::new(AuditAction::PolicyLoad, AuditOutcome::Ok);
    // In the kernel all the same: only the sync shows it.
    let mut sink = daemon.sink.clone();
    sink.append(&record, SystemClock.now()).unwrap();
    sink.flush().unwrap_err();
}

fn free_anchor(world: &World, daemon: &Daemon) {
    fs::remove_dir(world.audit_folder().join("anchor.new")).unwrap();
    daemon.sink.flush().unwrap();
}

/// AU-9, `aegis.md` 11: what the server did and what we recorded match one to one, by request id
/// and `jti`.
#[tokio::test(start_paused = true)]
async fn both_audits_tell_the_same() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    get(&connection, DEPLOY).await.unwrap();
    for redemptions in [1, 2] {
        let lease = create(&connection, READER, redemptions, HolderClass::None)
            .await
            .unwrap();
        for _ in 0..redemptions {
            connection
                .lease_redeem(lease.lease_id.clone())
                .await
                .unwrap();
        }
        world.mock.rotate_nonce();
        connection.lease_revoke(lease.lease_id).await.unwrap();
    }
    connection.logout(None).await.unwrap();
    world.log_in(&connection).await;
    get(&connection, READER).await.unwrap();
    daemon.stop().await;

    let mut ours = BTreeMap::new();
    for record in world.records() {
        let action = match record.action {
            AuditAction::LoginBegin => "login.begin",
            AuditAction::Login => "login.exchange",
            AuditAction::LeaseCreate => "lease.create",
            AuditAction::LeaseRedeem => "lease.redeem",
            AuditAction::LeaseRevoke => "lease.revoke",
            AuditAction::SessionEnd => "session.end",
            AuditAction::Start
            | AuditAction::Stop
            | AuditAction::PolicyLoad
            | AuditAction::KeyStoreChoice
            | AuditAction::Logout
            | AuditAction::Lock
            // Nothing is renewed in this world.
            | AuditAction::SessionRenew
            | AuditAction::IdentityRenew
            | AuditAction::Deliver
            | AuditAction::HttpRequest
            | AuditAction::HttpResponse
            | AuditAction::Leak
            | AuditAction::Deny
            | AuditAction::Decoy
            | AuditAction::CallerPause
            | AuditAction::Reconcile => continue,
        };
        assert_eq!(record.outcome, AuditOutcome::Ok);
        let request_id = record.trace.request_id.expect("a request id").to_string();
        let jti = record.trace.proof_jti.map(|jti| jti.to_string());
        let lease_id = record.lease_id.map(|id| id.to_string());
        let told = (
            action.to_owned(),
            jti.unwrap_or_default(),
            lease_id.unwrap_or_default(),
        );
        assert_eq!(ours.insert(request_id, told), None, "one record each");
    }
    let theirs: BTreeMap<_, _> = world
        .mock
        .audit()
        .into_iter()
        // What the person did in the browser is no call of ours.
        .filter(|event| event.outcome == "ok" && event.action != "login.approve")
        .map(|event| {
            let told = (event.action, event.proof_jti, event.lease_id);
            (event.request_id, told)
        })
        .collect();
    assert_eq!(ours, theirs);
    assert_eq!(theirs.len(), 19);
}

/// DP-11, AU-9: of calls that took several tries, each try is named by one record: the proofs of
/// all requests that reached the server, and the request ids of all answers that reached us.
#[tokio::test(start_paused = true)]
async fn every_try_of_a_call_is_in_its_record() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    for (method, kind, count) in [
        (CREATE, FaultKind::CloseAfterCommit, 1),
        (CREATE, FaultKind::NonceOnce, 1),
        (REDEEM, FaultKind::NonceOnce, 1),
        (REVOKE, FaultKind::Unavailable, 2),
    ] {
        world.mock.fault(method, kind, count);
    }
    get(&connection, DEPLOY).await.unwrap();
    connection.logout(None).await.unwrap();
    daemon.stop().await;
    assert_eq!(world.verify().damage, None);

    let mut named = BTreeMap::new();
    for record in world.records() {
        let last = Try {
            request_id: record.trace.request_id,
            proof_jti: record.trace.proof_jti,
        };
        for one in record.trace.earlier.into_iter().chain([last]) {
            let Some(jti) = one.proof_jti else { continue };
            let id = one.request_id.map(|id| id.to_string());
            assert_eq!(named.insert(jti.to_string(), id), None, "one record each");
        }
    }
    let sent = [CREATE, REDEEM, REVOKE].map(|method| world.tries(method));
    assert_eq!(sent.each_ref().map(Vec::len), [3, 2, 3]);
    for request in sent.concat() {
        let heard = (request.result != "closed").then_some(request.request_id);
        let named = named.get(&request.jti.unwrap());
        assert_eq!(named, Some(&heard), "{} {}", request.method, request.result);
    }
}

/// AU-9: of a login whose answer was lost, and of a lease that was given up while it was made, the
/// server's record has its counterpart here too. LC-7: that lease is counted while it can live.
#[tokio::test(start_paused = true)]
async fn what_the_server_did_and_nobody_heard_of_is_in_a_record() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    world.mock.fault(EXCHANGE, FaultKind::CloseAfterCommit, 1);
    let login = user_code(&connection.login_begin(None).await.unwrap());
    world.mock.approve(&login).unwrap();
    connection.login_wait(None).await.unwrap_err();
    world.log_in(&connection).await;

    world.mock.fault(CREATE, FaultKind::CloseAfterCommit, 4);
    get(&connection, DEPLOY).await.unwrap_err();
    let status = connection.status().await.unwrap();
    assert_eq!(status.unconfirmed_revocations, 1);
    world.mock.fault(CREATE, FaultKind::Stall, 1);
    let last = world.mock.requests().last().map_or(0, |last| last.seq);
    let (asked, ended) = tokio::join!(get(&connection, READER), async {
        world.wait_for_request_number(last + 1).await;
        connection.logout(None).await.unwrap()
    });
    asked.unwrap_err();
    assert_eq!((ended.revoked, ended.unconfirmed), (0, 2));
    let status = connection.status().await.unwrap();
    assert_eq!(status.unconfirmed_revocations, 2);
    daemon.stop().await;

    let records = world.records();
    let named: BTreeSet<_> = records
        .iter()
        .flat_map(|record| {
            let earlier = record.trace.earlier.iter().map(|one| &one.proof_jti);
            earlier.chain([&record.trace.proof_jti])
        })
        .flatten()
        .map(ToString::to_string)
        .collect();
    let theirs: Vec<_> = world
        .mock
        .audit()
        .into_iter()
        .filter(|event| !event.proof_jti.is_empty())
        .collect();
    for event in &theirs {
        let jti = &event.proof_jti;
        assert!(named.contains(jti), "{} {}", event.action, event.outcome);
    }
    let actions: BTreeSet<_> = theirs.iter().map(|event| event.action.as_str()).collect();
    // The end of the session took the lease along whose name nobody heard.
    let expected = [
        "lease.create",
        "lease.revoke",
        "login.exchange",
        "session.end",
    ];
    assert_eq!(actions, BTreeSet::from(expected));
    for request in world.tries(CREATE) {
        assert!(named.contains(&request.jti.unwrap()), "{}", request.result);
    }
    let stop = records.last().unwrap();
    let reason = stop.reason.as_ref().map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("unconfirmed:2"));
}
