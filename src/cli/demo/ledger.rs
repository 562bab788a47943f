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

/// The local records of calls, counted. A delivery is none: its call is recorded before it.
pub(super) fn ours(entries: impl Iterator<Item = Entry>) -> Calls {
    count(entries.filter_map(|entry| {
        let record = entry.record;
        if record.action.as_str() == "deliver" {
            return None;
        }
        let jti = record.trace.proof_jti.map(|jti| jti.to_string());
        Some((
            record.trace.request_id?.to_string(),
            jti.unwrap_or_default(),
            record.outcome.as_str().to_owned(),
        ))
    }))
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

    #[test]
    fn an_event_recorded_twice_needs_two_records() {
        let (once, twice) = (chain(), [chain(), chain()].concat());
        let (once, twice) = (theirs(once.into_iter()), theirs(twice.into_iter()));
        assert_eq!(missing(&once, &twice), 0);
        assert_eq!(missing(&twice, &once), 2);
    }
}
