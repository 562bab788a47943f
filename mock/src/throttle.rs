//! How often someone may call.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;

const WINDOW: Duration = Duration::from_mins(1);

/// Counts calls in windows of a minute, by name.
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
        if self.windows.len() > 10_000 {
            self.windows
                .retain(|_, (start, _)| now.since(*start) < WINDOW);
        }
        self.check(&who, limit, now)?;
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
        let passed = now.since(*start);
        if passed >= WINDOW || *count < limit {
            return Ok(());
        }
        let left = WINDOW.saturating_sub(passed).as_secs();
        Err(u32::try_from(left).unwrap_or(60).max(1))
    }
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
}
