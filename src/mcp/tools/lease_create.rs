use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::Tool;

use super::{Name, Touch, describe, reason, selector, take_lease, wrong};
use crate::broker::handle::LeaseRequest;
use crate::mcp::server::Peer;
use crate::mcp::wire::{HowToUse, LeaseCreateArguments, LeaseCreateReply, LeaseReply};
use crate::model::{
    HolderClass, LeaseId, MAX_LEASE_TTL, MAX_REDEMPTIONS, MIN_LEASE_TTL, Refusal, shell_word,
};

const DESCRIPTION: &str = "Creates a lease: the right to use one credential for a short time. Answers with a handle, its \
end, and how a program redeems it; never with the credential itself. The lease ends by itself \
(at most an hour, by default a few minutes), and with this client's process. The handle alone \
proves nothing: the policy judges whoever redeems it. Next: let the program that needs the \
credential redeem the handle, without printing what it gets; call lease_revoke when done.";

pub(super) fn tool() -> Tool {
    describe::<LeaseCreateArguments, LeaseCreateReply>(
        Name::LeaseCreate,
        "Create lease",
        DESCRIPTION,
        Touch::Adds,
    )
}

pub(super) async fn call(
    peer: &Arc<Peer>,
    arguments: LeaseCreateArguments,
) -> Result<LeaseCreateReply, Refusal> {
    let request = request(&arguments)?;
    take_lease(peer)?;
    // If this call is cancelled meanwhile the core gives the lease back (LC-8).
    let lease = peer.core.lease_create(request).await?;
    Ok(LeaseCreateReply {
        how_to_use: how_to_use(&lease.lease_id, peer.shared.programs_socket.as_deref()),
        lease: LeaseReply::from(&lease),
        next: "let the program that needs the credential redeem the handle, without printing \
               what it gets; call lease_revoke when it is done"
            .to_owned(),
    })
}

fn request(arguments: &LeaseCreateArguments) -> Result<LeaseRequest, Refusal> {
    let ttl = arguments.ttl_s.map(Duration::from_secs);
    if ttl.is_some_and(|ttl| !(MIN_LEASE_TTL..=MAX_LEASE_TTL).contains(&ttl)) {
        let (least, most) = (MIN_LEASE_TTL.as_secs(), MAX_LEASE_TTL.as_secs());
        return Err(wrong(&format!("`ttl_s` is {least} to {most}")));
    }
    let max_redemptions = arguments.max_redemptions.unwrap_or(1);
    if !(1..=MAX_REDEMPTIONS).contains(&max_redemptions) {
        let message = format!("`max_redemptions` is 1 to {MAX_REDEMPTIONS}");
        return Err(wrong(&message));
    }
    let reason = arguments.reason.as_deref().map(reason).transpose()?;
    Ok(LeaseRequest {
        selector: selector(&arguments.selector)?,
        ttl,
        max_redemptions,
        reason,
        holder: HolderClass::Client,
    })
}

fn how_to_use(lease_id: &LeaseId, socket: Option<&Path>) -> HowToUse {
    let request = serde_json::json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "lease.redeem",
        "params": { "lease_id": lease_id.as_str() },
    });
    let socket = socket.map(|path| format!(" --socket {}", shell_word(&path.to_string_lossy())));
    HowToUse {
        // Every credential has this format, whatever its fields.
        command: format!(
            "aegis-broker lease redeem {lease_id} --format json{}",
            socket.unwrap_or_default()
        ),
        socket_request: request.to_string(),
    }
}
