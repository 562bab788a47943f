//! x
use crate::model::{LeaseView, Material};
use std::sync::Arc;
/// x
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey(pub u64);
/// Credential material on its way to one caller.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The lease it comes from.
    pub lease: LeaseView,
    /// It; shared with other callers of the same lease and wiped with the last of them.
    pub material: Arc<Material>,
}
