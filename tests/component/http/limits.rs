//! Hosts that answer badly, names that lead astray, and requests that are given up.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use aegis_broker::broker::ports::PortFuture;
use aegis_broker::http::Resolve;

use super::host::{After, Host, ok};
use super::{BEARER, reason, send, table, text, told, world};
use crate::world::{DEPLOY, World};

/// LM: a large body is cut, an endless one too, and no beginning of a value stands at the cut.
#[tokio::test(start_paused = true)]
async fn large_and_endless_bodies_are_cut() {
    let endless = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nx".to_vec();
    let rows = [
        ("fits", ok(&[b'x'; 4096]), After::Close, false),
        ("too large", ok(&[b'x'; 4097]), After::Close, true),
        ("endless", endless, After::More, true),
    ];
    for (name, bytes, after, truncated) in rows {
        let host = Host::start(move |_| (bytes.clone(), after)).await;
        let world = world(DEPLOY, &host, BEARER).await;
        let (_daemon, connection) = world.logged_in().await;
        let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
            .await
            .unwrap();
        assert_eq!(
            (answer.body.len(), answer.truncated),
            (4096, truncated),
            "{name}"
        );
    }
    let host = Host::start(|request| {
        let token = request
            .lines()
            .find_map(|it| it.strip_prefix("authorization: Bearer "));
        let body = format!("{}{}", "-".repeat(4088), token.unwrap());
        (ok(body.as_bytes()), After::Close)
    })
    .await;
    let world = world(DEPLOY, &host, BEARER).await;
    let (_daemon, connection) = world.logged_in().await;
    let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
        .await
        .unwrap();
    assert_eq!(text(&answer), "-".repeat(4088));
}

/// LM: a host that never ends its answer costs 30 s, and one that breaks off is told.
#[tokio::test(start_paused = true)]
async fn bad_answers_are_told_by_what_they_are() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec();
    let rows = [
        (half.clone(), After::Silence, "timeout"),
        (half, After::Close, "protocol"),
        (Vec::new(), After::Silence, "timeout"),
        (Vec::new(), After::Close, "protocol"),
        (b"SSH-2.0-x\r\n".to_vec(), After::Silence, "protocol"),
        (b"HTTP/1.1 200 OK\r\na: b".to_vec(), After::More, "protocol"),
    ];
    for (bytes, after, word) in rows {
        let host = Host::start(move |_| (bytes.clone(), after)).await;
        let world = world(DEPLOY, &host, BEARER).await;
        let (_daemon, connection) = world.logged_in().await;
        let answer = send(&connection, DEPLOY, "GET", &host.url("/api")).await;
        assert_eq!(reason(answer), format!("target_unavailable {word}"));
        assert_eq!(
            told(&world).last().unwrap(),
            &format!("http.response error {word}")
        );
    }
}

/// A name service that says what a test wants.
#[derive(Debug)]
struct Names(Vec<IpAddr>);

impl Resolve for Names {
    fn resolve(&self, name: String) -> PortFuture<io::Result<Vec<IpAddr>>> {
        let found = match &*name {
            "api.example" => Ok(self.0.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        Box::pin(std::future::ready(found))
    }
}

/// OA-17, HY-14: a name that leads inside, or inside too, is not followed.
#[tokio::test(start_paused = true)]
async fn names_that_lead_to_internal_addresses_are_not_dialled() {
    let rows: [(&[&str], &str); 7] = [
        (&["127.0.0.1"], "address_refused"),
        (&["10.0.0.1"], "address_refused"),
        (&["169.254.169.254"], "address_refused"),
        (&["fd00:ec2::254"], "address_refused"),
        (&["::ffff:127.0.0.1"], "address_refused"),
        (&["8.8.8.8", "127.0.0.1"], "address_refused"),
        (&[], "no_address"),
    ];
    for (addresses, word) in rows {
        let mut host = Host::with_body("inside").await;
        let name = format!("api.example:{}", host.address.port());
        let mut world = World::with_targets(&[DEPLOY]).await;
        world
            .injections
            .push((DEPLOY, Arc::new(table(&name, BEARER))));
        let addresses = addresses.iter().map(|it| it.parse().unwrap());
        world.resolver = Arc::new(Names(addresses.collect()));
        let (_daemon, connection) = world.logged_in().await;
        let url = format!("https://{name}/api");
        let answer = send(&connection, DEPLOY, "GET", &url).await;
        assert_eq!(reason(answer), format!("target_unavailable {word}"));
        assert_eq!(host.unheard(), 0);
    }
}

/// HY-7: lock and logout end requests under way, and their callers hear so.
#[tokio::test(start_paused = true)]
async fn lock_and_logout_give_requests_up() {
    for is_lock in [true, false] {
        let mut host = Host::start(|_| (Vec::new(), After::Silence)).await;
        let world = world(DEPLOY, &host, BEARER).await;
        let (daemon, connection) = world.logged_in().await;
        let person = daemon.connect();
        let url = host.url("/api");
        let end = async {
            host.request().await;
            let ended = if is_lock {
                person.lock().await
            } else {
                person.logout(None).await
            };
            assert_eq!(ended.unwrap().revoked, 1);
        };
        let (answer, ()) = tokio::join!(send(&connection, DEPLOY, "GET", &url), end);
        assert_eq!(reason(answer), "locked given_up");
    }
}
