//! Door: `broker.sock`, and the client that commands use.
