//! The index of requirements: every id has a test that cites it, or a line here that says why not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The families of ids and how many each has, counted from 1.
const FAMILIES: [(&str, usize); 12] = [
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
            "DP-9", "OA-1", "OA-2", "OA-3", "OA-4", "OA-5", "OA-6", "OA-8", "OA-9", "OA-10",
            "OA-13", "OA-17",
        ],
    ),
    (
        "workload identity does not exist yet",
        &[
            "OA-18", "OA-19", "SP-1", "SP-2", "SP-3", "SP-4", "SP-5", "SP-6", "SP-7", "SP-8",
        ],
    ),
    (
        "`http_request` and redaction do not exist yet",
        &["HY-11", "HY-14", "LC-11", "PO-4"],
    ),
    ("the log holds no HMACs of values", &["AU-8"]),
    ("held by the layout, no test is about it", &["PO-5", "PO-6"]),
];

/// Everything in which a test can cite an id.
fn texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = ["src", "tests", "mock/src", "mock/tests"]
        .map(|folder| root.join(folder))
        .into();
    let mut texts = vec![fs::read_to_string(root.join(".ci/run")).unwrap()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_rust = path.extension().is_some_and(|extension| extension == "rs");
            if path.is_dir() && !path.ends_with("interop") {
                folders.push(path);
            } else if is_rust && !path.ends_with("requirements.rs") {
                texts.push(fs::read_to_string(&path).unwrap());
            }
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
        assert!(is_cited || is_excused, "{id} is cited by no test");
        assert!(
            !(is_cited && is_excused),
            "{id} is shown now: strike it out"
        );
    }
    assert!(excused.iter().all(|id| all.iter().any(|one| one == id)));
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
