use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{Signal, kill_process};

use super::house::{House, NOBODY, Peer, SELECTOR};

/// Where this program is started to attach itself to a process.
const TRACED: &str = "AEGIS_E2E_TRACED";

/// HY-1: another process of the same ordinary user cannot read the daemon's memory, environment,
/// maps or descriptors, nor trace it. The control: the same attempts on a process that did nothing
/// for itself succeed.
#[test]
fn another_process_of_the_same_user_cannot_look_inside() {
    if let Some(pid) = std::env::var_os(TRACED) {
        let pid = Pid::from_raw(pid.to_str().unwrap().parse().unwrap());
        ptrace::seize(pid, ptrace::Options::empty()).unwrap();
        return;
    }
    let house = House::of_nobody();
    let program = house.copy_of(&std::env::current_exe().unwrap());
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
    let trace = |pid: u32| {
        let mut command = Command::new(&program);
        house.surround(&mut command);
        let name = "attack::another_process_of_the_same_user_cannot_look_inside";
        let command = command.args(["--exact", name]).env(TRACED, pid.to_string());
        command.output().unwrap().status.success()
    };
    let attempts = |pid: u32| {
        [
            ("trace", trace(pid)),
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

/// PE-2: a command says nothing to a listener of another user's, even in a folder of its own. Only
/// root can put one there; where the tests are not root it is one of the same user's.
#[test]
fn a_command_does_not_talk_to_another_users_listener() {
    let house = House::of_nobody();
    house.make_runtime();
    let is_other = rustix::process::geteuid().is_root();
    let folder = house.runtime().join("aegis-broker");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    if is_other {
        std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let squatter = UnixListener::bind(house.socket()).unwrap();
    fs::set_permissions(house.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let listening = std::thread::spawn(move || {
        let mut said = Vec::new();
        let (mut peer, _) = squatter.accept().unwrap();
        // What came before the end, or before a hang-up.
        let _end = peer.read(&mut [0; 1]).map(|length| said.resize(length, 0));
        said.len()
    });
    let (code, _) = house.refusal(&["status"]);
    let heard = listening.join().unwrap();
    assert_eq!(code == "runtime_folder_unsafe", is_other, "{code}");
    assert_eq!(heard == 0, is_other, "{heard}");
}

/// HY-2: nothing that is traced becomes a daemon: its tracer would keep its view of the memory.
/// The control: one that is not traced runs here already, so this one would end in any case, but
/// with another status.
#[test]
#[expect(
    clippy::zombie_processes,
    reason = "its tracer waits for it, by its number"
)]
fn a_daemon_that_is_traced_does_not_start() {
    let house = House::new();
    let _first = house.daemon();
    let daemon = house.daemon_command();
    let mut shell = Command::new("sh");
    house.surround(&mut shell);
    // It stops, is seized, and becomes the daemon.
    let mut child = shell
        .args(["-c", r#"kill -STOP $$; exec "$0" "$@""#])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = child.stderr.take().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    ptrace::seize(pid, ptrace::Options::PTRACE_O_EXITKILL).unwrap();
    let process = rustix::process::Pid::from_raw(pid.as_raw()).unwrap();
    kill_process(process, Signal::CONT).unwrap();
    let status = loop {
        if let WaitStatus::Exited(_, status) = waitpid(pid, None).unwrap() {
            break status;
        }
        ptrace::cont(pid, None).unwrap();
    };
    let mut said = String::new();
    told.read_to_string(&mut said).unwrap();
    assert_eq!(status, 70, "{said}");
    assert!(
        said.contains("does not start while it is being traced"),
        "{said}"
    );
}

/// HY-1, HY-2: the daemon can gain no privileges, leaves no core, and nobody traces it.
#[test]
fn the_daemon_is_hardened() {
    let house = House::of_nobody();
    let daemon = house.daemon();
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", daemon.pid()));
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
