//! The part of the state that logs in and out: one device flow that everybody joins, one session,
//! and the way both end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::effect::Effect;
use super::event::{EndedView, LostSession, Reply, SessionEnd, Ticket};
use super::leases::{LeaseKey, Phase};
use super::login::{Callers, Generation, Login, Poll, PollResult};
use super::ports::{
    Answer, AuditAction, AuditOutcome, AuditRecord, BeginDeviceAuthorization, CallTrace, Certainty,
    DeviceAuthorization, DeviceExchange, Disposition, Failure, RevokeReason, Session,
};
use super::revocations::Cause;
use super::state::{Asker, State};
use crate::model::{
    CleanText, DeviceView, ErrorCode, LeaseId, LeaseState, MIN_LEASE_TTL, PeerFacts, Refusal,
};
use crate::time::{Now, Timestamp};

/// How long logout and lock wait for the issuer to confirm revocations (OA-16, HY-7).
const END_WITHIN: Duration = Duration::from_secs(3);

/// How much of that is kept for ending the session itself, which comes after its leases: they
/// could not be revoked with a token that is worth nothing any more.
const FOR_THE_SESSION: Duration = Duration::from_secs(1);

/// How long the daemon's stop waits for them.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What became of a lease of a session that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The issuer has confirmed its end.
    Revoked,
    /// It is not there, or counted among those that may be.
    Otherwise,
}

/// How far the end of the session itself is at the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtIssuer {
    /// To be asked for when its leases are done, for this reason.
    Due(RevokeReason),
    /// Asked for.
    Asked,
    /// Known, as far as it ever will be.
    Known(SessionEnd),
}

/// A session whose leases are being revoked. Holds token and key no longer than that takes.
#[derive(Debug)]
pub(super) struct Ending {
    session: Option<Arc<Session>>,
    at_issuer: AtIssuer,
    /// When the session's own end is asked for, whether or not its leases are done.
    session_due: Timestamp,
    until: Timestamp,
    tickets: Vec<Ticket>,
    outstanding: HashSet<LeaseKey>,
    revoked: usize,
    /// Its calls are being given up: nothing more is waited for.
    given_up: bool,
    then_stop: bool,
}

impl Ending {
    /// When its calls are given up.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let next = match self.at_issuer {
            AtIssuer::Due(_) => self.session_due,
            AtIssuer::Asked | AtIssuer::Known(_) => self.until,
        };
        (!self.given_up).then_some(next)
    }
}

impl State {
    /// The session, while its token lives.
    pub(super) fn session(&self, now: Now) -> Option<&Arc<Session>> {
        self.login
            .session()
            .filter(|session| now.boot < session.expires_at)
    }

    /// Whether the token still lives long enough to make a lease. One that does not is as good as
    /// none: who is told `login_required` because of it can log in at once.
    fn session_has_room(&self, now: Now) -> bool {
        self.session(now)
            .is_some_and(|session| self.room_for_lease(session, now) >= MIN_LEASE_TTL)
    }

    pub(super) fn login_begin(&mut self, asker: &Asker, now: Now, effects: &mut Vec<Effect>) {
        let (ticket, process) = (asker.ticket, asker.peer.process);
        if self.session_has_room(now) {
            return self.show_login(ticket, now, effects);
        }
        match &mut self.login {
            Login::Beginning { begin, callers, .. } => {
                callers.join(process);
                begin.push(ticket);
            }
            Login::AwaitingApproval { callers, .. } => {
                callers.join(process);
                self.show_login(ticket, now, effects);
            }
            Login::LoggedOut | Login::Locked | Login::LoggedIn(_) => {
                let scopes = self.wanted_scopes();
                let locked = self.login.is_locked();
                if self.login.session().is_some() {
                    self.forget_session(now, effects);
                }
                self.generation = self.generation.next();
                self.login = Login::Beginning {
                    begin: vec![ticket],
                    wait: Vec::new(),
                    callers: Callers::new(Arc::clone(&asker.peer)),
                    locked,
                };
                effects.push(Effect::BeginDeviceAuthorization {
                    generation: self.generation,
                    request: BeginDeviceAuthorization {
                        tenant: self.settings.tenant.clone(),
                        scopes,
                        token_ttl: self.settings.token_ttl,
                        renews: self.settings.renews,
                        client_display_name: self.settings.client_display_name.clone(),
                    },
                });
            }
        }
    }

    pub(super) fn login_wait(&mut self, asker: &Asker, now: Now, effects: &mut Vec<Effect>) {
        let ticket = asker.ticket;
        if self.session(now).is_some() {
            return self.show_login(ticket, now, effects);
        }
        match &mut self.login {
            Login::Beginning { wait, callers, .. }
            | Login::AwaitingApproval { wait, callers, .. } => {
                callers.join(asker.peer.process);
                wait.push(ticket);
            }
            Login::LoggedOut | Login::Locked | Login::LoggedIn(_) => {
                self.refuse(ticket, ErrorCode::LoginRequired.into(), effects);
            }
        }
    }

    pub(super) fn login_cancel(&mut self, asker: &Asker, now: Now, effects: &mut Vec<Effect>) {
        self.cancel_flow(Some(&asker.peer), effects);
        self.show_login(asker.ticket, now, effects);
    }

    /// One caller wants out of the flow with that code: it ends if it is nobody else's, and goes on
    /// without a word otherwise.
    pub(super) fn login_withdraw(
        &mut self,
        asker: &Asker,
        user_code: &CleanText,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if let Login::AwaitingApproval {
            authorization,
            callers,
            ..
        } = &self.login
            && authorization.user_code == *user_code
            && callers.is_only(asker.peer.process)
        {
            self.end_flow(ErrorCode::LoginCancelled, &CallTrace::default(), effects);
        }
        self.show_login(asker.ticket, now, effects);
    }

    fn show_login(&mut self, ticket: Ticket, now: Now, effects: &mut Vec<Effect>) {
        let view = Box::new(self.login_view(now));
        self.reply(ticket, Reply::Login(view), effects);
    }

    pub(super) fn device_authorization_answered(
        &mut self,
        generation: Generation,
        answer: Answer<DeviceAuthorization>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if generation != self.generation {
            let began = may_be_done(&answer.outcome, |_| true);
            return self.login_call_given_up(AuditAction::LoginBegin, began, answer.trace, effects);
        }
        let Login::Beginning {
            begin,
            wait,
            callers,
            locked,
        } = &mut self.login
        else {
            return;
        };
        let peer = Arc::clone(&callers.starter);
        let (begin, wait) = (std::mem::take(begin), std::mem::take(wait));
        let (callers, locked) = (callers.clone(), *locked);
        match answer.outcome {
            Ok(authorization) => {
                self.login = Login::AwaitingApproval {
                    poll: Poll::new(authorization.interval, authorization.expires_at, now.boot),
                    authorization: Arc::new(authorization),
                    lost: CallTrace::default(),
                    wait,
                    callers,
                    locked,
                };
                effects.push(Effect::Audit(Box::new(AuditRecord {
                    peer: Some(peer),
                    trace: answer.trace,
                    ..self.record(AuditAction::LoginBegin, AuditOutcome::Ok)
                })));
                for ticket in begin {
                    self.show_login(ticket, now, effects);
                }
            }
            Err(failure) => {
                self.login = logged_out(locked);
                effects.push(Effect::Audit(Box::new(AuditRecord {
                    peer: Some(peer),
                    trace: answer.trace.clone(),
                    reason: Some(reason_word(&failure)),
                    ..self.record(AuditAction::LoginBegin, outcome_of(&failure))
                })));
                let refusal = refusal_of(&failure, &answer.trace);
                for ticket in begin.into_iter().chain(wait) {
                    self.refuse(ticket, refusal.clone(), effects);
                }
            }
        }
    }

    pub(super) fn device_exchange_answered(
        &mut self,
        generation: Generation,
        answer: Answer<DeviceExchange>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if generation != self.generation {
            let won = may_be_done(&answer.outcome, |said| {
                matches!(said, DeviceExchange::Success(_))
            });
            return self.login_call_given_up(AuditAction::Login, won, answer.trace, effects);
        }
        let Login::AwaitingApproval { poll, lost, .. } = &mut self.login else {
            return;
        };
        match answer.outcome {
            Ok(DeviceExchange::Pending { interval }) => {
                poll.answered(PollResult::Pending { interval }, now.boot);
            }
            Ok(DeviceExchange::SlowDown { interval }) => {
                poll.answered(PollResult::SlowDown { interval }, now.boot);
            }
            Ok(DeviceExchange::AccessDenied) => {
                self.end_flow(ErrorCode::AccessDenied, &answer.trace, effects);
            }
            Ok(DeviceExchange::ExpiredToken) => {
                self.end_flow(ErrorCode::ExpiredToken, &answer.trace, effects);
            }
            Ok(DeviceExchange::Success(session)) => {
                self.logged_in(*session, &answer.trace, now, effects);
            }
            Err(Failure {
                disposition: Disposition::Wait(retry_after),
                certainty,
                ..
            }) => {
                if certainty == Certainty::Unknown {
                    lost.followed_by(&answer.trace);
                }
                poll.answered(PollResult::Failed { retry_after }, now.boot);
            }
            Err(failure) => {
                let refusal = refusal_of(&failure, &answer.trace);
                let outcome = outcome_of(&failure);
                let reason = reason_word(&failure);
                self.end_flow_with(&refusal, outcome, reason, None, &answer.trace, effects);
            }
        }
    }

    /// A call of a login that is over: it may have had its effect at the issuer all the same, so
    /// that its tries belong into the log.
    fn login_call_given_up(
        &self,
        action: AuditAction,
        may_be_done: bool,
        trace: CallTrace,
        effects: &mut Vec<Effect>,
    ) {
        if may_be_done {
            // Whoever is logged in by now has nothing to do with it.
            effects.push(Effect::Audit(Box::new(AuditRecord {
                profile: Some(self.settings.profile.clone()),
                reason: Some(CleanText::new("abandoned", 64)),
                trace,
                ..AuditRecord::new(action, AuditOutcome::Error)
            })));
        }
    }

    fn logged_in(
        &mut self,
        session: Session,
        trace: &CallTrace,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        // AP-11: another account than before is not taken over silently.
        if self
            .last_principal
            .as_ref()
            .is_some_and(|last| *last != session.principal)
        {
            return self.end_flow(ErrorCode::PrincipalChanged, trace, effects);
        }
        let Login::AwaitingApproval {
            callers,
            wait,
            lost,
            ..
        } = &mut self.login
        else {
            return;
        };
        let (peer, wait) = (Arc::clone(&callers.starter), std::mem::take(wait));
        let mut tries = std::mem::take(lost);
        tries.followed_by(trace);
        self.last_principal = Some(session.principal.clone());
        self.lost = None;
        let session = Arc::new(session);
        self.login = Login::LoggedIn(Arc::clone(&session));
        self.denials.forget();
        self.pauses.forget();
        self.last_use = now.boot;
        effects.push(Effect::Audit(Box::new(AuditRecord {
            peer: Some(peer),
            trace: tries,
            ..self.record(AuditAction::Login, AuditOutcome::Ok)
        })));
        for ticket in wait {
            self.show_login(ticket, now, effects);
        }
        for (lease_id, reason) in self.revocations.resume(&session.principal, now.boot) {
            effects.push(Effect::RevokeLease {
                generation: Some(self.generation),
                session: Arc::clone(&session),
                lease_id,
                reason,
            });
        }
    }

    /// Ends the flow that runs, if one does, with one of our own codes.
    fn end_flow(&mut self, code: ErrorCode, trace: &CallTrace, effects: &mut Vec<Effect>) {
        let reason = CleanText::new(code.as_str(), 64);
        let denied = AuditOutcome::Denied;
        self.end_flow_with(&code.into(), denied, reason, None, trace, effects);
    }

    /// Ends the flow that runs, if one does, because a peer wants so, where that is known.
    fn cancel_flow(&mut self, peer: Option<&Arc<PeerFacts>>, effects: &mut Vec<Effect>) {
        let code = ErrorCode::LoginCancelled;
        self.end_flow_with(
            &code.into(),
            AuditOutcome::Denied,
            CleanText::new(code.as_str(), 64),
            peer,
            &CallTrace::default(),
            effects,
        );
    }

    /// The record names the peer that ended the flow, else the one that started it.
    fn end_flow_with(
        &mut self,
        refusal: &Refusal,
        outcome: AuditOutcome,
        reason: CleanText,
        ended_by: Option<&Arc<PeerFacts>>,
        trace: &CallTrace,
        effects: &mut Vec<Effect>,
    ) {
        let mut tries = CallTrace::default();
        let (peer, waiting, locked) = match &mut self.login {
            Login::Beginning {
                begin,
                wait,
                callers,
                locked,
            } => {
                let mut waiting = std::mem::take(begin);
                waiting.append(wait);
                (Arc::clone(&callers.starter), waiting, *locked)
            }
            Login::AwaitingApproval {
                wait,
                callers,
                locked,
                lost,
                ..
            } => {
                tries = std::mem::take(lost);
                (Arc::clone(&callers.starter), std::mem::take(wait), *locked)
            }
            Login::LoggedOut | Login::Locked | Login::LoggedIn(_) => return,
        };
        tries.followed_by(trace);
        self.login = logged_out(locked);
        self.generation = self.generation.next();
        effects.push(Effect::AbandonLogin);
        effects.push(Effect::Audit(Box::new(AuditRecord {
            peer: Some(ended_by.map_or(peer, Arc::clone)),
            reason: Some(reason),
            trace: tries,
            ..self.record(AuditAction::Login, outcome)
        })));
        for ticket in waiting {
            self.refuse(ticket, refusal.clone(), effects);
        }
    }

    pub(super) fn logout(&mut self, asker: &Asker, now: Now, effects: &mut Vec<Effect>) {
        let record = self.asked(asker, AuditAction::Logout);
        self.cancel_flow(Some(&asker.peer), effects);
        let locked = self.login.is_locked();
        effects.push(record);
        let cause = Cause::asked(RevokeReason::Logout, &asker.peer);
        self.end_session(&cause, ErrorCode::LoginRequired, now, effects);
        self.login = logged_out(locked);
        self.last_principal = None;
        self.lost = None;
        self.join_ending(asker.ticket);
    }

    pub(super) fn lock(&mut self, asker: &Asker, now: Now, effects: &mut Vec<Effect>) {
        let cause = Cause::asked(RevokeReason::Locked, &asker.peer);
        self.lock_down(&cause, None, now, effects);
        self.join_ending(asker.ticket);
    }

    /// Locks, because a peer wants so or made it necessary, or because nobody wants anything:
    /// `reason` says which where it is not the plain wish.
    pub(super) fn lock_down(
        &mut self,
        cause: &Cause,
        reason: Option<CleanText>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let record = Effect::Audit(Box::new(AuditRecord {
            peer: cause.peer.as_ref().map(Arc::clone),
            reason,
            ..self.record(AuditAction::Lock, AuditOutcome::Ok)
        }));
        self.cancel_flow(cause.peer.as_ref(), effects);
        effects.push(record);
        self.end_session(cause, ErrorCode::Locked, now, effects);
        self.login = Login::Locked;
    }

    /// When a session that nobody uses is locked.
    pub(super) fn idle_deadline(&self) -> Option<Timestamp> {
        let idle = self.settings.gate.lock_after_idle?;
        self.login.session()?;
        Some(self.last_use.plus(idle))
    }

    pub(super) fn idle_clock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.idle_deadline().is_some_and(|at| at <= now.boot) {
            let reason = Some(CleanText::new("idle", 64));
            self.lock_down(&RevokeReason::Locked.into(), reason, now, effects);
        }
    }

    /// The record of something that a peer asked for and that is done.
    fn asked(&self, asker: &Asker, action: AuditAction) -> Effect {
        Effect::Audit(Box::new(AuditRecord {
            peer: Some(Arc::clone(&asker.peer)),
            ..self.record(action, AuditOutcome::Ok)
        }))
    }

    pub(super) fn shutdown(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.stopping {
            return;
        }
        self.end_flow(ErrorCode::ShuttingDown, &CallTrace::default(), effects);
        let cause = RevokeReason::Released.into();
        self.end_session(&cause, ErrorCode::ShuttingDown, now, effects);
        self.stopping = true;
        let until = now.boot.plus(STOP_WITHIN);
        // `end_session` has just made it.
        if let Some(ending) = &mut self.ending {
            ending.until = ending.until.min(until);
            ending.session_due = ending.session_due.min(due(now, STOP_WITHIN));
            ending.then_stop = true;
        }
    }

    /// The issuer says that the session is over, or that its key may be known to others: the
    /// person learns of it from the record, from `status`, and from the answer that it was found
    /// out by.
    pub(super) fn session_lost(&mut self, failure: &Failure, now: Now, effects: &mut Vec<Effect>) {
        if self.login.session().is_none() {
            return;
        }
        let reason = reason_word(failure);
        self.lost = Some(LostSession {
            reason: reason.clone(),
            at: now.unix,
        });
        effects.push(Effect::Audit(Box::new(AuditRecord {
            reason: Some(reason),
            ..self.record(AuditAction::Logout, AuditOutcome::Error)
        })));
        let cause = RevokeReason::Logout.into();
        self.end_session(&cause, ErrorCode::LoginRequired, now, effects);
        self.login = Login::LoggedOut;
        // One that is over there needs no end; one with a doubtful key does, if the issuer still
        // listens to that key.
        if failure.disposition != Disposition::Compromised
            && let Some(ending) = &mut self.ending
        {
            ending.at_issuer = AtIssuer::Known(SessionEnd::Confirmed);
        }
    }

    /// Ends every lease here, revokes them at the issuer with the session that goes, and answers
    /// everybody who waited with `code`. The caller sets the login that follows.
    fn end_session(&mut self, cause: &Cause, code: ErrorCode, now: Now, effects: &mut Vec<Effect>) {
        self.generation = self.generation.next();
        let session = self.login.session().map(Arc::clone);
        self.login = Login::LoggedOut;
        self.forget_renewal();
        let mut outstanding = HashSet::new();
        for key in self.leases.unended() {
            self.leases.unshare(key);
            let Some(lease) = self.leases.get_mut(key) else {
                continue;
            };
            let (selector, waiters) = (lease.selector.clone(), std::mem::take(&mut lease.waiters));
            match &lease.phase {
                Phase::Creating => {
                    // Its answer is recognised by its generation, and revoked then.
                    outstanding.insert(key);
                }
                Phase::Live(_) => {
                    if self.revoke_live(key, cause, session.as_ref(), now, effects) {
                        outstanding.insert(key);
                    }
                }
                Phase::Ended { .. } => {}
            }
            self.turn_away(&selector, waiters, code, effects);
        }
        self.revocations.suspend();
        let at_issuer = match session {
            Some(_) => AtIssuer::Due(cause.reason),
            None => AtIssuer::Known(SessionEnd::NoSession),
        };
        match &mut self.ending {
            Some(ending) => {
                ending.outstanding.extend(outstanding);
                ending.given_up = false;
                if session.is_some() {
                    ending.session = session;
                    ending.at_issuer = at_issuer;
                    ending.session_due = due(now, END_WITHIN);
                    ending.until = now.boot.plus(END_WITHIN);
                }
            }
            None => {
                self.ending = Some(Ending {
                    session,
                    at_issuer,
                    session_due: due(now, END_WITHIN),
                    until: now.boot.plus(END_WITHIN),
                    tickets: Vec::new(),
                    outstanding,
                    revoked: 0,
                    given_up: false,
                    then_stop: false,
                });
            }
        }
    }

    /// Answers when the ending that [`end_session`](Self::end_session) has just begun is over.
    fn join_ending(&mut self, ticket: Ticket) {
        if let Some(ending) = &mut self.ending {
            ending.tickets.push(ticket);
        }
    }

    /// The session whose leases are being revoked right now.
    pub(super) fn ending_session(&self) -> Option<Arc<Session>> {
        self.ending.as_ref()?.session.as_ref().map(Arc::clone)
    }

    /// One lease of an ending session needs no more waiting.
    pub(super) fn ending_settled(&mut self, key: LeaseKey, settled: Settled) {
        if let Some(ending) = &mut self.ending
            && ending.outstanding.remove(&key)
            && settled == Settled::Revoked
        {
            ending.revoked = ending.revoked.saturating_add(1);
        }
    }

    pub(super) fn ending_clock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // Also what was being revoked before: an answer now is better than a try at the next login.
        let quiet = !self.revocations.is_waiting();
        let Some(ending) = &mut self.ending else {
            return;
        };
        let leases_done = quiet && ending.outstanding.is_empty();
        let late = now.boot >= ending.until;
        if let (AtIssuer::Due(reason), Some(session)) = (ending.at_issuer, &ending.session)
            && !late
            && (leases_done || now.boot >= ending.session_due)
        {
            ending.at_issuer = AtIssuer::Asked;
            effects.push(Effect::RevokeAccess {
                session: Arc::clone(session),
                reason,
            });
        }
        let session_done = matches!(ending.at_issuer, AtIssuer::Known(_));
        let over = late || (leases_done && session_done);
        if over && !ending.given_up {
            ending.given_up = true;
            effects.push(Effect::AbandonCalls {
                keep: self.login.session().map(Arc::clone),
            });
        }
    }

    /// The issuer's word on the end of a session. Whatever it is, nothing of the session is left
    /// here (OA-16).
    pub(super) fn access_revoke_answered(&mut self, answer: Answer<()>, effects: &mut Vec<Effect>) {
        let (outcome, reason, end) = match &answer.outcome {
            Ok(()) => (AuditOutcome::Ok, None, SessionEnd::Confirmed),
            Err(failure) => {
                let reason = Some(reason_word(failure));
                (outcome_of(failure), reason, SessionEnd::Unconfirmed)
            }
        };
        let session = self.ending_session();
        if let Some(ending) = &mut self.ending
            && ending.at_issuer == AtIssuer::Asked
        {
            ending.at_issuer = AtIssuer::Known(end);
        }
        effects.push(Effect::Audit(Box::new(AuditRecord {
            reason,
            trace: answer.trace,
            profile: Some(self.settings.profile.clone()),
            principal: session.as_ref().map(|session| session.principal.clone()),
            session_id: session.and_then(|session| session.session_id.clone()),
            ..AuditRecord::new(AuditAction::SessionEnd, outcome)
        })));
    }

    /// Nothing of the session that ended is under way any more: says how its leases stand.
    pub(super) fn ending_over(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(ending) = self.ending.take_if(|ending| ending.given_up) else {
            return;
        };
        let ended = EndedView {
            revoked: ending.revoked,
            // What earlier endings left counts too, as long as it can be live.
            unconfirmed: self.revocations.count(now.boot),
            session: match ending.at_issuer {
                AtIssuer::Known(end) => end,
                AtIssuer::Due(_) | AtIssuer::Asked => SessionEnd::Unconfirmed,
            },
        };
        effects.push(Effect::DropConnections);
        for ticket in ending.tickets {
            self.reply(ticket, Reply::Ended(ended), effects);
        }
        if ending.then_stop {
            self.stopped(ended.unconfirmed, effects);
        }
    }

    /// Says what could not be confirmed (LC-7), and stops.
    fn stopped(&self, unconfirmed: usize, effects: &mut Vec<Effect>) {
        let mut record = self.record(AuditAction::Stop, AuditOutcome::Ok);
        if unconfirmed > 0 {
            record.outcome = AuditOutcome::Error;
            record.reason = Some(CleanText::new(&format!("unconfirmed:{unconfirmed}"), 64));
        }
        effects.push(Effect::Audit(Box::new(record)));
        effects.push(Effect::Stop { unconfirmed });
    }

    pub(super) fn login_clock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let renews = self.renews();
        match &mut self.login {
            Login::AwaitingApproval {
                authorization,
                poll,
                ..
            } => {
                if poll.is_expired(now.boot) {
                    self.end_flow(ErrorCode::ExpiredToken, &CallTrace::default(), effects);
                } else if poll.start_if_due(now.boot) {
                    effects.push(Effect::ExchangeDeviceAuthorization {
                        generation: self.generation,
                        authorization: Arc::clone(authorization),
                    });
                }
            }
            // A machine that slept through its token's end still has its SVID.
            Login::LoggedIn(session) if now.boot >= session.expires_at && !renews => {
                self.forget_session(now, effects);
            }
            Login::LoggedIn(_) | Login::LoggedOut | Login::Locked | Login::Beginning { .. } => {}
        }
    }

    /// The session whose token has ended, or is about to and makes room for a new login, goes with
    /// its connections (HY-7). Its leases are over by then, but for those that were made while it
    /// renewed itself: no token is left to revoke them with, so that is tried at the next login.
    fn forget_session(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.login = Login::LoggedOut;
        self.generation = self.generation.next();
        self.forget_renewal();
        for key in self.leases.unended() {
            self.revoke_live(key, &RevokeReason::Logout.into(), None, now, effects);
        }
        self.revocations.suspend();
        // What is still being made belongs to the old login: nobody joins it any more.
        for key in self.leases.unmade() {
            self.leases.unshare(key);
        }
        effects.push(Effect::DropConnections);
    }

    pub(super) fn login_deadline(&self) -> Option<Timestamp> {
        match &self.login {
            Login::AwaitingApproval { poll, .. } => Some(poll.deadline()),
            // Where another token is to come, the renewal looks after the time.
            Login::LoggedIn(session) => (!self.renews()).then_some(session.expires_at),
            Login::LoggedOut | Login::Locked | Login::Beginning { .. } => None,
        }
    }

    /// Ends a live lease here and, where the session may, at the issuer. Says whether the
    /// issuer is being told now.
    pub(super) fn revoke_live(
        &mut self,
        key: LeaseKey,
        cause: &Cause,
        session: Option<&Arc<Session>>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(lease) = self.leases.get(key) else {
            return false;
        };
        let Phase::Live(live) = &lease.phase else {
            return false;
        };
        let (lease_id, ends_at) = (live.lease_id.clone(), live.gone_at);
        let (selector, revocable) = (lease.selector.clone(), lease.revocable);
        let owner = lease.principal.clone();
        let waiters = self.leases.end(key, LeaseState::Revoking, now.boot);
        self.turn_away(&selector, waiters, ErrorCode::LeaseRevoked, effects);
        if !revocable {
            // Without the grant it can only run out; `status` says so.
            self.revocations
                .let_run_out(now.boot.until(ends_at), now.boot);
            return false;
        }
        self.revocations.add(
            lease_id.clone(),
            Some(selector),
            Some(owner),
            cause.clone(),
            ends_at,
        );
        let Some(session) = session else {
            return false;
        };
        self.send_revocation(lease_id, cause.reason, session, effects);
        true
    }

    /// The first try of a revocation.
    pub(super) fn send_revocation(
        &mut self,
        lease_id: LeaseId,
        reason: RevokeReason,
        session: &Arc<Session>,
        effects: &mut Vec<Effect>,
    ) {
        self.revocations.sent(&lease_id, &session.principal);
        let lasts = self
            .login
            .session()
            .is_some_and(|current| Arc::ptr_eq(current, session));
        effects.push(Effect::RevokeLease {
            generation: lasts.then_some(self.generation),
            session: Arc::clone(session),
            lease_id,
            reason,
        });
    }
}

/// When the end of a session is asked for that is waited for so long.
fn due(now: Now, within: Duration) -> Timestamp {
    now.boot.plus(within.saturating_sub(FOR_THE_SESSION))
}

/// Whether a call may have had the effect at the issuer that it was made for.
fn may_be_done<T>(outcome: &Result<T, Failure>, is_effect: impl FnOnce(&T) -> bool) -> bool {
    match outcome {
        Ok(said) => is_effect(said),
        Err(failure) => failure.certainty == Certainty::Unknown,
    }
}

const fn logged_out(locked: bool) -> Login {
    if locked {
        Login::Locked
    } else {
        Login::LoggedOut
    }
}

pub(super) fn device_view(authorization: &DeviceAuthorization) -> DeviceView {
    DeviceView {
        user_code: authorization.user_code.clone(),
        verification_uri: authorization.verification_uri.clone(),
        verification_uri_complete: authorization.verification_uri_complete.clone(),
        expires_at: authorization.expires_at_unix,
        client_display_name: authorization.request.client_display_name.clone(),
        scopes: authorization.request.scopes.clone(),
    }
}

/// The word a record gives as reason: the issuer's where it gave one, else our code.
pub(super) fn reason_word(failure: &Failure) -> CleanText {
    failure
        .reason
        .clone()
        .unwrap_or_else(|| CleanText::new(failure.code.as_str(), 64))
}

/// Whether somebody said no, or something broke.
pub(super) fn outcome_of(failure: &Failure) -> AuditOutcome {
    match failure.disposition {
        Disposition::Terminal | Disposition::Reauthenticate | Disposition::Compromised => {
            AuditOutcome::Denied
        }
        Disposition::Wait(_) | Disposition::Retry(_) | Disposition::Fault => AuditOutcome::Error,
    }
}

/// The pause that the issuer asked for, if it did.
pub(super) const fn pause_of(failure: &Failure) -> Option<Duration> {
    match failure.disposition {
        Disposition::Wait(pause) | Disposition::Retry(pause) => pause,
        Disposition::Reauthenticate
        | Disposition::Compromised
        | Disposition::Terminal
        | Disposition::Fault => None,
    }
}

/// What a caller hears about a failed call.
pub(super) fn refusal_of(failure: &Failure, trace: &CallTrace) -> Refusal {
    Refusal {
        reason_code: failure.reason.clone(),
        message: failure.message.clone(),
        retry_after: pause_of(failure),
        request_id: trace.request_id.clone(),
        ..Refusal::new(failure.code)
    }
}
