//! What a server that means ill can answer to every call, below and above the level of the protocol:
//! each caller gets an answer of the table, others are served at once meanwhile, memory stays
//! bounded, and the daemon is as good as new afterwards.

use std::time::Duration;

use ErrorCode::{
    AegisDenied, AegisProtocol, AegisUnavailable, ExpiredToken, LoginRequired, RateLimited,
};
use Step::{Close, Drip, Forever, Hang, Reset, Send};
use Told::{Done, No, Revoking};
use aegis_broker::model::ErrorCode;
use tokio::time::Instant;
use tracing::subscriber::NoSubscriber;

use crate::evidence::{figure, times};
use crate::faults::{Told, ask, works_again};
use crate::liar::{Liar, Step};
use crate::world::{BEGIN, CREATE, EXCHANGE, READER, REDEEM, REVOKE, World, get};

/// What a body may make the broker hold: eight times what it reads of one.
const MOST: u64 = 8 * 1024 * 1024;

/// Asked of the server through the liar, whose name is not its own.
const ANY_HOST: &str = "[strictness]\nhost = false\n";

/// Nothing that could be read came, now and later: a login waits until its code has run out.
const UNAVAILABLE: [Told; 5] = [
    No(AegisUnavailable),
    No(ExpiredToken),
    No(AegisUnavailable),
    No(AegisUnavailable),
    Revoking,
];

/// An answer, and not one of the protocol's.
const UNREADABLE: [Told; 5] = [
    No(AegisProtocol),
    No(AegisProtocol),
    No(AegisProtocol),
    No(AegisProtocol),
    Revoking,
];

/// Whoever answered is no Aegis server; a login that waits for its approval bears it.
const NOT_AEGIS: [Told; 5] = [
    No(AegisProtocol),
    No(ExpiredToken),
    No(AegisProtocol),
    No(AegisProtocol),
    Revoking,
];

/// A no, in the protocol's words.
const DENIED: [Told; 5] = [
    No(AegisDenied),
    No(AegisDenied),
    No(AegisDenied),
    No(AegisDenied),
    Revoking,
];

/// A no that somebody on the way may have said.
const PAGE_THAT_DENIES: [Told; 5] = [
    No(AegisDenied),
    No(ExpiredToken),
    No(AegisDenied),
    No(AegisDenied),
    Revoking,
];

/// The same with the status that asks to log in.
const PAGE_TO_SIGN_IN: [Told; 5] = [
    No(AegisDenied),
    No(ExpiredToken),
    No(LoginRequired),
    No(LoginRequired),
    Revoking,
];

/// That, in the protocol's words.
const UNAUTHENTICATED: [Told; 5] = [
    No(AegisDenied),
    No(LoginRequired),
    No(LoginRequired),
    No(LoginRequired),
    Revoking,
];

/// Later.
const THROTTLED: [Told; 5] = [
    No(RateLimited),
    No(ExpiredToken),
    No(RateLimited),
    No(RateLimited),
    Revoking,
];

/// A lie with its name, and what it leads to at Begin, Exchange, Create, Redeem and Revoke.
type Lie = (&'static str, Vec<Step>, [Told; 5]);

fn head(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}\r\n").into_bytes()
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<Step> {
    let length = format!("Content-Length: {}\r\n{headers}", body.len());
    vec![Send([&head(status, &length), body].concat())]
}

fn json(status: &str, body: impl AsRef<[u8]>) -> Vec<Step> {
    answer(status, "Content-Type: application/json\r\n", body.as_ref())
}

fn good(body: impl AsRef<[u8]>) -> Vec<Step> {
    json("200 OK", body)
}

fn chunked(rest: &[u8]) -> Vec<u8> {
    let headers = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    [&head("200 OK", headers), rest].concat()
}

/// Connections, and what is no HTTP.
#[rustfmt::skip]
fn transport_lies() -> Vec<Lie> {
    let json = "Content-Type: application/json\r\n";
    let long = format!("{json}Content-Length: 100\r\n");
    let huge = format!("{json}Content-Length: 18446744073709551615\r\n");
    let two = format!("{json}Content-Length: 2\r\nContent-Length: 3\r\n");
    let both = format!("{json}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n");
    vec![
        ("closed at once", vec![Close], UNAVAILABLE),
        ("reset at once", vec![Reset], UNAVAILABLE),
        ("closed in the status line", vec![Send(b"HTTP/1.1 2".to_vec()), Close], UNAVAILABLE),
        ("closed in the header", vec![Send(b"HTTP/1.1 200 OK\r\nConte".to_vec()), Close], UNAVAILABLE),
        ("closed in the body", vec![Send([&head("200 OK", &long), &b"{\"le"[..]].concat()), Close], UNAVAILABLE),
        ("reset in the body", vec![Send([&head("200 OK", &long), &b"{\"le"[..]].concat()), Reset], UNAVAILABLE),
        ("closed in a chunk", vec![Send(chunked(b"20\r\n{\"le")), Close], UNAVAILABLE),
        ("stalled at once", vec![Hang], UNAVAILABLE),
        ("stalled in the header", vec![Send(b"HTTP/1.1 200 OK\r\nConte".to_vec()), Hang], UNAVAILABLE),
        ("stalled in the body", vec![Send([&head("200 OK", &long), &b"{\"le"[..]].concat()), Hang], UNAVAILABLE),
        ("dripping header", vec![Drip(head("200 OK", json)), Hang], UNAVAILABLE),
        ("dripping body", vec![Send(head("200 OK", &long)), Drip(vec![b' '; 100])], UNAVAILABLE),
        ("endless header", vec![Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Forever(b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")], UNAVAILABLE),
        ("endless header line", vec![Send(b"HTTP/1.1 200 OK\r\nX-A: ".to_vec()), Forever(&[b'a'; 4096])], UNAVAILABLE),
        ("endless status line", vec![Send(b"HTTP/1.1 200 ".to_vec()), Forever(&[b'a'; 4096])], UNAVAILABLE),
        ("endless chunks", vec![Send(chunked(b"")), Forever(b"10\r\n                \r\n")], UNREADABLE),
        ("endless body", vec![Send(head("200 OK", json)), Forever(&[b' '; 4096])], UNREADABLE),
        ("a length beyond all", vec![Send(head("200 OK", &huge)), Forever(&[b' '; 4096])], UNAVAILABLE),
        ("two lengths", vec![Send([&head("200 OK", &two), &b"{}"[..]].concat()), Close], UNAVAILABLE),
        ("length and chunks", vec![Send([&head("200 OK", &both), &b"2\r\n{}\r\n0\r\n\r\n"[..]].concat()), Close], UNREADABLE),
        ("no number as a chunk's length", vec![Send(chunked(b"zz\r\n{}")), Close], UNAVAILABLE),
        ("another protocol", vec![Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), Close], UNAVAILABLE),
        ("a TLS alert", vec![Send(vec![21, 3, 1, 0, 2, 2, 70]), Close], UNAVAILABLE),
        ("zeros", vec![Send(vec![0; 4096]), Close], UNAVAILABLE),
        ("a zero in a header", vec![Send(b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n".to_vec()), Close], UNAVAILABLE),
        ("another version", vec![Send(b"HTTP/9.9 200 OK\r\n\r\n".to_vec()), Close], UNAVAILABLE),
        ("protocols switched", vec![Send(head("101 Switching Protocols", "Connection: upgrade\r\nUpgrade: x\r\n")), Close], UNAVAILABLE),
    ]
}

/// HTTP that is none of Connect's.
#[rustfmt::skip]
fn http_lies() -> Vec<Lie> {
    let html = "Content-Type: text/html\r\n";
    let redirect = "Location: /elsewhere\r\nContent-Type: application/json\r\n";
    let zipped = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let other = "Content-Type: application/json; charset=utf-16\r\n";
    let nonce = format!("Content-Type: application/json\r\nDPoP-Nonce: {}\r\n", "n".repeat(5000));
    let later = "Content-Type: application/json\r\nRetry-After: 99999999999999999999\r\n";
    vec![
        ("no content", vec![Send(head("204 No Content", ""))], UNAVAILABLE),
        ("a part", json("206 Partial Content", "{}"), UNAVAILABLE),
        ("moved for now", answer("302 Found", redirect, b"{}"), NOT_AEGIS),
        ("moved with its body", answer("307 Temporary Redirect", redirect, b"{}"), NOT_AEGIS),
        ("moved for good", answer("308 Permanent Redirect", redirect, b"{}"), NOT_AEGIS),
        ("not modified", vec![Send(head("304 Not Modified", ""))], NOT_AEGIS),
        ("a page", answer("200 OK", html, b"<h1>hello</h1>"), UNREADABLE),
        ("a page that says no", answer("403 Forbidden", html, b"<h1>no</h1>"), PAGE_THAT_DENIES),
        ("a page to sign in at", answer("401 Unauthorized", html, b"<h1>who</h1>"), PAGE_TO_SIGN_IN),
        ("a page of a gateway", answer("502 Bad Gateway", html, b"<h1>bad</h1>"), UNAVAILABLE),
        ("a page without a place", answer("404 Not Found", html, b"<h1>no</h1>"), NOT_AEGIS),
        ("no type", answer("200 OK", "", b"{}"), UNREADABLE),
        ("compressed", answer("200 OK", zipped, &[31, 139, 8, 0, 0, 0, 0, 0]), UNREADABLE),
        ("another character set", answer("200 OK", other, b"{\0}\0"), UNREADABLE),
        ("a nonce too long", answer("200 OK", &nonce, b"{}"), UNREADABLE),
        ("throttled for ever", answer("429 Too Many Requests", later, br#"{"code":"resource_exhausted"}"#), THROTTLED),
        ("no such status", json("799 What", "{}"), UNAVAILABLE),
    ]
}

/// Connect that is none of Aegis's.
#[rustfmt::skip]
fn body_lies() -> Vec<Lie> {
    let deep = format!("{{\"lease\":{}", "[".repeat(200_000));
    let wide = format!("{{\"lease\":[{}0]}}", "0,".repeat(400_000));
    let types = r#"{"deviceCode":7,"userCode":[],"expiresIn":"soon","status":{},"lease":"x","credential":5,"token":true}"#;
    let numbers = r#"{"deviceCode":"d","userCode":"BCDF-GHJK","verificationUri":"https://a.example/","expiresIn":-1e400,"interval":99999999999999999999}"#;
    let hostile = "{\"code\":\"invalid_argument\",\"message\":\"\\u001b[2J\\u202eevil\\u0000\\r\\n\\u200b\\u009b\"}";
    let terminal = "{\"deviceCode\":\"d\\u001b[2J\",\"userCode\":\"\\u202eBCDF\",\"verificationUri\":\"javascript:alert(1)\",\"verificationUriComplete\":\"file:///etc/passwd\",\"status\":\"\\u001b[2J\",\"lease\":{\"leaseId\":\"\\u001b]0;x\\u0007\"}}";
    vec![
        ("nothing", good(""), UNREADABLE),
        ("blanks", good("   "), UNREADABLE),
        ("half a document", good(r#"{"lease":{"#), UNREADABLE),
        ("two documents", good("{} {}"), UNREADABLE),
        ("an empty object", good("{}"), UNREADABLE),
        ("an array", good("[]"), UNREADABLE),
        ("null", good("null"), UNREADABLE),
        ("a number", good("7"), UNREADABLE),
        ("a text", good("\"lease\""), UNREADABLE),
        ("no UTF-8", good(b"{\"status\":\"\xff\xfe\"}"), UNREADABLE),
        ("a mark of byte order", good("\u{feff}{}"), UNREADABLE),
        ("a member twice", good(r#"{"lease":{},"lease":{}}"#), UNREADABLE),
        ("wrong types", good(types), UNREADABLE),
        ("numbers out of range", good(numbers), UNREADABLE),
        ("too deep", good(deep), UNREADABLE),
        ("too wide", good(wide), UNREADABLE),
        ("a control sequence for a name", good(terminal), UNREADABLE),
        ("an error as a success", good(r#"{"code":"permission_denied","message":"no"}"#), UNREADABLE),
        ("hostile text", json("400 Bad Request", hostile), DENIED),
        ("an unknown code", json("400 Bad Request", r#"{"code":"who_knows"}"#), UNAVAILABLE),
        ("a code in capitals", json("400 Bad Request", r#"{"code":"PERMISSION_DENIED"}"#), UNAVAILABLE),
        ("a code of another status", json("400 Bad Request", r#"{"code":"unauthenticated"}"#), UNAUTHENTICATED),
        ("denied", json("403 Forbidden", r#"{"code":"permission_denied"}"#), DENIED),
        ("details too deep", json("500 Internal Server Error", format!(r#"{{"code":"internal","details":{}"#, "[".repeat(50_000))), UNAVAILABLE),
        ("data lost", json("500 Internal Server Error", r#"{"code":"data_loss"}"#), UNAVAILABLE),
        ("out of range", json("400 Bad Request", r#"{"code":"out_of_range"}"#), UNREADABLE),
    ]
}

const CALLS: [&str; 5] = [BEGIN, EXCHANGE, CREATE, REDEEM, REVOKE];

/// Each of these lies to each call.
async fn all(of: &str, lies: Vec<Lie>) {
    let rounds = times(1, 10);
    for _ in 0..rounds {
        for (number, method) in CALLS.into_iter().enumerate() {
            column(number, method, &lies).await;
        }
    }
    let count = usize::try_from(rounds).unwrap() * lies.len() * CALLS.len();
    figure(&format!("{count} answers of {of}: told as in the table"));
}

/// Each of them to that call, of one daemon that logs in anew for each.
async fn column(number: usize, method: &str, lies: &[Lie]) {
    let mut world = World::with(ANY_HOST).await;
    let liar = Liar::before(&mut world).await;
    let daemon = world.daemon();
    let (connection, other) = (daemon.connect(), daemon.connect());
    let mut texts = String::new();
    for (lie, steps, expected) in lies {
        let name = format!("{lie} at {method}");
        connection.logout(None).await.unwrap();
        if number > 1 {
            world.log_in(&connection).await;
            get(&other, READER).await.unwrap();
        }
        let told_before = liar.told();
        liar.lie(method, steps);
        let others = async {
            let before = Instant::now();
            other.status().await.unwrap();
            if number > 1 {
                get(&other, READER).await.unwrap();
            }
            assert_eq!(before.elapsed(), Duration::ZERO, "{name}: others waited");
        };
        let ((got, text), ()) = tokio::join!(ask(&world, &connection, method), others);
        assert_eq!(got, expected[number], "{name}: {text}");
        assert!(liar.told() > told_before, "{name}: not asked");
        liar.be_honest();
        assert!(!text.contains(shows_nothing), "{name}: {text}");
        works_again(&world, &connection, &name).await;
        texts.push_str(&text);
    }
    daemon.stop().await;
    assert_eq!(world.verify().damage, None, "{method}");
    assert_eq!(liar.elsewhere(), 0, "{method}: a redirect was followed");
    let audit = String::from_utf8(world.audit_bytes()).unwrap();
    assert!(!audit.contains(shows_nothing), "{method}: {audit}");
    world.assert_nothing_secret_in(&texts);
}

/// What no text of a server's may do to a terminal or a log.
fn shows_nothing(c: char) -> bool {
    let moves = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}');
    moves || (c.is_control() && c != '\n')
}

/// LM, DG-5, CN-1, IN-15: connections that end, stall, drip and never end, and what is no HTTP.
#[tokio::test(start_paused = true)]
async fn every_call_meets_broken_transport() {
    all("broken transport", transport_lies()).await;
}

/// OA-7, CN-1, IN-19: redirects, pages, encodings, statuses and headers of somebody else.
#[tokio::test(start_paused = true)]
async fn every_call_meets_foreign_http() {
    all("foreign HTTP", http_lies()).await;
}

/// CN-1, CN-5, HY-12, HY-17: documents that are none, of wrong shape, hostile, or too large.
#[tokio::test(start_paused = true)]
async fn every_call_meets_broken_documents() {
    all("broken documents", body_lies()).await;
}

/// LM: what is endless, huge or deep makes the broker hold no more than its bounds say. Counted by
/// the allocator, of everything on the one thread that all of them share.
#[test]
fn memory_stays_bounded_whatever_comes() {
    let lies = transport_lies().into_iter().chain(body_lies());
    let large = ["endless", "beyond all", "too deep", "too wide"];
    let lies: Vec<_> = lies
        .filter(|(name, ..)| large.iter().any(|word| name.contains(word)))
        .collect();
    assert_eq!(lies.len(), 9);
    let mut most = 0;
    for (name, steps, expected) in &lies {
        for (number, method) in CALLS.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            let (world, liar, connection) = runtime.block_on(async {
                let mut world = World::with(ANY_HOST).await;
                let liar = Liar::before(&mut world).await;
                let connection = world.daemon().connect();
                if number > 1 {
                    world.log_in(&connection).await;
                }
                (world, liar, connection)
            });
            liar.lie(method, steps);
            // The log of the other tests would be counted.
            let _quiet = tracing::subscriber::set_default(NoSubscriber::default());
            let mut got = Done;
            let used = allocation_counter::measure(|| {
                (got, _) = runtime.block_on(ask(&world, &connection, method));
            });
            assert_eq!(got, expected[number], "{name} at {method}");
            assert!(used.bytes_max <= MOST, "{name} at {method}: {used:?}");
            most = most.max(used.bytes_max);
        }
    }
    let count = lies.len() * CALLS.len();
    figure(&format!(
        "{count} large answers: {most} bytes at once at most"
    ));
}
