//! What the pages show, done as a reader would. `tests/interop` runs their clients.

use super::house::{House, SELECTOR};

const README: &str = include_str!("../../README.md");
const PROTOCOL: &str = include_str!("../../docs/socket-protocol.md");

fn python_block(page: &str) -> &str {
    let (_, rest) = page.split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// The client in the README is the one in the protocol's page.
#[test]
fn the_client_is_the_same_on_both_pages() {
    assert_eq!(python_block(README), python_block(PROTOCOL));
}

/// Both pages say ten lines of Python.
#[test]
fn the_client_has_ten_lines_of_code() {
    let code = python_block(README).lines().filter(|line| !line.is_empty());
    assert_eq!(code.count(), 10);
}

/// The README's configuration and policy, with the bundled server's address put in, do what the
/// README says: the person logs in and the credential comes.
#[test]
fn the_configuration_in_the_readme_works() {
    let house = House::new();
    let mut blocks = README.split("```toml\n").skip(1);
    let mut block = || blocks.next().unwrap().split_once("```").unwrap().0;
    let address = format!(
        "base_url = \"{}\"\nallow_insecure_loopback = true",
        house.server.mock.api()
    );
    let config = block().replace("base_url = \"https://aegis.example.com\"", &address);
    house.write("config.toml", &config);
    house.write("policy.toml", block());
    let _daemon = house.daemon();
    house.log_in();
    house.json(&["get", SELECTOR]);
    house.json(&["lease", "list"]);
    house.json(&["lock"]);
}
