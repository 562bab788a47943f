use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::process::Stdio;

use super::house::{House, SELECTOR, contains, files, find, policy, text};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

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
    let on_a_terminal = |arguments: &[&str]| {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let mut command = house.command(arguments);
        command.stdout(terminal).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The child's end is the last one now: reading ends when it does.
        drop(command);
        let mut shown = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = rustix::io::read(&controller, &mut buffer) {
            shown.extend_from_slice(&buffer[..length]);
        }
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let status = child.wait().unwrap().code().unwrap();
        (status, String::from_utf8(shown).unwrap(), said)
    };
    let (status, shown, said) = on_a_terminal(&["get", SELECTOR]);
    assert_eq!((status, shown.as_str()), (64, ""), "{said}");
    assert!(said.contains("--reveal"), "{said}");
    let after = house.server.mock.requests().len();
    assert_eq!(after, before, "no call was made for it");
    let (status, shown, said) = on_a_terminal(&["get", SELECTOR, "--reveal"]);
    assert_eq!(status, 0, "{said}");
    assert!(shown.contains("mock-gcp-"), "{shown}");
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
