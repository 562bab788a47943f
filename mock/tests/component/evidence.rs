//! How much a run counts. Unit tests and these read it here.

/// What `AEGIS_EVIDENCE=long` multiplies counts by; a run then takes minutes, not seconds.
const LONG: usize = 100;

/// `count`, or a hundred times that where `AEGIS_EVIDENCE=long` asks for a long run: the same code
/// with larger numbers.
pub(crate) fn scaled(count: usize) -> usize {
    match std::env::var_os("AEGIS_EVIDENCE") {
        None => count,
        Some(wanted) if wanted == "long" => count * LONG,
        Some(wanted) => panic!(
            "AEGIS_EVIDENCE is \"long\" or unset, not \"{}\"",
            wanted.display()
        ),
    }
}
