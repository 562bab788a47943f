//! The least that the MCP library makes of a server: one tool, one answer, on the descriptors
//! that the client handed over. A child of the tool.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, JsonObject,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::{ServerHandler, ServiceExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::OnceCell;

use crate::args::Failed;

/// Serves stdio, which must be pipes, until the client closes its side. Every call is answered
/// with the result that stands in the file `answer`.
pub(crate) fn serve(answer: &Path) -> Result<(), Failed> {
    let server = Minimal {
        file: answer.to_owned(),
        answer: OnceCell::new(),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let input = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
            let output = Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
            let transport = AsyncRwTransport::<RoleServer, _, _>::new(input, output);
            server.serve(transport).await?.waiting().await?;
            Ok(())
        })
}

#[derive(Debug)]
struct Minimal {
    file: PathBuf,
    /// Read with the first call, so that starting is not slower for it.
    answer: OnceCell<CallToolResult>,
}

impl Minimal {
    async fn answer(&self) -> io::Result<&CallToolResult> {
        let read = async || Ok(serde_json::from_slice(&std::fs::read(&self.file)?)?);
        self.answer.get_or_try_init(read).await
    }
}

impl ServerHandler for Minimal {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = Tool::new(
            "status",
            "Answers with what it was told to.",
            Arc::new(JsonObject::new()),
        );
        Ok(ListToolsResult::with_all_items(vec![tool]))
    }

    async fn call_tool(
        &self,
        _request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match self.answer().await {
            Ok(answer) => Ok(answer.clone().into()),
            Err(_no_detail) => Err(ErrorData::internal_error("there is no answer", None)),
        }
    }
}
