//! The door as a whole, and one peer's conversation.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rmcp::ServiceExt as _;
use rmcp::model::Tool;
use rmcp::service::{QuitReason, ServerInitializeError};
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::elicitation::States;
use super::guard::guarded;
use super::rate::Rate;
use super::server::{Peer, Server};
use super::tools;
use crate::broker::handle::{Handle, ModelConnection, PeerProcess};
use crate::model::{PeerFacts, ProcessId, Refusal};

/// New leases one client may make at once (LM): a build's worth of parallel jobs.
pub(super) const LEASE_BURST: u32 = 60;

/// Then so many a second (LM): what an agent in a loop can do to the issuer.
pub(super) const LEASES_PER_S: u32 = 10;

/// Dialogs of the newer era one client may be handed at once: each is a state to remember.
const DIALOG_BURST: u32 = 8;

/// Then one in each of these. Beyond it `login` answers in words.
const DIALOG_INTERVAL: Duration = Duration::from_secs(10);

/// What all conversations of the door have in common. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Door {
    shared: Arc<Shared>,
}

/// See [`Door`].
#[derive(Debug)]
pub(super) struct Shared {
    handle: Handle,
    /// The programs' socket, where they have to be told.
    pub(super) programs_socket: Option<PathBuf>,
    /// Calls under way on one connection.
    pub(super) in_flight: usize,
    /// New leases.
    pub(super) leases: Rate,
    /// Dialogs handed out.
    pub(super) dialogs: Rate,
    /// What clients bring back from them.
    pub(super) states: States,
    /// The list of tools, which is the same for everybody.
    pub(super) tools: Vec<Tool>,
}

impl Door {
    /// A door onto that core. Models are told of the socket that `programs_socket` names: where
    /// programs find the leases, if it is not where they look by themselves. At `in_flight` calls under way on one connection the next is told
    /// `rate_limited`, so that cancellations still arrive.
    ///
    /// # Errors
    /// `internal` without randomness.
    pub fn new(
        handle: Handle,
        programs_socket: Option<PathBuf>,
        in_flight: usize,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            shared: Arc::new(Shared {
                handle,
                programs_socket,
                in_flight,
                leases: Rate::new(LEASE_BURST, Duration::from_secs(1) / LEASES_PER_S),
                dialogs: Rate::new(DIALOG_BURST, DIALOG_INTERVAL),
                states: States::new()?,
                tools: tools::list(),
            }),
        })
    }

    /// Talks with one peer whose uid was checked, until it hangs up, breaks a limit, or
    /// `shutdown` is cancelled and what was under way is answered.
    pub async fn converse(
        self,
        stream: UnixStream,
        facts: PeerFacts,
        process: Arc<dyn PeerProcess>,
        shutdown: CancellationToken,
    ) {
        let who = facts.process;
        // Whoever holds the socket after its process is not who was identified (PE-4).
        let exited = process.exited();
        match self.shared.handle.connect_model(facts, process) {
            Ok(core) => {
                let (input, output) = stream.into_split();
                tokio::select! {
                    () = self.serve(core, who, input, output, shutdown) => {}
                    () = exited => tracing::debug!("a peer's process is gone"),
                }
            }
            Err(refusal) => turn_away(&stream, &refusal),
        }
    }

    /// The conversation itself, over any pair of pipes.
    async fn serve<R, W>(
        self,
        core: ModelConnection,
        who: ProcessId,
        input: R,
        output: W,
        shutdown: CancellationToken,
    ) where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let gone = CancellationToken::new();
        // What still waits on the peer's behalf ends with the conversation, however that ends.
        let _ends = gone.clone().drop_guard();
        let in_flight = self.shared.in_flight;
        let server = Server::new(Peer::new(core, who, self.shared, gone));
        match server
            .serve_with_ct(guarded(input, output, in_flight), shutdown.child_token())
            .await
        {
            Ok(running) => {
                let ended = running.waiting().await;
                if !matches!(ended, Ok(QuitReason::Closed | QuitReason::Cancelled)) {
                    tracing::error!("a conversation ended by a mistake of ours");
                }
            }
            // What the peer sent is in these errors, and stays there.
            Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => {}
            Err(_) => tracing::debug!("a conversation ended before it began"),
        }
    }
}

/// Tells a peer no before it said anything, if that can be done without waiting.
pub fn turn_away(stream: &UnixStream, refusal: &Refusal) {
    let line = super::wire::turned_away(refusal);
    // A fresh socket has room; a peer that is gone needs no answer.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if let Err(error) = send(stream, line.as_bytes(), flags) {
        tracing::debug!(%error, "a peer was turned away without an answer");
    }
}
