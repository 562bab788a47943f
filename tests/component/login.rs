//! The device login (RFC 8628), as the server saw it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aegis_broker::broker::ports::{AuditAction, AuditOutcome};
use aegis_broker::model::{ErrorCode, LoginPhase};
use aegis_mock::FaultKind;
use tokio::task::JoinSet;

use crate::world::{
    BEGIN, CREATE, DEPLOY, EXCHANGE, INTERVAL, LONGER_THAN_A_CODE, World, claim, code, get,
    is_logged_in, user_code,
};

fn since(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap()
}

/// The pauses before each poll, the first counted from Begin.
fn gaps(world: &World) -> Vec<Duration> {
    let requests = world.mock.requests();
    requests
        .windows(2)
        .map(|pair| since(pair[0].at, pair[1].at))
        .collect()
}

/// DG-1: over twenty polls and the first one, no pause is shorter than the interval.
#[tokio::test(start_paused = true)]
async fn no_poll_comes_before_its_interval() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    let login = user_code(&connection.login_begin(None).await.unwrap());
    world.wait_for_request_number(21).await;
    let gaps = gaps(&world);
    assert_eq!(gaps.len(), 20);
    assert!(gaps.iter().all(|gap| *gap >= INTERVAL), "{gaps:?}");
    assert!(
        world
            .tries(EXCHANGE)
            .iter()
            .all(|poll| poll.reason.as_deref() == Some("authorization_pending")),
        "the server found no poll too early"
    );
    world.mock.approve(&login).unwrap();
    assert!(is_logged_in(&connection.login_wait(None).await.unwrap()));
}

/// DG-2: each `slow_down` adds five seconds, for all later polls too.
#[tokio::test(start_paused = true)]
async fn every_slow_down_stretches_all_later_polls() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    world.mock.fault(EXCHANGE, FaultKind::SlowDown, 3);
    let login = user_code(&connection.login_begin(None).await.unwrap());
    world.wait_for_request_number(7).await;
    let gaps = gaps(&world);
    let floors = [5, 10, 15, 20, 20, 20].map(Duration::from_secs);
    assert_eq!(gaps.len(), floors.len());
    for (poll, (gap, floor)) in gaps.iter().zip(floors).enumerate() {
        assert!(*gap >= floor, "poll {poll}: {gap:?} is less than {floor:?}");
    }
    world.mock.approve(&login).unwrap();
    assert!(is_logged_in(&connection.login_wait(None).await.unwrap()));
}

/// DG-4: a no is for good: not one more poll, and the next login is another one.
#[tokio::test(start_paused = true)]
async fn a_denied_login_is_not_polled_again() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    let login = user_code(&connection.login_begin(None).await.unwrap());
    world.mock.deny(&login).unwrap();
    assert_eq!(
        code(connection.login_wait(None).await),
        Some(ErrorCode::AccessDenied)
    );
    assert_eq!(world.tries(EXCHANGE).len(), 1);
    world.nothing_is_sent_for(LONGER_THAN_A_CODE).await;
    assert_eq!(
        code(get(&connection, DEPLOY).await),
        Some(ErrorCode::LoginRequired)
    );
    world.log_in(&connection).await;
}

/// DG-4: a code that the server ends is not polled again.
#[tokio::test(start_paused = true)]
async fn a_code_that_the_server_ends_is_not_polled_again() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    let login = user_code(&connection.login_begin(None).await.unwrap());
    world.mock.expire(&login).unwrap();
    assert_eq!(
        code(connection.login_wait(None).await),
        Some(ErrorCode::ExpiredToken)
    );
    assert_eq!(world.tries(EXCHANGE).len(), 1);
    world.nothing_is_sent_for(LONGER_THAN_A_CODE).await;
}

/// DG-6: a code that nobody approves ends here, without a request after its time.
#[tokio::test(start_paused = true)]
async fn a_code_that_nobody_approves_ends_in_time() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    connection.login_begin(None).await.unwrap();
    assert_eq!(
        code(connection.login_wait(None).await),
        Some(ErrorCode::ExpiredToken)
    );
    let requests = world.mock.requests();
    let (first, last) = (&requests[0], &requests[requests.len() - 1]);
    assert_eq!(first.method, BEGIN);
    assert!(since(first.at, last.at) < Duration::from_mins(10));
    assert!(
        requests
            .iter()
            .all(|request| request.reason.as_deref() != Some("expired_token"))
    );
    world.nothing_is_sent_for(LONGER_THAN_A_CODE).await;
}

/// DG-3, DG-5: whatever passes is waited out, and an approval is noticed afterwards.
#[tokio::test(start_paused = true)]
async fn polling_survives_what_passes() {
    let rows = [
        ("503", FaultKind::Unavailable),
        ("500", FaultKind::Internal),
        ("429", FaultKind::RateLimited),
        ("closed connection", FaultKind::CloseBefore),
        ("no answer", FaultKind::Stall),
    ];
    for (name, kind) in rows {
        let world = World::new().await;
        let daemon = world.daemon();
        let connection = daemon.connect();
        world.mock.fault(EXCHANGE, kind, 2);
        let login = user_code(&connection.login_begin(None).await.unwrap());
        world.mock.approve(&login).unwrap();
        let view = connection.login_wait(None).await.unwrap();
        assert!(is_logged_in(&view), "{name}: {view:?}");
        assert_eq!(world.tries(EXCHANGE).len(), 3, "{name}");
        let gaps = gaps(&world);
        assert!(gaps.iter().all(|gap| *gap >= INTERVAL), "{name}: {gaps:?}");
        assert!(
            gaps[2] >= gaps[1],
            "{name}: failures back off, never less: {gaps:?}"
        );
    }
}

/// `aegis.md` 4: the nonce that comes with the token serves the first lease call.
#[tokio::test(start_paused = true)]
async fn the_nonce_of_the_login_is_used_next() {
    let world = World::new().await;
    let (_daemon, connection) = world.logged_in().await;
    get(&connection, DEPLOY).await.unwrap();
    let creates = world.tries(CREATE);
    assert_eq!(creates.len(), 1, "no try was lost to a missing nonce");
    assert!(claim(&creates[0], "nonce").is_some());
    assert_eq!(claim(&world.tries(EXCHANGE)[0], "nonce"), None);
}

/// `aegis.md` 6, OA-12: a token that is not what was asked for is thrown away, told and recorded.
#[tokio::test(start_paused = true)]
async fn a_token_that_was_not_asked_for_is_refused_and_not_kept() {
    let rows = [
        ("another key's", FaultKind::WrongThumbprint),
        ("wider than asked", FaultKind::WiderScope),
        ("half an answer", FaultKind::BadJson),
        ("an answer without end", FaultKind::HugeBody),
    ];
    for (name, kind) in rows {
        let world = World::new().await;
        let daemon = world.daemon();
        let connection = daemon.connect();
        world.mock.fault(EXCHANGE, kind, 1);
        let login = user_code(&connection.login_begin(None).await.unwrap());
        world.mock.approve(&login).unwrap();
        let refused = connection.login_wait(None).await;
        assert_eq!(code(refused), Some(ErrorCode::AegisProtocol), "{name}");
        let status = connection.status().await.unwrap();
        assert_eq!(status.login.phase, LoginPhase::LoggedOut, "{name}");
        let refused = get(&connection, DEPLOY).await;
        assert_eq!(code(refused), Some(ErrorCode::LoginRequired), "{name}");
        assert!(world.tries(CREATE).is_empty(), "{name}: the token was used");
        let key = world.tries(EXCHANGE)[0].jkt.clone();

        world.log_in(&connection).await;
        assert_ne!(
            world.tries(EXCHANGE).pop().unwrap().jkt,
            key,
            "{name}: a new login has a new key"
        );
        daemon.stop().await;
        let logins: Vec<_> = world
            .records()
            .into_iter()
            .filter(|record| record.action == AuditAction::Login)
            .map(|record| record.outcome)
            .collect();
        assert_eq!(logins, [AuditOutcome::Error, AuditOutcome::Ok], "{name}");
        world.assert_nothing_secret_in("");
    }
}

/// DG-13: two hundred callers share one login, one code and its end.
#[tokio::test(start_paused = true)]
async fn callers_join_the_login_that_runs() {
    let world = World::new().await;
    let daemon = world.daemon();
    let mut joining = JoinSet::new();
    for _ in 0..200 {
        let connection = Arc::new(daemon.connect());
        joining.spawn(async move {
            let view = connection.login_begin(None).await.unwrap();
            (user_code(&view), connection)
        });
    }
    let (codes, connections): (Vec<_>, Vec<_>) = joining.join_all().await.into_iter().unzip();
    assert!(codes.iter().all(|code| *code == codes[0]));
    let mut waiting = JoinSet::new();
    for connection in connections {
        waiting.spawn(async move { connection.login_wait(None).await });
    }
    world.mock.approve(&codes[0]).unwrap();
    let ends = waiting.join_all().await;
    assert_eq!(ends.len(), 200);
    assert!(ends.iter().all(|end| end.as_ref().is_ok_and(is_logged_in)));
    assert_eq!(world.tries(BEGIN).len(), 1);
}

/// DG-14: a cancelled login is over for everybody, and its code is not polled any more.
#[tokio::test(start_paused = true)]
async fn a_cancelled_login_is_not_polled_again() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    connection.login_begin(None).await.unwrap();
    world.wait_for_request_number(2).await;
    let other = daemon.connect();
    let waiting = tokio::spawn(async move { other.login_wait(None).await });
    connection.status().await.unwrap();
    let view = connection.login_cancel(None).await.unwrap();
    assert_eq!(view.phase, LoginPhase::LoggedOut);
    assert_eq!(
        code(waiting.await.unwrap()),
        Some(ErrorCode::LoginCancelled)
    );
    world.nothing_is_sent_for(LONGER_THAN_A_CODE).await;
    assert_eq!(world.tries(EXCHANGE).len(), 1);
}

/// DG-14: who hangs up leaves the login to the others.
#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_leaves_the_login_to_the_others() {
    let world = World::new().await;
    let daemon = world.daemon();
    let first = daemon.connect();
    let login = user_code(&first.login_begin(None).await.unwrap());
    let other = daemon.connect();
    other.login_begin(None).await.unwrap();
    drop(first);
    world.mock.approve(&login).unwrap();
    assert!(is_logged_in(&other.login_wait(None).await.unwrap()));
    assert_eq!(world.tries(BEGIN).len(), 1);
}
