//! Proofs that have been seen: RFC 9449 §11.1.

use std::collections::{BTreeSet, HashSet};

use crate::dpop::{MAX_AGE, Proof};
use crate::encoding::{Hash, sha256};

/// The proofs that could still be sent again. Bounded by time, never by count:
/// evicting one early would let it be replayed.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    seen: HashSet<Hash>,
    by_end: BTreeSet<(i64, Hash)>,
}

impl Replays {
    /// Remembers a proof; `false` if it was there already. `now` in Unix seconds.
    pub(crate) fn consume(&mut self, proof: &Proof, now: i64) -> bool {
        while let Some(&(end, hash)) = self.by_end.first()
            && end < now
        {
            self.by_end.remove(&(end, hash));
            self.seen.remove(&hash);
        }
        let hash = sha256(format!("{}\n{}", proof.thumbprint, proof.jti).as_bytes());
        if !self.seen.insert(hash) {
            return false;
        }
        self.by_end
            .insert((proof.iat.saturating_add(MAX_AGE), hash));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(jti: &str, thumbprint: &str, iat: i64) -> Proof {
        Proof {
            jti: jti.to_owned(),
            iat,
            nonce: None,
            kid: None,
            thumbprint: thumbprint.to_owned(),
        }
    }

    /// DP-7.
    #[test]
    fn a_proof_is_remembered_as_long_as_it_is_fresh_and_no_longer() {
        let mut replays = Replays::default();
        assert!(replays.consume(&proof("a", "k", 1000), 1000));
        assert!(!replays.consume(&proof("a", "k", 1000), 1060));
        assert!(replays.consume(&proof("a", "other key", 1000), 1000));
        for number in 0..10_000 {
            assert!(replays.consume(&proof(&format!("j{number}"), "k", 1000), 1001));
        }
        assert!(!replays.consume(&proof("a", "k", 1000), 1060));
        assert!(replays.consume(&proof("b", "k", 1061), 1061));
        assert_eq!(replays.seen.len(), 1);
        assert_eq!(replays.by_end.len(), 1);
    }
}
