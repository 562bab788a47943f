/// A DPoP key.
#[derive(Debug)]
pub struct ProofKey {}
