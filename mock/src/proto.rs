//! The messages and services, generated from `proto/`.
//!
//! The generated `Debug` prints every field, secrets too: never log a message.

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    missing_docs,
    missing_debug_implementations,
    single_use_lifetimes,
    elided_lifetimes_in_paths,
    unnameable_types,
    let_underscore_drop,
    trivial_numeric_casts,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    reason = "generated; which of these fire depends on the generator"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/_connectrpc.rs"));
}

pub(crate) use generated::aegis::v1::*;
