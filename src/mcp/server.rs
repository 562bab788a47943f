//! What MCP asks of a server, answered for one peer.

use std::borrow::Cow;

use rmcp::model::{ErrorData, Implementation, ProtocolVersion, ServerCapabilities, ServerConfig};

/// The revisions we serve, oldest first.
const REVISIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V_2025_06_18,
    ProtocolVersion::V_2025_11_25,
    ProtocolVersion::V_2026_07_28,
];

/// What a client shows its model about the whole of us.
const INSTRUCTIONS: &str = "Short-lived credentials, lent by the person at this machine. \
You never see a secret here: lease_create answers with a handle, and a program redeems it. \
Start with target_list; call login when an answer says login_required, and show the person the \
address and the code. When an answer says do_not_retry, stop and tell the person.";

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
