//! What is looked for: every value in every encoding that hides it from a plain search.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

use crate::secret::SecretString;

/// The shortest value that is looked for, in bytes.
pub const MIN_VALUE: usize = 6;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The secret values that a [`Redactor`](super::Redactor) finds. They and what they look like in
/// every encoding are wiped when it is dropped.
#[derive(Default)]
pub struct Values {
    needles: Vec<Needle>,
    /// Needles by their first two bytes, in every spelling of these.
    by_pair: BTreeMap<[u8; 2], Vec<usize>>,
    count: usize,
}

impl Values {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value and answers with its number, counted from 0. One shorter than [`MIN_VALUE`]
    /// has a number too and is never found.
    pub fn add(&mut self, value: &SecretString) -> usize {
        let number = self.count;
        self.count = self.count.saturating_add(1);
        let bytes = value.expose().as_bytes();
        if bytes.len() >= MIN_VALUE {
            for needle in needles(number, value.expose()) {
                self.insert(needle);
            }
        }
        number
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn insert(&mut self, needle: Needle) {
        let [Some(first), Some(second)] = [0, 1].map(|place| needle.bytes.get(place).copied())
        else {
            return;
        };
        let place = self.needles.len();
        for first in needle.kind.spellings(first) {
            for second in needle.kind.spellings(second) {
                let needles = self.by_pair.entry([first, second]).or_default();
                if needles.last() != Some(&place) {
                    needles.push(place);
                }
            }
        }
        self.needles.push(needle);
    }

    pub(super) fn beginning_with(&self, pair: [u8; 2]) -> &[usize] {
        self.by_pair.get(&pair).map_or(&[], Vec::as_slice)
    }

    pub(super) fn needle(&self, place: usize) -> Option<&Needle> {
        self.needles.get(place)
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = [u8; 2]> {
        self.by_pair.keys().copied()
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        // Two bytes of each needle.
        while let Some((mut pair, _)) = self.by_pair.pop_first() {
            pair.zeroize();
        }
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Values")
    }
}

/// One value in one encoding.
pub(super) struct Needle {
    /// Of which value.
    pub(super) value: usize,
    bytes: Zeroizing<Vec<u8>>,
    pub(super) kind: Kind,
    /// The character before it holds some bits of the value too.
    pub(super) has_lead: bool,
    /// The character after it does.
    pub(super) has_trail: bool,
}

/// Which spellings of a character are equal, and what may stand between two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is.
    Exact,
    /// In one of the radixes of letters in either case, broken into lines.
    AnyCase,
    /// In base64 of either alphabet, broken into lines.
    Base64,
    /// In hexadecimal digits, in groups or broken into lines.
    Hex,
}

impl Kind {
    fn canonical(self, byte: u8) -> u8 {
        match (self, byte) {
            (Self::Base64, b'-') => b'+',
            (Self::Base64, b'_') => b'/',
            (Self::AnyCase | Self::Hex, _) => byte.to_ascii_lowercase(),
            (Self::Exact | Self::Base64, _) => byte,
        }
    }

    fn spellings(self, byte: u8) -> [u8; 2] {
        match (self, byte) {
            (Self::Base64, b'+') => [byte, b'-'],
            (Self::Base64, b'/') => [byte, b'_'],
            (Self::AnyCase | Self::Hex, _) => [byte, byte.to_ascii_uppercase()],
            (Self::Exact | Self::Base64, _) => [byte, byte],
        }
    }

    /// Whether it may stand between two characters without being one.
    fn skips(self, byte: u8) -> bool {
        match self {
            Self::Exact => false,
            Self::AnyCase | Self::Base64 => matches!(byte, b'\r' | b'\n'),
            Self::Hex => matches!(byte, b'\r' | b'\n' | b' ' | b':'),
        }
    }
}

impl Needle {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether these bytes are the next ones after `matched`.
    pub(super) fn goes_on_with(&self, matched: usize, bytes: &[u8]) -> bool {
        let rest = self.bytes.get(matched..).unwrap_or_default();
        rest.get(..bytes.len()).is_some_and(|wanted| {
            wanted
                .iter()
                .zip(bytes)
                .all(|(wanted, byte)| *wanted == self.kind.canonical(*byte))
        })
    }

    /// Whether this may stand between two of its characters.
    pub(super) fn skips(&self, bytes: &[u8]) -> bool {
        matches!(bytes, [byte] if self.kind.skips(*byte))
    }
}

/// Whether a byte is a digit of base64 or base32, so that it may hold some bits of a value.
pub(super) const fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

fn needles(number: usize, text: &str) -> Vec<Needle> {
    let value = text.as_bytes();
    let needle = |bytes: Vec<u8>, kind: Kind| Needle {
        value: number,
        bytes: Zeroizing::new(bytes),
        kind,
        has_lead: false,
        has_trail: false,
    };
    let mut found = vec![needle(value.to_vec(), Kind::Exact)];
    for before in 0..3 {
        found.push(digits(number, value, before, &BASE64[..], 6, Kind::Base64));
    }
    for before in 0..5 {
        found.push(digits(number, value, before, &BASE32[..], 5, Kind::AnyCase));
    }
    found.push(digits(number, value, 0, &HEX[..], 4, Kind::Hex));
    let len = value.len().saturating_mul(2);
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let mut bytes = Vec::with_capacity(len);
        bytes.extend(text.encode_utf16().flat_map(order));
        found.push(needle(bytes, Kind::Exact));
    }
    found
}

/// The digits that are sure whatever the `before` bytes are that stand before the value in the
/// same encoding.
fn digits(
    number: usize,
    value: &[u8],
    before: usize,
    alphabet: &[u8],
    bits: usize,
    kind: Kind,
) -> Needle {
    let all = value.len().saturating_mul(8);
    let taken = before.saturating_mul(8) % bits;
    let mut at = bits.saturating_sub(taken) % bits;
    let has_lead = at > 0;
    let mut bytes = Vec::with_capacity(all.div_ceil(bits));
    while at.saturating_add(bits) <= all {
        let digit = alphabet.get(window(value, at, bits)).copied();
        bytes.extend(digit.map(|digit| kind.canonical(digit)));
        at = at.saturating_add(bits);
    }
    Needle {
        value: number,
        bytes: Zeroizing::new(bytes),
        kind,
        has_lead,
        has_trail: at < all,
    }
}

/// That many bits, at most 8, from that bit on.
fn window(value: &[u8], at: usize, bits: usize) -> usize {
    let byte = |place: usize| value.get(place).map_or(0, |byte| usize::from(*byte));
    let first = at / 8;
    let both = (byte(first) << 8) | byte(first.saturating_add(1));
    let below = 16_usize.saturating_sub(at % 8).saturating_sub(bits);
    (both >> below) & ((1 << bits) - 1)
}
