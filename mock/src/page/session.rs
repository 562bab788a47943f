//! Who sits in front of the page, how far they are, and which of their forms are good.
//!
//! Looking at a page stores nothing here: before the sign-in a visitor is the random number in
//! their cookie. The sign-in makes a session under a new number. A form's token is a MAC over
//! the cookie, the form's kind and how many forms were taken before, so it is good in one browser,
//! for one step, once.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;

use crate::clock::Moment;
use crate::encoding::{
    Hash, base64url, from_base64url, random, random_password, random_secret, sha256,
};
use crate::identity::device::Standing;

/// Longer than a code lives, so that a person is told that the code has ended.
const LIFETIME: Duration = Duration::from_hours(1);
/// Each took the password to make.
const MAX_SESSIONS: usize = 256;
/// 32 bytes in base64url.
const ID_LENGTH: usize = 43;

/// What the people of the policy sign in with. Made anew at each start; its `Debug` hides it.
pub(crate) struct Password(String);

impl Password {
    pub(crate) fn generate() -> Self {
        Self(random_password())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Compares hashes, so that timing tells nothing of the password.
    pub(crate) fn is(&self, given: &str) -> bool {
        sha256(self.0.as_bytes()) == sha256(given.as_bytes())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password")
    }
}

/// The forms of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    SignIn,
    Code,
    Decision,
    SignOut,
    /// The sign-in at the identity provider.
    Authorize,
}

impl Form {
    fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "sign-in",
            Self::Code => "code",
            Self::Decision => "decision",
            Self::SignOut => "sign-out",
            Self::Authorize => "authorize",
        }
    }
}

/// How far a person is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Entering,
    Reviewing {
        user_code: String,
    },
    /// They have decided; `found` is how the login stood then.
    Decided {
        approve: bool,
        found: Standing,
    },
}

/// A person who has signed in.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) uid: String,
    pub(crate) stage: Stage,
    expires_at: Moment,
    /// How many forms were taken.
    taken: u64,
}

/// All who have signed in, by hash of their cookie.
#[derive(Debug)]
pub(crate) struct Sessions {
    key: hmac::Key,
    by_id: HashMap<Hash, Session>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()),
            by_id: HashMap::new(),
        }
    }
}

impl Sessions {
    /// Begins a session; its cookie, or `None` where there are too many.
    pub(crate) fn sign_in(&mut self, uid: &str, now: Moment) -> Option<String> {
        self.by_id.retain(|_, session| now < session.expires_at);
        if self.by_id.len() >= MAX_SESSIONS {
            return None;
        }
        let id = random_secret("");
        let session = Session {
            uid: uid.to_owned(),
            stage: Stage::Entering,
            expires_at: now.plus(LIFETIME),
            taken: 0,
        };
        self.by_id.insert(sha256(id.as_bytes()), session);
        Some(id)
    }

    pub(crate) fn sign_out(&mut self, id: &str) {
        self.by_id.remove(&sha256(id.as_bytes()));
    }

    pub(crate) fn get(&self, id: &str, now: Moment) -> Option<&Session> {
        let session = self.by_id.get(&sha256(id.as_bytes()));
        session.filter(|session| now < session.expires_at)
    }

    /// Notes how far that person is now.
    pub(crate) fn reach(&mut self, id: &str, stage: Stage) {
        if let Some(session) = self.by_id.get_mut(&sha256(id.as_bytes())) {
            session.stage = stage;
        }
    }

    /// The token for a form in that browser.
    pub(crate) fn token(&self, id: &str, form: Form) -> String {
        base64url(hmac::sign(&self.key, self.claim(id, form).as_bytes()).as_ref())
    }

    /// Whether that is the token of such a form in that browser, not sent before.
    pub(crate) fn accepts(&self, id: &str, form: Form, token: &str) -> bool {
        let claim = self.claim(id, form);
        from_base64url(token)
            .is_some_and(|token| hmac::verify(&self.key, claim.as_bytes(), &token).is_ok())
    }

    /// Takes a form of somebody who has signed in; from then on every form of theirs that was
    /// shown before is void.
    pub(crate) fn take(
        &mut self,
        id: &str,
        form: Form,
        token: &str,
        now: Moment,
    ) -> Option<Session> {
        if !self.accepts(id, form, token) {
            return None;
        }
        let session = self.by_id.get_mut(&sha256(id.as_bytes()))?;
        if now >= session.expires_at {
            return None;
        }
        session.taken = session.taken.saturating_add(1);
        Some(session.clone())
    }

    fn claim(&self, id: &str, form: Form) -> String {
        let session = self.by_id.get(&sha256(id.as_bytes()));
        let taken = session.map_or(0, |session| session.taken);
        format!("{}\n{taken}\n{id}", form.as_str())
    }
}

/// A cookie for who has none.
pub(crate) fn new_id() -> String {
    random_secret("")
}

/// Whether that could be a cookie of ours.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && from_base64url(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Moment {
        Moment::from_unix_millis(0).plus(Duration::from_mins(minutes))
    }

    #[test]
    fn a_form_is_good_in_one_browser_for_one_step_once() {
        let mut sessions = Sessions::default();
        let mine = sessions.sign_in("u", at(0)).unwrap();
        let other = sessions.sign_in("u", at(0)).unwrap();
        let token = sessions.token(&mine, Form::Decision);
        assert!(
            sessions
                .take(&other, Form::Decision, &token, at(1))
                .is_none()
        );
        assert!(sessions.take(&mine, Form::Code, &token, at(1)).is_none());
        assert!(sessions.take(&mine, Form::Decision, "", at(1)).is_none());
        assert!(
            sessions
                .take(&mine, Form::Decision, &token, at(1))
                .is_some()
        );
        assert!(
            sessions
                .take(&mine, Form::Decision, &token, at(1))
                .is_none()
        );
        assert!(!Sessions::default().accepts(&mine, Form::Decision, &token));
    }

    #[test]
    fn a_session_ends_after_an_hour_and_at_the_sign_out() {
        let mut sessions = Sessions::default();
        let id = sessions.sign_in("u", at(0)).unwrap();
        let token = sessions.token(&id, Form::Code);
        assert!(sessions.get(&id, at(59)).is_some());
        assert!(sessions.get(&id, at(60)).is_none());
        assert!(sessions.take(&id, Form::Code, &token, at(60)).is_none());
        sessions.sign_out(&id);
        assert!(sessions.get(&id, at(1)).is_none());
    }

    #[test]
    fn sessions_are_bounded_and_old_ones_make_room() {
        let mut sessions = Sessions::default();
        for _ in 0..MAX_SESSIONS {
            assert!(sessions.sign_in("u", at(0)).is_some());
        }
        assert!(sessions.sign_in("u", at(59)).is_none());
        assert!(sessions.sign_in("u", at(60)).is_some());
        assert_eq!(sessions.by_id.len(), 1);
    }

    #[test]
    fn only_what_looks_like_our_cookie_is_one() {
        assert!(is_id(&new_id()));
        for text in ["", "x", &"=".repeat(43), &"a".repeat(44)] {
            assert!(!is_id(text), "{text}");
        }
    }

    #[test]
    fn the_password_is_compared_and_not_shown() {
        let password = Password::generate();
        assert!(password.is(password.expose()));
        assert!(!password.is("") && !password.is(&password.expose().to_uppercase()));
        assert_eq!(format!("{password:?}"), "Password");
        assert_eq!(password.expose().len(), 19);
    }
}
