use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::broker::ports::{KeyStore, KeyStoreError};
use crate::secret::SecretString;

/// The key store that forgets: secrets live in this process only. A replaced secret is wiped
/// when it is replaced, the others when the store is dropped.
#[derive(Default)]
pub struct MemoryKeyStore {
    // Held for one look-up or insert at a time, never across anything that waits.
    secrets: Mutex<HashMap<Box<str>, SecretString>>,
}

impl MemoryKeyStore {
    /// A store without secrets.
    pub fn new() -> Self {
        Self::default()
    }
}

impl KeyStore for MemoryKeyStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    /// Never fails.
    fn load(&self, name: &str) -> Result<Option<SecretString>, KeyStoreError> {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(secrets
            .get(name)
            .map(|secret| SecretString::copy_from(secret.expose())))
    }

    /// Never fails.
    fn store(&self, name: &str, secret: SecretString) -> Result<(), KeyStoreError> {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.insert(Box::from(name), secret);
        Ok(())
    }

    fn is_persistent(&self) -> bool {
        false
    }
}

/// Neither names nor secrets.
impl fmt::Debug for MemoryKeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryKeyStore")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_until_it_is_replaced() {
        let store = MemoryKeyStore::new();
        assert_eq!(store.load("audit/mac"), Ok(None));
        for value in ["one", "two"] {
            store
                .store("audit/mac", SecretString::copy_from(value))
                .unwrap();
            assert_eq!(
                store.load("audit/mac"),
                Ok(Some(SecretString::copy_from(value)))
            );
        }
        assert_eq!(store.load("audit/other"), Ok(None));
    }

    /// HY-10: the store says what it is. HY-3: `Debug` is the name.
    #[test]
    fn it_is_memory_and_does_not_persist() {
        let store = MemoryKeyStore::new();
        store
            .store("name", SecretString::copy_from("hunter2"))
            .unwrap();
        assert_eq!(store.kind(), "memory");
        assert!(!store.is_persistent());
        assert_eq!(format!("{store:?}"), "MemoryKeyStore");
    }
}
