//! A lease without a broker: reqwest, a token and a proof, the same requests byte for byte but for
//! what is random.

use std::sync::Arc;
use std::time::Duration;

use aegis_broker::aegis::{AegisClient, AegisSettings, Network};
use aegis_broker::broker::ports::{
    AegisService as _, BeginDeviceAuthorization, DeviceExchange, Session,
};
use aegis_broker::dpop::{Htm, Htu, Nonce, Proof, ProofClaims, TokenHash};
use aegis_broker::model::{Action, CleanText, Scope, Selector, TenantId};
use aegis_broker::time::{Clock as _, SystemClock};
use aegis_mock::Mock;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::args::Failed;
use crate::clock::nanos;
use crate::house::SELECTOR;
use crate::load::{Run, histogram};
use crate::machine::Usage;

const TENANT: &str = "business-default";

/// As the daemon says it.
const TIMEOUT_MS: &str = "29999";

/// A client that is logged in.
#[derive(Debug)]
pub(crate) struct Bare {
    client: reqwest::Client,
    session: Session,
    token_hash: TokenHash,
    nonce: Option<Nonce>,
    create: Endpoint,
    revoke: Endpoint,
    runtime: Runtime,
}

#[derive(Debug, Clone)]
struct Endpoint {
    url: Url,
    htu: Htu,
}

impl Endpoint {
    fn of(mock: &Mock, method: &str) -> Result<Self, Failed> {
        let url = mock.api().join("aegis.v1.BrokerService/")?.join(method)?;
        let htu = Htu::new(&url)?;
        Ok(Self { url, htu })
    }
}

/// A body with its proof, ready to go.
struct Ready {
    body: String,
}

impl Bare {
    /// Logs in as the daemon does; from then on it goes its own way.
    pub(crate) fn log_in(mock: &Mock) -> Result<Self, Failed> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let session = runtime.block_on(session(mock))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .build()?;
        let mut bare = Self {
            client,
            token_hash: TokenHash::of(&session.token),
            session,
            nonce: None,
            create: Endpoint::of(mock, "CreateCredentialLease")?,
            revoke: Endpoint::of(mock, "RevokeCredentialLease")?,
            runtime,
        };
        // Without a nonce it is refused, and told one.
        let ready = bare.create_request()?;
        bare.post(&bare.create.clone(), ready)?;
        Ok(bare)
    }

    pub(crate) fn make_with_ready_proofs(&mut self, count: u32) -> Result<Run, Failed> {
        let ready: Result<Vec<_>, Failed> = (0..count).map(|_| self.create_request()).collect();
        let mut ready = ready?.into_iter();
        self.timed(count, |_| Ok(ready.next().ok_or("no proof is left")?))
    }

    pub(crate) fn make(&mut self, count: u32) -> Result<Run, Failed> {
        self.timed(count, Self::create_request)
    }

    fn timed(
        &mut self,
        count: u32,
        mut request: impl FnMut(&Self) -> Result<Ready, Failed>,
    ) -> Result<Run, Failed> {
        let endpoint = self.create.clone();
        // Opens the connection, and asks for the newest nonce.
        let warm = self.create_request()?;
        let mut replies = vec![self.post(&endpoint, warm)?];
        let mut times = histogram()?;
        let used = Usage::of_this_thread();
        let begun = nanos();
        for _ in 0..count {
            let at = nanos();
            let ready = request(self)?;
            let reply = self.post(&endpoint, ready)?;
            times.saturating_record(nanos().saturating_sub(at));
            replies.push(reply);
        }
        let elapsed = nanos().saturating_sub(begun);
        let used = Usage::of_this_thread().since(&used);
        let made: Vec<_> = replies.iter().filter_map(|reply| lease_id(reply)).collect();
        for lease in &made {
            self.end(lease)?;
        }
        let missing = replies.len().saturating_sub(made.len());
        Ok(Run {
            times,
            elapsed,
            errors: u64::try_from(missing)?,
            used,
        })
    }

    fn end(&mut self, lease: &str) -> Result<(), Failed> {
        let endpoint = self.revoke.clone();
        let proof = self.proof(&endpoint)?;
        let body = format!(
            r#"{{"tenantId":"{TENANT}","leaseId":"{lease}","reason":"user_request",{}}}"#,
            self.carried(&proof)
        );
        let reply = self.post(&endpoint, Ready { body })?;
        if lease_id(&reply).is_none() {
            return Err("a lease was not revoked".into());
        }
        Ok(())
    }

    fn create_request(&self) -> Result<Ready, Failed> {
        let proof = self.proof(&self.create)?;
        let mut random = [0; 18];
        aws_lc_rs::rand::fill(&mut random).map_err(|_no_detail| "no random bytes")?;
        let key = URL_SAFE_NO_PAD.encode(random);
        let body = format!(
            r#"{{"tenantId":"{TENANT}","target":{{"provider":"gcp","app":"billing-prod","account":"deploy-bot"}},"requestedTtlSeconds":840,"maxRedemptions":1,"idempotencyKey":"ik_{key}",{}}}"#,
            self.carried(&proof)
        );
        Ok(Ready { body })
    }

    fn proof(&self, endpoint: &Endpoint) -> Result<Proof, Failed> {
        Ok(Proof::sign(
            &self.session.key,
            &ProofClaims {
                htm: Htm::Post,
                htu: &endpoint.htu,
                issued_at: SystemClock.now().unix,
                nonce: self.nonce.as_ref(),
                token_hash: Some(&self.token_hash),
            },
        )?)
    }

    /// The member that carries a proof.
    fn carried(&self, proof: &Proof) -> String {
        let nonce = self.nonce.as_ref().map_or_else(String::new, |nonce| {
            format!(r#","nonce":"{}""#, nonce.as_str())
        });
        format!(
            r#""requestProof":{{"proofType":"dpop_jwt","dpopJwt":"{}"{nonce}}}"#,
            proof.jwt()
        )
    }

    /// Sends it and reads the whole answer, whatever it is. Remembers the nonce that came with it.
    fn post(&mut self, endpoint: &Endpoint, ready: Ready) -> Result<Vec<u8>, Failed> {
        let request = self
            .client
            .post(endpoint.url.clone())
            .header("connect-protocol-version", "1")
            .header("connect-timeout-ms", TIMEOUT_MS)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(
                AUTHORIZATION,
                format!("Bearer {}", self.session.token.expose()),
            )
            .body(ready.body);
        let (nonce, body) = self.runtime.block_on(async {
            let response = request.send().await?;
            let nonce = response.headers().get("dpop-nonce").cloned();
            Ok::<_, reqwest::Error>((nonce, response.bytes().await?.to_vec()))
        })?;
        if let Some(nonce) = nonce.as_ref().and_then(|nonce| nonce.to_str().ok()) {
            self.nonce = Some(Nonce::parse(nonce)?);
        }
        Ok(body)
    }
}

fn lease_id(reply: &[u8]) -> Option<String> {
    let reply: Value = serde_json::from_slice(reply).ok()?;
    let id = reply.pointer("/lease/leaseId")?.as_str()?;
    Some(id.to_owned())
}

/// A login of the client's own.
async fn session(mock: &Mock) -> Result<Session, Failed> {
    let settings = AegisSettings {
        base_url: mock.api().clone(),
        allow_insecure_loopback: true,
        allow_missing_token_info: false,
        network: Network::default(),
        renewing: None,
    };
    let aegis = AegisClient::new(settings, Arc::new(SystemClock))?;
    let scopes = [Action::Create, Action::Redeem, Action::Revoke];
    let scopes = scopes.into_iter().map(|action| {
        let selector = Selector::parse(SELECTOR)?;
        Ok(Scope { action, selector })
    });
    let begun = aegis.begin_device_authorization(BeginDeviceAuthorization {
        tenant: TenantId::parse(TENANT)?,
        scopes: scopes.collect::<Result<_, Failed>>()?,
        token_ttl: Duration::from_mins(15),
        renews: false,
        client_display_name: CleanText::new("bare", 64),
    });
    let refused = |_failure| "the bare client could not log in";
    let authorization = Arc::new(begun.await.outcome.map_err(refused)?);
    mock.approve(authorization.user_code.as_str())?;
    // The server takes no poll before the interval is over.
    tokio::time::sleep(authorization.interval).await;
    let exchanged = aegis.exchange_device_authorization(authorization).await;
    match exchanged.outcome.map_err(refused)? {
        DeviceExchange::Success(session) => Ok(*session),
        DeviceExchange::Pending { .. }
        | DeviceExchange::SlowDown { .. }
        | DeviceExchange::AccessDenied
        | DeviceExchange::ExpiredToken => Err("the bare client was not let in".into()),
    }
}
