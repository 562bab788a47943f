//! The server for programs without a runtime.

use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::server::{Mock, Options, SpawnError, spawn};

/// A running server with a thread and a current-thread runtime of its own. Dropped, they have
/// ended; what else was spawned on the runtime ends where it next waits.
#[derive(Debug)]
pub struct Background {
    /// The server.
    pub mock: Mock,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts it. It listens already.
    ///
    /// # Errors
    /// As [`spawn`], and where there is no thread to be had. Nothing listens then.
    pub fn start(options: Options) -> Result<Self, SpawnError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(SpawnError::Thread)?;
        let mock = runtime.block_on(spawn(options))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("bundled-server".to_owned())
            .spawn(move || {
                // Asked to stop, or the one who could ask is gone.
                drop(runtime.block_on(stopped));
            })
            .map_err(SpawnError::Thread)?;
        Ok(Self {
            mock,
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Its runtime, for what is to run beside the server.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Waits, on the caller's thread, for something that the server's thread drives.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the server's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn it_listens_until_it_is_dropped() {
        let server = Background::start(Options::default()).unwrap();
        let address = server.mock.api().socket_addrs(|| None).unwrap();
        let open = TcpStream::connect(&*address).unwrap();
        // A connection that says nothing does not hold it up.
        drop(server);
        drop(open);
        let refused = TcpStream::connect(&*address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
