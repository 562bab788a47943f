//! Callers that are denied again and again are refused everything about leases for a while
//! (`aegis.md` 14 and 17.13): a program in a loop learns nothing by going on, and the person hears
//! of it once. A caller is a process together with the executable that it was seen with; whoever
//! starts anew is another caller, so this is against mistakes and not against malice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::effect::Effect;
use super::ports::{AuditAction, AuditOutcome, AuditRecord};
use crate::model::{CleanText, ErrorCode, FileId, NoRule, PeerFacts, ProcessId, Refusal};
use crate::time::Timestamp;

/// So many denials within [`WINDOW`] begin a pause.
pub(super) const DENIALS: usize = 5;

/// See [`DENIALS`].
pub(super) const WINDOW: Duration = Duration::from_mins(1);

/// How long a pause lasts.
pub(super) const PAUSE: Duration = Duration::from_mins(1);

/// Callers that are remembered at most (LM): as many as one socket has connections. Past that the
/// one whose last denial is the longest ago is forgotten.
pub(super) const MAX_CALLERS: usize = 256;

/// The word in refusals and records.
pub(super) const REASON: &str = "denial_pause";

/// The codes that say no for good, and the issuer's words for the same. What passes by itself, or
/// with a login, is no denial.
const COUNTED: [&str; 7] = [
    ErrorCode::PolicyDenied.as_str(),
    ErrorCode::TargetUnknown.as_str(),
    ErrorCode::ApprovalUnavailable.as_str(),
    ErrorCode::ScopeNotGranted.as_str(),
    ErrorCode::AegisDenied.as_str(),
    "tenant_mismatch",
    "role_required",
];

/// Who is paused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Caller {
    process: ProcessId,
    exe: Option<CleanText>,
    /// Another file under the same path is another executable.
    file: Option<FileId>,
}

impl Caller {
    fn of(peer: &PeerFacts) -> Self {
        Self {
            process: peer.process,
            exe: peer.exe.clone(),
            file: peer.origin.exe_file,
        }
    }
}

#[derive(Debug, Default)]
struct Denied {
    /// At most [`DENIALS`], oldest first.
    recent: VecDeque<Timestamp>,
    paused_until: Option<Timestamp>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    callers: HashMap<Caller, Denied>,
}

impl Pauses {
    /// What to answer to a caller that is paused.
    pub(super) fn answer(&self, peer: &PeerFacts, now: Timestamp) -> Option<Refusal> {
        // Nearly always nobody was denied anything.
        if self.callers.is_empty() {
            return None;
        }
        let until = self.callers.get(&Caller::of(peer))?.paused_until?;
        (now < until).then(|| Refusal {
            retry_after: Some(now.until(until)),
            ..Refusal::new(ErrorCode::RateLimited)
                .with_reason(REASON)
                .with_message("too many requests of this program were denied")
                .with_fix("wait, and do not ask again for what was denied")
        })
    }

    /// Counts the denials among those effects. Answers whose pause begins now.
    pub(super) fn note(&mut self, effects: &[Effect], now: Timestamp) -> Vec<Arc<PeerFacts>> {
        let mut paused = Vec::new();
        for effect in effects {
            if let Effect::Audit(record) = effect
                && let Some(peer) = &record.peer
                && is_counted(record)
                && self.denied(peer, now)
            {
                paused.push(Arc::clone(peer));
            }
        }
        paused
    }

    /// One more denial: whether it is one too many.
    fn denied(&mut self, peer: &PeerFacts, now: Timestamp) -> bool {
        let caller = Caller::of(peer);
        if !self.callers.contains_key(&caller) {
            self.make_room(now);
        }
        let denied = self.callers.entry(caller).or_default();
        denied.recent.retain(|at| at.until(now) < WINDOW);
        denied.recent.push_back(now);
        let is_paused = denied.paused_until.is_some_and(|until| now < until);
        if is_paused || denied.recent.len() < DENIALS {
            return false;
        }
        denied.recent.clear();
        denied.paused_until = Some(now.plus(PAUSE));
        true
    }

    /// Forgets those of whom nothing counts any more, and one more where none is.
    fn make_room(&mut self, now: Timestamp) {
        if self.callers.len() < MAX_CALLERS {
            return;
        }
        self.callers
            .retain(|_, denied| now < denied.matters_until());
        if self.callers.len() < MAX_CALLERS {
            return;
        }
        let oldest = self
            .callers
            .iter()
            .min_by_key(|(_, denied)| denied.matters_until())
            .map(|(caller, _)| caller.clone());
        if let Some(oldest) = oldest {
            self.callers.remove(&oldest);
        }
    }

    /// Another session, or another policy: what was denied may not be any more.
    pub(super) fn forget(&mut self) {
        self.callers.clear();
    }
}

impl Denied {
    fn matters_until(&self) -> Timestamp {
        let counted = self.recent.back().map(|last| last.plus(WINDOW));
        let until = counted.max(self.paused_until);
        until.unwrap_or(Timestamp::from_millis(0))
    }
}

fn is_counted(record: &AuditRecord) -> bool {
    let about_a_lease = match record.action {
        AuditAction::Deny
        | AuditAction::Decoy
        | AuditAction::LeaseCreate
        | AuditAction::LeaseRedeem => true,
        AuditAction::Start
        | AuditAction::Stop
        | AuditAction::PolicyLoad
        | AuditAction::KeyStoreChoice
        | AuditAction::LoginBegin
        | AuditAction::Login
        | AuditAction::Logout
        | AuditAction::SessionEnd
        | AuditAction::SessionRenew
        | AuditAction::IdentityRenew
        | AuditAction::Lock
        | AuditAction::Deliver
        | AuditAction::LeaseRevoke
        | AuditAction::HttpRequest
        | AuditAction::HttpResponse
        | AuditAction::Leak
        | AuditAction::CallerPause
        | AuditAction::Reconcile => false,
    };
    let word = record.reason.as_ref().map(CleanText::as_str);
    about_a_lease
        && record.outcome == AuditOutcome::Denied
        && word.is_some_and(|word| COUNTED.contains(&word))
}

/// What the log calls the rule of a refusal that a pause makes.
pub(super) const RULE: NoRule = NoRule::DenialPause;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn after(millis: u64) -> Timestamp {
        START.plus(Duration::from_millis(millis))
    }

    fn peer(pid: i32, exe: &str) -> Arc<PeerFacts> {
        Arc::new(PeerFacts {
            process: ProcessId { pid, started: 1 },
            exe: Some(CleanText::new(exe, 64)),
            ancestors: Vec::new(),
            origin: Origin::default(),
        })
    }

    fn record(peer: &Arc<PeerFacts>, action: AuditAction, reason: &str) -> Effect {
        Effect::Audit(Box::new(AuditRecord {
            peer: Some(Arc::clone(peer)),
            reason: Some(CleanText::new(reason, 64)),
            ..AuditRecord::new(action, AuditOutcome::Denied)
        }))
    }

    fn denied(pauses: &mut Pauses, peer: &Arc<PeerFacts>, now: Timestamp) -> bool {
        let denial = record(peer, AuditAction::Deny, "policy_denied");
        !pauses.note(&[denial], now).is_empty()
    }

    /// LM, `aegis.md` 14: at the fifth denial within a minute, not at the fourth, and for a minute,
    /// at whose end it is over and counting begins anew.
    #[test]
    fn the_fifth_denial_within_a_minute_pauses_for_a_minute() {
        let mut pauses = Pauses::default();
        let one = peer(1, "/bin/a");
        for n in 0..4 {
            assert!(!denied(&mut pauses, &one, after(n)), "{n}");
            assert_eq!(pauses.answer(&one, after(n)), None, "{n}");
        }
        assert!(
            denied(&mut pauses, &one, after(59_999)),
            "the first counts still"
        );
        let refusal = pauses.answer(&one, after(59_999)).unwrap();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert_eq!(refusal.retry_after, Some(PAUSE));
        let left = pauses.answer(&one, after(119_998)).unwrap().retry_after;
        assert_eq!(left, Some(Duration::from_millis(1)));
        assert_eq!(pauses.answer(&one, after(119_999)), None);
        for n in 0..4 {
            assert!(!denied(&mut pauses, &one, after(120_000 + n)), "{n}");
        }
        assert!(denied(&mut pauses, &one, after(120_004)));
    }

    /// A denial that is a minute old counts no more.
    #[test]
    fn what_is_a_minute_old_is_not_counted() {
        let mut pauses = Pauses::default();
        let one = peer(1, "/bin/a");
        for n in 0..20 {
            assert!(!denied(&mut pauses, &one, after(15_000 * n)), "{n}");
        }
    }

    /// `aegis.md` 17.13: per process and executable.
    #[test]
    fn a_pause_is_of_one_process_with_one_executable() {
        let mut pauses = Pauses::default();
        let one = peer(1, "/bin/a");
        for _ in 0..5 {
            denied(&mut pauses, &one, START);
        }
        assert!(pauses.answer(&one, START).is_some());
        for other in [peer(2, "/bin/a"), peer(1, "/bin/b")] {
            assert_eq!(pauses.answer(&other, START), None, "{other:?}");
        }
        pauses.forget();
        assert_eq!(pauses.answer(&one, START), None);
    }

    /// What passes by itself or with a login is no denial, and neither is the pause's own answer.
    #[test]
    fn only_a_no_for_good_is_counted() {
        use AuditAction::{Decoy, Deny, LeaseCreate, LeaseRedeem, LeaseRevoke, Login};
        let rows = [
            (Deny, "policy_denied", true),
            (Deny, "target_unknown", true),
            (Deny, "approval_unavailable", true),
            (Deny, "scope_not_granted", true),
            (Deny, "aegis_denied", true),
            (Decoy, "policy_denied", true),
            (LeaseCreate, "role_required", true),
            (LeaseRedeem, "tenant_mismatch", true),
            (Deny, "rate_limited", false),
            (Deny, "login_required", false),
            (Deny, "locked", false),
            (Deny, "lease_not_found", false),
            (Deny, "lease_expired", false),
            (LeaseCreate, "proof_invalid", false),
            (LeaseRevoke, "scope_not_granted", false),
            (Login, "access_denied", false),
        ];
        for (action, reason, counted) in rows {
            let mut pauses = Pauses::default();
            let one = peer(1, "/bin/a");
            let five: Vec<_> = (0..5).map(|_| record(&one, action, reason)).collect();
            let paused = pauses.note(&five, START).len();
            assert_eq!(paused == 1, counted, "{action:?} {reason}");
        }
    }

    /// LM: one more caller than fit makes the one go whose denial is the longest ago; one whose
    /// pause lasts outlives those.
    #[test]
    fn what_is_remembered_is_bounded() {
        let mut pauses = Pauses::default();
        let paused = peer(0, "/bin/a");
        for _ in 0..5 {
            denied(&mut pauses, &paused, after(900));
        }
        let count = i32::try_from(MAX_CALLERS).unwrap();
        for pid in 1..count {
            denied(
                &mut pauses,
                &peer(pid, "/bin/a"),
                after(u64::try_from(pid).unwrap()),
            );
        }
        assert_eq!(pauses.callers.len(), MAX_CALLERS);
        denied(&mut pauses, &peer(count, "/bin/a"), after(901));
        assert_eq!(pauses.callers.len(), MAX_CALLERS);
        assert!(!pauses.callers.contains_key(&Caller::of(&peer(1, "/bin/a"))));
        assert!(pauses.answer(&paused, after(901)).is_some());
        denied(&mut pauses, &peer(count + 1, "/bin/a"), after(1_000_000));
        assert_eq!(pauses.callers.len(), 1, "what counts no more goes together");
    }
}
