//! Hashes, base64url and random names.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};

/// Base 32 as of Crockford, in lower case.
const BASE_32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// RFC 8628 §6.1: no vowels, so no words.
const USER_CODE: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// A SHA-256 hash; what is kept in place of a secret.
pub(crate) type Hash = [u8; 32];

pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Canonical base64url only: no padding, no stray bits, nothing else between.
pub(crate) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Base64url as loose as it comes: padded or not, stray bits or not.
pub(crate) fn from_any_base64url(text: &str) -> Option<Vec<u8>> {
    const ANY: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    ANY.decode(text).ok()
}

/// Base64 as proto3 JSON takes it: in either alphabet, padded or not.
pub(crate) fn from_any_base64(text: &str) -> Option<Vec<u8>> {
    const ANY: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    ANY.decode(text).ok().or_else(|| from_any_base64url(text))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[expect(
    clippy::expect_used,
    reason = "AWS-LC's generator does not fail on a working machine, and without it nothing may go on"
)]
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    bytes
}

/// `prefix` and 26 base-32 characters: 130 random bits.
pub(crate) fn random_id(prefix: &str) -> String {
    let tail = random::<26>()
        .into_iter()
        .filter_map(|byte| BASE_32.get(usize::from(byte & 31)))
        .map(|&letter| char::from(letter));
    prefix.chars().chain(tail).collect()
}

/// `prefix` and 32 random bytes in base64url.
pub(crate) fn random_secret(prefix: &str) -> String {
    format!("{prefix}{}", base64url(&random::<32>()))
}

/// Sixteen base-32 characters in fours: 80 random bits that a person can type.
pub(crate) fn random_password() -> String {
    let mut password = String::new();
    for (place, byte) in random::<16>().into_iter().enumerate() {
        if place > 0 && place.is_multiple_of(4) {
            password.push('-');
        }
        if let Some(&letter) = BASE_32.get(usize::from(byte & 31)) {
            password.push(char::from(letter));
        }
    }
    password
}

/// `XXXX-XXXX`.
pub(crate) fn random_user_code() -> String {
    let mut code = String::new();
    while code.len() < 9 {
        if code.len() == 4 {
            code.push('-');
        }
        for byte in random::<16>() {
            // 240 is the largest multiple of 20 in a byte: no letter is likelier.
            if byte < 240
                && let Some(&letter) = USER_CODE.get(usize::from(byte % 20))
            {
                code.push(char::from(letter));
                break;
            }
        }
    }
    code
}

/// A user code as it is shown, if those are its letters in whatever case, dashes aside.
pub(crate) fn user_code(text: &str) -> Option<String> {
    let mut code = String::new();
    for letter in text.chars().filter(|letter| *letter != '-') {
        let letter = letter.to_ascii_uppercase();
        if !u8::try_from(letter).is_ok_and(|letter| USER_CODE.contains(&letter)) {
            return None;
        }
        if code.len() == 4 {
            code.push('-');
        }
        code.push(letter);
    }
    (code.len() == 9).then_some(code)
}

/// Whether `text` is `prefix` and 26 base-32 characters.
pub(crate) fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|tail| tail.len() == 26 && tail.bytes().all(|b| BASE_32.contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_user_code_is_one() {
        for text in ["BCDF-GHJK", "bcdfghjk", "bcdf--ghjk"] {
            assert_eq!(user_code(text).as_deref(), Some("BCDF-GHJK"), "{text}");
        }
        for text in [
            "",
            "BCDF",
            "BCDF-GHJ",
            "BCDF-GHJKL",
            "ACDF-GHJK",
            "BCDF-GHJ<",
        ] {
            assert_eq!(user_code(text), None, "{text}");
        }
        let code = random_user_code();
        assert_eq!(user_code(&code), Some(code));
    }
}
