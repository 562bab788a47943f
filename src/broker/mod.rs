//! The core: it decides who gets what, and does no I/O.
//!
//! [`State::step`](state::State::step) is plain synchronous code: one event and the time in,
//! effects out. The actor is the one owner of the state; it runs the effects through
//! the [`ports`] and feeds results back as events. Doors hold a [`handle::Handle`].
//!
//! Read in this order: `event`, `effect`, `state`, then the parts it is made of (`policy`,
//! `login`, `leases`), then `ports`, `actor` and `handle`.

pub mod ports;

pub mod event;

pub mod effect;

pub mod policy;

pub mod login;

pub mod leases;

pub mod actor;

pub mod handle;
