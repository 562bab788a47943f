//! Recorded decisions against another policy: what it would decide differently. Nothing is asked
//! for and nobody is told; what a record does not hold cannot be decided again, and is said to be so.

use super::policy::{Decision, Policy, Question};
use super::ports::{AuditAction, AuditOutcome, AuditRecord};
use crate::model::{CleanText, Effect, ErrorCode, Exposure, NoRule};

/// What becomes of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// It is about no decision of a policy's: a lock, a lease that ran out, an older format.
    NoDecision,
    /// A rule would look at something of the peer that the record does not have.
    Unknown,
    /// The same would come of it, by the same rule.
    Same,
    /// The same would come of it, by another rule.
    OtherRule,
    /// Something else would come of it.
    Changed(Box<Change>),
}

/// What would change for one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What came of it.
    pub was: Effect,
    /// By which rule.
    pub by: CleanText,
    /// What would come of it.
    pub now: Decision,
}

/// Decides again what that record says was decided.
pub fn replay(record: &AuditRecord, policy: &Policy) -> Replayed {
    let (Some(was), Some(peer), Some(selector), Some(by)) = (
        effect_of(record),
        &record.peer,
        &record.selector,
        &record.rule,
    ) else {
        return Replayed::NoDecision;
    };
    let question = Question {
        peer,
        selector,
        actions: &record.actions,
        exposure: record.exposure.unwrap_or(Exposure::Use),
    };
    if !policy.can_judge(question) {
        return Replayed::Unknown;
    }
    let now = policy.decide(question);
    let asked_as_before = now.effect == Effect::Ask && now.rule == *by;
    if now.effect != was && !asked_as_before {
        return Replayed::Changed(Box::new(Change {
            was,
            by: by.clone(),
            now,
        }));
    }
    if now.rule == *by {
        Replayed::Same
    } else {
        Replayed::OtherRule
    }
}

/// What came of a decision of the policy's, if the record is one. What was asked and then allowed
/// counts as allowed.
fn effect_of(record: &AuditRecord) -> Option<Effect> {
    if record.actions.is_empty() {
        return None;
    }
    match (record.action, record.outcome) {
        (AuditAction::Deliver | AuditAction::LeaseCreate, AuditOutcome::Ok) => Some(Effect::Allow),
        (AuditAction::Deny, AuditOutcome::Denied) => {
            let is_rules = NoRule::ALL
                .iter()
                .filter(|rule| **rule != NoRule::Default)
                .all(|rule| record.rule.as_ref().map(CleanText::as_str) != Some(rule.as_str()));
            let reason = record.reason.as_ref()?.as_str();
            let asked = reason == ErrorCode::ApprovalUnavailable.as_str();
            is_rules.then_some(if asked { Effect::Ask } else { Effect::Deny })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        Action, FileHash, Origin, PeerFacts, PeerPattern, ProcessId, Rule, Selector,
        SelectorPattern,
    };

    fn text(text: &str) -> CleanText {
        CleanText::new(text, 64)
    }

    fn policy(id: &str, effect: Effect, expose: Exposure, peers: Vec<PeerPattern>) -> Policy {
        Policy::new(vec![Rule {
            id: text(id),
            effect,
            selectors: vec![SelectorPattern::parse("gcp/*/*").unwrap()],
            actions: Action::ALL.to_vec(),
            peers,
            expose,
            max_ttl: None,
            on_leak: crate::model::OnLeak::Record,
        }])
    }

    fn record(action: AuditAction, outcome: AuditOutcome, reason: &str) -> AuditRecord {
        AuditRecord {
            peer: Some(Arc::new(PeerFacts {
                process: ProcessId { pid: 1, started: 1 },
                exe: Some(text("/usr/bin/tool")),
                ancestors: vec![text("claude")],
                origin: Origin::default(),
            })),
            selector: Selector::parse("gcp/a/b").ok(),
            actions: vec![Action::Create, Action::Redeem].into(),
            exposure: Some(Exposure::Reveal),
            rule: Some(text("old")),
            reason: Some(text(reason)),
            ..AuditRecord::new(action, outcome)
        }
    }

    fn changed(record: &AuditRecord, policy: &Policy) -> String {
        let replayed = replay(record, policy);
        if let Replayed::Changed(change) = &replayed {
            return format!("{:?} to {:?}", change.was, change.now.effect);
        }
        format!("{replayed:?}")
    }

    #[test]
    fn what_was_decided_is_decided_again() {
        use Effect::{Allow, Ask, Deny};
        use Exposure::{Exec, Reveal};
        let ok = || record(AuditAction::Deliver, AuditOutcome::Ok, "");
        let no = || record(AuditAction::Deny, AuditOutcome::Denied, "policy_denied");
        let ask = || {
            record(
                AuditAction::Deny,
                AuditOutcome::Denied,
                "approval_unavailable",
            )
        };
        let under = || vec![PeerPattern::Under(text("claude"))];
        let by_hash = || vec![PeerPattern::Sha256(FileHash::new([0; 32]))];
        let by_unit = || vec![PeerPattern::Unit(text("a.service"))];
        let without = |change: fn(&mut AuditRecord)| {
            let mut record = no();
            change(&mut record);
            record
        };
        #[rustfmt::skip]
        let rows = [
            ("as before", ok(), policy("old", Allow, Reveal, vec![]), "Same"),
            ("by another rule", ok(), policy("new", Allow, Reveal, under()), "OtherRule"),
            ("denied now", ok(), policy("new", Deny, Reveal, vec![]), "Allow to Deny"),
            ("no rule left", ok(), Policy::new(vec![]), "Allow to Deny"),
            ("not so far any more", ok(), policy("old", Allow, Exec, vec![]), "Allow to Deny"),
            ("asked now", ok(), policy("new", Ask, Reveal, vec![]), "Allow to Ask"),
            ("asked before too", ok(), policy("old", Ask, Reveal, vec![]), "Same"),
            ("allowed now", no(), policy("new", Allow, Reveal, under()), "Deny to Allow"),
            ("denied still", no(), policy("old", Deny, Reveal, vec![]), "Same"),
            ("asked still", ask(), policy("old", Ask, Reveal, vec![]), "Same"),
            ("allowed without asking", ask(), policy("old", Allow, Reveal, vec![]), "Ask to Allow"),
            ("a hash that was not recorded", no(), policy("new", Allow, Reveal, by_hash()), "Unknown"),
            ("a group that was not recorded", ok(), policy("old", Allow, Reveal, by_unit()), "Unknown"),
            ("an older format", without(|record| record.actions = (&[]).into()), Policy::new(vec![]), "NoDecision"),
            ("a lock", without(|record| record.rule = Some(NoRule::Locked.into())), Policy::new(vec![]), "NoDecision"),
            ("nobody's", without(|record| record.peer = None), Policy::new(vec![]), "NoDecision"),
            ("an error", record(AuditAction::Deliver, AuditOutcome::Error, ""), Policy::new(vec![]), "NoDecision"),
        ];
        for (name, record, policy, expected) in rows {
            assert_eq!(changed(&record, &policy), expected, "{name}");
        }
    }
}
