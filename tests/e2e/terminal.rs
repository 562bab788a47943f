//! Commands whose output is a terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::house::{House, PATIENCE, SELECTOR, contains, find};

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
    let mut approved = false;
    let shown = read(&controller, |shown| {
        if !approved && contains(shown, "approve only if") {
            let code = house.server.mock.pending_user_codes().pop().unwrap();
            house.server.mock.approve(&code).unwrap();
            approved = true;
        }
    });
    assert!(child.wait().unwrap().success());
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
        let shown = read(&controller, |_| {});
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let status = child.wait().unwrap().code().unwrap();
        (status, shown, said)
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

/// All that comes out of a terminal until its other end is closed; `so_far` sees it grow.
fn read(controller: &OwnedFd, mut so_far: impl FnMut(&[u8])) -> String {
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    loop {
        let mut one = [PollFd::new(controller, PollFlags::IN)];
        let ready = poll(&mut one, Some(&patience)).unwrap();
        assert_eq!(ready, 1, "{}", String::from_utf8_lossy(&shown));
        let Ok(length @ 1..) = rustix::io::read(controller, &mut buffer) else {
            break;
        };
        shown.extend_from_slice(&buffer[..length]);
        so_far(&shown);
    }
    String::from_utf8(shown).unwrap()
}

/// Ctrl-C reaches a command under `exec` once: from the terminal, and not from us as well.
#[test]
fn an_interrupt_of_the_terminal_is_heard_once() {
    const SCRIPT: &str = "exec </dev/tty; trap 'echo heard' INT; trap 'echo over; exit 3' USR1; echo up; \
        until read x; do :; done; kill -USR1 $PPID; while :; do read x; done";
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let (controller, mut child) = exec_on_a_terminal(&house, SCRIPT);
    let mut keys = File::from(controller.try_clone().unwrap());
    let (mut interrupted, mut answered) = (false, false);
    let shown = read(&controller, |shown| {
        if !interrupted && contains(shown, "up") {
            keys.write_all(b"\x03").unwrap();
            interrupted = true;
        }
        if !answered && contains(shown, "heard") {
            keys.write_all(b"go\n").unwrap();
            answered = true;
        }
    });
    assert_eq!(child.wait().unwrap().code(), Some(3), "{shown}");
    assert_eq!(shown.matches("heard").count(), 1, "{shown}");
    assert!(shown.contains("over"), "{shown}");
}

/// A Ctrl-C that ends a command is not taken for a word to us, who still give its lease back.
#[test]
fn an_interrupt_that_ends_the_command_is_not_ours() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let (controller, mut child) =
        exec_on_a_terminal(&house, "echo up; exec cat </dev/tty >/dev/null");
    let mut keys = File::from(controller.try_clone().unwrap());
    let mut interrupted = false;
    let shown = read(&controller, |shown| {
        if !interrupted && contains(shown, "up") {
            keys.write_all(b"\x03").unwrap();
            interrupted = true;
        }
    });
    assert_eq!(child.wait().unwrap().code(), Some(130), "{shown}");
    assert!(!shown.contains("aegis-broker"), "{shown}");
    assert_eq!(house.json(&["status"])["live_leases"], 0);
}

/// A script under `exec`, in a session with a terminal of its own.
fn exec_on_a_terminal(house: &House, script: &str) -> (OwnedFd, Child) {
    let (controller, terminal) = terminal();
    let mut command = Command::new("setsid");
    // Standard input is no terminal: the one that controls us counts.
    let piped = "exec \"$@\" </dev/null";
    command.args(["--ctty", "--wait", "sh", "-c", piped, "sh"]);
    command.arg(&house.broker);
    command.args(["exec", "--use", SELECTOR, "--", "sh", "-c", script]);
    house.surround(&mut command);
    command
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal);
    let child = command.spawn().unwrap();
    // The child's end is the last one now: reading ends when it does.
    drop(command);
    (controller, child)
}
