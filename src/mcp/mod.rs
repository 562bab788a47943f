//! Door: `mcp.sock`, for models. MCP 2025-06-18, 2025-11-25 and 2026-07-28 at once, tools only.
//!
//! A model gets handles and outcomes, never credential material: `tests/layering.rs` keeps every
//! secret type out of this module. What a tool may do is decided by the core; nothing here
//! approves, unlocks or changes policy (AP-8), and what a client says about itself is not looked
//! at (MC-8).
//!
//! Read in this order: `server` (what MCP asks for), [`tools`] (one file per tool), `reply` and
//! `wire` (how answers look). [`shim`] is another process: the relay that an MCP client starts.

pub mod tools;

mod reply;

mod server;

mod wire;

pub mod shim;
