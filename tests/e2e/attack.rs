use std::collections::BTreeSet;
use std::fs;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};

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

/// Where this program is started to try a system call on a process.
const TRIED: &str = "AEGIS_E2E_TRIED";

/// HY-1: the system calls that read another process's memory or take its descriptors are refused to
/// the same ordinary user. The control: on a process that did nothing for itself the first gets as
/// far as the address, which is none, and the second succeeds.
#[test]
fn another_process_of_the_same_user_cannot_reach_inside() {
    if let Some(pid) = std::env::var_os(TRIED) {
        let pid: i32 = pid.to_str().unwrap().parse().unwrap();
        let mut byte = [0];
        let nowhere = [RemoteIoVec { base: 1, len: 1 }];
        let read = process_vm_readv(
            Pid::from_raw(pid),
            &mut [IoSliceMut::new(&mut byte)],
            &nowhere,
        );
        let process = rustix::process::Pid::from_raw(pid).unwrap();
        let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
        let taken = pidfd_getfd(&process, 0, PidfdGetfdFlags::empty());
        let refused = [
            read == Err(Errno::EPERM),
            matches!(taken, Err(rustix::io::Errno::PERM)),
        ];
        assert!(read.is_err(), "there is nothing to read there");
        let line = format!("refused: {} {}\n", refused[0], refused[1]);
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        return;
    }
    let house = House::of_nobody();
    let program = house.copy_of(&std::env::current_exe().unwrap());
    let daemon = house.daemon();
    house.log_in();
    house.json(&["get", SELECTOR]);
    let mut sleep = Command::new("sleep");
    house.surround(&mut sleep);
    let mut open = sleep.arg("600").spawn().unwrap();
    let refused = |pid: u32| {
        let mut command = Command::new(&program);
        house.surround(&mut command);
        let name = "attack::another_process_of_the_same_user_cannot_reach_inside";
        command.args(["--exact", name, "--nocapture"]);
        let output = command.env(TRIED, pid.to_string()).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let (_, told) = told.split_once("refused: ").expect("it was not tried");
        told.lines().next().unwrap().to_owned()
    };
    let (on_the_open, on_the_daemon) = (refused(open.id()), refused(daemon.pid()));
    open.kill().unwrap();
    open.wait().unwrap();
    assert_eq!(on_the_open, "false false", "the control");
    assert_eq!(on_the_daemon, "true true", "memory, descriptors");
}

/// What of `/proc/PID` the kernel shows of any process, and to everybody: what is run and since
/// when, where it belongs, what it may, how it fares. Nothing that it holds is among it.
const SHOWN_OF_ANYBODY: [&str; 38] = [
    "arch_status",
    "attr",
    "autogroup",
    "cgroup",
    "cmdline",
    "comm",
    "coredump_filter",
    "cpu_resctrl_groups",
    "cpuset",
    "gid_map",
    "ksm_merging_pages",
    "ksm_stat",
    "latency",
    "limits",
    "loginuid",
    "mountinfo",
    "mounts",
    "mountstats",
    "net",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "patch_state",
    "projid_map",
    "sched",
    "schedstat",
    "sessionid",
    "setgroups",
    "stat",
    "statm",
    "status",
    "task",
    "timens_offsets",
    "timers",
    "timerslack_ns",
    "uid_map",
    "wchan",
    "mem_cgroup_path",
];

/// HY-1: of everything in its folder of `/proc` the same ordinary user reads of the daemon what the
/// kernel shows of anybody, and no more. The control: of a process that did nothing for itself it
/// reads what is refused here.
#[test]
fn nothing_of_the_daemon_is_read_but_what_is_shown_of_anybody() {
    let house = House::of_nobody();
    let daemon = house.daemon();
    house.log_in();
    house.json(&["get", SELECTOR]);
    let mut sleep = Command::new("sleep");
    house.surround(&mut sleep);
    let mut open = sleep.arg("600").spawn().unwrap();
    let read = |pid: u32| -> BTreeSet<String> {
        let script = format!(
            r#"cd /proc/{pid} || exit 1; for one in *; do \
               {{ readlink "$one" || ls "$one"/ || head -c1 "$one"; }} >/dev/null 2>&1 && echo "$one"; \
               done; true"#
        );
        let mut shell = Command::new("sh");
        house.surround(&mut shell);
        let output = shell.args(["-c", &script]).output().unwrap();
        assert!(output.status.success());
        let told = String::from_utf8(output.stdout).unwrap();
        told.lines().map(str::to_owned).collect()
    };
    let (of_the_open, of_the_daemon) = (read(open.id()), read(daemon.pid()));
    open.kill().unwrap();
    open.wait().unwrap();
    for name in [
        "environ", "maps", "smaps", "auxv", "fd", "exe", "cwd", "root",
    ] {
        assert!(of_the_open.contains(name), "the control: {name}");
        assert!(
            !of_the_daemon.contains(name),
            "{name} of the daemon is read"
        );
    }
    let more: Vec<_> = of_the_daemon
        .iter()
        .filter(|name| !SHOWN_OF_ANYBODY.contains(&name.as_str()))
        .collect();
    assert!(more.is_empty(), "{more:?} of the daemon can be read");
    assert!(
        of_the_daemon.contains("cmdline"),
        "what is not refused is named"
    );
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
