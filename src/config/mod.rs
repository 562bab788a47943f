//! Configuration files and folders, read once.
//!
//! [`Paths`] says where things are, [`load()`] turns `aegis-broker.toml` into a [`Config`] and
//! [`load_policy`] `policy.toml` into rules. All of it is valid when it leaves here; nothing
//! later looks at raw text again. Mistakes name file, place and key, and never quote a value:
//! people paste secrets into the wrong file.

mod paths;

mod file;

mod inject;

mod load;

mod network;

mod policy;

#[cfg(test)]
mod tests;

pub use load::{Config, ConfigError, Limits, Mistake, Profile, Renew, load};
pub use network::{Network, Proxy, SvidSettings};
pub use paths::{Environment, Overrides, PathError, Paths, ProcessEnvironment, runtime_dir};
pub use policy::{load_named_policy, load_policy};
