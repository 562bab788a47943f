//! The bytes of it.

#![warn(clippy::arithmetic_side_effects)]

use serde::{Deserialize, Serialize};

use super::{ForeignEvent, MissingCall, Reconciled};
use crate::broker::handle::{IssuerEvent, OwnCall, Reconciliation};
use crate::model::{CleanText, LeaseId, ProofJti, RequestId, SessionId};
use crate::time::UnixTime;

/// Of a word of the daemon's, in characters.
const MAX_WORD: usize = 256;

#[derive(Serialize)]
pub(in super::super) struct ReconciliationOut<'a> {
    compared: usize,
    foreign: usize,
    foreign_events: Vec<EventOut<'a>>,
    missing: usize,
    missing_calls: Vec<CallOut<'a>>,
    elsewhere: usize,
    complete: bool,
}

impl<'a> ReconciliationOut<'a> {
    pub(in super::super) fn new(found: &'a Reconciliation) -> Self {
        Self {
            compared: found.compared,
            foreign: found.foreign,
            foreign_events: found.foreign_events.iter().map(EventOut::new).collect(),
            missing: found.missing,
            missing_calls: found.missing_calls.iter().map(CallOut::new).collect(),
            elsewhere: found.elsewhere,
            complete: found.complete,
        }
    }
}

#[derive(Serialize)]
struct EventOut<'a> {
    seq: u64,
    at: String,
    action: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof_jti: Option<&'a str>,
}

impl<'a> EventOut<'a> {
    fn new(event: &'a IssuerEvent) -> Self {
        Self {
            seq: event.seq,
            at: event.at.to_string(),
            action: event.action.as_str(),
            outcome: event.outcome.as_str(),
            session_id: event.session_id.as_ref().map(SessionId::as_str),
            lease_id: event.lease_id.as_ref().map(LeaseId::as_str),
            target: event.target.as_ref().map(CleanText::as_str),
            reason: event.reason.as_ref().map(CleanText::as_str),
            request_id: event.request_id.as_ref().map(RequestId::as_str),
            proof_jti: event.proof_jti.as_ref().map(ProofJti::as_str),
        }
    }
}

#[derive(Serialize)]
struct CallOut<'a> {
    at: String,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    request_ids: Vec<&'a str>,
    proof_jtis: Vec<&'a str>,
}

impl<'a> CallOut<'a> {
    fn new(call: &'a OwnCall) -> Self {
        let tries = || call.tries.iter();
        let ids = tries().filter_map(|one| one.request_id.as_ref());
        let jtis = tries().filter_map(|one| one.proof_jti.as_ref());
        Self {
            at: call.at.to_string(),
            action: call.action.as_str(),
            session_id: call.session_id.as_ref().map(SessionId::as_str),
            request_ids: ids.map(RequestId::as_str).collect(),
            proof_jtis: jtis.map(ProofJti::as_str).collect(),
        }
    }
}

#[derive(Deserialize)]
struct ReconciliationIn {
    compared: u64,
    foreign: u64,
    foreign_events: Vec<EventIn>,
    missing: u64,
    missing_calls: Vec<CallIn>,
    elsewhere: u64,
    complete: bool,
}

#[derive(Deserialize)]
struct EventIn {
    at: String,
    action: String,
    outcome: String,
    target: Option<String>,
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct CallIn {
    at: String,
    action: String,
    request_ids: Vec<String>,
}

/// What the daemon said; `None` where it is not that.
pub(in super::super) fn decode(text: &[u8]) -> Option<Reconciled> {
    let found: ReconciliationIn = serde_json::from_slice(text).ok()?;
    Some(Reconciled {
        compared: found.compared,
        foreign: found.foreign,
        foreign_events: found
            .foreign_events
            .iter()
            .map(event)
            .collect::<Option<_>>()?,
        missing: found.missing,
        missing_calls: found
            .missing_calls
            .iter()
            .map(call)
            .collect::<Option<_>>()?,
        elsewhere: found.elsewhere,
        complete: found.complete,
    })
}

fn event(raw: &EventIn) -> Option<ForeignEvent> {
    Some(ForeignEvent {
        at: UnixTime::parse_rfc3339(&raw.at)?,
        action: word(&raw.action),
        outcome: word(&raw.outcome),
        target: raw.target.as_deref().map(word),
        request_id: raw.request_id.as_deref().map(word),
    })
}

fn call(raw: &CallIn) -> Option<MissingCall> {
    Some(MissingCall {
        at: UnixTime::parse_rfc3339(&raw.at)?,
        action: word(&raw.action),
        request_ids: raw.request_ids.iter().map(|id| word(id)).collect(),
    })
}

fn word(text: &str) -> CleanText {
    CleanText::new(text, MAX_WORD)
}
