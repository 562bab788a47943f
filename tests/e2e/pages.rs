//! What the pages show, done as a reader would. `tests/interop` runs their clients.

use serde_json::Value;

use super::house::{House, SELECTOR};
use super::line_client::LineClient;

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

/// What the README tells MCP clients to start is a server that greets them.
#[test]
fn the_servers_in_the_readme_greet_a_client() {
    let (_, section) = README.split_once("## Connect an MCP client").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let (_, added) = section.split_once("claude mcp add").unwrap();
    let (added, _) = added.split_once('\n').unwrap();
    let (_, added) = added.split_once(" -- ").unwrap();
    let mut servers = vec![added.split(' ').map(str::to_owned).collect::<Vec<_>>()];
    for block in section.split("```json\n").skip(1) {
        let block: Value = serde_json::from_str(block.split_once("```").unwrap().0).unwrap();
        let group = ["mcpServers", "servers"]
            .iter()
            .find_map(|name| block.get(name))
            .unwrap();
        let mut words = vec![group["aegis"]["command"].as_str().unwrap().to_owned()];
        let arguments = group["aegis"]["args"].as_array().unwrap();
        words.extend(
            arguments
                .iter()
                .map(|word| word.as_str().unwrap().to_owned()),
        );
        servers.push(words);
    }
    assert_eq!(servers.len(), 4, "one for each client");
    let house = House::new();
    let _daemon = house.daemon();
    for words in servers {
        assert!(words[0].ends_with("aegis-broker"), "{words:?}");
        let arguments: Vec<_> = words[1..].iter().map(String::as_str).collect();
        let mut client = LineClient::greeting(&mut house.command(&arguments));
        client.close();
        assert!(client.end().1.success(), "{words:?}");
    }
}
