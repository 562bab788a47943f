//! `aegis-broker daemon`: the one process that holds secrets.

use std::path::PathBuf;

use crate::daemon;
use crate::model::Refusal;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file, instead of the one in the configuration folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The policy file, instead of the one beside the configuration
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The folder of the socket, instead of the one in the runtime folder
    #[arg(long, value_name = "FOLDER")]
    runtime_dir: Option<PathBuf>,
    /// The folder of the audit log, instead of the one in the state folder
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Start the bundled server too, and log in there
    #[arg(long)]
    mock: bool,
}

/// Runs until the daemon is told to stop. Its log goes to standard error.
pub(super) fn run(arguments: &Arguments) -> Result<(), Refusal> {
    daemon::run(daemon::Options {
        config: arguments.config.clone(),
        policy: arguments.policy.clone(),
        runtime_dir: arguments.runtime_dir.clone(),
        state_dir: arguments.state_dir.clone(),
        mock: arguments.mock,
    })
}
