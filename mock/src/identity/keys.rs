//! The key registry: which key a name stands for, which keys are taken back, and, inside a
//! session, which key is on its way out.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::check::{Check, Checks};
use crate::clock::Moment;
use crate::errors::Reason;

/// The dual-key window: once a session has a new key, the one before is good for so long.
pub(crate) const DUAL_KEY_WINDOW: Duration = Duration::from_mins(2);

/// The keys of all tenants, by thumbprint or fingerprint.
#[derive(Debug, Default)]
pub(crate) struct KeyRegistry {
    /// Tenant and `pop_key_id` to thumbprint.
    names: HashMap<(String, String), String>,
    /// Tenant and thumbprint.
    revoked: HashSet<(String, String)>,
}

impl KeyRegistry {
    /// Binds a key's name to the key.
    ///
    /// # Errors
    /// `pop_key_conflict` where the name stands for another, `key_revoked` where the key was taken
    /// back.
    pub(crate) fn register(
        &mut self,
        tenant_id: &str,
        pop_key_id: &str,
        thumbprint: &str,
    ) -> Result<(), Reason> {
        if self.is_revoked(tenant_id, thumbprint) {
            return Err(Reason::KeyRevoked);
        }
        let name = (tenant_id.to_owned(), pop_key_id.to_owned());
        let known = self
            .names
            .entry(name)
            .or_insert_with(|| thumbprint.to_owned());
        if known == thumbprint {
            return Ok(());
        }
        Err(Reason::PopKeyConflict)
    }

    /// Takes a key back for good; `false` if it was before.
    pub(crate) fn revoke(&mut self, tenant_id: &str, thumbprint: &str) -> bool {
        let key = (tenant_id.to_owned(), thumbprint.to_owned());
        self.revoked.insert(key)
    }

    pub(crate) fn is_revoked(&self, tenant_id: &str, thumbprint: &str) -> bool {
        let key = (tenant_id.to_owned(), thumbprint.to_owned());
        self.revoked.contains(&key)
    }

    /// The keys that go by that name, with their tenants.
    pub(crate) fn named(&self, pop_key_id: &str) -> Vec<(String, String)> {
        let named = self
            .names
            .iter()
            .filter(|((_, name), _)| name == pop_key_id);
        named
            .map(|((tenant, _), thumbprint)| (tenant.clone(), thumbprint.clone()))
            .collect()
    }
}

/// The DPoP keys of one session, the current one last.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionKeys(Vec<(String, Option<Moment>)>);

impl SessionKeys {
    /// Makes a key the current one. The one before is good for [`DUAL_KEY_WINDOW`] from then.
    pub(crate) fn rotate_to(&mut self, thumbprint: &str, now: Moment) {
        self.0
            .retain(|(known, until)| known != thumbprint && until.is_none_or(|until| now < until));
        for (_, until) in &mut self.0 {
            until.get_or_insert(now.plus(DUAL_KEY_WINDOW));
        }
        self.0.push((thumbprint.to_owned(), None));
    }

    /// Whether the session still signs with that key.
    pub(crate) fn check(&self, thumbprint: &str, now: Moment, checks: Checks) -> Result<(), Check> {
        let known = self.0.iter().find(|(known, _)| known == thumbprint);
        let current = known.is_some_and(|(_, until)| until.is_none_or(|until| now < until));
        checks.require(Check::KeyCurrent, current)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(thumbprint, _)| thumbprint.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_unix_millis(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn old_and_new_key_are_both_good_for_120_s() {
        let mut keys = SessionKeys::default();
        let good = |keys: &SessionKeys, key, seconds| {
            keys.check(key, at(seconds), Checks::default()).is_ok()
        };
        keys.rotate_to("a", at(0));
        assert!(good(&keys, "a", 1_000_000) && !good(&keys, "b", 0));
        keys.rotate_to("b", at(10));
        assert!(good(&keys, "a", 129) && good(&keys, "b", 129));
        assert!(!good(&keys, "a", 130) && good(&keys, "b", 130));
        // Another one does not lengthen the first one's time, and the same again changes nothing.
        keys.rotate_to("c", at(20));
        keys.rotate_to("c", at(100));
        assert!(good(&keys, "a", 129) && !good(&keys, "a", 130));
        assert!(good(&keys, "b", 139) && !good(&keys, "b", 140));
        assert!(good(&keys, "c", 1_000_000));
    }

    #[test]
    fn a_name_stands_for_one_key_and_a_key_taken_back_is_never_registered_again() {
        let mut registry = KeyRegistry::default();
        assert_eq!(registry.register("t", "pop-1", "a"), Ok(()));
        assert_eq!(registry.register("t", "pop-1", "a"), Ok(()));
        assert_eq!(
            registry.register("t", "pop-1", "b"),
            Err(Reason::PopKeyConflict)
        );
        assert_eq!(registry.register("other", "pop-1", "b"), Ok(()));
        assert!(registry.revoke("t", "a"));
        assert!(!registry.revoke("t", "a"));
        assert_eq!(
            registry.register("t", "pop-2", "a"),
            Err(Reason::KeyRevoked)
        );
        assert!(!registry.is_revoked("other", "a"));
        assert_eq!(registry.named("pop-1").len(), 2);
    }
}
