//! `aegis-mock`: the bundled Aegis server as a process.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aegis_mock::{MAX_POLICY_BYTES, Options, SpawnError};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The Aegis server for tests and demonstrations; it hands out nothing real.
///
/// The first line on stdout is a JSON object with the addresses.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where the API listens; port 0 for any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7460")]
    listen: SocketAddr,
    /// Offer the control API, at 127.0.0.1:7469 if no address is given
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:7469")]
    control: Option<SocketAddr>,
    /// Listen over TLS too, with client certificates if they are shown, at 127.0.0.1:7461 if no
    /// address is given
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:7461")]
    tls: Option<SocketAddr>,
    /// Policy file; without one a demo policy holds
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// File in which revocations survive a restart; without one they end with the server
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Let `ALLOW_INSECURE_USER_HEADER=true` mean what it says: anybody on this machine is whom the
    /// header X-Aegis-Insecure-User names. Without this option that header is always refused
    #[arg(long)]
    dev_insecure: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read the policy file")]
    Policy(#[source] io::Error),
    #[error("cannot start")]
    Spawn(#[from] SpawnError),
    #[error("cannot write to stdout or wait for signals")]
    Io(#[from] io::Error),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut error: Option<&dyn std::error::Error> = Some(&failure);
            let mut words = Vec::new();
            while let Some(cause) = error {
                words.push(cause.to_string());
                error = cause.source();
            }
            tracing::error!("{}", words.join(": "));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let policy_toml = match arguments.policy {
        Some(path) => Some(read_policy(&path).map_err(Failure::Policy)?),
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mock = aegis_mock::spawn(Options {
        listen: arguments.listen,
        control: arguments.control,
        tls: arguments.tls,
        // Nothing but the very word, as in production.
        allow_insecure_user_header: std::env::var_os("ALLOW_INSECURE_USER_HEADER")
            .is_some_and(|value| value == "true"),
        dev_insecure: arguments.dev_insecure,
        policy_toml,
        state: arguments.state,
        ..Options::default()
    })
    .await?;

    let mut line = json!({
        "api": mock.api().as_str().trim_end_matches('/'),
        "demo_user": mock.demo_name(),
        "demo_password": mock.demo_password(),
    });
    if let (Some(control), Some(members)) = (mock.control(), line.as_object_mut()) {
        let control = control.as_str().trim_end_matches('/');
        members.insert("control".to_owned(), json!(control));
        members.insert("control_token".to_owned(), json!(mock.control_token()));
    }
    if let (Some(tls), Some(members)) = (mock.tls(), line.as_object_mut()) {
        let tls = tls.as_str().trim_end_matches('/');
        members.insert("tls".to_owned(), json!(tls));
    }
    writeln!(io::stdout(), "{line}")?;

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    mock.stop().await;
    Ok(())
}

/// The text of a policy file, as far as one may be long.
fn read_policy(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?.take(MAX_POLICY_BYTES.saturating_add(1));
    io::BufReader::new(file).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= MAX_POLICY_BYTES) {
        return Ok(text);
    }
    Err(io::ErrorKind::FileTooLarge.into())
}
