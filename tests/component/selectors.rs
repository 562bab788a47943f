//! The matrix of selectors: the table that the bundled server is judged by over the wire, asked of
//! the broker's own reader of selectors and scopes, and of its policy as a file.

#[path = "../fixtures/selectors.rs"]
mod table;

use std::fmt::Write as _;
use std::fs;

use aegis_broker::broker::policy::{Policy, Question};
use aegis_broker::config::load_policy;
use aegis_broker::model::{
    Action, Effect, Exposure, Origin, PeerFacts, ProcessId, Scope, ScopeError, Selector,
    SelectorError,
};
use serde_json::json;
use tempfile::TempDir;

use self::table::{
    Grant, GrantRow, OTHER_TENANT, PLACES, TENANT, Who, check_table, grants, scopes, split, targets,
};

fn fault(error: SelectorError) -> &'static str {
    match error {
        SelectorError::Wildcard => "wildcard",
        SelectorError::Shape => "shape",
        SelectorError::Segment => "segment",
    }
}

fn scope_fault(error: ScopeError) -> &'static str {
    match error {
        ScopeError::Unknown => "unknown",
        ScopeError::ActionOnly => "action_only",
        ScopeError::Selector(error) => fault(error),
    }
}

/// LC-1, PO-3. What is no scope, and why, is never said in the scope's own words.
#[test]
fn scopes_are_read_as_the_table_says() {
    for row in scopes() {
        let read = Scope::parse(&row.text);
        let answer = read
            .as_ref()
            .map_or_else(|error| scope_fault(*error), |_| "ok");
        assert_eq!(answer, row.daemon, "{}", row.name);
        if let Ok(scope) = read {
            assert_eq!(scope.to_string(), row.text, "{}", row.name);
        } else if let Err(error) = read {
            let told = error.to_string();
            assert!(
                !told.contains("billing") && !told.contains("deploy"),
                "{told}"
            );
        }
    }
}

/// LC-1: as the wire has it and in both forms that a person may write.
#[test]
fn targets_are_read_as_the_table_says() {
    for row in targets() {
        let [provider, app, account] = &row.parts;
        let read = Selector::from_parts(provider, app, account);
        let answer = read.as_ref().map_or_else(|error| fault(*error), |_| "ok");
        assert_eq!(answer, row.daemon, "{}", row.name);
        let short = format!("{provider}/{app}/{account}");
        let canonical = format!("provider:{provider}:app:{app}:account:{account}");
        for text in [short, canonical] {
            let parsed = Selector::parse(&text).ok();
            assert_eq!(parsed.as_ref(), read.as_ref().ok(), "{}", row.name);
        }
    }
}

/// The lines of the server's policy as rules. Denials last: the order must not matter.
fn rules(row: &GrantRow) -> String {
    let mut text = String::new();
    let allowed = row.grants.iter().map(|line| ("allow", line));
    let denied = row.denials.iter().map(|line| ("deny", line));
    for (number, (effect, line)) in allowed.chain(denied).enumerate() {
        let Grant {
            what,
            principal,
            max_ttl,
            max_redemptions,
        } = line;
        let (actions, selector) = split(what);
        let actions = json!(actions);
        let times = max_redemptions.unwrap_or_default();
        write!(
            text,
            "# For {principal}, {times} times.\n[[rule]]\nid = \"{effect}-{number}\"\neffect = \"{effect}\"\nselectors = [\"{selector}\"]\nactions = {actions}\n"
        )
        .unwrap();
        if effect == "allow" {
            text.push_str("expose = \"reveal\"\n");
        }
        if let Some(max_ttl) = max_ttl {
            writeln!(text, "max_ttl = \"{max_ttl}s\"").unwrap();
        }
    }
    text
}

/// PO-1, PO-2, LC-1, LC-3: the file is read by the loader of the daemon, the decision is that of
/// its core.
#[test]
fn grants_are_judged_as_the_table_says() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("policy.toml");
    let peer = PeerFacts {
        process: ProcessId { pid: 1, started: 1 },
        exe: None,
        ancestors: Vec::new(),
        origin: Origin::default(),
    };
    let mut judged = 0;
    for row in grants() {
        if row.daemon == "not asked" {
            continue;
        }
        judged += 1;
        fs::write(&file, rules(&row)).unwrap();
        let policy = Policy::new(load_policy(&file).unwrap());
        assert_eq!(policy.len(), row.grants.len() + row.denials.len());
        let (actions, selector) = split(row.call);
        let actions: Vec<Action> = actions
            .into_iter()
            .map(|action| Action::parse(action).unwrap())
            .collect();
        for exposure in Exposure::ALL {
            let decision = policy.decide(Question {
                peer: &peer,
                selector: &Selector::parse(selector).unwrap(),
                actions: &actions,
                exposure,
            });
            let (answer, rule) = match decision.effect {
                Effect::Allow => ("allow", "allow-"),
                Effect::Ask => ("ask", ""),
                Effect::Deny if row.denials.is_empty() => ("deny", "default"),
                Effect::Deny => ("deny", "deny-"),
            };
            assert_eq!(answer, row.daemon, "{}", row.name);
            assert!(decision.rule.as_str().starts_with(rule), "{}", row.name);
            let limited = row.grants.iter().any(|line| line.max_ttl.is_some());
            assert_eq!(decision.max_ttl.is_some(), limited, "{}", row.name);
        }
    }
    assert!(judged >= 60, "only {judged} rows");
}

/// What the table holds of the issuer alone: the broker has one tenant, one person, no leases of
/// others.
#[test]
fn the_table_is_whole_and_says_where_the_two_differ() {
    check_table();
    let foreign = grants()
        .iter()
        .filter(|row| row.who != Who::Maker || row.tenant != TENANT)
        .count();
    assert!(foreign >= 10);
    assert_ne!(TENANT, OTHER_TENANT);
    assert!(PLACES.iter().all(|place| Selector::parse(place).is_ok()));
    assert!(
        grants()
            .iter()
            .any(|row| row.ttl > 0 && row.redemptions > 1)
    );
    assert!(grants().iter().all(|row| !row.asked.is_empty()));
    let checks = scopes().len() + targets().len() + grants().len();
    assert!(checks >= 250, "only {checks} rows");
}
