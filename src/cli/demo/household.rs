use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aegis_mock::{Background, Mock, Options};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::socket::client::{Client, MCP_SOCKET, SOCKET};

/// How long the daemon may take to be ready: a debug build on a busy machine needs a second.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What the demonstration asks for.
pub(super) const SELECTOR: &str = "gcp/billing-prod/deploy-bot";

/// What the broker would let through and the server does not grant.
pub(super) const OUTSIDE: &str = "gcp/billing-prod/owner";

/// What is not even in the broker's catalogue.
pub(super) const UNKNOWN: &str = "gcp/billing-prod/breakglass";

/// The server polls once a second here, so that nobody waits for the demonstration.
const SERVER_POLICY: &str = r#"
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
fields = { access_token = "mock-gcp-{random}", service_account_email = "deploy-bot@billing-prod.example", project_id = "billing-prod" }
"#;

/// The bundled server, the daemon and the folder they live in. Dropped, the daemon is stopped and
/// the folder is gone.
#[derive(Debug)]
pub(super) struct Household {
    pub(super) server: Background,
    daemon: Daemon,
    folder: tempfile::TempDir,
}

impl Household {
    /// Starts the server, then the daemon, and waits until it says that it is ready. From then on
    /// SIGINT and SIGTERM stop the daemon and set `interrupted`: whatever waits for it fails, and
    /// the way out is that of any failed step.
    pub(super) fn start(
        lenient_replay: bool,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut policy = SERVER_POLICY.to_owned();
        if lenient_replay {
            policy.push_str("[strictness]\nreplay = false\n");
        }
        let server = Background::start(Options {
            policy_toml: Some(policy),
            ..Options::default()
        })?;
        // Before there is anything to leave behind.
        let signals = Signals::catch(server.runtime())?;
        let folder = tempfile::Builder::new()
            .prefix("aegis-broker-demo-")
            .tempdir()?;
        write(&folder.path().join("config.toml"), &config(&server.mock))?;
        write(&folder.path().join("policy.toml"), &broker_policy())?;
        let daemon = Daemon::start(folder.path(), |daemon, notify| {
            server
                .runtime()
                .spawn(signals.stop(daemon, notify, Arc::clone(interrupted)));
        })?;
        Ok(Self {
            server,
            daemon,
            folder,
        })
    }

    /// A connection to the daemon.
    pub(super) fn connect(&self) -> Result<Client, crate::model::Refusal> {
        Client::connect(&self.folder.path().join("run").join(SOCKET))
    }

    /// The daemon's socket for models.
    pub(super) fn models_socket(&self) -> PathBuf {
        self.folder.path().join("run").join(MCP_SOCKET)
    }

    /// Where the daemon's audit log is.
    pub(super) fn audit_folder(&self) -> PathBuf {
        self.folder.path().join("state").join("audit")
    }

    /// Asks the daemon to stop and waits until it has.
    pub(super) fn stop(&mut self) -> io::Result<ExitStatus> {
        self.daemon.stop()
    }

    /// The folder, for who wants to see it gone.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills the daemon, as a power cut would.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.daemon.child.kill()
    }

    /// Removes the folder.
    pub(super) fn clean(self) -> io::Result<()> {
        let Self {
            server,
            daemon,
            folder,
        } = self;
        drop(daemon);
        drop(server);
        folder.close()
    }
}

fn config(mock: &Mock) -> String {
    format!(
        r#"[profiles.demo]
base_url = "{}"
tenant_id = "business-default"
allow_insecure_loopback = true
client_display_name = "aegis-broker demo"

[[profiles.demo.target]]
selector = "{SELECTOR}"
description = "deploys the billing app"

[[profiles.demo.target]]
selector = "{OUTSIDE}"
description = "owns the billing app"
"#,
        mock.api()
    )
}

fn broker_policy() -> String {
    format!(
        r#"[[rule]]
id = "demo"
effect = "allow"
selectors = ["{SELECTOR}", "{OUTSIDE}"]
expose = "reveal"
"#
    )
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// What a person ends the demonstration with.
#[derive(Debug)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Catches them from now on, for this process.
    fn catch(runtime: &Handle) -> io::Result<Self> {
        let _runtime = runtime.enter();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them, then ends what the demonstration may be waiting for: the daemon,
    /// or its being ready.
    async fn stop(mut self, daemon: OwnedFd, notify: PathBuf, interrupted: Arc<AtomicBool>) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        interrupted.store(true, Ordering::SeqCst);
        // Either may be over already.
        let _sent = pidfd_send_signal(&daemon, Signal::TERM);
        drop(UnixDatagram::unbound().and_then(|socket| socket.send_to(b"STOPPING=1", notify)));
    }
}

/// The daemon as a child process.
#[derive(Debug)]
struct Daemon {
    child: Child,
    over: bool,
}

impl Daemon {
    /// `started` hears of the process, and where its readiness is waited for.
    fn start(folder: &Path, started: impl FnOnce(OwnedFd, PathBuf)) -> io::Result<Self> {
        let notify = folder.join("notify");
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(READY_WITHIN))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("daemon")
            .arg("--config")
            .arg(folder.join("config.toml"))
            .arg("--policy")
            .arg(folder.join("policy.toml"))
            .arg("--runtime-dir")
            .arg(folder.join("run"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("daemon.log"))?)
            .spawn()?;
        let mut daemon = Self { child, over: false };
        if let Some(pid) = daemon.pid() {
            started(pidfd_open(pid, PidfdFlags::empty())?, notify);
        }
        let mut message = [0_u8; 256];
        let told = ready.recv(&mut message);
        let text = told
            .as_ref()
            .ok()
            .and_then(|length| message.get(..*length))
            .unwrap_or_default();
        if !text.starts_with(b"READY=1") {
            daemon.stop()?;
            return Err(io::Error::other("the daemon did not become ready"));
        }
        Ok(daemon)
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn stop(&mut self) -> io::Result<ExitStatus> {
        if !self.over
            && let Some(pid) = self.pid()
        {
            // Not reaped yet, so the number is still our child's.
            kill_process(pid, Signal::TERM)?;
        }
        self.over = true;
        self.child.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.over && self.stop().is_err() {
            drop(self.child.kill());
        }
    }
}
