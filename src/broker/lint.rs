//! What of a policy can have no effect: mistakes of whoever wrote it, found without any request.

use super::policy::covers;
use crate::model::{Action, CleanText, Effect, Exposure, Rule, SelectorPattern, Target};

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which rule.
    pub rule: CleanText,
    /// What.
    pub what: Finds,
}

/// What can be wrong with a rule that is well written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finds {
    /// One of its patterns matches no target of the catalogue.
    NoTarget(SelectorPattern),
    /// A pattern of any provider allows, or asks: it matches this many targets today, and whatever
    /// is added later.
    Wide(SelectorPattern, usize),
    /// One of its patterns covers no more than another one of the same rule does.
    Redundant(SelectorPattern, SelectorPattern),
    /// It names an action that none of its targets has.
    NoAction(Action),
    /// It never decides: for all that it matches that rule, which is as strict and stands before
    /// it, or stricter, decides for everybody.
    Covered(CleanText),
}

/// Looks at every rule, in the order of the file.
pub fn lint(rules: &[Rule], targets: &[Target]) -> Vec<Finding> {
    rules
        .iter()
        .enumerate()
        .flat_map(|(index, rule)| {
            let finding = |what| Finding {
                rule: rule.id.clone(),
                what,
            };
            let patterns = rule.selectors.iter().filter_map(|pattern| {
                let matched = matched(pattern, targets);
                if matched == 0 {
                    Some(Finds::NoTarget(pattern.clone()))
                } else if rule.effect != Effect::Deny && pattern.is_of_any_provider() {
                    Some(Finds::Wide(pattern.clone(), matched))
                } else {
                    None
                }
            });
            let covered = covered_by(index, rules, targets).map(Finds::Covered);
            patterns
                .chain(redundant(rule))
                .chain(no_action(rule, targets))
                .chain(covered)
                .map(finding)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Patterns that another one of the rule makes superfluous; of two equal ones the second.
fn redundant(rule: &Rule) -> impl Iterator<Item = Finds> {
    let patterns = || rule.selectors.iter().enumerate();
    patterns().filter_map(move |(index, pattern)| {
        let (_, wider) = patterns().find(|(other, wider)| {
            *other != index && wider.covers(pattern) && (*other < index || !pattern.covers(wider))
        })?;
        Some(Finds::Redundant(pattern.clone(), wider.clone()))
    })
}

/// Actions that the rule names and no target has that it matches. One that matches none is told of
/// anyway, and one that names no action means whatever there is.
fn no_action(rule: &Rule, targets: &[Target]) -> Vec<Finds> {
    let matched: Vec<&Target> = targets
        .iter()
        .filter(|target| {
            let mut patterns = rule.selectors.iter();
            patterns.any(|pattern| pattern.matches(&target.selector))
        })
        .collect();
    if matched.is_empty() || rule.actions.len() == Action::ALL.len() {
        return Vec::new();
    }
    let missing = |action: &&Action| {
        matched
            .iter()
            .all(|target| !target.actions.contains(action))
    };
    let actions = rule.actions.iter().filter(missing);
    actions.map(|action| Finds::NoAction(*action)).collect()
}

/// Whether whoever fits this rule fits that one too, as far as their conditions say so in the same
/// words.
fn has_all_peers(candidate: &Rule, rule: &Rule) -> bool {
    let all_listed = rule.peers.iter().all(|peer| candidate.peers.contains(peer));
    candidate.peers.is_empty() || (!rule.peers.is_empty() && all_listed)
}

fn matched(pattern: &SelectorPattern, targets: &[Target]) -> usize {
    targets
        .iter()
        .filter(|target| pattern.matches(&target.selector))
        .count()
}

/// The rule that decides in place of this one wherever this one could; `None` where this one may
/// decide, or matches nothing.
fn covered_by(index: usize, rules: &[Rule], targets: &[Target]) -> Option<CleanText> {
    let rule = rules.get(index)?;
    let stronger: Vec<&Rule> = rules
        .iter()
        .enumerate()
        .filter(|(other, candidate)| {
            has_all_peers(candidate, rule)
                && (candidate.effect > rule.effect
                    || (candidate.effect == rule.effect && *other < index))
        })
        .map(|(_, candidate)| candidate)
        .collect();
    let mut first = None;
    for selector in targets.iter().map(|target| &target.selector) {
        if !rule
            .selectors
            .iter()
            .any(|pattern| pattern.matches(selector))
        {
            continue;
        }
        for action in &rule.actions {
            for exposure in Exposure::ALL
                .into_iter()
                .filter(|exposure| rule.effect == Effect::Deny || *exposure <= rule.expose)
            {
                let by = stronger
                    .iter()
                    .find(|other| covers(other, selector, *action, exposure))?;
                first.get_or_insert_with(|| by.id.clone());
            }
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{PeerPattern, Selector};

    fn text(text: &str) -> CleanText {
        CleanText::new(text, 64)
    }

    fn pattern(text: &str) -> SelectorPattern {
        SelectorPattern::parse(text).unwrap()
    }

    fn rule(id: &str, effect: Effect, selectors: &str, expose: Exposure) -> Rule {
        Rule {
            id: text(id),
            effect,
            selectors: selectors.split(' ').map(pattern).collect(),
            actions: Action::ALL.to_vec(),
            peers: Vec::new(),
            expose,
            max_ttl: None,
            on_leak: crate::model::OnLeak::Record,
        }
    }

    fn targets() -> Vec<Target> {
        ["gcp/a/x", "gcp/b/x", "aws/a/x", "kube/a/x"]
            .map(|selector| Target {
                selector: Selector::parse(selector).unwrap(),
                description: None,
                actions: if selector == "kube/a/x" {
                    vec![Action::Create, Action::Redeem]
                } else {
                    Action::ALL.to_vec()
                },
                ttl: Duration::from_mins(5),
                decoy: false,
                inject: None,
            })
            .to_vec()
    }

    /// What is found, as `rule: what`.
    fn found(rules: &[Rule]) -> Vec<String> {
        let shown = |finding: Finding| {
            let what = match finding.what {
                Finds::NoTarget(pattern) => format!("no target for {pattern}"),
                Finds::Wide(pattern, count) => format!("{pattern} is wide: {count}"),
                Finds::Covered(by) => format!("covered by {by}"),
                Finds::Redundant(pattern, wider) => format!("{pattern} is in {wider}"),
                Finds::NoAction(action) => format!("no {}", action.as_str()),
            };
            format!("{}: {what}", finding.rule)
        };
        lint(rules, &targets()).into_iter().map(shown).collect()
    }

    #[test]
    fn what_has_no_effect_is_found() {
        use Effect::{Allow, Ask, Deny};
        use Exposure::{Exec, Reveal};
        let mut narrow = rule("narrow", Allow, "gcp/a/x", Reveal);
        narrow.peers = vec![PeerPattern::Under(text("claude"))];
        let mut redeem = rule("redeem", Deny, "gcp/*/*", Reveal);
        redeem.actions = vec![Action::Redeem];
        let plain = rule("plain", Allow, "gcp/*/*", Reveal);
        let exec = rule("exec", Allow, "gcp/*/*", Exec);
        #[rustfmt::skip]
        let rows: Vec<(&str, Vec<Rule>, Vec<&str>)> = vec![
            ("nothing", vec![plain.clone()], vec![]),
            ("a typing error", vec![rule("a", Allow, "gpc/a/x gcp/a/x", Reveal)], vec!["a: no target for gpc/a/x"]),
            ("any provider", vec![rule("a", Allow, "*/a/*", Reveal)], vec!["a: */a/* is wide: 3"]),
            ("any provider is denied", vec![rule("a", Deny, "*/*/*", Reveal)], vec![]),
            ("the same twice", vec![plain.clone(), rule("again", Allow, "gcp/a/x", Reveal)], vec!["again: covered by plain"]),
            ("less after more", vec![plain.clone(), exec.clone()], vec!["exec: covered by plain"]),
            ("more after less", vec![exec, plain.clone()], vec![]),
            ("for some before all", vec![narrow.clone(), plain.clone()], vec![]),
            ("for some after all", vec![plain.clone(), narrow.clone()], vec!["narrow: covered by plain"]),
            ("denied to some only", vec![plain.clone(), { let mut some = narrow.clone(); some.effect = Deny; some }], vec![]),
            ("denied later", vec![plain.clone(), rule("no", Deny, "gcp/*/x", Reveal)], vec!["plain: covered by no"]),
            ("denied in part", vec![plain.clone(), redeem], vec![]),
            ("denied by two together", vec![plain, rule("no-a", Deny, "gcp/a/*", Reveal), rule("no-b", Deny, "gcp/b/*", Reveal)], vec!["plain: covered by no-a"]),
            ("denied to the same some", vec![narrow.clone(), { let mut same = narrow.clone(); same.id = text("same"); same.effect = Deny; same }], vec!["narrow: covered by same"]),
            ("denied to more than some", vec![narrow.clone(), { let mut more = narrow.clone(); more.id = text("more"); more.effect = Deny; more.peers.push(PeerPattern::Exe(text("/a"))); more }], vec!["narrow: covered by more"]),
            ("denied to others", vec![narrow.clone(), { let mut other = narrow; other.id = text("other"); other.effect = Deny; other.peers = vec![PeerPattern::Exe(text("/a"))]; other }], vec![]),
            ("one pattern in another", vec![rule("a", Allow, "gcp/a/x gcp/*/x", Reveal)], vec!["a: gcp/a/x is in gcp/*/x"]),
            ("a pattern twice", vec![rule("a", Allow, "gcp/a/x gcp/a/x", Reveal)], vec!["a: gcp/a/x is in gcp/a/x"]),
            ("an action of none", vec![{ let mut of_ended = rule("a", Allow, "kube/a/x", Reveal); of_ended.actions = vec![Action::Redeem, Action::Revoke]; of_ended }], vec!["a: no revoke"]),
            ("asked for what is allowed", vec![rule("yes", Allow, "aws/a/x", Reveal), rule("ask", Ask, "aws/*/*", Exec)], vec![]),
        ];
        for (name, rules, expected) in rows {
            assert_eq!(found(&rules), expected, "{name}");
        }
    }
}
