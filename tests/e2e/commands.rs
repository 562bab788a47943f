use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use super::house::{House, Peer, SELECTOR, contains, files, find, policy, text};
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

/// The time that is left is counted down in place on a terminal, and is wiped from it at the end.
#[test]
fn login_counts_down_on_a_terminal() {
    let house = House::new();
    let _daemon = house.daemon();
    let (controller, terminal) = terminal();
    let mut command = house.command(&["login"]);
    command.stdout(Stdio::null()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    // The child's end is the last one now: reading ends when it does.
    drop(command);
    let mut shown = Vec::new();
    let mut approved = false;
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = rustix::io::read(&controller, &mut buffer) {
        shown.extend_from_slice(&buffer[..length]);
        if !approved && contains(&shown, "approve only if") {
            let code = house.server.mock.pending_user_codes().pop().unwrap();
            house.server.mock.approve(&code).unwrap();
            approved = true;
        }
    }
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    // A code lives ten minutes, and a busy machine takes some of the first.
    let (_, left) = shown
        .split_once("\r\u{1b}[Kwaiting, ")
        .expect("a countdown");
    let (minutes, left) = left.split_once(':').unwrap();
    assert!(minutes == "9" || minutes == "10", "{shown}");
    let after_the_seconds = left.get(2..).unwrap_or_default();
    assert!(after_the_seconds.starts_with(" left"), "{shown}");
    assert!(
        shown.contains(" left\r\u{1b}[Klogged in as user:u-demo"),
        "{shown}"
    );
}

/// The two ends of a new terminal.
fn terminal() -> (OwnedFd, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (controller, terminal)
}

/// `get` and `lease redeem` refuse a terminal without `--reveal`, before they ask for anything.
#[test]
fn material_is_not_shown_on_a_terminal_without_reveal() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let before = house.server.mock.requests().len();
    let on_a_terminal = |arguments: &[&str]| {
        let (controller, terminal) = terminal();
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

    let made = house.json(&["lease", "create", SELECTOR]);
    let lease_id = find(&made, "lease_id").unwrap();
    let (status, shown, said) = on_a_terminal(&["lease", "redeem", &lease_id]);
    assert_eq!((status, shown.as_str()), (64, ""), "{said}");
    // Its one redemption is still there.
    let (status, shown, said) = on_a_terminal(&["lease", "redeem", &lease_id, "--reveal"]);
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

/// HY-9: what libraries say of requests, frames and arguments is not logged, whatever the level.
/// The control: our own lines of that level are.
#[test]
fn libraries_stay_quiet_at_every_log_level() {
    const LIBRARIES: [&str; 6] = ["rmcp", "reqwest", "hyper", "hyper_util", "h2", "rustls"];
    let house = House::new();
    let wanted = LIBRARIES.map(|library| format!("{library}=trace"));
    let level = format!("trace,{}", wanted.join(","));
    let daemon = house.start(&mut house.daemon_command(), &level);
    house.log_in();
    house.material();
    let mut model = Peer::connect(&house.socket().with_file_name("mcp.sock"));
    let hello = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": { "name": "e2e", "version": "1" },
    });
    model.ask("initialize", &hello);
    model.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
    model.ask("tools/list", &json!({}));
    drop(model);
    assert!(daemon.stop().success());
    let log = fs::read_to_string(house.path("daemon.log")).unwrap();
    let is_quiet = |word: &&str| ["TRACE", "DEBUG", "INFO"].contains(word);
    let quiet = log.lines().filter(|line| {
        line.split_whitespace()
            .nth(1)
            .as_ref()
            .is_some_and(is_quiet)
    });
    let (libraries, ours): (Vec<_>, Vec<_>) = quiet.partition(|line| {
        line.split_whitespace().any(|word| {
            let target = word.split([':', '{']).next();
            word.contains(':') && target.is_some_and(|target| LIBRARIES.contains(&target))
        })
    });
    assert!(libraries.is_empty(), "{libraries:#?}");
    assert!(
        ours.iter().any(|line| line.contains("DEBUG aegis_broker")),
        "{log}"
    );
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
