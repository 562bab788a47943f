//! The server that stands in when no daemon can be had. A client that finds nobody shows its
//! person a bare "connection closed"; this one says what is wrong and what mends it.

use std::borrow::Cow;

use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CustomRequest, CustomResult, ErrorData,
    ListToolsResult, PaginatedRequestParams, ProtocolVersion, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};

use super::Name;
use crate::mcp::{reply, server};
use crate::model::{ErrorCode, Refusal};

/// A server with the daemon's list of tools that answers every call with one refusal,
/// `daemon_unavailable`. Serve it with [`rmcp::ServiceExt::serve`].
#[derive(Debug, Clone)]
pub struct Degraded {
    refusal: Refusal,
    tools: Vec<Tool>,
}

/// A degraded server. `reason` says why there is no daemon, in a few words that fit after
/// `error: `; `fix` names the command that mends it. Both are cut to 512 characters and cleaned.
pub fn degraded(reason: &str, fix: &str) -> Degraded {
    Degraded {
        refusal: Refusal::new(ErrorCode::DaemonUnavailable)
            .with_message(reason)
            .with_fix(fix),
        tools: super::list(),
    }
}

impl ServerHandler for Degraded {
    fn get_info(&self) -> ServerConfig {
        server::info()
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        server::revisions()
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.clone()))
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        Err(server::not_understood(&request))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match Name::parse(&request.name) {
            Some(_) => Ok(reply::refused(&self.refusal).into()),
            None => Err(server::no_such_tool()),
        }
    }
}
