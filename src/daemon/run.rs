use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::build::{self, Built, Plan};
#[cfg(feature = "mock")]
use super::mock;
use super::{descriptors, hardening, log, readiness, signals};
use crate::broker::handle::Handle;
use crate::config::{Environment as _, ProcessEnvironment};
use crate::mcp::door::{self, Door};
use crate::model::{ErrorCode, Refusal};
use crate::socket::folder::{FOLDER, Instance, MCP_SOCKET, SOCKET};
use crate::socket::listener::{self, Caller, Limits};

/// After this long without an end to its drain, the daemon leaves all the same: the core takes
/// 2 s at most, its doors as long.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How the daemon was started. Every path that is not given comes from the person's XDG folders.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The policy file.
    pub policy: Option<PathBuf>,
    /// The folder of the sockets.
    pub runtime_dir: Option<PathBuf>,
    /// The folder of the audit log.
    pub state_dir: Option<PathBuf>,
    /// Start the bundled server too, and log in there.
    pub mock: bool,
}

/// Runs the daemon until it is told to stop: SIGTERM or SIGINT revoke what is live, as far as
/// 2 s allow, wipe, and end it; SIGHUP reads the policy again.
///
/// # Errors
/// `usage`, `config_invalid`, `runtime_folder_unsafe`, `already_running`, `audit_damaged`,
/// `audit_unavailable`, `io_error`: nothing was served. `internal`: the same, or a part of the
/// daemon failed while it served.
pub fn run(options: Options) -> Result<(), Refusal> {
    hardening::harden_daemon()?;
    log::init();
    descriptors::check()?;
    let plan = Plan::read(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|_error| Refusal::new(ErrorCode::Internal).with_message("no runtime"))?;
    let result = runtime.block_on(serve(plan));
    // What still hangs in a blocking call must not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(plan: Plan) -> Result<(), Refusal> {
    let mut instance = build::lock(&plan)?;
    #[cfg(feature = "mock")]
    let (plan, _bundled) = mock::join(plan).await?;
    let shutdown = CancellationToken::new();
    let doors_shut = CancellationToken::new();
    let limits = descriptors::make_room(plan.limits());
    let Built {
        actor,
        handle,
        policy,
    } = build::build(plan, limits, shutdown.clone())?;

    let reload_handle = handle.clone();
    let signals = signals::handle(shutdown.clone(), move || {
        readiness::reloading();
        policy.reload(&reload_handle);
        readiness::ready();
    })?;
    let programs_socket = unusual(&instance.folder().join(SOCKET));
    let models = Door::new(handle.clone(), programs_socket, limits.in_flight)?;
    let programs_socket = bind(&mut instance, SOCKET)?;
    let models_socket = bind(&mut instance, MCP_SOCKET)?;
    let programs = listener::serve(programs_socket, handle.clone(), limits, doors_shut.clone());
    let programs = tokio::spawn(ending_all(shutdown.clone(), programs));
    let models = serve_models(
        models_socket,
        handle.clone(),
        models,
        limits,
        doors_shut.clone(),
    );
    let models = tokio::spawn(ending_all(shutdown.clone(), models));
    let signals = tokio::spawn(signals);
    readiness::ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");

    let core = tokio::spawn(ending_all(shutdown.clone(), actor.run()));
    shutdown.cancelled().await;
    readiness::stopping();
    tracing::info!("stopping");
    let left = tokio::time::timeout(LEAVE_WITHIN, async {
        // The core first: callers are answered while their door is still open.
        let core = core.await;
        doors_shut.cancel();
        let (programs, models) = (programs.await, models.await);
        for door in [&programs, &models] {
            if let Ok(Err(error)) = door {
                tracing::error!(%error, "a socket failed");
            }
        }
        (
            core.is_ok(),
            matches!((programs, models), (Ok(Ok(())), Ok(Ok(())))),
        )
    })
    .await;
    signals.abort();
    drop(handle);
    drop(instance);
    match left {
        Ok((true, true)) => Ok(()),
        Ok(_) => Err(ErrorCode::Internal.into()),
        Err(_elapsed) => {
            tracing::warn!("not everything ended in time");
            Ok(())
        }
    }
}

fn bind(instance: &mut Instance, name: &str) -> Result<UnixListener, Refusal> {
    let listener = instance
        .bind(name)
        .map_err(|error| error.at(instance.folder()))?;
    UnixListener::from_std(listener).map_err(|_error| {
        Refusal::new(ErrorCode::Internal).with_message("the socket cannot be used")
    })
}

/// The programs' socket, where it is not in the folder that every program of this user's looks in:
/// what this process was told, in its environment or otherwise, they need not have been told.
fn unusual(socket: &Path) -> Option<PathBuf> {
    let usual = ProcessEnvironment::new().user_runtime_dir();
    let usual = usual.map(|folder| folder.join(FOLDER).join(SOCKET));
    let socket = std::path::absolute(socket).ok()?;
    (usual.as_ref() != Some(&socket)).then_some(socket)
}

/// The models' door on the listener that both doors share.
async fn serve_models(
    listener: UnixListener,
    handle: Handle,
    door: Door,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let stop = shutdown.clone();
    let talk = move |caller: Caller| {
        let (door, stop) = (door.clone(), stop.clone());
        async move {
            door.converse(caller.stream, caller.facts, caller.process, stop)
                .await;
        }
    };
    let turn_away = |stream: &UnixStream, refusal| door::turn_away(stream, &refusal);
    listener::serve_with(
        listener,
        handle,
        limits.connections,
        shutdown,
        talk,
        turn_away,
    )
    .await
}

/// Does `part` of the daemon and cancels `shutdown` at its end, whichever way it ends: without
/// its core or its door a daemon must not look alive.
async fn ending_all<F: Future>(shutdown: CancellationToken, part: F) -> F::Output {
    let _stops_the_rest = shutdown.drop_guard();
    part.await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part that fails or panics takes the daemon down, so that its supervisor starts it again.
    #[tokio::test]
    async fn the_end_of_a_part_is_the_end_of_the_daemon() {
        let failed = CancellationToken::new();
        let part = async { Err::<(), _>(io::Error::other("socket")) };
        assert!(ending_all(failed.clone(), part).await.is_err());
        assert!(failed.is_cancelled());

        let panicked = CancellationToken::new();
        let part = async { panic!("a mistake") };
        let task = tokio::spawn(ending_all(panicked.clone(), part));
        panicked.cancelled().await;
        let ended: Result<(), _> = task.await;
        assert!(ended.is_err());
    }
}
