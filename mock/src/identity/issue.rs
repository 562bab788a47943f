//! A session and its scopes become a token.

use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::clock::Moment;
use crate::encoding::{base64url, sha256};
use crate::fault::FaultKind;
use crate::identity::sessions::Session;
use crate::identity::tokens::{Binding, TokenRecord};
use crate::proto::TokenInfo;
use crate::scope;
use crate::state::{Shared, State};
use crate::wire;

/// The longest that a token for the bootstrap lives, in seconds.
pub(crate) const BOOTSTRAP_TTL: u32 = 300;

/// What a token of a session is to be.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) scopes: Vec<String>,
    pub(crate) ttl_seconds: u32,
    pub(crate) binding: Binding,
    pub(crate) pop_key_id: String,
}

impl Wanted {
    fn bootstraps(&self) -> bool {
        self.scopes.iter().any(|scope| scope == scope::BOOTSTRAP)
    }
}

impl Shared {
    /// Issues a token and says what it is; records what was done as `action`.
    pub(crate) fn issue(
        &self,
        call: &Call,
        state: &mut State,
        session: &Session,
        wanted: Wanted,
        action: &'static str,
        now: Moment,
    ) -> (String, TokenInfo) {
        let fault = state.faults.take(
            call.method,
            &[
                FaultKind::WrongThumbprint,
                FaultKind::WiderScope,
                FaultKind::ShortExpiry,
            ],
        );
        let mut ttl_seconds = wanted.ttl_seconds;
        if wanted.bootstraps() {
            ttl_seconds = ttl_seconds.min(BOOTSTRAP_TTL);
        }
        if fault == Some(FaultKind::ShortExpiry) {
            ttl_seconds = 1;
        }
        let (token, record) = self.sign_token(state, session, wanted, ttl_seconds, now);

        let mut trace = call.trace();
        trace.entry.principal.clone_from(&record.principal);
        trace.entry.session_id.clone_from(&record.session_id);
        let mut entry = trace.entry.clone();
        drop(trace);
        (entry.action, entry.outcome) = (action, "ok");
        state.ledger.append(entry, now);

        let mut granted_scopes = record.scopes.clone();
        if fault == Some(FaultKind::WiderScope) {
            granted_scopes.push(
                "credential.lease.create:provider:gcp:app:not-asked-for:account:owner".to_owned(),
            );
        }
        let thumbprint = if fault == Some(FaultKind::WrongThumbprint) {
            base64url(&sha256(b"another key"))
        } else {
            record.binding.thumbprint().to_owned()
        };
        let info = TokenInfo {
            expires_at: wire::timestamp(record.expires_at).into(),
            expires_in_seconds: wire::int32(ttl_seconds),
            granted_scopes,
            principal: record.principal.clone(),
            tenant_id: record.tenant_id.clone(),
            pop_key_id: record.pop_key_id.clone(),
            binding: record.binding.kind().to_owned(),
            thumbprint,
            session_id: record.session_id.clone(),
            session_expires_at: wire::timestamp(session.expires_at).into(),
            role: record.role.clone().unwrap_or_default(),
            ..Default::default()
        };
        (token, info)
    }

    /// The token that bootstraps, beside one that a login has yielded.
    pub(crate) fn issue_bootstrap(
        &self,
        state: &mut State,
        session: &Session,
        binding: Binding,
        pop_key_id: &str,
        now: Moment,
    ) -> String {
        let wanted = Wanted {
            scopes: vec![scope::BOOTSTRAP.to_owned()],
            ttl_seconds: BOOTSTRAP_TTL,
            binding,
            pop_key_id: pop_key_id.to_owned(),
        };
        self.sign_token(state, session, wanted, BOOTSTRAP_TTL, now)
            .0
    }

    fn sign_token(
        &self,
        state: &mut State,
        session: &Session,
        wanted: Wanted,
        ttl_seconds: u32,
        now: Moment,
    ) -> (String, Arc<TokenRecord>) {
        let bootstraps = wanted.bootstraps();
        let expires_at = now.plus(Duration::from_secs(ttl_seconds.into()));
        let record = TokenRecord {
            jti: String::new(),
            principal: session.principal.clone(),
            tenant_id: session.tenant_id.clone(),
            scopes: wanted.scopes,
            // What bootstraps needs no rank.
            role: session.role.clone().filter(|_| !bootstraps),
            binding: wanted.binding,
            pop_key_id: wanted.pop_key_id,
            session_id: session.id.clone(),
            expires_at,
        };
        let issuer = wire::origin(&self.api);
        let (token, record) = state.tokens.issue(&state.signer, &issuer, record, now);
        let kind = if bootstraps {
            "bootstrap_token"
        } else {
            "broker_token"
        };
        state.secret(kind, &token);
        (token, record)
    }
}
