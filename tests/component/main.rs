//! The library and the bundled server in one runtime, with tokio's clock paused: time moves only
//! when nobody has anything left to do.
#![cfg(feature = "mock")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failed setup should abort the test"
)]

#[path = "../evidence/mod.rs"]
mod evidence;

mod liar;

mod world;

mod audit;
mod constraints;
mod costs;
mod evidence_page;
mod faults;
mod gate;
mod holders;
mod http;
mod incidents;
mod leases;
mod lies;
mod limits;
mod login;
mod mcp;
mod proofs;
mod requirements;
mod secrets;
mod selectors;
mod transport;
