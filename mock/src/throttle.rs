//! How often someone may call.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;

const WINDOW: Duration = Duration::from_mins(1);

/// Names that are counted at once: a policy has a few, and a machine's loopback addresses are
/// millions. Who comes when all places are taken waits for the minute in which one is free.
const MAX_NAMES: usize = 10_000;

/// Counts calls in windows of a minute, by name. A window begins with its first call.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    windows: HashMap<String, (Moment, u32)>,
}

impl Throttle {
    /// Counts one call.
    ///
    /// # Errors
    /// The seconds to wait, if `limit` calls were made in this minute.
    pub(crate) fn count(&mut self, who: String, limit: u32, now: Moment) -> Result<(), u32> {
        self.check(&who, limit, now)?;
        if self.windows.len() >= MAX_NAMES && !self.windows.contains_key(&who) {
            self.windows
                .retain(|_, (start, _)| now.since(*start) < WINDOW);
            if self.windows.len() >= MAX_NAMES {
                let oldest = self.windows.values().map(|(start, _)| *start).min();
                return Err(oldest.map_or(1, |oldest| seconds_left(oldest, now)));
            }
        }
        let (start, count) = self.windows.entry(who).or_insert((now, 0));
        if now.since(*start) >= WINDOW {
            (*start, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        Ok(())
    }

    /// Whether one call more would do, without counting it.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub(crate) fn check(&self, who: &str, limit: u32, now: Moment) -> Result<(), u32> {
        let Some((start, count)) = self.windows.get(who) else {
            return Ok(());
        };
        if now.since(*start) >= WINDOW || *count < limit {
            return Ok(());
        }
        Err(seconds_left(*start, now))
    }
}

/// Whole seconds until a window is over; less would be a wait in vain.
fn seconds_left(start: Moment, now: Moment) -> u32 {
    let left = WINDOW.saturating_sub(now.since(start));
    u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_over_the_limit_waits_for_the_next_minute() {
        let start = Moment::from_unix_millis(0);
        let mut throttle = Throttle::default();
        assert_eq!(throttle.count("a".to_owned(), 2, start), Ok(()));
        assert_eq!(throttle.count("a".to_owned(), 2, start), Ok(()));
        let later = start.plus(Duration::from_secs(20));
        assert_eq!(throttle.check("a", 2, later), Err(40));
        assert_eq!(throttle.count("a".to_owned(), 2, later), Err(40));
        assert_eq!(throttle.check("b", 2, later), Ok(()));
        assert_eq!(throttle.count("b".to_owned(), 2, later), Ok(()));
        assert_eq!(
            throttle.count("a".to_owned(), 2, start.plus(WINDOW)),
            Ok(())
        );
    }

    /// Who waits as long as told is not told to wait again.
    #[test]
    fn the_wait_is_never_too_short() {
        for passed in [0, 1, 999, 1000, 1001, 59_000, 59_001, 59_999] {
            let mut throttle = Throttle::default();
            let start = Moment::from_unix_millis(0);
            assert_eq!(throttle.count("a".to_owned(), 1, start), Ok(()));
            let now = start.plus(Duration::from_millis(passed));
            let wait = throttle.check("a", 1, now).unwrap_err();
            assert!((1..=60).contains(&wait), "{passed}");
            let then = now.plus(Duration::from_secs(wait.into()));
            assert_eq!(throttle.check("a", 1, then), Ok(()), "{passed}");
            let sooner = now.plus(Duration::from_secs(u64::from(wait) - 1));
            assert!(throttle.check("a", 1, sooner).is_err(), "{passed}");
        }
    }

    #[test]
    fn names_are_bounded_and_old_ones_make_room() {
        let mut throttle = Throttle::default();
        let start = Moment::from_unix_millis(0);
        for name in 0..MAX_NAMES {
            assert_eq!(throttle.count(name.to_string(), 2, start), Ok(()));
        }
        let later = start.plus(Duration::from_secs(20));
        assert_eq!(throttle.count("one more".to_owned(), 2, later), Err(40));
        assert_eq!(throttle.windows.len(), MAX_NAMES);
        // Who has a place keeps it.
        assert_eq!(throttle.count("7".to_owned(), 2, later), Ok(()));
        let then = later.plus(Duration::from_secs(40));
        assert_eq!(throttle.count("one more".to_owned(), 2, then), Ok(()));
        assert_eq!(throttle.windows.len(), 1);
    }
}
