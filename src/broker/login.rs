//! The device login as a pure state machine (RFC 8628 §3.4, §3.5): when to poll, when to slow
//! down, when to give up. One flow at a time; whoever asks joins it.

use std::sync::Arc;
use std::time::Duration;

use super::event::Ticket;
use super::ports::{CallTrace, DeviceAuthorization, Session};
use crate::model::{PeerFacts, ProcessId};
use crate::time::Timestamp;

/// What `slow_down` adds, for this and all later polls (RFC 8628 §3.5).
const SLOW_DOWN_STEP: Duration = Duration::from_secs(5);

/// The longest pause between polls that errors can lead to: a login must still notice an
/// approval within a minute of the server's recovery.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// Makes results of an old login recognisable: grows with every login, logout and lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(u64);

impl Generation {
    /// The first one.
    pub const FIRST: Self = Self(0);

    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Where the login stands.
#[derive(Debug)]
pub enum Login {
    /// Nobody is logged in.
    LoggedOut,
    /// The person locked the broker.
    Locked,
    /// The first call is on its way.
    Beginning {
        /// Who wants to see the code.
        begin: Vec<Ticket>,
        /// Who waits for the end.
        wait: Vec<Ticket>,
        /// Whose flow it is.
        callers: Callers,
        /// Whether the broker was locked before.
        locked: bool,
    },
    /// The person has the code; we poll.
    AwaitingApproval {
        /// The flow.
        authorization: Arc<DeviceAuthorization>,
        /// When to ask again.
        poll: Poll,
        /// The tries of polls whose answer was lost: one of them may have won the login.
        lost: CallTrace,
        /// Who waits for the end.
        wait: Vec<Ticket>,
        /// Whose flow it is.
        callers: Callers,
        /// Whether the broker was locked before.
        locked: bool,
    },
    /// Logged in.
    LoggedIn(Arc<Session>),
}

/// Who has asked for a flow, as far as it matters to one that wants out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callers {
    /// Who started it, for the records too.
    pub starter: Arc<PeerFacts>,
    joined: bool,
}

impl Callers {
    /// A flow that this peer started.
    pub const fn new(starter: Arc<PeerFacts>) -> Self {
        Self {
            starter,
            joined: false,
        }
    }

    /// This process asks for it too. It stays joined when it goes: somebody was shown the code.
    pub fn join(&mut self, process: ProcessId) {
        self.joined |= process != self.starter.process;
    }

    /// Whether this process started it and nobody else ever joined it.
    pub fn is_only(&self, process: ProcessId) -> bool {
        self.starter.process == process && !self.joined
    }
}

impl Login {
    /// The session, when there is one; its expiry is the caller's to compare with `now`.
    pub fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Self::LoggedIn(session) => Some(session),
            Self::LoggedOut
            | Self::Locked
            | Self::Beginning { .. }
            | Self::AwaitingApproval { .. } => None,
        }
    }

    /// Whether the broker is locked, also while a login that would unlock it is under way.
    pub const fn is_locked(&self) -> bool {
        match self {
            Self::Locked => true,
            Self::Beginning { locked, .. } | Self::AwaitingApproval { locked, .. } => *locked,
            Self::LoggedOut | Self::LoggedIn(_) => false,
        }
    }

    /// Who waits for the login that runs, whatever for.
    pub fn forget_ticket(&mut self, gone: &dyn Fn(Ticket) -> bool) {
        match self {
            Self::Beginning { begin, wait, .. } => {
                begin.retain(|ticket| !gone(*ticket));
                wait.retain(|ticket| !gone(*ticket));
            }
            Self::AwaitingApproval { wait, .. } => wait.retain(|ticket| !gone(*ticket)),
            Self::LoggedOut | Self::Locked | Self::LoggedIn(_) => {}
        }
    }
}

/// The pace of one flow's polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    interval: Duration,
    failures: u32,
    next: Timestamp,
    expires_at: Timestamp,
    in_flight: bool,
}

/// How a poll that did not end the flow went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollResult {
    /// Not decided yet.
    Pending {
        /// The server's interval, where it named one.
        interval: Option<Duration>,
    },
    /// Too early.
    SlowDown {
        /// The server's interval, where it named one.
        interval: Option<Duration>,
    },
    /// No usable answer; the server may have named a pause.
    Failed {
        /// It.
        retry_after: Option<Duration>,
    },
}

impl Poll {
    /// A flow whose first poll comes one interval from `now` (DG-1) and whose code ends at
    /// `expires_at`.
    pub fn new(interval: Duration, expires_at: Timestamp, now: Timestamp) -> Self {
        Self {
            interval,
            failures: 0,
            next: now.plus(interval),
            expires_at,
            in_flight: false,
        }
    }

    /// Whether the code has ended (DG-6).
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// Starts a poll if one is due.
    pub fn start_if_due(&mut self, now: Timestamp) -> bool {
        let due = !self.in_flight && now >= self.next && !self.is_expired(now);
        self.in_flight |= due;
        due
    }

    /// Takes note of an answer and sets the time of the next poll.
    pub fn answered(&mut self, result: PollResult, now: Timestamp) {
        self.in_flight = false;
        let pause = match result {
            PollResult::Pending { interval } => {
                self.failures = 0;
                self.interval = self.interval.max(interval.unwrap_or_default());
                self.interval
            }
            PollResult::SlowDown { interval } => {
                self.failures = 0;
                self.interval = self
                    .interval
                    .saturating_add(SLOW_DOWN_STEP)
                    .max(interval.unwrap_or_default());
                self.interval
            }
            PollResult::Failed { retry_after } => {
                self.failures = self.failures.saturating_add(1);
                let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
                let backoff = self.interval.saturating_mul(factor).min(MAX_BACKOFF);
                backoff
                    .max(self.interval)
                    .max(retry_after.unwrap_or_default())
            }
        };
        self.next = now.plus(pause);
    }

    /// When to look again.
    pub fn deadline(&self) -> Timestamp {
        if self.in_flight {
            self.expires_at
        } else {
            self.next.min(self.expires_at)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::many;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// DG-1: the first poll comes one interval after the code.
    #[test]
    fn the_first_poll_waits_one_interval() {
        let mut poll = Poll::new(secs(5), START.plus(secs(600)), START);
        assert!(!poll.start_if_due(START.plus(Duration::from_millis(4999))));
        assert!(poll.start_if_due(START.plus(secs(5))));
        assert!(
            !poll.start_if_due(START.plus(secs(50))),
            "one poll at a time"
        );
    }

    /// DG-2: each `slow_down` adds five seconds for good.
    #[test]
    fn three_slow_downs_add_fifteen_seconds() {
        let mut poll = Poll::new(secs(5), START.plus(secs(600)), START);
        let mut now = START;
        for expected in [10, 15, 20] {
            now = poll.deadline();
            assert!(poll.start_if_due(now));
            poll.answered(PollResult::SlowDown { interval: None }, now);
            assert_eq!(now.until(poll.deadline()), secs(expected));
        }
        assert!(poll.start_if_due(poll.deadline()));
        poll.answered(
            PollResult::Pending {
                interval: Some(secs(1)),
            },
            now,
        );
        assert_eq!(now.until(poll.deadline()), secs(20), "never back below");
    }

    /// DG-5: a throttle's pause is kept.
    #[test]
    fn a_named_pause_is_kept() {
        let mut poll = Poll::new(secs(5), START.plus(secs(600)), START);
        poll.answered(
            PollResult::Failed {
                retry_after: Some(secs(90)),
            },
            START,
        );
        assert_eq!(START.until(poll.deadline()), secs(90));
    }

    /// DG-6: nothing is sent once the code has ended.
    #[test]
    fn an_expired_code_is_not_polled() {
        let mut poll = Poll::new(secs(5), START.plus(secs(12)), START);
        assert!(!poll.start_if_due(START.plus(secs(12))));
        assert!(poll.is_expired(START.plus(secs(12))));
        assert_eq!(poll.deadline(), START.plus(secs(5)));
    }

    fn any_result() -> impl Strategy<Value = PollResult> {
        let seconds = proptest::option::of((0_u64..u64::MAX).prop_map(Duration::from_secs));
        let small = proptest::option::of((0_u64..30).prop_map(Duration::from_secs));
        prop_oneof![
            small
                .clone()
                .prop_map(|interval| PollResult::Pending { interval }),
            small.prop_map(|interval| PollResult::SlowDown { interval }),
            seconds.prop_map(|retry_after| PollResult::Failed { retry_after }),
        ]
    }

    proptest! {
        #![proptest_config(many())]

        /// DG-1, DG-2, DG-3: whatever the server says, no gap is ever shorter than the interval
        /// in force, the interval never shrinks, and failures never shorten the gap.
        #[test]
        fn gaps_never_fall_below_the_interval(results in proptest::collection::vec(any_result(), 1..30)) {
            let mut poll = Poll::new(secs(5), Timestamp::from_millis(u64::MAX), START);
            let mut now = START;
            let mut floor = secs(5);
            let mut last_failure_gap = None;
            for result in results {
                now = poll.deadline();
                if !poll.start_if_due(now) { break; }
                let before = poll.interval;
                poll.answered(result, now);
                prop_assert!(poll.interval >= before);
                match result {
                    PollResult::SlowDown { .. } => { floor += secs(5); last_failure_gap = None; }
                    PollResult::Pending { .. } => last_failure_gap = None,
                    PollResult::Failed { retry_after: None } => {
                        let gap = now.until(poll.deadline());
                        if let Some(last) = last_failure_gap { prop_assert!(gap >= last); }
                        last_failure_gap = Some(gap);
                    }
                    PollResult::Failed { .. } => {}
                }
                let gap = now.until(poll.next);
                if poll.next < Timestamp::from_millis(u64::MAX) {
                    prop_assert!(gap >= floor && gap >= poll.interval);
                }
            }
            prop_assert!(now >= START);
        }
    }
}
