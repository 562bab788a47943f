//! A private folder with the bundled server, a daemon and the commands that talk to it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use aegis_mock::{Background, Options, RequestRecord};
use rustix::process::{Pid, Resource, Rlimit, Signal, Uid, kill_process, prlimit};
use rustix::thread::set_thread_res_uid;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const BROKER: &str = env!("CARGO_BIN_EXE_aegis-broker");

pub(crate) const SELECTOR: &str = "gcp/billing-prod/deploy-bot";

/// Long enough for a debug build on a busy machine, short enough to end a hung test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody who is not root and has no entry in any list of users, whatever the tests run as.
pub(crate) const NOBODY: u32 = 54_321;

const SERVER_POLICY: &str = r#"
[server]
interval_seconds = 1
[throttle]
enabled = false
[[tenant]]
id = "business-default"
[[user]]
uid = "u-demo"
tenants = ["business-default"]
role = "org_admin"
[[grant]]
principal = "user:u-demo"
actions = ["create", "redeem", "revoke"]
selector = "provider:gcp:app:billing-prod:account:deploy-bot"
[[credential]]
selector = "provider:gcp:app:billing-prod:account:deploy-bot"
kind = "gcp_access_token"
fields = { access_token = "mock-gcp-{random}", service_account_email = "deploy-bot@billing-prod.example", project_id = "billing-prod" }
"#;

/// The bundled server, and requests to it.
#[derive(Debug)]
pub(crate) struct Server(Background);

impl Deref for Server {
    type Target = Background;

    fn deref(&self) -> &Background {
        &self.0
    }
}

impl Server {
    fn start() -> Self {
        let options = Options {
            policy_toml: Some(SERVER_POLICY.to_owned()),
            ..Options::default()
        };
        Self(Background::start(options).unwrap())
    }

    /// The status of `/fake/gcp/whoami` for that material.
    pub(crate) fn whoami(&self, material: &str) -> u16 {
        let url = format!("{}fake/gcp/whoami", self.mock.api());
        self.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = client.get(url).bearer_auth(material).send().await.unwrap();
            answer.status().as_u16()
        })
    }

    /// POSTs JSON with a bearer token, for the status.
    pub(crate) fn post(&self, url: &str, token: &str, body: String) -> u16 {
        self.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.post(url).bearer_auth(token).body(body);
            let request = request.header("content-type", "application/json");
            request.send().await.unwrap().status().as_u16()
        })
    }

    /// Waits until the journal has such a call.
    pub(crate) fn wait_for(&self, method: &str, result: &str) {
        self.wait_for_call(|call| call.method == method && call.result == result);
    }

    /// Waits until the journal has a matching call.
    pub(crate) fn wait_for_call(&self, matches: impl Fn(&RequestRecord) -> bool) {
        self.block_on(async {
            let seen = self.mock.wait_for_request(matches);
            tokio::time::timeout(PATIENCE, seen).await.unwrap();
        });
    }
}

/// Everything a person has.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) server: Server,
    pub(crate) folder: TempDir,
    pub(crate) broker: PathBuf,
    uid: Option<u32>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::of(None)
    }

    /// With a daemon that runs as an ordinary user, where the tests run as root.
    pub(crate) fn of_nobody() -> Self {
        let root = rustix::process::geteuid().is_root();
        Self::of(root.then_some(NOBODY))
    }

    fn of(uid: Option<u32>) -> Self {
        let server = Server::start();
        let folder = tempfile::Builder::new()
            .prefix("aegis-e2e-")
            .tempdir()
            .unwrap();
        let mut house = Self {
            broker: PathBuf::from(BROKER),
            server,
            folder,
            uid,
        };
        house.broker = house.copy_of(&house.broker);
        house.write("config.toml", &house.config());
        house.write("policy.toml", &policy("allow"));
        if uid.is_some() {
            for path in ["", "config.toml", "policy.toml"] {
                house.hand_over(&house.path(path));
            }
        }
        house
    }

    /// A copy of a program, because another user may not be able to enter the build folder. Made by
    /// a process of its own: whatever another test starts meanwhile would inherit our open file for
    /// a moment, and a file that is open for writing cannot be executed.
    pub(crate) fn copy_of(&self, program: &Path) -> PathBuf {
        let mut name = program.file_name().unwrap().to_owned();
        name.push("-copy");
        let copy = self.folder.path().join(name);
        let copied = Command::new("cp").arg(program).arg(&copy).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    }

    /// The configuration for the bundled server.
    pub(crate) fn config(&self) -> String {
        config(self.server.mock.api().as_str())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Where `XDG_RUNTIME_DIR` points.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime().join("aegis-broker").join("broker.sock")
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.path(".local/state/aegis-broker/audit")
    }

    /// The binary in this house's surroundings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.broker);
        self.surround(&mut command);
        command.args(arguments);
        command
    }

    /// Any command in this house's surroundings, as this house's user.
    pub(crate) fn surround(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("XDG_RUNTIME_DIR", self.runtime())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, for its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that must fail with that code, told in JSON, and with its exit status.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> (String, i32) {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(!output.status.success(), "{arguments:?} succeeded");
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", text(&output)));
        let code = answer["error"]["code"].as_str().unwrap().to_owned();
        (code, output.status.code().unwrap())
    }

    /// Makes what `XDG_RUNTIME_DIR` points to, as a desktop session does, where nobody has yet.
    pub(crate) fn make_runtime(&self) {
        if !self.runtime().exists() {
            fs::create_dir(self.runtime()).unwrap();
            fs::set_permissions(self.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
            self.hand_over(&self.runtime());
        }
    }

    pub(crate) fn daemon_command(&self) -> Command {
        self.make_runtime();
        let mut command = self.bare_daemon_command();
        command.arg("--policy").arg(self.path("policy.toml"));
        command
    }

    /// The same without a policy.
    pub(crate) fn bare_daemon_command(&self) -> Command {
        let mut command = self.command(&["daemon", "--config"]);
        command.arg(self.path("config.toml"));
        command
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn daemon(&self) -> Daemon {
        self.start(&mut self.daemon_command(), "trace")
    }

    /// The same with another command line and log level.
    pub(crate) fn start(&self, command: &mut Command, level: &str) -> Daemon {
        let notify = self.path("notify");
        drop(fs::remove_file(&notify));
        let ready = UnixDatagram::bind(&notify).unwrap();
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o666)).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .unwrap();
        let out = fs::File::create(self.path("daemon.out")).unwrap();
        let mut child = command
            .env("NOTIFY_SOCKET", &notify)
            .env("RUST_LOG", level)
            .stdout(out)
            .stderr(log)
            .spawn()
            .unwrap();
        let mut message = [0; 256];
        let length = match hear(&ready, &mut message) {
            Ok(length) => length,
            Err(error) => {
                child.kill().unwrap();
                child.wait().unwrap();
                let log = fs::read_to_string(self.path("daemon.log")).unwrap();
                panic!("not ready: {error}: {log}");
            }
        };
        assert!(message[..length].starts_with(b"READY=1"));
        Daemon {
            child,
            notify: ready,
        }
    }

    /// Gives a file to this house's user.
    pub(crate) fn hand_over(&self, path: &Path) {
        if let Some(uid) = self.uid {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
        }
    }

    /// Logs in as the demo user: shown, approved, waited for.
    pub(crate) fn log_in(&self) {
        let shown = self.run(&["login", "--no-wait", "--json"]);
        assert!(shown.status.success(), "{}", text(&shown));
        let view: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let code = find(&view, "user_code").unwrap();
        self.server.mock.approve(&code).unwrap();
        let done = self.run(&["login", "--json"]);
        assert!(done.status.success(), "{}", text(&done));
    }

    /// One request over the socket, for its answer.
    pub(crate) fn ask(&self, method: &str, params: &Value) -> Value {
        self.connect_as_user().ask(method, params)
    }

    /// A connection of this house's user, whoever the tests run as.
    fn connect_as_user(&self) -> Peer {
        let Some(uid) = self.uid.map(Uid::from_raw) else {
            return self.connect();
        };
        // The kernel keeps the user of the thread that connects.
        let connecting = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                set_thread_res_uid(uid, uid, uid).unwrap();
                self.connect()
            });
            connecting.join()
        });
        connecting.unwrap()
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(&self.socket())
    }

    /// A connection to `mcp.sock`, past its handshake in the older era.
    pub(crate) fn connect_model(&self) -> Peer {
        let mut model = Peer::connect(&self.socket().with_file_name("mcp.sock"));
        let hello = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "e2e", "version": "0" },
        });
        let begun = model.ask("initialize", &hello);
        assert_eq!(begun["result"]["protocolVersion"], "2025-11-25", "{begun}");
        model.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
        model
    }

    /// The access token for the selector, over the socket.
    pub(crate) fn material(&self) -> String {
        let answer = self.ask("credential.get", &json!({ "selector": SELECTOR }));
        answer["result"]["fields"]["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }
}

/// The next datagram. The kernel may interrupt a wait that has a limit, for no signal of anybody's.
fn hear(socket: &UnixDatagram, message: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.recv(message) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A port that was free a moment ago and that nobody listens on.
pub(crate) fn deaf_port() -> u16 {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    taken.local_addr().unwrap().port()
}

/// A configuration with that server's address.
pub(crate) fn config(url: &str) -> String {
    format!(
        r#"[profiles.work]
base_url = "{url}"
tenant_id = "business-default"
allow_insecure_loopback = true

[[profiles.work.target]]
selector = "{SELECTOR}"
"#
    )
}

pub(crate) fn policy(effect: &str) -> String {
    let expose = if effect == "deny" {
        ""
    } else {
        "expose = \"reveal\"\n"
    };
    format!("[[rule]]\nid = \"e2e\"\neffect = \"{effect}\"\nselectors = [\"{SELECTOR}\"]\n{expose}")
}

/// The first member of that name, however deep.
pub(crate) fn find(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::Object(members) => members
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .or_else(|| members.values().find_map(|member| find(member, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{} stdout: {} stderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A daemon. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    notify: UnixDatagram,
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGHUP, and the word that what it asks for is done.
    pub(crate) fn reload(&self) {
        self.signal(Signal::HUP);
        for word in ["RELOADING=1", "READY=1"] {
            let mut message = [0; 256];
            let length = hear(&self.notify, &mut message).unwrap();
            assert!(message[..length].starts_with(word.as_bytes()), "{word}");
        }
    }

    /// SIGTERM, and the end of it.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }

    /// From now on the kernel ends it at the first byte of a file beyond this length.
    pub(crate) fn limit_files_to(&self, length: u64) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let limit = Rlimit {
            current: Some(length),
            maximum: None,
        };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    }

    /// Waits for an end that it comes to by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// SIGKILL, and the end of it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_running() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// A connection to a socket, byte by byte.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    reader: BufReader<UnixStream>,
    next: u64,
    /// Every byte that came.
    pub(crate) transcript: String,
}

impl Peer {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            reader: BufReader::new(stream.try_clone().unwrap()),
            stream,
            next: 0,
            transcript: String::new(),
        }
    }

    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let line = json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params });
        self.send(format!("{line}\n").as_bytes());
        let answer = self.receive().expect("an answer");
        assert_eq!(answer["id"], self.next, "{answer}");
        answer
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next answer; `None` when the daemon hung up.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                self.transcript.push_str(&line);
                Some(serde_json::from_str(&line).unwrap())
            }
            // A reset is an end too: the daemon closed with our bytes unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every file below a folder, with its bytes.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    found
}

pub(crate) fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle.as_bytes())
}
