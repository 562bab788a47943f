//! ID tokens: who a person is, for the console or for a registered client.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ISSUER, is_over, seconds};
use crate::access;
use crate::call::Call;
use crate::encoding::random_id;
use crate::errors::{Reason, Refusal};
use crate::identity::DEMO_UID;
use crate::state::{Shared, State};

/// Where a person approves what others ask for; no token for another audience is good there.
const CONSOLE: &str = "aegis-console";
const LIFETIME: Duration = Duration::from_hours(1);
/// Names a person without a token, where that was switched on.
pub(crate) const INSECURE_USER: &str = "x-aegis-insecure-user";

/// Somebody who has signed in.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) uid: String,
    /// The `jti` of the token that says so.
    pub(crate) id_token: Option<String>,
}

impl Shared {
    /// An ID token, and its `jti`.
    pub(super) fn sign_id_token(
        &self,
        state: &mut State,
        uid: &str,
        audience: &str,
        nonce: Option<&str>,
    ) -> (String, String) {
        let now = self.clock.now();
        let jti = random_id("idt_");
        let mut claims = json!({
            "iss": self.issuer(ISSUER),
            "sub": uid,
            "aud": audience,
            "iat": now.unix_seconds(),
            "exp": now.plus(LIFETIME).unix_seconds(),
            "jti": jti,
        });
        if let (Some(nonce), Some(claims)) = (nonce, claims.as_object_mut()) {
            claims.insert("nonce".to_owned(), json!(nonce));
        }
        let token = state.idp.keys.sign("JWT", &claims);
        state.secret("id_token", &token);
        (token, jti)
    }

    /// An ID token of the demo person for the console, as a sign-in there would yield it.
    pub(crate) fn demo_id_token(&self) -> String {
        let mut state = self.state();
        self.sign_id_token(&mut state, DEMO_UID, CONSOLE, None).0
    }

    /// Who calls: somebody who has signed in at the console or at a registered client.
    pub(crate) fn person(&self, call: &Call) -> Result<Person, Refusal> {
        self.person_at(call, |state, audience| {
            audience == CONSOLE || state.policy.client(audience).is_some()
        })
    }

    /// Who calls from the console; its uid.
    pub(crate) fn console_person(&self, call: &Call) -> Result<String, Refusal> {
        let person = self.person_at(call, |_, audience| audience == CONSOLE)?;
        Ok(person.uid)
    }

    fn person_at(
        &self,
        call: &Call,
        fits: impl Fn(&State, &str) -> bool,
    ) -> Result<Person, Refusal> {
        let invalid = || Refusal::new(Reason::TokenInvalid, "not an ID token of ours");
        if let Some(uid) = self.insecure_user(call) {
            let known = uid.filter(|uid| self.state().policy.user(uid).is_some());
            let uid = known.ok_or_else(invalid)?;
            return Ok(Person {
                uid,
                id_token: None,
            });
        }
        let token = access::bearer(call)?;
        let now = self.clock.now();
        let state = self.state();
        let claims = state
            .idp
            .keys
            .verify("JWT", token, now)
            .ok_or_else(invalid)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let ours = text("iss") == Some(&self.issuer(ISSUER))
            && text("aud").is_some_and(|audience| fits(&state, audience));
        if !ours {
            return Err(invalid());
        }
        if is_over(seconds(&claims, "exp"), now) {
            return Err(Refusal::new(Reason::TokenExpired, "ID token has expired"));
        }
        let jti = text("jti").ok_or_else(invalid)?;
        if state.idp.revoked.contains(jti) {
            return Err(Refusal::new(Reason::TokenRevoked, "ID token was revoked"));
        }
        Ok(Person {
            uid: text("sub").ok_or_else(invalid)?.to_owned(),
            id_token: Some(jti.to_owned()),
        })
    }

    /// Whom the insecure header names, if it is there: it got past the web layer only where it was
    /// switched on. The inner `None` is for one that names nobody.
    #[expect(
        clippy::option_option,
        reason = "absent and malformed are different answers"
    )]
    fn insecure_user(&self, call: &Call) -> Option<Option<String>> {
        if !self.allow_insecure_user {
            return None;
        }
        let mut values = call.headers.get_all(INSECURE_USER).iter();
        let value = values.next()?;
        let uid = value.to_str().ok().map(str::to_owned);
        Some(uid.filter(|_| values.next().is_none()))
    }
}
