//! The lease table: what we hold at the issuer, for whom, and until when.
//!
//! A lease is made for a `credential.get` (shared: redeemed once, its material kept and served to
//! every equal caller) or for a `lease.create` (single: redeemed on request, its material passed
//! on and not kept). Only the [`LeaseTable`] knows which leases exist; what is sent and answered
//! about them is `serve.rs`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::denials::Wanted;
use super::event::{ConnectionId, Ticket};
use super::uses::Sending;
use crate::model::{
    CleanText, Exposure, HolderClass, LeaseId, LeaseState, LeaseView, Material, PeerFacts,
    Principal, ProcessId, Selector,
};
use crate::time::{Now, Timestamp, UnixTime};

/// Leases that may be live or on their way at once: 256 connections with a handful each.
pub const MAX_LEASES: usize = 1024;

/// Ended leases that are still listed.
const MAX_ENDED: usize = 256;

/// How long an ended lease is still listed, so that its holder hears why it is gone.
const ENDED_LISTED_FOR: Duration = Duration::from_mins(10);

/// Names a lease within this run, from before the issuer named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey(pub(super) u64);

/// Credential material on its way to one caller.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The lease it comes from.
    pub lease: LeaseView,
    /// It; shared with other callers of the same lease and wiped with the last of them.
    pub material: Arc<Material>,
}

/// One lease.
#[derive(Debug)]
pub struct Lease {
    /// What it is for.
    pub selector: Selector,
    /// What was asked for in time.
    pub ttl: Duration,
    /// What the issuer's policy decides about.
    pub(super) wanted: Wanted,
    /// Whom it is made for.
    pub kind: Kind,
    /// As whom it is made.
    pub principal: Principal,
    /// Whether the session may revoke it.
    pub revocable: bool,
    /// What it dies with as far as its first caller is concerned.
    pub class: HolderClass,
    /// The process it was made for first.
    pub creator: Option<ProcessId>,
    /// How often it can be redeemed.
    pub max_redemptions: u32,
    /// Redemptions used.
    pub used: u32,
    /// Where it is.
    pub phase: Phase,
    /// Callers that wait for it.
    pub waiters: VecDeque<Waiter>,
    /// Who holds it.
    pub holders: BTreeSet<Holder>,
    /// Somebody without a life of its own was given it, so only time and people end it.
    pub pinned: bool,
}

/// Whom a lease is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One caller, which redeems it when it likes.
    Single,
    /// All equal callers; redeemed once, at once.
    Shared,
    /// The same, in place of one whose redemption got lost; it is not replaced again.
    Replacement,
}

impl Kind {
    /// Whether equal callers share it.
    pub const fn is_shared(self) -> bool {
        match self {
            Self::Single => false,
            Self::Shared | Self::Replacement => true,
        }
    }
}

/// Where a lease is.
#[derive(Debug)]
pub enum Phase {
    /// Being made at the issuer.
    Creating,
    /// Live there.
    Live(Live),
    /// Over.
    Ended {
        /// Its name, for the list.
        lease_id: LeaseId,
        /// How.
        state: LeaseState,
        /// When it would have run out.
        expires_at_unix: UnixTime,
        /// When it leaves the list.
        forget_at: Timestamp,
    },
}

/// What a live lease has.
#[derive(Debug)]
pub struct Live {
    /// Its name at the issuer.
    pub lease_id: LeaseId,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The same on the wall clock.
    pub expires_at_unix: UnixTime,
    /// When it is gone at the issuer at the latest, which is later: nobody is served until then,
    /// and until then it may have to be revoked.
    pub gone_at: Timestamp,
    /// A redemption is on its way.
    pub redeeming: bool,
    /// What a shared lease yielded.
    pub material: Option<Arc<Material>>,
    /// Everything that it yielded, also what was passed on: what passes through the broker is
    /// looked through for it until the lease ends (LC-11).
    pub yielded: Vec<Arc<Material>>,
}

/// One caller that waits for a lease.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// Where the answer goes.
    pub ticket: Ticket,
    /// On which connection.
    pub connection: ConnectionId,
    /// Who.
    pub peer: Arc<PeerFacts>,
    /// What the lease dies with, as far as this caller is concerned.
    pub class: HolderClass,
    /// It joined a lease that others had asked for, so that it may have missed some of its life.
    pub joined: bool,
    /// How long the material must still be valid.
    pub min_valid_for: Duration,
    /// How far material is let out to it.
    pub exposure: Exposure,
    /// The rule that let it through.
    pub rule: CleanText,
    /// The longest lease that rule lets through.
    pub max_ttl: Option<Duration>,
    /// What is done with the material where the caller is not given it.
    pub sending: Option<Sending>,
}

/// Whose end ends a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// A process.
    Process(ProcessId),
    /// A process, for the child that it started.
    Child(ProcessId),
    /// A connection.
    Connection(ConnectionId),
}

impl Waiter {
    /// Who holds the lease on this caller's behalf; nobody for class `none`.
    pub fn holder(&self) -> Option<Holder> {
        match self.class {
            HolderClass::None => None,
            HolderClass::Client => Some(Holder::Process(self.peer.process)),
            HolderClass::Child => Some(Holder::Child(self.peer.process)),
            HolderClass::Connection => Some(Holder::Connection(self.connection)),
        }
    }
}

impl Lease {
    /// Adds a caller to those it lives for.
    pub fn hold_for(&mut self, waiter: &Waiter) {
        match waiter.holder() {
            Some(holder) => {
                self.holders.insert(holder);
            }
            None => self.pinned = true,
        }
    }

    /// The live part, if `now` is before its end.
    pub fn live(&self, now: Timestamp) -> Option<&Live> {
        match &self.phase {
            Phase::Live(live) if now < live.expires_at => Some(live),
            Phase::Live(_) | Phase::Creating | Phase::Ended { .. } => None,
        }
    }

    /// Whether this process created it with `lease.create`.
    fn is_of(&self, process: ProcessId) -> bool {
        self.kind == Kind::Single && self.creator == Some(process)
    }

    /// Whether it is held for a child of this process, and for nobody else.
    fn is_for_child_of(&self, process: ProcessId) -> bool {
        let only = self.holders.len() == 1 && !self.pinned;
        only && self.holders.contains(&Holder::Child(process))
    }

    /// What it dies with, as far as it is held by now: the life that lasts longest.
    fn dies_with(&self) -> HolderClass {
        if self.pinned {
            return HolderClass::None;
        }
        // Processes come first in the set.
        match self.holders.first() {
            Some(Holder::Process(_)) => HolderClass::Client,
            Some(Holder::Child(_)) => HolderClass::Child,
            Some(Holder::Connection(_)) => HolderClass::Connection,
            None => self.class,
        }
    }

    /// How a door shows it; `None` while the issuer has not named it.
    pub fn view(&self, now: Timestamp) -> Option<LeaseView> {
        let (lease_id, expires_at, state) = match &self.phase {
            Phase::Creating => return None,
            Phase::Live(live) => {
                let state = if now >= live.expires_at {
                    LeaseState::Expired
                } else if self.used >= self.max_redemptions {
                    LeaseState::Exhausted
                } else {
                    LeaseState::Active
                };
                (&live.lease_id, live.expires_at_unix, state)
            }
            Phase::Ended {
                lease_id,
                state,
                expires_at_unix,
                ..
            } => (lease_id, *expires_at_unix, *state),
        };
        Some(LeaseView {
            lease_id: lease_id.clone(),
            selector: self.selector.clone(),
            state,
            holder: self.dies_with(),
            expires_at,
            max_redemptions: self.max_redemptions,
            redemptions_used: self.used,
            revocable: self.revocable,
        })
    }
}

/// All leases of this run.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: HashMap<LeaseKey, Lease>,
    by_id: HashMap<LeaseId, LeaseKey>,
    shared: HashMap<Selector, LeaseKey>,
    deadlines: BTreeSet<(Timestamp, LeaseKey)>,
    next_key: u64,
    ended: usize,
}

impl LeaseTable {
    /// Whether another lease would be one too many.
    pub fn is_full(&self) -> bool {
        self.leases.len().saturating_sub(self.ended) >= MAX_LEASES
    }

    /// Adds a lease that is being made; a shared one is found by its selector from now on.
    pub fn insert(&mut self, lease: Lease) -> LeaseKey {
        let key = LeaseKey(self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        if lease.kind.is_shared() {
            self.shared.insert(lease.selector.clone(), key);
        }
        self.leases.insert(key, lease);
        key
    }

    /// The lease of that key.
    pub fn get_mut(&mut self, key: LeaseKey) -> Option<&mut Lease> {
        self.leases.get_mut(&key)
    }

    /// The lease of that key.
    pub fn get(&self, key: LeaseKey) -> Option<&Lease> {
        self.leases.get(&key)
    }

    /// The lease that equal callers share.
    pub fn shared_mut(&mut self, selector: &Selector) -> Option<(LeaseKey, &mut Lease)> {
        let key = *self.shared.get(selector)?;
        self.leases.get_mut(&key).map(|lease| (key, lease))
    }

    /// The lease of that name.
    pub fn find(&self, lease_id: &LeaseId) -> Option<LeaseKey> {
        self.by_id.get(lease_id).copied()
    }

    /// The issuer has named it.
    pub fn made(&mut self, key: LeaseKey, live: Live) {
        let Some(lease) = self.leases.get_mut(&key) else {
            return;
        };
        self.by_id.insert(live.lease_id.clone(), key);
        self.deadlines.insert((live.expires_at, key));
        lease.phase = Phase::Live(live);
    }

    /// What it yielded ends before the lease itself.
    pub fn shorten(&mut self, key: LeaseKey, ends_at: Timestamp) {
        if let Some(lease) = self.leases.get_mut(&key)
            && let Phase::Live(live) = &mut lease.phase
            && ends_at < live.expires_at
        {
            self.deadlines.remove(&(live.expires_at, key));
            live.expires_at = ends_at;
            self.deadlines.insert((ends_at, key));
        }
    }

    /// Takes a lease out that the issuer never named.
    pub fn remove_unmade(&mut self, key: LeaseKey) -> Option<Lease> {
        self.unshare(key);
        match self.leases.get(&key)?.phase {
            Phase::Creating => self.leases.remove(&key),
            Phase::Live(_) | Phase::Ended { .. } => None,
        }
    }

    /// No later caller shares it.
    pub fn unshare(&mut self, key: LeaseKey) {
        if let Some(lease) = self.leases.get(&key)
            && self.shared.get(&lease.selector) == Some(&key)
        {
            self.shared.remove(&lease.selector);
        }
    }

    /// Ends a live lease here: its material is dropped, it stays listed for a while. Answers the
    /// callers that still waited for it.
    pub fn end(&mut self, key: LeaseKey, state: LeaseState, now: Timestamp) -> VecDeque<Waiter> {
        self.unshare(key);
        let Some(lease) = self.leases.get_mut(&key) else {
            return VecDeque::new();
        };
        let Phase::Live(live) = &lease.phase else {
            return VecDeque::new();
        };
        let forget_at = now.plus(ENDED_LISTED_FOR);
        self.deadlines.remove(&(live.expires_at, key));
        self.deadlines.insert((forget_at, key));
        lease.phase = Phase::Ended {
            lease_id: live.lease_id.clone(),
            state,
            expires_at_unix: live.expires_at_unix,
            forget_at,
        };
        lease.holders.clear();
        self.ended = self.ended.saturating_add(1);
        let waiters = std::mem::take(&mut lease.waiters);
        self.trim_ended();
        waiters
    }

    /// The issuer has said how a lease that was ended here stands there.
    pub fn confirm_ended(&mut self, lease_id: &LeaseId, confirmed: LeaseState) {
        if let Some(lease) = self
            .find(lease_id)
            .and_then(|key| self.leases.get_mut(&key))
            && let Phase::Ended { state, .. } = &mut lease.phase
            && *state == LeaseState::Revoking
        {
            *state = confirmed;
        }
    }

    /// Live leases whose time is over, and ended ones whose place in the list is: the former are
    /// ended, the latter forgotten. Answers the callers that still waited.
    pub fn purge(&mut self, now: Timestamp) -> Vec<(Selector, VecDeque<Waiter>)> {
        let mut orphaned = Vec::new();
        while let Some((at, key)) = self.deadlines.first().copied() {
            if now < at {
                break;
            }
            let lease = self.leases.get(&key);
            match lease.map(|lease| (&lease.phase, &lease.selector)) {
                Some((Phase::Live(_), selector)) => {
                    let selector = selector.clone();
                    orphaned.push((selector, self.end(key, LeaseState::Expired, now)));
                }
                Some((Phase::Ended { .. }, _)) => self.forget(key),
                Some((Phase::Creating, _)) | None => {}
            }
            self.deadlines.remove(&(at, key));
        }
        orphaned
    }

    /// When the table must be looked at again.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The keys of leases that are live or on their way.
    pub fn unended(&self) -> Vec<LeaseKey> {
        let mut keys: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| !matches!(lease.phase, Phase::Ended { .. }))
            .map(|(key, _)| *key)
            .collect();
        keys.sort_unstable();
        keys
    }

    /// The keys of leases that the issuer has not named yet.
    pub fn unmade(&self) -> Vec<LeaseKey> {
        self.leases
            .iter()
            .filter(|(_, lease)| matches!(lease.phase, Phase::Creating))
            .map(|(key, _)| *key)
            .collect()
    }

    /// All material that live leases yielded, replaced ones included (LC-11).
    pub fn known(&self, now: Timestamp) -> Vec<(LeaseKey, Arc<Material>)> {
        let live = self
            .leases
            .iter()
            .filter_map(|(key, lease)| Some((*key, lease.live(now)?)));
        live.flat_map(|(key, live)| live.yielded.iter().map(move |it| (key, Arc::clone(it))))
            .collect()
    }

    /// How many are live.
    pub fn live_count(&self, now: Timestamp) -> usize {
        self.leases
            .values()
            .filter(|lease| lease.live(now).is_some())
            .count()
    }

    /// All that have a name, newest first.
    pub fn list(&self, now: Now) -> Vec<LeaseView> {
        self.list_where(now, |_| true)
    }

    /// Those that this process created with `lease.create`, newest first.
    pub fn list_of(&self, process: ProcessId, now: Now) -> Vec<LeaseView> {
        self.list_where(now, |lease| lease.is_of(process))
    }

    /// Whether this process created that lease with `lease.create`.
    pub fn is_of(&self, lease_id: &LeaseId, process: ProcessId) -> bool {
        self.find(lease_id)
            .and_then(|key| self.leases.get(&key))
            .is_some_and(|lease| lease.is_of(process))
    }

    /// The live lease of that name, if it is held for a child of this process and nobody else.
    pub fn of_child(&self, lease_id: &LeaseId, process: ProcessId) -> Option<(LeaseKey, &Lease)> {
        let key = self.find(lease_id)?;
        let lease = self.leases.get(&key)?;
        lease.is_for_child_of(process).then_some((key, lease))
    }

    fn list_where(&self, now: Now, wanted: impl Fn(&Lease) -> bool) -> Vec<LeaseView> {
        let mut keys: Vec<_> = self.leases.keys().copied().collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys.into_iter()
            .filter_map(|key| self.leases.get(&key))
            .filter(|lease| wanted(lease))
            .filter_map(|lease| lease.view(now.boot))
            .collect()
    }

    /// A holder is gone: the live leases that nobody holds any more.
    pub fn release(&mut self, holder: Holder) -> Vec<LeaseKey> {
        let mut released = Vec::new();
        for (key, lease) in &mut self.leases {
            let held = lease.holders.remove(&holder);
            if held && lease.holders.is_empty() && !lease.pinned && lease.waiters.is_empty() {
                released.push(*key);
            }
        }
        released.sort_unstable();
        released
    }

    /// A connection is gone: nobody on it waits any more.
    pub fn forget_waiters(&mut self, connection: ConnectionId) {
        for lease in self.leases.values_mut() {
            lease
                .waiters
                .retain(|waiter| waiter.connection != connection);
        }
    }

    fn trim_ended(&mut self) {
        if self.ended <= MAX_ENDED {
            return;
        }
        let oldest = self
            .leases
            .iter()
            .filter_map(|(key, lease)| match &lease.phase {
                Phase::Ended { forget_at, .. } => Some((*forget_at, *key)),
                Phase::Creating | Phase::Live(_) => None,
            })
            .min();
        if let Some((at, key)) = oldest {
            self.deadlines.remove(&(at, key));
            self.forget(key);
        }
    }

    fn forget(&mut self, key: LeaseKey) {
        if let Some(lease) = self.leases.remove(&key)
            && let Phase::Ended { lease_id, .. } = lease.phase
        {
            self.by_id.remove(&lease_id);
            self.ended = self.ended.saturating_sub(1);
        }
    }
}
