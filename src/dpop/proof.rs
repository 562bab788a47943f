use std::fmt;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;

use super::{DpopError, Nonce, ProofKey, thumbprint};
use crate::secret::SecretString;
use crate::time::UnixTime;

/// Random bytes in a `jti`: 128 bits (DP-11), 22 characters of base64url.
const JTI_BYTES: usize = 16;

/// What the fixed parts of a payload take, names and number included, with some to spare.
const PAYLOAD_FRAME: usize = 192;

/// A DPoP proof (RFC 9449 §4.2): a signed compact JWS, good for one HTTP request. Not a secret
/// of lasting worth, and still shown to nobody but the server it is for (DP-16).
pub struct Proof {
    jwt: String,
    jti: Box<str>,
}

/// What a proof is made for.
#[derive(Debug, Clone, Copy)]
pub struct ProofClaims<'a> {
    /// `htm`: the method.
    pub htm: Htm,
    /// `htu`: where to.
    pub htu: &'a Htu,
    /// `iat`: now, as far as the server can be pleased with our clock.
    pub issued_at: UnixTime,
    /// `nonce`: the server's newest, once there is one.
    pub nonce: Option<&'a Nonce>,
    /// `ath`: of the access token that is sent beside it, if one is.
    pub token_hash: Option<&'a TokenHash>,
}

impl Proof {
    /// Signs a new proof with a new random `jti`.
    ///
    /// # Errors
    /// [`DpopError::Randomness`], [`DpopError::Signing`].
    pub fn sign(key: &ProofKey, claims: &ProofClaims<'_>) -> Result<Self, DpopError> {
        let jti = URL_SAFE_NO_PAD.encode(random_jti()?);

        // Nothing below needs a JSON escape: every part is checked to be of a plain alphabet.
        let size = claims
            .htu
            .as_str()
            .len()
            .saturating_add(claims.nonce.map_or(0, |nonce| nonce.as_str().len()))
            .saturating_add(PAYLOAD_FRAME);
        let mut payload = String::with_capacity(size);
        payload.push_str(r#"{"htm":""#);
        payload.push_str(claims.htm.as_str());
        payload.push_str(r#"","htu":""#);
        payload.push_str(claims.htu.as_str());
        payload.push_str(r#"","jti":""#);
        payload.push_str(&jti);
        payload.push_str(r#"","iat":"#);
        payload.push_str(&claims.issued_at.as_secs().to_string());
        if let Some(nonce) = claims.nonce {
            payload.push_str(r#","nonce":""#);
            payload.push_str(nonce.as_str());
            payload.push('"');
        }
        if let Some(hash) = claims.token_hash {
            payload.push_str(r#","ath":""#);
            payload.push_str(hash.as_str());
            payload.push('"');
        }
        payload.push('}');

        let header = key.encoded_header();
        // Four characters for three bytes, two dots, 86 for the signature.
        let room = header
            .len()
            .saturating_add(payload.len().saturating_mul(3).div_ceil(2))
            .saturating_add(96);
        let mut jwt = String::with_capacity(room);
        jwt.push_str(header);
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(payload.as_bytes(), &mut jwt);
        let signature = key.sign(jwt.as_bytes())?;
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut jwt);
        Ok(Self {
            jwt,
            jti: jti.into(),
        })
    }

    /// The compact JWS.
    pub fn jwt(&self) -> &str {
        &self.jwt
    }

    /// Its `jti`, for records.
    pub fn jti(&self) -> &str {
        &self.jti
    }
}

fn random_jti() -> Result<[u8; JTI_BYTES], DpopError> {
    let mut random = [0; JTI_BYTES];
    rand::fill(&mut random).ok().ok_or(DpopError::Randomness)?;
    Ok(random)
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}

/// The `htm` claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Htm {
    /// A POST.
    Post,
}

impl Htm {
    /// The method's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
        }
    }
}

/// The `htu` claim: the URL really called, without query and fragment (RFC 9449 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Htu(Box<str>);

/// A URL cannot be the target of a proof. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a proof is for an http or https URL without user and password, at most 2048 bytes")]
pub struct HtuError;

impl Htu {
    /// Takes what counts of `url`.
    ///
    /// # Errors
    /// [`HtuError`] for other schemes, user info, and more than 2048 bytes.
    pub fn new(url: &Url) -> Result<Self, HtuError> {
        let mut bare = url.clone();
        bare.set_query(None);
        bare.set_fragment(None);
        let text = bare.as_str();
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let allowed = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && text.len() <= 2048
            && text.bytes().all(plain);
        allowed.then(|| Self(Box::from(text))).ok_or(HtuError)
    }

    /// The text of the claim.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The `ath` claim: base64url of the SHA-256 of an access token (RFC 9449 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHash(Box<str>);

impl TokenHash {
    /// Hashes `token`.
    pub fn of(token: &SecretString) -> Self {
        Self(thumbprint::sha256_base64url(token.expose().as_bytes()).into())
    }

    /// The text of the claim.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::HashSet;

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use dpop::proof::context::{DPoPProofContext, KeyBoundAccessToken};
    use dpop::proof::payload::jkt::Jkt;
    use dpop::proof::raw::RawDPoPProof;
    use dpop::proof::validated::ValidatedDPoPProof;
    use http_uri::HttpUri;
    use serde_json::Value;

    use super::*;

    const URL: &str = "http://127.0.0.1:7460/aegis.v1.BrokerService/CreateCredentialLease";
    const TOKEN: &str = "example-broker-token-0001";

    fn at() -> UnixTime {
        UnixTime::from_millis(1_795_341_612_345)
    }

    fn htu(text: &str) -> Htu {
        Htu::new(&Url::parse(text).unwrap()).unwrap()
    }

    fn decoded(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    fn sign(key: &ProofKey, nonce: Option<&Nonce>, hash: Option<&TokenHash>) -> Proof {
        let claims = ProofClaims {
            htm: Htm::Post,
            htu: &htu(URL),
            issued_at: at(),
            nonce,
            token_hash: hash,
        };
        Proof::sign(key, &claims).unwrap()
    }

    /// RFC 9449 §4.2: header and claims are what the standard names, and nothing else.
    #[test]
    fn a_proof_holds_the_claims_of_the_standard() {
        let key = ProofKey::generate().unwrap();
        let nonce = Nonce::parse("n-A").unwrap();
        let hash = TokenHash::of(&SecretString::copy_from(TOKEN));
        let proof = sign(&key, Some(&nonce), Some(&hash));
        let parts: Vec<&str> = proof.jwt().split('.').collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(
            decoded(parts[0]),
            serde_json::json!({
                "typ": "dpop+jwt", "alg": "ES256", "kid": key.id(),
                "jwk": { "kty": "EC", "crv": "P-256", "x": key.x(), "y": key.y() },
            })
        );
        assert_eq!(
            decoded(parts[1]),
            serde_json::json!({
                "htm": "POST", "htu": URL, "jti": proof.jti(), "iat": 1_795_341_612_u64,
                "nonce": "n-A", "ath": "tIwG3kH55jVIJEnLlT-9kvfdG35M9jidGIzlQA_2ta8",
            })
        );
        let bare = sign(&key, None, None);
        let claims = decoded(bare.jwt().split('.').nth(1).unwrap());
        assert_eq!(claims.as_object().unwrap().len(), 4);
    }

    /// RFC 7518 §3.4: 64 raw bytes over the first two parts, by the key in the header.
    #[test]
    fn the_signature_verifies_with_the_key_in_the_header() {
        let key = ProofKey::generate().unwrap();
        let proof = sign(&key, None, None);
        let (message, signature) = proof.jwt().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert_eq!(signature.len(), 64);
        let mut point = vec![4];
        point.extend(URL_SAFE_NO_PAD.decode(key.x()).unwrap());
        point.extend(URL_SAFE_NO_PAD.decode(key.y()).unwrap());
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &signature)
            .unwrap();
    }

    /// DP-11: 128 random bits, and the same never comes twice in 10^6.
    #[test]
    fn a_million_proofs_would_have_a_million_jtis() {
        let mut all: Vec<_> = (0..1_000_000).map(|_| random_jti().unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1_000_000);
    }

    /// DP-11: a new one for every proof.
    #[test]
    fn every_proof_has_a_jti_of_its_own() {
        let key = ProofKey::generate().unwrap();
        let jtis: HashSet<_> = (0..100)
            .map(|_| sign(&key, None, None).jti().to_owned())
            .collect();
        assert_eq!(jtis.len(), 100);
        assert!(jtis.iter().all(|jti| jti.len() == 22));
    }

    /// A second opinion: the crate `dpop` accepts our proofs, with and without token and nonce,
    /// and computes our thumbprint.
    #[test]
    fn the_dpop_crate_accepts_our_proofs() {
        let key = ProofKey::generate().unwrap();
        let nonce = Nonce::parse("eyJ7S_zG.eyJH0-Z.HX4w-7v").unwrap();
        let hash = TokenHash::of(&SecretString::copy_from(TOKEN));
        let rows = [
            ("bare", None, None),
            ("with nonce", Some(&nonce), None),
            ("with token", None, Some(&hash)),
            ("with both", Some(&nonce), Some(&hash)),
        ];
        for url in [URL, "https://aegis.example/base/aegis.v1.BrokerService/X"] {
            for (name, nonce, token_hash) in rows {
                let claims = ProofClaims {
                    htm: Htm::Post,
                    htu: &htu(url),
                    issued_at: at(),
                    nonce,
                    token_hash,
                };
                let proof = Proof::sign(&key, &claims).unwrap();
                let raw = RawDPoPProof::decode(Cow::Owned(proof.jwt().to_owned()))
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                let jkt = Jkt::new(&raw.decoded_essence().header.jwk());
                assert_eq!(&*jkt, key.thumbprint(), "{name}");
                let context = DPoPProofContext {
                    req_method: http::Method::POST,
                    req_uri: HttpUri::try_from(url).unwrap(),
                    req_time: i64::try_from(at().as_secs()).unwrap(),
                    active_nonce: nonce.map(|nonce| nonce.as_str().parse().unwrap()),
                    nonce_timestamp: None,
                    time_leeway: 60,
                    key_bound_access_token: token_hash.map(|_| KeyBoundAccessToken {
                        access_token: TOKEN.to_owned(),
                        bound_key_jkt: jkt,
                    }),
                };
                assert!(
                    ValidatedDPoPProof::try_new(raw, context).is_ok(),
                    "{name} {url}"
                );
            }
        }
    }

    /// The second opinion is awake: it refuses a proof for another URL and an altered one.
    #[test]
    fn the_dpop_crate_refuses_what_is_not_ours() {
        let key = ProofKey::generate().unwrap();
        let proof = sign(&key, None, None);
        let context = |url: &str| DPoPProofContext {
            req_method: http::Method::POST,
            req_uri: HttpUri::try_from(url).unwrap(),
            req_time: i64::try_from(at().as_secs()).unwrap(),
            active_nonce: None,
            nonce_timestamp: None,
            time_leeway: 60,
            key_bound_access_token: None,
        };
        let other = RawDPoPProof::decode(Cow::Owned(proof.jwt().to_owned())).unwrap();
        let elsewhere = context("http://127.0.0.1:7460/elsewhere");
        assert!(ValidatedDPoPProof::try_new(other, elsewhere).is_err());
        let foreign = sign(&ProofKey::generate().unwrap(), None, None);
        let (message, _) = proof.jwt().rsplit_once('.').unwrap();
        let (_, signature) = foreign.jwt().rsplit_once('.').unwrap();
        let altered = RawDPoPProof::decode(Cow::Owned(format!("{message}.{signature}"))).unwrap();
        assert!(ValidatedDPoPProof::try_new(altered, context(URL)).is_err());
    }

    #[test]
    fn a_target_has_neither_query_nor_fragment_nor_user() {
        assert_eq!(
            htu("https://Aegis.Example:443/a?b=c#d").as_str(),
            "https://aegis.example/a"
        );
        assert_eq!(htu("https://h:8443/a\"b").as_str(), "https://h:8443/a%22b");
        for url in ["https://user@h/a", "https://:pw@h/a", "ftp://h/a", "data:x"] {
            assert_eq!(Htu::new(&Url::parse(url).unwrap()), Err(HtuError), "{url}");
        }
        let long = format!("https://h/{}", "a".repeat(2048));
        assert_eq!(Htu::new(&Url::parse(&long).unwrap()), Err(HtuError));
    }

    /// HY-3: nothing of it shows.
    #[test]
    fn debug_shows_the_name_only() {
        let proof = sign(&ProofKey::generate().unwrap(), None, None);
        assert_eq!(format!("{proof:?}"), "Proof");
    }
}
