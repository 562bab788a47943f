use std::path::PathBuf;

/// Whatever ends a run early.
pub(crate) type Failed = Box<dyn std::error::Error>;

/// Measures credential requests and proofs beside their floors.
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
    /// Another build of the daemon than the one beside this tool.
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_aegis-broker"), hide_default_value = true)]
    pub(crate) bin: PathBuf,
    /// Write everything measured there too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What cargo says when it is `cargo bench`.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// Be the floor on that socket.
    #[arg(long, hide = true, value_name = "SOCKET")]
    pub(crate) floor: Option<PathBuf>,
}
