//! Finds secret values in a stream of foreign bytes and masks them (HY-11).
//!
//! [`Values`] takes the secrets, [`Redactor`] the bytes, in pieces of any size: a value is found
//! across their borders. It is found raw, in base64 (both alphabets, any alignment, with or
//! without padding), in base32, in hexadecimal, in UTF-16 of either byte order, and where any
//! character of these is written in a further way: percent-encoded up to three times, escaped for
//! JSON, a string literal or HTML. What is found is replaced by [`MASK`], and counted by the value
//! that it was.
//!
//! It holds back no more than what may still become a value. Its work is bounded: text that was
//! made to cost more than [`WORK_PER_BYTE`] is masked whole from there on.
//!
//! Not found are values shorter than [`MIN_VALUE`], which would hit by chance, pieces of a value
//! (such as its last digit of base64, where that stands on a line of its own), and what was
//! compressed or encrypted.
//!
//! No automaton library is used: a value's characters can each be written in a dozen ways, which
//! a set of fixed strings does not cover, and every needle would be copied where nothing wipes it.
//!
//! Start at `stream.rs`; `needles.rs` says what is looked for, `units.rs` how a character can be
//! written.

mod needles;
mod stream;
mod units;

pub use needles::{MIN_VALUE, Values};
pub use stream::{Findings, MASK, Redactor, WORK_PER_BYTE};

#[cfg(test)]
mod tests;
