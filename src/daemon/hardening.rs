//! What every process of ours does before anything else (HY-1).

use std::io;
use std::panic;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

/// Makes this process unreadable for others of the same user, keeps its memory out of core
/// files, its files private, and the texts of panics, which may quote a secret, to itself.
///
/// # Errors
/// When the kernel refuses; then nothing may be done that touches a secret.
pub fn harden_process() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The soft limit only: `exec` gives the person's command its own back.
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum,
        },
    )?;
    umask(Mode::from_raw_mode(0o077));
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
