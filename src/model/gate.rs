use std::time::Duration;

/// What the broker does by itself with callers that go wrong, and when nobody calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Whether asking for a decoy locks the broker.
    pub decoy_locks: bool,
    /// Whether a caller that is denied again and again is refused everything for a while.
    pub denial_pause: bool,
    /// Locks the broker when it was not used for so long, 1 min to 24 h; never where `None`.
    pub lock_after_idle: Option<Duration>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            decoy_locks: false,
            denial_pause: true,
            lock_after_idle: None,
        }
    }
}
