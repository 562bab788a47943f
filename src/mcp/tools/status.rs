use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::door::{LEASE_BURST, LEASES_PER_S};
use crate::mcp::reply::LOCKED;
use crate::mcp::server::Peer;
use crate::mcp::wire::{LimitsReply, LoginReply, NoArguments, StatusReply};
use crate::model::{LoginPhase, MAX_LEASE_TTL, MAX_REDEMPTIONS, MIN_LEASE_TTL, Refusal};

const DESCRIPTION: &str = "Shows how the credential broker stands: whether the person is logged in and until when, a \
login that waits for them, live leases, the lock, and this client's limits. Changes nothing and \
never shows a secret. Next: target_list to see what can be asked for, or login when logged out.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, StatusReply>(Name::Status, "Broker status", DESCRIPTION, Touch::Nothing)
}

pub(super) async fn call(peer: &Peer, _arguments: NoArguments) -> Result<StatusReply, Refusal> {
    let status = peer.core.status().await?;
    Ok(StatusReply {
        product: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        login: LoginReply::from(&status.login),
        live_leases: status.live_leases,
        unconfirmed_revocations: status.unconfirmed_revocations,
        key_store: status.key_store,
        limits: LimitsReply {
            calls_at_once: peer.shared.in_flight,
            new_leases_at_once: LEASE_BURST,
            new_leases_per_s: LEASES_PER_S,
            min_ttl_s: MIN_LEASE_TTL.as_secs(),
            max_ttl_s: MAX_LEASE_TTL.as_secs(),
            max_redemptions: MAX_REDEMPTIONS,
        },
        next: next(&status.login.phase).to_owned(),
    })
}

const fn next(phase: &LoginPhase) -> &'static str {
    match phase {
        LoginPhase::LoggedOut => "call login when a lease is needed",
        LoginPhase::Locked => LOCKED,
        LoginPhase::AwaitingApproval(_) => {
            "show the person the address and the code; call login again when they say they approved it"
        }
        LoginPhase::LoggedIn { .. } => "call target_list for what can be asked for",
    }
}
