//! `aegis-broker exec`: a command with credentials in its environment, which end with it.
//!
//! Every credential is of a lease of its own. Each is given back when the command ends, and ends
//! with this process where we do not come to that. The daemon runs nothing: the command is this
//! process's child, on the same terminal. Who can read its environment can read the credential:
//! root, programs of the same user that may trace it, and its own children.
//!
//! What the command writes to where no person reads it as it comes, a pipe or a file, passes through
//! us, and the secrets that it was given are masked in it. A terminal is its own, unless asked for.

mod child;

mod names;

mod output;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use self::names::{Prefix, Variables};
use self::output::{Filter, Wanted};
use super::{Context, render};
use crate::model::{ErrorCode, FieldValue, LeaseId, ProfileName, Refusal, Selector};
use crate::redact::Values;
use crate::socket::client::Client;

/// Credentials of one command.
const MAX_USES: usize = 16;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What for, provider/app/account: under the provider's usual names, or with =PREFIX as
    /// `PREFIX_FIELD`; may be given several times
    #[arg(long = "use", required = true, value_name = "SELECTOR[=PREFIX]", value_parser = wanted)]
    uses: Vec<Use>,
    /// How long the leases live at most, 30s to 1h
    #[arg(long, value_name = "DURATION", value_parser = super::ttl)]
    ttl: Option<Duration>,
    /// Why, for the records: at most 200 characters
    #[arg(long, value_name = "TEXT", value_parser = super::reason)]
    reason: Option<String>,
    /// The profile, where not the configured one
    #[arg(long, value_name = "NAME", value_parser = super::profile)]
    profile: Option<ProfileName>,
    /// Mask the credentials in what the command writes to a terminal too; elsewhere they always are
    #[arg(long)]
    redact: bool,
    /// Mask nothing, wherever the command writes to
    #[arg(long, conflicts_with = "redact")]
    no_redact: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// One credential that the command is given.
#[derive(Debug, Clone)]
struct Use {
    selector: Selector,
    prefix: Option<Prefix>,
}

fn wanted(text: &str) -> Result<Use, String> {
    let (selector, prefix) = match text.split_once('=') {
        Some((selector, prefix)) => (selector, Some(Prefix::parse(prefix)?)),
        None => (text, None),
    };
    let selector = Selector::parse(selector).map_err(|error| error.to_string())?;
    Ok(Use { selector, prefix })
}

/// Runs the command; the status is the command's own.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<ExitCode, Refusal> {
    if arguments.uses.len() > MAX_USES {
        return Err(Refusal::new(ErrorCode::Usage)
            .with_message(&format!("a command gets at most {MAX_USES} credentials")));
    }
    if !child::is_there(&arguments.command) {
        // Before there is a lease that nobody would need.
        return Ok(child::not_found(&arguments.command));
    }
    let mut client = context.connect()?;
    let mut leases = Vec::with_capacity(arguments.uses.len());
    let given = given(&mut client, arguments, &mut leases);
    let give_back = move || {
        for (selector, lease_id) in leases {
            give_back(&mut client, &selector, &lease_id);
        }
    };
    match given {
        Ok((variables, values)) => {
            let wanted = match (arguments.redact, arguments.no_redact) {
                (true, _) => Wanted::Both,
                (false, false) => Wanted::Piped,
                (false, true) => Wanted::Neither,
            };
            let filter = Filter::new(values, wanted);
            child::run(&arguments.command, variables, filter, give_back)
        }
        Err(refusal) => {
            give_back();
            Err(refusal)
        }
    }
}

/// Asks for one credential after the other; what was made is in `leases` also where one is refused.
fn given(
    client: &mut Client,
    arguments: &Arguments,
    leases: &mut Vec<(Selector, LeaseId)>,
) -> Result<(Variables, Values), Refusal> {
    let mut variables = Variables::default();
    let mut values = Values::new();
    for Use { selector, prefix } in &arguments.uses {
        let lease = client.lease_for_child(
            selector,
            arguments.ttl,
            arguments.reason.as_deref(),
            arguments.profile.as_ref(),
        )?;
        let lease_id = lease.view.lease_id;
        leases.push((selector.clone(), lease_id.clone()));
        let material = client.redeem_for_child(&lease_id)?.view.material;
        variables.add(&material, prefix.as_ref())?;
        for field in &material.fields {
            if let FieldValue::Secret(secret) = &field.value {
                values.add(secret);
            }
        }
    }
    Ok((variables, values))
}

/// The command is over and its status is what counts: what cannot be given back is only said.
fn give_back(client: &mut Client, selector: &Selector, lease_id: &LeaseId) {
    if !matches!(client.lease_give_back(lease_id), Ok(true)) {
        render::progress(&format!(
            "aegis-broker: the end of the lease for {} is not confirmed; it runs out by itself\n",
            selector.short()
        ));
    }
}
