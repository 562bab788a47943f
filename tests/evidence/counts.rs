//! How much a run counts, and what came out: the one place that reads `AEGIS_EVIDENCE`, for every
//! suite of both packages.

/// How often something is done: the first of the two counts, or the second where
/// `AEGIS_EVIDENCE=long` asks for it. The code is the same.
pub(crate) fn times(usual: u32, long: u32) -> u32 {
    match std::env::var("AEGIS_EVIDENCE") {
        Ok(wanted) if wanted == "long" => long,
        Ok(wanted) => panic!("AEGIS_EVIDENCE is \"long\" or unset, not {wanted:?}"),
        Err(std::env::VarError::NotPresent) => usual,
        Err(unreadable) => panic!("AEGIS_EVIDENCE: {unreadable}"),
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
