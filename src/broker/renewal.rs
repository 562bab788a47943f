//! The part of the state that keeps a login alive without the person (`aegis.md` 6): an SVID got
//! once with the login's bootstrap token, and with it a new token, of a new key, at half the old
//! one's life, and a new SVID at half of its own.
//!
//! One such call at a time: the issuer knows one newest key of a session, and a token got with an
//! older one would put it back. What fails in passing is tried again while there is time; what fails
//! for good leaves a login that ends with its token, as one without all this.

use std::sync::Arc;
use std::time::Duration;

use super::effect::Effect;
use super::login::{Generation, Login};
use super::ports::{
    Answer, AuditAction, AuditOutcome, AuditRecord, CallTrace, Disposition, Failure, Identity,
    Session,
};
use super::session::{outcome_of, reason_word};
use super::state::State;
use crate::model::CleanText;
use crate::time::{Now, Timestamp};

/// The first pause after a failure, doubled with each one up to [`MAX_PAUSE`]: an access token
/// lives ten minutes, so that a server that is back for a minute is met.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// See there.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// How a login is kept alive.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// What the issuer knows this host by, and its key.
    identity: Option<Arc<Identity>>,
    /// A call is under way.
    is_under_way: bool,
    /// Of the calls for a token.
    token: Pace,
    /// Of those for an SVID.
    certificate: Pace,
    /// The issuer wants none of it: it stays at the token there is.
    is_given_up: bool,
}

/// Failures in a row, and when the next try may be made.
#[derive(Debug, Default)]
struct Pace {
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Pace {
    fn failed(&mut self, pause: Option<Duration>, now: Now) {
        let factor = 2_u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let pause = FIRST_PAUSE
            .saturating_mul(factor)
            .min(MAX_PAUSE)
            .max(pause.unwrap_or_default());
        self.not_before = Some(now.boot.plus(pause));
    }

    fn at(&self, due: Timestamp) -> Timestamp {
        due.max(self.not_before.unwrap_or(due))
    }
}

/// What a call was for.
#[derive(Debug, Clone, Copy)]
enum Renewed {
    Token,
    Certificate,
}

impl Renewed {
    const fn action(self) -> AuditAction {
        match self {
            Self::Token => AuditAction::SessionRenew,
            Self::Certificate => AuditAction::IdentityRenew,
        }
    }
}

/// What to do next to keep a login alive.
#[derive(Debug, Clone)]
enum Due {
    /// Get the first SVID.
    Bootstrap,
    /// Get a token by this SVID.
    Token(Arc<Identity>),
    /// Get another SVID by this one.
    Certificate(Arc<Identity>),
}

impl Renewal {
    /// Whether another token is to come by itself.
    const fn is_set(&self) -> bool {
        self.identity.is_some() && !self.is_given_up
    }

    /// What is next, and from when on. Which of the two is due first goes first.
    fn next(&self, session: &Session) -> Option<(Due, Timestamp)> {
        if self.is_under_way || self.is_given_up {
            return None;
        }
        let Some(identity) = &self.identity else {
            session.bootstrap.as_ref()?;
            return Some((
                Due::Bootstrap,
                self.certificate.at(Timestamp::from_millis(0)),
            ));
        };
        let token = self.token.at(session.renew_at);
        let certificate = self.certificate.at(identity.renew_at);
        let identity = Arc::clone(identity);
        Some(if token <= certificate {
            (Due::Token(identity), token)
        } else {
            (Due::Certificate(identity), certificate)
        })
    }

    const fn pace(&mut self, kind: Renewed) -> &mut Pace {
        match kind {
            Renewed::Token => &mut self.token,
            Renewed::Certificate => &mut self.certificate,
        }
    }

    /// From when on none of it is possible any more.
    fn limit(&self, session: &Session) -> Timestamp {
        match &self.identity {
            Some(identity) => identity.expires_at.min(session.ends_at),
            None => session.expires_at,
        }
    }
}

impl State {
    /// Whether the session's token is to be followed by another one without the person.
    pub(super) const fn renews(&self) -> bool {
        self.renewal.is_set()
    }

    /// How the login is kept alive, in a word for `status`.
    pub(super) const fn renewal_word(&self) -> &'static str {
        match self.login {
            Login::LoggedIn(_) if self.renews() => "svid",
            Login::LoggedIn(_)
            | Login::LoggedOut
            | Login::Locked
            | Login::Beginning { .. }
            | Login::AwaitingApproval { .. } => "login",
        }
    }

    /// The keys go with the session (HY-7).
    pub(super) fn forget_renewal(&mut self) {
        self.renewal = Renewal::default();
    }

    pub(super) fn renewal_deadline(&self) -> Option<Timestamp> {
        let session = self.login.session()?;
        let next = self.renewal.next(session).map(|(_, at)| at);
        let limit = self.renewal.is_set().then(|| self.renewal.limit(session));
        next.into_iter().chain(limit).min()
    }

    pub(super) fn renewal_clock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(session) = self.login.session().map(Arc::clone) else {
            return;
        };
        if self.renewal.is_set() && now.boot >= self.renewal.limit(&session) {
            // Slept through, or the session is over: the person has to come.
            self.renewal.is_given_up = true;
        }
        let Some((due, at)) = self.renewal.next(&session) else {
            return;
        };
        if self.stopping || now.boot < at {
            return;
        }
        if now.boot >= self.renewal.limit(&session) {
            self.renewal.is_given_up = true;
            return;
        }
        let generation = self.generation;
        self.renewal.is_under_way = true;
        effects.push(match due {
            Due::Bootstrap => Effect::BootstrapIdentity {
                generation,
                session,
            },
            Due::Token(identity) => Effect::RenewSession {
                generation,
                session,
                identity,
            },
            Due::Certificate(identity) => Effect::RenewIdentity {
                generation,
                session,
                identity,
            },
        });
    }

    /// An SVID came, the first one or the next one.
    pub(super) fn identity_answered(
        &mut self,
        generation: Generation,
        answer: Answer<Identity>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let kind = Renewed::Certificate;
        if let Some(identity) = self.renewal_answered(kind, generation, answer, now, effects) {
            self.renewal.identity = Some(Arc::new(identity));
        }
    }

    /// A token came for the session there is.
    pub(super) fn session_renewed(
        &mut self,
        generation: Generation,
        answer: Answer<Session>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let kind = Renewed::Token;
        if let Some(session) = self.renewal_answered(kind, generation, answer, now, effects) {
            self.login = Login::LoggedIn(Arc::new(session));
        }
    }

    /// What is the same for both: the record, and when to try again. What is answered is to be used;
    /// what came late is dropped, and its key with it.
    fn renewal_answered<T>(
        &mut self,
        kind: Renewed,
        generation: Generation,
        answer: Answer<T>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Option<T> {
        if generation != self.generation {
            self.renewal_came_late(kind.action(), answer.trace, effects);
            return None;
        }
        self.renewal.is_under_way = false;
        let failure = answer.outcome.as_ref().err();
        effects.push(Effect::Audit(Box::new(AuditRecord {
            reason: failure.map(reason_word),
            trace: answer.trace,
            ..self.record(kind.action(), failure.map_or(AuditOutcome::Ok, outcome_of))
        })));
        let pace = self.renewal.pace(kind);
        match answer.outcome {
            Ok(renewed) => {
                *pace = Pace::default();
                return Some(renewed);
            }
            Err(failure) => match passing(&failure) {
                Some(pause) => pace.failed(pause, now),
                None => self.renewal_refused(&failure, now, effects),
            },
        }
        None
    }

    /// A call of a login that is over: its tries belong into the log all the same, where they
    /// explain what the issuer has of them.
    fn renewal_came_late(&self, action: AuditAction, trace: CallTrace, effects: &mut Vec<Effect>) {
        if !trace.is_empty() {
            effects.push(Effect::Audit(Box::new(AuditRecord {
                profile: Some(self.settings.profile.clone()),
                reason: Some(CleanText::new("abandoned", 64)),
                trace,
                ..AuditRecord::new(action, AuditOutcome::Error)
            })));
        }
    }

    fn renewal_refused(&mut self, failure: &Failure, now: Now, effects: &mut Vec<Effect>) {
        match failure.disposition {
            Disposition::Reauthenticate | Disposition::Compromised => {
                self.session_after(failure, now, effects);
            }
            // The token that there is may live on; nothing more follows it.
            Disposition::Wait(_)
            | Disposition::Retry(_)
            | Disposition::Terminal
            | Disposition::Fault => self.renewal.is_given_up = true,
        }
    }
}

/// Whether it may pass by itself, and after which pause at the earliest.
#[expect(
    clippy::option_option,
    reason = "the outer one is whether it may pass, the inner one whether the issuer named a pause"
)]
const fn passing(failure: &Failure) -> Option<Option<Duration>> {
    match failure.disposition {
        Disposition::Wait(pause) | Disposition::Retry(pause) => Some(pause),
        Disposition::Reauthenticate
        | Disposition::Compromised
        | Disposition::Terminal
        | Disposition::Fault => None,
    }
}
