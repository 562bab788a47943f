//! Device login.

use std::time::Duration;

use serde_json::json;

use crate::client::{Client, GCP, Key, TENANT, scope, spawn, spawn_with};

#[tokio::test]
async fn a_login_goes_from_pending_to_a_token_bound_to_the_key() {
    let mock = spawn().await;
    let mut client = Client::new(&mock);
    let begin = client.begin(&json!({"requestedTtlSeconds": 600})).await;
    assert_eq!(begin.status, 200);
    assert!(begin.text("/deviceCode").starts_with("mdc_"));
    let user_code = begin.text("/userCode");
    assert_eq!(user_code.len(), 9);
    let letters = user_code.replace('-', "");
    assert!(letters.chars().all(|c| "BCDFGHJKLMNPQRSTVWXZ".contains(c)));
    assert_eq!(begin.body["intervalSeconds"], 5);
    assert_eq!(begin.body["expiresInSeconds"], 600);
    assert_eq!(mock.pending_user_codes(), [user_code]);

    mock.advance(Duration::from_secs(5));
    let pending = client.exchange(begin.text("/deviceCode")).await;
    assert_eq!(pending.text("/status"), "authorization_pending");

    mock.approve(&user_code.to_lowercase()).unwrap();
    assert!(mock.pending_user_codes().is_empty());
    let success = client.exchange(begin.text("/deviceCode")).await;
    assert_eq!(success.text("/status"), "success");
    assert!(success.header("dpop-nonce").is_some());
    let info = &success.body["tokenInfo"];
    assert_eq!(info["thumbprint"], client.key.thumbprint());
    assert_eq!(info["binding"], "jkt");
    assert_eq!(info["popKeyId"], client.key.id());
    assert_eq!(info["principal"], "user:u-demo");
    assert_eq!(info["tenantId"], TENANT);
    assert_eq!(info["role"], "org_admin");
    assert_eq!(info["expiresInSeconds"], 600);
    assert_eq!(info["grantedScopes"].as_array().unwrap().len(), 3);

    let used = client.exchange(begin.text("/deviceCode")).await;
    assert_eq!((used.status, used.reason()), (400, "device_code_used"));

    success.text("/brokerToken").clone_into(&mut client.token);
    client.nonce = success.header("dpop-nonce").map(str::to_owned);
    assert_eq!(client.create(GCP, &json!({})).await.reason(), "ok");
    let actions: Vec<_> = mock
        .audit()
        .into_iter()
        .map(|e| (e.action, e.outcome))
        .collect();
    let actions: Vec<_> = actions
        .iter()
        .map(|(a, o)| (a.as_str(), o.as_str()))
        .collect();
    assert_eq!(
        actions,
        [
            ("login.begin", "ok"),
            ("login.approve", "ok"),
            ("login.exchange", "ok"),
            ("login.exchange", "denied"),
            ("lease.create", "ok"),
        ]
    );
}

/// DG-12.
#[tokio::test]
async fn denied_and_expired_codes_say_so() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let denied = client.begin(&json!({})).await;
    mock.deny(denied.text("/userCode")).unwrap();
    assert!(mock.approve(denied.text("/userCode")).is_err());
    let answer = client.exchange(denied.text("/deviceCode")).await;
    assert_eq!(answer.text("/status"), "access_denied");

    let expired = client.begin(&json!({})).await;
    mock.expire(expired.text("/userCode")).unwrap();
    let answer = client.exchange(expired.text("/deviceCode")).await;
    assert_eq!(answer.text("/status"), "expired_token");

    let late = client.begin(&json!({})).await;
    mock.approve(late.text("/userCode")).unwrap();
    mock.advance(Duration::from_mins(10));
    let answer = client.exchange(late.text("/deviceCode")).await;
    assert_eq!(answer.text("/status"), "expired_token");
}

#[tokio::test]
async fn a_poll_too_early_is_slowed_down_and_a_refused_proof_is_no_poll() {
    let mock = spawn().await;
    let mut client = Client::new(&mock);
    let begin = client.begin(&json!({})).await;
    let code = begin.text("/deviceCode");
    let early = client.exchange(code).await;
    assert_eq!(early.text("/status"), "slow_down");
    assert_eq!(early.body["intervalSeconds"], 10);

    mock.advance(Duration::from_secs(10));
    client.nonce = Some("stale".to_owned());
    let refused = client.exchange(code).await;
    assert_eq!((refused.status, refused.reason()), (401, "use_dpop_nonce"));
    client.nonce = refused.header("dpop-nonce").map(str::to_owned);
    let answer = client.exchange(code).await;
    assert_eq!(answer.text("/status"), "authorization_pending");
}

/// A test that pauses tokio's clock moves the server with it.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_paces_the_polls() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let begin = client.begin(&json!({})).await;
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(5)).await;
        let answer = client.exchange(begin.text("/deviceCode")).await;
        assert_eq!(answer.text("/status"), "authorization_pending");
    }
    let times: Vec<_> = mock.requests().iter().map(|request| request.at).collect();
    assert_eq!(
        times[2].duration_since(times[1]).unwrap(),
        Duration::from_secs(5)
    );
}

/// DG-11.
#[tokio::test]
async fn parallel_exchanges_of_one_code_yield_one_token() {
    let mock = spawn_with("[throttle]\nenabled = false\n").await;
    let client = Client::new(&mock);
    for _ in 0..5 {
        let begin = client.begin(&json!({})).await;
        mock.approve(begin.text("/userCode")).unwrap();
        let code = begin.text("/deviceCode");
        let mut wins = 0;
        for answer in all(20, || client.exchange(code)).await {
            match answer.reason() {
                "ok" => wins += 1,
                reason => assert_eq!(reason, "device_code_used"),
            }
        }
        assert_eq!(wins, 1);
    }
}

/// Starts `count` futures at once and waits for all of them.
pub(crate) async fn all<F: Future>(count: usize, make: impl Fn() -> F) -> Vec<F::Output> {
    let mut futures: Vec<_> = (0..count).map(|_| Box::pin(make())).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

#[tokio::test]
async fn begin_refuses_what_is_out_of_bounds() {
    let mock = spawn_with("[throttle]\nenabled = false\n").await;
    let client = Client::new(&mock);
    let good = scope("create", GCP);
    let many: Vec<_> = (0..97)
        .map(|n| scope("create", ["p", "a", &format!("n{n}")]))
        .collect();
    let private = {
        let mut jwk = client.key.jwk();
        jwk["d"] = json!("AAAA");
        jwk
    };
    let rows = [
        ("shortest", json!({"requestedTtlSeconds": 60}), "ok"),
        ("longest", json!({"requestedTtlSeconds": 900}), "ok"),
        ("96 scopes", json!({"requestedScopes": many[..96]}), "ok"),
        (
            "too short",
            json!({"requestedTtlSeconds": 59}),
            "ttl_out_of_range",
        ),
        (
            "too long",
            json!({"requestedTtlSeconds": 901}),
            "ttl_out_of_range",
        ),
        (
            "negative",
            json!({"requestedTtlSeconds": -1}),
            "ttl_out_of_range",
        ),
        (
            "97 scopes",
            json!({"requestedScopes": many}),
            "scope_malformed",
        ),
        (
            "wildcard",
            json!({"requestedScopes": ["x", "credential.lease.*", good]}),
            "scope_wildcard",
        ),
        (
            "wildcard behind malformed",
            json!({"requestedScopes": ["", "*"]}),
            "scope_wildcard",
        ),
        (
            "action only",
            json!({"requestedScopes": ["credential.lease.create"]}),
            "scope_action_only",
        ),
        (
            "number as scope",
            json!({"requestedScopes": [1]}),
            "type_mismatch",
        ),
        (
            "null as scope",
            json!({"requestedScopes": [null]}),
            "type_mismatch",
        ),
        ("no tenant", json!({"tenantId": ""}), "field_missing"),
        (
            "unknown tenant",
            json!({"tenantId": "other"}),
            "tenant_mismatch",
        ),
        (
            "tenant in another case",
            json!({"tenantId": "Business-Default"}),
            "tenant_mismatch",
        ),
        ("no key", json!({"popJwk": null}), "field_missing"),
        ("empty key", json!({"popJwk": {}}), "pop_jwk_invalid"),
        ("private key", json!({"popJwk": private}), "unknown_field"),
        (
            "point off the curve",
            json!({"popJwk": {"kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)}}),
            "pop_jwk_invalid",
        ),
        (
            "symmetric key",
            json!({"popJwk": {"kty": "oct", "crv": "P-256", "x": "AAAA"}}),
            "pop_jwk_invalid",
        ),
        ("no key id", json!({"popKeyId": ""}), "field_missing"),
        (
            "key id with space",
            json!({"popKeyId": "a b"}),
            "type_mismatch",
        ),
        (
            "long name",
            json!({"clientDisplayName": "a".repeat(65)}),
            "type_mismatch",
        ),
        (
            "name with control",
            json!({"clientDisplayName": "a\u{7}"}),
            "type_mismatch",
        ),
    ];
    for (name, extra, reason) in rows {
        let answer = client.begin(&extra).await;
        assert_eq!(answer.reason(), reason, "{name}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_key_id_stands_for_one_key() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    assert_eq!(client.begin(&json!({})).await.status, 200);
    let other = json!({"popJwk": Key::generate().jwk()});
    let answer = client.begin(&other).await;
    assert_eq!((answer.status, answer.reason()), (409, "pop_key_conflict"));
}

#[tokio::test]
async fn another_key_cannot_exchange_the_code() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let begin = client.begin(&json!({})).await;
    mock.approve(begin.text("/userCode")).unwrap();
    let thief = Client::new(&mock);
    let answer = thief.exchange(begin.text("/deviceCode")).await;
    assert_eq!((answer.status, answer.reason()), (401, "binding_mismatch"));
    let answer = thief.exchange("mdc_unknown").await;
    assert_eq!(
        (answer.status, answer.reason()),
        (404, "device_code_unknown")
    );
    let answer = client.exchange(begin.text("/deviceCode")).await;
    assert_eq!(answer.text("/status"), "success");
}

/// OA-21: an ID token is for the console, a broker token for the API; neither is taken for the
/// other. And whatever answers with a token or a code is not to be stored.
#[tokio::test]
async fn a_token_for_another_audience_is_none() {
    let mock = spawn().await;
    let mut client = Client::new(&mock);
    let begun = client.begin(&json!({})).await;
    assert_eq!(begun.header("cache-control"), Some("no-store"));
    mock.approve(begun.text("/userCode")).unwrap();
    let success = client.exchange(begun.text("/deviceCode")).await;
    assert_eq!(success.header("cache-control"), Some("no-store"));
    success.text("/brokerToken").clone_into(&mut client.token);
    let request = client
        .post("ApproveMcpOauthDeviceAuthorization")
        .bearer_auth(&client.token)
        .body(json!({"userCode": begun.text("/userCode"), "approve": true}).to_string());
    assert_eq!(client.send(request).await.reason(), "token_invalid");
    client.token = mock.demo_id_token();
    let answer = client.create(GCP, &json!({})).await;
    assert_eq!(answer.reason(), "token_invalid");
}

#[tokio::test]
async fn a_person_approves_with_an_id_token() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let method = "ApproveMcpOauthDeviceAuthorization";
    let decide = async |token: String, body: serde_json::Value| {
        let request = client.post(method).bearer_auth(token);
        client.send(request.body(body.to_string())).await
    };
    let begin = client.begin(&json!({})).await;
    let approval = json!({"userCode": begin.text("/userCode"), "approve": true});
    let answer = decide("nonsense".to_owned(), approval.clone()).await;
    assert_eq!((answer.status, answer.reason()), (401, "token_invalid"));
    let answer = decide(mock.demo_id_token(), approval).await;
    assert_eq!(answer.text("/status"), "approved");
    let denial = json!({"deviceCode": begin.text("/deviceCode"), "denialReason": "no"});
    let answer = decide(mock.demo_id_token(), denial).await;
    assert_eq!(answer.text("/status"), "access_denied");

    let answer = decide(mock.demo_id_token(), json!({})).await;
    assert_eq!(answer.reason(), "field_missing");
}

/// DG-10: who has guessed wrongly five times is not told of a right guess either;
/// a minute later the same code works.
#[tokio::test]
async fn after_five_wrong_codes_the_right_one_is_refused_for_a_minute() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    let enter = async |code: &str| {
        let request = client
            .post("ApproveMcpOauthDeviceAuthorization")
            .bearer_auth(mock.demo_id_token())
            .body(json!({"userCode": code, "approve": true}).to_string());
        client.send(request).await
    };
    let begin = client.begin(&json!({})).await;
    for _ in 0..5 {
        assert_eq!(enter("BBBB-BBBB").await.reason(), "device_code_unknown");
    }
    let answer = enter(begin.text("/userCode")).await;
    assert_eq!((answer.status, answer.reason()), (429, "rate_limited"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(enter("BBBB-BBBB").await.reason(), "rate_limited");
    assert_eq!(mock.pending_user_codes(), [begin.text("/userCode")]);

    mock.advance(Duration::from_secs(59));
    let answer = enter(begin.text("/userCode")).await;
    assert_eq!(answer.reason(), "rate_limited");
    mock.advance(Duration::from_secs(1));
    let answer = enter(begin.text("/userCode")).await;
    assert_eq!(answer.text("/status"), "approved");
}

/// DG-10: right codes are not tries that count.
#[tokio::test]
async fn right_codes_use_up_no_guesses() {
    let mock = spawn().await;
    let client = Client::new(&mock);
    for _ in 0..6 {
        let begin = client.begin(&json!({})).await;
        let request = client
            .post("ApproveMcpOauthDeviceAuthorization")
            .bearer_auth(mock.demo_id_token())
            .body(json!({"userCode": begin.text("/userCode"), "approve": true}).to_string());
        assert_eq!(client.send(request).await.text("/status"), "approved");
    }
}
