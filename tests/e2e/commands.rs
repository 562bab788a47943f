use serde_json::json;
use std::fs;

use super::house::{House, SELECTOR, contains, files, find, policy, text};

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
    assert!(text(&verified).contains("keyed"), "{}", text(&verified));
    let shown = house.run(&["audit", "show"]);
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("deliver"), "{}", text(&shown));

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
}

/// `get` refuses a terminal without `--reveal`, before it asks for anything.
#[test]
fn get_refuses_a_terminal_without_reveal() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let before = house.server.mock.requests().len();
    // `script` gives the command a terminal for its standard output.
    let on_a_terminal = |command: String| {
        let mut script = std::process::Command::new("script");
        house.surround(&mut script);
        script
            .args(["-qec", &command, "/dev/null"])
            .output()
            .unwrap()
    };
    let broker = house.broker.display();
    let refused = on_a_terminal(format!("{broker} get {SELECTOR}"));
    assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
    assert!(text(&refused).contains("--reveal"), "{}", text(&refused));
    assert_eq!(
        house.server.mock.requests().len(),
        before,
        "no call was made for it"
    );
    let revealed = on_a_terminal(format!("{broker} get {SELECTOR} --reveal"));
    assert!(revealed.status.success(), "{}", text(&revealed));
    assert!(text(&revealed).contains("mock-gcp-"));
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
}

/// HY-4, DG-9: device code, token and material are nowhere but where they belong, at any log
/// level. The control: the server's own journal has them.
#[test]
fn secrets_stay_out_of_files_logs_and_command_lines() {
    let house = House::new();
    let daemon = house.daemon();
    house.log_in();
    house.material();
    let made = house.json(&["lease", "create", SELECTOR]);
    house.json(&["lease", "redeem", &find(&made, "lease_id").unwrap()]);
    house.json(&["lease", "list"]);
    house.json(&["status"]);
    let secrets = house.server.mock.secrets();
    for kind in ["device_code", "broker_token", "access_token"] {
        assert!(
            secrets.iter().any(|secret| secret.kind == kind),
            "no {kind} to look for"
        );
    }
    let status = format!("/proc/{}/cmdline", daemon.pid());
    let command_line = fs::read(status).unwrap();
    house.json(&["logout"]);
    assert!(daemon.stop().success());
    let found = files(house.folder.path());
    let log = fs::read(house.path("daemon.log")).unwrap();
    assert!(
        contains(&log, "TRACE") || contains(&log, "DEBUG"),
        "the log was not verbose"
    );
    for secret in secrets {
        assert!(!contains(&command_line, &secret.value), "{}", secret.kind);
        for (path, bytes) in &found {
            assert!(
                !contains(bytes, &secret.value),
                "{} in {}",
                secret.kind,
                path.display()
            );
        }
    }
}

/// The commands say when there is no daemon, and with which status.
#[test]
fn without_a_daemon_every_command_says_so() {
    let house = House::new();
    drop(house.daemon_command());
    for arguments in [
        vec!["status"],
        vec!["login"],
        vec!["logout"],
        vec!["lock"],
        vec!["get", SELECTOR],
        vec!["lease", "list"],
    ] {
        let (code, status) = house.refusal(&arguments);
        assert!(
            matches!((code.as_str(), status), ("daemon_unreachable", 69)),
            "{arguments:?}: {code} {status}"
        );
    }
}
