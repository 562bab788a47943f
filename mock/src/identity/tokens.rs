//! Tokens: signed for the reader, remembered by hash for ourselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::clock::Moment;
use crate::encoding::{Hash, base64url, from_base64url, random_id, sha256};
use crate::jwk::PublicKey;

/// Expired tokens are known as such for a day.
const REMEMBERED: Duration = Duration::from_hours(24);

/// The server's own signing key.
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

    /// The public half, as `jwks.json`.
    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y,
            "kid": self.kid, "use": "sig", "alg": "ES256",
        }]})
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
        let key = PublicKey::from_members("EC", "P-256", &self.x, Some(&self.y))?;
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

/// What a broker token stands for.
#[derive(Debug)]
pub(crate) struct TokenRecord {
    pub(crate) principal: String,
    pub(crate) tenant_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) role: Option<String>,
    pub(crate) jkt: String,
    pub(crate) pop_key_id: String,
    pub(crate) session_id: String,
    pub(crate) session_expires_at: Moment,
    pub(crate) expires_at: Moment,
}

/// The tokens issued so far.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    by_hash: HashMap<Hash, Arc<TokenRecord>>,
    /// Tenant and `pop_key_id` to thumbprint.
    keys: HashMap<(String, String), String>,
}

impl Tokens {
    pub(crate) fn find(&self, hash: &Hash) -> Option<Arc<TokenRecord>> {
        self.by_hash.get(hash).map(Arc::clone)
    }

    /// Binds a key's name to the key; `false` if it names another.
    pub(crate) fn register_key(&mut self, tenant_id: &str, pop_key_id: &str, jkt: &str) -> bool {
        let name = (tenant_id.to_owned(), pop_key_id.to_owned());
        self.keys.entry(name).or_insert_with(|| jkt.to_owned()) == jkt
    }

    /// Issues a token.
    pub(crate) fn issue(
        &mut self,
        signer: &Signer,
        issuer: &str,
        record: TokenRecord,
        now: Moment,
    ) -> (String, Arc<TokenRecord>) {
        let mut claims = json!({
            "iss": issuer,
            "sub": record.principal,
            "aud": "aegis-api",
            "tenant_id": record.tenant_id,
            "scope": record.scopes,
            "jti": random_id("tok_"),
            "iat": now.unix_seconds(),
            "nbf": now.unix_seconds(),
            "exp": record.expires_at.unix_seconds(),
            "cnf": {"jkt": record.jkt},
            "pop_key_id": record.pop_key_id,
            "sid": record.session_id,
        });
        if let (Some(role), Some(claims)) = (&record.role, claims.as_object_mut()) {
            claims.insert("role".to_owned(), json!(role));
        }
        let token = signer.sign("at+jwt", &claims);
        if self.by_hash.len() > 10_000 {
            self.by_hash
                .retain(|_, known| now < known.expires_at.plus(REMEMBERED));
        }
        let record = Arc::new(record);
        self.by_hash
            .insert(sha256(token.as_bytes()), Arc::clone(&record));
        (token, record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(now: Moment) -> TokenRecord {
        TokenRecord {
            principal: "user:u".to_owned(),
            tenant_id: "t".to_owned(),
            scopes: Vec::new(),
            role: None,
            jkt: "k".to_owned(),
            pop_key_id: "pop".to_owned(),
            session_id: "ses_1".to_owned(),
            session_expires_at: now.plus(REMEMBERED),
            expires_at: now.plus(Duration::from_mins(10)),
        }
    }

    /// OA-21: for the API and nobody else, named by 128 random bits and more, signed, and kept as
    /// a hash. That the answers with tokens are not stored is with the other headers.
    #[test]
    fn a_token_is_unguessable_for_one_audience_and_kept_hashed() {
        let (signer, now) = (Signer::generate(), Moment::from_unix_millis(0));
        let mut tokens = Tokens::default();
        let (one, _) = tokens.issue(&signer, "i", record(now), now);
        let (other, _) = tokens.issue(&signer, "i", record(now), now);
        assert_ne!(one, other);
        let claims = [&one, &other].map(|token| signer.verify("at+jwt", token).unwrap());
        for claims in &claims {
            assert_eq!(claims["aud"], "aegis-api");
            assert_eq!(claims["cnf"], json!({"jkt": "k"}));
            let jti = claims["jti"].as_str().unwrap();
            // 26 characters of five random bits each.
            assert!(crate::encoding::is_id(jti, "tok_"), "{jti}");
        }
        assert_ne!(claims[0]["jti"], claims[1]["jti"]);
        // A token of another kind or of another server is none.
        assert!(signer.verify("JWT", &one).is_none());
        assert!(Signer::generate().verify("at+jwt", &one).is_none());
        assert!(tokens.find(&sha256(one.as_bytes())).is_some());
        assert!(tokens.find(&sha256(&one.as_bytes()[1..])).is_none());
        let kept = format!("{tokens:?}");
        assert!(kept.contains("user:u"), "the search is blind");
        assert!(!kept.contains(&one) && !kept.contains(&other));
    }
}
