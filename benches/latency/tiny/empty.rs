//! The least that a process can be.

fn main() {}
