//! What the core needs from outside, as traits. The outside implements them and knows nothing
//! of who asked.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::dpop::ProofKey;
use crate::model::{
    Action, CleanText, ErrorCode, Exposure, Injection, LeaseId, Material, Outgoing, PeerFacts,
    PopKeyId, Principal, ProfileName, ProofJti, Refusal, RequestId, Scope, Selector, SessionId,
    TenantId,
};
use crate::secret::SecretString;
use crate::svid::{IdentityKey, Svid};
use crate::time::{Now, Timestamp, UnixTime};

/// Something on its way.
pub type PortFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// The longest that a call to the issuer takes, all its tries together (LM).
pub const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The Aegis service, as the core needs it. Every method makes its own calls, proofs, nonces,
/// retries and deadlines; none takes longer than [`CALL_LIMIT`]. Dropping a call's future gives
/// the call up.
pub trait AegisService: Send + Sync + fmt::Debug {
    /// Starts a device login (RFC 8628 §3.1) with a DPoP key made for it.
    fn begin_device_authorization(
        &self,
        request: BeginDeviceAuthorization,
    ) -> IssuerCall<DeviceAuthorization>;

    /// Asks once whether the person has decided (RFC 8628 §3.4). One poll; pace is the core's.
    fn exchange_device_authorization(
        &self,
        authorization: Arc<DeviceAuthorization>,
    ) -> IssuerCall<DeviceExchange>;

    /// Makes a lease. Repeated inside only under its idempotency key.
    fn create_lease(&self, session: Arc<Session>, request: CreateLease)
    -> IssuerCall<CreatedLease>;

    /// Turns a lease for that selector into material. Never repeated unless it certainly was not
    /// counted.
    fn redeem_lease(
        &self,
        session: Arc<Session>,
        lease_id: LeaseId,
        selector: Selector,
    ) -> IssuerCall<RedeemedLease>;

    /// Ends a lease. Idempotent.
    fn revoke_lease(
        &self,
        session: Arc<Session>,
        lease_id: LeaseId,
        reason: RevokeReason,
    ) -> IssuerCall<()>;

    /// Ends the whole session at the issuer: its tokens, its keys, the leases made with them
    /// (`RevokeBrokerAccess`). Idempotent.
    fn revoke_access(&self, session: Arc<Session>, reason: RevokeReason) -> IssuerCall<()>;

    /// The first SVID of a session, for its bootstrap token: challenge, request, certificate, which
    /// is believed only as `svid` says. All within [`CALL_LIMIT`].
    fn bootstrap_identity(&self, session: Arc<Session>) -> IssuerCall<Identity>;

    /// The next SVID of a session, by the one there is.
    fn renew_identity(&self, session: Arc<Session>, by: Arc<Identity>) -> IssuerCall<Identity>;

    /// The next token of a session, bound to a key made for it, by the session's SVID. Never for
    /// more than the session has.
    fn renew_session(&self, session: Arc<Session>, by: Arc<Identity>) -> IssuerCall<Session>;

    /// What the issuer has written down about this session's principal.
    fn list_audit_events(&self, session: Arc<Session>) -> IssuerCall<IssuerEvents>;

    /// Drops the HTTP client with its pooled connections and buffers, and the nonces (HY-7).
    fn drop_connections(&self);
}

/// A call to the issuer. Whoever awaits it gets its [`Answer`]; whoever may have to give it up
/// keeps `tries`, which say what was sent by then.
pub struct IssuerCall<T> {
    /// What it has sent so far.
    pub tries: Tries,
    /// What it comes to.
    pub outcome: PortFuture<Result<T, Failure>>,
}

impl<T> IssuerCall<T> {
    /// A call that notes its tries where it is told to.
    pub fn new<F>(call: impl FnOnce(Tries) -> F) -> Self
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let tries = Tries::default();
        Self {
            outcome: Box::pin(call(tries.clone())),
            tries,
        }
    }
}

impl<T: 'static> IntoFuture for IssuerCall<T> {
    type Output = Answer<T>;
    type IntoFuture = PortFuture<Answer<T>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let outcome = self.outcome.await;
            Answer {
                trace: self.tries.trace(),
                outcome,
            }
        })
    }
}

impl<T> fmt::Debug for IssuerCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerCall")
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}

/// The tries of a call while they are made. Clones share them, so that they outlive a call that
/// is given up.
#[derive(Debug, Clone, Default)]
pub struct Tries {
    /// A mutex of std: held for a few instructions, never across an await.
    made: Arc<Mutex<Made>>,
}

#[derive(Debug, Default)]
struct Made {
    trace: CallTrace,
    /// Whether there was one: some leave no name.
    any: bool,
    /// No more may follow.
    closed: bool,
}

/// The call was given up before this try was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp;

impl Tries {
    /// A try is about to be sent, with this proof.
    ///
    /// # Errors
    /// [`GivenUp`]: then it must not be.
    pub fn sent(&self, proof_jti: Option<ProofJti>) -> Result<(), GivenUp> {
        self.with(|made| {
            if made.closed {
                return Err(GivenUp);
            }
            made.any = true;
            made.trace.tried(Try {
                request_id: None,
                proof_jti,
            });
            Ok(())
        })
    }

    /// The last try was answered under this name.
    pub fn answered(&self, request_id: Option<RequestId>) {
        self.with(|made| made.trace.request_id = request_id);
    }

    /// The tries by now.
    pub fn trace(&self) -> CallTrace {
        self.with(|made| made.trace.clone())
    }

    /// The call is given up: no more tries are sent. Says whether any was.
    pub fn close(&self) -> Certainty {
        self.with(|made| {
            made.closed = true;
            if made.any {
                Certainty::Unknown
            } else {
                Certainty::NotDone
            }
        })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Made) -> R) -> R {
        act(&mut self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a call came to, with what the records need.
#[derive(Debug)]
pub struct Answer<T> {
    /// Of its HTTP tries.
    pub trace: CallTrace,
    /// The result.
    pub outcome: Result<T, Failure>,
}

/// How many tries of a call can come before its last one, and how many a record names at most,
/// whose line has a bound: three that failed in passing, one that brought a nonce, one whose proof
/// was refused. The road to Aegis makes no more (`aegis/tests.rs`).
pub const MAX_EARLIER_TRIES: usize = 5;

/// What ties a local record to the issuer's: every HTTP try of the call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallTrace {
    /// `X-Request-Id` of the last try's answer.
    pub request_id: Option<RequestId>,
    /// `jti` of the proof that the last try sent.
    pub proof_jti: Option<ProofJti>,
    /// The tries before it, the first one first; at most [`MAX_EARLIER_TRIES`], the newest ones.
    pub earlier: Vec<Try>,
}

/// One HTTP try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// `X-Request-Id` of its answer, where one came.
    pub request_id: Option<RequestId>,
    /// `jti` of the proof it sent.
    pub proof_jti: Option<ProofJti>,
}

impl CallTrace {
    /// Notes one more try as the last one; what was the last one becomes an earlier one.
    pub fn tried(&mut self, last: Try) {
        let before = Try {
            request_id: self.request_id.take(),
            proof_jti: self.proof_jti.take(),
        };
        if before.request_id.is_some() || before.proof_jti.is_some() {
            if self.earlier.len() >= MAX_EARLIER_TRIES {
                self.earlier.remove(0);
            }
            self.earlier.push(before);
        }
        self.request_id = last.request_id;
        self.proof_jti = last.proof_jti;
    }

    /// Notes the tries of a later call as well.
    pub fn followed_by(&mut self, later: &Self) {
        for earlier in &later.earlier {
            self.tried(earlier.clone());
        }
        if !later.is_empty() {
            self.tried(Try {
                request_id: later.request_id.clone(),
                proof_jti: later.proof_jti.clone(),
            });
        }
    }

    /// Its tries, the first one first.
    pub fn into_tries(self) -> Vec<Try> {
        let mut tries = self.earlier;
        if self.request_id.is_some() || self.proof_jti.is_some() {
            tries.push(Try {
                request_id: self.request_id,
                proof_jti: self.proof_jti,
            });
        }
        tries
    }

    /// Whether it names nothing: no try was sent, or only one that left no name anywhere.
    pub const fn is_empty(&self) -> bool {
        self.request_id.is_none() && self.proof_jti.is_none() && self.earlier.is_empty()
    }
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The public code.
    pub code: ErrorCode,
    /// What to do about it.
    pub disposition: Disposition,
    /// The contract's reason word, or one of ours.
    pub reason: Option<CleanText>,
    /// What happened, for a person, where the code's own message says too little: who was asked
    /// and what came of it. In our words: nothing of an answer's body is in it.
    pub message: Option<CleanText>,
    /// Whether the call may have had its effect at the issuer all the same.
    pub certainty: Certainty,
    /// The lease that it made, where the answer names one and is of no use otherwise: it is to be
    /// revoked (LC-8).
    pub made: Option<LeaseId>,
}

impl Failure {
    /// One that the issuer has not put into words.
    pub const fn new(code: ErrorCode, disposition: Disposition, certainty: Certainty) -> Self {
        Self {
            code,
            disposition,
            reason: None,
            message: None,
            certainty,
            made: None,
        }
    }

    /// The same with a word of ours as its reason.
    #[must_use]
    pub fn with_reason(self, word: &str) -> Self {
        Self {
            reason: Some(CleanText::new(word, 64)),
            ..self
        }
    }
}

/// What the core does about a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Carry on as before, not sooner than this (a poll's transport error, a throttle).
    Wait(Option<Duration>),
    /// May be tried again later; the call's own retries are used up.
    Retry(Option<Duration>),
    /// The session is over: log in again.
    Reauthenticate,
    /// The key may be compromised: drop key and session, tell the person.
    Compromised,
    /// Will not change by trying again.
    Terminal,
    /// The server broke its contract, or we did.
    Fault,
}

/// Whether a failed call may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The issuer said no, or it was never sent.
    NotDone,
    /// No complete answer came back.
    Unknown,
}

/// What a device login asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginDeviceAuthorization {
    /// The tenant to log in to.
    pub tenant: TenantId,
    /// Exactly the scopes of the profile's targets, never empty, at most 96.
    pub scopes: Vec<Scope>,
    /// Lifetime of the access token, 60 to 900 s.
    pub token_ttl: Duration,
    /// What the approval page calls us, at most 64 printable characters.
    pub client_display_name: CleanText,
    /// Whether the person need not come again for every token: where the profile has what that
    /// takes, a bootstrap token is asked for as well.
    pub renews: bool,
}

/// A device login under way (RFC 8628 §3.2), with the key its token will be bound to.
#[derive(Debug)]
pub struct DeviceAuthorization {
    /// What was asked for.
    pub request: BeginDeviceAuthorization,
    /// Never leaves the daemon (DG-9).
    pub device_code: SecretString,
    /// Shown to the person.
    pub user_code: CleanText,
    /// Shown to the person; checked to be https, or http on loopback where allowed.
    pub verification_uri: CleanText,
    /// A convenience; checked like the other.
    pub verification_uri_complete: Option<CleanText>,
    /// Pause between polls, at least 1 s; 5 s where the server named none.
    pub interval: Duration,
    /// When the code ends, counted from before the request was sent.
    pub expires_at: Timestamp,
    /// The same on the wall clock, for people.
    pub expires_at_unix: UnixTime,
    /// The DPoP key made for this login.
    pub key: Arc<ProofKey>,
    /// The name it is registered under.
    pub pop_key_id: PopKeyId,
}

/// What one poll said.
#[derive(Debug)]
pub enum DeviceExchange {
    /// Not decided, or decided and not ready; go on.
    Pending {
        /// A new interval, where the server named one.
        interval: Option<Duration>,
    },
    /// Polled too early: 5 s more for all later polls.
    SlowDown {
        /// At least this interval, where the server named one.
        interval: Option<Duration>,
    },
    /// The person said no. For good.
    AccessDenied,
    /// The code ran out. For good.
    ExpiredToken,
    /// Logged in.
    Success(Box<Session>),
}

/// A login that succeeded: token, key and what they are good for. Shared by the calls that are
/// under way; token and key are wiped when the last of them ends.
#[derive(Debug)]
pub struct Session {
    /// For whom the token speaks.
    pub principal: Principal,
    /// In which tenant.
    pub tenant: TenantId,
    /// The issuer's name for the session.
    pub session_id: Option<SessionId>,
    /// The access token. Sent in `Authorization` only (DP-17).
    pub token: SecretString,
    /// The key the token is bound to.
    pub key: Arc<ProofKey>,
    /// The name it is registered under.
    pub pop_key_id: PopKeyId,
    /// What was granted: never more than was asked for.
    pub scopes: Vec<Scope>,
    /// When the token ends, counted from before the request was sent.
    pub expires_at: Timestamp,
    /// The same on the wall clock, for people.
    pub expires_at_unix: UnixTime,
    /// At half of that life.
    pub renew_at: Timestamp,
    /// When no token can follow this one any more: the session's own end.
    pub ends_at: Timestamp,
    /// What the session's first SVID can be had for, within minutes of the login. It can do nothing
    /// else, and goes with this token.
    pub bootstrap: Option<SecretString>,
    /// Whether the server confirmed the binding to our key; `false` only where the profile
    /// allows a server that sends no `token_info`.
    pub binding_checked: bool,
}

impl Session {
    /// Whether this exact scope was granted.
    pub fn grants(&self, scope: &Scope) -> bool {
        self.scopes.contains(scope)
    }
}

/// What the issuer knows this host by: an SVID of a session, with its key. The key is wiped when the
/// last holder goes.
#[derive(Debug)]
pub struct Identity {
    /// Its key.
    pub key: IdentityKey,
    /// The certificates.
    pub svid: Svid,
    /// When it ends.
    pub expires_at: Timestamp,
    /// At half of its life.
    pub renew_at: Timestamp,
}

/// A lease to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateLease {
    /// For what.
    pub selector: Selector,
    /// 30 to 3600 s.
    pub ttl: Duration,
    /// 1 to 10.
    pub max_redemptions: u32,
    /// The caller's stated reason, at most 200 printable characters.
    pub purpose: Option<CleanText>,
}

/// A lease as the issuer made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedLease {
    /// Its name.
    pub lease_id: LeaseId,
    /// When it ends, counted from before the request was sent.
    pub expires_at: Timestamp,
    /// The same on the wall clock.
    pub expires_at_unix: UnixTime,
    /// How often it can be redeemed.
    pub max_redemptions: u32,
}

/// What one redemption yielded.
#[derive(Debug)]
pub struct RedeemedLease {
    /// The credential.
    pub material: Material,
    /// When it ends, counted from before the request was sent: the earlier of lease and material.
    pub expires_at: Timestamp,
    /// Redemptions used, as the issuer counts.
    pub redemptions_used: u32,
}

/// Why a lease is revoked, in the contract's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevokeReason {
    /// The daemon stops, or nobody needs it any more.
    Released,
    /// Its holder is gone.
    HolderExited,
    /// The person logged out.
    Logout,
    /// The person locked the broker.
    Locked,
    /// A caller asked for it.
    UserRequest,
    /// An answer was lost, or an earlier run left it open.
    DeliveryUncertain,
}

impl RevokeReason {
    /// The word on the wire and in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::HolderExited => "holder_exited",
            Self::Logout => "logout",
            Self::Locked => "locked",
            Self::UserRequest => "user_request",
            Self::DeliveryUncertain => "delivery_uncertain",
        }
    }
}

/// The chained audit log.
pub trait AuditLog: Send + fmt::Debug {
    /// Adds one record to the batch that the next [`write`](Self::write) hands to the kernel.
    ///
    /// # Errors
    /// [`AuditError`] when the record was not taken, or an earlier one could not be synced: then
    /// nothing may be delivered. What the batch holds already stays in it.
    fn stage(&mut self, record: &AuditRecord, now: Now) -> Result<(), AuditError>;

    /// Hands the batch to the kernel before it returns; sync to disk follows behind (AU-1). With
    /// an empty batch it says whether the log stands.
    ///
    /// # Errors
    /// [`AuditError`] when it was not written: the whole batch is gone then, and nothing that it
    /// records may be delivered. With an empty batch, when the last write or sync failed and the
    /// log takes nothing yet: then no lease may be asked for either.
    fn write(&mut self) -> Result<(), AuditError>;

    /// A batch of one.
    ///
    /// # Errors
    /// As [`stage`](Self::stage) and [`write`](Self::write).
    fn append(&mut self, record: &AuditRecord, now: Now) -> Result<(), AuditError> {
        self.stage(record, now)?;
        self.write()
    }

    /// Checks the whole log, with the keys this process holds.
    fn verify(&self) -> PortFuture<Result<AuditReport, AuditError>>;

    /// The calls to the issuer that the log has, over all its segments.
    fn calls(&self) -> PortFuture<Result<OwnCalls, AuditError>>;
}

/// The calls to the issuer that the log has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnCalls {
    /// They, the oldest first; the newest [`MAX_OWN_CALLS`].
    pub calls: Vec<OwnCall>,
    /// Whether these are all.
    pub complete: bool,
    /// The log does not verify, so that it proves nothing.
    pub damaged: bool,
}

/// How many calls of a log are looked at when it is compared with the issuer's record: months of
/// a busy host, in some tens of MiB while it is done.
pub const MAX_OWN_CALLS: usize = 100_000;

/// One call, as far as it matters to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCall {
    /// When its record was written.
    pub at: UnixTime,
    /// What it was.
    pub action: AuditAction,
    /// Whether the issuer did it.
    pub done: bool,
    /// As whom.
    pub principal: Option<Principal>,
    /// In which session.
    pub session_id: Option<SessionId>,
    /// Every HTTP try of it.
    pub tries: Vec<Try>,
}

impl OwnCall {
    /// The call that a record is about, if it is about one.
    pub fn of(record: &AuditRecord, at: UnixTime) -> Option<Self> {
        let tries = record.trace.clone().into_tries();
        if tries.is_empty() {
            return None;
        }
        Some(Self {
            at,
            action: record.action,
            done: record.outcome == AuditOutcome::Ok,
            principal: record.principal.clone(),
            session_id: record.session_id.clone(),
            tries,
        })
    }
}

/// What the issuer has written down, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IssuerEvents {
    /// In their order.
    pub events: Vec<IssuerEvent>,
    /// Whether these are all that it shows to us.
    pub complete: bool,
}

/// One event of the issuer's audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerEvent {
    /// Its number in the tenant.
    pub seq: u64,
    /// When, by the issuer's clock.
    pub at: UnixTime,
    /// What, in the issuer's words.
    pub action: CleanText,
    /// `ok`, `denied` or `error`.
    pub outcome: CleanText,
    /// In which session.
    pub session_id: Option<SessionId>,
    /// Which lease.
    pub lease_id: Option<LeaseId>,
    /// For what.
    pub target: Option<CleanText>,
    /// Why.
    pub reason: Option<CleanText>,
    /// Under which name it was answered.
    pub request_id: Option<RequestId>,
    /// By which proof it was asked for.
    pub proof_jti: Option<ProofJti>,
}

/// A lease that an earlier run made and did not see end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenLease {
    /// Its name.
    pub lease_id: LeaseId,
    /// What it was for, where the record says.
    pub selector: Option<Selector>,
    /// Whose it was, where the record says.
    pub principal: Option<Principal>,
    /// When it runs out.
    pub expires_at: UnixTime,
}

/// The audit log failed. The cause is logged where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log failed")]
pub struct AuditError;

/// What a check of the audit log found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// Records that were read.
    pub records: u64,
    /// Of these, records whose MAC was checked with a key we hold.
    pub keyed: u64,
    /// The first thing wrong, if anything is.
    pub damage: Option<AuditDamage>,
    /// A torn last line of a crash was found and is not counted as damage (AU-5).
    pub torn_tail: bool,
}

/// Where an audit log stops being what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditDamage {
    /// In which file.
    pub file: PathBuf,
    /// At which line, from 1.
    pub line: u64,
    /// What is wrong, from a closed set of sentences.
    pub what: &'static str,
}

/// One thing that happened. No secret, no token, no code, no free text of callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// What.
    pub action: AuditAction,
    /// How it went.
    pub outcome: AuditOutcome,
    /// In which profile.
    pub profile: Option<ProfileName>,
    /// Who asked.
    pub peer: Option<Arc<PeerFacts>>,
    /// For what.
    pub selector: Option<Selector>,
    /// Which lease.
    pub lease_id: Option<LeaseId>,
    /// When that lease ends: an open lease past it needs no revocation after a crash.
    pub lease_expires_at: Option<UnixTime>,
    /// How far material was let out, or would have been.
    pub exposure: Option<Exposure>,
    /// What the policy was asked to allow, where this is its decision; empty elsewhere.
    pub actions: Cow<'static, [Action]>,
    /// Which policy rule decided; `default` where none did.
    pub rule: Option<CleanText>,
    /// A code or reason word.
    pub reason: Option<CleanText>,
    /// As whom, at the issuer.
    pub principal: Option<Principal>,
    /// In which session of the issuer.
    pub session_id: Option<SessionId>,
    /// The call behind it.
    pub trace: CallTrace,
}

impl AuditRecord {
    /// A record that says just what and how.
    pub fn new(action: AuditAction, outcome: AuditOutcome) -> Self {
        Self {
            action,
            outcome,
            profile: None,
            peer: None,
            selector: None,
            lease_id: None,
            lease_expires_at: None,
            exposure: None,
            actions: Cow::Borrowed(&[]),
            rule: None,
            reason: None,
            principal: None,
            session_id: None,
            trace: CallTrace::default(),
        }
    }
}

/// What the log tells apart (AU-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditAction {
    /// The daemon is up.
    Start,
    /// The daemon stops.
    Stop,
    /// A policy was loaded.
    PolicyLoad,
    /// Where long-lived secrets go was decided.
    KeyStoreChoice,
    /// A device login began.
    LoginBegin,
    /// A device login ended, one way or another.
    Login,
    /// The person logged out.
    Logout,
    /// The person locked the broker.
    Lock,
    /// A token followed another one without the person, or did not.
    SessionRenew,
    /// An SVID came, or did not.
    IdentityRenew,
    /// The issuer was asked to end a session, and did or did not.
    SessionEnd,
    /// A lease was made, or not.
    LeaseCreate,
    /// A lease was redeemed, or not.
    LeaseRedeem,
    /// Credential material went to a peer.
    Deliver,
    /// A lease was ended, or an attempt failed.
    LeaseRevoke,
    /// A request with a credential in it was sent.
    HttpRequest,
    /// What came of it.
    HttpResponse,
    /// A value of a lease was seen in what passed through the broker.
    Leak,
    /// A request was refused without a call of its own.
    Deny,
    /// Somebody asked for a decoy: nobody does by the way, so this one is to be looked at.
    Decoy,
    /// A caller was denied too often, and is refused everything for a while.
    CallerPause,
    /// This log was compared with the issuer's, or the issuer would not show its own.
    Reconcile,
}

impl AuditAction {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Start,
        Self::Stop,
        Self::PolicyLoad,
        Self::KeyStoreChoice,
        Self::LoginBegin,
        Self::Login,
        Self::Logout,
        Self::Lock,
        Self::SessionRenew,
        Self::IdentityRenew,
        Self::SessionEnd,
        Self::LeaseCreate,
        Self::LeaseRedeem,
        Self::Deliver,
        Self::LeaseRevoke,
        Self::HttpRequest,
        Self::HttpResponse,
        Self::Leak,
        Self::Deny,
        Self::Decoy,
        Self::CallerPause,
        Self::Reconcile,
    ];

    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::PolicyLoad => "policy.load",
            Self::KeyStoreChoice => "key_store.choice",
            Self::LoginBegin => "login.begin",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Lock => "lock",
            Self::SessionRenew => "session.renew",
            Self::IdentityRenew => "identity.renew",
            Self::SessionEnd => "session.end",
            Self::LeaseCreate => "lease.create",
            Self::LeaseRedeem => "lease.redeem",
            Self::Deliver => "deliver",
            Self::LeaseRevoke => "lease.revoke",
            Self::HttpRequest => "http.request",
            Self::HttpResponse => "http.response",
            Self::Leak => "leak",
            Self::Deny => "deny",
            Self::Decoy => "decoy",
            Self::CallerPause => "caller.pause",
            Self::Reconcile => "audit.reconcile",
        }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditOutcome {
    /// Done.
    Ok,
    /// Refused, by us or by the issuer.
    Denied,
    /// Failed.
    Error,
}

impl AuditOutcome {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }
}

/// Sends requests that carry a credential, each to the host it names and no further: no redirect is
/// followed, no proxy asked, and only a checked address is dialled (OA-17). None takes longer than
/// 30 s. Dropping a request's future gives it up.
pub trait HttpSender: Send + Sync + fmt::Debug {
    /// Puts the credential in and sends the request. What comes back is bounded and holds none of
    /// the known values.
    fn send(&self, job: HttpJob) -> PortFuture<Result<HttpAnswer, HttpFailure>>;

    /// Drops the HTTP client with its pooled connections and buffers (HY-7).
    fn drop_connections(&self);
}

/// One request to send.
#[derive(Debug)]
pub struct HttpJob {
    /// How the credential is put in; the request was checked against it.
    pub injection: Arc<Injection>,
    /// The request.
    pub outgoing: Arc<Outgoing>,
    /// The credential.
    pub material: Arc<Material>,
    /// Whatever must not be in the answer: all live and replaced values, the credential's included.
    pub known: Vec<Arc<Material>>,
    /// The time that a signature names.
    pub at: UnixTime,
}

/// What a host answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status (RFC 9110 §15).
    pub status: u16,
    /// The headers that are passed on, names in lower case.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The body, or its beginning.
    pub body: Vec<u8>,
    /// Whether the body is not all there.
    pub truncated: bool,
    /// Whether anything was masked.
    pub masked: bool,
    /// Whose values were found, by their places among the known ones.
    pub leaked: Vec<usize>,
}

impl HttpAnswer {
    /// Whether the host did not take the credential, or does not let it do this.
    pub const fn is_refusal(&self) -> bool {
        matches!(self.status, 401 | 403)
    }
}

/// Why there is no answer. Nothing that the host said is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpFailure {
    /// The audit record could not be written, so nothing was sent.
    NotRecorded,
    /// The credential does not have the field that the table names, or it fits into no header.
    Material,
    /// The host's name leads nowhere.
    NoAddress,
    /// It leads to an address that is not of the public network.
    AddressRefused,
    /// Nobody answers there, or not with a certificate for that name.
    Unreachable,
    /// No complete answer came in time.
    Timeout,
    /// What came was no answer.
    Protocol,
    /// It was given up: the person locked or logged out, or the daemon stops.
    GivenUp,
    /// A mistake of ours.
    Internal,
}

impl HttpFailure {
    /// The word in records, and the finer word of the refusal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRecorded => "not_recorded",
            Self::Material => "material_unfit",
            Self::NoAddress => "no_address",
            Self::AddressRefused => "address_refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::GivenUp => "given_up",
            Self::Internal => "internal",
        }
    }

    /// How the caller is told.
    pub fn refusal(self) -> Refusal {
        let (code, message, fix) = match self {
            Self::NotRecorded => return ErrorCode::AuditUnavailable.into(),
            Self::Internal => return ErrorCode::Internal.into(),
            Self::Material => (
                ErrorCode::ConfigInvalid,
                "the credential does not have what the inject table names",
                "the person corrects the target's inject table",
            ),
            Self::NoAddress => (
                ErrorCode::TargetUnavailable,
                "the host's name has no address",
                "check the network",
            ),
            Self::AddressRefused => (
                ErrorCode::TargetUnavailable,
                "the host's name leads to an address that is not of the public network",
                "tell the person: the name service answers what it should not",
            ),
            Self::Unreachable => (
                ErrorCode::TargetUnavailable,
                "the host cannot be reached, or does not prove to be it",
                "check the network, then try again",
            ),
            Self::Timeout => (
                ErrorCode::TargetUnavailable,
                "the host did not answer within 30 s; it may have done what was asked",
                "find out what was done before trying again",
            ),
            Self::Protocol => (
                ErrorCode::TargetUnavailable,
                "the host broke off, or did not answer in HTTP; it may have done what was asked",
                "find out what was done before trying again",
            ),
            Self::GivenUp => (
                ErrorCode::Locked,
                "the session ended meanwhile; the host may have done what was asked",
                "find out what was done before trying again",
            ),
        };
        Refusal::new(code)
            .with_reason(self.as_str())
            .with_message(message)
            .with_fix(fix)
    }
}

/// A local process that can be watched.
pub trait PeerProcess: Send + Sync + fmt::Debug {
    /// Whether it still runs.
    fn is_alive(&self) -> bool;

    /// Resolves when it has exited.
    fn exited(&self) -> PortFuture<()>;
}

/// Where long-lived secrets rest. Short-lived ones never go there (HY-10). Called from a thread
/// that may block.
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// Which one it is, for `status`: `memory`.
    fn kind(&self) -> &'static str;

    /// Reads a secret; `None` when there is none of that name.
    ///
    /// # Errors
    /// [`KeyStoreError`].
    fn load(&self, name: &str) -> Result<Option<SecretString>, KeyStoreError>;

    /// Writes a secret, replacing one of that name.
    ///
    /// # Errors
    /// [`KeyStoreError`].
    fn store(&self, name: &str, secret: SecretString) -> Result<(), KeyStoreError>;

    /// Whether what is stored outlives this process.
    fn is_persistent(&self) -> bool;
}

/// The key store failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key store failed")]
pub struct KeyStoreError;
