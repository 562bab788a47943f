use std::io;
use std::os::unix::net::UnixStream;
use std::thread;

use rmcp::ServiceExt as _;

use crate::mcp::guard::guarded;
use crate::mcp::tools::degraded::{self as tools, Degraded};
use crate::model::Refusal;

/// Calls under way: each is answered at once.
const IN_FLIGHT: usize = 64;

/// A stand-in for a daemon that cannot be had, in this process: the same tools, and
/// `daemon_unavailable` with what `refusal` says as the answer to every call. A client that is
/// told what to do is better off than one whose server died.
///
/// What is returned is its other end, so that bytes take the same way as to a daemon, whatever
/// kind of descriptors the client handed over, and ends are treated alike.
///
/// # Errors
/// When threads or descriptors have run out.
pub fn degraded(refusal: &Refusal) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let server = tools::degraded(refusal.message(), refusal.fix());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("degraded".to_owned())
        .spawn(move || {
            // However it ends, its end of the stream closes, and that ends the relay.
            drop(runtime.block_on(serve(server, theirs)));
        })?;
    Ok(ours)
}

async fn serve(server: Degraded, stream: UnixStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let (input, output) = tokio::net::UnixStream::from_std(stream)?.into_split();
    // A client that goes away before it says anything is no error.
    if let Ok(running) = server.serve(guarded(input, output, IN_FLIGHT)).await {
        running.waiting().await.map_err(io::Error::other)?;
    }
    Ok(())
}
