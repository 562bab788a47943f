use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{NoArguments, TargetListReply};

const DESCRIPTION: &str = "Lists the credentials this client may at least ask for: selector, the person's description, \
how far the policy lets material travel, and what is still needed (a login, an approval). Shows \
no secret and nothing that only other programs may ask for. Next: lease_create with one of the \
selectors, or policy_explain to see which rule decides.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, TargetListReply>(
        Name::TargetList,
        "List targets",
        DESCRIPTION,
        Touch::Nothing,
    )
}
