//! What was decided about each model's own requests (AU-10): the last of it, in memory, for as
//! long as that process is connected. The whole story is in the audit log, which no door reads
//! out.

use std::collections::{HashMap, VecDeque};

use super::effect::Effect;
use super::event::{ConnectionId, DecisionView};
use super::ports::AuditAction;
use crate::model::{NoRule, ProcessId};
use crate::time::Now;

/// Decisions kept for one process: enough to see why the last things went as they did.
pub const MAX_DECISIONS: usize = 64;

/// All of them. As many processes as models' doors have connections.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    connections: HashMap<ConnectionId, ProcessId>,
    recent: HashMap<ProcessId, VecDeque<DecisionView>>,
}

impl Decisions {
    /// A model's process has connected: what is decided about it is kept from now on.
    pub(super) fn open(&mut self, connection: ConnectionId, process: ProcessId) {
        self.connections.insert(connection, process);
        self.recent.entry(process).or_default();
    }

    /// A connection has ended; with a process's last one its decisions go.
    pub(super) fn close(&mut self, connection: ConnectionId) {
        if let Some(process) = self.connections.remove(&connection)
            && !self.connections.values().any(|other| *other == process)
        {
            self.recent.remove(&process);
        }
    }

    /// Keeps those records of `effects` that are about a process of ours.
    pub(super) fn note(&mut self, effects: &[Effect], now: Now) {
        if self.recent.is_empty() {
            return;
        }
        for effect in effects {
            let Effect::Audit(record) = effect else {
                continue;
            };
            let kept = record
                .peer
                .as_ref()
                .and_then(|peer| self.recent.get_mut(&peer.process));
            let Some(kept) = kept else {
                continue;
            };
            if kept.len() >= MAX_DECISIONS {
                kept.pop_front();
            }
            // A decoy is a denial like any other for whoever asked for it.
            let (action, rule) = if record.action == AuditAction::Decoy {
                (AuditAction::Deny, Some(NoRule::Default.into()))
            } else {
                (record.action, record.rule.clone())
            };
            kept.push_back(DecisionView {
                at: now.unix,
                action: action.as_str(),
                outcome: record.outcome.as_str(),
                selector: record.selector.clone(),
                lease_id: record.lease_id.clone(),
                rule,
                reason: record.reason.clone(),
            });
        }
    }

    /// What was decided about that process, newest first.
    pub(super) fn of(&self, process: ProcessId) -> Vec<DecisionView> {
        self.recent
            .get(&process)
            .map(|kept| kept.iter().rev().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::ports::{AuditAction, AuditOutcome, AuditRecord};
    use super::*;
    use crate::model::{CleanText, Origin, PeerFacts};
    use crate::time::{Timestamp, UnixTime};

    const NOW: Now = Now {
        boot: Timestamp::from_millis(1),
        unix: UnixTime::from_millis(2),
    };

    fn process(pid: i32) -> ProcessId {
        ProcessId { pid, started: 1 }
    }

    fn denied(pid: i32, rule: &str) -> Effect {
        Effect::Audit(Box::new(AuditRecord {
            peer: Some(Arc::new(PeerFacts {
                process: process(pid),
                exe: None,
                ancestors: Vec::new(),
                origin: Origin::default(),
            })),
            rule: Some(CleanText::new(rule, 16)),
            ..AuditRecord::new(AuditAction::Deny, AuditOutcome::Denied)
        }))
    }

    fn rules(decisions: &Decisions, pid: i32) -> Vec<String> {
        decisions
            .of(process(pid))
            .into_iter()
            .map(|decision| decision.rule.unwrap().to_string())
            .collect()
    }

    /// AU-10: a process sees its own decisions, newest first, and nobody else's.
    #[test]
    fn each_process_sees_its_own_decisions() {
        let mut decisions = Decisions::default();
        decisions.open(ConnectionId(1), process(1));
        decisions.open(ConnectionId(2), process(2));
        decisions.note(&[denied(1, "a"), denied(2, "b"), denied(3, "c")], NOW);
        decisions.note(&[denied(1, "d")], NOW);
        assert_eq!(rules(&decisions, 1), ["d", "a"]);
        assert_eq!(rules(&decisions, 2), ["b"]);
        assert_eq!(rules(&decisions, 3), Vec::<String>::new());
    }

    /// LM: the oldest goes first, and all of them with the process's last connection.
    #[test]
    fn what_is_kept_is_bounded_in_number_and_time() {
        let mut decisions = Decisions::default();
        decisions.open(ConnectionId(1), process(1));
        decisions.open(ConnectionId(2), process(1));
        for number in 0..=MAX_DECISIONS {
            decisions.note(&[denied(1, &number.to_string())], NOW);
        }
        let kept = rules(&decisions, 1);
        assert_eq!(kept.len(), MAX_DECISIONS);
        assert_eq!(kept.last().map(String::as_str), Some("1"));
        decisions.close(ConnectionId(1));
        assert_eq!(rules(&decisions, 1).len(), MAX_DECISIONS);
        decisions.close(ConnectionId(2));
        assert_eq!(rules(&decisions, 1), Vec::<String>::new());
    }
}
