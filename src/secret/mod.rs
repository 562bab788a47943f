//! Secrets as types: wiped on drop, redacted in `Debug`, neither `Clone` nor `Display` nor serde,
//! compared in constant time.
//!
//! A secret leaves one of these types through [`SecretString::expose`] or
//! [`SecretBuffer::expose`], and every call of them can be found by that name.
//! The binary also installs a zero-on-free allocator (`main.rs`), so that what libraries copied
//! on the heap is wiped when they free it; stacks and kernel buffers are out of reach.

mod buffer;
mod string;

pub use buffer::{BufferFull, SecretBuffer};
pub use string::SecretString;
