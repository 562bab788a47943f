//! The Aegis server as a strict, self-contained oracle for tests and
//! demonstrations.
//!
//! It speaks the RPCs of `proto/` over Connect and checks all that the contract
//! says, with code of its own: nothing here comes from the client it judges.
//! It never talks to the real Aegis and never hands out a real credential.
//!
//! Start reading at [`spawn`]; [`Background`] is the same for a program without
//! a runtime. A request goes through `web` (headers, raw body, faults), `access`
//! (token and proof), then `identity` or `broker`; `state` holds all that is
//! remembered, and `revocations` what outlives the process; `check` lists what
//! is checked; `page` is where a person approves. Lenience must be asked for, in
//! the policy or by [`Mock::fault`].
//!
//! The parts of Aegis' reference flow: `idp` is the identity provider, `spiffe_ca`
//! the SPIFFE CA, `policy` the policy engine, `audit` the audit log,
//! `identity::keys` the key registry with the dual-key window, `revoke` takes
//! tokens, keys, sessions and principals back, `anomaly` watches for spikes,
//! `throttle` counts calls; `tls` is the listener for client certificates.

mod access;
mod anomaly;
mod audit;
mod background;
mod broker;
mod call;
mod check;
mod clock;
mod control;
mod dpop;
mod encoding;
mod errors;
#[cfg(test)]
#[path = "../../tests/evidence/counts.rs"]
mod evidence;
mod fault;
mod identity;
mod idp;
mod journal;
mod json;
mod jwk;
mod once;
mod page;
mod policy;
mod proto;
mod revocations;
mod revoke;
mod schema;
mod scope;
mod server;
mod spiffe_ca;
mod state;
mod throttle;
mod tls;
mod web;
mod wire;

pub use anomaly::AlertRecord;
pub use audit::AuditRecord;
pub use background::Background;
pub use broker::leases::{LeaseRecord, LeaseState};
pub use check::Check;
pub use control::{ControlError, Revocable};
pub use fault::FaultKind;
pub use journal::{Carrier, RequestRecord};
pub use page::PageCheck;
pub use policy::{MAX_POLICY_BYTES, PolicyError};
pub use revocations::StateFileError;
pub use server::{Mock, Options, SpawnError, spawn};
pub use state::SecretRecord;
