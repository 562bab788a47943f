//! A second opinion about the server: proofs that the crate `dpop` makes.

use aegis_broker::time::{Clock as _, SystemClock};
use dpop::proof::codec::DPoPProofJwtCodec;
use dpop::proof::essence::DPoPProofEssence;
use dpop::proof::header::DPoPProofHeader;
use dpop::proof::payload::DPoPProofClaims;
use dpop::proof::payload::ath::Ath;
use dpop::proof::payload::jti::Jti;
use http_uri::HttpUri;
use picky::jose::jwk::Jwk;
use picky::jose::jws::{JwsAlg, JwsHeader};
use picky::key::{EcCurve, PrivateKey};
use serde_json::{Value, json};

use crate::world::{BEGIN, CREATE, EXCHANGE, World};

const TENANT: &str = "business-default";

/// A client that trusts the crate with everything about proofs.
struct Client<'w> {
    world: &'w World,
    http: reqwest::Client,
    key: PrivateKey,
}

impl Client<'_> {
    fn url(&self, method: &str) -> String {
        let service = if method.contains("Oauth") {
            "IdentityGatewayService"
        } else {
            "BrokerService"
        };
        let base = self.world.mock.api();
        format!("{base}aegis.v1.{service}/{method}")
    }

    fn jwk(&self) -> Jwk {
        Jwk::from_public_key(&self.key.to_public_key().unwrap()).unwrap()
    }

    fn proof(&self, htm: &str, url: &str, nonce: Option<&str>, token: Option<&str>) -> Value {
        let mut header = JwsHeader::new(JwsAlg::ES256);
        header.typ = Some("dpop+jwt".to_owned());
        header.jwk = Some(self.jwk());
        let htu = HttpUri::try_from(url).unwrap();
        let mut claims = json!({
            "jti": &*Jti::new_from_uuid4(),
            "htm": htm,
            "htu": htu.to_string(),
            "iat": SystemClock.now().unix.as_secs(),
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        if let Some(token) = token {
            claims["ath"] = json!(&*Ath::new(token));
        }
        let claims: DPoPProofClaims = serde_json::from_value(claims).unwrap();
        let essence = DPoPProofEssence {
            header: DPoPProofHeader::try_from(header)
                .map_err(|refused| refused.error)
                .unwrap(),
            claims,
        };
        let jwt = DPoPProofJwtCodec::encode(essence, &self.key).unwrap();
        json!({"proofType": "dpop_jwt", "dpopJwt": jwt})
    }

    async fn post(&self, method: &str, token: Option<&str>, body: &Value) -> Answer {
        let mut request = self
            .http
            .post(self.url(method))
            .header("connect-protocol-version", "1")
            .header("content-type", "application/json")
            .body(body.to_string());
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let nonce = response.headers().get("dpop-nonce");
        Answer {
            status: response.status().as_u16(),
            nonce: nonce.map(|nonce| nonce.to_str().unwrap().to_owned()),
            body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap(),
        }
    }
}

struct Answer {
    status: u16,
    nonce: Option<String>,
    body: Value,
}

impl Answer {
    fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap()
    }
}

/// DP-1 to DP-8: good proofs of the crate `dpop` pass, its bad ones do not.
#[tokio::test(start_paused = true)]
async fn the_server_takes_the_dpop_crates_proofs() {
    let world = World::new().await;
    let client = Client {
        world: &world,
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        key: PrivateKey::generate_ec(EcCurve::NistP256).unwrap(),
    };
    let jwk = serde_json::to_value(client.jwk()).unwrap();
    let begun = client
        .post(
            BEGIN,
            None,
            &json!({
                "tenantId": TENANT,
                "popKeyId": "second-opinion",
                "clientDisplayName": "Second opinion",
                "popJwk": {"kty": jwk["kty"], "crv": jwk["crv"], "x": jwk["x"], "y": jwk["y"]},
            }),
        )
        .await;
    assert_eq!(begun.status, 200, "{}", begun.body);
    world.mock.approve(begun.text("/userCode")).unwrap();
    let exchanged = client
        .post(
            EXCHANGE,
            None,
            &json!({
                "deviceCode": begun.text("/deviceCode"),
                "popKeyId": "second-opinion",
                "requestProof": client.proof("POST", &client.url(EXCHANGE), None, None),
            }),
        )
        .await;
    assert_eq!(exchanged.text("/status"), "success");
    let token = exchanged.text("/brokerToken");
    let nonce = exchanged.nonce.as_deref();
    let url = client.url(CREATE);
    let elsewhere = client.url(EXCHANGE);
    let rows = [
        ("good", 200, client.proof("POST", &url, nonce, Some(token))),
        (
            "another method",
            401,
            client.proof("GET", &url, nonce, Some(token)),
        ),
        (
            "another url",
            401,
            client.proof("POST", &elsewhere, nonce, Some(token)),
        ),
        (
            "no nonce",
            401,
            client.proof("POST", &url, None, Some(token)),
        ),
        (
            "foreign nonce",
            401,
            client.proof("POST", &url, Some("n-x"), Some(token)),
        ),
        (
            "no token hash",
            401,
            client.proof("POST", &url, nonce, None),
        ),
        (
            "another token",
            401,
            client.proof("POST", &url, nonce, Some("other")),
        ),
    ];
    for (name, status, proof) in rows {
        let body = json!({
            "tenantId": TENANT,
            "target": {"provider": "gcp", "app": "billing-prod", "account": "deploy-bot"},
            "requestProof": proof,
        });
        let answer = client.post(CREATE, Some(token), &body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        let again = client.post(CREATE, Some(token), &body).await;
        assert_eq!(again.status, 401, "{name}, once more: {}", again.body);
    }
    assert_eq!(world.mock.leases().len(), 1);
}
