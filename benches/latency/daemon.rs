//! The daemon as a child of the tool.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::args::Failed;

/// How long the daemon may take to be ready on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The daemon, in a process group of its own, so that Ctrl-C is ours to handle.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    over: bool,
}

impl Daemon {
    pub(crate) fn start(bin: &Path, folder: &Path) -> Result<Self, Failed> {
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

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as nobody can be told to end.
    pub(crate) fn kill(&mut self) -> Result<(), Failed> {
        self.over = true;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<(), Failed> {
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
