//! Agents that others made and that are installed here, one request at a time.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::args::Failed;
use crate::clock::nanos;
use crate::load::{self, Run, histogram};
use crate::machine::Usage;

/// `SSH_AGENTC_SIGN_REQUEST` and its answer (draft-ietf-sshm-ssh-agent §3.6).
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Longer answers are none of what is asked for.
const MAX_ANSWER: usize = 4096;

/// Whom we know how to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An ECDSA signature on P-256.
    SshAgent,
    /// Its version.
    GpgAgent,
}

impl Peer {
    pub(crate) const ALL: [Self; 2] = [Self::SshAgent, Self::GpgAgent];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SshAgent => "ssh-agent, ECDSA",
            Self::GpgAgent => "gpg-agent, version",
        }
    }

    /// The program.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::SshAgent => "ssh-agent",
            Self::GpgAgent => "gpg-agent",
        }
    }

    /// Whether it is installed.
    pub(crate) fn is_here(self) -> bool {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|folder| folder.join(self.program()).is_file())
    }
}

/// Those that have been asked for something, each running.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    ssh: Option<SshAgent>,
    gpg: Option<GpgAgent>,
}

impl Peers {
    /// That many requests, one after the other, on one connection.
    pub(crate) fn run(&mut self, peer: Peer, folder: &Path, requests: u32) -> Result<Run, Failed> {
        match peer {
            Peer::SshAgent => {
                let agent = match self.ssh.take() {
                    Some(agent) => agent,
                    None => SshAgent::start(&folder.join("ssh"))?,
                };
                self.ssh.insert(agent).sign(requests)
            }
            Peer::GpgAgent => {
                let agent = match self.gpg.take() {
                    Some(agent) => agent,
                    None => GpgAgent::start(&folder.join("gpg"))?,
                };
                self.gpg.insert(agent).version(requests)
            }
        }
    }
}

fn timed(
    pid: u32,
    requests: u32,
    mut ask: impl FnMut() -> Result<bool, Failed>,
) -> Result<Run, Failed> {
    for _ in 0..=requests / 10 {
        ask()?;
    }
    let (mut times, mut errors) = (histogram()?, 0_u64);
    let used = Usage::of(pid);
    let begun = nanos();
    for _ in 0..requests {
        let at = nanos();
        let is_right = ask()?;
        times.saturating_record(nanos().saturating_sub(at));
        errors = errors.saturating_add(u64::from(!is_right));
    }
    Ok(Run {
        times,
        elapsed: nanos().saturating_sub(begun),
        errors,
        used: Usage::of(pid).since(&used),
    })
}

/// Our own, with one key made for it. Dropped, it is ended.
#[derive(Debug)]
struct SshAgent {
    child: Child,
    socket: PathBuf,
    request: Vec<u8>,
}

impl SshAgent {
    fn start(folder: &Path) -> Result<Self, Failed> {
        std::fs::create_dir(folder)?;
        let (socket, key) = (folder.join("agent"), folder.join("key"));
        let mut child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take().ok_or("the agent has no output")?;
        let mut agent = Self {
            child,
            socket,
            request: Vec::new(),
        };
        // It says where it listens once it does.
        BufReader::new(output).read_line(&mut String::new())?;
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ecdsa", "-b", "256", "-N", ""])
                .arg("-f")
                .arg(&key),
        )?;
        succeed(
            Command::new("ssh-add")
                .arg("-q")
                .arg(&key)
                .env("SSH_AUTH_SOCK", &agent.socket),
        )?;
        let public = std::fs::read_to_string(key.with_extension("pub"))?;
        let blob = public.split(' ').nth(1).ok_or("no public key was made")?;
        agent.request = sign_request(&STANDARD.decode(blob)?)?;
        Ok(agent)
    }

    fn sign(&self, requests: u32) -> Result<Run, Failed> {
        let mut stream = load::connect(&self.socket)?;
        timed(self.child.id(), requests, || {
            stream.write_all(&self.request)?;
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = usize::try_from(u32::from_be_bytes(length))?.min(MAX_ANSWER);
            let mut answer = vec![0; length];
            stream.read_exact(&mut answer)?;
            Ok(answer.first() == Some(&SIGN_RESPONSE))
        })
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// As much to sign as a proof has.
fn sign_request(key: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut message = vec![SIGN_REQUEST];
    for part in [key, &[b'x'; 400]] {
        message.extend(u32::try_from(part.len())?.to_be_bytes());
        message.extend(part);
    }
    message.extend(0_u32.to_be_bytes());
    let mut request = u32::try_from(message.len())?.to_be_bytes().to_vec();
    request.append(&mut message);
    Ok(request)
}

/// One in a folder of its own. Dropped, it is told to end.
#[derive(Debug)]
struct GpgAgent {
    stream: BufReader<UnixStream>,
    pid: u32,
}

impl GpgAgent {
    fn start(folder: &Path) -> Result<Self, Failed> {
        std::fs::create_dir(folder)?;
        // Returns once the one that it leaves behind listens.
        succeed(
            Command::new("gpg-agent")
                .arg("--homedir")
                .arg(folder)
                .args(["--quiet", "--daemon"]),
        )?;
        let socket = Command::new("gpgconf")
            .arg("--homedir")
            .arg(folder)
            .args(["--list-dirs", "agent-socket"])
            .output()?;
        let socket = String::from_utf8(socket.stdout)?;
        let stream = load::connect(Path::new(socket.trim_end()))?;
        let pid = rustix::net::sockopt::socket_peercred(&stream)?.pid;
        let mut agent = Self {
            stream: BufReader::new(stream),
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
        };
        if !agent.is_fine()? {
            return Err("gpg-agent does not greet".into());
        }
        Ok(agent)
    }

    fn version(&mut self, requests: u32) -> Result<Run, Failed> {
        timed(self.pid, requests, || {
            self.stream.get_mut().write_all(b"GETINFO version\n")?;
            self.is_fine()
        })
    }

    /// Reads to the end of an answer. True when it is a yes.
    fn is_fine(&mut self) -> Result<bool, Failed> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("gpg-agent hung up".into());
            }
            if !line.starts_with("D ") {
                return Ok(line.starts_with("OK"));
            }
        }
    }
}

impl Drop for GpgAgent {
    fn drop(&mut self) {
        drop(self.stream.get_mut().write_all(b"KILLAGENT\n"));
        drop(self.is_fine());
    }
}

fn succeed(command: &mut Command) -> Result<(), Failed> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} failed: {status}", command.get_program().display()).into())
    }
}
