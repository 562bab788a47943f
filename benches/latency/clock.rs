use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the clock that only ever goes forward.
pub(crate) fn nanos() -> u64 {
    let at = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(at.tv_nsec).unwrap_or(0))
}

/// `count` as a number to calculate with.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "measurements are far below 2^53, and nobody counts on the last digit"
)]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}
