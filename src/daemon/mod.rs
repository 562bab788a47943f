//! The composition root: builds everything from a parsed configuration, runs it, drains it.
//!
//! Order matters here. The process is hardened before anything is read; the configuration is
//! whole before anything is bound; the socket is bound last, so that who connects is served; and
//! readiness is told after that. Start with [`run()`].

mod build;

mod descriptors;

pub mod hardening;

mod log;

#[cfg(feature = "mock")]
mod mock;

mod network;

mod outside;

mod policy_source;

mod readiness;

mod run;

mod signals;

pub use run::{Options, run};
