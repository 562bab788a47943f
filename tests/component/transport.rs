//! What goes over the wire, as the server and a relay before it saw it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aegis_broker::broker::handle::Connection;
use aegis_broker::model::{ErrorCode, HolderClass, Refusal};
use aegis_mock::{Carrier, FaultKind, LeaseState as ServerState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::world::{
    BEGIN, CREATE, DEPLOY, EXCHANGE, READER, REDEEM, REVOKE, World, claim, code, create, get,
    secret, user_code,
};

/// A call of the core's lasts no longer than this.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// DP-11: every try has a proof of its own, also the repeated ones, in the body and for its URL.
#[tokio::test(start_paused = true)]
async fn no_two_tries_share_a_proof() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    for (method, kind) in [
        (EXCHANGE, FaultKind::NonceOnce),
        (EXCHANGE, FaultKind::Unavailable),
        (CREATE, FaultKind::Unavailable),
        (CREATE, FaultKind::CloseBefore),
        (CREATE, FaultKind::CloseAfterCommit),
        (REDEEM, FaultKind::NonceOnce),
        (REVOKE, FaultKind::Internal),
        (REVOKE, FaultKind::RateLimited),
    ] {
        world.mock.fault(method, kind, 1);
    }
    world.log_in(&connection).await;
    let delivery = get(&connection, DEPLOY).await.unwrap();
    connection
        .lease_revoke(delivery.lease.lease_id)
        .await
        .unwrap();
    let tries: Vec<_> = world
        .mock
        .requests()
        .into_iter()
        .filter(|request| request.method != BEGIN)
        .collect();
    assert_eq!(tries.len(), 12);
    let jtis: BTreeSet<_> = tries
        .iter()
        .map(|request| request.jti.clone().unwrap())
        .collect();
    assert_eq!(jtis.len(), tries.len());
    // 128 bits in base64url.
    assert!(jtis.iter().all(|jti| jti.len() >= 22));
    for request in &tries {
        assert_eq!(request.carrier, Carrier::Body, "{}", request.method);
        assert_eq!(request.htm.as_deref(), Some("POST"), "{}", request.method);
        let htu = request.htu.as_deref().unwrap();
        assert!(htu.starts_with(world.mock.api().as_str()), "{htu}");
        assert!(htu.ends_with(&request.method), "{htu}");
    }
}

/// What one caller asks for to have one RPC called.
async fn provoke(world: &World, connection: &Connection, method: &str) -> Result<(), Refusal> {
    match method {
        EXCHANGE => {
            let login = user_code(&connection.login_begin(None).await?);
            world.mock.approve(&login).unwrap();
            connection.login_wait(None).await.map(drop)
        }
        CREATE | REDEEM => get(connection, DEPLOY).await.map(drop),
        REVOKE => {
            let lease = create(connection, DEPLOY, 1, HolderClass::None).await?;
            connection.lease_revoke(lease.lease_id).await.map(drop)
        }
        other => panic!("no request makes {other}"),
    }
}

/// DP-12, DP-13: a demanded nonce is used at once, in one more try, and that is all.
#[tokio::test(start_paused = true)]
async fn a_demanded_nonce_is_given_once() {
    for method in [EXCHANGE, CREATE, REDEEM, REVOKE] {
        for (name, kind) in [
            ("once", FaultKind::NonceOnce),
            ("always", FaultKind::NonceAlways),
        ] {
            let world = World::new().await;
            let daemon = world.daemon();
            let connection = daemon.connect();
            if method != EXCHANGE {
                world.log_in(&connection).await;
            }
            let before = world.tries(method).len();
            world.mock.fault(method, kind, 1);
            let answer = provoke(&world, &connection, method).await;
            // A revocation that fails is told as state `revoking`, not as a refusal.
            let good = kind == FaultKind::NonceOnce || method == REVOKE;
            let expected = if good {
                None
            } else {
                Some(ErrorCode::AegisProtocol)
            };
            assert_eq!(code(answer), expected, "{method} {name}");
            let tries = &world.tries(method)[before..];
            assert_eq!(tries.len(), 2, "{method} {name}");
            assert!(claim(&tries[1], "nonce").is_some(), "{method} {name}");
        }
    }
}

/// DP-12: a stale nonce costs one try more and nothing else: the new one is used from then on.
#[tokio::test(start_paused = true)]
async fn a_stale_nonce_is_replaced_unseen() {
    let world = World::new().await;
    let (_daemon, connection) = world.logged_in().await;
    world.mock.rotate_nonce();
    get(&connection, DEPLOY).await.unwrap();
    let nonces: Vec<_> = world
        .mock
        .requests()
        .iter()
        .filter(|request| request.method == CREATE || request.method == REDEEM)
        .map(|request| claim(request, "nonce").unwrap())
        .collect();
    assert_eq!(nonces.len(), 3, "create twice, redeem once");
    assert_ne!(nonces[0], nonces[1]);
    assert_eq!(nonces[1], nonces[2]);
}

/// Notes every byte on its way to the server.
struct Relay {
    url: Url,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    async fn before(world: &World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = world.mock.api().socket_addrs(|| None).unwrap()[0];
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let notes = Arc::clone(&notes);
                tokio::spawn(async move {
                    let mut chunk = [0; 4096];
                    while let Ok(count @ 1..) = from_client.read(&mut chunk).await {
                        notes.lock().unwrap().extend_from_slice(&chunk[..count]);
                        to_server.write_all(&chunk[..count]).await.unwrap();
                    }
                });
                tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            }
        });
        Self {
            url: Url::parse(&url).unwrap(),
            seen,
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.seen.lock().unwrap().clone()).unwrap()
    }
}

/// DP-17, DG-9: the token travels in `Authorization` and nowhere else, the device code in the
/// body of its own call, and no redirect, compression or cookie is asked for.
#[tokio::test(start_paused = true)]
async fn the_token_is_in_the_authorization_header_only() {
    let mut world = World::with("[strictness]\nhost = false\n").await;
    let relay = Relay::before(&world).await;
    world.base_url = relay.url.clone();
    let (_daemon, connection) = world.logged_in().await;
    get(&connection, DEPLOY).await.unwrap();
    connection.logout(None).await.unwrap();
    let text = relay.text();
    let of_kind = |kind: &str| {
        let secrets = world.mock.secrets();
        secrets
            .into_iter()
            .find(|secret| secret.kind == kind)
            .unwrap()
            .value
    };
    let token = of_kind("broker_token");
    let in_header = format!("authorization: Bearer {token}\r\n");
    assert_eq!(
        text.matches(&in_header).count(),
        4,
        "create, redeem, revoke, the end of the session"
    );
    assert_eq!(
        text.matches(&token).count(),
        4,
        "the token is elsewhere too"
    );
    let code = of_kind("device_code");
    let in_body = format!(r#""deviceCode":"{code}""#);
    assert_eq!(text.matches(&in_body).count(), world.tries(EXCHANGE).len());
    assert_eq!(text.matches(&code).count(), world.tries(EXCHANGE).len());
    assert!(!text.contains(&of_kind("access_token")));
    let lower = text.to_ascii_lowercase();
    for header in ["\r\ncookie:", "\r\nreferer:", "\r\nx-aegis-insecure-user:"] {
        assert!(!lower.contains(header), "{header}");
    }
    let calls = world.mock.requests().len();
    assert_eq!(
        lower.matches("\r\naccept-encoding: identity\r\n").count(),
        calls
    );
    assert_eq!(
        lower.matches("\r\nconnect-protocol-version: 1\r\n").count(),
        calls
    );
}

/// CN-4: a create whose answer is lost is repeated under its key: one lease.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_create_makes_one_lease() {
    let world = World::new().await;
    let (_daemon, connection) = world.logged_in().await;
    world.mock.fault(CREATE, FaultKind::CloseAfterCommit, 2);
    let material = secret(&get(&connection, DEPLOY).await.unwrap());
    assert_eq!(world.whoami("gcp", &material).await, 200);
    assert_eq!(world.tries(CREATE).len(), 3);
    assert_eq!(world.mock.leases().len(), 1);
}

/// CN-4, `aegis.md` 9: a redemption whose answer is lost is never repeated: its lease is revoked
/// as uncertain and replaced, once.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_redeem_replaces_the_lease_once() {
    for (name, lost, leases) in [("once", 1, 2), ("twice", 2, 2)] {
        let world = World::new().await;
        let (daemon, connection) = world.logged_in().await;
        world.mock.fault(REDEEM, FaultKind::CloseAfterCommit, lost);
        let answer = get(&connection, DEPLOY).await;
        assert_eq!(answer.is_ok(), lost == 1, "{name}");
        if let Err(refusal) = answer {
            assert_eq!(refusal.code, ErrorCode::AegisUnavailable, "{name}");
        }
        daemon.stop().await;
        assert_eq!(world.tries(REDEEM).len(), 2, "{name}: one for each lease");
        let made = world.mock.leases();
        assert_eq!(made.len(), leases, "{name}");
        for lease in made {
            assert_eq!(lease.redemptions_used, 1, "{name}");
            assert_eq!(lease.state, ServerState::Revoked, "{name}");
        }
        let uncertain = world
            .mock
            .audit()
            .iter()
            .filter(|event| event.reason == "delivery_uncertain")
            .count();
        assert_eq!(uncertain, usize::try_from(lost).unwrap(), "{name}");
    }
}

/// LM: the server's own throttle. A wait that ends within the call is waited out, exactly as long as
/// `Retry-After` says and a little; a longer one is told to the caller, whose next try succeeds.
#[tokio::test(start_paused = true)]
async fn a_throttle_is_waited_for_as_long_as_it_says() {
    let policy = include_str!("../../config/aegis-mock.toml");
    let policy = policy.replace("per_principal_minute = 600", "per_principal_minute = 2");
    let world = World::new().await;
    let (_daemon, connection) = world.logged_in().await;
    world.mock.set_policy(&policy).unwrap();
    // Two calls, made and redeemed: the minute is used up.
    get(&connection, DEPLOY).await.unwrap();
    let refused = get(&connection, READER).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::RateLimited);
    let wait = refused.retry_after.unwrap();
    assert!(
        wait > Duration::from_secs(25) && wait <= Duration::from_mins(1),
        "{wait:?}"
    );
    assert_eq!(server_tries(&world), ["ok", "resource_exhausted"]);

    world.after(Duration::from_secs(40)).await;
    get(&connection, READER).await.unwrap();
    assert_eq!(
        server_tries(&world),
        ["ok", "resource_exhausted", "resource_exhausted", "ok"]
    );
    let tries = world.tries(CREATE);
    let waited = tries[3].at.duration_since(tries[2].at).unwrap();
    assert!(
        waited >= Duration::from_secs(19) && waited < Duration::from_secs(22),
        "{waited:?}"
    );
}

/// What the server said to each try to make a lease.
fn server_tries(world: &World) -> Vec<String> {
    let tries = world.tries(CREATE).into_iter();
    tries.map(|request| request.result).collect()
}

/// LM: whatever is wrong with an answer, the caller hears of it, and not after the deadline.
#[tokio::test(start_paused = true)]
async fn broken_answers_are_classified_within_the_deadline() {
    let protocol = ErrorCode::AegisProtocol;
    let rows = [
        (BEGIN, FaultKind::HugeBody, 1, protocol),
        (BEGIN, FaultKind::BadJson, 1, protocol),
        (BEGIN, FaultKind::Stall, 1, ErrorCode::AegisUnavailable),
        (CREATE, FaultKind::HugeBody, 2, protocol),
        (CREATE, FaultKind::BadJson, 2, protocol),
        (CREATE, FaultKind::Stall, 1, ErrorCode::AegisUnavailable),
        (REDEEM, FaultKind::HugeBody, 2, protocol),
        (REDEEM, FaultKind::BadJson, 2, protocol),
        (REDEEM, FaultKind::Stall, 2, ErrorCode::AegisUnavailable),
    ];
    for (method, kind, count, expected) in rows {
        let world = World::new().await;
        let daemon = world.daemon();
        let connection = daemon.connect();
        if method != BEGIN {
            world.log_in(&connection).await;
        }
        world.mock.fault(method, kind, count);
        // One call, with one repeat, or for a redemption one with each of two leases; and a moment.
        let limit = CALL_LIMIT * count + Duration::from_secs(1);
        let asked = async {
            if method == BEGIN {
                connection.login_begin(None).await.map(drop)
            } else {
                get(&connection, DEPLOY).await.map(drop)
            }
        };
        let answer = tokio::time::timeout(limit, asked).await;
        let answer = answer.unwrap_or_else(|_| panic!("{method} {kind:?}: no answer"));
        assert_eq!(code(answer), Some(expected), "{method} {kind:?}");
    }
}
