//! The state and its one entrance, [`State::step`].
//!
//! Invariant: nothing here is `async`, reads a clock, draws a random number or does I/O.
//! Invariant: what a generation started is recognised by it; a result of an older one is dropped
//! and, where it made something at the issuer, revoked (LC-8).
//! Invariant: expiry is compared with `now` at every use; timers only clean up (LC-2).
//! Invariant: a reply that carries material follows its audit record in the same batch (AU-1).
//!
//! `session.rs` holds login and its end, `serve.rs` the life of leases, `uses.rs` what the broker
//! does with a credential itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::decisions::Decisions;
use super::denials::Denials;
use super::effect::Effect;
use super::event::{
    ConnectionId, Door, Event, LostSession, Reply, Request, StatusView, TargetView, Ticket,
};
use super::leases::{Holder, LeaseTable};
use super::login::{Generation, Login};
use super::pauses::{self, Pauses};
use super::policy::Policy;
use super::ports::{AuditAction, AuditOutcome, AuditRecord, OpenLease};
use super::renewal::Renewal;
use super::revocations::{Revocations, gone_at};
use super::session::Ending;
use crate::model::{
    CleanText, ErrorCode, Gate, LeaseId, LoginPhase, LoginView, NoRule, PeerFacts, Principal,
    ProfileName, Refusal, Scope, Selector, Target, TenantId,
};
use crate::time::{Now, Timestamp};

/// What the core must know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured profile.
    pub profile: ProfileName,
    /// Its tenant.
    pub tenant: TenantId,
    /// What the approval page calls us.
    pub client_display_name: CleanText,
    /// The lifetime asked for access tokens.
    pub token_ttl: Duration,
    /// Whether a login is to last without the person, where it can.
    pub renews: bool,
    /// The catalogue.
    pub targets: Vec<Target>,
    /// What is done about callers that go wrong.
    pub gate: Gate,
    /// Where long-lived secrets rest, for `status`.
    pub key_store: &'static str,
    /// Where the audit log is written, absolute, for `status`.
    pub audit_folder: PathBuf,
}

/// What earlier runs left behind, as the audit log tells.
#[derive(Debug, Clone, Default)]
pub struct Resumed {
    /// Whose login the profile last had (AP-11).
    pub principal: Option<Principal>,
    /// Leases that were open when the last run ended (LC-10).
    pub open_leases: Vec<OpenLease>,
}

/// Everything the core knows.
#[derive(Debug)]
pub struct State {
    pub(super) settings: Settings,
    pub(super) targets: HashMap<Selector, Target>,
    pub(super) policy: Policy,
    pub(super) peers: HashMap<ConnectionId, Arc<PeerFacts>>,
    pub(super) generation: Generation,
    pub(super) login: Login,
    pub(super) last_principal: Option<Principal>,
    pub(super) leases: LeaseTable,
    pub(super) revocations: Revocations,
    /// Who asked for a revocation and waits for the issuer's word.
    pub(super) revoke_askers: HashMap<LeaseId, Vec<Asker>>,
    pub(super) ending: Option<Ending>,
    pub(super) lost: Option<LostSession>,
    pub(super) renewal: Renewal,
    pub(super) denials: Denials,
    pub(super) pauses: Pauses,
    /// When something was given out, or the person logged in, the last time.
    pub(super) last_use: Timestamp,
    pub(super) decisions: Decisions,
    pub(super) tickets: HashMap<Ticket, ConnectionId>,
    /// Requests with a credential that are under way.
    pub(super) uses: usize,
    pub(super) stopping: bool,
}

/// Who asks, as far as an answer and its record need it.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) ticket: Ticket,
    pub(super) connection: ConnectionId,
    pub(super) peer: Arc<PeerFacts>,
}

impl State {
    /// A core in which nobody is logged in.
    pub fn new(settings: Settings, policy: Policy, resumed: Resumed, now: Now) -> Self {
        let targets = settings
            .targets
            .iter()
            .map(|target| (target.selector.clone(), target.clone()))
            .collect();
        let mut revocations = Revocations::default();
        for open in resumed.open_leases {
            revocations.add(
                open.lease_id,
                open.selector,
                open.principal,
                super::ports::RevokeReason::DeliveryUncertain.into(),
                gone_at(open.expires_at, now),
            );
        }
        Self {
            settings,
            targets,
            policy,
            peers: HashMap::new(),
            generation: Generation::FIRST,
            login: Login::LoggedOut,
            last_principal: resumed.principal,
            leases: LeaseTable::default(),
            revocations,
            revoke_askers: HashMap::new(),
            ending: None,
            lost: None,
            renewal: Renewal::default(),
            denials: Denials::default(),
            pauses: Pauses::default(),
            last_use: now.boot,
            decisions: Decisions::default(),
            tickets: HashMap::new(),
            uses: 0,
            stopping: false,
        }
    }

    /// Takes note of one event and appends what follows from it to `effects`, in order.
    pub fn step(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        let before = effects.len();
        match event {
            Event::ConnectionOpened {
                connection,
                peer,
                door,
            } => {
                if door == Door::Models {
                    self.decisions.open(connection, peer.process);
                }
                self.peers.insert(connection, peer);
            }
            Event::ConnectionClosed { connection } => {
                self.connection_closed(connection, now, effects);
            }
            Event::ProcessExited { process } => {
                self.holder_gone(Holder::Process(process), now, effects);
                self.holder_gone(Holder::Child(process), now, effects);
            }
            Event::Requested {
                ticket,
                connection,
                profile,
                request,
            } => self.requested(ticket, connection, profile.as_ref(), request, now, effects),
            Event::DeviceAuthorizationAnswered { generation, answer } => {
                self.device_authorization_answered(generation, answer, now, effects);
            }
            Event::DeviceExchangeAnswered { generation, answer } => {
                self.device_exchange_answered(generation, answer, now, effects);
            }
            Event::LeaseCreateAnswered {
                lease,
                generation,
                answer,
            } => self.lease_create_answered(lease, generation, answer, now, effects),
            Event::LeaseRedeemAnswered {
                lease,
                generation,
                answer,
            } => self.lease_redeem_answered(lease, generation, answer, now, effects),
            Event::LeaseRevokeAnswered {
                lease_id,
                generation,
                reason,
                answer,
            } => self.lease_revoke_answered(&lease_id, generation, reason, answer, now, effects),
            Event::AccessRevokeAnswered { answer } => self.access_revoke_answered(answer, effects),
            Event::IdentityAnswered { generation, answer } => {
                self.identity_answered(generation, answer, now, effects);
            }
            Event::SessionRenewed { generation, answer } => {
                self.session_renewed(generation, answer, now, effects);
            }
            Event::AuditEventsListed {
                ticket,
                generation,
                principal,
                answer,
            } => self.audit_events_listed(ticket, generation, principal, answer, now, effects),
            Event::OwnCallsRead(read) => self.own_calls_read(*read, effects),
            Event::HttpAnswered { usage, outcome } => {
                self.http_answered(&usage, outcome, now, effects);
            }
            Event::LeaseUndelivered { lease_id } => {
                self.lease_undelivered(&lease_id, now, effects);
            }
            Event::CallsAbandoned => self.ending_over(now, effects),
            Event::PolicyReplaced { policy } => {
                self.policy = policy;
                self.denials.forget();
                self.pauses.forget();
                effects.push(self.audit(AuditAction::PolicyLoad, AuditOutcome::Ok));
            }
            Event::PolicyRefused => effects.push(Effect::Audit(Box::new(AuditRecord {
                reason: Some(CleanText::new(ErrorCode::ConfigInvalid.as_str(), 64)),
                ..self.record(AuditAction::PolicyLoad, AuditOutcome::Error)
            }))),
            Event::TimerFired => {}
            Event::ShutdownRequested => self.shutdown(now, effects),
        }
        self.look_at_the_clock(now, effects);
        self.count_denials(before, now, effects);
        self.decisions
            .note(effects.get(before..).unwrap_or_default(), now);
    }

    /// The records that open a run.
    pub fn opening_records(&self) -> Vec<AuditRecord> {
        let key_store = AuditRecord {
            reason: Some(CleanText::new(self.settings.key_store, 32)),
            ..self.record(AuditAction::KeyStoreChoice, AuditOutcome::Ok)
        };
        vec![
            self.record(AuditAction::Start, AuditOutcome::Ok),
            key_store,
            self.record(AuditAction::PolicyLoad, AuditOutcome::Ok),
        ]
    }

    /// When [`Event::TimerFired`] should come at the latest, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        [
            self.login_deadline(),
            self.idle_deadline(),
            self.renewal_deadline(),
            self.leases.next_deadline(),
            // Without a session nothing is tried again, and a time that passed would spin.
            self.login
                .session()
                .and_then(|_| self.revocations.next_deadline()),
            self.ending.as_ref().and_then(Ending::deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn look_at_the_clock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.purge_leases(now, effects);
        self.renewal_clock(now, effects);
        self.login_clock(now, effects);
        self.idle_clock(now, effects);
        self.retry_revocations(now, effects);
        self.ending_clock(now, effects);
    }

    /// Looks for denials in what this step led to, and begins the pauses that follow from them.
    fn count_denials(&mut self, before: usize, now: Now, effects: &mut Vec<Effect>) {
        if !self.settings.gate.denial_pause {
            return;
        }
        let new = effects.get(before..).unwrap_or_default();
        for peer in self.pauses.note(new, now.boot) {
            effects.push(Effect::Audit(Box::new(AuditRecord {
                peer: Some(peer),
                reason: Some(CleanText::new(pauses::REASON, 64)),
                ..self.record(AuditAction::CallerPause, AuditOutcome::Ok)
            })));
        }
    }

    fn requested(
        &mut self,
        ticket: Ticket,
        connection: ConnectionId,
        profile: Option<&ProfileName>,
        request: Request,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peers.get(&connection).map(Arc::clone) else {
            // The connection was closed while this was in the queue: nobody listens.
            return;
        };
        self.tickets.insert(ticket, connection);
        let asker = Asker {
            ticket,
            connection,
            peer,
        };
        if self.stopping {
            let (code, rule) = (ErrorCode::ShuttingDown, NoRule::ShuttingDown);
            return self.turn_down(&asker, &request, code, rule, effects);
        }
        if profile.is_some_and(|name| *name != self.settings.profile) {
            let (code, rule) = (ErrorCode::ProfileUnknown, NoRule::ProfileUnknown);
            return self.turn_down(&asker, &request, code, rule, effects);
        }
        if let Some(selector) = request.selector().filter(|wanted| self.is_decoy(wanted)) {
            return self.decoy_touched(&asker, &request, selector, now, effects);
        }
        if request.may_be_paused()
            && let Some(refusal) = self.pauses.answer(&asker.peer, now.boot)
        {
            let rule = pauses::RULE.into();
            return self.deny(&asker, request.selector(), &rule, refusal, effects);
        }
        match request {
            Request::Status => {
                let status = Box::new(self.status(now));
                self.reply(ticket, Reply::Status(status), effects);
            }
            Request::LoginBegin => self.login_begin(&asker, now, effects),
            Request::LoginWait => self.login_wait(&asker, now, effects),
            Request::LoginCancel => self.login_cancel(&asker, now, effects),
            Request::LoginWithdraw { user_code } => {
                self.login_withdraw(&asker, &user_code, now, effects);
            }
            Request::Logout => self.logout(&asker, now, effects),
            Request::Lock => self.lock(&asker, now, effects),
            Request::TargetList => {
                let targets = self.target_views(now);
                self.reply(ticket, Reply::Targets(targets), effects);
            }
            Request::OfferList => {
                let offers = self.offers(&asker.peer, now);
                self.reply(ticket, Reply::Offers(offers), effects);
            }
            Request::PolicyExplain { selector } => {
                let view = Box::new(self.policy_view(&asker.peer, &selector, now));
                self.reply(ticket, Reply::Explained(view), effects);
            }
            Request::DecisionList => {
                let decisions = self.decisions.of(asker.peer.process);
                self.reply(ticket, Reply::Decisions(decisions), effects);
            }
            Request::Credential(request) => self.credential(&asker, request, now, effects),
            Request::Http(request) => self.http_request(&asker, request, now, effects),
            Request::LeaseCreate(request) => self.lease_create(&asker, request, now, effects),
            Request::LeaseRedeem { lease_id, exposure } => {
                self.lease_redeem(&asker, &lease_id, exposure, now, effects);
            }
            Request::LeaseRevoke { lease_id } => {
                self.lease_revoke(&asker, &lease_id, now, effects);
            }
            Request::OwnLeaseRevoke { lease_id } => {
                if self.leases.is_of(&lease_id, asker.peer.process) {
                    self.lease_revoke(&asker, &lease_id, now, effects);
                } else {
                    self.not_found(&asker, effects);
                }
            }
            Request::AuditReconcile => self.audit_reconcile(&asker, now, effects),
            Request::LeaseList => {
                let leases = self.leases.list(now);
                self.reply(ticket, Reply::Leases(leases), effects);
            }
            Request::OwnLeaseList => {
                let leases = self.leases.list_of(asker.peer.process, now);
                self.reply(ticket, Reply::Leases(leases), effects);
            }
        }
    }

    /// A no before it was looked at what is asked for; where that is a lease, with its record.
    fn turn_down(
        &mut self,
        asker: &Asker,
        request: &Request,
        code: ErrorCode,
        rule: NoRule,
        effects: &mut Vec<Effect>,
    ) {
        if request.is_about_a_lease() {
            self.deny(
                asker,
                request.selector(),
                &rule.into(),
                code.into(),
                effects,
            );
        } else {
            self.refuse(asker.ticket, code.into(), effects);
        }
    }

    fn connection_closed(&mut self, connection: ConnectionId, now: Now, effects: &mut Vec<Effect>) {
        self.peers.remove(&connection);
        self.decisions.close(connection);
        self.tickets.retain(|_, on| *on != connection);
        let tickets = &self.tickets;
        self.login
            .forget_ticket(&|ticket| !tickets.contains_key(&ticket));
        self.leases.forget_waiters(connection);
        for waiting in self.revoke_askers.values_mut() {
            waiting.retain(|asker| asker.connection != connection);
        }
        self.holder_gone(Holder::Connection(connection), now, effects);
    }

    /// How everything stands.
    fn status(&self, now: Now) -> StatusView {
        StatusView {
            login: self.login_view(now),
            live_leases: self.leases.live_count(now.boot),
            unconfirmed_revocations: self.revocations.count(now.boot),
            irrevocable_targets: self
                .settings
                .targets
                .iter()
                .filter(|target| !target.decoy)
                .filter(|target| !target.actions.contains(&crate::model::Action::Revoke))
                .count(),
            connections: self.peers.len(),
            key_store: self.settings.key_store,
            audit_folder: self.settings.audit_folder.clone(),
            policy_rules: self.policy.len(),
            renewal: self.renewal_word(),
            lost: self.lost.clone(),
        }
    }

    fn target_views(&self, now: Now) -> Vec<TargetView> {
        let session = self.session(now);
        self.settings
            .targets
            .iter()
            .map(|target| TargetView {
                selector: target.selector.clone(),
                description: target.description.clone(),
                actions: target.actions.clone(),
                granted: session
                    .is_some_and(|session| target.scopes().all(|scope| session.grants(&scope))),
            })
            .collect()
    }

    pub(super) fn login_view(&self, now: Now) -> LoginView {
        let phase = match &self.login {
            Login::AwaitingApproval { authorization, .. } => {
                LoginPhase::AwaitingApproval(super::session::device_view(authorization))
            }
            Login::LoggedIn(session) if now.boot < session.expires_at => LoginPhase::LoggedIn {
                principal: session.principal.clone(),
                token_expires_at: session.expires_at_unix,
                scopes: session.scopes.clone(),
                binding_checked: session.binding_checked,
            },
            login if login.is_locked() => LoginPhase::Locked,
            Login::LoggedOut | Login::Locked | Login::Beginning { .. } | Login::LoggedIn(_) => {
                LoginPhase::LoggedOut
            }
        };
        LoginView {
            profile: self.settings.profile.clone(),
            phase,
        }
    }

    /// Every scope that the catalogue needs.
    pub(super) fn wanted_scopes(&self) -> Vec<Scope> {
        self.settings
            .targets
            .iter()
            .flat_map(Target::scopes)
            .collect()
    }

    pub(super) fn reply(&mut self, ticket: Ticket, reply: Reply, effects: &mut Vec<Effect>) {
        if self.tickets.remove(&ticket).is_some() {
            effects.push(Effect::Reply {
                ticket,
                answer: Ok(reply),
            });
        }
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, refusal: Refusal, effects: &mut Vec<Effect>) {
        if self.tickets.remove(&ticket).is_some() {
            effects.push(Effect::Reply {
                ticket,
                answer: Err(refusal),
            });
        }
    }

    /// A record about the profile and, when there is one, its session.
    pub(super) fn record(&self, action: AuditAction, outcome: AuditOutcome) -> AuditRecord {
        let session = self.login.session();
        AuditRecord {
            profile: Some(self.settings.profile.clone()),
            principal: session.map(|session| session.principal.clone()),
            session_id: session.and_then(|session| session.session_id.clone()),
            ..AuditRecord::new(action, outcome)
        }
    }

    pub(super) fn audit(&self, action: AuditAction, outcome: AuditOutcome) -> Effect {
        Effect::Audit(Box::new(self.record(action, outcome)))
    }
}
