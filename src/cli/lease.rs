//! `aegis-broker lease`: make, redeem, end and list leases.

use std::time::Duration;

use super::output::{self, Format};
use super::{Context, get, render};
use crate::model::{ErrorCode, LeaseId, LeaseView, MAX_REDEMPTIONS, ProfileName, Refusal};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a lease and write its id
    Create(Create),
    /// Redeem a lease once and write its credential
    Redeem(Redeem),
    /// End a lease
    Revoke(Revoke),
    /// List the leases of the daemon's run
    List,
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// What for: provider/app/account
    selector: String,
    /// How long, 30s to 1h
    #[arg(long, value_name = "DURATION", value_parser = super::ttl)]
    ttl: Option<Duration>,
    /// How often it can be redeemed, 1 to 10
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_REDEMPTIONS)))]
    max_redemptions: Option<u32>,
    /// Why, for the records: at most 200 characters
    #[arg(long, value_name = "TEXT", value_parser = super::reason)]
    reason: Option<String>,
    /// The profile, where not the configured one
    #[arg(long, value_name = "NAME", value_parser = super::profile)]
    profile: Option<ProfileName>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Redeem {
    /// Which
    lease_id: String,
    /// `value` (the main field), `json`, `env`, or a field's name; one that the credential does not
    /// have spends the redemption too
    #[arg(long, default_value = "value", value_name = "FORMAT")]
    format: Format,
    /// Write it even to a terminal
    #[arg(long)]
    reveal: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    /// Which
    lease_id: String,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Create(arguments) => create(context, arguments),
        Command::Redeem(arguments) => redeem(context, arguments),
        Command::Revoke(arguments) => revoke(context, arguments),
        Command::List => list(context),
    }
}

fn create(context: &Context, arguments: &Create) -> Result<(), Refusal> {
    let selector = get::selector(&arguments.selector)?;
    let reply = context.connect()?.lease_create(
        &selector,
        arguments.ttl,
        arguments.max_redemptions,
        arguments.reason.as_deref(),
        arguments.profile.as_ref(),
    )?;
    if context.json {
        return render::json(reply.expose_json());
    }
    let lease = &reply.view;
    let count = lease.max_redemptions;
    let noun = if count == 1 {
        "redemption"
    } else {
        "redemptions"
    };
    render::progress(&format!("until {}, {count} {noun}\n", lease.expires_at));
    render::data(format!("{}\n", lease.lease_id).as_bytes())
}

fn redeem(context: &Context, arguments: &Redeem) -> Result<(), Refusal> {
    let lease_id = lease_id(&arguments.lease_id)?;
    output::check_terminal(arguments.reveal)?;
    let reply = context.connect()?.lease_redeem(&lease_id)?;
    let format = if context.json {
        &Format::Json
    } else {
        &arguments.format
    };
    output::write(format, &reply)
}

fn revoke(context: &Context, arguments: &Revoke) -> Result<(), Refusal> {
    let reply = context
        .connect()?
        .lease_revoke(&lease_id(&arguments.lease_id)?)?;
    if context.json {
        return render::json(reply.expose_json());
    }
    render::progress(&format!("{}\n", reply.view.state.as_str()));
    Ok(())
}

fn list(context: &Context) -> Result<(), Refusal> {
    let reply = context.connect()?.leases()?;
    if context.json {
        return render::json(reply.expose_json());
    }
    render::data(table(&reply.view).as_bytes())
}

fn table(leases: &[LeaseView]) -> String {
    leases.iter().map(row).collect()
}

fn row(lease: &LeaseView) -> String {
    format!(
        "{}\t{}\t{}\t{}\t{}/{}\n",
        lease.lease_id,
        lease.selector.short(),
        lease.state.as_str(),
        lease.expires_at,
        lease.redemptions_used,
        lease.max_redemptions
    )
}

fn lease_id(text: &str) -> Result<LeaseId, Refusal> {
    LeaseId::parse(text)
        .map_err(|error| Refusal::new(ErrorCode::Usage).with_message(&error.to_string()))
}
