//! Reads lines back. Only the exact bytes that [`line`](mod@super::line) writes are accepted: what
//! was read is encoded again and compared, so serde's tolerance for blanks, order and escapes
//! never counts.

#![warn(clippy::arithmetic_side_effects)]

use std::sync::Arc;

use serde::Deserialize;

use super::chain::{Hash, Head};
use super::line::{self, Header, VERSION};
use crate::broker::ports::{AuditAction, AuditOutcome, AuditRecord, CallTrace, Try};
use crate::model::{
    Action, CleanText, Exposure, FileHash, LeaseId, Origin, PeerFacts, Principal, ProcessId,
    ProfileName, ProofJti, RequestId, Selector, SessionId,
};
use crate::time::UnixTime;

/// A line that reads, with what ties it to the others. Nothing but its form is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line<T> {
    pub(super) seq: u64,
    pub(super) at: UnixTime,
    pub(super) content: T,
    pub(super) prev: Hash,
    /// What the line says its hash is.
    pub(super) hash: Hash,
    /// What its hash has to be.
    pub(super) computed: Hash,
    pub(super) mac: Hash,
}

/// Reads a segment's first line, line feed included.
pub(super) fn header(bytes: &[u8], scratch: &mut Vec<u8>) -> Option<Line<Header>> {
    let raw: RawHeader<'_> = serde_json::from_slice(bytes).ok()?;
    if raw.version != VERSION {
        return None;
    }
    let content = Header {
        segment: raw.segment,
        key_id: Hash::parse(raw.key_id)?,
        key_persistent: raw.key_persistent,
    };
    let at = time(raw.at)?;
    let prev = Hash::parse(raw.prev)?;
    scratch.clear();
    line::header(scratch, raw.seq, at, &content, &prev).ok()?;
    let (hash, computed, mac) = sealed(bytes, scratch, raw.hash, raw.mac)?;
    Some(Line {
        seq: raw.seq,
        at,
        content,
        prev,
        hash,
        computed,
        mac,
    })
}

/// Reads a record's line, line feed included.
pub(super) fn record(bytes: &[u8], scratch: &mut Vec<u8>) -> Option<Line<AuditRecord>> {
    let raw: RawRecord = serde_json::from_slice(bytes).ok()?;
    let content = AuditRecord {
        action: AuditAction::ALL
            .into_iter()
            .find(|action| action.as_str() == raw.action)?,
        outcome: outcome(&raw.outcome)?,
        profile: optional(raw.profile, |text| ProfileName::parse(text).ok())?,
        peer: match raw.peer {
            Some(raw) => Some(Arc::new(peer(&raw)?)),
            None => None,
        },
        selector: optional(raw.selector, |text| Selector::parse(text).ok())?,
        lease_id: optional(raw.lease_id, |text| LeaseId::parse(text).ok())?,
        lease_expires_at: optional(raw.lease_expires_at, time)?,
        exposure: optional(raw.exposure, Exposure::parse)?,
        actions: raw
            .actions
            .iter()
            .map(|word| Action::parse(word))
            .collect::<Option<Vec<_>>>()?
            .into(),
        rule: optional(raw.rule, |text| CleanText::exact(text, line::MAX_RULE))?,
        reason: optional(raw.reason, |text| CleanText::exact(text, line::MAX_REASON))?,
        principal: optional(raw.principal, |text| Principal::parse(text).ok())?,
        session_id: optional(raw.session_id, |text| SessionId::parse(text).ok())?,
        trace: CallTrace {
            request_id: optional(raw.request_id, |text| RequestId::parse(text).ok())?,
            proof_jti: optional(raw.proof_jti, |text| ProofJti::parse(text).ok())?,
            earlier: raw
                .earlier_tries
                .into_iter()
                .map(one_try)
                .collect::<Option<_>>()?,
        },
    };
    let at = time(&raw.at)?;
    let prev = Hash::parse(&raw.prev)?;
    scratch.clear();
    line::record(scratch, raw.seq, at, &content, &prev).ok()?;
    let (hash, computed, mac) = sealed(bytes, scratch, &raw.hash, &raw.mac)?;
    Some(Line {
        seq: raw.seq,
        at,
        content,
        prev,
        hash,
        computed,
        mac,
    })
}

/// Reads an anchor with its MAC.
pub(super) fn anchor(bytes: &[u8]) -> Option<(Head, Hash)> {
    let raw: RawAnchor<'_> = serde_json::from_slice(bytes).ok()?;
    let head = Head {
        count: raw.count,
        hash: Hash::parse(raw.hash)?,
    };
    let mac = Hash::parse(raw.mac)?;
    let mut again = Vec::with_capacity(bytes.len());
    line::anchor(&mut again, &head, &mac).ok()?;
    (again == bytes).then_some((head, mac))
}

/// Seals the line in `scratch` anew and compares it with what was read.
fn sealed(
    bytes: &[u8],
    scratch: &mut Vec<u8>,
    hash: &str,
    mac: &str,
) -> Option<(Hash, Hash, Hash)> {
    let computed = Hash::of(scratch);
    let hash = Hash::parse(hash)?;
    let mac = Hash::parse(mac)?;
    line::seal(scratch, &hash, &mac);
    (scratch.as_slice() == bytes).then_some((hash, computed, mac))
}

fn one_try(raw: RawTry) -> Option<Try> {
    Some(Try {
        request_id: optional(raw.request_id, |text| RequestId::parse(text).ok())?,
        proof_jti: optional(raw.proof_jti, |text| ProofJti::parse(text).ok())?,
    })
}

fn outcome(word: &str) -> Option<AuditOutcome> {
    [AuditOutcome::Ok, AuditOutcome::Denied, AuditOutcome::Error]
        .into_iter()
        .find(|outcome| outcome.as_str() == word)
}

fn peer(raw: &RawPeer) -> Option<PeerFacts> {
    if raw.ancestors.len() > line::MAX_ANCESTORS {
        return None;
    }
    Some(PeerFacts {
        process: ProcessId {
            pid: raw.pid,
            started: raw.started,
        },
        exe: match &raw.exe {
            Some(text) => Some(CleanText::exact(text, line::MAX_EXE)?),
            None => None,
        },
        ancestors: raw
            .ancestors
            .iter()
            .map(|text| CleanText::exact(text, line::MAX_ANCESTOR))
            .collect::<Option<_>>()?,
        origin: Origin {
            cgroup: match &raw.cgroup {
                Some(text) => Some(CleanText::exact(text, line::MAX_EXE)?),
                None => None,
            },
            exe_hash: match &raw.exe_sha256 {
                Some(text) => Some(FileHash::parse(text)?),
                None => None,
            },
            ..Origin::default()
        },
    })
}

/// A time as [`UnixTime`] displays it, the form past year 9999 included.
fn time(text: &str) -> Option<UnixTime> {
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(UnixTime::from_millis),
        None => UnixTime::parse_rfc3339(text),
    }
}

/// Absent stays absent; present must read.
#[expect(
    clippy::option_option,
    reason = "the outer one is whether the line reads, the inner one whether the field is there"
)]
fn optional<T>(text: Option<String>, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        Some(text) => read(&text).map(Some),
        None => Some(None),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader<'a> {
    seq: u64,
    at: &'a str,
    version: u64,
    segment: u64,
    key_id: &'a str,
    key_persistent: bool,
    prev: &'a str,
    hash: &'a str,
    mac: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecord {
    seq: u64,
    at: String,
    action: String,
    outcome: String,
    profile: Option<String>,
    peer: Option<RawPeer>,
    selector: Option<String>,
    lease_id: Option<String>,
    lease_expires_at: Option<String>,
    exposure: Option<String>,
    #[serde(default)]
    actions: Vec<String>,
    rule: Option<String>,
    reason: Option<String>,
    principal: Option<String>,
    session_id: Option<String>,
    request_id: Option<String>,
    proof_jti: Option<String>,
    #[serde(default)]
    earlier_tries: Vec<RawTry>,
    prev: String,
    hash: String,
    mac: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTry {
    request_id: Option<String>,
    proof_jti: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    pid: i32,
    started: u64,
    exe: Option<String>,
    cgroup: Option<String>,
    exe_sha256: Option<String>,
    ancestors: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnchor<'a> {
    count: u64,
    hash: &'a str,
    mac: &'a str,
}
