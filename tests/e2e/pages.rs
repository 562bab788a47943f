//! What the pages show, done as a reader would.

use std::process::Command;

use super::house::{House, SELECTOR, text};

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

/// The ten lines get material that opens `whoami`, and opens nothing after a revoke.
#[test]
fn ten_lines_of_python_get_a_credential() {
    let house = House::new();
    let _daemon = house.daemon();
    house.log_in();
    let run = |code: &str| {
        let mut python = Command::new("python3");
        house.surround(&mut python);
        python.arg("-c").arg(code).output().unwrap()
    };
    let output = run(python_block(README));
    assert!(output.status.success(), "{}", text(&output));
    let material = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert_eq!(house.server.whoami(&material), 200);

    let definitions = python_block(README).split_once("\nprint(").unwrap().0;
    let revoke = format!(
        "{definitions}\nlease = call('credential.get', selector='{SELECTOR}')['lease']\nprint(call('lease.revoke', lease_id=lease['lease_id'])['state'])"
    );
    let output = run(&revoke);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "revoked",
        "{}",
        text(&output)
    );
    assert_eq!(house.server.whoami(&material), 401);
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
