use std::time::Duration;

use super::{LeaseId, Selector};
use crate::time::UnixTime;

/// The shortest life of a lease that Aegis issues (`aegis.md` 13).
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(30);

/// The longest.
pub const MAX_LEASE_TTL: Duration = Duration::from_hours(1);

/// The most redemptions of one lease that Aegis grants; the fewest is one.
pub const MAX_REDEMPTIONS: u32 = 10;

/// The longest reason a caller may claim, in characters: a sentence. It goes to Aegis as it is.
pub const MAX_REASON: usize = 200;

/// What a lease dies with, beside its own expiry, lock, logout, revocation and daemon stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HolderClass {
    /// Nothing else: the one-shot process that asked is gone before the credential is used.
    None,
    /// The child that the process that asked starts with it: as long as that process, which gives
    /// it back when the child ends and has no chance to where it is killed.
    Child,
    /// The client process that asked.
    Client,
    /// The connection it was asked on.
    Connection,
}

impl HolderClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Child, Self::Client, Self::Connection];

    /// The word on `broker.sock`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Child => "child",
            Self::Client => "client",
            Self::Connection => "connection",
        }
    }

    /// The class of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// Where a lease is in its life, as people are shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Live, with redemptions left.
    Active,
    /// Live, without redemptions left; the material it gave out still works.
    Exhausted,
    /// Ended here; the issuer has not confirmed it yet.
    Revoking,
    /// Ended, confirmed by the issuer.
    Revoked,
    /// Ran out.
    Expired,
}

impl LeaseState {
    /// All of them, in the order of a lease's life.
    pub const ALL: [Self; 5] = [
        Self::Active,
        Self::Exhausted,
        Self::Revoking,
        Self::Revoked,
        Self::Expired,
    ];

    /// The state of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Exhausted => "exhausted",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// A lease as a door shows it. Never holds material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Its handle.
    pub lease_id: LeaseId,
    /// What it is for. Unknown only for leases found open in the audit log of an earlier run
    /// whose record names none.
    pub selector: Selector,
    /// Where it is in its life.
    pub state: LeaseState,
    /// What it dies with.
    pub holder: HolderClass,
    /// When it ends, on the wall clock.
    pub expires_at: UnixTime,
    /// Redemptions asked for and used.
    pub max_redemptions: u32,
    /// How many of them are used.
    pub redemptions_used: u32,
    /// Whether the session may revoke it; without that grant it can only run out.
    pub revocable: bool,
}
