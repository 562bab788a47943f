//! Logging in: device authorizations become tokens.

pub(crate) mod device;
mod service;
pub(crate) mod tokens;

pub(crate) use service::{DEMO_UID, Identity};
