//! Tokens: signed for the reader, remembered by hash for ourselves.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::clock::Moment;
use crate::encoding::{Hash, base64url, from_base64url, random_id, sha256};
use crate::identity::keys::DUAL_KEY_WINDOW;
use crate::jwk::PublicKey;

/// Expired tokens are known as such for a day.
const REMEMBERED: Duration = Duration::from_hours(24);

/// A signing key, and those that it has taken the place of within the dual-key window.
#[derive(Debug)]
pub(crate) struct KeyRing {
    current: Signer,
    before: Vec<(Signer, Moment)>,
}

impl KeyRing {
    pub(crate) fn generate() -> Self {
        Self {
            current: Signer::generate(),
            before: Vec::new(),
        }
    }

    /// Signs with a new key from now on. What the one before has signed is good for
    /// [`DUAL_KEY_WINDOW`], and then no longer.
    pub(crate) fn rotate(&mut self, now: Moment) {
        self.before.retain(|(_, until)| now < *until);
        let old = std::mem::replace(&mut self.current, Signer::generate());
        self.before.push((old, now.plus(DUAL_KEY_WINDOW)));
    }

    /// The public halves, the current one first, as `jwks.json`.
    pub(crate) fn jwks(&self, now: Moment) -> Value {
        let keys: Vec<Value> = self.good(now).map(Signer::jwk).collect();
        json!({ "keys": keys })
    }

    pub(crate) fn sign(&self, typ: &str, claims: &Value) -> String {
        self.current.sign(typ, claims)
    }

    /// The claims of a token that one of the keys has signed with this type.
    pub(crate) fn verify(&self, typ: &str, token: &str, now: Moment) -> Option<Value> {
        self.good(now).find_map(|signer| signer.verify(typ, token))
    }

    /// The key of that name; the current one for none.
    pub(crate) fn key(&self, kid: Option<&str>, now: Moment) -> Option<PublicKey> {
        let mut good = self.good(now);
        good.find(|signer| kid.is_none_or(|kid| kid == signer.kid))
            .and_then(Signer::public_key)
    }

    fn good(&self, now: Moment) -> impl Iterator<Item = &Signer> {
        let before = self.before.iter().filter(move |(_, until)| now < *until);
        std::iter::once(&self.current).chain(before.map(|(signer, _)| signer))
    }
}

/// One signing key of the server's own.
#[derive(Debug)]
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    kid: String,
    x: String,
    y: String,
}

impl Signer {
    #[expect(
        clippy::expect_used,
        reason = "AWS-LC makes a P-256 key whenever it has memory and random bytes"
    )]
    pub(crate) fn generate() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        // SEC 1, uncompressed: 4, x, y.
        let point = key.public_key().as_ref();
        let x = base64url(point.get(1..33).unwrap_or_default());
        let y = base64url(point.get(33..65).unwrap_or_default());
        let kid = PublicKey::from_members("EC", "P-256", &x, Some(&y))
            .map(|key| key.thumbprint)
            .unwrap_or_default();
        Self { key, kid, x, y }
    }

    fn jwk(&self) -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y,
            "kid": self.kid, "use": "sig", "alg": "ES256",
        })
    }

    fn public_key(&self) -> Option<PublicKey> {
        PublicKey::from_members("EC", "P-256", &self.x, Some(&self.y))
    }

    #[expect(clippy::expect_used, reason = "AWS-LC signs with a key it has made")]
    pub(crate) fn sign(&self, typ: &str, claims: &Value) -> String {
        let header = json!({"typ": typ, "alg": "ES256", "kid": self.kid});
        let signed = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .expect("a signature");
        format!("{signed}.{}", base64url(signature.as_ref()))
    }

    /// The claims of a token this key has signed with this type.
    pub(crate) fn verify(&self, typ: &str, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let key = self.public_key()?;
        if !key.verifies(signed.as_bytes(), &from_base64url(signature)?) {
            return None;
        }
        let header: Value = serde_json::from_slice(&from_base64url(header)?).ok()?;
        if header.get("typ")? != typ {
            return None;
        }
        serde_json::from_slice(&from_base64url(claims)?).ok()
    }
}

/// What a token is worth nothing without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// A DPoP key, by its thumbprint (RFC 7638).
    Key(String),
    /// A client certificate, by the SHA-256 of its DER (RFC 8705 §3.1).
    Certificate(String),
}

impl Binding {
    /// The member of `cnf`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "jkt",
            Self::Certificate(_) => "x5t#S256",
        }
    }

    pub(crate) fn thumbprint(&self) -> &str {
        match self {
            Self::Key(thumbprint) | Self::Certificate(thumbprint) => thumbprint,
        }
    }
}

/// What a broker token stands for.
#[derive(Debug)]
pub(crate) struct TokenRecord {
    /// Given by [`Tokens::issue`].
    pub(crate) jti: String,
    pub(crate) principal: String,
    pub(crate) tenant_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) role: Option<String>,
    pub(crate) binding: Binding,
    pub(crate) pop_key_id: String,
    pub(crate) session_id: String,
    pub(crate) expires_at: Moment,
}

/// The tokens issued so far.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    by_hash: HashMap<Hash, Arc<TokenRecord>>,
    /// By `jti`.
    revoked: HashSet<String>,
}

impl Tokens {
    pub(crate) fn find(&self, hash: &Hash) -> Option<Arc<TokenRecord>> {
        self.by_hash.get(hash).map(Arc::clone)
    }

    pub(crate) fn is_revoked(&self, jti: &str) -> bool {
        self.revoked.contains(jti)
    }

    /// The ones that live and fit.
    pub(crate) fn live(
        &self,
        now: Moment,
        fits: impl Fn(&TokenRecord) -> bool,
    ) -> Vec<Arc<TokenRecord>> {
        let live = self.by_hash.values();
        live.filter(|token| now < token.expires_at && !self.is_revoked(&token.jti) && fits(token))
            .map(Arc::clone)
            .collect()
    }

    pub(crate) fn revoke(&mut self, jti: &str) {
        self.revoked.insert(jti.to_owned());
    }

    /// Issues a token.
    pub(crate) fn issue(
        &mut self,
        signer: &KeyRing,
        issuer: &str,
        mut record: TokenRecord,
        now: Moment,
    ) -> (String, Arc<TokenRecord>) {
        record.jti = random_id("tok_");
        let binding = (
            record.binding.kind().to_owned(),
            json!(record.binding.thumbprint()),
        );
        let cnf: serde_json::Map<String, Value> = [binding].into_iter().collect();
        let mut claims = json!({
            "iss": issuer,
            "sub": record.principal,
            "aud": "aegis-api",
            "tenant_id": record.tenant_id,
            "scope": record.scopes,
            "jti": record.jti,
            "iat": now.unix_seconds(),
            "nbf": now.unix_seconds(),
            "exp": record.expires_at.unix_seconds(),
            "cnf": cnf,
            "pop_key_id": record.pop_key_id,
            "sid": record.session_id,
        });
        if let (Some(role), Some(claims)) = (&record.role, claims.as_object_mut()) {
            claims.insert("role".to_owned(), json!(role));
        }
        let token = signer.sign("at+jwt", &claims);
        if self.by_hash.len() > 10_000 {
            self.forget(now);
        }
        let record = Arc::new(record);
        self.by_hash
            .insert(sha256(token.as_bytes()), Arc::clone(&record));
        (token, record)
    }

    fn forget(&mut self, now: Moment) {
        self.by_hash
            .retain(|_, known| now < known.expires_at.plus(REMEMBERED));
        let known: HashSet<&str> = self.by_hash.values().map(|one| one.jti.as_str()).collect();
        self.revoked.retain(|jti| known.contains(jti.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(now: Moment) -> TokenRecord {
        TokenRecord {
            jti: String::new(),
            principal: "user:u".to_owned(),
            tenant_id: "t".to_owned(),
            scopes: Vec::new(),
            role: None,
            binding: Binding::Key("k".to_owned()),
            pop_key_id: "pop".to_owned(),
            session_id: "ses_1".to_owned(),
            expires_at: now.plus(Duration::from_mins(10)),
        }
    }

    /// OA-21: for the API and nobody else, named by 128 random bits and more, signed, and kept as
    /// a hash. That the answers with tokens are not stored is with the other headers.
    #[test]
    fn a_token_is_unguessable_for_one_audience_and_kept_hashed() {
        let (signer, now) = (KeyRing::generate(), Moment::from_unix_millis(0));
        let mut tokens = Tokens::default();
        let (one, _) = tokens.issue(&signer, "i", record(now), now);
        let (other, _) = tokens.issue(&signer, "i", record(now), now);
        assert_ne!(one, other);
        let claims = [&one, &other].map(|token| signer.verify("at+jwt", token, now).unwrap());
        for claims in &claims {
            assert_eq!(claims["aud"], "aegis-api");
            assert_eq!(claims["cnf"], json!({"jkt": "k"}));
            let jti = claims["jti"].as_str().unwrap();
            // 26 characters of five random bits each.
            assert!(crate::encoding::is_id(jti, "tok_"), "{jti}");
        }
        assert_ne!(claims[0]["jti"], claims[1]["jti"]);
        // A token of another kind or of another server is none.
        assert!(signer.verify("JWT", &one, now).is_none());
        assert!(KeyRing::generate().verify("at+jwt", &one, now).is_none());
        assert!(tokens.find(&sha256(one.as_bytes())).is_some());
        assert!(tokens.find(&sha256(&one.as_bytes()[1..])).is_none());
        let kept = format!("{tokens:?}");
        assert!(kept.contains("user:u"), "the search is blind");
        assert!(!kept.contains(&one) && !kept.contains(&other));
    }

    /// Whatever a key has signed is good for 120 s after the next key is there.
    #[test]
    fn a_key_that_was_rotated_out_is_published_and_good_for_the_window_only() {
        let start = Moment::from_unix_millis(0);
        let mut ring = KeyRing::generate();
        let old = ring.sign("JWT", &json!({"n": 1}));
        ring.rotate(start);
        let new = ring.sign("JWT", &json!({"n": 2}));
        let later = |seconds| start.plus(Duration::from_secs(seconds));
        let keys = |at| ring.jwks(at)["keys"].as_array().unwrap().len();
        assert_eq!((keys(later(119)), keys(later(120))), (2, 1));
        assert!(ring.verify("JWT", &old, later(119)).is_some());
        assert!(ring.verify("JWT", &old, later(120)).is_none());
        assert!(ring.verify("JWT", &new, later(120)).is_some());
    }
}
