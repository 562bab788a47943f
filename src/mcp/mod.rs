//! Door: `mcp.sock`, for models, and the relay between it and an MCP client's stdio.

pub mod shim;
