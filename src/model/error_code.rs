//! The public words for what went wrong: one table for the socket, the command line, the exit
//! status and the documentation.

/// Sysexits, by what the caller can do about it.
mod exit {
    pub(super) const USAGE: u8 = 64;
    pub(super) const DATA: u8 = 65;
    pub(super) const NO_INPUT: u8 = 66;
    /// Its own, so that whoever runs the comparison by a timer can tell an alarm from a failure.
    pub(super) const ALARM: u8 = 68;
    pub(super) const UNAVAILABLE: u8 = 69;
    pub(super) const SOFTWARE: u8 = 70;
    pub(super) const IO: u8 = 74;
    pub(super) const TEMPORARY: u8 = 75;
    pub(super) const PROTOCOL: u8 = 76;
    pub(super) const NO_PERMISSION: u8 = 77;
    pub(super) const CONFIG: u8 = 78;
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, exit $exit:ident, retryable $retryable:literal, $message:literal, fix $fix:literal;)*) => {
        /// A stable public error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The exit status of a command that ends with it (sysexits).
            pub const fn exit_status(self) -> u8 {
                match self { $(Self::$variant => exit::$exit,)* }
            }

            /// Whether the same request may succeed later without anybody changing anything.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }

            /// What happened, in a few words that fit after `error: `.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }

            /// What would fix it.
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$variant => $fix,)* }
            }
        }
    };
}

error_codes! {
    /// The line is not JSON, not JSON-RPC 2.0, or not what the method takes.
    InvalidRequest = "invalid_request", exit USAGE, retryable false,
        "the request is malformed", fix "compare it with docs/socket-protocol.md";
    /// No such method.
    MethodUnknown = "method_unknown", exit USAGE, retryable false,
        "there is no such method", fix "see docs/socket-protocol.md; after an upgrade, restart the daemon";
    /// Not a specific selector.
    SelectorInvalid = "selector_invalid", exit DATA, retryable false,
        "not a selector", fix "name exactly one account: provider/app/account";
    /// No such profile.
    ProfileUnknown = "profile_unknown", exit DATA, retryable false,
        "there is no such profile", fix "see `aegis-broker status` for the configured profile";
    /// The selector is not in the profile's catalogue.
    TargetUnknown = "target_unknown", exit NO_INPUT, retryable false,
        "the profile has no such target", fix "add it to the profile's targets, restart the daemon and log in again";
    /// Nobody is logged in, or the login has run out.
    LoginRequired = "login_required", exit NO_PERMISSION, retryable false,
        "not logged in", fix "run `aegis-broker login`";
    /// The person denied the login.
    AccessDenied = "access_denied", exit NO_PERMISSION, retryable false,
        "the login was denied", fix "run `aegis-broker login` again and approve it";
    /// The device code ran out before anybody approved it.
    ExpiredToken = "expired_token", exit NO_PERMISSION, retryable false,
        "the login was not approved in time", fix "run `aegis-broker login` again";
    /// The login was cancelled here.
    LoginCancelled = "login_cancelled", exit NO_PERMISSION, retryable false,
        "the login was cancelled", fix "run `aegis-broker login` again";
    /// The login came back for another account than before.
    PrincipalChanged = "principal_changed", exit NO_PERMISSION, retryable false,
        "the login is for another account than the profile's earlier one", fix "run `aegis-broker logout`, then log in again";
    /// The person locked the broker.
    Locked = "locked", exit NO_PERMISSION, retryable false,
        "the broker is locked", fix "run `aegis-broker login`";
    /// The local policy says no.
    PolicyDenied = "policy_denied", exit NO_PERMISSION, retryable false,
        "the policy does not allow this", fix "ask for a rule in policy.toml that allows this selector";
    /// The policy wants to ask the person, and there is no way to ask.
    ApprovalUnavailable = "approval_unavailable", exit NO_PERMISSION, retryable false,
        "the policy asks for an approval, and there is no way to ask yet", fix "use `effect = \"allow\"` in a rule for this selector";
    /// The session was not granted this action on this selector.
    ScopeNotGranted = "scope_not_granted", exit NO_PERMISSION, retryable false,
        "the login does not cover this", fix "add the action to the target, start the daemon again, then log in";
    /// Aegis said no.
    AegisDenied = "aegis_denied", exit NO_PERMISSION, retryable false,
        "aegis refused the call", fix "ask the tenant's administrator for a grant";
    /// No live lease of that id is yours.
    LeaseNotFound = "lease_not_found", exit NO_INPUT, retryable false,
        "there is no such lease", fix "see `aegis-broker lease list`, or create one";
    /// The lease has run out.
    LeaseExpired = "lease_expired", exit NO_INPUT, retryable false,
        "the lease has expired", fix "create a new lease";
    /// The lease was ended.
    LeaseRevoked = "lease_revoked", exit NO_INPUT, retryable false,
        "the lease was revoked", fix "create a new lease";
    /// All redemptions are used.
    LeaseExhausted = "lease_exhausted", exit NO_INPUT, retryable false,
        "the lease has no redemptions left", fix "create a new lease, with more redemptions if needed";
    /// Too much at once, here or at Aegis.
    RateLimited = "rate_limited", exit TEMPORARY, retryable true,
        "too many requests", fix "wait and try again";
    /// Aegis cannot be reached or does not answer in time.
    AegisUnavailable = "aegis_unavailable", exit UNAVAILABLE, retryable true,
        "aegis is not available", fix "check the network and the profile's base_url, then try again";
    /// Aegis answered something that its contract does not allow.
    AegisProtocol = "aegis_protocol", exit PROTOCOL, retryable false,
        "aegis answered in a way its contract does not allow", fix "check the profile's base_url; report the request id to the operator";
    /// The host of a request that carries a credential does not answer it.
    TargetUnavailable = "target_unavailable", exit UNAVAILABLE, retryable false,
        "the host of the request is not available", fix "check the network and the address";
    /// The audit record could not be written, so nothing was delivered.
    AuditUnavailable = "audit_unavailable", exit IO, retryable true,
        "the audit record could not be written, so nothing was delivered", fix "free space or repair the audit folder; see `aegis-broker audit verify`";
    /// The audit log does not verify.
    AuditDamaged = "audit_damaged", exit DATA, retryable false,
        "the audit log does not verify", fix "keep the log as evidence and find out who changed it";
    /// The issuer knows calls in our session that we did not make.
    ForeignUse = "foreign_use", exit ALARM, retryable false,
        "somebody else has used this login", fix "run `aegis-broker logout`, keep the log as evidence, and tell the tenant's administrator the request ids";
    /// The daemon is stopping.
    ShuttingDown = "shutting_down", exit TEMPORARY, retryable true,
        "the daemon is stopping", fix "try again when it is back";
    /// No daemon answers.
    DaemonUnreachable = "daemon_unreachable", exit UNAVAILABLE, retryable true,
        "no daemon answers", fix "start it with `aegis-broker daemon`";
    /// An MCP client found no daemon, and none could be started.
    DaemonUnavailable = "daemon_unavailable", exit UNAVAILABLE, retryable false,
        "there is no daemon", fix "start it with `aegis-broker daemon`";
    /// Another daemon runs already.
    AlreadyRunning = "already_running", exit TEMPORARY, retryable false,
        "another daemon is already running for this user", fix "use it, or stop it first";
    /// The runtime folder cannot be trusted.
    RuntimeFolderUnsafe = "runtime_folder_unsafe", exit CONFIG, retryable false,
        "the runtime folder is not a private folder of yours", fix "make it yours with mode 0700, or set XDG_RUNTIME_DIR";
    /// The configuration or the policy has a mistake.
    ConfigInvalid = "config_invalid", exit CONFIG, retryable false,
        "the configuration has a mistake", fix "correct the key that is named; config/aegis-broker.toml lists all of them";
    /// A secret would have been written to a terminal.
    TerminalRefused = "terminal_refused", exit USAGE, retryable false,
        "refusing to write a secret to a terminal", fix "redirect the output, or add --reveal";
    /// The command line does not say what to do.
    Usage = "usage", exit USAGE, retryable false,
        "the command line is incomplete or contradictory", fix "see --help";
    /// A file or stream here could not be read or written.
    Io = "io_error", exit IO, retryable false,
        "a local file or stream failed", fix "see the message; check space and permissions";
    /// A step of the demonstration did not show what it should.
    DemoFailed = "demo_failed", exit SOFTWARE, retryable false,
        "a step of the demonstration failed", fix "see the named step; report it as a bug";
    /// A mistake of ours.
    Internal = "internal", exit SOFTWARE, retryable false,
        "the broker made a mistake", fix "report it as a bug, with the daemon's log";
}

impl ErrorCode {
    /// The code of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// Whether an automatic caller should stop asking: nothing it can do by itself helps.
    pub const fn do_not_retry(self) -> bool {
        match self {
            Self::AccessDenied
            | Self::PolicyDenied
            | Self::ApprovalUnavailable
            | Self::ScopeNotGranted
            | Self::AegisDenied
            | Self::AegisProtocol
            | Self::Locked
            | Self::PrincipalChanged
            | Self::TargetUnknown
            | Self::ProfileUnknown
            | Self::DaemonUnavailable
            | Self::LoginCancelled => true,
            Self::InvalidRequest
            | Self::MethodUnknown
            | Self::SelectorInvalid
            | Self::LoginRequired
            | Self::ExpiredToken
            | Self::LeaseNotFound
            | Self::LeaseExpired
            | Self::LeaseRevoked
            | Self::LeaseExhausted
            | Self::RateLimited
            | Self::AegisUnavailable
            | Self::TargetUnavailable
            | Self::AuditUnavailable
            | Self::AuditDamaged
            | Self::ForeignUse
            | Self::ShuttingDown
            | Self::DaemonUnreachable
            | Self::AlreadyRunning
            | Self::RuntimeFolderUnsafe
            | Self::ConfigInvalid
            | Self::TerminalRefused
            | Self::Usage
            | Self::Io
            | Self::DemoFailed
            | Self::Internal => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_reads_back_and_is_unique() {
        let words: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert!((64..=78).contains(&code.exit_status()), "{}", code.as_str());
            assert!(
                !(code.is_retryable() && code.do_not_retry()),
                "{}",
                code.as_str()
            );
        }
    }

    /// Messages fit after `error: `.
    #[test]
    fn messages_are_lower_case_without_a_full_stop() {
        for code in ErrorCode::ALL {
            let message = code.message();
            assert!(!message.ends_with('.'), "{}", code.as_str());
            assert!(
                message.starts_with(|c: char| c.is_lowercase()),
                "{}",
                code.as_str()
            );
            assert!(!code.fix().is_empty());
        }
    }
}
