//! `aegis-broker audit`: look at the chained log.

use super::{Context, render};
use crate::model::{ErrorCode, Refusal};
use crate::socket::client::AuditStatus;

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
    } else {
        render::progress(&describe(&reply.view));
    }
    match &reply.view.damage {
        None => Ok(()),
        Some(damage) => Err(Refusal::new(ErrorCode::AuditDamaged).with_message(&format!(
            "the audit log does not verify: {} at {}:{}",
            damage.what, damage.file, damage.line
        ))),
    }
}

fn describe(report: &AuditStatus) -> String {
    let AuditStatus { records, keyed, .. } = report;
    let kind = if *keyed > 0 { "keyed" } else { "chained" };
    let torn = if report.torn_tail {
        "; a crash left half a line at the end"
    } else {
        ""
    };
    format!("{kind}: {records} records read, {keyed} checked with the daemon's key{torn}\n")
}
