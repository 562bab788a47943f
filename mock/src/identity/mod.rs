//! Logging in: device authorizations, ID tokens and workloads become sessions, and sessions tokens.

pub(crate) mod device;
pub(crate) mod issue;
pub(crate) mod keys;
mod service;
pub(crate) mod sessions;
pub(crate) mod tokens;
pub(crate) mod wish;

pub(crate) use service::{DEMO_UID, Identity};
