//! Proofs that are good, up to their limits.

use serde_json::json;

use super::encoding::sized;
use super::{
    Forge, Row, authorization, body, claim, good, head, header, host, htu, iat, jwk, no_head,
    payload, with,
};
use crate::client::random;
use crate::dpop_matrix::scene::NonceRule;

pub(super) fn good_ones() -> Vec<Row> {
    vec![
        good("good", "RFC 9449 4.2", with(|_| {})),
        good("good-proof-as-large-as-it-gets", "LM", sized(8192, false)),
        good("good-iat-in-10-s", "DP-5", iat(10)),
        // A busy machine may take some of the sixty.
        good("good-iat-45-s-ago", "DP-5", iat(-45)),
        good(
            "good-jti-of-256",
            "LM",
            with(|draft| {
                let jti = random();
                draft.payload["jti"] = json!(format!("{jti}{}", "j".repeat(256 - jti.len())));
            }),
        ),
        good(
            "good-jti-of-256-wide-letters",
            "LM",
            with(|draft| {
                let jti = random();
                draft.payload["jti"] =
                    json!(format!("{jti}{}", "\u{20ac}".repeat(256 - jti.len())));
            }),
        ),
        good(
            "good-jti-of-one",
            "LM",
            with(|draft| {
                // One of 20,000: it is never the same twice in a run.
                let letter = char::from_u32(0x4e00 + draft.scene.next_number()).unwrap();
                draft.payload["jti"] = json!(letter);
            }),
        ),
        good("good-kid-missing", "DP-6", no_head("kid")),
        good(
            "good-unknown-claim",
            "RFC 9449 4.2",
            claim("foo", json!({"bar": [1, null]})),
        ),
        good("good-expired-claim", "RFC 9449 4.2", claim("exp", json!(1))),
        good(
            "good-unknown-header",
            "RFC 7515 4",
            head("foo", json!("bar")),
        ),
        good(
            "good-jku-not-followed",
            "RFC 9449 4.2",
            head("jku", json!("http://127.0.0.1:9/jwks.json")),
        ),
        good(
            "good-x5u-not-followed",
            "RFC 9449 4.2",
            head("x5u", json!("http://127.0.0.1:9/certificate.pem")),
        ),
        good(
            "good-jwk-with-use",
            "RFC 7517 4.2",
            jwk("use", json!("sig")),
        ),
        good(
            "good-jwk-with-its-own-names",
            "RFC 7517 4",
            with(|draft| {
                draft.header["jwk"]["kid"] = json!("any");
                draft.header["jwk"]["alg"] = json!("ES256");
                draft.header["jwk"]["key_ops"] = json!(["verify"]);
            }),
        ),
        good(
            "good-spaces-in-json",
            "RFC 8259 2",
            payload(|text| {
                text.replace(':', " : ")
                    .replace("http : ", "http:")
                    .replace("1 : ", "1:")
            }),
        ),
        good(
            "good-line-feeds-around-json",
            "RFC 8259 2",
            header(|text| format!("\r\n{text}\n\t ")),
        ),
        good(
            "good-escapes-in-names",
            "RFC 8259 7",
            payload(|text| text.replace("\"htm\"", "\"\\u0068tm\"")),
        ),
        good(
            "good-escapes-in-values",
            "RFC 8259 7",
            payload(|text| text.replace("\"POST\"", "\"\\u0050OST\"")),
        ),
        good(
            "good-slashes-escaped",
            "RFC 8259 7",
            payload(|text| text.replace('/', "\\/")),
        ),
        good(
            "good-name-again-in-another-object",
            "RFC 8259 4",
            claim("x", json!({"htm": "GET", "jti": "a"})),
        ),
        good(
            "good-htu-query",
            "RFC 9449 4.3(9)",
            htu(|url| format!("{url}?a=b")),
        ),
        good(
            "good-htu-empty-query",
            "RFC 9449 4.3(9)",
            htu(|url| format!("{url}?")),
        ),
        good(
            "good-htu-fragment",
            "RFC 9449 4.3(9)",
            htu(|url| format!("{url}#a")),
        ),
        good(
            "good-htu-query-and-fragment",
            "RFC 9449 4.3(9)",
            htu(|url| format!("{url}?a=b/c?d#e?f")),
        ),
        good(
            "good-htu-scheme-upper-case",
            "RFC 9449 4.3(9)",
            htu(|url| url.replace("http:", "HTTP:")),
        ),
        good(
            "good-htu-default-port-named",
            "RFC 9449 4.3(9)",
            host("aegis.example", "http://aegis.example:80{}"),
        ),
        good(
            "good-htu-default-port-left-out",
            "RFC 9449 4.3(9)",
            host("aegis.example:80", "http://aegis.example{}"),
        ),
        good(
            "good-htu-host-upper-case",
            "RFC 9449 4.3(9)",
            host("aegis.example", "http://AEGIS.Example{}"),
        ),
        good(
            "good-called-host-upper-case",
            "RFC 9449 4.3(9)",
            host("Aegis.Example", "http://aegis.example{}"),
        ),
        good(
            "good-htu-version-6",
            "RFC 9449 4.3(9)",
            host("[::1]:7460", "http://[::1]:7460{}"),
        ),
        good(
            "good-nonce",
            "DP-8",
            with(|draft| draft.payload["nonce"] = json!(draft.scene.nonce)),
        ),
        good(
            "good-nonce-missing-without-token",
            "DP-8",
            with(|draft| {
                draft.payload.as_object_mut().unwrap().remove("nonce");
            }),
        )
        .without_token(),
        good("good-nonce-missing-where-optional", "DP-8", no_nonce()).under(NonceRule::Optional),
        good(
            "good-nonce-field",
            "DP-8",
            with(|draft| {
                draft.payload["nonce"] = json!(draft.scene.nonce);
                draft.members["nonce"] = json!(draft.scene.nonce);
            }),
        )
        .in_body(),
        good(
            "good-snake-case",
            "CN-5",
            body(|text| {
                text.replace("requestProof", "request_proof")
                    .replace("dpopJwt", "dpop_jwt")
                    .replace("proofType", "proof_type")
            }),
        )
        .in_body(),
        good(
            "good-scheme-lower-case",
            "RFC 9110 11.1",
            authorization(|scheme, token| vec![format!("{} {token}", scheme.to_lowercase())]),
        )
        .with_token(),
        good(
            "good-scheme-upper-case",
            "RFC 9110 11.1",
            authorization(|scheme, token| vec![format!("{} {token}", scheme.to_uppercase())]),
        )
        .with_token(),
    ]
}

fn no_nonce() -> Forge {
    with(|draft| {
        draft.payload.as_object_mut().unwrap().remove("nonce");
    })
}
