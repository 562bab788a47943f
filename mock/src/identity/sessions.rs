//! What one login, mint or workload exchange starts: a principal in a tenant, the scopes that were
//! approved then, and its keys. It never widens.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::encoding::random_id;
use crate::identity::keys::SessionKeys;

/// The longest that any session lasts.
pub(crate) const LONGEST: Duration = Duration::from_hours(8);
/// From so many on, those that ended long ago are looked for.
const MANY: usize = 10_000;
/// How long after its end a session is still known.
const REMEMBERED: Duration = Duration::from_hours(24);

/// A session, live or ended.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) tenant_id: String,
    pub(crate) principal: String,
    pub(crate) role: Option<String>,
    /// All that its tokens may ever carry.
    pub(crate) scopes: Vec<String>,
    pub(crate) keys: SessionKeys,
    pub(crate) expires_at: Moment,
    pub(crate) ended: bool,
    /// The `jti` of the ID token that it was made for.
    pub(crate) id_token: Option<String>,
}

impl Session {
    pub(crate) fn is_alive(&self, now: Moment) -> bool {
        !self.ended && now < self.expires_at
    }
}

/// What a session is made of.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) tenant_id: String,
    pub(crate) principal: String,
    pub(crate) role: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) jkt: String,
    pub(crate) lasts: Duration,
    pub(crate) id_token: Option<String>,
}

/// All sessions that are still known.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_id: HashMap<String, Session>,
}

impl Sessions {
    pub(crate) fn start(&mut self, start: Start, now: Moment) -> Session {
        if self.by_id.len() > MANY {
            self.by_id
                .retain(|_, session| now < session.expires_at.plus(REMEMBERED));
        }
        let mut keys = SessionKeys::default();
        keys.rotate_to(&start.jkt, now);
        let session = Session {
            id: random_id("ses_"),
            tenant_id: start.tenant_id,
            principal: start.principal,
            role: start.role,
            scopes: start.scopes,
            keys,
            expires_at: now.plus(start.lasts.min(LONGEST)),
            ended: false,
            id_token: start.id_token,
        };
        self.by_id.insert(session.id.clone(), session.clone());
        session
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Session> {
        self.by_id.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Session> {
        self.by_id.get_mut(id)
    }

    /// The live ones that fit.
    pub(crate) fn live(&self, now: Moment, fits: impl Fn(&Session) -> bool) -> Vec<String> {
        let live = self.by_id.values();
        live.filter(|session| session.is_alive(now) && fits(session))
            .map(|session| session.id.clone())
            .collect()
    }
}
