use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use aegis_broker::audit::{self, Keys};
use aegis_mock::{FaultKind, LeaseState};
use serde_json::json;

use super::house::{House, Peer, SELECTOR, config, deaf_port, find, text};

/// SIGTERM: what is live is revoked at the issuer, the socket is gone, the log verifies.
#[test]
fn a_stop_revokes_and_leaves_a_log_that_verifies() {
    let house = House::new();
    let daemon = house.daemon();
    house.log_in();
    let material = house.material();
    assert!(daemon.stop().success());
    assert_eq!(house.server.whoami(&material), 401);
    assert!(
        house
            .server
            .mock
            .leases()
            .iter()
            .all(|lease| lease.state == LeaseState::Revoked)
    );
    assert!(!house.socket().exists());
    let report = audit::verify::verify(&house.audit(), &Keys::none()).unwrap();
    assert_eq!(report.damage, None);
    assert!(!report.torn_tail);
    assert_eq!(report.keyed, 0, "without the key it is chained, not keyed");
}

/// A second daemon ends with its own code and harms nothing of the first one's.
#[test]
fn a_second_daemon_leaves_the_first_alone() {
    let house = House::new();
    let mut daemon = house.daemon();
    house.log_in();
    for _ in 0..3 {
        let output = house.daemon_command().output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{}", text(&output));
        assert!(text(&output).contains("already"), "{}", text(&output));
    }
    // Nor does it say how to approve a login at a server that ends with it.
    let mut with_a_server = house.command(&["daemon", "--mock"]);
    let output = with_a_server.env("RUST_LOG", "info").output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    assert!(!text(&output).contains("approve"), "{}", text(&output));
    assert!(daemon.is_running());
    house.material();
}

/// A socket that nobody listens on any more does not keep a daemon from starting.
#[test]
fn a_stale_socket_is_replaced() {
    let house = House::new();
    house.daemon().kill();
    assert!(house.socket().exists(), "a kill leaves the socket behind");
    let _daemon = house.daemon();
    house.json(&["status"]);
}

/// PE-1: a runtime folder that is not private and ours is refused, and nothing is touched.
#[test]
fn a_runtime_folder_that_cannot_be_trusted_is_refused() {
    let house = House::new();
    house.make_runtime();
    let folder = house.runtime().join("aegis-broker");
    let elsewhere = house.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    let rows: [(&str, &dyn Fn()); 4] = [
        ("open to others", &|| {
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("writable by the group", &|| {
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        }),
        ("a link", &|| symlink(&elsewhere, &folder).unwrap()),
        ("a file", &|| fs::write(&folder, "").unwrap()),
    ];
    for (name, make) in rows {
        make();
        let output = house.daemon_command().output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{name}: {}", text(&output));
        let told = text(&output);
        assert!(told.contains(folder.to_str().unwrap()), "{name}: {told}");
        assert!(!house.socket().exists() || name == "a link", "{name}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "{name}");
        if fs::symlink_metadata(&folder).unwrap().is_dir() {
            fs::remove_dir_all(&folder).unwrap();
        } else {
            fs::remove_file(&folder).unwrap();
        }
    }
}

/// PE-2: a client does not talk to a socket in a folder that others can enter.
#[test]
fn a_command_does_not_trust_an_open_folder() {
    let house = House::new();
    house.make_runtime();
    let folder = house.runtime().join("aegis-broker");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let _squatter = UnixListener::bind(house.socket()).unwrap();
    assert_eq!(
        house.refusal(&["status"]),
        ("runtime_folder_unsafe".to_owned(), 78)
    );
}

/// A configuration with a mistake is refused whole, with file and key, before anything is bound.
#[test]
fn a_mistake_in_the_configuration_is_named() {
    let house = House::new();
    let rows = [
        (
            "unknown key",
            format!("{}\nsurprise = true\n", house.config()),
            "surprise",
        ),
        (
            "plain http",
            house
                .config()
                .replace("http://127.0.0.1", "http://example.com"),
            "base_url",
        ),
        (
            "wildcard target",
            house.config().replace("deploy-bot", "*"),
            "selector",
        ),
        ("not TOML", "profiles = [".to_owned(), "config.toml"),
        ("nothing", String::new(), "profiles"),
    ];
    for (name, config, word) in rows {
        house.write("config.toml", &config);
        let output = house.daemon_command().output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{name}: {}", text(&output));
        assert!(text(&output).contains(word), "{name}: {}", text(&output));
        assert!(!house.socket().exists(), "{name}");
    }
}

/// `--socket` names a daemon that runs: one that starts says so instead of ignoring it.
#[test]
fn a_new_daemon_takes_no_socket() {
    let house = House::new();
    for command in ["daemon", "demo"] {
        let refused = house.refusal(&[command, "--socket", "/nowhere/broker.sock"]);
        assert_eq!(refused, ("usage".to_owned(), 64), "{command}");
    }
}

/// A policy that was named and is not there is no empty policy, and a mistake in one is told
/// with the page that shows how it is written.
#[test]
fn a_mistake_in_the_policy_is_named() {
    let house = House::new();
    house.make_runtime();
    house.write("broken.toml", "[[rule]]\nid = \"x\"\nefect = \"allow\"\n");
    for (name, mistake, fix) in [
        ("missing.toml", "there is no policy file", "--policy"),
        ("broken.toml", "efect", "config/policy.example.toml"),
    ] {
        let file = house.path(name);
        for command in [
            &mut house.bare_daemon_command(),
            &mut house.command(&["daemon", "--mock"]),
        ] {
            let output = command.arg("--policy").arg(&file).output().unwrap();
            let told = text(&output);
            assert_eq!(output.status.code(), Some(78), "{told}");
            for word in [file.to_str().unwrap(), mistake, fix] {
                assert!(told.contains(word), "{word}: {told}");
            }
            assert!(!house.socket().exists(), "{name}");
        }
    }
}

/// LC-7: a lease that a connection holds ends with it, confirmed by the issuer.
#[test]
fn a_lease_ends_with_its_connection() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let mut peer = house.connect();
    let got = peer.ask(
        "credential.get",
        &json!({ "selector": SELECTOR, "holder": "connection" }),
    );
    let token = got["result"]["fields"]["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(house.server.whoami(&token), 200);
    drop(peer);
    house.server.wait_for("RevokeCredentialLease", "ok");
    assert_eq!(house.server.whoami(&token), 401);
}

/// LC-7: a lease that a process holds outlives its connection and ends with the process.
#[test]
fn a_lease_ends_with_its_process() {
    // The process is this test once more.
    if let Some(socket) = std::env::var_os("AEGIS_E2E_HOLD") {
        return hold(Path::new(&socket));
    }
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let mut client = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifecycle::a_lease_ends_with_its_process"])
        .arg("--nocapture")
        .env("AEGIS_E2E_HOLD", house.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut token = String::new();
    let mut told = BufReader::new(client.stderr.take().unwrap());
    told.read_line(&mut token).unwrap();
    assert_eq!(
        house.server.whoami(token.trim()),
        200,
        "its connection is closed already"
    );
    drop(client.stdin.take());
    assert!(client.wait().unwrap().success());
    house.server.wait_for("RevokeCredentialLease", "ok");
    assert_eq!(house.server.whoami(token.trim()), 401);
}

/// Takes a lease that dies with this process, closes the connection, says so on standard error,
/// and lives on until its standard input ends.
fn hold(socket: &Path) {
    let mut peer = Peer::connect(socket);
    let got = peer.ask(
        "credential.get",
        &json!({ "selector": SELECTOR, "holder": "client" }),
    );
    drop(peer);
    let token = got["result"]["fields"]["access_token"].as_str().unwrap();
    let line = format!("{token}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A server that is slow or lies costs its caller an answer, and nobody else anything.
#[test]
fn a_server_that_stalls_or_lies_does_not_keep_others_waiting() {
    let house = House::new();
    let mut daemon = house.daemon();
    house.log_in();
    house.material();
    let mock = &house.server.mock;
    mock.fault("CreateCredentialLease", FaultKind::Stall, 1);
    let mut stuck = house.connect();
    stuck.send(
        format!(
            "{}\n",
            json!({"jsonrpc": "2.0", "id": 1, "method": "lease.create", "params": {"selector": SELECTOR}})
        )
        .as_bytes(),
    );
    house.server.wait_for("CreateCredentialLease", "stalled");
    house.material();
    house.json(&["status"]);
    for kind in [FaultKind::BadJson, FaultKind::HugeBody] {
        // The call and its one repeat.
        mock.fault("CreateCredentialLease", kind, 2);
        let refused = house.refusal(&["lease", "create", SELECTOR]);
        assert_eq!(refused, ("aegis_protocol".to_owned(), 76), "{kind:?}");
        house.material();
    }
    assert!(daemon.is_running());
    drop(stuck);
}

/// A server that is not there is `aegis_unavailable`, not a hang and not a crash.
#[test]
fn an_unreachable_server_is_said_to_be_so() {
    let house = House::new();
    let place = format!("http://127.0.0.1:{}/", deaf_port());
    house.write("config.toml", &config(&place));
    let mut daemon = house.daemon();
    assert_eq!(
        house.refusal(&["login"]),
        ("aegis_unavailable".to_owned(), 69)
    );
    let told = text(&house.run(&["login"]));
    assert!(told.contains(&place), "{told}");
    assert!(told.contains("the connection was refused"), "{told}");
    assert!(daemon.is_running());
}

/// What goes to Aegis goes there and nowhere else, whatever proxy the environment names.
#[test]
fn a_proxy_in_the_environment_is_not_used() {
    let house = House::new();
    let proxy = format!("http://127.0.0.1:{}/", deaf_port());
    let mut command = house.daemon_command();
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env(name, &proxy).env(name.to_uppercase(), &proxy);
    }
    let _daemon = house.start(&mut command, "info");
    house.log_in();
    assert_eq!(house.server.whoami(&house.material()), 200);
}

/// LM: room for all connections is made where the usual limit of open files has none. Where the
/// hard limit is too low for them, fewer are taken and the log says so: a process that takes all it
/// gets leaves some for the others. Where it has room for none, the daemon does not start.
#[test]
fn the_limit_of_open_files_carries_all_connections_that_are_taken() {
    for (soft, hard, expected, places) in [(256, 4096, "2176", 256), (256, 512, "512", 48)] {
        let house = House::new();
        let mut limited = with_open_files(&house, soft, hard);
        let daemon = house.start(&mut limited, "info");
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let found: Vec<_> = files.unwrap().split_whitespace().skip(3).take(2).collect();
        assert_eq!(found, [expected, &hard.to_string()]);
        let log = fs::read_to_string(house.path("daemon.log")).unwrap();
        let warned = log.contains("hard limit of open files");
        assert_eq!(warned, places < 256, "{log}");

        let mut crowd: Vec<_> = (0..places / 2).map(|_| house.connect()).collect();
        for one in &mut crowd {
            one.ask("broker.status", &json!({}));
        }
        let refused = house.connect().receive().unwrap();
        assert_eq!(refused["error"]["data"]["code"], "rate_limited");
        house.json(&["status"]);
    }
    let house = House::new();
    house.make_runtime();
    let refused = with_open_files(&house, 16, 16).output().unwrap();
    assert_eq!(refused.status.code(), Some(74));
    let told = text(&refused);
    assert!(
        told.contains("the hard limit of open files is 16"),
        "{told}"
    );
}

/// A daemon that starts with these limits.
fn with_open_files(house: &House, soft: u32, hard: u32) -> Command {
    let daemon = house.daemon_command();
    let mut limited = Command::new("sh");
    limited
        .args([
            "-c",
            "ulimit -Sn \"$1\"; ulimit -Hn \"$2\"; shift 2; exec \"$@\"",
            "sh",
        ])
        .args([soft.to_string(), hard.to_string()])
        .arg(daemon.get_program())
        .args(daemon.get_args());
    house.surround(&mut limited);
    limited
}

/// `daemon --mock` needs no file at all: server, catalogue and policy come along, and its log
/// says how to approve a login.
#[test]
fn the_bundled_server_comes_with_all_it_needs() {
    let house = House::new();
    house.make_runtime();
    let daemon = house.start(&mut house.command(&["daemon", "--mock"]), "info");
    let log = fs::read_to_string(house.path("daemon.log")).unwrap();
    let shown = house.json(&["login", "--no-wait"]);
    approve_as_the_log_says(&house, &log, &find(&shown, "user_code").unwrap());
    assert!(house.run(&["login"]).status.success());
    // It is the policy again where the policy is read again.
    daemon.reload();
    for selector in [
        SELECTOR,
        "gcp/billing-staging/deploy-bot",
        "generic/demo-db/reader",
    ] {
        house.json(&["get", selector]);
    }
}

/// What the bundled server revoked outlives SIGKILL of the daemon it is in, and where that cannot
/// be read nothing starts.
#[test]
fn what_the_bundled_server_revoked_is_kept() {
    let house = House::new();
    house.make_runtime();
    let daemon = house.start(&mut house.command(&["daemon", "--mock"]), "info");
    let log = fs::read_to_string(house.path("daemon.log")).unwrap();
    let shown = house.json(&["login", "--no-wait"]);
    approve_as_the_log_says(&house, &log, &find(&shown, "user_code").unwrap());
    assert!(house.run(&["login"]).status.success());
    let created = house.json(&["lease", "create", SELECTOR]);
    let lease = find(&created, "lease_id").unwrap();
    house.json(&["lease", "revoke", &lease]);
    daemon.kill();
    let kept = house.path(".local/state/aegis-broker/mock-revocations");
    let whole = fs::read_to_string(&kept).unwrap();
    assert_eq!(whole.matches("\"lease\":").count(), 1, "{whole}");

    let daemon = house.start(&mut house.command(&["daemon", "--mock"]), "info");
    assert!(daemon.stop().success());
    assert_eq!(fs::read_to_string(&kept).unwrap(), whole);
    fs::write(&kept, whole.replacen("\"lease\"", "\"Lease\"", 1)).unwrap();
    let refused = house.run(&["daemon", "--mock"]);
    assert_eq!(refused.status.code(), Some(74));
    let told = text(&refused);
    assert!(told.contains("mock-revocations: it is damaged"), "{told}");
}

/// Approves that code the way the log of a daemon with the bundled server says.
pub(crate) fn approve_as_the_log_says(house: &House, log: &str, user_code: &str) {
    let (_, rest) = log.split_once("Bearer ").expect("how to approve");
    let (token, rest) = rest.split_once('\'').unwrap();
    let url = rest
        .split_whitespace()
        .find(|word| word.contains("/_ctl/approve"))
        .unwrap();
    let approval = json!({ "userCode": user_code }).to_string();
    assert_eq!(house.server.post(url, token, approval), 200);
}
