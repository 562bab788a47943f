use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The JWK thumbprint of an EC key on P-256 (RFC 7638 §3.2): its required members in lexical
/// order.
pub(super) fn ec_p256(x: &str, y: &str) -> String {
    of_members(&[("crv", "P-256"), ("kty", "EC"), ("x", x), ("y", y)])
}

/// The thumbprint over `members`, which are the required ones of their key type in lexical
/// order, with values that need no JSON escapes.
fn of_members(members: &[(&str, &str)]) -> String {
    let mut canonical = String::with_capacity(256);
    canonical.push('{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            canonical.push(',');
        }
        canonical.push('"');
        canonical.push_str(name);
        canonical.push_str("\":\"");
        canonical.push_str(value);
        canonical.push('"');
    }
    canonical.push('}');
    sha256_base64url(canonical.as_bytes())
}

/// SHA-256 as 43 characters of base64url: thumbprints, and the `ath` of a proof.
pub(super) fn sha256_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> serde_json::Value {
        serde_json::from_str(include_str!("../../tests/fixtures/rfc/rfc.json")).unwrap()
    }

    fn text<'a>(value: &'a serde_json::Value, pointer: &str) -> &'a str {
        value.pointer(pointer).unwrap().as_str().unwrap()
    }

    /// OA-20: RFC 7638 §3.1, RSA.
    #[test]
    fn rfc_7638_thumbprint_of_an_rsa_key() {
        let all = vectors();
        let members = [
            ("e", text(&all, "/rfc7638_3_1/jwk/e")),
            ("kty", text(&all, "/rfc7638_3_1/jwk/kty")),
            ("n", text(&all, "/rfc7638_3_1/jwk/n")),
        ];
        assert_eq!(
            of_members(&members),
            text(&all, "/rfc7638_3_1/thumbprint_S256")
        );
    }

    /// OA-20: RFC 8037 A.3, Ed25519.
    #[test]
    fn rfc_8037_thumbprint_of_an_okp_key() {
        let all = vectors();
        let members = [
            ("crv", text(&all, "/rfc8037_a3/jwk/crv")),
            ("kty", text(&all, "/rfc8037_a3/jwk/kty")),
            ("x", text(&all, "/rfc8037_a3/jwk/x")),
        ];
        assert_eq!(
            of_members(&members),
            text(&all, "/rfc8037_a3/thumbprint_S256")
        );
    }

    /// OA-20: RFC 9449 §6.1, the sample key.
    #[test]
    fn rfc_9449_thumbprint_of_the_sample_key() {
        let all = vectors();
        let ours = ec_p256(
            text(&all, "/rfc9449_jkt/jwk/x"),
            text(&all, "/rfc9449_jkt/jwk/y"),
        );
        assert_eq!(ours, text(&all, "/rfc9449_jkt/jkt"));
    }

    /// RFC 9449 §7.1 `ath`, and RFC 7636 appendix B, which is the same function.
    #[test]
    fn rfc_9449_ath_and_rfc_7636_challenge() {
        let all = vectors();
        let token = text(&all, "/rfc9449_ath/access_token");
        assert_eq!(
            sha256_base64url(token.as_bytes()),
            text(&all, "/rfc9449_ath/ath")
        );
        let verifier = text(&all, "/rfc7636_appendix_b/code_verifier");
        assert_eq!(
            sha256_base64url(verifier.as_bytes()),
            text(&all, "/rfc7636_appendix_b/code_challenge_S256")
        );
    }
}
