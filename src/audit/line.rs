//! The exact bytes of every kind of line. Written once here; the reader encodes what it read
//! again and compares.

use std::fmt;
use std::io::{self, Write as _};

use super::chain::{Hash, Head};
use crate::broker::ports::AuditRecord;
use crate::model::{CleanText, Exposure, PeerFacts};
use crate::time::UnixTime;

/// The longest line, line feed included. The bounds below keep every line under 10 KiB.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// The format that headers name.
pub(super) const VERSION: u64 = 1;

/// How much of a peer's executable path is recorded, in characters.
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
    hash(out, "key_id", &header.key_id)?;
    write!(out, r#","key_persistent":{}"#, header.key_persistent)?;
    hash(out, "prev", prev)
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
    plain(out, "profile", profile.as_ref())?;
    if let Some(peer) = peer {
        self::peer(out, peer)?;
    }
    plain(out, "selector", selector.as_ref())?;
    plain(out, "lease_id", lease_id.as_ref())?;
    plain(out, "lease_expires_at", lease_expires_at.as_ref())?;
    plain(out, "exposure", exposure.map(Exposure::as_str).as_ref())?;
    text(out, "rule", rule.as_ref(), MAX_RULE)?;
    text(out, "reason", reason.as_ref(), MAX_REASON)?;
    plain(out, "principal", principal.as_ref())?;
    plain(out, "session_id", session_id.as_ref())?;
    plain(out, "request_id", trace.request_id.as_ref())?;
    plain(out, "proof_jti", trace.proof_jti.as_ref())?;
    hash(out, "prev", prev)
}

/// Ends a line: hash, MAC, line feed.
pub(super) fn seal(out: &mut Vec<u8>, hash: &Hash, mac: &Hash) -> io::Result<()> {
    self::hash(out, "hash", hash)?;
    self::hash(out, "mac", mac)?;
    out.write_all(b"}\n")
}

/// Appends the anchor's one line.
pub(super) fn anchor(out: &mut Vec<u8>, head: &Head, mac: &Hash) -> io::Result<()> {
    write!(out, r#"{{"count":{}"#, head.count)?;
    seal(out, &head.hash, mac)
}

fn peer(out: &mut Vec<u8>, peer: &PeerFacts) -> io::Result<()> {
    let PeerFacts {
        process,
        exe,
        ancestors,
    } = peer;
    write!(
        out,
        r#","peer":{{"pid":{},"started":{}"#,
        process.pid, process.started
    )?;
    text(out, "exe", exe.as_ref(), MAX_EXE)?;
    out.write_all(br#","ancestors":["#)?;
    for (index, name) in ancestors.iter().take(MAX_ANCESTORS).enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        quoted(out, name, MAX_ANCESTOR)?;
    }
    out.write_all(b"]}")
}

/// A value whose alphabet holds nothing that JSON escapes.
fn plain(out: &mut Vec<u8>, name: &str, value: Option<&impl fmt::Display>) -> io::Result<()> {
    match value {
        Some(value) => write!(out, r#","{name}":"{value}""#),
        None => Ok(()),
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: Option<&CleanText>, max: usize) -> io::Result<()> {
    let Some(value) = value else { return Ok(()) };
    write!(out, r#","{name}":"#)?;
    quoted(out, value, max)
}

/// Clean text holds no control characters: quotation mark and backslash are all there is to
/// escape.
fn quoted(out: &mut Vec<u8>, value: &CleanText, max: usize) -> io::Result<()> {
    out.write_all(b"\"")?;
    let mut bytes = [0; 4];
    for c in value.as_str().chars().take(max) {
        if matches!(c, '"' | '\\') {
            out.write_all(b"\\")?;
        }
        out.write_all(c.encode_utf8(&mut bytes).as_bytes())?;
    }
    out.write_all(b"\"")
}

fn hash(out: &mut Vec<u8>, name: &str, hash: &Hash) -> io::Result<()> {
    write!(out, r#","{name}":""#)?;
    out.write_all(&hash.text())?;
    out.write_all(b"\"")
}
