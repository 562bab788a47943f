//! Our record of calls beside the issuer's record of events (AU-9): what did somebody else do with
//! our session, and what did we do that the issuer does not know?
//!
//! An event and a call are the same where they share a request id or a proof's `jti`: the answer
//! may have been lost, and then only the second is known here. Events of sessions that this log
//! does not know are another broker's of the same person and prove nothing. Events that nobody
//! asked for by a call (a lease that ran out, an approval in the browser) are left out.

use std::collections::HashSet;
use std::sync::Arc;

use super::effect::Effect;
use super::event::{Event, Reply, Ticket};
use super::login::Generation;
use super::ports::{
    Answer, AuditAction, AuditError, AuditOutcome, AuditRecord, IssuerEvent, IssuerEvents, OwnCall,
    OwnCalls, Try,
};
use super::session::{outcome_of, reason_word, refusal_of};
use super::state::{Asker, State};
use crate::model::{CleanText, ErrorCode, Principal, ProofJti, RequestId, SessionId};
use crate::time::Now;

/// How many findings of a kind are shown; all are counted (LM).
pub const MAX_SHOWN: usize = 100;

/// What the issuer writes down when a call with a session's token or key comes in. Everything
/// else has causes of its own.
const BY_CALLS: [&str; 11] = [
    "login.exchange",
    "token.mint",
    "token.exchange_workload",
    "token.revoke",
    "key.revoke",
    "session.end",
    "spiffe.begin",
    "spiffe.complete",
    "lease.create",
    "lease.redeem",
    "lease.revoke",
];

/// Both records side by side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciliation {
    /// Events of our sessions that were compared.
    pub compared: usize,
    /// Of these, how many no call of ours explains: somebody else used our session.
    pub foreign: usize,
    /// The first [`MAX_SHOWN`] of them.
    pub foreign_events: Vec<IssuerEvent>,
    /// Calls that we recorded as done and the issuer does not know.
    pub missing: usize,
    /// The first [`MAX_SHOWN`] of them.
    pub missing_calls: Vec<OwnCall>,
    /// Events of the same principal in sessions that this log does not know.
    pub elsewhere: usize,
    /// Whether both records were looked at whole: false where one is longer than its bound.
    pub complete: bool,
}

/// Compares what the issuer says about `principal` with what we have recorded. `under_way` are the
/// tries of calls that are not answered yet and so have no record.
pub fn reconcile(
    listed: &IssuerEvents,
    calls: &OwnCalls,
    under_way: &[Try],
    principal: &Principal,
) -> Reconciliation {
    let ours = Names::of(calls, under_way);
    let sessions: HashSet<&SessionId> = calls
        .calls
        .iter()
        .filter_map(|call| call.session_id.as_ref())
        .collect();
    let mut found = Reconciliation {
        complete: listed.complete && calls.complete,
        ..Reconciliation::default()
    };
    for event in &listed.events {
        if !BY_CALLS.contains(&event.action.as_str()) {
            continue;
        }
        if ours.explain(event) {
            found.compared = found.compared.saturating_add(1);
            continue;
        }
        let is_our_session = event
            .session_id
            .as_ref()
            .is_some_and(|id| sessions.contains(id));
        if !is_our_session {
            found.elsewhere = found.elsewhere.saturating_add(1);
            continue;
        }
        found.compared = found.compared.saturating_add(1);
        found.foreign = found.foreign.saturating_add(1);
        if found.foreign_events.len() < MAX_SHOWN {
            found.foreign_events.push(event.clone());
        }
    }
    let theirs = Theirs::of(listed);
    let since = listed.events.iter().map(|event| event.at).min();
    for call in &calls.calls {
        // What went before the first event may be older than what the issuer keeps.
        let is_kept = since.is_some_and(|since| call.at >= since);
        let is_asked = call.done && call.principal.as_ref() == Some(principal);
        if is_kept && is_asked && listed.complete && !theirs.know(call) {
            found.missing = found.missing.saturating_add(1);
            if found.missing_calls.len() < MAX_SHOWN {
                found.missing_calls.push(call.clone());
            }
        }
    }
    found
}

/// What our tries are called.
#[derive(Default)]
struct Names<'a> {
    request_ids: HashSet<&'a RequestId>,
    jtis: HashSet<&'a ProofJti>,
}

impl<'a> Names<'a> {
    fn of(calls: &'a OwnCalls, under_way: &'a [Try]) -> Self {
        let mut names = Self::default();
        let recorded = calls.calls.iter().flat_map(|call| &call.tries);
        for one in recorded.chain(under_way) {
            names.request_ids.extend(&one.request_id);
            names.jtis.extend(&one.proof_jti);
        }
        names
    }

    fn explain(&self, event: &IssuerEvent) -> bool {
        let by_id = |id| self.request_ids.contains(id);
        let by_jti = |jti| self.jtis.contains(jti);
        event.request_id.as_ref().is_some_and(by_id) || event.proof_jti.as_ref().is_some_and(by_jti)
    }
}

/// What the issuer's events are called.
#[derive(Default)]
struct Theirs<'a> {
    request_ids: HashSet<&'a RequestId>,
    jtis: HashSet<&'a ProofJti>,
}

impl<'a> Theirs<'a> {
    fn of(listed: &'a IssuerEvents) -> Self {
        let mut theirs = Self::default();
        for event in &listed.events {
            theirs.request_ids.extend(&event.request_id);
            theirs.jtis.extend(&event.proof_jti);
        }
        theirs
    }

    /// Whether any try of the call is among them.
    fn know(&self, call: &OwnCall) -> bool {
        call.tries.iter().any(|one| {
            let by_id = |id| self.request_ids.contains(id);
            let by_jti = |jti| self.jtis.contains(jti);
            one.request_id.as_ref().is_some_and(by_id) || one.proof_jti.as_ref().is_some_and(by_jti)
        })
    }
}

impl State {
    /// Both records are to be compared: first the issuer's is asked for, so that what happens
    /// meanwhile is in ours.
    pub(super) fn audit_reconcile(&mut self, asker: &Asker, now: Now, effects: &mut Vec<Effect>) {
        let Some(session) = self.session(now) else {
            let code = if self.login.is_locked() {
                ErrorCode::Locked
            } else {
                ErrorCode::LoginRequired
            };
            return self.refuse(asker.ticket, code.into(), effects);
        };
        effects.push(Effect::ListAuditEvents {
            ticket: asker.ticket,
            generation: self.generation,
            session: Arc::clone(session),
        });
    }

    pub(super) fn audit_events_listed(
        &mut self,
        ticket: Ticket,
        generation: Generation,
        principal: Principal,
        answer: Answer<IssuerEvents>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        match answer.outcome {
            Ok(listed) => effects.push(Effect::ReadOwnCalls {
                ticket,
                principal,
                listed: Box::new(listed),
            }),
            Err(failure) => {
                // The issuer writes a refused listing down; so do we.
                effects.push(Effect::Audit(Box::new(AuditRecord {
                    reason: Some(reason_word(&failure)),
                    trace: answer.trace.clone(),
                    ..self.record(AuditAction::Reconcile, outcome_of(&failure))
                })));
                self.refuse(ticket, refusal_of(&failure, &answer.trace), effects);
                if generation == self.generation {
                    self.session_after(&failure, now, effects);
                }
            }
        }
    }

    /// Both records are here: compared, recorded, answered.
    pub(super) fn own_calls_read(&mut self, read: ReadCalls, effects: &mut Vec<Effect>) {
        let calls = match read.calls {
            Ok(calls) if calls.damaged => Err(ErrorCode::AuditDamaged),
            Ok(calls) => Ok(calls),
            Err(AuditError) => Err(ErrorCode::AuditUnavailable),
        };
        let calls = match calls {
            Ok(calls) => calls,
            Err(code) => return self.refuse(read.ticket, code.into(), effects),
        };
        let found = reconcile(&read.listed, &calls, &read.under_way, &read.principal);
        let mut record = self.record(AuditAction::Reconcile, AuditOutcome::Ok);
        if found.foreign > 0 {
            // The alarm itself: whoever reads the log finds it, whether or not the answer is read.
            record.outcome = AuditOutcome::Error;
            record.reason = Some(CleanText::new(
                &format!("foreign_use:{}", found.foreign),
                64,
            ));
        } else if found.missing > 0 {
            record.reason = Some(CleanText::new(&format!("missing:{}", found.missing), 64));
        }
        effects.push(Effect::Audit(Box::new(record)));
        self.reply(read.ticket, Reply::Reconciled(Box::new(found)), effects);
    }
}

/// Both records, on their way to be compared.
#[derive(Debug)]
pub struct ReadCalls {
    /// Who waits.
    pub ticket: Ticket,
    /// Whose events these are.
    pub principal: Principal,
    /// The issuer's.
    pub listed: Box<IssuerEvents>,
    /// Ours.
    pub calls: Result<OwnCalls, AuditError>,
    /// What is not recorded yet.
    pub under_way: Vec<Try>,
}

impl From<ReadCalls> for Event {
    fn from(read: ReadCalls) -> Self {
        Self::OwnCallsRead(Box::new(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixTime;

    fn text(text: &str) -> CleanText {
        CleanText::new(text, 64)
    }

    fn principal() -> Principal {
        Principal::parse("user:u-demo").unwrap()
    }

    fn at(second: u64) -> UnixTime {
        UnixTime::from_millis(second * 1000)
    }

    fn one(id: &str, jti: &str) -> Try {
        Try {
            request_id: RequestId::parse(id).ok(),
            proof_jti: ProofJti::parse(jti).ok(),
        }
    }

    fn call(second: u64, tries: Vec<Try>) -> OwnCall {
        OwnCall {
            at: at(second),
            action: AuditAction::LeaseCreate,
            done: true,
            principal: Some(principal()),
            session_id: SessionId::parse("ses_1").ok(),
            tries,
        }
    }

    fn event(second: u64, action: &str, session: &str, id: &str, jti: &str) -> IssuerEvent {
        IssuerEvent {
            seq: second,
            at: at(second),
            action: text(action),
            outcome: text("ok"),
            session_id: SessionId::parse(session).ok(),
            lease_id: None,
            target: None,
            reason: None,
            request_id: RequestId::parse(id).ok(),
            proof_jti: ProofJti::parse(jti).ok(),
        }
    }

    fn compare(events: Vec<IssuerEvent>, calls: Vec<OwnCall>, under_way: &[Try]) -> Reconciliation {
        let listed = IssuerEvents {
            events,
            complete: true,
        };
        let calls = OwnCalls {
            calls,
            complete: true,
            damaged: false,
        };
        reconcile(&listed, &calls, under_way, &principal())
    }

    /// AU-9: an event is explained by its request id or by its proof, and by a call that is not
    /// answered yet; else, in a session of ours, it is somebody else's.
    #[test]
    fn what_no_call_of_ours_explains_is_foreign() {
        let calls = || vec![call(10, vec![one("", "jti-0"), one("req-1", "jti-1")])];
        let rows = [
            ("the request id", "lease.create", "ses_1", "req-1", "", 0),
            (
                "the proof alone",
                "lease.create",
                "ses_1",
                "req-9",
                "jti-0",
                0,
            ),
            (
                "a call under way",
                "lease.redeem",
                "ses_1",
                "req-8",
                "jti-8",
                0,
            ),
            ("neither", "lease.create", "ses_1", "req-9", "jti-9", 1),
            ("without a name", "token.mint", "ses_1", "", "", 1),
            ("no call at all", "lease.expire", "ses_1", "", "", 0),
            (
                "another session",
                "lease.create",
                "ses_2",
                "req-9",
                "jti-9",
                0,
            ),
            ("no session", "lease.create", "", "req-9", "jti-9", 0),
        ];
        for (name, action, session, id, jti, foreign) in rows {
            let under_way = [one("", "jti-8")];
            let found = compare(
                vec![event(10, action, session, id, jti)],
                calls(),
                &under_way,
            );
            assert_eq!(found.foreign, foreign, "{name}");
            assert_eq!(found.foreign_events.len(), foreign, "{name}");
        }
        let elsewhere = event(10, "lease.create", "ses_2", "req-9", "jti-9");
        assert_eq!(compare(vec![elsewhere], calls(), &[]).elsewhere, 1);
    }

    /// AU-9: what we recorded as done and the issuer does not know is missing there, unless it is
    /// older than what was listed, or was not done.
    #[test]
    fn what_the_issuer_does_not_know_is_missing() {
        let known = || event(10, "lease.create", "ses_1", "req-1", "jti-1");
        let missing = |calls| compare(vec![known()], calls, &[]).missing;
        assert_eq!(missing(vec![call(10, vec![one("req-1", "jti-1")])]), 0);
        assert_eq!(missing(vec![call(11, vec![one("req-2", "jti-2")])]), 1);
        assert_eq!(
            missing(vec![call(9, vec![one("req-2", "jti-2")])]),
            0,
            "older"
        );
        let mut refused = call(11, vec![one("req-2", "jti-2")]);
        refused.done = false;
        assert_eq!(missing(vec![refused]), 0, "not done");
        let mut other = call(11, vec![one("req-2", "jti-2")]);
        other.principal = Principal::parse("user:other").ok();
        assert_eq!(missing(vec![other]), 0, "of another principal");
    }

    /// LM: a listing that is not whole proves no call missing, and thousands of findings are
    /// counted, not shown.
    #[test]
    fn findings_are_bounded() {
        let events: Vec<_> = (0..1000)
            .map(|second| event(second, "lease.create", "ses_1", "req-x", "jti-x"))
            .collect();
        let calls: Vec<_> = (0..1000)
            .map(|at| call(at, vec![one("req-1", "jti-1")]))
            .collect();
        let found = compare(events.clone(), calls.clone(), &[]);
        assert_eq!(
            (found.foreign, found.foreign_events.len()),
            (1000, MAX_SHOWN)
        );
        assert_eq!(
            (found.missing, found.missing_calls.len()),
            (1000, MAX_SHOWN)
        );
        let listed = IssuerEvents {
            events,
            complete: false,
        };
        let calls = OwnCalls {
            calls,
            complete: true,
            damaged: false,
        };
        let found = reconcile(&listed, &calls, &[], &principal());
        assert_eq!((found.missing, found.complete), (0, false));
    }
}
