use std::io::Write as _;
use std::process::Command;

use super::house::{House, Peer, SELECTOR};

/// HY-1: another process of the same ordinary user cannot read the daemon's memory, environment,
/// maps or descriptors. The control: the same attempts on a process that did nothing for itself
/// succeed.
#[test]
fn another_process_of_the_same_user_cannot_look_inside() {
    let house = House::of_nobody();
    let daemon = house.daemon();
    house.log_in();
    house.json(&["get", SELECTOR]);
    let attempt = |program: &str, arguments: &[String]| {
        let mut command = Command::new(program);
        house.surround(&mut command);
        command.args(arguments).output().unwrap().status.success()
    };
    let mut sleep = Command::new("sleep");
    house.surround(&mut sleep);
    let mut open = sleep.arg("600").spawn().unwrap();
    let attempts = |pid: u32| {
        [
            ("environ", attempt("cat", &[format!("/proc/{pid}/environ")])),
            ("maps", attempt("cat", &[format!("/proc/{pid}/maps")])),
            ("descriptors", attempt("ls", &[format!("/proc/{pid}/fd")])),
            (
                "executable",
                attempt("readlink", &[format!("/proc/{pid}/exe")]),
            ),
            (
                "memory",
                attempt("sh", &["-c".to_owned(), format!("exec 3< /proc/{pid}/mem")]),
            ),
        ]
    };
    let on_the_open = attempts(open.id());
    let on_the_daemon = attempts(daemon.pid());
    open.kill().unwrap();
    open.wait().unwrap();
    for (name, succeeded) in on_the_open {
        assert!(succeeded, "the control failed: {name}");
    }
    for (name, succeeded) in on_the_daemon {
        assert!(!succeeded, "{name} of the daemon can be read");
    }
}

/// PE-2: whoever is not the daemon's own user is hung up on before a byte is read.
#[test]
fn another_user_is_not_served() {
    let house = House::of_nobody();
    let mut daemon = house.daemon();
    let served = |mut peer: Peer| {
        let request = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"broker.status\"}\n";
        peer.stream.write_all(request).is_ok() && peer.receive().is_some()
    };
    // The tests' own user is another one only where they run as root, who alone can get past
    // the folder.
    let is_other = rustix::process::geteuid().is_root();
    assert_eq!(served(house.connect()), !is_other);
    house.json(&["status"]);
    assert!(daemon.is_running());
}

/// HY-1, HY-2: the daemon can gain no privileges, leaves no core, and nobody traces it.
#[test]
fn the_daemon_is_hardened() {
    let house = House::of_nobody();
    let daemon = house.daemon();
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", daemon.pid()));
    let status = read("status").unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("Umask:\t0077"), "{status}");
    assert!(status.contains("TracerPid:\t0"), "{status}");
    let limits = read("limits").unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}
