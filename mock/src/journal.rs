//! Every RPC try and every use of material, for tests that want to know what was
//! really sent.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use crate::audit::as_rfc3339;
use crate::dpop;

/// What is kept, the newest. A test looks at hundreds; with the longest proofs it is 128 MiB, which
/// anybody who reaches the port could fill.
const MAX_RECORDS: usize = 16 * 1024;

/// One try. It is written when its answer is decided, before it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRecord {
    /// Counts from 1.
    pub seq: u64,
    /// When the request had been read.
    #[serde(serialize_with = "as_rfc3339")]
    pub at: SystemTime,
    /// The RPC's name, or the path where there is no such RPC; `whoami` where
    /// material was shown to the provider.
    pub method: String,
    /// The id that the answer carried.
    pub request_id: String,
    /// How the proof came.
    pub carrier: Carrier,
    /// As the proof says, checked or not; also the next three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The claim of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub htm: Option<String>,
    /// The claim of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub htu: Option<String>,
    /// Thumbprint of the key in the proof's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jkt: Option<String>,
    /// The raw proof, unless it is too long for one. The token is never here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Whose token was sent along, or whose material was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// `ok`, a Connect code, or `stalled` or `closed` where a fault ate the answer.
    pub result: String,
    /// The reason of the refusal; the status of a poll that yielded no token; the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a proof can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// Nowhere.
    #[default]
    None,
    /// In `request_proof`.
    Body,
    /// In the `DPoP` header.
    Header,
    /// In both.
    Both,
}

/// The newest [`MAX_RECORDS`], and a bell that rings for each new one.
#[derive(Debug)]
pub(crate) struct Journal {
    // Held for a push or a copy only, never across an await.
    records: Mutex<VecDeque<RequestRecord>>,
    bell: watch::Sender<u64>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self {
            records: Mutex::default(),
            bell: watch::Sender::new(0),
        }
    }

    pub(crate) fn push(&self, mut record: RequestRecord) {
        record.proof = record.proof.filter(|proof| proof.len() <= dpop::MAX_BYTES);
        let mut records = self.records();
        let seq = records.back().map_or(0, |last| last.seq).saturating_add(1);
        record.seq = seq;
        if records.len() >= MAX_RECORDS {
            records.pop_front();
        }
        records.push_back(record);
        self.bell.send_replace(seq);
    }

    pub(crate) fn records(&self) -> MutexGuard<'_, VecDeque<RequestRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clear(&self) {
        self.records().clear();
    }

    /// The first record, past or to come, that matches.
    pub(crate) async fn wait(&self, matches: impl Fn(&RequestRecord) -> bool) -> RequestRecord {
        let mut bell = self.bell.subscribe();
        loop {
            bell.mark_unchanged();
            if let Some(found) = self.records().iter().find(|record| matches(record)) {
                return found.clone();
            }
            if bell.changed().await.is_err() {
                // The sender is a field of `self`, so this does not happen.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(proof: Option<String>) -> RequestRecord {
        RequestRecord {
            seq: 0,
            at: SystemTime::UNIX_EPOCH,
            method: String::new(),
            request_id: String::new(),
            carrier: Carrier::None,
            jti: None,
            htm: None,
            htu: None,
            jkt: None,
            proof,
            principal: None,
            result: "ok".to_owned(),
            reason: None,
        }
    }

    #[test]
    fn the_newest_records_are_kept() {
        let journal = Journal::new();
        for _ in 0..=MAX_RECORDS {
            journal.push(record(None));
        }
        let records = journal.records();
        assert_eq!(records.len(), MAX_RECORDS);
        assert_eq!(records.front().map(|first| first.seq), Some(2));
    }

    #[test]
    fn what_is_too_long_for_a_proof_is_not_kept() {
        let journal = Journal::new();
        for length in [dpop::MAX_BYTES, dpop::MAX_BYTES + 1] {
            journal.push(record(Some("x".repeat(length))));
        }
        let kept: Vec<_> = journal
            .records()
            .iter()
            .map(|one| one.proof.is_some())
            .collect();
        assert_eq!(kept, [true, false]);
    }
}
