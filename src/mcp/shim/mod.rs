//! What `aegis-broker mcp` does: moves bytes between an MCP client's stdio and `mcp.sock`.
//!
//! It holds no secret, and to whom a daemon serves it is bytes: of all that is said, it looks at
//! the daemon's first line alone, which may be a refusal. [`reach`] finds the daemon and starts it
//! where there is none, [`Inherited::relay`] moves the bytes, and [`degraded()`] stands in where no
//! daemon can be had or it has no place for one more: a server of MCP with the daemon's list of
//! tools, which answers each call with what to do. Standard output belongs to the protocol:
//! nothing here writes to it but the relay, and nothing here logs.

mod start;

mod launch;

mod deadline;

mod degraded;

mod opening;

mod relay;

pub use degraded::degraded;
pub use launch::Launch;
pub use opening::TurnedAway;
pub use relay::{Inherited, Relayed};
pub use start::{Door, reach};
