//! `aegis-broker audit`: look at the chained log.

use std::fmt::Display;

use super::{Context, render};
use crate::model::{ErrorCode, Refusal};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check that the log is what was written, with the daemon's keys
    Verify,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Verify => verify(context),
    }
}

fn verify(context: &Context) -> Result<(), Refusal> {
    let reply = context.connect()?.audit_verify()?;
    if context.json {
        render::json(reply.expose_json())?;
    }
    let report = &reply.view;
    if let Some(damage) = &report.damage {
        return Err(damaged(&damage.what, &damage.file, damage.line));
    }
    if !context.json {
        render::progress(&describe(report.records, report.keyed, report.torn_tail));
    }
    Ok(())
}

fn damaged(what: impl Display, file: impl Display, line: u64) -> Refusal {
    let message = format!("the audit log does not verify: {what} at {file}:{line}");
    Refusal::new(ErrorCode::AuditDamaged).with_message(&message)
}

/// `keyed` is said only when every record's MAC was checked: an unkeyed chain can be rewritten
/// by whoever can write the file (AU-7).
fn describe(records: u64, keyed: u64, torn_tail: bool) -> String {
    let kind = if keyed == records && keyed > 0 {
        format!("keyed: {records} records")
    } else {
        format!("chained: {records} records, {keyed} of them checked with a key")
    };
    let torn = if torn_tail {
        "; a crash left half a line at the end"
    } else {
        ""
    };
    format!("{kind}{torn}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AU-7: a chain without its key is never called good.
    #[test]
    fn keyed_is_said_of_a_log_that_was_checked_whole() {
        assert_eq!(describe(3, 3, false), "keyed: 3 records\n");
        assert!(describe(3, 2, false).starts_with("chained: 3 records, 2 of them"));
        assert!(describe(0, 0, false).starts_with("chained"));
        assert!(describe(3, 3, true).contains("half a line"));
    }
}
