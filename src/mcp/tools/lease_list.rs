use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{LeaseListReply, NoArguments};

const DESCRIPTION: &str = "Lists the leases this client created, newest first, with handle, selector, state, end and \
redemptions left. Ended ones stay listed for ten minutes. Never lists another client's leases \
and never shows a secret. Next: lease_revoke for what is not needed any more.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, LeaseListReply>(
        Name::LeaseList,
        "List leases",
        DESCRIPTION,
        Touch::Nothing,
    )
}
