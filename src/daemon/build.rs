use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

#[cfg(feature = "mock")]
use super::mock;
use super::outside::Outside;
use super::policy_source::PolicySource;
use super::run::Options;
use crate::aegis::{AegisClient, AegisSettings};
use crate::audit::{FileAuditLog, OpenError, Opened};
use crate::broker::actor::{Actor, Parts};
use crate::broker::handle::Handle;
use crate::broker::policy::Policy;
use crate::broker::ports::KeyStore as _;
use crate::broker::state::{Resumed, Settings, State};
use crate::config::{self, Config, Overrides, PathError, Paths, ProcessEnvironment};
use crate::http::{Sender, SystemResolver};
use crate::keystore::MemoryKeyStore;
use crate::model::{ErrorCode, Refusal, Rule};
use crate::socket::folder::{FolderError, Instance, RuntimeFolder};
use crate::socket::listener::Limits;
use crate::time::{Clock, SystemClock};

/// Everything that was read, whole and valid. Nothing is bound, spawned or stored yet.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: Config,
    policy: PolicySource,
    rules: Vec<Rule>,
    runtime_dir: PathBuf,
    /// The bundled server is wanted.
    #[cfg(feature = "mock")]
    pub(super) mock: bool,
}

/// Everything that runs; of it, only the threads of the log and of the calls to Aegis run yet.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) actor: Actor,
    pub(super) handle: Handle,
    pub(super) policy: PolicySource,
}

impl Plan {
    /// What each door may take, as configured.
    pub(super) fn limits(&self) -> Limits {
        door_limits(self.config.limits)
    }

    /// Reads configuration and policy.
    ///
    /// # Errors
    /// `config_invalid` with file and key, `runtime_folder_unsafe` without a place for the socket.
    pub(super) fn read(options: Options) -> Result<Self, Refusal> {
        #[cfg(not(feature = "mock"))]
        if options.mock {
            return Err(Refusal::new(ErrorCode::Usage)
                .with_message("this build has no bundled server")
                .with_fix("build it with the feature `mock`"));
        }
        let overrides = Overrides {
            config_file: options.config,
            policy_file: options.policy,
            state_dir: options.state_dir,
            runtime_dir: options.runtime_dir,
        };
        let environment = ProcessEnvironment::new();
        let paths = Paths::resolve(&environment, &overrides).map_err(no_path)?;
        let named = overrides.policy_file.clone().map(PolicySource::Named);
        #[cfg(feature = "mock")]
        if options.mock && overrides.config_file.is_none() {
            let policy = named.unwrap_or(PolicySource::Bundled);
            return Ok(Self {
                config: mock::config(&paths)?,
                rules: policy.read()?,
                policy,
                runtime_dir: paths.runtime_dir,
                mock: true,
            });
        }
        let config =
            config::load(&paths, &overrides, &environment).map_err(|error| error.refusal())?;
        let policy = named.unwrap_or_else(|| PolicySource::Configured(config.policy_file.clone()));
        Ok(Self {
            config,
            rules: policy.read()?,
            policy,
            runtime_dir: paths.runtime_dir,
            #[cfg(feature = "mock")]
            mock: options.mock,
        })
    }
}

/// Makes this the one daemon of the planned runtime folder. Comes first, so that a second one
/// touches nothing of the first one's.
///
/// # Errors
/// `already_running`, `runtime_folder_unsafe`, `io_error`.
pub(super) fn lock(plan: &Plan) -> Result<Instance, Refusal> {
    RuntimeFolder::prepare(&plan.runtime_dir)
        .and_then(RuntimeFolder::lock)
        .map_err(|error: FolderError| error.at(&plan.runtime_dir))
}

/// Builds everything from a plan, for doors with these limits.
///
/// # Errors
/// `audit_damaged`, `audit_unavailable`, `already_running` where another process writes the log,
/// `config_invalid`, `internal`.
pub(super) fn build(
    plan: Plan,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<Built, Refusal> {
    let Plan {
        config,
        policy,
        rules,
        runtime_dir: _,
        #[cfg(feature = "mock")]
            mock: _,
    } = plan;
    // A flag may name a folder relative to ours, which says nothing to who asks for it.
    let audit_folder = std::path::absolute(&config.audit_dir).map_err(|error| {
        Refusal::new(ErrorCode::AuditUnavailable)
            .with_message(&format!("the audit folder has no absolute path: {error}"))
    })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key_store = MemoryKeyStore::new();
    let now = clock.now();
    let Opened {
        log,
        open_leases,
        torn_tail,
        mut last_principals,
    } = FileAuditLog::open(&audit_folder, &key_store, now).map_err(|error| no_audit(&error))?;
    if let Some(file) = torn_tail {
        tracing::warn!(file = %file.display(), "a crash left half a line; it was moved aside");
    }
    let profile = config.profile;
    let renewing = super::network::renewing(&profile)?;
    let renews = renewing.is_some();
    let aegis = AegisClient::new(
        AegisSettings {
            base_url: profile.base_url,
            allow_insecure_loopback: profile.allow_insecure_loopback,
            allow_missing_token_info: profile.allow_missing_token_info,
            network: super::network::read(&profile.network)?,
            renewing,
        },
        Arc::clone(&clock),
    )
    .map_err(|error| Refusal::new(ErrorCode::ConfigInvalid).with_message(&error.to_string()))?;
    let outside = Outside::start(aegis).map_err(|error| {
        Refusal::new(ErrorCode::Internal)
            .with_message(&format!("no thread for the network: {error}"))
    })?;
    let http = Outside::start(Sender::new(Arc::new(SystemResolver))).map_err(|error| {
        Refusal::new(ErrorCode::Internal)
            .with_message(&format!("no thread for the network: {error}"))
    })?;
    let resumed = Resumed {
        principal: last_principals.remove(&profile.name),
        open_leases,
    };
    let settings = Settings {
        profile: profile.name,
        tenant: profile.tenant_id,
        client_display_name: profile.client_display_name,
        token_ttl: profile.token_ttl,
        renews,
        targets: profile.targets,
        gate: config.gate,
        key_store: key_store.kind(),
        audit_folder,
    };
    let state = State::new(settings, Policy::new(rules), resumed, now);
    let (actor, handle) = Actor::new(
        Parts {
            state,
            aegis: Arc::new(outside),
            http: Arc::new(http),
            audit: Box::new(log),
            clock,
            shutdown,
        },
        // Two doors.
        limits.connections.saturating_mul(2),
    );
    Ok(Built {
        actor,
        handle,
        policy,
    })
}

/// Both fit: a configuration has some thousands at most.
fn door_limits(limits: config::Limits) -> Limits {
    let count = |configured: u32| usize::try_from(configured).unwrap_or(usize::MAX);
    Limits {
        connections: count(limits.connections),
        in_flight: count(limits.in_flight_per_connection),
    }
}

fn no_path(error: PathError) -> Refusal {
    let code = match error {
        PathError::NoHome => ErrorCode::ConfigInvalid,
        PathError::NoRuntimeDir => ErrorCode::RuntimeFolderUnsafe,
    };
    Refusal::new(code).with_message(&error.to_string())
}

fn no_audit(error: &OpenError) -> Refusal {
    let refusal = match error {
        OpenError::Damaged(_) => Refusal::new(ErrorCode::AuditDamaged)
            .with_fix("keep the audit folder as evidence, move it aside, and start again"),
        OpenError::Locked(_) => ErrorCode::AlreadyRunning.into(),
        OpenError::Folder(_)
        | OpenError::Unreadable(_)
        | OpenError::Io { .. }
        | OpenError::Key(_) => ErrorCode::AuditUnavailable.into(),
    };
    refusal.with_error(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LM: what is configured is what the door is told.
    #[test]
    fn configured_limits_reach_the_door() {
        let configured = config::Limits {
            connections: 7,
            in_flight_per_connection: 3,
        };
        let told = Limits {
            connections: 7,
            in_flight: 3,
        };
        assert_eq!(door_limits(configured), told);
    }
}
