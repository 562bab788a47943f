use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::ports::{
    AegisService, BeginDeviceAuthorization, Certainty, CreateLease, CreatedLease,
    DeviceAuthorization, DeviceExchange, Disposition, Failure, HttpAnswer, HttpFailure, HttpJob,
    HttpSender, Identity, IssuerCall, IssuerEvents, PortFuture, RedeemedLease, RevokeReason,
    Session,
};
use crate::model::{ErrorCode, LeaseId, Selector};

/// A call keeps its own limit of 30 s. Should a server keep even the timer from being seen, the
/// core stops waiting here.
const GIVE_UP_AFTER: Duration = Duration::from_secs(35);

/// What follows a call that got lost: whoever asked may try again.
const AGAIN: Disposition = Disposition::Retry(None);

/// The Aegis service, or what sends requests to other hosts, on a thread of its own, so that a server that keeps the HTTP client busy
/// keeps nobody waiting but the callers it was asked for. Measured: endless interim responses
/// held the core's thread for up to 31 s when both shared it.
#[derive(Debug)]
pub(super) struct Outside<S> {
    service: Arc<S>,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    /// Detached when dropped: a hostile server must not keep the daemon from ending.
    _thread: JoinHandle<()>,
}

impl<S: Send + Sync + 'static> Outside<S> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn start(service: S) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("outside".to_owned())
            .spawn(move || {
                // Asked to stop, or whoever could ask is gone.
                drop(runtime.block_on(stopped));
                runtime.shutdown_background();
            })?;
        Ok(Self {
            service: Arc::new(service),
            runtime: handle,
            stop: Some(stop),
            _thread: thread,
        })
    }

    /// Runs a call over there and waits for it here; `lost` is what follows when it does not end.
    fn over_there<T: Send + 'static>(
        &self,
        lost: Disposition,
        call: IssuerCall<T>,
    ) -> IssuerCall<T> {
        let outcome = AbortOnDropHandle::new(self.runtime.spawn(call.outcome));
        IssuerCall {
            tries: call.tries,
            outcome: Box::pin(async move {
                match tokio::time::timeout(GIVE_UP_AFTER, outcome).await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_panic)) => {
                        Err(failed(ErrorCode::Internal, Disposition::Fault, "panic"))
                    }
                    Err(_elapsed) => Err(failed(ErrorCode::AegisUnavailable, lost, "timeout")),
                }
            }),
        }
    }
}

impl<S> Drop for Outside<S> {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

impl<S: AegisService + 'static> AegisService for Outside<S> {
    fn begin_device_authorization(
        &self,
        request: BeginDeviceAuthorization,
    ) -> IssuerCall<DeviceAuthorization> {
        self.over_there(AGAIN, self.service.begin_device_authorization(request))
    }

    fn exchange_device_authorization(
        &self,
        authorization: Arc<DeviceAuthorization>,
    ) -> IssuerCall<DeviceExchange> {
        // A poll that got lost is followed by another one.
        let call = self.service.exchange_device_authorization(authorization);
        self.over_there(Disposition::Wait(None), call)
    }

    fn create_lease(
        &self,
        session: Arc<Session>,
        request: CreateLease,
    ) -> IssuerCall<CreatedLease> {
        self.over_there(AGAIN, self.service.create_lease(session, request))
    }

    fn redeem_lease(
        &self,
        session: Arc<Session>,
        lease_id: LeaseId,
        selector: Selector,
    ) -> IssuerCall<RedeemedLease> {
        self.over_there(
            AGAIN,
            self.service.redeem_lease(session, lease_id, selector),
        )
    }

    fn revoke_lease(
        &self,
        session: Arc<Session>,
        lease_id: LeaseId,
        reason: RevokeReason,
    ) -> IssuerCall<()> {
        self.over_there(AGAIN, self.service.revoke_lease(session, lease_id, reason))
    }

    fn revoke_access(&self, session: Arc<Session>, reason: RevokeReason) -> IssuerCall<()> {
        self.over_there(AGAIN, self.service.revoke_access(session, reason))
    }

    fn bootstrap_identity(&self, session: Arc<Session>) -> IssuerCall<Identity> {
        self.over_there(AGAIN, self.service.bootstrap_identity(session))
    }

    fn renew_identity(&self, session: Arc<Session>, by: Arc<Identity>) -> IssuerCall<Identity> {
        self.over_there(AGAIN, self.service.renew_identity(session, by))
    }

    fn renew_session(&self, session: Arc<Session>, by: Arc<Identity>) -> IssuerCall<Session> {
        self.over_there(AGAIN, self.service.renew_session(session, by))
    }

    fn list_audit_events(&self, session: Arc<Session>) -> IssuerCall<IssuerEvents> {
        self.over_there(AGAIN, self.service.list_audit_events(session))
    }

    fn drop_connections(&self) {
        self.service.drop_connections();
    }
}

impl<S: HttpSender + 'static> HttpSender for Outside<S> {
    fn send(&self, job: HttpJob) -> PortFuture<Result<HttpAnswer, HttpFailure>> {
        let outcome = AbortOnDropHandle::new(self.runtime.spawn(self.service.send(job)));
        Box::pin(async move {
            match tokio::time::timeout(GIVE_UP_AFTER, outcome).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_panic)) => Err(HttpFailure::Internal),
                Err(_elapsed) => Err(HttpFailure::Timeout),
            }
        })
    }

    fn drop_connections(&self) {
        self.service.drop_connections();
    }
}

/// Nobody knows how far the call got.
fn failed(code: ErrorCode, disposition: Disposition, reason: &str) -> Failure {
    Failure::new(code, disposition, Certainty::Unknown).with_reason(reason)
}
