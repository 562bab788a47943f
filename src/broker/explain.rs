//! What the policy would say, without anything being asked for. A peer hears how it itself would
//! be judged, never what is written for others (PO-2).

use super::event::{OfferView, PolicyView, VerdictView};
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
        let session = self.session(now);
        let covers = |action| {
            session.is_some_and(|session| {
                session.grants(&Scope {
                    action,
                    selector: selector.clone(),
                })
            })
        };
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
            logged_in: session.is_some(),
            granted: covers(Action::Create),
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
