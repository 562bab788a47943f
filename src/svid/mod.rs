//! SPIFFE identities: ids, keys and X.509 certificates (SVIDs) of workloads.
//!
//! Pure: bytes in, values or a refusal out. A key is made here, signs here, and is never written
//! down in any form; what leaves is a certificate request and signatures. A certificate is believed
//! only where it is for that key, for the id that was promised, of the authorities that were
//! configured, and short-lived (SP-1 to SP-6).
//!
//! Read `id`, then `key`, then `certificate`.

mod id;

mod key;

mod certificate;

pub use certificate::{Bundle, Svid};
pub use id::SpiffeId;
pub use key::IdentityKey;

/// What is wrong with an identity. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No SPIFFE id.
    #[error("not a spiffe id")]
    Id,
    /// The crypto library failed.
    #[error("the key could not be made or used")]
    Key,
    /// No certificates of authorities.
    #[error("not a bundle of authorities")]
    Bundle,
    /// No chain of certificates, or too long.
    #[error("not a certificate chain")]
    Form,
    /// Not exactly one name, or another one than was promised.
    #[error("the certificate is for another id")]
    Name,
    /// Its key is not the one that it was asked for.
    #[error("the certificate is for another key")]
    OtherKey,
    /// It may sign other certificates, or be used for something else than what it is for.
    #[error("the certificate is for another use")]
    Usage,
    /// Over, not begun, or for too long.
    #[error("the certificate's lifetime is not acceptable")]
    Lifetime,
    /// Not of the configured authorities.
    #[error("the certificate is of another authority")]
    Authority,
}
