use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of one connection: its socket and its process, each once more where its end is waited for.
const PER_CONNECTION: u64 = 4;

/// Both sockets take as many connections.
const DOORS: u64 = 2;

/// Beside connections: runtime, log, calls to Aegis, the bundled server, and what is read about a
/// peer while it comes in. About 20 are open in a daemon at rest.
const BESIDE: u64 = 256;

/// Raises this process's soft limit of open files, if it is too low for both sockets to be full;
/// never beyond the hard limit. The usual soft limit of a session, 1024, is: beyond it a new peer
/// is hung up on, and so is one whose end is to be watched.
///
/// What it comes to is only logged: with fewer descriptors the daemon serves fewer peers.
pub(super) fn make_room(connections: usize) {
    let connections = u64::try_from(connections).unwrap_or(u64::MAX);
    let wanted = wanted(connections);
    match raise(wanted) {
        Ok(allowed) if allowed >= wanted => {}
        Ok(allowed) => {
            tracing::warn!(
                allowed,
                wanted,
                "not all connections can be open at a time: the limit of open files is too low"
            );
        }
        Err(error) => tracing::warn!(%error, "the limit of open files was not raised"),
    }
}

fn wanted(connections: u64) -> u64 {
    connections
        .saturating_mul(PER_CONNECTION)
        .saturating_mul(DOORS)
        .saturating_add(BESIDE)
}

/// The soft limit afterwards.
fn raise(wanted: u64) -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No limit is the highest one.
    let (current, hard) = (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX));
    let soft = wanted.min(hard);
    if soft <= current {
        return Ok(current);
    }
    let raised = Rlimit {
        current: Some(soft),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LM: what is configured unless somebody says otherwise needs more than a session's 1024.
    #[test]
    fn both_doors_at_their_default_need_more_than_usual() {
        assert_eq!(wanted(256), 2304);
        assert_eq!(wanted(u64::MAX), u64::MAX);
    }

    /// A limit is never lowered.
    #[test]
    fn a_limit_that_is_high_enough_stays() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(raise(0).unwrap(), before.current.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile), before);
    }
}
