//! `MintUserApiToken` and `ExchangeWorkloadToken`: an identity becomes a broker token.

use crate::access::{self, check_key_name, is_nonce};
use crate::call::Call;
use crate::check::Check;
use crate::clock::Moment;
use crate::dpop::Proof;
use crate::errors::{Reason, Refusal};
use crate::identity::issue::Wanted;
use crate::identity::sessions::{LONGEST, Session, Start};
use crate::identity::tokens::Binding;
use crate::identity::wish;
use crate::idp::workload::WorkloadToken;
use crate::policy::Replay;
use crate::proto::{
    BrokerTokenResponse, ExchangeWorkloadTokenRequest, MintUserApiTokenRequest, TokenInfo,
};
use crate::state::{Shared, State};

const MINT: &str = "token.mint";
const EXCHANGE: &str = "token.exchange_workload";

/// What both ask for, checked by itself.
struct Asked {
    scopes: Vec<String>,
    ttl_seconds: u32,
}

impl Shared {
    fn asked(&self, call: &Call, scopes: Vec<String>, ttl: i32) -> Result<Asked, Refusal> {
        let state = self.state();
        Ok(Asked {
            scopes: wish::scopes_of_one_token(scopes, &state.policy, call.checks)?,
            ttl_seconds: wish::ttl(ttl, &state.policy)?,
        })
    }

    pub(super) fn mint(
        &self,
        call: &Call,
        request: MintUserApiTokenRequest,
    ) -> Result<BrokerTokenResponse, Refusal> {
        if request.tenant_id.is_empty() {
            return Err(Refusal::missing("tenant_id"));
        }
        let asked = self.asked(
            call,
            request.requested_scopes,
            request.requested_ttl_seconds,
        )?;
        wish::key_id(&request.pop_key_id)?;
        let jkt = wish::key(request.pop_jwk.as_option())?;
        let person = self.person(call)?;
        call.trace().entry.principal = format!("user:{}", person.uid);
        let proof = self.admit_without_token(call, request.request_proof.as_option())?;
        check_key(call, &proof, &jkt, &request.pop_key_id)?;

        let (role, lasts) = {
            let state = self.state();
            let user = state.policy.user(&person.uid);
            let user = user.filter(|user| user.tenants.contains(&request.tenant_id));
            let user = user.ok_or(Check::Tenant)?;
            (user.role.clone(), user.max_session_seconds)
        };
        call.trace().entry.tenant_id.clone_from(&request.tenant_id);
        let principal = format!("user:{}", person.uid);
        self.throttle(&request.tenant_id, &principal)?;

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.faults.check_ledger(call.method)?;
        state
            .keys
            .register(&request.tenant_id, &request.pop_key_id, &jkt)
            .map_err(wish::unregistered)?;
        let start = Start {
            tenant_id: request.tenant_id,
            principal,
            role,
            scopes: asked.scopes.clone(),
            jkt: jkt.clone(),
            lasts: std::time::Duration::from_secs(lasts.into()),
            id_token: person.id_token,
        };
        let session = state.broker_sessions.start(start, now);
        let wanted = Wanted {
            scopes: asked.scopes,
            ttl_seconds: asked.ttl_seconds,
            binding: Binding::Key(jkt),
            pop_key_id: request.pop_key_id,
        };
        Ok(answer(self.issue(call, state, &session, wanted, MINT, now)))
    }

    pub(super) fn exchange_workload(
        &self,
        call: &Call,
        request: ExchangeWorkloadTokenRequest,
    ) -> Result<BrokerTokenResponse, Refusal> {
        if request.tenant_id.is_empty() {
            return Err(Refusal::missing("tenant_id"));
        }
        if request.nonce.is_empty() {
            return Err(Refusal::missing("nonce"));
        }
        if !is_nonce(&request.nonce) {
            return Err(Refusal::new(
                Reason::TypeMismatch,
                "nonce is 128 random bits or more in base64url",
            )
            .field("nonce"));
        }
        match request.mode.as_str() {
            "oidc" => self.exchange_oidc(call, request),
            "mtls" => self.exchange_mtls(call, request),
            "" => Err(Refusal::missing("mode")),
            _ => Err(Refusal::new(Reason::TypeMismatch, "mode is oidc or mtls").field("mode")),
        }
    }

    /// A workload's identity token becomes a session.
    fn exchange_oidc(
        &self,
        call: &Call,
        request: ExchangeWorkloadTokenRequest,
    ) -> Result<BrokerTokenResponse, Refusal> {
        if request.workload_token.is_empty() {
            return Err(Refusal::missing("workload_token"));
        }
        if !request.mtls_fingerprint.is_empty() {
            return Err(
                Refusal::new(Reason::TypeMismatch, "a fingerprint is for mode mtls")
                    .field("mtls_fingerprint"),
            );
        }
        let asked = self.asked(
            call,
            request.requested_scopes,
            request.requested_ttl_seconds,
        )?;
        wish::key_id(&request.pop_key_id)?;
        let jkt = wish::key(request.pop_jwk.as_option())?;
        let token = self.workload_token(call, &request.workload_token)?;
        let mut trace = call.trace();
        trace.entry.principal.clone_from(&token.workload.principal);
        trace.entry.tenant_id.clone_from(&token.workload.tenant);
        drop(trace);
        let proof = self.admit_without_token(call, request.request_proof.as_option())?;
        check_key(call, &proof, &jkt, &request.pop_key_id)?;
        let workload = &token.workload;
        call.checks
            .require(Check::Tenant, request.tenant_id == workload.tenant)?;
        self.throttle(&workload.tenant, &workload.principal)?;
        check_session_scopes(call, &asked.scopes, &workload.scopes)?;

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.faults.check_ledger(call.method)?;
        // Before anything is used up: who has to take another key may come again with the token.
        state
            .keys
            .register(&workload.tenant, &request.pop_key_id, &jkt)
            .map_err(wish::unregistered)?;
        take_once(call, state, &token, &request.nonce, &jkt, now)?;
        let start = Start {
            tenant_id: workload.tenant.clone(),
            principal: workload.principal.clone(),
            role: workload.role.clone(),
            scopes: workload.scopes.clone(),
            jkt: jkt.clone(),
            lasts: LONGEST,
            id_token: None,
        };
        let session = state.broker_sessions.start(start, now);
        let wanted = Wanted {
            scopes: asked.scopes,
            ttl_seconds: asked.ttl_seconds,
            binding: Binding::Key(jkt),
            pop_key_id: request.pop_key_id,
        };
        Ok(answer(
            self.issue(call, state, &session, wanted, EXCHANGE, now),
        ))
    }

    /// An SVID renews the session that it was made in.
    fn exchange_mtls(
        &self,
        call: &Call,
        request: ExchangeWorkloadTokenRequest,
    ) -> Result<BrokerTokenResponse, Refusal> {
        if !request.workload_token.is_empty() {
            return Err(
                Refusal::new(Reason::TypeMismatch, "a workload token is for mode oidc")
                    .field("workload_token"),
            );
        }
        let asked = self.asked(
            call,
            request.requested_scopes,
            request.requested_ttl_seconds,
        )?;
        let svid = self.certificate(call)?;
        let session = self.session_of(call, &svid.session_id)?;
        let named =
            request.mtls_fingerprint == svid.fingerprint && request.pop_key_id == svid.fingerprint;
        call.checks.require(Check::CertificateField, named)?;
        let now = self.clock.now();
        let taken_back = self
            .state()
            .keys
            .is_revoked(&session.tenant_id, &svid.fingerprint);
        call.checks.require(Check::KeyAlive, !taken_back)?;

        let body = request.request_proof.as_option();
        let by_certificate = body.is_some_and(|proof| proof.proof_type == "mtls");
        let (binding, pop_key_id) = if by_certificate {
            if request.pop_jwk.as_option().is_some() {
                return Err(
                    Refusal::new(Reason::TypeMismatch, "an mtls proof binds no other key")
                        .field("pop_jwk"),
                );
            }
            access::check_mtls_alone(call, body, None)?;
            self.check_mtls(call, body, None)?;
            (
                Binding::Certificate(svid.fingerprint.clone()),
                svid.fingerprint.clone(),
            )
        } else {
            let jkt = wish::key(request.pop_jwk.as_option())?;
            let proof = self.admit_without_token(call, body)?;
            call.checks
                .require(Check::ProofBinding, proof.thumbprint == jkt)?;
            // The request's own `pop_key_id` is the certificate's: the proof names its key.
            let name = proof.kid.unwrap_or_else(|| format!("pop-{jkt}"));
            call.checks
                .require(Check::ProofKeyName, wish::is_key_id(&name))?;
            (Binding::Key(jkt), name)
        };
        call.checks
            .require(Check::Tenant, request.tenant_id == session.tenant_id)?;
        self.throttle(&session.tenant_id, &session.principal)?;
        check_session_scopes(call, &asked.scopes, &session.scopes)?;

        let mut state = self.state();
        let state = &mut *state;
        state.faults.check_ledger(call.method)?;
        if let Binding::Key(jkt) = &binding {
            state
                .keys
                .register(&session.tenant_id, &pop_key_id, jkt)
                .map_err(wish::unregistered)?;
        }
        let word = format!("exchange {}\n{}", svid.fingerprint, request.nonce);
        let first = state.once.take(&word, svid.not_after, now);
        call.checks.require(Check::ExchangeNonce, first)?;
        if let (Binding::Key(jkt), Some(session)) =
            (&binding, state.broker_sessions.get_mut(&session.id))
        {
            session.keys.rotate_to(jkt, now);
        }
        let wanted = Wanted {
            scopes: asked.scopes,
            ttl_seconds: asked.ttl_seconds,
            binding,
            pop_key_id,
        };
        Ok(answer(
            self.issue(call, state, &session, wanted, EXCHANGE, now),
        ))
    }

    /// A session that lives; whose call it is, is known from then on.
    fn session_of(&self, call: &Call, id: &str) -> Result<Session, Check> {
        let now = self.clock.now();
        let state = self.state();
        let session = state.broker_sessions.get(id).ok_or(Check::SessionAlive)?;
        let mut trace = call.trace();
        trace.entry.principal.clone_from(&session.principal);
        trace.entry.tenant_id.clone_from(&session.tenant_id);
        trace.entry.session_id.clone_from(&session.id);
        drop(trace);
        call.checks
            .require(Check::SessionAlive, session.is_alive(now))?;
        Ok(session.clone())
    }
}

fn answer((broker_token, info): (String, TokenInfo)) -> BrokerTokenResponse {
    BrokerTokenResponse {
        broker_token,
        token_info: info.into(),
        ..Default::default()
    }
}

/// The proof is by the key that is to be registered, under its name.
fn check_key(call: &Call, proof: &Proof, jkt: &str, pop_key_id: &str) -> Result<(), Check> {
    call.checks
        .require(Check::ProofBinding, proof.thumbprint == jkt)?;
    check_key_name(call, proof, pop_key_id)
}

fn check_session_scopes(call: &Call, asked: &[String], has: &[String]) -> Result<(), Check> {
    let within = asked.iter().all(|scope| has.contains(scope));
    call.checks.require(Check::SessionScopes, within)
}

/// Uses up a workload's token and its nonce.
fn take_once(
    call: &Call,
    state: &mut State,
    token: &WorkloadToken,
    nonce: &str,
    jkt: &str,
    now: Moment,
) -> Result<(), Refusal> {
    let word = format!("nonce {}\n{nonce}", token.workload.principal);
    let first = state.once.take(&word, token.expires_at, now);
    call.checks.require(Check::ExchangeNonce, first)?;
    let once = match token.replay {
        Replay::Refuse => state.once.take(&token.name, token.expires_at, now),
        Replay::Bind => state.once.take_as(jkt, &token.name, token.expires_at, now),
    };
    Ok(call.checks.require(Check::WorkloadReplay, once)?)
}
