//! What may be said once: nonces and workload tokens.

use std::collections::{BTreeSet, HashMap};

use crate::clock::Moment;
use crate::encoding::{Hash, sha256};

/// Words that were used, kept hashed, each until nothing that it came with is good any more.
/// Bounded by time, never by count: what is forgotten early could be used again.
#[derive(Debug, Default)]
pub(crate) struct Once {
    /// By word: who used it, hashed too.
    used: HashMap<Hash, Hash>,
    by_end: BTreeSet<(Moment, Hash)>,
}

impl Once {
    /// Uses up a word; `false` if it was used before.
    pub(crate) fn take(&mut self, word: &str, until: Moment, now: Moment) -> bool {
        let known = self.used_by(word, now).is_some();
        if !known {
            self.insert(word, "", until);
        }
        !known
    }

    /// Uses a word as somebody; `false` if somebody else did before.
    pub(crate) fn take_as(&mut self, who: &str, word: &str, until: Moment, now: Moment) -> bool {
        if let Some(before) = self.used_by(word, now) {
            return before == sha256(who.as_bytes());
        }
        self.insert(word, who, until);
        true
    }

    fn insert(&mut self, word: &str, who: &str, until: Moment) {
        let hash = sha256(word.as_bytes());
        self.used.insert(hash, sha256(who.as_bytes()));
        self.by_end.insert((until, hash));
    }

    fn used_by(&mut self, word: &str, now: Moment) -> Option<Hash> {
        while let Some(&(end, hash)) = self.by_end.first()
            && end <= now
        {
            self.by_end.remove(&(end, hash));
            self.used.remove(&hash);
        }
        self.used.get(&sha256(word.as_bytes())).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_unix_millis(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_word_is_good_once_until_its_end() {
        let mut once = Once::default();
        assert!(once.take("a", at(10), at(0)));
        assert!(!once.take("a", at(90), at(9)));
        assert!(once.take("b", at(10), at(9)));
        assert!(once.take("a", at(20), at(10)));
        assert_eq!((once.used.len(), once.by_end.len()), (1, 1));
    }

    #[test]
    fn a_bound_word_is_good_again_for_who_used_it() {
        let mut once = Once::default();
        assert!(once.take_as("me", "a", at(10), at(0)));
        assert!(once.take_as("me", "a", at(10), at(1)));
        assert!(!once.take_as("you", "a", at(10), at(1)));
        assert!(!once.take("a", at(10), at(1)));
    }
}
