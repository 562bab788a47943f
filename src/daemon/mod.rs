//! The composition root.

pub mod hardening;
