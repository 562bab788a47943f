//! The shipped binary as people and programs use it: real processes, real time, never waiting
//! for an expiry. Every wait is for an answer, an exit or readiness.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed setup should abort the test"
)]

/// As in the shipped program (`src/main.rs`): this one becomes a daemon too, whose memory is looked
/// through.
#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

#[path = "../evidence/mod.rs"]
mod evidence;

mod attack;

mod attack_server;

mod bad_input;

mod commands;

mod crash;

mod crowd;

mod demo;

mod denials;

mod exec;

mod holders;

mod house;

mod leaks;

mod lifecycle;

mod line_client;

mod mcp;

mod memory;

mod pages;

mod policy;

mod shim;

mod shim_start;

mod terminal;
