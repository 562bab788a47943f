use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use aegis_mock::AuditRecord;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::audit::verify::Entry;

/// How often each call is recorded: by request id, the proof's `jti` and the outcome.
pub(super) type Calls = BTreeMap<(String, String, String), usize>;

/// Whether each tenant's events are numbered without a gap, name the one before, and hash to
/// what they say. The hash is made here anew, as the server's contract describes it: SHA-256
/// over 17 lines, the format's name and fields 1 to 16.
pub(super) fn is_intact(events: &[AuditRecord]) -> bool {
    let mut heads: HashMap<&str, (u64, String)> = HashMap::new();
    events.iter().all(|event| {
        let start = || (0, URL_SAFE_NO_PAD.encode([0; 32]));
        let head = heads.entry(&event.tenant_id).or_insert_with(start);
        let follows = event.seq == head.0.saturating_add(1) && event.prev_hash == head.1;
        *head = (event.seq, event.hash.clone());
        follows && event.hash == hash_of(event)
    })
}

fn hash_of(event: &AuditRecord) -> String {
    let at = event.occurred_at.duration_since(SystemTime::UNIX_EPOCH);
    let at = at.map_or(0, |at| at.as_millis()).to_string();
    let seq = event.seq.to_string();
    let lines: [&str; 17] = [
        "aegis-audit-v1",
        &event.event_id,
        &seq,
        &at,
        &event.tenant_id,
        &event.action,
        &event.outcome,
        &event.principal,
        &event.session_id,
        &event.lease_id,
        &event.target,
        &event.reason,
        &event.request_id,
        &event.proof_type,
        &event.key_thumbprint,
        &event.proof_jti,
        &event.prev_hash,
    ];
    URL_SAFE_NO_PAD.encode(digest(&SHA256, lines.join("\n").as_bytes()))
}

/// The server's events, counted.
pub(super) fn theirs(events: impl Iterator<Item = AuditRecord>) -> Calls {
    count(events.map(|event| (event.request_id, event.proof_jti, event.outcome)))
}

/// What the local records tell of the daemon's calls.
pub(super) struct Ours {
    /// Each call once, by its last try. A delivery is none: its call is recorded before it.
    pub(super) calls: Calls,
    /// Of the tries before: the request id, where an answer came, by the proof's `jti`. What came
    /// of them is not recorded, nor whether they arrived.
    earlier: HashMap<String, Option<String>>,
}

impl Ours {
    pub(super) fn of(entries: impl Iterator<Item = Entry>) -> Self {
        let mut earlier = HashMap::new();
        let calls = entries.filter_map(|entry| {
            let record = entry.record;
            if record.action.as_str() == "deliver" {
                return None;
            }
            for one in record.trace.earlier {
                let id = one.request_id.map(|id| id.to_string());
                earlier.insert(one.proof_jti?.to_string(), id);
            }
            let jti = record.trace.proof_jti.map(|jti| jti.to_string());
            Some((
                record.trace.request_id?.to_string(),
                jti.unwrap_or_default(),
                record.outcome.as_str().to_owned(),
            ))
        });
        let calls = count(calls);
        Self { calls, earlier }
    }

    /// Whether an earlier try of a call led to this event. Each one explains a single event.
    pub(super) fn explain(&mut self, event: &AuditRecord) -> bool {
        let fits = |id: &Option<String>| id.as_ref().is_none_or(|id| *id == event.request_id);
        let is_known = self.earlier.get(&event.proof_jti).is_some_and(fits);
        if is_known {
            self.earlier.remove(&event.proof_jti);
        }
        is_known
    }
}

/// How many of the calls counted on one side the other lacks.
pub(super) fn missing(side: &Calls, other: &Calls) -> usize {
    side.iter()
        .map(|(call, count)| count.saturating_sub(other.get(call).copied().unwrap_or(0)))
        .sum()
}

fn count(calls: impl Iterator<Item = (String, String, String)>) -> Calls {
    let mut counted = Calls::new();
    for call in calls {
        let times = counted.entry(call).or_default();
        *times = times.saturating_add(1);
    }
    counted
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::ports::{AuditAction, AuditOutcome, AuditRecord as Record, Try};
    use crate::model::{ProofJti, RequestId};
    use crate::time::UnixTime;

    fn event(seq: u64, prev_hash: String) -> AuditRecord {
        let mut event = AuditRecord {
            event_id: format!("evt_{seq}"),
            seq,
            occurred_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            tenant_id: "t".to_owned(),
            action: "lease.create".to_owned(),
            outcome: "ok".to_owned(),
            principal: "user:u".to_owned(),
            session_id: String::new(),
            lease_id: String::new(),
            target: String::new(),
            reason: String::new(),
            request_id: format!("req_{seq}"),
            proof_type: String::new(),
            key_thumbprint: String::new(),
            proof_jti: String::new(),
            prev_hash,
            hash: String::new(),
        };
        event.hash = hash_of(&event);
        event
    }

    fn chain() -> Vec<AuditRecord> {
        let first = event(1, URL_SAFE_NO_PAD.encode([0; 32]));
        let second = event(2, first.hash.clone());
        vec![first, second]
    }

    #[test]
    fn a_changed_missing_or_swapped_event_breaks_the_servers_chain() {
        assert!(is_intact(&chain()));
        let mut changed = chain();
        changed[1].target = "another".to_owned();
        assert!(!is_intact(&changed));
        assert!(!is_intact(&chain()[1..]));
        let mut swapped = chain();
        swapped.reverse();
        assert!(!is_intact(&swapped));
        let mut apart = chain();
        apart[1] = event(2, URL_SAFE_NO_PAD.encode([1; 32]));
        assert!(!is_intact(&apart));
    }

    /// AU-9: an event of a try that came before a call's last one is the daemon's too, once, and
    /// under the request id that it was told.
    #[test]
    fn an_earlier_try_explains_its_one_event() {
        let one = |id: Option<&str>, jti: &str| Try {
            request_id: id.map(|id| RequestId::parse(id).unwrap()),
            proof_jti: Some(ProofJti::parse(jti).unwrap()),
        };
        let mut record = Record::new(AuditAction::LeaseCreate, AuditOutcome::Ok);
        record.trace.tried(one(None, "jti-lost"));
        record.trace.tried(one(Some("req_2"), "jti-refused"));
        record.trace.tried(one(Some("req_3"), "jti-last"));
        let entry = Entry {
            seq: 2,
            at: UnixTime::from_millis(0),
            record,
        };
        let event = |seq: u64, jti: &str| AuditRecord {
            proof_jti: jti.to_owned(),
            ..event(seq, String::new())
        };
        let mut ours = Ours::of([entry].into_iter());
        let theirs = theirs([event(3, "jti-last")].into_iter());
        assert_eq!(missing(&theirs, &ours.calls), 0);
        assert_eq!(missing(&ours.calls, &theirs), 0);
        assert!(!ours.explain(&event(3, "jti-last")), "that is the call");
        assert!(!ours.explain(&event(2, "")), "that is nobody's");
        assert!(!ours.explain(&event(9, "jti-refused")), "another answer");
        for (seq, jti) in [(1, "jti-lost"), (2, "jti-refused")] {
            assert!(ours.explain(&event(seq, jti)), "{jti}");
            assert!(!ours.explain(&event(seq, jti)), "{jti} again");
        }
    }

    #[test]
    fn an_event_recorded_twice_needs_two_records() {
        let (once, twice) = (chain(), [chain(), chain()].concat());
        let (once, twice) = (theirs(once.into_iter()), theirs(twice.into_iter()));
        assert_eq!(missing(&once, &twice), 0);
        assert_eq!(missing(&twice, &once), 2);
    }
}
