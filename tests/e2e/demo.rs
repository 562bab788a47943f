use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::house::{BROKER, SELECTOR, contains};

const STEPS: [&str; 13] = [
    "start",
    "login",
    "lease",
    "delivered",
    "whoami-before",
    "replay",
    "refused",
    "revoke",
    "whoami-after",
    "mcp",
    "audit",
    "reconcile",
    "stop",
];

fn demo(temporary: &std::path::Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(BROKER)
        .args(["demo", "--json"])
        .args(arguments)
        .env("TMPDIR", temporary)
        .output()
        .unwrap();
    let answer = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), answer)
}

/// The one command that shows the product: everything in it comes true, and it leaves nothing.
#[test]
fn the_demonstration_shows_what_it_says() {
    let temporary = tempfile::tempdir().unwrap();
    let (status, report) = demo(temporary.path(), &[]);
    assert_eq!(status, Some(0), "{report}");
    assert_eq!(report["ok"], true);
    assert_eq!(report["login"]["principal"], "user:u-demo");
    assert_eq!(report["lease"]["states"][1], "revoked");
    assert_eq!(report["delivered"]["selector"], SELECTOR);
    // What the server wrote down as handed out, by name.
    let fields = report["delivered"]["fields"].as_array().unwrap();
    assert_eq!(fields, &["access_token"]);
    assert_eq!(report["whoami"]["before"], 200);
    assert_eq!(report["whoami"]["after_revoke"], 401);
    assert_eq!(report["refused"]["replayed_proof"], "proof_replayed");
    assert_eq!(report["refused"]["outside_grant"], "aegis_denied");
    assert_eq!(report["refused"]["outside_catalogue"], "target_unknown");
    let mcp = &report["mcp"];
    assert_eq!(mcp["revision"], "2025-11-25");
    assert_eq!(mcp["tools"], 10);
    assert_eq!(
        mcp["lease_states"],
        serde_json::json!(["active", "revoked"])
    );
    // A device code, a token, and the material of the lease before and of the model's.
    assert_eq!(mcp["secrets_looked_for"], 4);
    assert_eq!(mcp["found_in_journal"], 4, "the search is not blind");
    assert_eq!(mcp["found_in_transcript"], 0);
    assert_eq!(report["audit"]["verified"], true);
    assert_eq!(report["audit"]["keyed"], true);
    assert_eq!(report["audit"]["reconciled"], true);
    // Begun and ended the login, made, redeemed and revoked two leases, and was denied another.
    assert_eq!(report["audit"]["events"], 9);
    for step in STEPS {
        assert!(report["timings_ms"][step].is_u64(), "{step}");
    }
    assert!(!report.to_string().contains("mock-gcp-"), "names only");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

/// It can fail: a fault planted at any step ends it there, by name, and still leaves nothing.
#[test]
fn a_planted_fault_ends_the_demonstration_at_its_step() {
    for step in STEPS {
        let temporary = tempfile::tempdir().unwrap();
        let (status, answer) = demo(temporary.path(), &["--plant-fault", step]);
        assert_eq!(status, Some(70), "{step}: {answer}");
        assert_eq!(answer["error"]["code"], "demo_failed", "{step}");
        assert_eq!(answer["error"]["reason_code"], step, "{answer}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "{step}");
    }
}

/// Interrupted while it waits for its login, or for a person to approve it, it ends as a failed step does: the daemon is gone,
/// and so is the folder.
#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let rows: [(Signal, &[&str]); 3] = [
        (Signal::INT, &[]),
        (Signal::TERM, &[]),
        (Signal::INT, &["--browser"]),
    ];
    for (signal, arguments) in rows {
        let temporary = tempfile::tempdir().unwrap();
        let mut demo = Command::new(BROKER)
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(demo.stdout.take().unwrap());
        let mut login = told.lines().skip_while(|line| {
            let line = line.as_ref().unwrap();
            !line.starts_with("Login")
        });
        assert!(login.next().is_some());
        let pid = Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let output = demo.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(70), "{said}");
        assert!(said.contains("step login: interrupted"), "{said}");
        let invited = said.contains("sign in as    demo") && said.contains("/device?user_code=");
        assert_eq!(invited, !arguments.is_empty(), "{said}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
        // Whatever it started names its folder on its command line.
        for process in fs::read_dir("/proc").unwrap() {
            let line = fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
            assert!(!contains(&line, temporary.path().to_str().unwrap()));
        }
    }
}
