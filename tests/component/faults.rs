//! Every way the server can misbehave at every call: the caller gets an answer from the table,
//! the daemon goes on, and nothing secret gets out.

use std::time::Duration;

use ErrorCode::{AegisDenied, AegisProtocol, AegisUnavailable, LoginRequired, RateLimited};
use FaultKind as Kind;
use Told::{Done, No, Revoking};
use aegis_broker::broker::handle::Connection;
use aegis_broker::model::{ErrorCode, HolderClass, LeaseState, Refusal};
use aegis_mock::FaultKind;

use crate::evidence::figure;
use crate::world::{
    BEGIN, CREATE, DEPLOY, EXCHANGE, READER, REDEEM, REVOKE, World, create, get, is_logged_in,
    secret, user_code,
};

/// What `ShortExpiry` makes of a token's life.
const SHORT_TOKEN: Duration = Duration::from_secs(1);

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It worked.
    Done,
    /// The lease is over here, and the issuer has not confirmed it.
    Revoking,
    /// A no.
    No(ErrorCode),
}

/// All kinds, with what they lead to at Begin, Exchange, Create, Redeem and Revoke. A kind that
/// makes no sense at a call waits for one where it does, so that all goes well.
#[rustfmt::skip]
const TABLE: [(Kind, [Told; 5]); 18] = [
    (Kind::Unavailable, [No(AegisUnavailable), Done, Done, Done, Done]),
    (Kind::Internal, [No(AegisUnavailable), Done, Done, Done, Done]),
    (Kind::RateLimited, [No(RateLimited), Done, Done, No(RateLimited), Done]),
    (Kind::Stall, [No(AegisUnavailable), Done, No(AegisUnavailable), Done, Revoking]),
    (Kind::CloseBefore, [No(AegisUnavailable), Done, Done, Done, Done]),
    (Kind::CloseAfterCommit, [No(AegisUnavailable), No(LoginRequired), Done, Done, Done]),
    // Answered, so a redemption is not uncertain: its caller may ask again for the same lease.
    (Kind::AuditUnavailable, [No(AegisUnavailable), Done, Done, No(AegisUnavailable), Done]),
    (Kind::NonceOnce, [Done, Done, Done, Done, Done]),
    (Kind::NonceAlways, [Done, No(AegisProtocol), No(AegisProtocol), No(AegisProtocol), Revoking]),
    // Asked for once more where that is safe.
    (Kind::BadJson, [No(AegisProtocol), No(AegisProtocol), Done, Done, Done]),
    (Kind::HugeBody, [No(AegisProtocol), No(AegisProtocol), Done, Done, Done]),
    (Kind::WrongThumbprint, [Done, No(AegisProtocol), Done, Done, Done]),
    (Kind::WiderScope, [Done, No(AegisProtocol), Done, Done, Done]),
    (Kind::WrongTarget, [Done, Done, Done, Done, Done]),
    (Kind::ShortExpiry, [Done, Done, Done, Done, Done]),
    // One answer an hour ahead: the proof that follows that clock is as wrong.
    (Kind::ClockSkew, [Done, No(AegisDenied), No(AegisDenied), No(AegisDenied), Revoking]),
    (Kind::SlowDown, [Done, Done, Done, Done, Done]),
    (Kind::ApprovedFirst, [Done, Done, Done, Done, Done]),
];

/// What a caller of one column's call asks for.
pub(crate) async fn ask(world: &World, connection: &Connection, method: &str) -> (Told, String) {
    match method {
        BEGIN => told(connection.login_begin(None).await),
        EXCHANGE => {
            let login = user_code(&connection.login_begin(None).await.unwrap());
            world.mock.approve(&login).unwrap();
            let view = connection.login_wait(None).await;
            if let Ok(view) = &view {
                assert!(is_logged_in(view));
            }
            told(view)
        }
        CREATE | REDEEM => told(get(connection, DEPLOY).await),
        REVOKE => {
            let lease = create(connection, DEPLOY, 2, HolderClass::None)
                .await
                .unwrap();
            let id = lease.lease_id;
            connection.lease_redeem(id.clone()).await.unwrap();
            let view = connection.lease_revoke(id).await.unwrap();
            let text = format!("{view:?}");
            let told = if view.state == LeaseState::Revoked {
                Done
            } else {
                assert_eq!(view.state, LeaseState::Revoking);
                Revoking
            };
            (told, text)
        }
        other => panic!("no column for {other}"),
    }
}

fn told<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> (Told, String) {
    match answer {
        Ok(answer) => (Done, format!("{answer:?}")),
        Err(refusal) => {
            let text = format!(
                "{refusal:?} {refusal} {} {}",
                refusal.message(),
                refusal.fix()
            );
            (No(refusal.code), text)
        }
    }
}

/// Logs in where nobody is, and gets a credential that works.
pub(crate) async fn works_again(world: &World, connection: &Connection, name: &str) {
    let status = connection.status().await.unwrap();
    if !is_logged_in(&status.login) {
        connection.login_cancel(None).await.unwrap();
        world.log_in(connection).await;
    }
    let delivery = match get(connection, READER).await {
        // A key that the server's clock has made suspect is given up; a token too short for a
        // lease ends first.
        Err(refusal) if refusal.code == LoginRequired => {
            world.after(SHORT_TOKEN).await;
            world.log_in(connection).await;
            get(connection, READER).await
        }
        other => other,
    };
    let delivery = delivery.unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
    assert_eq!(
        world.whoami("generic", &secret(&delivery)).await,
        200,
        "{name}"
    );
}

async fn column(number: usize, method: &str) {
    for (kind, expected) in TABLE {
        let name = format!("{kind:?} at {method}");
        let world = World::new().await;
        let daemon = world.daemon();
        let connection = daemon.connect();
        if number > 1 {
            world.log_in(&connection).await;
        }
        world.mock.fault(method, kind, 1);
        let (got, text) = ask(&world, &connection, method).await;
        assert_eq!(got, expected[number], "{name}: {text}");
        world.mock.fault(method, kind, 0);
        works_again(&world, &connection, &name).await;
        connection.logout(None).await.unwrap();
        daemon.stop().await;
        assert_eq!(world.verify().damage, None, "{name}");
        world.assert_nothing_secret_in(&text);
    }
    let count = TABLE.len();
    figure(&format!(
        "{count} kinds of fault at {method}: told as in the table"
    ));
}

#[tokio::test(start_paused = true)]
async fn begin_meets_every_fault() {
    column(0, BEGIN).await;
}

#[tokio::test(start_paused = true)]
async fn exchange_meets_every_fault() {
    column(1, EXCHANGE).await;
}

#[tokio::test(start_paused = true)]
async fn create_meets_every_fault() {
    column(2, CREATE).await;
}

#[tokio::test(start_paused = true)]
async fn redeem_meets_every_fault() {
    column(3, REDEEM).await;
}

#[tokio::test(start_paused = true)]
async fn revoke_meets_every_fault() {
    column(4, REVOKE).await;
}

/// The table has every kind that the server knows, once.
#[test]
fn no_kind_is_forgotten() {
    let named = TABLE.map(|(kind, _)| kind.as_str());
    let mut missing = FaultKind::ALL.map(FaultKind::as_str).to_vec();
    missing.retain(|kind| !named.contains(kind));
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(named.len(), FaultKind::ALL.len());
}

/// A server that cannot record what it does does nothing; the caller hears that it is not
/// available, and the server's reason.
#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_record_serves_nobody() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    world.mock.fault(CREATE, Kind::AuditUnavailable, 100);
    let refusal = get(&connection, DEPLOY).await.err().unwrap();
    assert_eq!(refusal.code, AegisUnavailable);
    let reason = refusal.reason_code.as_ref().map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("audit_unavailable"));
    assert!(world.mock.leases().is_empty());
    world.mock.fault(CREATE, Kind::AuditUnavailable, 0);
    let delivery = get(&connection, DEPLOY).await.unwrap();
    assert_eq!(world.whoami("gcp", &secret(&delivery)).await, 200);
    daemon.stop().await;
}
