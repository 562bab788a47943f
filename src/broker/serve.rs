//! The part of the state that serves credentials: the gate every request passes, and the life of
//! a lease from creation to revocation.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::denials;
use super::effect::Effect;
use super::event::{CredentialRequest, LeaseRequest, Reply};
use super::fixes;
use super::leases::{Delivery, Holder, Kind, Lease, LeaseKey, Live, Phase, Waiter};
use super::login::Generation;
use super::policy::Question;
use super::ports::{
    Answer, AuditAction, AuditOutcome, AuditRecord, CALL_LIMIT, CallTrace, Certainty, CreateLease,
    CreatedLease, Disposition, Failure, RedeemedLease, RevokeReason, Session,
};
use super::revocations::{Cause, LATER};
use super::session::{Settled, device_view, outcome_of, pause_of, reason_word, refusal_of};
use super::state::{Asker, State};
use crate::model::{
    Action, CleanText, Effect as PolicyEffect, ErrorCode, Exposure, HolderClass, LeaseId,
    LeaseState, MAX_LEASE_TTL, MIN_LEASE_TTL, NoRule, OnLeak, Refusal, Scope, Selector,
};
use crate::time::Now;

/// A new lease outlives what its caller needs by this much, so that it still does after the two
/// calls that bring it.
const CALL_SLACK: Duration = Duration::from_mins(1);

/// When the lease table is full, a caller is told to come back after this long: the shortest time
/// in which a lease runs out.
const FULL_RETRY_AFTER: Duration = MIN_LEASE_TTL;

/// What a request that passed the gate may do.
pub(super) struct Passed {
    pub(super) rule: CleanText,
    max_ttl: Option<Duration>,
    pub(super) on_leak: OnLeak,
}

impl Passed {
    /// The caller that passed, waiting for whatever comes of it.
    pub(super) fn waiter(self, asker: &Asker, class: HolderClass) -> Waiter {
        Waiter {
            ticket: asker.ticket,
            connection: asker.connection,
            peer: Arc::clone(&asker.peer),
            class,
            joined: false,
            min_valid_for: Duration::ZERO,
            exposure: Exposure::Reveal,
            rule: self.rule,
            max_ttl: self.max_ttl,
            sending: None,
        }
    }
}

/// What a caller wants of the gate.
pub(super) struct Wanted<'w> {
    pub(super) selector: &'w Selector,
    pub(super) actions: &'w [Action],
    pub(super) exposure: Exposure,
}

impl State {
    /// `credential.get`: from memory, from a lease on its way, or from a new one.
    pub(super) fn credential(
        &mut self,
        asker: &Asker,
        request: CredentialRequest,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let wanted = Wanted {
            selector: &request.selector,
            actions: &[Action::Create, Action::Redeem],
            exposure: Exposure::Reveal,
        };
        let Some(passed) = self.gate(asker, &wanted, effects) else {
            return;
        };
        let waiter = Waiter {
            min_valid_for: request.min_valid_for,
            ..passed.waiter(asker, request.holder)
        };
        self.share(request.selector, waiter, request.reason, now, effects);
    }

    /// For a caller that passed the gate: what is in memory, else a place among those who wait for
    /// a lease on its way, else a lease of its own.
    pub(super) fn share(
        &mut self,
        selector: Selector,
        mut waiter: Waiter,
        purpose: Option<CleanText>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let ttl = self
            .targets
            .get(&selector)
            .map_or(MIN_LEASE_TTL, |target| target.ttl)
            .max(waiter.min_valid_for.saturating_add(CALL_SLACK));
        let room = self
            .session(now)
            .map_or(MAX_LEASE_TTL, |session| self.room_for_lease(session, now));
        let own_ttl = ttl.min(waiter.max_ttl.unwrap_or(MAX_LEASE_TTL)).min(room);
        if let Some((key, lease)) = self.leases.shared_mut(&selector)
            && serves(lease, &waiter, own_ttl, now)
        {
            let ready = lease.live(now.boot).and_then(|live| live.material.clone());
            if let Some(material) = ready {
                return self.deliver(key, &waiter, &material, now, effects);
            }
            waiter.joined = true;
            lease.waiters.push_back(waiter);
            return;
        }
        let new = NewLease {
            selector,
            ttl,
            max_redemptions: 1,
            purpose,
            kind: Kind::Shared,
        };
        self.make_lease(new, VecDeque::from([waiter]), now, effects);
    }

    /// `lease.create`: a lease of the caller's own, not redeemed yet.
    pub(super) fn lease_create(
        &mut self,
        asker: &Asker,
        request: LeaseRequest,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let wanted = Wanted {
            selector: &request.selector,
            actions: &[Action::Create],
            exposure: Exposure::Use,
        };
        let Some(passed) = self.gate(asker, &wanted, effects) else {
            return;
        };
        let waiter = passed.waiter(asker, request.holder);
        let target_ttl = self
            .targets
            .get(&request.selector)
            .map_or(MIN_LEASE_TTL, |target| target.ttl);
        let new = NewLease {
            selector: request.selector,
            ttl: request.ttl.unwrap_or(target_ttl),
            max_redemptions: request.max_redemptions,
            purpose: request.reason,
            kind: Kind::Single,
        };
        self.make_lease(new, VecDeque::from([waiter]), now, effects);
    }

    /// `lease.redeem`: one redemption of a lease that `lease.create` made.
    pub(super) fn lease_redeem(
        &mut self,
        asker: &Asker,
        lease_id: &LeaseId,
        exposure: Exposure,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some((key, selector, passed)) =
            self.gated_lease(asker, lease_id, Action::Redeem, exposure, effects)
        else {
            return;
        };
        let Some(session) = self.session(now).map(Arc::clone) else {
            return self.deny(
                asker,
                Some(&selector),
                &passed.rule,
                self.login_required(),
                effects,
            );
        };
        let redeem = Scope {
            action: Action::Redeem,
            selector: selector.clone(),
        };
        let Some(lease) = self.leases.get_mut(key) else {
            return self.not_found(asker, effects);
        };
        let queued = u32::try_from(lease.waiters.len()).unwrap_or(u32::MAX);
        let refusal: Option<Refusal> = match &lease.phase {
            Phase::Creating => Some(ErrorCode::LeaseNotFound.into()),
            Phase::Ended { state, .. } => Some(code_of_ended(*state).into()),
            Phase::Live(live) if now.boot >= live.expires_at => {
                Some(ErrorCode::LeaseExpired.into())
            }
            // Whoever made it: what `credential.get` would cut is not let through by two steps.
            Phase::Live(_) if passed.max_ttl.is_some_and(|max_ttl| lease.ttl > max_ttl) => {
                Some(fixes::too_long_for_policy(&selector))
            }
            Phase::Live(_) if lease.used.saturating_add(queued) >= lease.max_redemptions => {
                Some(ErrorCode::LeaseExhausted.into())
            }
            Phase::Live(_) if !session.grants(&redeem) => {
                Some(fixes::scope_not_granted(Action::Redeem, &selector))
            }
            Phase::Live(_) => None,
        };
        if let Some(refusal) = refusal {
            return self.deny(asker, Some(&selector), &passed.rule, refusal, effects);
        }
        lease.waiters.push_back(Waiter {
            exposure,
            ..passed.waiter(asker, lease.class)
        });
        redeem_next(key, lease, self.generation, &session, effects);
    }

    /// `lease.revoke`: the local copy goes first, then the issuer is told (LC-5). From the process
    /// for whose child the lease is held it is no wish that a rule would have to allow: the child has
    /// ended, and the end of that process would say the same.
    pub(super) fn lease_revoke(
        &mut self,
        asker: &Asker,
        lease_id: &LeaseId,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let of_child = self.leases.of_child(lease_id, asker.peer.process);
        if let Some((key, lease)) = of_child {
            // Where nothing was given to it, no child was started.
            let reason = if lease.used == 0 {
                RevokeReason::Released
            } else {
                RevokeReason::HolderExited
            };
            return self.revoke_for(asker, key, lease_id, reason, now, effects);
        }
        let Some((key, selector, passed)) =
            self.gated_lease(asker, lease_id, Action::Revoke, Exposure::Use, effects)
        else {
            return;
        };
        let Some(lease) = self.leases.get(key) else {
            return self.not_found(asker, effects);
        };
        let on_its_way = match &lease.phase {
            Phase::Live(_) if lease.revocable => true,
            Phase::Live(_) => {
                let refusal = fixes::scope_not_granted(Action::Revoke, &selector);
                return self.deny(asker, Some(&selector), &passed.rule, refusal, effects);
            }
            Phase::Ended { state, .. } => *state == LeaseState::Revoking,
            Phase::Creating => false,
        };
        if !on_its_way {
            // Idempotent: what is over stays as it is.
            return self.show_lease(asker, key, now, effects);
        }
        let reason = RevokeReason::UserRequest;
        self.revoke_for(asker, key, lease_id, reason, now, effects);
    }

    /// Ends a lease for a peer that asked for it, and answers when the issuer has.
    fn revoke_for(
        &mut self,
        asker: &Asker,
        key: LeaseKey,
        lease_id: &LeaseId,
        reason: RevokeReason,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let session = self.session(now).map(Arc::clone);
        let sending = matches!(
            self.leases.get(key).map(|lease| &lease.phase),
            Some(Phase::Live(_))
        ) && self.revoke_live(
            key,
            &Cause::asked(reason, &asker.peer),
            session.as_ref(),
            now,
            effects,
        );
        // Also one that we began ourselves: its answer is this caller's too.
        if sending || self.revocations.is_under_way(lease_id) {
            self.revoke_askers
                .entry(lease_id.clone())
                .or_default()
                .push(asker.clone());
        } else {
            self.show_lease(asker, key, now, effects);
        }
    }

    /// A lease of ours by its handle, if this peer may do that with what it is for.
    fn gated_lease(
        &mut self,
        asker: &Asker,
        lease_id: &LeaseId,
        action: Action,
        exposure: Exposure,
        effects: &mut Vec<Effect>,
    ) -> Option<(LeaseKey, Selector, Passed)> {
        let found = self.leases.find(lease_id).and_then(|key| {
            let lease = self.leases.get(key)?;
            Some((key, lease.selector.clone()))
        });
        let Some((key, selector)) = found else {
            self.not_found(asker, effects);
            return None;
        };
        let wanted = Wanted {
            selector: &selector,
            actions: &[action],
            exposure,
        };
        let passed = self.gate(asker, &wanted, effects)?;
        Some((key, selector, passed))
    }

    /// Locked, known, allowed: in this order, each no with its record. The session comes later,
    /// since what is in memory does not need one.
    pub(super) fn gate(
        &mut self,
        asker: &Asker,
        wanted: &Wanted<'_>,
        effects: &mut Vec<Effect>,
    ) -> Option<Passed> {
        if self.login.is_locked() {
            let rule = NoRule::Locked.into();
            self.deny(
                asker,
                Some(wanted.selector),
                &rule,
                ErrorCode::Locked.into(),
                effects,
            );
            return None;
        }
        if !self.targets.contains_key(wanted.selector) {
            let rule = NoRule::Catalogue.into();
            let refusal = fixes::target_unknown(wanted.selector);
            self.deny(asker, Some(wanted.selector), &rule, refusal, effects);
            return None;
        }
        let decision = self.policy.decide(Question {
            peer: &asker.peer,
            selector: wanted.selector,
            actions: wanted.actions,
            exposure: wanted.exposure,
        });
        let refusal = match decision.effect {
            PolicyEffect::Allow => {
                return Some(Passed {
                    rule: decision.rule,
                    max_ttl: decision.max_ttl,
                    on_leak: decision.on_leak,
                });
            }
            PolicyEffect::Ask => ErrorCode::ApprovalUnavailable.into(),
            PolicyEffect::Deny if self.lets_a_command_have(asker, wanted) => {
                fixes::for_commands_only(wanted.selector)
            }
            PolicyEffect::Deny => {
                fixes::policy_denied(wanted.selector, (wanted.actions, wanted.exposure))
            }
        };
        effects.push(Effect::Audit(Box::new(AuditRecord {
            peer: Some(Arc::clone(&asker.peer)),
            selector: Some(wanted.selector.clone()),
            rule: Some(decision.rule),
            reason: Some(CleanText::new(refusal.code.as_str(), 64)),
            actions: wanted.actions.to_vec().into(),
            exposure: Some(wanted.exposure),
            ..self.record(AuditAction::Deny, AuditOutcome::Denied)
        })));
        self.refuse(asker.ticket, refusal, effects);
        None
    }

    /// Whether what may not be shown to this peer may be given to a command of its own.
    fn lets_a_command_have(&self, asker: &Asker, wanted: &Wanted<'_>) -> bool {
        let question = Question {
            peer: &asker.peer,
            selector: wanted.selector,
            actions: &[Action::Create, Action::Redeem],
            exposure: Exposure::Exec,
        };
        wanted.exposure == Exposure::Reveal
            && self.policy.decide(question).effect == PolicyEffect::Allow
    }

    /// A no without a call of its own: recorded, then said.
    pub(super) fn deny(
        &mut self,
        asker: &Asker,
        selector: Option<&Selector>,
        rule: &CleanText,
        refusal: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        self.deny_as(
            AuditOutcome::Denied,
            asker,
            selector,
            rule,
            refusal,
            effects,
        );
    }

    fn deny_as(
        &mut self,
        outcome: AuditOutcome,
        asker: &Asker,
        selector: Option<&Selector>,
        rule: &CleanText,
        refusal: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Audit(Box::new(AuditRecord {
            peer: Some(Arc::clone(&asker.peer)),
            selector: selector.cloned(),
            rule: Some(rule.clone()),
            reason: Some(CleanText::new(refusal.code.as_str(), 64)),
            ..self.record(AuditAction::Deny, outcome)
        })));
        self.refuse(asker.ticket, refusal, effects);
    }

    /// A no to those who waited for a lease, each with its record (AU-2).
    pub(super) fn turn_away(
        &mut self,
        selector: &Selector,
        waiters: VecDeque<Waiter>,
        code: ErrorCode,
        effects: &mut Vec<Effect>,
    ) {
        for waiter in waiters {
            self.deny(
                &waiter.asker(),
                Some(selector),
                &waiter.rule,
                code.into(),
                effects,
            );
        }
    }

    pub(super) fn not_found(&mut self, asker: &Asker, effects: &mut Vec<Effect>) {
        let rule = NoRule::Handle.into();
        self.deny(asker, None, &rule, ErrorCode::LeaseNotFound.into(), effects);
    }

    /// With the login that is already running, where one is (design §6).
    fn login_required(&self) -> Refusal {
        let login = match &self.login {
            super::login::Login::AwaitingApproval { authorization, .. } => {
                Some(Box::new(device_view(authorization)))
            }
            super::login::Login::LoggedOut
            | super::login::Login::Locked
            | super::login::Login::Beginning { .. }
            | super::login::Login::LoggedIn(_) => None,
        };
        Refusal {
            login,
            ..Refusal::new(ErrorCode::LoginRequired)
        }
    }

    /// Asks the issuer for a lease on behalf of `waiters`, or says why not.
    fn make_lease(
        &mut self,
        new: NewLease,
        waiters: VecDeque<Waiter>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        match self.check_new(&new, &waiters, now) {
            Ok(Checked {
                session,
                ttl,
                wanted,
            }) => {
                let revocable = session.grants(&Scope {
                    action: Action::Revoke,
                    selector: new.selector.clone(),
                });
                let class = waiters
                    .front()
                    .map_or(HolderClass::None, |waiter| waiter.class);
                let creator = waiters.front().map(|waiter| waiter.peer.process);
                let lease = Lease {
                    selector: new.selector.clone(),
                    ttl,
                    wanted,
                    kind: new.kind,
                    principal: session.principal.clone(),
                    revocable,
                    class,
                    creator,
                    max_redemptions: new.max_redemptions,
                    used: 0,
                    phase: Phase::Creating,
                    waiters,
                    holders: BTreeSet::new(),
                    pinned: false,
                };
                let key = self.leases.insert(lease);
                effects.push(Effect::CreateLease {
                    lease: key,
                    generation: self.generation,
                    session,
                    request: CreateLease {
                        selector: new.selector,
                        ttl,
                        max_redemptions: new.max_redemptions,
                        purpose: new.purpose,
                    },
                });
            }
            Err(refusal) => {
                for waiter in waiters {
                    self.deny(
                        &waiter.asker(),
                        Some(&new.selector),
                        &waiter.rule,
                        refusal.clone(),
                        effects,
                    );
                }
            }
        }
    }

    /// Session, grants, no fresh no of the issuer's, room, and a lifetime that everybody's limits allow.
    fn check_new(
        &self,
        new: &NewLease,
        waiters: &VecDeque<Waiter>,
        now: Now,
    ) -> Result<Checked, Refusal> {
        let session = self.session(now).ok_or_else(|| self.login_required())?;
        let needed: &[Action] = if new.kind.is_shared() {
            &[Action::Create, Action::Redeem]
        } else {
            &[Action::Create]
        };
        for action in needed {
            let scope = Scope {
                action: *action,
                selector: new.selector.clone(),
            };
            if !session.grants(&scope) {
                return Err(fixes::scope_not_granted(*action, &new.selector));
            }
        }
        let allowed = waiters
            .iter()
            .filter_map(|waiter| waiter.max_ttl)
            .fold(MAX_LEASE_TTL, Duration::min);
        let wanted = denials::Wanted {
            selector: new.selector.clone(),
            ttl: new.ttl.min(allowed),
            max_redemptions: new.max_redemptions,
        };
        if let Some(refusal) = self.denials.answer(&wanted, now.boot) {
            return Err(refusal);
        }
        if self.leases.is_full() {
            return Err(Refusal {
                retry_after: Some(FULL_RETRY_AFTER),
                ..Refusal::new(ErrorCode::RateLimited)
            });
        }
        let room = self.room_for_lease(session, now);
        if room < MIN_LEASE_TTL {
            return Err(self.login_required());
        }
        // Whole seconds, rounded down.
        let whole = |ttl: Duration| Duration::from_secs(ttl.as_secs());
        let ttl = whole(wanted.ttl.min(room));
        let needs = waiters
            .iter()
            .map(|waiter| waiter.min_valid_for)
            .fold(MIN_LEASE_TTL, Duration::max);
        if ttl < needs {
            // A new token has more room, but not for everything.
            let of_new_token = self.settings.token_ttl.saturating_sub(CALL_LIMIT);
            let login_helps = whole(wanted.ttl.min(of_new_token)) >= needs;
            return Err(too_short(login_helps));
        }
        Ok(Checked {
            session: Arc::clone(session),
            ttl,
            wanted,
        })
    }

    pub(super) fn lease_create_answered(
        &mut self,
        key: LeaseKey,
        generation: Generation,
        mut answer: Answer<CreatedLease>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let lease = self.leases.get(key);
        if !lease.is_some_and(|lease| matches!(lease.phase, Phase::Creating)) {
            return;
        }
        let named = match &answer.outcome {
            Ok(created) => Some(&created.lease_id),
            Err(failure) => failure.made.as_ref(),
        };
        if named.is_some_and(|id| self.leases.find(id).is_some() || self.revocations.has(id)) {
            answer.outcome = Err(named_twice());
        }
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        match answer.outcome {
            Ok(created) => {
                lease.max_redemptions = created.max_redemptions;
                // Of a shared one the decision stands in the record of each delivery.
                let actions: &'static [Action] = match lease.kind {
                    Kind::Single => &[Action::Create],
                    Kind::Shared | Kind::Replacement => &[],
                };
                self.denials.granted(&lease.wanted);
                effects.push(Effect::Audit(Box::new(AuditRecord {
                    lease_id: Some(created.lease_id.clone()),
                    lease_expires_at: Some(created.expires_at_unix),
                    actions: actions.into(),
                    ..self.lease_record(
                        key,
                        AuditAction::LeaseCreate,
                        AuditOutcome::Ok,
                        &answer.trace,
                    )
                })));
                self.leases.made(
                    key,
                    Live {
                        lease_id: created.lease_id,
                        expires_at: created.expires_at,
                        expires_at_unix: created.expires_at_unix,
                        gone_at: created.expires_at.plus(LATER),
                        redeeming: false,
                        material: None,
                        yielded: Vec::new(),
                    },
                );
                if generation == self.generation {
                    self.lease_made(key, now, effects);
                } else {
                    self.lease_came_late(key, now, effects);
                }
            }
            Err(failure) => {
                let made = failure.made.clone();
                let ends_at = made.is_some().then(|| now.unix.plus(MAX_LEASE_TTL));
                effects.push(Effect::Audit(Box::new(AuditRecord {
                    reason: Some(reason_word(&failure)),
                    lease_id: made.clone(),
                    lease_expires_at: ends_at,
                    ..self.lease_record(
                        key,
                        AuditAction::LeaseCreate,
                        outcome_of(&failure),
                        &answer.trace,
                    )
                })));
                if let Some(lease) = self.leases.remove_unmade(key) {
                    match made {
                        Some(lease_id) => {
                            self.revoke_otherwise_made(lease_id, &lease, generation, now, effects);
                        }
                        // Without an answer it may have been made all the same.
                        None if failure.certainty == Certainty::Unknown => {
                            let life = lease.ttl.saturating_add(LATER);
                            self.revocations.let_run_out(life, now.boot);
                        }
                        None => {}
                    }
                    if generation == self.generation {
                        let refusal = refusal_of(&failure, &answer.trace);
                        self.denials
                            .failed(lease.wanted, &failure, refusal, now.boot);
                    }
                    let (selector, waiters) = (&lease.selector, lease.waiters);
                    self.fail_waiters(selector, waiters, &failure, &answer.trace, effects);
                }
                self.ending_settled(key, Settled::Otherwise);
                // What became of an earlier login's call says nothing about this session.
                if generation == self.generation {
                    self.session_after(&failure, now, effects);
                }
            }
        }
    }

    /// A lease that is not the one asked for: nobody gets it, the issuer is told (LC-8). It lives as
    /// long as any, for all that is known.
    fn revoke_otherwise_made(
        &mut self,
        lease_id: LeaseId,
        lease: &Lease,
        generation: Generation,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let life = MAX_LEASE_TTL.saturating_add(LATER);
        if !lease.revocable {
            return self.revocations.let_run_out(life, now.boot);
        }
        let reason = RevokeReason::DeliveryUncertain;
        self.revocations.add(
            lease_id.clone(),
            Some(lease.selector.clone()),
            Some(lease.principal.clone()),
            reason.into(),
            now.boot.plus(life),
        );
        let ending = if generation == self.generation {
            None
        } else {
            self.ending_session()
        };
        let session = ending.or_else(|| self.session(now).map(Arc::clone));
        if let Some(session) = session {
            self.send_revocation(lease_id, reason, &session, effects);
        }
    }

    /// A lease of the current login is there: hand it out, redeem it, or give it back.
    fn lease_made(&mut self, key: LeaseKey, now: Now, effects: &mut Vec<Effect>) {
        let session = self.session(now).map(Arc::clone);
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        if lease.waiters.is_empty() {
            // Everybody hung up meanwhile: no orphans (LC-8).
            return self.release(key, RevokeReason::Released, now, effects);
        }
        if lease.kind.is_shared() {
            match &session {
                Some(session) => redeem_next(key, lease, self.generation, session, effects),
                None => self.release(key, RevokeReason::Released, now, effects),
            }
            return;
        }
        let Some(waiter) = lease.waiters.pop_front() else {
            return;
        };
        self.last_use = now.boot;
        self.hold(key, &waiter, effects);
        self.show_lease(&waiter.asker(), key, now, effects);
    }

    /// A lease whose handle nobody was told is of no use to anybody, and one that the log does not
    /// know would be nobody's after a crash: it is given back (LC-8).
    pub(super) fn lease_undelivered(
        &mut self,
        lease_id: &LeaseId,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(key) = self.leases.find(lease_id) {
            self.release(key, RevokeReason::Released, now, effects);
        }
    }

    /// A lease of an earlier login: nobody gets it, the issuer is told (LC-8).
    fn lease_came_late(&mut self, key: LeaseKey, now: Now, effects: &mut Vec<Effect>) {
        let code = if self.login.is_locked() {
            ErrorCode::Locked
        } else {
            ErrorCode::LoginRequired
        };
        if let Some(lease) = self.leases.get_mut(key) {
            let (selector, waiters) = (lease.selector.clone(), std::mem::take(&mut lease.waiters));
            self.turn_away(&selector, waiters, code, effects);
        }
        let session = self
            .ending_session()
            .or_else(|| self.session(now).map(Arc::clone));
        if !self.revoke_live(
            key,
            &RevokeReason::Logout.into(),
            session.as_ref(),
            now,
            effects,
        ) {
            self.ending_settled(key, Settled::Otherwise);
        }
    }

    pub(super) fn lease_redeem_answered(
        &mut self,
        key: LeaseKey,
        generation: Generation,
        answer: Answer<RedeemedLease>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        match answer.outcome {
            Ok(redeemed) => {
                effects.push(Effect::Audit(Box::new(self.lease_record(
                    key,
                    AuditAction::LeaseRedeem,
                    AuditOutcome::Ok,
                    &answer.trace,
                ))));
                self.redeemed(key, redeemed, now, effects);
            }
            Err(failure) => {
                effects.push(Effect::Audit(Box::new(AuditRecord {
                    reason: Some(reason_word(&failure)),
                    ..self.lease_record(
                        key,
                        AuditAction::LeaseRedeem,
                        outcome_of(&failure),
                        &answer.trace,
                    )
                })));
                self.redeem_failed(key, &failure, &answer.trace, now, effects);
                // A lease can outlive its login by a few seconds.
                if generation == self.generation {
                    self.session_after(&failure, now, effects);
                }
            }
        }
    }

    fn redeemed(
        &mut self,
        key: LeaseKey,
        redeemed: RedeemedLease,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let session = self.session(now).map(Arc::clone);
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        lease.used = lease.used.saturating_add(1).max(redeemed.redemptions_used);
        let Phase::Live(live) = &mut lease.phase else {
            // Revoked, expired or logged out meanwhile: the material is dropped here (LC-8).
            return;
        };
        live.redeeming = false;
        // The table keeps the lease until its own end; material that ends earlier is not served
        // past that (`serves`, `deliver`).
        let material_ends_at = redeemed.expires_at.min(live.expires_at);
        let mut material = redeemed.material;
        material.expires_at = material.expires_at.min(live.expires_at_unix);
        let material = Arc::new(material);
        live.yielded.push(Arc::clone(&material));
        if lease.kind.is_shared() {
            live.material = Some(Arc::clone(&material));
            let selector = lease.selector.clone();
            let waiters = std::mem::take(&mut lease.waiters);
            self.leases.shorten(key, material_ends_at);
            let left = now.boot.until(material_ends_at);
            let (short, served): (Vec<_>, Vec<_>) = waiters
                .into_iter()
                .partition(|waiter| waiter.joined && left < waiter.min_valid_for);
            for waiter in served {
                self.deliver(key, &waiter, &material, now, effects);
            }
            // Nobody is left who waited, or it came too short for all of them.
            self.release_if_abandoned(key, RevokeReason::Released, now, effects);
            for mut waiter in short {
                waiter.joined = false;
                self.share(selector.clone(), waiter, None, now, effects);
            }
            return;
        }
        if let Some(waiter) = lease.waiters.pop_front() {
            if now.boot < material_ends_at {
                self.deliver(key, &waiter, &material, now, effects);
            } else {
                let (selector, expired) = (lease.selector.clone(), ErrorCode::LeaseExpired);
                self.turn_away(&selector, VecDeque::from([waiter]), expired, effects);
            }
        }
        let next = self
            .leases
            .get_mut(key)
            .filter(|lease| !lease.waiters.is_empty());
        if let (Some(lease), Some(session)) = (next, &session) {
            redeem_next(key, lease, self.generation, session, effects);
        }
        self.release_if_abandoned(key, RevokeReason::HolderExited, now, effects);
    }

    fn redeem_failed(
        &mut self,
        key: LeaseKey,
        failure: &Failure,
        trace: &CallTrace,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let session = self.session(now).map(Arc::clone);
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        let Phase::Live(live) = &mut lease.phase else {
            // Ended meanwhile: nobody waits.
            return;
        };
        live.redeeming = false;
        let selector = lease.selector.clone();
        let waiters = std::mem::take(&mut lease.waiters);
        let passes = matches!(
            failure.disposition,
            Disposition::Wait(_) | Disposition::Retry(_)
        );
        if lease.kind == Kind::Single && passes && failure.certainty == Certainty::NotDone {
            // Not counted, and whoever asked hears that trying again may help.
            self.fail_waiters(&selector, waiters, failure, trace, effects);
            return self.release_if_abandoned(key, RevokeReason::HolderExited, now, effects);
        }
        let replace = lease.kind == Kind::Shared && failure.certainty == Certainty::Unknown;
        let new = NewLease {
            selector: selector.clone(),
            ttl: lease.ttl,
            max_redemptions: lease.max_redemptions,
            purpose: None,
            kind: Kind::Replacement,
        };
        // Lost, or refused for good: either way this lease is of no more use.
        let reason = match failure.certainty {
            Certainty::Unknown => RevokeReason::DeliveryUncertain,
            Certainty::NotDone => RevokeReason::Released,
        };
        self.release(key, reason, now, effects);
        if replace && !waiters.is_empty() && session.is_some() {
            self.make_lease(new, waiters, now, effects);
        } else {
            self.fail_waiters(&selector, waiters, failure, trace, effects);
        }
    }

    pub(super) fn lease_revoke_answered(
        &mut self,
        lease_id: &LeaseId,
        generation: Option<Generation>,
        reason: RevokeReason,
        answer: Answer<()>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let key = self.leases.find(lease_id);
        let over = self.revocations.is_over(lease_id, &answer.outcome);
        let (outcome, word) = match &answer.outcome {
            Ok(()) => (AuditOutcome::Ok, CleanText::new(reason.as_str(), 64)),
            Err(failure) if failure.code == ErrorCode::LeaseNotFound => {
                // By our own word the next run knows that nothing is open.
                let word = if over {
                    failure.code.as_str()
                } else {
                    "unconfirmed"
                };
                (outcome_of(failure), CleanText::new(word, 64))
            }
            Err(failure) => (outcome_of(failure), reason_word(failure)),
        };
        let settled = match &answer.outcome {
            Ok(()) => Settled::Revoked,
            Err(_) => Settled::Otherwise,
        };
        let subject = match &answer.outcome {
            Ok(()) => self.revocations.settled(lease_id),
            Err(_) if over => self.revocations.settled(lease_id),
            // Asking again with this session does not help; the next login tries once more.
            Err(failure) if failure.disposition == Disposition::Terminal => {
                self.revocations.refused(lease_id)
            }
            Err(failure) => {
                let pause = pause_of(failure);
                self.revocations.failed(lease_id, now.boot, pause)
            }
        }
        .unwrap_or_default();
        effects.push(Effect::Audit(Box::new(AuditRecord {
            peer: subject.peer,
            selector: subject.selector,
            lease_id: Some(lease_id.clone()),
            reason: Some(word),
            trace: answer.trace,
            ..self.record(AuditAction::LeaseRevoke, outcome)
        })));
        if over {
            self.leases.confirm_ended(lease_id, LeaseState::Revoked);
        }
        if let Some(key) = key {
            self.ending_settled(key, settled);
        }
        for asker in self.revoke_askers.remove(lease_id).unwrap_or_default() {
            match key {
                Some(key) => self.show_lease(&asker, key, now, effects),
                None => self.not_found(&asker, effects),
            }
        }
        if let Err(failure) = &answer.outcome
            && generation == Some(self.generation)
        {
            self.session_after(failure, now, effects);
        }
    }

    /// Material to one caller: the record, then the reply. Not past its end, and only if it stays
    /// valid for as long as the caller said.
    fn deliver(
        &mut self,
        key: LeaseKey,
        waiter: &Waiter,
        material: &Arc<crate::model::Material>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(lease) = self.leases.get(key) else {
            return self.not_found(&waiter.asker(), effects);
        };
        let left = lease
            .live(now.boot)
            .map(|live| now.boot.until(live.expires_at));
        let refusal = match left {
            None => Some(ErrorCode::LeaseExpired.into()),
            Some(left) if left < waiter.min_valid_for => Some(too_short(false)),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            let (asker, selector) = (waiter.asker(), lease.selector.clone());
            return self.deny(&asker, Some(&selector), &waiter.rule, refusal, effects);
        }
        let actions: &'static [Action] = if lease.kind.is_shared() {
            &[Action::Create, Action::Redeem]
        } else {
            &[Action::Redeem]
        };
        self.last_use = now.boot;
        // Before the look: this caller changes what the lease dies with.
        self.hold(key, waiter, effects);
        let Some(view) = self.leases.get(key).and_then(|lease| lease.view(now.boot)) else {
            return self.not_found(&waiter.asker(), effects);
        };
        if let Some(sending) = &waiter.sending {
            return self.send(sending, waiter, view, material, now, effects);
        }
        effects.push(Effect::Audit(Box::new(AuditRecord {
            peer: Some(Arc::clone(&waiter.peer)),
            selector: Some(view.selector.clone()),
            lease_id: Some(view.lease_id.clone()),
            exposure: Some(waiter.exposure),
            actions: actions.into(),
            rule: Some(waiter.rule.clone()),
            ..self.record(AuditAction::Deliver, AuditOutcome::Ok)
        })));
        self.reply(
            waiter.ticket,
            Reply::Delivered(Delivery {
                lease: view,
                material: Arc::clone(material),
            }),
            effects,
        );
    }

    fn hold(&mut self, key: LeaseKey, waiter: &Waiter, effects: &mut Vec<Effect>) {
        if let Some(lease) = self.leases.get_mut(key) {
            lease.hold_for(waiter);
        }
        match waiter.holder() {
            Some(Holder::Process(process) | Holder::Child(process)) => {
                effects.push(Effect::WatchProcess { process });
            }
            Some(Holder::Connection(_)) | None => {}
        }
    }

    fn show_lease(&mut self, asker: &Asker, key: LeaseKey, now: Now, effects: &mut Vec<Effect>) {
        match self.leases.get(key).and_then(|lease| lease.view(now.boot)) {
            Some(view) => self.reply(asker.ticket, Reply::Lease(Box::new(view)), effects),
            None => self.not_found(asker, effects),
        }
    }

    /// The call's own record names the first of them; the others have one each (AU-2).
    fn fail_waiters(
        &mut self,
        selector: &Selector,
        mut waiters: VecDeque<Waiter>,
        failure: &Failure,
        trace: &CallTrace,
        effects: &mut Vec<Effect>,
    ) {
        let refusal = refusal_of(failure, trace);
        if let Some(first) = waiters.pop_front() {
            self.refuse(first.ticket, refusal.clone(), effects);
        }
        for waiter in waiters {
            self.deny_as(
                outcome_of(failure),
                &waiter.asker(),
                Some(selector),
                &waiter.rule,
                refusal.clone(),
                effects,
            );
        }
    }

    /// What a failed call means for the session.
    pub(super) fn session_after(&mut self, failure: &Failure, now: Now, effects: &mut Vec<Effect>) {
        match failure.disposition {
            Disposition::Reauthenticate | Disposition::Compromised => {
                self.session_lost(failure, now, effects);
            }
            Disposition::Wait(_)
            | Disposition::Retry(_)
            | Disposition::Terminal
            | Disposition::Fault => {}
        }
    }

    /// Leases whose last holder is gone are given back (LC-7).
    pub(super) fn holder_gone(&mut self, holder: Holder, now: Now, effects: &mut Vec<Effect>) {
        for key in self.leases.release(holder) {
            self.release(key, RevokeReason::HolderExited, now, effects);
        }
    }

    fn release_if_abandoned(
        &mut self,
        key: LeaseKey,
        reason: RevokeReason,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let abandoned = self.leases.get(key).is_some_and(|lease| {
            lease.holders.is_empty() && !lease.pinned && lease.waiters.is_empty()
        });
        if abandoned {
            self.release(key, reason, now, effects);
        }
    }

    /// Ends a live lease that is of no more use; nobody asked for it.
    pub(super) fn release(
        &mut self,
        key: LeaseKey,
        reason: RevokeReason,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let session = self.session(now).map(Arc::clone);
        self.revoke_live(key, &reason.into(), session.as_ref(), now, effects);
    }

    /// The longest lease that this session can make now, however late within the call the issuer
    /// starts to count. A lease never outlives what it takes to revoke it: the token, or where
    /// another one follows by itself, the session.
    pub(super) fn room_for_lease(&self, session: &Session, now: Now) -> Duration {
        let end = if self.renews() {
            session.ends_at
        } else {
            session.expires_at
        };
        now.boot.until(end).saturating_sub(CALL_LIMIT)
    }

    pub(super) fn purge_leases(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for (selector, waiters) in self.leases.purge(now.boot) {
            self.turn_away(&selector, waiters, ErrorCode::LeaseExpired, effects);
        }
    }

    pub(super) fn retry_revocations(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(session) = self.session(now).map(Arc::clone) else {
            return;
        };
        for (lease_id, reason) in self.revocations.due(&session.principal, now.boot) {
            effects.push(Effect::RevokeLease {
                generation: Some(self.generation),
                session: Arc::clone(&session),
                lease_id,
                reason,
            });
        }
    }

    /// A record about a lease of ours.
    fn lease_record(
        &self,
        key: LeaseKey,
        action: AuditAction,
        outcome: AuditOutcome,
        trace: &CallTrace,
    ) -> AuditRecord {
        let lease = self.leases.get(key);
        let lease_id = lease.and_then(|lease| match &lease.phase {
            Phase::Creating => None,
            Phase::Live(live) => Some(live.lease_id.clone()),
            Phase::Ended { lease_id, .. } => Some(lease_id.clone()),
        });
        let first = lease.and_then(|lease| lease.waiters.front());
        AuditRecord {
            peer: first.map(|waiter| Arc::clone(&waiter.peer)),
            rule: first.map(|waiter| waiter.rule.clone()),
            selector: lease.map(|lease| lease.selector.clone()),
            lease_id,
            // Also where that login is over.
            principal: lease.map(|lease| lease.principal.clone()),
            trace: trace.clone(),
            ..self.record(action, outcome)
        }
    }
}

impl Waiter {
    pub(super) fn asker(&self) -> Asker {
        Asker {
            ticket: self.ticket,
            connection: self.connection,
            peer: Arc::clone(&self.peer),
        }
    }
}

/// What a lease is asked for with, when everything allows it.
struct Checked {
    session: Arc<Session>,
    ttl: Duration,
    wanted: denials::Wanted,
}

/// A lease about to be asked for.
struct NewLease {
    selector: Selector,
    ttl: Duration,
    max_redemptions: u32,
    purpose: Option<CleanText>,
    kind: Kind,
}

/// To who needs material for longer than a lease is valid: by policy, by the issuer's word, or, where
/// a new login helps, by the token's end.
fn too_short(login_helps: bool) -> Refusal {
    let fix = if login_helps {
        "run `aegis-broker logout` and `aegis-broker login`, or ask for a shorter time of validity"
    } else {
        "ask for a shorter time of validity"
    };
    Refusal::new(ErrorCode::InvalidRequest)
        .with_reason("min_valid_for_too_long")
        .with_message("no lease can stay valid for as long as asked")
        .with_fix(fix)
}

/// What is made of an answer that gives a lease the name of another one. What it made, if anything,
/// has no name that could be used, and runs out.
fn named_twice() -> Failure {
    let code = ErrorCode::AegisProtocol;
    Failure::new(code, Disposition::Fault, Certainty::Unknown).with_reason("lease_id_reused")
}

/// Whether a shared lease will do for this caller: within its rule's lifetime, and valid for as
/// long as it needs. One that is still on its way is judged by what was asked for: it must leave
/// room for the calls that bring it, or as much as one of the caller's own would, of `own_ttl`.
fn serves(lease: &Lease, waiter: &Waiter, own_ttl: Duration, now: Now) -> bool {
    let short_enough = waiter.max_ttl.is_none_or(|max_ttl| lease.ttl <= max_ttl);
    let needed = waiter.min_valid_for;
    let long_enough = match &lease.phase {
        Phase::Creating => {
            lease.ttl >= needed && lease.ttl >= needed.saturating_add(CALL_SLACK).min(own_ttl)
        }
        Phase::Live(live) => {
            now.boot < live.expires_at && now.boot.until(live.expires_at) >= needed
        }
        Phase::Ended { .. } => false,
    };
    short_enough && long_enough
}

/// Sends the next redemption, one at a time for each lease.
fn redeem_next(
    key: LeaseKey,
    lease: &mut Lease,
    generation: Generation,
    session: &Arc<Session>,
    effects: &mut Vec<Effect>,
) {
    if let Phase::Live(live) = &mut lease.phase
        && !live.redeeming
    {
        live.redeeming = true;
        effects.push(Effect::RedeemLease {
            lease: key,
            generation,
            session: Arc::clone(session),
            lease_id: live.lease_id.clone(),
            selector: lease.selector.clone(),
        });
    }
}

const fn code_of_ended(state: LeaseState) -> ErrorCode {
    match state {
        LeaseState::Expired => ErrorCode::LeaseExpired,
        LeaseState::Exhausted => ErrorCode::LeaseExhausted,
        LeaseState::Revoking | LeaseState::Revoked | LeaseState::Active => ErrorCode::LeaseRevoked,
    }
}
