//! Sends requests that carry a credential which nobody is given (`http_request`).
//!
//! What is sent was parsed once and checked against the target's injection table by the core; here
//! the credential is put in by the same table. No redirect is followed, no proxy asked, nothing
//! decompressed. A name is resolved here, every address of it checked, and only those are dialled.
//! What comes back is bounded in bytes and time, and looked through for every value that the
//! broker knows, before anybody sees it.
//!
//! No connection is kept: the buffers of an idle one would hold the credential.
//!
//! Start at `sender.rs`.

mod answer;
mod credential;
mod resolve;
mod sender;

pub use resolve::{Resolve, SystemResolver};
pub use sender::Sender;
