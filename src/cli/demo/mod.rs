//! `aegis-broker demo`: the product on an empty machine, in a private folder that is gone
//! afterwards. A real daemon as a child process, the bundled server in this one; every figure in
//! the report is computed from what the server wrote down.
//!
//! `household.rs` sets the table, `story.rs` has the steps, `mcp_client.rs` is a model's client in
//! one of them, `ledger.rs` compares the two logs, `report.rs` is the outcome.

mod household;

mod mcp_client;

mod ledger;

mod report;

mod story;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Context, render};
use crate::model::{ErrorCode, Refusal};

use report::Report;

/// What can be asked of the demonstration.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Options {
    /// Wait for you to approve the login in a browser
    #[arg(long)]
    browser: bool,
    /// Breaks the server or the world at one step, so that a test sees the step fail.
    #[arg(long, hide = true, value_enum)]
    plant_fault: Option<Step>,
}

/// The steps, in the order of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// Server and daemon are up.
    Start,
    /// The device login.
    Login,
    /// A lease is made.
    Lease,
    /// The lease is redeemed over the socket.
    Delivered,
    /// The material opens the door it is for.
    WhoamiBefore,
    /// The daemon's own proof, sent again, is refused.
    Replay,
    /// A selector outside the grant is refused, one outside the catalogue too.
    Refused,
    /// The lease is revoked.
    Revoke,
    /// The material opens nothing any more.
    WhoamiAfter,
    /// A model's client has a handle, a program the material, and no secret passes the former.
    Mcp,
    /// The local chain verifies.
    Audit,
    /// The local chain and the server's tell the same story.
    Reconcile,
    /// Everything stops cleanly.
    Stop,
}

impl Step {
    /// The word in messages and in the report.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Login => "login",
            Self::Lease => "lease",
            Self::Delivered => "delivered",
            Self::WhoamiBefore => "whoami-before",
            Self::Replay => "replay",
            Self::Refused => "refused",
            Self::Revoke => "revoke",
            Self::WhoamiAfter => "whoami-after",
            Self::Mcp => "mcp",
            Self::Audit => "audit",
            Self::Reconcile => "reconcile",
            Self::Stop => "stop",
        }
    }
}

/// Tells the story on standard output; with `--json` its report, once, at the end.
pub(super) fn command(context: &Context, options: Options) -> Result<(), Refusal> {
    let mut told = Ok(());
    let report = run(options, &mut |sentence| {
        if !context.json && told.is_ok() {
            told = render::line(sentence);
        }
    })?;
    told?;
    if context.json {
        render::json(report.to_json().to_string().as_bytes())?;
    }
    Ok(())
}

/// Tells the story, or ends it early at SIGINT and SIGTERM; `tell` hears each sentence of it as it comes true.
///
/// # Errors
/// `demo_failed` with the step's name as its reason.
fn run(options: Options, tell: &mut dyn FnMut(&str)) -> Result<Report, Refusal> {
    let interrupted = Arc::new(AtomicBool::new(false));
    story::tell(options, &interrupted, tell).map_err(|failed| {
        let step = failed.step.as_str();
        let refusal = Refusal::new(ErrorCode::DemoFailed).with_reason(step);
        if interrupted.load(Ordering::SeqCst) {
            return refusal
                .with_message(&format!("step {step}: interrupted"))
                .with_fix("run it again; it has left nothing behind");
        }
        refusal.with_message(&format!("step {step}: {}", failed.what))
    })
}

/// A step that did not show what it should.
#[derive(Debug)]
struct Failed {
    step: Step,
    what: String,
}

impl Step {
    /// This step failed.
    fn failed(self, what: impl std::fmt::Display) -> Failed {
        Failed {
            step: self,
            what: what.to_string(),
        }
    }

    /// This step wants `holds`.
    fn wants(self, holds: bool, what: &str) -> Result<(), Failed> {
        if holds {
            Ok(())
        } else {
            Err(self.failed(what))
        }
    }
}
