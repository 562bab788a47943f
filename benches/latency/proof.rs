//! A whole DPoP proof beside nothing but its signature.

use aegis_broker::dpop::{Htm, Htu, Nonce, Proof, ProofClaims, ProofKey, TokenHash};
use aegis_broker::secret::SecretString;
use aegis_broker::time::{Clock as _, SystemClock};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use url::Url;

use crate::args::Failed;
use crate::clock::nanos;
use crate::load::{Run, histogram};
use crate::machine::Usage;

/// What both sides sign with and over.
pub(crate) struct Signing {
    key: ProofKey,
    bare: EcdsaKeyPair,
    random: SystemRandom,
    htu: Htu,
    nonce: Nonce,
    token_hash: TokenHash,
    message: Vec<u8>,
}

impl Signing {
    pub(crate) fn prepare() -> Result<Self, Failed> {
        let url = "https://aegis.example.com/aegis.v1.BrokerService/RedeemCredentialLease";
        let mut signing = Self {
            key: ProofKey::generate()?,
            bare: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .map_err(|_no_detail| "no key could be made")?,
            random: SystemRandom::new(),
            htu: Htu::new(&Url::parse(url)?)?,
            nonce: Nonce::parse("eyJ7S_zG.eyJH0-Z.HX4w-7v")?,
            token_hash: TokenHash::of(&SecretString::copy_from("an access token")),
            message: Vec::new(),
        };
        // The bare side signs exactly what a proof signs.
        let proof = signing.proof()?;
        let signed = proof.jwt().rsplit_once('.').ok_or("not a JWS")?.0;
        signing.message = signed.as_bytes().to_vec();
        Ok(signing)
    }

    fn proof(&self) -> Result<Proof, Failed> {
        Ok(Proof::sign(
            &self.key,
            &ProofClaims {
                htm: Htm::Post,
                htu: &self.htu,
                issued_at: SystemClock.now().unix,
                nonce: Some(&self.nonce),
                token_hash: Some(&self.token_hash),
            },
        )?)
    }

    pub(crate) fn proofs(&self, count: u32) -> Result<Run, Failed> {
        time(count, || {
            std::hint::black_box(self.proof()?);
            Ok(())
        })
    }

    pub(crate) fn signatures(&self, count: u32) -> Result<Run, Failed> {
        time(count, || {
            let signature = self
                .bare
                .sign(&self.random, std::hint::black_box(&self.message))
                .map_err(|_no_detail| "a signature failed")?;
            std::hint::black_box(signature.as_ref());
            Ok(())
        })
    }
}

fn time(count: u32, mut once: impl FnMut() -> Result<(), Failed>) -> Result<Run, Failed> {
    for _ in 0..count / 10 {
        once()?;
    }
    let own = std::process::id();
    let mut times = histogram()?;
    let used = Usage::of(own);
    let begun = nanos();
    for _ in 0..count {
        let at = nanos();
        once()?;
        times.saturating_record(nanos().saturating_sub(at));
    }
    let elapsed = nanos().saturating_sub(begun);
    Ok(Run {
        times,
        elapsed,
        errors: 0,
        used: Usage::of(own).since(&used),
    })
}
