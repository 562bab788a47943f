use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{Clock, Now, Timestamp, UnixTime};

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            boot: Timestamp::from_millis(millis(clock_gettime(ClockId::Boottime))),
            unix: UnixTime::from_millis(millis(clock_gettime(ClockId::Realtime))),
        }
    }
}

/// A time before the epoch (a machine without a battery) reads as zero.
fn millis(at: Timespec) -> u64 {
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(at.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(nanos.checked_div(1_000_000).unwrap_or(0))
}
