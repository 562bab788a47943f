use std::time::Duration;

use super::{CleanText, Principal, ProfileName, Scope};
use crate::time::UnixTime;

/// The longest code that a login can have, in characters.
pub const MAX_USER_CODE: usize = 32;

/// How long a code lives at most (LM).
pub const MAX_CODE_LIFE: Duration = Duration::from_mins(15);

/// The most scopes that one login can ask for (`aegis.md` 7).
pub const MAX_SCOPES: usize = 96;

/// The shortest life that can be asked for a token (LM).
pub const MIN_TOKEN_TTL: Duration = Duration::from_mins(1);

/// The longest.
pub const MAX_TOKEN_TTL: Duration = Duration::from_mins(15);

/// The longest name that the approval page shows of us, in characters.
pub const MAX_DISPLAY_NAME: usize = 64;

/// What a person needs to approve a login on their own device (RFC 8628 §3.3). The
/// `device_code` is not part of it and never leaves the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// The code to type and to compare; at most [`MAX_USER_CODE`] characters.
    pub user_code: CleanText,
    /// Where to type it; a URI that may be shown and opened (OA-15).
    pub verification_uri: CleanText,
    /// The same with the code in it, where the server gives one.
    pub verification_uri_complete: Option<CleanText>,
    /// When the code ends, at most [`MAX_CODE_LIFE`] after it began.
    pub expires_at: UnixTime,
    /// What the broker calls itself there, as configured; at most 64 characters.
    pub client_display_name: CleanText,
    /// What is being asked for.
    pub scopes: Vec<Scope>,
}

/// Where a profile's login stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginPhase {
    /// Nobody is logged in.
    LoggedOut,
    /// Locked by the person: nothing is served until they log in again.
    Locked,
    /// A device login waits for the person's approval.
    AwaitingApproval(DeviceView),
    /// Logged in.
    LoggedIn {
        /// As whom.
        principal: Principal,
        /// Until when the access token lives.
        token_expires_at: UnixTime,
        /// What was granted.
        scopes: Vec<Scope>,
        /// Whether the server confirmed the token's binding to our key.
        binding_checked: bool,
    },
}

/// A profile's login as a door shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginView {
    /// Which profile.
    pub profile: ProfileName,
    /// How it stands.
    pub phase: LoginPhase,
}
