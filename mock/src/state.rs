//! All that the server remembers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use url::Url;

use crate::audit::{Entry, Ledger};
use crate::broker::PageSeal;
use crate::broker::leases::Leases;
use crate::call::Call;
use crate::clock::Clock;
use crate::dpop::nonce::Nonces;
use crate::dpop::replay::Replays;
use crate::errors::{Reason, Refusal};
use crate::fault::Faults;
use crate::identity::device::Logins;
use crate::identity::keys::KeyRegistry;
use crate::identity::sessions;
use crate::identity::tokens::{KeyRing, Tokens};
use crate::idp::Idp;
use crate::journal::Journal;
use crate::once::Once;
use crate::page::{PageCheck, Password, Sessions};
use crate::policy::Policy;
use crate::revocations::StateFile;
use crate::spiffe_ca::{Challenges, SpiffeCa, Svids};
use crate::throttle::Throttle;

/// A secret that was handed out, for leak scans.
#[derive(Clone, PartialEq, Eq, serde::Serialize)]
pub struct SecretRecord {
    /// `device_code`, `broker_token`, `bootstrap_token`, `challenge_token`, `id_token`,
    /// `workload_token`, `authorization_code`, or the name of a material's field.
    pub kind: String,
    /// The secret.
    pub value: String,
}

impl std::fmt::Debug for SecretRecord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SecretRecord")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The server, without its sockets.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) api: Url,
    pub(crate) clock: Clock,
    pub(crate) spiffe_ca: SpiffeCa,
    pub(crate) journal: Journal,
    /// Of everybody who signs in at the page.
    pub(crate) password: Password,
    /// Where revocations outlive this process, if they do.
    pub(crate) state_file: Option<StateFile>,
    /// What a test has left out of the page.
    pub(crate) page_without: Option<PageCheck>,
    /// Whether a header may name a person in place of an ID token.
    pub(crate) allow_insecure_user: bool,
    // One lock for everything makes each step of a call one point in time. It
    // is held for table look-ups and a signature, never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) policy: Policy,
    pub(crate) logins: Logins,
    /// Who has signed in at the page.
    pub(crate) sessions: Sessions,
    /// What logins, mints and workload exchanges have started.
    pub(crate) broker_sessions: sessions::Sessions,
    /// Signs broker tokens.
    pub(crate) signer: KeyRing,
    pub(crate) tokens: Tokens,
    pub(crate) keys: KeyRegistry,
    pub(crate) idp: Idp,
    pub(crate) challenges: Challenges,
    pub(crate) svids: Svids,
    pub(crate) once: Once,
    pub(crate) page_seal: PageSeal,
    pub(crate) leases: Leases,
    pub(crate) ledger: Ledger,
    pub(crate) throttle: Throttle,
    pub(crate) nonces: Nonces,
    pub(crate) replays: Replays,
    pub(crate) faults: Faults,
    pub(crate) secrets: Vec<SecretRecord>,
}

impl State {
    fn new(policy: Policy) -> Self {
        let mut ledger = Ledger::default();
        ledger.monitor.set_limits(policy.anomaly.clone());
        Self {
            policy,
            logins: Logins::default(),
            sessions: Sessions::default(),
            broker_sessions: sessions::Sessions::default(),
            signer: KeyRing::generate(),
            tokens: Tokens::default(),
            keys: KeyRegistry::default(),
            idp: Idp::default(),
            challenges: Challenges::default(),
            svids: Svids::default(),
            once: Once::default(),
            page_seal: PageSeal::default(),
            leases: Leases::default(),
            ledger,
            throttle: Throttle::default(),
            nonces: Nonces::default(),
            replays: Replays::default(),
            faults: Faults::default(),
            secrets: Vec::new(),
        }
    }

    /// Notes a secret that is about to leave.
    pub(crate) fn secret(&mut self, kind: &str, value: &str) {
        self.secrets.push(SecretRecord {
            kind: kind.to_owned(),
            value: value.to_owned(),
        });
    }
}

impl Shared {
    pub(crate) fn new(api: Url, policy: Policy, state_file: Option<StateFile>) -> Self {
        let clock = Clock::start();
        Self {
            api,
            spiffe_ca: SpiffeCa::generate(&policy.server.trust_domain, clock.real()),
            clock,
            journal: Journal::new(),
            password: Password::generate(),
            state_file,
            page_without: None,
            allow_insecure_user: false,
            state: Mutex::new(State::new(policy)),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything but the policy and the password. The state file stays as it is until the
    /// next revocation.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        *state = State::new(state.policy.clone());
        self.journal.clear();
    }

    /// Puts a policy in force.
    pub(crate) fn change_policy(&self, policy: Policy) {
        let now = self.clock.now();
        let mut state = self.state();
        for tenant in &policy.tenants {
            let entry = Entry {
                tenant_id: tenant.id.clone(),
                action: "policy.changed",
                outcome: "ok",
                ..Entry::default()
            };
            state.ledger.append(entry, now);
        }
        state.ledger.monitor.set_limits(policy.anomaly.clone());
        state.policy = policy;
    }

    /// Records that a call was refused: in its tenant's chain if that is known,
    /// else as `auth.failed` where only the control API sees it.
    pub(crate) fn audit_refusal(&self, call: &Call, action: &'static str, refusal: &Refusal) {
        // What could not be written is why.
        if refusal.reason == Some(Reason::AuditUnavailable) {
            return;
        }
        let mut entry = call.trace().entry.clone();
        let failed = matches!(
            refusal.code,
            connectrpc::ErrorCode::Internal | connectrpc::ErrorCode::Unavailable
        );
        entry.outcome = if failed { "error" } else { "denied" };
        entry.action = if entry.tenant_id.is_empty() {
            "auth.failed"
        } else {
            action
        };
        entry.reason = refusal.reason.map_or("", |reason| reason.as_str());
        let now = self.clock.now();
        self.state().ledger.append(entry, now);
    }
}
