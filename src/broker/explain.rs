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
        let judged = self.explained_as(peer, selector);
        PolicyView {
            listed: self.targets.contains_key(selector),
            create: self.verdict(peer, judged, Action::Create, Exposure::Use),
            redeem: self.verdict(peer, judged, Action::Redeem, Exposure::Reveal),
            revoke: self.verdict(peer, judged, Action::Revoke, Exposure::Use),
            exposure: Exposure::ALL.into_iter().rev().find(|exposure| {
                self.verdict(peer, judged, Action::Redeem, *exposure).effect != Effect::Deny
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

    /// Whether the policy lets this peer at least ask for it.
    pub(super) fn may_ask_for(&self, peer: &PeerFacts, selector: &Selector) -> bool {
        let create = self.verdict(peer, selector, Action::Create, Exposure::Use);
        create.effect != Effect::Deny
    }

    fn standing(&self, selector: &Selector, now: Now) -> Standing {
        let create = Scope {
            action: Action::Create,
            selector: selector.clone(),
        };
        match self.session(now) {
            _ if self.login.is_locked() => Standing::Locked,
            None => Standing::LoggedOut,
            // A decoy looks as if the login covered it.
            Some(_) if self.is_decoy(selector) => Standing::Granted,
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
