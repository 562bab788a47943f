use rmcp::model::Tool;

use super::{Name, Touch, describe, needs};
use crate::broker::handle::{OfferView, Standing};
use crate::mcp::reply::LOCKED;
use crate::mcp::server::Peer;
use crate::mcp::wire::{NoArguments, TargetListReply, TargetReply};
use crate::model::{Exposure, Refusal};

const DESCRIPTION: &str = "Lists the credentials this client may at least ask for: selector, the person's description, \
how far the policy lets material travel, and what is still needed (a login, an approval). Never \
shows a secret, nor what only other programs may ask for. Next: lease_create with one of the \
selectors, or policy_explain to see which rule decides.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, TargetListReply>(
        Name::TargetList,
        "List targets",
        DESCRIPTION,
        Touch::Nothing,
    )
}

pub(super) async fn call(peer: &Peer, _arguments: NoArguments) -> Result<TargetListReply, Refusal> {
    let offers = peer.core.offers().await?;
    let next = if offers.is_empty() {
        "there is nothing this client may ask for: tell the person, only they can change the \
         catalogue and the policy"
    } else if offers
        .iter()
        .any(|offer| offer.policy.standing == Standing::Locked)
    {
        LOCKED
    } else {
        "call lease_create with one of the selectors; policy_explain says which rule decides"
    };
    Ok(TargetListReply {
        targets: offers.iter().map(target).collect(),
        next: next.to_owned(),
    })
}

fn target(offer: &OfferView) -> TargetReply {
    TargetReply {
        selector: offer.policy.selector.short().to_owned(),
        description: offer.description.as_ref().map(ToString::to_string),
        exposure: offer.policy.exposure.map(Exposure::as_str),
        max_ttl_s: offer.policy.create.max_ttl.map(|ttl| ttl.as_secs()),
        needs: needs(&offer.policy),
    }
}
