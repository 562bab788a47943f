use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{AuditListReply, NoArguments};

const DESCRIPTION: &str = "Lists the broker's recent decisions about this client's own requests, newest first: what was \
asked, what was decided, by which rule. Never shows what other programs did and never a secret. \
Next: use it to find out why something was refused.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, AuditListReply>(
        Name::AuditList,
        "List own decisions",
        DESCRIPTION,
        Touch::Nothing,
    )
}
