use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Clock, Now, Reached, Timestamp, UnixTime};

/// How long a nap is where the kernel gives no timer: what ended while the machine slept is then
/// noticed at most this long after it woke.
const NAP: Duration = Duration::from_mins(1);

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

    /// By a timer of the kernel's on the clock that counts suspend: nobody wakes up before, and
    /// what has come while the machine slept has come when it wakes.
    fn reach(&self, at: Timestamp) -> Reached {
        match timer(at) {
            Ok(timer) => Box::pin(async move {
                // An error of the runtime, which then waits for nothing any more.
                if timer.readable().await.is_err() {
                    naps(at).await;
                }
            }),
            Err(error) => {
                tracing::warn!(%error, "the kernel gives no timer");
                Box::pin(naps(at))
            }
        }
    }
}

/// A timer that has expired, which is when it can be read, from `at` on.
#[expect(
    deprecated,
    reason = "the replacement is an unsafe function, for types that could close or change their \
              descriptor; `OwnedFd` cannot"
)]
fn timer(at: Timestamp) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    // Zero would disarm it; the first millisecond after boot is as far in the past.
    let since_boot = Duration::from_millis(at.as_millis().max(1));
    let once = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec::try_from(since_boot).map_err(io::Error::other)?,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &once)?;
    AsyncFd::with_interest(timer, Interest::READABLE)
}

/// Ends after that long on the clock of the runtime.
pub(super) fn after(left: Duration) -> Reached {
    Box::pin(tokio::time::sleep(left))
}

async fn naps(at: Timestamp) {
    loop {
        let left = SystemClock.now().boot.until(at);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(NAP)).await;
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

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    /// LC-2: a time is reached when it has come and not before, one that is past at once, the end of
    /// time never.
    #[tokio::test]
    async fn a_time_is_reached_when_it_has_come() {
        let begun = SystemClock.now().boot;
        for at in [
            begun.plus(Duration::from_millis(20)),
            begun,
            Timestamp::from_millis(0),
        ] {
            SystemClock.reach(at).await;
            assert!(SystemClock.now().boot >= at);
        }
        naps(begun.plus(Duration::from_millis(40))).await;
        assert!(SystemClock.now().boot >= begun.plus(Duration::from_millis(40)));
        let far = [Duration::from_hours(1), Duration::MAX].map(|far| begun.plus(far));
        for at in far {
            tokio::select! {
                biased;
                () = SystemClock.reach(at) => panic!("too early"),
                () = ready(()) => {}
            }
        }
    }
}
