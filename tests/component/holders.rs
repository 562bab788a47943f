//! What each class of holder means: which ends end a lease, and what the server hears of it.

use std::time::Duration;

use aegis_broker::broker::ports::{AuditAction, AuditOutcome};
use aegis_broker::model::{HolderClass, LeaseState};

use crate::world::{DEPLOY, Peer, READER, REVOKE, World, create, get_held, secret};

/// Longer than the leases of these tests live.
const PAST_EXPIRY: Duration = Duration::from_mins(6);

/// What can happen to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its connection is closed, and its process lives on.
    Connection,
    /// Its process ends, and with it the connection.
    Process,
    Lock,
    Logout,
    Stop,
    /// Its time is over.
    Expiry,
}

const ENDS: [End; 6] = [
    End::Connection,
    End::Process,
    End::Lock,
    End::Logout,
    End::Stop,
    End::Expiry,
];

/// The reason that the server is given; `None` where it is told of nothing.
fn told(class: HolderClass, end: End) -> Option<&'static str> {
    match (end, class) {
        (End::Lock, _) => Some("locked"),
        (End::Logout, _) => Some("logout"),
        (End::Stop, _) => Some("released"),
        (End::Expiry, _)
        | (_, HolderClass::None)
        | (End::Connection, HolderClass::Child | HolderClass::Client) => None,
        (End::Connection, HolderClass::Connection) | (End::Process, _) => Some("holder_exited"),
    }
}

/// LC-7, LC-2: each class × each end, for a shared lease and one of the caller's own: whether the
/// server is told, with which reason, and that what was given out is dead there then.
#[tokio::test(start_paused = true)]
async fn each_class_ends_by_its_own_event() {
    for class in HolderClass::ALL {
        for end in ENDS {
            let row = format!("{class:?} and {end:?}");
            let world = World::new().await;
            let (daemon, person) = world.logged_in().await;
            let peer = Peer::new();
            let connection = daemon.connect_as(&peer);
            let shared = get_held(&connection, DEPLOY, class).await.unwrap();
            let own = create(&connection, READER, 1, class).await.unwrap();
            assert_eq!((shared.lease.holder, own.holder), (class, class), "{row}");
            let material = secret(&shared);
            assert_eq!(world.whoami("gcp", &material).await, 200, "{row}");
            let expected = told(class, end);
            let seen = u64::try_from(world.mock.requests().len()).unwrap();
            let mut core = Some(daemon);
            match end {
                End::Connection => drop(connection),
                End::Process => {
                    peer.exit();
                    drop(connection);
                }
                End::Lock => drop(person.lock().await.unwrap()),
                End::Logout => drop(person.logout(None).await.unwrap()),
                End::Stop => core.take().unwrap().stop().await,
                End::Expiry => {
                    world.after(PAST_EXPIRY).await;
                    // Nothing is left to be revoked by it.
                    peer.exit();
                    drop(connection);
                    world.mock.advance(PAST_EXPIRY);
                }
            }
            if expected.is_some() {
                world.wait_for_request_number(seen + 2).await;
            } else {
                // The core has seen what happened by when it answers this.
                person.status().await.unwrap();
                world.after(Duration::from_secs(5)).await;
            }
            let reasons: Vec<_> = world
                .mock
                .audit()
                .into_iter()
                .filter(|event| event.action == "lease.revoke")
                .map(|event| event.reason)
                .collect();
            let expected: Vec<_> = expected.iter().flat_map(|reason| [*reason; 2]).collect();
            assert_eq!(reasons, expected, "{row}");
            let lives = expected.is_empty() && end != End::Expiry;
            let status = world.whoami("gcp", &material).await;
            assert_eq!(status == 200, lives, "{row}: {status}");
            if core.is_some() {
                let live = person.status().await.unwrap().live_leases;
                assert_eq!(live, if lives { 2 } else { 0 }, "{row}");
            }
        }
    }
}

/// LC-7: what the issuer has not confirmed is shown as such, whichever class it is of, and is
/// gone from there when it has.
#[tokio::test(start_paused = true)]
async fn an_end_that_the_issuer_did_not_hear_of_is_shown() {
    for class in [
        HolderClass::Child,
        HolderClass::Client,
        HolderClass::Connection,
    ] {
        let world = World::new().await;
        let (daemon, person) = world.logged_in().await;
        let peer = Peer::new();
        let connection = daemon.connect_as(&peer);
        let lease = create(&connection, DEPLOY, 1, class).await.unwrap();
        // Every try of the call that follows.
        world
            .mock
            .fault(REVOKE, aegis_mock::FaultKind::Unavailable, 9);
        peer.exit();
        drop(connection);
        world
            .mock
            .wait_for_request(|request| request.method == REVOKE)
            .await;
        let status = person.status().await.unwrap();
        assert_eq!(
            (status.live_leases, status.unconfirmed_revocations),
            (0, 1),
            "{class:?}"
        );
        let shown = person.leases().await.unwrap();
        assert_eq!(shown[0].lease_id, lease.lease_id);
        assert_eq!(shown[0].state, LeaseState::Revoking, "{class:?}");
        world.wait_for_a_revocation().await;
        world.after(Duration::from_secs(1)).await;
        let status = person.status().await.unwrap();
        assert_eq!(status.unconfirmed_revocations, 0, "{class:?}");
        assert_eq!(
            person.leases().await.unwrap()[0].state,
            LeaseState::Revoked,
            "{class:?}"
        );
    }
}

/// LC-7, AU-2: a child's lease that is given back is recorded as what ended it, not as somebody's
/// wish, and no rule has to allow it; anybody else's revocation stays a wish that one has to.
#[tokio::test(start_paused = true)]
async fn giving_back_is_the_end_of_a_holder() {
    let world = World::new().await;
    let (daemon, person) = world.logged_in().await;
    let rows = [
        ("given to the child", true, true, "holder_exited"),
        ("given to nobody", false, true, "released"),
        ("ended by somebody else", true, false, "user_request"),
    ];
    for (name, redeemed, by_holder, reason) in rows {
        let peer = Peer::new();
        let connection = daemon.connect_as(&peer);
        let lease = create(&connection, DEPLOY, 1, HolderClass::Child)
            .await
            .unwrap();
        if redeemed {
            let id = lease.lease_id.clone();
            connection.lease_redeem(id).await.unwrap();
        }
        let who = if by_holder { &connection } else { &person };
        let ended = who.lease_revoke(lease.lease_id.clone()).await.unwrap();
        assert_eq!(ended.state, LeaseState::Revoked, "{name}");
        let event = world.mock.audit().pop().unwrap();
        assert_eq!(
            (&*event.action, &*event.reason),
            ("lease.revoke", reason),
            "{name}"
        );
        daemon.sink.flush().unwrap();
        let record = world.records().pop().unwrap();
        assert_eq!(record.action, AuditAction::LeaseRevoke, "{name}");
        assert_eq!(record.outcome, AuditOutcome::Ok, "{name}");
        assert_eq!(record.reason.unwrap().as_str(), reason, "{name}");
        assert!(record.peer.is_some(), "{name}");
    }
}
