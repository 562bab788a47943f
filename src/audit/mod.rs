//! Outside: the chained audit log.
//!
//! What it promises: [`FileAuditLog`]'s `append` returns only when the record is in the kernel;
//! the disk follows within 100 ms (AU-1). Whatever is changed, cut, put in, moved or copied in
//! the log afterwards, [`verify`] finds it and names the first bad line (AU-3 to AU-9). What it
//! never does: hold a secret of anybody's, rewrite a line, wait for the disk on the reply path
//! (except once per segment of 8 MiB), or wake up while nothing happens.
//!
//! The folder holds segments `audit-000001.jsonl`, …, the file `anchor`, the writer's `lock`,
//! and `torn-…` files with the half-written last lines of crashes. A segment is one JSON object
//! a line:
//!
//! ```text
//! {"seq":1,"at":…,"version":1,"segment":1,"key_id":…,"key_persistent":false,"prev":…,"hash":…,"mac":…}
//! {"seq":2,"at":…,"action":"start","outcome":"ok",…,"prev":…,"hash":…,"mac":…}
//! ```
//!
//! A record of a call names its last HTTP try in `request_id` and `proof_jti`. Where others came
//! before it, `earlier_tries` is a list of the same two members for each, the first try first, at
//! most five; what is not known is left out. Otherwise there is no such member.
//!
//! The first line is the segment's header. `prev` is the `hash` of the line before, across
//! segments too; `hash` is SHA-256 over the line's bytes up to and with `prev`; `mac` is
//! HMAC-SHA-256 over `hash` under the segment's key. All three are base64url without padding.
//! The anchor says how many lines there are and the last one's hash, as of the last sync.
//!
//! What an unkeyed check cannot see: a whole log rewritten together with its anchor. It is
//! therefore reported by how many records were checked with a key (AU-7).
//!
//! Read `line` (what is written), `wire` (what is read), `folder`, `scan` (the check), then
//! [`FileAuditLog`] and `commit` (the sync behind it), `verify` and `history`.

mod chain;

mod line;

mod wire;

mod folder;

mod scan;

mod history;

mod commit;

mod log;

pub mod verify;

#[cfg(test)]
mod tests;

pub use chain::Keys;
pub use folder::FolderError;
pub use log::{FileAuditLog, OpenError, Opened};

// For those who read records and may not name the core.
pub use crate::broker::ports::{AuditAction, AuditOutcome};
