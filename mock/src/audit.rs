//! The audit chain: what happened, in an order nobody can change unseen.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::anomaly::Monitor;
use crate::clock::Moment;
use crate::encoding::{base64url, random_id, sha256};

const FORMAT: &str = "aegis-audit-v1";

/// Whatever an event can be about.
pub(crate) const ACTIONS: [&str; 21] = [
    "login.begin",
    "login.approve",
    "login.deny",
    "login.exchange",
    "token.mint",
    "token.exchange_workload",
    "token.revoke",
    "key.revoke",
    "session.end",
    "spiffe.begin",
    "spiffe.complete",
    "lease.create",
    "lease.redeem",
    "lease.revoke",
    "lease.expire",
    // A listing that was refused; those that succeed are not recorded.
    "audit.list",
    "auth.failed",
    "policy.changed",
    "anomaly.issuance_spike",
    "anomaly.denied_spike",
    "anomaly.replay",
];

/// One event. `hash` covers all other fields, and by `prev_hash` all events of
/// the tenant before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// `evt_` and 26 base-32 characters.
    pub event_id: String,
    /// Counts from 1 for each tenant.
    #[serde(serialize_with = "as_text")]
    pub seq: u64,
    /// To the millisecond.
    #[serde(serialize_with = "as_rfc3339")]
    pub occurred_at: SystemTime,
    /// Empty for callers of whom no tenant is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant_id: String,
    /// What was tried: `lease.create` and so on.
    pub action: String,
    /// `ok`, `denied` or `error`.
    pub outcome: String,
    /// Who tried; empty where unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal: String,
    /// The session of the token that was used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_id: String,
    /// The lease it was about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lease_id: String,
    /// The canonical selector it was about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Why it was refused, or why a lease was revoked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The id that the answer carried.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// `dpop_jwt`, `mtls`, or empty where no proof was needed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proof_type: String,
    /// RFC 7638 thumbprint of the key, or the certificate's fingerprint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_thumbprint: String,
    /// The proof's `jti`, or the nonce of one by certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proof_jti: String,
    /// The `hash` of the tenant's event before.
    pub prev_hash: String,
    /// base64url SHA-256 over 17 lines.
    pub hash: String,
}

impl AuditRecord {
    fn compute_hash(&self, at: Moment) -> String {
        let (seq, at) = (self.seq.to_string(), at.unix_millis().to_string());
        let lines: [&str; 17] = [
            FORMAT,
            &self.event_id,
            &seq,
            &at,
            &self.tenant_id,
            &self.action,
            &self.outcome,
            &self.principal,
            &self.session_id,
            &self.lease_id,
            &self.target,
            &self.reason,
            &self.request_id,
            &self.proof_type,
            &self.key_thumbprint,
            &self.proof_jti,
            &self.prev_hash,
        ];
        base64url(&sha256(lines.join("\n").as_bytes()))
    }
}

/// What the caller of [`Ledger::append`] knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) tenant_id: String,
    pub(crate) action: &'static str,
    pub(crate) outcome: &'static str,
    pub(crate) principal: String,
    pub(crate) session_id: String,
    pub(crate) lease_id: String,
    pub(crate) target: String,
    pub(crate) reason: &'static str,
    pub(crate) request_id: String,
    pub(crate) proof_type: &'static str,
    pub(crate) key_thumbprint: String,
    pub(crate) proof_jti: String,
}

/// All tenants' chains.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    records: Vec<AuditRecord>,
    heads: HashMap<String, (u64, String)>,
    /// Hears of every event.
    pub(crate) monitor: Monitor,
}

impl Ledger {
    /// Writes one event. Values with control characters, which could forge a
    /// line, are left out; the callers check theirs before.
    pub(crate) fn append(&mut self, entry: Entry, at: Moment) {
        let spikes = self.monitor.observe(&entry, at);
        self.append_as(random_id("evt_"), entry, at);
        for spike in spikes {
            self.append_as(random_id("evt_"), spike, at);
        }
    }

    /// Number and hash of a tenant's newest event.
    pub(crate) fn head(&self, tenant_id: &str) -> (u64, String) {
        self.heads
            .get(tenant_id)
            .cloned()
            .unwrap_or_else(|| (0, base64url(&[0; 32])))
    }

    fn append_as(&mut self, event_id: String, entry: Entry, at: Moment) {
        let head = self
            .heads
            .entry(entry.tenant_id.clone())
            .or_insert_with(|| (0, base64url(&[0; 32])));
        let clean = |text: String| {
            if text.chars().any(char::is_control) {
                String::new()
            } else {
                text
            }
        };
        let mut record = AuditRecord {
            event_id,
            seq: head.0.saturating_add(1),
            occurred_at: at.system_time(),
            tenant_id: clean(entry.tenant_id),
            action: entry.action.to_owned(),
            outcome: entry.outcome.to_owned(),
            principal: clean(entry.principal),
            session_id: clean(entry.session_id),
            lease_id: clean(entry.lease_id),
            target: clean(entry.target),
            reason: entry.reason.to_owned(),
            request_id: clean(entry.request_id),
            proof_type: entry.proof_type.to_owned(),
            key_thumbprint: clean(entry.key_thumbprint),
            proof_jti: clean(entry.proof_jti),
            prev_hash: head.1.clone(),
            hash: String::new(),
        };
        record.hash = record.compute_hash(at);
        *head = (record.seq, record.hash.clone());
        self.records.push(record);
    }

    pub(crate) fn records(&self) -> &[AuditRecord] {
        &self.records
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn as_text<S: serde::Serializer>(seq: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(seq)
}

pub(crate) fn as_rfc3339<S: serde::Serializer>(
    at: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Moment::from_system_time(*at).rfc3339())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of the contract: six events, their hashes known.
    #[test]
    fn the_worked_example_hashes_as_written() {
        const JKT: &str = "Bl6YNzWPKbkzRTGjXc6KCZl2M1cTHy29_eGgdNJT4Tg";
        let start = 1_795_341_600; // 2026-11-22T10:00:00Z
        let login = |action, principal: &str| Entry {
            tenant_id: "business-default".to_owned(),
            action,
            outcome: "ok",
            principal: principal.to_owned(),
            key_thumbprint: JKT.to_owned(),
            ..Entry::default()
        };
        let proven = |action, jti: &str| Entry {
            session_id: "ses_7d3kq0v8m2c5x9b1n4".to_owned(),
            proof_type: "dpop_jwt",
            proof_jti: jti.to_owned(),
            ..login(action, "user:u-demo")
        };
        let lease = |action, jti, reason| Entry {
            lease_id: "lse_4k7q2m9x8c3v6b1n5p0d7h2j3t".to_owned(),
            target: "provider:gcp:app:billing-prod:account:deploy-bot".to_owned(),
            reason,
            ..proven(action, jti)
        };
        let rows = [
            (
                0,
                "req_01",
                login("login.begin", ""),
                "obCriqYfsHivpS4TwMe4i5q4mMUNJnuv6lvhkcmGudI",
            ),
            (
                8,
                "req_03",
                login("login.approve", "user:u-demo"),
                "AzfWpc4Zlxqb6T5vTQNTeiyDuTZ_AUNwcIgFfrXlArI",
            ),
            (
                10,
                "req_04",
                proven("login.exchange", "jti-0002"),
                "ow_290VJtxrbn52vPEAIwMdbAmHXDdbWMruNorVwirE",
            ),
            (
                12,
                "req_05",
                lease("lease.create", "jti-0003", ""),
                "jQ1MraRCsxzWblas2jzcjACsxcZFyvkS6mcF4i57XVE",
            ),
            (
                13,
                "req_06",
                lease("lease.redeem", "jti-0004", ""),
                "nCDIagrdm8wAjAwgSK-CW0HJmrthiEhLOvF0oq_fw34",
            ),
            (
                40,
                "req_07",
                lease("lease.revoke", "jti-0005", "released"),
                "ixnJZ7BVSvtjDZtFgvZvUb59z55iOzDlGBZuMaS5NO8",
            ),
        ];
        let mut ledger = Ledger::default();
        for (number, (second, request_id, entry, hash)) in rows.into_iter().enumerate() {
            let at = Moment::from_unix_millis((start + second) * 1000);
            let request_id = request_id.to_owned();
            let event_id = format!("evt_{:02}", number + 1);
            ledger.append_as(
                event_id,
                Entry {
                    request_id,
                    ..entry
                },
                at,
            );
            assert_eq!(
                ledger.records().last().unwrap().hash,
                hash,
                "event {number}"
            );
        }
    }

    #[test]
    fn each_tenant_has_its_own_chain() {
        let mut ledger = Ledger::default();
        for tenant in ["a", "b", "a"] {
            let tenant_id = tenant.to_owned();
            let entry = Entry {
                tenant_id,
                ..Entry::default()
            };
            ledger.append(entry, Moment::from_unix_millis(0));
        }
        let [first, other, second] = ledger.records() else {
            panic!("three events");
        };
        assert_eq!((first.seq, other.seq, second.seq), (1, 1, 2));
        assert_eq!(second.prev_hash, first.hash);
        assert_eq!(other.prev_hash, first.prev_hash);
    }
}
