//! What is put into a request, and where it goes.

use aegis_broker::model::{HolderClass, InjectionScheme, Outgoing};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::host::Host;
use super::{BEARER, reason, send, send_whole, table, told, world};
use crate::mcp::client::{Client, door};
use crate::world::{CREATE, DEPLOY, READER, World, get, get_held, secret};

/// Design §1, HY-14, PO-4: the host gets the credential, the caller the answer, and the log both
/// sides of it, the first before the request left.
#[tokio::test(start_paused = true)]
async fn a_credential_is_used_and_not_seen() {
    let mut world = World::new().await;
    let api = world.base_url.clone();
    let host = format!("{}:{}", api.host_str().unwrap(), api.port().unwrap());
    let mut bound = table(&host, BEARER);
    bound.paths = vec![aegis_broker::model::PathPrefix::parse("/fake/gcp/whoami").unwrap()];
    world.injections.push((DEPLOY, bound.into()));
    let (_daemon, connection) = world.logged_in().await;
    let url = api.join("fake/gcp/whoami").unwrap();
    let answer = send(&connection, DEPLOY, "GET", url.as_str())
        .await
        .unwrap();
    let who: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (answer.status, &who["account"]),
        (200, &json!("deploy-bot"))
    );
    assert!(!answer.masked && !answer.truncated && !answer.is_refusal());
    let expected = format!("http.request ok GET {}", api.host_str().unwrap());
    assert_eq!(told(&world), [&expected, "http.response ok status_200"]);
    world.assert_nothing_secret_in(&format!(
        "{answer:?}{}",
        String::from_utf8_lossy(&answer.body)
    ));

    // One lease for both ways, and for the next request.
    get(&connection, DEPLOY).await.unwrap();
    send(&connection, DEPLOY, "GET", url.as_str())
        .await
        .unwrap();
    assert_eq!(world.tries(CREATE).len(), 1);
}

/// MC-4, T12, IN-9: a model uses a credential; no frame that it was sent holds the value.
#[tokio::test(start_paused = true)]
async fn a_model_uses_a_credential_that_is_in_no_frame() {
    let mut host = Host::start(|request| {
        let header = request
            .lines()
            .find(|line| line.starts_with("authorization"));
        (
            super::host::ok(header.unwrap().as_bytes()),
            super::host::After::Close,
        )
    })
    .await;
    let world = world(DEPLOY, &host, BEARER).await;
    let (daemon, _person) = world.logged_in().await;
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    let arguments = json!({
        "selector": DEPLOY,
        "url": host.url("/api/x?y"),
        "method": "POST",
        "body": "hello",
        "headers": [{ "name": "Accept", "value": "text/plain" }],
    });
    let done = client.done("http_request", arguments).await;
    assert_eq!(
        (&done["status"], &done["masked"]),
        (&json!(200), &json!(true))
    );
    assert_eq!(done["body"], json!("authorization: Bearer [***]"));
    let request = host.request().await;
    assert!(
        request.starts_with("POST /api/x?y HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("accept: text/plain\r\n") && request.ends_with("\r\n\r\nhello"));
    let elsewhere = json!({ "selector": DEPLOY, "url": "https://evil.example/api" });
    let refused = client.refused("http_request", elsewhere).await;
    assert_eq!(refused["reason_code"], json!("host_not_bound"));
    assert_eq!(refused["do_not_retry"], json!(true));
    let fix = format!("send it to {}", host.address);
    assert_eq!(refused["fix"], json!(fix));
    let audit = client.done("audit_list", json!({})).await;
    let actions: Vec<_> = audit["decisions"].as_array().unwrap().iter().collect();
    assert!(
        actions
            .iter()
            .any(|it| it["action"] == json!("http.request")),
        "{audit}"
    );
    world.assert_nothing_secret_in(&client.transcript);

    // LC-7: what it used ends with it.
    client.peer.exit();
    world.wait_for_a_revocation().await;
}

/// The line of a request that a value is in.
type Line = fn(&str) -> String;

/// HY-14: the other schemes, and the fields that a table names.
#[tokio::test(start_paused = true)]
async fn each_scheme_puts_the_credential_in_its_place() {
    let field = || Some(Box::from("password"));
    let rows: [(InjectionScheme, Line); 3] = [
        (InjectionScheme::Bearer { field: field() }, |value| {
            format!("authorization: Bearer {value}\r\n")
        }),
        (
            InjectionScheme::Basic {
                user: Some(Box::from("me")),
                field: field(),
            },
            |value| {
                format!(
                    "authorization: Basic {}\r\n",
                    STANDARD.encode(format!("me:{value}"))
                )
            },
        ),
        (
            InjectionScheme::Header {
                name: Box::from("x-api-key"),
                field: field(),
            },
            |value| format!("x-api-key: {value}\r\n"),
        ),
    ];
    for (scheme, line) in rows {
        let mut host = Host::with_body("yes").await;
        let world = world(READER, &host, scheme.clone()).await;
        let (_daemon, connection) = world.logged_in().await;
        send(&connection, READER, "GET", &host.url("/api"))
            .await
            .unwrap();
        let value = secret(&get(&connection, READER).await.unwrap());
        let request = host.request().await;
        assert!(request.contains(&line(&value)), "{scheme:?}: {request}");
    }
}

/// A table that names what the credential does not have sends nothing.
#[tokio::test(start_paused = true)]
async fn a_field_that_is_not_there_is_told() {
    let mut host = Host::with_body("yes").await;
    let scheme = InjectionScheme::Bearer {
        field: Some(Box::from("nothing")),
    };
    let world = world(DEPLOY, &host, scheme).await;
    let (_daemon, connection) = world.logged_in().await;
    let answer = send(&connection, DEPLOY, "GET", &host.url("/api")).await;
    assert_eq!(reason(answer), "config_invalid material_unfit");
    assert_eq!(host.unheard(), 0);
}

/// IN-18, PO-4, HY-14: what the table does not have is refused before there is a lease, recorded,
/// and heard by nobody. OA-7: http is for the loopback addresses of the table.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_where_the_credential_is_not_bound() {
    let mut host = Host::with_body("yes").await;
    let mut other = Host::with_body("other").await;
    let mut world = world(DEPLOY, &host, BEARER).await;
    // So many refusals would be answered with a pause.
    world.gate.denial_pause = false;
    let (_daemon, connection) = world.logged_in().await;
    let rows = [
        ("GET", other.url("/api"), "host_not_bound"),
        (
            "GET",
            format!("https://localhost:{}/api", host.address.port()),
            "host_not_bound",
        ),
        (
            "GET",
            format!("http://[::1]:{}/api", host.address.port()),
            "host_not_bound",
        ),
        ("GET", "http://127.0.0.1/api".to_owned(), "host_not_bound"),
        (
            "GET",
            "https://127.0.0.1.evil.example/api".to_owned(),
            "host_not_bound",
        ),
        ("DELETE", host.url("/api"), "method_not_bound"),
        ("GET", host.url("/apis"), "path_not_bound"),
        ("GET", host.url("/"), "path_not_bound"),
        ("GET", host.url("/API"), "path_not_bound"),
    ];
    for (method, url, expected) in &rows {
        let answer = send(&connection, DEPLOY, method, url).await;
        assert_eq!(reason(answer), format!("policy_denied {expected}"), "{url}");
    }
    let large = "x".repeat(1025);
    let large = Outgoing::parse("POST", &host.url("/api"), [], Some(&large)).unwrap();
    let answer = send_whole(&connection, DEPLOY, large).await;
    assert_eq!(reason(answer), "policy_denied request_too_large");
    assert_eq!((host.unheard(), other.unheard()), (0, 0));
    assert!(world.tries(CREATE).is_empty());
    assert_eq!(told(&world).len(), rows.len() + 1);
}

/// A target without a table is used nowhere.
#[tokio::test(start_paused = true)]
async fn a_target_without_a_table_is_bound_to_nothing() {
    let world = World::new().await;
    let (_daemon, connection) = world.logged_in().await;
    let answer = send(&connection, DEPLOY, "GET", "https://a.example/").await;
    assert_eq!(reason(answer), "policy_denied not_bound");
}

/// AU-1: without a record there is no request.
#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_recorded_is_not_sent() {
    let mut host = Host::with_body("yes").await;
    let world = world(DEPLOY, &host, BEARER).await;
    let (daemon, connection) = world.logged_in().await;
    get_held(&connection, DEPLOY, HolderClass::None)
        .await
        .unwrap();
    for set in [
        super::super::world::Sink::set_closed,
        super::super::world::Sink::set_full,
    ] {
        set(&daemon.sink, true);
        let answer = send(&connection, DEPLOY, "GET", &host.url("/api")).await;
        assert_eq!(answer.unwrap_err().code.as_str(), "audit_unavailable");
        set(&daemon.sink, false);
        assert_eq!(host.unheard(), 0);
    }
    send(&connection, DEPLOY, "GET", &host.url("/api"))
        .await
        .unwrap();
}
