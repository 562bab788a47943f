//! The words everything else is said in. Plain values, parsed once at a door or at the wire;
//! nothing here does I/O, knows a clock or decides anything.
//!
//! Start with [`Selector`] (what is asked for) and [`ErrorCode`] (how a no is said).

mod selector;

mod scope;

mod ids;

mod exposure;

mod lease;

mod credential;

mod device;

mod gate;

mod peer;

mod rule;

mod target;

mod text;

mod error_code;

mod refusal;

mod address;

mod outgoing;

mod injection;

pub use address::is_public;
pub use credential::{Field, FieldValue, Material, MaterialKind};
pub use device::{
    DeviceView, LoginPhase, LoginView, MAX_CODE_LIFE, MAX_DISPLAY_NAME, MAX_SCOPES, MAX_TOKEN_TTL,
    MAX_USER_CODE, MIN_TOKEN_TTL,
};
pub use error_code::ErrorCode;
pub use exposure::Exposure;
pub use gate::Gate;
pub use ids::{
    IdError, LeaseId, PopKeyId, Principal, ProfileName, ProofJti, RequestId, SessionId, TenantId,
};
pub use injection::{
    BoundHost, Injection, InjectionScheme, MAX_BOUND, MAX_HTTP_REQUEST, MAX_HTTP_RESPONSE,
    PathPrefix, Unbound, is_injectable_header, may_dial_literal,
};
pub use lease::{
    HolderClass, LeaseState, LeaseView, MAX_LEASE_TTL, MAX_REASON, MAX_REDEMPTIONS, MIN_LEASE_TTL,
};
pub use outgoing::{HttpMethod, Outgoing, OutgoingError};
pub use peer::{Ancestor, FileHash, FileId, Origin, PeerFacts, ProcessId};
pub use refusal::Refusal;
pub use rule::{Effect, NoRule, OnLeak, PeerPattern, Rule, SelectorPattern};
pub use scope::{Action, Scope, ScopeError};
pub use selector::{Selector, SelectorError, is_segment};
pub use target::Target;
pub use text::{CleanText, shell_word};
