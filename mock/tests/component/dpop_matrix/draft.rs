//! A request as a row of the table wants it: good, but for what the row spoils.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::scene::{NonceRule, Rpc, Scene};
use crate::client::{Key, base64url, now, random, sha256};

/// Where a proof travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Body,
    Header,
}

impl Carrier {
    pub(crate) const ALL: [Self; 2] = [Self::Body, Self::Header];
}

/// How many proofs there are, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Places {
    One,
    Nowhere,
    /// Where the other scheme has it.
    Crossed,
    SameInBoth,
    OthersInBoth,
    SameTwiceInHeaders,
    OthersInHeaders,
}

/// Who signs.
pub(crate) enum Signer {
    /// The key that is registered.
    Own,
    Another(Key),
    /// ES384, by a key of that curve in `jwk`.
    Es384,
    /// `EdDSA`, by such a key in `jwk`.
    Ed25519,
    /// HS256, with the public key's text for a secret.
    PublicKeyAsSecret,
}

type Sign<'k> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'k>;

/// See the module.
pub(crate) struct Draft<'s> {
    pub(crate) scene: &'s Scene,
    pub(crate) rpc: Rpc,
    /// What the proof goes with; empty where that is no broker token.
    pub(crate) token: String,
    pub(crate) header: Value,
    pub(crate) payload: Value,
    /// In place of the two, where they are to be no JSON.
    pub(crate) header_bytes: Option<Vec<u8>>,
    pub(crate) payload_bytes: Option<Vec<u8>>,
    pub(crate) signer: Signer,
    /// What happens to the JWS once it is signed.
    pub(crate) spoil: Option<fn(&str) -> String>,
    spoil_parts: Option<fn([&str; 3]) -> String>,
    pub(crate) places: Places,
    /// Where the proof was sent and accepted before.
    pub(crate) first: Option<Carrier>,
    /// In place of the token's header.
    pub(crate) authorization: Option<Vec<String>>,
    pub(crate) host: Option<&'static str>,
    /// More members of `requestProof`.
    pub(crate) members: Value,
    /// What happens to the text of the body.
    pub(crate) body: Option<fn(&str) -> String>,
}

impl<'s> Draft<'s> {
    /// One that lacks nothing.
    pub(crate) async fn new(scene: &'s Scene, rpc: Rpc) -> Self {
        Self::with_token(scene, rpc, scene.token(rpc).await)
    }

    fn with_token(scene: &'s Scene, rpc: Rpc, token: String) -> Self {
        let client = &scene.client;
        let header = json!({
            "typ": "dpop+jwt", "alg": client.key.alg(), "kid": client.key.id(), "jwk": client.key.jwk(),
        });
        let mut payload = json!({
            "htm": "POST", "htu": client.url(rpc.method()), "jti": random(), "iat": now(),
        });
        if rpc.has_token() {
            payload["ath"] = json!(sha256(token.as_bytes()));
        }
        if scene.rule == NonceRule::Required {
            payload["nonce"] = json!(scene.nonce);
        }
        Self {
            scene,
            rpc,
            token,
            header,
            payload,
            header_bytes: None,
            payload_bytes: None,
            signer: Signer::Own,
            spoil: None,
            spoil_parts: None,
            places: Places::One,
            first: None,
            authorization: None,
            host: None,
            members: json!({}),
            body: None,
        }
    }

    /// The token is another one of the same key's, and the proof is for it.
    pub(crate) fn use_token(&mut self, token: &str, carrier_scheme: &str) {
        self.payload["ath"] = json!(sha256(token.as_bytes()));
        self.authorization = Some(vec![format!("{carrier_scheme} {token}")]);
    }

    /// What happens to its three parts, instead.
    pub(crate) fn spoil_parts(&mut self, spoil: fn([&str; 3]) -> String) {
        self.spoil_parts = Some(spoil);
    }

    /// The proof, signed and spoiled.
    pub(crate) fn seal(&mut self) -> String {
        let key = &self.scene.client.key;
        let sign: Sign<'_> = match &self.signer {
            Signer::Own => Box::new(|signed| key.sign_bytes(signed)),
            Signer::Another(other) => Box::new(|signed| other.sign_bytes(signed)),
            Signer::Es384 => {
                let other = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
                let point = other.public_key().as_ref();
                self.header["jwk"] = json!({
                    "kty": "EC", "crv": "P-384",
                    "x": base64url(&point[1..49]), "y": base64url(&point[49..]),
                });
                Box::new(move |signed| {
                    let signature = other.sign(&SystemRandom::new(), signed).unwrap();
                    signature.as_ref().to_vec()
                })
            }
            Signer::Ed25519 => {
                let other = Ed25519KeyPair::generate().unwrap();
                let x = base64url(other.public_key().as_ref());
                self.header["jwk"] = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
                Box::new(move |signed| other.sign(signed).as_ref().to_vec())
            }
            Signer::PublicKeyAsSecret => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, key.jwk().to_string().as_bytes());
                Box::new(move |signed| hmac::sign(&secret, signed).as_ref().to_vec())
            }
        };
        let text = |bytes: &Option<Vec<u8>>, json: &Value| match bytes {
            Some(bytes) => base64url(bytes),
            None => base64url(json.to_string().as_bytes()),
        };
        let header = text(&self.header_bytes, &self.header);
        let payload = text(&self.payload_bytes, &self.payload);
        let signed = format!("{header}.{payload}");
        let signature = base64url(&sign(signed.as_bytes()));
        let jws = format!("{signed}.{signature}");
        match (self.spoil, self.spoil_parts) {
            (Some(spoil), _) => spoil(&jws),
            (None, Some(spoil)) => spoil([&header, &payload, &signature]),
            (None, None) => jws,
        }
    }

    /// Another proof that lacks nothing.
    fn spare(&self) -> String {
        Self::with_token(self.scene, self.rpc, self.token.clone()).seal()
    }

    /// The request, and before it the one that has to be accepted first.
    pub(crate) async fn requests(
        mut self,
        carrier: Carrier,
    ) -> (Option<reqwest::RequestBuilder>, reqwest::RequestBuilder) {
        let proof = self.seal();
        let in_body = || (Some(proof.clone()), Vec::new());
        let in_header = || (None, vec![proof.clone()]);
        let (body, headers) = match (self.places, carrier) {
            (Places::One, Carrier::Body) | (Places::Crossed, Carrier::Header) => in_body(),
            (Places::One, Carrier::Header) | (Places::Crossed, Carrier::Body) => in_header(),
            (Places::Nowhere, _) => (None, Vec::new()),
            (Places::SameInBoth, _) => (Some(proof.clone()), vec![proof.clone()]),
            (Places::OthersInBoth, _) => (Some(proof.clone()), vec![self.spare()]),
            (Places::SameTwiceInHeaders, _) => (None, vec![proof.clone(), proof.clone()]),
            (Places::OthersInHeaders, _) => (None, vec![proof.clone(), self.spare()]),
        };
        let first = match self.first {
            Some(Carrier::Body) => {
                let (body, headers) = in_body();
                Some(self.request(Carrier::Body, body, headers).await)
            }
            Some(Carrier::Header) => {
                let (body, headers) = in_header();
                Some(self.request(Carrier::Header, body, headers).await)
            }
            None => None,
        };
        (first, self.request(carrier, body, headers).await)
    }

    async fn request(
        &self,
        carrier: Carrier,
        in_body: Option<String>,
        in_headers: Vec<String>,
    ) -> reqwest::RequestBuilder {
        let mut message = self.scene.message(self.rpc).await;
        if let Some(proof) = in_body {
            message["requestProof"] = json!({"proofType": "dpop_jwt", "dpopJwt": proof});
            for (name, value) in self.members.as_object().unwrap() {
                message["requestProof"][name] = value.clone();
            }
        }
        let text = message.to_string();
        let text = self.body.map_or(text.clone(), |spoil| spoil(&text));
        let client = &self.scene.client;
        let mut request = client.post(self.rpc.method()).body(text);
        let authorization = match (&self.authorization, self.rpc.has_token()) {
            (Some(values), _) => values.clone(),
            (None, true) => vec![format!("{} {}", scheme(carrier), self.token)],
            (None, false) if self.rpc == Rpc::Mint => {
                vec![format!("Bearer {}", self.scene.id_token)]
            }
            (None, false) => Vec::new(),
        };
        for value in authorization {
            request = request.header("authorization", value);
        }
        for proof in in_headers {
            request = request.header("dpop", proof);
        }
        if let Some(host) = self.host {
            request = request.header("host", host);
        }
        request
    }
}

pub(crate) fn scheme(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Body => "Bearer",
        Carrier::Header => "DPoP",
    }
}
