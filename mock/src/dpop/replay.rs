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
    /// What ended before it is forgotten. Unix seconds.
    forgotten_before: i64,
}

impl Replays {
    /// Remembers a proof that was found fresh at `judged_at`, in Unix seconds; `false` if it was
    /// there already, or could have been and is forgotten: calls overtake each other on their way
    /// here, so that another one, judged later, may have put an end to its window.
    pub(crate) fn consume(&mut self, proof: &Proof, judged_at: i64) -> bool {
        self.forgotten_before = self.forgotten_before.max(judged_at);
        while let Some(&(end, hash)) = self.by_end.first()
            && end < self.forgotten_before
        {
            self.by_end.remove(&(end, hash));
            self.seen.remove(&hash);
        }
        let end = proof.iat.saturating_add(MAX_AGE);
        if end < self.forgotten_before {
            return false;
        }
        let hash = sha256(format!("{}\n{}", proof.thumbprint, proof.jti).as_bytes());
        if !self.seen.insert(hash) {
            return false;
        }
        self.by_end.insert((end, hash));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpop::MAX_LEAD;
    use crate::evidence::{figure, times};

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

    /// DP-7: a copy that came in time is no second proof because another call has moved the window
    /// on meanwhile.
    #[test]
    fn a_copy_that_is_looked_up_after_its_end_is_refused() {
        let mut replays = Replays::default();
        assert!(replays.consume(&proof("a", "k", 1000), 1060));
        assert!(replays.consume(&proof("b", "k", 1061), 1061));
        assert!(!replays.consume(&proof("a", "k", 1000), 1060));
        assert!(replays.consume(&proof("c", "k", 1001), 1060));
        assert!(!replays.consume(&proof("c", "k", 1001), 1060));
        assert_eq!(replays.seen.len(), replays.by_end.len());
    }

    /// DP-7: a flood fills what its window holds and no more, and pushes nothing out.
    #[test]
    fn a_flood_is_bounded_by_the_window_and_frees_no_proof_that_lives() {
        let (seconds, per_second) = (200, usize::try_from(times(50, 5000)).unwrap());
        let window = usize::try_from(MAX_AGE + MAX_LEAD + 1).unwrap();
        let mut replays = Replays::default();
        let (mut number, mut most) = (0_u64, 0);
        for second in 0..seconds {
            let live = format!("live {}", second - second % 60);
            assert_eq!(
                replays.consume(&proof(&live, "k", second - second % 60), second),
                second % 60 == 0
            );
            for _ in 0..per_second {
                number += 1;
                // Made as far ahead as a proof may be, so that it stays the longest.
                let flood = proof(&format!("flood {number}"), "k", second + MAX_LEAD);
                assert!(replays.consume(&flood, second));
            }
            assert!(replays.seen.len() <= window * (per_second + 1));
            assert_eq!(replays.seen.len(), replays.by_end.len());
            most = most.max(replays.seen.len());
        }
        assert!(replays.seen.len() >= 60 * per_second);
        assert!(number >= u64::try_from(per_second).unwrap() * 200);
        figure(&format!(
            "a flood of {number} proofs: {most} kept at once at most, the live one refused again"
        ));
    }
}
