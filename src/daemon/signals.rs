use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::model::{ErrorCode, Refusal};

/// SIGTERM and SIGINT stop the daemon, SIGHUP calls `reload`. Runs until `shutdown` is cancelled
/// by one of the former or by somebody else.
///
/// # Errors
/// `internal` when the handlers cannot be installed.
pub(super) fn handle(
    shutdown: CancellationToken,
    reload: impl Fn() + Send + 'static,
) -> Result<impl Future<Output = ()>, Refusal> {
    let install = |kind| {
        signal(kind).map_err(|_error| {
            Refusal::new(ErrorCode::Internal).with_message("cannot install a signal handler")
        })
    };
    let mut terminate = install(SignalKind::terminate())?;
    let mut interrupt = install(SignalKind::interrupt())?;
    let mut hangup = install(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => shutdown.cancel(),
                _ = interrupt.recv() => shutdown.cancel(),
                _ = hangup.recv() => reload(),
                () = shutdown.cancelled() => return,
            }
        }
    })
}
