//! The page of evidence names tests that are there.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A suite as the page calls it, and where its tests are.
const SUITES: [(&str, &str); 5] = [
    ("component", "tests/component"),
    ("e2e", "tests/e2e"),
    ("lib", "src"),
    ("mock", "mock/tests/component"),
    ("mock-lib", "mock/src"),
];

/// The rows of the page's table: claim, tests, figure.
fn rows(page: &str) -> Vec<[&str; 3]> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .filter_map(|line| line.split(" | ").collect::<Vec<_>>().try_into().ok())
        .filter(|row| *row != ["claim", "test", "last result"])
        .collect()
}

/// What stands between backticks.
fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The files that a module of a suite may be in.
fn files(suite: &str, modules: &[&str]) -> Vec<PathBuf> {
    let (_, folder) = SUITES.iter().find(|(name, _)| *name == suite).unwrap();
    // Shared by the suites, beside them.
    let folder = if modules[0] == "evidence" {
        "tests"
    } else {
        folder
    };
    let path = |modules: &[&str]| Path::new(ROOT).join(folder).join(modules.join("/"));
    let outer = modules.strip_suffix(&["tests"]).unwrap_or(modules);
    vec![
        path(modules).with_extension("rs"),
        path(outer).with_extension("rs"),
        path(outer).join("mod.rs"),
    ]
}

/// Whether the text has a test of that name.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let rest = line
            .strip_prefix("fn ")
            .and_then(|line| line.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with('('))
    };
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let mut places = lines.iter().enumerate().filter(|(_, line)| begins(line));
    places.any(|(at, _)| {
        let above = lines[..at].iter().rev();
        let mut attributes = above
            .take_while(|line| line.starts_with(['#', '/', ')']) || line.ends_with([',', '"']));
        attributes.any(|line| is_test(line))
    })
}

/// Whether `suite module::test` or a script of that path is there.
pub(crate) fn is_there(name: &str) -> bool {
    let Some((suite, path)) = name.split_once(' ') else {
        return name.starts_with("tests/interop/") && Path::new(ROOT).join(name).is_file();
    };
    let mut modules: Vec<&str> = path.split("::").collect();
    let test = modules.pop().unwrap();
    let texts = files(suite, &modules).into_iter().map(fs::read_to_string);
    texts.flatten().any(|text| has_test(&text, test))
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/evidence.md")).unwrap();
    let table = page.lines().filter(|line| line.starts_with('|')).count();
    let rows = rows(&page);
    assert_eq!(rows.len() + 2, table, "a row has other than three cells");
    for [claim, tests, figure] in rows {
        assert!(named(tests).count() > 0 && !figure.is_empty(), "{claim}");
        for name in named(tests) {
            assert!(is_there(name), "{name} is not there");
        }
    }
}

/// The search finds what is there, and nothing else.
#[test]
fn a_test_that_is_not_there_is_missed() {
    for name in [
        "component evidence_page::every_test_that_the_page_names_is_there",
        "mock-lib dpop::replay::tests::a_flood_is_bounded_by_the_window_and_frees_no_proof_that_lives",
        "component evidence::canaries::a_search_finds_whole_secrets_and_pieces",
        "tests/interop/shell/check-costs",
    ] {
        assert!(is_there(name), "{name}");
    }
    for name in [
        "component evidence_page::named",
        "component evidence_page::every_test_that_the_page_names",
        "e2e evidence_page::every_test_that_the_page_names_is_there",
        "component nowhere::every_test_that_the_page_names_is_there",
        "tests/interop/nobody/check",
    ] {
        assert!(!is_there(name), "{name}");
    }
}
