use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::socket::listener::Limits;

/// Of one connection: its socket, its process twice (to ask whether it lives and to hear of its
/// end), and its socket again while nothing is read from it.
const PER_CONNECTION: u64 = 4;

/// Of everything else: the runtimes, the listening sockets, the log's files, and connections to
/// Aegis; a few dozen, and as many again.
const OTHERS: u64 = 128;

/// Lets this process open as many descriptors as two full sockets take: the usual soft limit of
/// 1024 is less, and at it nobody could connect or even be told so. The daemon starts no other
/// process that would inherit the limit. Where the hard limit is lower, the log says so.
pub(super) fn make_room(limits: Limits) {
    let wanted = wanted(limits);
    let now = getrlimit(Resource::Nofile);
    let Some(raised) = raised(now, wanted) else {
        return;
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    if let Some(maximum) = now.maximum.filter(|maximum| *maximum < wanted) {
        tracing::warn!(
            maximum,
            wanted,
            "the hard limit of open files is too low for all the connections that are configured: \
             raise it, or lower `limits.connections`"
        );
    }
}

fn wanted(limits: Limits) -> u64 {
    u64::try_from(limits.connections)
        .unwrap_or(u64::MAX)
        // Two sockets.
        .saturating_mul(2)
        .saturating_mul(PER_CONNECTION)
        .saturating_add(OTHERS)
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
}
