//! The edges of the house: which module may name which (`docs/architecture.md`). Reads text, so
//! it also bans what text cannot follow: grouped `use crate::{…}`, and `super::` across modules.

#![expect(clippy::unwrap_used, reason = "a failed setup should abort the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Module → what it may name after `crate::`. The longest matching row wins, on both sides: a
/// module may always name itself and what is below it.
const EDGES: &[(&str, &[&str])] = &[
    ("secret", &[]),
    ("time", &[]),
    ("model", &["secret", "time"]),
    ("dpop", &["secret", "time"]),
    ("svid", &["time"]),
    ("redact", &["secret"]),
    ("config", &["model"]),
    ("broker", &["model", "dpop", "svid", "secret", "time"]),
    (
        "aegis",
        &["broker::ports", "model", "secret", "time", "dpop", "svid"],
    ),
    (
        "http",
        &["broker::ports", "model", "redact", "secret", "time"],
    ),
    ("keystore", &["broker::ports", "model", "secret", "time"]),
    ("audit", &["broker::ports", "model", "secret", "time"]),
    // `time`: the client's limits count a suspended machine's time, and views hold times.
    ("socket", &["broker::handle", "model", "secret", "time"]),
    // Not `secret`: the model-facing door cannot name one.
    ("mcp", &["broker::handle", "model"]),
    // A process of its own: the way to the socket is handed to it.
    ("mcp::shim", &["mcp::guard", "mcp::tools", "model"]),
    (
        "daemon",
        &[
            "aegis",
            "audit",
            "broker",
            "config",
            "dpop",
            "http",
            "keystore",
            "mcp::door",
            "model",
            "secret",
            "socket",
            "svid",
            "time",
        ],
    ),
    // `audit`, not only its verification: `audit show` reads the log where no daemon runs.
    // `time`: the countdown of a login, and the time that each step of the demonstration takes.
    // `redact`: what a command under `exec` says passes through it.
    // The policy: `policy check` and `explain` decide as the core does, without a daemon, and
    // `check --replay` decides again what the log has.
    (
        "cli",
        &[
            "daemon",
            "mcp::shim",
            "socket::client",
            "audit",
            "broker::lint",
            "broker::policy",
            "broker::replay",
            "config",
            "redact",
            "model",
            "secret",
            "time",
        ],
    ),
    ("main", &["cli", "daemon"]),
    ("lib", &[]),
];

/// Pure parts: no async, no clock, no randomness, no I/O.
const PURE: &[&str] = &[
    "src/broker/event.rs",
    "src/broker/effect.rs",
    "src/broker/state.rs",
    "src/broker/session.rs",
    "src/broker/serve.rs",
    "src/broker/uses.rs",
    "src/broker/login.rs",
    "src/broker/leases.rs",
    "src/broker/policy.rs",
    "src/broker/revocations.rs",
    "src/broker/decisions.rs",
    "src/broker/denials.rs",
    "src/broker/pauses.rs",
    "src/broker/decoys.rs",
    "src/broker/fixes.rs",
    "src/broker/replay.rs",
    "src/broker/explain.rs",
    "src/broker/reconcile.rs",
    "src/broker/renewal.rs",
    "src/broker/lint.rs",
    "src/model/",
    "src/redact/",
    "src/secret/",
    "src/time/mod.rs",
];

/// What a pure part may not say.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "SystemTime",
    "Instant::",
    "rand::",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::io::Read",
    "clock.now",
    "tracing",
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// `src/broker/state.rs` → `broker::state`; `src/broker/mod.rs` → `broker`.
fn module_of(path: &str) -> String {
    let inner = path
        .strip_prefix("src/")
        .unwrap()
        .strip_suffix(".rs")
        .unwrap();
    inner
        .strip_suffix("/mod")
        .unwrap_or(inner)
        .replace('/', "::")
}

fn is_within(path: &str, row: &str) -> bool {
    path == row
        || path
            .strip_prefix(row)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// The code without its tests and comments: tests may use doubles from anywhere.
fn code(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text.get(..end)
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every path after `needle`.
fn paths_after(text: &str, needle: &str) -> BTreeSet<String> {
    text.match_indices(needle)
        .filter(|(at, _)| {
            let before = text.get(..*at).unwrap().chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
        .map(|(at, _)| {
            text.get(at + needle.len()..)
                .unwrap()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':' || *c == '{')
                .collect()
        })
        .collect()
}

/// What `super::` and that path mean in that module, from the crate's root on. Of a grouped path,
/// the module it is grouped in.
fn above(module: &str, path: &str) -> String {
    let mut base: Vec<_> = module.split("::").collect();
    base.pop();
    let mut path = path;
    while let Some(rest) = path.strip_prefix("super::") {
        base.pop();
        path = rest;
    }
    if !path.starts_with('{') || base.is_empty() {
        base.push(path);
    }
    base.join("::")
}

fn violations(name: &str, text: &str) -> Vec<String> {
    let module = module_of(name);
    let mut found = Vec::new();
    let Some((row, allowed)) = EDGES
        .iter()
        .filter(|(row, _)| is_within(&module, row))
        .max_by_key(|(row, _)| row.len())
    else {
        return vec![format!("{name}: no row for module {module}")];
    };
    let relative = paths_after(text, "super::");
    let relative = relative.iter().map(|path| above(&module, path));
    for path in paths_after(text, "crate::")
        .into_iter()
        .chain(paths_after(text, "aegis_broker::"))
        .chain(relative)
    {
        if path.starts_with('{') {
            found.push(format!(
                "{name}: grouped `use crate::{{…}}` hides its edges"
            ));
            continue;
        }
        // A file of tests may ask how many cases of a property to try.
        let counts = name.ends_with("/tests.rs") && is_within(&path, "cases");
        let fits = is_within(&path, row) || allowed.iter().any(|edge| is_within(&path, edge));
        let fits = fits || counts;
        if !fits {
            found.push(format!("{name}: {row} may not name {path}"));
        }
    }
    found
}

#[test]
fn every_edge_points_at_the_core() {
    let broken: Vec<_> = sources()
        .iter()
        .flat_map(|(name, text)| violations(name, &code(text)))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The check itself catches what it is for.
#[test]
fn a_planted_edge_is_seen() {
    for (name, text) in [
        ("src/broker/state.rs", "use crate::socket::wire;"),
        ("src/socket/wire.rs", "use crate::broker::state::State;"),
        ("src/aegis/mod.rs", "let x = crate::audit::open();"),
        ("src/socket/wire.rs", "use crate::{broker, model};"),
        ("src/model/mod.rs", "use super::broker;"),
        ("src/model/ids.rs", "use super::super::broker;"),
        ("src/lib.rs", "use super::{broker, model};"),
        ("src/mcp/shim/mod.rs", "use super::wire;"),
        ("src/mcp/shim/mod.rs", "use super::{guard, wire};"),
        ("src/mcp/shim/relay.rs", "use super::super::wire::Turn;"),
        ("src/newcomer.rs", ""),
    ] {
        assert!(!violations(name, text).is_empty(), "{name}: {text}");
    }
}

/// An item that only tests use does not end what is read of a file; its tests do.
#[test]
fn the_code_of_a_file_is_read_up_to_its_tests() {
    let text = "#[cfg(test)]\nconst A: u8 = 0;\nuse crate::seen;\n\n#[cfg(test)]\nmod tests {\n    use crate::unseen;\n}\n";
    assert!(code(text).contains("crate::seen"));
    assert!(!code(text).contains("crate::unseen"));
}

/// Invariant 1: the pure part of the core has no async, clock, randomness or I/O.
#[test]
fn the_pure_parts_are_pure() {
    let mut seen = 0;
    for (name, text) in sources() {
        if !PURE.iter().any(|pure| name.starts_with(pure)) || name.ends_with("tests.rs") {
            continue;
        }
        seen += 1;
        let code = code(&text);
        for word in IMPURE {
            assert!(!code.contains(word), "{name} says {word}");
        }
    }
    assert!(seen >= PURE.len(), "a pure file was moved");
}

fn derives_serde(code: &str) -> bool {
    code.split("derive(").skip(1).any(|rest| {
        let derived = rest.split(')').next().unwrap();
        derived.contains("Serialize") || derived.contains("Deserialize")
    })
}

/// The check itself catches what it is for.
#[test]
fn a_planted_derive_is_seen() {
    for code in [
        "#[derive(Serialize)]",
        "#[derive(Debug, Deserialize)]",
        "#[derive(Debug, serde::Serialize, JsonSchema)]",
        "#[derive(\n    Debug,\n    Deserialize,\n    Clone\n)]",
    ] {
        assert!(derives_serde(code), "{code}");
    }
    assert!(!derives_serde(
        "#[derive(Debug, Clone)]\nimpl Serialize for Time {}"
    ));
}

/// HY-15, MC-10, MC-11: no source of ours opens a port; the bundled server, a crate of its own,
/// does. HY-16: a program is started by the shim, the daemon; by `exec`, the
/// person's command; and by the demonstration.
#[test]
fn no_port_is_opened_and_no_program_started_elsewhere() {
    const PORTS: [&str; 3] = ["TcpListener", "TcpSocket", "UdpSocket"];
    let mut starters = BTreeSet::new();
    for (name, text) in sources() {
        if name.ends_with("tests.rs") {
            continue;
        }
        let code = code(&text);
        for word in PORTS {
            assert!(!code.contains(word), "{name} says {word}");
        }
        if code.contains("Command::new(") {
            starters.insert(name);
        }
    }
    let expected = [
        "src/cli/demo/household.rs",
        "src/cli/demo/mcp_client.rs",
        "src/cli/exec/child.rs",
        "src/mcp/shim/launch.rs",
    ];
    assert!(starters.iter().eq(expected), "{starters:?}");
}

/// Invariant 3: serde traits are derived in `wire.rs` files and `config/file.rs` only, and no
/// secret type implements one.
#[test]
fn serde_stays_at_the_edges() {
    for (name, text) in sources() {
        let edge =
            name.ends_with("/wire.rs") || name.contains("/wire/") || name == "src/config/file.rs";
        let code = code(&text);
        if !edge {
            assert!(!derives_serde(&code), "{name} derives serde traits");
        }
        for secret in ["SecretString", "SecretBuffer", "ProofKey"] {
            for implemented in [
                "Serialize for",
                "Deserialize<'de> for",
                "Clone for",
                "Display for",
            ] {
                assert!(
                    !code.contains(&format!("{implemented} {secret}")),
                    "{name}: {implemented} {secret}"
                );
            }
        }
    }
}

/// MC-4, MC-5: no type of the models' door can name a secret, nor call what hands one out. Its
/// connection is `ModelConnection`, which has no such call.
#[test]
fn the_models_door_cannot_name_a_secret() {
    const SECRETS: &[&str] = &[
        "SecretString",
        "SecretBuffer",
        "crate::secret",
        "Zeroizing",
        "expose(",
        "Material",
        "FieldValue",
        "Delivery",
        "CredentialRequest",
        ".credential(",
        "lease_redeem(",
        "ProofKey",
    ];
    let mut seen = 0;
    for (name, text) in sources() {
        if !name.starts_with("src/mcp/") || name.starts_with("src/mcp/shim") {
            continue;
        }
        seen += 1;
        for word in SECRETS {
            assert!(!code(&text).contains(word), "{name} names {word}");
        }
    }
    assert!(seen > 10, "the door was moved");
    let (_, handle) = sources()
        .into_iter()
        .find(|(name, _)| name == "src/broker/handle.rs")
        .unwrap();
    let (_, of_models) = handle.split_once("impl ModelConnection {").unwrap();
    let (of_models, _) = of_models.split_once("\n}\n").unwrap();
    for word in SECRETS {
        assert!(!of_models.contains(word), "ModelConnection names {word}");
    }
}

/// Ours names the mock for `--mock` and for the demonstration, which is a test that a person can
/// watch: it plants faults in the bundled server and reads its journal.
#[test]
fn the_mock_is_named_in_two_places_only() {
    for (name, text) in sources() {
        if code(&text).contains("aegis_mock") {
            assert!(
                name == "src/daemon/mock.rs" || name.starts_with("src/cli/demo"),
                "{name} names the mock"
            );
        }
    }
}
