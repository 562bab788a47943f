use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{PolicyExplainArguments, PolicyExplainReply};

const DESCRIPTION: &str = "Says what the person's policy would answer to this client for one selector: allow, ask or \
deny, by which rule, how far material may travel, and what is needed first. Decides nothing, \
changes nothing, and never shows rules made for other programs. Next: lease_create when it is \
allowed; otherwise tell the person the rule's name, only they can change the policy.";

pub(super) fn tool() -> Tool {
    describe::<PolicyExplainArguments, PolicyExplainReply>(
        Name::PolicyExplain,
        "Explain policy",
        DESCRIPTION,
        Touch::Nothing,
    )
}
