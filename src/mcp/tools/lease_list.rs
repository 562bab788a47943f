use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::server::Peer;
use crate::mcp::wire::{LeaseListReply, LeaseReply, NoArguments};
use crate::model::Refusal;

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

pub(super) async fn call(peer: &Peer, _arguments: NoArguments) -> Result<LeaseListReply, Refusal> {
    let leases = peer.core.leases().await?;
    Ok(LeaseListReply {
        leases: leases.iter().map(LeaseReply::from).collect(),
    })
}
