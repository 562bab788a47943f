//! Every check of RFC 9449 §4.3, by vectors and by a table of bad proofs.
#![expect(clippy::string_slice, reason = "all text here is ASCII")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::*;
use crate::encoding::{from_base64url, random_secret};

const URL: &str = "http://127.0.0.1:7460/aegis.v1.BrokerService/CreateCredentialLease";
const TOKEN: &str = "example-broker-token-0001";
const NOW: i64 = 1_795_341_612;

fn vectors() -> Value {
    let text = include_str!("../../../tests/fixtures/rfc/rfc.json");
    serde_json::from_str(text).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A key and what a good proof by it says.
struct Maker {
    key: EcdsaKeyPair,
    header: Value,
    payload: Value,
}

impl Maker {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = key.public_key().as_ref();
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])});
        Self {
            header: json!({"typ": "dpop+jwt", "alg": "ES256", "kid": "pop-1", "jwk": jwk}),
            payload: json!({
                "htm": "POST", "htu": URL, "jti": "jti-0003", "iat": NOW, "nonce": "n-A",
                "ath": "tIwG3kH55jVIJEnLlT-9kvfdG35M9jidGIzlQA_2ta8",
            }),
            key,
        }
    }

    fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!(
            "{}.{}",
            base64url(header.as_bytes()),
            base64url(payload.as_bytes())
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", base64url(signature.as_ref()))
    }

    fn proof(&self) -> String {
        self.sign(&self.header.to_string(), &self.payload.to_string())
    }

    fn header(&self, change: impl Fn(&mut Value)) -> String {
        let mut header = self.header.clone();
        change(&mut header);
        self.sign(&header.to_string(), &self.payload.to_string())
    }

    fn payload(&self, change: impl Fn(&mut Value)) -> String {
        let mut payload = self.payload.clone();
        change(&mut payload);
        self.sign(&self.header.to_string(), &payload.to_string())
    }
}

fn judge(proof: &str) -> Result<Proof, Check> {
    let expected = Expected {
        method: "POST",
        url: URL,
        token: Some(TOKEN),
        now: NOW,
    };
    verify(proof, &expected, Checks::default())
}

fn remove(value: &mut Value, name: &str) {
    value.as_object_mut().unwrap().remove(name).unwrap();
}

/// DP-1, DP-2, DP-3, DP-4, DP-5, DP-6.
#[test]
fn bad_proofs_are_refused_by_the_check_they_fail() {
    let good = Maker::new();
    let other = Maker::new();
    assert!(judge(&good.proof()).is_ok());
    let proof = good.proof();
    let parts: Vec<&str> = proof.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        panic!("three parts");
    };
    let long = random_secret("").repeat(300);
    let set = |name: &'static str, value: Value| {
        good.payload(move |payload| payload[name] = value.clone())
    };
    let set_header =
        |name: &'static str, value: Value| good.header(move |header| header[name] = value.clone());
    let set_key = |name: &'static str, value: Value| {
        good.header(move |header| header["jwk"][name] = value.clone())
    };
    let without = |name: &'static str| good.payload(move |payload| remove(payload, name));
    let raw = |name: &str, extra: &str| {
        let text = good.payload.to_string();
        let text = text.replacen('{', &format!("{{\"{name}\":{extra},"), 1);
        good.sign(&good.header.to_string(), &text)
    };
    let low_s_cut = {
        let bytes = from_base64url(signature).unwrap();
        base64url(&bytes[..63])
    };
    let flipped = {
        let mut bytes = from_base64url(signature).unwrap();
        bytes[10] ^= 1;
        base64url(&bytes)
    };
    let der = {
        let mut bytes = from_base64url(signature).unwrap();
        bytes.splice(0..0, [0x30, 0x44, 2, 32]);
        base64url(&bytes)
    };
    // The last of 86 letters of a signature has four bits that carry nothing.
    let stray_bits = {
        let last = signature.chars().last().unwrap();
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let at = letters.find(last).unwrap();
        format!("{}{}", &signature[..85], &letters[at + 1..at + 2])
    };
    let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
    let host = "http://127.0.0.1:7460";
    let rows: Vec<(&str, String, Check)> = vec![
        ("empty", String::new(), Check::ProofForm),
        ("one part", "abc".to_owned(), Check::ProofForm),
        ("two parts", format!("{header}.{payload}"), Check::ProofForm),
        ("four parts", format!("{proof}.x"), Check::ProofForm),
        ("two proofs", format!("{proof}, {proof}"), Check::ProofForm),
        ("over 8 KiB", set("pad", json!(long)), Check::ProofSize),
        (
            "padded base64",
            format!("{header}=.{payload}.{signature}"),
            Check::ProofEncoding,
        ),
        (
            "standard base64",
            format!("{header}.{payload}.{}", "+".repeat(86)),
            Check::ProofEncoding,
        ),
        (
            "space inside",
            format!("{header} .{payload}.{signature}"),
            Check::ProofEncoding,
        ),
        (
            "line break at the end",
            format!("{proof}\n"),
            Check::ProofEncoding,
        ),
        (
            "stray bits",
            format!("{header}.{payload}.{stray_bits}"),
            Check::ProofEncoding,
        ),
        (
            "header no JSON",
            good.sign("typ", &good.payload.to_string()),
            Check::ProofJson,
        ),
        (
            "header a list",
            good.sign("[]", &good.payload.to_string()),
            Check::ProofJson,
        ),
        (
            "payload no JSON",
            good.sign(&good.header.to_string(), "{"),
            Check::ProofJson,
        ),
        (
            "payload text",
            good.sign(&good.header.to_string(), "\"a\""),
            Check::ProofJson,
        ),
        (
            "text behind payload",
            good.sign(&good.header.to_string(), "{} {}"),
            Check::ProofJson,
        ),
        ("jti twice", raw("jti", "\"a\""), Check::ProofDuplicate),
        ("iat twice", raw("iat", "1"), Check::ProofDuplicate),
        (
            "escaped name twice",
            raw("\\u0068tm", "\"GET\""),
            Check::ProofDuplicate,
        ),
        (
            "name twice, deep",
            raw("x", "[{\"a\":1,\"a\":1}]"),
            Check::ProofDuplicate,
        ),
        (
            "typ of a JWT",
            set_header("typ", json!("JWT")),
            Check::ProofType,
        ),
        (
            "typ in another case",
            set_header("typ", json!("DPoP+JWT")),
            Check::ProofType,
        ),
        (
            "typ missing",
            good.header(|h| remove(h, "typ")),
            Check::ProofType,
        ),
        (
            "alg none",
            set_header("alg", json!("none")),
            Check::ProofAlgorithm,
        ),
        (
            "alg symmetric",
            set_header("alg", json!("HS256")),
            Check::ProofAlgorithm,
        ),
        (
            "alg not offered",
            set_header("alg", json!("ES384")),
            Check::ProofAlgorithm,
        ),
        (
            "alg in another case",
            set_header("alg", json!("es256")),
            Check::ProofAlgorithm,
        ),
        (
            "alg missing",
            good.header(|h| remove(h, "alg")),
            Check::ProofAlgorithm,
        ),
        (
            "alg a list",
            set_header("alg", json!(["ES256"])),
            Check::ProofAlgorithm,
        ),
        (
            "alg of another kind of key",
            set_header("alg", json!("EdDSA")),
            Check::ProofKeyKind,
        ),
        (
            "crit",
            set_header("crit", json!(["exp"])),
            Check::ProofCritical,
        ),
        (
            "empty crit",
            set_header("crit", json!([])),
            Check::ProofCritical,
        ),
        (
            "payload unencoded",
            set_header("b64", json!(false)),
            Check::ProofCritical,
        ),
        (
            "kid a number",
            set_header("kid", json!(1)),
            Check::ProofKeyId,
        ),
        (
            "jwk missing",
            good.header(|h| remove(h, "jwk")),
            Check::ProofKey,
        ),
        ("jwk text", set_header("jwk", json!("key")), Check::ProofKey),
        ("jwk RSA", set_header("jwk", rsa), Check::ProofKey),
        (
            "jwk other curve",
            set_key("crv", json!("P-384")),
            Check::ProofKey,
        ),
        (
            "jwk secp256k1",
            set_key("crv", json!("secp256k1")),
            Check::ProofKey,
        ),
        (
            "jwk without y",
            good.header(|h| remove(&mut h["jwk"], "y")),
            Check::ProofKey,
        ),
        ("jwk y null", set_key("y", Value::Null), Check::ProofKey),
        ("jwk x short", set_key("x", json!("AAAA")), Check::ProofKey),
        (
            "jwk off the curve",
            set_key("x", json!("A".repeat(43))),
            Check::ProofKey,
        ),
        (
            "jwk with d",
            set_key("d", json!("AAAA")),
            Check::ProofPrivateKey,
        ),
        (
            "jwk with null d",
            set_key("d", Value::Null),
            Check::ProofPrivateKey,
        ),
        (
            "jwk symmetric",
            set_key("k", json!("AAAA")),
            Check::ProofPrivateKey,
        ),
        (
            "signature empty",
            format!("{header}.{payload}."),
            Check::ProofSignature,
        ),
        (
            "signature of 63 bytes",
            format!("{header}.{payload}.{low_s_cut}"),
            Check::ProofSignature,
        ),
        (
            "signature in DER",
            format!("{header}.{payload}.{der}"),
            Check::ProofSignature,
        ),
        (
            "signature flipped",
            format!("{header}.{payload}.{flipped}"),
            Check::ProofSignature,
        ),
        (
            "signature zero",
            format!("{header}.{payload}.{}", "A".repeat(86)),
            Check::ProofSignature,
        ),
        (
            "signed by another key",
            set_header("jwk", other.header["jwk"].clone()),
            Check::ProofSignature,
        ),
        (
            "payload swapped",
            {
                let swapped = base64url(b"{}");
                format!("{header}.{swapped}.{signature}")
            },
            Check::ProofSignature,
        ),
        ("htm missing", without("htm"), Check::ProofMethod),
        ("htm GET", set("htm", json!("GET")), Check::ProofMethod),
        (
            "htm in another case",
            set("htm", json!("post")),
            Check::ProofMethod,
        ),
        ("htu missing", without("htu"), Check::ProofUrl),
        ("htu a number", set("htu", json!(1)), Check::ProofUrl),
        (
            "htu other path",
            set("htu", json!(URL.replace("Create", "Redeem"))),
            Check::ProofUrl,
        ),
        (
            "htu path in another case",
            set("htu", json!(URL.to_lowercase())),
            Check::ProofUrl,
        ),
        (
            "htu with slash",
            set("htu", json!(format!("{URL}/"))),
            Check::ProofUrl,
        ),
        ("htu without path", set("htu", json!(host)), Check::ProofUrl),
        (
            "htu path only",
            set("htu", json!(&URL[host.len()..])),
            Check::ProofUrl,
        ),
        (
            "htu other port",
            set("htu", json!(URL.replace("7460", "7461"))),
            Check::ProofUrl,
        ),
        (
            "htu without port",
            set("htu", json!(URL.replace(":7460", ""))),
            Check::ProofUrl,
        ),
        (
            "htu empty port",
            set("htu", json!(URL.replace(":7460", ":"))),
            Check::ProofUrl,
        ),
        (
            "htu port with a zero before it",
            set("htu", json!(URL.replace(":7460", ":07460"))),
            Check::ProofUrl,
        ),
        (
            "htu port with sign",
            set("htu", json!(URL.replace(":7460", ":+7460"))),
            Check::ProofUrl,
        ),
        (
            "htu other host",
            set("htu", json!(URL.replace("127.0.0.1", "localhost"))),
            Check::ProofUrl,
        ),
        (
            "htu other scheme",
            set("htu", json!(URL.replace("http", "https"))),
            Check::ProofUrl,
        ),
        (
            "htu with user",
            set("htu", json!(URL.replace("127", "user@127"))),
            Check::ProofUrl,
        ),
        (
            "htu with dots",
            set("htu", json!(URL.replace("/aegis", "/x/../aegis"))),
            Check::ProofUrl,
        ),
        (
            "htu percent",
            set("htu", json!(URL.replace("aegis", "%61egis"))),
            Check::ProofUrl,
        ),
        (
            "htu with space",
            set("htu", json!(format!("{URL} "))),
            Check::ProofUrl,
        ),
        ("jti missing", without("jti"), Check::ProofId),
        ("jti a number", set("jti", json!(1)), Check::ProofId),
        ("jti empty", set("jti", json!("")), Check::ProofId),
        (
            "jti of 257",
            set("jti", json!("j".repeat(257))),
            Check::ProofId,
        ),
        (
            "jti with line break",
            set("jti", json!("a\nb")),
            Check::ProofId,
        ),
        ("iat missing", without("iat"), Check::ProofIssuedAt),
        (
            "iat text",
            set("iat", json!(NOW.to_string())),
            Check::ProofIssuedAt,
        ),
        (
            "iat fraction",
            set("iat", json!(1_795_341_612.5)),
            Check::ProofIssuedAt,
        ),
        ("iat null", set("iat", Value::Null), Check::ProofIssuedAt),
        (
            "iat 61 s ago",
            set("iat", json!(NOW - 61)),
            Check::ProofIssuedAt,
        ),
        (
            "iat in 11 s",
            set("iat", json!(NOW + 11)),
            Check::ProofIssuedAt,
        ),
        ("iat zero", set("iat", json!(0)), Check::ProofIssuedAt),
        (
            "iat least",
            set("iat", json!(i64::MIN)),
            Check::ProofIssuedAt,
        ),
        (
            "iat greatest",
            set("iat", json!(i64::MAX)),
            Check::ProofIssuedAt,
        ),
        (
            "iat beyond",
            set("iat", json!(u64::MAX)),
            Check::ProofIssuedAt,
        ),
        (
            "iat in milliseconds",
            set("iat", json!(NOW * 1000)),
            Check::ProofIssuedAt,
        ),
        ("ath missing", without("ath"), Check::ProofTokenHash),
        ("ath a number", set("ath", json!(1)), Check::ProofTokenHash),
        (
            "ath of another token",
            set("ath", json!(base64url(&sha256(b"t")))),
            Check::ProofTokenHash,
        ),
        (
            "ath padded",
            set("ath", json!("tIwG3kH55jVIJEnLlT-9kvfdG35M9jidGIzlQA_2ta8=")),
            Check::ProofTokenHash,
        ),
        ("nonce a number", set("nonce", json!(1)), Check::ProofNonce),
        ("nonce null", set("nonce", Value::Null), Check::ProofNonce),
    ];
    for (name, proof, fault) in rows {
        assert_eq!(judge(&proof).map(|proof| proof.jti), Err(fault), "{name}");
    }
}

#[test]
fn good_proofs_at_the_edges_are_accepted() {
    let good = Maker::new();
    let set = |name: &'static str, value: Value| {
        good.payload(move |payload| payload[name] = value.clone())
    };
    let rows = [
        ("60 s ago", set("iat", json!(NOW - 60))),
        ("in 10 s", set("iat", json!(NOW + 10))),
        ("jti of 256", set("jti", json!("j".repeat(256)))),
        ("jti of one", set("jti", json!("j"))),
        ("htu with query", set("htu", json!(format!("{URL}?a=b#c")))),
        (
            "htu scheme in upper case",
            set("htu", json!(URL.replace("http", "HTTP"))),
        ),
        ("unknown claim", set("foo", json!({"bar": 1}))),
        ("no nonce", good.payload(|payload| remove(payload, "nonce"))),
        ("no kid", good.header(|header| remove(header, "kid"))),
        (
            "key with use",
            good.header(|header| header["jwk"]["use"] = json!("sig")),
        ),
    ];
    for (name, proof) in rows {
        assert!(judge(&proof).is_ok(), "{name}");
    }
}

#[test]
fn a_default_port_may_be_named_or_not() {
    let good = Maker::new();
    let rows = [
        (
            "https://Aegis.Example/a",
            "https://aegis.example:443/a",
            true,
        ),
        (
            "https://aegis.example:443/a",
            "HTTPS://AEGIS.EXAMPLE/a",
            true,
        ),
        ("http://[::1]:80/a", "http://[::1]/a", true),
        ("http://[::1]:7460/a", "http://[::1]:7460/a", true),
        ("https://aegis.example", "https://aegis.example/", true),
        (
            "https://aegis.example/a",
            "https://aegis.example:80/a",
            false,
        ),
        (
            "https://aegis.example/a",
            "https://aegis.example.evil/a",
            false,
        ),
        ("http://[::1]:7460/a", "http://[::1]/a", false),
    ];
    for (url, htu, fits) in rows {
        let proof = good.payload(|payload| payload["htu"] = json!(htu));
        let expected = Expected {
            method: "POST",
            url,
            token: Some(TOKEN),
            now: NOW,
        };
        assert_eq!(
            verify(&proof, &expected, Checks::default()).is_ok(),
            fits,
            "{url} {htu}"
        );
    }
}

#[test]
fn a_proof_for_no_token_must_not_speak_of_one() {
    let good = Maker::new();
    let expected = Expected {
        method: "POST",
        url: URL,
        token: None,
        now: NOW,
    };
    assert_eq!(
        verify(&good.proof(), &expected, Checks::default()).map(|_| ()),
        Err(Check::ProofTokenHash)
    );
    let proof = good.payload(|payload| remove(payload, "ath"));
    assert!(verify(&proof, &expected, Checks::default()).is_ok());
}

#[test]
fn proofs_by_ed25519_keys_are_accepted() {
    let good = Maker::new();
    let key = Ed25519KeyPair::generate().unwrap();
    let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": {
        "kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key().as_ref()),
    }});
    let sign = |header: &Value| {
        let signed = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(good.payload.to_string().as_bytes())
        );
        format!(
            "{signed}.{}",
            base64url(key.sign(signed.as_bytes()).as_ref())
        )
    };
    assert!(judge(&sign(&header)).is_ok());
    let mut with_y = header.clone();
    with_y["jwk"]["y"] = json!("AAAA");
    assert_eq!(judge(&sign(&with_y)).map(|_| ()), Err(Check::ProofKey));
    let mut x448 = header;
    x448["jwk"]["crv"] = json!("Ed448");
    assert_eq!(judge(&sign(&x448)).map(|_| ()), Err(Check::ProofKey));
}

/// RFC 9449 §4.2, §5, §7.1.
#[test]
fn the_proofs_of_the_standard_hold() {
    let vectors = vectors();
    for name in [
        "rfc9449_token_request",
        "rfc9449_refresh_request",
        "rfc9449_resource_request",
    ] {
        let vector = &vectors[name];
        let expected = |now| Expected {
            method: text(&vector["htm"]),
            url: text(&vector["htu"]),
            token: vector["access_token"].as_str(),
            now,
        };
        let iat = vector["iat"].as_i64().unwrap();
        let proof = verify(text(&vector["proof"]), &expected(iat), Checks::default()).unwrap();
        assert_eq!(
            proof.thumbprint,
            text(&vectors["rfc9449_jkt"]["jkt"]),
            "{name}"
        );
        let late = verify(
            text(&vector["proof"]),
            &expected(iat + 61),
            Checks::default(),
        );
        assert_eq!(late.map(|_| ()), Err(Check::ProofIssuedAt), "{name}");
    }
}

/// RFC 9449 §6.1, RFC 8037 A.3.
#[test]
fn the_thumbprints_of_the_standards_match() {
    let vectors = vectors();
    for (vector, thumbprint) in [("rfc9449_jkt", "jkt"), ("rfc8037_a3", "thumbprint_S256")] {
        let jwk = &vectors[vector]["jwk"];
        let y = jwk.get("y").map(text);
        let key = PublicKey::from_members(text(&jwk["kty"]), text(&jwk["crv"]), text(&jwk["x"]), y);
        assert_eq!(key.unwrap().thumbprint, text(&vectors[vector][thumbprint]));
    }
}

/// RFC 7515 A.3, RFC 8037 A.4.
#[test]
fn the_signatures_of_the_standards_verify() {
    let vectors = vectors();
    for name in ["rfc7515_a3_es256", "rfc8037_a4"] {
        let jwk = &vectors[name]["jwk_private"];
        let y = jwk.get("y").map(text);
        let key = PublicKey::from_members(text(&jwk["kty"]), text(&jwk["crv"]), text(&jwk["x"]), y);
        let (signed, signature) = text(&vectors[name]["jws"]).rsplit_once('.').unwrap();
        let signature = from_base64url(signature).unwrap();
        assert!(
            key.unwrap().verifies(signed.as_bytes(), &signature),
            "{name}"
        );
    }
}

#[test]
fn the_journal_sees_what_a_proof_claims_even_if_it_is_bad() {
    let good = Maker::new();
    let claimed = peek(&good.payload(|payload| payload["htm"] = json!("GET")));
    assert_eq!(claimed.jti.as_deref(), Some("jti-0003"));
    assert_eq!(claimed.htm.as_deref(), Some("GET"));
    assert_eq!(claimed.htu.as_deref(), Some(URL));
    assert!(claimed.jkt.is_some());
    assert!(peek("nonsense").jti.is_none());
}
