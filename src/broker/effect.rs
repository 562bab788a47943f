//! Everything the core can want done. The actor carries effects out in order.

use std::sync::Arc;

use super::event::{Reply, Ticket};
use super::leases::LeaseKey;
use super::login::Generation;
use super::ports::{
    AuditRecord, BeginDeviceAuthorization, CreateLease, DeviceAuthorization, HttpJob, Identity,
    IssuerEvents, RevokeReason, Session,
};
use super::uses::Use;
use crate::model::{LeaseId, Principal, ProcessId, Refusal, Selector};

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Write a record. When that fails, what follows in the same batch and would let a secret
    /// out or make one is not done: its caller hears `audit_unavailable`.
    Audit(Box<AuditRecord>),
    /// Answer a caller.
    Reply {
        /// Which.
        ticket: Ticket,
        /// With what.
        answer: Result<Reply, Refusal>,
    },
    /// Start a device login.
    BeginDeviceAuthorization {
        /// Comes back with the answer.
        generation: Generation,
        /// What to ask for.
        request: BeginDeviceAuthorization,
    },
    /// Poll once.
    ExchangeDeviceAuthorization {
        /// Comes back with the answer.
        generation: Generation,
        /// The login.
        authorization: Arc<DeviceAuthorization>,
    },
    /// Make a lease.
    CreateLease {
        /// Comes back with the answer.
        lease: LeaseKey,
        /// Comes back with the answer.
        generation: Generation,
        /// With this token and key.
        session: Arc<Session>,
        /// What.
        request: CreateLease,
    },
    /// Redeem a lease.
    RedeemLease {
        /// Comes back with the answer.
        lease: LeaseKey,
        /// Comes back with the answer.
        generation: Generation,
        /// With this token and key.
        session: Arc<Session>,
        /// Which.
        lease_id: LeaseId,
        /// What it is for.
        selector: Selector,
    },
    /// Revoke a lease.
    RevokeLease {
        /// Comes back with the answer: the login whose session it is, while that lasts.
        generation: Option<Generation>,
        /// With this token and key.
        session: Arc<Session>,
        /// Which.
        lease_id: LeaseId,
        /// Why.
        reason: RevokeReason,
    },
    /// End a session at the issuer.
    RevokeAccess {
        /// With this token and key.
        session: Arc<Session>,
        /// Why.
        reason: RevokeReason,
    },
    /// Ask for the issuer's record of what was done as us.
    ListAuditEvents {
        /// Who waits.
        ticket: Ticket,
        /// Comes back with the answer.
        generation: Generation,
        /// With this token and key.
        session: Arc<Session>,
    },
    /// Read our own record of calls, to compare it with the issuer's.
    ReadOwnCalls {
        /// Who waits.
        ticket: Ticket,
        /// Whose events were listed.
        principal: Principal,
        /// They.
        listed: Box<IssuerEvents>,
    },
    /// Get a session's first SVID.
    BootstrapIdentity {
        /// Comes back with the answer.
        generation: Generation,
        /// With its bootstrap token and key.
        session: Arc<Session>,
    },
    /// Get its next SVID.
    RenewIdentity {
        /// Comes back with the answer.
        generation: Generation,
        /// Of which.
        session: Arc<Session>,
        /// By this one.
        identity: Arc<Identity>,
    },
    /// Get its next token.
    RenewSession {
        /// Comes back with the answer.
        generation: Generation,
        /// Of which.
        session: Arc<Session>,
        /// By this SVID.
        identity: Arc<Identity>,
    },
    /// Send a request with a credential in it. Not done where its record could not be written.
    SendHttp {
        /// Comes back with the answer.
        usage: Arc<Use>,
        /// What.
        job: HttpJob,
    },
    /// Tell when this process exits.
    WatchProcess {
        /// Which.
        process: ProcessId,
    },
    /// Stop the login's calls that are under way: each comes back as failed, with what it had sent.
    AbandonLogin,
    /// Stop the calls of every session but this one: each comes back as failed, with what it had
    /// sent, and what it held of token and key is wiped (HY-7). Then comes
    /// [`Event::CallsAbandoned`](super::event::Event::CallsAbandoned).
    AbandonCalls {
        /// The session of today, if there is one.
        keep: Option<Arc<Session>>,
    },
    /// Drop the HTTP clients, their pools and the nonces, and give up requests under way that
    /// carry a credential: each comes back as failed.
    DropConnections,
    /// Everything is wiped and revoked, as far as it could be: stop.
    Stop {
        /// Leases that can be live at the issuer still, for want of its word.
        unconfirmed: usize,
    },
}
