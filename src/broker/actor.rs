//! The one owner of the [`State`]. It reads the clock once per event, carries out effects in
//! order, and feeds what comes of them back as events. It never awaits the network itself.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::effect::Effect;
use super::event::{ConnectionId, Door, Event, Reply, Request, Ticket};
use super::handle::Handle;
use super::policy::Policy;
use super::ports::{
    AegisService, Answer, AuditAction, AuditError, AuditLog, AuditRecord, AuditReport, CallTrace,
    Certainty, Disposition, Failure, HttpFailure, HttpJob, HttpSender, IssuerCall, IssuerEvents,
    PeerProcess, Session, Tries,
};
use super::reconcile::ReadCalls;
use super::state::State;
use super::uses::Use;
use crate::model::{
    CleanText, ErrorCode, LeaseState, PeerFacts, Principal, ProcessId, ProfileName, Refusal,
    Selector,
};
use crate::time::{Clock, Now, Reached, Timestamp};

/// Requests that may wait for the core (LM). Past that a door answers `rate_limited`.
const QUEUE: usize = 1024;

/// Requests that are decided before their records are written, all in one write. A crowd of
/// callers shares the cost; one caller does not wait, because only what is there already is taken.
const BATCH: usize = 64;

/// What doors and the daemon send.
#[derive(Debug)]
pub(super) enum Message {
    Connect {
        connection: ConnectionId,
        peer: Arc<PeerFacts>,
        process: Arc<dyn PeerProcess>,
        door: Door,
    },
    Disconnect {
        connection: ConnectionId,
    },
    Request {
        connection: ConnectionId,
        profile: Option<ProfileName>,
        request: Request,
        reply: oneshot::Sender<Result<Reply, Refusal>>,
    },
    VerifyAudit {
        reply: oneshot::Sender<Result<AuditReport, Refusal>>,
    },
    ReplacePolicy {
        policy: Policy,
    },
    PolicyRefused,
}

impl Message {
    /// Whether what was decided before it may be written together with what it leads to. Anything
    /// but a request for a credential sees a log, and callers, that are up to date.
    const fn may_share_a_write(&self) -> bool {
        matches!(
            self,
            Self::Request {
                request: Request::Credential(_),
                ..
            }
        )
    }
}

/// What the actor works with.
#[derive(Debug)]
pub struct Parts {
    /// Where everything starts from.
    pub state: State,
    /// The Aegis service.
    pub aegis: Arc<dyn AegisService>,
    /// What sends requests with a credential in them.
    pub http: Arc<dyn HttpSender>,
    /// The audit log.
    pub audit: Box<dyn AuditLog>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Fired when the daemon is to stop.
    pub shutdown: CancellationToken,
}

/// The actor, not running yet.
#[derive(Debug)]
pub struct Actor {
    parts: Parts,
    messages: mpsc::Receiver<Message>,
    work: JoinSet<Event>,
    /// At most one look at the audit log, and who waits for it.
    verification: JoinSet<Result<AuditReport, AuditError>>,
    verifying: Vec<oneshot::Sender<Result<AuditReport, Refusal>>>,
    /// Calls to the issuer, by the task of [`work`](Self::work) that waits for each.
    calls: HashMap<task::Id, UnderWay>,
    /// Those of them that were told to end.
    leaving: HashSet<task::Id>,
    /// The core is to hear when they have.
    is_awaited: bool,
    /// Cancelled when requests with a credential are given up.
    uses: CancellationToken,
    replies: HashMap<Ticket, ReplyTo>,
    processes: HashMap<ProcessId, Arc<dyn PeerProcess>>,
    connections: HashMap<ConnectionId, ProcessId>,
    watched: HashSet<ProcessId>,
    next_ticket: u64,
    effects: Vec<Effect>,
    /// Answers whose records are staged and not written yet.
    outbox: Vec<(Option<ReplyTo>, Result<Reply, Refusal>)>,
    stopped: bool,
}

type ReplyTo = oneshot::Sender<Result<Reply, Refusal>>;

/// A call to the issuer that is under way.
struct UnderWay {
    /// Whose token and key it holds; a login's call holds none.
    session: Option<Weak<Session>>,
    give_up: CancellationToken,
    /// What it has sent so far.
    tries: Tries,
    /// What it comes to when its task panics.
    panicked: Box<dyn FnOnce() -> Event + Send>,
}

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnderWay")
    }
}

impl Actor {
    /// Builds the actor and the handle that doors get, for at most `connections` peers.
    pub fn new(parts: Parts, connections: usize) -> (Self, Handle) {
        // Every connection keeps one place for its goodbye.
        let (sender, messages) = mpsc::channel(QUEUE.saturating_add(connections));
        let needs = parts.state.policy.needs();
        let actor = Self {
            parts,
            messages,
            work: JoinSet::new(),
            verification: JoinSet::new(),
            verifying: Vec::new(),
            calls: HashMap::new(),
            leaving: HashSet::new(),
            is_awaited: false,
            uses: CancellationToken::new(),
            replies: HashMap::new(),
            processes: HashMap::new(),
            connections: HashMap::new(),
            watched: HashSet::new(),
            next_ticket: 0,
            effects: Vec::new(),
            outbox: Vec::new(),
            stopped: false,
        };
        (actor, Handle::new(sender, needs))
    }

    /// Runs until the daemon stops: then leases are revoked, as far as 2 s allow, and everything
    /// is wiped. Calls that are still under way are abandoned.
    pub async fn run(mut self) {
        let now = self.parts.clock.now();
        for record in self.parts.state.opening_records() {
            if self.parts.audit.append(&record, now).is_err() {
                tracing::error!("the audit log does not take records: nothing will be delivered");
            }
        }
        let shutdown = self.parts.shutdown.clone();
        // One wait for the whole run: a new one for every message takes the token's lock.
        let mut stop = pin!(shutdown.cancelled());
        let mut asked_to_stop = false;
        let mut has_doors = true;
        let mut alarm: Option<(Timestamp, Reached)> = None;
        let mut messages = Vec::with_capacity(BATCH);
        while !self.stopped {
            self.set_alarm(&mut alarm);
            tokio::select! {
                biased;
                () = &mut stop, if !asked_to_stop => {
                    asked_to_stop = true;
                    self.happened(Event::ShutdownRequested);
                }
                Some(done) = self.work.join_next_with_id() => self.work_ended(done),
                Some(done) = self.verification.join_next() => self.audit_verified(&done),
                count = self.messages.recv_many(&mut messages, BATCH), if has_doors => {
                    if count == 0 {
                        // No door is left and none can come.
                        has_doors = false;
                        self.happened(Event::ShutdownRequested);
                    }
                    for message in messages.drain(..) {
                        self.received(message);
                    }
                }
                () = ring(alarm.as_mut()) => {
                    alarm = None;
                    self.happened(Event::TimerFired);
                }
            }
            self.release();
        }
        self.work.abort_all();
    }

    /// Keeps one timer for the nearest deadline; moves it only when that changes. It is for cleaning
    /// up: nothing expired is served, because expiry is compared on use. Where nothing is held,
    /// nothing has a deadline and no timer runs.
    fn set_alarm(&self, alarm: &mut Option<(Timestamp, Reached)>) {
        let deadline = self.parts.state.next_deadline();
        match (deadline, alarm.as_mut()) {
            (None, _) => *alarm = None,
            (Some(at), Some((set, _))) if *set == at => {}
            (Some(at), _) => *alarm = Some((at, self.parts.clock.reach(at))),
        }
    }

    fn received(&mut self, message: Message) {
        if !message.may_share_a_write() {
            self.release();
        }
        match message {
            Message::Connect {
                connection,
                peer,
                process,
                door,
            } => {
                self.processes.insert(peer.process, process);
                self.connections.insert(connection, peer.process);
                self.happened(Event::ConnectionOpened {
                    connection,
                    peer,
                    door,
                });
            }
            Message::Disconnect { connection } => {
                self.happened(Event::ConnectionClosed { connection });
                self.forget_process_of(connection);
                self.replies.retain(|_, reply| !reply.is_closed());
            }
            Message::Request {
                connection,
                profile,
                request,
                reply,
            } => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket = self.next_ticket.wrapping_add(1);
                self.replies.insert(ticket, reply);
                self.happened(Event::Requested {
                    ticket,
                    connection,
                    profile,
                    request,
                });
            }
            Message::VerifyAudit { reply } => {
                // One look at the log at a time: who asks meanwhile shares it.
                self.verifying.push(reply);
                if self.verifying.len() == 1 {
                    let report = self.parts.audit.verify();
                    self.verification.spawn(report);
                }
            }
            Message::ReplacePolicy { policy } => {
                self.happened(Event::PolicyReplaced { policy });
            }
            Message::PolicyRefused => self.happened(Event::PolicyRefused),
        }
    }

    /// A process is kept while it is connected or watched.
    fn forget_process_of(&mut self, connection: ConnectionId) {
        if let Some(process) = self.connections.remove(&connection)
            && !self.watched.contains(&process)
            && !self.connections.values().any(|other| *other == process)
        {
            self.processes.remove(&process);
        }
    }

    fn work_ended(&mut self, done: Result<(task::Id, Event), JoinError>) {
        let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let call = self.calls.remove(&id);
        self.leaving.remove(&id);
        let event = match (done, call) {
            (Ok((_, event)), _) => event,
            // The hook has reported the panic.
            (Err(_), Some(call)) => (call.panicked)(),
            (Err(_), None) => return,
        };
        if let Event::ProcessExited { process } = &event {
            self.watched.remove(process);
            self.processes.remove(process);
        }
        self.happened(event);
    }

    fn audit_verified(&mut self, done: &Result<Result<AuditReport, AuditError>, JoinError>) {
        for reply in self.verifying.drain(..) {
            let answer = match done {
                Ok(Ok(report)) => Ok(report.clone()),
                Ok(Err(AuditError)) | Err(_) => Err(ErrorCode::AuditUnavailable.into()),
            };
            // The caller may have hung up: then nobody needs the answer.
            drop(reply.send(answer));
        }
    }

    /// One event and what it leads to. What needs its record written waits in the outbox for
    /// [`release`](Self::release).
    fn happened(&mut self, event: Event) {
        self.step(event);
        if self.is_awaited && self.leaving.is_empty() {
            self.is_awaited = false;
            self.step(Event::CallsAbandoned);
        }
    }

    fn step(&mut self, event: Event) {
        let now = self.parts.clock.now();
        let mut effects = std::mem::take(&mut self.effects);
        self.parts.state.step(event, now, &mut effects);
        let mut recorded = true;
        for effect in effects.drain(..) {
            self.carry_out(effect, now, &mut recorded);
        }
        self.effects = effects;
    }

    /// Writes what is staged, then lets the answers go that waited for it.
    fn release(&mut self) -> bool {
        let recorded = self.parts.audit.write().is_ok();
        let mut outbox = std::mem::take(&mut self.outbox);
        for (reply, answer) in outbox.drain(..) {
            self.answer(reply, answer, recorded);
        }
        self.outbox = outbox;
        recorded
    }

    /// Sends an answer. Without its record, what lets a secret out or names a live lease becomes
    /// `audit_unavailable`. A new lease whose caller does not learn of it is given back (LC-8).
    fn answer(&mut self, reply: Option<ReplyTo>, answer: Result<Reply, Refusal>, recorded: bool) {
        let answer = match answer {
            Ok(Reply::Delivered(_) | Reply::Http(_)) if !recorded => {
                Err(ErrorCode::AuditUnavailable.into())
            }
            Ok(Reply::Lease(view)) if !recorded && view.state == LeaseState::Active => {
                self.come_back(Event::LeaseUndelivered {
                    lease_id: view.lease_id,
                });
                Err(ErrorCode::AuditUnavailable.into())
            }
            other => other,
        };
        let undelivered = match reply {
            Some(reply) => reply.send(answer).err(),
            None => Some(answer),
        };
        // A caller that hung up drops the answer, material included. Only `lease.create` is ever
        // answered with a lease that is active.
        if let Some(Ok(Reply::Lease(view))) = undelivered
            && view.state == LeaseState::Active
        {
            self.come_back(Event::LeaseUndelivered {
                lease_id: view.lease_id,
            });
        }
    }

    /// Queues an event that follows from what was not done.
    fn come_back(&mut self, event: Event) {
        self.work.spawn(async move { event });
    }

    /// Carries out one effect. Once a record of this event could not be staged or written,
    /// nothing that lets a secret out or makes one is done any more: callers hear
    /// `audit_unavailable`, calls come back as failed.
    fn carry_out(&mut self, effect: Effect, now: Now, recorded: &mut bool) {
        match effect {
            Effect::Audit(record) => {
                announce(&record);
                *recorded &= self.parts.audit.stage(&record, now).is_ok();
            }
            Effect::Reply { ticket, answer } => {
                let reply = self.replies.remove(&ticket);
                if *recorded {
                    self.outbox.push((reply, answer));
                } else {
                    self.answer(reply, answer, false);
                }
            }
            Effect::BeginDeviceAuthorization {
                generation,
                request,
            } => {
                let call = self.parts.aegis.begin_device_authorization(request);
                self.call(None, call, move |answer| {
                    Event::DeviceAuthorizationAnswered { generation, answer }
                });
            }
            Effect::ExchangeDeviceAuthorization {
                generation,
                authorization,
            } => {
                let call = self
                    .parts
                    .aegis
                    .exchange_device_authorization(authorization);
                self.call(None, call, move |answer| Event::DeviceExchangeAnswered {
                    generation,
                    answer,
                });
            }
            Effect::CreateLease {
                lease,
                generation,
                session,
                request,
            } => {
                let event = move |answer| Event::LeaseCreateAnswered {
                    lease,
                    generation,
                    answer,
                };
                *recorded = *recorded && self.release();
                if !*recorded {
                    return self.come_back(event(unrecorded()));
                }
                let held = Arc::downgrade(&session);
                let call = self.parts.aegis.create_lease(session, request);
                self.call(Some(held), call, event);
            }
            Effect::RedeemLease {
                lease,
                generation,
                session,
                lease_id,
                selector,
            } => {
                let event = move |answer| Event::LeaseRedeemAnswered {
                    lease,
                    generation,
                    answer,
                };
                *recorded = *recorded && self.release();
                if !*recorded {
                    return self.come_back(event(unrecorded()));
                }
                let held = Arc::downgrade(&session);
                let call = self.parts.aegis.redeem_lease(session, lease_id, selector);
                self.call(Some(held), call, event);
            }
            Effect::RevokeLease {
                generation,
                session,
                lease_id,
                reason,
            } => {
                let held = Arc::downgrade(&session);
                let call = self
                    .parts
                    .aegis
                    .revoke_lease(session, lease_id.clone(), reason);
                self.call(Some(held), call, move |answer| Event::LeaseRevokeAnswered {
                    lease_id,
                    generation,
                    reason,
                    answer,
                });
            }
            Effect::RevokeAccess { session, reason } => {
                let held = Arc::downgrade(&session);
                let call = self.parts.aegis.revoke_access(session, reason);
                self.call(Some(held), call, |answer| Event::AccessRevokeAnswered {
                    answer,
                });
            }
            Effect::BootstrapIdentity {
                generation,
                session,
            } => {
                let held = Arc::downgrade(&session);
                let call = self.parts.aegis.bootstrap_identity(session);
                self.call(Some(held), call, move |answer| Event::IdentityAnswered {
                    generation,
                    answer,
                });
            }
            Effect::RenewIdentity {
                generation,
                session,
                identity,
            } => {
                let held = Arc::downgrade(&session);
                let call = self.parts.aegis.renew_identity(session, identity);
                self.call(Some(held), call, move |answer| Event::IdentityAnswered {
                    generation,
                    answer,
                });
            }
            Effect::RenewSession {
                generation,
                session,
                identity,
            } => {
                let held = Arc::downgrade(&session);
                let call = self.parts.aegis.renew_session(session, identity);
                self.call(Some(held), call, move |answer| Event::SessionRenewed {
                    generation,
                    answer,
                });
            }
            Effect::ListAuditEvents {
                ticket,
                generation,
                session,
            } => {
                let principal = session.principal.clone();
                let held = Arc::downgrade(&session);
                let call = self.parts.aegis.list_audit_events(session);
                self.call(Some(held), call, move |answer| Event::AuditEventsListed {
                    ticket,
                    generation,
                    principal,
                    answer,
                });
            }
            Effect::ReadOwnCalls {
                ticket,
                principal,
                listed,
            } => self.read_own_calls(ticket, principal, listed),
            Effect::SendHttp { usage, job } => {
                *recorded = *recorded && self.release();
                self.send(usage, job, *recorded);
            }
            Effect::WatchProcess { process } => self.watch(process),
            Effect::AbandonLogin => self.give_up(|session| session.is_none()),
            Effect::AbandonCalls { keep } => {
                let keep = keep.as_ref().map(Arc::as_ptr);
                self.give_up(|session| {
                    session.is_some_and(|session| {
                        keep.is_none_or(|keep| !std::ptr::eq(session.as_ptr(), keep))
                    })
                });
                self.is_awaited = true;
            }
            Effect::DropConnections => {
                std::mem::take(&mut self.uses).cancel();
                self.parts.http.drop_connections();
                self.parts.aegis.drop_connections();
            }
            Effect::Stop { unconfirmed } => {
                if unconfirmed > 0 {
                    tracing::warn!(
                        leases = unconfirmed,
                        "stopping although the issuer has not confirmed that these have ended"
                    );
                }
                self.stopped = true;
            }
        }
    }

    /// Reads the log's calls. What was answered by now is in it: its records are written first.
    /// What is not yet is known by its tries.
    fn read_own_calls(&mut self, ticket: Ticket, principal: Principal, listed: Box<IssuerEvents>) {
        self.release();
        let traces = self.calls.values().map(|call| call.tries.trace());
        let under_way = traces.flat_map(CallTrace::into_tries).collect();
        let calls = self.parts.audit.calls();
        self.work.spawn(async move {
            let calls = calls.await;
            let read = ReadCalls {
                ticket,
                principal,
                listed,
                calls,
                under_way,
            };
            read.into()
        });
    }

    /// Waits for a call, which comes back as `event`.
    fn call<T: Send + 'static>(
        &mut self,
        session: Option<Weak<Session>>,
        call: IssuerCall<T>,
        event: impl FnOnce(Answer<T>) -> Event + Clone + Send + 'static,
    ) {
        let give_up = CancellationToken::new();
        let over = give_up.clone();
        let (answered, tries) = (event.clone(), call.tries.clone());
        let sent = tries.clone();
        let task = self
            .work
            .spawn(async move { answered(unless(over, call).await) });
        let panicked = Box::new(move || {
            event(Answer {
                trace: tries.trace(),
                outcome: Err(panicked()),
            })
        });
        let under_way = UnderWay {
            session,
            give_up,
            tries: sent,
            panicked,
        };
        self.calls.insert(task.id(), under_way);
    }

    /// Sends a request with a credential in it, unless its record could not be written.
    fn send(&mut self, usage: Arc<Use>, job: HttpJob, recorded: bool) {
        let given_up = self.uses.clone();
        let sent = recorded.then(|| self.parts.http.send(job));
        self.work.spawn(async move {
            let outcome = match sent {
                None => Err(HttpFailure::NotRecorded),
                // In a task of its own, so that a panic there does not lose the caller.
                Some(sent) => tokio::select! {
                    biased;
                    () = given_up.cancelled() => Err(HttpFailure::GivenUp),
                    outcome = AbortOnDropHandle::new(tokio::spawn(sent)) => {
                        outcome.unwrap_or(Err(HttpFailure::Internal))
                    }
                },
            };
            Event::HttpAnswered { usage, outcome }
        });
    }

    /// Tells the calls of some sessions to end: each comes back, as failed where it has no answer
    /// yet, and what it held of token and key goes with it.
    fn give_up(&mut self, whose: impl Fn(Option<&Weak<Session>>) -> bool) {
        for (id, call) in &self.calls {
            if whose(call.session.as_ref()) {
                call.give_up.cancel();
                self.leaving.insert(*id);
            }
        }
    }

    fn watch(&mut self, process: ProcessId) {
        if !self.watched.insert(process) {
            return;
        }
        match self.processes.get(&process) {
            Some(peer) => {
                let exited = peer.exited();
                self.work.spawn(async move {
                    exited.await;
                    Event::ProcessExited { process }
                });
            }
            // Its connection is gone already: treat it as gone.
            None => {
                self.work
                    .spawn(async move { Event::ProcessExited { process } });
            }
        }
    }
}

/// What a person should hear of although nobody asked: in the daemon's log, for want of a way to
/// their screen.
fn announce(record: &AuditRecord) {
    let pid = record.peer.as_ref().map(|peer| peer.process.pid);
    match record.action {
        AuditAction::Decoy => {
            let selector = record.selector.as_ref().map(Selector::short);
            tracing::error!(pid, selector, "somebody asked for a decoy");
        }
        AuditAction::CallerPause => {
            tracing::warn!(
                pid,
                "a caller was denied too often and is refused for a while"
            );
        }
        AuditAction::Leak => {
            let selector = record.selector.as_ref().map(Selector::short);
            tracing::warn!(
                pid,
                selector,
                "a credential was in a host's answer; it is masked"
            );
        }
        AuditAction::Lock if record.reason.is_some() => {
            let why = record.reason.as_ref().map(CleanText::as_str);
            tracing::warn!(why, "the broker locked itself");
        }
        AuditAction::Start
        | AuditAction::Stop
        | AuditAction::PolicyLoad
        | AuditAction::KeyStoreChoice
        | AuditAction::LoginBegin
        | AuditAction::Login
        | AuditAction::Logout
        | AuditAction::Lock
        | AuditAction::SessionEnd
        | AuditAction::SessionRenew
        | AuditAction::IdentityRenew
        | AuditAction::LeaseCreate
        | AuditAction::LeaseRedeem
        | AuditAction::Deliver
        | AuditAction::LeaseRevoke
        | AuditAction::HttpRequest
        | AuditAction::HttpResponse
        | AuditAction::Reconcile
        | AuditAction::Deny => {}
    }
}

/// What a call comes to that was not made because its record could not be written.
fn unrecorded<T>() -> Answer<T> {
    Answer {
        trace: CallTrace::default(),
        outcome: Err(Failure::new(
            ErrorCode::AuditUnavailable,
            Disposition::Retry(None),
            Certainty::NotDone,
        )),
    }
}

/// The answer of a call; what there is of one when it is given up.
async fn unless<T: 'static>(over: CancellationToken, call: IssuerCall<T>) -> Answer<T> {
    let IssuerCall { tries, outcome } = call;
    let outcome = tokio::select! {
        biased;
        outcome = outcome => outcome,
        () = over.cancelled() => Err(abandoned(tries.close())),
    };
    Answer {
        trace: tries.trace(),
        outcome,
    }
}

/// What a call comes to that was given up.
fn abandoned(certainty: Certainty) -> Failure {
    let code = ErrorCode::AegisUnavailable;
    Failure::new(code, Disposition::Retry(None), certainty).with_reason("abandoned")
}

/// What a call comes to whose task panicked.
const fn panicked() -> Failure {
    Failure::new(ErrorCode::Internal, Disposition::Fault, Certainty::Unknown)
}

/// Resolves at the alarm; never without one.
async fn ring(alarm: Option<&mut (Timestamp, Reached)>) {
    match alarm {
        Some((_, reached)) => reached.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::sync::{Notify, watch};
    use tokio::time::{Instant, sleep, timeout};
    use tokio_util::task::AbortOnDropHandle;

    use super::super::event::{CredentialRequest, LeaseRequest};
    use super::super::handle::Connection;
    use super::super::login::Login;
    use super::super::ports::{
        AuditRecord, BeginDeviceAuthorization, CreateLease, CreatedLease, DeviceAuthorization,
        DeviceExchange, HttpAnswer, Identity, OwnCalls, PortFuture, RedeemedLease, RevokeReason,
    };
    use super::super::state::{Resumed, Settings};
    use super::*;
    use crate::dpop::ProofKey;
    use crate::model::{
        Action, CleanText, Effect as PolicyEffect, Exposure, Gate, HolderClass, LeaseId, Material,
        MaterialKind, Origin, PopKeyId, Principal, ProofJti, Rule, Selector, SelectorPattern,
        Target, TenantId,
    };
    use crate::secret::SecretString;
    use crate::time::UnixTime;

    const START: Now = Now {
        boot: Timestamp::from_millis(1_000_000),
        unix: UnixTime::from_millis(1_795_341_600_000),
    };

    /// Of the proof of every call.
    const JTI: &str = "AAAAAAAAAAAAAAAAAAAAAA";

    /// An issuer that answers no call of one name, which then holds its session, until it may.
    #[derive(Debug)]
    struct Stalling {
        call: &'static str,
        stalled: mpsc::UnboundedSender<()>,
        revoked: mpsc::UnboundedSender<RevokeReason>,
        may_answer: Arc<Notify>,
    }

    impl Stalling {
        fn call<T: Send + 'static>(
            &self,
            name: &str,
            session: Arc<Session>,
            answer: impl FnOnce() -> T + Send + 'static,
        ) -> IssuerCall<T> {
            let stalls = self.call == name;
            let stalled = self.stalled.clone();
            let may_answer = Arc::clone(&self.may_answer);
            IssuerCall::new(|tries| async move {
                tries.sent(Some(ProofJti::parse(JTI).unwrap())).unwrap();
                if stalls {
                    stalled.send(()).unwrap();
                    may_answer.notified().await;
                }
                drop(session);
                Ok(answer())
            })
        }
    }

    impl AegisService for Stalling {
        fn begin_device_authorization(
            &self,
            _: BeginDeviceAuthorization,
        ) -> IssuerCall<DeviceAuthorization> {
            let stalled = self.stalled.clone();
            IssuerCall::new(|tries| async move {
                // It has no proof.
                tries.sent(None).unwrap();
                stalled.send(()).unwrap();
                std::future::pending().await
            })
        }

        fn exchange_device_authorization(
            &self,
            _: Arc<DeviceAuthorization>,
        ) -> IssuerCall<DeviceExchange> {
            IssuerCall::new(|_| std::future::pending())
        }

        fn create_lease(
            &self,
            session: Arc<Session>,
            request: CreateLease,
        ) -> IssuerCall<CreatedLease> {
            self.call("create", session, move || CreatedLease {
                lease_id: LeaseId::parse("lse_1").unwrap(),
                expires_at: START.boot.plus(request.ttl),
                expires_at_unix: START.unix.plus(request.ttl),
                max_redemptions: 1,
            })
        }

        fn redeem_lease(
            &self,
            session: Arc<Session>,
            _: LeaseId,
            _: Selector,
        ) -> IssuerCall<RedeemedLease> {
            self.call("redeem", session, || RedeemedLease {
                material: Material {
                    kind: MaterialKind::GenericSecret,
                    fields: Vec::new(),
                    expires_at: START.unix.plus(Duration::from_mins(5)),
                },
                expires_at: START.boot.plus(Duration::from_mins(5)),
                redemptions_used: 1,
            })
        }

        fn revoke_lease(
            &self,
            session: Arc<Session>,
            _: LeaseId,
            reason: RevokeReason,
        ) -> IssuerCall<()> {
            self.revoked.send(reason).unwrap();
            self.call("revoke", session, || ())
        }

        fn revoke_access(&self, session: Arc<Session>, _: RevokeReason) -> IssuerCall<()> {
            self.call("access", session, || ())
        }

        fn bootstrap_identity(&self, _: Arc<Session>) -> IssuerCall<Identity> {
            IssuerCall::new(|_| std::future::pending())
        }

        fn renew_identity(&self, _: Arc<Session>, _: Arc<Identity>) -> IssuerCall<Identity> {
            IssuerCall::new(|_| std::future::pending())
        }

        fn renew_session(&self, _: Arc<Session>, _: Arc<Identity>) -> IssuerCall<Session> {
            IssuerCall::new(|_| std::future::pending())
        }

        fn list_audit_events(&self, session: Arc<Session>) -> IssuerCall<IssuerEvents> {
            self.call("events", session, IssuerEvents::default)
        }

        fn drop_connections(&self) {}
    }

    /// A sender that never comes back.
    #[derive(Debug)]
    struct Silent;

    impl HttpSender for Silent {
        fn send(&self, _: HttpJob) -> PortFuture<Result<HttpAnswer, HttpFailure>> {
            Box::pin(std::future::pending())
        }

        fn drop_connections(&self) {}
    }

    /// A log that takes everything and keeps the words.
    #[derive(Debug, Clone, Default)]
    // Held for one record.
    struct Words(Arc<Mutex<Vec<String>>>);

    impl AuditLog for Words {
        fn stage(&mut self, record: &AuditRecord, _: Now) -> Result<(), AuditError> {
            let mut words = format!("{} {}", record.action.as_str(), record.outcome.as_str());
            if record.trace.proof_jti.is_some() {
                words.push_str(" with its proof");
            }
            self.0.lock().unwrap().push(words);
            Ok(())
        }

        fn write(&mut self) -> Result<(), AuditError> {
            Ok(())
        }

        fn verify(&self) -> PortFuture<Result<AuditReport, AuditError>> {
            Box::pin(std::future::pending())
        }

        fn calls(&self) -> PortFuture<Result<OwnCalls, AuditError>> {
            Box::pin(std::future::pending())
        }
    }

    /// tokio's clock, which the tests hold, and what the machine has slept, which it misses.
    #[derive(Debug, Clone)]
    struct Paused {
        start: Instant,
        slept: watch::Receiver<Duration>,
    }

    impl Clock for Paused {
        fn now(&self) -> Now {
            let since = self.start.elapsed() + *self.slept.borrow();
            Now {
                boot: START.boot.plus(since),
                unix: START.unix.plus(since),
            }
        }

        fn reach(&self, at: Timestamp) -> Reached {
            let mut clock = self.clone();
            Box::pin(async move {
                loop {
                    let left = clock.now().boot.until(at);
                    if left.is_zero() {
                        return;
                    }
                    tokio::select! {
                        () = sleep(left) => {}
                        Ok(()) = clock.slept.changed() => {}
                    }
                }
            })
        }
    }

    #[derive(Debug)]
    struct Living;

    impl PeerProcess for Living {
        fn is_alive(&self) -> bool {
            true
        }

        fn exited(&self) -> PortFuture<()> {
            Box::pin(std::future::pending())
        }
    }

    fn text(text: &str) -> CleanText {
        CleanText::new(text, 64)
    }

    fn target() -> Target {
        Target {
            selector: Selector::parse("gcp/billing-prod/deploy-bot").unwrap(),
            description: None,
            actions: Action::ALL.to_vec(),
            ttl: Duration::from_mins(5),
            decoy: false,
            inject: None,
        }
    }

    fn session() -> Arc<Session> {
        Arc::new(Session {
            principal: Principal::parse("user:u-demo").unwrap(),
            tenant: TenantId::parse("business-default").unwrap(),
            session_id: None,
            token: SecretString::copy_from("token"),
            key: Arc::new(ProofKey::generate().unwrap()),
            pop_key_id: PopKeyId::parse("pop-x").unwrap(),
            scopes: target().scopes().collect(),
            expires_at: START.boot.plus(Duration::from_mins(10)),
            expires_at_unix: START.unix.plus(Duration::from_mins(10)),
            renew_at: START.boot.plus(Duration::from_mins(5)),
            ends_at: START.boot.plus(Duration::from_hours(8)),
            bootstrap: None,
            binding_checked: true,
        })
    }

    /// A core that is logged in with that session.
    fn logged_in(session: Arc<Session>) -> State {
        let settings = Settings {
            profile: ProfileName::parse("work").unwrap(),
            tenant: TenantId::parse("business-default").unwrap(),
            client_display_name: text("test"),
            token_ttl: Duration::from_mins(10),
            renews: false,
            targets: vec![target()],
            audit_folder: std::path::PathBuf::new(),
            gate: Gate::default(),
            key_store: "memory",
        };
        let policy = Policy::new(vec![Rule {
            id: text("all"),
            effect: PolicyEffect::Allow,
            selectors: vec![SelectorPattern::parse("*/*/*").unwrap()],
            actions: Action::ALL.to_vec(),
            peers: Vec::new(),
            expose: Exposure::Reveal,
            max_ttl: None,
            on_leak: crate::model::OnLeak::Record,
        }]);
        let mut state = State::new(settings, policy, Resumed::default(), START);
        state.login = Login::LoggedIn(session);
        state
    }

    /// So many peers may be there at once.
    const CONNECTIONS: usize = 8;

    fn another(handle: &Handle) -> Connection {
        let facts = PeerFacts {
            process: ProcessId { pid: 1, started: 1 },
            exe: None,
            ancestors: Vec::new(),
            origin: Origin::default(),
        };
        handle.connect(facts, Arc::new(Living)).unwrap()
    }

    /// A core that is logged in, at an issuer that stalls on that call.
    struct Stalled {
        handle: Handle,
        connection: Connection,
        words: Words,
        held: Weak<Session>,
        stalls: mpsc::UnboundedReceiver<()>,
        revokes: mpsc::UnboundedReceiver<RevokeReason>,
        may_answer: Arc<Notify>,
        slept: watch::Sender<Duration>,
        _core: AbortOnDropHandle<()>,
    }

    impl Stalled {
        fn on(call: &'static str) -> Self {
            let session = session();
            let held = Arc::downgrade(&session);
            let words = Words::default();
            let may_answer = Arc::new(Notify::new());
            let (slept, sleeps) = watch::channel(Duration::ZERO);
            let (stalled, stalls) = mpsc::unbounded_channel();
            let (revoked, revokes) = mpsc::unbounded_channel();
            let (actor, handle) = Actor::new(
                Parts {
                    state: logged_in(session),
                    aegis: Arc::new(Stalling {
                        call,
                        stalled,
                        revoked,
                        may_answer: Arc::clone(&may_answer),
                    }),
                    http: Arc::new(Silent),
                    audit: Box::new(words.clone()),
                    clock: Arc::new(Paused {
                        start: Instant::now(),
                        slept: sleeps,
                    }),
                    shutdown: CancellationToken::new(),
                },
                CONNECTIONS,
            );
            let core = AbortOnDropHandle::new(tokio::spawn(actor.run()));
            Self {
                connection: another(&handle),
                handle,
                words,
                held,
                stalls,
                revokes,
                may_answer,
                slept,
                _core: core,
            }
        }
    }

    fn lease_request() -> LeaseRequest {
        LeaseRequest {
            selector: target().selector,
            ttl: None,
            max_redemptions: 1,
            reason: None,
            holder: HolderClass::None,
        }
    }

    /// LM: 1024 requests wait for the core, one more is told when to come back; and while it cannot
    /// take them, who goes can still say so.
    #[tokio::test(start_paused = true)]
    async fn a_request_too_many_for_the_core_is_told_so() {
        let core = Stalled::on("none");
        // All that may be there, so that no place for a goodbye is left over.
        let others: Vec<_> = (1..CONNECTIONS).map(|_| another(&core.handle)).collect();
        core.connection.status().await.unwrap();
        let mut waits = Vec::new();
        // The core does not run while this test does not wait.
        for number in 0..=QUEUE {
            let mut wait = Box::pin(core.connection.status());
            tokio::select! {
                biased;
                told = &mut wait => {
                    assert_eq!(number, QUEUE, "{told:?}");
                    let refusal = told.unwrap_err();
                    assert_eq!(refusal.code, ErrorCode::RateLimited);
                    assert!(refusal.retry_after.is_some());
                }
                () = std::future::ready(()) => waits.push(wait),
            }
        }
        assert_eq!(waits.len(), QUEUE);
        drop(others);
        for wait in waits {
            wait.await.unwrap();
        }
    }

    /// LC-8: a caller that dropped its wait, and kept its connection, will never learn the handle:
    /// the lease is given back when it comes.
    #[tokio::test(start_paused = true)]
    async fn a_lease_whose_caller_gave_up_is_given_back() {
        let mut core = Stalled::on("create");
        let wait = core.connection.lease_create(None, lease_request());
        tokio::select! {
            _ = wait => panic!("answered although the issuer stalls"),
            stalls = core.stalls.recv() => stalls.unwrap(),
        }
        core.may_answer.notify_one();
        // The clock is paused: a minute passes only where nothing is left to do.
        let given_back = timeout(Duration::from_mins(1), core.revokes.recv()).await;
        assert_eq!(given_back, Ok(Some(RevokeReason::Released)));
        let status = core.connection.status().await.unwrap();
        assert_eq!(status.live_leases, 0);
        assert!(core.revokes.try_recv().is_err(), "revoked twice");
    }

    /// AU-9: a login's first call that is given up leaves a record, although nothing of it has a name
    /// yet; nobody waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_beginning_that_is_given_up_has_its_record() {
        let mut core = Stalled::on("begin");
        core.connection.logout(None).await.unwrap();
        let begun = core.connection.login_begin(None);
        tokio::select! {
            _ = begun => panic!("answered although the issuer stalls"),
            stalls = core.stalls.recv() => stalls.unwrap(),
        }
        core.connection.login_cancel(None).await.unwrap();
        core.connection.status().await.unwrap();
        let records = core.words.0.lock().unwrap().clone();
        let ended = ["login denied", "login.begin error"];
        assert_eq!(records[records.len() - 2..], ended);
    }

    /// LC-2, HY-7: what ended while the machine slept is wiped when it wakes, whether or not anybody
    /// asks.
    #[tokio::test(start_paused = true)]
    async fn what_ended_during_suspend_is_wiped_on_waking() {
        let core = Stalled::on("none");
        let request = CredentialRequest {
            selector: target().selector,
            min_valid_for: Duration::ZERO,
            reason: None,
            holder: HolderClass::None,
        };
        let delivery = core.connection.credential(None, request).await.unwrap();
        let material = Arc::downgrade(&delivery.material);
        drop(delivery);
        core.slept.send(Duration::from_hours(2)).unwrap();
        // Nobody asks for anything: what is left to do is done before the clock moves.
        sleep(Duration::from_millis(1)).await;
        assert!(material.upgrade().is_none(), "material lives");
        assert!(core.held.upgrade().is_none(), "token and key live");
    }

    /// HY-7: whichever call is under way at logout, token and key are wiped three seconds later.
    /// AU-9: the call has its record, which names the proof that was sent. LC-7: what may be live
    /// is counted alike by logout and status. AU-2: before all of that stand the records that open
    /// the run.
    #[tokio::test(start_paused = true)]
    async fn a_call_under_way_keeps_the_session_for_three_seconds_at_most() {
        for (call, unconfirmed) in [("create", 1), ("redeem", 0), ("revoke", 1)] {
            let Stalled {
                connection,
                words,
                held,
                mut stalls,
                revokes: _revokes,
                _core: core,
                ..
            } = Stalled::on(call);
            let ended = if call == "revoke" {
                connection
                    .lease_create(None, lease_request())
                    .await
                    .unwrap();
                connection.logout(None).await.unwrap()
            } else {
                let request = CredentialRequest {
                    selector: target().selector,
                    min_valid_for: Duration::ZERO,
                    reason: None,
                    holder: HolderClass::None,
                };
                let logout = async {
                    stalls.recv().await.unwrap();
                    connection.logout(None).await.unwrap()
                };
                let (asked, ended) = tokio::join!(connection.credential(None, request), logout);
                assert!(asked.is_err(), "{call}");
                ended
            };
            assert_eq!(ended.revoked + ended.unconfirmed, 1, "{call}");
            assert_eq!(ended.unconfirmed, unconfirmed, "{call}");
            // One more answer of the core: what was stopped is over by then.
            task::yield_now().await;
            let status = connection.status().await.unwrap();
            assert_eq!(status.unconfirmed_revocations, unconfirmed, "{call}");
            assert!(held.upgrade().is_none(), "{call}: token and key live");
            let records = words.0.lock().unwrap().clone();
            let opening = ["start ok", "key_store.choice ok", "policy.load ok"];
            assert_eq!(records[..3], opening, "{call}");
            let given_up = format!("lease.{call} error with its proof");
            assert!(records.contains(&given_up), "{call}: {records:?}");
            drop(core);
        }
    }
}
