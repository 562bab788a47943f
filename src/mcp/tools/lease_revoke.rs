use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::server::Peer;
use crate::mcp::wire::{LeaseReply, LeaseRevokeArguments, LeaseRevokeReply};
use crate::model::{ErrorCode, LeaseId, Refusal};

const DESCRIPTION: &str = "Ends a lease this client created: here at once, at the issuer as soon as that confirms it; one \
that is not revocable runs out there. Doing it again changes nothing. Never ends another client's lease. Next: nothing; create a new \
lease when the credential is needed again.";

pub(super) fn tool() -> Tool {
    describe::<LeaseRevokeArguments, LeaseRevokeReply>(
        Name::LeaseRevoke,
        "Revoke lease",
        DESCRIPTION,
        Touch::Ends,
    )
}

pub(super) async fn call(
    peer: &Peer,
    arguments: LeaseRevokeArguments,
) -> Result<LeaseRevokeReply, Refusal> {
    // What is no handle at all is answered as one that is not there (LC-9).
    let lease_id = LeaseId::parse(&arguments.lease_id)
        .map_err(|_no_detail| Refusal::from(ErrorCode::LeaseNotFound))?;
    let lease = peer.core.lease_revoke(lease_id).await?;
    Ok(LeaseRevokeReply {
        lease: LeaseReply::from(&lease),
    })
}
