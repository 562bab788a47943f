use std::fmt;
use std::time::Duration;

use super::{CleanText, DeviceView, ErrorCode, RequestId};

/// A no, as every door says it: a stable code, what would fix it, and when to stop trying.
/// Says nothing about the policy's contents (PO-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The public code.
    pub code: ErrorCode,
    /// A finer word from a closed set of ours or of the Aegis contract, where there is one.
    pub reason_code: Option<CleanText>,
    /// What happened, when the code's own message is not enough. Fits after `error: `.
    pub message: Option<CleanText>,
    /// What would fix it, when the code's own hint is not enough.
    pub fix: Option<CleanText>,
    /// When to try again, at the earliest.
    pub retry_after: Option<Duration>,
    /// The answer's request id at Aegis, for its operators.
    pub request_id: Option<RequestId>,
    /// The login that is already running, when one is what is missing.
    pub login: Option<Box<DeviceView>>,
}

impl Refusal {
    /// A refusal that says just the code.
    pub const fn new(code: ErrorCode) -> Self {
        Self {
            code,
            reason_code: None,
            message: None,
            fix: None,
            retry_after: None,
            request_id: None,
            login: None,
        }
    }

    /// Adds a message of our own.
    #[must_use]
    pub fn with_message(mut self, message: &str) -> Self {
        self.message = Some(CleanText::new(message, 512));
        self
    }

    /// Adds an error of ours as the message, with what caused it.
    #[must_use]
    pub fn with_error(self, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        self.with_message(&text)
    }

    /// Adds a finer word.
    #[must_use]
    pub fn with_reason(mut self, reason: &str) -> Self {
        self.reason_code = Some(CleanText::new(reason, 64));
        self
    }

    /// Adds a hint of our own.
    #[must_use]
    pub fn with_fix(mut self, fix: &str) -> Self {
        self.fix = Some(CleanText::new(fix, 512));
        self
    }

    /// What happened.
    pub fn message(&self) -> &str {
        self.message
            .as_ref()
            .map_or(self.code.message(), CleanText::as_str)
    }

    /// What would fix it.
    pub fn fix(&self) -> &str {
        self.fix.as_ref().map_or(self.code.fix(), CleanText::as_str)
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::new(code)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the file could not be read")]
    struct Unreadable(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = Unreadable(io::ErrorKind::PermissionDenied.into());
        let refusal = Refusal::new(ErrorCode::ConfigInvalid).with_error(&error);
        assert_eq!(
            refusal.message(),
            "the file could not be read: permission denied"
        );
    }
}
