use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::model::{ErrorCode, Refusal};
use crate::socket::listener::Limits;

/// Of one connection: its socket, its process twice (to ask whether it lives and to hear of its
/// end), and its socket again while nothing is read from it.
const PER_CONNECTION: u64 = 4;

/// Of everything else: the runtimes, the listening sockets, the log's files, and connections to
/// Aegis; a few dozen, and as many again.
const OTHERS: u64 = 128;

/// What a connection on each of the two sockets takes.
const PER_PLACE: u64 = 2 * PER_CONNECTION;

/// Refuses a hard limit that has no room for any connection, before anything is opened.
///
/// # Errors
/// `io_error`, with what would be enough.
pub(super) fn check() -> Result<(), Refusal> {
    let needed = PER_PLACE.saturating_mul(2).saturating_add(OTHERS);
    match getrlimit(Resource::Nofile).maximum {
        Some(maximum) if maximum < needed => {
            let message =
                format!("the hard limit of open files is {maximum}; {needed} are needed at least");
            Err(Refusal::new(ErrorCode::Io)
                .with_reason("too_few_descriptors")
                .with_message(&message)
                .with_fix("raise it: `ulimit -Hn`, or `LimitNOFILE=` of the unit"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Lets this process open as many descriptors as two full sockets take: the usual soft limit of
/// 1024 is less, and at it nobody could connect or even be told so. The daemon starts no other
/// process that would inherit the limit. Where the hard limit is lower, fewer connections are
/// taken than are configured, so that one program's never take what all need; the log says so.
pub(super) fn make_room(limits: Limits) -> Limits {
    let wanted = wanted(limits);
    if let Some(raised) = raised(getrlimit(Resource::Nofile), wanted)
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let now = getrlimit(Resource::Nofile);
    let Some(room) = now.current.filter(|current| *current < wanted) else {
        return limits;
    };
    let connections = carried_by(room);
    tracing::warn!(
        room,
        maximum = now.maximum,
        wanted,
        connections,
        "the hard limit of open files is too low for all the connections that are configured: \
         fewer are taken. Raise it, or lower `limits.connections`"
    );
    Limits {
        connections,
        ..limits
    }
}

fn wanted(limits: Limits) -> u64 {
    u64::try_from(limits.connections)
        .unwrap_or(u64::MAX)
        .saturating_mul(PER_PLACE)
        .saturating_add(OTHERS)
}

/// How many connections on each socket so many descriptors carry, two at least: a process gets
/// half of them.
fn carried_by(descriptors: u64) -> usize {
    let places = descriptors.saturating_sub(OTHERS) / PER_PLACE;
    usize::try_from(places).unwrap_or(usize::MAX).max(2)
}

/// The limit with room for so many, as far as the hard one allows; `None` where there is room.
/// A limit that is not there is none.
fn raised(now: Rlimit, wanted: u64) -> Option<Rlimit> {
    let current = now.current.filter(|current| *current < wanted)?;
    let allowed = now.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    Some(Rlimit {
        current: Some(allowed.max(current)),
        maximum: now.maximum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_the_hard_one_allows() {
        let limit = |current, maximum| Rlimit { current, maximum };
        let rows = [
            ("enough", limit(Some(2176), Some(4096)), None),
            ("none", limit(None, None), None),
            (
                "room above",
                limit(Some(1024), Some(4096)),
                Some(limit(Some(2176), Some(4096))),
            ),
            (
                "no hard limit",
                limit(Some(1024), None),
                Some(limit(Some(2176), None)),
            ),
            (
                "little room",
                limit(Some(256), Some(512)),
                Some(limit(Some(512), Some(512))),
            ),
        ];
        let configured = Limits {
            connections: 256,
            in_flight: 1,
        };
        assert_eq!(wanted(configured), 2176);
        for (name, now, expected) in rows {
            assert_eq!(raised(now, 2176), expected, "{name}");
        }
    }

    /// LM: never more connections than descriptors for them.
    #[test]
    fn a_low_limit_carries_fewer_connections() {
        let rows = [(OTHERS + 16, 2), (512, 48), (2175, 255), (2176, 256)];
        for (descriptors, expected) in rows {
            assert_eq!(carried_by(descriptors), expected, "{descriptors}");
        }
    }
}
