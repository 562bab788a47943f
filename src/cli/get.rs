//! `aegis-broker get`: a credential on standard output.

use std::time::Duration;

use super::Context;
use super::output::{self, Format};
use crate::model::{ErrorCode, ProfileName, Refusal, Selector};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What for: provider/app/account
    selector: String,
    /// `value` (the main field), `json`, `env`, or a field's name
    #[arg(long, default_value = "value", value_name = "FORMAT")]
    format: Format,
    /// How long it must still be valid, at most 1h
    #[arg(long, value_name = "DURATION", value_parser = super::min_valid_for)]
    min_valid_for: Option<Duration>,
    /// Why, for the records: at most 200 characters
    #[arg(long, value_name = "TEXT", value_parser = super::reason)]
    reason: Option<String>,
    /// The profile, where not the configured one
    #[arg(long, value_name = "NAME", value_parser = super::profile)]
    profile: Option<ProfileName>,
    /// Write it even to a terminal
    #[arg(long)]
    reveal: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Refusal> {
    let selector = selector(&arguments.selector)?;
    output::check_terminal(arguments.reveal)?;
    let reply = context.connect()?.credential(
        &selector,
        arguments.min_valid_for,
        arguments.reason.as_deref(),
        arguments.profile.as_ref(),
    )?;
    let format = if context.json {
        &Format::Json
    } else {
        &arguments.format
    };
    output::write(format, &reply)
}

/// Past this line a selector is specific.
pub(super) fn selector(text: &str) -> Result<Selector, Refusal> {
    Selector::parse(text)
        .map_err(|error| Refusal::new(ErrorCode::SelectorInvalid).with_message(&error.to_string()))
}
