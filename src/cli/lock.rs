//! `aegis-broker lock`: end the session, and serve nothing until the next login.

use super::{Context, render};
use crate::model::Refusal;

pub(super) fn run(context: &Context) -> Result<(), Refusal> {
    let reply = context.connect()?.lock()?;
    render::ended(context, "locked", &reply)
}
