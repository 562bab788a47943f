use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::house::{House, SELECTOR, files, find, policy, text};

/// Login, status, get, lease, audit, lock, logout: each with `--json`, each says what happened.
#[test]
fn every_command_does_what_it_says() {
    let house = House::new();
    let _daemon = house.daemon();
    assert_eq!(
        house.refusal(&["get", SELECTOR]),
        ("login_required".to_owned(), 77)
    );
    house.log_in();
    let status = house.json(&["status"]);
    assert_eq!(
        find(&status, "principal").as_deref(),
        Some("user:u-demo"),
        "{status}"
    );

    let targets = house.json(&["targets"]);
    assert!(targets.to_string().contains(SELECTOR), "{targets}");
    let targets = text(&house.run(&["targets"]));
    let line = format!("{SELECTOR}\tcreate,redeem,revoke\tgranted\t");
    assert!(targets.contains(&line), "{targets}");

    let got = house.json(&["get", SELECTOR]);
    let token = find(&got, "access_token").unwrap();
    assert_eq!(house.server.whoami(&token), 200);
    let value = house.run(&["get", SELECTOR, "--format", "value"]);
    assert_eq!(
        String::from_utf8(value.stdout).unwrap().trim_end(),
        token,
        "served from memory"
    );

    let made = house.json(&["lease", "create", SELECTOR, "--max-redemptions", "2"]);
    let lease_id = find(&made, "lease_id").unwrap();
    let redeemed = house.json(&["lease", "redeem", &lease_id]);
    let second = find(&redeemed, "access_token").unwrap();
    assert_ne!(second, token);
    assert_eq!(house.server.whoami(&second), 200);
    let listed = house.json(&["lease", "list"]);
    assert!(listed.to_string().contains(&lease_id));
    let revoked = house.json(&["lease", "revoke", &lease_id]);
    assert_eq!(find(&revoked, "state").as_deref(), Some("revoked"));
    assert_eq!(house.server.whoami(&second), 401);
    assert_eq!(
        house.refusal(&["lease", "redeem", &lease_id]),
        ("lease_revoked".to_owned(), 66)
    );

    let verified = house.run(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", text(&verified));
    assert!(verified.stderr.ends_with(b"\n"), "{}", text(&verified));
    let verdict = String::from_utf8(verified.stdout).unwrap();
    assert!(verdict.starts_with("keyed: "), "{verdict}");
    assert_eq!(house.json(&["audit", "verify"])["verdict"], "keyed");
    let audit = house.audit();
    let without_its_key = ["audit", "verify", "--audit-dir", audit.to_str().unwrap()];
    let verified = house.run(&without_its_key);
    let verdict = String::from_utf8(verified.stdout).unwrap();
    assert!(verdict.starts_with("chained: "), "{verdict}");
    assert_eq!(house.json(&without_its_key)["verdict"], "chained");
    let shown = house.run(&["audit", "show"]);
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("deliver"), "{}", text(&shown));
    // AU-9: what ties a record to the issuer's, shown as the issuer saw it.
    let shown = house.run(&["audit", "show", "--json"]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    let revoked = shown.lines().rfind(|line| line.contains("lease.revoke"));
    let revoked: Value = serde_json::from_str(revoked.unwrap()).unwrap();
    let sent = house.server.mock.requests();
    let sent = sent
        .iter()
        .rfind(|request| request.method == "RevokeCredentialLease");
    let sent = sent.unwrap();
    assert_eq!(revoked["proof_jti"].as_str(), sent.jti.as_deref());
    assert_eq!(revoked["request_id"], sent.request_id.as_str());

    house.json(&["lock"]);
    assert_eq!(house.server.whoami(&token), 401, "a lock revokes");
    assert_eq!(house.refusal(&["get", SELECTOR]), ("locked".to_owned(), 77));
    house.log_in();
    let token = house.material();
    house.json(&["logout"]);
    assert_eq!(house.server.whoami(&token), 401, "a logout revokes");
    assert_eq!(
        house.refusal(&["get", SELECTOR]),
        ("login_required".to_owned(), 77)
    );
}

/// `access_denied` ends a login for good, and says what to do.
#[test]
fn a_denied_login_says_so_and_stays_over() {
    let house = House::new();
    let _daemon = house.daemon();
    let shown = house.json(&["login", "--no-wait"]);
    let code = find(&shown, "user_code").unwrap();
    house.server.mock.deny(&code).unwrap();
    let output = house.run(&["login"]);
    assert_eq!(output.status.code(), Some(77), "{}", text(&output));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("error: the login was denied"), "{told}");
    assert!(
        told.contains("hint: run `aegis-broker login` again"),
        "{told}"
    );
    assert_eq!(house.refusal(&["get", SELECTOR]).0, "login_required");
}

/// DG-7: the code and the address are shown as text, and nothing is opened.
#[test]
fn login_shows_code_and_address() {
    let house = House::new();
    let _daemon = house.daemon();
    let output = house.run(&["login", "--no-wait"]);
    let told = String::from_utf8(output.stderr).unwrap();
    let code = house.server.mock.pending_user_codes().pop().unwrap();
    assert!(told.contains(&code), "{told}");
    assert!(told.contains("/device"), "{told}");
    assert!(told.contains("profile work"), "{told}");
    assert!(
        told.contains(&format!("{SELECTOR} (create, redeem, revoke)")),
        "{told}"
    );
    assert!(
        !told.contains("left"),
        "no countdown without a terminal: {told}"
    );
}

/// PO-1, PO-2, PO-7: the policy decides; SIGHUP reads it again; a bad file leaves the old one in
/// force; the answer names no rule.
#[test]
fn the_policy_is_read_again_on_sighup_and_never_by_halves() {
    let house = House::new();
    let daemon = house.daemon();
    house.log_in();
    house.material();
    let code = |house: &House| {
        let answer = house.ask("credential.get", &json!({ "selector": SELECTOR }));
        answer["error"]["data"]["code"].as_str().map(str::to_owned)
    };
    for (effect, expected) in [
        ("deny", Some("policy_denied")),
        ("ask", Some("approval_unavailable")),
        ("allow", None),
    ] {
        house.write("policy.toml", &policy(effect));
        daemon.reload();
        assert_eq!(code(&house).as_deref(), expected, "{effect}");
    }
    house.write("policy.toml", &policy("deny"));
    daemon.reload();
    let denied = house.ask("credential.get", &json!({ "selector": SELECTOR }));
    assert!(
        !denied.to_string().contains("e2e"),
        "the rule's name is for the record only: {denied}"
    );
    house.write(
        "policy.toml",
        "[[rule]]\nid = \"broken\"\nefect = \"allow\"\n",
    );
    daemon.reload();
    assert_eq!(code(&house).as_deref(), Some("policy_denied"));
    house.write("policy.toml", &policy("allow"));
    daemon.reload();
    // It was named, so that it is gone is a mistake and no empty policy.
    fs::remove_file(house.path("policy.toml")).unwrap();
    daemon.reload();
    assert_eq!(code(&house), None);
    let shown = text(&house.run(&["audit", "show"]));
    let refused = shown
        .lines()
        .filter(|line| line.contains("policy.load") && line.contains("error"));
    assert_eq!(refused.count(), 2, "{shown}");
}

/// PO-1: a daemon without a rule denies everything; its log says so, and where it looked for one.
#[test]
fn a_daemon_without_a_rule_says_so_in_its_log() {
    let house = House::new();
    house.write("policy.toml", "# Nothing yet.\n");
    let _daemon = house.daemon();
    let log = fs::read_to_string(house.path("daemon.log")).unwrap();
    let told = log.lines().find(|line| line.contains("has no rule"));
    let file = house.path("policy.toml");
    assert!(
        told.is_some_and(|line| line.contains(&file.display().to_string())),
        "{log}"
    );
}

/// A command line that is wrong is told in JSON where JSON was asked for, and names flags as they
/// are typed.
#[test]
fn a_mistake_in_the_command_line_is_told_in_the_shape_that_was_asked_for() {
    let house = House::new();
    for (arguments, word) in [
        (&["lease", "create", SELECTOR, "--ttl", "5s"][..], "--ttl"),
        (
            &["get", SELECTOR, "--min-valid-for", "2h"],
            "--min-valid-for",
        ),
        (
            &["lease", "create", SELECTOR, "--max-redemptions", "11"],
            "--max-redemptions",
        ),
        (&["get", SELECTOR, "--reason", "a\u{7}b"], "--reason"),
        (&["get"], "<SELECTOR>"),
        (&["nonsense"], "nonsense"),
    ] {
        assert_eq!(house.refusal(arguments), ("usage".to_owned(), 64));
        let told = house.run(&[&["--json"], arguments].concat());
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains(word), "{arguments:?}: {message}");
        assert!(!message.contains("Usage:"), "{message}");
        let plain = house.run(arguments);
        assert_eq!(plain.status.code(), Some(64), "{}", text(&plain));
        assert!(plain.stdout.is_empty(), "{}", text(&plain));
        assert!(String::from_utf8_lossy(&plain.stderr).contains(word));
    }
}

/// The log that is shown and checked is the one that the running daemon writes, wherever that is;
/// without a daemon the configured one; where a folder is named, that one. Which it was is said.
#[test]
fn audit_reads_the_folder_of_the_daemon_that_runs() {
    let house = House::new();
    assert!(house.daemon().stop().success());
    let usual = house.audit();
    let elsewhere = house.path("elsewhere/audit");
    let read = |arguments: &[&str], folder: &Path, ended: bool| {
        let shown = house.run(&[&["audit", "show"], arguments].concat());
        assert!(shown.status.success(), "{arguments:?}: {}", text(&shown));
        let said = String::from_utf8(shown.stderr.clone()).unwrap();
        let folder = folder.to_str().unwrap();
        assert!(said.contains(folder), "{arguments:?}: {}", text(&shown));
        let rows = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(rows.contains("  stop  "), ended, "{arguments:?}: {rows}");
        let verified = house.json(&[&["audit", "verify"], arguments].concat());
        assert_eq!(verified["folder"], folder, "{arguments:?}: {verified}");
        verified["keyed"] == verified["records"]
    };

    // A relative folder is the daemon's, not the command's.
    let mut command = house.daemon_command();
    command.args(["--state-dir", "elsewhere"]);
    let daemon = house.start(&mut command, "info");
    let status = house.json(&["status"]);
    assert_eq!(status["audit_folder"], elsewhere.to_str().unwrap());
    assert!(read(&[], &elsewhere, false), "keyed by the daemon");
    let named = [
        ["--state-dir", ".local/state/aegis-broker"],
        ["--audit-dir", usual.to_str().unwrap()],
    ];
    for named in named {
        assert!(!read(&named, &usual, true), "read without the daemon");
    }
    assert!(daemon.stop().success());

    read(&[], &usual, true);
    read(&["--state-dir", "elsewhere"], &elsewhere, true);

    // A log whose first record is damaged is no empty log.
    let (file, bytes) = files(&elsewhere)
        .into_iter()
        .find(|(_, bytes)| bytes.split(|byte| *byte == b'\n').count() > 2)
        .unwrap();
    let damaged = String::from_utf8(bytes)
        .unwrap()
        .replacen("\"at\":\"2", "\"at\":\"1", 2);
    fs::write(&file, damaged).unwrap();
    let verify = [
        "audit",
        "verify",
        "--audit-dir",
        elsewhere.to_str().unwrap(),
    ];
    assert_eq!(house.refusal(&verify), ("audit_damaged".to_owned(), 65));

    let daemon = house.start(&mut house.command(&["daemon", "--mock"]), "info");
    let bundled = house.path(".local/state/aegis-broker/mock-audit");
    assert!(read(&[], &bundled, false), "keyed by the daemon");
    assert!(daemon.stop().success());
}

/// The commands say when there is no daemon, and with which status.
#[test]
fn without_a_daemon_every_command_says_so() {
    let house = House::new();
    house.make_runtime();
    for arguments in [
        vec!["status"],
        vec!["login"],
        vec!["logout"],
        vec!["lock"],
        vec!["get", SELECTOR],
        vec!["lease", "list"],
    ] {
        let refusal = house.refusal(&arguments);
        assert_eq!(
            refusal,
            ("daemon_unreachable".to_owned(), 69),
            "{arguments:?}"
        );
    }
}
