//! Tables and properties over [`State::step`]: a whole world in one thread, with a fake issuer
//! whose answers come in any order, a clock that jumps, and peers that vanish.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test asks about one variant and takes the others as they are"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::effect::Effect;
use super::event::{
    ConnectionId, CredentialRequest, Door, Event, LeaseRequest, Reply, Request, SessionEnd,
    Standing, Ticket,
};
use super::leases::{MAX_LEASES, Phase};
use super::login::{Generation, Login};
use super::policy::Policy;
use super::ports::{
    Answer, AuditAction, AuditError, AuditOutcome, AuditRecord, BeginDeviceAuthorization,
    CALL_LIMIT, CallTrace, Certainty, CreateLease, CreatedLease, DeviceAuthorization,
    DeviceExchange, Disposition, Failure, Identity, IssuerEvent, IssuerEvents, OpenLease, OwnCall,
    OwnCalls, RedeemedLease, RevokeReason, Session, Try,
};
use super::reconcile::ReadCalls;
use super::revocations::LATER;
use super::state::{Resumed, Settings, State};
use crate::cases::many;
use crate::dpop::ProofKey;
use crate::model::{
    Action, CleanText, Effect as PolicyEffect, ErrorCode, Exposure, Field, FieldValue, Gate,
    HolderClass, LeaseId, LeaseState, LoginPhase, MAX_LEASE_TTL, Material, MaterialKind, Origin,
    PeerFacts, PopKeyId, Principal, ProcessId, ProfileName, ProofJti, Refusal, Rule, Selector,
    SelectorPattern, SessionId, Target, TenantId,
};
use crate::secret::SecretString;
use crate::svid::{IdentityKey, Svid};
use crate::time::{Now, Timestamp, UnixTime};

const SELECTORS: [&str; 3] = [
    "gcp/billing-prod/deploy-bot",
    "generic/db/reader",
    "gcp/denied/x",
];

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn text(text: &str) -> CleanText {
    CleanText::new(text, 128)
}

fn jti(name: &str) -> Option<ProofJti> {
    ProofJti::parse(&name.repeat(22)).ok()
}

fn selector(index: usize) -> Selector {
    Selector::parse(SELECTORS[index % SELECTORS.len()]).unwrap()
}

/// Allows everything but `gcp/denied/x`.
fn policy() -> Policy {
    let rule = |id: &str, effect, pattern: &str| Rule {
        id: text(id),
        effect,
        selectors: vec![SelectorPattern::parse(pattern).unwrap()],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: None,
        on_leak: crate::model::OnLeak::Record,
    };
    Policy::new(vec![
        rule("all", PolicyEffect::Allow, "*/*/*"),
        rule("not-that", PolicyEffect::Deny, "gcp/denied/x"),
    ])
}

fn settings() -> Settings {
    Settings {
        profile: ProfileName::parse("work").unwrap(),
        tenant: TenantId::parse("business-default").unwrap(),
        client_display_name: text("test"),
        token_ttl: secs(600),
        renews: true,
        targets: (0..SELECTORS.len())
            .map(|index| Target {
                selector: selector(index),
                description: None,
                actions: Action::ALL.to_vec(),
                ttl: secs(300),
                decoy: false,
                inject: None,
            })
            .collect(),
        gate: Gate::default(),
        key_store: "memory",
        audit_folder: PathBuf::from("/state/audit"),
    }
}

/// A call to the issuer that has not been answered.
#[derive(Debug)]
enum Call {
    Begin(Generation, BeginDeviceAuthorization),
    Exchange(Generation, Arc<DeviceAuthorization>),
    Create(
        super::leases::LeaseKey,
        Generation,
        CreateLease,
        Arc<Session>,
    ),
    Redeem(super::leases::LeaseKey, Generation, LeaseId, Arc<Session>),
    Revoke(LeaseId, Option<Generation>, RevokeReason, Arc<Session>),
    Access(Arc<Session>),
    Events(Ticket, Generation, Arc<Session>),
    Identity(Generation, Arc<Session>, Option<Arc<Identity>>),
    Renew(Generation, Arc<Session>),
}

impl Call {
    /// Whose token and key it holds.
    fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Self::Begin(..) | Self::Exchange(..) => None,
            Self::Create(_, _, _, session)
            | Self::Redeem(_, _, _, session)
            | Self::Revoke(_, _, _, session)
            | Self::Access(session)
            | Self::Events(_, _, session)
            | Self::Identity(_, session, _)
            | Self::Renew(_, session) => Some(session),
        }
    }
}

/// How the fake issuer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Well,
    Pending,
    Denied,
    Lost,
    SessionOver,
}

/// What one caller has been told.
type Told = Result<Reply, Refusal>;

/// What an answer must have in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// A new lease, or a refusal.
    Made,
    /// A refusal; a delivery has its own check.
    Refused,
}

#[derive(Debug)]
struct World {
    state: State,
    now: Now,
    calls: Vec<Call>,
    records: Vec<AuditRecord>,
    told: BTreeMap<Ticket, Told>,
    asked: HashMap<Ticket, ConnectionId>,
    /// Who asked for a credential or a lease, or for its end: these have their records.
    recorded: HashMap<Ticket, (i32, Recorded)>,
    pids: HashMap<ConnectionId, i32>,
    open: Vec<ConnectionId>,
    next: u64,
    next_lease: u64,
    /// Leases at the issuer that are live there: until when.
    issued: HashMap<LeaseId, Timestamp>,
    watched: HashSet<ProcessId>,
    principal: &'static str,
    /// A session may be used: set by a login's success, cleared by logout, lock and loss.
    may_serve: bool,
    /// What the issuer leaves out of the scopes it grants.
    ungranted: Option<Action>,
    /// How often the HTTP client was dropped.
    dropped: usize,
    /// How the issuer answers when a session is to end; `None`: not until somebody says so.
    ends_sessions: Option<How>,
    /// Why it was to end each of them.
    ended_sessions: Vec<RevokeReason>,
    /// Whether a login brings a bootstrap token.
    bootstraps: bool,
    /// What the issuer has written down.
    events: IssuerEvents,
    /// What the log has of calls.
    own_calls: Result<OwnCalls, AuditError>,
    stopped: bool,
}

impl World {
    fn new(resumed: Resumed) -> Self {
        let now = Now {
            boot: Timestamp::from_millis(1_000_000),
            unix: UnixTime::from_millis(1_795_341_600_000),
        };
        Self {
            state: State::new(settings(), policy(), resumed, now),
            now,
            calls: Vec::new(),
            records: Vec::new(),
            told: BTreeMap::new(),
            asked: HashMap::new(),
            recorded: HashMap::new(),
            pids: HashMap::new(),
            open: Vec::new(),
            next: 0,
            next_lease: 0,
            issued: HashMap::new(),
            watched: HashSet::new(),
            principal: "user:u-demo",
            may_serve: false,
            ungranted: None,
            dropped: 0,
            ends_sessions: Some(How::Well),
            ended_sessions: Vec::new(),
            bootstraps: false,
            events: IssuerEvents::default(),
            own_calls: Ok(OwnCalls::default()),
            stopped: false,
        }
    }

    /// One step, with every invariant checked on what follows from it.
    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.state.step(event, self.now, &mut effects);
        let mut delivered_records: Vec<(LeaseId, i32)> = Vec::new();
        let mut made_records: Vec<LeaseId> = Vec::new();
        let mut refused_records: Vec<i32> = Vec::new();
        let mut abandoned = Vec::new();
        let mut ending = false;
        let mut to_end = None;
        let mut own_calls = None;
        for effect in effects {
            match effect {
                Effect::Audit(record) => {
                    let pid = record.peer.as_ref().map(|peer| peer.process.pid);
                    match (record.action, record.outcome) {
                        (AuditAction::Deliver, AuditOutcome::Ok) => {
                            delivered_records
                                .push((record.lease_id.clone().unwrap(), pid.unwrap()));
                        }
                        (AuditAction::LeaseCreate, AuditOutcome::Ok) => {
                            made_records.push(record.lease_id.clone().unwrap());
                        }
                        (_, AuditOutcome::Ok) => {}
                        (_, AuditOutcome::Denied | AuditOutcome::Error) => {
                            refused_records.extend(pid);
                        }
                    }
                    assert!(
                        record.peer.is_some() || !is_asked_for(&record),
                        "nobody asked for {record:?}"
                    );
                    self.records.push(*record);
                }
                Effect::Reply { ticket, answer } => {
                    if let Ok(Reply::Delivered(delivery)) = &answer {
                        // AU-1: its own record stands before it in the same batch.
                        let at = delivered_records
                            .iter()
                            .position(|(id, pid)| {
                                *id == delivery.lease.lease_id && *pid == self.recorded[&ticket].0
                            })
                            .expect("material without its audit record");
                        delivered_records.remove(at);
                        // LC-2: nothing past its end, on our clock or on the issuer's.
                        let ends = self.issued.get(&delivery.lease.lease_id);
                        assert!(self.now.boot < *ends.expect("material of a lease that is over"));
                        assert!(self.may_serve, "material after logout or lock");
                        assert_ne!(
                            delivery.lease.selector,
                            selector(2),
                            "denied selector served"
                        );
                    }
                    match (&answer, self.recorded.get(&ticket)) {
                        // AU-1, AU-2: a lease has its record before its maker hears of it.
                        (Ok(Reply::Lease(view)), Some((_, Recorded::Made))) => {
                            let at = made_records.iter().position(|id| *id == view.lease_id);
                            made_records.remove(at.expect("a lease without its record"));
                        }
                        // AU-2: a no has a record of its own, before it is said.
                        (Err(refusal), Some((pid, _))) => {
                            let at = refused_records.iter().position(|of| of == pid);
                            let code = refusal.code;
                            refused_records
                                .remove(at.unwrap_or_else(|| panic!("{code:?} without a record")));
                        }
                        _ => {}
                    }
                    let first = self.told.insert(ticket, answer).is_none();
                    assert!(first, "answered twice");
                }
                Effect::BeginDeviceAuthorization {
                    generation,
                    request,
                } => {
                    self.calls.push(Call::Begin(generation, request));
                }
                Effect::ExchangeDeviceAuthorization {
                    generation,
                    authorization,
                } => {
                    self.calls.push(Call::Exchange(generation, authorization));
                }
                Effect::CreateLease {
                    lease,
                    generation,
                    session,
                    request,
                } => {
                    assert!(self.may_serve, "a session used after logout or lock");
                    assert!(self.now.boot < session.expires_at, "a dead token used");
                    // However late within the call the issuer starts counting.
                    let at_the_latest = self.now.boot.plus(CALL_LIMIT).plus(request.ttl);
                    let end = if self.state.renews() {
                        session.ends_at
                    } else {
                        session.expires_at
                    };
                    assert!(at_the_latest <= end, "outlives its token");
                    self.calls
                        .push(Call::Create(lease, generation, request, session));
                }
                Effect::RedeemLease {
                    lease,
                    generation,
                    session,
                    lease_id,
                    ..
                } => {
                    assert!(self.may_serve, "a session used after logout or lock");
                    assert!(self.now.boot < session.expires_at, "a dead token used");
                    self.calls
                        .push(Call::Redeem(lease, generation, lease_id, session));
                }
                Effect::RevokeLease {
                    generation,
                    session,
                    lease_id,
                    reason,
                } => {
                    self.calls
                        .push(Call::Revoke(lease_id, generation, reason, session));
                }
                Effect::RevokeAccess { session, reason } => {
                    self.ended_sessions.push(reason);
                    match self.ends_sessions {
                        Some(how) => to_end = Some(how),
                        None => self.calls.push(Call::Access(session)),
                    }
                }
                Effect::BootstrapIdentity {
                    generation,
                    session,
                } => self.calls.push(Call::Identity(generation, session, None)),
                Effect::RenewIdentity {
                    generation,
                    session,
                    identity,
                } => self
                    .calls
                    .push(Call::Identity(generation, session, Some(identity))),
                Effect::RenewSession {
                    generation,
                    session,
                    ..
                } => self.calls.push(Call::Renew(generation, session)),
                Effect::ListAuditEvents {
                    ticket,
                    generation,
                    session,
                } => self.calls.push(Call::Events(ticket, generation, session)),
                Effect::ReadOwnCalls {
                    ticket,
                    principal,
                    listed,
                } => own_calls = Some((ticket, principal, listed)),
                Effect::WatchProcess { process } => {
                    self.watched.insert(process);
                }
                Effect::AbandonLogin => {
                    let calls = std::mem::take(&mut self.calls);
                    let (given_up, kept): (Vec<_>, _) =
                        calls.into_iter().partition(|call| call.session().is_none());
                    abandoned.extend(given_up);
                    self.calls = kept;
                }
                Effect::AbandonCalls { keep } => {
                    let calls = std::mem::take(&mut self.calls);
                    let (given_up, kept): (Vec<_>, _) = calls.into_iter().partition(|call| {
                        let session = call.session().map(Arc::as_ptr);
                        session.is_some() && session != keep.as_ref().map(Arc::as_ptr)
                    });
                    abandoned.extend(given_up);
                    self.calls = kept;
                    ending = true;
                }
                Effect::SendHttp { .. } => panic!("nobody asked for a request"),
                Effect::DropConnections => self.dropped += 1,
                Effect::Stop { .. } => self.stopped = true,
            }
        }
        assert!(
            delivered_records.is_empty(),
            "a delivery recorded that did not happen"
        );
        self.nothing_lives_for_nobody();
        for call in abandoned {
            self.answered(call, How::Lost);
        }
        if let Some((ticket, principal, listed)) = own_calls {
            let read = ReadCalls {
                ticket,
                principal,
                listed,
                calls: self.own_calls.clone(),
                under_way: Vec::new(),
            };
            self.step(read.into());
        }
        if let Some(how) = to_end {
            self.step(Event::AccessRevokeAnswered {
                answer: answer(how, |_| ()),
            });
        }
        if ending {
            self.step(Event::CallsAbandoned);
        }
    }

    /// LC-7, LC-8: what is live is held by somebody, waited for by somebody, or was given to
    /// somebody without a life of its own.
    fn nothing_lives_for_nobody(&self) {
        for key in self.state.leases.unended() {
            let lease = self.state.leases.get(key).unwrap();
            if let Phase::Live(live) = &lease.phase {
                assert!(
                    lease.pinned
                        || live.redeeming
                        || !lease.holders.is_empty()
                        || !lease.waiters.is_empty(),
                    "{} lives for nobody",
                    live.lease_id
                );
            }
        }
    }

    /// The clock goes on and nothing else happens: a machine that slept.
    fn sleep(&mut self, by: Duration) {
        self.now = Now {
            boot: self.now.boot.plus(by),
            unix: self.now.unix.plus(by),
        };
        let now = self.now.boot;
        self.issued.retain(|_, ends| now < *ends);
    }

    fn connect(&mut self, pid: i32) -> ConnectionId {
        self.next += 1;
        let connection = ConnectionId(self.next);
        self.open.push(connection);
        self.pids.insert(connection, pid);
        let peer = Arc::new(PeerFacts {
            process: ProcessId { pid, started: 1 },
            exe: Some(text("/usr/bin/true")),
            ancestors: Vec::new(),
            origin: Origin::default(),
        });
        self.step(Event::ConnectionOpened {
            connection,
            peer,
            door: Door::Models,
        });
        connection
    }

    fn ask(&mut self, connection: ConnectionId, request: Request) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.asked.insert(ticket, connection);
        let recorded = match request {
            Request::LeaseCreate(_) => Some(Recorded::Made),
            Request::Credential(_) | Request::LeaseRedeem { .. } | Request::LeaseRevoke { .. } => {
                Some(Recorded::Refused)
            }
            _ => None,
        };
        if let Some(recorded) = recorded {
            self.recorded
                .insert(ticket, (self.pids[&connection], recorded));
        }
        match request {
            Request::Logout | Request::Lock => self.may_serve = false,
            _ => {}
        }
        self.step(Event::Requested {
            ticket,
            connection,
            profile: None,
            request,
        });
        ticket
    }

    fn close(&mut self, connection: ConnectionId) {
        self.open.retain(|open| *open != connection);
        self.asked.retain(|_, on| *on != connection);
        self.step(Event::ConnectionClosed { connection });
    }

    fn advance(&mut self, by: Duration) {
        self.sleep(by);
        self.step(Event::TimerFired);
    }

    /// Answers one open call.
    fn answer(&mut self, index: usize, how: How) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.remove(index % self.calls.len());
        self.answered(call, how);
    }

    fn answered(&mut self, call: Call, how: How) {
        let event = match call {
            Call::Begin(generation, request) => Event::DeviceAuthorizationAnswered {
                generation,
                answer: answer(how, |_| self.authorization(request)),
            },
            Call::Exchange(generation, authorization) => {
                let exchanged = answer(how, |how| match how {
                    How::Pending => DeviceExchange::Pending { interval: None },
                    How::Denied => DeviceExchange::AccessDenied,
                    How::Well | How::Lost | How::SessionOver => {
                        DeviceExchange::Success(Box::new(self.session(&authorization)))
                    }
                });
                let success = matches!(exchanged.outcome, Ok(DeviceExchange::Success(_)));
                if success && self.state_awaits(generation) {
                    self.may_serve = true;
                }
                Event::DeviceExchangeAnswered {
                    generation,
                    answer: exchanged,
                }
            }
            Call::Create(lease, generation, request, _) => {
                if how == How::SessionOver {
                    self.session_over(generation);
                }
                let created = answer(how, |_| self.issue(&request));
                Event::LeaseCreateAnswered {
                    lease,
                    generation,
                    answer: created,
                }
            }
            Call::Redeem(lease, generation, lease_id, _) => {
                let live = self.issued.get(&lease_id).copied();
                let redeemed = match live {
                    Some(ends) => answer(how, |_| redeemed(ends, self.now)),
                    None => failed(
                        ErrorCode::LeaseRevoked,
                        Disposition::Terminal,
                        Certainty::NotDone,
                    ),
                };
                if live.is_some() && how == How::SessionOver {
                    self.session_over(generation);
                }
                Event::LeaseRedeemAnswered {
                    lease,
                    generation,
                    answer: redeemed,
                }
            }
            Call::Revoke(lease_id, generation, reason, _) => {
                let revoked = answer(how, |_| ());
                if revoked.outcome.is_ok() {
                    self.issued.remove(&lease_id);
                }
                if let (How::SessionOver, Some(generation)) = (how, generation) {
                    self.session_over(generation);
                }
                Event::LeaseRevokeAnswered {
                    lease_id,
                    generation,
                    reason,
                    answer: revoked,
                }
            }
            Call::Events(ticket, generation, session) => Event::AuditEventsListed {
                ticket,
                generation,
                principal: session.principal.clone(),
                answer: answer(how, |_| self.events.clone()),
            },
            Call::Identity(generation, _, _) => Event::IdentityAnswered {
                generation,
                answer: answer(how, |_| self.identity()),
            },
            Call::Renew(generation, session) => Event::SessionRenewed {
                generation,
                answer: answer(how, |_| Session {
                    principal: session.principal.clone(),
                    tenant: session.tenant.clone(),
                    session_id: session.session_id.clone(),
                    token: SecretString::copy_from("next"),
                    key: Arc::new(ProofKey::generate().unwrap()),
                    pop_key_id: session.pop_key_id.clone(),
                    scopes: session.scopes.clone(),
                    expires_at: self.now.boot.plus(secs(600)),
                    expires_at_unix: self.now.unix.plus(secs(600)),
                    renew_at: self.now.boot.plus(secs(300)),
                    ends_at: session.ends_at,
                    bootstrap: None,
                    binding_checked: true,
                }),
            },
            Call::Access(_) => Event::AccessRevokeAnswered {
                answer: answer(how, |_| ()),
            },
        };
        self.step(event);
    }

    /// Answers a revocation that way.
    fn fails(&mut self, call: Call, answer: Answer<()>) {
        let Call::Revoke(lease_id, generation, reason, _) = call else {
            panic!("no revocation: {call:?}");
        };
        self.step(Event::LeaseRevokeAnswered {
            lease_id,
            generation,
            reason,
            answer,
        });
    }

    /// Answers a poll that sent this proof with nothing that can be used.
    fn poll_is_lost(&mut self, name: &str) {
        let Call::Exchange(generation, _) = self.calls.remove(0) else {
            panic!("no poll");
        };
        let lost = Disposition::Wait(None);
        let mut answer = failed(ErrorCode::AegisUnavailable, lost, Certainty::Unknown);
        answer.trace.proof_jti = jti(name);
        self.step(Event::DeviceExchangeAnswered { generation, answer });
    }

    fn state_awaits(&self, generation: Generation) -> bool {
        generation == self.state.generation
            && self
                .state
                .last_principal
                .as_ref()
                .is_none_or(|last| last.as_str() == self.principal)
    }

    fn session_over(&mut self, generation: Generation) {
        if generation == self.state.generation {
            self.may_serve = false;
        }
    }

    fn authorization(&self, request: BeginDeviceAuthorization) -> DeviceAuthorization {
        DeviceAuthorization {
            request,
            device_code: SecretString::copy_from("mdc_secret"),
            user_code: text("BCDF-GHJK"),
            verification_uri: text("http://127.0.0.1:7460/device"),
            verification_uri_complete: None,
            interval: secs(5),
            expires_at: self.now.boot.plus(secs(600)),
            expires_at_unix: self.now.unix.plus(secs(600)),
            key: Arc::new(ProofKey::generate().unwrap()),
            pop_key_id: PopKeyId::parse("pop-x").unwrap(),
        }
    }

    fn session(&self, authorization: &DeviceAuthorization) -> Session {
        Session {
            principal: Principal::parse(self.principal).unwrap(),
            tenant: authorization.request.tenant.clone(),
            session_id: None,
            token: SecretString::copy_from("token"),
            key: Arc::clone(&authorization.key),
            pop_key_id: authorization.pop_key_id.clone(),
            scopes: authorization
                .request
                .scopes
                .iter()
                .filter(|scope| Some(scope.action) != self.ungranted)
                .cloned()
                .collect(),
            expires_at: self.now.boot.plus(secs(600)),
            expires_at_unix: self.now.unix.plus(secs(600)),
            renew_at: self.now.boot.plus(secs(300)),
            ends_at: self.now.boot.plus(secs(8 * 3600)),
            bootstrap: self
                .bootstraps
                .then(|| SecretString::copy_from("bootstrap")),
            binding_checked: true,
        }
    }

    /// An SVID of an hour.
    fn identity(&self) -> Identity {
        Identity {
            key: IdentityKey::generate().unwrap(),
            svid: Svid {
                chain: Vec::new(),
                fingerprint: "fingerprint".into(),
                not_after: self.now.unix.plus(secs(3600)),
            },
            expires_at: self.now.boot.plus(secs(3600)),
            renew_at: self.now.boot.plus(secs(1800)),
        }
    }

    fn issue(&mut self, request: &CreateLease) -> CreatedLease {
        self.next_lease += 1;
        let lease_id = LeaseId::parse(&format!("lse_{}", self.next_lease)).unwrap();
        let expires_at = self.now.boot.plus(request.ttl);
        self.issued.insert(lease_id.clone(), expires_at);
        CreatedLease {
            lease_id,
            expires_at,
            expires_at_unix: self.now.unix.plus(request.ttl),
            max_redemptions: request.max_redemptions,
        }
    }

    /// Logs in, the whole way.
    fn log_in(&mut self) -> ConnectionId {
        let connection = self.connect(10);
        self.log_in_on(connection);
        connection
    }

    fn log_in_on(&mut self, connection: ConnectionId) {
        self.ask(connection, Request::LoginBegin);
        self.answer(0, How::Well);
        let wait = self.ask(connection, Request::LoginWait);
        self.advance(secs(5));
        self.answer(0, How::Well);
        assert!(
            matches!(self.told[&wait], Ok(Reply::Login(_))),
            "{:?}",
            self.told[&wait]
        );
    }

    /// Logs in before any time passes, with no other call open.
    fn log_in_at_once(&mut self, connection: ConnectionId) {
        self.ask(connection, Request::LoginBegin);
        self.answer(0, How::Well);
        let Login::AwaitingApproval { authorization, .. } = &self.state.login else {
            panic!("no login");
        };
        let session = Box::new(self.session(&Arc::clone(authorization)));
        self.may_serve = true;
        self.step(Event::DeviceExchangeAnswered {
            generation: self.state.generation,
            answer: answer(How::Well, |_| DeviceExchange::Success(session)),
        });
    }

    /// How many leases `status` says may be live at the issuer still.
    fn unconfirmed(&mut self) -> usize {
        let connection = self.connect(99);
        let asked = self.ask(connection, Request::Status);
        let Some(Ok(Reply::Status(status))) = self.told.get(&asked) else {
            panic!("no status");
        };
        status.unconfirmed_revocations
    }

    fn code(&self, ticket: Ticket) -> Option<ErrorCode> {
        match self.told.get(&ticket) {
            Some(Err(refusal)) => Some(refusal.code),
            _ => None,
        }
    }

    fn delivered(&self, ticket: Ticket) -> Option<LeaseId> {
        match self.told.get(&ticket) {
            Some(Ok(Reply::Delivered(delivery))) => Some(delivery.lease.lease_id.clone()),
            _ => None,
        }
    }

    fn lease(&self, ticket: Ticket) -> (LeaseId, LeaseState) {
        match self.told.get(&ticket) {
            Some(Ok(Reply::Lease(view))) => (view.lease_id.clone(), view.state),
            other => panic!("no lease: {other:?}"),
        }
    }

    fn revokes(&self) -> Vec<(String, RevokeReason)> {
        self.calls
            .iter()
            .filter_map(|call| match call {
                Call::Revoke(id, _, reason, _) => Some((id.to_string(), *reason)),
                _ => None,
            })
            .collect()
    }
}

fn answer<T>(how: How, ok: impl FnOnce(How) -> T) -> Answer<T> {
    match how {
        How::Well | How::Pending => Answer {
            trace: CallTrace::default(),
            outcome: Ok(ok(how)),
        },
        How::Denied if std::any::type_name::<T>().contains("DeviceExchange") => Answer {
            trace: CallTrace::default(),
            outcome: Ok(ok(how)),
        },
        How::Denied => Answer {
            trace: CallTrace::default(),
            outcome: Err(Failure {
                code: ErrorCode::AegisDenied,
                disposition: Disposition::Terminal,
                reason: Some(text("policy_denied")),
                message: None,
                certainty: Certainty::NotDone,
                made: None,
            }),
        },
        How::Lost if std::any::type_name::<T>().contains("DeviceExchange") => failed(
            ErrorCode::AegisUnavailable,
            Disposition::Wait(None),
            Certainty::Unknown,
        ),
        How::Lost => failed(
            ErrorCode::AegisUnavailable,
            Disposition::Retry(None),
            Certainty::Unknown,
        ),
        How::SessionOver => failed(
            ErrorCode::LoginRequired,
            Disposition::Reauthenticate,
            Certainty::NotDone,
        ),
    }
}

fn failed<T>(code: ErrorCode, disposition: Disposition, certainty: Certainty) -> Answer<T> {
    Answer {
        trace: CallTrace::default(),
        outcome: Err(Failure {
            code,
            disposition,
            reason: None,
            message: None,
            certainty,
            made: None,
        }),
    }
}

fn redeemed(ends: Timestamp, now: Now) -> RedeemedLease {
    RedeemedLease {
        material: Material {
            kind: MaterialKind::GcpAccessToken,
            fields: vec![Field {
                name: "access_token".into(),
                value: FieldValue::Secret(SecretString::copy_from("material")),
            }],
            expires_at: now.unix.plus(now.boot.until(ends)),
        },
        expires_at: ends,
        redemptions_used: 1,
    }
}

fn get(index: usize, holder: HolderClass) -> Request {
    Request::Credential(CredentialRequest {
        selector: selector(index),
        min_valid_for: Duration::ZERO,
        reason: None,
        holder,
    })
}

fn create(index: usize, max_redemptions: u32, holder: HolderClass) -> Request {
    Request::LeaseCreate(LeaseRequest {
        selector: selector(index),
        ttl: None,
        max_redemptions,
        reason: None,
        holder,
    })
}

fn redeem(lease_id: LeaseId) -> Request {
    Request::LeaseRedeem {
        lease_id,
        exposure: Exposure::Reveal,
    }
}

/// AU-2: whether a record tells of something that only a peer's request leads to.
fn is_asked_for(record: &AuditRecord) -> bool {
    let word = record.reason.as_ref().map(CleanText::as_str);
    match record.action {
        // A call of a flow that is over: its own record has named who was behind it.
        AuditAction::LoginBegin | AuditAction::Login => word != Some("abandoned"),
        AuditAction::Lock | AuditAction::Deny | AuditAction::Deliver => true,
        AuditAction::Logout => record.outcome == AuditOutcome::Ok,
        // A lease that has run out meanwhile is known by its name alone.
        AuditAction::LeaseRevoke => {
            record.selector.is_some() && matches!(word, Some("user_request" | "locked"))
        }
        _ => false,
    }
}

/// AU-2: each record names the peer that asked, not the one that asked for something else before.
#[test]
fn records_name_the_peer_that_asked() {
    type Row = (&'static str, fn(&mut World, ConnectionId), AuditAction, i32);
    let cancel: fn(&mut World, ConnectionId) = |world, second| {
        world.ask(second, Request::Logout);
        world.answer(0, How::Well);
        world.ask(second, Request::LoginBegin);
        world.answer(0, How::Well);
        let third = world.connect(3);
        world.ask(third, Request::LoginCancel);
    };
    let rows: [Row; 7] = [
        ("a login", |_, _| {}, AuditAction::Login, 1),
        ("its begin", |_, _| {}, AuditAction::LoginBegin, 1),
        ("a cancelled login", cancel, AuditAction::Login, 3),
        (
            "a revocation",
            |world, second| {
                let lease_id = LeaseId::parse("lse_1").unwrap();
                world.ask(second, Request::LeaseRevoke { lease_id });
                world.answer(0, How::Well);
            },
            AuditAction::LeaseRevoke,
            2,
        ),
        (
            "a revocation by lock",
            |world, second| {
                world.ask(second, Request::Lock);
                world.answer(0, How::Well);
            },
            AuditAction::LeaseRevoke,
            2,
        ),
        (
            "a lock",
            |world, second| {
                world.ask(second, Request::Lock);
            },
            AuditAction::Lock,
            2,
        ),
        (
            "a logout",
            |world, second| {
                world.ask(second, Request::Logout);
            },
            AuditAction::Logout,
            2,
        ),
    ];
    for (name, act, action, pid) in rows {
        let mut world = World::new(Resumed::default());
        let first = world.connect(1);
        world.log_in_on(first);
        world.ask(first, create(0, 1, HolderClass::None));
        world.answer(0, How::Well);
        let second = world.connect(2);
        act(&mut world, second);
        let record = world.records.iter().rev().find(|r| r.action == action);
        let peer = record.unwrap().peer.as_ref();
        assert_eq!(peer.map(|peer| peer.process.pid), Some(pid), "{name}");
    }
}

/// AU-2: whatever ends a wait, each caller that is refused has exactly one record of it.
#[test]
fn every_caller_that_is_refused_has_its_record() {
    type Row = (&'static str, fn(&mut World), ErrorCode);
    fn three_gets(world: &mut World) {
        for pid in 1..=3 {
            let connection = world.connect(pid);
            world.ask(connection, get(0, HolderClass::None));
        }
    }
    fn three_redemptions(world: &mut World) {
        let maker = world.connect(9);
        world.ask(maker, create(0, 3, HolderClass::None));
        world.answer(0, How::Well);
        for pid in 1..=3 {
            let connection = world.connect(pid);
            let lease_id = LeaseId::parse("lse_1").unwrap();
            world.ask(connection, redeem(lease_id));
        }
    }
    fn ended_by(world: &mut World, request: Request) {
        let connection = world.connect(9);
        world.ask(connection, request);
    }
    let rows: [Row; 12] = [
        (
            "a create that is denied",
            |world| {
                three_gets(world);
                world.answer(0, How::Denied);
            },
            ErrorCode::AegisDenied,
        ),
        (
            "a create that gets lost",
            |world| {
                three_gets(world);
                world.answer(0, How::Lost);
            },
            ErrorCode::AegisUnavailable,
        ),
        (
            "a create that ends the session",
            |world| {
                three_gets(world);
                world.answer(0, How::SessionOver);
            },
            ErrorCode::LoginRequired,
        ),
        (
            "a redemption that is denied",
            |world| {
                three_gets(world);
                world.answer(0, How::Well);
                world.answer(0, How::Denied);
            },
            ErrorCode::AegisDenied,
        ),
        (
            "redemptions that are denied",
            |world| {
                three_redemptions(world);
                world.answer(0, How::Denied);
            },
            ErrorCode::AegisDenied,
        ),
        (
            "a logout",
            |world| {
                three_gets(world);
                ended_by(world, Request::Logout);
            },
            ErrorCode::LoginRequired,
        ),
        (
            "a lock",
            |world| {
                three_gets(world);
                world.answer(0, How::Well);
                ended_by(world, Request::Lock);
            },
            ErrorCode::Locked,
        ),
        (
            "a stop",
            |world| {
                three_gets(world);
                world.step(Event::ShutdownRequested);
            },
            ErrorCode::ShuttingDown,
        ),
        (
            "a revocation",
            |world| {
                three_redemptions(world);
                let lease_id = LeaseId::parse("lse_1").unwrap();
                ended_by(world, Request::LeaseRevoke { lease_id });
            },
            ErrorCode::LeaseRevoked,
        ),
        (
            "the end of the lease",
            |world| {
                three_redemptions(world);
                world.advance(secs(300));
            },
            ErrorCode::LeaseExpired,
        ),
        (
            "a token that ends before the lease is there",
            |world| {
                three_gets(world);
                world.advance(secs(600));
                world.answer(0, How::Well);
            },
            ErrorCode::LoginRequired,
        ),
        (
            "a request while stopping",
            |world| {
                world.step(Event::ShutdownRequested);
                three_gets(world);
            },
            ErrorCode::ShuttingDown,
        ),
    ];
    for (name, act, code) in rows {
        let mut world = World::new(Resumed::default());
        world.log_in();
        world.records.clear();
        world.told.clear();
        act(&mut world);
        let refused: Vec<_> = world
            .told
            .values()
            .filter_map(|told| told.as_ref().err().map(|refusal| refusal.code))
            .collect();
        assert_eq!(refused, [code; 3], "{name}");
        let mut pids: Vec<_> = world
            .records
            .iter()
            .filter(|record| record.outcome != AuditOutcome::Ok)
            .filter_map(|record| Some(record.peer.as_ref()?.process.pid))
            .collect();
        pids.sort_unstable();
        assert_eq!(pids, [1, 2, 3], "{name}: {:?}", world.records);
    }
}

/// LC-7: a lease that ends with its holder ends at nobody's request.
#[test]
fn a_lease_that_ends_with_its_holder_was_ended_by_nobody() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    let connection = world.connect(1);
    world.ask(connection, create(0, 1, HolderClass::Connection));
    world.answer(0, How::Well);
    world.close(connection);
    world.answer(0, How::Well);
    let record = world.records.last().unwrap();
    assert_eq!(record.action, AuditAction::LeaseRevoke);
    assert_eq!(record.peer, None);
}

/// DG-13: everybody joins the one flow, and hears its end.
#[test]
fn two_hundred_logins_are_one_flow() {
    let mut world = World::new(Resumed::default());
    let tickets: Vec<_> = (0..200)
        .map(|pid| {
            let connection = world.connect(pid);
            world.ask(connection, Request::LoginBegin)
        })
        .collect();
    assert_eq!(world.calls.len(), 1);
    world.answer(0, How::Well);
    for ticket in tickets {
        let Some(Ok(Reply::Login(view))) = world.told.get(&ticket) else {
            panic!("no code shown");
        };
        assert!(matches!(view.phase, LoginPhase::AwaitingApproval(_)));
    }
}

/// DG-4: a denied login polls no more, and everybody who waited hears so.
#[test]
fn a_denied_login_is_over_for_good() {
    let mut world = World::new(Resumed::default());
    let connection = world.connect(1);
    world.ask(connection, Request::LoginBegin);
    world.answer(0, How::Well);
    let wait = world.ask(connection, Request::LoginWait);
    world.advance(secs(5));
    world.answer(0, How::Denied);
    assert_eq!(world.code(wait), Some(ErrorCode::AccessDenied));
    world.advance(secs(500));
    assert!(world.calls.is_empty());
    let get = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.code(get), Some(ErrorCode::LoginRequired));
}

/// DG-6, DG-14: an unapproved code ends by itself; a cancel ends it for everybody.
#[test]
fn a_login_ends_by_expiry_or_cancel() {
    let mut world = World::new(Resumed::default());
    let connection = world.connect(1);
    world.ask(connection, Request::LoginBegin);
    world.answer(0, How::Well);
    let wait = world.ask(connection, Request::LoginWait);
    world.advance(secs(600));
    assert_eq!(world.code(wait), Some(ErrorCode::ExpiredToken));
    assert!(world.calls.is_empty());

    world.ask(connection, Request::LoginBegin);
    world.answer(0, How::Well);
    let wait = world.ask(connection, Request::LoginWait);
    world.ask(connection, Request::LoginCancel);
    assert_eq!(world.code(wait), Some(ErrorCode::LoginCancelled));
    world.advance(secs(60));
    assert!(world.calls.is_empty());
}

/// DG-14: a caller that hangs up does not end the flow of the others.
#[test]
fn hanging_up_does_not_end_the_login() {
    let mut world = World::new(Resumed::default());
    let gone = world.connect(1);
    let stays = world.connect(2);
    world.ask(gone, Request::LoginBegin);
    let wait = world.ask(stays, Request::LoginWait);
    world.close(gone);
    world.answer(0, How::Well);
    world.advance(secs(5));
    world.answer(0, How::Well);
    assert!(matches!(world.told[&wait], Ok(Reply::Login(_))));
}

/// AP-11: another account than before is not taken over silently; logging out forgets it.
#[test]
fn another_principal_needs_a_logout_first() {
    let mut world = World::new(Resumed {
        principal: Some(Principal::parse("user:somebody-else").unwrap()),
        ..Resumed::default()
    });
    let connection = world.connect(1);
    world.ask(connection, Request::LoginBegin);
    world.answer(0, How::Well);
    let wait = world.ask(connection, Request::LoginWait);
    world.advance(secs(5));
    world.answer(0, How::Well);
    assert_eq!(world.code(wait), Some(ErrorCode::PrincipalChanged));
    world.ask(connection, Request::Logout);
    world.log_in();
}

/// Material is told to end with its lease, whatever the issuer says of it.
#[test]
fn material_ends_with_its_lease_at_the_latest() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    let connection = world.connect(1);
    let ticket = world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    for ends in world.issued.values_mut() {
        *ends = ends.plus(Duration::from_hours(1));
    }
    world.answer(0, How::Well);
    let Some(Ok(Reply::Delivered(delivery))) = world.told.get(&ticket) else {
        panic!("nothing delivered");
    };
    assert_eq!(delivery.material.expires_at, delivery.lease.expires_at);
}

/// LC-4: a hundred equal callers share one lease and one redemption; each has its record.
#[test]
fn equal_callers_share_one_lease() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    let connections: Vec<_> = (0..100).map(|pid| world.connect(pid)).collect();
    let tickets: Vec<_> = connections
        .iter()
        .map(|connection| world.ask(*connection, get(0, HolderClass::None)))
        .collect();
    assert_eq!(world.calls.len(), 1);
    world.answer(0, How::Well);
    assert_eq!(world.calls.len(), 1);
    world.answer(0, How::Well);
    let ids: HashSet<_> = tickets
        .iter()
        .map(|ticket| world.delivered(*ticket).unwrap())
        .collect();
    assert_eq!(ids.len(), 1);
    let cached = world.ask(connections[0], get(0, HolderClass::None));
    assert!(world.delivered(cached).is_some());
    assert!(world.calls.is_empty(), "the cached path makes no call");
    let delivered = world
        .records
        .iter()
        .filter(|record| record.action == AuditAction::Deliver);
    assert_eq!(delivered.count(), 101);
}

/// PO-1, LC-1: what the policy denies, and what is not in the catalogue, leaves no call.
#[test]
fn a_denied_request_leaves_no_call_and_one_record() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.records.clear();
    let denied = world.ask(connection, get(2, HolderClass::None));
    assert_eq!(world.code(denied), Some(ErrorCode::PolicyDenied));
    let unknown = world.ask(
        connection,
        Request::Credential(CredentialRequest {
            selector: Selector::parse("aws/payments/ci-role").unwrap(),
            min_valid_for: Duration::ZERO,
            reason: None,
            holder: HolderClass::None,
        }),
    );
    assert_eq!(world.code(unknown), Some(ErrorCode::TargetUnknown));
    assert!(world.calls.is_empty());
    let rules: Vec<_> = world
        .records
        .iter()
        .map(|record| record.rule.clone().unwrap())
        .collect();
    assert_eq!(rules, vec![text("not-that"), text("catalogue")]);
}

/// PO-7, AU-2: a policy that is refused leaves its record, and the old one in force.
#[test]
fn a_refused_policy_leaves_a_record_and_the_old_one_in_force() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.records.clear();
    world.step(Event::PolicyRefused);
    let [record] = &world.records[..] else {
        panic!("{:?}", world.records);
    };
    assert_eq!(record.action, AuditAction::PolicyLoad);
    assert_eq!(record.outcome, AuditOutcome::Error);
    assert_eq!(record.reason, Some(text("config_invalid")));
    let denied = world.ask(connection, get(2, HolderClass::None));
    assert_eq!(world.code(denied), Some(ErrorCode::PolicyDenied));
}

/// Until approvals come, `ask` says that there is no way to ask.
#[test]
fn ask_answers_approval_unavailable() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let ask = Rule {
        id: text("ask"),
        effect: PolicyEffect::Ask,
        selectors: vec![SelectorPattern::parse("*/*/*").unwrap()],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: None,
        on_leak: crate::model::OnLeak::Record,
    };
    world.step(Event::PolicyReplaced {
        policy: Policy::new(vec![ask]),
    });
    let asked = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.code(asked), Some(ErrorCode::ApprovalUnavailable));
}

/// LC-7: a lease ends with its last holder, whatever kind of holder that is.
#[test]
fn a_lease_ends_with_its_last_holder() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    let first = world.connect(71);
    let second = world.connect(72);
    world.ask(first, get(0, HolderClass::Connection));
    world.ask(second, get(0, HolderClass::Client));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    let process = ProcessId {
        pid: 72,
        started: 1,
    };
    assert!(world.watched.contains(&process));
    world.close(first);
    assert_eq!(world.revokes(), vec![]);
    world.close(second);
    assert_eq!(world.revokes(), vec![], "a client outlives its connection");
    world.step(Event::ProcessExited { process });
    assert_eq!(
        world.revokes(),
        vec![("lse_1".to_owned(), RevokeReason::HolderExited)]
    );
}

/// LC-7: once somebody without a life of its own has it, only time and people end it.
#[test]
fn a_pinned_lease_outlives_its_holders() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    let held = world.connect(71);
    let one_shot = world.connect(72);
    world.ask(held, get(0, HolderClass::Connection));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    world.ask(one_shot, get(0, HolderClass::None));
    world.close(one_shot);
    world.close(held);
    assert_eq!(world.revokes(), vec![]);
}

/// LC-7: who shares a lease hears what ends it, not what its first caller asked for.
#[test]
fn a_shared_lease_shows_what_it_dies_with_now() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    let mut shown = Vec::new();
    for class in [
        HolderClass::Connection,
        HolderClass::Client,
        HolderClass::Connection,
        HolderClass::None,
        HolderClass::Client,
    ] {
        let connection = world.connect(72);
        let ticket = world.ask(connection, get(0, class));
        world.answer(0, How::Well);
        world.answer(0, How::Well);
        let Some(Ok(Reply::Delivered(delivery))) = world.told.get(&ticket) else {
            panic!("not delivered");
        };
        shown.push(delivery.lease.holder);
    }
    assert_eq!(
        shown,
        [
            HolderClass::Connection,
            HolderClass::Client,
            HolderClass::Client,
            HolderClass::None,
            HolderClass::None,
        ]
    );
}

/// LC-8: nobody waits any more when the lease arrives: it is given back.
#[test]
fn a_cancelled_caller_leaves_no_orphan() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    for request in [get(0, HolderClass::None), create(0, 1, HolderClass::None)] {
        let connection = world.connect(71);
        world.ask(connection, request);
        world.close(connection);
        world.answer(0, How::Well);
        assert_eq!(world.revokes().len(), 1);
        world.answer(0, How::Well);
        assert!(world.issued.is_empty());
    }
}

/// LC-8: a lease that was made otherwise than asked for is given back, also when its making was
/// overtaken by a logout.
#[test]
fn a_lease_made_otherwise_is_given_back() {
    for logout in [false, true] {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        let asked = world.ask(connection, create(0, 1, HolderClass::None));
        let Call::Create(lease, generation, ..) = world.calls.remove(0) else {
            panic!("no creation");
        };
        if logout {
            world.ask(connection, Request::Logout);
        }
        let lease_id = LeaseId::parse("lse_other").unwrap();
        let mut answer = failed(
            ErrorCode::AegisProtocol,
            Disposition::Fault,
            Certainty::Unknown,
        );
        if let Err(failure) = &mut answer.outcome {
            failure.made = Some(lease_id.clone());
        }
        world.step(Event::LeaseCreateAnswered {
            lease,
            generation,
            answer,
        });
        let code = if logout {
            ErrorCode::LoginRequired
        } else {
            ErrorCode::AegisProtocol
        };
        assert_eq!(world.code(asked), Some(code));
        let uncertain = RevokeReason::DeliveryUncertain;
        assert_eq!(world.revokes(), vec![("lse_other".to_owned(), uncertain)]);
        // So that the next run finds it.
        let record = world.records.last().unwrap();
        assert_eq!(record.lease_id, Some(lease_id));
        assert!(record.lease_expires_at.is_some());
    }
}

/// LC-8: a lease that arrives after logout is revoked with the session that is ending.
#[test]
fn a_late_lease_is_revoked() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let waiting = world.ask(connection, get(0, HolderClass::None));
    let logout = world.ask(connection, Request::Logout);
    assert_eq!(world.code(waiting), Some(ErrorCode::LoginRequired));
    world.answer(0, How::Well);
    assert_eq!(
        world.revokes(),
        vec![("lse_1".to_owned(), RevokeReason::Logout)]
    );
    assert!(
        !world.told.contains_key(&logout),
        "logout waits for the issuer"
    );
    world.answer(0, How::Well);
    let Some(Ok(Reply::Ended(ended))) = world.told.get(&logout) else {
        panic!("logout is over");
    };
    assert_eq!((ended.revoked, ended.unconfirmed), (1, 0));
}

/// OA-16: the session itself ends at the issuer after its leases, for the reason that it ends here,
/// and whoever asked hears whether that was confirmed. The record says so too.
#[test]
fn a_session_is_ended_at_the_issuer_after_its_leases() {
    let rows = [
        (Some(How::Well), SessionEnd::Confirmed, AuditOutcome::Ok),
        (
            Some(How::Denied),
            SessionEnd::Unconfirmed,
            AuditOutcome::Denied,
        ),
        (None, SessionEnd::Unconfirmed, AuditOutcome::Error),
    ];
    for (how, said, recorded) in rows {
        let mut world = World::new(Resumed::default());
        world.ends_sessions = how;
        let connection = world.log_in();
        world.ask(connection, create(0, 1, HolderClass::None));
        world.answer(0, How::Well);
        let lock = world.ask(connection, Request::Lock);
        assert_eq!(world.revokes().len(), 1, "{how:?}");
        assert!(
            world.ended_sessions.is_empty(),
            "{how:?}: before its leases"
        );
        world.answer(0, How::Well);
        assert_eq!(world.ended_sessions, [RevokeReason::Locked], "{how:?}");
        world.advance(secs(3));
        let Some(Ok(Reply::Ended(ended))) = world.told.get(&lock) else {
            panic!("lock is over");
        };
        assert_eq!((ended.revoked, ended.session), (1, said), "{how:?}");
        let record = world
            .records
            .iter()
            .find(|record| record.action == AuditAction::SessionEnd)
            .unwrap();
        assert_eq!(record.outcome, recorded, "{how:?}");
        assert!(record.principal.is_some(), "{how:?}");
    }
    let mut world = World::new(Resumed::default());
    let connection = world.connect(1);
    let logout = world.ask(connection, Request::Logout);
    let Some(Ok(Reply::Ended(ended))) = world.told.get(&logout) else {
        panic!("there was nothing to end");
    };
    assert_eq!(ended.session, SessionEnd::NoSession);
}

/// OA-16: an issuer that does not answer about a lease keeps the session from no end: it is asked
/// for while there is time.
#[test]
fn a_lease_that_is_not_answered_does_not_keep_the_session_alive() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let logout = world.ask(connection, Request::Logout);
    world.advance(secs(1));
    assert!(world.ended_sessions.is_empty());
    world.advance(secs(1));
    assert_eq!(world.ended_sessions, [RevokeReason::Logout]);
    world.advance(secs(1));
    let Some(Ok(Reply::Ended(ended))) = world.told.get(&logout) else {
        panic!("logout is over");
    };
    assert_eq!(ended.session, SessionEnd::Confirmed);
    assert_eq!(ended.unconfirmed, 1);
}

/// `aegis.md` 12: a key that may be known to others goes with its session, here and, where it
/// still listens, at the issuer; the person learns of it from `status` until they log in again. A
/// session that the issuer has ended is not ended once more.
#[test]
fn a_lost_session_is_told_of_until_the_next_login() {
    let rows = [
        (Disposition::Compromised, "key_suspect", 1),
        (Disposition::Reauthenticate, "token_revoked", 0),
    ];
    for (disposition, word, ended) in rows {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        let asked = world.ask(connection, get(0, HolderClass::None));
        let Call::Create(lease, generation, ..) = world.calls.remove(0) else {
            panic!("no lease is made");
        };
        world.may_serve = false;
        let failure = Failure::new(ErrorCode::LoginRequired, disposition, Certainty::NotDone);
        world.step(Event::LeaseCreateAnswered {
            lease,
            generation,
            answer: Answer {
                trace: CallTrace::default(),
                outcome: Err(failure.with_reason(word)),
            },
        });
        assert_eq!(world.code(asked), Some(ErrorCode::LoginRequired), "{word}");
        assert!(world.state.session(world.now).is_none(), "{word}");
        assert_eq!(world.ended_sessions.len(), ended, "{word}");
        assert!(world.records.iter().any(|record| {
            record.action == AuditAction::Logout
                && record
                    .reason
                    .as_ref()
                    .is_some_and(|reason| reason.as_str() == word)
        }));
        let lost = |world: &World| {
            world
                .state
                .lost
                .as_ref()
                .map(|lost| lost.reason.to_string())
        };
        assert_eq!(lost(&world).as_deref(), Some(word));
        world.log_in_on(connection);
        assert_eq!(lost(&world), None, "{word}");
    }
}

/// AU-9: a comparison is recorded and answered; foreign use of the session is an alarm in the log.
/// A log that is damaged or cannot be read proves nothing.
#[test]
fn foreign_use_of_a_session_is_an_alarm_in_the_log() {
    let session = || SessionId::parse("ses_1").ok();
    let call = |world: &World| OwnCall {
        at: world.now.unix,
        action: AuditAction::Login,
        done: true,
        principal: Principal::parse("user:u-demo").ok(),
        session_id: session(),
        tries: vec![Try {
            request_id: None,
            proof_jti: jti("a"),
        }],
    };
    let event = |world: &World, proof: &str| IssuerEvent {
        seq: 1,
        at: world.now.unix,
        action: text("lease.create"),
        outcome: text("ok"),
        session_id: session(),
        lease_id: None,
        target: None,
        reason: None,
        request_id: None,
        proof_jti: jti(proof),
    };
    for (proof, foreign, outcome) in [("a", 0, AuditOutcome::Ok), ("b", 1, AuditOutcome::Error)] {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        world.own_calls = Ok(OwnCalls {
            calls: vec![call(&world)],
            complete: true,
            damaged: false,
        });
        world.events = IssuerEvents {
            events: vec![event(&world, proof)],
            complete: true,
        };
        let asked = world.ask(connection, Request::AuditReconcile);
        world.answer(0, How::Well);
        let Some(Ok(Reply::Reconciled(found))) = world.told.get(&asked) else {
            panic!("{:?}", world.told.get(&asked));
        };
        assert_eq!((found.foreign, found.complete), (foreign, true), "{proof}");
        let record = world.records.last().unwrap();
        assert_eq!(
            (record.action, record.outcome),
            (AuditAction::Reconcile, outcome)
        );
        assert_eq!(record.reason.is_some(), foreign > 0, "{proof}");
    }
    let mut world = World::new(Resumed::default());
    let connection = world.connect(1);
    let asked = world.ask(connection, Request::AuditReconcile);
    assert_eq!(world.code(asked), Some(ErrorCode::LoginRequired));
    world.log_in_on(connection);
    let damaged = OwnCalls {
        damaged: true,
        ..OwnCalls::default()
    };
    let rows = [
        (How::Well, Ok(damaged), ErrorCode::AuditDamaged),
        (How::Well, Err(AuditError), ErrorCode::AuditUnavailable),
        (How::Denied, Ok(OwnCalls::default()), ErrorCode::AegisDenied),
    ];
    for (how, calls, code) in rows {
        world.own_calls = calls;
        let asked = world.ask(connection, Request::AuditReconcile);
        world.answer(0, how);
        assert_eq!(world.code(asked), Some(code));
    }
}

/// The calls that keep a login alive, by name.
fn renewals(world: &World) -> Vec<&'static str> {
    let name = |call: &Call| match call {
        Call::Identity(_, _, None) => Some("bootstrap"),
        Call::Identity(_, _, Some(_)) => Some("certificate"),
        Call::Renew(..) => Some("token"),
        _ => None,
    };
    world.calls.iter().filter_map(name).collect()
}

/// `aegis.md` 6, SP-6: a login lasts its eight hours without the person: a token at half of each
/// one's life, an SVID at half of its own, one call at a time, and a lease may live an hour.
#[test]
fn a_login_lasts_a_working_day() {
    let mut world = World::new(Resumed::default());
    world.bootstraps = true;
    let connection = world.log_in();
    assert_eq!(renewals(&world), ["bootstrap"]);
    world.answer(0, How::Well);
    assert_eq!(world.state.renewal_word(), "svid");
    let began = world.now.boot;
    let mut tokens = 0;
    let mut certificates = 0;
    loop {
        let next = world
            .state
            .next_deadline()
            .expect("somebody looks after it");
        let nap = world.now.boot.until(next);
        world.advance(nap);
        if world.state.session(world.now).is_none() {
            break;
        }
        // What one answer makes due at once comes with it.
        while let Some(due) = renewals(&world).first() {
            assert_eq!(world.calls.len(), 1, "one at a time");
            match *due {
                "token" => tokens += 1,
                _ => certificates += 1,
            }
            world.answer(0, How::Well);
        }
        let session = world.state.session(world.now).unwrap();
        assert!(world.state.room_for_lease(session, world.now) > secs(0));
    }
    let lasted = began.until(world.now.boot);
    assert!(
        (secs(8 * 3600 - 600)..=secs(8 * 3600 + 600)).contains(&lasted),
        "{lasted:?}"
    );
    assert!((90..=100).contains(&tokens), "{tokens}");
    assert!((14..=18).contains(&certificates), "{certificates}");
    let asked = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.code(asked), Some(ErrorCode::LoginRequired));
}

/// `aegis.md` 6: what fails in passing is tried again, less and less often; what is refused ends the
/// renewal and leaves the token that there is; a session that is over is over.
#[test]
fn a_renewal_that_fails_leaves_the_token_there_is() {
    let renewing = || {
        let mut world = World::new(Resumed::default());
        world.bootstraps = true;
        let connection = world.log_in();
        world.answer(0, How::Well);
        world.advance(secs(300));
        assert_eq!(renewals(&world), ["token"]);
        (world, connection)
    };
    let (mut world, _) = renewing();
    for pause in [5, 10, 20, 40, 60, 60] {
        world.answer(0, How::Lost);
        assert!(renewals(&world).is_empty());
        world.advance(secs(pause - 1));
        assert!(renewals(&world).is_empty(), "{pause}");
        world.advance(secs(1));
        assert_eq!(renewals(&world), ["token"], "{pause}");
    }
    world.answer(0, How::Well);
    assert!(world.state.session(world.now).is_some());

    let (mut world, _) = renewing();
    world.answer(0, How::Denied);
    assert_eq!(world.state.renewal_word(), "login");
    assert!(world.state.session(world.now).is_some());
    world.advance(secs(300));
    assert!(
        world.state.login.session().is_none(),
        "it ended with its token"
    );

    let (mut world, _) = renewing();
    world.may_serve = false;
    world.answer(0, How::SessionOver);
    assert!(world.state.session(world.now).is_none());
}

/// `aegis.md` 6: a machine that slept through its token's end goes on with its SVID, while that
/// lives; what it could not revoke any more is tried at the next login.
#[test]
fn a_login_outlives_a_nap_and_not_a_night() {
    let mut world = World::new(Resumed::default());
    world.bootstraps = true;
    let connection = world.log_in();
    world.answer(0, How::Well);
    let asked = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    world.lease(asked);
    world.sleep(secs(1200));
    world.step(Event::TimerFired);
    assert_eq!(renewals(&world), ["token"]);
    world.answer(0, How::Well);
    assert!(world.state.session(world.now).is_some());

    world.sleep(secs(3600));
    world.may_serve = false;
    world.step(Event::TimerFired);
    assert!(renewals(&world).is_empty());
    assert!(world.state.login.session().is_none());
}

/// HY-7: keys and certificates go with the session, also those that come too late; the log names
/// the calls that brought them.
#[test]
fn an_identity_that_comes_late_is_dropped() {
    let mut world = World::new(Resumed::default());
    world.bootstraps = true;
    let connection = world.log_in();
    let Call::Identity(generation, ..) = world.calls.remove(0) else {
        panic!("no bootstrap");
    };
    world.ask(connection, Request::Logout);
    let trace = CallTrace {
        proof_jti: jti("a"),
        ..CallTrace::default()
    };
    let answer = Answer {
        trace,
        outcome: Ok(world.identity()),
    };
    world.step(Event::IdentityAnswered { generation, answer });
    assert!(!world.state.renews());
    let record = world.records.last().unwrap();
    assert_eq!(record.action, AuditAction::IdentityRenew);
    assert_eq!(record.trace.proof_jti, jti("a"));
}

/// OA-16: a lease that the issuer would not make was neither revoked nor left unconfirmed.
#[test]
fn a_lease_refused_during_logout_is_not_counted() {
    for (how, counted) in [(How::Denied, (0, 0)), (How::Lost, (0, 1))] {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        world.ask(connection, get(0, HolderClass::None));
        let logout = world.ask(connection, Request::Logout);
        world.answer(0, how);
        let Some(Ok(Reply::Ended(ended))) = world.told.get(&logout) else {
            panic!("logout is over");
        };
        assert_eq!((ended.revoked, ended.unconfirmed), counted, "{how:?}");
    }
}

/// LC-7, LC-8: a lease that may have been made, or that cannot be revoked, is counted until it has
/// run out: by `status`, by logout, and by the record of the stop.
#[test]
fn what_can_only_run_out_is_counted_until_then() {
    type Row = (&'static str, Option<Action>, fn(&mut World, ConnectionId));
    let rows: [Row; 3] = [
        ("an answer that was lost", None, |world, _| {
            world.answer(0, How::Lost);
        }),
        (
            "no grant to revoke",
            Some(Action::Revoke),
            |world, connection| {
                world.answer(0, How::Well);
                world.close(connection);
            },
        ),
        (
            "no grant, and made otherwise",
            Some(Action::Revoke),
            |world, _| {
                let Call::Create(lease, generation, ..) = world.calls.remove(0) else {
                    panic!("a lease is asked for");
                };
                let mut answer = failed(
                    ErrorCode::AegisProtocol,
                    Disposition::Fault,
                    Certainty::Unknown,
                );
                if let Err(failure) = &mut answer.outcome {
                    failure.made = LeaseId::parse("lse_other").ok();
                }
                world.step(Event::LeaseCreateAnswered {
                    lease,
                    generation,
                    answer,
                });
            },
        ),
    ];
    for (name, ungranted, act) in rows {
        let mut world = World::new(Resumed::default());
        world.ungranted = ungranted;
        let person = world.log_in();
        let connection = world.connect(20);
        world.ask(connection, create(0, 1, HolderClass::Connection));
        act(&mut world, connection);
        assert_eq!(world.revokes(), [], "{name}");
        assert_eq!(world.unconfirmed(), 1, "{name}");
        let logout = world.ask(person, Request::Logout);
        let Some(Ok(Reply::Ended(ended))) = world.told.get(&logout) else {
            panic!("logout is over");
        };
        assert_eq!((ended.revoked, ended.unconfirmed), (0, 1), "{name}");
        // As long as anything may live that was made otherwise than asked for.
        world.sleep(MAX_LEASE_TTL + LATER);
        assert_eq!(world.unconfirmed(), 0, "{name}");
    }
}

/// LM: those are counted up to a bound.
#[test]
fn what_runs_out_is_counted_up_to_a_bound() {
    let mut world = World::new(Resumed::default());
    let now = world.now.boot;
    for seconds in 1..=5000 {
        world.state.revocations.let_run_out(secs(seconds), now);
    }
    assert_eq!(world.unconfirmed(), 4096);
    world.sleep(secs(5000 - 4096));
    assert_eq!(world.unconfirmed(), 4096, "the soonest were forgotten");
    world.sleep(secs(1));
    assert_eq!(world.unconfirmed(), 4095);
}

/// AU-9: the poll that won a login may be one whose answer was lost; the record of the login's end
/// names those, the newest ones.
#[test]
fn the_record_of_a_login_names_the_polls_that_were_lost() {
    type Row = (&'static str, fn(&mut World), AuditOutcome);
    let rows: [Row; 3] = [
        ("won", |world| world.answer(0, How::Well), AuditOutcome::Ok),
        (
            "spent",
            |world| world.answer(0, How::SessionOver),
            AuditOutcome::Denied,
        ),
        (
            "cancelled",
            |world| {
                world.ask(ConnectionId(1), Request::LoginCancel);
            },
            AuditOutcome::Denied,
        ),
    ];
    for (name, end, outcome) in rows {
        let mut world = World::new(Resumed::default());
        let connection = world.connect(10);
        world.ask(connection, Request::LoginBegin);
        world.answer(0, How::Well);
        for jti in ["a", "b"] {
            world.advance(secs(60));
            world.poll_is_lost(jti);
        }
        world.advance(secs(60));
        end(&mut world);
        let ended = world
            .records
            .iter()
            .find(|record| record.action == AuditAction::Login)
            .unwrap();
        assert_eq!(ended.outcome, outcome, "{name}");
        let named: Vec<_> = ended
            .trace
            .earlier
            .iter()
            .map(|one| one.proof_jti.clone())
            .chain([ended.trace.proof_jti.clone()])
            .collect();
        assert_eq!(named, ["a", "b"].map(jti), "{name}");
    }
}

/// AU-9: a login's call that is given up may have had its effect: it has a record of its own.
#[test]
fn a_login_call_that_is_given_up_has_its_record() {
    for (steps, action) in [(0, AuditAction::LoginBegin), (1, AuditAction::Login)] {
        let mut world = World::new(Resumed::default());
        let connection = world.connect(10);
        world.ask(connection, Request::LoginBegin);
        for _ in 0..steps {
            world.answer(0, How::Well);
            world.advance(secs(5));
        }
        world.ask(connection, Request::LoginCancel);
        let record = world.records.last().unwrap();
        assert_eq!(
            (record.action, record.outcome, record.reason.clone()),
            (action, AuditOutcome::Error, Some(text("abandoned")))
        );
    }
}

/// An issuer that names two leases alike gives nobody the second one, and the first one stays.
#[test]
fn a_second_lease_of_the_same_name_is_not_believed() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let first = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let second = world.ask(connection, create(1, 1, HolderClass::None));
    world.next_lease -= 1;
    world.answer(0, How::Well);
    assert_eq!(world.code(second), Some(ErrorCode::AegisProtocol));
    let (lease_id, state) = world.lease(first);
    assert_eq!(state, LeaseState::Active);
    let key = world.state.leases.find(&lease_id).unwrap();
    assert_eq!(world.state.leases.get(key).unwrap().selector, selector(0));
    // Something may have been made that nobody can name.
    assert_eq!(world.unconfirmed(), 1);
    assert_eq!(world.revokes(), []);
}

/// OA-16: logout says what the issuer did not confirm within three seconds; the next login tries
/// again at once.
#[test]
fn unconfirmed_revocations_are_tried_at_the_next_login() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    let logout = world.ask(connection, Request::Logout);
    world.answer(0, How::Lost);
    let Some(Ok(Reply::Ended(ended))) = world.told.get(&logout) else {
        panic!("logout is over");
    };
    assert_eq!((ended.revoked, ended.unconfirmed), (0, 1));
    world.log_in();
    assert_eq!(
        world.revokes(),
        vec![("lse_1".to_owned(), RevokeReason::Logout)]
    );
}

/// HY-7: what is under way at logout keeps token and key for three seconds at most. LC-7: what was
/// being revoked, or made, may be live and is counted.
#[test]
fn calls_keep_the_session_for_three_seconds_after_logout() {
    for steps in 0..3 {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        world.ask(connection, get(0, HolderClass::None));
        for _ in 0..steps {
            world.answer(0, How::Well);
        }
        world.ask(connection, Request::Logout);
        world.advance(Duration::from_millis(2999));
        assert!(!world.calls.is_empty(), "{steps}");
        world.advance(Duration::from_millis(1));
        assert!(world.calls.is_empty(), "{steps}: token and key are held");
        assert_eq!(world.state.leases.unended(), [], "{steps}");
        assert_eq!(world.unconfirmed(), 1, "{steps}");
        let last = world.records.last().map(|record| record.outcome);
        assert_eq!(last, Some(AuditOutcome::Error), "{steps}");
    }
}

/// HY-7: the calls of the login that follows at once are no part of the ending.
#[test]
fn a_new_login_keeps_its_calls_when_the_old_one_is_over() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    world.ask(connection, Request::Logout);
    let old = world.calls.remove(0);
    world.log_in_at_once(connection);
    world.calls.insert(0, old);
    let made = world.ask(connection, create(1, 1, HolderClass::None));
    world.advance(secs(3));
    assert!(matches!(world.calls[..], [Call::Create(..)]));
    world.answer(0, How::Well);
    assert_eq!(world.lease(made).1, LeaseState::Active);
}

/// LC-5, OA-16: a revocation that failed while nobody is logged in waits for the next login; until
/// then no timer runs for it.
#[test]
fn a_failed_revocation_asks_for_no_timer_while_nobody_is_logged_in() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    world.ask(connection, Request::Logout);
    world.answer(0, How::Lost);
    world.advance(secs(60));
    let next = world.state.next_deadline();
    assert!(
        next.is_none_or(|at| world.now.boot < at),
        "a deadline that passed and that no step moves would spin"
    );
}

/// LC-8: what became of the calls of an earlier login says nothing about the session of this one.
#[test]
fn an_old_call_that_fails_does_not_end_the_new_session() {
    for redeeming in [false, true] {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        world.ask(connection, get(0, HolderClass::None));
        if redeeming {
            world.answer(0, How::Well);
        }
        let old = world.calls.remove(0);
        world.ask(connection, Request::Logout);
        world.advance(secs(3));
        world.calls.clear();
        world.log_in();
        world.calls = vec![old];
        world.answer(0, How::SessionOver);
        assert!(
            world.state.session(world.now).is_some(),
            "redeeming: {redeeming}"
        );
    }
}

/// LC-8: a lease can outlive the session that a login replaced before its end; what its redemption
/// comes to says nothing about the new one.
#[test]
fn an_old_redemption_of_a_living_lease_does_not_end_the_new_session() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.sleep(secs(300));
    let made = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    world.sleep(secs(241));
    world.ask(connection, redeem(lease_id));
    let old = world.calls.remove(0);
    world.log_in_on(connection);
    world.answered(old, How::SessionOver);
    assert!(world.state.session(world.now).is_some());
}

/// LC-10: what the audit log shows open is revoked at the next login, if it can still be live.
#[test]
fn leases_of_an_earlier_run_are_revoked_at_login() {
    let open = |id: &str, ends: u64| OpenLease {
        lease_id: LeaseId::parse(id).unwrap(),
        selector: Some(selector(0)),
        principal: None,
        expires_at: UnixTime::from_millis(1_795_341_600_000).plus(secs(ends)),
    };
    let mut world = World::new(Resumed {
        open_leases: vec![open("lse_live", 300), open("lse_over", 2)],
        ..Resumed::default()
    });
    // However late the issuer counts.
    world.sleep(LATER);
    world.log_in();
    assert_eq!(
        world.revokes(),
        vec![("lse_live".to_owned(), RevokeReason::DeliveryUncertain)]
    );
}

/// LC-6: a lease yields exactly as often as it may, one redemption at a time.
#[test]
fn parallel_redemptions_yield_exactly_the_maximum() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let made = world.ask(connection, create(0, 3, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, state) = world.lease(made);
    assert_eq!(state, LeaseState::Active);
    let tickets: Vec<_> = (0..5)
        .map(|_| world.ask(connection, redeem(lease_id.clone())))
        .collect();
    while !world.calls.is_empty() {
        assert_eq!(world.calls.len(), 1);
        world.answer(0, How::Well);
    }
    let delivered = tickets
        .iter()
        .filter(|ticket| world.delivered(**ticket).is_some())
        .count();
    let exhausted = tickets
        .iter()
        .filter(|ticket| world.code(**ticket) == Some(ErrorCode::LeaseExhausted))
        .count();
    assert_eq!((delivered, exhausted), (3, 2));
}

/// LC-5: revocation is final here at once, idempotent, and told to the issuer.
#[test]
fn a_revoked_lease_yields_nothing() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let made = world.ask(connection, create(0, 3, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    let revoke = || Request::LeaseRevoke {
        lease_id: lease_id.clone(),
    };
    let racing = world.ask(connection, redeem(lease_id.clone()));
    let first = world.ask(connection, revoke());
    assert_eq!(world.code(racing), Some(ErrorCode::LeaseRevoked));
    let redeem = world.ask(connection, redeem(lease_id.clone()));
    assert_eq!(world.code(redeem), Some(ErrorCode::LeaseRevoked));
    world.answer(1, How::Well);
    assert_eq!(world.lease(first).1, LeaseState::Revoked);
    world.answer(0, How::Well);
    let again = world.ask(connection, revoke());
    assert_eq!(world.lease(again).1, LeaseState::Revoked);
    assert!(world.calls.is_empty());
}

/// LC-9, MC-6: to another process a lease that it did not create is not there.
#[test]
fn a_process_sees_and_ends_its_own_leases_only() {
    let mut world = World::new(Resumed::default());
    world.log_in();
    let owner = world.connect(81);
    let other = world.connect(82);
    let made = world.ask(owner, create(0, 1, HolderClass::Client));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    let shared = world.ask(owner, get(1, HolderClass::Client));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    assert!(matches!(world.told[&shared], Ok(Reply::Delivered(_))));
    let listed = |world: &mut World, connection| {
        let ticket = world.ask(connection, Request::OwnLeaseList);
        match &world.told[&ticket] {
            Ok(Reply::Leases(leases)) => leases.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        listed(&mut world, owner),
        1,
        "what is shared is nobody's own"
    );
    assert_eq!(listed(&mut world, other), 0);
    let revoke = || Request::OwnLeaseRevoke {
        lease_id: lease_id.clone(),
    };
    let foreign = world.ask(other, revoke());
    assert_eq!(world.code(foreign), Some(ErrorCode::LeaseNotFound));
    let own = world.ask(owner, revoke());
    world.answer(0, How::Well);
    assert_eq!(world.lease(own).1, LeaseState::Revoked);
    let record = world.records.last().unwrap();
    assert_eq!(record.action, AuditAction::LeaseRevoke);
    assert_eq!(record.peer.as_ref().unwrap().process.pid, 81);
    assert_eq!(
        listed(&mut world, owner),
        1,
        "ended ones are listed for a while"
    );
}

/// DG-14: who wants out ends the flow only if it started it and nobody else ever joined.
#[test]
fn a_flow_is_withdrawn_by_its_only_caller_alone() {
    let join = |request: fn() -> Request| Some(request());
    let rows: [(&str, Option<Request>, i32, bool); 5] = [
        ("alone", None, 91, true),
        ("another process", None, 92, false),
        ("joined", join(|| Request::LoginBegin), 91, false),
        ("waited for", join(|| Request::LoginWait), 91, false),
        ("looked at", join(|| Request::Status), 91, true),
    ];
    for (name, other, who, ends) in rows {
        for begun in [false, true] {
            let mut world = World::new(Resumed::default());
            let starter = world.connect(91);
            let second = world.connect(92);
            world.ask(starter, Request::LoginBegin);
            if begun {
                world.answer(0, How::Well);
                world.ask(starter, Request::LoginBegin);
                world.ask(starter, Request::LoginWait);
            }
            if let Some(request) = other.clone() {
                world.ask(second, request);
            }
            let connection = if who == 91 { starter } else { second };
            // Before there is a code nobody can have been shown one.
            let user_code = match &world.state.login {
                Login::AwaitingApproval { authorization, .. } => authorization.user_code.clone(),
                _ => CleanText::new("BCDF-GHJK", 64),
            };
            let of_another = CleanText::new("of an older login", 64);
            world.ask(
                connection,
                Request::LoginWithdraw {
                    user_code: of_another,
                },
            );
            assert!(is_under_way(&world.state.login), "{name}");
            world.ask(connection, Request::LoginWithdraw { user_code });
            let over = !is_under_way(&world.state.login);
            assert_eq!(over, ends && begun, "{name}, begun: {begun}");
        }
    }
}

fn is_under_way(login: &Login) -> bool {
    matches!(
        login,
        Login::Beginning { .. } | Login::AwaitingApproval { .. }
    )
}

/// PO-2: a peer hears how it itself would be judged, whether or not anybody is logged in.
#[test]
fn the_policy_is_explained_to_the_peer_that_asks() {
    let mut world = World::new(Resumed::default());
    let explain = |world: &mut World, connection, index| {
        let request = Request::PolicyExplain {
            selector: selector(index),
        };
        let ticket = world.ask(connection, request);
        match &world.told[&ticket] {
            Ok(Reply::Explained(view)) => (**view).clone(),
            other => panic!("{other:?}"),
        }
    };
    let early = world.connect(7);
    let view = explain(&mut world, early, 0);
    assert!(view.listed && view.standing == Standing::LoggedOut);
    let connection = world.log_in();
    let view = explain(&mut world, connection, 0);
    assert!(view.listed && view.standing == Standing::Granted);
    assert_eq!(view.create.effect, PolicyEffect::Allow);
    assert_eq!(view.exposure, Some(Exposure::Reveal));
    let view = explain(&mut world, connection, 2);
    assert_eq!(view.create.effect, PolicyEffect::Deny);
    assert_eq!(view.exposure, None);
    let ticket = world.ask(connection, Request::OfferList);
    let Ok(Reply::Offers(offers)) = &world.told[&ticket] else {
        panic!("{:?}", world.told[&ticket]);
    };
    let offered: Vec<_> = offers
        .iter()
        .map(|offer| offer.policy.selector.clone())
        .collect();
    assert_eq!(offered, [selector(0), selector(1)]);
}

/// `aegis.md` 9: a redemption whose answer got lost is never repeated; the lease is revoked and
/// replaced, once.
#[test]
fn a_lost_redemption_is_replaced_once() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let ticket = world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Lost);
    assert_eq!(
        world.revokes(),
        vec![("lse_1".to_owned(), RevokeReason::DeliveryUncertain)]
    );
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    world.answer(0, How::Lost);
    assert_eq!(world.code(ticket), Some(ErrorCode::AegisUnavailable));
    assert_eq!(
        world.revokes(),
        vec![("lse_2".to_owned(), RevokeReason::DeliveryUncertain)]
    );
}

/// LC-2, LC-3: what is not valid for long enough is not served from memory.
#[test]
fn a_lease_about_to_end_is_replaced_for_who_needs_longer() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    world.advance(secs(290));
    let short = world.ask(connection, get(0, HolderClass::None));
    assert!(world.delivered(short).is_some());
    let longer = world.ask(
        connection,
        Request::Credential(CredentialRequest {
            selector: selector(0),
            min_valid_for: secs(60),
            reason: None,
            holder: HolderClass::None,
        }),
    );
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    assert_eq!(world.delivered(longer).unwrap().as_str(), "lse_2");
}

fn get_valid_for(min_valid_for: Duration) -> Request {
    Request::Credential(CredentialRequest {
        selector: selector(0),
        min_valid_for,
        reason: None,
        holder: HolderClass::None,
    })
}

/// Whoever needs longer than there is hears so, whoever set the limit; where the token did, that a
/// new login helps.
#[test]
fn too_little_validity_has_one_answer() {
    type Row = (&'static str, fn(&mut World) -> Ticket, bool);
    let rows: [Row; 4] = [
        (
            "no token lives that long",
            |world| world.ask(ConnectionId(1), get_valid_for(secs(571))),
            false,
        ),
        (
            "the issuer gives less",
            |world| {
                let ticket = world.ask(ConnectionId(1), get_valid_for(secs(120)));
                world.answer(0, How::Well);
                let Call::Redeem(lease, generation, ..) = world.calls.remove(0) else {
                    panic!("no redemption");
                };
                let ends = world.now.boot.plus(secs(60));
                let answer = answer(How::Well, |_| redeemed(ends, world.now));
                world.step(Event::LeaseRedeemAnswered {
                    lease,
                    generation,
                    answer,
                });
                ticket
            },
            false,
        ),
        (
            "the token ends",
            |world| {
                world.sleep(secs(300));
                world.ask(ConnectionId(1), get_valid_for(secs(271)))
            },
            true,
        ),
        (
            "the policy cuts",
            |world| {
                let policy = allowed_for(secs(100));
                world.step(Event::PolicyReplaced { policy });
                world.ask(ConnectionId(1), get_valid_for(secs(101)))
            },
            false,
        ),
    ];
    for (name, ask, login_helps) in rows {
        let mut world = World::new(Resumed::default());
        world.log_in();
        let ticket = ask(&mut world);
        let Some(Err(refusal)) = world.told.get(&ticket) else {
            panic!("{name}: not refused");
        };
        assert_eq!(refusal.code, ErrorCode::InvalidRequest, "{name}");
        let reason = refusal.reason_code.clone();
        assert_eq!(reason, Some(text("min_valid_for_too_long")), "{name}");
        assert_eq!(refusal.fix().contains("login"), login_helps, "{name}");
    }
}

/// A policy of one rule that allows everything, for that long.
fn allowed_for(max_ttl: Duration) -> Policy {
    Policy::new(vec![Rule {
        id: text("cut"),
        effect: PolicyEffect::Allow,
        selectors: vec![SelectorPattern::parse("*/*/*").unwrap()],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: Some(max_ttl),
        on_leak: crate::model::OnLeak::Record,
    }])
}

/// LC-3, LC-4: a lease on its way is joined if it will be valid for long enough when it comes, or
/// for as long as one of the caller's own would be.
#[test]
fn a_lease_on_its_way_is_joined_by_whom_it_will_serve() {
    let rows = [
        ("no need", None, 0, 1),
        ("a need with room for the calls", None, 240, 1),
        ("a need without", None, 241, 2),
        ("as long as the lease", None, 300, 2),
        ("cut for everybody alike", Some(30), 0, 1),
        ("cut for everybody alike, and a need", Some(60), 50, 1),
    ];
    for (name, max_ttl, min_valid_for, leases) in rows {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        if let Some(max_ttl) = max_ttl {
            let policy = allowed_for(secs(max_ttl));
            world.step(Event::PolicyReplaced { policy });
        }
        let first = world.ask(connection, get(0, HolderClass::None));
        let second = world.ask(connection, get_valid_for(secs(min_valid_for)));
        assert_eq!(world.calls.len(), leases, "{name}");
        while !world.calls.is_empty() {
            world.answer(0, How::Well);
        }
        assert!(world.delivered(first).is_some(), "{name}");
        assert!(world.delivered(second).is_some(), "{name}");
    }
}

/// LC-3: whom a lease of others comes too short for gets one of its own, as if it had been alone.
#[test]
fn a_joined_lease_that_comes_too_short_is_followed_by_an_own_one() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let policy = allowed_for(secs(330));
    world.step(Event::PolicyReplaced { policy });
    let first = world.ask(connection, get_valid_for(secs(270)));
    let second = world.ask(connection, get_valid_for(secs(300)));
    world.answer(0, How::Well);
    world.advance(secs(40));
    world.answer(0, How::Well);
    assert_eq!(world.delivered(first).unwrap().as_str(), "lse_1");
    assert!(
        !world.told.contains_key(&second),
        "{:?}",
        world.told[&second]
    );
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    assert_eq!(world.delivered(second).unwrap().as_str(), "lse_2");
}

/// LC-3, LC-8: a shared lease that came too short for everybody who waited is given back.
#[test]
fn a_lease_that_serves_nobody_is_given_back() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let ticket = world.ask(
        connection,
        Request::Credential(CredentialRequest {
            selector: selector(0),
            min_valid_for: secs(200),
            reason: None,
            holder: HolderClass::None,
        }),
    );
    world.answer(0, How::Well);
    // The call took its time: what is left is less than was asked for.
    world.advance(secs(150));
    world.answer(0, How::Well);
    assert_eq!(world.code(ticket), Some(ErrorCode::InvalidRequest));
    assert_eq!(
        world.revokes(),
        vec![("lse_1".to_owned(), RevokeReason::Released)]
    );
}

/// PO-1: a rule's `max_ttl` holds for redeeming as it does for `credential.get`, whoever made the
/// lease.
#[test]
fn a_lease_longer_than_the_redeeming_rule_allows_is_not_redeemed() {
    let rule = |id: &str, actions: &[Action], max_ttl| Rule {
        id: text(id),
        effect: PolicyEffect::Allow,
        selectors: vec![SelectorPattern::parse("*/*/*").unwrap()],
        actions: actions.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl,
        on_leak: crate::model::OnLeak::Record,
    };
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.step(Event::PolicyReplaced {
        policy: Policy::new(vec![
            rule("make", &[Action::Create], None),
            rule("take", &[Action::Redeem], Some(secs(60))),
        ]),
    });
    let made = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    let redeem = world.ask(connection, redeem(lease_id));
    assert_eq!(world.code(redeem), Some(ErrorCode::PolicyDenied));
    assert!(world.calls.is_empty(), "no call left");
}

/// A redemption that was certainly not counted and may succeed later leaves its lease alone: the
/// caller was told to try again.
#[test]
fn a_throttled_redemption_can_be_tried_again() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let made = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    let redeem = redeem(lease_id);
    let throttled = world.ask(connection, redeem.clone());
    let Call::Redeem(lease, ..) = world.calls.remove(0) else {
        panic!("no redemption");
    };
    world.step(Event::LeaseRedeemAnswered {
        generation: world.state.generation,
        lease,
        answer: failed(
            ErrorCode::RateLimited,
            Disposition::Retry(Some(secs(1))),
            Certainty::NotDone,
        ),
    });
    assert_eq!(world.code(throttled), Some(ErrorCode::RateLimited));
    assert_eq!(world.revokes(), vec![]);
    let again = world.ask(connection, redeem);
    world.answer(0, How::Well);
    assert!(world.delivered(again).is_some());
}

/// LC-2: served at the last millisecond, not at the end itself, timer or not.
#[test]
fn expired_lease_is_not_served_even_before_the_purge() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    let almost = Duration::from_millis(299_999);
    world.now = Now {
        boot: world.now.boot.plus(almost),
        unix: world.now.unix.plus(almost),
    };
    let last = world.ask(connection, get(0, HolderClass::None));
    assert!(world.delivered(last).is_some());
    world.now.boot = world.now.boot.plus(Duration::from_millis(1));
    let after = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.delivered(after), None);
    assert_eq!(world.calls.len(), 1, "a new lease is being made");
}

/// `renew = "login"`: what is asked for leaves room for the whole call that asks, so that a lease
/// never outlives its token, whichever of the call's tries the issuer answers.
#[test]
fn a_lease_ends_with_its_token_however_late_the_issuer_counts() {
    let rows = [
        (0, Some(300)),
        (270, Some(300)),
        (271, Some(299)),
        (540, Some(30)),
        (541, None),
    ];
    for (used, ttl) in rows {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        world.sleep(secs(used));
        let ticket = world.ask(connection, create(0, 1, HolderClass::None));
        let asked = world.calls.iter().find_map(|call| match call {
            Call::Create(_, _, request, _) => Some(request.ttl),
            _ => None,
        });
        assert_eq!(asked, ttl.map(secs), "after {used} s");
        let refused = ttl.is_none().then_some(ErrorCode::LoginRequired);
        assert_eq!(world.code(ticket), refused, "after {used} s");
    }
}

/// A token with too little life for the shortest lease is no token: `get` asks for a login, and
/// that login begins.
#[test]
fn a_token_at_its_end_can_be_replaced_at_once() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.advance(secs(541));
    let get = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.code(get), Some(ErrorCode::LoginRequired));
    world.may_serve = false;
    world.log_in();
}

/// AU-1, LC-8, LC-10: a lease that nobody was told of is given back.
#[test]
fn an_undelivered_lease_is_given_back() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let made = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    world.step(Event::LeaseUndelivered { lease_id });
    assert_eq!(
        world.revokes(),
        vec![("lse_1".to_owned(), RevokeReason::Released)]
    );
}

/// A lock serves nothing until the person logs in again; a failed login leaves it locked.
#[test]
fn a_locked_broker_serves_nothing() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    world.ask(connection, Request::Lock);
    world.answer(0, How::Well);
    assert!(world.issued.is_empty());
    let locked = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.code(locked), Some(ErrorCode::Locked));
    world.ask(connection, Request::LoginBegin);
    world.answer(0, How::Denied);
    let locked = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.code(locked), Some(ErrorCode::Locked));
    world.log_in();
    let ticket = world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    assert!(world.delivered(ticket).is_some());
}

/// A stop revokes what is live, waits two seconds at most, and then stops.
#[test]
fn shutdown_revokes_and_stops_within_two_seconds() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, get(0, HolderClass::None));
    world.answer(0, How::Well);
    world.answer(0, How::Well);
    world.may_serve = false;
    world.step(Event::ShutdownRequested);
    assert_eq!(
        world.revokes(),
        vec![("lse_1".to_owned(), RevokeReason::Released)]
    );
    let late = world.ask(connection, get(0, HolderClass::None));
    assert_eq!(world.code(late), Some(ErrorCode::ShuttingDown));
    world.advance(Duration::from_millis(1999));
    assert!(!world.stopped);
    world.advance(Duration::from_millis(1));
    assert!(world.stopped);
}

/// LM: a full table is an answer, which says when to come back; at n it still takes one.
#[test]
fn a_full_lease_table_says_when_to_come_back() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let tickets: Vec<_> = (0..=MAX_LEASES)
        .map(|_| world.ask(connection, create(0, 1, HolderClass::None)))
        .collect();
    assert_eq!(world.calls.len(), MAX_LEASES);
    let Some(Err(refusal)) = world.told.get(&tickets[MAX_LEASES]) else {
        panic!("one too many");
    };
    assert_eq!(refusal.code, ErrorCode::RateLimited);
    assert_eq!(refusal.retry_after, Some(secs(30)));
    let record = world.records.last().unwrap();
    assert_eq!(
        (record.action, record.reason.clone()),
        (AuditAction::Deny, Some(text("rate_limited")))
    );
    // A place is free again: the next one is taken.
    world.answer(0, How::Lost);
    world.ask(connection, create(0, 1, HolderClass::None));
    assert_eq!(world.calls.len(), MAX_LEASES);
}

/// LM, `aegis.md` 12: what the issuer denied is not asked again for a while, whoever asks; another
/// login or policy, another request, or the end of the pause asks anew.
#[test]
fn a_denial_of_the_issuer_is_remembered() {
    type Row = (&'static str, fn(&mut World), Request, bool);
    let rows: [Row; 6] = [
        (
            "an equal request",
            |_| {},
            create(0, 1, HolderClass::Client),
            true,
        ),
        (
            "another number of redemptions",
            |_| {},
            create(0, 2, HolderClass::None),
            false,
        ),
        (
            "another selector",
            |_| {},
            create(1, 1, HolderClass::None),
            false,
        ),
        (
            "after a minute",
            |world| world.sleep(secs(60)),
            create(0, 1, HolderClass::None),
            false,
        ),
        (
            "after another login",
            |world| {
                world.ask(ConnectionId(1), Request::Logout);
                world.log_in_on(ConnectionId(1));
            },
            create(0, 1, HolderClass::None),
            false,
        ),
        (
            "after another policy",
            |world| world.step(Event::PolicyReplaced { policy: policy() }),
            create(0, 1, HolderClass::None),
            false,
        ),
    ];
    for (name, act, request, from_memory) in rows {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        world.ask(connection, create(0, 1, HolderClass::None));
        world.answer(0, How::Denied);
        act(&mut world);
        let other = world.connect(7);
        let again = world.ask(other, request);
        assert_eq!(world.calls.is_empty(), from_memory, "{name}");
        if from_memory {
            let Some(Err(refusal)) = world.told.get(&again) else {
                panic!("{name}");
            };
            assert_eq!(refusal.code, ErrorCode::AegisDenied, "{name}");
            assert_eq!(refusal.reason_code, Some(text("policy_denied")), "{name}");
            let record = world.records.last().unwrap();
            assert_eq!(record.action, AuditAction::Deny, "{name}");
        }
    }
}

/// LC-5: a pause that the issuer names is kept before the next try.
#[test]
fn a_throttled_revocation_waits_as_long_as_it_was_told() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let made = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    world.ask(connection, Request::LeaseRevoke { lease_id });
    let call = world.calls.remove(0);
    world.fails(
        call,
        failed(
            ErrorCode::RateLimited,
            Disposition::Retry(Some(secs(120))),
            Certainty::NotDone,
        ),
    );
    let next = world.state.next_deadline().unwrap();
    assert_eq!(world.now.boot.until(next), secs(120));
}

/// HY-7: a session that the issuer calls over when a lease is revoked is no session any more.
#[test]
fn a_revocation_that_meets_a_dead_session_ends_it() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    let made = world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let (lease_id, _) = world.lease(made);
    world.ask(connection, Request::LeaseRevoke { lease_id });
    world.answer(0, How::SessionOver);
    assert!(world.state.session(world.now).is_none());
    assert!(world.records.iter().any(|record| {
        (record.action, record.outcome) == (AuditAction::Logout, AuditOutcome::Error)
    }));
}

/// LC-8: a late lease is revoked with the session that is ending; what that hears says nothing
/// about the one that has begun.
#[test]
fn a_late_revocation_does_not_end_the_new_session() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, create(0, 1, HolderClass::None));
    world.ask(connection, Request::Logout);
    let old = world.calls.remove(0);
    world.log_in_at_once(connection);
    world.answered(old, How::Well);
    assert_eq!(world.revokes().len(), 1);
    world.answer(0, How::SessionOver);
    assert!(world.state.session(world.now).is_some());
}

/// LC-5, LC-10: a lease that the issuer does not know needs no revocation, and the record says so
/// in the word by which the next run knows it.
#[test]
fn a_lease_unknown_to_the_issuer_is_settled() {
    let mut world = World::new(Resumed::default());
    let connection = world.log_in();
    world.ask(connection, create(0, 1, HolderClass::None));
    world.answer(0, How::Well);
    let lease_id = LeaseId::parse("lse_1").unwrap();
    world.ask(
        connection,
        Request::LeaseRevoke {
            lease_id: lease_id.clone(),
        },
    );
    let call = world.calls.remove(0);
    world.fails(call, not_found(Certainty::NotDone));
    assert_eq!(world.state.revocations.count(world.now.boot), 0);
    let key = world.state.leases.find(&lease_id).unwrap();
    let view = world.state.leases.get(key).unwrap().view(world.now.boot);
    assert_eq!(view.unwrap().state, LeaseState::Revoked);
    let record = world.records.last().unwrap();
    assert_eq!(record.action, AuditAction::LeaseRevoke);
    assert_eq!(record.reason, Some(text("lease_not_found")));
}

/// LC-5: what is no answer of the issuer's, and what it says to others than the lease's own
/// principal (`aegis.md` 17.7), proves nothing.
#[test]
fn not_every_unknown_lease_is_settled() {
    for (certainty, principal) in [
        (Certainty::Unknown, "user:u-demo"),
        (Certainty::NotDone, "user:u-other"),
    ] {
        let mut world = World::new(Resumed::default());
        let connection = world.log_in();
        world.ask(connection, create(0, 1, HolderClass::None));
        world.answer(0, How::Well);
        world.ask(connection, Request::Logout);
        world.answer(0, How::Lost);
        world.principal = principal;
        world.log_in();
        let call = world.calls.remove(0);
        world.fails(call, not_found(certainty));
        assert_eq!(world.state.revocations.count(world.now.boot), 1);
        let record = world.records.last().unwrap();
        assert_eq!(record.action, AuditAction::LeaseRevoke);
        assert_eq!(record.reason, Some(text("unconfirmed")), "{principal}");
    }
}

/// LC-10: a lease of an earlier run is its principal's too.
#[test]
fn an_unknown_lease_of_an_earlier_run_is_settled_for_its_principal() {
    for (owner, left) in [("user:u-demo", 0), ("user:u-other", 1)] {
        let mut world = World::new(Resumed {
            principal: None,
            open_leases: vec![OpenLease {
                lease_id: LeaseId::parse("lse_old").unwrap(),
                selector: None,
                principal: Some(Principal::parse(owner).unwrap()),
                expires_at: UnixTime::from_millis(1_795_341_600_000).plus(secs(300)),
            }],
        });
        world.log_in();
        let call = world.calls.remove(0);
        world.fails(call, not_found(Certainty::NotDone));
        assert_eq!(world.state.revocations.count(world.now.boot), left);
    }
}

/// What the issuer says to who asks about a lease that it does not know.
fn not_found(certainty: Certainty) -> Answer<()> {
    let mut answer = failed(ErrorCode::LeaseNotFound, Disposition::Terminal, certainty);
    if let Err(failure) = &mut answer.outcome {
        failure.reason = Some(text("another word"));
    }
    answer
}

/// LC-7, AU-2: the record of the stop says how many leases the issuer has not confirmed as ended.
#[test]
fn a_stop_says_what_it_could_not_confirm() {
    type Row = (&'static str, fn(&mut World), Option<&'static str>);
    fn stop(world: &mut World) {
        world.may_serve = false;
        world.step(Event::ShutdownRequested);
    }
    let rows: [Row; 6] = [
        ("nothing to revoke", |world| stop(world), None),
        (
            "unknown to the issuer",
            |world| {
                world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
                world.answer(0, How::Well);
                stop(world);
                let call = world.calls.remove(0);
                world.fails(call, not_found(Certainty::NotDone));
            },
            None,
        ),
        (
            "all confirmed",
            |world| {
                world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
                world.answer(0, How::Well);
                stop(world);
                world.answer(0, How::Well);
            },
            None,
        ),
        (
            "one lost, one not answered",
            |world| {
                for index in 0..2 {
                    world.ask(ConnectionId(1), create(index, 1, HolderClass::None));
                    world.answer(0, How::Well);
                }
                stop(world);
                world.answer(0, How::Lost);
                world.advance(secs(2));
            },
            Some("unconfirmed:2"),
        ),
        (
            "one that may have been made",
            |world| {
                world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
                stop(world);
                world.answer(0, How::Lost);
            },
            Some("unconfirmed:1"),
        ),
        (
            "one of an earlier logout",
            |world| {
                world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
                world.answer(0, How::Well);
                world.ask(ConnectionId(1), Request::Logout);
                world.answer(0, How::Lost);
                stop(world);
            },
            Some("unconfirmed:1"),
        ),
    ];
    for (name, act, reason) in rows {
        let mut world = World::new(Resumed::default());
        world.log_in();
        act(&mut world);
        assert!(world.stopped, "{name}");
        let mut stops = world
            .records
            .iter()
            .filter(|record| record.action == AuditAction::Stop);
        let record = stops.next().unwrap();
        let outcome = reason.map_or(AuditOutcome::Ok, |_| AuditOutcome::Error);
        assert_eq!(
            (record.outcome, record.reason.clone()),
            (outcome, reason.map(text)),
            "{name}"
        );
        assert_eq!(stops.next(), None, "{name}");
    }
}

/// HY-7: with the session go the HTTP client, its pool and the nonces.
#[test]
fn connections_are_dropped_with_the_session() {
    type Row = (&'static str, fn(&mut World));
    let rows: [Row; 6] = [
        ("a lock", |world| {
            world.ask(ConnectionId(1), Request::Lock);
        }),
        ("a logout", |world| {
            world.ask(ConnectionId(1), Request::Logout);
        }),
        ("a stop", |world| world.step(Event::ShutdownRequested)),
        ("the token's end", |world| world.advance(secs(600))),
        ("a login shortly before the token's end", |world| {
            world.sleep(secs(541));
            world.ask(ConnectionId(1), Request::LoginBegin);
        }),
        ("the issuer's word", |world| {
            world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
            world.answer(0, How::SessionOver);
        }),
    ];
    for (name, act) in rows {
        let mut world = World::new(Resumed::default());
        world.log_in();
        assert_eq!(world.dropped, 0, "{name}");
        act(&mut world);
        assert_eq!(world.dropped, 1, "{name}");
    }
}

/// AU-2: what opens a run: its start, where long-lived secrets rest, the policy.
#[test]
fn a_run_opens_with_three_records() {
    let world = World::new(Resumed::default());
    let records: Vec<_> = world
        .state
        .opening_records()
        .into_iter()
        .map(|record| (record.action, record.outcome, record.reason))
        .collect();
    let expected = [
        (AuditAction::Start, AuditOutcome::Ok, None),
        (
            AuditAction::KeyStoreChoice,
            AuditOutcome::Ok,
            Some(text("memory")),
        ),
        (AuditAction::PolicyLoad, AuditOutcome::Ok, None),
    ];
    assert_eq!(records, expected);
}

/// AU-2: exactly one record of each thing that happens, also of what fails.
#[test]
fn each_thing_that_happens_has_exactly_one_record() {
    use AuditOutcome::{Denied, Error, Ok};
    type Row = (
        &'static str,
        fn(&mut World),
        AuditAction,
        AuditOutcome,
        Option<&'static str>,
    );
    let rows: [Row; 9] = [
        (
            "a policy that is read again",
            |world| world.step(Event::PolicyReplaced { policy: policy() }),
            AuditAction::PolicyLoad,
            Ok,
            None,
        ),
        (
            "a lock",
            |world| {
                world.ask(ConnectionId(1), Request::Lock);
            },
            AuditAction::Lock,
            Ok,
            None,
        ),
        (
            "a logout",
            |world| {
                world.ask(ConnectionId(1), Request::Logout);
            },
            AuditAction::Logout,
            Ok,
            None,
        ),
        (
            "a login that cannot begin",
            |world| {
                world.ask(ConnectionId(1), Request::Logout);
                world.ask(ConnectionId(1), Request::LoginBegin);
                world.answer(0, How::Lost);
            },
            AuditAction::LoginBegin,
            Error,
            Some("aegis_unavailable"),
        ),
        (
            "a login that is denied",
            |world| {
                world.ask(ConnectionId(1), Request::Logout);
                world.ask(ConnectionId(1), Request::LoginBegin);
                world.answer(0, How::Well);
                world.advance(secs(5));
                world.answer(0, How::Denied);
            },
            AuditAction::Login,
            Denied,
            Some("access_denied"),
        ),
        (
            "a session that the issuer ends",
            |world| {
                world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
                world.answer(0, How::SessionOver);
            },
            AuditAction::Logout,
            Error,
            Some("login_required"),
        ),
        (
            "a lease that is denied",
            |world| {
                world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
                world.answer(0, How::Denied);
            },
            AuditAction::LeaseCreate,
            Denied,
            Some("policy_denied"),
        ),
        (
            "a lease that gets lost",
            |world| {
                world.ask(ConnectionId(1), get(0, HolderClass::None));
                world.answer(0, How::Lost);
            },
            AuditAction::LeaseCreate,
            Error,
            Some("aegis_unavailable"),
        ),
        (
            "a redemption that is denied",
            |world| {
                world.ask(ConnectionId(1), get(0, HolderClass::None));
                world.answer(0, How::Well);
                world.answer(0, How::Denied);
            },
            AuditAction::LeaseRedeem,
            Denied,
            Some("policy_denied"),
        ),
    ];
    for (name, act, action, outcome, reason) in rows {
        let mut world = World::new(Resumed::default());
        world.log_in();
        world.records.clear();
        act(&mut world);
        let found: Vec<_> = world
            .records
            .iter()
            .filter(|record| record.action == action)
            .map(|record| (record.outcome, record.reason.clone()))
            .collect();
        assert_eq!(found, [(outcome, reason.map(text))], "{name}");
    }
}

/// LC-1, AU-2: what is refused here leaves no call and exactly one record, which names the code and
/// what decided.
#[test]
fn what_is_refused_here_has_its_record_and_leaves_no_call() {
    type Row = (
        &'static str,
        Option<Action>,
        fn(&mut World) -> Request,
        ErrorCode,
        &'static str,
    );
    fn redeem_it() -> Request {
        redeem(LeaseId::parse("lse_1").unwrap())
    }
    fn revoke() -> Request {
        Request::LeaseRevoke {
            lease_id: LeaseId::parse("lse_1").unwrap(),
        }
    }
    fn made(world: &mut World) {
        world.ask(ConnectionId(1), create(0, 1, HolderClass::None));
        world.answer(0, How::Well);
    }
    fn a_get(_: &mut World) -> Request {
        get(0, HolderClass::None)
    }
    fn a_create(_: &mut World) -> Request {
        create(0, 1, HolderClass::None)
    }
    let (create, take, give_back) = (Action::Create, Action::Redeem, Action::Revoke);
    let rows: [Row; 13] = [
        (
            "locked",
            None,
            |world| {
                world.ask(ConnectionId(1), Request::Lock);
                get(0, HolderClass::None)
            },
            ErrorCode::Locked,
            "locked",
        ),
        (
            "nobody logged in",
            None,
            |world| {
                world.ask(ConnectionId(1), Request::Logout);
                get(0, HolderClass::None)
            },
            ErrorCode::LoginRequired,
            "all",
        ),
        (
            "nobody logged in any more",
            None,
            |world| {
                made(world);
                world.sleep(secs(600));
                redeem_it()
            },
            ErrorCode::LoginRequired,
            "all",
        ),
        (
            "no such lease to redeem",
            None,
            |_| redeem_it(),
            ErrorCode::LeaseNotFound,
            "handle",
        ),
        (
            "no such lease to end",
            None,
            |_| revoke(),
            ErrorCode::LeaseNotFound,
            "handle",
        ),
        (
            "get without create",
            Some(create),
            a_get,
            ErrorCode::ScopeNotGranted,
            "all",
        ),
        (
            "get without redeem",
            Some(take),
            a_get,
            ErrorCode::ScopeNotGranted,
            "all",
        ),
        (
            "create without create",
            Some(create),
            a_create,
            ErrorCode::ScopeNotGranted,
            "all",
        ),
        (
            "redeem without redeem",
            Some(take),
            |world| {
                made(world);
                redeem_it()
            },
            ErrorCode::ScopeNotGranted,
            "all",
        ),
        (
            "revoke without revoke",
            Some(give_back),
            |world| {
                made(world);
                revoke()
            },
            ErrorCode::ScopeNotGranted,
            "all",
        ),
        (
            "expired",
            None,
            |world| {
                made(world);
                world.sleep(secs(300));
                redeem_it()
            },
            ErrorCode::LeaseExpired,
            "all",
        ),
        (
            "revoked",
            None,
            |world| {
                made(world);
                world.ask(ConnectionId(1), revoke());
                world.answer(0, How::Well);
                redeem_it()
            },
            ErrorCode::LeaseRevoked,
            "all",
        ),
        (
            "exhausted",
            None,
            |world| {
                made(world);
                world.ask(ConnectionId(1), redeem_it());
                world.answer(0, How::Well);
                redeem_it()
            },
            ErrorCode::LeaseExhausted,
            "all",
        ),
    ];
    for (name, ungranted, act, code, rule) in rows {
        let mut world = World::new(Resumed::default());
        world.ungranted = ungranted;
        world.log_in();
        let request = act(&mut world);
        world.records.clear();
        let ticket = world.ask(ConnectionId(1), request);
        assert_eq!(world.code(ticket), Some(code), "{name}");
        assert!(world.calls.is_empty(), "{name}: {:?}", world.calls);
        let records: Vec<_> = world
            .records
            .iter()
            .map(|record| {
                (
                    record.action,
                    record.outcome,
                    record.rule.clone(),
                    record.reason.clone(),
                )
            })
            .collect();
        let expected = (
            AuditAction::Deny,
            AuditOutcome::Denied,
            Some(text(rule)),
            Some(text(code.as_str())),
        );
        assert_eq!(records, [expected], "{name}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Connect(i32),
    Close(usize),
    Exit(usize),
    Get(usize, usize, u64, usize),
    Create(usize, usize, u32, usize),
    Redeem(usize, usize),
    Revoke(usize, usize),
    Plain(usize, usize),
    Answer(usize, usize),
    Advance(u64),
    Sleep(u64),
    Policy(usize),
    Unrecorded(usize),
    Principal,
    WallClock(u64),
    Stop,
}

fn any_op() -> impl Strategy<Value = Op> {
    let n = 0_usize..8;
    prop_oneof![
        2 => (0_i32..6).prop_map(Op::Connect),
        1 => n.clone().prop_map(Op::Close),
        1 => n.clone().prop_map(Op::Exit),
        6 => (n.clone(), 0_usize..3, prop_oneof![Just(0_u64), 0_u64..400], 0_usize..3).prop_map(|(c, s, m, h)| Op::Get(c, s, m, h)),
        3 => (n.clone(), 0_usize..3, 1_u32..4, 0_usize..3).prop_map(|(c, s, r, h)| Op::Create(c, s, r, h)),
        3 => (n.clone(), n.clone()).prop_map(|(c, l)| Op::Redeem(c, l)),
        2 => (n.clone(), n.clone()).prop_map(|(c, l)| Op::Revoke(c, l)),
        5 => (n.clone(), 0_usize..15).prop_map(|(c, r)| Op::Plain(c, r)),
        14 => (n, 0_usize..16).prop_map(|(i, how)| Op::Answer(i, how)),
        4 => prop_oneof![0_u64..1_000, 4_900_u64..6_000, 0_u64..700_000].prop_map(Op::Advance),
        2 => prop_oneof![0_u64..1_000, 200_000_u64..700_000].prop_map(Op::Sleep),
        2 => (0_usize..3).prop_map(Op::Policy),
        1 => (0_usize..8).prop_map(Op::Unrecorded),
        1 => Just(Op::Principal),
        2 => (1_795_000_000_000_u64..1_796_000_000_000).prop_map(Op::WallClock),
        1 => prop_oneof![9 => Just(Op::Principal), 1 => Just(Op::Stop)],
    ]
}

/// Denies `gcp/denied/x`, and allows everything else, or that for a minute, or nothing.
fn any_policy(index: usize) -> Policy {
    let rule = |id: &str, effect, pattern: &str, max_ttl| Rule {
        id: text(id),
        effect,
        selectors: vec![SelectorPattern::parse(pattern).unwrap()],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl,
        on_leak: crate::model::OnLeak::Record,
    };
    let not_that = rule("not-that", PolicyEffect::Deny, "gcp/denied/x", None);
    match index {
        0 => policy(),
        1 => Policy::new(vec![
            rule("a-minute", PolicyEffect::Allow, "*/*/*", Some(secs(60))),
            not_that,
        ]),
        _ => Policy::new(vec![not_that]),
    }
}

fn apply(world: &mut World, op: &Op) {
    let connection = |world: &World, index: usize| {
        (!world.open.is_empty()).then(|| world.open[index % world.open.len()])
    };
    let lease_id = |world: &World, index: usize| {
        LeaseId::parse(&format!(
            "lse_{}",
            1 + u64::try_from(index).unwrap() % (world.next_lease + 1)
        ))
        .unwrap()
    };
    if world.stopped {
        return;
    }
    match *op {
        Op::Connect(pid) => {
            world.connect(pid);
        }
        Op::Close(index) => {
            if let Some(connection) = connection(world, index) {
                world.close(connection);
            }
        }
        Op::Exit(index) => {
            let mut watched: Vec<_> = world.watched.iter().copied().collect();
            watched.sort_unstable();
            if !watched.is_empty() {
                let process = watched[index % watched.len()];
                world.watched.remove(&process);
                world.step(Event::ProcessExited { process });
            }
        }
        Op::Get(c, s, min_valid, holder) => {
            if let Some(connection) = connection(world, c) {
                world.ask(
                    connection,
                    Request::Credential(CredentialRequest {
                        selector: selector(s),
                        min_valid_for: secs(min_valid),
                        reason: None,
                        holder: HolderClass::ALL[holder],
                    }),
                );
            }
        }
        Op::Create(c, s, max, holder) => {
            if let Some(connection) = connection(world, c) {
                world.ask(connection, create(s, max, HolderClass::ALL[holder]));
            }
        }
        Op::Redeem(c, l) => {
            if let Some(connection) = connection(world, c) {
                let lease_id = lease_id(world, l);
                world.ask(connection, redeem(lease_id));
            }
        }
        Op::Revoke(c, l) => {
            if let Some(connection) = connection(world, c) {
                let lease_id = lease_id(world, l);
                world.ask(connection, Request::LeaseRevoke { lease_id });
            }
        }
        Op::Plain(c, r) => {
            if let Some(connection) = connection(world, c) {
                let request = match r {
                    0 => Request::Status,
                    1..=3 => Request::LoginBegin,
                    4 => Request::LoginWait,
                    5 => Request::LoginCancel,
                    6 => Request::Logout,
                    7 => Request::Lock,
                    8 => Request::LoginWithdraw {
                        user_code: match &world.state.login {
                            Login::AwaitingApproval { authorization, .. } => {
                                authorization.user_code.clone()
                            }
                            _ => CleanText::new("BCDF-GHJK", 64),
                        },
                    },
                    9 => Request::OfferList,
                    10 => Request::PolicyExplain {
                        selector: selector(c),
                    },
                    11 => Request::DecisionList,
                    12 => Request::OwnLeaseList,
                    13 => Request::OwnLeaseRevoke {
                        lease_id: lease_id(world, c),
                    },
                    _ => Request::LeaseList,
                };
                world.ask(connection, request);
            }
        }
        Op::Answer(index, how) => {
            let how = match how {
                0..=9 => How::Well,
                10 | 11 => How::Pending,
                12 => How::Denied,
                13 | 14 => How::Lost,
                _ => How::SessionOver,
            };
            world.answer(index, how);
        }
        Op::Advance(millis) => world.advance(Duration::from_millis(millis)),
        Op::Sleep(millis) => world.sleep(Duration::from_millis(millis)),
        Op::Policy(index) => {
            let policy = any_policy(index);
            world.step(Event::PolicyReplaced { policy });
        }
        Op::Unrecorded(index) => {
            let lease_id = lease_id(world, index);
            world.step(Event::LeaseUndelivered { lease_id });
        }
        Op::Principal => {
            world.principal = match world.principal {
                "user:u-demo" => "user:u-other",
                _ => "user:u-demo",
            };
        }
        Op::WallClock(millis) => world.now.unix = UnixTime::from_millis(millis),
        Op::Stop => {
            world.may_serve = false;
            world.step(Event::ShutdownRequested);
        }
    }
}

proptest! {
    #![proptest_config(many())]

    /// LC-2, LC-8, AU-1, AU-2: whatever happens in whatever order, no session is used after logout,
    /// lock or its token's end, no material leaves past its lease's end or without its record, no
    /// lease is shown to its maker and nobody is refused one without a record before, nobody is
    /// answered twice (all checked in [`World::step`]), and in the end everybody who
    /// is still there has been answered and no lease is left live behind the broker's back.
    #[test]
    fn nothing_leaks_and_nobody_is_forgotten(
            logged_in: bool,
            ops in proptest::collection::vec(any_op(), 1..50),
        ) {
        let mut world = World::new(Resumed::default());
        if logged_in {
            world.log_in();
        }
        for op in &ops {
            apply(&mut world, op);
        }
        // Everything that is under way is answered well, then the daemon stops.
        world.may_serve = false;
        world.step(Event::ShutdownRequested);
        while !world.calls.is_empty() {
            world.answer(0, How::Well);
        }
        world.advance(secs(3));
        prop_assert!(world.stopped);
        for ticket in world.asked.keys() {
            prop_assert!(world.told.contains_key(ticket), "a caller was never answered");
        }
        let known = world.state.revocations.count(world.now.boot);
        prop_assert!(world.issued.len() <= known, "{} live, {known} known", world.issued.len());
    }
}

/// What is asked for while clocks jump: wall clocks anywhere, a machine that sleeps for as long as a
/// lease, a token or a day.
fn any_op_of_clocks() -> impl Strategy<Value = Op> {
    let pause = || {
        prop_oneof![
            0_u64..2_000,
            250_000_u64..350_000,
            550_000_u64..700_000,
            Just(86_400_000)
        ]
    };
    prop_oneof![
        5 => (0_usize..2).prop_map(|s| Op::Get(0, s, 0, 0)),
        3 => any::<u64>().prop_map(Op::WallClock),
        2 => pause().prop_map(Op::Sleep),
        2 => pause().prop_map(Op::Advance),
    ]
}

/// What everybody was told: a lease, a no, something else.
fn outcomes(world: &World) -> Vec<Result<Option<LeaseId>, ErrorCode>> {
    let outcome = |told: &Told| match told {
        Ok(Reply::Delivered(delivery)) => Ok(Some(delivery.lease.lease_id.clone())),
        Ok(_) => Ok(None),
        Err(refusal) => Err(refusal.code),
    };
    world.told.values().map(outcome).collect()
}

/// Answers all calls well, logs in again where somebody was told to, and notes until when what was
/// made serves, by the clock that nobody can set.
fn settle(world: &mut World, ends: &mut HashMap<Selector, Timestamp>) {
    while let Some(call) = world.calls.first() {
        if let Call::Create(_, _, request, _) = call {
            ends.insert(request.selector.clone(), world.now.boot.plus(request.ttl));
        }
        world.answer(0, How::Well);
    }
    let last = world.told.values().next_back();
    if matches!(last, Some(Err(refusal)) if refusal.code == ErrorCode::LoginRequired) {
        world.log_in_at_once(world.open[0]);
        world.calls.clear();
        ends.clear();
    }
}

/// Whatever waits for one answer of the issuer: the login, or what is shared for a selector.
fn in_flight(world: &World, of: Option<&Selector>) -> usize {
    let unended = world.state.leases.unended();
    let is_of = |call: &&Call| match (call, of) {
        (Call::Begin(..) | Call::Exchange(..), None) => true,
        (Call::Create(key, ..) | Call::Redeem(key, ..), Some(selector)) => {
            let lease = world.state.leases.get(*key);
            unended.contains(key) && lease.is_some_and(|lease| lease.selector == *selector)
        }
        _ => false,
    };
    world.calls.iter().filter(is_of).count()
}

/// A crowd that asks for the same, comes and goes, and a server that answers anyhow, all within
/// half a minute.
fn any_op_of_a_crowd() -> impl Strategy<Value = Op> {
    let n = || 0_usize..8;
    prop_oneof![
        2 => (0_i32..6).prop_map(Op::Connect),
        1 => n().prop_map(Op::Close),
        1 => n().prop_map(Op::Exit),
        10 => (n(), 0_usize..2, 0_usize..3).prop_map(|(c, s, h)| Op::Get(c, s, 0, h)),
        4 => (n(), 1_usize..7).prop_map(|(c, r)| Op::Plain(c, r)),
        8 => (n(), 0_usize..16).prop_map(|(i, how)| Op::Answer(i, how)),
        1 => (0_u64..1_000).prop_map(Op::Advance),
    ]
}

proptest! {
    #![proptest_config(many())]

    /// LC-2, IN-30: the wall clock decides nothing, so that a broker whose wall clock jumps tells
    /// everybody the same as one whose clock does not. Nothing past its true end is served (checked
    /// in [`World::step`]), and there is no storm: a lease is made by a request alone, and only
    /// where none that it could be given is live.
    #[test]
    fn clocks_that_jump_change_nothing(ops in proptest::collection::vec(any_op_of_clocks(), 1..20)) {
        let [mut steady, mut jumping] = [false, true].map(|jumps| {
            let mut world = World::new(Resumed::default());
            let mut ends = HashMap::new();
            let connection = world.connect(10);
            world.log_in_at_once(connection);
            for op in &ops {
                if matches!(op, Op::WallClock(_)) && !jumps {
                    continue;
                }
                apply(&mut world, op);
                for call in &world.calls {
                    let Call::Create(_, _, request, _) = call else { continue };
                    assert!(matches!(op, Op::Get(..)), "nobody asked for {request:?}");
                    let live = ends.get(&request.selector).is_some_and(|end| world.now.boot < *end);
                    assert!(!live, "{request:?} while another one serves");
                }
                assert!(world.calls.len() <= 1, "{:?}", world.calls);
                settle(&mut world, &mut ends);
            }
            world
        });
        prop_assert_eq!(outcomes(&steady), outcomes(&jumping));
        let records = |world: &mut World| std::mem::take(&mut world.records)
            .into_iter()
            .map(|record| (record.action, record.outcome, record.lease_id, record.reason))
            .collect::<Vec<_>>();
        prop_assert_eq!(records(&mut steady), records(&mut jumping));
    }

    /// LC-4, DG-13: however many ask for the same, one login and one lease for each selector are
    /// on their way at most, whatever comes back and whoever goes.
    #[test]
    fn a_crowd_is_one_flight(
            logged_in: bool,
            ops in proptest::collection::vec(any_op_of_a_crowd(), 1..30),
        ) {
        let mut world = World::new(Resumed::default());
        if logged_in {
            world.log_in();
        }
        for op in &ops {
            apply(&mut world, op);
            prop_assert!(in_flight(&world, None) <= 1, "{:?}", world.calls);
            for index in 0..2 {
                let count = in_flight(&world, Some(&selector(index)));
                prop_assert!(count <= 1, "{:?}", world.calls);
            }
        }
    }
}
