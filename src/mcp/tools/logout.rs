use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::server::Peer;
use crate::mcp::wire::{LogoutReply, NoArguments};
use crate::model::Refusal;

const DESCRIPTION: &str = "Ends the login for every program of this user: all leases are revoked at the issuer, tokens \
and keys are wiped. Use it only when the person asks for it. Never deletes anything else. \
Next: nothing works until the person logs in again.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, LogoutReply>(Name::Logout, "Log out", DESCRIPTION, Touch::Ends)
}

pub(super) async fn call(peer: &Peer, _arguments: NoArguments) -> Result<LogoutReply, Refusal> {
    let ended = peer.core.logout().await?;
    Ok(LogoutReply {
        revoked: ended.revoked,
        unconfirmed: ended.unconfirmed,
        session: ended.session.as_str(),
        next: "nothing works until the person logs in again".to_owned(),
    })
}
