//! The server from outside, over HTTP.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests: a failed setup should abort the test"
)]

mod access_matrix;
mod anomalies;
mod audit_listing;
mod client;
mod clock;
mod control;
mod device;
mod dpop_matrix;
#[path = "../../../tests/evidence/counts.rs"]
mod evidence;
mod fault_matrix;
mod faults;
mod idp;
mod leases;
mod listeners;
mod page;
mod proofs;
mod revocation;
mod selector_matrix;
mod state;
mod strictness;
mod surface;
mod throttles;
mod workload;
