//! Door: `broker.sock`, and the client that commands use.
//!
//! A connection is a peer of our own uid or it is nothing; a line is a whole JSON-RPC request or
//! an error; an answer goes out on the connection and under the id that asked. The door
//! translates, it does not decide: everything it can do is ask the core through its handle.
//! Raw input never enters an error, a log line or a panic, and material is encoded straight into
//! a buffer that is wiped.
//!
//! Read in this order: [`folder`] (where the socket lives), [`listener`] (who may connect),
//! `peer` (who that is), `frame` (lines), `wire` and `audit` (JSON-RPC), `connection` (one peer's
//! conversation), [`client`] (the other end). The wire itself is described in
//! `docs/socket-protocol.md`.

pub mod folder;

pub mod listener;

mod exe_hash;

mod peer;

mod frame;

mod wire;

mod connection;

mod audit;

pub mod client;

/// The version of the protocol. A change that an existing client would notice raises it.
pub const API_VERSION: u32 = 1;
