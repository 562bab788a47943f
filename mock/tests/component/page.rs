//! The approval page, as a browser without mercy sees it: every header and every form by hand.

use std::time::Duration;

use aegis_mock::{FaultKind, Mock, Options, PageCheck};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use serde_json::json;

use crate::client::{Client, spawn, spawn_with};

/// A browser's part: one cookie, and no redirect followed unseen.
struct Browser {
    http: reqwest::Client,
    base: String,
    cookie: Option<String>,
}

struct Page {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    fn heading(&self) -> &str {
        let (_, rest) = self.body.split_once("<h1>").expect("a heading");
        rest.split_once("</h1>").unwrap().0
    }

    /// The token of the form that goes there.
    fn token(&self, action: &str) -> String {
        let form = format!(
            "action=\"/device/{action}\"><input type=\"hidden\" name=\"form_token\" value=\""
        );
        let (_, rest) = self.body.split_once(&form).expect("the form");
        rest.split_once('"').unwrap().0.to_owned()
    }
}

impl Browser {
    fn new(mock: &Mock) -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none());
        Self {
            http: http.build().unwrap(),
            base: mock.api().as_str().trim_end_matches('/').to_owned(),
            cookie: None,
        }
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Page {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        if let Some(set) = headers.get("set-cookie") {
            let cookie = set.to_str().unwrap().split(';').next().unwrap();
            self.cookie = Some(cookie.to_owned());
        }
        let body = response.text().await.unwrap();
        Page {
            status,
            headers,
            body,
        }
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(format!("{}{path}", self.base));
        match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    async fn open(&mut self, path: &str) -> Page {
        let request = self.get(path);
        self.send(request).await
    }

    /// A form without `Origin`.
    fn bare_form(&self, action: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        let body = body.extend_pairs(fields).finish();
        let request = self.http.post(format!("{}/device/{action}", self.base));
        let request = match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        };
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    }

    fn form(&self, action: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
        self.bare_form(action, fields).header("origin", &self.base)
    }

    async fn submit(&mut self, action: &str, fields: &[(&str, &str)]) -> Page {
        let request = self.form(action, fields);
        self.send(request).await
    }

    async fn sign_in(&mut self, name: &str, password: &str) -> Page {
        let token = self.open("/device").await.token("sign-in");
        let fields = [
            ("form_token", token.as_str()),
            ("name", name),
            ("password", password),
        ];
        self.submit("sign-in", &fields).await
    }

    async fn sign_in_anew(&mut self, mock: &Mock) -> Page {
        self.cookie = None;
        self.sign_in("demo", mock.demo_password()).await
    }

    async fn signed_in(mock: &Mock) -> Self {
        let mut browser = Self::new(mock);
        let answer = browser.sign_in("demo", mock.demo_password()).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, "/device"),
            "{}",
            answer.body
        );
        browser
    }

    async fn enter(&mut self, code: &str) -> Page {
        let token = self.open("/device").await.token("code");
        self.submit("code", &[("form_token", &token), ("user_code", code)])
            .await
    }

    /// Signed in, with the code entered: in front of the question. Its token.
    async fn reviewing(mock: &Mock, code: &str) -> (Self, String) {
        let mut browser = Self::signed_in(mock).await;
        let answer = browser.enter(code).await;
        assert_eq!(answer.header("location"), "/device/review");
        let token = browser.open("/device/review").await.token("decision");
        (browser, token)
    }

    async fn decide(&mut self, token: &str, decision: &str) -> Page {
        self.submit("decision", &[("form_token", token), ("decision", decision)])
            .await
    }
}

/// A client with a login begun; its codes.
async fn begin(mock: &Mock) -> (Client, String, String) {
    let client = Client::new(mock);
    let answer = client.begin(&json!({})).await;
    let user_code = answer.text("/userCode").to_owned();
    let device_code = answer.text("/deviceCode").to_owned();
    (client, user_code, device_code)
}

fn outcomes(mock: &Mock, action: &str) -> Vec<String> {
    let events = mock.audit().into_iter();
    let events = events.filter(|event| event.action == action);
    events.map(|event| event.outcome).collect()
}

/// DG-8: the page names client, tenant, scopes and key, and the person who is asked.
#[tokio::test]
async fn a_person_signs_in_compares_and_approves() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let begun = client
        .begin(&json!({"clientDisplayName": "Broker on host-01"}))
        .await;
    assert_eq!(begun.text("/verificationUri"), mock.page());
    let complete = begun.text("/verificationUriComplete");
    let path = complete.strip_prefix(mock.api().as_str()).unwrap();

    let mut browser = Browser::new(&mock);
    let page = browser.open(&format!("/{path}")).await;
    assert_eq!((page.status, page.heading()), (200, "Sign in"));
    let code = begun.text("/userCode");
    let answer = browser
        .submit(
            "sign-in",
            &[
                ("form_token", &page.token("sign-in")),
                ("user_code", code),
                ("name", mock.demo_name()),
                ("password", mock.demo_password()),
            ],
        )
        .await;
    let next = format!("/device?user_code={code}");
    assert_eq!((answer.status, answer.header("location")), (303, &*next));

    // The code is there, and still waits for the person's word.
    let page = browser.open(&next).await;
    assert_eq!(page.heading(), "Compare the code");
    let fields = [
        ("form_token", page.token("code")),
        ("user_code", code.to_owned()),
    ];
    let fields = fields
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let answer = browser.submit("code", &fields).await;
    assert_eq!(answer.header("location"), "/device/review");

    let page = browser.open("/device/review").await;
    assert_eq!(page.heading(), "Approve this login?");
    for shown in [
        code,
        "Broker on host-01",
        "business-default",
        "gcp/<wbr>billing-prod/<wbr>deploy-bot",
        "create, redeem, revoke",
        &client.key.thumbprint(),
        "<dd>demo</dd>",
    ] {
        assert!(page.body.contains(shown), "{shown} in {}", page.body);
    }
    let answer = browser.decide(&page.token("decision"), "approve").await;
    assert_eq!(answer.header("location"), "/device/result");
    assert_eq!(browser.open("/device/result").await.heading(), "Approved");

    let answer = client.exchange(begun.text("/deviceCode")).await;
    assert_eq!(answer.text("/status"), "success");
    let approved = mock.audit();
    let approved = approved
        .iter()
        .find(|event| event.action == "login.approve");
    let approved = approved.unwrap();
    assert_eq!(approved.outcome, "ok");
    assert_eq!(approved.principal, "user:u-demo");
    assert_eq!(approved.key_thumbprint, client.key.thumbprint());
    let forms = mock.requests();
    let form = forms.iter().find(|form| form.method == "device/decision");
    assert_eq!(form.unwrap().request_id, approved.request_id);
}

#[tokio::test]
async fn a_person_denies() {
    let mock = spawn().await;
    let (client, user_code, device_code) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    browser.decide(&token, "deny").await;
    assert_eq!(browser.open("/device/result").await.heading(), "Denied");
    let answer = client.exchange(&device_code).await;
    assert_eq!(answer.text("/status"), "access_denied");
    assert_eq!(outcomes(&mock, "login.deny"), ["ok"]);
}

/// IN-2: whatever is answered says that it is not to be framed, stored, sniffed or scripted.
#[tokio::test]
async fn every_answer_has_its_headers() {
    let mock = spawn().await;
    let (_client, user_code, _) = begin(&mock).await;
    let mut browser = Browser::new(&mock);
    let mut answers = vec![
        ("sign-in", browser.open("/device").await),
        ("style", browser.open("/device/style.css").await),
        ("redirect", browser.open("/device/review").await),
        ("form by hand", browser.open("/device/code").await),
        ("no such form", browser.submit("code", &[]).await),
        ("wrong method", browser.submit("review", &[]).await),
        ("wrong password", browser.sign_in("demo", "x").await),
        (
            "signed in",
            browser.sign_in("demo", mock.demo_password()).await,
        ),
        ("code", browser.open("/device").await),
        ("wrong code", browser.enter("BBBB-BBBB").await),
        ("right code", browser.enter(&user_code).await),
        ("question", browser.open("/device/review").await),
    ];
    let foreign = browser
        .bare_form("code", &[])
        .header("origin", "http://evil.example");
    answers.push(("foreign", browser.send(foreign).await));
    for (name, answer) in answers {
        assert_eq!(
            answer.header("content-security-policy"),
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "{name}"
        );
        for (header, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(header), value, "{name}");
        }
        assert!(answer.header("x-request-id").starts_with("req_"), "{name}");
        assert!(!answer.body.contains("<script"), "{name}");
        if name == "style" {
            assert_eq!(answer.header("content-type"), "text/css; charset=utf-8");
        }
    }
}

#[tokio::test]
async fn the_cookie_is_for_this_page_only_and_new_after_the_sign_in() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    let page = browser.open("/device").await;
    let port = mock.api().port().unwrap();
    let check = |set: &str| {
        let (cookie, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/device; HttpOnly; SameSite=Strict");
        let (name, value) = cookie.split_once('=').unwrap();
        assert_eq!(name, format!("aegis_device_{port}"));
        assert_eq!(value.len(), 43);
        value.to_owned()
    };
    let before = check(page.header("set-cookie"));
    // Who has one keeps it.
    assert_eq!(browser.open("/device").await.header("set-cookie"), "");
    let answer = browser.sign_in("u-demo", mock.demo_password()).await;
    let after = check(answer.header("set-cookie"));
    assert_ne!(before, after);
    // The one from before is nobody's.
    browser.cookie = Some(format!("aegis_device_{port}={before}"));
    assert_eq!(browser.open("/device").await.heading(), "Sign in");
    // Two of them, as a neighbour on another port could add one, are none.
    browser.cookie = Some(format!(
        "aegis_device_{port}={after}; aegis_device_{port}={before}"
    ));
    assert_eq!(browser.open("/device").await.heading(), "Sign in");
    browser.cookie = Some(format!("aegis_device_{port}={after}"));
    assert_eq!(browser.open("/device").await.heading(), "Enter the code");
}

/// A foreign page, or one that merely resolves to this machine, sends nothing and learns nothing.
#[tokio::test]
async fn forms_from_elsewhere_are_refused() {
    let mock = spawn().await;
    let (_client, user_code, _) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    let own = browser.base.clone();
    let port = mock.api().port().unwrap();
    let fields = [("form_token", token.as_str()), ("decision", "approve")];
    let with = |browser: &Browser, name: &'static str, value: &str| {
        browser.bare_form("decision", &fields).header(name, value)
    };
    let rows = [
        ("no origin", browser.bare_form("decision", &fields)),
        ("null", with(&browser, "origin", "null")),
        (
            "other site",
            with(&browser, "origin", "http://evil.example"),
        ),
        ("other port", with(&browser, "origin", "http://127.0.0.1:1")),
        (
            "other scheme",
            with(&browser, "origin", &own.replace("http", "https")),
        ),
        (
            "other name of ours",
            with(&browser, "origin", &format!("http://localhost:{port}")),
        ),
        (
            "two origins",
            with(&browser, "origin", &own).header("origin", "http://evil.example"),
        ),
        (
            "foreign host",
            with(&browser, "host", "evil.example").header("origin", "http://evil.example"),
        ),
        (
            "host of another port",
            with(&browser, "host", "127.0.0.1:1").header("origin", "http://127.0.0.1:1"),
        ),
    ];
    for (name, request) in rows {
        assert_eq!(browser.send(request).await.status, 403, "{name}");
    }
    let rebound = browser.get("/device/review").header("host", "evil.example");
    let page = browser.send(rebound).await;
    assert_eq!((page.status, page.body.as_str()), (403, ""));
    assert_eq!(mock.pending_user_codes(), [user_code]);
    // The same form from where it belongs: it was the headers.
    let answer = browser.decide(&token, "approve").await;
    assert_eq!(answer.status, 303);
    assert!(mock.pending_user_codes().is_empty());
}

#[tokio::test]
async fn the_page_answers_under_the_machines_own_name_too() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    browser.base = browser.base.replace("127.0.0.1", "localhost");
    let answer = browser.sign_in("demo", mock.demo_password()).await;
    assert_eq!(answer.status, 303);
}

#[tokio::test]
async fn a_form_needs_the_token_of_this_browser_and_this_step() {
    let mock = spawn().await;
    let (_client, user_code, _) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    let (mut other, others) = Browser::reviewing(&mock, &user_code).await;
    let leave = browser.open("/device/review").await.token("sign-out");
    let rows = [
        ("none", ""),
        ("nonsense", "AAAA"),
        ("of another session", &others),
        ("of another form", &leave),
        ("with a tail", &format!("{token}A")),
    ];
    for (name, token) in rows {
        let answer = browser.decide(token, "approve").await;
        assert_eq!(answer.status, 403, "{name}");
        assert_eq!(answer.heading(), "This form is out of date", "{name}");
    }
    let missing = browser.submit("decision", &[("decision", "approve")]).await;
    assert_eq!(missing.status, 422);
    let cookie = browser.cookie.take();
    assert_eq!(browser.decide(&token, "approve").await.status, 403);
    assert_eq!(mock.pending_user_codes(), [user_code]);
    browser.cookie = cookie;
    assert_eq!(browser.decide(&token, "approve").await.status, 303);
    // Decided in the one browser, it cannot be decided otherwise in the other.
    assert_eq!(other.decide(&others, "deny").await.status, 303);
    assert_eq!(
        other.open("/device/result").await.heading(),
        "Decided already"
    );
    assert_eq!(outcomes(&mock, "login.approve"), ["ok"]);
    assert_eq!(outcomes(&mock, "login.deny"), ["denied"]);
}

#[tokio::test]
async fn a_sign_in_needs_its_token_and_a_name_of_the_policy() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    let password = mock.demo_password();
    let token = browser.open("/device").await.token("sign-in");
    let elsewhere = Browser::new(&mock).open("/device").await.token("sign-in");
    let rows = [
        ("no token", "", "demo", password, 403),
        ("another browser's", &elsewhere, "demo", password, 403),
        ("unknown name", &token, "u-other", password, 422),
        ("no name", &token, "", password, 422),
        ("wrong password", &token, "demo", "demo", 422),
        ("no password", &token, "demo", "", 422),
        ("right", &token, "demo", password, 303),
        ("sent again", &token, "demo", password, 403),
    ];
    for (name, token, who, password, status) in rows {
        let fields = [("form_token", token), ("name", who), ("password", password)];
        let answer = browser.submit("sign-in", &fields).await;
        assert_eq!(answer.status, status, "{name}");
        assert!(!answer.body.contains(mock.demo_password()), "{name}");
    }
    assert_eq!(outcomes(&mock, "auth.failed").len(), 4);
}

#[tokio::test]
async fn wrong_passwords_are_limited() {
    let mock = spawn().await;
    let mut browser = Browser::new(&mock);
    for _ in 0..5 {
        assert_eq!(browser.sign_in("demo", "guess").await.status, 422);
    }
    let answer = browser.sign_in("demo", mock.demo_password()).await;
    assert_eq!(answer.status, 429);
    assert!(!answer.header("retry-after").is_empty());
    mock.advance(Duration::from_mins(1));
    let answer = browser.sign_in("demo", mock.demo_password()).await;
    assert_eq!(answer.status, 303);
}

/// The safe method is safe: no address that can be followed changes anything.
#[tokio::test]
async fn looking_changes_nothing() {
    let mock = spawn().await;
    let (_client, user_code, _) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    let events = mock.audit().len();
    let query = format!("?form_token={token}&decision=approve&user_code={user_code}");
    for path in [
        "",
        "/sign-in",
        "/code",
        "/review",
        "/decision",
        "/result",
        "/sign-out",
    ] {
        for query in ["", &query] {
            let page = browser.open(&format!("/device{path}{query}")).await;
            assert!(matches!(page.status, 200 | 303), "{path}");
        }
    }
    // Wrong codes in an address are no tries.
    for _ in 0..6 {
        browser.open("/device?user_code=BBBB-BBBB").await;
    }
    assert_eq!(mock.audit().len(), events);
    assert_eq!(mock.pending_user_codes(), [user_code]);
    assert_eq!(browser.decide(&token, "approve").await.status, 303);
}

#[tokio::test]
async fn a_form_sent_again_is_refused() {
    let mock = spawn().await;
    let (client, user_code, device_code) = begin(&mock).await;
    let mut browser = Browser::signed_in(&mock).await;
    let token = browser.open("/device").await.token("code");
    let code = [("form_token", token.as_str()), ("user_code", &user_code)];
    assert_eq!(browser.submit("code", &code).await.status, 303);
    assert_eq!(browser.submit("code", &code).await.status, 403);
    let token = browser.open("/device/review").await.token("decision");
    assert_eq!(browser.decide(&token, "approve").await.status, 303);
    for decision in ["approve", "deny"] {
        assert_eq!(browser.decide(&token, decision).await.status, 403);
    }
    assert_eq!(browser.open("/device/result").await.heading(), "Approved");
    assert_eq!(outcomes(&mock, "login.approve"), ["ok"]);
    let answer = client.exchange(&device_code).await;
    assert_eq!(answer.text("/status"), "success");
    // Nor is a code that was approved asked about again.
    let answer = browser.enter(&user_code).await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("decided before"));
}

/// Of many who send the same form at once, one is heard.
#[tokio::test]
async fn a_form_sent_many_times_at_once_is_taken_once() {
    let mock = spawn().await;
    let (_client, user_code, _) = begin(&mock).await;
    let (browser, token) = Browser::reviewing(&mock, &user_code).await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let fields = [("form_token", token.as_str()), ("decision", "approve")];
        answers.spawn(browser.form("decision", &fields).send());
    }
    let mut statuses: Vec<u16> = Vec::new();
    while let Some(answer) = answers.join_next().await {
        statuses.push(answer.unwrap().unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses[0], 303);
    assert!(statuses[1..].iter().all(|status| *status == 403));
    assert_eq!(outcomes(&mock, "login.approve"), ["ok"]);
}

#[tokio::test]
async fn what_a_client_says_of_itself_stays_text() {
    let mock = spawn().await;
    let names = [
        (
            "<script>alert(1)</script>",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
        ),
        (
            "</dd><form action=//evil.example>",
            "&lt;/dd&gt;&lt;form action=//evil.example&gt;",
        ),
        (
            "\" autofocus onfocus=\"x",
            "&quot; autofocus onfocus=&quot;x",
        ),
        ("Aegis &lt;3", "Aegis &amp;lt;3"),
        ("gnp.\u{202e}exe", "gnp.\u{fffd}exe"),
        ("", "<em>no name</em>"),
    ];
    for (name, shown) in names {
        let client = Client::new(&mock);
        let begun = client.begin(&json!({"clientDisplayName": name})).await;
        let (mut browser, _) = Browser::reviewing(&mock, begun.text("/userCode")).await;
        let page = browser.open("/device/review").await;
        assert!(page.body.contains(shown), "{name}: {}", page.body);
        assert!(!page.body.contains("<script") && !page.body.contains("<form action=//"));
    }
    // What a person or an address brings along is text, too, or nothing at all.
    let mut browser = Browser::signed_in(&mock).await;
    let page = browser.enter("\"><b>x").await;
    assert!(page.body.contains("value=\"&quot;&gt;&lt;b&gt;x\""));
    let page = browser.open("/device?user_code=%22%3E%3Cb%3Ex").await;
    assert_eq!(page.heading(), "Enter the code");
    assert!(!page.body.contains("&lt;b"));
    let page = browser
        .open("/device?user_code=BCDF-GHJK&user_code=x")
        .await;
    assert_eq!(page.heading(), "Enter the code");
}

/// DG-10, the same count as that of the RPC.
#[tokio::test]
async fn after_five_wrong_codes_the_right_one_waits_a_minute() {
    let mock = spawn().await;
    let (client, user_code, _) = begin(&mock).await;
    let mut browser = Browser::signed_in(&mock).await;
    for _ in 0..5 {
        let answer = browser.enter("BBBB-BBBB").await;
        assert_eq!(answer.status, 422);
        assert!(answer.body.contains("No login has that code"));
    }
    let answer = browser.enter(&user_code).await;
    assert_eq!(answer.status, 429);
    assert!(answer.body.contains("Too many wrong codes"));
    assert!(answer.header("retry-after").parse::<u32>().unwrap() <= 60);
    // Another sign-in is no way around it, nor is the RPC.
    let mut again = Browser::signed_in(&mock).await;
    assert_eq!(again.enter(&user_code).await.status, 429);
    let request = client
        .post("ApproveMcpOauthDeviceAuthorization")
        .bearer_auth(mock.demo_id_token())
        .body(json!({"userCode": user_code, "approve": true}).to_string());
    assert_eq!(client.send(request).await.reason(), "rate_limited");
    assert_eq!(mock.pending_user_codes(), [user_code.as_str()]);
    mock.advance(Duration::from_mins(1));
    assert_eq!(browser.enter(&user_code).await.status, 303);
}

#[tokio::test]
async fn an_expired_code_is_said_to_be_one() {
    let mock = spawn().await;
    let (client, user_code, device_code) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    mock.advance(Duration::from_mins(10));
    assert_eq!(browser.decide(&token, "approve").await.status, 303);
    let page = browser.open("/device/result").await;
    assert_eq!(page.heading(), "The code has expired");
    let answer = browser.enter(&user_code).await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("has expired"));
    let answer = client.exchange(&device_code).await;
    assert_eq!(answer.text("/status"), "expired_token");
    assert_eq!(outcomes(&mock, "login.approve"), ["denied"]);
}

#[tokio::test]
async fn a_sign_in_ends_by_itself_and_at_the_sign_out() {
    let mock = spawn().await;
    let mut browser = Browser::signed_in(&mock).await;
    let page = browser.open("/device").await;
    let cookie = browser.cookie.clone();
    let leave = [("form_token", page.token("sign-out"))];
    let leave = leave
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let answer = browser.submit("sign-out", &leave).await;
    assert_eq!(answer.status, 303);
    assert!(answer.header("set-cookie").ends_with("; Max-Age=0"));
    browser.cookie = cookie;
    assert_eq!(browser.open("/device").await.heading(), "Sign in");

    let (_client, user_code, _) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    mock.advance(Duration::from_hours(1));
    assert_eq!(browser.decide(&token, "approve").await.status, 403);
    assert_eq!(browser.open("/device/review").await.status, 303);
}

#[tokio::test]
async fn nobody_decides_for_a_tenant_that_is_not_theirs() {
    let mock = spawn_with(
        "[[tenant]]\nid = \"other\"\n[[user]]\nuid = \"u-eve\"\ntenants = [\"other\"]\n",
    )
    .await;
    let (_client, user_code, _) = begin(&mock).await;
    let mut eve = Browser::new(&mock);
    assert_eq!(eve.sign_in("eve", mock.demo_password()).await.status, 303);
    let answer = eve.enter(&user_code).await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("No login has that code"));
    assert_eq!(mock.pending_user_codes(), [user_code]);
}

#[tokio::test]
async fn forms_are_bounded_and_exact() {
    let mock = spawn().await;
    let (_client, user_code, _) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    let fields = |extra: &[(&'static str, &'static str)]| {
        let mut fields = vec![("form_token", token.clone())];
        fields.extend(
            extra
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        fields
    };
    let long = "x".repeat(5000);
    let mut rows = vec![
        ("no decision", fields(&[]), 422),
        ("another word", fields(&[("decision", "maybe")]), 422),
        (
            "twice",
            fields(&[("decision", "deny"), ("decision", "approve")]),
            422,
        ),
        (
            "more",
            fields(&[("decision", "approve"), ("uid", "u-root")]),
            422,
        ),
    ];
    rows.push((
        "long",
        vec![("form_token", long), ("decision", "deny".to_owned())],
        413,
    ));
    for (name, fields, status) in rows {
        let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(
            browser.submit("decision", &fields).await.status,
            status,
            "{name}"
        );
    }
    let json = browser
        .http
        .post(format!("{}/device/decision", browser.base))
        .header("origin", &browser.base)
        .header("cookie", browser.cookie.clone().unwrap())
        .header("content-type", "text/plain")
        .body(format!("form_token={token}&decision=approve"));
    assert_eq!(browser.send(json).await.status, 415);
    assert_eq!(mock.pending_user_codes(), [user_code]);
    assert_eq!(browser.decide(&token, "approve").await.status, 303);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_decided() {
    let mock = spawn().await;
    let (_client, user_code, _) = begin(&mock).await;
    let (mut browser, token) = Browser::reviewing(&mock, &user_code).await;
    mock.fault(
        "ApproveMcpOauthDeviceAuthorization",
        FaultKind::AuditUnavailable,
        1,
    );
    let answer = browser.decide(&token, "approve").await;
    assert_eq!(
        (answer.status, answer.heading()),
        (503, "Nothing was decided")
    );
    assert_eq!(mock.pending_user_codes(), [user_code]);
    let token = browser.open("/device/review").await.token("decision");
    assert_eq!(browser.decide(&token, "approve").await.status, 303);
    assert!(mock.pending_user_codes().is_empty());
}

#[tokio::test]
async fn the_password_is_another_at_each_start_and_nowhere_in_what_is_handed_out() {
    let (one, other) = (spawn().await, spawn().await);
    assert_ne!(one.demo_password(), other.demo_password());
    let mut browser = Browser::new(&other);
    let answer = browser.sign_in("demo", one.demo_password()).await;
    assert_eq!(answer.status, 422);
    assert!(!format!("{other:?}").contains(other.demo_password()));
}

const CHECKS: [PageCheck; 6] = [
    PageCheck::FormToken,
    PageCheck::Framing,
    PageCheck::Host,
    PageCheck::Origin,
    PageCheck::Cookie,
    PageCheck::Guesses,
];

/// Whether that check holds: an attack on it comes to nothing.
async fn holds(check: PageCheck, mock: &Mock) -> bool {
    let (_client, user_code, _) = begin(mock).await;
    let (mut browser, token) = Browser::reviewing(mock, &user_code).await;
    let undecided = || mock.pending_user_codes().contains(&user_code);
    match check {
        PageCheck::FormToken => {
            browser.decide("", "approve").await;
            undecided()
        }
        PageCheck::Framing => {
            let page = browser.open("/device/review").await;
            let policy = page.header("content-security-policy");
            policy.contains("frame-ancestors 'none'") && page.header("x-frame-options") == "DENY"
        }
        PageCheck::Host => {
            let rebound = browser.get("/device/review").header("host", "evil.example");
            browser.send(rebound).await.status == 403
        }
        PageCheck::Origin => {
            let fields = [("form_token", token.as_str()), ("decision", "approve")];
            let foreign = browser.bare_form("decision", &fields);
            browser.send(foreign.header("origin", "null")).await;
            undecided()
        }
        PageCheck::Cookie => {
            let answer = browser.sign_in_anew(mock).await;
            let cookie = answer.header("set-cookie");
            cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict")
        }
        PageCheck::Guesses => {
            for _ in 0..5 {
                browser.enter("BBBB-BBBB").await;
            }
            let right = browser.enter(&user_code).await.status;
            mock.advance(Duration::from_mins(1));
            right == 429
        }
    }
}

/// What shows that the page is safe would show it if it were not: with one check left out the
/// attack on it succeeds, and no other does.
#[tokio::test]
async fn without_a_check_the_attack_on_it_succeeds() {
    for left_out in [None].into_iter().chain(CHECKS.map(Some)) {
        let mock = aegis_mock::spawn(Options {
            page_without: left_out,
            ..Options::default()
        })
        .await
        .unwrap();
        for check in CHECKS {
            let expected = left_out != Some(check);
            assert_eq!(
                holds(check, &mock).await,
                expected,
                "{check:?} without {left_out:?}"
            );
        }
    }
}
