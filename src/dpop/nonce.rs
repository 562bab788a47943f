use std::fmt;

/// The longest nonce we carry, in bytes. Servers send about 40; a proof may have 8 KiB.
const MAX_LENGTH: usize = 512;

/// A nonce that a server wants in proofs (RFC 9449 §8): 1 to 512 characters of
/// `NQCHAR = %x21 / %x23-5B / %x5D-7E` (RFC 6749 appendix A), so it needs no JSON escapes.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(Box<str>);

/// A text is not a nonce. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a DPoP nonce is 1 to 512 visible characters without quote and backslash")]
pub struct NonceError;

impl Nonce {
    /// Checks length and alphabet.
    ///
    /// # Errors
    /// [`NonceError`].
    pub fn parse(text: &str) -> Result<Self, NonceError> {
        let legal = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if text.is_empty() || text.len() > MAX_LENGTH || !text.bytes().all(legal) {
            return Err(NonceError);
        }
        Ok(Self(Box::from(text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DP-12: RFC 9449 §8.1 says which characters a nonce has.
    #[test]
    fn a_nonce_is_of_its_alphabet_and_bounded() {
        let longest = "n".repeat(MAX_LENGTH);
        let too_long = "n".repeat(MAX_LENGTH + 1);
        let rows = [
            ("plain", "eyJ7S_zG.eyJH0-Z.HX4w-7v", true),
            ("every mark", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", true),
            ("longest", longest.as_str(), true),
            ("empty", "", false),
            ("too long", too_long.as_str(), false),
            ("space", "a b", false),
            ("quote", "a\"b", false),
            ("backslash", "a\\b", false),
            ("line feed", "a\nb", false),
            ("delete", "a\u{7f}b", false),
            ("not ASCII", "ä", false),
        ];
        for (name, text, legal) in rows {
            assert_eq!(Nonce::parse(text).is_ok(), legal, "{name}");
        }
    }
}
