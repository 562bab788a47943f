//! Nonces: RFC 9449 §8.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::encoding::{base64url, random};
use crate::policy::NonceMode;

/// After this a new nonce becomes the current one.
const ROTATION: Duration = Duration::from_mins(1);
/// For so long a nonce is accepted.
const LIFETIME: Duration = Duration::from_mins(5);

/// The nonces that are accepted now.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    current: Option<(String, Moment)>,
    accepted: HashMap<String, Moment>,
}

impl Nonces {
    /// The nonce to hand out; `None` where nonces are off.
    pub(crate) fn next(&mut self, mode: NonceMode, now: Moment) -> Option<String> {
        match mode {
            NonceMode::Off => None,
            NonceMode::SingleUse => Some(self.make(now)),
            NonceMode::Window => {
                if let Some((nonce, made)) = &self.current
                    && now.since(*made) < ROTATION
                {
                    return Some(nonce.clone());
                }
                let nonce = self.make(now);
                self.current = Some((nonce.clone(), now));
                Some(nonce)
            }
        }
    }

    /// Whether a proof with this nonce is fresh. Uses it up in single-use mode.
    pub(crate) fn accept(&mut self, mode: NonceMode, nonce: &str, now: Moment) -> bool {
        self.purge(now);
        match mode {
            NonceMode::Off => true,
            NonceMode::Window => self.accepted.contains_key(nonce),
            NonceMode::SingleUse => self.accepted.remove(nonce).is_some(),
        }
    }

    /// Makes every nonce handed out so far stale.
    pub(crate) fn rotate(&mut self) {
        *self = Self::default();
    }

    fn make(&mut self, now: Moment) -> String {
        self.purge(now);
        let nonce = base64url(&random::<24>());
        self.accepted.insert(nonce.clone(), now);
        nonce
    }

    fn purge(&mut self, now: Moment) {
        self.accepted.retain(|_, made| now.since(*made) < LIFETIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_unix_millis(1_000_000).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_window_nonce_rotates_after_60_s_and_ends_after_300_s() {
        let (mut nonces, mode) = (Nonces::default(), NonceMode::Window);
        let first = nonces.next(mode, at(0)).unwrap();
        assert_eq!(nonces.next(mode, at(59)).unwrap(), first);
        assert_ne!(nonces.next(mode, at(60)).unwrap(), first);
        assert!(nonces.accept(mode, &first, at(299)));
        assert!(nonces.accept(mode, &first, at(299)));
        assert!(!nonces.accept(mode, &first, at(300)));
    }

    #[test]
    fn a_single_use_nonce_is_accepted_once() {
        let (mut nonces, mode) = (Nonces::default(), NonceMode::SingleUse);
        let first = nonces.next(mode, at(0)).unwrap();
        assert_ne!(nonces.next(mode, at(0)).unwrap(), first);
        assert!(nonces.accept(mode, &first, at(1)));
        assert!(!nonces.accept(mode, &first, at(1)));
    }

    #[test]
    fn rotation_makes_every_nonce_stale() {
        let (mut nonces, mode) = (Nonces::default(), NonceMode::Window);
        let first = nonces.next(mode, at(0)).unwrap();
        nonces.rotate();
        assert!(!nonces.accept(mode, &first, at(1)));
        assert_ne!(nonces.next(mode, at(1)).unwrap(), first);
    }

    #[test]
    fn unknown_nonces_are_refused() {
        assert!(!Nonces::default().accept(NonceMode::Window, "n-A", at(0)));
        assert!(Nonces::default().accept(NonceMode::Off, "n-A", at(0)));
    }
}
