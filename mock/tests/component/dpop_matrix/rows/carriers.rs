//! What is around a proof: how many there are, the token, the message.

use aegis_mock::Check;
use serde_json::{Value, json};

use super::{Forge, Row, authorization, bad, body, member, with};
use crate::client::base64url;
use crate::dpop_matrix::draft::{Carrier, Places, scheme};

pub(super) fn numbers_of_proofs() -> Vec<Row> {
    use Check::{ProofKind, ProofOneKind, ProofPlace, ProofPresent, Replay};
    vec![
        bad(
            "proof-nowhere",
            "DP-1",
            ProofPresent,
            places(Places::Nowhere),
        ),
        bad(
            "proof-null",
            "DP-1",
            ProofPresent,
            body(|text| only(text, "null")),
        )
        .in_body(),
        bad(
            "proof-without-jwt",
            "DP-1",
            ProofPresent,
            body(|text| only(text, r#"{"proofType":"dpop_jwt"}"#)),
        )
        .in_body(),
        bad(
            "proof-where-the-other-scheme-has-it",
            "DP-6",
            ProofPlace,
            places(Places::Crossed),
        )
        .with_token(),
        bad(
            "proof-the-same-in-both",
            "RFC 9449 4.3(1)",
            ProofPlace,
            places(Places::SameInBoth),
        ),
        bad(
            "proof-another-in-each",
            "RFC 9449 4.3(1)",
            ProofPlace,
            places(Places::OthersInBoth),
        ),
        bad(
            "proof-twice-in-headers",
            "RFC 9449 4.3(1)",
            ProofPlace,
            places(Places::SameTwiceInHeaders),
        ),
        bad(
            "proof-two-in-headers",
            "RFC 9449 4.3(1)",
            ProofPlace,
            places(Places::OthersInHeaders),
        ),
        bad(
            "proof-type-empty",
            "DP-1",
            ProofKind,
            member("proofType", json!("")),
        )
        .in_body(),
        bad(
            "proof-type-null",
            "DP-1",
            ProofKind,
            member("proofType", Value::Null),
        )
        .in_body(),
        bad(
            "proof-type-other-case",
            "DP-1",
            ProofKind,
            member("proofType", json!("DPOP_JWT")),
        )
        .in_body(),
        bad(
            "proof-type-unknown",
            "DP-1",
            ProofKind,
            member("proofType", json!("jwt")),
        )
        .in_body(),
        bad(
            "proof-type-mtls",
            "DP-1",
            ProofKind,
            member("proofType", json!("mtls")),
        )
        .in_body(),
        bad(
            "proof-empty-message",
            "DP-1",
            ProofKind,
            body(|text| only(text, "{}")),
        )
        .in_body(),
        bad(
            "proof-with-fingerprint",
            "DP-1",
            ProofOneKind,
            member("mtlsFingerprint", json!(base64url(&[1; 32]))),
        )
        .in_body(),
        bad(
            "proof-again-after-the-body",
            "DP-7",
            Replay,
            again_after(Carrier::Body),
        ),
        bad(
            "proof-again-after-the-header",
            "DP-7",
            Replay,
            again_after(Carrier::Header),
        ),
    ]
}

pub(super) fn tokens() -> Vec<Row> {
    use Check::{SessionAlive, TokenAlive, TokenForm, TokenPresent};
    let rows = vec![
        bad(
            "token-missing",
            "DP-10",
            TokenPresent,
            authorization(|_, _| vec![]),
        ),
        bad(
            "token-scheme-basic",
            "RFC 9449 7.1",
            TokenForm,
            authorization(|_, token| vec![format!("Basic {token}")]),
        ),
        bad(
            "token-scheme-unknown",
            "RFC 9449 7.1",
            TokenForm,
            authorization(|scheme, token| vec![format!("{scheme}s {token}")]),
        ),
        bad(
            "token-without-scheme",
            "RFC 9449 7.1",
            TokenForm,
            authorization(|_, token| vec![token.to_owned()]),
        ),
        bad(
            "token-scheme-alone",
            "RFC 9449 7.1",
            TokenForm,
            authorization(|scheme, _| vec![scheme.to_owned()]),
        ),
        bad(
            "token-header-empty",
            "RFC 9449 7.1",
            TokenForm,
            authorization(|_, _| vec![String::new()]),
        ),
        bad(
            "token-behind-two-spaces",
            "RFC 9110 11.4",
            TokenForm,
            authorization(|scheme, token| vec![format!("{scheme}  {token}")]),
        ),
        bad(
            "token-behind-a-tab",
            "RFC 9110 11.4",
            TokenForm,
            authorization(|scheme, token| vec![format!("{scheme}\t{token}")]),
        ),
        bad(
            "token-with-more-behind",
            "RFC 9110 11.4",
            TokenForm,
            authorization(|scheme, token| vec![format!("{scheme} {token} x")]),
        ),
        bad(
            "token-twice-in-one",
            "RFC 9110 11.6.2",
            TokenForm,
            authorization(|scheme, token| vec![format!("{scheme} {token}, {scheme} {token}")]),
        ),
        bad(
            "token-twice",
            "RFC 9110 5.3",
            TokenForm,
            authorization(|scheme, token| {
                let value = format!("{scheme} {token}");
                vec![value.clone(), value]
            }),
        ),
        bad(
            "token-of-17-kib",
            "LM",
            TokenForm,
            authorization(|scheme, _| vec![format!("{scheme} {}", "t".repeat(17 * 1024))]),
        ),
        bad(
            "token-expired",
            "DP-6",
            TokenAlive,
            Box::new(|draft, carrier| {
                draft.use_token(&draft.scene.expired_token, scheme(carrier));
            }),
        ),
        bad(
            "token-of-ended-session",
            "DP-6",
            SessionAlive,
            Box::new(|draft, carrier| {
                draft.use_token(&draft.scene.token_of_ended_session, scheme(carrier));
            }),
        ),
    ];
    rows.into_iter().map(Row::with_token).collect()
}

pub(super) fn bodies() -> Vec<Row> {
    use Check::Body;
    let rows = vec![
        bad(
            "body-proof-in-both-spellings",
            "CN-5",
            Body,
            body(|text| with_more(text, "request_proof", "null")),
        ),
        bad(
            "body-proof-twice",
            "CN-5",
            Body,
            body(|text| with_more(text, "requestProof", "null")),
        ),
        bad(
            "body-jwt-twice",
            "CN-5",
            Body,
            body(|text| text.replace("\"requestProof\":{", "\"requestProof\":{\"dpopJwt\":\"\",")),
        ),
        bad(
            "body-jwt-in-both-spellings",
            "CN-5",
            Body,
            body(|text| text.replace("\"requestProof\":{", "\"requestProof\":{\"dpop_jwt\":\"\",")),
        ),
        bad(
            "body-jwt-in-another-case",
            "CN-5",
            Body,
            body(|text| text.replace("dpopJwt", "DpopJwt")),
        ),
        bad(
            "body-proof-of-unknown-member",
            "CN-5",
            Body,
            member("jwt", json!("")),
        ),
        bad(
            "body-proof-text",
            "DP-1",
            Body,
            body(|text| only(text, "\"proof\"")),
        ),
        bad(
            "body-proof-list",
            "DP-1",
            Body,
            body(|text| {
                let message: Value = serde_json::from_str(text).unwrap();
                only(text, &json!([message["requestProof"]]).to_string())
            }),
        ),
        bad("body-jwt-number", "DP-1", Body, member("dpopJwt", json!(1))),
        bad(
            "body-jwt-list",
            "DP-1",
            Body,
            body(|text| {
                let message: Value = serde_json::from_str(text).unwrap();
                let jwt = &message["requestProof"]["dpopJwt"];
                only(
                    text,
                    &json!({"proofType": "dpop_jwt", "dpopJwt": [jwt, jwt]}).to_string(),
                )
            }),
        ),
        bad("body-nonce-number", "DP-8", Body, member("nonce", json!(1))),
    ];
    rows.into_iter().map(Row::in_body).collect()
}

fn places(places: Places) -> Forge {
    with(move |draft| draft.places = places)
}

/// The proof has been accepted once.
fn again_after(first: Carrier) -> Forge {
    with(move |draft| draft.first = Some(first))
}

/// The body with another value for the proof.
fn only(text: &str, proof: &str) -> String {
    let mut message: Value = serde_json::from_str(text).unwrap();
    message["requestProof"] = serde_json::from_str(proof).unwrap();
    message.to_string()
}

fn with_more(text: &str, name: &str, value: &str) -> String {
    text.replacen('{', &format!("{{\"{name}\":{value},"), 1)
}
