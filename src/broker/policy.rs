//! x
/// x
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {}
