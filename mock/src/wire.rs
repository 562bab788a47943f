//! Small conversions between our values and those of messages.

#![warn(clippy::arithmetic_side_effects)]

use std::ops::RangeInclusive;

use buffa_types::google::protobuf::Timestamp;
use url::Url;

use crate::clock::Moment;

pub(crate) fn int32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(crate) fn timestamp(at: Moment) -> Timestamp {
    let nanos = at.unix_millis().rem_euclid(1000).saturating_mul(1_000_000);
    Timestamp::from_unix(at.unix_seconds(), i32::try_from(nanos).unwrap_or(0))
}

/// `number`, or `default` for 0. Out of range: `None` when `strict`, else cut.
pub(crate) fn in_range(
    number: i32,
    default: u32,
    range: &RangeInclusive<u32>,
    strict: bool,
) -> Option<u32> {
    if number == 0 {
        return Some(default);
    }
    let asked = u32::try_from(number).unwrap_or(0);
    if range.contains(&asked) {
        return Some(asked);
    }
    (!strict).then(|| asked.clamp(*range.start(), *range.end()))
}

/// Scheme, host and port, without a slash at the end.
pub(crate) fn origin(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}
