use std::path::{Path, PathBuf};
use std::process::Command;

/// Whatever ends a run early.
pub(crate) type Failed = Box<dyn std::error::Error>;

/// Measures credential requests, proofs, starts and the door for models beside their floors, and
/// what an idle and a busy daemon holds on to.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo bench --bench latency --")]
pub(crate) struct Arguments {
    /// Show what can be measured, and measure nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// Only these measures.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<String>,
    /// How often every row is measured; each round with the order rotated.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Requests of one round, row and side.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) requests: u32,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128",
          value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) conns: Vec<u16>,
    /// Measure cached requests beside the agents that are installed here, too.
    #[arg(long)]
    pub(crate) peers: bool,
    /// How long processes are left alone to see what they do.
    #[arg(long, default_value_t = 10, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) idle: u16,
    /// Requests of the long run, for each number of connections.
    #[arg(long, default_value_t = 100_000, value_name = "REQUESTS",
          value_parser = clap::value_parser!(u32).range(100..=100_000_000))]
    pub(crate) soak: u32,
    /// Another build of the daemon than the one beside this tool.
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_aegis-broker"), hide_default_value = true)]
    pub(crate) bin: PathBuf,
    /// Write everything measured there too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What cargo says when it is `cargo bench`.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// Be a floor, or a part of one.
    #[arg(long, hide = true, requires = "at")]
    pub(crate) floor: Option<Part>,
    /// The floor's socket; for the minimal server the file with its answer.
    #[arg(long, hide = true, value_name = "PATH")]
    pub(crate) at: Option<PathBuf>,
}

/// What this tool is as a child of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Answers JSON-RPC.
    Jsonrpc,
    /// Answers every line with the same one.
    Echo,
    /// Moves bytes between stdio and an echo.
    Relay,
    /// Answers MCP on stdio.
    Minimal,
}

impl Part {
    /// This tool once more, as that part.
    pub(crate) fn command(self, at: &Path) -> Result<Command, Failed> {
        let mut command = Command::new(std::env::current_exe()?);
        let name = match self {
            Self::Jsonrpc => "jsonrpc",
            Self::Echo => "echo",
            Self::Relay => "relay",
            Self::Minimal => "minimal",
        };
        command.arg("--floor").arg(name).arg("--at").arg(at);
        Ok(command)
    }
}
