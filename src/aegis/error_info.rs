//! The `aegis.v1.ErrorInfo` of an error's details: base64 of a protobuf message, read with
//! bounds (`aegis.md` 12). Its `debug` mirror is for people and is not looked at.

#![warn(clippy::arithmetic_side_effects)]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// The detail's type.
pub(super) const TYPE: &str = "aegis.v1.ErrorInfo";

/// The longest base64 we decode. Ours is below 200 bytes.
const MAX_ENCODED: usize = 4096;

/// What the server says about an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ErrorInfo {
    /// Why.
    pub(super) reason: String,
    /// When to try again.
    pub(super) retry_after: Option<Duration>,
}

impl ErrorInfo {
    /// Reads the `value` of a detail, padded or not. `None` for anything malformed.
    pub(super) fn decode(value: &str) -> Option<Self> {
        if value.len() > MAX_ENCODED {
            return None;
        }
        let bytes = STANDARD
            .decode(value)
            .or_else(|_padding| STANDARD_NO_PAD.decode(value))
            .ok()?;
        let mut rest = bytes.as_slice();
        let mut info = Self::default();
        while !rest.is_empty() {
            let tag = varint(&mut rest)?;
            let (field, wire_type) = (tag >> 3, tag & 7);
            match (field, wire_type) {
                (0, _) => return None,
                (1, 2) => {
                    let text = std::str::from_utf8(bytes_of(&mut rest)?).ok()?;
                    info.reason = String::from(text);
                }
                (3, 0) => {
                    // An int32; what does not fit (negative ones come as ten bytes) means nothing.
                    info.retry_after = u32::try_from(varint(&mut rest)?)
                        .ok()
                        .filter(|seconds| *seconds > 0)
                        .map(|seconds| Duration::from_secs(seconds.into()));
                }
                (_, 0) => {
                    varint(&mut rest)?;
                }
                (_, 1) => rest = rest.get(8..)?,
                (_, 2) => {
                    bytes_of(&mut rest)?;
                }
                (_, 5) => rest = rest.get(4..)?,
                _ => return None,
            }
        }
        Some(info)
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for index in 0..10_u32 {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        let shift = index.saturating_mul(7);
        let part = u64::from(byte & 0x7f);
        // The tenth byte holds one bit.
        if index == 9 && part > 1 {
            return None;
        }
        value |= part.checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn bytes_of<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(rest)?).ok()?;
    let (bytes, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::many;

    /// The example of `aegis.md` 16.
    #[test]
    fn the_worked_example_is_read() {
        let info = ErrorInfo::decode("Cg51c2VfZHBvcF9ub25jZRIGcmVxXzA1").unwrap();
        assert_eq!(info.reason, "use_dpop_nonce");
        assert_eq!(info.retry_after, None);
    }

    #[test]
    fn good_and_bad_messages_are_told_apart() {
        let b64 = |bytes: &[u8]| STANDARD.encode(bytes);
        let row = |reason: &str, seconds: Option<u64>| {
            Some(ErrorInfo {
                reason: reason.to_owned(),
                retry_after: seconds.map(Duration::from_secs),
            })
        };
        #[rustfmt::skip]
        let rows = [
            ("empty", String::new(), row("", None)),
            ("reason", b64(b"\x0a\x01a"), row("a", None)),
            ("without padding", "CgFh".to_owned(), row("a", None)),
            ("padded", b64(b"\x0a\x02ab"), row("ab", None)),
            ("padding left out", b64(b"\x0a\x02ab").replace('=', ""), row("ab", None)),
            ("retry after", b64(b"\x18\x1e"), row("", Some(30))),
            ("retry after zero", b64(b"\x18\x00"), row("", None)),
            ("negative", b64(b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), row("", None)),
            ("last one counts", b64(b"\x0a\x01a\x0a\x01b"), row("b", None)),
            ("unknown fields", b64(b"\x28\x01\x32\x01x\x39\0\0\0\0\0\0\0\0\x45\0\0\0\0\x0a\x01a"), row("a", None)),
            ("not base64", "%%%".to_owned(), None),
            ("url alphabet", "_-_-".to_owned(), None),
            ("length beyond the end", b64(b"\x0a\x05a"), None),
            ("huge length", b64(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), None),
            ("endless varint", b64(&[0xff; 11]), None),
            ("a group", b64(b"\x0b"), None),
            ("field zero", b64(b"\x02\x00"), None),
            ("not UTF-8", b64(b"\x0a\x01\xff"), None),
            ("cut off", b64(b"\x0a"), None),
            ("too long", "A".repeat(MAX_ENCODED + 4), None),
        ];
        for (name, value, expected) in rows {
            assert_eq!(ErrorInfo::decode(&value), expected, "{name}");
        }
    }

    proptest! {
        #![proptest_config(many())]

        /// HY-17: any bytes are read or refused, never a panic.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _read = ErrorInfo::decode(&STANDARD.encode(bytes)).is_some();
        }
    }
}
