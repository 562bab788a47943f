//! The issuer's own record of what was done as us (`aegis.md` 11): `ListBrokerAuditEvents`.
//!
//! Read page after page within one call's time, at most ten thousand events. Each event's hash is
//! computed again; without the role that shows the whole tenant there are gaps, so that the chain
//! between them cannot be.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::AegisError;
use super::leases::call;
use super::transport::{Call, Reply, Rpc, deadline};
use super::wire::{self, AuditEventIn, ListEventsRequest, ListEventsResponse};
use super::{Inner, bad, success};
use crate::broker::ports::{Failure, IssuerEvent, IssuerEvents, Session, Tries};
use crate::model::{CleanText, LeaseId, ProofJti, RequestId, SessionId};

/// Events on one page (`aegis.md` 11).
const PAGE_SIZE: u32 = 200;

/// Pages that are read: ten thousand events.
const MAX_PAGES: usize = 50;

/// Of a page's token, in bytes.
const MAX_PAGE_TOKEN: usize = 4096;

/// Of an event's words, in characters.
const MAX_WORD: usize = 64;
const MAX_TARGET: usize = 256;

/// One page.
struct Page {
    events: Vec<IssuerEvent>,
    next: Option<String>,
}

pub(super) async fn list(
    inner: &Inner,
    session: &Session,
    tries: &Tries,
) -> Result<IssuerEvents, Failure> {
    let deadline = deadline();
    let mut listed = IssuerEvents {
        events: Vec::new(),
        complete: false,
    };
    let mut token = String::new();
    for _ in 0..MAX_PAGES {
        let last = listed.events.last().map(|event| event.seq);
        let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
            let message = ListEventsRequest {
                tenant_id: session.tenant.as_str(),
                page_size: PAGE_SIZE,
                page_token: &token,
                request_proof: proof,
            };
            wire::encode(&message, body)
        };
        let call = Call {
            deadline,
            ..call(Rpc::ListEvents, session, &encode)
        };
        let page = inner.ask(call, tries, |reply| page(last, reply)).await?;
        listed.events.extend(page.events);
        let Some(next) = page.next else {
            listed.complete = true;
            break;
        };
        token = next;
    }
    Ok(listed)
}

fn page(mut last: Option<u64>, reply: &Reply) -> Result<Page, AegisError> {
    let answer: ListEventsResponse = success(reply)?;
    let limit = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
    if answer.events.len() > limit {
        return Err(bad("events"));
    }
    let mut events = Vec::with_capacity(answer.events.len());
    for raw in &answer.events {
        let event = event(raw)?;
        // Ascending: a server that turned in circles would never end.
        if last.is_some_and(|last| event.seq <= last) {
            return Err(bad("seq"));
        }
        last = Some(event.seq);
        events.push(event);
    }
    let next = answer.next_page_token.filter(|token| !token.is_empty());
    let legal = |token: &String| {
        token.len() <= MAX_PAGE_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !next.as_ref().is_none_or(legal) || (next.is_some() && events.is_empty()) {
        return Err(bad("next_page_token"));
    }
    Ok(Page { events, next })
}

/// One event, whose hash is that of what it says.
fn event(raw: &AuditEventIn) -> Result<IssuerEvent, AegisError> {
    let seq = raw
        .seq
        .0
        .and_then(|seq| u64::try_from(seq).ok())
        .ok_or(bad("seq"))?;
    let at = raw.occurred_at.as_ref().ok_or(bad("occurred_at"))?.0;
    let fields = [
        raw.event_id.as_str(),
        &seq.to_string(),
        &at.as_millis().to_string(),
        &raw.tenant_id,
        &raw.action,
        &raw.outcome,
        &raw.principal,
        &raw.session_id,
        &raw.lease_id,
        &raw.target,
        &raw.reason,
        &raw.request_id,
        &raw.proof_type,
        &raw.key_thumbprint,
        &raw.proof_jti,
        &raw.prev_hash,
    ];
    if hash(&fields) != raw.hash {
        return Err(bad("hash"));
    }
    let word =
        |text: &str| CleanText::exact(text, MAX_WORD).filter(|text| !text.as_str().is_empty());
    Ok(IssuerEvent {
        seq,
        at,
        action: word(&raw.action).ok_or(bad("action"))?,
        outcome: word(&raw.outcome).ok_or(bad("outcome"))?,
        session_id: SessionId::parse(&raw.session_id).ok(),
        lease_id: LeaseId::parse(&raw.lease_id).ok(),
        target: CleanText::exact(&raw.target, MAX_TARGET)
            .filter(|target| !target.as_str().is_empty()),
        reason: word(&raw.reason),
        request_id: RequestId::parse(&raw.request_id).ok(),
        proof_jti: ProofJti::parse(&raw.proof_jti).ok(),
    })
}

/// What the contract says that an event's hash is over.
fn hash(fields: &[&str]) -> String {
    let mut text = String::from("aegis-audit-v1");
    for field in fields {
        text.push('\n');
        text.push_str(field);
    }
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::secret::SecretBuffer;
    use crate::time::{Now, Timestamp, UnixTime};

    fn reply(body: &Value) -> Reply {
        let text = body.to_string();
        let mut buffer = SecretBuffer::with_capacity(text.len());
        buffer.extend(text.as_bytes()).unwrap();
        Reply {
            body: buffer,
            sent: Now {
                boot: Timestamp::from_millis(0),
                unix: UnixTime::from_millis(0),
            },
            date: None,
        }
    }

    /// The fifth event of the contract's worked example.
    fn redeemed() -> Value {
        json!({
            "eventId": "evt_05", "seq": "5", "occurredAt": "2026-11-22T10:00:13Z",
            "tenantId": "business-default", "action": "lease.redeem", "outcome": "ok",
            "principal": "user:u-demo", "sessionId": "ses_7d3kq0v8m2c5x9b1n4",
            "leaseId": "lse_4k7q2m9x8c3v6b1n5p0d7h2j3t",
            "target": "provider:gcp:app:billing-prod:account:deploy-bot",
            "requestId": "req_06", "proofType": "dpop_jwt",
            "keyThumbprint": "Bl6YNzWPKbkzRTGjXc6KCZl2M1cTHy29_eGgdNJT4Tg",
            "proofJti": "jti-0004",
            "prevHash": "jQ1MraRCsxzWblas2jzcjACsxcZFyvkS6mcF4i57XVE",
            "hash": "nCDIagrdm8wAjAwgSK-CW0HJmrthiEhLOvF0oq_fw34",
        })
    }

    fn read(last: Option<u64>, body: &Value) -> Result<Vec<IssuerEvent>, AegisError> {
        page(last, &reply(body)).map(|page| page.events)
    }

    /// `aegis.md` 11 and 16: the worked example's hash is computed again and fits.
    #[test]
    fn the_worked_example_is_read() {
        let events = read(None, &json!({ "events": [redeemed()] })).unwrap();
        let event = events.first().unwrap();
        assert_eq!((event.seq, event.action.as_str()), (5, "lease.redeem"));
        assert_eq!(
            event.proof_jti.as_ref().map(ProofJti::as_str),
            Some("jti-0004")
        );
        assert_eq!(read(None, &json!({})).unwrap(), []);
    }

    /// AU-9: an event that was edited, comes twice or stands in the wrong place is no evidence.
    #[test]
    fn events_that_were_touched_are_refused() {
        let with = |name: &str, value: &str| {
            let mut event = redeemed();
            event[name] = value.into();
            json!({ "events": [event] })
        };
        let rows = [
            ("another session", with("sessionId", "ses_x"), bad("hash")),
            ("another outcome", with("outcome", "denied"), bad("hash")),
            (
                "another time",
                with("occurredAt", "2026-11-22T10:00:14Z"),
                bad("hash"),
            ),
            ("no hash", with("hash", ""), bad("hash")),
            ("no number", with("seq", "x"), bad("seq")),
            (
                "twice",
                json!({ "events": [redeemed(), redeemed()] }),
                bad("seq"),
            ),
            (
                "a page of nothing",
                json!({ "nextPageToken": "t" }),
                bad("next_page_token"),
            ),
        ];
        for (name, body, expected) in rows {
            assert_eq!(read(None, &body), Err(expected), "{name}");
        }
        let again = json!({ "events": [redeemed()] });
        assert_eq!(read(Some(5), &again), Err(bad("seq")), "going back");
    }
}
