//! A client made by hand, so that it can be as wrong as a test needs.

use aegis_mock::{Mock, Options};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

pub(crate) const GCP: [&str; 3] = ["gcp", "billing-prod", "deploy-bot"];
pub(crate) const GENERIC: [&str; 3] = ["generic", "demo-db", "reader"];
pub(crate) const OWNER: [&str; 3] = ["gcp", "billing-prod", "owner"];
pub(crate) const BOOTSTRAP: &str = "spiffe.bootstrap";
pub(crate) const TENANT: &str = "business-default";

pub(crate) async fn spawn() -> Mock {
    aegis_mock::spawn(Options::default()).await.unwrap()
}

/// A server with this text before the rest of the demo policy.
pub(crate) async fn spawn_with(settings: &str) -> Mock {
    let policy_toml = Some(policy(settings));
    let options = Options {
        policy_toml,
        ..Options::default()
    };
    aegis_mock::spawn(options).await.unwrap()
}

pub(crate) fn policy(settings: &str) -> String {
    let demo = include_str!("../../../config/aegis-mock.toml");
    let rest = demo.find("[[tenant]]").unwrap();
    format!("{settings}\n{}", &demo[rest..])
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    base64url(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

pub(crate) fn random() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes).unwrap();
    base64url(&bytes)
}

pub(crate) fn scope(action: &str, [provider, app, account]: [&str; 3]) -> String {
    format!("credential.lease.{action}:provider:{provider}:app:{app}:account:{account}")
}

pub(crate) enum Key {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn generate() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn generate_ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn alg(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        match self {
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
            }
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key().as_ref())})
            }
        }
    }

    /// RFC 7638: the members in the order of their names, which is how `json!` writes them.
    pub(crate) fn thumbprint(&self) -> String {
        sha256(self.jwk().to_string().as_bytes())
    }

    pub(crate) fn id(&self) -> String {
        format!("pop-{}", self.thumbprint())
    }

    pub(crate) fn sign_bytes(&self, signed: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(key) => {
                let signature = key.sign(&SystemRandom::new(), signed);
                signature.unwrap().as_ref().to_vec()
            }
            Self::Ed25519(key) => key.sign(signed).as_ref().to_vec(),
        }
    }

    pub(crate) fn sign(&self, header: &Value, payload: &Value) -> String {
        let signed = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(payload.to_string().as_bytes())
        );
        let signature = self.sign_bytes(signed.as_bytes());
        format!("{signed}.{}", base64url(&signature))
    }

    pub(crate) fn proof(&self, url: &str, nonce: Option<&str>, token: Option<&str>) -> String {
        let header =
            json!({"typ": "dpop+jwt", "alg": self.alg(), "kid": self.id(), "jwk": self.jwk()});
        let mut payload = json!({"htm": "POST", "htu": url, "jti": random(), "iat": now()});
        if let Some(nonce) = nonce {
            payload["nonce"] = json!(nonce);
        }
        if let Some(token) = token {
            payload["ath"] = json!(sha256(token.as_bytes()));
        }
        self.sign(&header, &payload)
    }
}

#[expect(clippy::disallowed_methods, reason = "a proof says when it was made")]
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    /// What went wrong, or `ok`.
    pub(crate) fn reason(&self) -> &str {
        if self.status == 200 {
            return "ok";
        }
        let reason = &self.body["details"][0]["debug"]["reason"];
        reason
            .as_str()
            .unwrap_or_else(|| self.body["code"].as_str().unwrap_or("no code"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        let value = self.body.pointer(pointer);
        value
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no text at {pointer} in {}", self.body))
    }
}

pub(crate) struct Client {
    base: String,
    pub(crate) key: Key,
    pub(crate) token: String,
    pub(crate) nonce: Option<String>,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(mock: &Mock) -> Self {
        Self::at(mock.api().as_str())
    }

    /// Of the server at that address.
    pub(crate) fn at(base: &str) -> Self {
        Self::over(base, reqwest::Client::builder())
    }

    /// The same without HTTP/1.1.
    pub(crate) fn at_http2(base: &str) -> Self {
        Self::over(base, reqwest::Client::builder().http2_prior_knowledge())
    }

    /// Over TLS, with a certificate and its key in PEM, or without one.
    pub(crate) fn over_tls(mock: &Mock, identity: Option<&str>) -> Self {
        let ca = reqwest::Certificate::from_pem(mock.tls_ca().as_bytes()).unwrap();
        let mut http = reqwest::Client::builder().tls_certs_only([ca]);
        if let Some(pem) = identity {
            http = http.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        Self::over(mock.tls().unwrap().as_str(), http)
    }

    fn over(base: &str, http: reqwest::ClientBuilder) -> Self {
        let http = http.no_proxy().build().unwrap();
        Self {
            base: base.trim_end_matches('/').to_owned(),
            key: Key::generate(),
            token: String::new(),
            nonce: None,
            http,
        }
    }

    /// One that has logged in for these scopes.
    pub(crate) async fn with_scopes(mock: &Mock, scopes: &[String]) -> Self {
        Self::of_person(mock, "u-demo", scopes).await
    }

    pub(crate) async fn of_person(mock: &Mock, uid: &str, scopes: &[String]) -> Self {
        let mut client = Self::new(mock);
        let codes = client.begin(&json!({ "requestedScopes": scopes })).await;
        assert_eq!(codes.reason(), "ok", "{}", codes.body);
        mock.approve_as(uid, codes.text("/userCode")).unwrap();
        client.take_token(codes.text("/deviceCode")).await;
        client
    }

    /// Exchanges a code that is approved.
    pub(crate) async fn take_token(&mut self, device_code: &str) {
        let answer = self.exchange(device_code).await;
        assert_eq!(answer.text("/status"), "success");
        answer.text("/brokerToken").clone_into(&mut self.token);
        self.nonce = answer.header("dpop-nonce").map(str::to_owned);
    }

    /// One that may do everything with these targets.
    pub(crate) async fn logged_in(mock: &Mock, targets: &[[&str; 3]]) -> Self {
        let scopes: Vec<String> = targets
            .iter()
            .flat_map(|target| ["create", "redeem", "revoke"].map(|action| scope(action, *target)))
            .collect();
        Self::with_scopes(mock, &scopes).await
    }

    pub(crate) fn path(method: &str) -> String {
        let service = if method.contains("Oauth") {
            "IdentityGatewayService"
        } else {
            "BrokerService"
        };
        format!("/aegis.v1.{service}/{method}")
    }

    pub(crate) fn url(&self, method: &str) -> String {
        format!("{}{}", self.base, Self::path(method))
    }

    /// A request that lacks nothing but its body.
    pub(crate) fn post(&self, method: &str) -> reqwest::RequestBuilder {
        self.http
            .post(self.url(method))
            .header("connect-protocol-version", "1")
            .header("content-type", "application/json")
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    pub(crate) async fn try_send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<Answer, reqwest::Error> {
        Answer::read(request.send().await?).await
    }

    pub(crate) async fn begin(&self, extra: &Value) -> Answer {
        let mut body = json!({
            "tenantId": TENANT,
            "popKeyId": self.key.id(),
            "clientDisplayName": "Test",
            "popJwk": self.key.jwk(),
        });
        merge(&mut body, extra);
        let request = self.post("BeginMcpOauthDeviceAuthorization");
        self.send(request.body(body.to_string())).await
    }

    pub(crate) async fn exchange(&self, device_code: &str) -> Answer {
        let method = "ExchangeMcpOauthDeviceAuthorization";
        let proof = self
            .key
            .proof(&self.url(method), self.nonce.as_deref(), None);
        let body = json!({
            "deviceCode": device_code,
            "popKeyId": self.key.id(),
            "requestProof": {"proofType": "dpop_jwt", "dpopJwt": proof},
        });
        self.send(self.post(method).body(body.to_string())).await
    }

    /// A call without a broker token, proven in the body by the key that is to be bound.
    pub(crate) fn unbound(&self, method: &str, extra: &Value) -> reqwest::RequestBuilder {
        let proof = self
            .key
            .proof(&self.url(method), self.nonce.as_deref(), None);
        let mut body = json!({
            "tenantId": TENANT,
            "popKeyId": self.key.id(),
            "popJwk": self.key.jwk(),
            "requestProof": {"proofType": "dpop_jwt", "dpopJwt": proof},
        });
        merge(&mut body, extra);
        self.post(method).body(body.to_string())
    }

    /// A workload's identity token for a broker token.
    pub(crate) async fn exchange_workload(&self, token: &str, extra: &Value) -> Answer {
        let mut body = json!({
            "mode": "oidc",
            "workloadToken": token,
            "nonce": random(),
            "requestedScopes": [BOOTSTRAP],
        });
        merge(&mut body, extra);
        self.send(self.unbound("ExchangeWorkloadToken", &body))
            .await
    }

    /// A person's ID token for a broker token.
    pub(crate) async fn mint(&self, id_token: &str, extra: &Value) -> Answer {
        let mut body = json!({"requestedScopes": [scope("create", GCP)]});
        merge(&mut body, extra);
        let request = self.unbound("MintUserApiToken", &body);
        self.send(request.bearer_auth(id_token)).await
    }

    /// Takes the token of an answer that has one.
    pub(crate) fn adopt(&mut self, answer: &Answer) {
        assert_eq!(answer.reason(), "ok", "{}", answer.body);
        answer.text("/brokerToken").clone_into(&mut self.token);
        self.nonce = answer.header("dpop-nonce").map(str::to_owned);
    }

    /// Any call with a token, proven in the body.
    pub(crate) fn request(&self, method: &str, body: &Value) -> reqwest::RequestBuilder {
        let proof = self
            .key
            .proof(&self.url(method), self.nonce.as_deref(), Some(&self.token));
        self.request_with(
            method,
            body,
            &json!({"proofType": "dpop_jwt", "dpopJwt": proof}),
        )
    }

    pub(crate) fn request_with(
        &self,
        method: &str,
        extra: &Value,
        proof: &Value,
    ) -> reqwest::RequestBuilder {
        let mut body = json!({"tenantId": TENANT, "requestProof": proof});
        merge(&mut body, extra);
        self.post(method)
            .header("authorization", format!("Bearer {}", self.token))
            .body(body.to_string())
    }

    pub(crate) async fn call(&self, method: &str, body: &Value) -> Answer {
        self.send(self.request(method, body)).await
    }

    pub(crate) async fn create(&self, target: [&str; 3], extra: &Value) -> Answer {
        let [provider, app, account] = target;
        let mut body = json!({"target": {"provider": provider, "app": app, "account": account}});
        merge(&mut body, extra);
        self.call("CreateCredentialLease", &body).await
    }

    /// Creates a lease; its id.
    pub(crate) async fn lease(&self, target: [&str; 3], extra: &Value) -> String {
        let answer = self.create(target, extra).await;
        assert_eq!(answer.reason(), "ok", "{}", answer.body);
        answer.text("/lease/leaseId").to_owned()
    }

    pub(crate) async fn redeem(&self, lease_id: &str) -> Answer {
        let body = json!({ "leaseId": lease_id });
        self.call("RedeemCredentialLease", &body).await
    }

    pub(crate) async fn revoke(&self, lease_id: &str) -> Answer {
        let body = json!({"leaseId": lease_id, "reason": "released"});
        self.call("RevokeCredentialLease", &body).await
    }

    pub(crate) async fn whoami(&self, provider: &str, secret: &str) -> u16 {
        let url = format!("{}/fake/{provider}/whoami", self.base);
        let response = self.http.get(url).bearer_auth(secret).send().await;
        response.unwrap().status().as_u16()
    }
}

pub(crate) fn merge(body: &mut Value, extra: &Value) {
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
}
