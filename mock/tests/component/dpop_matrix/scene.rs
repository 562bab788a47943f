//! A server and a caller who has all that a good request needs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aegis_mock::{Check, Mock, Options};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::client::{BOOTSTRAP, Client, GCP, Key, TENANT, policy, random, scope, spawn};
use crate::workload::{BEGIN, answer_to, plain_csr, token};

/// The RPCs that want a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rpc {
    Exchange,
    Create,
    Redeem,
    Revoke,
    Mint,
    ExchangeWorkload,
    BeginBootstrap,
    CompleteBootstrap,
    ListEvents,
    RevokeAccess,
}

impl Rpc {
    pub(crate) const ALL: [Self; 10] = [
        Self::Exchange,
        Self::Create,
        Self::Redeem,
        Self::Revoke,
        Self::Mint,
        Self::ExchangeWorkload,
        Self::BeginBootstrap,
        Self::CompleteBootstrap,
        Self::ListEvents,
        Self::RevokeAccess,
    ];

    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Exchange => "ExchangeMcpOauthDeviceAuthorization",
            Self::Create => "CreateCredentialLease",
            Self::Redeem => "RedeemCredentialLease",
            Self::Revoke => "RevokeCredentialLease",
            Self::Mint => "MintUserApiToken",
            Self::ExchangeWorkload => "ExchangeWorkloadToken",
            Self::BeginBootstrap => "BeginSpiffeBootstrap",
            Self::CompleteBootstrap => "CompleteSpiffeBootstrap",
            Self::ListEvents => "ListBrokerAuditEvents",
            Self::RevokeAccess => "RevokeBrokerAccess",
        }
    }

    /// Whether its proof goes with a broker token; else the code, or the request's own key, says
    /// whose proof it has to be.
    pub(crate) fn has_token(self) -> bool {
        !matches!(self, Self::Exchange | Self::Mint | Self::ExchangeWorkload)
    }

    /// Whether a success ends the token that it was made with: it cannot be made twice.
    pub(crate) fn ends_its_token(self) -> bool {
        self == Self::RevokeAccess
    }
}

/// Whether a proof beside a token needs a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceRule {
    Required,
    /// One may be left out. One that is there still has to be good.
    Optional,
}

/// See the module.
pub(crate) struct Scene {
    pub(crate) rule: NonceRule,
    pub(crate) client: Client,
    /// A current one.
    pub(crate) nonce: String,
    /// One that was good once.
    pub(crate) old_nonce: String,
    /// A current one of another server.
    pub(crate) foreign_nonce: String,
    /// Of the same key.
    pub(crate) expired_token: String,
    pub(crate) token_of_ended_session: String,
    /// Of the same key, for the bootstrap.
    bootstrap_token: String,
    /// A person's, for a mint.
    pub(crate) id_token: String,
    device_code: String,
    /// What answers any challenge.
    csr: Vec<u8>,
    numbers: AtomicU32,
    /// And how many redemptions may be left of it.
    lease: Mutex<(String, u32)>,
    pub(crate) mock: Mock,
}

impl Scene {
    pub(crate) async fn set(rule: NonceRule, leave_out: Option<Check>, key: Key) -> Self {
        let required = rule == NonceRule::Required;
        let settings = format!(
            "[throttle]\nenabled = false\n[strictness]\nhost = false\nnonce_required = {required}\n"
        );
        let brief = "[[user]]\nuid = \"u-brief\"\ntenants = [\"business-default\"]\nmax_session_seconds = 60\n";
        let mock = aegis_mock::spawn(Options {
            policy_toml: Some(format!("{}\n{brief}", policy(&settings))),
            leave_out,
            ..Options::default()
        })
        .await
        .unwrap();

        let mut client = Client::new(&mock);
        client.key = key;
        let minute = json!({"requestedTtlSeconds": 60});
        let expired_token = log_in(&mock, &mut client, "u-demo", &minute).await;
        let token_of_ended_session = log_in(&mock, &mut client, "u-brief", &json!({})).await;
        mock.advance(Duration::from_secs(61));
        client.token = log_in(&mock, &mut client, "u-demo", &json!({})).await;

        let old_nonce = client.nonce.take().unwrap();
        mock.rotate_nonce();
        let asked = client.create(GCP, &json!({})).await;
        let nonce = asked.header("dpop-nonce").unwrap().to_owned();
        client.nonce = Some(nonce.clone());

        let elsewhere = spawn().await;
        let mut stranger = Client::new(&elsewhere);
        log_in(&elsewhere, &mut stranger, "u-demo", &json!({})).await;

        let bootstrap = json!({"requestedScopes": [BOOTSTRAP]});
        let bootstrap_token = log_in(&mock, &mut client, "u-demo", &bootstrap).await;
        client.nonce = Some(nonce.clone());
        let code = client.begin(&json!({})).await;
        Self {
            bootstrap_token,
            id_token: mock.demo_id_token(),
            csr: plain_csr(&KeyPair::generate().unwrap()),
            rule,
            nonce,
            old_nonce,
            foreign_nonce: stranger.nonce.unwrap(),
            expired_token,
            token_of_ended_session,
            device_code: code.text("/deviceCode").to_owned(),
            numbers: AtomicU32::new(0),
            lease: Mutex::default(),
            client,
            mock,
        }
    }

    /// Counts up.
    pub(crate) fn next_number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What the RPC needs besides a proof, so that a good one is answered with `ok`.
    pub(crate) async fn message(&self, rpc: Rpc) -> Value {
        let [provider, app, account] = GCP;
        match rpc {
            Rpc::Exchange => json!({"deviceCode": self.device_code}),
            Rpc::Create => json!({
                "tenantId": TENANT,
                "target": {"provider": provider, "app": app, "account": account},
            }),
            Rpc::Redeem => json!({"tenantId": TENANT, "leaseId": self.lease().await}),
            Rpc::Revoke => json!({
                "tenantId": TENANT, "leaseId": self.lease().await, "reason": "released",
            }),
            Rpc::Mint => json!({
                "tenantId": TENANT, "requestedScopes": [scope("create", GCP)],
                "popKeyId": self.client.key.id(), "popJwk": self.client.key.jwk(),
            }),
            Rpc::ExchangeWorkload => json!({
                "tenantId": TENANT, "mode": "oidc", "requestedScopes": [BOOTSTRAP],
                "workloadToken": token(&self.mock, &json!({})), "nonce": random(),
                "popKeyId": self.client.key.id(), "popJwk": self.client.key.jwk(),
            }),
            Rpc::BeginBootstrap => json!({"tenantId": TENANT, "workloadName": "host-01"}),
            Rpc::CompleteBootstrap => {
                let mut message = self.challenge().await;
                message["tenantId"] = json!(TENANT);
                message
            }
            Rpc::ListEvents => json!({"tenantId": TENANT, "pageSize": 1}),
            Rpc::RevokeAccess => json!({
                "tenantId": TENANT, "target": "token", "reason": "released",
            }),
        }
    }

    /// The token that goes with a call of this RPC.
    pub(crate) async fn token(&self, rpc: Rpc) -> String {
        match rpc {
            Rpc::BeginBootstrap | Rpc::CompleteBootstrap => self.bootstrap_token.clone(),
            // One that may end.
            Rpc::RevokeAccess => {
                let wish = json!({"requestedScopes": [scope("create", GCP)]});
                let answer = self.client.mint(&self.id_token, &wish).await;
                answer.text("/brokerToken").to_owned()
            }
            Rpc::Create | Rpc::Redeem | Rpc::Revoke | Rpc::ListEvents => self.client.token.clone(),
            // The code or the identity is who they are.
            Rpc::Exchange | Rpc::Mint | Rpc::ExchangeWorkload => String::new(),
        }
    }

    /// An answer to a challenge that was not answered yet.
    async fn challenge(&self) -> Value {
        let message = json!({"tenantId": TENANT, "workloadName": "host-01"});
        let client = &self.client;
        let nonce = Some(self.nonce.as_str());
        let url = client.url(BEGIN);
        let proof = client.key.proof(&url, nonce, Some(&self.bootstrap_token));
        let mut body = message;
        body["requestProof"] = json!({"proofType": "dpop_jwt", "dpopJwt": proof});
        let request = client.post(BEGIN).bearer_auth(&self.bootstrap_token);
        let answer = client.send(request.body(body.to_string())).await;
        assert_eq!(answer.reason(), "ok", "{}", answer.body);
        answer_to(&answer, &self.csr)
    }

    /// One that serves ten times; it does not mind being revoked more than once.
    async fn lease(&self) -> String {
        {
            let mut lease = self.lease.lock().unwrap();
            if lease.1 > 0 {
                lease.1 -= 1;
                return lease.0.clone();
            }
        }
        let id = self.client.lease(GCP, &json!({"maxRedemptions": 10})).await;
        *self.lease.lock().unwrap() = (id.clone(), 9);
        id
    }

    /// Forgets the lease that another RPC may have ended.
    pub(crate) fn drop_lease(&self) {
        *self.lease.lock().unwrap() = <(String, u32)>::default();
    }
}

async fn log_in(mock: &Mock, client: &mut Client, uid: &str, extra: &Value) -> String {
    let scopes = ["create", "redeem", "revoke"].map(|action| scope(action, GCP));
    let mut wish = json!({"requestedScopes": scopes});
    for (name, value) in extra.as_object().unwrap() {
        wish[name] = value.clone();
    }
    let begun = client.begin(&wish).await;
    mock.approve_as(uid, begun.text("/userCode")).unwrap();
    let answer = client.exchange(begun.text("/deviceCode")).await;
    client.nonce = answer.header("dpop-nonce").map(str::to_owned);
    answer.text("/brokerToken").to_owned()
}
