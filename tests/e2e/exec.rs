//! `exec`: a command with credentials that end with it.

use std::fs::{Permissions, set_permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use aegis_mock::FaultKind;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::house::{House, PATIENCE, SELECTOR, text};

/// Says its token, and then waits until its standard input ends.
const WAITING: &str = "echo \"$GOOGLE_OAUTH_ACCESS_TOKEN\"; cat >/dev/null; exit 7";

/// A command under `exec`, started in a session of its own: no terminal of whoever runs the tests
/// has a say.
struct Running {
    exec: Child,
    output: BufReader<UnixStream>,
}

impl Running {
    fn start(house: &House, script: &str) -> Self {
        Self::of(house, &["sh", "-c", script])
    }

    fn of(house: &House, command: &[&str]) -> Self {
        let wrapper = exec(house, &[SELECTOR], command);
        let mut session = Command::new("setsid");
        session.arg(wrapper.get_program()).args(wrapper.get_args());
        house.surround(&mut session);
        let (output, theirs) = UnixStream::pair().unwrap();
        output.set_read_timeout(Some(PATIENCE)).unwrap();
        let theirs = OwnedFd::from(theirs);
        let exec = session
            .stdin(Stdio::piped())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs)
            .spawn()
            .unwrap();
        let output = BufReader::new(output);
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

    /// Ends its standard input.
    fn let_go(&mut self) {
        drop(self.exec.stdin.take());
    }

    /// What it still says until nobody has its output any more, and its status.
    fn rest(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (rest, self.exec.wait().unwrap().code())
    }

    fn end(mut self) -> Option<i32> {
        self.let_go();
        self.rest().1
    }
}

fn exec(house: &House, uses: &[&str], command: &[&str]) -> Command {
    // These tests read what the command was given.
    let mut arguments = vec!["exec", "--no-redact"];
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
        // `wait` is what a trap interrupts.
        let script = format!(
            "trap 'echo heard; exit 9' {name}; exec 3<&0; cat <&3 >/dev/null 2>&1 & echo up; wait"
        );
        let mut running = Running::start(&house, &script);
        assert_eq!(running.line(), "up");
        running.signal(signal);
        assert_eq!(running.line(), "heard", "{name}");
        running.let_go();
        assert_eq!(running.rest(), (String::new(), Some(9)), "{name}");
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

/// What is ignored where we are started, under `nohup` for one, stays so: for us and the command.
#[test]
fn what_was_ignored_stays_ignored() {
    const SIGNALS: &str = "HUP INT QUIT TERM USR1 USR2";
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let script = format!(
        "for one in {SIGNALS}; do kill -$one $$; kill -$one $PPID; done; echo alive; exit 7"
    );
    let wrapper = exec(&house, &[SELECTOR], &["sh", "-c", &script]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' {SIGNALS}; exec \"$@\""), "sh"]);
    shell.arg(wrapper.get_program()).args(wrapper.get_args());
    house.surround(&mut shell);
    let output = shell.output().unwrap();
    assert_eq!(text(&output), "exit status: 7 stdout: alive\n stderr: ");
}

/// A command that became another user's cannot be told of signals: that is said, once, and its end
/// is waited for all the same.
#[test]
fn a_command_of_another_user_is_waited_for() {
    if !geteuid().is_root() {
        // Nobody else can make a program that changes its user.
        return;
    }
    let house = House::of_nobody();
    let _daemon = house.daemon();
    house.log_in();
    let setpriv = house.copy_of(Path::new("/usr/bin/setpriv"));
    set_permissions(&setpriv, Permissions::from_mode(0o4755)).unwrap();
    let script = "echo up; cat >/dev/null; exit 7";
    let command = [setpriv.to_str().unwrap(), "--reuid=0", "sh", "-c", script];
    let mut running = Running::of(&house, &command);
    assert_eq!(running.line(), "up");
    running.signal(Signal::TERM);
    let said = running.line();
    assert!(said.contains("cannot be told"), "{said}");
    running.signal(Signal::USR1);
    running.let_go();
    assert_eq!(running.rest(), (String::new(), Some(7)));
}

/// Once the command is over a signal is for us: we do not keep a person waiting for the server.
#[test]
fn a_signal_ends_the_giving_back() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let mut running = Running::start(&house, WAITING);
    running.line();
    let mock = &house.server.mock;
    mock.fault("RevokeCredentialLease", FaultKind::Stall, 1);
    running.let_go();
    house.server.wait_for("RevokeCredentialLease", "stalled");
    running.signal(Signal::INT);
    let (said, status) = running.rest();
    assert!(said.contains("not waited for"), "{said}");
    assert_eq!(status, Some(7));
}

/// The names are the tools', or begin as the person says; two credentials of one name are a mistake
/// that leaves nothing alive.
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
    let told = text(&house.run(&["get", SELECTOR]));
    assert!(told.contains("aegis-broker exec --use"), "{told}");
    let output = exec(&house, &[SELECTOR], &["true"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// HY-11: what a command was given is masked where its output is piped, in either stream, and told;
/// with `--no-redact` it is not.
#[test]
fn a_piped_commands_output_is_masked() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let script = "t=$GOOGLE_OAUTH_ACCESS_TOKEN; echo \"<$t>\"; printf %s \"$t\" | base64 -w0; \
                  echo \"<$t>\" >&2; exit 3";
    let ran = house.run(&["exec", "--use", SELECTOR, "--", "sh", "-c", script]);
    assert_eq!(ran.status.code(), Some(3));
    let output = String::from_utf8(ran.stdout).unwrap();
    assert!(output.starts_with("<[***]>\n[***]"), "{output}");
    assert_eq!(
        output.trim_end_matches('=').len(),
        "<[***]>\n[***]".len(),
        "{output}"
    );
    let errors = String::from_utf8(ran.stderr).unwrap();
    assert!(errors.starts_with("<[***]>\n"), "{errors}");
    assert!(
        errors.contains("was in the output and is masked"),
        "{errors}"
    );
}

/// A command that is not there costs no lease.
#[test]
fn a_command_that_is_not_there_costs_no_lease() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    for command in ["no-such-command-anywhere", "/no/such/command"] {
        let ran = house.run(&["exec", "--use", SELECTOR, "--", command]);
        assert_eq!(ran.status.code(), Some(127), "{command}");
    }
    let shown = house.run(&["audit", "show", "--json"]);
    assert!(!text(&shown).contains("lease.create"));
}
