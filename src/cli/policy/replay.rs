//! `policy check --replay`: what the log says was decided, decided again by the file.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::word;
use crate::audit::verify::{self as log, Entry};
use crate::broker::policy::Policy;
use crate::broker::replay::{Replayed, replay};
use crate::cli::render;
use crate::model::{ErrorCode, Refusal, Rule};

/// The newest records that are looked at (LM): weeks of a person's day.
const MAX_RECORDS: usize = 100_000;

/// What no record holds enough of to be decided again, whatever the file says.
const NOT_REPLAYED: &str = "lifetimes (max_ttl) and approvals are not decided again";

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    decisions: usize,
    by_another_rule: usize,
    unknown: usize,
    changes: BTreeMap<Row, usize>,
}

/// Equal changes are one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    was: &'static str,
    now: &'static str,
    selector: String,
    actions: String,
    exposure: &'static str,
    exe: String,
    by: String,
    would: String,
}

/// Decides the log in that folder again.
///
/// # Errors
/// `io_error` where it cannot be read, `audit_damaged` where a line is not one of ours. Whether the
/// log is what was written is `audit verify`'s to say.
pub(super) fn of(folder: &Path, rules: Vec<Rule>) -> Result<Outcome, Refusal> {
    let entries = log::read(folder, MAX_RECORDS).map_err(|error| {
        let code = match error {
            log::ReadError::Unreadable(_) => ErrorCode::Io,
            log::ReadError::Damaged(_) => ErrorCode::AuditDamaged,
        };
        Refusal::new(code).with_error(&error)
    })?;
    let policy = Policy::new(rules);
    let mut outcome = Outcome::default();
    for entry in &entries {
        outcome.take(entry, &policy);
    }
    Ok(outcome)
}

impl Outcome {
    fn take(&mut self, entry: &Entry, policy: &Policy) {
        let one = |count: &mut usize| *count = count.saturating_add(1);
        match replay(&entry.record, policy) {
            Replayed::NoDecision => return,
            Replayed::Unknown => one(&mut self.unknown),
            Replayed::Same => {}
            Replayed::OtherRule => one(&mut self.by_another_rule),
            Replayed::Changed(change) => {
                let record = &entry.record;
                let actions: Vec<_> = record.actions.iter().map(|one| one.as_str()).collect();
                let exe = record.peer.as_ref().and_then(|peer| peer.exe.as_ref());
                let row = Row {
                    was: word(change.was),
                    now: word(change.now.effect),
                    selector: record
                        .selector
                        .as_ref()
                        .map_or_else(String::new, |selector| selector.short().to_owned()),
                    actions: actions.join("+"),
                    exposure: record.exposure.map_or("use", |exposure| exposure.as_str()),
                    exe: exe.map_or_else(|| "?".to_owned(), ToString::to_string),
                    by: change.by.to_string(),
                    would: change.now.rule.to_string(),
                };
                one(self.changes.entry(row).or_default());
            }
        }
        one(&mut self.decisions);
    }

    /// As one member of an object.
    pub(super) fn json(&self) -> Value {
        let changes: Vec<_> = self
            .changes
            .iter()
            .map(|(row, count)| {
                json!({
                    "count": count,
                    "was": row.was,
                    "was_by": row.by,
                    "would_be": row.now,
                    "would_be_by": row.would,
                    "selector": row.selector,
                    "actions": row.actions,
                    "exposure": row.exposure,
                    "exe": row.exe,
                })
            })
            .collect();
        json!({
            "decisions": self.decisions,
            "changes": changes,
            "by_another_rule": self.by_another_rule,
            "unknown": self.unknown,
        })
    }

    /// Writes the changes, one a line, and what else there is to say.
    pub(super) fn show(&self) -> Result<(), Refusal> {
        for (row, count) in &self.changes {
            let line = format!(
                "{} -> {}\t{count} x\t{}\t{}\t{}\t{}\t{} -> {}\n",
                row.was,
                row.now,
                row.selector,
                row.actions,
                row.exposure,
                row.exe,
                row.by,
                row.would
            );
            render::data(line.as_bytes())?;
        }
        let changed: usize = self.changes.values().sum();
        render::progress(&format!(
            "{} recorded decisions: {changed} would change, {} the same by another rule; of {} \
             the log does not say enough (a unit, a control group or a hash that a rule asks for); \
             {NOT_REPLAYED}\n",
            self.decisions, self.by_another_rule, self.unknown
        ));
        Ok(())
    }
}
