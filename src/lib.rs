//! `aegis-broker`: the one local process that logs in to Aegis, keeps short-lived tokens in
//! memory that is wiped, signs a DPoP proof for every lease call, and hands local programs an
//! ephemeral credential only as policy and the person allow, audited before it leaves.
//!
//! Data flows one way: door → core → outside → core → door. Modules in reading order:
//!
//! | module | what |
//! |---|---|
//! | [`model`], [`secret`], [`time`] | the words: plain values, secret types, points in time |
//! | [`dpop`] | keys, thumbprints and proofs (RFC 9449) |
//! | [`svid`] | ids, keys and certificates of workloads (SPIFFE) |
//! | [`redact`] | finds secret values in foreign bytes and masks them |
//! | [`broker`] | the core: decides, no I/O; its ports and its actor |
//! | [`aegis`] | outside: the Aegis service over Connect |
//! | [`http`] | outside: requests that carry a credential, to the hosts it is bound to |
//! | [`audit`], [`keystore`] | outside: the chained log, the place for long-lived secrets |
//! | [`socket`] | door: `broker.sock`, and the client that commands use |
//! | [`mcp`] | door: `mcp.sock`, for models: handles and outcomes, never material; the relay in front of it |
//! | [`config`] | files and folders, read once |
//! | [`daemon`] | the composition root |
//! | [`cli`] | one file per subcommand |
//!
//! `tests/layering.rs` holds which of them may name which.

pub mod model;

pub mod secret;

pub mod time;

pub mod dpop;

pub mod svid;

pub mod redact;

pub mod broker;

pub mod aegis;

pub mod http;

pub mod audit;

pub mod keystore;

pub mod socket;

pub mod mcp;

pub mod config;

pub mod daemon;

pub mod cli;

#[cfg(test)]
#[path = "../tests/evidence/cases.rs"]
mod cases;
