//! DPoP (RFC 9449): keys, RFC 7638 thumbprints and proofs. Pure but for the randomness that key
//! generation, `jti` and ECDSA need.
//!
//! A [`ProofKey`] is made for one login, never leaves the AWS-LC heap and is wiped when dropped.
//! [`Proof::sign`] is the one way to use it; nothing here signs a caller's bytes (DP-16).

#![warn(clippy::arithmetic_side_effects)]

mod key;

mod thumbprint;

mod nonce;

mod proof;

pub use key::ProofKey;
pub use nonce::{Nonce, NonceError};
pub use proof::{Htm, Htu, HtuError, Proof, ProofClaims, TokenHash};

/// The crypto library refused. It has no details and neither do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    /// No random bytes.
    #[error("the system gave no random bytes")]
    Randomness,
    /// No key could be made.
    #[error("a DPoP key could not be generated")]
    Generation,
    /// A signature failed.
    #[error("a DPoP proof could not be signed")]
    Signing,
}
