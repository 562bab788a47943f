use std::io;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Libraries that print requests, headers or frames when they are verbose: never below `WARN`,
/// whatever `RUST_LOG` says (HY-9).
const QUIET: [&str; 10] = [
    "aws_sigv4",
    "reqwest",
    "hyper",
    "hyper_util",
    "h2",
    "rustls",
    "zbus",
    "tower",
    "connectrpc",
    "axum",
];

/// `rmcp` warns of each error it answers, in the client's own words: as long as a line may be, and
/// as often as the client likes (HY-9).
const QUIETER: &str = "rmcp";

/// Sends our log to stderr, at the level of `RUST_LOG`, `info` unless said otherwise.
pub(super) fn init() {
    let wanted = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let output = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_filter(wanted);
    let limited = output.with_filter(ceiling());
    // Somebody else's subscriber (a test's) stays.
    drop(tracing_subscriber::registry().with(limited).try_init());
}

/// The hard upper bound for libraries.
fn ceiling() -> Targets {
    Targets::new()
        .with_default(Level::TRACE)
        .with_targets(QUIET.map(|target| (target, Level::WARN)))
        .with_target(QUIETER, Level::ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HY-9: no directive opens these targets.
    #[test]
    fn libraries_stay_quiet() {
        for target in QUIET {
            assert!(!ceiling().would_enable(target, &Level::INFO), "{target}");
            assert!(ceiling().would_enable(target, &Level::WARN), "{target}");
            let inside = format!("{target}::proto");
            assert!(!ceiling().would_enable(&inside, &Level::DEBUG), "{inside}");
        }
        assert!(!ceiling().would_enable("rmcp::service", &Level::WARN));
        assert!(ceiling().would_enable("rmcp::service", &Level::ERROR));
        assert!(ceiling().would_enable("aegis_broker::broker", &Level::TRACE));
    }
}
