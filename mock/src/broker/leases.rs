//! Leases and their states.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::clock::Moment;
use crate::encoding::{Hash, sha256};
use crate::errors::Reason;
use crate::proto::{CredentialLease, Target};
use crate::wire;

/// How long a lease that has ended is still known.
const REMEMBERED: Duration = Duration::from_hours(24);

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// It can be redeemed.
    Active,
    /// All its redemptions are used; its material lives.
    Exhausted,
    /// It was ended before its time, and its material with it.
    Revoked,
    /// Its time has ended.
    Expired,
}

impl LeaseState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Exhausted => "exhausted",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// A lease as tests see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// `lse_` and 26 base-32 characters.
    pub lease_id: String,
    /// In canonical form, `provider:…:app:…:account:…`.
    pub selector: String,
    /// Where it stands now.
    pub state: LeaseState,
    /// Who made it.
    pub principal: String,
    /// Thumbprint of the key it was made with.
    pub jkt: String,
    /// How often it was redeemed.
    pub redemptions_used: u32,
    /// How often it may be.
    pub max_redemptions: u32,
    /// The tenant it belongs to.
    pub tenant_id: String,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it ends or would have ended.
    pub expires_at: SystemTime,
}

/// A right to credential material for a time.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) id: String,
    pub(crate) tenant_id: String,
    pub(crate) principal: String,
    pub(crate) jkt: String,
    pub(crate) session_id: String,
    pub(crate) target: Target,
    pub(crate) selector: String,
    pub(crate) created_at: Moment,
    pub(crate) expires_at: Moment,
    pub(crate) max_redemptions: u32,
    pub(crate) redemptions_used: u32,
    pub(crate) purpose: String,
    pub(crate) revoked_at: Option<Moment>,
}

impl Lease {
    pub(crate) fn state(&self, now: Moment) -> LeaseState {
        if self.revoked_at.is_some() {
            LeaseState::Revoked
        } else if now >= self.expires_at {
            LeaseState::Expired
        } else if self.redemptions_used >= self.max_redemptions {
            LeaseState::Exhausted
        } else {
            LeaseState::Active
        }
    }

    /// Counts a redemption.
    pub(crate) fn redeem(&mut self, now: Moment) -> Result<(), Reason> {
        match self.state(now) {
            LeaseState::Active => {
                self.redemptions_used = self.redemptions_used.saturating_add(1);
                Ok(())
            }
            LeaseState::Exhausted => Err(Reason::LeaseExhausted),
            LeaseState::Revoked => Err(Reason::LeaseRevoked),
            LeaseState::Expired => Err(Reason::LeaseExpired),
        }
    }

    /// Ends it; `false` if it had ended before.
    pub(crate) fn revoke(&mut self, now: Moment) -> bool {
        match self.state(now) {
            LeaseState::Active | LeaseState::Exhausted => {
                self.revoked_at = Some(now);
                true
            }
            LeaseState::Revoked | LeaseState::Expired => false,
        }
    }

    fn is_forgotten(&self, now: Moment) -> bool {
        now >= self.revoked_at.unwrap_or(self.expires_at).plus(REMEMBERED)
    }

    pub(crate) fn to_message(&self, now: Moment) -> CredentialLease {
        CredentialLease {
            lease_id: self.id.clone(),
            target: self.target.clone().into(),
            state: self.state(now).as_str().to_owned(),
            created_at: wire::timestamp(self.created_at).into(),
            expires_at: wire::timestamp(self.expires_at).into(),
            max_redemptions: wire::int32(self.max_redemptions),
            redemptions_used: wire::int32(self.redemptions_used),
            purpose: self.purpose.clone(),
            ..CredentialLease::default()
        }
    }

    pub(crate) fn to_record(&self, now: Moment) -> LeaseRecord {
        LeaseRecord {
            lease_id: self.id.clone(),
            selector: self.selector.clone(),
            state: self.state(now),
            principal: self.principal.clone(),
            jkt: self.jkt.clone(),
            redemptions_used: self.redemptions_used,
            max_redemptions: self.max_redemptions,
            tenant_id: self.tenant_id.clone(),
            created_at: self.created_at.system_time(),
            expires_at: self.expires_at.system_time(),
        }
    }
}

/// Material that was handed out.
#[derive(Clone, Debug)]
struct Issued {
    lease_id: String,
    expires_at: Moment,
}

/// An answer to Create that may be asked for again.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) body: Hash,
    pub(crate) lease_id: String,
}

/// All leases, those that ended within a day included.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: HashMap<String, Lease>,
    /// In the order they were made.
    order: BTreeSet<(Moment, String)>,
    /// Those whose expiry is not recorded yet.
    running: BTreeSet<(Moment, String)>,
    ended: BTreeSet<(Moment, String)>,
    materials: HashMap<Hash, Vec<Issued>>,
    by_idempotency_key: HashMap<String, Remembered>,
    /// Revoked in an earlier life of the server, by hash of their ids: nobody has named them yet.
    restored: HashMap<Hash, Lease>,
}

impl Leases {
    /// All that was revoked before this server started.
    pub(crate) fn restore(&mut self, leases: Vec<(Hash, Lease)>) {
        self.restored = leases.into_iter().collect();
    }

    /// The revoked leases that are still known, with the hashes of their ids.
    pub(crate) fn revoked(&self, now: Moment) -> impl Iterator<Item = (Hash, &Lease)> {
        let named = self.by_id.values();
        let named = named.map(|lease| (sha256(lease.id.as_bytes()), lease));
        let nameless = self.restored.iter().map(|(hash, lease)| (*hash, lease));
        named
            .chain(nameless)
            .filter(move |(_, lease)| lease.revoked_at.is_some() && !lease.is_forgotten(now))
    }

    pub(crate) fn insert(&mut self, lease: Lease) {
        self.running.insert((lease.expires_at, lease.id.clone()));
        self.order.insert((lease.created_at, lease.id.clone()));
        self.by_id.insert(lease.id.clone(), lease);
    }

    /// A lease of whatever tenant.
    pub(crate) fn find(&mut self, id: &str, now: Moment) -> Option<&mut Lease> {
        if !self.restored.is_empty()
            && let Some(mut lease) = self.restored.remove(&sha256(id.as_bytes()))
        {
            id.clone_into(&mut lease.id);
            self.insert(lease);
        }
        self.by_id
            .get_mut(id)
            .filter(|lease| !lease.is_forgotten(now))
    }

    /// Those that fit and have not ended.
    pub(crate) fn unended(&self, now: Moment, fits: impl Fn(&Lease) -> bool) -> Vec<String> {
        self.all()
            .filter(|lease| {
                matches!(lease.state(now), LeaseState::Active | LeaseState::Exhausted)
                    && fits(lease)
            })
            .map(|lease| lease.id.clone())
            .collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Lease> {
        self.order.iter().filter_map(|(_, id)| self.by_id.get(id))
    }

    /// The leases that have expired since the last call, for the audit chain.
    /// Forgets those that ended long ago.
    pub(crate) fn expire(&mut self, now: Moment) -> Vec<Lease> {
        let mut expired = Vec::new();
        while let Some((at, _)) = self.running.first()
            && *at <= now
            && let Some((at, id)) = self.running.pop_first()
        {
            if let Some(lease) = self.by_id.get(&id)
                && lease.revoked_at.is_none()
            {
                expired.push(lease.clone());
            }
            self.ended.insert((at, id));
        }
        while let Some((at, _)) = self.ended.first()
            && at.plus(REMEMBERED) <= now
            && let Some((_, id)) = self.ended.pop_first()
        {
            if let Some(lease) = self.by_id.remove(&id) {
                self.order.remove(&(lease.created_at, lease.id));
            }
            self.by_idempotency_key
                .retain(|_, known| known.lease_id != id);
            self.materials.retain(|_, issued| {
                issued.retain(|issued| issued.lease_id != id);
                !issued.is_empty()
            });
        }
        expired
    }

    /// Remembers, by hash, material that is handed out.
    pub(crate) fn issue(&mut self, lease_id: &str, secret: &str, expires_at: Moment) {
        self.materials
            .entry(sha256(secret.as_bytes()))
            .or_default()
            .push(Issued {
                lease_id: lease_id.to_owned(),
                expires_at,
            });
    }

    /// The lease whose material this is, while it lives.
    pub(crate) fn whose(&self, provider: &str, secret: &str, now: Moment) -> Option<&Lease> {
        self.materials
            .get(&sha256(secret.as_bytes()))?
            .iter()
            .filter(|issued| now < issued.expires_at)
            .filter_map(|issued| self.by_id.get(&issued.lease_id))
            .find(|lease| {
                lease.target.provider == provider
                    && matches!(lease.state(now), LeaseState::Active | LeaseState::Exhausted)
            })
    }

    pub(crate) fn remembered(&self, key: &str) -> Option<&Remembered> {
        self.by_idempotency_key.get(key)
    }

    pub(crate) fn remember(&mut self, key: String, answer: Remembered) {
        self.by_idempotency_key.insert(key, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_unix_millis(0).plus(Duration::from_secs(seconds))
    }

    fn lease(max_redemptions: u32) -> Lease {
        Lease {
            id: "lse_1".to_owned(),
            tenant_id: "t".to_owned(),
            principal: "user:u".to_owned(),
            jkt: "k".to_owned(),
            session_id: "ses_1".to_owned(),
            target: Target {
                provider: "p".to_owned(),
                ..Target::default()
            },
            selector: String::new(),
            created_at: at(0),
            expires_at: at(300),
            max_redemptions,
            redemptions_used: 0,
            purpose: String::new(),
            revoked_at: None,
        }
    }

    /// LC-2, LC-5: every cell of the table of states.
    #[test]
    fn states_follow_the_table() {
        let mut active = lease(2);
        assert_eq!(active.redeem(at(1)), Ok(()));
        assert_eq!(active.state(at(1)), LeaseState::Active);
        assert_eq!(active.redeem(at(2)), Ok(()));
        assert_eq!(active.state(at(2)), LeaseState::Exhausted);
        assert_eq!(active.redeem(at(3)), Err(Reason::LeaseExhausted));

        let mut exhausted = active.clone();
        assert_eq!(exhausted.state(at(300)), LeaseState::Expired);
        assert!(exhausted.revoke(at(4)));
        assert_eq!(exhausted.redeem(at(5)), Err(Reason::LeaseRevoked));
        assert!(!exhausted.revoke(at(5)));
        assert_eq!(exhausted.state(at(301)), LeaseState::Revoked);

        let mut expired = lease(1);
        assert_eq!(expired.state(at(299)), LeaseState::Active);
        assert_eq!(expired.redeem(at(300)), Err(Reason::LeaseExpired));
        assert!(!expired.revoke(at(300)));
        assert_eq!(expired.state(at(300)), LeaseState::Expired);
    }

    #[test]
    fn ended_leases_are_known_for_a_day_and_then_forgotten() {
        let day = 24 * 60 * 60;
        let mut leases = Leases::default();
        leases.insert(lease(1));
        leases.issue("lse_1", "s", at(300));
        assert!(leases.expire(at(299)).is_empty());
        assert!(leases.whose("p", "s", at(299)).is_some());
        assert!(leases.whose("q", "s", at(299)).is_none());
        assert!(leases.whose("p", "s", at(300)).is_none());
        assert_eq!(leases.expire(at(300)).len(), 1);
        assert!(leases.expire(at(301)).is_empty());
        assert!(leases.find("lse_1", at(300 + day - 1)).is_some());
        assert!(leases.find("lse_1", at(300 + day)).is_none());
        assert!(leases.expire(at(300 + day)).is_empty());
        assert_eq!(leases.all().count(), 0);
        assert!(leases.materials.is_empty());
    }
}
