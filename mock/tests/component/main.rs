//! The server from outside, over HTTP.

mod client;
mod control;
mod device;
mod faults;
mod leases;
mod proofs;
mod surface;
