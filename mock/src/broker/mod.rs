//! Leases and what they yield.

pub(crate) mod leases;
mod material;
mod service;

pub(crate) use service::Broker;
