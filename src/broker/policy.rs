//! The policy: which peer may do what with which selector, and how far material may travel.
//! Default deny; `deny` beats `ask` beats `allow`; every decision names its rule (PO-1, PO-2).

use std::time::Duration;

use crate::model::{
    Action, CleanText, Effect, Exposure, NoRule, OnLeak, PeerFacts, PeerPattern, Rule, Selector,
};

/// The rules in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    default: CleanText,
}

/// What a peer wants to do, as the policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// Who.
    pub peer: &'q PeerFacts,
    /// With what.
    pub selector: &'q Selector,
    /// Which actions; each must be allowed.
    pub actions: &'q [Action],
    /// How far the material would travel.
    pub exposure: Exposure,
}

/// What rules look at in a peer that costs something to find out. What none looks at is not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its control group.
    pub cgroup: bool,
    /// The hash of its executable.
    pub exe_hash: bool,
}

/// What the policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The effect.
    pub effect: Effect,
    /// The rule that decided; `default` where none matched.
    pub rule: CleanText,
    /// The longest lease it lets through.
    pub max_ttl: Option<Duration>,
    /// What happens where the credential shows up in a response.
    pub on_leak: OnLeak,
}

impl Policy {
    /// These rules. No rules deny everything.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules,
            default: NoRule::Default.into(),
        }
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none, so that everything is denied.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What it looks at in a peer beside what is always known.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for pattern in self.rules.iter().flat_map(|rule| &rule.peers) {
            match pattern {
                PeerPattern::Exe(_) | PeerPattern::Under(_) => {}
                PeerPattern::Unit(_) | PeerPattern::Cgroup(_) => needs.cgroup = true,
                PeerPattern::Sha256(_) => needs.exe_hash = true,
            }
        }
        needs
    }

    /// Whether everything is known of the peer that a rule about this could look at.
    pub fn can_judge(&self, question: Question<'_>) -> bool {
        let asked = |rule: &&Rule| {
            let mut actions = question.actions.iter();
            actions.any(|action| covers(rule, question.selector, *action, question.exposure))
        };
        let mut patterns = self.rules.iter().filter(asked).flat_map(|rule| &rule.peers);
        patterns.all(|pattern| pattern.is_known_of(question.peer))
    }

    /// Decides. For several actions the strictest of their decisions holds, with the shortest
    /// of the lifetimes.
    pub fn decide(&self, question: Question<'_>) -> Decision {
        let mut strictest: Option<Decision> = None;
        for action in question.actions {
            let decision = self.decide_one(question, *action);
            strictest = Some(match strictest.take() {
                None => decision,
                Some(earlier) => {
                    let max_ttl = shorter(earlier.max_ttl, decision.max_ttl);
                    let on_leak = earlier.on_leak.max(decision.on_leak);
                    let stricter = if decision.effect > earlier.effect {
                        decision
                    } else {
                        earlier
                    };
                    Decision {
                        max_ttl,
                        on_leak,
                        ..stricter
                    }
                }
            });
        }
        strictest.unwrap_or_else(|| self.default_deny())
    }

    /// The strictest matching rule; of equally strict ones the first in the file.
    fn decide_one(&self, question: Question<'_>, action: Action) -> Decision {
        let mut found: Option<&Rule> = None;
        for rule in self
            .rules
            .iter()
            .filter(|rule| matches(rule, question, action))
        {
            if found.is_none_or(|earlier| rule.effect > earlier.effect) {
                found = Some(rule);
            }
        }
        found.map_or_else(
            || self.default_deny(),
            |rule| Decision {
                effect: rule.effect,
                rule: rule.id.clone(),
                max_ttl: rule.max_ttl,
                on_leak: rule.on_leak,
            },
        )
    }

    fn default_deny(&self) -> Decision {
        Decision {
            effect: Effect::Deny,
            rule: self.default.clone(),
            max_ttl: None,
            on_leak: OnLeak::Record,
        }
    }
}

/// Whether a rule is about that, whoever asks.
pub(super) fn covers(rule: &Rule, selector: &Selector, action: Action, exposure: Exposure) -> bool {
    // A deny rule holds for every exposure; the others let out at most what they say.
    let exposed = rule.effect == Effect::Deny || exposure <= rule.expose;
    exposed
        && rule.actions.contains(&action)
        && rule
            .selectors
            .iter()
            .any(|pattern| pattern.matches(selector))
}

fn matches(rule: &Rule, question: Question<'_>, action: Action) -> bool {
    covers(rule, question.selector, action, question.exposure)
        && (rule.peers.is_empty()
            || rule
                .peers
                .iter()
                .any(|pattern| pattern.matches(question.peer)))
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileHash, Origin, ProcessId, SelectorPattern};

    fn text(text: &str) -> CleanText {
        CleanText::new(text, 64)
    }

    fn rule(id: &str, effect: Effect, selector: &str) -> Rule {
        Rule {
            id: text(id),
            effect,
            selectors: vec![SelectorPattern::parse(selector).unwrap()],
            actions: Action::ALL.to_vec(),
            peers: Vec::new(),
            expose: Exposure::Reveal,
            max_ttl: None,
            on_leak: OnLeak::Record,
        }
    }

    fn terraform() -> PeerFacts {
        PeerFacts {
            process: ProcessId { pid: 7, started: 7 },
            exe: Some(text("/usr/bin/terraform")),
            ancestors: vec![text("claude"), text("bash")],
            origin: Origin::default(),
        }
    }

    fn decide(rules: Vec<Rule>, actions: &[Action], exposure: Exposure) -> (Effect, String) {
        let decision = Policy::new(rules).decide(Question {
            peer: &terraform(),
            selector: &Selector::parse("gcp/billing-prod/deploy-bot").unwrap(),
            actions,
            exposure,
        });
        (decision.effect, decision.rule.to_string())
    }

    /// PO-1, PO-2: default deny, deny wins over ask over allow whatever the order, rule named.
    #[test]
    fn the_strictest_matching_rule_decides_and_is_named() {
        let allow = || rule("a", Effect::Allow, "gcp/*/*");
        let ask = || rule("b", Effect::Ask, "gcp/billing-prod/*");
        let deny = || rule("c", Effect::Deny, "*/*/deploy-bot");
        let other = || rule("d", Effect::Allow, "aws/*/*");
        let rows: Vec<(&str, Vec<Rule>, Effect, &str)> = vec![
            ("nothing", vec![], Effect::Deny, "default"),
            ("no match", vec![other()], Effect::Deny, "default"),
            ("allow", vec![other(), allow()], Effect::Allow, "a"),
            ("ask over allow", vec![allow(), ask()], Effect::Ask, "b"),
            (
                "deny over both",
                vec![deny(), allow(), ask()],
                Effect::Deny,
                "c",
            ),
            ("deny last", vec![allow(), ask(), deny()], Effect::Deny, "c"),
        ];
        for (name, rules, effect, id) in rows {
            assert_eq!(
                decide(rules, &[Action::Create], Exposure::Reveal),
                (effect, id.to_owned()),
                "{name}"
            );
        }
    }

    /// AP-4: a rule lets out at most its exposure.
    #[test]
    fn a_rule_never_lets_out_more_than_it_says() {
        for ceiling in Exposure::ALL {
            for wanted in Exposure::ALL {
                let mut allow = rule("a", Effect::Allow, "*/*/*");
                allow.expose = ceiling;
                let expected = if wanted <= ceiling {
                    Effect::Allow
                } else {
                    Effect::Deny
                };
                assert_eq!(decide(vec![allow], &[Action::Redeem], wanted).0, expected);
            }
        }
    }

    /// A request that takes two actions needs both.
    #[test]
    fn every_action_must_be_allowed() {
        let mut create = rule("a", Effect::Allow, "*/*/*");
        create.actions = vec![Action::Create];
        let both = [Action::Create, Action::Redeem];
        assert_eq!(
            decide(vec![create.clone()], &both, Exposure::Reveal).0,
            Effect::Deny
        );
        let mut redeem = rule("b", Effect::Allow, "*/*/*");
        redeem.actions = vec![Action::Redeem];
        redeem.max_ttl = Some(Duration::from_mins(1));
        create.max_ttl = Some(Duration::from_secs(90));
        let decision = Policy::new(vec![create, redeem]).decide(Question {
            peer: &terraform(),
            selector: &Selector::parse("a/b/c").unwrap(),
            actions: &both,
            exposure: Exposure::Reveal,
        });
        assert_eq!(decision.effect, Effect::Allow);
        assert_eq!(decision.max_ttl, Some(Duration::from_mins(1)));
    }

    /// PE-3: what a rule asks for and is not known of the peer fits nothing, so that it only narrows;
    /// and nothing is read that no rule asks for.
    #[test]
    fn conditions_on_unit_group_and_hash_narrow() {
        let hash = FileHash::new([7; 32]);
        let mut peer = terraform();
        let group = "/user.slice/app.slice/agent.service/sub";
        peer.origin.cgroup = Some(text(group));
        peer.origin.exe_hash = Some(hash);
        let none = terraform();
        let rows = [
            (PeerPattern::Unit(text("agent.service")), true),
            (PeerPattern::Unit(text("app.slice")), false),
            (PeerPattern::Unit(text("sub")), false),
            (PeerPattern::Cgroup(text(group)), true),
            (PeerPattern::Cgroup(text("/user.slice/app.slice")), true),
            (PeerPattern::Cgroup(text("/user.slice/app")), false),
            (
                PeerPattern::Cgroup(text("/user.slice/app.slice/agent.service/sub/x")),
                false,
            ),
            (PeerPattern::Sha256(hash), true),
            (PeerPattern::Sha256(FileHash::new([8; 32])), false),
        ];
        for (pattern, fits) in rows {
            let mut allow = rule("a", Effect::Allow, "*/*/*");
            allow.peers = vec![pattern.clone()];
            let policy = Policy::new(vec![allow]);
            let needs = policy.needs();
            let of_hash = matches!(pattern, PeerPattern::Sha256(_));
            assert_eq!(
                (needs.cgroup, needs.exe_hash),
                (!of_hash, of_hash),
                "{pattern:?}"
            );
            for (peer, fits, known) in [(&peer, fits, true), (&none, false, false)] {
                let question = Question {
                    peer,
                    selector: &Selector::parse("a/b/c").unwrap(),
                    actions: &[Action::Create],
                    exposure: Exposure::Use,
                };
                let allowed = policy.decide(question).effect == Effect::Allow;
                assert_eq!(allowed, fits, "{pattern:?}");
                assert_eq!(policy.can_judge(question), known, "{pattern:?}");
            }
        }
        assert_eq!(
            Policy::new(vec![rule("a", Effect::Allow, "*/*/*")]).needs(),
            Needs::default()
        );
    }

    /// PE-3: peer conditions narrow.
    #[test]
    fn peer_conditions_narrow() {
        let rows = [
            (PeerPattern::Exe(text("/usr/bin/terraform")), Effect::Allow),
            (PeerPattern::Exe(text("/tmp/terraform")), Effect::Deny),
            (PeerPattern::Under(text("claude")), Effect::Allow),
            (PeerPattern::Under(text("cursor")), Effect::Deny),
        ];
        for (pattern, effect) in rows {
            let mut allow = rule("a", Effect::Allow, "*/*/*");
            allow.peers = vec![pattern.clone()];
            assert_eq!(
                decide(vec![allow], &[Action::Create], Exposure::Use).0,
                effect,
                "{pattern:?}"
            );
        }
    }
}
