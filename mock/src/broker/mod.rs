//! Broker tokens, leases, what they yield, and how all of it ends.

mod audit_events;
mod exchange;
pub(crate) mod leases;
mod material;
mod revoke_access;
mod service;
mod spiffe;

pub(crate) use audit_events::PageSeal;
pub(crate) use service::Broker;
