//! x
use super::event::{ConnectionId, Reply, Request};
use super::ports::{AuditReport, PeerProcess};
use crate::model::{PeerFacts, ProfileName, Refusal};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What doors send.
#[derive(Debug)]
pub(super) enum Message {
    Connect {
        connection: ConnectionId,
        peer: Arc<PeerFacts>,
        process: Arc<dyn PeerProcess>,
    },
    Disconnect {
        connection: ConnectionId,
    },
    Request {
        connection: ConnectionId,
        profile: Option<ProfileName>,
        request: Request,
        reply: oneshot::Sender<Result<Reply, Refusal>>,
    },
    VerifyAudit {
        reply: oneshot::Sender<Result<AuditReport, Refusal>>,
    },
}
