use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{NoArguments, StatusReply};

const DESCRIPTION: &str = "Shows how the credential broker stands: whether the person is logged in and until when, a \
login that waits for them, live leases, the lock, and this client's limits. Changes nothing and \
never shows a secret. Next: target_list to see what can be asked for, or login when logged out.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, StatusReply>(Name::Status, "Broker status", DESCRIPTION, Touch::Nothing)
}
