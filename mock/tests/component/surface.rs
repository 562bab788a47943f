//! What surrounds every RPC.

use serde_json::{Value, json};

use crate::client::{Client, spawn};

const BEGIN: &str = "BeginMcpOauthDeviceAuthorization";

fn begin(client: &Client) -> String {
    json!({"tenantId": "business-default", "popKeyId": client.key.id(), "popJwk": client.key.jwk()})
        .to_string()
}

/// CN-3.
#[tokio::test]
async fn a_request_is_refused_for_its_headers() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let post = || client.post(BEGIN).body(begin(&client));
    let without = |name: &'static str| {
        let mut request = post().build().unwrap();
        request.headers_mut().remove(name);
        reqwest::RequestBuilder::from_parts(reqwest::Client::new(), request)
    };
    let with = |name: &'static str, value: &str| {
        let mut request = post().build().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        reqwest::RequestBuilder::from_parts(reqwest::Client::new(), request)
    };
    let own = mock.api().as_str().trim_end_matches('/');
    let port = mock.api().port().unwrap();
    let rows = [
        ("good", post(), 200, "ok"),
        ("own origin", with("origin", own), 200, "ok"),
        (
            "localhost",
            with("host", &format!("LocalHost:{port}")),
            200,
            "ok",
        ),
        (
            "charset",
            with("content-type", "application/json; charset=utf-8"),
            200,
            "ok",
        ),
        (
            "longest timeout",
            with("connect-timeout-ms", "9999999999"),
            200,
            "ok",
        ),
        (
            "no version",
            without("connect-protocol-version"),
            400,
            "protocol_version_missing",
        ),
        (
            "version 2",
            with("connect-protocol-version", "2"),
            400,
            "protocol_version_missing",
        ),
        (
            "11 digits",
            with("connect-timeout-ms", "10000000000"),
            400,
            "type_mismatch",
        ),
        (
            "timeout with sign",
            with("connect-timeout-ms", "-1"),
            400,
            "type_mismatch",
        ),
        (
            "foreign origin",
            with("origin", "https://evil.example"),
            403,
            "origin_refused",
        ),
        ("null origin", with("origin", "null"), 403, "origin_refused"),
        (
            "foreign host",
            with("host", "evil.example"),
            403,
            "host_refused",
        ),
        (
            "host without port",
            with("host", "127.0.0.1"),
            403,
            "host_refused",
        ),
        (
            "host of another port",
            with("host", "127.0.0.1:1"),
            403,
            "host_refused",
        ),
        ("no type", without("content-type"), 415, "unknown"),
        ("text", with("content-type", "text/plain"), 415, "unknown"),
        (
            "streaming",
            with("content-type", "application/connect+json"),
            415,
            "unknown",
        ),
        (
            "form",
            with("content-type", "application/x-www-form-urlencoded"),
            415,
            "unknown",
        ),
        (
            "gzip",
            with("content-encoding", "gzip"),
            501,
            "unimplemented",
        ),
        (
            "insecure user",
            with("x-aegis-insecure-user", "u-demo"),
            401,
            "insecure_user_header",
        ),
    ];
    for (name, request, status, reason) in rows {
        let answer = client.send(request).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (status, reason),
            "{name}: {}",
            answer.body
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
        let id = answer.header("x-request-id").unwrap();
        assert!(id.starts_with("req_") && id.len() >= 30, "{name}");
        let challenged = answer.header("www-authenticate").is_some();
        assert_eq!(challenged, status == 401, "{name}");
    }
    assert_eq!(mock.requests().len(), 20);
    let audited = mock.audit();
    assert!(
        audited
            .iter()
            .any(|e| e.action == "auth.failed" && e.reason == "insecure_user_header")
    );
}

#[tokio::test]
async fn bodies_are_bounded_and_exact() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let rows = [
        (
            "snake case",
            begin(&client).replace("tenantId", "tenant_id"),
            "ok",
        ),
        (
            "both cases",
            begin(&client).replacen('{', "{\"tenant_id\":\"business-default\",", 1),
            "duplicate_field",
        ),
        (
            "unknown",
            begin(&client).replacen('{', "{\"admin\":true,", 1),
            "unknown_field",
        ),
        (
            "another case",
            begin(&client).replace("tenantId", "TenantId"),
            "unknown_field",
        ),
        (
            "nested unknown",
            begin(&client).replace("\"kty\"", "\"alg\":\"ES256\",\"kty\""),
            "unknown_field",
        ),
        (
            "text for number",
            begin(&client).replacen('{', "{\"requestedTtlSeconds\":\"x\",", 1),
            "type_mismatch",
        ),
        (
            "deep",
            begin(&client).replacen('{', &format!("{{\"x\":{deep},"), 1),
            "type_mismatch",
        ),
        (
            "no JSON",
            "tenantId=business-default".to_owned(),
            "type_mismatch",
        ),
        ("nothing", String::new(), "type_mismatch"),
        (
            "two documents",
            format!("{} {}", begin(&client), begin(&client)),
            "type_mismatch",
        ),
        (
            "large",
            format!("{}{}", begin(&client), " ".repeat(65_536)),
            "body_too_large",
        ),
    ];
    for (name, body, reason) in rows {
        let answer = client.send(client.post(BEGIN).body(body)).await;
        assert_eq!(answer.reason(), reason, "{name}: {}", answer.body);
    }
    let large = client.post(BEGIN).header("x-padding", "x".repeat(70_000));
    assert_eq!(client.send(large.body(begin(&client))).await.status, 431);
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    for method in ["RefreshBrokerToken", "MintUserApiTokens", "Nonsense"] {
        let answer = client.send(client.post(method).body("{}")).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (404, "unimplemented"),
            "{method}"
        );
    }
    let base = mock.api().as_str();
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(get("nothing").await.0, 404);
    assert_eq!(get(&Client::path(BEGIN)[1..]).await.0, 405);
    let got = reqwest::get(client.url(BEGIN)).await.unwrap();
    assert_eq!(got.headers()["allow"], "POST");
    let jwks: Value = serde_json::from_str(&get(".well-known/jwks.json").await.1).unwrap();
    assert_eq!(jwks["keys"][0]["alg"], "ES256");
    let bundle: Value = serde_json::from_str(&get(".well-known/spiffe-bundle").await.1).unwrap();
    assert_eq!(bundle["keys"][0]["use"], "x509-svid");
}

/// A Begin in the other encoding, made by hand: fields 1, 4 and 6 (1 to 4).
fn binary_begin(client: &Client) -> Vec<u8> {
    let field = |number: u8, value: &[u8]| {
        let mut bytes = vec![number << 3 | 2, u8::try_from(value.len()).unwrap()];
        bytes.extend_from_slice(value);
        bytes
    };
    let jwk = client.key.jwk();
    let member = |number: u8, name: &str| field(number, jwk[name].as_str().unwrap().as_bytes());
    let key = [
        member(1, "kty"),
        member(2, "crv"),
        member(3, "x"),
        member(4, "y"),
    ]
    .concat();
    [
        field(1, b"business-default"),
        field(4, client.key.id().as_bytes()),
        field(6, &key),
    ]
    .concat()
}

#[tokio::test]
async fn binary_messages_are_answered_in_binary() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let request = client.post(BEGIN).body(binary_begin(&client));
    let mut request = request.build().unwrap();
    request
        .headers_mut()
        .insert("content-type", "application/proto".parse().unwrap());
    let response = reqwest::Client::new().execute(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/proto");
    let body = response.bytes().await.unwrap();
    assert!(body.windows(4).any(|window| window == b"mdc_"));
}

/// gRPC: as strict as Connect, refused in its own words. CN-3.
#[tokio::test]
async fn grpc_calls_are_judged_alike() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let http = reqwest::Client::builder().http2_prior_knowledge();
    let http = http.no_proxy().build().unwrap();
    let framed = |flags: u8, message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap();
        [&[flags][..], &length.to_be_bytes(), message].concat()
    };
    let message = binary_begin(&client);
    let good = framed(0, &message);
    let post = |body: Vec<u8>| {
        let request = http.post(client.url(BEGIN)).body(body);
        let request = request.header("content-type", "application/grpc");
        request.header("te", "trailers")
    };
    let response = post(good.clone()).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc+proto");
    assert!(
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .starts_with("req_")
    );
    // What went well says so in trailers.
    assert!(!response.headers().contains_key("grpc-status"));
    let body = response.bytes().await.unwrap();
    assert_eq!(usize::from(body[4]), body.len() - 5);
    assert!(body.windows(4).any(|window| window == b"mdc_"));

    let large = framed(0, &vec![0; 65_536]);
    let unknown = framed(0, &[&message[..], &[0x78, 0x01]].concat());
    let evil = "https://evil.example";
    let (mismatch, invalid) = ("type_mismatch", "3");
    let rows = [
        ("compressed", post(framed(1, &message)), invalid, mismatch),
        ("two", post([&good[..], &good].concat()), invalid, mismatch),
        (
            "cut",
            post(good[..good.len() - 1].to_vec()),
            invalid,
            mismatch,
        ),
        ("nothing", post(Vec::new()), invalid, mismatch),
        ("no message", post(framed(0, &[])), invalid, "field_missing"),
        ("unknown field", post(unknown), invalid, "unknown_field"),
        ("large", post(large), "8", "body_too_large"),
        (
            "gzip",
            post(good.clone()).header("grpc-encoding", "gzip"),
            "12",
            "",
        ),
        (
            "timeout without unit",
            post(good.clone()).header("grpc-timeout", "10"),
            invalid,
            mismatch,
        ),
        (
            "9 digits",
            post(good.clone()).header("grpc-timeout", "100000000m"),
            invalid,
            mismatch,
        ),
        (
            "foreign origin",
            post(good.clone()).header("origin", evil),
            "7",
            "origin_refused",
        ),
        (
            "insecure user",
            post(good.clone()).header("x-aegis-insecure-user", "u-demo"),
            "16",
            "insecure_user_header",
        ),
    ];
    for (name, request, status, reason) in rows {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        assert_eq!(answer.headers()["grpc-status"], status, "{name}");
        let noted = mock.requests().pop().unwrap();
        assert_eq!(noted.reason.as_deref().unwrap_or(""), reason, "{name}");
        assert_eq!(
            answer.headers()["x-request-id"],
            *noted.request_id,
            "{name}"
        );
    }
    assert_eq!(mock.pending_user_codes().len(), 1);
    // The longest that may be said is heard.
    let patient = post(good).header("grpc-timeout", "99999999H");
    assert!(
        !patient
            .send()
            .await
            .unwrap()
            .headers()
            .contains_key("grpc-status")
    );
    let web = http.post(client.url(BEGIN)).body(Vec::new());
    let web = web.header("content-type", "application/grpc-web+proto");
    assert_eq!(web.send().await.unwrap().status(), 415);
}
