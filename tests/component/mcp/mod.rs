//! The models' door, spoken to in raw lines: what a client could send, and what it gets.

pub(crate) mod client;

mod eras;

mod leases;

mod limits;

mod login;

mod tools;
