//! Leases that may be live at the issuer though nobody here has them any more. Those that were
//! ended and that the issuer has not confirmed as ended are tried again, with backoff, as long as a
//! session can do it and they could still be live (LC-5, LC-10). The others can only run out, and
//! are counted until then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::ports::{CALL_LIMIT, Certainty, Failure, RevokeReason};
use crate::model::{ErrorCode, LeaseId, PeerFacts, Principal, Selector};
use crate::time::{Now, Timestamp, UnixTime};

/// The pause after the first failed try; doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest pause between two tries.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// Unconfirmed revocations kept at most, and leases that run out; past that the ones that end
/// soonest are forgotten.
const MAX_KEPT: usize = 4096;

/// How much later than we reckon a lease may end at the issuer: it counts from when a late try
/// reached it, and in whole seconds.
pub(super) const LATER: Duration = CALL_LIMIT.saturating_add(Duration::from_secs(1));

/// Why a lease is revoked, and by whom where a peer asked for it.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    pub(super) reason: RevokeReason,
    pub(super) peer: Option<Arc<PeerFacts>>,
}

impl Cause {
    /// This peer asked.
    pub(super) fn asked(reason: RevokeReason, peer: &Arc<PeerFacts>) -> Self {
        Self {
            reason,
            peer: Some(Arc::clone(peer)),
        }
    }
}

impl From<RevokeReason> for Cause {
    /// Nobody asked: something came to its end.
    fn from(reason: RevokeReason) -> Self {
        Self { reason, peer: None }
    }
}

/// What the record of a revocation is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    pub(super) selector: Option<Selector>,
    pub(super) peer: Option<Arc<PeerFacts>>,
}

/// One of them.
#[derive(Debug)]
struct Pending {
    subject: Subject,
    /// Whose lease it is, where that is known.
    owner: Option<Principal>,
    /// As whom the last try was made.
    asked_as: Option<Principal>,
    reason: RevokeReason,
    ends_at: Timestamp,
    next_try: Option<Timestamp>,
    in_flight: bool,
    failures: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    pending: HashMap<LeaseId, Pending>,
    /// When leases end that nothing can revoke: without a name, or without the grant.
    running_out: Vec<Timestamp>,
}

impl Revocations {
    /// A lease is to be revoked. The caller sends the first try, or leaves it to
    /// [`resume`](Self::resume) where there is no session to do it with.
    pub(super) fn add(
        &mut self,
        lease_id: LeaseId,
        selector: Option<Selector>,
        owner: Option<Principal>,
        cause: Cause,
        ends_at: Timestamp,
    ) {
        if self.pending.len() >= MAX_KEPT
            && let Some(soonest) = self
                .pending
                .iter()
                .min_by_key(|(_, pending)| pending.ends_at)
                .map(|(id, _)| id.clone())
        {
            self.pending.remove(&soonest);
        }
        self.pending.insert(
            lease_id,
            Pending {
                subject: Subject {
                    selector,
                    peer: cause.peer,
                },
                owner,
                asked_as: None,
                reason: cause.reason,
                ends_at,
                next_try: None,
                in_flight: false,
                failures: 0,
            },
        );
    }

    /// A lease cannot be revoked: its name never came, or the grant to do it.
    pub(super) fn let_run_out(&mut self, life: Duration, now: Timestamp) {
        let ends_at = now.plus(life);
        self.running_out.retain(|ends_at| now < *ends_at);
        if self.running_out.len() >= MAX_KEPT
            && let Some(soonest) =
                (0..self.running_out.len()).min_by_key(|index| self.running_out.get(*index))
        {
            self.running_out.swap_remove(soonest);
        }
        self.running_out.push(ends_at);
    }

    /// Whether a lease of that name is among them.
    pub(super) fn has(&self, lease_id: &LeaseId) -> bool {
        self.pending.contains_key(lease_id)
    }

    /// The first try is on its way, made as this principal.
    pub(super) fn sent(&mut self, lease_id: &LeaseId, principal: &Principal) {
        if let Some(pending) = self.pending.get_mut(lease_id) {
            pending.in_flight = true;
            pending.asked_as = Some(principal.clone());
        }
    }

    /// Whether the issuer's answer to one is being waited for.
    pub(super) fn is_under_way(&self, lease_id: &LeaseId) -> bool {
        self.pending
            .get(lease_id)
            .is_some_and(|pending| pending.in_flight)
    }

    /// Whether an answer of the issuer's is being waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending.values().any(|pending| pending.in_flight)
    }

    /// Whether that answer proves that nothing of the lease is live at the issuer: it says so, or
    /// it says to the lease's own principal that it knows none of that name. Everybody else hears
    /// the same of a live one (`aegis.md` 17.7), and what is not the issuer's word proves nothing.
    pub(super) fn is_over(&self, lease_id: &LeaseId, answer: &Result<(), Failure>) -> bool {
        match answer {
            Ok(()) => true,
            Err(failure) => {
                failure.code == ErrorCode::LeaseNotFound
                    && failure.certainty == Certainty::NotDone
                    && self.pending.get(lease_id).is_some_and(|pending| {
                        pending.owner.is_some() && pending.owner == pending.asked_as
                    })
            }
        }
    }

    /// The issuer has answered for good: nothing is left to do.
    pub(super) fn settled(&mut self, lease_id: &LeaseId) -> Option<Subject> {
        Some(self.pending.remove(lease_id)?.subject)
    }

    /// The issuer has not answered, or asked for a `pause`: another try follows while a session
    /// lasts.
    pub(super) fn failed(
        &mut self,
        lease_id: &LeaseId,
        now: Timestamp,
        pause: Option<Duration>,
    ) -> Option<Subject> {
        let pending = self.pending.get_mut(lease_id)?;
        let factor = 1_u32.checked_shl(pending.failures).unwrap_or(u32::MAX);
        pending.failures = pending.failures.saturating_add(1);
        pending.in_flight = false;
        let backoff = FIRST_BACKOFF.saturating_mul(factor).min(MAX_BACKOFF);
        pending.next_try = Some(now.plus(backoff.max(pause.unwrap_or_default())));
        Some(pending.subject.clone())
    }

    /// The issuer refuses: this session need not try again.
    pub(super) fn refused(&mut self, lease_id: &LeaseId) -> Option<Subject> {
        let pending = self.pending.get_mut(lease_id)?;
        pending.in_flight = false;
        pending.next_try = None;
        Some(pending.subject.clone())
    }

    /// The session that did the tries is gone: they wait for the next login.
    pub(super) fn suspend(&mut self) {
        for pending in self.pending.values_mut() {
            pending.next_try = None;
        }
    }

    /// What a new session, of this principal, should try at once.
    pub(super) fn resume(
        &mut self,
        principal: &Principal,
        now: Timestamp,
    ) -> Vec<(LeaseId, RevokeReason)> {
        self.drop_ended(now);
        self.take(principal, |pending| !pending.in_flight)
    }

    /// What is due for another try, as this principal.
    pub(super) fn due(
        &mut self,
        principal: &Principal,
        now: Timestamp,
    ) -> Vec<(LeaseId, RevokeReason)> {
        self.drop_ended(now);
        self.take(principal, |pending| {
            pending.next_try.is_some_and(|at| at <= now)
        })
    }

    fn take(
        &mut self,
        principal: &Principal,
        wanted: impl Fn(&Pending) -> bool,
    ) -> Vec<(LeaseId, RevokeReason)> {
        let mut due: Vec<_> = self
            .pending
            .iter_mut()
            .filter(|(_, pending)| wanted(pending))
            .map(|(id, pending)| {
                pending.next_try = None;
                pending.in_flight = true;
                pending.asked_as = Some(principal.clone());
                (id.clone(), pending.reason)
            })
            .collect();
        due.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        due
    }

    /// A lease that has run out needs no revocation.
    fn drop_ended(&mut self, now: Timestamp) {
        self.pending.retain(|_, pending| now < pending.ends_at);
    }

    /// How many could still be live.
    pub(super) fn count(&self, now: Timestamp) -> usize {
        let unconfirmed = self.pending.values().map(|pending| pending.ends_at);
        unconfirmed
            .chain(self.running_out.iter().copied())
            .filter(|ends_at| now < *ends_at)
            .count()
    }

    /// When the next try is due.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.pending
            .values()
            .filter_map(|pending| pending.next_try)
            .min()
    }
}

/// When a lease is gone that is known by its wall-clock end only.
pub(super) fn gone_at(ends_at: UnixTime, now: Now) -> Timestamp {
    now.boot.plus(now.unix.until(ends_at)).plus(LATER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> LeaseId {
        LeaseId::parse(text).unwrap()
    }

    fn principal() -> Principal {
        Principal::parse("user:u-demo").unwrap()
    }

    const START: Timestamp = Timestamp::from_millis(1_000);

    fn after(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    /// LC-5: tried again with growing pauses, until it is settled or has run out.
    #[test]
    fn failures_back_off_until_the_lease_has_run_out() {
        let mut revocations = Revocations::default();
        revocations.add(id("a"), None, None, RevokeReason::Logout.into(), after(300));
        assert_eq!(
            revocations.next_deadline(),
            None,
            "the first try is on its way"
        );
        let mut now = START;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            revocations.failed(&id("a"), now, None);
            let next = revocations.next_deadline().unwrap();
            assert_eq!(now.until(next), Duration::from_secs(pause));
            assert!(revocations.due(&principal(), now).is_empty());
            now = next;
            assert_eq!(
                revocations.due(&principal(), now),
                vec![(id("a"), RevokeReason::Logout)]
            );
        }
        assert!(revocations.due(&principal(), after(300)).is_empty());
        assert_eq!(revocations.count(after(300)), 0);
    }

    /// LC-10: what no session could do waits for the next one.
    #[test]
    fn parked_revocations_wait_for_a_session() {
        let mut revocations = Revocations::default();
        revocations.add(
            id("a"),
            None,
            None,
            RevokeReason::DeliveryUncertain.into(),
            after(300),
        );
        revocations.add(
            id("b"),
            None,
            None,
            RevokeReason::DeliveryUncertain.into(),
            after(10),
        );
        assert_eq!(revocations.next_deadline(), None);
        assert_eq!(revocations.count(START), 2);
        assert_eq!(
            revocations.resume(&principal(), after(20)),
            vec![(id("a"), RevokeReason::DeliveryUncertain)]
        );
        revocations.settled(&id("a"));
        assert_eq!(revocations.count(after(20)), 0);
    }
}
