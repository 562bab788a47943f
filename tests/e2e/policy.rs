//! `policy check` and `policy explain`: the file alone, no daemon.

use std::process::Output;

use serde_json::Value;

use crate::house::{House, SELECTOR, text};

const POLICY: &str = r#"
[[rule]]
id = "agents"
effect = "deny"
selectors = ["gcp/billing-prod/*"]
actions = ["redeem"]
peers = [{ under = "claude" }]

[[rule]]
id = "all"
effect = "allow"
selectors = ["*/*/*"]
expose = "exec"
max_ttl = "10m"

[[rule]]
id = "late"
effect = "allow"
selectors = ["gcp/billing-prod/deploy-bot", "gpc/typo/x"]
expose = "use"
"#;

fn policy(house: &House, arguments: &[&str]) -> Output {
    let mut command = house.command(&["policy"]);
    command.args(arguments);
    command.arg("--config").arg(house.path("config.toml"));
    command.arg("--policy").arg(house.path("policy.toml"));
    command.output().unwrap()
}

fn shown(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// PO-7: mistakes are told with their place, and what can have no effect is found.
#[test]
fn a_policy_is_checked_without_a_daemon() {
    let house = House::new();
    house.write("policy.toml", POLICY);
    let output = policy(&house, &["check"]);
    assert_eq!(
        shown(&output),
        "rule \"all\": */*/* is of any provider: 1 targets today, and whatever is added later\n\
         rule \"late\": gpc/typo/x matches no target of the configuration\n\
         rule \"late\": never decides: rule \"all\" does, for all that both match\n"
    );
    assert!(text(&output).contains("3 rules, no mistake, 3 to look at"));
    let json: Value = serde_json::from_str(&shown(&policy(&house, &["check", "--json"]))).unwrap();
    assert_eq!(json["rules"], 3);
    assert_eq!(json["findings"].as_array().unwrap().len(), 3);
    assert_eq!(json["findings"][1]["rule"], "late");

    house.write("policy.toml", &POLICY.replace("\"deny\"", "\"no\""));
    let output = policy(&house, &["check"]);
    assert_eq!(output.status.code(), Some(78));
    let told = text(&output);
    assert!(told.contains("policy.toml:4:10"), "{told}");
    std::fs::remove_file(house.path("policy.toml")).unwrap();
    assert_eq!(policy(&house, &["check"]).status.code(), Some(78));
}

/// PO-2: what would be decided, for whom, and by which rule.
#[test]
fn a_decision_is_explained_without_a_daemon() {
    let house = House::new();
    house.write("policy.toml", POLICY);
    assert_eq!(
        shown(&policy(&house, &["explain", SELECTOR])),
        "lease create\tallow\tall\tat most 600 s\n\
         exec\tallow\tall\tat most 600 s\n\
         get\tdeny\tdefault\n\
         lease revoke\tallow\tall\tat most 600 s\n"
    );
    let output = policy(
        &house,
        &["explain", SELECTOR, "--under", "claude", "--json"],
    );
    let json: Value = serde_json::from_str(&shown(&output)).unwrap();
    assert_eq!(json["selector"], SELECTOR);
    let exec = &json["decisions"][1];
    assert_eq!(
        (&exec["for"], &exec["effect"], &exec["rule"]),
        (&"exec".into(), &"deny".into(), &"agents".into())
    );
    let unknown = policy(&house, &["explain", "gcp/other/x"]);
    assert_eq!(unknown.status.code(), Some(66), "{}", text(&unknown));
    let wrong = policy(&house, &["explain", "gcp/*/x"]);
    assert_eq!(wrong.status.code(), Some(64), "{}", text(&wrong));
}
