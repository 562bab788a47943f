use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::broker::ports::{KeyStore, KeyStoreError};
use crate::secret::SecretString;

/// The key store's name for the key of persistent stores.
const KEY_NAME: &str = "audit/mac";

/// How long a key is, in bytes: the output of the hash (RFC 2104 §3).
const KEY_LEN: usize = 32;

/// How long a hash or MAC is in the log: 32 bytes in base64url without padding.
pub(super) const HASH_TEXT: usize = 43;

/// A SHA-256 hash or an HMAC-SHA-256 tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Hash([u8; 32]);

impl Hash {
    /// What the first line of a log follows.
    pub(super) const GENESIS: Self = Self([0; 32]);

    /// SHA-256 of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::copy(digest::digest(&digest::SHA256, bytes).as_ref())
    }

    fn copy(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        // Both algorithms yield 32 bytes; of anything else the first 32 would be taken.
        for (to, from) in hash.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(hash)
    }

    /// Reads base64url without padding.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let read = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (read == bytes.len()).then_some(Self(bytes))
    }

    /// Base64url without padding.
    pub(super) fn text(&self) -> [u8; HASH_TEXT] {
        let mut text = [0; HASH_TEXT];
        // 32 bytes are 43 characters: it fits, and the count says nothing new.
        if URL_SAFE_NO_PAD.encode_slice(self.0, &mut text).is_err() {
            text.fill(b'!');
        }
        text
    }
}

/// The text of the log.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text()))
    }
}

/// How far a log goes: how many lines, and the last one's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) count: u64,
    pub(super) hash: Hash,
}

impl Head {
    /// Of a log without lines.
    pub(super) const EMPTY: Self = Self {
        count: 0,
        hash: Hash::GENESIS,
    };
}

/// The key of one or more segments, with the name that the header gives it. Cloning shares it;
/// wiped with the last of them.
#[derive(Clone)]
pub(super) struct SegmentKey {
    key: Arc<hmac::Key>,
    id: Hash,
}

impl SegmentKey {
    fn new(bytes: &[u8]) -> Self {
        let mut named = Zeroizing::new(Vec::with_capacity(64));
        named.extend_from_slice(b"aegis-broker audit key\0");
        named.extend_from_slice(bytes);
        Self {
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
            id: Hash::of(&named),
        }
    }

    /// The key for a daemon start: the store's own where the store persists, made there at first
    /// use; else a fresh one that nobody keeps (AU-7).
    pub(super) fn for_start(store: &dyn KeyStore) -> Result<Self, KeyStoreError> {
        let persistent = store.is_persistent();
        if persistent && let Some(key) = Self::stored(store)? {
            return Ok(key);
        }
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_no_detail| KeyStoreError)?;
        if persistent {
            let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
            store.store(KEY_NAME, SecretString::new(text))?;
        }
        Ok(Self::new(bytes.as_slice()))
    }

    /// The key that a store holds. One that does not read is an error, not a reason for another.
    fn stored(store: &dyn KeyStore) -> Result<Option<Self>, KeyStoreError> {
        let Some(secret) = store.load(KEY_NAME)? else {
            return Ok(None);
        };
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        match URL_SAFE_NO_PAD.decode_slice(secret.expose(), bytes.as_mut_slice()) {
            Ok(KEY_LEN) => Ok(Some(Self::new(bytes.as_slice()))),
            Ok(_) | Err(_) => Err(KeyStoreError),
        }
    }

    pub(super) fn id(&self) -> Hash {
        self.id
    }

    /// The MAC of a line.
    pub(super) fn line_mac(&self, hash: &Hash) -> Hash {
        Hash::copy(hmac::sign(&self.key, &hash.0).as_ref())
    }

    /// The MAC of an anchor. Its input is longer than any line's, so neither stands for the other.
    pub(super) fn anchor_mac(&self, head: &Head) -> Hash {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"aegis-broker audit anchor\0");
        context.update(&head.count.to_be_bytes());
        context.update(&head.hash.0);
        Hash::copy(context.sign().as_ref())
    }
}

impl fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegmentKey")
    }
}

/// Constant time.
pub(super) fn same(left: &Hash, right: &Hash) -> bool {
    constant_time::verify_slices_are_equal(&left.0, &right.0).is_ok()
}

/// The keys that a check may use. Wiped on drop.
#[derive(Default)]
pub struct Keys(HashMap<Hash, SegmentKey>);

impl Keys {
    /// No key: a check can then say at most "chained".
    pub fn none() -> Self {
        Self::default()
    }

    /// The key that a store holds from an earlier run, if any.
    ///
    /// # Errors
    /// [`KeyStoreError`] when the store fails or holds something else under the name.
    pub fn from_store(store: &dyn KeyStore) -> Result<Self, KeyStoreError> {
        Ok(Self::of(SegmentKey::stored(store)?))
    }

    pub(super) fn of(keys: impl IntoIterator<Item = SegmentKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.id(), key)).collect())
    }

    pub(super) fn get(&self, id: &Hash) -> Option<&SegmentKey> {
        self.0.get(id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.0.len()).finish()
    }
}
