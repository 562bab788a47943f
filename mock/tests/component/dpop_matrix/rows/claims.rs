//! The claims of a proof.

use aegis_mock::Check;
use serde_json::{Value, json};

use super::{Forge, Row, bad, before, claim, decode, host, htu, iat, no_claim, raw_claim, with};
use crate::client::{Client, now, random, sha256};
use crate::dpop_matrix::scene::NonceRule;

pub(super) fn methods_and_urls() -> Vec<Row> {
    use Check::{ProofMethod, ProofUrl};
    vec![
        bad("htm-missing", "DP-2", ProofMethod, no_claim("htm")),
        bad("htm-null", "DP-2", ProofMethod, claim("htm", Value::Null)),
        bad("htm-empty", "DP-2", ProofMethod, claim("htm", json!(""))),
        bad("htm-number", "DP-2", ProofMethod, claim("htm", json!(1))),
        bad(
            "htm-list",
            "DP-2",
            ProofMethod,
            claim("htm", json!(["POST"])),
        ),
        bad("htm-get", "DP-4", ProofMethod, claim("htm", json!("GET"))),
        bad(
            "htm-options",
            "DP-4",
            ProofMethod,
            claim("htm", json!("OPTIONS")),
        ),
        bad(
            "htm-lower-case",
            "DP-4",
            ProofMethod,
            claim("htm", json!("post")),
        ),
        bad(
            "htm-title-case",
            "DP-4",
            ProofMethod,
            claim("htm", json!("Post")),
        ),
        bad(
            "htm-with-space",
            "DP-4",
            ProofMethod,
            claim("htm", json!(" POST")),
        ),
        bad(
            "htm-with-line-feed",
            "DP-4",
            ProofMethod,
            claim("htm", json!("POST\n")),
        ),
        bad("htm-any", "DP-4", ProofMethod, claim("htm", json!("*"))),
        bad("htu-missing", "DP-2", ProofUrl, no_claim("htu")),
        bad("htu-null", "DP-2", ProofUrl, claim("htu", Value::Null)),
        bad("htu-empty", "DP-2", ProofUrl, claim("htu", json!(""))),
        bad("htu-number", "DP-2", ProofUrl, claim("htu", json!(1))),
        bad(
            "htu-list",
            "DP-2",
            ProofUrl,
            with(|draft| draft.payload["htu"] = json!([draft.payload["htu"]])),
        ),
        bad(
            "htu-other-rpc",
            "DP-4",
            ProofUrl,
            with(|draft| {
                draft.payload["htu"] =
                    json!(draft.scene.client.url("BeginMcpOauthDeviceAuthorization"));
            }),
        ),
        bad(
            "htu-other-service",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("Service/", "Services/")),
        ),
        bad(
            "htu-path-other-case",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("aegis", "Aegis")),
        ),
        bad(
            "htu-trailing-slash",
            "DP-4",
            ProofUrl,
            htu(|url| format!("{url}/")),
        ),
        bad(
            "htu-double-slash",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("/aegis", "//aegis")),
        ),
        bad(
            "htu-path-longer",
            "DP-4",
            ProofUrl,
            htu(|url| format!("{url}s")),
        ),
        bad(
            "htu-path-shorter",
            "DP-4",
            ProofUrl,
            htu(|url| url[..url.len() - 1].to_owned()),
        ),
        bad(
            "htu-path-parameter",
            "DP-4",
            ProofUrl,
            htu(|url| format!("{url};v=1")),
        ),
        bad(
            "htu-without-path",
            "DP-4",
            ProofUrl,
            htu(|url| url.split("/aegis").next().unwrap().to_owned()),
        ),
        bad(
            "htu-path-alone",
            "DP-4",
            ProofUrl,
            with(|draft| draft.payload["htu"] = json!(Client::path(draft.rpc.method()))),
        ),
        bad(
            "htu-dots",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("/aegis", "/x/../aegis")),
        ),
        bad(
            "htu-one-dot",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("/aegis", "/./aegis")),
        ),
        bad(
            "htu-percent-letter",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("aegis", "%61egis")),
        ),
        bad(
            "htu-percent-slash",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("Service/", "Service%2F")),
        ),
        bad(
            "htu-backslash",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("Service/", "Service\\")),
        ),
        bad(
            "htu-other-port",
            "DP-4",
            ProofUrl,
            htu(|url| with_port(url, ":1")),
        ),
        bad(
            "htu-without-port",
            "DP-4",
            ProofUrl,
            htu(|url| with_port(url, "")),
        ),
        bad(
            "htu-port-empty",
            "DP-4",
            ProofUrl,
            htu(|url| with_port(url, ":")),
        ),
        bad(
            "htu-port-with-sign",
            "DP-4",
            ProofUrl,
            htu(|url| url.replacen("1:", "1:+", 1)),
        ),
        bad(
            "htu-port-with-zero",
            "DP-4",
            ProofUrl,
            htu(|url| url.replacen("1:", "1:0", 1)),
        ),
        bad(
            "htu-port-too-large",
            "DP-4",
            ProofUrl,
            htu(|url| with_port(url, ":65536")),
        ),
        bad(
            "htu-port-huge",
            "DP-4",
            ProofUrl,
            htu(|url| with_port(url, &format!(":{}", "9".repeat(60)))),
        ),
        bad(
            "htu-port-a-word",
            "DP-4",
            ProofUrl,
            htu(|url| with_port(url, ":http")),
        ),
        bad(
            "htu-other-host",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("127.0.0.1", "127.0.0.2")),
        ),
        bad(
            "htu-other-name-of-the-host",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("127.0.0.1", "localhost")),
        ),
        bad(
            "htu-host-shortened",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("127.0.0.1", "127.1")),
        ),
        bad(
            "htu-host-as-number",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("127.0.0.1", "2130706433")),
        ),
        bad(
            "htu-host-version-6",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("127.0.0.1", "[::1]")),
        ),
        bad(
            "htu-host-with-dot",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("127.0.0.1", "127.0.0.1.")),
        ),
        bad(
            "htu-host-empty",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("127.0.0.1", "")),
        ),
        bad(
            "htu-host-longer",
            "DP-4",
            ProofUrl,
            host("aegis.example", "http://aegis.example.evil{}"),
        ),
        bad(
            "htu-host-not-ascii",
            "DP-4",
            ProofUrl,
            host("aegis.example", "http://\u{430}egis.example{}"),
        ),
        bad(
            "htu-default-port-of-https",
            "DP-4",
            ProofUrl,
            host("aegis.example", "http://aegis.example:443{}"),
        ),
        bad(
            "htu-user",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("//", "//user@")),
        ),
        bad(
            "htu-user-and-password",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("//", "//user:password@")),
        ),
        bad(
            "htu-https",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("http:", "https:")),
        ),
        bad(
            "htu-https-of-default-port",
            "DP-4",
            ProofUrl,
            host("aegis.example", "https://aegis.example{}"),
        ),
        bad(
            "htu-other-scheme",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("http:", "ws:")),
        ),
        bad(
            "htu-without-scheme",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("http:", "")),
        ),
        bad(
            "htu-one-slash",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("http://", "http:/")),
        ),
        bad(
            "htu-space-behind",
            "DP-4",
            ProofUrl,
            htu(|url| format!("{url} ")),
        ),
        bad(
            "htu-space-before",
            "DP-4",
            ProofUrl,
            htu(|url| format!(" {url}")),
        ),
        bad(
            "htu-line-feed-inside",
            "DP-4",
            ProofUrl,
            htu(|url| url.replace("/aegis", "/\naegis")),
        ),
        bad(
            "htu-two",
            "DP-4",
            ProofUrl,
            htu(|url| format!("{url} {url}")),
        ),
    ]
}

pub(super) fn identifiers_and_times() -> Vec<Row> {
    use Check::{ProofId, ProofIssuedAt};
    vec![
        bad("jti-missing", "DP-2", ProofId, no_claim("jti")),
        bad("jti-null", "DP-2", ProofId, claim("jti", Value::Null)),
        bad("jti-empty", "DP-2", ProofId, claim("jti", json!(""))),
        bad("jti-number", "DP-2", ProofId, claim("jti", json!(1))),
        bad("jti-true", "DP-2", ProofId, claim("jti", json!(true))),
        bad("jti-list", "DP-2", ProofId, claim("jti", json!(["a"]))),
        bad("jti-object", "DP-2", ProofId, claim("jti", json!({}))),
        bad(
            "jti-of-257",
            "LM",
            ProofId,
            claim("jti", json!("j".repeat(257))),
        ),
        bad(
            "jti-of-4000",
            "LM",
            ProofId,
            claim("jti", json!("j".repeat(4000))),
        ),
        bad(
            "jti-with-line-feed",
            "DP-2",
            ProofId,
            claim("jti", json!("a\nb")),
        ),
        bad("jti-with-nul", "DP-2", ProofId, claim("jti", json!("a\0"))),
        bad(
            "jti-with-delete",
            "DP-2",
            ProofId,
            claim("jti", json!("a\u{7f}")),
        ),
        bad(
            "jti-with-c1",
            "DP-2",
            ProofId,
            claim("jti", json!("a\u{9b}")),
        ),
        bad("iat-missing", "DP-2", ProofIssuedAt, no_claim("iat")),
        bad("iat-null", "DP-2", ProofIssuedAt, claim("iat", Value::Null)),
        bad(
            "iat-text",
            "DP-2",
            ProofIssuedAt,
            with(|draft| draft.payload["iat"] = json!(now().to_string())),
        ),
        bad(
            "iat-empty-text",
            "DP-2",
            ProofIssuedAt,
            claim("iat", json!("")),
        ),
        bad(
            "iat-date",
            "DP-2",
            ProofIssuedAt,
            claim("iat", json!("2026-11-22T10:00:12Z")),
        ),
        bad("iat-true", "DP-2", ProofIssuedAt, claim("iat", json!(true))),
        bad(
            "iat-list",
            "DP-2",
            ProofIssuedAt,
            with(|draft| draft.payload["iat"] = json!([now()])),
        ),
        bad("iat-object", "DP-2", ProofIssuedAt, claim("iat", json!({}))),
        bad(
            "iat-fraction",
            "DP-5",
            ProofIssuedAt,
            with(|draft| {
                let iat = format!("{}.5", now());
                draft.payload["iat"] = serde_json::from_str(&iat).unwrap();
            }),
        ),
        bad(
            "iat-exponent",
            "DP-5",
            ProofIssuedAt,
            raw_claim("iat", "1.7e9"),
        ),
        bad("iat-61-s-ago", "DP-5", ProofIssuedAt, iat(-61)),
        // A second or two may pass on the way, and make it better.
        bad("iat-in-20-s", "DP-5", ProofIssuedAt, iat(20)),
        bad("iat-an-hour-ago", "DP-5", ProofIssuedAt, iat(-3600)),
        bad("iat-in-an-hour", "DP-5", ProofIssuedAt, iat(3600)),
        bad("iat-in-a-year", "DP-5", ProofIssuedAt, iat(31_536_000)),
        bad("iat-zero", "DP-5", ProofIssuedAt, claim("iat", json!(0))),
        bad(
            "iat-minus-zero",
            "DP-5",
            ProofIssuedAt,
            raw_claim("iat", "-0"),
        ),
        bad(
            "iat-minus-one",
            "DP-5",
            ProofIssuedAt,
            claim("iat", json!(-1)),
        ),
        bad(
            "iat-negated",
            "DP-5",
            ProofIssuedAt,
            with(|draft| {
                draft.payload["iat"] = json!(-i64::try_from(now()).unwrap());
            }),
        ),
        bad(
            "iat-least",
            "DP-5",
            ProofIssuedAt,
            claim("iat", json!(i64::MIN)),
        ),
        bad(
            "iat-least-and-one",
            "DP-5",
            ProofIssuedAt,
            claim("iat", json!(i64::MIN + 1)),
        ),
        bad(
            "iat-greatest",
            "DP-5",
            ProofIssuedAt,
            claim("iat", json!(i64::MAX)),
        ),
        bad(
            "iat-greatest-unsigned",
            "DP-5",
            ProofIssuedAt,
            claim("iat", json!(u64::MAX)),
        ),
        bad(
            "iat-beyond-signed",
            "DP-5",
            ProofIssuedAt,
            claim("iat", json!(1_u64 << 63)),
        ),
        bad(
            "iat-beyond-unsigned",
            "DP-5",
            ProofIssuedAt,
            raw_claim("iat", "18446744073709551616"),
        ),
        bad(
            "iat-wrapped-around",
            "DP-5",
            ProofIssuedAt,
            with(|draft| {
                // What 64 bits make of it is now.
                let iat = u128::from(now()) + (1_u128 << 64);
                draft.payload.as_object_mut().unwrap().remove("iat");
                draft.payload_bytes =
                    Some(before(&draft.payload, "iat", &iat.to_string()).into_bytes());
            }),
        ),
        bad(
            "iat-of-99-digits",
            "DP-5",
            ProofIssuedAt,
            raw_claim(
                "iat",
                "999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999",
            ),
        ),
        bad(
            "iat-1e300",
            "DP-5",
            ProofIssuedAt,
            raw_claim("iat", "1e300"),
        ),
        bad(
            "iat-in-milliseconds",
            "DP-5",
            ProofIssuedAt,
            with(|draft| draft.payload["iat"] = json!(now() * 1000)),
        ),
        bad(
            "iat-in-nanoseconds",
            "DP-5",
            ProofIssuedAt,
            with(|draft| draft.payload["iat"] = json!(now() * 1_000_000_000)),
        ),
    ]
}

pub(super) fn token_hashes_and_nonces() -> Vec<Row> {
    use Check::{NonceCurrent, NoncePresent, ProofNonce, ProofNonceField, ProofTokenHash};
    vec![
        bad("ath-missing", "DP-6", ProofTokenHash, no_claim("ath")).with_token(),
        bad(
            "ath-null",
            "DP-6",
            ProofTokenHash,
            claim("ath", Value::Null),
        ),
        bad("ath-empty", "DP-6", ProofTokenHash, claim("ath", json!(""))),
        bad("ath-number", "DP-6", ProofTokenHash, claim("ath", json!(1))),
        bad("ath-list", "DP-6", ProofTokenHash, claim("ath", json!([]))),
        bad(
            "ath-of-no-token",
            "RFC 9449 4.3(12)",
            ProofTokenHash,
            ath(|_| sha256(b"")),
        ),
        bad(
            "ath-of-another-token",
            "RFC 9449 4.3(12)",
            ProofTokenHash,
            with(|draft| {
                draft.payload["ath"] = json!(sha256(draft.scene.expired_token.as_bytes()));
            }),
        ),
        bad(
            "ath-where-no-token-is",
            "RFC 9449 4.3(12)",
            ProofTokenHash,
            ath(|token| sha256(token.as_bytes())),
        )
        .without_token(),
        bad(
            "ath-of-scheme-and-token",
            "DP-6",
            ProofTokenHash,
            ath(|token| sha256(format!("DPoP {token}").as_bytes())),
        ),
        bad(
            "ath-of-token-cut",
            "DP-6",
            ProofTokenHash,
            ath(|token| sha256(&token.as_bytes()[1..])),
        ),
        bad(
            "ath-padded",
            "RFC 9449 4.2",
            ProofTokenHash,
            ath(|token| format!("{}=", sha256(token.as_bytes()))),
        ),
        bad(
            "ath-cut",
            "RFC 9449 4.2",
            ProofTokenHash,
            ath(|token| sha256(token.as_bytes())[..42].to_owned()),
        ),
        bad(
            "ath-other-case",
            "RFC 9449 4.2",
            ProofTokenHash,
            ath(|token| sha256(token.as_bytes()).to_uppercase()),
        ),
        bad(
            "ath-hexadecimal",
            "RFC 9449 4.2",
            ProofTokenHash,
            ath(|token| {
                let bytes = decode(&sha256(token.as_bytes()));
                let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                digits.concat()
            }),
        ),
        bad(
            "ath-twice-hashed",
            "RFC 9449 4.2",
            ProofTokenHash,
            ath(|token| sha256(&decode(&sha256(token.as_bytes())))),
        ),
        bad(
            "ath-the-token-itself",
            "RFC 9449 4.2",
            ProofTokenHash,
            ath(str::to_owned),
        ),
        bad(
            "nonce-null",
            "DP-8",
            ProofNonce,
            claim("nonce", Value::Null),
        ),
        bad("nonce-number", "DP-8", ProofNonce, claim("nonce", json!(1))),
        bad(
            "nonce-true",
            "DP-8",
            ProofNonce,
            claim("nonce", json!(true)),
        ),
        bad(
            "nonce-list",
            "DP-8",
            ProofNonce,
            with(|draft| draft.payload["nonce"] = json!([draft.scene.nonce])),
        ),
        bad(
            "nonce-object",
            "DP-8",
            ProofNonce,
            claim("nonce", json!({})),
        ),
        bad(
            "nonce-missing",
            "RFC 9449 11.3",
            NoncePresent,
            no_claim("nonce"),
        )
        .with_token()
        .under(NonceRule::Required),
        bad(
            "nonce-empty",
            "DP-8",
            NonceCurrent,
            claim("nonce", json!("")),
        ),
        bad(
            "nonce-guessed",
            "DP-8",
            NonceCurrent,
            with(|draft| draft.payload["nonce"] = json!(random())),
        ),
        bad(
            "nonce-old",
            "DP-8",
            NonceCurrent,
            with(|draft| draft.payload["nonce"] = json!(draft.scene.old_nonce)),
        ),
        bad(
            "nonce-of-another-server",
            "DP-12",
            NonceCurrent,
            with(|draft| draft.payload["nonce"] = json!(draft.scene.foreign_nonce)),
        ),
        bad(
            "nonce-cut",
            "DP-8",
            NonceCurrent,
            with(|draft| draft.payload["nonce"] = json!(draft.scene.nonce[1..])),
        ),
        bad(
            "nonce-with-space",
            "DP-8",
            NonceCurrent,
            with(|draft| draft.payload["nonce"] = json!(format!("{} ", draft.scene.nonce))),
        ),
        bad(
            "nonce-twice-in-one",
            "DP-8",
            NonceCurrent,
            with(|draft| draft.payload["nonce"] = json!(draft.scene.nonce.repeat(2))),
        ),
        bad(
            "nonce-quoted",
            "DP-8",
            NonceCurrent,
            with(|draft| draft.payload["nonce"] = json!(format!("\"{}\"", draft.scene.nonce))),
        ),
        bad(
            "nonce-of-3000",
            "DP-8",
            NonceCurrent,
            claim("nonce", json!("n".repeat(3000))),
        ),
        bad(
            "nonce-field-differs",
            "DP-8",
            ProofNonceField,
            with(|draft| {
                draft.payload["nonce"] = json!(draft.scene.nonce);
                draft.members["nonce"] = json!("another");
            }),
        )
        .in_body(),
        bad(
            "nonce-field-alone",
            "DP-8",
            ProofNonceField,
            with(|draft| {
                if let Some(payload) = draft.payload.as_object_mut() {
                    payload.remove("nonce");
                }
                draft.members["nonce"] = json!(draft.scene.nonce);
            }),
        )
        .in_body(),
    ]
}

fn with_port(url: &str, port: &str) -> String {
    let (host, rest) = url.split_once("1:").unwrap();
    let (_, path) = rest.split_once('/').unwrap();
    format!("{host}1{port}/{path}")
}

fn ath(of: fn(&str) -> String) -> Forge {
    with(move |draft| draft.payload["ath"] = json!(of(&draft.scene.client.token)))
}
