//! Public keys as JSON Web Keys.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};

use crate::encoding::{base64url, from_base64url, sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Es256,
    EdDsa,
}

impl Algorithm {
    /// RFC 7518 §3.1, RFC 8037 §3.1.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key that is a point on its curve.
pub(crate) struct PublicKey {
    pub(crate) algorithm: Algorithm,
    /// RFC 7638, SHA-256.
    pub(crate) thumbprint: String,
    key: ParsedPublicKey,
}

impl PublicKey {
    /// `None` for another kind of key, or none at all.
    pub(crate) fn from_members(kty: &str, crv: &str, x: &str, y: Option<&str>) -> Option<Self> {
        // Parsing checks that the point is on the curve.
        let (algorithm, key, canonical) = match (kty, crv, y) {
            ("EC", "P-256", Some(y)) => {
                // SEC 1: uncompressed.
                let point = [&[4][..], &coordinate(x)?, &coordinate(y)?].concat();
                (
                    Algorithm::Es256,
                    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point),
                    format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}"#),
                )
            }
            ("OKP", "Ed25519", None) => (
                Algorithm::EdDsa,
                ParsedPublicKey::new(&ED25519, coordinate(x)?),
                format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}"}}"#),
            ),
            _ => return None,
        };
        Some(Self {
            algorithm,
            thumbprint: base64url(&sha256(canonical.as_bytes())),
            key: key.ok()?,
        })
    }

    /// The `kty` and `crv` that a key with a `y`, or without one, must have.
    pub(crate) fn names_by_shape(has_y: bool) -> (&'static str, &'static str) {
        if has_y {
            ("EC", "P-256")
        } else {
            ("OKP", "Ed25519")
        }
    }

    /// `signature` is 64 bytes for both algorithms.
    pub(crate) fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        signature.len() == 64 && self.key.verify_sig(signed, signature).is_ok()
    }
}

fn coordinate(text: &str) -> Option<Vec<u8>> {
    from_base64url(text).filter(|bytes| bytes.len() == 32)
}
