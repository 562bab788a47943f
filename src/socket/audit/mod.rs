//! What `audit.reconcile` answers.

pub(super) mod wire;

use crate::model::CleanText;
use crate::time::UnixTime;

/// Our record of calls beside the issuer's, as a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// Events of our sessions that were compared.
    pub compared: u64,
    /// Of these, how many no call of ours explains.
    pub foreign: u64,
    /// The first of them.
    pub foreign_events: Vec<ForeignEvent>,
    /// Calls that were recorded as done and that the issuer does not know.
    pub missing: u64,
    /// The first of them.
    pub missing_calls: Vec<MissingCall>,
    /// Events of the same principal in other sessions.
    pub elsewhere: u64,
    /// Whether both records were looked at whole.
    pub complete: bool,
}

/// An event that no call of ours explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignEvent {
    /// When.
    pub at: UnixTime,
    /// What.
    pub action: CleanText,
    /// How it went.
    pub outcome: CleanText,
    /// For what.
    pub target: Option<CleanText>,
    /// The issuer's name for the request.
    pub request_id: Option<CleanText>,
}

/// A call that the issuer does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingCall {
    /// When it was recorded.
    pub at: UnixTime,
    /// What.
    pub action: CleanText,
    /// The issuer's names for its tries.
    pub request_ids: Vec<CleanText>,
}
