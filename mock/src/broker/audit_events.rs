//! `ListBrokerAuditEvents`: a tenant's chain, page by page.
//!
//! A page token says where to go on, sealed with a MAC over the listing it belongs to: whose it
//! is, of which tenant, and what it leaves out. The key ends with the process.

use std::time::Duration;

use aws_lc_rs::hmac;

use crate::access::Purpose;
use crate::audit::{ACTIONS, AuditRecord};
use crate::call::Call;
use crate::check::Check;
use crate::clock::Moment;
use crate::encoding::{base64url, from_base64url, is_id, random};
use crate::errors::{Reason, Refusal};
use crate::identity::tokens::TokenRecord;
use crate::proto::{AuditEvent, ListBrokerAuditEventsRequest, ListBrokerAuditEventsResponse};
use crate::state::Shared;
use crate::wire;

/// Who sees what others did.
const SEES_ALL: &str = "org_admin";
const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 200;
const PAGE_LIFETIME: Duration = Duration::from_mins(10);

/// Seals page tokens.
#[derive(Debug)]
pub(crate) struct PageSeal(hmac::Key);

impl Default for PageSeal {
    fn default() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()))
    }
}

impl PageSeal {
    /// `seq.end.mac`, each in plain sight but for the last.
    fn seal(&self, listing: &str, seq: u64, end: Moment) -> String {
        let words = format!("{seq}.{}", end.unix_millis());
        let mac = hmac::sign(&self.0, format!("{words}\n{listing}").as_bytes());
        format!("{words}.{}", base64url(mac.as_ref()))
    }

    /// Where a token of this listing goes on; `None` for any other, and for an old one.
    fn open(&self, listing: &str, token: &str, now: Moment) -> Option<u64> {
        let (words, mac) = token.rsplit_once('.')?;
        let mac = from_base64url(mac)?;
        hmac::verify(&self.0, format!("{words}\n{listing}").as_bytes(), &mac).ok()?;
        let (seq, end) = after(token)?;
        (now.unix_millis() < end).then_some(seq)
    }
}

/// What a token says, sealed or not.
fn after(token: &str) -> Option<(u64, i64)> {
    let mut words = token.split('.');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// What is asked for, but for the page.
struct Listing<'a> {
    sees_all: bool,
    token: &'a TokenRecord,
    since: u64,
    actions: &'a [String],
    lease_id: &'a str,
}

impl Listing<'_> {
    /// A name of it, the same for each of its pages.
    fn name(&self) -> String {
        let mut actions: Vec<&str> = self.actions.iter().map(String::as_str).collect();
        actions.sort_unstable();
        [
            &self.token.tenant_id,
            &self.token.principal,
            &self.sees_all.to_string(),
            &self.since.to_string(),
            &actions.join(","),
            self.lease_id,
        ]
        .join("\n")
    }

    fn shows(&self, record: &AuditRecord) -> bool {
        record.tenant_id == self.token.tenant_id
            && record.seq > self.since
            && (self.sees_all || record.principal == self.token.principal)
            && (self.actions.is_empty() || self.actions.contains(&record.action))
            && (self.lease_id.is_empty() || self.lease_id == record.lease_id)
    }
}

impl Shared {
    pub(super) fn list_events(
        &self,
        call: &Call,
        request: &ListBrokerAuditEventsRequest,
    ) -> Result<ListBrokerAuditEventsResponse, Refusal> {
        if request.tenant_id.is_empty() {
            return Err(Refusal::missing("tenant_id"));
        }
        let wrong =
            |message, field: &'static str| Refusal::new(Reason::TypeMismatch, message).field(field);
        let page_size = match usize::try_from(request.page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) if size <= MAX_PAGE => size,
            _ => return Err(wrong("a page has 1 to 200 events", "page_size")),
        };
        let since = u64::try_from(request.since_seq);
        let since = since.map_err(|_negative| wrong("seq counts from 1", "since_seq"))?;
        let known = |action: &String| ACTIONS.contains(&action.as_str());
        if request.actions.len() > ACTIONS.len() || !request.actions.iter().all(known) {
            return Err(wrong("no such action", "actions"));
        }
        if !request.lease_id.is_empty() && !is_id(&request.lease_id, "lse_") {
            return Err(wrong("not a lease id", "lease_id"));
        }
        let proof = request.request_proof.as_option();
        let caller = self.admit(call, proof, &request.tenant_id, Purpose::Access)?;

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.expire_leases(now);
        let listing = Listing {
            sees_all: caller.token.role.as_deref() == Some(SEES_ALL),
            token: &caller.token,
            since,
            actions: &request.actions,
            lease_id: &request.lease_id,
        };
        let name = listing.name();
        let mut after_seq = 0;
        if !request.page_token.is_empty() {
            let opened = state.page_seal.open(&name, &request.page_token, now);
            call.checks
                .require(Check::PageToken, opened.is_some())
                .map_err(|check| Refusal::from(check).field("page_token"))?;
            let unsealed = after(&request.page_token).map(|(seq, _)| seq);
            after_seq = opened.or(unsealed).unwrap_or(0);
        }
        let mut rest = state
            .ledger
            .records()
            .iter()
            .filter(|record| record.seq > after_seq && listing.shows(record));
        let page: Vec<&AuditRecord> = rest.by_ref().take(page_size).collect();
        let next_page_token = match (page.last(), rest.next()) {
            (Some(last), Some(_more)) => {
                let end = now.plus(PAGE_LIFETIME);
                state.page_seal.seal(&name, last.seq, end)
            }
            _ => String::new(),
        };
        let (head_seq, head_hash) = state.ledger.head(&caller.token.tenant_id);
        Ok(ListBrokerAuditEventsResponse {
            events: page.into_iter().map(message).collect(),
            next_page_token,
            head_seq: i64::try_from(head_seq).unwrap_or(i64::MAX),
            head_hash,
            ..Default::default()
        })
    }
}

fn message(record: &AuditRecord) -> AuditEvent {
    AuditEvent {
        event_id: record.event_id.clone(),
        seq: i64::try_from(record.seq).unwrap_or(i64::MAX),
        occurred_at: wire::timestamp(Moment::from_system_time(record.occurred_at)).into(),
        tenant_id: record.tenant_id.clone(),
        action: record.action.clone(),
        outcome: record.outcome.clone(),
        principal: record.principal.clone(),
        session_id: record.session_id.clone(),
        lease_id: record.lease_id.clone(),
        target: record.target.clone(),
        reason: record.reason.clone(),
        request_id: record.request_id.clone(),
        proof_type: record.proof_type.clone(),
        key_thumbprint: record.key_thumbprint.clone(),
        proof_jti: record.proof_jti.clone(),
        prev_hash: record.prev_hash.clone(),
        hash: record.hash.clone(),
        ..Default::default()
    }
}
