//! Time as the server sees it.
//!
//! Two readings: [`Clock::real`] follows the machine and judges a proof's
//! `iat`; [`Clock::now`] runs ahead of it by what the control API has added
//! and judges every lifetime. Both follow tokio's clock, so that a test with
//! paused time moves the server too.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Tokio's clock may stop while the machine sleeps. Once the system's is this
/// far ahead of it, the system's is taken.
const SLEPT_MS: i64 = 5_000;

/// A point in time: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

impl Moment {
    pub(crate) fn from_unix_millis(milliseconds: i64) -> Self {
        Self(milliseconds)
    }

    pub(crate) fn unix_millis(self) -> i64 {
        self.0
    }

    pub(crate) fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub(crate) fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// Zero when `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC.
    pub(crate) fn rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0).saturating_mul(1_000_000))
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok())
            .unwrap_or_default()
    }

    pub(crate) fn from_system_time(at: SystemTime) -> Self {
        Self(at.duration_since(UNIX_EPOCH).map_or(0, millis))
    }

    pub(crate) fn system_time(self) -> SystemTime {
        let since = Duration::from_millis(u64::try_from(self.0).unwrap_or(0));
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The only place that reads the time.
#[derive(Debug)]
pub(crate) struct Clock {
    started: tokio::time::Instant,
    base: AtomicI64,
    ahead: AtomicI64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            started: tokio::time::Instant::now(),
            base: AtomicI64::new(system_millis()),
            ahead: AtomicI64::new(0),
        }
    }

    /// What the machine says.
    pub(crate) fn real(&self) -> Moment {
        let elapsed = millis(self.started.elapsed());
        let here = self.base.load(Ordering::SeqCst).saturating_add(elapsed);
        let system = system_millis();
        if system.saturating_sub(here) > SLEPT_MS {
            self.base
                .fetch_max(system.saturating_sub(elapsed), Ordering::SeqCst);
            return Moment(system);
        }
        Moment(here)
    }

    /// What lifetimes are measured with.
    pub(crate) fn now(&self) -> Moment {
        let ahead = self.ahead.load(Ordering::SeqCst);
        Moment(self.real().0.saturating_add(ahead))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.ahead.fetch_add(millis(by), Ordering::SeqCst);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock the others are told to take"
)]
fn system_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokios_clock_moves_both_readings_and_control_only_lifetimes() {
        let clock = Clock::start();
        let (real, now) = (clock.real(), clock.now());
        tokio::time::advance(Duration::from_mins(10)).await;
        assert_eq!(clock.real().since(real), Duration::from_mins(10));
        assert_eq!(clock.now().since(now), Duration::from_mins(10));
        clock.advance(Duration::from_mins(5));
        assert_eq!(clock.real().since(real), Duration::from_mins(10));
        assert_eq!(clock.now().since(now), Duration::from_mins(15));
    }

    #[test]
    fn moments_are_written_as_rfc_3339() {
        let moment = Moment::from_unix_millis(1_795_341_600_000);
        assert_eq!(moment.rfc3339(), "2026-11-22T10:00:00Z");
    }
}
