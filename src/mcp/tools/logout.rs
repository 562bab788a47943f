use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{LogoutReply, NoArguments};

const DESCRIPTION: &str = "Ends the login for every program of this user: all leases are revoked at the issuer, tokens \
and keys are wiped. Use it only when the person asks for it. Never deletes anything else. \
Next: nothing works until the person logs in again.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, LogoutReply>(Name::Logout, "Log out", DESCRIPTION, Touch::Ends)
}
