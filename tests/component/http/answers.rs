//! What a caller is shown of what a host says.

use aegis_broker::broker::ports::AuditAction;
use aegis_broker::model::{HolderClass, OnLeak};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::host::{After, Host, ok};
use super::{BEARER, send, text, told, world};
use crate::world::{DEPLOY, REVOKE, create, get, secret};

/// The token of a request, as the host sees it.
fn token(request: &str) -> &str {
    let line = request
        .lines()
        .find_map(|line| line.strip_prefix("authorization: Bearer "));
    line.unwrap()
}

type Form = Box<dyn Fn(&str) -> String + Send + Sync>;

/// HY-11: a host that echoes the credential, in whatever form, shows the caller nothing of it.
#[tokio::test(start_paused = true)]
async fn an_echo_is_masked_in_every_form() {
    let each = |text: &str, write: fn(u8) -> String| text.bytes().map(write).collect::<String>();
    let forms: Vec<Form> = vec![
        Box::new(str::to_owned),
        Box::new(|it| STANDARD.encode(it)),
        Box::new(|it| STANDARD.encode(format!("x{it}y"))),
        Box::new(|it| URL_SAFE_NO_PAD.encode(format!("xy{it}z"))),
        Box::new(move |it| each(it, |byte| format!("{byte:02x}"))),
        Box::new(move |it| each(it, |byte| format!("{byte:02X}"))),
        Box::new(move |it| each(it, |byte| format!("%{byte:02x}"))),
        Box::new(move |it| each(it, |byte| format!("%25{byte:02X}"))),
        Box::new(move |it| each(it, |byte| format!("\\u{byte:04x}"))),
        Box::new(move |it| each(it, |byte| format!("&#x{byte:x};"))),
        Box::new(move |it| each(it, |byte| format!("{}\0", char::from(byte)))),
    ];
    let count = forms.len();
    let host = Host::start(move |request| {
        let bodies = forms
            .iter()
            .map(|form| format!("<{}>", form(token(request))));
        (ok(bodies.collect::<String>().as_bytes()), After::Close)
    })
    .await;
    let world = world(DEPLOY, &host, BEARER).await;
    let (_daemon, connection) = world.logged_in().await;
    let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
        .await
        .unwrap();
    assert!(answer.masked);
    let shown = text(&answer);
    assert_eq!(shown.matches("[***]").count(), count, "{shown}");
    world.assert_nothing_secret_in(&format!("{answer:?}{shown}"));
    assert_eq!(told(&world).last().unwrap(), "leak ok GET 127.0.0.1");
}

/// HY-11: a leak is recorded with the lease it is of, and ends that lease where the rule says so.
#[tokio::test(start_paused = true)]
async fn a_leak_ends_the_lease_where_the_rule_says_so() {
    for (on_leak, revoked) in [(OnLeak::Record, false), (OnLeak::Revoke, true)] {
        let host = Host::start(|request| {
            let head = format!("HTTP/1.1 200 OK\r\nx-echo: {}\r\n\r\n", token(request));
            (head.into_bytes(), After::Close)
        })
        .await;
        let mut world = world(DEPLOY, &host, BEARER).await;
        world.on_leak = on_leak;
        let (_daemon, connection) = world.logged_in().await;
        let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
            .await
            .unwrap();
        let echo = answer.headers.iter().find(|(name, _)| **name == *"x-echo");
        assert_eq!(&*echo.unwrap().1, "[***]");
        if revoked {
            world.wait_for_a_revocation().await;
        }
        let leases = connection.leases().await.unwrap();
        let leak = world
            .records()
            .into_iter()
            .find(|it| it.action == AuditAction::Leak);
        assert_eq!(leak.unwrap().lease_id.as_ref(), Some(&leases[0].lease_id));
        assert_eq!(!world.tries(REVOKE).is_empty(), revoked);
    }
}

/// LC-11, IN-27: a value stays known after another took its place, and after it was passed on.
#[tokio::test(start_paused = true)]
async fn values_that_were_replaced_or_passed_on_stay_known() {
    let (tell, told) = tokio::sync::watch::channel(String::new());
    let host = Host::start(move |_| (ok(told.borrow().as_bytes()), After::Close)).await;
    let world = world(DEPLOY, &host, BEARER).await;
    let (_daemon, connection) = world.logged_in().await;
    let first = secret(&get(&connection, DEPLOY).await.unwrap());
    world.after(std::time::Duration::from_mins(4)).await;
    let request = aegis_broker::broker::handle::CredentialRequest {
        selector: crate::world::selector(DEPLOY),
        min_valid_for: std::time::Duration::from_mins(3),
        reason: None,
        holder: HolderClass::None,
    };
    let second = secret(&connection.credential(None, request).await.unwrap());
    assert_ne!(first, second);
    let lease = create(&connection, DEPLOY, 1, HolderClass::None)
        .await
        .unwrap();
    let third = secret(&connection.lease_redeem(lease.lease_id).await.unwrap());
    tell.send(format!("{first} {second} {third}")).unwrap();
    let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
        .await
        .unwrap();
    assert_eq!(text(&answer), "[***] [***] [***]");
    let leaks = world.records().into_iter();
    assert_eq!(leaks.filter(|it| it.action == AuditAction::Leak).count(), 3);
    // Its own end is the end of that: then the provider takes it no more.
    world.after(std::time::Duration::from_mins(2)).await;
    let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
        .await
        .unwrap();
    assert_eq!(text(&answer), format!("{first} [***] [***]"));
}

/// OA-7, IN-19: a redirect is an answer like any other.
#[tokio::test(start_paused = true)]
async fn redirects_are_not_followed() {
    let mut elsewhere = Host::with_body("stolen").await;
    let location = elsewhere.url("/api");
    let mut host = Host::start(move |_| {
        let head = format!("HTTP/1.1 307 Go\r\nlocation: {location}\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n");
        (head.into_bytes(), After::Close)
    })
    .await;
    let world = world(DEPLOY, &host, BEARER).await;
    let (_daemon, connection) = world.logged_in().await;
    let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
        .await
        .unwrap();
    assert_eq!(answer.status, 307);
    let names: Vec<_> = answer.headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["location"]);
    assert_eq!((host.unheard(), elsewhere.unheard()), (1, 0));
}

/// A host that does not take the credential is told as such.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_host_is_told_as_its_own() {
    for (status, refused) in [
        (200, false),
        (401, true),
        (403, true),
        (404, false),
        (500, false),
    ] {
        let host = Host::start(move |_| {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            (head.into_bytes(), After::Close)
        })
        .await;
        let world = world(DEPLOY, &host, BEARER).await;
        let (_daemon, connection) = world.logged_in().await;
        let answer = send(&connection, DEPLOY, "GET", &host.url("/api"))
            .await
            .unwrap();
        assert_eq!((answer.status, answer.is_refusal()), (status, refused));
        assert_eq!(told(&world)[1], format!("http.response ok status_{status}"));
    }
}
