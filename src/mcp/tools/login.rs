use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{LoginToolReply, NoArguments};

const DESCRIPTION: &str = "Starts the person's device login, or joins the one that already runs, and answers with the \
address to open and the code to compare. Show both to the person; only they can approve, in \
their own browser. Never takes or returns a password, token or device code, and never opens a \
browser. Next: when the person says they approved, call login again; it answers signed_in once \
the issuer knows. After access_denied or expired_token stop and ask the person first.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, LoginToolReply>(Name::Login, "Log in", DESCRIPTION, Touch::Adds)
}
