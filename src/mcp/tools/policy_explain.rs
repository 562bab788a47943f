use rmcp::model::Tool;

use super::{Name, Touch, describe, needs, selector};
use crate::broker::handle::{PolicyView, Standing, VerdictView};
use crate::mcp::reply::LOCKED;
use crate::mcp::server::Peer;
use crate::mcp::wire::{PolicyExplainArguments, PolicyExplainReply, StepReply};
use crate::model::{Action, Effect, Exposure, Refusal};

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

pub(super) async fn call(
    peer: &Peer,
    arguments: PolicyExplainArguments,
) -> Result<PolicyExplainReply, Refusal> {
    let policy = peer.core.explain(selector(&arguments.selector)?).await?;
    Ok(PolicyExplainReply {
        in_catalogue: policy.listed,
        exposure: policy.exposure.map(Exposure::as_str),
        steps: vec![
            step(Action::Create, Exposure::Use, &policy.create),
            step(Action::Redeem, Exposure::Reveal, &policy.redeem),
            step(Action::Revoke, Exposure::Use, &policy.revoke),
        ],
        needs: needs(&policy),
        next: next(&policy).to_owned(),
        selector: policy.selector.short().to_owned(),
    })
}

fn step(action: Action, exposure: Exposure, verdict: &VerdictView) -> StepReply {
    StepReply {
        action: action.as_str(),
        exposure: exposure.as_str(),
        decision: word(verdict.effect),
        rule: verdict.rule.to_string(),
        max_ttl_s: verdict.max_ttl.map(|ttl| ttl.as_secs()),
    }
}

const fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Ask => "ask",
        Effect::Deny => "deny",
    }
}

fn next(policy: &PolicyView) -> &'static str {
    match policy.create.effect {
        _ if !policy.listed => {
            "call target_list for what there is; the person has to add this one first"
        }
        Effect::Deny => "tell the person which rule denies it; only they can change the policy",
        Effect::Ask => {
            "tell the person that the policy asks for their approval, which cannot be given yet"
        }
        Effect::Allow => match policy.standing {
            Standing::Locked => LOCKED,
            Standing::LoggedOut => "call login, then lease_create",
            Standing::NotGranted => "tell the person that the login does not cover this",
            Standing::Granted => "call lease_create",
        },
    }
}
