//! What the suites share that show what is claimed: how long they run, and how secrets are found.

pub(crate) mod canaries;
mod counts;

pub(crate) use counts::{figure, times};
