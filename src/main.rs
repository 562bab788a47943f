//! The binary: hardening, then the command line. Everything else is in the library.

use std::alloc::System;
use std::process::ExitCode;

use aegis_broker::cli;
use aegis_broker::daemon;

/// Wipes what is freed, whoever allocated it (HY-6).
#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<System> = zeroizing_alloc::ZeroAlloc(System);

fn main() -> ExitCode {
    match daemon::hardening::harden_process() {
        Ok(()) => cli::run(),
        Err(error) => cli::not_hardened(&error),
    }
}
