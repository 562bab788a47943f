//! What the server checks of proofs, tokens and scopes, as a list.
//!
//! A check is trusted once it has been missed: a test leaves out one after the other
//! ([`crate::Options::leave_out`]) and sees its table of bad requests go red.

use crate::errors::{Reason, Refusal};

/// Declares the checks: what holds, the reason and the message where it does not.
macro_rules! checks {
    ($(
        $(#[$about:meta])*
        $group:ident { $(#[doc = $holds:literal] $name:ident: $reason:ident, $message:literal;)* }
    )*) => {
        /// Something that must hold, or the request is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Check { $($(#[doc = $holds] $name,)*)* }

        impl Check {
            $($(#[$about])* pub const $group: &[Self] = &[$(Self::$name,)*];)*

            /// Its name, as in the code.
            pub fn name(self) -> &'static str {
                match self { $($(Self::$name => stringify!($name),)*)* }
            }

            /// The message of the refusal.
            pub fn message(self) -> &'static str {
                match self { $($(Self::$name => $message,)*)* }
            }

            /// The reason of the refusal.
            pub(crate) fn reason(self) -> Reason {
                match self { $($(Self::$name => Reason::$reason,)*)* }
            }
        }
    };
}

checks! {
    /// Those of a token and of the proof beside it, in the order they are made.
    PROOF {
        /// The body is what the schema says, each field once. The message says what is wrong.
        Body: TypeMismatch, "a value is not of the field's type";
        /// There is an `Authorization` where one is needed.
        TokenPresent: TokenMissing, "a token is required";
        /// It is one scheme we know and one token.
        TokenForm: TokenInvalid, "Authorization is malformed";
        /// The token has not expired.
        TokenAlive: TokenExpired, "token has expired";
        /// Its session has not ended.
        SessionAlive: SessionEnded, "session has ended";
        /// There is a proof.
        ProofPresent: ProofMissing, "a proof is required";
        /// There is one, where the token's scheme says.
        ProofPlace: ProofAmbiguous, "exactly one proof is required, in one place";
        /// `request_proof` says that it is a `dpop_jwt`.
        ProofKind: ProofInvalid, "proof_type is not dpop_jwt";
        /// It is not of another kind besides.
        ProofOneKind: ProofAmbiguous, "a proof is either dpop_jwt or mtls";
        /// It is at most 8 KiB.
        ProofSize: ProofInvalid, "proof is larger than 8 KiB";
        /// It has three parts.
        ProofForm: ProofInvalid, "proof is not a compact JWS";
        /// Each is canonical base64url.
        ProofEncoding: ProofInvalid, "proof is not canonical base64url";
        /// Header and payload are one JSON object each.
        ProofJson: ProofInvalid, "proof header or payload is not a JSON object";
        /// No name is there twice.
        ProofDuplicate: ProofInvalid, "proof has a name twice";
        /// `typ`.
        ProofType: ProofInvalid, "proof typ is not dpop+jwt";
        /// `alg` is one that we offer.
        ProofAlgorithm: ProofInvalid, "proof alg is not accepted";
        /// Nothing changes how it is to be read: no `crit`, and no `b64` (RFC 7797 §7).
        ProofCritical: ProofInvalid, "proof has critical extensions";
        /// `kid` is text.
        ProofKeyId: ProofInvalid, "proof kid is not text";
        /// The key is public.
        ProofPrivateKey: ProofInvalid, "proof jwk has a private member";
        /// It is a point on the curve that it names.
        ProofKey: ProofInvalid, "proof jwk is not a public key";
        /// It is a key for `alg`.
        ProofKeyKind: ProofInvalid, "proof jwk is not a key for its alg";
        /// The signature is by that key.
        ProofSignature: ProofInvalid, "proof signature does not verify";
        /// `htm`.
        ProofMethod: ProofInvalid, "proof htm is not the method called";
        /// `htu`.
        ProofUrl: ProofInvalid, "proof htu is not the address called";
        /// `jti`.
        ProofId: ProofInvalid, "proof jti is missing or malformed";
        /// `iat`.
        ProofIssuedAt: ProofInvalid, "proof iat is missing or out of the window";
        /// `ath`.
        ProofTokenHash: ProofInvalid, "proof ath does not fit the token";
        /// `nonce` is text.
        ProofNonce: ProofInvalid, "proof nonce is not text";
        /// `request_proof.nonce` says the same.
        ProofNonceField: ProofInvalid, "request_proof.nonce is not the proof's nonce";
        /// The key is the one that token or code are bound to.
        ProofBinding: BindingMismatch, "proof is by another key than the one registered";
        /// `kid` is that key's name.
        ProofKeyName: ProofInvalid, "proof kid is not the registered pop_key_id";
        /// There is a nonce where one is needed.
        NoncePresent: UseDpopNonce, "proof needs a current nonce";
        /// A nonce is one of ours, and current.
        NonceCurrent: UseDpopNonce, "proof needs a current nonce";
        /// The proof was not used before.
        Replay: ProofReplayed, "proof has been used before";
    }
    /// Those of scopes and of what they are used for, in the order they are made.
    GRANT {
        /// Not more scopes than anybody needs.
        ScopeCount: ScopeMalformed, "scopes must name one action, provider, app and account each";
        /// No `*`.
        ScopeWildcard: ScopeWildcard, "scopes must name one action, provider, app and account each";
        /// An action comes with a selector.
        ScopeActionOnly: ScopeActionOnly, "scopes must name one action, provider, app and account each";
        /// The selector has its three parts in their order, and nothing else.
        ScopeShape: ScopeMalformed, "scopes must name one action, provider, app and account each";
        /// Each part is a segment.
        ScopeSegment: ScopeMalformed, "scopes must name one action, provider, app and account each";
        /// The action is one we know.
        ScopeAction: ScopeUnknown, "scopes must name one action, provider, app and account each";
        /// A target's parts are segments.
        Target: TargetMalformed, "target must name one provider, app and account";
        /// The request is for the token's tenant.
        Tenant: TenantMismatch, "tenant is not the token's";
        /// So is the lease.
        LeaseTenant: LeaseNotFound, "no such lease";
        /// A lease is redeemed by its principal and with its key.
        LeaseOwner: LeaseNotFound, "no such lease";
        /// Who may not end a lease of another does not hear that there is one.
        LeaseHidden: LeaseNotFound, "no such lease";
        /// The token has a scope of this action and this selector.
        ScopeGranted: ScopeNotGranted, "token has no scope for this";
        /// No denial of the policy is for it.
        PolicyDenial: PolicyDenied, "policy does not allow this";
        /// The policy grants it.
        PolicyGrant: PolicyDenied, "policy does not allow this";
        /// For so long.
        GrantTtl: PolicyDenied, "policy does not allow this";
        /// So many times.
        GrantRedemptions: PolicyDenied, "policy does not allow this";
        /// There is a credential behind the selector.
        CredentialKnown: PolicyDenied, "policy does not allow this";
    }
    /// Those of what a token is for and of what can be taken back.
    ACCESS {
        /// The token was not taken back.
        TokenCurrent: TokenRevoked, "token was revoked";
        /// Its key was not taken back.
        KeyAlive: KeyRevoked, "key was revoked";
        /// Its key is the session's, or was until just now.
        KeyCurrent: KeyRevoked, "session has another key now";
        /// A token that is for the bootstrap does nothing else.
        BootstrapOnly: ScopeNotGranted, "token is for the bootstrap alone";
        /// Any other does not bootstrap.
        BootstrapScope: ScopeNotGranted, "token is not for the bootstrap";
        /// Scopes of leases and `spiffe.bootstrap` do not share a token.
        ScopeMixed: ScopeMixed, "a token has lease scopes or spiffe.bootstrap, not both";
        /// A session never widens.
        SessionScopes: ScopeNotGranted, "session has no scope for this";
        /// A token of a listing goes on with the same listing, for ten minutes.
        PageToken: PageTokenInvalid, "page token is not of this listing, or too old";
    }
    /// Those of a workload's identity token, in the order they are made.
    WORKLOAD {
        /// It is a compact JWS whose header and claims are one JSON object each.
        WorkloadForm: WorkloadTokenInvalid, "workload token is not a JWT";
        /// Its `alg` is one that we take; `none` is not.
        WorkloadAlgorithm: WorkloadTokenInvalid, "workload token alg is not accepted";
        /// Its issuer is one of the policy.
        WorkloadIssuer: WorkloadTokenIssuer, "workload token is of another issuer";
        /// Its signature is by a key that the issuer publishes.
        WorkloadSignature: WorkloadTokenInvalid, "workload token signature does not verify";
        /// It is meant for us.
        WorkloadAudience: WorkloadTokenAudience, "workload token is for another audience";
        /// It has not expired.
        WorkloadAlive: WorkloadTokenExpired, "workload token has expired";
        /// It is good by now, and was made before.
        WorkloadStarted: WorkloadTokenNotYetValid, "workload token is not valid yet";
        /// It does not live for ever.
        WorkloadLifetime: WorkloadTokenInvalid, "workload token lives longer than a day";
        /// The policy knows the workload.
        WorkloadSubject: WorkloadTokenSubject, "workload token is of an unknown workload";
        /// The request's nonce was not used before.
        ExchangeNonce: NonceReplayed, "nonce has been used before";
        /// Neither was the token, or by the same key where the issuer's tokens are bound.
        WorkloadReplay: WorkloadTokenReplayed, "workload token has been used before";
    }
    /// Those of the bootstrap, in the order they are made.
    SPIFFE {
        /// The challenge was made for this principal and session.
        ChallengeOwner: ChallengeUnknown, "no such challenge";
        /// The caller has its token.
        ChallengeToken: ChallengeUnknown, "no such challenge";
        /// It was not answered before.
        ChallengeUnused: ChallengeUsed, "challenge has been used";
        /// It is not older than five minutes.
        ChallengeAge: ChallengeExpired, "challenge has expired";
        /// The CSR is one PKCS #10 request and nothing else.
        CsrForm: CsrInvalid, "csr is not a PKCS #10 request";
        /// Its key is on P-256 or P-384.
        CsrKey: CsrInvalid, "csr key is not on P-256 or P-384";
        /// It is signed by that key.
        CsrSignature: CsrInvalid, "csr signature does not verify";
        /// It asks for no authority.
        CsrAuthority: CsrInvalid, "csr asks for a certificate authority";
        /// It asks for no name but a URI.
        CsrNames: CsrInvalid, "csr asks for other names than one URI";
        /// That URI is the challenge's.
        CsrUri: CsrInvalid, "csr asks for another URI than the challenge's";
    }
    /// Those of a client certificate, in the order they are made.
    MTLS {
        /// A token that is bound to a certificate comes with such a proof.
        MtlsKind: BindingMismatch, "token is bound to a certificate";
        /// The proof is of one kind.
        MtlsAlone: ProofAmbiguous, "a proof is either dpop_jwt or mtls";
        /// The connection was made with a certificate that lives.
        CertificateAlive: ClientCertificateMismatch, "no client certificate that is good here";
        /// It is the one that the token is bound to.
        CertificateBinding: ClientCertificateMismatch, "connection is of another certificate";
        /// The request names it.
        CertificateField: ClientCertificateMismatch, "mtls_fingerprint is of another certificate";
        /// The proof has a nonce of 128 bits.
        MtlsNonce: ProofInvalid, "mtls proof needs a fresh nonce";
        /// It was not used before.
        MtlsReplay: ProofReplayed, "proof has been used before";
    }
}

impl From<Check> for Refusal {
    fn from(check: Check) -> Self {
        let refusal = Self::new(check.reason(), check.message());
        if check == Check::ProofKind {
            refusal.field("request_proof.proof_type")
        } else {
            refusal
        }
    }
}

/// The checks that a server makes: all of them, or all but one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checks {
    left_out: Option<Check>,
}

impl Checks {
    pub(crate) fn without(left_out: Option<Check>) -> Self {
        Self { left_out }
    }

    pub(crate) fn make(self, check: Check) -> bool {
        self.left_out != Some(check)
    }

    /// Whether a check is passed, or not made.
    pub(crate) fn pass(self, check: Check, holds: bool) -> bool {
        holds || !self.make(check)
    }

    pub(crate) fn require(self, check: Check, holds: bool) -> Result<(), Check> {
        if self.pass(check, holds) {
            Ok(())
        } else {
            Err(check)
        }
    }
}
