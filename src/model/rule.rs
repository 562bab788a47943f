use std::fmt;
use std::time::Duration;

use super::{
    Action, CleanText, Exposure, FileHash, PeerFacts, Selector, SelectorError, is_segment,
};

/// What a rule does to a request it matches. `deny` beats `ask` beats `allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Let it through.
    Allow,
    /// Ask the person.
    Ask,
    /// Refuse it.
    Deny,
}

/// What happens to a lease whose value is seen in what passes through the broker. It is masked and
/// recorded in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum OnLeak {
    /// Nothing more.
    #[default]
    Record,
    /// It is revoked at once.
    Revoke,
}

impl OnLeak {
    /// The one of that word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "record" => Some(Self::Record),
            "revoke" => Some(Self::Revoke),
            _ => None,
        }
    }
}

/// What records name where a rule of the policy would stand and none decided. No rule may call
/// itself that (PO-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoRule {
    /// None matched.
    Default,
    /// The broker is locked.
    Locked,
    /// The catalogue does not list the target.
    Catalogue,
    /// There is no lease of that handle.
    Handle,
    /// The daemon stops.
    ShuttingDown,
    /// It serves another profile.
    ProfileUnknown,
    /// The target is a decoy.
    Decoy,
    /// The caller was denied too often.
    DenialPause,
}

impl NoRule {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Default,
        Self::Locked,
        Self::Catalogue,
        Self::Handle,
        Self::ShuttingDown,
        Self::ProfileUnknown,
        Self::Decoy,
        Self::DenialPause,
    ];

    /// The word in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Locked => "locked",
            Self::Catalogue => "catalogue",
            Self::Handle => "handle",
            Self::ShuttingDown => "shutting_down",
            Self::ProfileUnknown => "profile_unknown",
            Self::Decoy => "decoy",
            Self::DenialPause => "denial_pause",
        }
    }
}

impl From<NoRule> for CleanText {
    fn from(rule: NoRule) -> Self {
        Self::new(rule.as_str(), 64)
    }
}

/// One `[[rule]]` of the policy: a request that it matches gets its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, in every decision and record.
    pub id: CleanText,
    /// What it does.
    pub effect: Effect,
    /// For which selectors; at least one.
    pub selectors: Vec<SelectorPattern>,
    /// For which actions; all where the file names none.
    pub actions: Vec<Action>,
    /// For which peers; any where the file names none.
    pub peers: Vec<PeerPattern>,
    /// The most it lets out. No ceiling for `deny`, which matches every exposure.
    pub expose: Exposure,
    /// The longest lease it lets through.
    pub max_ttl: Option<Duration>,
    /// What happens where its credential shows up in a response.
    pub on_leak: OnLeak,
}

/// A selector where whole parts may be `*`. For rules only, never for requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorPattern {
    /// `None` matches any.
    parts: [Option<Box<str>>; 3],
}

impl SelectorPattern {
    /// Reads `provider/app/account` where each part is a segment or `*`.
    ///
    /// # Errors
    /// [`SelectorError::Shape`] or [`SelectorError::Segment`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = text.split('/');
        let (Some(provider), Some(app), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SelectorError::Shape);
        };
        Ok(Self {
            parts: [part(provider)?, part(app)?, part(account)?],
        })
    }

    /// Whether it covers selectors of every provider.
    pub fn is_of_any_provider(&self) -> bool {
        let [provider, _, _] = &self.parts;
        provider.is_none()
    }

    /// Whether it covers every selector that the other one covers.
    pub fn covers(&self, other: &Self) -> bool {
        let mut parts = self.parts.iter().zip(&other.parts);
        parts.all(|(mine, others)| mine.is_none() || mine == others)
    }

    /// Whether it covers that selector.
    pub fn matches(&self, selector: &Selector) -> bool {
        let (provider, app, account) = selector.parts();
        self.parts
            .iter()
            .zip([provider, app, account])
            .all(|(pattern, part)| pattern.as_deref().is_none_or(|wanted| wanted == part))
    }
}

impl fmt::Display for SelectorPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [provider, app, account] = self
            .parts
            .each_ref()
            .map(|part| part.as_deref().unwrap_or("*"));
        write!(f, "{provider}/{app}/{account}")
    }
}

fn part(text: &str) -> Result<Option<Box<str>>, SelectorError> {
    match text {
        "*" => Ok(None),
        _ if is_segment(text) => Ok(Some(Box::from(text))),
        _ => Err(SelectorError::Segment),
    }
}

/// A condition on the peer. It narrows; it never authenticates (PE-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPattern {
    /// Its executable is exactly this absolute path.
    Exe(CleanText),
    /// An ancestor's executable has this base name.
    Under(CleanText),
    /// It belongs to this unit of systemd.
    Unit(CleanText),
    /// It is in this control group, or in one below.
    Cgroup(CleanText),
    /// Its executable has this hash.
    Sha256(FileHash),
}

impl PeerPattern {
    /// Whether the peer fits. What is not known of a peer fits nothing.
    pub fn matches(&self, peer: &PeerFacts) -> bool {
        match self {
            Self::Exe(path) => peer.exe.as_ref() == Some(path),
            Self::Under(name) => peer.ancestors.contains(name),
            Self::Unit(name) => peer.origin.unit() == Some(name.as_str()),
            Self::Cgroup(path) => peer.origin.cgroup.as_ref().is_some_and(|cgroup| {
                let below = cgroup.as_str().strip_prefix(path.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }),
            Self::Sha256(hash) => peer.origin.exe_hash == Some(*hash),
        }
    }

    /// Whether what it asks for is known of the peer, so that its answer says something.
    pub fn is_known_of(&self, peer: &PeerFacts) -> bool {
        match self {
            Self::Exe(_) | Self::Under(_) => true,
            Self::Unit(_) | Self::Cgroup(_) => peer.origin.cgroup.is_some(),
            Self::Sha256(_) => peer.origin.exe_hash.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_parts_only() {
        let selector = Selector::parse("gcp/billing-prod/deploy-bot").unwrap();
        let rows = [
            ("gcp/billing-prod/deploy-bot", true),
            ("gcp/billing-prod/*", true),
            ("*/*/*", true),
            ("gcp/billing/*", false),
            ("aws/*/*", false),
            ("gcp/billing-prod/deploy", false),
        ];
        for (pattern, expected) in rows {
            assert_eq!(
                SelectorPattern::parse(pattern).unwrap().matches(&selector),
                expected,
                "{pattern}"
            );
        }
        for bad in [
            "gcp/billing-*/x",
            "*",
            "gcp/*",
            "gcp/**/x",
            "GCP/*/*",
            "a/b/c/d",
            "",
        ] {
            assert!(SelectorPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
