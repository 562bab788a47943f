//! The bundled server, the daemon, the floor, and the folder they live in.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aegis_broker::model::{LoginPhase, Selector};
use aegis_broker::socket::client::Client;
use aegis_mock::{Background, Mock, Options};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Failed, Part};
use crate::cold::Cold;
use crate::load::{self, Exchange};
use crate::mcp::Models;

/// How long the daemon may take to be ready on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(20);

const SELECTOR: &str = "gcp/billing-prod/deploy-bot";

/// A token as long as a real one, so that a reply is about as long as a real one.
fn server_policy() -> String {
    format!(
        r#"
[server]
interval_seconds = 1
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
fields = {{ access_token = "mock-gcp-{{random}}-{}", service_account_email = "deploy-bot@billing-prod.example", project_id = "billing-prod" }}
"#,
        "x".repeat(300)
    )
}

fn config(mock: &Mock) -> String {
    format!(
        r#"[profiles.bench]
base_url = "{}"
tenant_id = "business-default"
allow_insecure_loopback = true
client_display_name = "aegis-broker bench"
token_ttl = "15m"

[[profiles.bench.target]]
selector = "{SELECTOR}"
ttl = "14m"
"#,
        mock.api()
    )
}

fn broker_policy() -> String {
    format!(
        r#"[[rule]]
id = "bench"
effect = "allow"
selectors = ["{SELECTOR}"]
expose = "reveal"
"#
    )
}

/// Everything that runs. Dropped, it is ended and the folder is gone.
#[derive(Debug)]
pub(crate) struct Household {
    models: Option<Models>,
    bin: PathBuf,
    daemon: Daemon,
    floor: Option<Floor>,
    exchange: Exchange,
    server: Background,
    interrupted: Arc<AtomicBool>,
    folder: tempfile::TempDir,
}

impl Household {
    /// Starts server and daemon, logs in, approves, and makes one lease whose material is held.
    pub(crate) fn start(bin: &Path) -> Result<Self, Failed> {
        let folder = tempfile::Builder::new()
            .prefix("aegis-broker-bench-")
            .tempdir()?;
        let server = start_server()?;
        let interrupted = watch_for_signals(server.runtime())?;
        write(&folder.path().join("config.toml"), &config(&server.mock))?;
        write(&folder.path().join("policy.toml"), &broker_policy())?;
        let daemon = Daemon::start(bin, folder.path())?;
        log_in(&daemon.socket, &server.mock)?;
        let exchange = Exchange::learn(load::connect(&daemon.socket)?, &request())?;
        Ok(Self {
            models: None,
            bin: bin.to_owned(),
            daemon,
            floor: None,
            exchange,
            server,
            interrupted,
            folder,
        })
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(crate) fn daemon(&self) -> (&Path, u32) {
        (&self.daemon.socket, self.daemon.child.id())
    }

    /// The floor, started when it is first wanted. It answers with what the daemon answered.
    pub(crate) fn floor(&mut self) -> Result<(&Path, u32), Failed> {
        let floor = match self.floor.take() {
            Some(floor) => floor,
            None => self.start_floor()?,
        };
        let floor = self.floor.insert(floor);
        Ok((&floor.socket, floor.child.id()))
    }

    fn start_floor(&self) -> Result<Floor, Failed> {
        let mut result = self.exchange.result().as_bytes().to_vec();
        result.push(b'\n');
        let socket = self.folder.path().join("floor.sock");
        Floor::start(Part::Jsonrpc, &socket, &result)
    }

    /// The door for models, prepared when it is first wanted.
    pub(crate) fn models(&mut self) -> Result<&Models, Failed> {
        let models = match self.models.take() {
            Some(models) => models,
            None => self.open_door()?,
        };
        Ok(self.models.insert(models))
    }

    fn open_door(&self) -> Result<Models, Failed> {
        let folder = self.folder.path();
        let cold = Cold::prepare(folder.join("cold"), &config(&self.server.mock))?;
        let socket = self.daemon.socket.with_file_name("mcp.sock");
        let daemon = (socket.as_path(), self.daemon.child.id());
        Models::prepare(&self.bin, daemon, folder, cold)
    }

    /// Whether somebody pressed Ctrl-C.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Ends everything and says so if something did not end well.
    pub(crate) fn stop(mut self) -> Result<(), Failed> {
        drop(self.floor.take());
        drop(self.models.take());
        self.daemon.stop()?;
        Ok(self.folder.close()?)
    }
}

fn request() -> Vec<u8> {
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"credential.get\",\"params\":{{\"selector\":\"{SELECTOR}\"}}}}\n"
    )
    .into_bytes()
}

fn log_in(socket: &Path, mock: &Mock) -> Result<(), Failed> {
    let mut client = Client::connect(socket)?;
    let LoginPhase::AwaitingApproval(device) = client.login_begin(None)?.view.phase else {
        return Err("the daemon shows no code".into());
    };
    mock.approve(device.user_code.as_str())?;
    let LoginPhase::LoggedIn { .. } = client.login_wait(None)?.view.phase else {
        return Err("the daemon is not logged in".into());
    };
    // Makes the lease; from here on its material is in memory.
    client.credential(&Selector::parse(SELECTOR)?, None, None, None)?;
    Ok(())
}

/// Writes a new file of our own.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

fn start_server() -> Result<Background, Failed> {
    Ok(Background::start(Options {
        policy_toml: Some(server_policy()),
        ..Options::default()
    })?)
}

/// From now on SIGINT and SIGTERM do no more than set what is returned.
fn watch_for_signals(runtime: &Handle) -> io::Result<Arc<AtomicBool>> {
    let _runtime = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
        }
    });
    Ok(interrupted)
}

/// The daemon, in a process group of its own, so that Ctrl-C is ours to handle.
#[derive(Debug)]
struct Daemon {
    child: Child,
    socket: PathBuf,
    over: bool,
}

impl Daemon {
    fn start(bin: &Path, folder: &Path) -> Result<Self, Failed> {
        let notify = folder.join("notify");
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(READY_WITHIN))?;
        let child = Command::new(bin)
            .arg("daemon")
            .arg("--config")
            .arg(folder.join("config.toml"))
            .arg("--policy")
            .arg(folder.join("policy.toml"))
            .arg("--runtime-dir")
            .arg(folder.join("run"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .env_clear()
            .env("HOME", folder)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("daemon.log"))?)
            .process_group(0)
            .spawn()?;
        let daemon = Self {
            child,
            socket: folder.join("run").join("broker.sock"),
            over: false,
        };
        let mut message = [0_u8; 256];
        let told = ready.recv(&mut message);
        if !matches!(told, Ok(length) if message.get(..length).is_some_and(|text| text.starts_with(b"READY=1")))
        {
            let log = std::fs::read_to_string(folder.join("daemon.log"))?;
            return Err(format!("the daemon did not become ready: {log}").into());
        }
        Ok(daemon)
    }

    fn stop(&mut self) -> Result<(), Failed> {
        if self.over {
            return Ok(());
        }
        self.over = true;
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Not reaped yet, so the number is still our child's.
            kill_process(pid, Signal::TERM)?;
        }
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the daemon ended badly: {status}").into())
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.stop().is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A floor that answers on a socket: this tool once more.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    socket: PathBuf,
}

impl Floor {
    /// Starts it and tells it in one line what to answer.
    pub(crate) fn start(part: Part, socket: &Path, answer: &[u8]) -> Result<Self, Failed> {
        let child = part
            .command(socket)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let mut floor = Self {
            child,
            socket: socket.to_owned(),
        };
        let input = floor.child.stdin.as_mut().ok_or("the floor has no input")?;
        input.write_all(answer)?;
        let output = floor.child.stdout.take().ok_or("the floor has no output")?;
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        if said != "ready\n" {
            return Err("the floor did not become ready".into());
        }
        drop(UnixStream::connect(socket)?);
        Ok(floor)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Without input it ends by itself.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}
