//! Taking access back: a token, a key, a session, a principal.
//!
//! A token's end is the token's alone. A key's end ends what it proves: its tokens, and the leases
//! made with it. A session's end is all of them. Whatever ends is recorded, the leases one by one.

use crate::audit::Entry;
use crate::clock::Moment;
use crate::identity::tokens::TokenRecord;
use crate::state::State;

/// How many of each have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) tokens: usize,
    pub(crate) keys: usize,
    pub(crate) leases: usize,
}

impl Ended {
    fn and(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            keys: self.keys.saturating_add(other.keys),
            leases: self.leases.saturating_add(other.leases),
        }
    }
}

/// By which call something ends, and why.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// What the audit has of the call: its id, its proof.
    pub(crate) entry: Entry,
    pub(crate) reason: &'static str,
}

impl State {
    /// Ends one token.
    pub(crate) fn revoke_token(
        &mut self,
        token: &TokenRecord,
        cause: &Cause,
        now: Moment,
    ) -> Ended {
        let alive = now < token.expires_at && !self.tokens.is_revoked(&token.jti);
        self.tokens.revoke(&token.jti);
        let mut entry = cause.entry.clone();
        entry.tenant_id.clone_from(&token.tenant_id);
        entry.principal.clone_from(&token.principal);
        entry.session_id.clone_from(&token.session_id);
        self.record("token.revoke", entry, cause, now);
        Ended {
            tokens: usize::from(alive),
            ..Ended::default()
        }
    }

    /// Ends a key, by its thumbprint or fingerprint. `owner` is the principal whose it is.
    pub(crate) fn revoke_key(
        &mut self,
        tenant_id: &str,
        thumbprint: &str,
        owner: &str,
        cause: &Cause,
        now: Moment,
    ) -> Ended {
        let mut entry = cause.entry.clone();
        tenant_id.clone_into(&mut entry.tenant_id);
        owner.clone_into(&mut entry.principal);
        self.record("key.revoke", entry, cause, now);
        self.end_key(tenant_id, thumbprint, cause, now)
    }

    fn end_key(&mut self, tenant_id: &str, thumbprint: &str, cause: &Cause, now: Moment) -> Ended {
        let is_first = self.keys.revoke(tenant_id, thumbprint);
        let tokens = self.tokens.live(now, |token| {
            token.tenant_id == tenant_id && token.binding.thumbprint() == thumbprint
        });
        let leases = self.leases.unended(now, |lease| {
            lease.tenant_id == tenant_id && lease.jkt == thumbprint
        });
        Ended {
            tokens: if is_first { tokens.len() } else { 0 },
            keys: usize::from(is_first),
            leases: self.end_leases(&leases, cause, now),
        }
    }

    /// Ends a session, its keys, its certificates and its leases; `None` where there is none that
    /// lives.
    pub(crate) fn end_session(&mut self, id: &str, cause: &Cause, now: Moment) -> Option<Ended> {
        let session = self.broker_sessions.get_mut(id)?;
        if !session.is_alive(now) {
            return None;
        }
        session.ended = true;
        let session = session.clone();
        let mut entry = cause.entry.clone();
        entry.tenant_id.clone_from(&session.tenant_id);
        entry.principal.clone_from(&session.principal);
        entry.session_id.clone_from(&session.id);
        self.record("session.end", entry, cause, now);

        let tokens = self.tokens.live(now, |token| token.session_id == id).len();
        let keys = session.keys.all().map(str::to_owned);
        let keys: Vec<String> = keys.chain(self.svids.of_session(id)).collect();
        let mut ended = Ended::default();
        for key in keys {
            ended = ended.and(self.end_key(&session.tenant_id, &key, cause, now));
        }
        let leases = self.leases.unended(now, |lease| lease.session_id == id);
        let leases = self.end_leases(&leases, cause, now);
        Some(Ended {
            tokens: tokens.max(ended.tokens),
            keys: ended.keys,
            leases: ended.leases.saturating_add(leases),
        })
    }

    /// The tenant that a certificate was issued in.
    pub(crate) fn tenant_of_svid(&self, fingerprint: &str) -> Option<String> {
        let svid = self.svids.get(fingerprint)?;
        let session = self.broker_sessions.get(&svid.session_id)?;
        Some(session.tenant_id.clone())
    }

    /// Ends leases; how many.
    pub(crate) fn end_leases(&mut self, ids: &[String], cause: &Cause, now: Moment) -> usize {
        for id in ids {
            let Some(lease) = self.leases.find(id, now) else {
                continue;
            };
            lease.revoke(now);
            let entry = Entry {
                tenant_id: lease.tenant_id.clone(),
                principal: lease.principal.clone(),
                session_id: lease.session_id.clone(),
                lease_id: lease.id.clone(),
                target: lease.selector.clone(),
                ..cause.entry.clone()
            };
            self.record("lease.revoke", entry, cause, now);
        }
        ids.len()
    }

    fn record(&mut self, action: &'static str, entry: Entry, cause: &Cause, now: Moment) {
        let entry = Entry {
            action,
            outcome: "ok",
            reason: cause.reason,
            ..entry
        };
        self.ledger.append(entry, now);
    }
}
