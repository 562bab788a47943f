//! What `aegis-broker mcp` does: moves bytes between an MCP client's stdio and `mcp.sock`.
//!
//! It holds no secret, and while a daemon serves it reads no message and knows no tool. [`reach`] finds the daemon and starts
//! it where there is none, [`degraded()`] stands in for it where none can be had, and
//! [`Inherited::relay`] moves the bytes. Standard output belongs to the protocol: nothing here
//! writes to it but the relay, and nothing here logs.

mod start;

mod launch;

mod deadline;

mod degraded;

mod relay;

pub use degraded::degraded;
pub use launch::Launch;
pub use relay::Inherited;
pub use start::{Door, reach};
