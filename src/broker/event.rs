//! Everything that can happen to the core, and what a door can ask and be told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::leases::{Delivery, LeaseKey};
use super::login::Generation;
use super::policy::Policy;
use super::ports::{
    Answer, CreatedLease, DeviceAuthorization, DeviceExchange, HttpAnswer, HttpFailure, Identity,
    IssuerEvents, RedeemedLease, RevokeReason, Session,
};
use super::reconcile::{ReadCalls, Reconciliation};
use super::uses::Use;
use crate::model::{
    Action, CleanText, Effect, Exposure, HolderClass, LeaseId, LeaseView, LoginView, Outgoing,
    PeerFacts, Principal, ProcessId, ProfileName, Selector,
};
use crate::time::UnixTime;

/// One thing that happened. Past tense: it cannot be refused any more, only answered.
#[derive(Debug)]
pub enum Event {
    /// A peer connected.
    ConnectionOpened {
        /// Its name from now on.
        connection: ConnectionId,
        /// What the kernel says about it.
        peer: Arc<PeerFacts>,
        /// Through which door.
        door: Door,
    },
    /// A connection ended; its waits are over.
    ConnectionClosed {
        /// Which one.
        connection: ConnectionId,
    },
    /// A watched process exited.
    ProcessExited {
        /// Which one.
        process: ProcessId,
    },
    /// A peer asked for something.
    Requested {
        /// Where the answer goes.
        ticket: Ticket,
        /// On which connection.
        connection: ConnectionId,
        /// In which profile; the configured one where it named none.
        profile: Option<ProfileName>,
        /// What.
        request: Request,
    },
    /// The device login's first call came back.
    DeviceAuthorizationAnswered {
        /// Which login it belongs to.
        generation: Generation,
        /// With what.
        answer: Answer<DeviceAuthorization>,
    },
    /// A poll came back.
    DeviceExchangeAnswered {
        /// Which login it belongs to.
        generation: Generation,
        /// With what.
        answer: Answer<DeviceExchange>,
    },
    /// `CreateCredentialLease` came back.
    LeaseCreateAnswered {
        /// Which lease of ours.
        lease: LeaseKey,
        /// Which login it belongs to.
        generation: Generation,
        /// With what.
        answer: Answer<CreatedLease>,
    },
    /// `RedeemCredentialLease` came back.
    LeaseRedeemAnswered {
        /// Which lease of ours; one that has ended meanwhile drops the material.
        lease: LeaseKey,
        /// Which login it belongs to.
        generation: Generation,
        /// With what.
        answer: Answer<RedeemedLease>,
    },
    /// `RevokeCredentialLease` came back.
    LeaseRevokeAnswered {
        /// Which lease at the issuer.
        lease_id: LeaseId,
        /// Which login's session was used; `None` where that was over already.
        generation: Option<Generation>,
        /// Why it was asked for.
        reason: RevokeReason,
        /// With what.
        answer: Answer<()>,
    },
    /// `RevokeBrokerAccess` came back.
    AccessRevokeAnswered {
        /// With what.
        answer: Answer<()>,
    },
    /// The calls for an SVID came back.
    IdentityAnswered {
        /// Which login it belongs to.
        generation: Generation,
        /// With what.
        answer: Answer<Identity>,
    },
    /// The call for a session's next token came back.
    SessionRenewed {
        /// Which login it belongs to.
        generation: Generation,
        /// With what.
        answer: Answer<Session>,
    },
    /// `ListBrokerAuditEvents` came back.
    AuditEventsListed {
        /// Who waits.
        ticket: Ticket,
        /// Which login's session was used.
        generation: Generation,
        /// Whose events these are.
        principal: Principal,
        /// With what.
        answer: Answer<IssuerEvents>,
    },
    /// Our own record of calls was read.
    OwnCallsRead(Box<ReadCalls>),
    /// A lease was made and nobody was told of it: its record could not be written, or its caller
    /// had dropped the wait.
    LeaseUndelivered {
        /// Which.
        lease_id: LeaseId,
    },
    /// A request that carried a credential came back.
    HttpAnswered {
        /// Which.
        usage: Arc<Use>,
        /// With what.
        outcome: Result<HttpAnswer, HttpFailure>,
    },
    /// The calls that [`Effect::AbandonCalls`] is about have come back.
    ///
    /// [`Effect::AbandonCalls`]: super::effect::Effect::AbandonCalls
    CallsAbandoned,
    /// A new policy was read.
    PolicyReplaced {
        /// It.
        policy: Policy,
    },
    /// A policy was read again and is not a valid one: the old one stays (PO-7).
    PolicyRefused,
    /// A deadline that the state named may have passed.
    TimerFired,
    /// The daemon stops.
    ShutdownRequested,
}

/// Which kind of peer a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `broker.sock`: programs and commands.
    Programs,
    /// `mcp.sock`: models, whose recent decisions are kept for them.
    Models,
}

/// Names a connection, never reused within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Names one waiting caller, never reused within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a door can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How everything stands.
    Status,
    /// Start the device login, or join the one that runs.
    LoginBegin,
    /// Wait until the device login that runs has ended.
    LoginWait,
    /// End the device login that runs, for everybody.
    LoginCancel,
    /// End the device login that runs if this peer started it and nobody joined it.
    LoginWithdraw {
        /// The code that the caller was shown: an old one ends nothing.
        user_code: CleanText,
    },
    /// End the session: revoke, wipe.
    Logout,
    /// Like logout, and serve nothing until the person logs in again.
    Lock,
    /// The catalogue.
    TargetList,
    /// What of the catalogue this peer may at least ask for.
    OfferList,
    /// How this peer would be judged.
    PolicyExplain {
        /// For what.
        selector: Selector,
    },
    /// What was decided about this peer's process lately.
    DecisionList,
    /// Credential material, from memory or from a new lease.
    Credential(CredentialRequest),
    /// A request that the broker sends with a credential in it.
    Http(HttpRequest),
    /// A lease, without redeeming it.
    LeaseCreate(LeaseRequest),
    /// The material of a lease.
    LeaseRedeem {
        /// Which.
        lease_id: LeaseId,
        /// How far the caller says that it lets it out: what it does with it nobody enforces (AP-4).
        exposure: Exposure,
    },
    /// The end of a lease.
    LeaseRevoke {
        /// Which.
        lease_id: LeaseId,
    },
    /// The end of a lease that this peer's process created.
    OwnLeaseRevoke {
        /// Which.
        lease_id: LeaseId,
    },
    /// Compare the log with the issuer's record.
    AuditReconcile,
    /// The leases of this run.
    LeaseList,
    /// Those of them that this peer's process created.
    OwnLeaseList,
}

impl Request {
    /// Whether it makes, redeems or ends a lease: then a no has its record (AU-2).
    pub(super) const fn is_about_a_lease(&self) -> bool {
        let (actions, _exposure) = self.takes();
        !actions.is_empty()
    }

    /// What it takes of the policy, and how far material would travel.
    pub(super) const fn takes(&self) -> (&'static [Action], Exposure) {
        match self {
            Self::Credential(_) => (&[Action::Create, Action::Redeem], Exposure::Reveal),
            Self::Http(_) => (&[Action::Create, Action::Redeem], Exposure::Use),
            Self::LeaseCreate(_) => (&[Action::Create], Exposure::Use),
            Self::LeaseRedeem { exposure, .. } => (&[Action::Redeem], *exposure),
            Self::LeaseRevoke { .. } | Self::OwnLeaseRevoke { .. } => {
                (&[Action::Revoke], Exposure::Use)
            }
            Self::Status
            | Self::LoginBegin
            | Self::LoginWait
            | Self::LoginCancel
            | Self::LoginWithdraw { .. }
            | Self::Logout
            | Self::Lock
            | Self::TargetList
            | Self::OfferList
            | Self::PolicyExplain { .. }
            | Self::DecisionList
            | Self::AuditReconcile
            | Self::LeaseList
            | Self::OwnLeaseList => (&[], Exposure::Use),
        }
    }

    /// Whether it ends a lease, which nobody is kept from.
    const fn ends_a_lease(&self) -> bool {
        matches!(self, Self::LeaseRevoke { .. } | Self::OwnLeaseRevoke { .. })
    }

    /// Whether a caller that is paused is refused it.
    pub(super) const fn may_be_paused(&self) -> bool {
        self.is_about_a_lease() && !self.ends_a_lease()
    }

    /// For what a credential or a lease is asked.
    pub(super) const fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Credential(request) => Some(&request.selector),
            Self::Http(request) => Some(&request.selector),
            Self::LeaseCreate(request) => Some(&request.selector),
            Self::Status
            | Self::LoginBegin
            | Self::LoginWait
            | Self::LoginCancel
            | Self::LoginWithdraw { .. }
            | Self::Logout
            | Self::Lock
            | Self::TargetList
            | Self::OfferList
            | Self::PolicyExplain { .. }
            | Self::DecisionList
            | Self::AuditReconcile
            | Self::LeaseRedeem { .. }
            | Self::LeaseRevoke { .. }
            | Self::OwnLeaseRevoke { .. }
            | Self::LeaseList
            | Self::OwnLeaseList => None,
        }
    }
}

/// The parameters of `credential.get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRequest {
    /// For what.
    pub selector: Selector,
    /// How long it must still be valid.
    pub min_valid_for: Duration,
    /// The caller's claim why, at most 200 printable characters.
    pub reason: Option<CleanText>,
    /// What the lease dies with.
    pub holder: HolderClass,
}

/// The parameters of `http.request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// With which credential.
    pub selector: Selector,
    /// What is sent.
    pub outgoing: Arc<Outgoing>,
    /// The caller's claim why, at most 200 printable characters.
    pub reason: Option<CleanText>,
    /// What the lease dies with.
    pub holder: HolderClass,
}

/// The parameters of `lease.create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// For what.
    pub selector: Selector,
    /// How long, 30 s to 1 h; the target's own lifetime where not said. Cut, never exceeded, by
    /// policy and by the token's end.
    pub ttl: Option<Duration>,
    /// How often it can be redeemed, 1 to 10.
    pub max_redemptions: u32,
    /// The caller's claim why, at most 200 printable characters.
    pub reason: Option<CleanText>,
    /// What the lease dies with.
    pub holder: HolderClass,
}

/// What a door is told.
#[derive(Debug)]
pub enum Reply {
    /// To `Status`.
    Status(Box<StatusView>),
    /// To the login requests.
    Login(Box<LoginView>),
    /// To `Logout` and `Lock`.
    Ended(EndedView),
    /// To `TargetList`.
    Targets(Vec<TargetView>),
    /// To `OfferList`.
    Offers(Vec<OfferView>),
    /// To `PolicyExplain`.
    Explained(Box<PolicyView>),
    /// To `DecisionList`.
    Decisions(Vec<DecisionView>),
    /// To `Credential` and `LeaseRedeem`: the one reply that carries material.
    Delivered(Delivery),
    /// To `Http`: what the host said, without any value that the broker holds.
    Http(Box<HttpAnswer>),
    /// To `LeaseCreate` and `LeaseRevoke`.
    Lease(Box<LeaseView>),
    /// To `LeaseList`.
    Leases(Vec<LeaseView>),
    /// To `AuditReconcile`.
    Reconciled(Box<Reconciliation>),
}

/// How everything stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusView {
    /// The login of the configured profile.
    pub login: LoginView,
    /// Leases that are live.
    pub live_leases: usize,
    /// Leases that may be live at the issuer though nobody here has them: ended here and not
    /// confirmed, or made by a call whose answer was of no use.
    pub unconfirmed_revocations: usize,
    /// Targets whose leases can only run out, for want of a revoke action.
    pub irrevocable_targets: usize,
    /// Connections open now.
    pub connections: usize,
    /// Where long-lived secrets rest.
    pub key_store: &'static str,
    /// Where the audit log is written. A path: for the person's own programs, not for a model.
    pub audit_folder: PathBuf,
    /// How many rules the policy has.
    pub policy_rules: usize,
    /// What follows the token there is: `svid` where the next one comes by itself, `login` where the
    /// person has to log in.
    pub renewal: &'static str,
    /// Why the last session ended that nobody here ended, until the next login.
    pub lost: Option<LostSession>,
}

/// A session that the issuer ended, or whose key it has reason to doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostSession {
    /// The issuer's reason, or `key_suspect`.
    pub reason: CleanText,
    /// When.
    pub at: UnixTime,
}

/// What ending a session came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedView {
    /// Leases the issuer confirmed as revoked.
    pub revoked: usize,
    /// Leases that may be live there still: tried again at the next login where they have a name,
    /// else they run out. As many as `status` shows right after it.
    pub unconfirmed: usize,
    /// What the issuer says of the session itself.
    pub session: SessionEnd,
}

/// How a session ended at the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// There was none to end.
    NoSession,
    /// The issuer has confirmed that token and key are worth nothing any more.
    Confirmed,
    /// It has not: they are wiped here, and end there by themselves.
    Unconfirmed,
}

impl SessionEnd {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NoSession, Self::Confirmed, Self::Unconfirmed];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSession => "none",
            Self::Confirmed => "confirmed",
            Self::Unconfirmed => "unconfirmed",
        }
    }

    /// What the word stands for.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.as_str() == text)
    }
}

/// One entry of the catalogue, for the peer that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// What it is.
    pub selector: Selector,
    /// What it is for.
    pub description: Option<CleanText>,
    /// What the login asks for.
    pub actions: Vec<Action>,
    /// Whether the current session holds all of these.
    pub granted: bool,
}

/// One entry of the catalogue that the peer may at least ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferView {
    /// What it is for.
    pub description: Option<CleanText>,
    /// How the peer would be judged.
    pub policy: PolicyView,
}

/// How a peer would be judged for a selector, and what else it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyView {
    /// The selector.
    pub selector: Selector,
    /// Whether the catalogue has it.
    pub listed: bool,
    /// Making a lease, which lets nothing out.
    pub create: VerdictView,
    /// Redeeming it, which hands material to the peer.
    pub redeem: VerdictView,
    /// Ending it.
    pub revoke: VerdictView,
    /// The most that redeeming may let out to the peer; `None` when nothing.
    pub exposure: Option<Exposure>,
    /// What making a lease meets besides.
    pub standing: Standing,
}

/// What stands between a peer and a lease besides the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The person's lock: nothing is served until they log in again.
    Locked,
    /// There is no session.
    LoggedOut,
    /// There is one, without the action create.
    NotGranted,
    /// Nothing.
    Granted,
}

/// What the policy says to one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictView {
    /// It.
    pub effect: Effect,
    /// The rule that says so; `default` where none matched, `catalogue` for what is not listed.
    pub rule: CleanText,
    /// The longest lease it lets through.
    pub max_ttl: Option<Duration>,
}

/// One decision about a peer's own request, in the audit log's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionView {
    /// When.
    pub at: UnixTime,
    /// What it was about.
    pub action: &'static str,
    /// How it went: `ok`, `denied` or `error`.
    pub outcome: &'static str,
    /// For what.
    pub selector: Option<Selector>,
    /// Which lease.
    pub lease_id: Option<LeaseId>,
    /// The rule that decided.
    pub rule: Option<CleanText>,
    /// A code or reason word.
    pub reason: Option<CleanText>,
}
