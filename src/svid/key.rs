use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SignatureAlgorithm, SigningKey,
};

use super::{SpiffeId, SvidError};

/// The key of one SVID: P-256, made here, never exported. The private part lives on the heap of
/// AWS-LC, which wipes it when the key is dropped (SP-6).
pub struct IdentityKey {
    pair: EcdsaKeyPair,
}

impl IdentityKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`SvidError::Key`] when the crypto library fails.
    pub fn generate() -> Result<Self, SvidError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .ok()
            .ok_or(SvidError::Key)?;
        Ok(Self { pair })
    }

    /// The public point, uncompressed (SEC 1).
    pub fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// ECDSA with SHA-256, as ASN.1: what certificate requests and TLS take.
    ///
    /// # Errors
    /// [`SvidError::Key`] when the crypto library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SvidError> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .ok()
            .map(|signature| signature.as_ref().to_vec())
            .ok_or(SvidError::Key)
    }

    /// A certificate request for that id (PKCS #10, DER): no subject, one name, nothing else.
    ///
    /// # Errors
    /// [`SvidError::Key`].
    pub fn request(&self, id: &SpiffeId) -> Result<Vec<u8>, SvidError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = id.as_str().try_into().ok().ok_or(SvidError::Id)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params
            .serialize_request(&Signer(self))
            .ok()
            .ok_or(SvidError::Key)?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityKey")
    }
}

/// The key as the certificate library signs with it: nothing else of it is in reach there.
struct Signer<'a>(&'a IdentityKey);

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0
            .sign(message)
            .map_err(|_failed| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::FromDer as _;

    use super::*;

    /// SP-6: a request names the key and the id, is signed with that key, and nothing more;
    /// nothing of a key shows.
    #[test]
    fn a_request_holds_the_id_and_the_key_alone() {
        let key = IdentityKey::generate().unwrap();
        let id = SpiffeId::parse("spiffe://aegis.example/tenant/t/mcp/desktop-broker/b").unwrap();
        let der = key.request(&id).unwrap();
        let (rest, request) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let info = &request.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        assert_eq!(
            &*info.subject_pki.subject_public_key.data,
            key.public_point()
        );
        let extensions: Vec<_> = request.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions.as_slice() else {
            panic!("{extensions:?}");
        };
        let [GeneralName::URI(uri)] = names.general_names.as_slice() else {
            panic!("{names:?}");
        };
        assert_eq!(*uri, id.as_str());
        let algorithm = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1;
        let public = aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, key.public_point());
        public
            .verify(info.raw, &request.signature_value.data)
            .unwrap();
        assert_eq!(format!("{key:?}"), "IdentityKey");
    }
}
