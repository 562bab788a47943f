//! Decoys: entries of the catalogue that look like all others and are there to be asked for by
//! whoever has no business to. Nobody ever gets one, whatever the rules say; the login does not
//! ask for it and the issuer hears nothing of it; asking for one has a kind of record of its own.

use std::sync::Arc;

use super::effect::Effect;
use super::event::Request;
use super::fixes::policy_denied;
use super::ports::{AuditAction, AuditOutcome, AuditRecord, RevokeReason};
use super::revocations::Cause;
use super::state::{Asker, State};
use crate::model::{CleanText, ErrorCode, NoRule, PeerFacts, Refusal, Selector};
use crate::time::Now;

/// Why a lock that nobody asked for was made, in its record.
const REASON: &str = "decoy";

impl State {
    /// Whether that is a decoy.
    pub(super) fn is_decoy(&self, selector: &Selector) -> bool {
        self.targets
            .get(selector)
            .is_some_and(|target| target.decoy)
    }

    /// Somebody asks for a decoy: recorded, and answered as any denial of the same request would be.
    /// Where the configuration says so, the broker is locked.
    pub(super) fn decoy_touched(
        &mut self,
        asker: &Asker,
        request: &Request,
        selector: &Selector,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let refusal = self.as_denied(asker, request, selector, now);
        effects.push(Effect::Audit(Box::new(AuditRecord {
            peer: Some(Arc::clone(&asker.peer)),
            selector: Some(selector.clone()),
            rule: Some(NoRule::Decoy.into()),
            reason: Some(CleanText::new(refusal.code.as_str(), 64)),
            ..self.record(AuditAction::Decoy, AuditOutcome::Denied)
        })));
        self.refuse(asker.ticket, refusal, effects);
        if self.settings.gate.decoy_locks && !self.login.is_locked() {
            let cause = Cause::asked(RevokeReason::Locked, &asker.peer);
            let reason = Some(CleanText::new(REASON, 64));
            self.lock_down(&cause, reason, now, effects);
        }
    }

    /// What the same caller would hear if it were a target that the policy denies it.
    fn as_denied(
        &self,
        asker: &Asker,
        request: &Request,
        selector: &Selector,
        now: Now,
    ) -> Refusal {
        if self.login.is_locked() {
            return ErrorCode::Locked.into();
        }
        if let Some(paused) = self.pauses.answer(&asker.peer, now.boot) {
            return paused;
        }
        policy_denied(selector, request.takes())
    }

    /// By which selector a decoy is explained to this peer: as itself where a rule lets the peer ask
    /// for it, else as the first target that the peer may ask for. Everything else as itself.
    pub(super) fn explained_as<'s>(
        &'s self,
        peer: &PeerFacts,
        selector: &'s Selector,
    ) -> &'s Selector {
        if !self.is_decoy(selector) || self.may_ask_for(peer, selector) {
            return selector;
        }
        self.settings
            .targets
            .iter()
            .filter(|target| !target.decoy)
            .map(|target| &target.selector)
            .find(|other| self.may_ask_for(peer, other))
            .unwrap_or(selector)
    }
}
