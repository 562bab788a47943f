//! Points in time. Deadlines are counted on [`Timestamp`], which runs through suspend and is
//! not moved by anybody setting the clock; [`UnixTime`] is for records and for the wire.
//!
//! Pure code takes `now: Now` as an argument; only the daemon holds a [`Clock`].

#![warn(clippy::arithmetic_side_effects)]

mod system;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

pub use system::SystemClock;

/// A point on the clock that counts from boot, suspend included, in milliseconds
/// (`CLOCK_BOOTTIME` on Linux). Meaningless in another process or after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point `millis` milliseconds after boot.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since boot.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `duration` later; saturates at the end of time. Fractions of a millisecond are
    /// dropped, so a deadline is never late.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(saturating_millis(duration)))
    }

    /// How long from `self` to `later`; zero when `later` is not later.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z, never before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The time `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, as RFC 7519's NumericDate.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The time `duration` later; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(saturating_millis(duration)))
    }

    /// How long from `self` to `later`; zero when `later` is not later.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }

    /// Reads RFC 3339 as the wire carries it. `None` for anything else and for times before 1970.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed =
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
                .ok()?;
        let millis = parsed.unix_timestamp_nanos().checked_div(1_000_000)?;
        u64::try_from(millis).ok().map(Self)
    }
}

/// RFC 3339 in UTC with milliseconds, for example `2026-11-22T10:00:12.345Z`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0).saturating_mul(1_000_000);
        let Ok(at) = time::OffsetDateTime::from_unix_timestamp_nanos(nanos) else {
            // Past year 9999: no calendar form, still a number to look at.
            return write!(f, "{}ms", self.0);
        };
        // Digit by digit into one piece of text: every record and every answer waits for this.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put(&mut text, 0..4, u32::try_from(at.year()).unwrap_or(0));
        put(&mut text, 5..7, u8::from(at.month()).into());
        put(&mut text, 8..10, at.day().into());
        put(&mut text, 11..13, at.hour().into());
        put(&mut text, 14..16, at.minute().into());
        put(&mut text, 17..19, at.second().into());
        put(&mut text, 20..23, at.millisecond().into());
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

/// Writes a number over the digits at `place`, zeros before it.
fn put(text: &mut [u8], place: Range<usize>, mut number: u32) {
    for digit in text.get_mut(place).unwrap_or_default().iter_mut().rev() {
        *digit = b'0'.saturating_add(u8::try_from(number % 10).unwrap_or(0));
        number /= 10;
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub boot: Timestamp,
    /// For records and the wire.
    pub unix: UnixTime,
}

/// Ends when a time has come.
pub type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where `now` comes from: the system, or a test.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Reads both clocks.
    fn now(&self) -> Now;

    /// Ends once `at` has come, never before. As it stands here it is for a clock that tokio's moves,
    /// as that of tests does; it stops while the machine sleeps. Call it within a runtime.
    fn reach(&self, at: Timestamp) -> Reached {
        system::after(self.now().boot.until(at))
    }
}

fn saturating_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::many;

    /// The last millisecond that has a calendar form.
    const LAST: u64 = 253_402_300_799_999;

    proptest! {
        #![proptest_config(many())]

        /// HY-17: a time reads back as printed; text is read as some time or refused.
        #[test]
        fn times_read_back_as_printed(
            millis in 0..=LAST,
            text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})",
        ) {
            let at = UnixTime::from_millis(millis);
            prop_assert_eq!(UnixTime::parse_rfc3339(&at.to_string()), Some(at));
            if let Some(at) = UnixTime::parse_rfc3339(&text) {
                prop_assert_eq!(UnixTime::parse_rfc3339(&at.to_string()), Some(at));
            }
        }
    }

    /// HY-17: no arithmetic on times panics or wraps.
    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let end = Timestamp::from_millis(u64::MAX);
        assert_eq!(end.plus(Duration::MAX), end);
        assert_eq!(end.until(Timestamp::from_millis(0)), Duration::ZERO);
        assert_eq!(
            UnixTime::from_millis(u64::MAX)
                .plus(Duration::MAX)
                .as_millis(),
            u64::MAX
        );
    }

    #[test]
    fn rfc3339_is_read_and_written() {
        let at = UnixTime::parse_rfc3339("2026-11-22T10:00:12Z").unwrap();
        assert_eq!(at.to_string(), "2026-11-22T10:00:12.000Z");
        assert_eq!(
            UnixTime::parse_rfc3339("2026-11-22T11:00:12.345+01:00").unwrap(),
            at.plus(Duration::from_millis(345))
        );
        assert_eq!(UnixTime::parse_rfc3339("yesterday"), None);
        assert_eq!(UnixTime::parse_rfc3339("1969-12-31T23:59:59Z"), None);
        assert_eq!(
            UnixTime::from_millis(u64::MAX).to_string(),
            format!("{}ms", u64::MAX)
        );
    }
}
