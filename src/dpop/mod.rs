//! DPoP (RFC 9449): keys, RFC 7638 thumbprints and proofs. Pure but for the randomness that key
//! generation, `jti` and ECDSA need.

mod key;

pub use key::ProofKey;
