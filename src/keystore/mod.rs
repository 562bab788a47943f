//! Outside: where long-lived secrets rest (HY-10).
//!
//! So far there is one place, this process's memory: nothing outlives the daemon and nothing
//! ever reaches a disk. Start with [`MemoryKeyStore`].

mod memory;

pub use memory::MemoryKeyStore;
