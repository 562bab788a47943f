//! The identity provider: a person signs in with code and PKCE, and mints a token with what comes of
//! it.

use std::time::Duration;

use aegis_mock::{Mock, Options, PageCheck};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::client::{Answer, Client, GCP, random, scope, sha256, spawn};

const REDIRECT: &str = "http://127.0.0.1:39999/callback";

/// A browser without a screen: it keeps our cookie and follows nothing.
struct Browser {
    base: Url,
    origin: String,
    http: reqwest::Client,
    cookie: Option<String>,
}

struct Seen {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Where it leads, and what is said there.
    fn redirect(&self) -> (String, Vec<(String, String)>) {
        assert_eq!(self.status, 303, "{}", self.text);
        let mut url = Url::parse(self.header("location")).unwrap();
        let said = url.query_pairs().into_owned().collect();
        url.set_query(None);
        (url.into(), said)
    }

    fn said(&self, name: &str) -> String {
        let (_, said) = self.redirect();
        let found: Vec<_> = said
            .into_iter()
            .filter(|(known, _)| known == name)
            .collect();
        assert!(found.len() <= 1);
        found
            .into_iter()
            .next()
            .map(|(_, value)| value)
            .unwrap_or_default()
    }

    /// The value of a hidden field.
    fn field(&self, name: &str) -> String {
        let marker = format!("name=\"{name}\" value=\"");
        let (_, rest) = self.text.split_once(&marker).unwrap();
        rest.split('"').next().unwrap().replace("&amp;", "&")
    }
}

impl Browser {
    fn new(mock: &Mock) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        Self {
            base: mock.api().clone(),
            origin: mock.api().as_str().trim_end_matches('/').to_owned(),
            http: http.build().unwrap(),
            cookie: None,
        }
    }

    async fn send(&mut self, mut request: reqwest::RequestBuilder) -> Seen {
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if let Some(cookie) = headers.get("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            assert!(
                cookie.contains("; Path=/idp; HttpOnly; SameSite=Strict"),
                "{cookie}"
            );
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        let text = response.text().await.unwrap();
        Seen {
            status,
            headers,
            text,
        }
    }

    async fn open(&mut self, query: &str) -> Seen {
        let url = self.base.join(&format!("idp/authorize?{query}")).unwrap();
        self.send(self.http.get(url)).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)], origin: Option<&str>) -> Seen {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let mut request = self
            .http
            .post(self.base.join(path).unwrap())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.finish());
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        self.send(request).await
    }

    /// Opens the page and signs in.
    async fn sign_in(&mut self, mock: &Mock, query: &str) -> Seen {
        let page = self.open(query).await;
        assert_eq!(page.status, 200, "{}", page.text);
        self.submit(&page, mock.demo_password()).await
    }

    async fn submit(&mut self, page: &Seen, password: &str) -> Seen {
        let (token, query) = (page.field("form_token"), page.field("query"));
        let origin = self.origin.clone();
        let fields = [
            ("form_token", &*token),
            ("query", &*query),
            ("name", "demo"),
            ("password", password),
        ];
        self.post("idp/sign-in", &fields, Some(&origin)).await
    }

    async fn token(&mut self, fields: &[(&str, &str)]) -> Answer {
        let seen = self.post("idp/token", fields, None).await;
        assert_eq!(seen.header("cache-control"), "no-store");
        Answer {
            status: seen.status,
            headers: seen.headers,
            body: serde_json::from_str(&seen.text).unwrap(),
        }
    }
}

/// What a client asks for, and its secret half.
struct Wish {
    verifier: String,
    fields: Vec<(&'static str, String)>,
}

impl Wish {
    fn new() -> Self {
        let verifier = random() + &random();
        let fields = vec![
            ("client_id", "aegis-broker".to_owned()),
            ("redirect_uri", REDIRECT.to_owned()),
            ("response_type", "code".to_owned()),
            ("scope", "openid".to_owned()),
            ("state", "s 1&2".to_owned()),
            ("nonce", "n-1".to_owned()),
            ("code_challenge", sha256(verifier.as_bytes())),
            ("code_challenge_method", "S256".to_owned()),
        ];
        Self { verifier, fields }
    }

    /// With another value, or without.
    fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.fields.retain(|(known, _)| *known != name);
        self.fields
            .extend(value.map(|value| (name, value.to_owned())));
        self
    }

    fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.fields);
        query.finish()
    }

    fn redemption<'a>(&'a self, code: &'a str) -> [(&'static str, &'a str); 5] {
        [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("client_id", "aegis-broker"),
            ("redirect_uri", REDIRECT),
            ("code_verifier", &self.verifier),
        ]
    }
}

fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims);
    serde_json::from_slice(&claims.unwrap()).unwrap()
}

/// The user path without a device: sign in, mint, lease.
#[tokio::test]
async fn a_person_signs_in_and_mints_a_token() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    let metadata = mock.api().join("idp/.well-known/openid-configuration");
    let metadata = browser.send(browser.http.get(metadata.unwrap())).await;
    let metadata: Value = serde_json::from_str(&metadata.text).unwrap();
    let issuer = format!("{}/idp", browser.origin);
    assert_eq!(metadata["issuer"], issuer);
    assert_eq!(
        metadata["code_challenge_methods_supported"],
        json!(["S256"])
    );
    assert_eq!(
        metadata["authorization_response_iss_parameter_supported"],
        true
    );
    assert_eq!(metadata["token_endpoint"], format!("{issuer}/token"));

    let wish = Wish::new();
    let seen = browser.sign_in(&mock, &wish.query()).await;
    assert_eq!(seen.redirect().0, REDIRECT);
    assert_eq!(seen.said("state"), "s 1&2");
    assert_eq!(seen.said("iss"), issuer);
    assert_eq!(seen.said("error"), "");
    let code = seen.said("code");
    let answer = browser.token(&wish.redemption(&code)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id_token = answer.text("/id_token");
    let told = claims(id_token);
    assert_eq!(told["iss"], issuer);
    assert_eq!(told["aud"], "aegis-broker");
    assert_eq!(told["sub"], "u-demo");
    assert_eq!(told["nonce"], "n-1");

    let mut client = Client::new(&mock);
    let minted = client.mint(id_token, &json!({})).await;
    client.adopt(&minted);
    let info = &minted.body["tokenInfo"];
    assert_eq!(info["principal"], "user:u-demo");
    assert_eq!(info["role"], "org_admin");
    assert_eq!(info["binding"], "jkt");
    assert_eq!(info["grantedScopes"], json!([scope("create", GCP)]));
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
    // That program's token is no approval's.
    let request = client
        .post("ApproveMcpOauthDeviceAuthorization")
        .bearer_auth(id_token)
        .body(json!({"userCode": "BBBB-BBBB", "approve": true}).to_string());
    assert_eq!(client.send(request).await.reason(), "token_invalid");
    let last = mock
        .audit()
        .into_iter()
        .find(|event| event.action == "token.mint")
        .unwrap();
    assert_eq!((&*last.outcome, &*last.principal), ("ok", "user:u-demo"));
}

#[tokio::test]
async fn a_mint_is_for_a_person_of_the_tenant_with_specific_scopes() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let id_token = mock.demo_id_token();
    let rows = [
        (&*id_token, json!({"tenantId": "other"}), "tenant_mismatch"),
        (
            &*id_token,
            json!({"requestedScopes": ["*"]}),
            "scope_wildcard",
        ),
        (
            &*id_token,
            json!({"requestedScopes": ["credential.lease.create"]}),
            "scope_action_only",
        ),
        (&*id_token, json!({"requestedScopes": []}), "field_missing"),
        (
            &*id_token,
            json!({"requestedTtlSeconds": 59}),
            "ttl_out_of_range",
        ),
        (&*id_token, json!({"popJwk": null}), "field_missing"),
        (&*id_token, json!({"requestProof": null}), "proof_missing"),
        ("nonsense", json!({}), "token_invalid"),
    ];
    for (token, extra, reason) in rows {
        assert_eq!(client.mint(token, &extra).await.reason(), reason, "{extra}");
    }
    let bare = client.unbound(
        "MintUserApiToken",
        &json!({"requestedScopes": [scope("create", GCP)]}),
    );
    assert_eq!(client.send(bare).await.reason(), "token_missing");
    // A workload's token is no person's, nor a broker token.
    let workload = mock.workload_token(json!({}).as_object().unwrap());
    assert_eq!(
        client.mint(&workload, &json!({})).await.reason(),
        "token_invalid"
    );
    let minted = client.mint(&id_token, &json!({})).await;
    let again = client.mint(minted.text("/brokerToken"), &json!({})).await;
    assert_eq!(again.reason(), "token_invalid");
    mock.advance(Duration::from_hours(1));
    assert_eq!(
        client.mint(&id_token, &json!({})).await.reason(),
        "token_expired"
    );
}

/// OA-3: the second one is refused, and what the first one got is worth nothing any more.
#[tokio::test]
async fn a_code_is_redeemed_once_and_the_second_time_ends_what_came_of_it() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    let wish = Wish::new();
    let code = browser.sign_in(&mock, &wish.query()).await.said("code");
    let answer = browser.token(&wish.redemption(&code)).await;
    let id_token = answer.text("/id_token").to_owned();
    let mut client = Client::new(&mock);
    let minted = client.mint(&id_token, &json!({})).await;
    client.adopt(&minted);
    let lease = client.lease(GCP, &json!({})).await;

    let again = browser.token(&wish.redemption(&code)).await;
    assert_eq!((again.status, again.text("/error")), (400, "invalid_grant"));
    assert_eq!(
        client.mint(&id_token, &json!({})).await.reason(),
        "token_revoked"
    );
    assert_eq!(
        client.create(GCP, &json!({})).await.reason(),
        "session_ended"
    );
    let state = mock.leases().into_iter().find(|one| one.lease_id == lease);
    assert_eq!(state.unwrap().state, aegis_mock::LeaseState::Revoked);
    let event = mock
        .audit()
        .into_iter()
        .find(|event| event.action == "session.end");
    assert_eq!(event.unwrap().reason, "leak_detected");
}

/// OA-2, OA-4: whatever does not fit, nothing is handed out.
#[tokio::test]
async fn a_redemption_fits_its_code_in_everything() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    let long = "a".repeat(129);
    let rows: [(&str, &str, Option<&str>, &str); 14] = [
        (
            "another verifier",
            "code_verifier",
            Some("a234567890123456789012345678901234567890123"),
            "invalid_grant",
        ),
        (
            "a short verifier",
            "code_verifier",
            Some("short"),
            "invalid_grant",
        ),
        (
            "a long verifier",
            "code_verifier",
            Some(&long),
            "invalid_grant",
        ),
        ("no verifier", "code_verifier", None, "invalid_request"),
        (
            "another redirect",
            "redirect_uri",
            Some("http://127.0.0.1:39998/callback"),
            "invalid_grant",
        ),
        (
            "a redirect without port",
            "redirect_uri",
            Some("http://127.0.0.1/callback"),
            "invalid_grant",
        ),
        ("no redirect", "redirect_uri", None, "invalid_request"),
        (
            "another client",
            "client_id",
            Some("evil"),
            "invalid_client",
        ),
        ("no client", "client_id", None, "invalid_request"),
        ("no code", "code", None, "invalid_request"),
        (
            "an unknown code",
            "code",
            Some("oac_guess"),
            "invalid_grant",
        ),
        ("no grant type", "grant_type", None, "invalid_request"),
        (
            "a password",
            "grant_type",
            Some("password"),
            "unsupported_grant_type",
        ),
        (
            "a refresh token",
            "grant_type",
            Some("refresh_token"),
            "unsupported_grant_type",
        ),
    ];
    for (name, field, value, error) in rows {
        let wish = Wish::new();
        let code = browser.sign_in(&mock, &wish.query()).await.said("code");
        let mut fields: Vec<_> = wish.redemption(&code).into_iter().collect();
        fields.retain(|(known, _)| *known != field);
        fields.extend(value.map(|value| (field, value)));
        let answer = browser.token(&fields).await;
        assert_eq!(
            (answer.status, answer.text("/error")),
            (400, error),
            "{name}"
        );
        assert!(answer.body.get("id_token").is_none(), "{name}");
    }
    let wish = Wish::new();
    let code = browser.sign_in(&mock, &wish.query()).await.said("code");
    mock.advance(Duration::from_mins(1));
    let answer = browser.token(&wish.redemption(&code)).await;
    assert_eq!(answer.text("/error"), "invalid_grant");
    let secrets = mock.secrets();
    assert!(secrets.iter().all(|secret| secret.kind != "id_token"));
}

/// OA-2, OA-4: what is wrong with client or redirect is told to the person alone.
#[tokio::test]
async fn a_request_is_refused_to_the_person_or_told_to_the_client() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    let person = [
        ("an unknown client", "client_id", Some("evil")),
        ("no client", "client_id", None),
        ("no redirect", "redirect_uri", None),
        (
            "another redirect",
            "redirect_uri",
            Some("https://evil.example/callback"),
        ),
        (
            "another path",
            "redirect_uri",
            Some("http://127.0.0.1:39999/other"),
        ),
        (
            "a name for a literal",
            "redirect_uri",
            Some("http://localhost:39999/callback"),
        ),
        ("a script", "redirect_uri", Some("javascript:alert(1)")),
    ];
    for (name, field, value) in person {
        let seen = browser.open(&Wish::new().with(field, value).query()).await;
        assert_eq!(seen.status, 400, "{name}");
        assert_eq!(seen.header("location"), "", "{name}");
        assert!(
            !seen.text.contains("evil.example") && !seen.text.contains("alert(1)"),
            "{name}"
        );
    }
    let twice = format!("{}&client_id=aegis-broker", Wish::new().query());
    assert_eq!(browser.open(&twice).await.status, 400);
    let huge = "x".repeat(9000);
    let huge = Wish::new().with("nonce", Some(&huge)).query();
    assert_eq!(browser.open(&huge).await.status, 400);

    let long = "x".repeat(1025);
    let client = [
        (
            "plain",
            "code_challenge_method",
            Some("plain"),
            "invalid_request",
        ),
        (
            "no method",
            "code_challenge_method",
            None,
            "invalid_request",
        ),
        ("no challenge", "code_challenge", None, "invalid_request"),
        (
            "a short challenge",
            "code_challenge",
            Some("x"),
            "invalid_request",
        ),
        (
            "a token at once",
            "response_type",
            Some("token"),
            "unsupported_response_type",
        ),
        (
            "an ID token at once",
            "response_type",
            Some("id_token"),
            "unsupported_response_type",
        ),
        (
            "a fragment",
            "response_mode",
            Some("fragment"),
            "invalid_request",
        ),
        ("no scope", "scope", None, "invalid_scope"),
        ("another scope", "scope", Some("profile"), "invalid_scope"),
        ("a long nonce", "nonce", Some(&*long), "invalid_request"),
        ("a long state", "state", Some(&*long), "invalid_request"),
        (
            "a state with a line feed",
            "state",
            Some("a\nb"),
            "invalid_request",
        ),
    ];
    for (name, field, value, error) in client {
        let seen = browser.open(&Wish::new().with(field, value).query()).await;
        assert_eq!(seen.redirect().0, REDIRECT, "{name}");
        assert_eq!(seen.said("error"), error, "{name}");
        assert_eq!(
            seen.said("iss"),
            format!("{}/idp", browser.origin),
            "{name}"
        );
        let state = if field == "state" { "" } else { "s 1&2" };
        assert_eq!(seen.said("state"), state, "{name}");
        assert_eq!(seen.said("code"), "", "{name}");
    }
}

/// The page is as the device's: no scripts, no frames, one browser, no other site.
#[tokio::test]
async fn the_sign_in_is_sent_from_the_page_that_was_opened() {
    for without in [None, Some(PageCheck::FormToken), Some(PageCheck::Origin)] {
        let mock = aegis_mock::spawn(Options {
            page_without: without,
            ..Options::default()
        })
        .await
        .unwrap();
        let mut browser = Browser::new(&mock);
        let query = Wish::new().query();
        let page = browser.open(&query).await;
        let policy = page.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("script"));
        assert!(
            policy.contains("form-action 'self' http://127.0.0.1:39999;"),
            "{policy}"
        );
        assert_eq!(page.header("x-frame-options"), "DENY");
        assert_eq!(page.header("cache-control"), "no-store");
        assert!(!page.text.contains("<script") && page.text.contains("aegis-broker"));

        let (token, origin) = (page.field("form_token"), browser.origin.clone());
        let password = mock.demo_password().to_owned();
        let fields = |token: &'static str| {
            [
                ("form_token", token),
                ("query", ""),
                ("name", "demo"),
                ("password", ""),
            ]
            .map(|(name, value)| (name, value.to_owned()))
        };
        let mut send = async |token: &str, origin: Option<&str>| {
            let mut all = fields("");
            all[0].1 = token.to_owned();
            all[1].1.clone_from(&query);
            all[3].1.clone_from(&password);
            let all: Vec<_> = all.iter().map(|(name, value)| (*name, &**value)).collect();
            browser.post("idp/sign-in", &all, origin).await.status
        };
        let forged = if without == Some(PageCheck::FormToken) {
            303
        } else {
            403
        };
        assert_eq!(send("guess", Some(&origin)).await, forged);
        let silent = if without == Some(PageCheck::Origin) {
            303
        } else {
            403
        };
        assert_eq!(send(&token, None).await, silent);
        assert_eq!(send(&token, Some("https://evil.example")).await, 403);
        assert_eq!(send(&token, Some(&origin)).await, 303);
    }
}

#[tokio::test]
async fn wrong_passwords_are_limited_and_said_on_the_page() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    let query = Wish::new().query();
    let page = browser.open(&query).await;
    for _ in 0..5 {
        let seen = browser.submit(&page, "wrong").await;
        assert_eq!(seen.status, 422);
        assert!(seen.text.contains("Name and password do not fit."));
    }
    let seen = browser.submit(&page, mock.demo_password()).await;
    assert_eq!(seen.status, 429);
    assert_ne!(seen.header("retry-after"), "");
    mock.advance(Duration::from_mins(1));
    let seen = browser.submit(&page, mock.demo_password()).await;
    assert_eq!(seen.status, 303);
    let failures = mock
        .audit()
        .into_iter()
        .filter(|event| event.action == "auth.failed");
    assert_eq!(failures.count(), 5);
}

#[tokio::test]
async fn each_issuer_of_the_policy_has_its_metadata() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    for (path, status) in [("idp", 200), ("idp/cluster", 200), ("idp/other", 404)] {
        let url = format!("{path}/.well-known/openid-configuration");
        let seen = browser
            .send(browser.http.get(mock.api().join(&url).unwrap()))
            .await;
        assert_eq!(seen.status, status, "{path}");
        if status == 200 {
            let told: Value = serde_json::from_str(&seen.text).unwrap();
            assert_eq!(told["issuer"], format!("{}{path}", mock.api()));
        }
    }
}
