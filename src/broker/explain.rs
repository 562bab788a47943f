//! What the policy would say, without anything being asked for. A peer hears how it itself would
//! be judged, never what is written for others (PO-2).

use super::event::{OfferView, PolicyView, Standing, VerdictView};
use super::policy::Question;
use super::state::State;
use crate::model::{Action, Effect, Exposure, NoRule, PeerFacts, Scope, Selector};
use crate::time::Now;

impl State {
    /// How this peer would be judged for that selector.
    pub(super) fn policy_view(
        &self,
        peer: &PeerFacts,
        selector: &Selector,
        now: Now,
    ) -> PolicyView {
        PolicyView {
            listed: self.targets.contains_key(selector),
            create: self.verdict(peer, selector, Action::Create, Exposure::Use),
            redeem: self.verdict(peer, selector, Action::Redeem, Exposure::Reveal),
            revoke: self.verdict(peer, selector, Action::Revoke, Exposure::Use),
            exposure: Exposure::ALL.into_iter().rev().find(|exposure| {
                self.verdict(peer, selector, Action::Redeem, *exposure)
                    .effect
                    != Effect::Deny
            }),
            standing: self.standing(selector, now),
            selector: selector.clone(),
        }
    }

    /// What this peer may at least ask for: the catalogue without what is denied to it anyway.
    pub(super) fn offers(&self, peer: &PeerFacts, now: Now) -> Vec<OfferView> {
        self.settings
            .targets
            .iter()
            .map(|target| OfferView {
                description: target.description.clone(),
                policy: self.policy_view(peer, &target.selector, now),
            })
            .filter(|offer| offer.policy.create.effect != Effect::Deny)
            .collect()
    }

    fn standing(&self, selector: &Selector, now: Now) -> Standing {
        let create = Scope {
            action: Action::Create,
            selector: selector.clone(),
        };
        match self.session(now) {
            _ if self.login.is_locked() => Standing::Locked,
            None => Standing::LoggedOut,
            Some(session) if session.grants(&create) => Standing::Granted,
            Some(_) => Standing::NotGranted,
        }
    }

    fn verdict(
        &self,
        peer: &PeerFacts,
        selector: &Selector,
        action: Action,
        exposure: Exposure,
    ) -> VerdictView {
        if !self.targets.contains_key(selector) {
            return VerdictView {
                effect: Effect::Deny,
                rule: NoRule::Catalogue.into(),
                max_ttl: None,
            };
        }
        let decision = self.policy.decide(Question {
            peer,
            selector,
            actions: &[action],
            exposure,
        });
        VerdictView {
            effect: decision.effect,
            rule: decision.rule,
            max_ttl: decision.max_ttl,
        }
    }
}
