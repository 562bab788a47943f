use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::broker::handle::MAX_DECISIONS;
use crate::mcp::server::Peer;
use crate::mcp::wire::{AuditListReply, DecisionReply, NoArguments};
use crate::model::Refusal;

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

pub(super) async fn call(peer: &Peer, _arguments: NoArguments) -> Result<AuditListReply, Refusal> {
    let decisions = peer.core.decisions().await?;
    Ok(AuditListReply {
        decisions: decisions.iter().map(DecisionReply::from).collect(),
        kept_at_most: MAX_DECISIONS,
    })
}
