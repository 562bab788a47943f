use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, Signature,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{DpopError, thumbprint};

/// A DPoP key: ES256, made here, never exported. The private part lives on the heap of AWS-LC,
/// which wipes it when the key is dropped (DP-15).
///
/// What every proof repeats (thumbprint, public members, encoded header) is computed once.
pub struct ProofKey {
    pair: EcdsaKeyPair,
    x: Box<str>,
    y: Box<str>,
    id: Box<str>,
    encoded_header: Box<str>,
}

/// What stands before the thumbprint in a key's id.
const ID_PREFIX: &str = "pop-";

impl ProofKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`DpopError::Generation`] when the crypto library fails.
    pub fn generate() -> Result<Self, DpopError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .ok()
            .ok_or(DpopError::Generation)?;
        // An uncompressed point: 0x04, then 32 bytes each.
        let point = pair.public_key().as_ref();
        let (Some(x), Some(y), 65) = (point.get(1..33), point.get(33..65), point.len()) else {
            return Err(DpopError::Generation);
        };
        let x = URL_SAFE_NO_PAD.encode(x);
        let y = URL_SAFE_NO_PAD.encode(y);
        let id = format!("{ID_PREFIX}{}", thumbprint::ec_p256(&x, &y));
        let header = format!(
            r#"{{"typ":"dpop+jwt","alg":"ES256","kid":"{id}","jwk":{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}}}"#
        );
        Ok(Self {
            pair,
            x: x.into(),
            y: y.into(),
            id: id.into(),
            encoded_header: URL_SAFE_NO_PAD.encode(header).into(),
        })
    }

    /// The RFC 7638 thumbprint over SHA-256, 43 characters of base64url: the `jkt` of tokens
    /// bound to this key (RFC 9449 §6.1).
    pub fn thumbprint(&self) -> &str {
        // The prefix is there by construction.
        self.id.strip_prefix(ID_PREFIX).unwrap_or_default()
    }

    /// The name it is registered under and the `kid` of its proofs: `pop-` and the thumbprint.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public point's x coordinate, base64url.
    pub fn x(&self) -> &str {
        &self.x
    }

    /// The public point's y coordinate, base64url.
    pub fn y(&self) -> &str {
        &self.y
    }

    /// The base64url of a proof's header, the same for every proof of this key.
    pub(super) fn encoded_header(&self) -> &str {
        &self.encoded_header
    }

    /// Raw r‖s, as JWS wants it (RFC 7518 §3.4).
    pub(super) fn sign(&self, message: &[u8]) -> Result<Signature, DpopError> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .ok()
            .ok_or(DpopError::Signing)
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DP-15: keys differ, and nothing of one shows.
    #[test]
    fn every_key_is_its_own_and_shows_its_name_only() {
        let one = ProofKey::generate().unwrap();
        let two = ProofKey::generate().unwrap();
        assert_ne!(one.thumbprint(), two.thumbprint());
        assert_eq!(format!("{one:?}"), "ProofKey");
    }

    #[test]
    fn the_id_is_the_thumbprint_with_a_prefix() {
        let key = ProofKey::generate().unwrap();
        assert_eq!(key.thumbprint().len(), 43);
        assert_eq!(key.id(), format!("pop-{}", key.thumbprint()));
        assert_eq!(key.thumbprint(), thumbprint::ec_p256(key.x(), key.y()));
    }
}
