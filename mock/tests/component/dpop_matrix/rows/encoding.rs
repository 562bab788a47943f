//! How a proof is written down: the JWS and the two documents in it.

use aegis_mock::Check;
use serde_json::json;

use super::{
    Forge, Row, bad, before, claim, claim_twice, header, jws, parts, payload, raw_claim, remove,
    with,
};
use crate::dpop_matrix::scene::NonceRule;

pub(super) fn syntax() -> Vec<Row> {
    use Check::{ProofEncoding, ProofForm, ProofJson, ProofPresent, ProofSize};
    vec![
        bad(
            "jws-empty-member",
            "RFC 9449 4.3(1)",
            ProofPresent,
            jws(|_| String::new()),
        )
        .in_body(),
        bad(
            "jws-empty-header",
            "RFC 9449 4.3(2)",
            ProofForm,
            jws(|_| String::new()),
        )
        .in_header(),
        bad(
            "jws-one-word",
            "DP-1",
            ProofForm,
            jws(|_| "proof".to_owned()),
        ),
        bad(
            "jws-without-dots",
            "RFC 7515 3.1",
            ProofForm,
            jws(|jws| jws.replace('.', "")),
        ),
        bad(
            "jws-header-alone",
            "RFC 7515 3.1",
            ProofForm,
            parts(|[header, ..]| header.to_owned()),
        ),
        bad(
            "jws-two-parts",
            "RFC 7515 3.1",
            ProofForm,
            parts(|[header, payload, _]| format!("{header}.{payload}")),
        ),
        bad(
            "jws-four-parts",
            "RFC 7515 3.1",
            ProofForm,
            jws(|jws| format!("{jws}.x")),
        ),
        bad(
            "jws-trailing-dot",
            "RFC 7515 3.1",
            ProofForm,
            jws(|jws| format!("{jws}.")),
        ),
        bad(
            "jws-leading-dot",
            "RFC 7515 3.1",
            ProofForm,
            jws(|jws| format!(".{jws}")),
        ),
        bad(
            "jws-doubled-dot",
            "RFC 7515 3.1",
            ProofForm,
            parts(|[header, payload, signature]| format!("{header}..{payload}.{signature}")),
        ),
        bad(
            "jwe-five-parts",
            "RFC 7516 3.1",
            ProofForm,
            jws(|jws| format!("{jws}.AAAA.AAAA")),
        ),
        bad(
            "jws-comma-jws",
            "RFC 9449 4.3(1)",
            ProofForm,
            jws(|jws| format!("{jws}, {jws}")),
        ),
        bad(
            "jws-space-jws",
            "RFC 9449 4.3(1)",
            ProofForm,
            jws(|jws| format!("{jws} {jws}")),
        ),
        bad(
            "jws-as-json",
            "RFC 7515 3.2",
            ProofForm,
            parts(|[header, payload, signature]| {
                json!({"payload": payload, "protected": header, "signature": signature}).to_string()
            }),
        ),
        bad(
            "jws-dots-alone",
            "RFC 7515 3.1",
            ProofJson,
            jws(|_| "..".to_owned()),
        ),
        bad(
            "jws-detached-payload",
            "RFC 7515 F",
            ProofJson,
            parts(|[header, _, signature]| format!("{header}..{signature}")),
        ),
        bad(
            "jws-without-header",
            "RFC 7515 3.1",
            ProofJson,
            parts(|[_, payload, signature]| format!(".{payload}.{signature}")),
        ),
        bad(
            "jws-behind-a-scheme",
            "DP-1",
            ProofEncoding,
            jws(|jws| format!("DPoP {jws}")),
        ),
        bad(
            "jws-quoted",
            "DP-1",
            ProofEncoding,
            jws(|jws| format!("\"{jws}\"")),
        ),
        bad(
            "header-padded",
            "RFC 7515 2",
            ProofEncoding,
            parts(|[header, payload, signature]| format!("{header}=.{payload}.{signature}")),
        ),
        bad(
            "payload-padded",
            "RFC 7515 2",
            ProofEncoding,
            parts(|[header, payload, signature]| format!("{header}.{payload}==.{signature}")),
        ),
        bad(
            "signature-padded",
            "RFC 7515 2",
            ProofEncoding,
            jws(|jws| format!("{jws}==")),
        ),
        bad(
            "signature-overpadded",
            "RFC 7515 2",
            ProofEncoding,
            jws(|jws| format!("{jws}====")),
        ),
        bad(
            "signature-stray-bits",
            "RFC 4648 3.5",
            ProofEncoding,
            jws(stray_bits),
        ),
        bad(
            "signature-one-letter-more",
            "RFC 4648 3.1",
            ProofEncoding,
            jws(|jws| format!("{jws}AAA")),
        ),
        bad(
            "header-one-letter",
            "RFC 4648 3.1",
            ProofEncoding,
            parts(|[_, payload, signature]| format!("A.{payload}.{signature}")),
        ),
        bad(
            "signature-standard-plus",
            "RFC 4648 5",
            ProofEncoding,
            parts(|[header, payload, signature]| {
                format!("{header}.{payload}.+{}", &signature[1..])
            }),
        ),
        bad(
            "signature-standard-slash",
            "RFC 4648 5",
            ProofEncoding,
            parts(|[header, payload, signature]| {
                format!("{header}.{payload}./{}", &signature[1..])
            }),
        ),
        bad(
            "payload-standard-plus",
            "RFC 4648 5",
            ProofEncoding,
            parts(|[header, payload, signature]| {
                format!("{header}.+{}.{signature}", &payload[1..])
            }),
        ),
        bad(
            "header-with-space",
            "RFC 4648 3.3",
            ProofEncoding,
            parts(|[header, payload, signature]| {
                format!("{} {}.{payload}.{signature}", &header[..4], &header[4..])
            }),
        ),
        bad(
            "payload-with-tab",
            "RFC 4648 3.3",
            ProofEncoding,
            parts(|[header, payload, signature]| {
                format!("{header}.{}\t{}.{signature}", &payload[..4], &payload[4..])
            }),
        ),
        bad(
            "payload-with-percent",
            "RFC 4648 5",
            ProofEncoding,
            parts(|[header, payload, signature]| {
                format!("{header}.%65{}.{signature}", &payload[1..])
            }),
        ),
        bad(
            "signature-with-tilde",
            "RFC 4648 5",
            ProofEncoding,
            jws(|jws| format!("{jws}~")),
        ),
        bad(
            "jws-leading-space",
            "RFC 4648 3.3",
            ProofEncoding,
            jws(|jws| format!(" {jws}")),
        )
        .in_body(),
        bad(
            "jws-trailing-space",
            "RFC 4648 3.3",
            ProofEncoding,
            jws(|jws| format!("{jws} ")),
        )
        .in_body(),
        bad(
            "jws-trailing-line-feed",
            "RFC 4648 3.1",
            ProofEncoding,
            jws(|jws| format!("{jws}\n")),
        )
        .in_body(),
        bad(
            "jws-wrapped",
            "RFC 4648 3.1",
            ProofEncoding,
            parts(|[header, payload, signature]| {
                format!(
                    "{header}.{}\r\n{}.{signature}",
                    &payload[..8],
                    &payload[8..]
                )
            }),
        )
        .in_body(),
        bad(
            "payload-with-nul",
            "RFC 4648 5",
            ProofEncoding,
            parts(|[header, payload, signature]| format!("{header}.{payload}\0.{signature}")),
        )
        .in_body(),
        bad(
            "payload-not-ascii",
            "RFC 4648 5",
            ProofEncoding,
            parts(|[header, payload, signature]| format!("{header}.{payload}\u{e9}.{signature}")),
        )
        .in_body(),
        bad(
            "proof-a-step-beyond-8-kib",
            "LM",
            ProofSize,
            sized(8192, true),
        ),
        bad(
            "proof-of-20-kib",
            "LM",
            ProofSize,
            claim("pad", json!("x".repeat(15_000))),
        ),
    ]
}

pub(super) fn documents() -> Vec<Row> {
    use Check::{ProofDuplicate, ProofJson};
    vec![
        bad(
            "header-no-json",
            "RFC 7515 5.2",
            ProofJson,
            header(|_| "typ".to_owned()),
        ),
        bad(
            "header-empty",
            "RFC 7515 5.2",
            ProofJson,
            header(|_| String::new()),
        ),
        bad(
            "header-list",
            "RFC 7515 4",
            ProofJson,
            header(|text| format!("[{text}]")),
        ),
        bad(
            "header-text",
            "RFC 7515 4",
            ProofJson,
            header(|_| "\"ES256\"".to_owned()),
        ),
        bad(
            "header-null",
            "RFC 7515 4",
            ProofJson,
            header(|_| "null".to_owned()),
        ),
        bad(
            "header-cut",
            "RFC 7515 5.2",
            ProofJson,
            header(|text| text[..text.len() - 1].to_owned()),
        ),
        bad(
            "header-with-more-behind",
            "RFC 8259 2",
            ProofJson,
            header(|text| format!("{text}{{}}")),
        ),
        bad(
            "header-with-comment",
            "RFC 8259 2",
            ProofJson,
            header(|text| format!("/**/{text}")),
        ),
        bad(
            "payload-no-json",
            "RFC 7519 7.2",
            ProofJson,
            payload(|_| "jti".to_owned()),
        ),
        bad(
            "payload-empty",
            "RFC 7519 7.2",
            ProofJson,
            payload(|_| String::new()),
        ),
        bad(
            "payload-list",
            "RFC 7519 7.2",
            ProofJson,
            payload(|text| format!("[{text}]")),
        ),
        bad(
            "payload-text",
            "RFC 7519 7.2",
            ProofJson,
            payload(|_| "\"jti\"".to_owned()),
        ),
        bad(
            "payload-number",
            "RFC 7519 7.2",
            ProofJson,
            payload(|_| "1".to_owned()),
        ),
        bad(
            "payload-null",
            "RFC 7519 7.2",
            ProofJson,
            payload(|_| "null".to_owned()),
        ),
        bad(
            "payload-cut",
            "RFC 7519 7.2",
            ProofJson,
            payload(|text| text[..text.len() - 1].to_owned()),
        ),
        bad(
            "payload-with-more-behind",
            "RFC 8259 2",
            ProofJson,
            payload(|text| format!("{text} {{}}")),
        ),
        bad(
            "payload-with-letter-behind",
            "RFC 8259 2",
            ProofJson,
            payload(|text| format!("{text}x")),
        ),
        bad(
            "payload-with-nul-behind",
            "RFC 8259 2",
            ProofJson,
            payload(|text| format!("{text}\0")),
        ),
        bad(
            "payload-with-trailing-comma",
            "RFC 8259 4",
            ProofJson,
            payload(|text| text.replace('}', ",}")),
        ),
        bad(
            "payload-in-single-quotes",
            "RFC 8259 7",
            ProofJson,
            payload(|text| text.replace('"', "'")),
        ),
        bad(
            "payload-with-mark-in-front",
            "RFC 8259 8.1",
            ProofJson,
            payload(|text| format!("\u{feff}{text}")),
        ),
        bad(
            "payload-not-utf-8",
            "RFC 8259 8.1",
            ProofJson,
            with(|draft| {
                let text = before(&draft.payload, "pad", "\"?\"").into_bytes();
                let text = text
                    .into_iter()
                    .map(|byte| if byte == b'?' { 0xff } else { byte });
                draft.payload_bytes = Some(text.collect());
            }),
        ),
        bad(
            "payload-lone-surrogate",
            "RFC 8259 8.2",
            ProofJson,
            raw_claim("jti", "\"\\ud800\""),
        ),
        bad(
            "payload-control-in-text",
            "RFC 8259 7",
            ProofJson,
            raw_claim("jti", "\"a\nb\""),
        ),
        bad(
            "payload-of-depth-70",
            "LM",
            ProofJson,
            with(|draft| {
                let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
                draft.payload_bytes = Some(before(&draft.payload, "pad", &deep).into_bytes());
            }),
        ),
        bad(
            "iat-not-a-number",
            "RFC 8259 6",
            ProofJson,
            raw_claim("iat", "NaN"),
        ),
        bad(
            "iat-infinite",
            "RFC 8259 6",
            ProofJson,
            raw_claim("iat", "Infinity"),
        ),
        bad(
            "iat-beyond-floats",
            "DP-5",
            ProofJson,
            raw_claim("iat", "1e400"),
        ),
        bad(
            "iat-hexadecimal",
            "RFC 8259 6",
            ProofJson,
            raw_claim("iat", "0x6b03"),
        ),
        bad(
            "iat-leading-zero",
            "RFC 8259 6",
            ProofJson,
            with(|draft| {
                let iat = format!("0{}", draft.payload["iat"]);
                remove(&mut draft.payload, "iat");
                draft.payload_bytes = Some(before(&draft.payload, "iat", &iat).into_bytes());
            }),
        ),
        bad(
            "iat-plus-sign",
            "RFC 8259 6",
            ProofJson,
            raw_claim("iat", "+1795341612"),
        ),
        bad(
            "jti-twice",
            "RFC 7519 4",
            ProofDuplicate,
            claim_twice("jti", "\"another\""),
        ),
        bad(
            "htm-twice",
            "RFC 7519 4",
            ProofDuplicate,
            claim_twice("htm", "\"GET\""),
        ),
        bad(
            "htu-twice",
            "RFC 7519 4",
            ProofDuplicate,
            claim_twice("htu", "\"http://127.0.0.1/\""),
        ),
        bad(
            "iat-twice",
            "RFC 7519 4",
            ProofDuplicate,
            claim_twice("iat", "0"),
        ),
        bad(
            "ath-twice",
            "RFC 7519 4",
            ProofDuplicate,
            claim_twice("ath", "\"\""),
        )
        .with_token(),
        bad(
            "nonce-twice",
            "RFC 7519 4",
            ProofDuplicate,
            claim_twice("nonce", "\"\""),
        )
        .under(NonceRule::Required),
        bad(
            "claim-twice-and-the-same",
            "RFC 7519 4",
            ProofDuplicate,
            payload(|text| text.replacen('{', "{\"htm\":\"POST\",", 1)),
        ),
        bad(
            "claim-twice-by-escape",
            "RFC 7519 4",
            ProofDuplicate,
            payload(|text| text.replacen('{', "{\"\\u0068tm\":\"POST\",", 1)),
        ),
        bad(
            "unknown-claim-twice",
            "RFC 7519 4",
            ProofDuplicate,
            payload(|text| text.replacen('{', "{\"x\":1,\"x\":1,", 1)),
        ),
        bad(
            "name-twice-in-depth",
            "RFC 7519 4",
            ProofDuplicate,
            payload(|text| text.replacen('{', "{\"x\":[{\"a\":1,\"a\":2}],", 1)),
        ),
        bad(
            "typ-twice",
            "RFC 7515 4",
            ProofDuplicate,
            header(|text| text.replacen('{', "{\"typ\":\"dpop+jwt\",", 1)),
        ),
        bad(
            "alg-twice",
            "RFC 7515 4",
            ProofDuplicate,
            header(|text| text.replacen('{', "{\"alg\":\"ES256\",", 1)),
        ),
        bad(
            "jwk-twice",
            "RFC 7515 4",
            ProofDuplicate,
            header(|text| {
                let (_, jwk) = text.split_once("\"jwk\":").unwrap();
                let (jwk, _) = jwk.split_once('}').unwrap();
                text.replacen('{', &format!("{{\"jwk\":{jwk}}},"), 1)
            }),
        ),
        bad(
            "jwk-crv-twice",
            "RFC 7517 4",
            ProofDuplicate,
            header(|text| text.replacen("\"jwk\":{", "\"jwk\":{\"crv\":\"P-256\",", 1)),
        ),
    ]
}

/// Pads the payload until the proof is as large as it gets below `limit`, or one step beyond.
pub(super) fn sized(limit: usize, beyond: bool) -> Forge {
    with(move |draft| {
        draft.payload["pad"] = json!("");
        // Four letters for three bytes: a little less than what is missing.
        let mut length = (limit - draft.seal().len()) * 3 / 4 - 4;
        let mut size = 0;
        while size <= limit {
            length += 1;
            draft.payload["pad"] = json!("x".repeat(length));
            size = draft.seal().len();
        }
        if !beyond {
            draft.payload["pad"] = json!("x".repeat(length - 1));
        }
    })
}

/// The letter after the last: of the 86 of a signature it carries four bits that mean nothing.
fn stray_bits(jws: &str) -> String {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = jws.split_at(jws.len() - 1);
    let at = letters.find(last).unwrap() + 1;
    format!("{rest}{}", &letters[at..=at])
}
