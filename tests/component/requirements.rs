//! The index of requirements: every id has a test that cites it, or a line here that says why not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The families of ids and how many each has, counted from 1.
const FAMILIES: [(&str, usize); 13] = [
    ("DG", 14),
    ("DP", 17),
    ("OA", 21),
    ("SP", 9),
    ("CN", 5),
    ("MC", 12),
    ("PE", 8),
    ("AP", 11),
    ("PO", 7),
    ("LC", 11),
    ("AU", 10),
    ("HY", 18),
    ("IN", 30),
];

/// What no test shows, and why.
const NOT_SHOWN: [(&str, &[&str]); 6] = [
    (
        "approvals do not exist yet",
        &[
            "AP-1", "AP-2", "AP-3", "AP-5", "AP-6", "AP-7", "AP-9", "AP-10",
        ],
    ),
    (
        "no other OAuth provider is logged in to yet",
        &[
            "DP-9", "OA-1", "OA-5", "OA-6", "OA-8", "OA-9", "OA-10", "OA-13",
        ],
    ),
    ("the broker has no workload tokens yet", &["SP-8"]),
    ("the log holds no HMACs of values", &["AU-8"]),
    ("held by the layout, no test is about it", &["PO-5"]),
    (
        "incidents of what does not exist yet: other formats, prompts, providers, redaction",
        &[
            "IN-5", "IN-6", "IN-14", "IN-20", "IN-23", "IN-24", "IN-25", "IN-26",
        ],
    ),
];

/// What an incident led to, where its tests cite that and not the incident.
const LED_TO: [(&str, &[&str]); 5] = [
    ("IN-1", &["OA-15"]),
    ("IN-7", &["HY-16"]),
    ("IN-11", &["DG-7", "DG-8"]),
    ("IN-12", &["HY-12", "HY-18"]),
    ("IN-17", &["HY-10"]),
];

/// Every source file of both packages.
fn sources() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["src", "tests", "mock/src", "mock/tests"]
        .map(|folder| Path::new(ROOT).join(folder))
        .into();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("interop") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    sources
}

/// What of a file is tests: all of it, or what comes after the code that they are about. Code that
/// says it serves a requirement shows nothing.
fn tests_in<'a>(path: &Path, text: &'a str) -> &'a str {
    let path = path.strip_prefix(ROOT).unwrap();
    let all = path.starts_with("tests") || path.starts_with("mock/tests");
    if all || path.ends_with("tests.rs") {
        return text;
    }
    let tests = text.split_once("\n#[cfg(test)]\nmod tests {");
    tests.map_or("", |(_, tests)| tests)
}

/// Everything in which a test can cite an id.
fn texts() -> Vec<String> {
    let mut texts = vec![fs::read_to_string(Path::new(ROOT).join(".ci/run")).unwrap()];
    for path in sources() {
        if !path.ends_with("requirements.rs") {
            let text = fs::read_to_string(&path).unwrap();
            texts.push(tests_in(&path, &text).to_owned());
        }
    }
    texts
}

/// The ids that a text names, whole: `DG-1` is not in `DG-10`.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
}

#[test]
fn every_requirement_is_cited_by_a_test_or_named_as_not_shown() {
    let texts = texts();
    let cited: BTreeSet<&str> = texts.iter().flat_map(|text| cited(text)).collect();
    let excused: BTreeSet<&str> = NOT_SHOWN
        .iter()
        .flat_map(|(_, ids)| *ids)
        .copied()
        .collect();
    let all: Vec<String> = FAMILIES
        .iter()
        .flat_map(|(family, count)| (1..=*count).map(move |number| format!("{family}-{number}")))
        .collect();
    for id in &all {
        let (is_cited, is_excused) = (cited.contains(id.as_str()), excused.contains(id.as_str()));
        if let Some((_, ids)) = LED_TO.iter().find(|(incident, _)| incident == id) {
            for other in *ids {
                let found = cited.contains(other) || excused.contains(other);
                assert!(found, "{id} led to {other}, which is cited by no test");
            }
            assert!(
                !is_cited && !is_excused,
                "{id} speaks for itself: strike it out"
            );
            continue;
        }
        assert!(is_cited || is_excused, "{id} is cited by no test");
        assert!(
            !(is_cited && is_excused),
            "{id} is shown now: strike it out"
        );
    }
    assert!(excused.iter().all(|id| all.iter().any(|one| one == id)));
}

/// What counts is where tests are, not what code says of itself.
#[test]
fn code_cites_nothing() {
    let at = |path: &str| Path::new(ROOT).join(path);
    let text = "//! DG-1.\n#[cfg(test)]\nmod tests {\n    /// DG-2.\n}\n";
    let found = |path| cited(tests_in(&at(path), text)).collect::<Vec<_>>();
    assert!(!found("src/a.rs").contains(&"DG-1"));
    assert!(found("mock/src/a/b.rs").contains(&"DG-2"));
    assert!(found("tests/e2e/a.rs").contains(&"DG-1"));
    assert!(found("src/a/tests.rs").contains(&"DG-1"));
    assert_eq!(tests_in(&at("src/a.rs"), "//! DG-1.\n"), "");
}

/// The index finds an id only where it stands whole.
#[test]
fn an_id_is_found_whole() {
    let found: Vec<_> = cited("/// DG-10, (MC-1) and OA-21.\nXDG-1").collect();
    for id in ["DG-10", "MC-1", "OA-21"] {
        assert!(found.contains(&id), "{id}");
    }
    assert!(!found.contains(&"DG-1"));
}
