//! `exec`: a command with credentials that end with it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::house::{House, SELECTOR, text};

/// Says its token, and then waits until its standard input ends.
const WAITING: &str = "echo \"$GOOGLE_OAUTH_ACCESS_TOKEN\"; cat >/dev/null; exit 7";

/// A command under `exec`, started.
struct Running {
    exec: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(house: &House, script: &str) -> Self {
        let mut exec = exec(house, &[SELECTOR], &["sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(exec.stdout.take().unwrap());
        Self { exec, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.exec.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn end(mut self) -> Option<i32> {
        drop(self.exec.stdin.take());
        self.exec.wait().unwrap().code()
    }
}

fn exec(house: &House, uses: &[&str], command: &[&str]) -> Command {
    let mut arguments = vec!["exec"];
    for one in uses {
        arguments.extend(["--use", one]);
    }
    arguments.push("--");
    arguments.extend(command);
    house.command(&arguments)
}

/// LC-7: the credential works while the command runs and is dead at the provider when it has ended,
/// whose status is ours. AP-4: the record says how far it was let out.
#[test]
fn a_credential_lives_as_long_as_its_command() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let mut running = Running::start(&house, WAITING);
    let token = running.line();
    assert_eq!(house.server.whoami(&token), 200);
    assert_eq!(running.end(), Some(7));
    assert_eq!(house.server.whoami(&token), 401);

    let shown = house.run(&["audit", "show", "--json"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("\"exposure\":\"exec\""), "{shown}");
    assert!(!shown.contains(&token));
}

/// LC-7: a wrapper that is killed gives nothing back itself: its end does.
#[test]
fn a_killed_wrapper_ends_the_credential() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let mut running = Running::start(&house, WAITING);
    let token = running.line();
    assert_eq!(house.server.whoami(&token), 200);
    running.signal(Signal::KILL);
    house.server.wait_for("RevokeCredentialLease", "ok");
    assert_eq!(house.server.whoami(&token), 401);
    running.end();
}

/// Signals, statuses, umask and core limit are the command's as if nobody stood between.
#[test]
fn a_command_is_run_as_if_without_us() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::USR1, "USR1"),
    ] {
        let script = format!("trap 'echo heard; exit 9' {name}; echo up; while :; do read x; done");
        let mut running = Running::start(&house, &script);
        assert_eq!(running.line(), "up");
        running.signal(signal);
        let mut rest = String::new();
        // The trap is run when `read` has returned.
        let mut exec = running.exec;
        drop(exec.stdin.take());
        running.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "heard\n", "{name}");
        assert_eq!(exec.wait().unwrap().code(), Some(9), "{name}");
    }

    let status = |command: &[&str]| {
        let output = exec(&house, &[SELECTOR], command).output().unwrap();
        (output.status.code(), text(&output))
    };
    assert_eq!(status(&["sh", "-c", "kill -9 $$"]).0, Some(137));
    let (code, told) = status(&["true"]);
    assert_eq!(
        (code, &*told),
        (Some(0), "exit status: 0 stdout:  stderr: ")
    );
    let (missing, told) = status(&["no-such-command-here"]);
    assert_eq!(missing, Some(127));
    assert!(told.contains("no-such-command-here"), "{told}");
    assert_eq!(status(&["/"]).0, Some(126));

    let broker = house.broker.display();
    let script = format!(
        "umask 027; ulimit -Sc 5; \"{broker}\" exec --use {SELECTOR} -- sh -c 'umask; ulimit -Sc'"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    house.surround(&mut shell);
    let found = shell.output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), "0027\n5\n");
    // Nothing of all that is left alive.
    let status = house.json(&["status"]);
    assert_eq!(status["live_leases"], 0, "{status}");
}

/// The names are the provider's, or begin as the person says; two credentials of one name, and
/// names that would steer the command, are mistakes that leave nothing alive.
#[test]
fn variables_have_the_names_that_were_asked_for() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let prefixed = format!("{SELECTOR}=PROD");
    let both = [SELECTOR, &prefixed];
    let output = exec(&house, &both, &["env"]).output().unwrap();
    let environment = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| !["PATH", "HOME", "XDG_RUNTIME_DIR"].contains(name))
        .collect();
    assert_eq!(
        names,
        [
            "CLOUDSDK_AUTH_ACCESS_TOKEN",
            "GOOGLE_CLOUD_PROJECT",
            "GOOGLE_OAUTH_ACCESS_TOKEN",
            "PROD_ACCESS_TOKEN",
            "PROD_PROJECT_ID",
            "PROD_SERVICE_ACCOUNT_EMAIL",
            "PROD_TOKEN_TYPE",
        ]
    );
    let ran = house.path("ran");
    let touch = ["touch", ran.to_str().unwrap()];
    for uses in [[SELECTOR, SELECTOR], [SELECTOR, "gcp/billing-prod/owner"]] {
        let output = exec(&house, &uses, &touch).output().unwrap();
        assert!(!output.status.success(), "{uses:?}");
    }
    assert_eq!(house.json(&["status"])["live_leases"], 0);
    for wrong in [
        &["exec", "--", "true"][..],
        &["exec", "--use", SELECTOR],
        &["exec", "--use", "gcp", "--", "true"],
        &["exec", "--use", "gcp/a/b=", "--", "true"],
        &["exec", "--use", "gcp/a/b=lower", "--", "true"],
        &["exec", "--use", "gcp/a/b=1X", "--", "true"],
    ] {
        assert_eq!(house.run(wrong).status.code(), Some(64), "{wrong:?}");
    }
    assert!(!ran.exists());
}

/// AP-4: a rule that exposes `exec` lets a command have what `get` does not show.
#[test]
fn what_may_not_be_shown_may_be_run_with() {
    let house = House::new();
    let policy = std::fs::read_to_string(house.path("policy.toml")).unwrap();
    house.write("policy.toml", &policy.replace("\"reveal\"", "\"exec\""));
    let _daemon = house.daemon();
    house.log_in();
    let (code, _) = house.refusal(&["get", SELECTOR]);
    assert_eq!(code, "policy_denied");
    let output = exec(&house, &[SELECTOR], &["true"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
