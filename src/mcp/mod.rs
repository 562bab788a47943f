//! Door: `mcp.sock`, for models. MCP 2025-06-18, 2025-11-25 and 2026-07-28 at once, tools only.
//!
//! A model gets handles and outcomes, never credential material: the connection this door holds
//! ([`ModelConnection`](crate::broker::handle::ModelConnection)) cannot ask for any, and
//! `tests/layering.rs` keeps every secret type out of this module. What a tool may do is decided
//! by the core; nothing here approves, unlocks or changes policy (AP-8), and what a client says
//! about itself is not looked at (MC-8).
//!
//! Read in this order: [`door`] (one peer's conversation), `guard` and `rate` (what bounds it),
//! `server` (what MCP asks for), [`tools`] (one file per tool), `elicitation` (how a login is
//! shown), `reply` and `wire` (how answers look). [`shim`] is another process: the relay that an
//! MCP client starts.

pub mod door;

mod guard;

mod rate;

mod server;

pub mod tools;

mod elicitation;

mod reply;

mod wire;

pub mod shim;
