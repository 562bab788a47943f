//! The catalogue of refusals.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use connectrpc::error::ErrorDetail;
use connectrpc::{ConnectError, ErrorCode};

use crate::proto::ErrorInfo;

pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Declares the reasons with their wire words and codes.
macro_rules! reasons {
    ($($code:ident { $($name:ident = $word:literal,)* })*) => {
        /// Why something was refused, as told in `ErrorInfo.reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason { $($($name,)*)* }

        impl Reason {
            pub(crate) fn as_str(self) -> &'static str {
                match self { $($(Self::$name => $word,)*)* }
            }

            pub(crate) fn code(self) -> ErrorCode {
                match self { $($(Self::$name => ErrorCode::$code,)*)* }
            }
        }
    };
}

reasons! {
    InvalidArgument {
        UnknownField = "unknown_field",
        DuplicateField = "duplicate_field",
        TypeMismatch = "type_mismatch",
        FieldMissing = "field_missing",
        ProtocolVersionMissing = "protocol_version_missing",
        TargetMalformed = "target_malformed",
        RevokeReasonUnknown = "revoke_reason_unknown",
        RedemptionsOutOfRange = "redemptions_out_of_range",
        ScopeWildcard = "scope_wildcard",
        ScopeMalformed = "scope_malformed",
        ScopeUnknown = "scope_unknown",
        ScopeActionOnly = "scope_action_only",
        ScopeMixed = "scope_mixed",
        CsrInvalid = "csr_invalid",
        PageTokenInvalid = "page_token_invalid",
        TtlOutOfRange = "ttl_out_of_range",
        IdempotencyMismatch = "idempotency_mismatch",
        PopJwkInvalid = "pop_jwk_invalid",
    }
    Unauthenticated {
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
        WorkloadTokenIssuer = "workload_token_issuer",
        WorkloadTokenAudience = "workload_token_audience",
        WorkloadTokenExpired = "workload_token_expired",
        WorkloadTokenNotYetValid = "workload_token_not_yet_valid",
        WorkloadTokenSubject = "workload_token_subject",
        WorkloadTokenReplayed = "workload_token_replayed",
        InsecureUserHeader = "insecure_user_header",
    }
    PermissionDenied {
        ScopeNotGranted = "scope_not_granted",
        TenantMismatch = "tenant_mismatch",
        PolicyDenied = "policy_denied",
        HostRefused = "host_refused",
        OriginRefused = "origin_refused",
    }
    FailedPrecondition {
        LeaseExhausted = "lease_exhausted",
        LeaseRevoked = "lease_revoked",
        LeaseExpired = "lease_expired",
        DeviceCodeUsed = "device_code_used",
        NonceReplayed = "nonce_replayed",
        ChallengeUnknown = "challenge_unknown",
        ChallengeUsed = "challenge_used",
        ChallengeExpired = "challenge_expired",
    }
    NotFound {
        LeaseNotFound = "lease_not_found",
        DeviceCodeUnknown = "device_code_unknown",
    }
    AlreadyExists {
        PopKeyConflict = "pop_key_conflict",
    }
    Unavailable {
        AuditUnavailable = "audit_unavailable",
    }
    ResourceExhausted {
        RateLimited = "rate_limited",
        BodyTooLarge = "body_too_large",
    }
}

/// A call that is refused: what the caller is told.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) reason: Option<Reason>,
    message: &'static str,
    field: Option<String>,
    pub(crate) retry_after_seconds: u32,
    nonce: Option<String>,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, message: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..Self::bare(reason.code(), message)
        }
    }

    /// One without a reason: the code says all there is.
    pub(crate) fn bare(code: ErrorCode, message: &'static str) -> Self {
        Self {
            code,
            reason: None,
            message,
            field: None,
            retry_after_seconds: 0,
            nonce: None,
        }
    }

    /// Names the field that is wrong, by its name in the schema.
    pub(crate) fn field(mut self, name: impl Into<String>) -> Self {
        self.field = Some(name.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = seconds;
        self
    }

    /// Asks for a proof with this nonce.
    pub(crate) fn use_nonce(nonce: Option<String>) -> Self {
        Self {
            nonce,
            ..Self::new(Reason::UseDpopNonce, "proof needs a current nonce")
        }
    }

    pub(crate) fn missing(field: &'static str) -> Self {
        Self::new(Reason::FieldMissing, "a required field is missing").field(field)
    }

    /// What goes over the wire.
    pub(crate) fn into_error(self, request_id: &str) -> ConnectError {
        let reason = self.reason.map_or("", Reason::as_str);
        let info = ErrorInfo {
            reason: reason.to_owned(),
            request_id: request_id.to_owned(),
            retry_after_seconds: i32::try_from(self.retry_after_seconds).unwrap_or(i32::MAX),
            field: self.field.clone().unwrap_or_default(),
            ..ErrorInfo::default()
        };
        let mut detail = ErrorDetail::from_message("aegis.v1.ErrorInfo", &info);
        detail.debug = serde_json::to_value(&info).ok();
        ConnectError::new(self.code, self.message)
            .with_detail(detail)
            .with_headers(self.headers())
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.code == ErrorCode::Unauthenticated {
            let challenge = match self.reason {
                Some(Reason::UseDpopNonce) => r#"DPoP error="use_dpop_nonce", algs="ES256 EdDSA""#,
                Some(Reason::TokenMissing) => r#"DPoP algs="ES256 EdDSA""#,
                Some(
                    Reason::ProofMissing
                    | Reason::ProofInvalid
                    | Reason::ProofReplayed
                    | Reason::ProofAmbiguous,
                ) => r#"DPoP error="invalid_dpop_proof", algs="ES256 EdDSA""#,
                _ => r#"DPoP error="invalid_token", algs="ES256 EdDSA""#,
            };
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        if self.retry_after_seconds > 0 {
            headers.insert(header::RETRY_AFTER, self.retry_after_seconds.into());
        }
        if let Some(nonce) = self.nonce.as_deref().and_then(|n| n.parse().ok()) {
            headers.insert(DPOP_NONCE, nonce);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs`: the sample of a stale nonce.
    #[test]
    fn a_stale_nonce_is_told_byte_for_byte_as_in_the_sample() {
        let refusal = Refusal::use_nonce(Some("n-B".to_owned()));
        let error = refusal.into_error("req_05");
        assert_eq!(error.response_headers()["dpop-nonce"], "n-B");
        assert_eq!(
            error.response_headers()["www-authenticate"],
            r#"DPoP error="use_dpop_nonce", algs="ES256 EdDSA""#
        );
        let body: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "code": "unauthenticated",
                "message": "proof needs a current nonce",
                "details": [{
                    "type": "aegis.v1.ErrorInfo",
                    "value": "Cg51c2VfZHBvcF9ub25jZRIGcmVxXzA1",
                    "debug": {"reason": "use_dpop_nonce", "requestId": "req_05"}
                }]
            })
        );
    }

    /// CN-2: the table of Connect and of gRPC, all sixteen of them.
    #[test]
    fn each_code_has_its_statuses() {
        let table = [
            (ErrorCode::Canceled, "canceled", 499, 1),
            (ErrorCode::Unknown, "unknown", 500, 2),
            (ErrorCode::InvalidArgument, "invalid_argument", 400, 3),
            (ErrorCode::DeadlineExceeded, "deadline_exceeded", 504, 4),
            (ErrorCode::NotFound, "not_found", 404, 5),
            (ErrorCode::AlreadyExists, "already_exists", 409, 6),
            (ErrorCode::PermissionDenied, "permission_denied", 403, 7),
            (ErrorCode::ResourceExhausted, "resource_exhausted", 429, 8),
            (ErrorCode::FailedPrecondition, "failed_precondition", 400, 9),
            (ErrorCode::Aborted, "aborted", 409, 10),
            (ErrorCode::OutOfRange, "out_of_range", 400, 11),
            (ErrorCode::Unimplemented, "unimplemented", 501, 12),
            (ErrorCode::Internal, "internal", 500, 13),
            (ErrorCode::Unavailable, "unavailable", 503, 14),
            (ErrorCode::DataLoss, "data_loss", 500, 15),
            (ErrorCode::Unauthenticated, "unauthenticated", 401, 16),
        ];
        for (code, word, status, grpc) in table {
            let error = Refusal::bare(code, "no").into_error("req_1");
            let body: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
            assert_eq!(body["code"], word);
            assert_eq!(error.http_status().as_u16(), status, "{word}");
            assert_eq!(code.grpc_code(), grpc, "{word}");
        }
    }
}
