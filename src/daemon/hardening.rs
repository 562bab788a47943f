//! What every process of ours does before anything else (HY-1, HY-2).

use std::io;
use std::panic;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

use crate::model::{ErrorCode, Refusal};

/// Makes this process unreadable for others of the same user, keeps its memory out of core
/// files, its files private, and the texts of panics, which may quote a secret, to itself.
///
/// # Errors
/// When the kernel refuses; then nothing may be done that touches a secret.
pub fn harden_process() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The soft limit only: `exec` gives the person's command its own back.
    let core = getrlimit(Resource::Core);
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: core.maximum,
        },
    )?;
    let umask = umask(PRIVATE);
    drop(FOUND.set(Found { core, umask }));
    panic::set_hook(Box::new(|panic| {
        // The place and not the message (HY-4).
        let place = panic.location().map_or_else(String::new, |location| {
            format!(" at {}:{}", location.file(), location.line())
        });
        let text = format!("aegis-broker: a mistake of ours{place}; please report it\n");
        // Nothing can be done about a standard error stream that is closed.
        drop(io::Write::write_all(&mut io::stderr(), text.as_bytes()));
    }));
    Ok(())
}

/// What was found before the process was hardened.
static FOUND: OnceLock<Found> = OnceLock::new();

/// Files are the person's alone.
const PRIVATE: Mode = Mode::RWXU.complement();

#[derive(Debug)]
struct Found {
    core: Rlimit,
    umask: Mode,
}

/// Starts something with the umask and the core limit that this process was started with. Nothing
/// of this process itself is let out meanwhile: it stays undumpable, and has one thread.
///
/// # Errors
/// When the kernel refuses, and what `start` says.
pub fn as_found<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(found) = FOUND.get() else {
        return start();
    };
    let ours = getrlimit(Resource::Core);
    setrlimit(Resource::Core, found.core)?;
    umask(found.umask);
    let started = start();
    umask(PRIVATE);
    setrlimit(Resource::Core, ours)?;
    started
}

/// What the daemon adds: it can gain no privileges, and it does not start under a tracer, which
/// would keep its view of our memory (HY-2).
///
/// # Errors
/// `internal` when the kernel refuses, or when the process is being traced.
pub(super) fn harden_daemon() -> Result<(), Refusal> {
    rustix::thread::set_no_new_privs(true).map_err(|_errno| refused("no_new_privs"))?;
    let status =
        std::fs::read_to_string("/proc/self/status").map_err(|_error| refused("status"))?;
    if is_traced(&status) {
        return Err(Refusal::new(ErrorCode::Internal)
            .with_reason("traced")
            .with_message("the daemon does not start while it is being traced")
            .with_fix("start it without a debugger or tracer"));
    }
    Ok(())
}

/// Reads `TracerPid` of `/proc/PID/status`. A status without that line counts as traced.
fn is_traced(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))
        .is_none_or(|pid| pid.trim() != "0")
}

fn refused(what: &str) -> Refusal {
    Refusal::new(ErrorCode::Internal)
        .with_reason("hardening")
        .with_message(&format!(
            "the kernel refused to harden the process ({what})"
        ))
        .with_fix("run on a Linux kernel that allows it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HY-2: doubt counts as traced.
    #[test]
    fn a_tracer_is_seen() {
        assert!(!is_traced("Name:\tx\nTracerPid:\t0\nUid:\t1\n"));
        assert!(is_traced("Name:\tx\nTracerPid:\t4711\n"));
        assert!(is_traced("Name:\tx\n"));
    }
}
