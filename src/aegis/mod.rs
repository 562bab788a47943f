//! Outside: the Aegis service over Connect (`aegis.md`).
//!
//! [`AegisClient`] implements the core's port. It promises that a call ends within 30 s, that
//! every HTTP try has its own proof, that nothing but the base URL is ever contacted, and that
//! whatever a server answers becomes a value or a classified failure. It never follows a
//! redirect, never logs a body or a URL, and keeps no token: tokens and keys are the session's.
//!
//! Read `transport` (the single road), then `device`, `leases`, `access`, `events`, `spiffe` and `material` (what is asked and what
//! is believed), then `error` (what is made of a no).

mod error;

mod error_info;

mod wire;

mod network;

mod transport;

mod device;

mod leases;

mod access;

mod events;

mod spiffe;

mod certificate;

mod material;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod spiffe_tests;

use std::sync::Arc;
use std::time::Duration;

use url::Url;

pub use error::{
    AegisError, ConnectCode, During, NetworkFault, ProtocolFault, Reason, Rejection, TokenFault,
};

use crate::broker::ports::{
    AegisService, BeginDeviceAuthorization, Certainty, CreateLease, CreatedLease,
    DeviceAuthorization, DeviceExchange, Failure, Identity, IssuerCall, IssuerEvents,
    RedeemedLease, RevokeReason, Session, Tries,
};
use crate::model::{LeaseId, Selector};
use crate::svid::Bundle;
use crate::time::Clock;

pub use network::Network;

use transport::{Call, Reply, Transport};

/// Where Aegis is, and what of it may be missing. From a checked configuration.
#[derive(Debug, Clone)]
pub struct AegisSettings {
    /// https, or http on a literal loopback address where that is allowed; without user, query
    /// and fragment. The methods are paths below it.
    pub base_url: Url,
    /// Whether plain http to a literal loopback address is fine: the bundled server.
    pub allow_insecure_loopback: bool,
    /// Whether a server that sends no `token_info` is believed to have bound the token
    /// (`aegis.md` 17.6).
    pub allow_missing_token_info: bool,
    /// How it is reached.
    pub network: Network,
    /// What it takes to keep a login alive without the person; `None` where that is not wanted, or
    /// no authorities are known by which an SVID could be believed.
    pub renewing: Option<Renewing>,
}

/// What it takes to keep a login alive without the person.
#[derive(Debug, Clone)]
pub struct Renewing {
    /// Whose SVIDs are believed.
    pub bundle: Bundle,
    /// Where a client certificate is taken: https, without user, query and fragment.
    pub mtls_url: Url,
    /// What this host is called in its SPIFFE id: one segment of it.
    pub workload_name: String,
    /// Lifetime of the tokens that are asked for, 60 to 900 s.
    pub token_ttl: Duration,
}

/// The settings name no place that may be called. Never quotes the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Plain http, or another scheme.
    #[error(
        "base_url must be https, or http on a literal loopback address with allow_insecure_loopback"
    )]
    Insecure,
    /// User info, a query, a fragment, no host, or too long.
    #[error("base_url must be a host and a path, without user, query and fragment")]
    Shape,
    /// No place for a client certificate.
    #[error("mtls_url must be https, without user, query and fragment")]
    Mtls,
    /// No certificate of an authority.
    #[error("ca_file must hold certificates in PEM form, at least one")]
    Authorities,
    /// No proxy, or no credentials for one.
    #[error("proxy must be an http or https address, and proxy_auth_file one line user:password")]
    Proxy,
}

/// The Aegis service of one profile.
///
/// Holds at most one HTTP client, built at the first call, and the newest nonce; both go with
/// [`drop_connections`](AegisService::drop_connections). Cloning it is cheap and shares them.
#[derive(Debug, Clone)]
pub struct AegisClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: AegisSettings,
    transport: Transport,
}

impl AegisClient {
    /// A client for the place that `settings` name. Does no I/O and spawns nothing.
    ///
    /// # Errors
    /// [`SettingsError`] where the base URL may not be called.
    pub fn new(settings: AegisSettings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        if let Some(renewing) = &settings.renewing {
            check_mtls(&renewing.mtls_url)?;
        }
        let transport = Transport::new(&settings, clock)?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                transport,
            }),
        })
    }
}

impl AegisService for AegisClient {
    fn begin_device_authorization(
        &self,
        request: BeginDeviceAuthorization,
    ) -> IssuerCall<DeviceAuthorization> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(|tries| async move { device::begin(&inner, request, &tries).await })
    }

    fn exchange_device_authorization(
        &self,
        authorization: Arc<DeviceAuthorization>,
    ) -> IssuerCall<DeviceExchange> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(
            |tries| async move { device::exchange(&inner, &authorization, &tries).await },
        )
    }

    fn create_lease(
        &self,
        session: Arc<Session>,
        request: CreateLease,
    ) -> IssuerCall<CreatedLease> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(
            |tries| async move { leases::create(&inner, &session, &request, &tries).await },
        )
    }

    fn redeem_lease(
        &self,
        session: Arc<Session>,
        lease_id: LeaseId,
        selector: Selector,
    ) -> IssuerCall<RedeemedLease> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(|tries| async move {
            leases::redeem(&inner, &session, &lease_id, &selector, &tries).await
        })
    }

    fn revoke_lease(
        &self,
        session: Arc<Session>,
        lease_id: LeaseId,
        reason: RevokeReason,
    ) -> IssuerCall<()> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(|tries| async move {
            leases::revoke(&inner, &session, &lease_id, reason, &tries).await
        })
    }

    fn revoke_access(&self, session: Arc<Session>, reason: RevokeReason) -> IssuerCall<()> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(
            |tries| async move { access::revoke(&inner, &session, reason, &tries).await },
        )
    }

    fn bootstrap_identity(&self, session: Arc<Session>) -> IssuerCall<Identity> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(|tries| async move { spiffe::bootstrap(&inner, &session, &tries).await })
    }

    fn renew_identity(&self, session: Arc<Session>, by: Arc<Identity>) -> IssuerCall<Identity> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(|tries| async move {
            spiffe::renew_identity(&inner, &session, &by, &tries).await
        })
    }

    fn renew_session(&self, session: Arc<Session>, by: Arc<Identity>) -> IssuerCall<Session> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(|tries| async move {
            spiffe::renew_session(&inner, &session, &by, &tries).await
        })
    }

    fn list_audit_events(&self, session: Arc<Session>) -> IssuerCall<IssuerEvents> {
        let inner = Arc::clone(&self.inner);
        IssuerCall::new(|tries| async move { events::list(&inner, &session, &tries).await })
    }

    fn drop_connections(&self) {
        self.inner.transport.drop_connections();
    }
}

impl Inner {
    /// Makes a call and reads its reply.
    async fn ask<T>(
        &self,
        call: Call<'_>,
        tries: &Tries,
        read: impl FnMut(&Reply) -> Result<T, AegisError>,
    ) -> Result<T, Failure> {
        let during = call.rpc.during();
        let answer = self.transport.call(call, tries, read).await;
        answer.map_err(|failed| self.failure(failed.error, during, failed.certainty))
    }

    /// What a call comes to that did not leave, because it is outside the contract.
    fn refused(&self, during: During, error: AegisError) -> Failure {
        self.failure(error, during, Certainty::NotDone)
    }

    fn failure(&self, error: AegisError, during: During, certainty: Certainty) -> Failure {
        error.into_failure(&self.settings.base_url, during, certainty)
    }
}

/// A client certificate is shown over TLS alone.
fn check_mtls(url: &Url) -> Result<(), SettingsError> {
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if bare && url.scheme() == "https" && url.host().is_some() {
        Ok(())
    } else {
        Err(SettingsError::Mtls)
    }
}

/// Reads a success, which must not hold an error.
fn success<'de, T>(reply: &'de Reply) -> Result<T, AegisError>
where
    T: serde::Deserialize<'de> + wire::Success,
{
    let answer: T = wire::decode(reply.body.expose())
        .ok()
        .ok_or(AegisError::Protocol(ProtocolFault::Malformed))?;
    if answer.has_error() {
        return Err(AegisError::Protocol(ProtocolFault::ErrorInSuccess));
    }
    Ok(answer)
}

const fn bad(field: &'static str) -> AegisError {
    AegisError::Protocol(ProtocolFault::Field(field))
}

/// When what lives so long is renewed (`aegis.md` 6 and 8).
fn half(life: Duration) -> Duration {
    life.checked_div(2).unwrap_or_default()
}
