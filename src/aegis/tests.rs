//! The client against a server that answers scripted bytes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::*;
use crate::broker::ports::{Answer, CallTrace, Disposition, MAX_EARLIER_TRIES, Try};
use crate::dpop::ProofKey;
use crate::model::{
    Action, CleanText, ErrorCode, FieldValue, MaterialKind, PopKeyId, Principal, ProofJti,
    RequestId, Scope, Selector, TenantId,
};
use crate::secret::SecretString;
use crate::time::{Now, Timestamp, UnixTime};

const TOKEN: &str = "example-broker-token-0001";
const DEVICE_CODE: &str = "mdc_canary-device-code";
const MATERIAL: &str = "mock-gcp-canary-material";
/// 2026-11-22T10:00:00Z, and the same as a `Date`.
const START: u64 = 1_795_341_600_000;
const DATE: &str = "Date: Sun, 22 Nov 2026 10:00:00 GMT\r\n";

/// Runs with tokio's clock, so that it stands still where that one does.
#[derive(Debug)]
struct TestClock {
    start: tokio::time::Instant,
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let passed = self.start.elapsed();
        Now {
            boot: Timestamp::from_millis(0).plus(passed),
            unix: UnixTime::from_millis(START).plus(passed),
        }
    }
}

/// What one connection is answered.
#[derive(Clone)]
enum Script {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// Nothing, for ever.
    Stall,
    /// These bytes, then one more byte every 20 s, for ever.
    Drip(Vec<u8>),
    /// These bytes, then spaces without end.
    Endless(Vec<u8>),
}

struct Seen {
    head: String,
    body: Value,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn proof_part(&self, part: usize) -> Value {
        let jwt = self.body["requestProof"]["dpopJwt"].as_str().unwrap();
        let part = jwt.split('.').nth(part).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    fn claims(&self) -> Value {
        self.proof_part(1)
    }
}

/// Answers the n-th request with the n-th script, and all later ones with the last.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, scripts.clone(), Arc::clone(&log)));
            }
        });
        Self { address, seen }
    }

    fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    fn idempotency_keys(&self) -> BTreeSet<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .map(|seen| seen.body["idempotencyKey"].to_string())
            .collect()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn claims(&self) -> Vec<Value> {
        self.seen.lock().unwrap().iter().map(Seen::claims).collect()
    }

    fn client(&self) -> AegisClient {
        self.client_with(false)
    }

    fn client_with(&self, allow_missing_token_info: bool) -> AegisClient {
        client_of(&self.base(), allow_missing_token_info)
    }
}

fn client_of(base: &str, allow_missing_token_info: bool) -> AegisClient {
    let settings = AegisSettings {
        base_url: Url::parse(base).unwrap(),
        allow_insecure_loopback: true,
        allow_missing_token_info,
        network: Network::default(),
        renewing: None,
    };
    let clock = TestClock {
        start: tokio::time::Instant::now(),
    };
    AegisClient::new(settings, Arc::new(clock)).unwrap()
}

/// Reads one request: its head, and its body of JSON. `None` where the peer goes before.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Value)> {
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.unwrap_or(0);
        if count == 0 {
            return None;
        }
        read.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, _)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let body = head.len() + 4;
        if let Some(body) = read.get(body..body + length) {
            return Some((head.to_owned(), serde_json::from_slice(body).unwrap()));
        }
    }
}

async fn serve(mut stream: TcpStream, scripts: Vec<Script>, log: Arc<Mutex<Vec<Seen>>>) {
    let Some((head, body)) = read_request(&mut stream).await else {
        return;
    };
    let index = {
        let mut log = log.lock().unwrap();
        log.push(Seen { head, body });
        log.len() - 1
    };
    // A peer that hangs up in between is what some tests are about.
    match scripts.get(index).or(scripts.last()).unwrap() {
        Script::Bytes(bytes) => {
            let _gone = stream.write_all(bytes).await.is_err();
            let _gone = stream.shutdown().await.is_err();
        }
        Script::Stall => std::future::pending().await,
        Script::Drip(bytes) => {
            let mut gone = stream.write_all(bytes).await.is_err();
            while !gone {
                tokio::time::sleep(Duration::from_secs(20)).await;
                gone = stream.write_all(b" ").await.is_err();
            }
        }
        Script::Endless(bytes) => {
            let mut gone = stream.write_all(bytes).await.is_err();
            while !gone {
                gone = stream.write_all(&[b' '; 4096]).await.is_err();
            }
        }
    }
}

fn raw(status: u16, headers: &str, body: &[u8]) -> Script {
    let mut bytes = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nX-Request-Id: req_{status}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    Script::Bytes(bytes)
}

const JSON: &str = "Content-Type: application/json\r\n";

fn answer(status: u16, headers: &str, body: &Value) -> Script {
    raw(
        status,
        &format!("{JSON}{headers}"),
        body.to_string().as_bytes(),
    )
}

fn ok(body: &Value) -> Script {
    answer(200, DATE, body)
}

/// A Connect error with an `ErrorInfo`.
fn refusal(status: u16, headers: &str, code: &str, reason: &str) -> Script {
    let mut info = vec![0x0a, u8::try_from(reason.len()).unwrap()];
    info.extend_from_slice(reason.as_bytes());
    let body = json!({
        "code": code, "message": "no",
        "details": [{ "type": "aegis.v1.ErrorInfo", "value": STANDARD.encode(info) }],
    });
    answer(status, headers, &body)
}

fn use_nonce(nonce_headers: &str) -> Script {
    refusal(401, nonce_headers, "unauthenticated", "use_dpop_nonce")
}

fn selector() -> Selector {
    Selector::parse("gcp/billing-prod/deploy-bot").unwrap()
}

fn scope(action: Action) -> Scope {
    Scope {
        action,
        selector: selector(),
    }
}

fn begin_request() -> BeginDeviceAuthorization {
    BeginDeviceAuthorization {
        tenant: TenantId::parse("business-default").unwrap(),
        scopes: Action::ALL.map(scope).to_vec(),
        token_ttl: Duration::from_mins(10),
        client_display_name: CleanText::new("Aegis Broker on host-01", 64),
        renews: false,
    }
}

fn authorization() -> Arc<DeviceAuthorization> {
    let key = Arc::new(ProofKey::generate().unwrap());
    Arc::new(DeviceAuthorization {
        request: begin_request(),
        device_code: SecretString::copy_from(DEVICE_CODE),
        user_code: CleanText::new("BCDF-GHJK", 32),
        verification_uri: CleanText::new("http://127.0.0.1/device", 2048),
        verification_uri_complete: None,
        interval: Duration::from_secs(5),
        expires_at: Timestamp::from_millis(600_000),
        expires_at_unix: UnixTime::from_millis(START + 600_000),
        pop_key_id: PopKeyId::parse(key.id()).unwrap(),
        key,
    })
}

fn session() -> Arc<Session> {
    let key = Arc::new(ProofKey::generate().unwrap());
    Arc::new(Session {
        principal: Principal::parse("user:u-demo").unwrap(),
        tenant: TenantId::parse("business-default").unwrap(),
        session_id: None,
        token: SecretString::copy_from(TOKEN),
        pop_key_id: PopKeyId::parse(key.id()).unwrap(),
        key,
        scopes: Action::ALL.map(scope).to_vec(),
        expires_at: Timestamp::from_millis(600_000),
        expires_at_unix: UnixTime::from_millis(START + 600_000),
        renew_at: Timestamp::from_millis(300_000),
        ends_at: Timestamp::from_millis(28_800_000),
        bootstrap: None,
        binding_checked: true,
    })
}

fn lease_request() -> CreateLease {
    CreateLease {
        selector: selector(),
        ttl: Duration::from_mins(5),
        max_redemptions: 1,
        purpose: Some(CleanText::new("deploy", 200)),
    }
}

fn lease_id() -> LeaseId {
    LeaseId::parse("lse_4k7q2m9x8c3v6b1n5p0d7h2j3t").unwrap()
}

fn lease(state: &str) -> Value {
    json!({
        "leaseId": lease_id().as_str(),
        "target": { "provider": "gcp", "app": "billing-prod", "account": "deploy-bot" },
        "state": state,
        "createdAt": "2026-11-22T10:00:00Z", "expiresAt": "2026-11-22T10:05:00Z",
        "maxRedemptions": 1, "purpose": "deploy",
    })
}

fn created() -> Script {
    ok(&json!({ "lease": lease("active") }))
}

fn redeemed() -> Value {
    json!({
        "credential": {
            "kind": "gcp_access_token", "expiresAt": "2026-11-22T10:05:00Z",
            "gcpAccessToken": {
                "accessToken": MATERIAL, "tokenType": "Bearer",
                "serviceAccountEmail": "deploy-bot@billing-prod.example",
                "projectId": "billing-prod",
            },
        },
        "lease": lease("exhausted"),
    })
}

fn token_info(key: &ProofKey) -> Value {
    json!({
        "expiresAt": "2026-11-22T10:10:00Z", "expiresInSeconds": 600,
        "grantedScopes": Action::ALL.map(|action| scope(action).to_string()),
        "principal": "user:u-demo", "tenantId": "business-default", "popKeyId": key.id(),
        "binding": "jkt", "thumbprint": key.thumbprint(),
        "sessionId": "ses_7d3kq0v8m2c5x9b1n4", "sessionExpiresAt": "2026-11-22T18:00:00Z",
        "role": "org_admin",
    })
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

async fn redeem_once(script: Script) -> (Answer<RedeemedLease>, usize) {
    let server = Server::start(vec![script]).await;
    let answer = server
        .client()
        .redeem_lease(session(), lease_id(), selector())
        .await;
    (answer, server.count())
}

// ---- what is sent ----

/// `aegis.md` 1 and 3: begin goes out as the contract has it, without credential and proof.
#[tokio::test]
async fn begin_asks_as_the_contract_says() {
    let server = Server::start(vec![ok(&json!({
        "deviceCode": DEVICE_CODE, "userCode": "BCDF-GHJK",
        "verificationUri": "http://127.0.0.1:7460/device", "intervalSeconds": 7,
        "verificationUriComplete": "http://127.0.0.1:7460/device?user_code=BCDF-GHJK",
        "expiresInSeconds": 300,
    }))])
    .await;
    let answer = server
        .client()
        .begin_device_authorization(begin_request())
        .await;
    let begun = answer.outcome.unwrap();
    assert_eq!(begun.device_code.expose(), DEVICE_CODE);
    assert_eq!(begun.user_code.as_str(), "BCDF-GHJK");
    assert_eq!(
        begun.verification_uri.as_str(),
        "http://127.0.0.1:7460/device"
    );
    assert!(begun.verification_uri_complete.is_some());
    assert_eq!(begun.interval, Duration::from_secs(7));
    assert_eq!(
        answer.trace.request_id.unwrap().as_str(),
        "req_200",
        "the request id is kept"
    );
    let seen = server.seen.lock().unwrap();
    let request = &seen[0];
    assert_eq!(
        request.head.lines().next().unwrap(),
        "POST /aegis.v1.IdentityGatewayService/BeginMcpOauthDeviceAuthorization HTTP/1.1"
    );
    assert_eq!(request.header("connect-protocol-version"), Some("1"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("authorization"), None);
    let timeout: u64 = request
        .header("connect-timeout-ms")
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30_000).contains(&timeout));
    assert_eq!(
        request.body,
        json!({
            "tenantId": "business-default",
            "requestedScopes": Action::ALL.map(|action| scope(action).to_string()),
            "requestedTtlSeconds": 600, "popKeyId": begun.key.id(),
            "clientDisplayName": "Aegis Broker on host-01",
            "popJwk": { "kty": "EC", "crv": "P-256", "x": begun.key.x(), "y": begun.key.y() },
        })
    );
}

/// DP-17, `aegis.md` 4: the token travels in `Authorization` only, the proof in the body, over
/// the URL really called.
#[tokio::test]
async fn create_carries_bearer_and_body_proof() {
    let server = Server::start(vec![created()]).await;
    let session = session();
    let answer = server
        .client()
        .create_lease(Arc::clone(&session), lease_request())
        .await;
    let lease = answer.outcome.unwrap();
    assert_eq!(lease.lease_id, lease_id());
    assert_eq!(lease.max_redemptions, 1);
    let seen = server.seen.lock().unwrap();
    let request = &seen[0];
    assert_eq!(
        request.header("authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
    assert_eq!(request.header("dpop"), None);
    assert_eq!(request.head.matches(TOKEN).count(), 1);
    assert!(!request.body.to_string().contains(TOKEN));
    assert_eq!(request.proof_part(0)["kid"], session.key.id());
    let claims = request.claims();
    assert_eq!(claims["htm"], "POST");
    assert_eq!(
        claims["htu"],
        format!(
            "{}/aegis.v1.BrokerService/CreateCredentialLease",
            server.base()
        )
    );
    assert_eq!(claims["ath"], "tIwG3kH55jVIJEnLlT-9kvfdG35M9jidGIzlQA_2ta8");
    assert_eq!(
        claims["jti"].as_str(),
        answer.trace.proof_jti.as_ref().map(ProofJti::as_str)
    );
    let body = &request.body;
    assert_eq!(body["target"]["account"], "deploy-bot");
    assert_eq!(body["requestedTtlSeconds"], 300);
    assert_eq!(body["maxRedemptions"], 1);
    assert_eq!(body["purpose"], "deploy");
    assert!(body["idempotencyKey"].as_str().unwrap().len() >= 22);
}

/// `aegis.md` 12: requests are validated before they leave.
#[tokio::test]
async fn what_the_contract_does_not_allow_does_not_leave() {
    let server = Server::start(vec![Script::Stall]).await;
    let client = server.client();
    let scopes = |count: usize| -> Vec<Scope> {
        (0..count)
            .map(|index| Scope {
                action: Action::Create,
                selector: Selector::from_parts("gcp", "app", &format!("a{index}")).unwrap(),
            })
            .collect()
    };
    let name = |length: usize| CleanText::new(&"n".repeat(length), 1000);
    let seconds = Duration::from_secs;
    let begins = [
        ("no scope", scopes(0), seconds(600), name(10)),
        ("97 scopes", scopes(97), seconds(600), name(10)),
        ("59 s", scopes(1), seconds(59), name(10)),
        ("901 s", scopes(1), seconds(901), name(10)),
        ("65 characters", scopes(1), seconds(600), name(65)),
        ("no name", scopes(1), seconds(600), name(0)),
    ];
    for (row, scopes, token_ttl, client_display_name) in begins {
        let request = BeginDeviceAuthorization {
            scopes,
            token_ttl,
            client_display_name,
            ..begin_request()
        };
        let failure = client
            .begin_device_authorization(request)
            .await
            .outcome
            .unwrap_err();
        assert_eq!(failure.code, ErrorCode::Internal, "{row}");
        assert_eq!(failure.certainty, Certainty::NotDone, "{row}");
    }
    let creates = [
        ("29 s", seconds(29), 1, 10),
        ("3601 s", seconds(3601), 1, 10),
        ("no redemption", seconds(300), 0, 10),
        ("11 redemptions", seconds(300), 11, 10),
        ("201 characters", seconds(300), 1, 201),
    ];
    for (row, ttl, max_redemptions, purpose) in creates {
        let request = CreateLease {
            ttl,
            max_redemptions,
            purpose: Some(name(purpose)),
            ..lease_request()
        };
        let failure = client
            .create_lease(session(), request)
            .await
            .outcome
            .unwrap_err();
        assert_eq!(failure.disposition, Disposition::Fault, "{row}");
    }
    assert_eq!(server.count(), 0);
}

// ---- nonces and proofs ----

/// DP-12: the newest nonce of any answer goes into the next proof, claim and field alike.
#[tokio::test]
async fn the_newest_nonce_is_remembered() {
    let nonce = |nonce: &str| format!("{DATE}DPoP-Nonce: {nonce}\r\n");
    let revoked = json!({ "lease": lease("revoked") });
    let server = Server::start(vec![
        answer(200, &nonce("n-A"), &revoked),
        refusal(403, &nonce("n-B"), "permission_denied", "policy_denied"),
        answer(200, DATE, &revoked),
        answer(200, &format!("{DATE}DPoP-Nonce: a b\r\n"), &revoked),
        answer(200, &nonce("n-C"), &revoked),
        answer(200, DATE, &revoked),
    ])
    .await;
    let client = server.client();
    let revoke = || client.revoke_lease(session(), lease_id(), RevokeReason::Released);
    for _ in 0..5 {
        let _answer = revoke().await;
    }
    client.drop_connections();
    let _answer = revoke().await;
    let nonces: Vec<Value> = server
        .claims()
        .iter()
        .map(|claims| claims["nonce"].clone())
        .collect();
    // An illegal one is passed over; dropped connections take the nonce along (HY-7).
    assert_eq!(
        nonces,
        json!([null, "n-A", "n-B", "n-B", "n-B", null])
            .as_array()
            .unwrap()
            .clone()
    );
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[1].body["requestProof"]["nonce"], "n-A");
    assert_eq!(seen[0].body["requestProof"].get("nonce"), None);
}

/// DP-11, DP-13: `use_dpop_nonce` is answered once, with a new proof and that answer's nonce,
/// also where nothing else may be repeated.
#[tokio::test]
async fn a_demanded_nonce_is_given_once() {
    let server = Server::start(vec![use_nonce("DPoP-Nonce: n-B\r\n"), ok(&redeemed())]).await;
    let answer = server
        .client()
        .redeem_lease(session(), lease_id(), selector())
        .await;
    assert!(answer.outcome.is_ok());
    let claims = server.claims();
    assert_eq!(claims.len(), 2);
    assert_eq!(claims[0].get("nonce"), None);
    assert_eq!(claims[1]["nonce"], "n-B");
    assert_ne!(claims[0]["jti"], claims[1]["jti"]);
}

/// DP-13: a server that always asks again sees two requests; one that hands out no usable nonce
/// sees one.
#[tokio::test]
async fn nonce_loops_end() {
    let rows = [
        ("always another", "DPoP-Nonce: n-B\r\n", 2),
        ("none", "", 1),
        ("two", "DPoP-Nonce: n-A\r\nDPoP-Nonce: n-B\r\n", 1),
        ("illegal", "DPoP-Nonce: a\"b\r\n", 1),
        ("empty", "DPoP-Nonce: \r\n", 1),
    ];
    for (name, headers, requests) in rows {
        let server = Server::start(vec![use_nonce(headers)]).await;
        let client = server.client();
        let failure = client
            .create_lease(session(), lease_request())
            .await
            .outcome
            .unwrap_err();
        assert_eq!(server.count(), requests, "{name}");
        assert_eq!(failure.code, ErrorCode::AegisProtocol, "{name}");
        assert_eq!(failure.certainty, Certainty::NotDone, "{name}");
        let server = Server::start(vec![use_nonce(headers)]).await;
        let polled = server
            .client()
            .exchange_device_authorization(authorization())
            .await;
        assert_eq!(server.count(), requests, "{name}, polling");
        assert_eq!(
            polled.outcome.unwrap_err().disposition,
            Disposition::Fault,
            "{name}, polling"
        );
    }
}

/// `aegis.md` 4: a refused `iat` takes the server's clock, once per login, at most a day off.
#[tokio::test]
async fn a_refused_proof_follows_the_servers_clock_once() {
    let start = START / 1000;
    #[rustfmt::skip]
    let rows = [
        ("an hour ahead", "Date: Sun, 22 Nov 2026 11:00:00 GMT\r\n", start + 3600),
        ("an hour behind", "Date: Sun, 22 Nov 2026 09:00:00 GMT\r\n", start - 3600),
        ("two days ahead", "Date: Tue, 24 Nov 2026 10:00:00 GMT\r\n", start),
        ("no date", "", start),
        ("nonsense", "Date: yesterday\r\n", start),
    ];
    for (name, date, expected) in rows {
        let server = Server::start(vec![
            refusal(401, date, "unauthenticated", "proof_invalid"),
            ok(&json!({ "status": "authorization_pending" })),
        ])
        .await;
        let polled = server
            .client()
            .exchange_device_authorization(authorization())
            .await;
        assert!(polled.outcome.is_ok(), "{name}");
        let claims = server.claims();
        assert_eq!(claims.len(), 2, "{name}");
        let iat = claims[1]["iat"].as_u64().unwrap();
        assert!((expected..expected + 5).contains(&iat), "{name}: {iat}");
        assert_ne!(claims[0]["jti"], claims[1]["jti"], "{name}");
    }
}

/// `aegis.md` 12: the third refused proof of one key in five minutes makes it suspect; other
/// keys and later times do not count.
#[tokio::test(start_paused = true)]
async fn three_refused_proofs_make_a_key_suspect() {
    let server = Server::start(vec![refusal(401, "", "unauthenticated", "proof_replayed")]).await;
    let client = server.client();
    let one = session();
    let redeem = async |session: &Arc<Session>| {
        let answer = client
            .redeem_lease(Arc::clone(session), lease_id(), selector())
            .await;
        answer.outcome.unwrap_err().disposition
    };
    assert_eq!(redeem(&one).await, Disposition::Terminal);
    assert_eq!(redeem(&session()).await, Disposition::Terminal);
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(redeem(&one).await, Disposition::Terminal);
    tokio::time::advance(Duration::from_secs(101)).await;
    assert_eq!(redeem(&one).await, Disposition::Terminal);
    assert_eq!(redeem(&one).await, Disposition::Compromised);
    assert_eq!(server.count(), 5, "only proof_invalid is tried again");
}

// ---- repeats and limits ----

/// DP-11, AU-9: a call's trace names every try, lost answers included, however many there were.
#[tokio::test(start_paused = true)]
async fn a_trace_names_every_try() {
    let server = Server::start(vec![
        Script::Bytes(Vec::new()),
        answer(503, "", &json!({"code": "unavailable"})),
        use_nonce("DPoP-Nonce: n-B\r\n"),
        refusal(401, "", "unauthenticated", "proof_invalid"),
        answer(503, "", &json!({"code": "unavailable"})),
        created(),
    ])
    .await;
    let Answer { trace, outcome } = server
        .client()
        .create_lease(session(), lease_request())
        .await;
    assert!(outcome.is_ok());
    assert_eq!(trace.earlier.len(), MAX_EARLIER_TRIES);
    let last = Try {
        request_id: trace.request_id,
        proof_jti: trace.proof_jti,
    };
    let tries = trace.earlier.iter().chain([&last]);
    let (ids, proofs): (Vec<_>, Vec<_>) = tries
        .map(|one| {
            let id = one.request_id.as_ref().map_or("", RequestId::as_str);
            (id, one.proof_jti.as_ref().unwrap().as_str())
        })
        .unzip();
    assert_eq!(
        ids,
        ["", "req_503", "req_401", "req_401", "req_503", "req_200"]
    );
    let sent = server.claims();
    let sent: Vec<_> = sent.iter().map(|claims| claims["jti"].as_str()).collect();
    assert_eq!(proofs.into_iter().map(Some).collect::<Vec<_>>(), sent);
}

/// CN-4: create is repeated under its idempotency key, each try with a proof of its own; at most
/// four tries, three after `internal`, one after a no.
#[tokio::test(start_paused = true)]
async fn create_is_repeated_under_one_key() {
    let broken = Script::Bytes(Vec::new());
    let rows: [(&str, Script, usize, ErrorCode, Certainty); 9] = [
        (
            "unavailable",
            answer(503, "", &json!({"code": "unavailable"})),
            4,
            ErrorCode::AegisUnavailable,
            Certainty::Unknown,
        ),
        (
            "audit",
            refusal(503, "", "unavailable", "audit_unavailable"),
            4,
            ErrorCode::AegisUnavailable,
            Certainty::NotDone,
        ),
        (
            "throttled",
            refusal(
                429,
                "Retry-After: 2\r\n",
                "resource_exhausted",
                "rate_limited",
            ),
            4,
            ErrorCode::RateLimited,
            Certainty::NotDone,
        ),
        (
            "throttled for long",
            refusal(
                429,
                "Retry-After: 61\r\n",
                "resource_exhausted",
                "rate_limited",
            ),
            1,
            ErrorCode::RateLimited,
            Certainty::NotDone,
        ),
        (
            "internal",
            answer(500, "", &json!({"code": "internal"})),
            3,
            ErrorCode::AegisUnavailable,
            Certainty::Unknown,
        ),
        (
            "broken off",
            broken.clone(),
            4,
            ErrorCode::AegisUnavailable,
            Certainty::Unknown,
        ),
        (
            "denied",
            refusal(403, "", "permission_denied", "policy_denied"),
            1,
            ErrorCode::AegisDenied,
            Certainty::NotDone,
        ),
        (
            "expired token",
            refusal(401, "", "unauthenticated", "token_expired"),
            1,
            ErrorCode::LoginRequired,
            Certainty::NotDone,
        ),
        (
            "too large",
            refusal(429, "", "resource_exhausted", "body_too_large"),
            1,
            ErrorCode::Internal,
            Certainty::NotDone,
        ),
    ];
    for (name, script, tries, code, certainty) in rows {
        let server = Server::start(vec![script]).await;
        let answer = server
            .client()
            .create_lease(session(), lease_request())
            .await;
        let failure = answer.outcome.unwrap_err();
        assert_eq!(server.count(), tries, "{name}");
        assert_eq!(failure.code, code, "{name}");
        assert_eq!(failure.certainty, certainty, "{name}");
        let keys = server.idempotency_keys();
        let claims = server.claims();
        let jtis: BTreeSet<_> = claims.iter().map(|one| one["jti"].to_string()).collect();
        assert_eq!((keys.len(), jtis.len()), (1, tries), "{name}");
    }
    let server = Server::start(vec![broken.clone(), broken, created()]).await;
    let answer = server
        .client()
        .create_lease(session(), lease_request())
        .await;
    assert!(answer.outcome.is_ok());
    assert_eq!(server.count(), 3);
}

/// CN-4, LC-8: a success that cannot be read is asked for once more where that is safe, under the
/// same key: then the issuer names the lease that it made. One that can be read is believed or not.
#[tokio::test(start_paused = true)]
async fn an_unreadable_success_is_asked_for_once_more() {
    let long = vec![b' '; 1024 * 1024 + 1];
    let no_lease = || ok(&json!({}));
    #[rustfmt::skip]
    let rows = [
        ("no json", raw(200, JSON, b"{"), 2),
        ("html", raw(200, "Content-Type: text/html\r\n", b"<p>"), 2),
        ("too long", raw(200, JSON, &long), 2),
        ("too many headers", answer(200, &format!("X-A: {}\r\n", "a".repeat(64 * 1024)), &json!({})), 2),
        ("no lease in it", no_lease(), 1),
    ];
    for (name, script, tries) in rows {
        let server = Server::start(vec![script.clone()]).await;
        let answer = server
            .client()
            .create_lease(session(), lease_request())
            .await;
        let failure = answer.outcome.unwrap_err();
        assert_eq!(server.count(), tries, "{name}");
        assert_eq!(failure.code, ErrorCode::AegisProtocol, "{name}");
        assert_eq!(failure.certainty, Certainty::Unknown, "{name}");
        assert_eq!(answer.trace.earlier.len(), tries - 1, "{name}");

        let server = Server::start(vec![script.clone(), created()]).await;
        let answer = server
            .client()
            .create_lease(session(), lease_request())
            .await;
        assert_eq!(answer.outcome.is_ok(), tries > 1, "{name}");
        assert_eq!(server.idempotency_keys().len(), 1, "{name}");

        let (redeemed, count) = redeem_once(script).await;
        assert!(redeemed.outcome.is_err(), "{name}");
        assert_eq!(count, 1, "{name}: a redemption is counted");
    }
    // It shares the four tries with what else fails in passing.
    let unavailable = || answer(503, "", &json!({"code": "unavailable"}));
    let torn = || raw(200, JSON, b"{");
    let server = Server::start(vec![unavailable(), torn(), unavailable(), unavailable()]).await;
    let answer = server
        .client()
        .create_lease(session(), lease_request())
        .await;
    assert_eq!(answer.outcome.unwrap_err().certainty, Certainty::Unknown);
    assert_eq!(server.count(), 4);
}

/// AU-9: what a call that is given up has sent is known to whoever gives it up.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_leaves_its_tries() {
    let server = Server::start(vec![
        answer(503, "", &json!({"code": "unavailable"})),
        Script::Stall,
    ])
    .await;
    let call = server.client().create_lease(session(), lease_request());
    assert_eq!(call.tries.trace(), CallTrace::default());
    let waited = tokio::time::timeout(Duration::from_secs(3), call.outcome).await;
    assert!(waited.is_err());
    let trace = call.tries.trace();
    let sent = server.claims();
    let jti = |number: usize| ProofJti::parse(sent[number]["jti"].as_str().unwrap()).ok();
    let first = Try {
        request_id: RequestId::parse("req_503").ok(),
        proof_jti: jti(0),
    };
    assert_eq!(trace.earlier, [first]);
    assert_eq!((trace.request_id, trace.proof_jti), (None, jti(1)));
}

/// LC-8: a call that is given up while it waits for its turn is not sent when that comes.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_is_not_sent_later() {
    let server = Server::start(vec![Script::Stall]).await;
    let client = server.client();
    let mut holding = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let call = client.redeem_lease(session(), lease_id(), selector());
        holding.spawn(call.into_future());
    }
    // The clock is paused: all four have their turn before it moves.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut call = client.create_lease(session(), lease_request());
    let waited = tokio::time::timeout(Duration::from_secs(3), &mut call.outcome).await;
    assert!(waited.is_err());
    assert_eq!(call.tries.close(), Certainty::NotDone);
    holding.shutdown().await;
    let failure = call.outcome.await.unwrap_err();
    assert_eq!(failure.certainty, Certainty::NotDone);
    assert_eq!(server.count(), 4);
    assert_eq!(call.tries.trace(), CallTrace::default());
}

/// CN-4: redeem and exchange are sent once whatever comes back; revoke like create.
#[tokio::test(start_paused = true)]
async fn only_what_may_be_repeated_is() {
    let unavailable = || answer(503, "Retry-After: 1\r\n", &json!({"code": "unavailable"}));
    let (redeemed, count) = redeem_once(unavailable()).await;
    let failure = redeemed.outcome.unwrap_err();
    assert_eq!(count, 1);
    assert_eq!(failure.certainty, Certainty::Unknown);
    assert_eq!(
        failure.disposition,
        Disposition::Retry(Some(Duration::from_secs(1)))
    );

    let server = Server::start(vec![unavailable()]).await;
    let polled = server
        .client()
        .exchange_device_authorization(authorization())
        .await;
    assert_eq!(server.count(), 1);
    assert_eq!(
        polled.outcome.unwrap_err().disposition,
        Disposition::Wait(Some(Duration::from_secs(1)))
    );

    let server = Server::start(vec![unavailable()]).await;
    let revoked = server
        .client()
        .revoke_lease(session(), lease_id(), RevokeReason::Logout)
        .await;
    assert_eq!(server.count(), 4);
    assert!(revoked.outcome.is_err());
}

/// LM: 30 s for the whole call, not per read and not per try.
#[tokio::test(start_paused = true)]
async fn the_whole_call_has_one_deadline() {
    let head = format!("HTTP/1.1 200 X\r\n{JSON}Content-Length: 1000\r\n\r\n").into_bytes();
    #[rustfmt::skip]
    let rows = [
        ("no answer", vec![Script::Stall]),
        ("headers only", vec![Script::Drip(head.clone())]),
        ("half a header", vec![Script::Drip(b"HTTP/1.1 200 X\r\nX-A: ".to_vec())]),
        ("stalls after a retry", vec![answer(503, "", &json!({"code": "unavailable"})), Script::Stall]),
    ];
    for (name, scripts) in rows {
        let server = Server::start(scripts).await;
        let client = server.client();
        let before = tokio::time::Instant::now();
        let failure = client
            .create_lease(session(), lease_request())
            .await
            .outcome
            .unwrap_err();
        assert_eq!(before.elapsed().as_secs(), 30, "{name}");
        assert_eq!(failure.code, ErrorCode::AegisUnavailable, "{name}");
        assert_eq!(failure.certainty, Certainty::Unknown, "{name}");
        assert_eq!(failure.disposition, Disposition::Retry(None), "{name}");
    }
}

/// `aegis.md` 1: four requests at a time; who gets no turn in time has certainly sent nothing.
#[tokio::test(start_paused = true)]
async fn no_more_than_four_requests_at_a_time() {
    let server = Server::start(vec![Script::Stall]).await;
    let client = server.client();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let call = client.redeem_lease(session(), lease_id(), selector());
        calls.spawn(call.into_future());
    }
    let unsent = calls
        .join_all()
        .await
        .into_iter()
        .filter(|answer| answer.outcome.as_ref().unwrap_err().certainty == Certainty::NotDone)
        .count();
    assert_eq!((server.count(), unsent), (4, 2));
}

/// Nobody listens: certainly not sent.
#[tokio::test(start_paused = true)]
async fn no_connection_means_not_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        seen: Arc::default(),
    };
    drop(listener);
    let failure = server
        .client()
        .redeem_lease(session(), lease_id(), selector())
        .await
        .outcome
        .unwrap_err();
    assert_eq!(failure.certainty, Certainty::NotDone);
    assert_eq!(failure.code, ErrorCode::AegisUnavailable);
    let failure = server
        .client()
        .create_lease(session(), lease_request())
        .await
        .outcome
        .unwrap_err();
    assert_eq!(failure.certainty, Certainty::NotDone);
}

/// LM: a server that takes no connection is waited for so long, and then it has certainly heard
/// nothing.
#[tokio::test(start_paused = true)]
async fn a_connection_has_ten_seconds() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Nobody accepts, and there is room for one to wait: the kernel leaves the next ones without
    // an answer.
    let listener = socket.listen(0).unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        seen: Arc::default(),
    };
    let _waits = TcpStream::connect(server.address).await.unwrap();
    let before = tokio::time::Instant::now();
    let answer = server
        .client()
        .redeem_lease(session(), lease_id(), selector())
        .await;
    let failure = answer.outcome.unwrap_err();
    assert_eq!(failure.code, ErrorCode::AegisUnavailable);
    assert_eq!(failure.certainty, Certainty::NotDone);
    assert_eq!(before.elapsed().as_secs(), 10);
}

// ---- hostile answers ----

/// CN-1, LM, OA-7, HY-5: whatever comes back is classified, material never comes of it, and a
/// redemption that was not clearly answered stays uncertain.
#[tokio::test(start_paused = true)]
async fn hostile_answers_to_redeem_are_classified() {
    let good = redeemed().to_string();
    let long = "x".repeat(70 * 1024);
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let twice = good.replacen("\"lease\"", "\"credential\":null,\"lease\"", 1);
    let ok_head = |length: usize| {
        format!("HTTP/1.1 200 X\r\n{JSON}Content-Length: {length}\r\n\r\n").into_bytes()
    };
    let mut truncated = ok_head(good.len());
    truncated.extend_from_slice(&good.as_bytes()[..good.len() / 2]);
    let chunked = format!("HTTP/1.1 200 X\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
    let endless = format!("HTTP/1.1 200 X\r\n{JSON}\r\n").into_bytes();
    let unavailable = (ErrorCode::AegisUnavailable, Disposition::Retry(None));
    let protocol = (ErrorCode::AegisProtocol, Disposition::Fault);
    #[rustfmt::skip]
    let rows: Vec<(&str, Script, (ErrorCode, Disposition))> = vec![
        ("closes at once", Script::Bytes(Vec::new()), unavailable),
        ("garbage", Script::Bytes(b"\x16\x03\x01\x00garbage\r\n\r\n".to_vec()), unavailable),
        ("not HTTP", Script::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), unavailable),
        ("truncated body", Script::Bytes(truncated), unavailable),
        ("bad chunk", Script::Bytes(format!("{chunked}zz\r\n{good}").into_bytes()), unavailable),
        ("unfinished chunks", Script::Bytes(format!("{chunked}{:x}\r\n{good}\r\n", good.len()).into_bytes()), unavailable),
        ("announces 2 MiB", Script::Endless(ok_head(2 * 1024 * 1024)), protocol),
        ("one byte too long", Script::Endless(ok_head(1024 * 1024 + 1)), protocol),
        ("endless", Script::Endless(endless), protocol),
        ("headers of 70 KiB", raw(200, &format!("{JSON}X-Long: {long}\r\n"), good.as_bytes()), protocol),
        ("redirect", raw(302, "Location: http://169.254.169.254/\r\n", b""), protocol),
        ("redirect that keeps the method", raw(307, &format!("{JSON}Location: /x\r\n"), good.as_bytes()), protocol),
        ("gzip", raw(200, &format!("{JSON}Content-Encoding: gzip\r\n"), good.as_bytes()), protocol),
        ("html", raw(200, "Content-Type: text/html\r\n", good.as_bytes()), protocol),
        ("no content type", raw(200, "", good.as_bytes()), protocol),
        ("no body", raw(200, JSON, b""), protocol),
        ("not JSON", raw(200, JSON, b"{'credential'}"), protocol),
        ("not UTF-8", raw(200, JSON, b"{\"x\":\"\xff\"}"), protocol),
        ("too deep", raw(200, JSON, deep.as_bytes()), protocol),
        ("a name twice", raw(200, JSON, twice.as_bytes()), protocol),
        ("empty object", ok(&json!({})), protocol),
        ("list", ok(&json!([redeemed()])), protocol),
        ("credential is text", ok(&json!({"credential": MATERIAL})), protocol),
        ("error in a 200", ok(&with(redeemed(), "error", json!({"code": "x"}))), protocol),
        ("token in a refusal", answer(403, "", &json!({"code": "permission_denied", "brokerToken": TOKEN})), protocol),
        ("credential in a refusal", answer(500, "", &redeemed()), protocol),
        ("201", answer(201, "", &redeemed()), protocol),
        ("204", raw(204, "", b""), unavailable),
        ("400 without a body", raw(400, "", b""), unavailable),
        ("401 html", raw(401, "Content-Type: text/html\r\n", b"<html>"), (ErrorCode::LoginRequired, Disposition::Reauthenticate)),
        ("403 html", raw(403, "Content-Type: text/html\r\n", b"<html>"), (ErrorCode::AegisDenied, Disposition::Terminal)),
        ("404 text", raw(404, "Content-Type: text/plain\r\n", b"no"), protocol),
        ("404 of another API", answer(404, "", &json!({"error": "no such path"})), protocol),
        ("405 without a body", raw(405, "", b""), protocol),
        ("501 html", raw(501, "Content-Type: text/html\r\n", b"<html>"), protocol),
        ("429 empty", raw(429, "", b""), unavailable),
        ("418", raw(418, "", b""), unavailable),
        ("502 html", raw(502, "Content-Type: text/html\r\n", b"<html>"), unavailable),
        ("503 endless", Script::Endless(format!("HTTP/1.1 503 X\r\n{JSON}\r\n").into_bytes()), unavailable),
    ];
    for (name, script, (code, disposition)) in rows {
        let (answer, count) = redeem_once(script).await;
        let failure = answer.outcome.unwrap_err();
        assert_eq!(count, 1, "{name}");
        assert_eq!(
            (failure.code, failure.disposition),
            (code, disposition),
            "{name}"
        );
        assert_eq!(failure.certainty, Certainty::Unknown, "{name}");
        let shown = format!("{failure:?}");
        assert!(
            !shown.contains(TOKEN) && !shown.contains(MATERIAL),
            "{name}"
        );
    }
}

/// LM: of an answer, 1 MiB of body and 64 KiB of names and values are read, one byte more is not.
#[tokio::test]
async fn the_bounds_of_an_answer_are_exact() {
    let body = |length| {
        let mut body = redeemed().to_string().into_bytes();
        body.resize(length, b' ');
        raw(200, JSON, &body)
    };
    let headers = |length: usize| {
        let good = redeemed().to_string();
        let own = [
            ("connection", "close"),
            ("x-request-id", "req_200"),
            ("content-type", "application/json"),
            ("content-length", &good.len().to_string()),
            ("x", ""),
        ]
        .map(|(name, value)| name.len() + value.len());
        let fill = "x".repeat(length - own.iter().sum::<usize>());
        raw(200, &format!("{JSON}X: {fill}\r\n"), good.as_bytes())
    };
    let rows = [
        ("body", body(1024 * 1024), true),
        ("body and a byte", body(1024 * 1024 + 1), false),
        ("headers", headers(64 * 1024), true),
        ("headers and a byte", headers(64 * 1024 + 1), false),
    ];
    for (name, script, is_read) in rows {
        let outcome = redeem_once(script).await.0.outcome;
        let code = outcome.err().map(|failure| failure.code);
        let expected = (!is_read).then_some(ErrorCode::AegisProtocol);
        assert_eq!(code, expected, "{name}");
    }
}

/// HY-12: words of the server reach nobody unless they are words.
#[tokio::test]
async fn reasons_are_words_or_nothing() {
    let rows = [
        ("known", "policy_denied", "policy_denied"),
        ("unknown", "brand_new_reason", "brand_new_reason"),
        ("escape", "\u{1b}[2J", "permission_denied"),
        ("sentence", "Ask Bob", "permission_denied"),
        (
            "long",
            "a_very_long_word_that_goes_on_and_on_and_on_and_on_and_on_and_on_",
            "permission_denied",
        ),
    ];
    for (name, reason, shown) in rows {
        let (answer, _) = redeem_once(refusal(403, "", "permission_denied", reason)).await;
        let failure = answer.outcome.unwrap_err();
        assert_eq!(failure.reason.unwrap().as_str(), shown, "{name}");
        assert_eq!(failure.disposition, Disposition::Terminal, "{name}");
    }
}

// ---- device login ----

/// A refused beginning is no reason to log in: it carries no token, so that a login that is
/// "required" for it would lead straight back to it. Whatever the refusal says, it is the issuer's
/// no, and nothing to try again.
#[tokio::test]
async fn a_refused_beginning_never_asks_for_a_login() {
    let rows = [
        (401, "unauthenticated", "token_expired"),
        (401, "unauthenticated", "session_ended"),
        (401, "unauthenticated", "unheard_of"),
        (400, "failed_precondition", "device_code_used"),
        (404, "not_found", "device_code_unknown"),
        (404, "not_found", "lease_not_found"),
    ];
    let mut scripts: Vec<_> = rows
        .into_iter()
        .map(|(status, code, reason)| refusal(status, "", code, reason))
        .collect();
    scripts.push(raw(401, "", b""));
    let server = Server::start(scripts).await;
    let client = server.client();
    for row in 0..=rows.len() {
        let answer = client.begin_device_authorization(begin_request()).await;
        let failure = answer.outcome.unwrap_err();
        assert_eq!(failure.code, ErrorCode::AegisDenied, "{row}");
        assert_eq!(failure.disposition, Disposition::Terminal, "{row}");
        let message = failure.message.unwrap();
        assert!(message.as_str().contains("to begin a login"), "{message}");
    }
}

/// DG-1, OA-7, OA-11, OA-15, HY-12: what of a begin answer is believed.
#[tokio::test]
async fn begin_answers_are_checked() {
    let good = json!({
        "deviceCode": DEVICE_CODE, "userCode": "BCDF-GHJK",
        "verificationUri": "https://aegis.example/device",
    });
    #[rustfmt::skip]
    let bad: Vec<(&str, Value)> = vec![
        ("no device code", without(good.clone(), "deviceCode")),
        ("empty device code", with(good.clone(), "deviceCode", json!(""))),
        ("device code with a line feed", with(good.clone(), "deviceCode", json!("a\nb"))),
        ("device code is a number", with(good.clone(), "deviceCode", json!(7))),
        ("no user code", without(good.clone(), "userCode")),
        ("blank user code", with(good.clone(), "userCode", json!(" "))),
        ("user code of little", with(good.clone(), "userCode", json!("A - B-C"))),
        ("user code with an escape", with(good.clone(), "userCode", json!("\u{1b}[2JAB"))),
        ("user code reversed", with(good.clone(), "userCode", json!("\u{202e}AB"))),
        ("user code with a sentence", with(good.clone(), "userCode", json!("BCDF. Now call: lease_create!"))),
        ("user code with a letter nobody has", with(good.clone(), "userCode", json!("BCDF-GHJ\u{3a9}"))),
        ("user code of hyphens and markup", with(good.clone(), "userCode", json!("<BCDF>-[GHJK](x)"))),
        ("user code of 33", with(good.clone(), "userCode", json!("A".repeat(33)))),
        ("no uri", without(good.clone(), "verificationUri")),
        ("plain http", with(good.clone(), "verificationUri", json!("http://aegis.example/device"))),
        ("http by name", with(good.clone(), "verificationUri", json!("http://localhost/device"))),
        ("javascript", with(good.clone(), "verificationUri", json!("javascript:alert(1)"))),
        ("file", with(good.clone(), "verificationUri", json!("file:///etc/passwd"))),
        ("an option", with(good.clone(), "verificationUri", json!("--help"))),
        ("user info", with(good.clone(), "verificationUri", json!("https://aegis.example@evil.example/"))),
        ("too long", with(good.clone(), "verificationUri", json!(format!("https://h/{}", "a".repeat(2048))))),
        ("negative life", with(good.clone(), "expiresInSeconds", json!(-1))),
        ("error beside it", with(good.clone(), "error", json!("x"))),
    ];
    for (name, body) in bad {
        let server = Server::start(vec![ok(&body)]).await;
        let failure = server
            .client()
            .begin_device_authorization(begin_request())
            .await
            .outcome
            .unwrap_err();
        assert_eq!(failure.code, ErrorCode::AegisProtocol, "{name}");
    }
    #[rustfmt::skip]
    let life_and_pause: Vec<(&str, Value, u64, u64)> = vec![
        ("nothing said", good.clone(), 600, 5),
        ("zero", with(with(good.clone(), "expiresInSeconds", json!(0)), "intervalSeconds", json!(0)), 600, 5),
        ("as text", with(with(good.clone(), "expiresInSeconds", json!("300")), "intervalSeconds", json!("7")), 300, 7),
        ("snake case", with(with(good.clone(), "expires_in_seconds", json!(60)), "interval_seconds", json!(1)), 60, 1),
        ("words", with(with(good.clone(), "expiresInSeconds", json!("soon")), "intervalSeconds", json!("often")), 600, 5),
        ("negative interval", with(good.clone(), "intervalSeconds", json!(-5)), 600, 5),
        ("fractions", with(with(good.clone(), "expiresInSeconds", json!(90.9)), "intervalSeconds", json!(2.9)), 90, 2),
        ("huge", with(with(good.clone(), "expiresInSeconds", json!(1e18)), "intervalSeconds", json!(u64::MAX)), 900, 900),
    ];
    for (name, body, life, pause) in life_and_pause {
        let server = Server::start(vec![ok(&body)]).await;
        let client = server.client();
        let begun = client
            .begin_device_authorization(begin_request())
            .await
            .outcome
            .unwrap();
        assert_eq!(begun.interval, Duration::from_secs(pause), "{name}");
        let left = Timestamp::from_millis(0).until(begun.expires_at).as_secs();
        assert!((life..life + 5).contains(&left), "{name}: {left}");
    }
    let complete = [
        (
            "same origin",
            "https://aegis.example/device?user_code=A",
            true,
        ),
        (
            "other origin",
            "https://evil.example/device?user_code=A",
            false,
        ),
        (
            "not secure",
            "http://aegis.example/device?user_code=A",
            false,
        ),
    ];
    for (name, uri, kept) in complete {
        let body = with(good.clone(), "verificationUriComplete", json!(uri));
        let server = Server::start(vec![ok(&body)]).await;
        let begun = server
            .client()
            .begin_device_authorization(begin_request())
            .await
            .outcome
            .unwrap();
        assert_eq!(begun.verification_uri_complete.is_some(), kept, "{name}");
    }
}

/// `login_origin`: a login that leads elsewhere than the profile's pinned origin is none.
#[tokio::test(start_paused = true)]
async fn a_login_that_leads_elsewhere_is_refused() {
    let begun = json!({
        "deviceCode": DEVICE_CODE, "userCode": "BCDF-GHJK",
        "verificationUri": "https://login.example/device", "expiresInSeconds": 600,
    });
    for (pinned, good) in [
        ("https://login.example", true),
        ("https://other.example", false),
    ] {
        let server = Server::start(vec![ok(&begun)]).await;
        let settings = AegisSettings {
            base_url: Url::parse(&server.base()).unwrap(),
            allow_insecure_loopback: true,
            allow_missing_token_info: false,
            network: Network::default().with_login_at(&Url::parse(pinned).unwrap()),
            renewing: None,
        };
        let clock = TestClock {
            start: tokio::time::Instant::now(),
        };
        let client = AegisClient::new(settings, Arc::new(clock)).unwrap();
        let outcome = client
            .begin_device_authorization(begin_request())
            .await
            .outcome;
        let code = outcome.as_ref().err().map(|failure| failure.code);
        let expected = (!good).then_some(ErrorCode::AegisProtocol);
        assert_eq!(code, expected, "{pinned}");
    }
}

/// `aegis.md` 12: a key's name that is taken is answered with another key, once.
#[tokio::test]
async fn a_taken_key_name_gets_another_key_once() {
    let server = Server::start(vec![refusal(409, "", "already_exists", "pop_key_conflict")]).await;
    let failure = server
        .client()
        .begin_device_authorization(begin_request())
        .await
        .outcome
        .unwrap_err();
    assert_eq!(failure.disposition, Disposition::Terminal);
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].body["popKeyId"], seen[1].body["popKeyId"]);
}

/// LM: 30 s for the whole beginning, with the second key too.
#[tokio::test(start_paused = true)]
async fn both_keys_of_a_beginning_have_one_deadline() {
    let Script::Bytes(taken) = refusal(409, "", "already_exists", "pop_key_conflict") else {
        panic!("not bytes");
    };
    // One byte more is announced, so that the answer is whole with the first blank.
    let taken = String::from_utf8(taken).unwrap();
    let (head, body) = taken.split_once("\r\n\r\n").unwrap();
    let length = |length: usize| format!("Content-Length: {length}");
    let head = head.replace(&length(body.len()), &length(body.len() + 1));
    let taken = Script::Drip(format!("{head}\r\n\r\n{body}").into_bytes());
    let server = Server::start(vec![taken, Script::Stall]).await;
    let client = server.client();
    let before = tokio::time::Instant::now();
    let begun = client.begin_device_authorization(begin_request()).await;
    assert_eq!(before.elapsed().as_secs(), 30);
    assert_eq!(server.count(), 2);
    let code = begun.outcome.unwrap_err().code;
    assert_eq!(code, ErrorCode::AegisUnavailable);
}

/// `aegis.md` 5: the table of statuses.
#[tokio::test]
async fn poll_statuses_are_told_apart() {
    #[rustfmt::skip]
    let rows: Vec<(&str, Value, Result<&str, Disposition>)> = vec![
        ("pending", json!({"status": "authorization_pending", "intervalSeconds": 8}), Ok("Pending { interval: Some(8s) }")),
        ("approved", json!({"status": "approved"}), Ok("Pending { interval: None }")),
        ("slow down", json!({"status": "slow_down", "intervalSeconds": "10"}), Ok("SlowDown { interval: Some(10s) }")),
        ("denied", json!({"status": "access_denied"}), Ok("AccessDenied")),
        ("expired", json!({"status": "expired_token"}), Ok("ExpiredToken")),
        ("success without a token", json!({"status": "success"}), Err(Disposition::Fault)),
        ("token while pending", json!({"status": "authorization_pending", "brokerToken": TOKEN}), Err(Disposition::Fault)),
        ("no status", json!({}), Err(Disposition::Fault)),
        ("unknown status", json!({"status": "Success"}), Err(Disposition::Fault)),
        ("status is a number", json!({"status": 1}), Err(Disposition::Fault)),
    ];
    for (name, body, expected) in rows {
        let server = Server::start(vec![ok(&body)]).await;
        let polled = server
            .client()
            .exchange_device_authorization(authorization())
            .await;
        let shown = polled.outcome.map(|exchange| format!("{exchange:?}"));
        let shown = shown.as_deref().map_err(|failure| failure.disposition);
        assert_eq!(shown, expected, "{name}");
    }
}

/// DG-4, DG-5, `aegis.md` 17.3: what passes is waited out, everything else ends the login.
#[tokio::test(start_paused = true)]
async fn polls_wait_out_what_passes_and_end_on_the_rest() {
    use Disposition::{Fault, Terminal, Wait};
    let said = |status: u16, code: &str| answer(status, "", &json!({ "code": code }));
    let html = |status: u16| raw(status, "Content-Type: text/html\r\n", b"<html>");
    #[rustfmt::skip]
    let rows: Vec<(&str, Script, Disposition)> = vec![
        ("closed", Script::Bytes(Vec::new()), Wait(None)),
        ("stalled", Script::Stall, Wait(None)),
        ("unavailable", said(503, "unavailable"), Wait(None)),
        ("internal", said(500, "internal"), Wait(None)),
        ("unknown", said(500, "unknown"), Wait(None)),
        ("data loss", said(500, "data_loss"), Wait(None)),
        ("deadline", said(504, "deadline_exceeded"), Wait(None)),
        ("aborted", said(409, "aborted"), Wait(None)),
        ("throttled", refusal(429, "Retry-After: 7\r\n", "resource_exhausted", "rate_limited"), Wait(Some(Duration::from_secs(7)))),
        ("502 html", html(502), Wait(None)),
        ("401 html", html(401), Wait(None)),
        ("429 html", html(429), Wait(None)),
        ("500 html", html(500), Wait(None)),
        ("503 html", html(503), Wait(None)),
        ("redirect", raw(302, "Location: /portal\r\n", b""), Wait(None)),
        ("too large", refusal(429, "", "resource_exhausted", "body_too_large"), Terminal),
        ("code used", refusal(400, "", "failed_precondition", "device_code_used"), Terminal),
        ("code unknown", refusal(404, "", "not_found", "device_code_unknown"), Terminal),
        ("denied", refusal(403, "", "permission_denied", "policy_denied"), Terminal),
        ("bad request", refusal(400, "", "invalid_argument", "unknown_field"), Terminal),
        ("proof replayed", refusal(401, "", "unauthenticated", "proof_replayed"), Terminal),
        ("proof invalid", refusal(401, "", "unauthenticated", "proof_invalid"), Terminal),
        ("unauthenticated", said(401, "unauthenticated"), Terminal),
        ("token expired", refusal(401, "", "unauthenticated", "token_expired"), Terminal),
        ("unimplemented", said(501, "unimplemented"), Terminal),
        ("out of range", said(400, "out_of_range"), Terminal),
        ("canceled", said(499, "canceled"), Terminal),
        ("exists", said(409, "already_exists"), Terminal),
        ("404 html", html(404), Wait(None)),
        ("405 html", html(405), Wait(None)),
        ("501 html", html(501), Wait(None)),
        ("200 html", raw(200, "Content-Type: text/html\r\n", b"<html>"), Fault),
        ("200 not JSON", raw(200, JSON, b"{"), Fault),
        ("token in a refusal", answer(503, "", &json!({"code": "unavailable", "brokerToken": TOKEN})), Fault),
    ];
    for (name, script, disposition) in rows {
        let server = Server::start(vec![script]).await;
        let polled = server
            .client()
            .exchange_device_authorization(authorization())
            .await;
        assert_eq!(
            polled.outcome.unwrap_err().disposition,
            disposition,
            "{name}"
        );
    }
}

type Change = Box<dyn Fn(Value) -> Value>;

/// OA-12, DP-14, `aegis.md` 6 and 17.6: a token is believed only as asked for.
#[tokio::test]
async fn tokens_that_were_not_asked_for_are_thrown_away() {
    let other = scope(Action::Create)
        .to_string()
        .replace("deploy-bot", "root");
    let missing = "token_info_missing";
    let set = |name: &'static str, value: Value| -> Change {
        Box::new(move |info| with(info, name, value.clone()))
    };
    let cut = |name: &'static str| -> Change { Box::new(move |info| without(info, name)) };
    #[rustfmt::skip]
    let rows: Vec<(&str, Change, Option<&str>)> = vec![
        ("as asked", Box::new(|info| info), None),
        ("fewer scopes", set("grantedScopes", json!([scope(Action::Redeem).to_string()])), None),
        ("no key name", cut("popKeyId"), None),
        ("no session", cut("sessionId"), None),
        ("no thumbprint", cut("thumbprint"), Some(missing)),
        ("no binding", cut("binding"), Some(missing)),
        ("no tenant", cut("tenantId"), Some(missing)),
        ("no scopes", cut("grantedScopes"), Some(missing)),
        ("empty scopes", set("grantedScopes", json!([])), Some(missing)),
        ("no principal", cut("principal"), Some(missing)),
        ("other thumbprint", set("thumbprint", json!("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I")), Some("token_thumbprint_mismatch")),
        ("other binding", set("binding", json!("x5t#S256")), Some("token_binding_mismatch")),
        ("other tenant", set("tenantId", json!("business-other")), Some("token_tenant_mismatch")),
        ("other key name", set("popKeyId", json!("pop-x")), Some("token_pop_key_id_mismatch")),
        ("another account", set("grantedScopes", json!([other])), Some("token_scope_wider")),
        ("action only", set("grantedScopes", json!(["credential.lease.create"])), Some("token_scope_wider")),
        ("wildcard", set("grantedScopes", json!(["credential.lease.create:provider:gcp:app:*:account:x"])), Some("token_scope_wider")),
        ("bootstrap", set("grantedScopes", json!(["spiffe.bootstrap"])), Some("token_scope_wider")),
        ("negative life", set("expiresInSeconds", json!(-1)), Some("token_lifetime")),
        ("already over", set("expiresAt", json!("2026-11-22T09:59:59Z")), Some("token_lifetime")),
        ("session over", set("sessionExpiresAt", json!("2026-11-22T10:00:00Z")), Some("token_lifetime")),
        ("principal with an escape", set("principal", json!("user:\u{1b}[2J")), Some("field_principal")),
    ];
    for (name, change, reason) in rows {
        let authorization = authorization();
        let info = change(token_info(&authorization.key));
        let body = json!({ "status": "success", "brokerToken": TOKEN, "tokenInfo": info });
        let server = Server::start(vec![ok(&body)]).await;
        let polled = server
            .client()
            .exchange_device_authorization(Arc::clone(&authorization))
            .await;
        match (polled.outcome, reason) {
            (Ok(DeviceExchange::Success(session)), None) => {
                assert_eq!(session.token.expose(), TOKEN, "{name}");
                assert_eq!(session.principal.as_str(), "user:u-demo", "{name}");
                assert!(session.binding_checked, "{name}");
            }
            (Err(failure), Some(reason)) => {
                assert_eq!(failure.reason.unwrap().as_str(), reason, "{name}");
                assert_eq!(failure.code, ErrorCode::AegisProtocol, "{name}");
                assert_eq!(failure.disposition, Disposition::Fault, "{name}");
            }
            (outcome, _) => panic!("{name}: {outcome:?}"),
        }
    }
}

/// `aegis.md` 17.6: without `token_info` only where the profile allows it, and never longer than
/// ten minutes.
#[tokio::test]
async fn a_missing_token_info_is_believed_only_where_allowed() {
    let body = json!({ "status": "success", "brokerToken": TOKEN });
    let server = Server::start(vec![ok(&body)]).await;
    let polled = server
        .client()
        .exchange_device_authorization(authorization())
        .await;
    assert_eq!(
        polled.outcome.unwrap_err().reason.unwrap().as_str(),
        "token_info_missing"
    );
    let polled = server
        .client_with(true)
        .exchange_device_authorization(authorization())
        .await;
    let Ok(DeviceExchange::Success(session)) = polled.outcome else {
        panic!("no success")
    };
    assert!(!session.binding_checked);
    assert_eq!(session.scopes, begin_request().scopes);
    assert!(Timestamp::from_millis(0).until(session.expires_at) < Duration::from_secs(605));
}

/// OA-11, HY-17: the earlier of two lifetimes, at most 15 min, whatever they look like.
#[tokio::test]
async fn token_lifetimes_are_the_earlier_and_capped() {
    let ahead = "Date: Sun, 22 Nov 2026 11:00:00 GMT\r\n";
    #[rustfmt::skip]
    let rows: Vec<(&str, &str, Value, Value, u64)> = vec![
        ("both", DATE, json!(600), json!("2026-11-22T10:10:00Z"), 600),
        ("point earlier", DATE, json!(600), json!("2026-11-22T10:01:00Z"), 60),
        ("seconds earlier", DATE, json!(60), json!("2026-11-22T10:10:00Z"), 60),
        ("seconds as text", DATE, json!("60"), Value::Null, 60),
        ("fraction", DATE, json!(60.9), Value::Null, 60),
        ("point only", DATE, Value::Null, json!("2026-11-22T10:02:00.5Z"), 119),
        ("date an hour ahead", ahead, json!(600), json!("2026-11-22T10:10:00Z"), 600),
        ("neither", DATE, Value::Null, Value::Null, 600),
        ("a word", DATE, json!("long"), Value::Null, 600),
        ("zero is missing", DATE, json!(0), Value::Null, 600),
        ("huge", DATE, json!(u64::MAX), json!("9999-12-31T23:59:59Z"), 900),
    ];
    for (name, date, seconds, point, life) in rows {
        let authorization = authorization();
        let info = with(
            with(token_info(&authorization.key), "expiresInSeconds", seconds),
            "expiresAt",
            point,
        );
        let body = json!({ "status": "success", "brokerToken": TOKEN, "tokenInfo": info });
        let server = Server::start(vec![answer(200, date, &body)]).await;
        let client = server.client();
        let polled = client.exchange_device_authorization(authorization).await;
        let Ok(DeviceExchange::Success(session)) = polled.outcome else {
            panic!("{name}")
        };
        let left = Timestamp::from_millis(0)
            .until(session.expires_at)
            .as_secs();
        assert!((life..life + 5).contains(&left), "{name}: {left}");
    }
}

// ---- leases ----

/// LC-2, LC-3: a lease is the one asked for, counted from before the request, never longer.
#[tokio::test]
async fn created_leases_are_checked() {
    let good = lease("active");
    #[rustfmt::skip]
    let bad: Vec<(&str, Value)> = vec![
        ("no lease", json!({})),
        ("no id", json!({"lease": without(good.clone(), "leaseId")})),
        ("hostile id", json!({"lease": with(good.clone(), "leaseId", json!("lse_\u{1b}[2J"))})),
        ("no state", json!({"lease": without(good.clone(), "state")})),
        ("revoked", json!({"lease": lease("revoked")})),
        ("unknown state", json!({"lease": lease("Active")})),
        ("no target", json!({"lease": without(good.clone(), "target")})),
        ("other target", json!({"lease": with(good.clone(), "target", json!({"provider": "gcp", "app": "billing-prod", "account": "root"}))})),
        ("half a target", json!({"lease": with(good.clone(), "target", json!({"provider": "gcp"}))})),
        ("no end", json!({"lease": without(good.clone(), "expiresAt")})),
        ("end is a word", json!({"lease": with(good.clone(), "expiresAt", json!("soon"))})),
        ("end is a number", json!({"lease": with(good.clone(), "expiresAt", json!(1))})),
        ("ends before it begins", json!({"lease": with(good.clone(), "expiresAt", json!("2026-11-22T09:00:00Z"))})),
        ("negative count", json!({"lease": with(good.clone(), "maxRedemptions", json!(-1))})),
    ];
    for (name, body) in bad {
        let server = Server::start(vec![ok(&body)]).await;
        let failure = server
            .client()
            .create_lease(session(), lease_request())
            .await
            .outcome
            .unwrap_err();
        assert_eq!(
            (failure.code, failure.certainty),
            (ErrorCode::AegisProtocol, Certainty::Unknown),
            "{name}"
        );
        let unreadable = matches!(name, "end is a word" | "end is a number");
        assert_eq!(server.count(), 1 + usize::from(unreadable), "{name}");
        // LC-8: a lease that has a name can be revoked.
        let is_named = !matches!(name, "no lease" | "no id" | "hostile id");
        assert_eq!(failure.made.is_some(), is_named, "{name}");
    }
    #[rustfmt::skip]
    let lives: Vec<(&str, Value, u64, u32)> = vec![
        ("as asked", good.clone(), 300, 1),
        ("shorter", with(good.clone(), "expiresAt", json!("2026-11-22T10:01:00Z")), 60, 1),
        ("longer", with(good.clone(), "expiresAt", json!("2026-11-22T11:00:00Z")), 300, 1),
        // Its `Date` leaves out up to a second, which must lengthen no life (LC-2).
        ("by the server's clock", without(with(good.clone(), "expiresAt", json!("2026-11-22T10:01:00Z")), "createdAt"), 59, 1),
        ("more redemptions", with(good.clone(), "maxRedemptions", json!("10")), 300, 1),
        ("redemptions unsaid", without(good, "maxRedemptions"), 300, 1),
    ];
    for (name, lease, life, redemptions) in lives {
        let server = Server::start(vec![ok(&json!({ "lease": lease }))]).await;
        let created = server
            .client()
            .create_lease(session(), lease_request())
            .await
            .outcome
            .unwrap();
        let left = Timestamp::from_millis(0)
            .until(created.expires_at)
            .as_secs();
        assert!((life..life + 5).contains(&left), "{name}: {left}");
        assert_eq!(created.max_redemptions, redemptions, "{name}");
    }
}

/// LC-2: lifetimes count from before the first try, however long the answer took.
#[tokio::test(start_paused = true)]
async fn lifetimes_count_from_before_the_request() {
    let throttled = refusal(
        429,
        "Retry-After: 9\r\n",
        "resource_exhausted",
        "rate_limited",
    );
    let server = Server::start(vec![throttled, created()]).await;
    let created = server
        .client()
        .create_lease(session(), lease_request())
        .await
        .outcome
        .unwrap();
    assert_eq!(created.expires_at, Timestamp::from_millis(300_000));
    assert_eq!(
        created.expires_at_unix,
        UnixTime::from_millis(START + 300_000)
    );
}

/// `aegis.md` 10: material goes into its fields, secrets as secrets.
#[tokio::test]
async fn material_is_taken_by_kind() {
    let (answer, _) = redeem_once(ok(&redeemed())).await;
    let lease = answer.outcome.unwrap();
    assert_eq!(lease.redemptions_used, 1);
    assert_eq!(lease.material.kind, MaterialKind::GcpAccessToken);
    let value = |name: &str| match &lease.material.field(name).unwrap().value {
        FieldValue::Public(text) => format!("public {text}"),
        FieldValue::Secret(secret) => format!("secret {}", secret.expose()),
    };
    assert_eq!(value("access_token"), format!("secret {MATERIAL}"));
    assert_eq!(value("token_type"), "public Bearer");
    assert_eq!(value("project_id"), "public billing-prod");
    let left = Timestamp::from_millis(0).until(lease.expires_at).as_secs();
    // Less what a `Date` leaves out (LC-2).
    assert!((299..304).contains(&left), "{left}");

    let generic = json!({
        "credential": {
            "kind": "generic_secret", "expires_at": "2026-11-22T10:01:00Z",
            "generic_secret": { "fields": { "username": "u", "password": "line\nfeed" } },
        },
        "lease": lease_used(),
    });
    let (answer, _) = redeem_once(ok(&generic)).await;
    let lease = answer.outcome.unwrap();
    assert_eq!(lease.material.kind, MaterialKind::GenericSecret);
    assert_eq!(lease.redemptions_used, 3);
    assert!(matches!(
        &lease.material.field("password").unwrap().value,
        FieldValue::Secret(secret) if secret.expose() == "line\nfeed"
    ));
    let left = Timestamp::from_millis(0).until(lease.expires_at).as_secs();
    assert!((59..64).contains(&left), "the earlier end counts: {left}");
}

fn lease_used() -> Value {
    with(lease("active"), "redemptionsUsed", json!("3"))
}

/// `aegis.md` 10, LM: material that is not as the contract has it is refused whole.
#[tokio::test]
async fn material_out_of_shape_is_refused() {
    let good = redeemed();
    let credential = |change: &dyn Fn(Value) -> Value| {
        with(
            good.clone(),
            "credential",
            change(good["credential"].clone()),
        )
    };
    let token = |token: Value| {
        credential(&|credential| {
            with(
                credential,
                "gcpAccessToken",
                json!({ "accessToken": token }),
            )
        })
    };
    let generic = |fields: Value| {
        json!({
            "credential": {
                "kind": "generic_secret", "expiresAt": "2026-11-22T10:05:00Z",
                "genericSecret": { "fields": fields },
            },
        })
    };
    let many: serde_json::Map<String, Value> = (0..65)
        .map(|index| (format!("f{index}"), json!("v")))
        .collect();
    #[rustfmt::skip]
    let rows: Vec<(&str, Value)> = vec![
        ("no kind", credential(&|credential| without(credential, "kind"))),
        ("unknown kind", credential(&|credential| with(credential, "kind", json!("ssh_key")))),
        ("kind of another member", credential(&|credential| with(credential, "kind", json!("generic_secret")))),
        ("no member", credential(&|credential| without(credential, "gcpAccessToken"))),
        ("two members", credential(&|credential| { with(credential, "genericSecret", json!({"fields": {"a": "b"}})) })),
        ("two members of one shape", credential(&|credential| with(credential, "gcpSubjectToken", json!({"subjectToken": "t"})))),
        ("two spellings of a field", credential(&|credential| with(credential, "gcpAccessToken", json!({"accessToken": "t", "access_token": "t"})))),
        ("no token", token(Value::Null)),
        ("empty token", token(json!(""))),
        ("token with a line feed", token(json!("a\nb"))),
        ("token with NUL", token(json!("a\u{0}b"))),
        ("token of 64 KiB and one", token(json!("t".repeat(64 * 1024 + 1)))),
        ("token is a number", token(json!(1))),
        ("no end", without(credential(&|credential| without(credential, "expiresAt")), "lease")),
        ("over", credential(&|credential| with(credential, "expiresAt", json!("2026-11-22T09:00:00Z")))),
        ("other lease", with(good.clone(), "lease", with(lease("active"), "leaseId", json!("lse_other")))),
        ("other target", with(good.clone(), "lease", with(lease("active"), "target", json!({"provider": "gcp", "app": "billing-prod", "account": "owner"})))),
        ("revoked lease", with(good.clone(), "lease", lease("revoked"))),
        ("escape in a public value", credential(&|credential| { with(credential, "gcpAccessToken", json!({"accessToken": "t", "projectId": "\u{1b}[2J"})) })),
        ("no fields", generic(json!({}))),
        ("65 fields", generic(Value::Object(many))),
        ("empty value", generic(json!({"a": ""}))),
        ("field name with a line feed", generic(json!({"a\nb": "v"}))),
        ("field name of 65", generic(json!({"a".repeat(65): "v"}))),
        ("value is a number", generic(json!({"a": 1}))),
    ];
    for (name, body) in rows {
        let (answer, count) = redeem_once(ok(&body)).await;
        let failure = answer.outcome.unwrap_err();
        assert_eq!(
            (failure.code, failure.certainty),
            (ErrorCode::AegisProtocol, Certainty::Unknown),
            "{name}"
        );
        assert_eq!(count, 1, "{name}");
    }
}

/// LC-5: only an answer that says so confirms a revocation.
#[tokio::test]
async fn revocations_are_confirmed_or_not() {
    #[rustfmt::skip]
    let rows: Vec<(&str, Script, Result<(), ErrorCode>)> = vec![
        ("revoked", ok(&json!({"lease": lease("revoked")})), Ok(())),
        ("expired", ok(&json!({"lease": lease("expired"), "alreadyTerminal": true})), Ok(())),
        ("terminal, no lease", ok(&json!({"already_terminal": true})), Ok(())),
        ("still active", ok(&json!({"lease": lease("active")})), Err(ErrorCode::AegisProtocol)),
        ("nothing said", ok(&json!({})), Err(ErrorCode::AegisProtocol)),
        ("other lease", ok(&json!({"lease": with(lease("revoked"), "leaseId", json!("lse_other"))})), Err(ErrorCode::AegisProtocol)),
        ("not found", refusal(404, "", "not_found", "lease_not_found"), Err(ErrorCode::LeaseNotFound)),
    ];
    for (name, script, expected) in rows {
        let server = Server::start(vec![script]).await;
        let answer = server
            .client()
            .revoke_lease(session(), lease_id(), RevokeReason::HolderExited)
            .await;
        assert_eq!(
            answer.outcome.map_err(|failure| failure.code),
            expected,
            "{name}"
        );
        let seen = server.seen.lock().unwrap();
        assert_eq!(seen[0].body["reason"], "holder_exited", "{name}");
    }
}

/// HY-4, HY-8, DG-9: no secret and no proof in any log line, dependencies included, at TRACE.
#[tokio::test]
async fn nothing_secret_is_logged() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // While there is one dispatcher only, tracing asks the thread that reaches a call site first
    // whether anybody listens, and that may be another test's; with two it asks them all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let guard = tracing::subscriber::set_default(subscriber);
    let authorization = authorization();
    let info = token_info(&authorization.key);
    let success = json!({ "status": "success", "brokerToken": TOKEN, "tokenInfo": info });
    let hostile = json!({ "code": "internal", "message": format!("you sent {TOKEN}"), "brokerToken": MATERIAL });
    let server = Server::start(vec![
        refusal(401, DATE, "unauthenticated", "proof_invalid"),
        ok(&success),
        ok(&redeemed()),
        answer(500, "", &hostile),
    ])
    .await;
    let client = server.client();
    let polled = client.exchange_device_authorization(authorization).await;
    let redeemed = client.redeem_lease(session(), lease_id(), selector()).await;
    let failed = client.redeem_lease(session(), lease_id(), selector()).await;
    let debug = format!("{polled:?} {redeemed:?} {failed:?} {client:?}");
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("aegis call failed"), "the log is looked at");
    let proofs: Vec<String> = server
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|seen| {
            seen.body["requestProof"]["dpopJwt"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    for secret in [TOKEN, DEVICE_CODE, MATERIAL]
        .into_iter()
        .chain(proofs.iter().map(String::as_str))
    {
        assert!(!text.contains(secret), "log");
        assert!(!debug.contains(secret), "debug");
    }
}

/// What ties a refusal to the records: request id, proof, code, reason.
#[tokio::test]
async fn a_failure_names_what_the_core_needs() {
    let (answer, _) = redeem_once(refusal(403, "", "permission_denied", "scope_not_granted")).await;
    assert_eq!(answer.trace.request_id.unwrap().as_str(), "req_403");
    assert!(answer.trace.proof_jti.is_some());
    assert_eq!(
        answer.outcome.unwrap_err(),
        Failure {
            code: ErrorCode::ScopeNotGranted,
            disposition: Disposition::Terminal,
            reason: Some(CleanText::new("scope_not_granted", 64)),
            message: None,
            certainty: Certainty::NotDone,
            made: None,
        }
    );
}

/// Who was asked and what came of it is told in plain words of our own.
#[tokio::test(start_paused = true)]
async fn a_failed_login_names_the_place_and_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let html = |status: u16| raw(status, "Content-Type: text/html\r\n", b"<h1>canary</h1>");
    let told = |script: Script| async { Server::start(vec![script]).await.base() };
    // One waits for HTTP and says nothing to a handshake, the other answers it with HTTP.
    let silent = told(Script::Stall).await.replace("http:", "https:");
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let not_tls = format!("https://{}/", plain.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 X\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let unavailable = ErrorCode::AegisUnavailable;
    let protocol = ErrorCode::AegisProtocol;
    #[rustfmt::skip]
    let rows = [
        (closed, unavailable, "connection_refused", "is not available: the connection was refused"),
        (silent, unavailable, "connect_timeout", "is not available: no connection within 10 s"),
        (not_tls, unavailable, "tls_failed", "is not available: the TLS handshake failed"),
        (told(Script::Stall).await, unavailable, "timeout", "is not available: no answer within 30 s"),
        (told(Script::Bytes(Vec::new())).await, unavailable, "connection_broken", "broke before the answer was complete"),
        (told(html(503)).await, unavailable, "unavailable", "is not available: http status 503"),
        (told(html(404)).await, protocol, "not_aegis", "is not an aegis server: http status 404"),
        (told(html(405)).await, protocol, "not_aegis", "is not an aegis server: http status 405"),
        (told(html(501)).await, protocol, "not_aegis", "is not an aegis server: http status 501"),
        (told(html(200)).await, protocol, "not_plain_json", "is not an aegis server: not plain json"),
        (told(ok(&json!({"canary": 1}))).await, protocol, "field_device_code", "broke its contract: field device_code"),
    ];
    for (base, code, reason, cause) in rows {
        let client = client_of(&base, false);
        let answer = client.begin_device_authorization(begin_request()).await;
        let failure = answer.outcome.unwrap_err();
        let message = failure.message.expect(cause);
        assert!(message.as_str().contains(cause), "{message}");
        assert!(message.as_str().contains(&base), "{message}");
        assert!(!message.as_str().contains("canary"), "{message}");
        assert_eq!(failure.code, code, "{message}");
        assert_eq!(failure.reason.unwrap().as_str(), reason, "{message}");
    }
    // However long the address, the cause is there.
    let long = format!("https://127.0.0.1:1/{}", "p".repeat(4000));
    let fault = NetworkFault::Refused;
    let error = AegisError::Unreachable { fault, sent: false };
    let base = Url::parse(&long).unwrap();
    let failure = error.into_failure(&base, During::Call, Certainty::NotDone);
    assert!(failure.message.unwrap().as_str().ends_with("refused"));
}
