use std::fmt;
use std::path::PathBuf;

#[cfg(feature = "mock")]
use super::mock;
use crate::broker::handle::Handle;
use crate::broker::policy::Policy;
use crate::config;
use crate::model::{Refusal, Rule};

/// Where the policy comes from, at the start and again at every SIGHUP.
#[derive(Debug)]
pub(super) enum PolicySource {
    /// The bundled server's own, for its demo credentials.
    #[cfg(feature = "mock")]
    Bundled,
    /// A file that was named on the command line: it has to be there.
    Named(PathBuf),
    /// The configured file. While there is none, nothing is allowed.
    Configured(PathBuf),
}

impl PolicySource {
    /// Reads the rules and logs how many there are: a daemon that denies everything, for want of
    /// a file, says where it looked for one.
    ///
    /// # Errors
    /// `config_invalid` with file, line and key.
    pub(super) fn read(&self) -> Result<Vec<Rule>, Refusal> {
        let rules = match self {
            #[cfg(feature = "mock")]
            Self::Bundled => mock::rules()?,
            Self::Named(file) => {
                config::load_named_policy(file).map_err(|error| error.refusal())?
            }
            Self::Configured(file) => config::load_policy(file).map_err(|error| error.refusal())?,
        };
        if rules.is_empty() {
            tracing::warn!(from = %self, "the policy has no rule: everything is denied");
        } else {
            tracing::info!(from = %self, rules = rules.len(), "the policy was read");
        }
        Ok(rules)
    }

    /// Reads the rules again; bad ones are refused whole and the old policy stays (PO-7). Either
    /// way the audit log says so (AU-2).
    pub(super) fn reload(&self, handle: &Handle) {
        match self.read() {
            Ok(rules) => match handle.replace_policy(Policy::new(rules)) {
                Ok(()) => tracing::info!("the policy was replaced"),
                Err(refusal) => tracing::warn!(%refusal, "the policy was not replaced"),
            },
            Err(error) => {
                tracing::error!(%error, "the policy was not replaced");
                if let Err(refusal) = handle.policy_refused() {
                    tracing::warn!(%refusal, "the audit log was not told");
                }
            }
        }
    }
}

impl fmt::Display for PolicySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "mock")]
            Self::Bundled => f.write_str("the bundled server"),
            Self::Named(file) | Self::Configured(file) => write!(f, "{}", file.display()),
        }
    }
}
