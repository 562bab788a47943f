//! What the doors hold. Every method sends one request to the core and waits for its answer;
//! dropping the future drops the wait, never the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::actor::Message;
use crate::model::{
    CleanText, ErrorCode, Exposure, LeaseId, LeaseView, LoginView, PeerFacts, ProfileName, Refusal,
    Selector,
};

pub use super::decisions::MAX_DECISIONS;
pub use super::event::{
    ConnectionId, CredentialRequest, DecisionView, EndedView, HttpRequest, LeaseRequest,
    LostSession, OfferView, PolicyView, SessionEnd, Standing, StatusView, TargetView, VerdictView,
};
pub use super::leases::Delivery;
pub use super::policy::Needs;
pub use super::ports::{
    AuditAction, AuditDamage, AuditReport, HttpAnswer, IssuerEvent, OwnCall, PeerProcess,
    PortFuture, Try,
};
pub use super::reconcile::Reconciliation;

use super::event::{Door, Reply, Request};
use super::policy::Policy;

/// When the core's queue is full, a caller is told to come back after this long.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A way to the core, for as many doors as want one.
#[derive(Debug, Clone)]
pub struct Handle {
    messages: mpsc::Sender<Message>,
    next_connection: Arc<AtomicU64>,
    needs: Arc<SharedNeeds>,
}

/// What the policy in force looks at. The doors read it for every peer that comes.
#[derive(Debug, Default)]
struct SharedNeeds {
    cgroup: AtomicBool,
    exe_hash: AtomicBool,
}

impl SharedNeeds {
    fn set(&self, needs: Needs) {
        self.cgroup.store(needs.cgroup, Ordering::Relaxed);
        self.exe_hash.store(needs.exe_hash, Ordering::Relaxed);
    }
}

impl Handle {
    pub(super) fn new(messages: mpsc::Sender<Message>, needs: Needs) -> Self {
        let handle = Self {
            messages,
            next_connection: Arc::new(AtomicU64::new(1)),
            needs: Arc::default(),
        };
        handle.needs.set(needs);
        handle
    }

    /// What the policy looks at in a peer beside what is always known.
    pub fn needs(&self) -> Needs {
        Needs {
            cgroup: self.needs.cgroup.load(Ordering::Relaxed),
            exe_hash: self.needs.exe_hash.load(Ordering::Relaxed),
        }
    }

    /// Introduces a peer whose uid was checked. The core forgets it when the result is dropped.
    ///
    /// # Errors
    /// `rate_limited` when the core's queue is full, `shutting_down` when it is gone.
    pub fn connect(
        &self,
        peer: PeerFacts,
        process: Arc<dyn PeerProcess>,
    ) -> Result<Connection, Refusal> {
        self.open(peer, process, Door::Programs)
    }

    /// Introduces the process of a model's client, whose uid was checked. What is decided about
    /// its requests is kept for it while it is connected (AU-10).
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_model(
        &self,
        peer: PeerFacts,
        process: Arc<dyn PeerProcess>,
    ) -> Result<ModelConnection, Refusal> {
        self.open(peer, process, Door::Models)
            .map(|connection| ModelConnection { connection })
    }

    fn open(
        &self,
        peer: PeerFacts,
        process: Arc<dyn PeerProcess>,
        door: Door,
    ) -> Result<Connection, Refusal> {
        let id = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        // The place for the goodbye is taken now, so that it cannot be refused later.
        let goodbye = self
            .messages
            .clone()
            .try_reserve_owned()
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => ErrorCode::ShuttingDown.into(),
            })?;
        self.send(Message::Connect {
            connection: id,
            peer: Arc::new(peer),
            process,
            door,
        })?;
        Ok(Connection {
            id,
            handle: self.clone(),
            goodbye: Some(goodbye),
        })
    }

    /// Puts a new policy in force. Peers that are connected already are known as they were when they
    /// came: a rule that asks for more does not fit them.
    ///
    /// # Errors
    /// `rate_limited` when the core's queue is full, `shutting_down` when it is gone.
    pub fn replace_policy(&self, policy: Policy) -> Result<(), Refusal> {
        let needs = policy.needs();
        self.send(Message::ReplacePolicy { policy })?;
        self.needs.set(needs);
        Ok(())
    }

    /// Tells of a policy that was read and is not a valid one: the old one stays in force, and the
    /// audit log says so (PO-7, AU-2).
    ///
    /// # Errors
    /// As [`replace_policy`](Self::replace_policy).
    pub fn policy_refused(&self) -> Result<(), Refusal> {
        self.send(Message::PolicyRefused)
    }

    fn send(&self, message: Message) -> Result<(), Refusal> {
        self.messages
            .try_send(message)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => ErrorCode::ShuttingDown.into(),
            })
    }
}

/// One peer's connection to the core. Waits that are under way when it is dropped are over.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    handle: Handle,
    goodbye: Option<mpsc::OwnedPermit<Message>>,
}

impl Connection {
    /// How everything stands.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn status(&self) -> Result<StatusView, Refusal> {
        let Reply::Status(view) = self.ask(None, Request::Status).await? else {
            return Err(mismatch());
        };
        Ok(*view)
    }

    /// Starts the device login or joins the one that runs; answers when there is a code to show,
    /// or at once when somebody is logged in.
    ///
    /// # Errors
    /// `profile_unknown`, `aegis_unavailable`, `aegis_protocol`, `aegis_denied`, `rate_limited`,
    /// `shutting_down`, `audit_unavailable`.
    pub async fn login_begin(&self, profile: Option<ProfileName>) -> Result<LoginView, Refusal> {
        self.login(profile, Request::LoginBegin).await
    }

    /// Waits until the login that runs has ended; answers at once when none runs.
    ///
    /// # Errors
    /// As [`login_begin`](Self::login_begin), and `access_denied`, `expired_token`,
    /// `login_cancelled`, `principal_changed`, `login_required` when nobody is logging in.
    pub async fn login_wait(&self, profile: Option<ProfileName>) -> Result<LoginView, Refusal> {
        self.login(profile, Request::LoginWait).await
    }

    /// Ends the login that runs, for everybody who waits for it.
    ///
    /// # Errors
    /// `profile_unknown`, `rate_limited`, `shutting_down`.
    pub async fn login_cancel(&self, profile: Option<ProfileName>) -> Result<LoginView, Refusal> {
        self.login(profile, Request::LoginCancel).await
    }

    async fn login(
        &self,
        profile: Option<ProfileName>,
        request: Request,
    ) -> Result<LoginView, Refusal> {
        let Reply::Login(view) = self.ask(profile, request).await? else {
            return Err(mismatch());
        };
        Ok(*view)
    }

    /// Ends the session: nothing is served from the moment of the call; answers when the issuer
    /// has confirmed the revocations, or after 3 s.
    ///
    /// # Errors
    /// `profile_unknown`, `rate_limited`, `shutting_down`.
    pub async fn logout(&self, profile: Option<ProfileName>) -> Result<EndedView, Refusal> {
        self.end(profile, Request::Logout).await
    }

    /// Like [`logout`](Self::logout), and nothing is served until the person logs in again.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn lock(&self) -> Result<EndedView, Refusal> {
        self.end(None, Request::Lock).await
    }

    async fn end(
        &self,
        profile: Option<ProfileName>,
        request: Request,
    ) -> Result<EndedView, Refusal> {
        let Reply::Ended(view) = self.ask(profile, request).await? else {
            return Err(mismatch());
        };
        Ok(view)
    }

    /// The catalogue.
    ///
    /// # Errors
    /// `profile_unknown`, `rate_limited`, `shutting_down`.
    pub async fn targets(&self, profile: Option<ProfileName>) -> Result<Vec<TargetView>, Refusal> {
        let Reply::Targets(targets) = self.ask(profile, Request::TargetList).await? else {
            return Err(mismatch());
        };
        Ok(targets)
    }

    /// Credential material for a selector: from memory while it stays valid long enough, else
    /// from a new lease that equal callers share.
    ///
    /// # Errors
    /// Every code of a lease's life; see docs/socket-protocol.md.
    pub async fn credential(
        &self,
        profile: Option<ProfileName>,
        request: CredentialRequest,
    ) -> Result<Delivery, Refusal> {
        let Reply::Delivered(delivery) = self.ask(profile, Request::Credential(request)).await?
        else {
            return Err(mismatch());
        };
        Ok(delivery)
    }

    /// Sends a request with a credential in it, and answers with what the host said.
    ///
    /// # Errors
    /// What [`credential`](Self::credential) can say; `policy_denied` where the table of the target
    /// does not fit, `target_unavailable`, `config_invalid`.
    pub async fn http_request(
        &self,
        profile: Option<ProfileName>,
        request: HttpRequest,
    ) -> Result<HttpAnswer, Refusal> {
        let Reply::Http(answer) = self.ask(profile, Request::Http(request)).await? else {
            return Err(mismatch());
        };
        Ok(*answer)
    }

    /// Makes a lease.
    ///
    /// # Errors
    /// Every code of a lease's life; see docs/socket-protocol.md.
    pub async fn lease_create(
        &self,
        profile: Option<ProfileName>,
        request: LeaseRequest,
    ) -> Result<LeaseView, Refusal> {
        let Reply::Lease(view) = self.ask(profile, Request::LeaseCreate(request)).await? else {
            return Err(mismatch());
        };
        Ok(*view)
    }

    /// Redeems a lease once.
    ///
    /// # Errors
    /// `lease_not_found`, `lease_expired`, `lease_revoked`, `lease_exhausted`, and what
    /// [`credential`](Self::credential) can say.
    pub async fn lease_redeem(&self, lease_id: LeaseId) -> Result<Delivery, Refusal> {
        self.lease_redeem_for(lease_id, Exposure::Reveal).await
    }

    /// The same for a caller that lets the material out no further than that, by its own word:
    /// `exec` or `reveal`.
    ///
    /// # Errors
    /// As [`lease_redeem`](Self::lease_redeem).
    pub async fn lease_redeem_for(
        &self,
        lease_id: LeaseId,
        exposure: Exposure,
    ) -> Result<Delivery, Refusal> {
        let request = Request::LeaseRedeem { lease_id, exposure };
        let Reply::Delivered(delivery) = self.ask(None, request).await? else {
            return Err(mismatch());
        };
        Ok(delivery)
    }

    /// Ends a lease; answers when the issuer has confirmed it, or with state `revoking` when it
    /// did not within the call's own limits.
    ///
    /// # Errors
    /// `lease_not_found`, `scope_not_granted`, `rate_limited`, `shutting_down`.
    pub async fn lease_revoke(&self, lease_id: LeaseId) -> Result<LeaseView, Refusal> {
        let Reply::Lease(view) = self.ask(None, Request::LeaseRevoke { lease_id }).await? else {
            return Err(mismatch());
        };
        Ok(*view)
    }

    /// The leases of this run, newest first; ended ones are listed for a while.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn leases(&self) -> Result<Vec<LeaseView>, Refusal> {
        let Reply::Leases(leases) = self.ask(None, Request::LeaseList).await? else {
            return Err(mismatch());
        };
        Ok(leases)
    }

    /// Compares the audit log with the issuer's record of the principal that is logged in.
    ///
    /// # Errors
    /// `login_required`, `locked`, `audit_damaged`, `audit_unavailable`, what Aegis says,
    /// `rate_limited`, `shutting_down`.
    pub async fn audit_reconcile(&self) -> Result<Reconciliation, Refusal> {
        let Reply::Reconciled(found) = self.ask(None, Request::AuditReconcile).await? else {
            return Err(mismatch());
        };
        Ok(*found)
    }

    /// Checks the audit log with the keys this daemon holds.
    ///
    /// # Errors
    /// `audit_unavailable` when it cannot be read, `rate_limited`, `shutting_down`.
    pub async fn audit_verify(&self) -> Result<AuditReport, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.handle.send(Message::VerifyAudit { reply })?;
        answer.await.unwrap_or(Err(ErrorCode::ShuttingDown.into()))
    }

    async fn ask(&self, profile: Option<ProfileName>, request: Request) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.handle.send(Message::Request {
            connection: self.id,
            profile,
            request,
            reply,
        })?;
        answer.await.unwrap_or(Err(ErrorCode::ShuttingDown.into()))
    }
}

/// A model's connection to the core: what a model may ask, and nothing that answers with
/// material or shows what other processes did. It ends what they hold in one way only, with the
/// session ([`Self::logout`]).
#[derive(Debug)]
pub struct ModelConnection {
    connection: Connection,
}

impl ModelConnection {
    /// How everything stands.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn status(&self) -> Result<StatusView, Refusal> {
        self.connection.status().await
    }

    /// As [`Connection::login_begin`].
    ///
    /// # Errors
    /// The same.
    pub async fn login_begin(&self) -> Result<LoginView, Refusal> {
        self.connection.login_begin(None).await
    }

    /// As [`Connection::login_wait`].
    ///
    /// # Errors
    /// The same.
    pub async fn login_wait(&self) -> Result<LoginView, Refusal> {
        self.connection.login_wait(None).await
    }

    /// Ends the login with that code if this process started it and nobody else joined it; else
    /// it, or the one that runs by now, goes on without this process.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn login_withdraw(&self, user_code: CleanText) -> Result<LoginView, Refusal> {
        let request = Request::LoginWithdraw { user_code };
        self.connection.login(None, request).await
    }

    /// As [`Connection::logout`].
    ///
    /// # Errors
    /// The same.
    pub async fn logout(&self) -> Result<EndedView, Refusal> {
        self.connection.logout(None).await
    }

    /// What this process may at least ask for.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn offers(&self) -> Result<Vec<OfferView>, Refusal> {
        let Reply::Offers(offers) = self.connection.ask(None, Request::OfferList).await? else {
            return Err(mismatch());
        };
        Ok(offers)
    }

    /// How this process would be judged for that selector. Nothing is recorded.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn explain(&self, selector: Selector) -> Result<PolicyView, Refusal> {
        let request = Request::PolicyExplain { selector };
        let Reply::Explained(view) = self.connection.ask(None, request).await? else {
            return Err(mismatch());
        };
        Ok(*view)
    }

    /// As [`Connection::http_request`].
    ///
    /// # Errors
    /// The same.
    pub async fn http_request(&self, request: HttpRequest) -> Result<HttpAnswer, Refusal> {
        self.connection.http_request(None, request).await
    }

    /// Makes a lease.
    ///
    /// # Errors
    /// As [`Connection::lease_create`].
    pub async fn lease_create(&self, request: LeaseRequest) -> Result<LeaseView, Refusal> {
        self.connection.lease_create(None, request).await
    }

    /// Ends a lease that this process created.
    ///
    /// # Errors
    /// As [`Connection::lease_revoke`]; `lease_not_found` for everybody else's too.
    pub async fn lease_revoke(&self, lease_id: LeaseId) -> Result<LeaseView, Refusal> {
        let request = Request::OwnLeaseRevoke { lease_id };
        let Reply::Lease(view) = self.connection.ask(None, request).await? else {
            return Err(mismatch());
        };
        Ok(*view)
    }

    /// The leases that this process created, newest first; ended ones are listed for a while.
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn leases(&self) -> Result<Vec<LeaseView>, Refusal> {
        let Reply::Leases(leases) = self.connection.ask(None, Request::OwnLeaseList).await? else {
            return Err(mismatch());
        };
        Ok(leases)
    }

    /// What was decided about this process's requests lately, newest first, at most
    /// [`MAX_DECISIONS`].
    ///
    /// # Errors
    /// `rate_limited`, `shutting_down`.
    pub async fn decisions(&self) -> Result<Vec<DecisionView>, Refusal> {
        let Reply::Decisions(decisions) = self.connection.ask(None, Request::DecisionList).await?
        else {
            return Err(mismatch());
        };
        Ok(decisions)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(goodbye) = self.goodbye.take() {
            drop(goodbye.send(Message::Disconnect {
                connection: self.id,
            }));
        }
    }
}

fn full() -> Refusal {
    Refusal {
        retry_after: Some(FULL_RETRY_AFTER),
        ..Refusal::new(ErrorCode::RateLimited)
    }
}

/// The core answered another question: a mistake of ours, told without its content.
fn mismatch() -> Refusal {
    ErrorCode::Internal.into()
}
