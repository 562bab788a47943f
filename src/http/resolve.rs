//! Names to addresses, each of which is looked at before it is dialled (OA-17).

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::{fmt, io};

use crate::broker::ports::PortFuture;
use crate::model::is_public;

/// Looks a name up.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// Its addresses.
    fn resolve(&self, name: String) -> PortFuture<io::Result<Vec<IpAddr>>>;
}

/// The system's name service.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: String) -> PortFuture<io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// A name leads to an address that no credential is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name leads to an address that is not of the public network")]
pub(super) struct AddressRefused;

/// A name leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name has no address")]
pub(super) struct NoAddress;

/// What the HTTP client resolves with: it dials these addresses and no others. One that is not
/// public among them refuses them all, since nobody honest publishes that.
#[derive(Debug, Clone)]
pub(super) struct Checked(pub(super) Arc<dyn Resolve>);

impl reqwest::dns::Resolve for Checked {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let found = self.0.resolve(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await.map_err(|_error| NoAddress)?;
            if found.is_empty() {
                return Err(NoAddress.into());
            }
            if !found.iter().all(|address| is_public(*address)) {
                return Err(AddressRefused.into());
            }
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            let addresses: reqwest::dns::Addrs =
                Box::new(addresses.collect::<Vec<_>>().into_iter());
            Ok(addresses)
        })
    }
}

/// Whether an error was caused by one of that type.
pub(super) fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}
