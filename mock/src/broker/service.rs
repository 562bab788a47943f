//! The RPCs of `BrokerService`.
//!
//! The order of checks is the same for all: shape, token, proof, tenant,
//! throttle, lease, scope, policy, state of the lease; then the audit event is
//! written, then comes the answer.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{RequestContext, ServiceRequest, ServiceResult};

use crate::access::{Caller, Purpose};
use crate::audit::Entry;
use crate::broker::leases::{Lease, Remembered};
use crate::broker::material;
use crate::call::{self, Call};
use crate::check::Check;
use crate::clock::Moment;
use crate::encoding::{is_id, random_id, sha256};
use crate::errors::{Reason, Refusal};
use crate::fault::FaultKind;
use crate::policy::Action;
use crate::proto::{
    BeginSpiffeBootstrapRequest, BeginSpiffeBootstrapResponse, BrokerService, BrokerTokenResponse,
    CompleteSpiffeBootstrapRequest, CompleteSpiffeBootstrapResponse, CreateCredentialLeaseRequest,
    CreateCredentialLeaseResponse, ExchangeWorkloadTokenRequest, ListBrokerAuditEventsRequest,
    ListBrokerAuditEventsResponse, MintUserApiTokenRequest, RedeemCredentialLeaseRequest,
    RedeemCredentialLeaseResponse, RevokeBrokerAccessRequest, RevokeBrokerAccessResponse,
    RevokeCredentialLeaseRequest, RevokeCredentialLeaseResponse, Target,
};
use crate::state::{Shared, State};
use crate::{scope, wire};

const DEFAULT_LEASE_TTL: u32 = 300;
const LEASE_TTL: std::ops::RangeInclusive<u32> = 30..=3600;
const REDEMPTIONS: std::ops::RangeInclusive<u32> = 1..=10;
const MAX_PURPOSE: usize = 200;
const IDEMPOTENCY_KEY: std::ops::RangeInclusive<usize> = 22..=128;
const REVOKE_REASONS: [&str; 8] = [
    "released",
    "holder_exited",
    "logout",
    "locked",
    "leak_detected",
    "user_request",
    "superseded",
    "delivery_uncertain",
];

/// The broker half of the server.
#[derive(Debug)]
pub(crate) struct Broker(pub(crate) Arc<Shared>);

#[expect(
    refining_impl_trait,
    reason = "the generated trait says `impl Encodable`"
)]
impl BrokerService for Broker {
    async fn mint_user_api_token(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MintUserApiTokenRequest>,
    ) -> ServiceResult<BrokerTokenResponse> {
        let call = call::of(&context)?;
        let answer = self.0.mint(&call, request.to_owned_message());
        self.0.finish_proven(&call, "token.mint", answer)
    }

    async fn exchange_workload_token(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ExchangeWorkloadTokenRequest>,
    ) -> ServiceResult<BrokerTokenResponse> {
        let call = call::of(&context)?;
        let answer = self.0.exchange_workload(&call, request.to_owned_message());
        self.0
            .finish_proven(&call, "token.exchange_workload", answer)
    }

    async fn begin_spiffe_bootstrap(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, BeginSpiffeBootstrapRequest>,
    ) -> ServiceResult<BeginSpiffeBootstrapResponse> {
        let call = call::of(&context)?;
        let answer = self.0.begin_bootstrap(&call, &request.to_owned_message());
        self.0.finish_proven(&call, "spiffe.begin", answer)
    }

    async fn complete_spiffe_bootstrap(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, CompleteSpiffeBootstrapRequest>,
    ) -> ServiceResult<CompleteSpiffeBootstrapResponse> {
        let call = call::of(&context)?;
        let answer = self
            .0
            .complete_bootstrap(&call, &request.to_owned_message());
        self.0.finish_proven(&call, "spiffe.complete", answer)
    }

    async fn list_broker_audit_events(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ListBrokerAuditEventsRequest>,
    ) -> ServiceResult<ListBrokerAuditEventsResponse> {
        let call = call::of(&context)?;
        let answer = self.0.list_events(&call, &request.to_owned_message());
        self.0.finish_proven(&call, "audit.list", answer)
    }

    async fn revoke_broker_access(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, RevokeBrokerAccessRequest>,
    ) -> ServiceResult<RevokeBrokerAccessResponse> {
        let call = call::of(&context)?;
        let request = request.to_owned_message();
        let action = match request.target.as_str() {
            "token" => "token.revoke",
            "pop_key" => "key.revoke",
            _ => "session.end",
        };
        let mut answer = self.0.revoke_access(&call, &request);
        // As with a single lease: what has ended stays so, whether that can be saved or not.
        if answer.is_ok()
            && let Err(unsaved) = self.0.save_revocations().await
        {
            answer = Err(unsaved);
        }
        self.0.finish_proven(&call, action, answer)
    }

    async fn create_credential_lease(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, CreateCredentialLeaseRequest>,
    ) -> ServiceResult<CreateCredentialLeaseResponse> {
        let call = call::of(&context)?;
        let answer = self.0.create(&call, request.to_owned_message());
        self.0.finish_proven(&call, "lease.create", answer)
    }

    async fn redeem_credential_lease(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, RedeemCredentialLeaseRequest>,
    ) -> ServiceResult<RedeemCredentialLeaseResponse> {
        let call = call::of(&context)?;
        let answer = self.0.redeem(&call, &request.to_owned_message());
        self.0.finish_proven(&call, "lease.redeem", answer)
    }

    async fn revoke_credential_lease(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, RevokeCredentialLeaseRequest>,
    ) -> ServiceResult<RevokeCredentialLeaseResponse> {
        let call = call::of(&context)?;
        let mut answer = self.0.revoke(&call, &request.to_owned_message());
        // Recorded by now: the lease has ended, whether that can be saved or the caller hangs up. A
        // save that fails is recorded besides, as the error that the caller is told.
        if answer.is_ok()
            && let Err(unsaved) = self.0.save_revocations().await
        {
            answer = Err(unsaved);
        }
        self.0.finish_proven(&call, "lease.revoke", answer)
    }
}

impl Shared {
    fn create(
        &self,
        call: &Call,
        request: CreateCredentialLeaseRequest,
    ) -> Result<CreateCredentialLeaseResponse, Refusal> {
        if request.tenant_id.is_empty() {
            return Err(Refusal::missing("tenant_id"));
        }
        let target = request.target.into_option();
        let target = target.ok_or_else(|| Refusal::missing("target"))?;
        let specific = [&target.provider, &target.app, &target.account]
            .into_iter()
            .all(|part| scope::is_segment(part));
        call.checks
            .require(Check::Target, specific)
            .map_err(|check| Refusal::from(check).field("target"))?;
        let selector = scope::selector(&target.provider, &target.app, &target.account);
        let strict = self.state().policy.strictness.ttl_range;
        let ttl = request.requested_ttl_seconds;
        let ttl_seconds =
            wire::in_range(ttl, DEFAULT_LEASE_TTL, &LEASE_TTL, strict).ok_or_else(|| {
                Refusal::new(Reason::TtlOutOfRange, "a lease lives 30 to 3600 seconds")
                    .field("requested_ttl_seconds")
            })?;
        let max_redemptions = wire::in_range(request.max_redemptions, 1, &REDEMPTIONS, true)
            .ok_or_else(|| {
                Refusal::new(Reason::RedemptionsOutOfRange, "1 to 10 redemptions")
                    .field("max_redemptions")
            })?;
        if request.purpose.chars().count() > MAX_PURPOSE
            || request.purpose.chars().any(char::is_control)
        {
            return Err(Refusal::new(
                Reason::TypeMismatch,
                "purpose is at most 200 printable letters",
            )
            .field("purpose"));
        }
        let key = request.idempotency_key;
        let plain = key.bytes().all(|byte| byte.is_ascii_graphic());
        if !key.is_empty() && (!plain || !IDEMPOTENCY_KEY.contains(&key.len())) {
            return Err(Refusal::new(
                Reason::TypeMismatch,
                "idempotency key is 22 to 128 plain characters",
            )
            .field("idempotency_key"));
        }

        let caller = self.admit(
            call,
            request.request_proof.as_option(),
            &request.tenant_id,
            Purpose::Leases,
        )?;
        call.trace().entry.target.clone_from(&selector);

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.expire_leases(now);
        check_scope(call, &caller, Action::Create, &selector)?;
        let token = &caller.token;
        let permitted = state.policy.permits(
            &token.principal,
            Action::Create,
            &selector,
            ttl_seconds,
            max_redemptions,
            call.checks,
        );
        if !permitted {
            return Err(policy_denied());
        }
        let known = state.policy.credential(&selector).is_some();
        call.checks.require(Check::CredentialKnown, known)?;

        state.faults.check_ledger(call.method)?;
        let memory = format!("{}\n{}\n{key}", token.tenant_id, token.principal);
        let body = format!("{selector}\n{ttl}\n{max_redemptions}\n{}", request.purpose);
        let body = sha256(body.as_bytes());
        if !key.is_empty()
            && let Some(known) = state.leases.remembered(&memory).cloned()
        {
            if known.body != body {
                return Err(Refusal::new(
                    Reason::IdempotencyMismatch,
                    "idempotency key stands for another request",
                )
                .field("idempotency_key"));
            }
            let lease = state.leases.find(&known.lease_id, now);
            let lease = lease.ok_or_else(lease_not_found)?.clone();
            state.audit_lease(call, "lease.create", &lease, "", now);
            return Ok(CreateCredentialLeaseResponse {
                lease: lease.to_message(now).into(),
                ..Default::default()
            });
        }

        let short = state.faults.take(call.method, &[FaultKind::ShortExpiry]);
        let lives = if short.is_some() { 1 } else { ttl_seconds };
        let lease = Lease {
            id: random_id("lse_"),
            tenant_id: token.tenant_id.clone(),
            principal: token.principal.clone(),
            jkt: token.binding.thumbprint().to_owned(),
            session_id: token.session_id.clone(),
            target,
            selector,
            created_at: now,
            expires_at: now.plus(Duration::from_secs(lives.into())),
            max_redemptions,
            redemptions_used: 0,
            purpose: request.purpose,
            revoked_at: None,
        };
        state.audit_lease(call, "lease.create", &lease, "", now);
        if !key.is_empty() {
            let lease_id = lease.id.clone();
            state.leases.remember(memory, Remembered { body, lease_id });
        }
        let message = lease.to_message(now);
        state.leases.insert(lease);
        Ok(CreateCredentialLeaseResponse {
            lease: message.into(),
            ..Default::default()
        })
    }

    fn redeem(
        &self,
        call: &Call,
        request: &RedeemCredentialLeaseRequest,
    ) -> Result<RedeemCredentialLeaseResponse, Refusal> {
        check_names(&request.tenant_id, &request.lease_id)?;
        let caller = self.admit(
            call,
            request.request_proof.as_option(),
            &request.tenant_id,
            Purpose::Leases,
        )?;
        note_lease(call, &request.lease_id);

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.expire_leases(now);
        let token = &caller.token;
        // To anyone but its maker a lease is as unknown as one that never was.
        let lease = state
            .leases
            .find(&request.lease_id, now)
            .filter(|lease| is_of_tenant(call, &caller, lease))
            .filter(|lease| {
                // Inside a session, a new key or certificate stands for the old.
                let same =
                    lease.jkt == token.binding.thumbprint() || lease.session_id == token.session_id;
                let own = lease.principal == token.principal && same;
                call.checks.pass(Check::LeaseOwner, own)
            })
            .ok_or_else(lease_not_found)?;
        call.trace().entry.target.clone_from(&lease.selector);
        check_scope(call, &caller, Action::Redeem, &lease.selector)?;
        let permitted = state.policy.permits(
            &token.principal,
            Action::Redeem,
            &lease.selector,
            0,
            lease.max_redemptions,
            call.checks,
        );
        if !permitted {
            return Err(policy_denied());
        }
        let credential = state.policy.credential(&lease.selector);
        let credential = credential.ok_or_else(policy_denied)?;
        let mut redeemed = lease.clone();
        redeemed
            .redeem(now)
            .map_err(|reason| Refusal::new(reason, "lease yields no more"))?;
        state.faults.check_ledger(call.method)?;
        lease.clone_from(&redeemed);
        let lease = redeemed;

        let short = state.faults.take(call.method, &[FaultKind::ShortExpiry]);
        let expires_at = if short.is_some() {
            now.plus(Duration::from_secs(1)).min(lease.expires_at)
        } else {
            lease.expires_at
        };
        let made = material::make(credential, expires_at);
        state.audit_lease(call, "lease.redeem", &lease, "", now);
        for (kind, secret) in &made.secrets {
            state.leases.issue(&lease.id, secret, expires_at);
            state.secret(kind, secret);
        }
        let mut told = lease.to_message(now);
        let wrong = state.faults.take(call.method, &[FaultKind::WrongTarget]);
        if wrong.is_some() {
            let another = Target {
                account: format!("not-{}", lease.target.account),
                ..lease.target
            };
            told.target = another.into();
        }
        Ok(RedeemCredentialLeaseResponse {
            credential: made.material.into(),
            lease: told.into(),
            ..Default::default()
        })
    }

    fn revoke(
        &self,
        call: &Call,
        request: &RevokeCredentialLeaseRequest,
    ) -> Result<RevokeCredentialLeaseResponse, Refusal> {
        check_names(&request.tenant_id, &request.lease_id)?;
        let reason = revoke_reason(&request.reason)?;
        let caller = self.admit(
            call,
            request.request_proof.as_option(),
            &request.tenant_id,
            Purpose::Leases,
        )?;
        note_lease(call, &request.lease_id);

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.expire_leases(now);
        let token = &caller.token;
        let lease = state
            .leases
            .find(&request.lease_id, now)
            .filter(|lease| is_of_tenant(call, &caller, lease))
            .ok_or_else(lease_not_found)?;
        let granted = check_scope(call, &caller, Action::Revoke, &lease.selector);
        let may_know = lease.principal == token.principal || granted.is_ok();
        call.checks.require(Check::LeaseHidden, may_know)?;
        call.trace().entry.target.clone_from(&lease.selector);
        granted?;
        state.faults.check_ledger(call.method)?;
        let ended_now = lease.revoke(now);
        let lease = lease.clone();
        state.audit_lease(call, "lease.revoke", &lease, reason, now);
        Ok(RevokeCredentialLeaseResponse {
            lease: lease.to_message(now).into(),
            already_terminal: !ended_now,
            ..Default::default()
        })
    }
}

impl State {
    fn audit_lease(
        &mut self,
        call: &Call,
        action: &'static str,
        lease: &Lease,
        reason: &'static str,
        now: Moment,
    ) {
        let mut entry = call.trace().entry.clone();
        (entry.action, entry.outcome, entry.reason) = (action, "ok", reason);
        entry.lease_id.clone_from(&lease.id);
        entry.target.clone_from(&lease.selector);
        self.ledger.append(entry, now);
    }

    /// Records the leases that have expired by now.
    pub(crate) fn expire_leases(&mut self, now: Moment) {
        for lease in self.leases.expire(now) {
            let entry = Entry {
                tenant_id: lease.tenant_id,
                action: "lease.expire",
                outcome: "ok",
                principal: lease.principal,
                session_id: lease.session_id,
                lease_id: lease.id,
                target: lease.selector,
                key_thumbprint: lease.jkt,
                ..Entry::default()
            };
            self.ledger.append(entry, lease.expires_at);
        }
    }
}

/// One of the reasons that there are.
pub(super) fn revoke_reason(text: &str) -> Result<&'static str, Refusal> {
    let known = REVOKE_REASONS.iter().find(|known| **known == text);
    known.copied().ok_or_else(|| {
        Refusal::new(
            Reason::RevokeReasonUnknown,
            "reason is not one of the known",
        )
        .field("reason")
    })
}

fn check_names(tenant_id: &str, lease_id: &str) -> Result<(), Refusal> {
    if tenant_id.is_empty() {
        return Err(Refusal::missing("tenant_id"));
    }
    if lease_id.is_empty() {
        return Err(Refusal::missing("lease_id"));
    }
    Ok(())
}

/// Notes for the audit which lease was meant, if that is a lease's name.
fn note_lease(call: &Call, lease_id: &str) {
    if is_id(lease_id, "lse_") {
        lease_id.clone_into(&mut call.trace().entry.lease_id);
    }
}

fn is_of_tenant(call: &Call, caller: &Caller, lease: &Lease) -> bool {
    let same = lease.tenant_id == caller.token.tenant_id;
    call.checks.pass(Check::LeaseTenant, same)
}

fn check_scope(call: &Call, caller: &Caller, action: Action, selector: &str) -> Result<(), Check> {
    let granted = caller.token.scopes.contains(&action.scope(selector));
    call.checks.require(Check::ScopeGranted, granted)
}

fn policy_denied() -> Refusal {
    Check::PolicyGrant.into()
}

fn lease_not_found() -> Refusal {
    Check::LeaseOwner.into()
}
