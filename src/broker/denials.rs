//! What the issuer refused for good. An equal request is answered from here for a while, without
//! a call: asking again does not change a no, and a caller in a loop would only look like an
//! attack to the issuer (`aegis.md` 12). In memory, until the next login or policy.

use std::collections::HashMap;
use std::time::Duration;

use super::ports::{Disposition, Failure};
use crate::model::{Refusal, Selector};
use crate::time::Timestamp;

/// How long the first no is remembered (LM); each one that follows doubles it.
const FIRST_PAUSE: Duration = Duration::from_mins(1);

/// The longest that a no is remembered (LM).
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// Denials kept at most: as many as a catalogue has targets, several times over. Past that the one
/// that ends soonest is forgotten.
const MAX_KEPT: usize = 256;

/// The contract's reasons for which the same request will be refused again.
const FOR_GOOD: [&str; 4] = [
    "scope_not_granted",
    "tenant_mismatch",
    "policy_denied",
    "role_required",
];

/// What a lease was asked for with, as far as the issuer's policy looks at it. Two requests that
/// are equal here are decided alike, whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    /// For what.
    pub(super) selector: Selector,
    /// For how long, before the token's end cut it.
    pub(super) ttl: Duration,
    /// How often it could be redeemed.
    pub(super) max_redemptions: u32,
}

#[derive(Debug)]
struct Denial {
    refusal: Refusal,
    pause: Duration,
    until: Timestamp,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Denials {
    kept: HashMap<Wanted, Denial>,
}

impl Denials {
    /// What to answer without a call, if an equal request was refused lately.
    pub(super) fn answer(&self, wanted: &Wanted, now: Timestamp) -> Option<Refusal> {
        let denial = self.kept.get(wanted)?;
        (now < denial.until).then(|| denial.refusal.clone())
    }

    /// A call has failed: a no for good is remembered, for twice as long as the last time.
    pub(super) fn failed(
        &mut self,
        wanted: Wanted,
        failure: &Failure,
        refusal: Refusal,
        now: Timestamp,
    ) {
        if !is_for_good(failure) {
            return;
        }
        let pause = self.kept.get(&wanted).map_or(FIRST_PAUSE, |last| {
            last.pause.saturating_mul(2).min(LONGEST_PAUSE)
        });
        if self.kept.len() >= MAX_KEPT
            && !self.kept.contains_key(&wanted)
            && let Some(soonest) = self
                .kept
                .iter()
                .min_by_key(|(_, denial)| denial.until)
                .map(|(wanted, _)| wanted.clone())
        {
            self.kept.remove(&soonest);
        }
        let until = now.plus(pause);
        let denial = Denial {
            refusal,
            pause,
            until,
        };
        self.kept.insert(wanted, denial);
    }

    /// The issuer has said yes.
    pub(super) fn granted(&mut self, wanted: &Wanted) {
        self.kept.remove(wanted);
    }

    /// Another session, or another policy: everything may be decided differently.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
    }
}

/// A refused proof or a malformed request says nothing about the next one.
fn is_for_good(failure: &Failure) -> bool {
    failure.disposition == Disposition::Terminal
        && failure
            .reason
            .as_ref()
            .is_some_and(|reason| FOR_GOOD.contains(&reason.as_str()))
}

#[cfg(test)]
mod tests {
    use super::super::ports::Certainty;
    use super::*;
    use crate::model::{CleanText, ErrorCode};

    const START: Timestamp = Timestamp::from_millis(1_000);

    fn after(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    fn wanted(max_redemptions: u32) -> Wanted {
        Wanted {
            selector: Selector::parse("gcp/billing-prod/deploy-bot").unwrap(),
            ttl: Duration::from_mins(5),
            max_redemptions,
        }
    }

    fn denied(denials: &mut Denials, wanted: Wanted, reason: Option<&str>, now: Timestamp) {
        let failure = Failure {
            code: ErrorCode::AegisDenied,
            disposition: Disposition::Terminal,
            reason: reason.map(|reason| CleanText::new(reason, 64)),
            message: None,
            certainty: Certainty::NotDone,
            made: None,
        };
        denials.failed(wanted, &failure, ErrorCode::AegisDenied.into(), now);
    }

    /// LM, `aegis.md` 12: 60 s, doubling to 15 min; at its end a no is over.
    #[test]
    fn each_no_is_remembered_twice_as_long_up_to_a_quarter_of_an_hour() {
        let mut denials = Denials::default();
        let mut now = START;
        for seconds in [60, 120, 240, 480, 900, 900] {
            denied(&mut denials, wanted(1), Some("policy_denied"), now);
            let end = now.plus(Duration::from_secs(seconds));
            let almost = now.plus(Duration::from_millis(seconds * 1000 - 1));
            let code = |now| denials.answer(&wanted(1), now).map(|refusal| refusal.code);
            assert_eq!(code(almost), Some(ErrorCode::AegisDenied), "{seconds}");
            assert_eq!(code(end), None, "{seconds}");
            now = end;
        }
        denials.granted(&wanted(1));
        denied(&mut denials, wanted(1), Some("policy_denied"), now);
        let later = now.plus(Duration::from_mins(1));
        assert!(denials.answer(&wanted(1), later).is_none(), "a yes resets");
    }

    /// `aegis.md` 12: only a no of the issuer's policy is for good.
    #[test]
    fn only_a_no_for_good_is_remembered() {
        let rows = [
            (Some("policy_denied"), true),
            (Some("scope_not_granted"), true),
            (Some("tenant_mismatch"), true),
            (Some("role_required"), true),
            (Some("proof_invalid"), false),
            (Some("ttl_out_of_range"), false),
            (None, false),
        ];
        for (reason, remembered) in rows {
            let mut denials = Denials::default();
            denied(&mut denials, wanted(1), reason, START);
            let answer = denials.answer(&wanted(1), START);
            assert_eq!(answer.is_some(), remembered, "{reason:?}");
            assert!(denials.answer(&wanted(2), START).is_none(), "not equal");
            denials.forget();
            assert!(denials.answer(&wanted(1), START).is_none(), "forgotten");
        }
    }

    /// A no that may pass is not remembered, whatever its word.
    #[test]
    fn a_no_that_may_pass_is_not_remembered() {
        let mut denials = Denials::default();
        let failure = Failure {
            code: ErrorCode::LoginRequired,
            disposition: Disposition::Reauthenticate,
            reason: Some(CleanText::new("policy_denied", 64)),
            message: None,
            certainty: Certainty::NotDone,
            made: None,
        };
        denials.failed(wanted(1), &failure, ErrorCode::LoginRequired.into(), START);
        assert!(denials.answer(&wanted(1), START).is_none());
    }

    /// LM: the one that ends soonest makes room.
    #[test]
    fn what_is_remembered_is_bounded() {
        let mut denials = Denials::default();
        for (second, number) in (0_u64..).zip(0_u32..).take(MAX_KEPT + 1) {
            denied(
                &mut denials,
                wanted(number),
                Some("policy_denied"),
                START.plus(Duration::from_millis(second)),
            );
        }
        assert_eq!(denials.kept.len(), MAX_KEPT);
        assert!(denials.answer(&wanted(0), START).is_none());
        assert!(denials.answer(&wanted(1), after(1)).is_some());
    }
}
