use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// A point in time that several waits in a row share: a descriptor among those waited for, so
/// that nothing here has to read a clock.
#[derive(Debug)]
pub(super) struct Deadline(OwnedFd);

impl Deadline {
    /// The point `limit` from now.
    pub(super) fn after(limit: Duration) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let once = Itimerspec {
            it_interval: timespec(Duration::ZERO)?,
            it_value: timespec(limit)?,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(Self(timer))
    }

    /// Waits until one of `others` is readable or closed. `false` when the deadline came first.
    pub(super) fn wait_for(&self, others: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let mut all = vec![self.0.as_fd()];
        all.extend_from_slice(others);
        let ready = wait(&all, None)?;
        Ok(ready.iter().skip(1).any(|ready| *ready))
    }

    /// Waits for `time`. `false` when the deadline came first.
    pub(super) fn pause(&self, time: Duration) -> io::Result<bool> {
        let passed = wait(&[self.0.as_fd()], Some(time))?;
        Ok(!passed.contains(&true))
    }
}

/// Waits until one of `fds` is readable or closed, or `limit` is over. Says of each whether it is.
pub(super) fn wait(fds: &[BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<Vec<bool>> {
    let limit = limit.map(timespec).transpose()?;
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    retry_on_intr(|| poll(&mut polled, limit.as_ref()))?;
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

fn timespec(duration: Duration) -> io::Result<Timespec> {
    Timespec::try_from(duration).map_err(io::Error::other)
}
