use std::time::Duration;

use url::Url;

use crate::broker::ports::{Certainty, Disposition, Failure};
use crate::dpop::DpopError;
use crate::model::{CleanText, ErrorCode, MAX_LEASE_TTL};
use crate::svid::SvidError;

/// Longer pauses than this are not waited for inside a call, nor asked of a poll.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// The longest pause that a caller is told: as long as the longest lease lives. A server may name
/// any number, or a date years away, and a program that believes it would never come back.
const MAX_TOLD: Duration = MAX_LEASE_TTL;

/// Of a message, in characters: as much as a refusal holds.
const MAX_MESSAGE: usize = 512;

/// Of the base URL in it: the cause comes after.
const MAX_BASE: usize = 256;

/// Why a call to Aegis failed. Holds no body, no message and no URL of the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AegisError {
    /// The request is not one the contract allows; it did not leave.
    #[error("the request is outside the contract: {0}")]
    Request(&'static str),
    /// Key, proof or random bytes failed here; nothing left.
    #[error(transparent)]
    Crypto(#[from] DpopError),
    /// The HTTP client could not be built.
    #[error("the http client could not be built")]
    Client,
    /// No connection, or it broke before the answer was complete.
    #[error("aegis is unreachable: {fault}")]
    Unreachable {
        /// In which way.
        fault: NetworkFault,
        /// Whether the request may have left.
        sent: bool,
    },
    /// The call's 30 s were over.
    #[error("aegis did not answer in time")]
    Timeout {
        /// Whether the request may have left.
        sent: bool,
    },
    /// The answer is not one the contract allows.
    #[error("aegis broke its contract: {0}")]
    Protocol(ProtocolFault),
    /// The token is not the one that was asked for; it was thrown away.
    #[error("aegis gave a token that was not asked for: {0}")]
    Token(TokenFault),
    /// The certificate is not the one that was asked for; it was thrown away, with its key.
    #[error("aegis gave a certificate that is not to be used: {0}")]
    Identity(#[from] SvidError),
    /// Aegis said no.
    #[error("aegis refused: {}", .0.code.as_str())]
    Rejected(Rejection),
    /// The third refused proof of one key in five minutes.
    #[error("aegis refused three proofs of this key in five minutes")]
    KeySuspect(Rejection),
}

/// In which way a server is not reached. What TLS holds against a certificate is not told apart:
/// its words quote the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFault {
    /// The host's name has no address.
    #[error("its name was not found")]
    NameNotFound,
    /// Nobody listens there.
    #[error("the connection was refused")]
    Refused,
    /// The 10 s for TCP and TLS were over.
    #[error("no connection within 10 s")]
    Slow,
    /// No TLS is spoken there, or its certificate is not trusted.
    #[error("the TLS handshake failed")]
    Tls,
    /// No way there, for another reason.
    #[error("no connection could be made")]
    NoConnection,
    /// It ended before the answer did, or what came is not HTTP.
    #[error("the connection broke before the answer was complete")]
    Broken,
}

impl NetworkFault {
    /// The reason word in records and refusals.
    const fn word(self) -> &'static str {
        match self {
            Self::NameNotFound => "name_not_found",
            Self::Refused => "connection_refused",
            Self::Slow => "connect_timeout",
            Self::Tls => "tls_failed",
            Self::NoConnection => "no_connection",
            Self::Broken => "connection_broken",
        }
    }
}

/// In which way an answer breaks the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolFault {
    /// A redirect, which is never followed (OA-7).
    #[error("redirect")]
    Redirect,
    /// More than 64 KiB of headers.
    #[error("headers too large")]
    HeadersTooLarge,
    /// More than 1 MiB of body.
    #[error("body too large")]
    BodyTooLarge,
    /// A content type other than JSON, or an encoding nobody asked for.
    #[error("not plain json")]
    NotPlainJson,
    /// Not JSON, too deep, a name twice, a wrong type.
    #[error("malformed body")]
    Malformed,
    /// A 200 with an error in it.
    #[error("an error in a successful answer")]
    ErrorInSuccess,
    /// A refusal with a token or a credential in it.
    #[error("a secret in a refusal")]
    SecretInRefusal,
    /// `use_dpop_nonce` without exactly one legal `DPoP-Nonce`.
    #[error("no usable nonce")]
    NonceMissing,
    /// `use_dpop_nonce` again, although the proof held the nonce of that very answer.
    #[error("nonce loop")]
    NonceLoop,
    /// A field that must be there is missing or not what was asked for.
    #[error("field {0}")]
    Field(&'static str),
    /// A 404, 405 or 501 without a word of the protocol: whoever answers there does not know our
    /// methods.
    #[error("http status {0}")]
    NotAegis(u16),
}

impl ProtocolFault {
    /// Whether it looks as if another server than Aegis had answered.
    const fn is_foreign(self) -> bool {
        matches!(
            self,
            Self::NotAegis(_) | Self::Redirect | Self::NotPlainJson
        )
    }

    /// Whether a success was not to be read at all. One that was, and said something else than it
    /// should, would say so again.
    pub(super) const fn is_unreadable(self) -> bool {
        matches!(
            self,
            Self::HeadersTooLarge | Self::BodyTooLarge | Self::NotPlainJson | Self::Malformed
        )
    }
}

/// In which way a token is not the one that was asked for (`aegis.md` 6 and 17.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// `token_info` or a member it must have is missing.
    #[error("token_info incomplete")]
    InfoMissing,
    /// Not bound to our key.
    #[error("thumbprint mismatch")]
    Thumbprint,
    /// Bound in another way.
    #[error("binding mismatch")]
    Binding,
    /// Another key's name.
    #[error("pop_key_id mismatch")]
    PopKeyId,
    /// Another tenant.
    #[error("tenant mismatch")]
    Tenant,
    /// A scope that was not asked for.
    #[error("wider scope")]
    Scope,
    /// Over before it began.
    #[error("no lifetime")]
    Lifetime,
}

impl TokenFault {
    /// The reason word in records.
    const fn word(self) -> &'static str {
        match self {
            Self::InfoMissing => "token_info_missing",
            Self::Thumbprint => "token_thumbprint_mismatch",
            Self::Binding => "token_binding_mismatch",
            Self::PopKeyId => "token_pop_key_id_mismatch",
            Self::Tenant => "token_tenant_mismatch",
            Self::Scope => "token_scope_wider",
            Self::Lifetime => "token_lifetime",
        }
    }
}

/// A no of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The HTTP status.
    pub status: u16,
    /// The Connect code, of the body or else by HTTP status (CN-1).
    pub code: ConnectCode,
    /// The contract's reason, where the answer names one it knows.
    pub reason: Option<Reason>,
    /// The reason word as it came, cleaned, known or not.
    pub word: Option<CleanText>,
    /// When to try again, at the earliest.
    pub retry_after: Option<Duration>,
    /// Whether the body was a Connect error.
    pub readable: bool,
    /// Whether it held an `ErrorInfo`: then the call certainly had no effect (`aegis.md` 9).
    pub has_info: bool,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the contract's own words, explained there")]
        pub enum $name { $($variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What the word stands for.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == text)
            }
        }
    };
}

words! {
    /// The sixteen codes of the Connect protocol.
    ConnectCode {
        Canceled = "canceled",
        Unknown = "unknown",
        InvalidArgument = "invalid_argument",
        DeadlineExceeded = "deadline_exceeded",
        NotFound = "not_found",
        AlreadyExists = "already_exists",
        PermissionDenied = "permission_denied",
        ResourceExhausted = "resource_exhausted",
        FailedPrecondition = "failed_precondition",
        Aborted = "aborted",
        OutOfRange = "out_of_range",
        Unimplemented = "unimplemented",
        Internal = "internal",
        Unavailable = "unavailable",
        DataLoss = "data_loss",
        Unauthenticated = "unauthenticated",
    }
}

impl ConnectCode {
    /// What an HTTP status means when the body does not say (CN-1).
    pub const fn of_status(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

words! {
    /// The reasons of `aegis.md` 12 and 17.11 that concern a broker.
    Reason {
        UnknownField = "unknown_field",
        DuplicateField = "duplicate_field",
        TypeMismatch = "type_mismatch",
        FieldMissing = "field_missing",
        ProtocolVersionMissing = "protocol_version_missing",
        ScopeActionOnly = "scope_action_only",
        ScopeWildcard = "scope_wildcard",
        ScopeMalformed = "scope_malformed",
        ScopeUnknown = "scope_unknown",
        TargetMalformed = "target_malformed",
        TtlOutOfRange = "ttl_out_of_range",
        RedemptionsOutOfRange = "redemptions_out_of_range",
        RevokeReasonUnknown = "revoke_reason_unknown",
        IdempotencyMismatch = "idempotency_mismatch",
        PopJwkInvalid = "pop_jwk_invalid",
        UseDpopNonce = "use_dpop_nonce",
        ProofMissing = "proof_missing",
        ProofInvalid = "proof_invalid",
        ProofReplayed = "proof_replayed",
        ProofAmbiguous = "proof_ambiguous",
        TokenMissing = "token_missing",
        TokenExpired = "token_expired",
        TokenInvalid = "token_invalid",
        TokenRevoked = "token_revoked",
        BindingMismatch = "binding_mismatch",
        KeyRevoked = "key_revoked",
        SessionEnded = "session_ended",
        ClientCertificateMismatch = "client_certificate_mismatch",
        WorkloadTokenInvalid = "workload_token_invalid",
        InsecureUserHeader = "insecure_user_header",
        ScopeNotGranted = "scope_not_granted",
        TenantMismatch = "tenant_mismatch",
        PolicyDenied = "policy_denied",
        RoleRequired = "role_required",
        LeaseExhausted = "lease_exhausted",
        LeaseRevoked = "lease_revoked",
        LeaseExpired = "lease_expired",
        NonceReplayed = "nonce_replayed",
        ChallengeUsed = "challenge_used",
        ChallengeExpired = "challenge_expired",
        DeviceCodeUsed = "device_code_used",
        SealedByUserKey = "sealed_by_user_key",
        LeaseNotFound = "lease_not_found",
        DeviceCodeUnknown = "device_code_unknown",
        PopKeyConflict = "pop_key_conflict",
        RateLimited = "rate_limited",
        BodyTooLarge = "body_too_large",
        AuditUnavailable = "audit_unavailable",
    }
}

/// How every word begins that says that a workload's own token is not taken (`aegis.md` 12).
const WORKLOAD_TOKEN: &str = "workload_token_";

impl Reason {
    /// What a refusal's word stands for. The words about workload tokens are an open family, in
    /// which nothing is to be told apart here.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        Self::parse(word).or_else(|| {
            word.starts_with(WORKLOAD_TOKEN)
                .then_some(Self::WorkloadTokenInvalid)
        })
    }

    /// Whether it says that a proof was refused.
    pub(super) const fn refuses_proof(self) -> bool {
        matches!(
            self,
            Self::ProofMissing | Self::ProofInvalid | Self::ProofReplayed | Self::ProofAmbiguous
        )
    }
}

/// During what a call failed: while a device login polls, faults that pass are waited out until
/// the code ends (`aegis.md` 17.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    /// The call that begins a device login: without a token, and before there is a session.
    Begin,
    /// One poll of a device login.
    Poll,
    /// Any other call.
    Call,
}

impl AegisError {
    /// What the core does about it (`aegis.md` 12, and 17.3 while polling).
    pub fn disposition(&self, during: During) -> Disposition {
        let passing = |after: Option<Duration>| match during {
            During::Poll => Disposition::Wait(after.map(|after| after.min(MAX_RETRY_AFTER))),
            During::Begin | During::Call => {
                Disposition::Retry(after.map(|after| after.min(MAX_TOLD)))
            }
        };
        match self {
            Self::Request(_)
            | Self::Crypto(_)
            | Self::Client
            | Self::Token(_)
            | Self::Identity(_)
            | Self::Protocol(
                ProtocolFault::HeadersTooLarge
                | ProtocolFault::BodyTooLarge
                | ProtocolFault::NotPlainJson
                | ProtocolFault::Malformed
                | ProtocolFault::ErrorInSuccess
                | ProtocolFault::SecretInRefusal
                | ProtocolFault::NonceMissing
                | ProtocolFault::NonceLoop
                | ProtocolFault::Field(_),
            ) => Disposition::Fault,
            Self::Unreachable { .. } | Self::Timeout { .. } => passing(None),
            Self::Protocol(ProtocolFault::Redirect | ProtocolFault::NotAegis(_)) => match during {
                // A captive portal, or a proxy without its server; only a 200 that does not parse ends a login.
                During::Poll => Disposition::Wait(None),
                During::Begin | During::Call => Disposition::Fault,
            },
            Self::KeySuspect(_) => Disposition::Compromised,
            Self::Rejected(rejection) if during == During::Poll && !rejection.readable => {
                passing(rejection.retry_after)
            }
            Self::Rejected(rejection) => match rejection.code {
                ConnectCode::InvalidArgument
                | ConnectCode::PermissionDenied
                | ConnectCode::FailedPrecondition
                | ConnectCode::NotFound
                | ConnectCode::AlreadyExists
                | ConnectCode::Unimplemented
                | ConnectCode::OutOfRange
                | ConnectCode::Canceled => Disposition::Terminal,
                ConnectCode::Unauthenticated => match during {
                    During::Begin | During::Poll => Disposition::Terminal,
                    During::Call => unauthenticated(rejection.reason),
                },
                ConnectCode::ResourceExhausted
                    if rejection.reason == Some(Reason::BodyTooLarge) =>
                {
                    Disposition::Terminal
                }
                ConnectCode::ResourceExhausted
                | ConnectCode::Unavailable
                | ConnectCode::Internal
                | ConnectCode::Unknown
                | ConnectCode::DataLoss
                | ConnectCode::Aborted
                | ConnectCode::DeadlineExceeded => passing(rejection.retry_after),
            },
        }
    }

    /// The public code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Request(_) | Self::Crypto(_) | Self::Client => ErrorCode::Internal,
            Self::Unreachable { .. } | Self::Timeout { .. } => ErrorCode::AegisUnavailable,
            Self::Protocol(_) | Self::Token(_) | Self::Identity(_) => ErrorCode::AegisProtocol,
            Self::KeySuspect(_) => ErrorCode::LoginRequired,
            Self::Rejected(rejection) => match rejection.reason {
                Some(reason) => code_of_reason(reason),
                None => code_of_connect(rejection.code),
            },
        }
    }

    /// The public code of a call of that kind. Before there is a session no lease can be what is
    /// missing, and before it is begun no login: it is Aegis that does not want this one.
    fn code_during(&self, during: During) -> ErrorCode {
        match (during, self.code()) {
            (
                During::Begin,
                ErrorCode::LoginRequired
                | ErrorCode::LeaseNotFound
                | ErrorCode::LeaseExpired
                | ErrorCode::LeaseRevoked
                | ErrorCode::LeaseExhausted,
            )
            | (
                During::Poll,
                ErrorCode::LeaseNotFound
                | ErrorCode::LeaseExpired
                | ErrorCode::LeaseRevoked
                | ErrorCode::LeaseExhausted,
            ) => ErrorCode::AegisDenied,
            (During::Begin | During::Poll | During::Call, code) => code,
        }
    }

    /// Whether the call may have had its effect all the same: only an answer with an
    /// `ErrorInfo`, or a request that never left, says that it had none (`aegis.md` 9).
    pub fn certainty(&self) -> Certainty {
        let not_done = match self {
            // The nonce faults come with a refusal that names its reason.
            Self::Request(_)
            | Self::Crypto(_)
            | Self::Client
            | Self::Protocol(ProtocolFault::NonceMissing | ProtocolFault::NonceLoop) => true,
            Self::Unreachable { sent, .. } | Self::Timeout { sent } => !sent,
            Self::Rejected(rejection) | Self::KeySuspect(rejection) => rejection.has_info,
            Self::Protocol(_) | Self::Token(_) | Self::Identity(_) => false,
        };
        if not_done {
            Certainty::NotDone
        } else {
            Certainty::Unknown
        }
    }

    /// The reason of a refusal.
    pub(super) const fn refusal(&self) -> Option<Reason> {
        if let Self::Rejected(rejection) = self {
            rejection.reason
        } else {
            None
        }
    }

    /// The same refusal, of a key that had too many of them.
    pub(super) fn of_suspect_key(self) -> Self {
        if let Self::Rejected(rejection) = self {
            Self::KeySuspect(rejection)
        } else {
            self
        }
    }

    /// The word for records: the server's where it is one, else ours.
    fn reason(&self) -> Option<CleanText> {
        // Words as the contract's: without blanks.
        let ours = |text: &str| Some(CleanText::new(&text.replace(' ', "_"), 64));
        match self {
            Self::Rejected(rejection) => rejection
                .word
                .clone()
                .or_else(|| ours(rejection.code.as_str())),
            Self::KeySuspect(_) => ours("key_suspect"),
            Self::Token(fault) => ours(fault.word()),
            Self::Identity(fault) => ours(&fault.to_string()),
            Self::Protocol(ProtocolFault::NotAegis(_)) => ours("not_aegis"),
            Self::Protocol(fault) => ours(&fault.to_string()),
            Self::Request(what) => ours(what),
            Self::Timeout { .. } => ours("timeout"),
            Self::Unreachable { fault, .. } => ours(fault.word()),
            Self::Crypto(_) | Self::Client => None,
        }
    }

    /// What a person is told where the code's own message says too little: who was asked, and
    /// what came of it. In our words alone.
    fn message(&self, base: &Url, during: During) -> Option<CleanText> {
        let base = CleanText::new(base.as_str(), MAX_BASE);
        let text = match self {
            Self::Unreachable { fault, .. } => {
                format!("aegis at {base} is not available: {fault}")
            }
            Self::Timeout { .. } => {
                format!("aegis at {base} is not available: no answer within 30 s")
            }
            Self::Protocol(fault) if fault.is_foreign() => {
                format!("what answers at {base} is not an aegis server: {fault}")
            }
            Self::Protocol(fault) => format!("aegis at {base} broke its contract: {fault}"),
            Self::Token(fault) => {
                format!("aegis at {base} gave a token that was not asked for: {fault}")
            }
            Self::Identity(fault) => {
                format!("aegis at {base} gave a certificate that is not to be used: {fault}")
            }
            Self::Rejected(rejection) if self.code() == ErrorCode::AegisUnavailable => {
                let status = rejection.status;
                format!("aegis at {base} is not available: http status {status}")
            }
            Self::Rejected(_) if self.code_during(during) != self.code() => match during {
                During::Begin => format!("aegis at {base} refused to begin a login"),
                During::Poll | During::Call => format!("aegis at {base} refused the login"),
            },
            Self::KeySuspect(_) => format!(
                "aegis at {base} refused three proofs of this login's key within five minutes: \
                 key and session were dropped here, for somebody else may have used them"
            ),
            Self::Request(_) | Self::Crypto(_) | Self::Client | Self::Rejected(_) => return None,
        };
        Some(CleanText::new(&text, MAX_MESSAGE))
    }

    /// The failure as the core takes it, of a call to `base`; `certainty` is that of the whole
    /// call, all its tries.
    pub(super) fn into_failure(self, base: &Url, during: During, certainty: Certainty) -> Failure {
        Failure {
            code: self.code_during(during),
            disposition: self.disposition(during),
            reason: self.reason(),
            message: self.message(base, during),
            certainty,
            made: None,
        }
    }
}

const fn unauthenticated(reason: Option<Reason>) -> Disposition {
    match reason {
        Some(
            Reason::UseDpopNonce
            | Reason::ProofMissing
            | Reason::ProofInvalid
            | Reason::ProofReplayed
            | Reason::ProofAmbiguous
            | Reason::ClientCertificateMismatch
            | Reason::WorkloadTokenInvalid
            | Reason::InsecureUserHeader,
        ) => Disposition::Terminal,
        None
        | Some(
            Reason::UnknownField
            | Reason::DuplicateField
            | Reason::TypeMismatch
            | Reason::FieldMissing
            | Reason::ProtocolVersionMissing
            | Reason::ScopeActionOnly
            | Reason::ScopeWildcard
            | Reason::ScopeMalformed
            | Reason::ScopeUnknown
            | Reason::TargetMalformed
            | Reason::TtlOutOfRange
            | Reason::RedemptionsOutOfRange
            | Reason::RevokeReasonUnknown
            | Reason::IdempotencyMismatch
            | Reason::PopJwkInvalid
            | Reason::TokenMissing
            | Reason::TokenExpired
            | Reason::TokenInvalid
            | Reason::TokenRevoked
            | Reason::BindingMismatch
            | Reason::KeyRevoked
            | Reason::SessionEnded
            | Reason::ScopeNotGranted
            | Reason::TenantMismatch
            | Reason::PolicyDenied
            | Reason::RoleRequired
            | Reason::LeaseExhausted
            | Reason::LeaseRevoked
            | Reason::LeaseExpired
            | Reason::NonceReplayed
            | Reason::ChallengeUsed
            | Reason::ChallengeExpired
            | Reason::DeviceCodeUsed
            | Reason::SealedByUserKey
            | Reason::LeaseNotFound
            | Reason::DeviceCodeUnknown
            | Reason::PopKeyConflict
            | Reason::RateLimited
            | Reason::BodyTooLarge
            | Reason::AuditUnavailable,
        ) => Disposition::Reauthenticate,
    }
}

const fn code_of_connect(code: ConnectCode) -> ErrorCode {
    match code {
        ConnectCode::Unauthenticated => ErrorCode::LoginRequired,
        ConnectCode::InvalidArgument
        | ConnectCode::PermissionDenied
        | ConnectCode::FailedPrecondition
        | ConnectCode::AlreadyExists => ErrorCode::AegisDenied,
        ConnectCode::NotFound => ErrorCode::LeaseNotFound,
        ConnectCode::ResourceExhausted => ErrorCode::RateLimited,
        ConnectCode::Unavailable
        | ConnectCode::Internal
        | ConnectCode::Unknown
        | ConnectCode::DataLoss
        | ConnectCode::Aborted
        | ConnectCode::DeadlineExceeded => ErrorCode::AegisUnavailable,
        ConnectCode::Unimplemented | ConnectCode::OutOfRange | ConnectCode::Canceled => {
            ErrorCode::AegisProtocol
        }
    }
}

const fn code_of_reason(reason: Reason) -> ErrorCode {
    match reason {
        // What we send is checked before it leaves: these would be our mistakes.
        Reason::UnknownField
        | Reason::DuplicateField
        | Reason::TypeMismatch
        | Reason::FieldMissing
        | Reason::ProtocolVersionMissing
        | Reason::RevokeReasonUnknown
        | Reason::IdempotencyMismatch
        | Reason::PopJwkInvalid
        | Reason::PopKeyConflict
        | Reason::BodyTooLarge
        | Reason::InsecureUserHeader => ErrorCode::Internal,
        Reason::ScopeActionOnly
        | Reason::ScopeWildcard
        | Reason::ScopeMalformed
        | Reason::ScopeUnknown
        | Reason::TargetMalformed
        | Reason::TtlOutOfRange
        | Reason::RedemptionsOutOfRange
        | Reason::UseDpopNonce
        | Reason::ProofMissing
        | Reason::ProofInvalid
        | Reason::ProofReplayed
        | Reason::ProofAmbiguous
        | Reason::ClientCertificateMismatch
        | Reason::WorkloadTokenInvalid
        | Reason::TenantMismatch
        | Reason::PolicyDenied
        | Reason::RoleRequired
        | Reason::NonceReplayed
        | Reason::ChallengeUsed
        | Reason::ChallengeExpired
        | Reason::SealedByUserKey => ErrorCode::AegisDenied,
        Reason::ScopeNotGranted => ErrorCode::ScopeNotGranted,
        Reason::TokenMissing
        | Reason::TokenExpired
        | Reason::TokenInvalid
        | Reason::TokenRevoked
        | Reason::BindingMismatch
        | Reason::KeyRevoked
        | Reason::SessionEnded
        | Reason::DeviceCodeUsed
        | Reason::DeviceCodeUnknown => ErrorCode::LoginRequired,
        Reason::LeaseExhausted => ErrorCode::LeaseExhausted,
        Reason::LeaseRevoked => ErrorCode::LeaseRevoked,
        Reason::LeaseExpired => ErrorCode::LeaseExpired,
        Reason::LeaseNotFound => ErrorCode::LeaseNotFound,
        Reason::RateLimited => ErrorCode::RateLimited,
        Reason::AuditUnavailable => ErrorCode::AegisUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use ConnectCode as Code;
    use Disposition::{Compromised, Fault, Reauthenticate, Retry, Terminal, Wait};

    use super::*;

    fn rejection(code: Code, reason: Option<Reason>) -> Rejection {
        Rejection {
            status: 500,
            code,
            reason,
            word: reason.map(|reason| CleanText::new(reason.as_str(), 64)),
            retry_after: None,
            readable: true,
            has_info: reason.is_some(),
        }
    }

    /// Who logs in is not told of a lease.
    #[test]
    fn a_login_that_is_not_found_names_no_lease() {
        for during in [During::Begin, During::Poll] {
            let error = AegisError::Rejected(rejection(Code::NotFound, None));
            let base = Url::parse("https://aegis.example.com/").unwrap();
            let failure = error.into_failure(&base, during, Certainty::Unknown);
            assert_eq!(failure.code, ErrorCode::AegisDenied, "{during:?}");
        }
    }

    type Row = (Code, Option<Reason>, Disposition, Disposition, ErrorCode);

    /// The table of docs/aegis-errors.md.
    fn table(rows: &[Row]) -> String {
        let word = |disposition: &Disposition| match disposition {
            Wait(_) => "wait",
            Retry(_) => "retry",
            Reauthenticate => "log in",
            Compromised => "compromised",
            Terminal => "terminal",
            Fault => "fault",
        };
        let mut table = String::new();
        for (code, reason, calling, polling, public) in rows {
            let reason = reason.map_or("–".to_owned(), |reason| format!("`{}`", reason.as_str()));
            let calling = match reason.as_str() {
                "`use_dpop_nonce`" | "`proof_invalid`" => "new proof, once, then terminal",
                _ => word(calling),
            };
            let (code, polling, public) = (code.as_str(), word(polling), public.as_str());
            writeln!(
                table,
                "| `{code}` | {reason} | {calling} | {polling} | `{public}` |"
            )
            .unwrap();
        }
        table
    }

    /// The words about workload tokens are a family; no other word is guessed at.
    #[test]
    fn every_word_about_a_workload_token_is_one_reason() {
        for word in ["expired", "replayed", "untrusted_issuer", "invalid"] {
            let word = format!("workload_token_{word}");
            assert_eq!(Reason::of_word(&word), Some(Reason::WorkloadTokenInvalid));
        }
        assert_eq!(Reason::of_word("workload_tokens"), None);
        assert_eq!(Reason::of_word("token_expired"), Some(Reason::TokenExpired));
    }

    /// `aegis.md` 12: every code and every reason has its disposition and its public code.
    #[test]
    fn every_code_and_reason_has_its_row() {
        #[rustfmt::skip]
        let rows: &[Row] = &[
            (Code::InvalidArgument, None, Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::InvalidArgument, Some(Reason::UnknownField), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::DuplicateField), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::TypeMismatch), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::FieldMissing), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::ProtocolVersionMissing), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::RevokeReasonUnknown), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::IdempotencyMismatch), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::PopJwkInvalid), Terminal, Terminal, ErrorCode::Internal),
            (Code::InvalidArgument, Some(Reason::ScopeActionOnly), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::InvalidArgument, Some(Reason::ScopeWildcard), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::InvalidArgument, Some(Reason::ScopeMalformed), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::InvalidArgument, Some(Reason::ScopeUnknown), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::InvalidArgument, Some(Reason::TargetMalformed), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::InvalidArgument, Some(Reason::TtlOutOfRange), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::InvalidArgument, Some(Reason::RedemptionsOutOfRange), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, None, Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::UseDpopNonce), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, Some(Reason::ProofMissing), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, Some(Reason::ProofInvalid), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, Some(Reason::ProofReplayed), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, Some(Reason::ProofAmbiguous), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, Some(Reason::TokenMissing), Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::TokenExpired), Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::TokenInvalid), Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::TokenRevoked), Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::BindingMismatch), Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::KeyRevoked), Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::SessionEnded), Reauthenticate, Terminal, ErrorCode::LoginRequired),
            (Code::Unauthenticated, Some(Reason::ClientCertificateMismatch), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, Some(Reason::WorkloadTokenInvalid), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::Unauthenticated, Some(Reason::InsecureUserHeader), Terminal, Terminal, ErrorCode::Internal),
            (Code::PermissionDenied, None, Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::PermissionDenied, Some(Reason::ScopeNotGranted), Terminal, Terminal, ErrorCode::ScopeNotGranted),
            (Code::PermissionDenied, Some(Reason::TenantMismatch), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::PermissionDenied, Some(Reason::PolicyDenied), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::PermissionDenied, Some(Reason::RoleRequired), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::FailedPrecondition, None, Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::FailedPrecondition, Some(Reason::LeaseExhausted), Terminal, Terminal, ErrorCode::LeaseExhausted),
            (Code::FailedPrecondition, Some(Reason::LeaseRevoked), Terminal, Terminal, ErrorCode::LeaseRevoked),
            (Code::FailedPrecondition, Some(Reason::LeaseExpired), Terminal, Terminal, ErrorCode::LeaseExpired),
            (Code::FailedPrecondition, Some(Reason::NonceReplayed), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::FailedPrecondition, Some(Reason::ChallengeUsed), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::FailedPrecondition, Some(Reason::ChallengeExpired), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::FailedPrecondition, Some(Reason::DeviceCodeUsed), Terminal, Terminal, ErrorCode::LoginRequired),
            (Code::FailedPrecondition, Some(Reason::SealedByUserKey), Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::NotFound, None, Terminal, Terminal, ErrorCode::LeaseNotFound),
            (Code::NotFound, Some(Reason::LeaseNotFound), Terminal, Terminal, ErrorCode::LeaseNotFound),
            (Code::NotFound, Some(Reason::DeviceCodeUnknown), Terminal, Terminal, ErrorCode::LoginRequired),
            (Code::AlreadyExists, None, Terminal, Terminal, ErrorCode::AegisDenied),
            (Code::AlreadyExists, Some(Reason::PopKeyConflict), Terminal, Terminal, ErrorCode::Internal),
            (Code::ResourceExhausted, None, Retry(None), Wait(None), ErrorCode::RateLimited),
            (Code::ResourceExhausted, Some(Reason::RateLimited), Retry(None), Wait(None), ErrorCode::RateLimited),
            (Code::ResourceExhausted, Some(Reason::BodyTooLarge), Terminal, Terminal, ErrorCode::Internal),
            (Code::Unavailable, None, Retry(None), Wait(None), ErrorCode::AegisUnavailable),
            (Code::Unavailable, Some(Reason::AuditUnavailable), Retry(None), Wait(None), ErrorCode::AegisUnavailable),
            (Code::Internal, None, Retry(None), Wait(None), ErrorCode::AegisUnavailable),
            (Code::Unknown, None, Retry(None), Wait(None), ErrorCode::AegisUnavailable),
            (Code::DataLoss, None, Retry(None), Wait(None), ErrorCode::AegisUnavailable),
            (Code::Aborted, None, Retry(None), Wait(None), ErrorCode::AegisUnavailable),
            (Code::DeadlineExceeded, None, Retry(None), Wait(None), ErrorCode::AegisUnavailable),
            (Code::Unimplemented, None, Terminal, Terminal, ErrorCode::AegisProtocol),
            (Code::OutOfRange, None, Terminal, Terminal, ErrorCode::AegisProtocol),
            (Code::Canceled, None, Terminal, Terminal, ErrorCode::AegisProtocol),
        ];
        let page = include_str!("../../docs/aegis-errors.md");
        assert!(page.ends_with(&table(rows)), "the page:\n{}", table(rows));
        for (code, reason, calling, polling, public) in rows {
            let name = format!("{} {:?}", code.as_str(), reason.map(Reason::as_str));
            let error = AegisError::Rejected(rejection(*code, *reason));
            assert_eq!(error.disposition(During::Call), *calling, "{name}");
            assert_eq!(error.disposition(During::Poll), *polling, "{name}");
            assert_eq!(error.code(), *public, "{name}");
            assert_eq!(error.code_during(During::Call), *public, "{name}");
            assert_ne!(
                error.code_during(During::Begin),
                ErrorCode::LoginRequired,
                "{name}"
            );
            assert_ne!(error.disposition(During::Begin), Reauthenticate, "{name}");
            let certain = if reason.is_some() {
                Certainty::NotDone
            } else {
                Certainty::Unknown
            };
            assert_eq!(error.certainty(), certain, "{name}");
        }
        for code in Code::ALL {
            assert!(
                rows.iter().any(|row| row.0 == *code && row.1.is_none()),
                "{}",
                code.as_str()
            );
        }
        for reason in Reason::ALL {
            assert!(
                rows.iter().any(|row| row.1 == Some(*reason)),
                "{}",
                reason.as_str()
            );
        }
    }

    /// docs/socket-protocol.md names each way in which a server is not reached.
    #[test]
    fn the_words_for_the_network_are_documented() {
        let document = include_str!("../../docs/socket-protocol.md");
        for fault in [
            NetworkFault::NameNotFound,
            NetworkFault::Refused,
            NetworkFault::Slow,
            NetworkFault::Tls,
            NetworkFault::NoConnection,
            NetworkFault::Broken,
        ] {
            assert!(document.contains(&format!("`{}`", fault.word())), "{fault}");
        }
    }

    #[test]
    fn faults_that_are_no_answer_have_their_row() {
        let suspect = rejection(Code::Unauthenticated, Some(Reason::ProofInvalid));
        #[rustfmt::skip]
        let rows = [
            ("request", AegisError::Request("scopes"), Fault, Fault, ErrorCode::Internal, Certainty::NotDone),
            ("crypto", AegisError::Crypto(DpopError::Signing), Fault, Fault, ErrorCode::Internal, Certainty::NotDone),
            ("client", AegisError::Client, Fault, Fault, ErrorCode::Internal, Certainty::NotDone),
            ("no connection", AegisError::Unreachable { fault: NetworkFault::Refused, sent: false }, Retry(None), Wait(None), ErrorCode::AegisUnavailable, Certainty::NotDone),
            ("broken off", AegisError::Unreachable { fault: NetworkFault::Broken, sent: true }, Retry(None), Wait(None), ErrorCode::AegisUnavailable, Certainty::Unknown),
            ("no turn in time", AegisError::Timeout { sent: false }, Retry(None), Wait(None), ErrorCode::AegisUnavailable, Certainty::NotDone),
            ("timeout", AegisError::Timeout { sent: true }, Retry(None), Wait(None), ErrorCode::AegisUnavailable, Certainty::Unknown),
            ("redirect", AegisError::Protocol(ProtocolFault::Redirect), Fault, Wait(None), ErrorCode::AegisProtocol, Certainty::Unknown),
            ("malformed", AegisError::Protocol(ProtocolFault::Malformed), Fault, Fault, ErrorCode::AegisProtocol, Certainty::Unknown),
            ("another server", AegisError::Protocol(ProtocolFault::NotAegis(404)), Fault, Wait(None), ErrorCode::AegisProtocol, Certainty::Unknown),
            ("nonce loop", AegisError::Protocol(ProtocolFault::NonceLoop), Fault, Fault, ErrorCode::AegisProtocol, Certainty::NotDone),
            ("wider scope", AegisError::Token(TokenFault::Scope), Fault, Fault, ErrorCode::AegisProtocol, Certainty::Unknown),
            ("suspect key", AegisError::KeySuspect(suspect), Compromised, Compromised, ErrorCode::LoginRequired, Certainty::NotDone),
        ];
        for (name, error, calling, polling, public, certainty) in rows {
            assert_eq!(error.disposition(During::Call), calling, "{name}");
            assert_eq!(error.disposition(During::Poll), polling, "{name}");
            assert_eq!(error.code(), public, "{name}");
            assert_eq!(error.certainty(), certainty, "{name}");
        }
    }

    /// DG-5: what cannot be read is waited out while polling, whatever its status means
    /// elsewhere; `Retry-After` is honoured up to a minute. (404, 405 and 501 are no rejections.)
    #[test]
    fn unreadable_answers_do_not_end_a_poll() {
        for status in [400, 401, 403, 418, 429, 500, 502, 503, 504] {
            let error = AegisError::Rejected(Rejection {
                readable: false,
                retry_after: Some(Duration::from_hours(1)),
                ..rejection(Code::of_status(status), None)
            });
            assert_eq!(
                error.disposition(During::Poll),
                Wait(Some(MAX_RETRY_AFTER)),
                "{status}"
            );
        }
    }

    /// HY-17: a caller is told the server's pause, but none that would keep it away for good.
    #[test]
    fn a_caller_is_told_a_pause_of_an_hour_at_most() {
        let hour = Duration::from_hours(1);
        let rows = [
            (None, None),
            (Some(Duration::ZERO), Some(Duration::ZERO)),
            (Some(Duration::from_secs(61)), Some(Duration::from_secs(61))),
            (Some(hour), Some(hour)),
            (Some(hour + Duration::from_secs(1)), Some(hour)),
            (Some(Duration::from_secs(u64::from(u32::MAX))), Some(hour)),
            (Some(Duration::MAX), Some(hour)),
        ];
        for code in [Code::ResourceExhausted, Code::Unavailable, Code::Internal] {
            for (retry_after, told) in rows {
                let error = AegisError::Rejected(Rejection {
                    retry_after,
                    ..rejection(code, None)
                });
                let disposition = error.disposition(During::Call);
                assert_eq!(disposition, Retry(told), "{code:?} {retry_after:?}");
            }
        }
    }

    /// CN-1: what a status means when the body does not parse.
    #[test]
    fn a_status_without_a_body_has_its_code() {
        let rows = [
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
            (204, Code::Unknown),
            (409, Code::Unknown),
            (500, Code::Unknown),
        ];
        for (status, code) in rows {
            assert_eq!(Code::of_status(status), code, "{status}");
        }
    }
}
