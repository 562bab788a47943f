use std::fmt;
use std::sync::Arc;

/// A text is not an identifier of the kind asked for: empty, too long, or with a character
/// outside its alphabet. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be 1 to {max} characters of its alphabet")]
pub struct IdError {
    /// What was being read.
    pub kind: &'static str,
    /// How long it may be, in bytes.
    pub max: usize,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and alphabet.
            ///
            /// # Errors
            /// [`IdError`].
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let allowed: fn(u8) -> bool = $allowed;
                if text.is_empty() || text.len() > $max || !text.bytes().all(allowed) {
                    return Err(IdError { kind: $kind, max: $max });
                }
                Ok(Self(Arc::from(text)))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

const fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

const fn visible(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
}

text_id!(
    /// A lease's name at Aegis: `lse_` and 26 base-32 characters there, opaque here. A handle,
    /// not an authority: using it takes a session and passes policy again.
    LeaseId, "lease id", 128, token
);
text_id!(
    /// The `X-Request-Id` of one answer.
    RequestId, "request id", 128, token
);
text_id!(
    /// The `jti` of one DPoP proof (RFC 9449 §4.2).
    ProofJti, "proof jti", 256, token
);
text_id!(
    /// The name under which a DPoP key is registered: `pop-` and its thumbprint.
    PopKeyId, "pop key id", 64, token
);
text_id!(
    /// An Aegis session: what one login started.
    SessionId, "session id", 128, token
);
text_id!(
    /// An Aegis tenant.
    TenantId, "tenant id", 128, token
);
text_id!(
    /// Whom a token speaks for, as its `sub` says: `user:u-demo`, `mcp:desktop-broker:host-01`.
    Principal, "principal", 256, visible
);
text_id!(
    /// A profile's name in the configuration.
    ProfileName, "profile name", 32, token
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_bounded_and_plain() {
        assert_eq!(LeaseId::parse("lse_4k7q").unwrap().as_str(), "lse_4k7q");
        assert!(LeaseId::parse("").is_err());
        assert!(LeaseId::parse(&"a".repeat(129)).is_err());
        assert!(LeaseId::parse("lse_\u{1b}[31m").is_err());
        assert!(Principal::parse("user:u-demo").is_ok());
        assert!(Principal::parse("user:\u{202e}omed").is_err());
    }
}
