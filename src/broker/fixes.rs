//! What would fix a denial, exactly: the rule, the scope or the command, made of nothing but what
//! was asked for. What the policy says otherwise stays with the person (PO-2).

use crate::model::{Action, ErrorCode, Exposure, Refusal, Scope, Selector};

/// The policy does not allow these actions with that, as far out as that.
pub(super) fn policy_denied(
    selector: &Selector,
    (actions, exposure): (&[Action], Exposure),
) -> Refusal {
    let actions: Vec<_> = actions.iter().map(|action| action.as_str()).collect();
    Refusal::new(ErrorCode::PolicyDenied).with_fix(&format!(
        "ask for a rule in policy.toml that allows {} for {}, with expose = \"{}\"",
        actions.join(" and "),
        selector.short(),
        exposure.as_str()
    ))
}

/// The policy allows it for shorter leases only.
pub(super) fn too_long_for_policy(selector: &Selector) -> Refusal {
    Refusal::new(ErrorCode::PolicyDenied)
        .with_reason("ttl")
        .with_message("the policy does not let this program have a lease that long")
        .with_fix(&format!(
            "create a shorter lease for {} from this program",
            selector.short()
        ))
}

/// To who may use it by `exec` and wants to see it.
pub(super) fn for_commands_only(selector: &Selector) -> Refusal {
    Refusal::new(ErrorCode::PolicyDenied)
        .with_reason("exposure")
        .with_message("the policy lets a command have this, and not be shown")
        .with_fix(&format!(
            "run the command with `aegis-broker exec --use {} -- COMMAND`",
            selector.short()
        ))
}

/// The catalogue does not list it.
pub(super) fn target_unknown(selector: &Selector) -> Refusal {
    Refusal::new(ErrorCode::TargetUnknown).with_fix(&format!(
        "add {} to the profile's targets, restart the daemon and log in again",
        selector.short()
    ))
}

/// The login was not granted that.
pub(super) fn scope_not_granted(action: Action, selector: &Selector) -> Refusal {
    let scope = Scope {
        action,
        selector: selector.clone(),
    };
    Refusal::new(ErrorCode::ScopeNotGranted).with_fix(&format!(
        "add the action to the target, start the daemon again, then log in; what is missing is {scope}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PO-2: a fix names the exact rule, scope or command, also with the longest selector.
    #[test]
    fn fixes_are_exact_and_whole() {
        let longest = ["a", "b", "c"].map(|part| part.repeat(63)).join("/");
        for text in ["gcp/billing-prod/deploy-bot", &*longest] {
            let selector = Selector::parse(text).unwrap();
            let both: (&[Action], _) = (&[Action::Create, Action::Redeem], Exposure::Reveal);
            let scope = format!("credential.lease.redeem:{selector}");
            let exec = format!("`aegis-broker exec --use {text} -- COMMAND`");
            let rule = format!("allows create and redeem for {text}, with expose = \"reveal\"");
            let rows = [
                (policy_denied(&selector, both), rule),
                (for_commands_only(&selector), exec),
                (target_unknown(&selector), format!("add {text} to")),
                (scope_not_granted(Action::Redeem, &selector), scope),
                (
                    too_long_for_policy(&selector),
                    format!("lease for {text} from"),
                ),
            ];
            for (refusal, expected) in rows {
                assert!(refusal.fix().contains(&expected), "{}", refusal.fix());
                assert!(refusal.code.do_not_retry(), "{}", refusal.fix());
            }
        }
    }
}
