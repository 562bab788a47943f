//! A command as a whole process: from spawning it until it has ended and its output is read.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::args::Failed;
use crate::clock::nanos;
use crate::house::{SELECTOR, write};
use crate::household::request;
use crate::load::{Run, histogram};
use crate::machine::Usage;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `aegis-broker get`, of material that is held.
    Get,
    /// A static program that does nothing.
    Empty,
    /// A static program that sends the same request and writes the reply.
    OneShot,
}

impl Program {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "aegis-broker get",
            Self::Empty => "empty program",
            Self::OneShot => "one-shot client",
        }
    }
}

/// The programs, and the socket they ask.
#[derive(Debug)]
pub(crate) struct Commands {
    bin: PathBuf,
    socket: PathBuf,
    empty: PathBuf,
    one_shot: PathBuf,
}

impl Commands {
    /// Compiles the small ones into `folder`.
    pub(crate) fn prepare(bin: &Path, socket: &Path, folder: &Path) -> Result<Self, Failed> {
        Ok(Self {
            bin: bin.to_owned(),
            socket: socket.to_owned(),
            empty: compile(folder, "empty", include_str!("tiny/empty.rs"))?,
            one_shot: compile(folder, "oneshot", include_str!("tiny/oneshot.rs"))?,
        })
    }

    /// Runs it that often, one after the other.
    pub(crate) fn run(&self, program: Program, count: u32) -> Result<Run, Failed> {
        let mut command = self.command(program)?;
        let mut run = Run {
            times: histogram()?,
            elapsed: 0,
            errors: 0,
            used: Usage::default(),
        };
        // Brings the program into memory.
        once(&mut command)?;
        for _ in 0..count {
            let at = nanos();
            let output = once(&mut command)?;
            let took = nanos().saturating_sub(at);
            run.times.saturating_record(took);
            run.elapsed = run.elapsed.saturating_add(took);
            let is_right = output.is_some_and(|output| program.may_say(&output));
            run.errors = run.errors.saturating_add(u64::from(!is_right));
        }
        Ok(run)
    }

    fn command(&self, program: Program) -> Result<Command, Failed> {
        let mut command = match program {
            Program::Get => {
                let mut command = Command::new(&self.bin);
                command.arg("--socket").arg(&self.socket);
                command.arg("get").arg(SELECTOR);
                command
            }
            Program::Empty => Command::new(&self.empty),
            Program::OneShot => {
                let mut command = Command::new(&self.one_shot);
                let request = String::from_utf8(request())?;
                command.arg(&self.socket).arg(request.trim_end());
                command
            }
        };
        command.env_clear().stdin(Stdio::null());
        Ok(command)
    }
}

impl Program {
    fn may_say(self, output: &[u8]) -> bool {
        match self {
            Self::Get | Self::OneShot => output.windows(9).any(|part| part == b"mock-gcp-"),
            Self::Empty => output.is_empty(),
        }
    }
}

/// What it wrote, unless it failed.
fn once(command: &mut Command) -> Result<Option<Vec<u8>>, Failed> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut output = Vec::with_capacity(4096);
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut output)?;
    }
    let status = child.wait()?;
    Ok(status.success().then_some(output))
}

fn compile(folder: &Path, name: &str, source: &str) -> Result<PathBuf, Failed> {
    let file = folder.join(name).with_extension("rs");
    write(&file, source)?;
    let program = folder.join(name);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
        ])
        .arg("-o")
        .arg(&program)
        .arg(&file)
        .status()?;
    if !compiled.success() {
        return Err(format!("{name}.rs was not compiled").into());
    }
    Ok(program)
}
