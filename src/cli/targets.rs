//! `aegis-broker targets`: what there is to ask for.

use super::{Context, render};
use crate::model::{ProfileName, Refusal};
use crate::socket::client::TargetView;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The profile, where not the configured one
    #[arg(long, value_name = "NAME", value_parser = super::profile)]
    profile: Option<ProfileName>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Refusal> {
    let reply = context.connect()?.targets(arguments.profile.as_ref())?;
    if context.json {
        return render::json(reply.expose_json());
    }
    let table: String = reply.view.iter().map(row).collect();
    render::data(table.as_bytes())
}

/// One line: the selector, what the login asks for, whether the session holds it, what it is for.
fn row(target: &TargetView) -> String {
    let actions: Vec<_> = target
        .actions
        .iter()
        .map(|action| action.as_str())
        .collect();
    let granted = if target.granted { "granted" } else { "-" };
    let description = target.description.as_ref();
    format!(
        "{}\t{}\t{granted}\t{}\n",
        target.selector.short(),
        actions.join(","),
        description.map_or("", |text| text.as_str()),
    )
}
