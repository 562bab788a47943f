use std::collections::{BTreeMap, HashMap, VecDeque};

use super::wire::Line;
use crate::broker::ports::{
    AuditAction, AuditOutcome, AuditRecord, MAX_OWN_CALLS, OpenLease, OwnCall, OwnCalls,
};
use crate::model::{CleanText, ErrorCode, LeaseId, MAX_LEASE_TTL, Principal, ProfileName};
use crate::time::UnixTime;

/// With so many leases it is looked for the first time which of them have run out.
const FIRST_LOOK: usize = 64;

/// What earlier runs leave to a new one.
#[derive(Debug, Default)]
pub(super) struct History {
    leases: HashMap<LeaseId, OpenLease>,
    /// With so many leases it is looked again.
    next_look: usize,
    principals: BTreeMap<ProfileName, Principal>,
}

impl History {
    /// Takes in the next record.
    pub(super) fn note(&mut self, line: &Line<AuditRecord>) {
        let record = &line.content;
        match record.action {
            // One that went wrong names the lease that it made all the same.
            AuditAction::LeaseCreate => {
                if record.outcome != AuditOutcome::Denied {
                    self.open(line);
                }
            }
            AuditAction::LeaseRedeem | AuditAction::Deliver => {
                if record.outcome == AuditOutcome::Ok {
                    self.open(line);
                }
            }
            AuditAction::LeaseRevoke => {
                if is_over(record)
                    && let Some(lease_id) = &record.lease_id
                {
                    self.leases.remove(lease_id);
                }
            }
            AuditAction::Login => {
                if record.outcome == AuditOutcome::Ok
                    && let (Some(profile), Some(principal)) = (&record.profile, &record.principal)
                {
                    self.principals.insert(profile.clone(), principal.clone());
                }
            }
            // A session that the issuer ended is no person's wish to log in as somebody else.
            AuditAction::Logout => {
                if let (Some(profile), AuditOutcome::Ok) = (&record.profile, record.outcome) {
                    self.principals.remove(profile);
                }
            }
            AuditAction::Start
            | AuditAction::Stop
            | AuditAction::PolicyLoad
            | AuditAction::KeyStoreChoice
            | AuditAction::LoginBegin
            | AuditAction::Lock
            | AuditAction::SessionRenew
            | AuditAction::IdentityRenew
            | AuditAction::SessionEnd
            | AuditAction::HttpRequest
            | AuditAction::HttpResponse
            | AuditAction::Leak
            | AuditAction::Deny
            | AuditAction::Decoy
            | AuditAction::CallerPause
            | AuditAction::Reconcile => {}
        }
    }

    fn open(&mut self, line: &Line<AuditRecord>) {
        let record = &line.content;
        let Some(lease_id) = &record.lease_id else {
            return;
        };
        let expires_at = record
            .lease_expires_at
            .unwrap_or_else(|| line.at.plus(MAX_LEASE_TTL));
        let lease = self
            .leases
            .entry(lease_id.clone())
            .or_insert_with(|| OpenLease {
                lease_id: lease_id.clone(),
                selector: None,
                principal: None,
                expires_at,
            });
        if let Some(selector) = &record.selector {
            lease.selector = Some(selector.clone());
        }
        if lease.principal.is_none() {
            lease.principal.clone_from(&record.principal);
        }
        if let Some(expires_at) = record.lease_expires_at {
            lease.expires_at = expires_at;
        }
        self.forget_ended(line.at);
    }

    /// Forgets what has run out by then, whenever there is twice as much as was left the last time.
    fn forget_ended(&mut self, at: UnixTime) {
        if self.leases.len() < self.next_look.max(FIRST_LOOK) {
            return;
        }
        self.leases.retain(|_, lease| at < lease.expires_at);
        self.next_look = self.leases.len().saturating_mul(2);
    }

    /// The leases still open at `now`, soonest end first, and the last principal of each profile.
    pub(super) fn finish(
        self,
        now: UnixTime,
    ) -> (Vec<OpenLease>, BTreeMap<ProfileName, Principal>) {
        let mut leases: Vec<_> = self
            .leases
            .into_values()
            .filter(|lease| now < lease.expires_at)
            .collect();
        leases.sort_unstable_by(|left, right| {
            (left.expires_at, &left.lease_id).cmp(&(right.expires_at, &right.lease_id))
        });
        (leases, self.principals)
    }
}

/// The newest calls to the issuer that a log has.
#[derive(Debug, Default)]
pub(super) struct Calls {
    calls: VecDeque<OwnCall>,
    dropped: bool,
}

impl Calls {
    /// Takes in the next record.
    pub(super) fn note(&mut self, line: &Line<AuditRecord>) {
        let Some(call) = OwnCall::of(&line.content, line.at) else {
            return;
        };
        if self.calls.len() >= MAX_OWN_CALLS {
            self.calls.pop_front();
            self.dropped = true;
        }
        self.calls.push_back(call);
    }

    pub(super) fn finish(self, damaged: bool) -> OwnCalls {
        OwnCalls {
            calls: self.calls.into(),
            complete: !self.dropped,
            damaged,
        }
    }
}

/// Whether a revocation left nothing open: it was carried out, or the issuer knows no such lease.
/// The core writes that word only where the answer proves it.
fn is_over(record: &AuditRecord) -> bool {
    let unknown = ErrorCode::LeaseNotFound.as_str();
    record.outcome == AuditOutcome::Ok
        || record.reason.as_ref().map(CleanText::as_str) == Some(unknown)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::chain::Hash;
    use super::*;

    fn created(id: u64) -> Line<AuditRecord> {
        let at = UnixTime::from_millis(1_795_341_600_000).plus(Duration::from_secs(id));
        let mut record = AuditRecord::new(AuditAction::LeaseCreate, AuditOutcome::Ok);
        record.lease_id = Some(LeaseId::parse(&format!("lse_{id}")).unwrap());
        record.lease_expires_at = Some(at.plus(Duration::from_mins(1)));
        Line {
            seq: id,
            at,
            content: record,
            prev: Hash::GENESIS,
            hash: Hash::GENESIS,
            computed: Hash::GENESIS,
            mac: Hash::GENESIS,
        }
    }

    /// LM: what ran out is forgotten on the way, however long the log is.
    #[test]
    fn leases_that_ran_out_do_not_pile_up() {
        let mut history = History::default();
        let mut most = 0;
        for id in 0..10_000 {
            history.note(&created(id));
            most = most.max(history.leases.len());
        }
        // 60 are open at any time.
        assert!(most <= 2 * FIRST_LOOK, "{most}");
        let (open, _) = history.finish(created(9_999).at);
        assert_eq!(open.len(), 60);
    }
}
