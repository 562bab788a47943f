//! The core: it decides who gets what, and does no I/O.
//!
//! [`State::step`](state::State::step) is plain synchronous code: one event and the time in,
//! effects out. The actor is the one owner of the state; it runs the effects through
//! the [`ports`] and feeds results back as events. Doors hold a [`handle::Handle`].
//!
//! Read in this order: `event`, `effect`, `state` with its parts `session`, `renewal`, `serve`, `uses`
//! and `reconcile`, then what they keep (`policy`, `login`, `leases`, `revocations`, `denials`,
//! `pauses`, `decoys`, `decisions`), what they tell of it (`explain`, `lint`, `fixes`, `replay`), then
//! `ports`, `actor`, `handle`.

pub mod event;

pub mod effect;

pub mod state;

mod session;

mod serve;

pub mod uses;

pub mod reconcile;

mod renewal;

pub mod policy;

pub mod lint;

pub mod replay;

pub mod login;

pub mod leases;

mod revocations;

mod denials;

mod pauses;

mod decoys;

mod fixes;

pub mod decisions;

mod explain;

pub mod ports;

pub mod actor;

pub mod handle;

#[cfg(test)]
mod tests;
