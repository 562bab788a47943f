//! Device authorizations (RFC 8628) and their states:
//! pending → approved → consumed; pending or approved → denied or expired.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::encoding::Hash;
use crate::errors::Reason;

/// How long a code lives.
pub(crate) const LIFETIME: Duration = Duration::from_mins(10);
/// How long after its end a code is still known.
const REMEMBERED: Duration = Duration::from_hours(1);
/// RFC 8628 §3.5: what each `slow_down` adds.
const SLOWER_BY: u32 = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
enum LoginState {
    Pending,
    Approved { uid: String },
    Denied,
    Consumed,
}

/// What a device asks for, in the server's words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) user_code: String,
    /// What the device calls itself. Nobody vouches for it.
    pub(crate) client_name: String,
    pub(crate) tenant_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) ttl_seconds: u32,
    pub(crate) jkt: String,
    pub(crate) pop_key_id: String,
}

/// One device authorization.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) wish: Wish,
    expires_at: Moment,
    /// When it was made or polled last.
    polled_at: Moment,
    interval_seconds: u32,
    state: LoginState,
}

/// What is left to decide of a device authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Pending,
    Decided,
    Expired,
}

/// What a poll learns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Poll {
    Pending {
        interval_seconds: u32,
    },
    SlowDown {
        interval_seconds: u32,
    },
    Denied,
    Expired,
    /// Approved, and consumed by this very poll.
    Approved {
        uid: String,
    },
}

impl Login {
    pub(crate) fn begin(wish: Wish, interval_seconds: u32, now: Moment) -> Self {
        Self {
            wish,
            expires_at: now.plus(LIFETIME),
            polled_at: now,
            interval_seconds,
            state: LoginState::Pending,
        }
    }

    /// Judges state first, pace second. An approved code goes to whoever comes
    /// first, early or not.
    pub(crate) fn poll(&mut self, now: Moment) -> Result<Poll, Reason> {
        match &self.state {
            LoginState::Consumed => Err(Reason::DeviceCodeUsed),
            LoginState::Denied => Ok(Poll::Denied),
            LoginState::Pending | LoginState::Approved { .. } if now >= self.expires_at => {
                Ok(Poll::Expired)
            }
            LoginState::Approved { uid } => {
                let uid = uid.clone();
                self.state = LoginState::Consumed;
                Ok(Poll::Approved { uid })
            }
            LoginState::Pending => {
                let pause = now.since(self.polled_at);
                self.polled_at = now;
                if pause < Duration::from_secs(self.interval_seconds.into()) {
                    return Ok(self.slow_down());
                }
                Ok(Poll::Pending {
                    interval_seconds: self.interval_seconds,
                })
            }
        }
    }

    /// Slows the polls down.
    pub(crate) fn slow_down(&mut self) -> Poll {
        self.interval_seconds = self.interval_seconds.saturating_add(SLOWER_BY);
        Poll::SlowDown {
            interval_seconds: self.interval_seconds,
        }
    }

    pub(crate) fn is_approved(&self, now: Moment) -> bool {
        now < self.expires_at && matches!(self.state, LoginState::Approved { .. })
    }

    pub(crate) fn is_pending(&self, now: Moment) -> bool {
        self.standing(now) == Standing::Pending
    }

    /// A decision outlives the code.
    pub(crate) fn standing(&self, now: Moment) -> Standing {
        match self.state {
            LoginState::Pending | LoginState::Approved { .. } if now >= self.expires_at => {
                Standing::Expired
            }
            LoginState::Pending => Standing::Pending,
            LoginState::Approved { .. } | LoginState::Denied | LoginState::Consumed => {
                Standing::Decided
            }
        }
    }

    /// Whether it is approved afterwards. A denial stands, and so does the end.
    pub(crate) fn approve(&mut self, uid: &str, now: Moment) -> Result<bool, Reason> {
        if self.state == LoginState::Consumed {
            return Err(Reason::DeviceCodeUsed);
        }
        if self.is_pending(now) {
            let uid = uid.to_owned();
            self.state = LoginState::Approved { uid };
        }
        Ok(self.is_approved(now))
    }

    /// A denial beats an approval that is not consumed yet.
    pub(crate) fn deny(&mut self) -> Result<(), Reason> {
        if self.state == LoginState::Consumed {
            return Err(Reason::DeviceCodeUsed);
        }
        self.state = LoginState::Denied;
        Ok(())
    }

    pub(crate) fn expire(&mut self, now: Moment) {
        self.expires_at = now;
    }
}

/// All device authorizations, by hash of their `device_code`.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    by_code: HashMap<Hash, Login>,
}

impl Logins {
    pub(crate) fn insert(&mut self, code: Hash, login: Login, now: Moment) {
        self.by_code
            .retain(|_, login| now < login.expires_at.plus(REMEMBERED));
        self.by_code.insert(code, login);
    }

    pub(crate) fn by_device_code(&mut self, code: &Hash, now: Moment) -> Option<&mut Login> {
        self.by_code
            .get_mut(code)
            .filter(|login| now < login.expires_at.plus(REMEMBERED))
    }

    /// Compares without case and punctuation.
    pub(crate) fn by_user_code(&mut self, code: &str) -> Option<&mut Login> {
        let code = canonical(code);
        self.by_code
            .values_mut()
            .find(|login| canonical(&login.wish.user_code) == code)
    }

    pub(crate) fn has_user_code(&self, code: &str) -> bool {
        self.by_code
            .values()
            .any(|login| login.wish.user_code == code)
    }

    /// The codes a person could enter now.
    pub(crate) fn pending_user_codes(&self, now: Moment) -> Vec<String> {
        self.by_code
            .values()
            .filter(|login| login.is_pending(now))
            .map(|login| login.wish.user_code.clone())
            .collect()
    }
}

fn canonical(code: &str) -> String {
    code.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_uppercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_unix_millis(0).plus(Duration::from_secs(seconds))
    }

    fn login() -> Login {
        let wish = Wish {
            user_code: "BCDF-GHJK".to_owned(),
            ..Wish::default()
        };
        Login::begin(wish, 5, at(0))
    }

    /// DG-12.
    #[test]
    fn polls_too_early_are_slowed_down_for_good() {
        let mut login = login();
        assert_eq!(
            login.poll(at(4)),
            Ok(Poll::SlowDown {
                interval_seconds: 10
            })
        );
        assert_eq!(
            login.poll(at(13)),
            Ok(Poll::SlowDown {
                interval_seconds: 15
            })
        );
        assert_eq!(
            login.poll(at(28)),
            Ok(Poll::Pending {
                interval_seconds: 15
            })
        );
        assert_eq!(
            login.poll(at(43)),
            Ok(Poll::Pending {
                interval_seconds: 15
            })
        );
    }

    #[test]
    fn an_approved_code_is_consumed_once_even_by_an_early_poll() {
        let mut login = login();
        assert_eq!(login.approve("u", at(1)), Ok(true));
        let uid = "u".to_owned();
        assert_eq!(login.poll(at(1)), Ok(Poll::Approved { uid }));
        assert_eq!(login.poll(at(9)), Err(Reason::DeviceCodeUsed));
        assert_eq!(login.deny(), Err(Reason::DeviceCodeUsed));
        assert_eq!(login.approve("u", at(9)), Err(Reason::DeviceCodeUsed));
    }

    #[test]
    fn a_denial_beats_an_approval_and_stands() {
        let mut login = login();
        assert_eq!(login.approve("u", at(1)), Ok(true));
        assert_eq!(login.deny(), Ok(()));
        assert_eq!(login.approve("u", at(2)), Ok(false));
        assert_eq!(login.poll(at(9)), Ok(Poll::Denied));
        assert_eq!(login.poll(at(700)), Ok(Poll::Denied));
    }

    #[test]
    fn a_code_ends_after_600_s_approved_or_not() {
        let mut pending = login();
        assert_eq!(
            pending.poll(at(599)),
            Ok(Poll::Pending {
                interval_seconds: 5
            })
        );
        assert_eq!(pending.poll(at(600)), Ok(Poll::Expired));
        assert_eq!(pending.approve("u", at(600)), Ok(false));
        let mut approved = login();
        assert_eq!(approved.approve("u", at(599)), Ok(true));
        assert_eq!(approved.poll(at(600)), Ok(Poll::Expired));
    }

    #[test]
    fn what_is_left_to_decide_follows_state_and_time() {
        let mut approved = login();
        assert_eq!(approved.standing(at(599)), Standing::Pending);
        assert_eq!(approved.standing(at(600)), Standing::Expired);
        assert_eq!(approved.approve("u", at(1)), Ok(true));
        assert_eq!(approved.standing(at(1)), Standing::Decided);
        assert_eq!(approved.standing(at(600)), Standing::Expired);
        let mut denied = login();
        assert_eq!(denied.deny(), Ok(()));
        assert_eq!(denied.standing(at(600)), Standing::Decided);
    }

    #[test]
    fn a_user_code_is_found_without_case_and_dashes() {
        let mut logins = Logins::default();
        logins.insert([0; 32], login(), at(0));
        for code in ["BCDF-GHJK", "bcdfghjk", "Bcdf ghjk"] {
            assert!(logins.by_user_code(code).is_some(), "{code}");
        }
        assert!(logins.by_user_code("BCDF-GHJL").is_none());
    }
}
