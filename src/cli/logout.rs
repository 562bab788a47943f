//! `aegis-broker logout`: end the session.

use super::{Context, render};
use crate::model::{ProfileName, Refusal};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The profile, where not the configured one
    #[arg(long, value_name = "NAME", value_parser = super::profile)]
    profile: Option<ProfileName>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Refusal> {
    let reply = context.connect()?.logout(arguments.profile.as_ref())?;
    render::ended(context, "logged out", &reply)
}
