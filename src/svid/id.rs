use std::fmt;

use super::SvidError;

/// The longest id, in bytes (SPIFFE-ID §2.4).
const MAX_ID: usize = 2048;

/// The longest trust domain, in bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// A SPIFFE id of a workload: `spiffe://trust-domain/path`, as the standard's alphabets have it
/// (SP-4), and never the root.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId(Box<str>);

impl SpiffeId {
    /// Checks every part.
    ///
    /// # Errors
    /// [`SvidError::Id`].
    pub fn parse(text: &str) -> Result<Self, SvidError> {
        let wrong = SvidError::Id;
        if text.len() > MAX_ID {
            return Err(wrong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(wrong)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(wrong)?;
        if is_trust_domain(trust_domain) && path.split('/').all(is_segment) {
            Ok(Self(text.into()))
        } else {
            Err(wrong)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Without port, user part and percent-encoding: none of these is in the alphabet.
fn is_trust_domain(text: &str) -> bool {
    let legal = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
    };
    (1..=MAX_TRUST_DOMAIN).contains(&text.len()) && text.bytes().all(legal)
}

fn is_segment(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !matches!(text, "" | "." | "..") && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SP-1, SP-4: the standard's alphabets, and nothing that could be read in two ways.
    #[test]
    fn ids_are_those_of_the_standard() {
        for good in [
            "spiffe://aegis.example/tenant/t/mcp/desktop-broker/build-01",
            "spiffe://a/b",
            "spiffe://a_b-c.d/A.b_c-D",
            "spiffe://a/..b",
        ] {
            assert_eq!(SpiffeId::parse(good).unwrap().as_str(), good);
        }
        let long = format!("spiffe://a/{}", "x".repeat(MAX_ID));
        let domain = format!("spiffe://{}/b", "x".repeat(256));
        for bad in [
            "",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///b",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://A/b",
            "spiffe://a:443/b",
            "spiffe://u@a/b",
            "spiffe://a/b%2e",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b c",
            "spiffe://a/\u{e4}",
            "SPIFFE://a/b",
            "https://a/b",
            &long,
            &domain,
        ] {
            assert_eq!(SpiffeId::parse(bad), Err(SvidError::Id), "{bad}");
        }
    }
}
