//! `policy check` and `policy explain`: the file alone, no daemon.

use std::process::{Command, Output};

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
    // Conditions on unit, control group and hash; and a decoy, which no rule lets out.
    let hash = "0123456789abcdef".repeat(4);
    let unit = "peers = [{ unit = \"agent.service\" }]\n";
    let exact = format!("peers = [{{ sha256 = \"{hash}\" }}, {{ cgroup = \"/a.slice\" }}]\n");
    for (peers, arguments) in [
        (unit, ["--cgroup", "/user.slice/agent.service"]),
        (&exact, ["--sha256", &hash]),
        (&exact, ["--cgroup", "/a.slice/b"]),
    ] {
        house.write(
            "policy.toml",
            &format!("{}{peers}", crate::house::policy("allow")),
        );
        let get = |output: &Output| {
            let told = shown(output);
            told.lines().nth(2).unwrap().to_owned()
        };
        let fits = [&["explain", SELECTOR], &arguments[..]].concat();
        assert_eq!(get(&policy(&house, &fits)), "get\tallow\te2e", "{peers}");
        let others = policy(&house, &["explain", SELECTOR]);
        assert_eq!(get(&others), "get\tdeny\tdefault", "{peers}");
    }
    let decoy = "[[profiles.work.target]]\nselector = \"gcp/decoy/x\"\ndecoy = true\n";
    house.write("config.toml", &format!("{}{decoy}", house.config()));
    house.write("policy.toml", POLICY);
    let told = shown(&policy(&house, &["explain", "gcp/decoy/x"]));
    assert_eq!(told.matches("deny\tdecoy").count(), 4, "{told}");
    let unknown = policy(&house, &["explain", "gcp/other/x"]);
    assert_eq!(unknown.status.code(), Some(66), "{}", text(&unknown));
    let wrong = policy(&house, &["explain", "gcp/*/x"]);
    assert_eq!(wrong.status.code(), Some(64), "{}", text(&wrong));
}

/// PE-3, PO-2: rules by hash, control group and unit hold for real processes, whose own they are,
/// and narrow: another program is denied.
#[test]
fn rules_by_hash_and_group_hold_for_real_programs() {
    let house = House::new();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let sum = Command::new("sha256sum")
        .arg(&house.broker)
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let hash = sum.split_once(' ').unwrap().0.to_owned();
    let mut rows = vec![
        (format!("sha256 = \"{hash}\""), true),
        (format!("sha256 = \"{}\"", "0".repeat(64)), false),
        ("unit = \"no-such-unit.service\"".to_owned(), false),
        ("cgroup = \"/no-such-group\"".to_owned(), false),
    ];
    let group = own.lines().find_map(|line| line.strip_prefix("0::"));
    if let Some(group) = group.filter(|group| *group != "/") {
        rows.push((format!("cgroup = \"{group}\""), true));
    }
    let with = |peer: &str| format!("{}peers = [{{ {peer} }}]\n", crate::house::policy("allow"));
    house.write("policy.toml", &with("exe = \"/nobody\""));
    let daemon = house.daemon();
    house.log_in();
    for (peer, fits) in rows {
        house.write("policy.toml", &with(&peer));
        daemon.reload();
        let got = house.run(&["get", SELECTOR]);
        assert_eq!(got.status.success(), fits, "{peer}: {}", text(&got));
    }
    // This test's own program is another one, in the same group.
    house.write("policy.toml", &with(&format!("sha256 = \"{hash}\"")));
    daemon.reload();
    let asked = serde_json::json!({ "selector": SELECTOR });
    let answer = house.ask("credential.get", &asked);
    assert_eq!(answer["error"]["data"]["code"], "policy_denied", "{answer}");
}

/// What was decided and recorded is decided again by another file, and what would change is told:
/// nothing by the same file, and what the log does not say is counted.
#[test]
fn recorded_decisions_are_replayed_against_another_file() {
    let house = House::new();
    let allow = crate::house::policy("allow");
    house.write("policy.toml", &allow);
    let daemon = house.daemon();
    house.log_in();
    house.run(&["get", SELECTOR]);
    house.run(&["get", SELECTOR]);
    house.run(&["exec", "--use", SELECTOR, "--", "true"]);
    house.write("policy.toml", &allow.replace("reveal", "exec"));
    daemon.reload();
    assert!(!house.run(&["get", SELECTOR]).status.success());
    assert_eq!(daemon.stop().code(), Some(0));

    let audit = house.audit();
    let replayed = |file: &str| {
        house.write("policy.toml", file);
        let arguments = ["check", "--json", "--replay", audit.to_str().unwrap()];
        let told = shown(&policy(&house, &arguments));
        let json: Value = serde_json::from_str(&told).unwrap();
        let changes = json["replay"]["changes"].as_array().unwrap().iter();
        let mut changes: Vec<String> = changes
            .map(|row| {
                let word = |name: &str| row[name].as_str().unwrap().to_owned();
                let (was, now) = (word("was"), word("would_be"));
                let (actions, exposure) = (word("actions"), word("exposure"));
                format!("{was} {now} {actions} {exposure} {}", row["count"])
            })
            .collect();
        changes.sort();
        (changes, json["replay"]["unknown"].as_u64().unwrap(), json)
    };
    let (changes, unknown, json) = replayed(&allow);
    assert_eq!(changes, ["deny allow create+redeem reveal 1"]);
    assert_eq!(unknown, 0);
    // Two gets, one that was denied, one lease and its redemption.
    assert_eq!(json["replay"]["decisions"], 5, "{json}");
    let (changes, _, _) = replayed(&allow.replace("reveal", "exec"));
    assert_eq!(changes, ["allow deny create+redeem reveal 2"]);
    let (changes, _, _) = replayed("");
    let all = [
        "allow deny create use 1",
        "allow deny create+redeem reveal 2",
        "allow deny redeem exec 1",
    ];
    assert_eq!(changes, all);
    let (_, unknown, _) = replayed(&format!("{allow}peers = [{{ unit = \"a.service\" }}]\n"));
    assert_eq!(unknown, 5, "no rule asked for it when it was recorded");

    house.write("policy.toml", "");
    let output = policy(&house, &["check", "--replay"]);
    assert!(
        shown(&output).contains("allow -> deny\t2 x\t"),
        "{}",
        text(&output)
    );
    assert!(
        text(&output).contains("5 recorded decisions: 4 would change"),
        "{}",
        text(&output)
    );
    let nowhere = policy(&house, &["check", "--replay", "/no/such/folder"]);
    assert_eq!(nowhere.status.code(), Some(74), "{}", text(&nowhere));
}
