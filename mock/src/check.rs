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
