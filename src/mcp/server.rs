//! What MCP asks of a server, answered for one peer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CustomRequest, CustomResult, ErrorCode as JsonRpcCode,
    ErrorData, Implementation, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
    ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::door::Shared;
use super::reply;
use super::tools::{self, Flow, Name};
use crate::broker::handle::ModelConnection;
use crate::model::{ErrorCode, ProcessId, Refusal};

/// The revisions we serve, oldest first.
const REVISIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V_2025_06_18,
    ProtocolVersion::V_2025_11_25,
    ProtocolVersion::V_2026_07_28,
];

/// What a client shows its model about the whole of us.
const INSTRUCTIONS: &str = "Short-lived credentials, lent by the person at this machine. \
You never see a secret here: http_request sends a request with the credential put in for you; \
lease_create answers with a handle, and a program redeems it. \
Start with target_list; call login when an answer says login_required, and show the person the \
address and the code. When an answer says do_not_retry, stop and tell the person.";

/// When too many calls are under way, the next one comes back after this long.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The revisions we serve.
pub(super) const fn revisions() -> Cow<'static, [ProtocolVersion]> {
    Cow::Borrowed(&REVISIONS)
}

/// Who we are: tools, and nothing else.
pub(super) fn info() -> ServerConfig {
    ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
        .with_server_info(
            Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
                .with_title("Aegis credential broker"),
        )
        .with_instructions(INSTRUCTIONS)
}

/// A call of a tool that the list does not have: malformed, as the protocol has it.
pub(super) fn no_such_tool() -> ErrorData {
    ErrorData::invalid_params("there is no such tool; see tools/list", None)
}

/// The methods whose parameters are ours to judge. Not `initialize` and `ping`:
/// MCP 2026-07-28 has neither, and wants to hear so.
const METHODS: [&str; 3] = ["server/discover", "tools/call", "tools/list"];

/// What the library could not read as a request of MCP: a method that nobody knows, or parameters
/// of another shape than a method takes, which it does not tell apart.
pub(super) fn not_understood(request: &CustomRequest) -> ErrorData {
    if METHODS.contains(&request.method.as_str()) {
        return ErrorData::invalid_params("the parameters are not what the method takes", None);
    }
    ErrorData::new(
        JsonRpcCode::METHOD_NOT_FOUND,
        "there is no such method",
        None,
    )
}

/// The peer of one conversation, and what its calls share.
#[derive(Debug)]
pub(super) struct Peer {
    /// The way to the core.
    pub(super) core: ModelConnection,
    /// Its process.
    pub(super) process: ProcessId,
    /// What all conversations share.
    pub(super) shared: Arc<Shared>,
    /// Cancelled when the conversation is over.
    pub(super) gone: CancellationToken,
    /// The login it takes part in.
    pub(super) flow: Flow,
}

impl Peer {
    pub(super) fn new(
        core: ModelConnection,
        process: ProcessId,
        shared: Arc<Shared>,
        gone: CancellationToken,
    ) -> Self {
        Self {
            core,
            process,
            shared,
            gone,
            flow: Flow::default(),
        }
    }
}

/// One peer's server.
#[derive(Debug)]
pub(super) struct Server {
    peer: Arc<Peer>,
    running: Semaphore,
}

impl Server {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            running: Semaphore::new(peer.shared.in_flight),
            peer: Arc::new(peer),
        }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        info()
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        revisions()
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let mut tools = self.peer.shared.tools.iter();
        tools.find(|tool| tool.name == name).cloned()
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(
            self.peer.shared.tools.clone(),
        ))
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        Err(not_understood(&request))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = Name::parse(&request.name).ok_or_else(no_such_tool)?;
        let Ok(_running) = self.running.try_acquire() else {
            let refusal = Refusal {
                retry_after: Some(BUSY_RETRY_AFTER),
                ..Refusal::new(ErrorCode::RateLimited)
            };
            return Ok(reply::refused(&refusal).into());
        };
        let cancelled = context.ct.clone();
        tokio::select! {
            biased;
            answer = tools::call(name, &self.peer, request, context) => Ok(answer),
            // Nobody hears it: what is cancelled is not answered.
            () = cancelled.cancelled() => Err(ErrorData::internal_error("cancelled", None)),
        }
    }
}
