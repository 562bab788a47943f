//! What the suites share that show what is claimed: how long they run, and how secrets are found.

pub(crate) mod canaries;

/// How often something is done: the first of the two counts, or the second where
/// `AEGIS_EVIDENCE=long` asks for it. The code is the same.
pub(crate) fn times(usual: u32, long: u32) -> u32 {
    match std::env::var_os("AEGIS_EVIDENCE") {
        None => usual,
        Some(wanted) if wanted == "long" => long,
        Some(wanted) => panic!(
            "AEGIS_EVIDENCE is \"long\" or unset, not \"{}\"",
            wanted.display()
        ),
    }
}

/// Says what came out, for whoever runs the tests with `--nocapture`.
#[expect(
    clippy::print_stdout,
    reason = "for people, beside the results of the tests"
)]
pub(crate) fn figure(what: &str) {
    println!("figure: {what}");
}
