//! Misbehaviour on demand.

use std::collections::HashMap;

use serde::Deserialize;

use crate::errors::{Reason, Refusal};

/// What can go wrong. Each kind shows itself at the calls it makes sense for
/// and waits for the next such call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Answers `unavailable`, nothing done.
    Unavailable,
    /// Answers `internal`, nothing done.
    Internal,
    /// Answers `rate_limited` with `Retry-After: 1`, nothing done.
    RateLimited,
    /// Holds the answer back until the connection closes or the server stops;
    /// nothing done.
    Stall,
    /// Closes the connection instead of answering, nothing done.
    CloseBefore,
    /// Does what was asked, then closes the connection instead of answering.
    CloseAfterCommit,
    /// Cannot write the event of what is asked: answers `audit_unavailable`,
    /// nothing done and nothing recorded.
    AuditUnavailable,
    /// Refuses a proof with `use_dpop_nonce` whatever its nonce.
    NonceOnce,
    /// As `NonceOnce`, and never wears off.
    NonceAlways,
    /// Does what was asked and answers 200 with half a JSON document.
    BadJson,
    /// Does what was asked and answers 200 with 16 MiB.
    HugeBody,
    /// Issues a token whose `token_info.thumbprint` is another key's.
    WrongThumbprint,
    /// Issues a token with a scope more than was asked for.
    WiderScope,
    /// Redeems as asked and names another account than the lease's in the answer.
    WrongTarget,
    /// Issues a token, a lease or material that lives one second.
    ShortExpiry,
    /// Judges `iat` and dates the answer one hour ahead.
    ClockSkew,
    /// Answers a poll with `slow_down`.
    SlowDown,
    /// Answers a poll of an approved code with `approved` instead of the token.
    ApprovedFirst,
}

impl FaultKind {
    /// Each kind once.
    pub const ALL: [Self; 18] = [
        Self::Unavailable,
        Self::Internal,
        Self::RateLimited,
        Self::Stall,
        Self::CloseBefore,
        Self::CloseAfterCommit,
        Self::AuditUnavailable,
        Self::NonceOnce,
        Self::NonceAlways,
        Self::BadJson,
        Self::HugeBody,
        Self::WrongThumbprint,
        Self::WiderScope,
        Self::WrongTarget,
        Self::ShortExpiry,
        Self::ClockSkew,
        Self::SlowDown,
        Self::ApprovedFirst,
    ];

    /// Its name, as control knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::RateLimited => "rate_limited",
            Self::Stall => "stall",
            Self::CloseBefore => "close_before",
            Self::CloseAfterCommit => "close_after_commit",
            Self::AuditUnavailable => "audit_unavailable",
            Self::NonceOnce => "nonce_once",
            Self::NonceAlways => "nonce_always",
            Self::BadJson => "bad_json",
            Self::HugeBody => "huge_body",
            Self::WrongThumbprint => "wrong_thumbprint",
            Self::WiderScope => "wider_scope",
            Self::WrongTarget => "wrong_target",
            Self::ShortExpiry => "short_expiry",
            Self::ClockSkew => "clock_skew",
            Self::SlowDown => "slow_down",
            Self::ApprovedFirst => "approved_first",
        }
    }
}

/// The faults that wait for a call.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    by_method: HashMap<String, Vec<(FaultKind, u32)>>,
}

impl Faults {
    /// The next `count` calls of `method` show `kind`; 0 takes it back.
    pub(crate) fn set(&mut self, method: &str, kind: FaultKind, count: u32) {
        let faults = self.by_method.entry(method.to_owned()).or_default();
        faults.retain(|(known, _)| *known != kind);
        if count > 0 {
            faults.push((kind, count));
        }
    }

    /// Uses up one of `kinds`, the one set first.
    pub(crate) fn take(&mut self, method: &str, kinds: &[FaultKind]) -> Option<FaultKind> {
        let faults = self.by_method.get_mut(method)?;
        let (kind, left) = faults.iter_mut().find(|(kind, _)| kinds.contains(kind))?;
        let kind = *kind;
        if kind != FaultKind::NonceAlways {
            *left = left.saturating_sub(1);
        }
        faults.retain(|(_, left)| *left > 0);
        Some(kind)
    }

    /// Whether the event of what a call of `method` is about to do can be
    /// written. Asked before anything is changed.
    pub(crate) fn check_ledger(&mut self, method: &str) -> Result<(), Refusal> {
        match self.take(method, &[FaultKind::AuditUnavailable]) {
            Some(_) => Err(Refusal::new(
                Reason::AuditUnavailable,
                "the event cannot be written",
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_waits_for_a_call_it_fits_and_is_used_up() {
        let mut faults = Faults::default();
        faults.set("M", FaultKind::Stall, 1);
        faults.set("M", FaultKind::NonceAlways, 1);
        assert_eq!(faults.take("N", &[FaultKind::Stall]), None);
        assert_eq!(faults.take("M", &[FaultKind::BadJson]), None);
        assert_eq!(
            faults.take("M", &[FaultKind::Stall]),
            Some(FaultKind::Stall)
        );
        assert_eq!(faults.take("M", &[FaultKind::Stall]), None);
        for _ in 0..3 {
            assert!(faults.take("M", &[FaultKind::NonceAlways]).is_some());
        }
        faults.set("M", FaultKind::NonceAlways, 0);
        assert_eq!(faults.take("M", &[FaultKind::NonceAlways]), None);
    }
}
