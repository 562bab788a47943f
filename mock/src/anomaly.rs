//! The anomaly monitor: spikes of what is issued, denied and replayed, per principal and tenant.
//!
//! It hears of every audit event. A spike is one event of its own and one alert in a minute, and
//! where the policy says so a minute in which the principal is not served.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::audit::{Entry, as_rfc3339};
use crate::clock::Moment;
use crate::policy::{Anomaly, OnAnomaly};

const WINDOW: Duration = Duration::from_mins(1);
/// Subjects that are watched at once. Who comes when all places are taken is watched from the
/// minute on in which one is free.
const MAX_SUBJECTS: usize = 10_000;
/// The newest are kept.
const MAX_ALERTS: usize = 1000;

/// A spike, as control shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertRecord {
    /// When the last event of it happened.
    #[serde(serialize_with = "as_rfc3339")]
    pub at: SystemTime,
    /// `anomaly.issuance_spike`, `anomaly.denied_spike` or `anomaly.replay`.
    pub kind: String,
    /// Where it happened.
    pub tenant_id: String,
    /// Who did it; empty where it is the tenant as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal: String,
    /// So many events within a minute.
    pub count: usize,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Issuance,
    Denial,
    Replay,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Issuance, Self::Denial, Self::Replay];

    fn action(self) -> &'static str {
        match self {
            Self::Issuance => "anomaly.issuance_spike",
            Self::Denial => "anomaly.denied_spike",
            Self::Replay => "anomaly.replay",
        }
    }

    /// Whether an event is one of those.
    fn counts(self, entry: &Entry) -> bool {
        match self {
            Self::Issuance => {
                entry.outcome == "ok"
                    && matches!(
                        entry.action,
                        "login.exchange"
                            | "token.mint"
                            | "token.exchange_workload"
                            | "spiffe.complete"
                            | "lease.create"
                    )
            }
            // To be asked for a nonce is part of every login.
            Self::Denial => entry.outcome == "denied" && entry.reason != "use_dpop_nonce",
            Self::Replay => matches!(
                entry.reason,
                "proof_replayed" | "nonce_replayed" | "workload_token_replayed" | "challenge_used"
            ),
        }
    }

    fn threshold(self, limits: &Anomaly) -> u32 {
        match self {
            Self::Issuance => limits.issuances_per_minute,
            Self::Denial => limits.denials_per_minute,
            Self::Replay => limits.replays_per_minute,
        }
    }
}

/// Of one principal or one tenant.
#[derive(Debug, Default)]
struct Counts {
    /// The newest, as many as make a spike.
    times: [VecDeque<Moment>; 3],
    told: [Option<Moment>; 3],
    paused_until: Option<Moment>,
}

impl Counts {
    /// Counts one event; whether that makes a spike nobody was told of within the minute.
    fn count(&mut self, kind: usize, most: usize, at: Moment) -> bool {
        let (Some(times), Some(told)) = (self.times.get_mut(kind), self.told.get_mut(kind)) else {
            return false;
        };
        times.push_back(at);
        while times.len() > most {
            times.pop_front();
        }
        let full = times.len() >= most
            && times
                .front()
                .is_some_and(|oldest| at.since(*oldest) < WINDOW);
        if !full || told.is_some_and(|told| at.since(told) < WINDOW) {
            return false;
        }
        *told = Some(at);
        true
    }

    fn is_quiet(&self, now: Moment) -> bool {
        let newest = self.times.iter().filter_map(VecDeque::back);
        newest.into_iter().all(|at| now.since(*at) >= WINDOW)
    }
}

/// How many events of each kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    issuances: u64,
    denials: u64,
    replays: u64,
    alerts: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    limits: Anomaly,
    /// By tenant and principal; an empty principal is the tenant.
    subjects: HashMap<(String, String), Counts>,
    alerts: VecDeque<AlertRecord>,
    totals: Totals,
}

impl Monitor {
    pub(crate) fn set_limits(&mut self, limits: Anomaly) {
        self.limits = limits;
    }

    pub(crate) fn alerts(&self) -> impl Iterator<Item = &AlertRecord> {
        self.alerts.iter()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Hears of an event; the events that it makes.
    pub(crate) fn observe(&mut self, entry: &Entry, at: Moment) -> Vec<Entry> {
        let mut made = Vec::new();
        if entry.tenant_id.is_empty() || entry.action.starts_with("anomaly.") {
            return made;
        }
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            if !kind.counts(entry) {
                continue;
            }
            match kind {
                Kind::Issuance => self.totals.issuances = self.totals.issuances.saturating_add(1),
                Kind::Denial => self.totals.denials = self.totals.denials.saturating_add(1),
                Kind::Replay => self.totals.replays = self.totals.replays.saturating_add(1),
            }
            let most = kind.threshold(&self.limits);
            let together = most.saturating_mul(self.limits.tenant_factor);
            let subjects = [(&*entry.principal, most), ("", together)];
            // Without a principal there is the tenant alone.
            let skip = usize::from(entry.principal.is_empty());
            for (principal, most) in subjects.into_iter().skip(skip) {
                if self.count(&entry.tenant_id, principal, place, most, at) {
                    made.push(self.raise(kind, &entry.tenant_id, principal, most, at));
                }
            }
        }
        made
    }

    fn count(&mut self, tenant: &str, principal: &str, kind: usize, most: u32, at: Moment) -> bool {
        let name = (tenant.to_owned(), principal.to_owned());
        if self.subjects.len() >= MAX_SUBJECTS && !self.subjects.contains_key(&name) {
            self.subjects.retain(|_, counts| !counts.is_quiet(at));
            if self.subjects.len() >= MAX_SUBJECTS {
                return false;
            }
        }
        let counts = self.subjects.entry(name).or_default();
        let spike = counts.count(kind, usize::try_from(most).unwrap_or(usize::MAX), at);
        if spike && self.limits.on_anomaly == OnAnomaly::Throttle {
            counts.paused_until = Some(at.plus(WINDOW));
        }
        spike
    }

    fn raise(
        &mut self,
        kind: Kind,
        tenant: &str,
        principal: &str,
        count: u32,
        at: Moment,
    ) -> Entry {
        self.totals.alerts = self.totals.alerts.saturating_add(1);
        if self.alerts.len() >= MAX_ALERTS {
            self.alerts.pop_front();
        }
        self.alerts.push_back(AlertRecord {
            at: at.system_time(),
            kind: kind.action().to_owned(),
            tenant_id: tenant.to_owned(),
            principal: principal.to_owned(),
            count: usize::try_from(count).unwrap_or(usize::MAX),
        });
        Entry {
            tenant_id: tenant.to_owned(),
            action: kind.action(),
            outcome: "ok",
            principal: principal.to_owned(),
            ..Entry::default()
        }
    }

    /// The seconds for which a principal is not served, if it is not.
    pub(crate) fn pause(&self, tenant: &str, principal: &str, now: Moment) -> Option<u32> {
        [principal, ""]
            .into_iter()
            .filter_map(|principal| {
                let name = (tenant.to_owned(), principal.to_owned());
                self.subjects.get(&name)?.paused_until
            })
            .filter(|until| now < *until)
            .map(|until| {
                let left = until.since(now).as_millis().div_ceil(1000);
                u32::try_from(left).unwrap_or(u32::MAX)
            })
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_unix_millis(0).plus(Duration::from_secs(seconds))
    }

    fn event(action: &'static str, outcome: &'static str, reason: &'static str) -> Entry {
        Entry {
            tenant_id: "t".to_owned(),
            action,
            outcome,
            reason,
            principal: "p".to_owned(),
            ..Entry::default()
        }
    }

    fn raised(monitor: &mut Monitor, entry: &Entry, times: u64, start: u64) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..times {
            let made = monitor.observe(entry, at(start));
            all.extend(
                made.iter()
                    .map(|one| format!("{} {}", one.action, one.principal)),
            );
        }
        all
    }

    /// `aegis.md` 14.
    #[test]
    fn a_spike_is_told_once_a_minute_at_the_numbers_of_the_contract() {
        let rows = [
            (
                event("lease.create", "ok", ""),
                30,
                "anomaly.issuance_spike",
            ),
            (event("token.mint", "ok", ""), 30, "anomaly.issuance_spike"),
            (
                event("lease.redeem", "denied", "policy_denied"),
                10,
                "anomaly.denied_spike",
            ),
        ];
        for (entry, most, kind) in rows {
            let mut monitor = Monitor::default();
            assert!(
                raised(&mut monitor, &entry, most - 1, 0).is_empty(),
                "{kind}"
            );
            assert_eq!(raised(&mut monitor, &entry, 1, 59), [format!("{kind} p")]);
            assert!(raised(&mut monitor, &entry, most, 60).is_empty(), "{kind}");
            let again = raised(&mut monitor, &entry, most, 119);
            assert_eq!(again.first(), Some(&format!("{kind} p")));
            assert_eq!(monitor.alerts().count(), again.len() + 1);
        }
        let mut monitor = Monitor::default();
        let replay = event("lease.create", "denied", "proof_replayed");
        assert_eq!(raised(&mut monitor, &replay, 3, 0), ["anomaly.replay p"]);
    }

    #[test]
    fn slow_events_and_nonces_asked_for_are_no_spike() {
        let mut monitor = Monitor::default();
        let denial = event("lease.create", "denied", "policy_denied");
        for number in 0..100 {
            assert!(monitor.observe(&denial, at(number * 7)).is_empty());
        }
        let nonce = event("lease.create", "denied", "use_dpop_nonce");
        assert!(raised(&mut monitor, &nonce, 100, 1000).is_empty());
        let redeemed = event("lease.redeem", "ok", "");
        assert!(raised(&mut monitor, &redeemed, 100, 1000).is_empty());
    }

    #[test]
    fn many_principals_together_are_a_spike_of_their_tenant() {
        let mut monitor = Monitor::default();
        let mut all = Vec::new();
        for number in 0..50 {
            let entry = Entry {
                principal: format!("p{}", number % 10),
                ..event("lease.create", "denied", "policy_denied")
            };
            all.extend(monitor.observe(&entry, at(0)));
        }
        let [one] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!((one.action, &*one.principal), ("anomaly.denied_spike", ""));
    }

    #[test]
    fn who_is_throttled_waits_a_minute() {
        let denial = event("lease.create", "denied", "policy_denied");
        let mut monitor = Monitor::default();
        raised(&mut monitor, &denial, 10, 0);
        assert_eq!(monitor.pause("t", "p", at(0)), None);
        monitor.set_limits(Anomaly {
            on_anomaly: OnAnomaly::Throttle,
            ..Anomaly::default()
        });
        raised(&mut monitor, &denial, 10, 60);
        assert_eq!(monitor.pause("t", "p", at(61)), Some(59));
        assert_eq!(monitor.pause("t", "other", at(61)), None);
        assert_eq!(monitor.pause("other", "p", at(61)), None);
        assert_eq!(monitor.pause("t", "p", at(120)), None);
    }
}
