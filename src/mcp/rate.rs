//! How often one process may do a thing: some at once, then so many a second (LM).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::ProcessId;

/// Processes that are remembered at once. More of them than connections can be only by coming
/// and going within [`Rate::window`], which is no honest client's way.
const MAX_PROCESSES: usize = 4096;

/// One limit, for every process on its own.
#[derive(Debug)]
pub(super) struct Rate {
    interval: Duration,
    burst: u32,
    /// When a process would have used up what it has had, if it had kept to the interval.
    /// Behind a lock for a few instructions without an `await`.
    due: Mutex<HashMap<ProcessId, Instant>>,
}

impl Rate {
    /// `burst` at once, then one in each `interval`.
    pub(super) fn new(burst: u32, interval: Duration) -> Self {
        Self {
            interval,
            burst,
            due: Mutex::new(HashMap::new()),
        }
    }

    fn window(&self) -> Duration {
        self.interval.saturating_mul(self.burst)
    }

    /// Takes one for that process, or says after how long there is one.
    pub(super) fn take(&self, process: ProcessId, now: Instant) -> Result<(), Duration> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= MAX_PROCESSES && !due.contains_key(&process) {
            due.retain(|_, at| *at > now);
            if due.len() >= MAX_PROCESSES {
                return Err(self.interval);
            }
        }
        let at = due.entry(process).or_insert(now);
        let next = (*at).max(now) + self.interval;
        let ahead = next.saturating_duration_since(now);
        match ahead.checked_sub(self.window()) {
            Some(wait) if !wait.is_zero() => Err(wait),
            Some(_) | None => {
                *at = next;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32) -> ProcessId {
        ProcessId { pid, started: 1 }
    }

    /// LM: sixty at once, the sixty-first after a tenth of a second, each process on its own.
    #[tokio::test(start_paused = true)]
    async fn a_burst_then_a_steady_pace_for_each_process() {
        let rate = Rate::new(60, Duration::from_millis(100));
        let now = Instant::now();
        for _ in 0..60 {
            assert_eq!(rate.take(process(1), now), Ok(()));
        }
        let wait = Duration::from_millis(100);
        assert_eq!(rate.take(process(1), now), Err(wait));
        assert_eq!(rate.take(process(2), now), Ok(()));
        assert_eq!(rate.take(process(1), now + wait), Ok(()));
        assert_eq!(rate.take(process(1), now + wait), Err(wait));
        let later = now + Duration::from_mins(1);
        for _ in 0..60 {
            assert_eq!(rate.take(process(1), later), Ok(()));
        }
        assert!(rate.take(process(1), later).is_err());
    }

    /// LM: what is remembered is bounded; a process too many waits until others are forgotten.
    #[tokio::test(start_paused = true)]
    async fn no_more_processes_are_remembered_than_that() {
        let rate = Rate::new(1, Duration::from_millis(100));
        let now = Instant::now();
        for pid in 0..i32::try_from(MAX_PROCESSES).unwrap() {
            assert_eq!(rate.take(process(pid), now), Ok(()));
        }
        assert!(rate.take(process(-1), now).is_err());
        let later = now + Duration::from_millis(100);
        assert_eq!(rate.take(process(-1), later), Ok(()));
        assert_eq!(rate.due.lock().unwrap().len(), 1);
    }
}
