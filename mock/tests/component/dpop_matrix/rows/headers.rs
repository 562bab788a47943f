//! The header of a proof: its members, the key, and what the key signs.

use aegis_mock::Check;
use serde_json::{Value, json};

use super::{Forge, Row, bad, decode, head, jwk, jws, no_head, no_jwk, parts, remove, split, with};
use crate::client::{Key, base64url};
use crate::dpop_matrix::draft::Signer;

pub(super) fn headers() -> Vec<Row> {
    use Check::{ProofAlgorithm, ProofCritical, ProofKeyId, ProofKeyKind, ProofKeyName, ProofType};
    vec![
        bad("typ-missing", "DP-3", ProofType, no_head("typ")),
        bad("typ-null", "DP-3", ProofType, head("typ", Value::Null)),
        bad("typ-empty", "DP-3", ProofType, head("typ", json!(""))),
        bad("typ-jwt", "DP-3", ProofType, head("typ", json!("JWT"))),
        bad(
            "typ-access-token",
            "DP-3",
            ProofType,
            head("typ", json!("at+jwt")),
        ),
        bad(
            "typ-other-case",
            "DP-3",
            ProofType,
            head("typ", json!("DPoP+JWT")),
        ),
        bad(
            "typ-whole-media-type",
            "RFC 9449 4.2",
            ProofType,
            head("typ", json!("application/dpop+jwt")),
        ),
        bad(
            "typ-with-space",
            "DP-3",
            ProofType,
            head("typ", json!("dpop+jwt ")),
        ),
        bad(
            "typ-list",
            "DP-3",
            ProofType,
            head("typ", json!(["dpop+jwt"])),
        ),
        bad("typ-number", "DP-3", ProofType, head("typ", json!(1))),
        bad("alg-missing", "DP-3", ProofAlgorithm, no_head("alg")),
        bad("alg-null", "DP-3", ProofAlgorithm, head("alg", Value::Null)),
        bad("alg-empty", "DP-3", ProofAlgorithm, head("alg", json!(""))),
        bad(
            "alg-none",
            "RFC 9449 4.3(5)",
            ProofAlgorithm,
            head("alg", json!("none")),
        ),
        bad(
            "alg-none-other-case",
            "RFC 9449 11.6",
            ProofAlgorithm,
            head("alg", json!("nOnE")),
        ),
        bad(
            "alg-none-unsigned",
            "RFC 9449 4.3(5)",
            ProofAlgorithm,
            with(|draft| {
                draft.header["alg"] = json!("none");
                draft.spoil_parts(|[header, payload, _]| format!("{header}.{payload}."));
            }),
        ),
        bad(
            "alg-symmetric",
            "RFC 9449 4.3(5)",
            ProofAlgorithm,
            head("alg", json!("HS256")),
        ),
        bad(
            "alg-symmetric-by-public-key",
            "RFC 9449 11.6",
            ProofAlgorithm,
            signed_by(|| Signer::PublicKeyAsSecret, "HS256"),
        ),
        bad(
            "alg-rs256",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!("RS256")),
        ),
        bad(
            "alg-ps256",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!("PS256")),
        ),
        bad(
            "alg-es384",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!("ES384")),
        ),
        bad(
            "alg-es384-by-its-key",
            "DP-3",
            ProofAlgorithm,
            signed_by(|| Signer::Es384, "ES384"),
        ),
        bad(
            "alg-es512",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!("ES512")),
        ),
        bad(
            "alg-es256k",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!("ES256K")),
        ),
        bad(
            "alg-other-case",
            "RFC 7515 4.1.1",
            ProofAlgorithm,
            head("alg", json!("es256")),
        ),
        bad(
            "alg-with-space",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!("ES256 ")),
        ),
        bad(
            "alg-list",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!(["ES256"])),
        ),
        bad(
            "alg-number",
            "DP-3",
            ProofAlgorithm,
            head("alg", json!(256)),
        ),
        bad(
            "alg-of-another-kind-of-key",
            "RFC 8037 3.1",
            ProofKeyKind,
            head("alg", json!("EdDSA")),
        ),
        bad(
            "alg-es256-by-ed25519",
            "RFC 7518 3.4",
            ProofKeyKind,
            signed_by(|| Signer::Ed25519, "ES256"),
        ),
        bad(
            "crit-unknown",
            "RFC 7515 4.1.11",
            ProofCritical,
            head("crit", json!(["exp"])),
        ),
        bad(
            "crit-empty",
            "RFC 7515 4.1.11",
            ProofCritical,
            head("crit", json!([])),
        ),
        bad(
            "crit-null",
            "RFC 7515 4.1.11",
            ProofCritical,
            head("crit", Value::Null),
        ),
        bad(
            "crit-text",
            "RFC 7515 4.1.11",
            ProofCritical,
            head("crit", json!("b64")),
        ),
        bad(
            "crit-b64",
            "RFC 7797 7",
            ProofCritical,
            with(|draft| {
                draft.header["crit"] = json!(["b64"]);
                draft.header["b64"] = json!(false);
            }),
        ),
        bad(
            "b64-alone",
            "RFC 7797 7",
            ProofCritical,
            head("b64", json!(false)),
        ),
        bad(
            "kid-number",
            "RFC 7515 4.1.4",
            ProofKeyId,
            head("kid", json!(1)),
        ),
        bad(
            "kid-null",
            "RFC 7515 4.1.4",
            ProofKeyId,
            head("kid", Value::Null),
        ),
        bad(
            "kid-list",
            "RFC 7515 4.1.4",
            ProofKeyId,
            head("kid", json!(["pop"])),
        ),
        bad(
            "kid-object",
            "RFC 7515 4.1.4",
            ProofKeyId,
            head("kid", json!({})),
        ),
        bad(
            "kid-true",
            "RFC 7515 4.1.4",
            ProofKeyId,
            head("kid", json!(true)),
        ),
        bad(
            "kid-other",
            "DP-6",
            ProofKeyName,
            head("kid", json!("pop-other")),
        ),
        bad("kid-empty", "DP-6", ProofKeyName, head("kid", json!(""))),
        bad(
            "kid-other-case",
            "DP-6",
            ProofKeyName,
            with(|draft| {
                draft.header["kid"] = json!(draft.scene.client.key.id().to_uppercase());
            }),
        ),
        bad(
            "kid-thumbprint-alone",
            "DP-6",
            ProofKeyName,
            with(|draft| {
                draft.header["kid"] = json!(draft.scene.client.key.thumbprint());
            }),
        ),
        bad(
            "kid-path",
            "DP-6",
            ProofKeyName,
            head("kid", json!("../../dev/null")),
        ),
    ]
}

pub(super) fn keys() -> Vec<Row> {
    use Check::{ProofBinding, ProofKey, ProofPrivateKey};
    vec![
        bad("jwk-missing", "DP-3", ProofKey, no_head("jwk")),
        bad("jwk-null", "DP-3", ProofKey, head("jwk", Value::Null)),
        bad("jwk-text", "DP-3", ProofKey, head("jwk", json!("key"))),
        bad(
            "jwk-list",
            "DP-3",
            ProofKey,
            with(|draft| draft.header["jwk"] = json!([draft.header["jwk"]])),
        ),
        bad("jwk-empty", "DP-3", ProofKey, head("jwk", json!({}))),
        bad(
            "jwk-set",
            "DP-3",
            ProofKey,
            with(|draft| draft.header["jwk"] = json!({"keys": [draft.header["jwk"]]})),
        ),
        bad(
            "jku-in-place-of-jwk",
            "RFC 9449 4.2",
            ProofKey,
            with(|draft| {
                remove(&mut draft.header, "jwk");
                draft.header["jku"] = json!("http://127.0.0.1:9/jwks.json");
            }),
        ),
        bad(
            "x5u-in-place-of-jwk",
            "RFC 9449 4.2",
            ProofKey,
            with(|draft| {
                remove(&mut draft.header, "jwk");
                draft.header["x5u"] = json!("http://127.0.0.1:9/certificate.pem");
            }),
        ),
        bad(
            "x5c-in-place-of-jwk",
            "RFC 9449 4.2",
            ProofKey,
            with(|draft| {
                remove(&mut draft.header, "jwk");
                draft.header["x5c"] = json!(["AAAA"]);
            }),
        ),
        bad("jwk-kty-missing", "RFC 7517 4.1", ProofKey, no_jwk("kty")),
        bad(
            "jwk-kty-other-case",
            "RFC 7517 4.1",
            ProofKey,
            jwk("kty", json!("ec")),
        ),
        bad(
            "jwk-kty-okp",
            "RFC 7518 6.2",
            ProofKey,
            jwk("kty", json!("OKP")),
        ),
        bad(
            "jwk-kty-list",
            "RFC 7517 4.1",
            ProofKey,
            jwk("kty", json!(["EC"])),
        ),
        bad(
            "jwk-rsa",
            "DP-3",
            ProofKey,
            head(
                "jwk",
                json!({"kty": "RSA", "n": base64url(&[0x80; 256]), "e": "AQAB"}),
            ),
        ),
        bad(
            "jwk-crv-missing",
            "RFC 7518 6.2.1.1",
            ProofKey,
            no_jwk("crv"),
        ),
        bad(
            "jwk-crv-other-case",
            "RFC 7518 6.2.1.1",
            ProofKey,
            jwk("crv", json!("p-256")),
        ),
        bad(
            "jwk-crv-p-384",
            "RFC 7518 6.2.1.1",
            ProofKey,
            jwk("crv", json!("P-384")),
        ),
        bad(
            "jwk-crv-secp256k1",
            "RFC 7518 6.2.1.1",
            ProofKey,
            jwk("crv", json!("secp256k1")),
        ),
        bad(
            "jwk-crv-ed25519",
            "RFC 8037 2",
            ProofKey,
            jwk("crv", json!("Ed25519")),
        ),
        bad("jwk-x-missing", "RFC 7518 6.2.1.2", ProofKey, no_jwk("x")),
        bad(
            "jwk-x-number",
            "RFC 7518 6.2.1.2",
            ProofKey,
            jwk("x", json!(1)),
        ),
        bad(
            "jwk-x-empty",
            "RFC 7518 6.2.1.2",
            ProofKey,
            jwk("x", json!("")),
        ),
        bad(
            "jwk-x-of-31-bytes",
            "RFC 7518 6.2.1.2",
            ProofKey,
            coordinate("x", |bytes| base64url(&bytes[1..])),
        ),
        bad(
            "jwk-x-of-33-bytes",
            "RFC 7518 6.2.1.2",
            ProofKey,
            coordinate("x", |bytes| base64url(&[&[0], &bytes[..]].concat())),
        ),
        bad(
            "jwk-x-padded",
            "RFC 7518 6.2.1.2",
            ProofKey,
            coordinate("x", |bytes| format!("{}=", base64url(&bytes))),
        ),
        bad("jwk-y-missing", "RFC 7518 6.2.1.3", ProofKey, no_jwk("y")),
        bad(
            "jwk-y-null",
            "RFC 7518 6.2.1.3",
            ProofKey,
            jwk("y", Value::Null),
        ),
        bad(
            "jwk-y-empty",
            "RFC 7518 6.2.1.3",
            ProofKey,
            jwk("y", json!("")),
        ),
        bad(
            "jwk-y-list",
            "RFC 7518 6.2.1.3",
            ProofKey,
            jwk("y", json!([])),
        ),
        bad(
            "jwk-off-the-curve",
            "RFC 7518 6.2.1",
            ProofKey,
            coordinate("y", |mut bytes| {
                bytes[31] ^= 1;
                base64url(&bytes)
            }),
        ),
        bad(
            "jwk-coordinates-swapped",
            "RFC 7518 6.2.1",
            ProofKey,
            with(|draft| {
                let (x, y) = (
                    draft.header["jwk"]["x"].clone(),
                    draft.header["jwk"]["y"].clone(),
                );
                draft.header["jwk"]["x"] = y;
                draft.header["jwk"]["y"] = x;
            }),
        ),
        bad(
            "jwk-point-at-zero",
            "RFC 7518 6.2.1",
            ProofKey,
            with(|draft| {
                let zero = json!(base64url(&[0; 32]));
                draft.header["jwk"]["x"] = zero.clone();
                draft.header["jwk"]["y"] = zero;
            }),
        ),
        bad(
            "jwk-beyond-the-field",
            "RFC 7518 6.2.1",
            ProofKey,
            jwk("x", json!(base64url(&[0xff; 32]))),
        ),
        bad(
            "jwk-with-d",
            "RFC 9449 4.3(7)",
            ProofPrivateKey,
            jwk("d", json!(base64url(&[1; 32]))),
        ),
        bad(
            "jwk-with-d-null",
            "RFC 9449 4.3(7)",
            ProofPrivateKey,
            jwk("d", Value::Null),
        ),
        bad(
            "jwk-with-d-empty",
            "RFC 9449 4.3(7)",
            ProofPrivateKey,
            jwk("d", json!("")),
        ),
        bad(
            "jwk-with-p",
            "RFC 7518 6.3.2",
            ProofPrivateKey,
            jwk("p", json!("AQAB")),
        ),
        bad(
            "jwk-with-q",
            "RFC 7518 6.3.2",
            ProofPrivateKey,
            jwk("q", json!("AQAB")),
        ),
        bad(
            "jwk-with-dp",
            "RFC 7518 6.3.2",
            ProofPrivateKey,
            jwk("dp", json!("AQAB")),
        ),
        bad(
            "jwk-with-qi",
            "RFC 7518 6.3.2",
            ProofPrivateKey,
            jwk("qi", json!("AQAB")),
        ),
        bad(
            "jwk-with-oth",
            "RFC 7518 6.3.2",
            ProofPrivateKey,
            jwk("oth", json!([])),
        ),
        bad(
            "jwk-symmetric",
            "RFC 7518 6.4",
            ProofPrivateKey,
            head("jwk", json!({"kty": "oct", "k": base64url(&[1; 32])})),
        ),
        bad(
            "key-another",
            "DP-6",
            ProofBinding,
            with(|draft| {
                let other = Key::generate();
                draft.header["jwk"] = other.jwk();
                draft.signer = Signer::Another(other);
            }),
        ),
        bad(
            "key-another-without-kid",
            "DP-6",
            ProofBinding,
            with(|draft| {
                let other = Key::generate();
                draft.header["jwk"] = other.jwk();
                remove(&mut draft.header, "kid");
                draft.signer = Signer::Another(other);
            }),
        ),
        bad(
            "key-another-of-another-kind",
            "DP-6",
            ProofBinding,
            signed_by(|| Signer::Ed25519, "EdDSA"),
        ),
    ]
}

pub(super) fn signatures() -> Vec<Row> {
    use Check::ProofSignature;
    vec![
        bad(
            "signature-missing",
            "RFC 9449 4.3(6)",
            ProofSignature,
            parts(|[header, payload, _]| format!("{header}.{payload}.")),
        ),
        bad(
            "signature-of-63-bytes",
            "RFC 7518 3.4",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes.truncate(63))),
        ),
        bad(
            "signature-of-65-bytes",
            "RFC 7518 3.4",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes.push(0))),
        ),
        bad(
            "signature-half",
            "RFC 7518 3.4",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes.truncate(32))),
        ),
        bad(
            "signature-twice",
            "RFC 7518 3.4",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes.extend(bytes.clone()))),
        ),
        bad(
            "signature-in-der",
            "RFC 7518 3.4",
            ProofSignature,
            jws(|jws| {
                signature(jws, |bytes| {
                    let s = bytes.split_off(32);
                    let integer = |value: Vec<u8>| [&[2, 33, 0][..], &value].concat();
                    *bytes = [vec![0x30, 70], integer(bytes.clone()), integer(s)].concat();
                })
            }),
        ),
        bad(
            "signature-flipped",
            "RFC 9449 4.3(6)",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes[10] ^= 1)),
        ),
        bad(
            "signature-halves-swapped",
            "RFC 7518 3.4",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes.rotate_left(32))),
        ),
        bad(
            "signature-zero",
            "CVE-2022-21449",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes.fill(0))),
        ),
        bad(
            "signature-all-ones",
            "RFC 7518 3.4",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes.fill(0xff))),
        ),
        bad(
            "signature-r-zero",
            "CVE-2022-21449",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes[..32].fill(0))),
        ),
        bad(
            "signature-s-zero",
            "CVE-2022-21449",
            ProofSignature,
            jws(|jws| signature(jws, |bytes| bytes[32..].fill(0))),
        ),
        bad(
            "signed-by-another-key",
            "RFC 9449 4.3(6)",
            ProofSignature,
            with(|draft| draft.signer = Signer::Another(Key::generate())),
        ),
        bad(
            "signed-by-the-secret-of-hs256",
            "RFC 9449 11.6",
            ProofSignature,
            signed_by(|| Signer::PublicKeyAsSecret, "ES256"),
        ),
        bad(
            "payload-changed-once-signed",
            "RFC 9449 4.3(6)",
            ProofSignature,
            parts(|[header, payload, signature]| {
                let payload = String::from_utf8(decode(payload)).unwrap();
                let payload = base64url(payload.replace("POST", "POST ").as_bytes());
                format!("{header}.{payload}.{signature}")
            }),
        ),
        bad(
            "header-changed-once-signed",
            "RFC 9449 4.3(6)",
            ProofSignature,
            parts(|[header, payload, signature]| {
                let header = String::from_utf8(decode(header)).unwrap();
                let header = base64url(header.replacen('{', "{\"x\":1,", 1).as_bytes());
                format!("{header}.{payload}.{signature}")
            }),
        ),
    ]
}

fn signed_by(signer: fn() -> Signer, alg: &'static str) -> Forge {
    with(move |draft| {
        draft.signer = signer();
        draft.header["alg"] = json!(alg);
    })
}

/// The signature's 64 bytes, changed.
fn signature(jws: &str, change: impl Fn(&mut Vec<u8>)) -> String {
    let [header, payload, signature] = split(jws);
    let mut bytes = decode(signature);
    change(&mut bytes);
    format!("{header}.{payload}.{}", base64url(&bytes))
}

/// A member of the key, written in another way.
fn coordinate(name: &'static str, change: fn(Vec<u8>) -> String) -> Forge {
    with(move |draft| {
        let text = draft.header["jwk"][name].as_str().unwrap().to_owned();
        draft.header["jwk"][name] = json!(change(decode(&text)));
    })
}
