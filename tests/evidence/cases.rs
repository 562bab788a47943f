//! How many cases of each property are tried.

use proptest::prelude::ProptestConfig;

/// What an ordinary run tries.
const USUAL: u32 = 10_000;

/// 10,000 cases, or more where `PROPTEST_CASES` asks for more.
pub(crate) fn many() -> ProptestConfig {
    many_by(1)
}

/// So many that these are tried where each case tries `each` of its own.
pub(crate) fn many_by(each: u32) -> ProptestConfig {
    let cases = ProptestConfig::default().cases.max(USUAL);
    ProptestConfig::with_cases(cases.div_ceil(each))
}
