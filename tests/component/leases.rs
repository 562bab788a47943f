//! The life of leases, from the first request to the end at the server.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aegis_broker::broker::ports::{AuditAction, AuditOutcome, AuditRecord};
use aegis_broker::model::{ErrorCode, FieldValue, HolderClass, LeaseState, MaterialKind};
use aegis_mock::{FaultKind, LeaseState as ServerState};
use tokio::task::JoinSet;

use crate::evidence::{figure, times};
use crate::world::{
    CREATE, DEPLOY, LONGER_THAN_A_CODE, Peer, READER, REDEEM, REVOKE, World, code, create, get,
    get_held, secret,
};

/// The states of all leases at the server.
fn server_states(world: &World) -> Vec<ServerState> {
    let leases = world.mock.leases();
    leases.into_iter().map(|lease| lease.state).collect()
}

/// LC-1, LC-5: made, redeemed, used at the provider, revoked, and dead there afterwards.
#[tokio::test(start_paused = true)]
async fn a_lease_lives_from_create_to_revoke() {
    for (target, provider) in [(DEPLOY, "gcp"), (READER, "generic")] {
        let world = World::new().await;
        let (daemon, connection) = world.logged_in().await;
        let lease = create(&connection, target, 2, HolderClass::None)
            .await
            .unwrap();
        assert_eq!(lease.state, LeaseState::Active, "{target}");
        let delivery = connection
            .lease_redeem(lease.lease_id.clone())
            .await
            .unwrap();
        let material = secret(&delivery);
        assert_eq!(world.whoami(provider, &material).await, 200, "{target}");

        let revoked = connection
            .lease_revoke(lease.lease_id.clone())
            .await
            .unwrap();
        assert_eq!(revoked.state, LeaseState::Revoked, "{target}");
        assert_eq!(world.whoami(provider, &material).await, 401, "{target}");
        assert_eq!(server_states(&world), [ServerState::Revoked], "{target}");
        let again = connection.lease_redeem(lease.lease_id.clone()).await;
        assert_eq!(code(again), Some(ErrorCode::LeaseRevoked), "{target}");
        let twice = connection.lease_revoke(lease.lease_id).await.unwrap();
        assert_eq!(twice.state, LeaseState::Revoked, "{target}: idempotent");
        assert_eq!(world.tries(REVOKE).len(), 1, "{target}");
        daemon.stop().await;
        assert_eq!(world.verify().damage, None);
    }
}

/// `aegis.md` 10: material that comes as another target's is handed to nobody. The lease asked for
/// is revoked, for a `get` also the one made in its place.
#[tokio::test(start_paused = true)]
async fn material_of_another_target_is_refused_and_its_lease_revoked() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    let lease = create(&connection, DEPLOY, 2, HolderClass::None)
        .await
        .unwrap();
    world.mock.fault(REDEEM, FaultKind::WrongTarget, 3);
    let redeemed = connection.lease_redeem(lease.lease_id.clone()).await;
    assert_eq!(code(redeemed), Some(ErrorCode::AegisProtocol));
    let got = get(&connection, DEPLOY).await;
    assert_eq!(code(got), Some(ErrorCode::AegisProtocol));
    let over = connection.lease_redeem(lease.lease_id).await;
    assert_eq!(code(over), Some(ErrorCode::LeaseRevoked));
    assert_eq!(world.tries(REDEEM).len(), 3);
    daemon.stop().await;

    let leases = world.mock.leases();
    assert_eq!(leases.len(), 3);
    for lease in &leases {
        assert_eq!(lease.redemptions_used, 1, "the server did its part");
        assert_eq!(lease.state, ServerState::Revoked);
    }
    let uncertain = world.mock.audit();
    let uncertain = uncertain
        .iter()
        .filter(|event| event.action == "lease.revoke" && event.reason == "delivery_uncertain");
    assert_eq!(uncertain.count(), 3, "at once, not by the stop");
    for secret in world.mock.secrets() {
        if secret.kind == "access_token" {
            assert_eq!(world.whoami("gcp", &secret.value).await, 401);
        }
    }
    let records = world.records();
    let told = |record: &&AuditRecord| {
        record.action == AuditAction::LeaseRedeem && record.outcome == AuditOutcome::Error
    };
    assert_eq!(records.iter().filter(told).count(), 3);
    let delivered = |record: &AuditRecord| record.action == AuditAction::Deliver;
    assert!(!records.iter().any(delivered));
    world.assert_nothing_secret_in("");
}

/// Material that is held is served from memory.
#[tokio::test(start_paused = true)]
async fn a_second_get_makes_no_request() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    let first = secret(&get(&connection, DEPLOY).await.unwrap());
    let before = world.mock.requests().len();
    let same = secret(&get(&connection, DEPLOY).await.unwrap());
    let other = secret(&get(&daemon.connect(), DEPLOY).await.unwrap());
    assert!(first == same && first == other);
    assert_eq!(world.mock.requests().len(), before);
    assert_eq!(world.whoami("gcp", &first).await, 200);
}

/// LC-2: what has run out is not served; the next caller gets another lease.
#[tokio::test(start_paused = true)]
async fn an_expired_credential_is_replaced_not_served() {
    let world = World::new().await;
    let (_daemon, connection) = world.logged_in().await;
    let first = get(&connection, DEPLOY).await.unwrap();
    world.after(Duration::from_secs(299)).await;
    let same = get(&connection, DEPLOY).await.unwrap();
    assert!(secret(&first) == secret(&same));
    world.after(Duration::from_secs(1)).await;
    let next = get(&connection, DEPLOY).await.unwrap();
    assert!(secret(&first) != secret(&next));
    assert_eq!(world.whoami("gcp", &secret(&first)).await, 401);
    assert_eq!(world.whoami("gcp", &secret(&next)).await, 200);
}

/// LC-4: a hundred equal callers at once share one lease and one redemption.
#[tokio::test(start_paused = true)]
async fn equal_gets_share_one_lease() {
    let world = World::new().await;
    let (daemon, _connection) = world.logged_in().await;
    let mut getting = JoinSet::new();
    for _ in 0..100 {
        let connection = daemon.connect();
        getting.spawn(async move { get(&connection, DEPLOY).await.map(|d| secret(&d)) });
    }
    let secrets: BTreeSet<_> = getting
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(secrets.len(), 1);
    assert_eq!(
        (world.tries(CREATE).len(), world.tries(REDEEM).len()),
        (1, 1)
    );
}

/// LC-6: parallel redemptions yield exactly as many successes as the lease has.
#[tokio::test(start_paused = true)]
async fn parallel_redemptions_yield_exactly_the_maximum() {
    for max in [1, 3, 10] {
        let world = World::new().await;
        let (daemon, connection) = world.logged_in().await;
        let lease = create(&connection, DEPLOY, max, HolderClass::None)
            .await
            .unwrap();
        let mut redeeming = JoinSet::new();
        for _ in 0..20 {
            let connection = Arc::new(daemon.connect());
            let id = lease.lease_id.clone();
            redeeming.spawn(async move { connection.lease_redeem(id).await });
        }
        let mut secrets = BTreeSet::new();
        for answer in redeeming.join_all().await {
            match answer {
                Ok(delivery) => {
                    secrets.insert(secret(&delivery));
                }
                Err(refusal) => assert_eq!(refusal.code, ErrorCode::LeaseExhausted),
            }
        }
        let max = usize::try_from(max).unwrap();
        assert_eq!(secrets.len(), max);
        assert_eq!(world.tries(REDEEM).len(), max);
        assert_eq!(server_states(&world), [ServerState::Exhausted]);
    }
}

/// LC-7: a lease held by a connection or a process ends at the server with it, and not before.
#[tokio::test(start_paused = true)]
async fn a_lease_ends_with_its_holder() {
    let rows = [
        ("connection closes", HolderClass::Connection, true),
        ("process exits", HolderClass::Client, false),
    ];
    for (name, holder, closes) in rows {
        let world = World::new().await;
        let (daemon, other) = world.logged_in().await;
        let peer = Peer::new();
        let connection = daemon.connect_as(&peer);
        let delivery = get_held(&connection, DEPLOY, holder).await.unwrap();
        let lease = create(&connection, READER, 1, holder).await.unwrap();
        let material = secret(&delivery);
        assert_eq!(server_states(&world).len(), 2, "{name}");
        let seen = world.mock.requests().len();
        if closes {
            drop(connection);
        } else {
            peer.exit();
        }
        let both = u64::try_from(seen + 2).unwrap();
        world.wait_for_request_number(both).await;
        assert_eq!(server_states(&world), [ServerState::Revoked; 2], "{name}");
        assert_eq!(world.whoami("gcp", &material).await, 401, "{name}");
        let gone = other.lease_redeem(lease.lease_id).await;
        assert_eq!(code(gone), Some(ErrorCode::LeaseRevoked), "{name}");
        let reasons: Vec<_> = world
            .mock
            .audit()
            .into_iter()
            .filter(|event| event.action == "lease.revoke")
            .map(|event| event.reason)
            .collect();
        assert_eq!(reasons, ["holder_exited"; 2], "{name}");
    }
}

/// LC-7: a lease that two connections hold lives until the second is gone.
#[tokio::test(start_paused = true)]
async fn a_shared_lease_lives_as_long_as_one_holder() {
    let world = World::new().await;
    let (daemon, _connection) = world.logged_in().await;
    let (first, second) = (daemon.connect(), daemon.connect());
    let held = HolderClass::Connection;
    let material = secret(&get_held(&first, DEPLOY, held).await.unwrap());
    get_held(&second, DEPLOY, held).await.unwrap();
    drop(first);
    second.status().await.unwrap();
    assert_eq!(world.whoami("gcp", &material).await, 200);
    drop(second);
    world.wait_for_a_revocation().await;
    assert_eq!(world.whoami("gcp", &material).await, 401);
}

/// LC-5, LC-7, OA-16: logout and lock end everything at the server, and nothing is served after.
#[tokio::test(start_paused = true)]
async fn logout_and_lock_revoke_everything() {
    for (name, locks, expected) in [
        ("logout", false, ErrorCode::LoginRequired),
        ("lock", true, ErrorCode::Locked),
    ] {
        let world = World::new().await;
        let (_daemon, connection) = world.logged_in().await;
        let material = secret(&get(&connection, DEPLOY).await.unwrap());
        let lease = create(&connection, READER, 3, HolderClass::None)
            .await
            .unwrap();
        connection
            .lease_redeem(lease.lease_id.clone())
            .await
            .unwrap();
        let ended = if locks {
            connection.lock().await.unwrap()
        } else {
            connection.logout(None).await.unwrap()
        };
        assert_eq!((ended.revoked, ended.unconfirmed), (2, 0), "{name}");
        assert_eq!(server_states(&world), [ServerState::Revoked; 2], "{name}");
        assert_eq!(world.whoami("gcp", &material).await, 401, "{name}");
        let before = world.mock.requests().len();
        let refused = [
            code(get(&connection, DEPLOY).await),
            code(create(&connection, DEPLOY, 1, HolderClass::None).await),
        ];
        assert_eq!(refused, [Some(expected); 2], "{name}");
        assert!(connection.lease_redeem(lease.lease_id).await.is_err());
        assert_eq!(world.mock.requests().len(), before, "{name}");
        world.nothing_is_sent_for(LONGER_THAN_A_CODE).await;

        world.log_in(&connection).await;
        let next = secret(&get(&connection, DEPLOY).await.unwrap());
        assert_eq!(world.whoami("gcp", &next).await, 200, "{name}");
    }
}

/// LC-8: a lease whose making a logout overtakes is revoked, not orphaned.
#[tokio::test(start_paused = true)]
async fn a_lease_that_logout_overtakes_is_revoked() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    // The first try does nothing, so that the logout comes between it and the second.
    world.mock.fault(CREATE, FaultKind::RateLimited, 1);
    let other = daemon.connect();
    let getting = tokio::spawn(async move { get(&other, DEPLOY).await });
    world
        .mock
        .wait_for_request(|request| request.method == CREATE)
        .await;
    connection.logout(None).await.unwrap();
    assert_eq!(code(getting.await.unwrap()), Some(ErrorCode::LoginRequired));
    world.after(Duration::from_secs(5)).await;
    assert_eq!(server_states(&world), [ServerState::Revoked]);
}

/// LC-8: callers that give up at any point, some hanging up too, leave no lease behind, here or at
/// the server.
#[tokio::test(start_paused = true)]
async fn callers_that_give_up_leave_no_orphan() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    let (mut served, mut gave_up, mut stayed) = (0, 0, VecDeque::new());
    for number in 0..times(300, 10_000) {
        world.log_in_again(&connection).await;
        let own = daemon.connect();
        let asked = async {
            match number % 3 {
                0 => create(&own, READER, 1, HolderClass::None).await,
                1 => create(&own, READER, 1, HolderClass::Connection).await,
                _ => get_held(&own, DEPLOY, HolderClass::Connection)
                    .await
                    .map(|delivery| delivery.lease),
            }
        };
        // Between two looks everybody else goes on as far as what has arrived takes them: a call
        // that is answered takes four or so.
        let looks = number % 6;
        match with_patience(looks, asked).await {
            None => gave_up += 1,
            Some(lease) => {
                served += 1;
                let lease = lease.unwrap();
                if number % 3 == 0 {
                    own.lease_revoke(lease.lease_id).await.unwrap();
                }
            }
        }
        // Half of them stay for a while.
        if number % 4 < 2 {
            stayed.push_front(own);
            stayed.truncate(64);
        }
    }
    drop(stayed);
    assert!(served > 0 && gave_up > 0, "{served}, {gave_up}");
    // Time passes once all answers are in.
    world.after(Duration::from_secs(1)).await;
    let status = connection.status().await.unwrap();
    assert_eq!((status.live_leases, status.unconfirmed_revocations), (0, 0));
    let states = server_states(&world);
    let left = states
        .iter()
        .filter(|state| **state != ServerState::Revoked);
    assert_eq!(left.count(), 0, "of {}", states.len());
    figure(&format!(
        "{gave_up} callers that gave up and {served} that did not: 0 of {} leases left",
        states.len()
    ));
    daemon.stop().await;
}

/// What comes of it within so many looks.
async fn with_patience<F: Future>(looks: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..looks {
        tokio::select! {
            biased;
            done = &mut future => return Some(done),
            () = tokio::task::yield_now() => {}
        }
    }
    None
}

/// LC-7: the daemon's stop revokes what is live and refuses what comes after.
#[tokio::test(start_paused = true)]
async fn a_stop_revokes_everything() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    let material = secret(&get(&connection, DEPLOY).await.unwrap());
    create(&connection, READER, 3, HolderClass::None)
        .await
        .unwrap();
    daemon.stop().await;
    assert_eq!(server_states(&world), [ServerState::Revoked; 2]);
    assert_eq!(world.whoami("gcp", &material).await, 401);
    let refused = get(&connection, DEPLOY).await;
    assert_eq!(code(refused), Some(ErrorCode::ShuttingDown));
    assert_eq!(world.verify().damage, None);
    let last = world.records().pop().unwrap();
    assert_eq!(last.action, AuditAction::Stop);
}

/// LM, shutdown drain: a core without doors leaves in time although the issuer does not answer.
#[tokio::test(start_paused = true)]
async fn a_core_without_doors_ends_in_time() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    get(&connection, DEPLOY).await.unwrap();
    world.mock.fault(REVOKE, FaultKind::Stall, 9);
    drop(connection);
    daemon.end_without_doors().await;
    assert_eq!(world.verify().damage, None);
}

/// LC-10: after a crash the next login revokes what was left open, and no lease comes back.
#[tokio::test(start_paused = true)]
async fn leases_that_a_crash_left_open_are_revoked_at_the_next_login() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    let material = secret(&get(&connection, DEPLOY).await.unwrap());
    let ended = create(&connection, READER, 1, HolderClass::None)
        .await
        .unwrap();
    connection.lease_revoke(ended.lease_id).await.unwrap();
    let open = create(&connection, READER, 1, HolderClass::None)
        .await
        .unwrap();
    daemon.crash().await;
    assert_eq!(world.verify().damage, None);
    assert_eq!(world.whoami("gcp", &material).await, 200, "still live");

    let daemon = world.daemon();
    let connection = daemon.connect();
    let status = connection.status().await.unwrap();
    assert_eq!(status.unconfirmed_revocations, 2);
    assert_eq!(status.live_leases, 0);
    let lost = connection.lease_redeem(open.lease_id).await;
    assert_eq!(code(lost), Some(ErrorCode::LeaseNotFound));
    let before = world.tries(REVOKE).len();
    world.log_in(&connection).await;
    // Time passes once all answers are in.
    world.after(Duration::from_secs(1)).await;
    let next = secret(&get(&connection, DEPLOY).await.unwrap());
    assert_eq!(world.tries(REVOKE).len(), before + 2);
    assert_eq!(world.whoami("gcp", &material).await, 401);
    assert_eq!(world.whoami("gcp", &next).await, 200);
    let states = server_states(&world);
    assert_eq!(states[..3], [ServerState::Revoked; 3]);
    let status = connection.status().await.unwrap();
    assert_eq!(status.unconfirmed_revocations, 0);
    let report = connection.audit_verify().await.unwrap();
    assert_eq!(report.damage, None);

    daemon.stop().await;
    let confirmed = world.records();
    let confirmed = confirmed.iter().filter(|record| {
        record.action == AuditAction::LeaseRevoke
            && record.outcome == AuditOutcome::Ok
            && record
                .reason
                .as_ref()
                .is_some_and(|reason| reason.as_str() == "delivery_uncertain")
    });
    assert_eq!(confirmed.count(), 2);
}

/// `aegis.md` 10: material of every kind arrives, and each secret of it opens its provider until
/// the lease is revoked.
#[tokio::test(start_paused = true)]
async fn every_kind_of_material_opens_its_provider() {
    #[rustfmt::skip]
    let rows = [
        (DEPLOY, MaterialKind::GcpAccessToken, &["access_token"][..]),
        ("aws/billing-prod/deployer", MaterialKind::AwsSessionCredentials, &["secret_access_key", "session_token"]),
        ("github/website/release-bot", MaterialKind::GithubToken, &["token"]),
        ("kubernetes/staging/deployer", MaterialKind::KubernetesToken, &["token"]),
        ("postgres/orders/reporter", MaterialKind::DatabaseLogin, &["password"]),
        (READER, MaterialKind::GenericSecret, &["password", "username"]),
        ("gcp/billing-prod/federated", MaterialKind::GcpSubjectToken, &["subject_token"]),
    ];
    assert_eq!(rows.map(|(_, kind, _)| kind), MaterialKind::ALL);
    let world = World::with_targets(&rows.map(|(target, ..)| target)).await;
    let (daemon, connection) = world.logged_in().await;
    let mut opened = Vec::new();
    for (target, kind, secrets) in rows {
        let material = get(&connection, target).await.unwrap().material;
        assert_eq!(material.kind, kind, "{target}");
        let (provider, _) = target.split_once('/').unwrap();
        let mut found = Vec::new();
        for field in &material.fields {
            if let FieldValue::Secret(secret) = &field.value {
                found.push(&*field.name);
                let secret = secret.expose().to_owned();
                assert_eq!(world.whoami(provider, &secret).await, 200, "{target}");
                opened.push((provider, secret));
            }
        }
        assert_eq!(found, secrets, "{target}");
    }
    connection.logout(None).await.unwrap();
    for (provider, secret) in opened {
        assert_eq!(world.whoami(provider, &secret).await, 401, "{provider}");
    }
    daemon.stop().await;
}
