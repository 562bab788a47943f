//! What must not be seen outside of where it belongs, looked for everywhere.

use std::fs;

use serde_json::json;

use super::house::{House, SELECTOR, contains, files, find};

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
    let mut model = house.connect_model();
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

/// HY-4, PE-7, DG-9: device code, token and material are nowhere but where they belong, at any log
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
