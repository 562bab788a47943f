//! The exact bytes of every kind of line. Written once here; the reader encodes what it read
//! again and compares.

use std::io::{self, Write as _};

use super::chain::{Hash, Head};
use crate::broker::ports::{AuditRecord, CallTrace, MAX_EARLIER_TRIES, Try};
use crate::model::{
    Action, CleanText, Exposure, LeaseId, PeerFacts, Principal, ProfileName, ProofJti, RequestId,
    SessionId,
};
use crate::time::UnixTime;

/// The longest line, line feed included. The bounds below, the longest
/// identifiers and the tries of one call keep every line under 14 KiB.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// The format that headers name.
pub(super) const VERSION: u64 = 1;

/// How much of a peer's executable path, and of its control group's, is recorded, in characters.
pub(super) const MAX_EXE: usize = 512;

/// How many ancestors are recorded (PE-5).
pub(super) const MAX_ANCESTORS: usize = 16;

/// How much of an ancestor's name is recorded, in characters.
pub(super) const MAX_ANCESTOR: usize = 64;

/// How much of a rule's name is recorded, in characters.
pub(super) const MAX_RULE: usize = 64;

/// How much of a reason is recorded, in characters.
pub(super) const MAX_REASON: usize = 200;

/// The first line of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) segment: u64,
    pub(super) key_id: Hash,
    pub(super) key_persistent: bool,
}

/// Appends a header line up to and with `prev`: what its hash covers.
pub(super) fn header(
    out: &mut Vec<u8>,
    seq: u64,
    at: UnixTime,
    header: &Header,
    prev: &Hash,
) -> io::Result<()> {
    write!(
        out,
        r#"{{"seq":{seq},"at":"{at}","version":{VERSION},"segment":{}"#,
        header.segment
    )?;
    hash(out, "key_id", &header.key_id);
    write!(out, r#","key_persistent":{}"#, header.key_persistent)?;
    hash(out, "prev", prev);
    Ok(())
}

/// Appends a record's line up to and with `prev`. Text beyond its bound is cut.
pub(super) fn record(
    out: &mut Vec<u8>,
    seq: u64,
    at: UnixTime,
    record: &AuditRecord,
    prev: &Hash,
) -> io::Result<()> {
    let AuditRecord {
        action,
        outcome,
        profile,
        peer,
        selector,
        lease_id,
        lease_expires_at,
        exposure,
        actions,
        rule,
        reason,
        principal,
        session_id,
        trace,
    } = record;
    write!(
        out,
        r#"{{"seq":{seq},"at":"{at}","action":"{}","outcome":"{}""#,
        action.as_str(),
        outcome.as_str()
    )?;
    plain(out, "profile", profile.as_ref().map(ProfileName::as_str));
    if let Some(peer) = peer {
        self::peer(out, peer)?;
    }
    if let Some(selector) = selector {
        write!(out, r#","selector":"{selector}""#)?;
    }
    plain(out, "lease_id", lease_id.as_ref().map(LeaseId::as_str));
    if let Some(at) = lease_expires_at {
        write!(out, r#","lease_expires_at":"{at}""#)?;
    }
    plain(out, "exposure", exposure.map(Exposure::as_str));
    if !actions.is_empty() {
        member(out, "actions");
        for (index, action) in actions.iter().take(Action::ALL.len()).enumerate() {
            out.extend_from_slice(if index > 0 { b",\"" } else { b"[\"" });
            out.extend_from_slice(action.as_str().as_bytes());
            out.push(b'"');
        }
        out.push(b']');
    }
    text(out, "rule", rule.as_ref(), MAX_RULE);
    text(out, "reason", reason.as_ref(), MAX_REASON);
    plain(out, "principal", principal.as_ref().map(Principal::as_str));
    plain(
        out,
        "session_id",
        session_id.as_ref().map(SessionId::as_str),
    );
    self::trace(out, trace);
    hash(out, "prev", prev);
    Ok(())
}

/// Ends a line: hash, MAC, line feed.
pub(super) fn seal(out: &mut Vec<u8>, hash: &Hash, mac: &Hash) {
    self::hash(out, "hash", hash);
    self::hash(out, "mac", mac);
    out.extend_from_slice(b"}\n");
}

/// Appends the anchor's one line.
pub(super) fn anchor(out: &mut Vec<u8>, head: &Head, mac: &Hash) -> io::Result<()> {
    write!(out, r#"{{"count":{}"#, head.count)?;
    seal(out, &head.hash, mac);
    Ok(())
}

fn peer(out: &mut Vec<u8>, peer: &PeerFacts) -> io::Result<()> {
    let PeerFacts {
        process,
        exe,
        ancestors,
        origin,
    } = peer;
    write!(
        out,
        r#","peer":{{"pid":{},"started":{}"#,
        process.pid, process.started
    )?;
    text(out, "exe", exe.as_ref(), MAX_EXE);
    text(out, "cgroup", origin.cgroup.as_ref(), MAX_EXE);
    if let Some(hash) = &origin.exe_hash {
        write!(out, r#","exe_sha256":"{hash}""#)?;
    }
    out.extend_from_slice(br#","ancestors":["#);
    for (index, name) in ancestors.iter().take(MAX_ANCESTORS).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        quoted(out, name, MAX_ANCESTOR);
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

fn trace(out: &mut Vec<u8>, trace: &CallTrace) {
    let CallTrace {
        request_id,
        proof_jti,
        earlier,
    } = trace;
    names(out, request_id.as_ref(), proof_jti.as_ref());
    if earlier.is_empty() {
        return;
    }
    member(out, "earlier_tries");
    for (index, earlier) in earlier.iter().take(MAX_EARLIER_TRIES).enumerate() {
        out.push(if index > 0 { b',' } else { b'[' });
        one_try(out, earlier);
    }
    out.push(b']');
}

/// What ties a try to the issuer's records.
fn names(out: &mut Vec<u8>, request_id: Option<&RequestId>, proof_jti: Option<&ProofJti>) {
    plain(out, "request_id", request_id.map(RequestId::as_str));
    plain(out, "proof_jti", proof_jti.map(ProofJti::as_str));
}

fn one_try(out: &mut Vec<u8>, one: &Try) {
    let Try {
        request_id,
        proof_jti,
    } = one;
    let start = out.len();
    names(out, request_id.as_ref(), proof_jti.as_ref());
    // A member brings the comma before it; the first one's is where the object begins.
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

// What is text already is copied, not formatted: every delivery waits for its line.

/// Appends `,"name":`.
fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A value whose alphabet holds nothing that JSON escapes.
fn plain(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    member(out, name);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn text(out: &mut Vec<u8>, name: &str, value: Option<&CleanText>, max: usize) {
    let Some(value) = value else { return };
    member(out, name);
    quoted(out, value, max);
}

/// Clean text holds no control characters: quotation mark and backslash are all there is to
/// escape.
fn quoted(out: &mut Vec<u8>, value: &CleanText, max: usize) {
    let text = value.as_str();
    out.push(b'"');
    // Never more characters than bytes.
    if text.len() <= max && !text.bytes().any(|byte| matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(text.as_bytes());
    } else {
        let mut bytes = [0; 4];
        for c in text.chars().take(max) {
            if matches!(c, '"' | '\\') {
                out.push(b'\\');
            }
            out.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
        }
    }
    out.push(b'"');
}

fn hash(out: &mut Vec<u8>, name: &str, hash: &Hash) {
    member(out, name);
    out.push(b'"');
    out.extend_from_slice(&hash.text());
    out.push(b'"');
}
