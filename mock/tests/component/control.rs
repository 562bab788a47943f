//! The control API, and the program that offers it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use aegis_mock::{Mock, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::client::{Client, GCP, policy};
use crate::state::log_in;

pub(crate) struct Control {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Control {
    pub(crate) fn of(mock: &Mock) -> Self {
        Self::new(mock.control().unwrap().as_str(), mock.control_token())
    }

    pub(crate) fn new(base: &str, token: &str) -> Self {
        Self {
            base: format!("{}/_ctl", base.trim_end_matches('/')),
            token: token.to_owned(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> u16 {
        self.send(path, body).await.status().as_u16()
    }

    /// What is said to a command.
    pub(crate) async fn told(&self, path: &str, body: Value) -> String {
        self.send(path, body).await.text().await.unwrap()
    }

    async fn send(&self, path: &str, body: Value) -> reqwest::Response {
        let request = self.http.post(format!("{}/{path}", self.base));
        let request = request.bearer_auth(&self.token);
        let request = request.header("content-type", "application/json");
        request.body(body.to_string()).send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}/{path}", self.base));
        let response = request.bearer_auth(&self.token).send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }
}

/// A server that can be told what to do.
pub(crate) async fn spawn() -> Mock {
    let control = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    aegis_mock::spawn(Options {
        control,
        ..Options::default()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_whole_login_and_lease_can_be_driven_and_watched() {
    let mock = spawn().await;
    let control = Control::of(&mock);
    let mut client = Client::new(&mock);
    let begin = client.begin(&json!({})).await;
    let code = json!({"userCode": begin.text("/userCode")});
    assert_eq!(control.post("approve", code.clone()).await, 200);
    assert_eq!(
        control
            .post("approve", json!({"userCode": "BBBB-BBBB"}))
            .await,
        404
    );
    let answer = client.exchange(begin.text("/deviceCode")).await;
    answer.text("/brokerToken").clone_into(&mut client.token);
    client.nonce = answer.header("dpop-nonce").map(str::to_owned);
    assert_eq!(control.post("deny", code).await, 409);
    let id = client.lease(GCP, &json!({})).await;

    let leases = control.get("leases").await;
    assert_eq!(leases["leases"][0]["leaseId"], id);
    assert_eq!(leases["leases"][0]["state"], "active");
    assert_eq!(leases["leases"][0]["principal"], "user:u-demo");
    assert_eq!(leases["leases"][0]["jkt"], client.key.thumbprint());

    let requests = control.get("requests").await;
    let last = requests["requests"].as_array().unwrap().last().unwrap();
    assert_eq!(last["method"], "CreateCredentialLease");
    assert_eq!(last["carrier"], "body");
    assert_eq!(last["htm"], "POST");
    assert_eq!(last["result"], "ok");
    assert!(last["proof"].as_str().unwrap().contains('.'));
    assert!(!requests.to_string().contains(&client.token));

    let secrets = control.get("secrets").await;
    assert!(secrets.to_string().contains(&client.token));
    let audit = control.get("audit").await;
    assert_eq!(audit["events"][0]["action"], "login.begin");
    assert_eq!(audit["events"][0]["seq"], "1");

    assert_eq!(control.post("nonce/rotate", json!({})).await, 200);
    assert_eq!(
        client.create(GCP, &json!({})).await.reason(),
        "use_dpop_nonce"
    );
    let fault = json!({"method": "CreateCredentialLease", "kind": "unavailable", "count": 1});
    assert_eq!(control.post("fault", fault).await, 200);
    assert_eq!(client.create(GCP, &json!({})).await.status, 503);
    assert_eq!(
        control.post("clock", json!({"advanceSeconds": 600})).await,
        200
    );
    assert_eq!(
        client.create(GCP, &json!({})).await.reason(),
        "token_expired"
    );
    let settings = json!({"toml": policy("[server]\ninterval_seconds = 1\n")});
    assert_eq!(control.post("policy", settings).await, 200);
    assert_eq!(control.post("reset", json!({})).await, 200);
    assert_eq!(control.get("leases").await, json!({"leases": []}));
    let begin = client.begin(&json!({})).await;
    assert_eq!(begin.body["intervalSeconds"], 1);
    assert_eq!(
        control
            .post("expire", json!({"userCode": begin.text("/userCode")}))
            .await,
        200
    );
}

#[tokio::test]
async fn nobody_else_is_obeyed_and_nothing_unknown() {
    let mock = spawn().await;
    let control = Control::of(&mock);
    let stranger = Control::new(mock.control().unwrap().as_str(), "ctl_guess");
    assert_eq!(stranger.post("reset", json!({})).await, 401);
    let url = format!("{}/leases", control.base);
    let request = || control.http.get(&url).bearer_auth(&control.token);
    let status =
        async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(status(request()).await, 200);
    assert_eq!(
        status(request().header("origin", "https://evil.example")).await,
        403
    );
    assert_eq!(status(request().header("host", "evil.example")).await, 403);
    assert_eq!(status(control.http.get(&url)).await, 401);

    let unknown = json!({"method": "Nonsense", "kind": "stall"});
    assert_eq!(control.post("fault", unknown).await, 404);
    let unknown = json!({"method": "CreateCredentialLease", "kind": "nonsense"});
    assert_eq!(control.post("fault", unknown).await, 422);
    for count in [
        json!(0),
        json!(1001),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(-1),
        json!("1"),
    ] {
        let many = json!({"method": "CreateCredentialLease", "kind": "internal", "count": count});
        assert_eq!(control.post("fault", many).await, 422, "{count}");
    }
    for count in [1, 1000] {
        let fits = json!({"method": "CreateCredentialLease", "kind": "stall", "count": count});
        assert_eq!(control.post("fault", fits).await, 200);
    }
    let unknown = json!({"method": "CreateCredentialLease", "kind": "stall", "often": 1});
    assert_eq!(control.post("fault", unknown).await, 422);
    assert_eq!(control.post("policy", json!({"toml": "[x]"})).await, 400);
    assert_eq!(control.post("nonsense", json!({})).await, 404);
}

#[tokio::test]
async fn the_program_says_where_it_listens_and_stops_when_told() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_aegis-mock"))
        .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    let text = |name: &str| line[name].as_str().unwrap().to_owned();
    let health = reqwest::get(format!("{}/healthz", text("api")))
        .await
        .unwrap();
    assert_eq!(health.status(), 200);
    let control = Control::new(&text("control"), &text("control_token"));
    assert_eq!(control.get("requests").await, json!({"requests": []}));
    // The shell's own: a program of that name is not on every machine.
    let kill = format!("kill -TERM {}", child.id().unwrap());
    let sent = tokio::process::Command::new("sh")
        .args(["-c", &kill])
        .status()
        .await;
    assert!(sent.unwrap().success());
    assert!(child.wait().await.unwrap().success());
}

/// HY-4, HY-9: whatever is logged at the finest level, by us or by what we are built of, no secret is
/// in it; neither in JSON nor over HTTP/2, whose library logs its frames.
#[tokio::test]
async fn nothing_secret_is_in_the_log() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_aegis-mock"))
        .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .env("RUST_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = child.stderr.take().unwrap();
    let log = tokio::spawn(async move {
        let mut text = Vec::new();
        log.read_to_end(&mut text).await.map(|_| text)
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    let text = |name: &str| line[name].as_str().unwrap().to_owned();
    let mut clients = vec![Client::at(&text("api")), Client::at_http2(&text("api"))];
    let mut proofs = Vec::new();
    for client in &mut clients {
        log_in(client, &line).await;
        let lease = client.lease(GCP, &json!({})).await;
        let redeemed = client.redeem(&lease).await;
        let secret = redeemed.text("/credential/gcpAccessToken/accessToken");
        assert_eq!(client.whoami("gcp", secret).await, 200);
        // The other carrier.
        let method = "RevokeCredentialLease";
        let nonce = client.nonce.as_deref();
        let proof = client
            .key
            .proof(&client.url(method), nonce, Some(&client.token));
        let body = json!({"tenantId": "business-default", "leaseId": lease, "reason": "released"});
        let request = client
            .post(method)
            .header("authorization", format!("DPoP {}", client.token))
            .header("dpop", &proof)
            .body(body.to_string());
        assert_eq!(client.send(request).await.reason(), "ok");
        proofs.push(proof);
    }
    let control = Control::new(&text("control"), &text("control_token"));
    let secrets = control.get("secrets").await;
    let secrets = secrets["secrets"].as_array().unwrap();
    assert_eq!(secrets.len(), 6);
    child.kill().await.unwrap();
    let log = String::from_utf8(log.await.unwrap().unwrap()).unwrap();
    assert!(
        log.contains("TRACE") && log.contains("h2::"),
        "the log is blind"
    );
    let secrets = secrets.iter().map(|one| one["value"].as_str().unwrap());
    let ours = [text("control_token"), text("demo_password")];
    let ours = ours.iter().chain(&proofs).map(String::as_str);
    for secret in secrets.chain(ours) {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn it_stays_on_the_machine() {
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let refused = aegis_mock::spawn(Options {
        listen,
        ..Options::default()
    })
    .await;
    assert!(refused.is_err());
}
