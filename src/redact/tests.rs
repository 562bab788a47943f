#![expect(
    clippy::string_slice,
    reason = "the texts are ASCII where they are cut"
)]

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::cases::many;
use crate::secret::SecretString;

/// What comes out of a text that arrives in pieces of these sizes, again and again.
fn redacted(values: &[&str], text: &[u8], sizes: &[usize]) -> (Vec<u8>, Findings) {
    let mut secrets = Values::new();
    for value in values {
        secrets.add(&SecretString::copy_from(value));
    }
    let mut redactor = Redactor::new(secrets.into());
    let (mut out, mut rest) = (Vec::new(), text);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at((*size).clamp(1, rest.len()));
        redactor.push(piece, &mut out);
        rest = later;
    }
    let findings = redactor.finish(&mut out);
    (out, findings)
}

/// The same as text, whole and byte by byte, which must not differ.
fn shown(values: &[&str], text: &str) -> String {
    let whole = redacted(values, text.as_bytes(), &[usize::MAX]);
    assert_eq!(whole, redacted(values, text.as_bytes(), &[1]), "{text}");
    String::from_utf8(whole.0).unwrap()
}

type Encode = fn(&str) -> String;

fn each(text: &str, write: impl Fn(&mut String, u8)) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        write(&mut out, byte);
        out
    })
}

fn percent(text: &str, all: bool, upper: bool) -> String {
    each(text, |out, byte| {
        if !all && byte.is_ascii_alphanumeric() {
            out.push(byte.into());
        } else if upper {
            write!(out, "%{byte:02X}").unwrap();
        } else {
            write!(out, "%{byte:02x}").unwrap();
        }
    })
}

fn utf16_escapes(text: &str) -> String {
    text.encode_utf16().fold(String::new(), |mut out, unit| {
        write!(out, "\\u{unit:04x}").unwrap();
        out
    })
}

fn json(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    quoted[1..quoted.len() - 1].to_owned()
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

fn wrapped(text: &str, at: usize, with: &str) -> String {
    let pieces = text.as_bytes().chunks(at);
    let pieces: Vec<_> = pieces.map(|piece| str::from_utf8(piece).unwrap()).collect();
    pieces.join(with)
}

fn base32(bytes: &[u8]) -> String {
    let mut out = String::new();
    let (mut bits, mut held) = (0, 0_u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            let digit = usize::try_from((held >> bits) & 31).unwrap();
            out.push(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[digit].into());
        }
    }
    if bits > 0 {
        let digit = usize::try_from((held << (5 - bits)) & 31).unwrap();
        out.push(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[digit].into());
    }
    out
}

/// Encodings whose text is the value's alone. Written apart from the code that finds them.
const ENCODINGS: &[(&str, Encode)] = &[
    ("raw", str::to_owned),
    ("hex", |v| each(v, |out, b| write!(out, "{b:02x}").unwrap())),
    ("HEX", |v| each(v, |out, b| write!(out, "{b:02X}").unwrap())),
    ("hex groups", |v| {
        wrapped(&each(v, |out, b| write!(out, "{b:02x}").unwrap()), 4, " ")
    }),
    ("percent", |v| percent(v, false, true)),
    ("percent, all", |v| percent(v, true, true)),
    ("percent, lower", |v| percent(v, true, false)),
    ("percent, twice", |v| {
        percent(&percent(v, false, true), false, true)
    }),
    ("percent, twice, lower", |v| {
        percent(&percent(v, true, false), true, false)
    }),
    ("json", json),
    ("json in json", |v| json(&json(v))),
    ("\\u", utf16_escapes),
    ("\\u in json", |v| json(&utf16_escapes(v))),
    ("\\x", |v| {
        each(v, |out, b| write!(out, "\\x{b:02x}").unwrap())
    }),
    ("html", html),
    ("html, decimal", |v| {
        v.chars().fold(String::new(), |mut out, c| {
            write!(out, "&#{};", u32::from(c)).unwrap();
            out
        })
    }),
    ("html, hex", |v| {
        v.chars().fold(String::new(), |mut out, c| {
            write!(out, "&#x{:X};", u32::from(c)).unwrap();
            out
        })
    }),
    ("base64", |v| STANDARD_NO_PAD.encode(v)),
    ("base64 url", |v| URL_SAFE_NO_PAD.encode(v)),
    ("base64 lines", |v| {
        wrapped(&STANDARD_NO_PAD.encode(v), 76, "\r\n")
    }),
    ("base64 in a form", |v| {
        percent(&STANDARD_NO_PAD.encode(v), false, true)
    }),
    ("base64 in json", |v| {
        json(&wrapped(&STANDARD_NO_PAD.encode(v), 5, "\n"))
    }),
    ("base32", |v| base32(v.as_bytes())),
    ("base32 lower", |v| {
        base32(v.as_bytes()).to_ascii_lowercase()
    }),
];

/// HY-11: each encoding by name, on a value in which every escape has something to do.
#[test]
fn a_value_is_masked_in_every_encoding() {
    let value = "p\"a\\s/s & <w>'ö😀\tr+d%1";
    for (name, encode) in ENCODINGS {
        let text = format!("<[{}]>", encode(value));
        let masked = shown(&[value], &text);
        assert_eq!(masked, "<[[***]]>", "{name}: {text}");
    }
}

/// HY-11: UTF-16 of either byte order.
#[test]
fn a_value_is_masked_in_utf_16() {
    let value = "s3cret-ö😀";
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let utf16 = |text: &str| text.encode_utf16().flat_map(order).collect::<Vec<_>>();
        let text = [utf16("a="), utf16(value), utf16(";")].concat();
        for size in [1, 2, 5, 1000] {
            let (out, findings) = redacted(&[value], &text, &[size]);
            assert_eq!(out, [&utf16("a=")[..], MASK, &utf16(";")].concat());
            assert_eq!(findings.hits, [1]);
        }
    }
}

/// HY-11: a value between others in the same base64, as a user's name before a password makes it.
/// The digits that hold some of its bits and some of a neighbour's go too.
#[test]
fn a_value_inside_longer_base64_is_masked_with_the_digits_it_shares() {
    let value = "hunter2-hunter2";
    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
        for before in 0..7 {
            for after in 0..4 {
                let (left, right) = ("?>".repeat(4), "~~>");
                let all = format!("{}{value}{}", &left[..before], &right[..after]);
                let text = engine.encode(&all);
                let first = before * 8 / 6;
                let last = ((before + value.len()) * 8).div_ceil(6);
                let expected = format!("{}[***]{}", &text[..first], &text[last..]);
                assert_eq!(shown(&[value], &text), expected, "{all}");
            }
        }
    }
}

/// The same for base32.
#[test]
fn a_value_inside_longer_base32_is_masked_with_the_digits_it_shares() {
    let value = "hunter2-hunter2";
    for before in 0..6 {
        for after in 0..5 {
            let all = format!("{}{value}{}", &"prefix"[..before], &"after"[..after]);
            let text = base32(all.as_bytes());
            let first = before * 8 / 5;
            let last = ((before + value.len()) * 8).div_ceil(5);
            let expected = format!("{}[***]{}", &text[..first], &text[last..]);
            assert_eq!(shown(&[value], &text), expected, "{all}");
        }
    }
}

/// HY-11: what overlaps is masked whole; of values that hold each other the longest one counts.
#[test]
fn overlapping_values_are_masked_whole_and_the_longest_counts() {
    let values = ["abcdefgh", "abcdefghijkl", "ijklmnopq", "defghi"];
    let text = b"-abcdefghijklmnopq-abcdefgh-".as_slice();
    let (out, findings) = redacted(&values, text, &[3]);
    assert_eq!(out, b"-[***]-[***]-");
    assert_eq!(findings.hits, [1, 1, 1, 0]);
    assert_eq!(findings.found().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_value_that_is_too_short_is_not_looked_for() {
    assert_eq!(shown(&["short"], "short c2hvcnQ="), "short c2hvcnQ=");
    assert_eq!(shown(&["longer"], "longer bG9uZ2Vy"), "[***] [***]");
}

/// Nothing is held back that can be shown: a prompt without a line's end appears.
#[test]
fn text_that_begins_no_value_is_shown_at_once() {
    let mut values = Values::new();
    values.add(&SecretString::copy_from("hunter2-hunter2"));
    let mut redactor = Redactor::new(values.into());
    let mut out = Vec::new();
    redactor.push(b"Proceed? [y/n] ", &mut out);
    assert_eq!(out, b"Proceed? [y/n] ");
    redactor.push(b"hunter2-hunt", &mut out);
    assert_eq!(out, b"Proceed? [y/n] ");
    redactor.push(b"ing.", &mut out);
    assert_eq!(out, b"Proceed? [y/n] hunter2-hunting.");
}

/// A text that is cut off shows no beginning of a value.
#[test]
fn the_beginning_of_a_value_is_left_out_where_the_text_is_cut() {
    let value = "hunter2-hunter2";
    for text in ["a: hunter2-hunter", "a: aHVudGVyMi1odW50", "a: %68%7"] {
        let mut values = Values::new();
        values.add(&SecretString::copy_from(value));
        let mut redactor = Redactor::new(values.into());
        let mut out = Vec::new();
        redactor.push(text.as_bytes(), &mut out);
        redactor.cut(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a: ", "{text}");
    }
    let mut values = Values::new();
    values.add(&SecretString::copy_from(value));
    values.add(&SecretString::copy_from("hunter2-hunter2hunting"));
    let mut redactor = Redactor::new(values.into());
    let mut out = Vec::new();
    redactor.push(b"a: hunter2-hunter2hunt", &mut out);
    let findings = redactor.cut(&mut out);
    assert_eq!(out, b"a: [***]");
    assert_eq!(findings.hits, [1, 0]);
}

/// LM: what costs too much is masked from there on, and said.
#[test]
fn text_made_to_cost_much_is_masked_from_there_on() {
    let value = "a".repeat(8192);
    let text = vec![b'a'; 64 * 1024];
    let (out, findings) = redacted(&[&value], &text, &[4096]);
    assert!(findings.overrun && !findings.is_clean());
    assert!(out.len() < 1024, "{}", out.len());
    assert!(!out.windows(64).any(|window| window == &text[..64]));
}

/// What it takes to look for 64 KiB is bounded: no more is held than the value can be long.
#[test]
fn no_more_is_held_back_than_a_value_can_take() {
    let value = (0..16_000_u32).fold(String::new(), |mut out, n| {
        write!(out, "{:04x}", n.wrapping_mul(40_503) % 65_536).unwrap();
        out
    });
    let mut values = Values::new();
    values.add(&SecretString::copy_from(&value));
    let mut redactor = Redactor::new(values.into());
    let mut out = Vec::new();
    redactor.push(value.as_bytes(), &mut out);
    redactor.push(b" and then ", &mut out);
    assert_eq!(out, b"[***] and then ");
}

fn secret() -> impl Strategy<Value = String> {
    prop_oneof![
        // Tokens.
        "[A-Za-z0-9_.~+/=-]{6,48}",
        // Whatever there is.
        proptest::collection::vec(any::<char>(), 6..24).prop_map(String::from_iter),
        // What looks like an escape.
        "[%\\\\&;#x25u0a+]{6,24}",
    ]
}

/// Every byte for itself, all of them at once, or anything between.
fn borders() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        1 => Just(vec![1]),
        1 => Just(vec![usize::MAX]),
        2 => proptest::collection::vec(1_usize..40, 1..8),
    ]
}

proptest! {
    #![proptest_config(many())]

    /// HY-11: whatever the value, the encoding and the borders, all of it goes and the rest stays.
    #[test]
    fn nothing_of_a_value_is_left(
        value in secret(),
        other in secret(),
        encoding in 0..ENCODINGS.len(),
        sizes in borders(),
    ) {
        let (name, encode) = ENCODINGS[encoding];
        let text = format!("<{{ {} }}>", encode(&value));
        // What looks like an escape can be read to end earlier or later.
        let is_plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "_.~-".contains(c));
        let (out, findings) = redacted(&[&value, &other], text.as_bytes(), &sizes);
        let out = String::from_utf8(out).unwrap();
        prop_assert!(findings.hits[0] > 0, "{}: {} -> {}", name, text, out);
        prop_assert!(!out.contains(&encode(&value)), "{}: {} -> {}", name, text, out);
        if is_plain && !name.ends_with("in json") {
            prop_assert_eq!(&out, "<{ [***] }>", "{}: {}", name, text);
        }
    }
}

proptest! {
    #![proptest_config(many())]

    /// HY-11: a text that holds no value comes out as it went in.
    #[test]
    fn text_without_a_value_is_unchanged(
        value in "[A-Z]{12,20}",
        text in proptest::collection::vec(any::<u8>(), 0..400),
        sizes in borders(),
    ) {
        let (out, findings) = redacted(&[&value], &text, &sizes);
        prop_assert_eq!(&out, &text);
        prop_assert!(findings.is_clean());
    }

    /// The borders of pieces change nothing.
    #[test]
    fn pieces_make_no_difference(
        value in secret(),
        noise in "[%\\\\&;#x25u0aA=+ \n-]{0,60}",
        sizes in borders(),
    ) {
        let text = format!("{noise}{}{noise}", percent(&value, false, true));
        let whole = redacted(&[&value], text.as_bytes(), &[usize::MAX]);
        prop_assert_eq!(redacted(&[&value], text.as_bytes(), &sizes), whole);
    }
}
