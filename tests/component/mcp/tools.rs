//! What tools take and answer: their schemas, their refusals, and what a client is not told.

use aegis_broker::broker::policy::Policy;
use aegis_broker::mcp::tools::degraded::degraded;
use aegis_broker::model::{
    Action, CleanText, Effect, Exposure, PeerPattern, Rule, SelectorPattern,
};
use rmcp::ServiceExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::client::{Client, LEGACY, content, door};
use crate::world::{DEPLOY, READER, World};

/// Whether `value` fits `schema`, as far as our schemas say anything: type, members, words, range.
fn misfit(schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Some(format!("{at}: {value} is none of {words:?}"));
    }
    let fits = match schema["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        other => panic!("{at}: no such type {other}"),
    };
    if !fits {
        return Some(format!("{at}: {value} is no {}", schema["type"]));
    }
    if let Some(items) = value.as_array() {
        let mut each = items.iter().enumerate();
        return each.find_map(|(n, item)| misfit(&schema["items"], item, &format!("{at}[{n}]")));
    }
    let members = value.as_object()?;
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            return Some(format!("{at}: {name} is missing"));
        }
    }
    members.iter().find_map(|(name, member)| {
        let property = &schema["properties"][name];
        if property.is_null() {
            return Some(format!("{at}: {name} is unknown"));
        }
        misfit(property, member, &format!("{at}.{name}"))
    })
}

/// Every object and every type word inside a schema.
fn nodes<'s>(schema: &'s Value, found: &mut Vec<&'s Value>) {
    match schema {
        Value::Object(members) => {
            found.push(schema);
            members.values().for_each(|member| nodes(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| nodes(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

async fn list(client: &mut Client) -> Vec<Value> {
    let answer = client.ask("tools/list", json!({})).await;
    answer["result"]["tools"].as_array().unwrap().clone()
}

/// T7, T10, MC-7: schemas are closed objects without references, type lists or formats; every
/// tool has a title, a description and all four hints.
#[tokio::test(start_paused = true)]
async fn every_tool_is_described_in_full() {
    let world = World::new().await;
    let mut client = Client::legacy(&door(&world.daemon()), json!({})).await;
    for tool in list(&mut client).await {
        let name = tool["name"].as_str().unwrap();
        assert!(tool["title"].is_string(), "{name}");
        let description = tool["description"].as_str().unwrap();
        for said in ["ever ", "Next:"] {
            assert!(description.contains(said), "{name} does not say {said}");
        }
        for hint in [
            "title",
            "readOnlyHint",
            "destructiveHint",
            "idempotentHint",
            "openWorldHint",
        ] {
            assert!(!tool["annotations"][hint].is_null(), "{name}: {hint}");
        }
        for schema in [&tool["inputSchema"], &tool["outputSchema"]] {
            assert_eq!(schema["type"], json!("object"), "{name}");
            let mut found = Vec::new();
            nodes(schema, &mut found);
            for node in found {
                for word in ["$ref", "$schema", "$defs", "format", "anyOf", "oneOf"] {
                    assert!(node[word].is_null(), "{name}: {word} in {node}");
                }
                assert!(!node["type"].is_array(), "{name}: {node}");
                if node["type"] == json!("object") {
                    assert_eq!(node["additionalProperties"], json!(false), "{name}: {node}");
                }
            }
        }
    }
}

/// MC-8: what a client says of itself changes no answer, and nobody writes it down.
#[tokio::test(start_paused = true)]
async fn what_a_client_says_of_itself_changes_nothing() {
    const BOAST: &str = "aegis-broker-administrator";
    let world = World::new().await;
    let (daemon, _person) = world.logged_in().await;
    let door = door(&daemon);
    let mut told = Vec::new();
    for name in ["t", BOAST] {
        let mut client = Client::connect(&door);
        let itself = json!({ "name": name, "title": name, "version": "0" });
        client.introduce(LEGACY, json!({}), itself).await;
        client.ask("tools/list", json!({})).await;
        for (tool, arguments) in [
            ("status", json!({})),
            ("target_list", json!({})),
            ("policy_explain", json!({ "selector": DEPLOY })),
            ("lease_create", json!({ "selector": "gcp/other/one" })),
            ("lease_list", json!({})),
            ("audit_list", json!({})),
        ] {
            client.call(tool, arguments).await;
        }
        told.push(client.transcript);
    }
    assert_eq!(told[0], told[1]);
    assert!(!told[1].contains(BOAST));
    let audit = String::from_utf8(world.audit_bytes()).unwrap();
    assert!(!audit.contains(BOAST));
}

/// T8: what a tool answers fits its own schema, answers and refusals alike.
#[tokio::test(start_paused = true)]
async fn every_answer_and_every_refusal_fits_the_output_schema() {
    let world = World::new().await;
    let daemon = world.daemon();
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    let tools = list(&mut client).await;
    let schema = |name: &str| {
        let tool = tools.iter().find(|tool| tool["name"] == json!(name));
        tool.unwrap()["outputSchema"].clone()
    };
    let check = |tool: &str, content: &Value| {
        assert_eq!(misfit(&schema(tool), content, tool), None);
    };
    let selector = json!({ "selector": DEPLOY });
    // While logged out, while a login waits, and while logged in.
    for round in 0..3 {
        for (tool, arguments) in [
            ("audit_list", json!({})),
            ("lease_create", selector.clone()),
            ("lease_create", json!({ "selector": "gcp/other/one" })),
            ("lease_create", json!({ "selector": DEPLOY, "ttl_s": 1 })),
            ("lease_list", json!({})),
            ("lease_revoke", json!({ "lease_id": "lse_unknown" })),
            ("policy_explain", selector.clone()),
            ("policy_explain", json!({ "selector": "gcp/*/*" })),
            ("status", json!({})),
            ("target_list", json!({})),
            ("status", json!({ "verbose": true })),
        ] {
            let content = client.call(tool, arguments).await;
            check(tool, &content);
        }
        if round == 0 {
            let content = client.call("login", json!({})).await;
            check("login", &content);
        } else if round == 1 {
            world.log_in(&daemon.connect()).await;
        }
    }
    for tool in ["login", "logout", "lease_list"] {
        let content = client.call(tool, json!({})).await;
        check(tool, &content);
    }
}

/// T9: a call that no tool could understand is an error of the protocol; everything else is a
/// result the model can read, with what would fix it.
#[tokio::test(start_paused = true)]
async fn wrong_arguments_are_results_and_malformed_calls_are_errors() {
    let world = World::new().await;
    let mut client = Client::legacy(&door(&world.daemon()), json!({})).await;
    for params in [
        json!({ "name": "exec", "arguments": {} }),
        json!({ "name": "Status", "arguments": {} }),
        json!({ "name": "", "arguments": {} }),
        json!({ "name": 7 }),
        json!({ "name": "status", "arguments": [] }),
        json!({ "arguments": {} }),
        json!({}),
        json!(null),
    ] {
        let answer = client.ask("tools/call", params).await;
        assert_eq!(answer["error"]["code"], json!(-32602), "{answer}");
    }
    let rows = [
        ("status", json!({ "x": 1 }), "invalid_request"),
        ("lease_create", json!({}), "invalid_request"),
        ("lease_create", json!({ "selector": 7 }), "invalid_request"),
        (
            "lease_create",
            json!({ "selector": DEPLOY, "token": "t" }),
            "invalid_request",
        ),
        (
            "lease_create",
            json!({ "selector": DEPLOY, "ttl_s": 3601 }),
            "invalid_request",
        ),
        (
            "lease_create",
            json!({ "selector": DEPLOY, "ttl_s": -1 }),
            "invalid_request",
        ),
        (
            "lease_create",
            json!({ "selector": DEPLOY, "max_redemptions": 11 }),
            "invalid_request",
        ),
        (
            "lease_create",
            json!({ "selector": DEPLOY, "max_redemptions": 0 }),
            "invalid_request",
        ),
        (
            "lease_create",
            json!({ "selector": DEPLOY, "reason": "x".repeat(201) }),
            "invalid_request",
        ),
        (
            "lease_create",
            json!({ "selector": DEPLOY, "reason": "a\u{1b}[2Jb" }),
            "invalid_request",
        ),
        (
            "lease_create",
            json!({ "selector": "gcp/billing-prod/*" }),
            "selector_invalid",
        ),
        (
            "policy_explain",
            json!({ "selector": "gcp" }),
            "selector_invalid",
        ),
        (
            "lease_create",
            json!({ "selector": "gcp/other/one" }),
            "target_unknown",
        ),
        ("lease_revoke", json!({ "lease_id": "" }), "lease_not_found"),
        (
            "lease_revoke",
            json!({ "lease_id": "lse_0" }),
            "lease_not_found",
        ),
        (
            "lease_create",
            json!({ "selector": DEPLOY }),
            "login_required",
        ),
    ];
    for (tool, arguments, code) in rows {
        let refusal = client.refused(tool, arguments.clone()).await;
        assert_eq!(refusal["code"], json!(code), "{tool} {arguments}");
        assert!(!refusal["fix"].as_str().unwrap().is_empty());
        assert!(refusal["do_not_retry"].is_boolean());
        assert!(
            !refusal["message"].as_str().unwrap().contains('\u{1b}'),
            "{refusal}"
        );
    }
}

fn rule(id: &str, effect: Effect, selector: &str, peer: Option<&str>) -> Rule {
    Rule {
        id: CleanText::new(id, 32),
        effect,
        selectors: vec![SelectorPattern::parse(selector).unwrap()],
        actions: Action::ALL.to_vec(),
        peers: peer
            .map(|path| PeerPattern::Exe(CleanText::new(path, 64)))
            .into_iter()
            .collect(),
        expose: Exposure::Exec,
        max_ttl: Some(std::time::Duration::from_mins(1)),
        on_leak: aegis_broker::model::OnLeak::Record,
    }
}

/// PO-2: a client learns how it itself would be judged, by which rule, and what it takes; not
/// what there is for other programs. AU-10: and what was decided about it, nobody else.
#[tokio::test(start_paused = true)]
async fn a_client_learns_about_itself_only() {
    let world = World::new().await;
    let daemon = world.daemon();
    let door = door(&daemon);
    let policy = Policy::new(vec![
        rule("ask-for-deploy", Effect::Ask, DEPLOY, None),
        rule("secret-rule", Effect::Allow, READER, Some("/usr/bin/other")),
    ]);
    daemon.handle.replace_policy(policy).unwrap();
    let mut client = Client::legacy(&door, json!({})).await;
    let mut other = Client::legacy(&door, json!({})).await;

    let targets = client.done("target_list", json!({})).await;
    let offered = &targets["targets"];
    assert_eq!(offered.as_array().unwrap().len(), 1, "{targets}");
    assert_eq!(offered[0]["selector"], json!(DEPLOY));
    assert_eq!(offered[0]["exposure"], json!("exec"));
    assert_eq!(offered[0]["max_ttl_s"], json!(60));
    assert_eq!(offered[0]["needs"], json!(["login", "approval"]));

    let told = client
        .done("policy_explain", json!({ "selector": DEPLOY }))
        .await;
    assert_eq!(told["in_catalogue"], json!(true));
    assert_eq!(told["exposure"], json!("exec"));
    let steps: Vec<_> = told["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            (
                step["action"].clone(),
                step["decision"].clone(),
                step["rule"].clone(),
            )
        })
        .collect();
    let step = |action, decision, rule| (json!(action), json!(decision), json!(rule));
    assert_eq!(
        steps,
        [
            step("create", "ask", "ask-for-deploy"),
            step("redeem", "deny", "default"),
            step("revoke", "ask", "ask-for-deploy"),
        ]
    );
    for (selector, listed, rule) in [(READER, true, "default"), ("gcp/x/y", false, "catalogue")] {
        let told = client
            .done("policy_explain", json!({ "selector": selector }))
            .await;
        assert_eq!(told["in_catalogue"], json!(listed));
        assert_eq!(told["steps"][0]["decision"], json!("deny"));
        assert_eq!(told["steps"][0]["rule"], json!(rule));
        assert_eq!(told["needs"], json!([]));
    }
    let refusal = client
        .refused("lease_create", json!({ "selector": DEPLOY }))
        .await;
    assert_eq!(refusal["code"], json!("approval_unavailable"));
    assert_eq!(refusal["do_not_retry"], json!(true));
    let refusal = client
        .refused("lease_create", json!({ "selector": READER }))
        .await;
    assert_eq!(refusal["code"], json!("policy_denied"));

    let mine = client.done("audit_list", json!({})).await;
    let rules: Vec<_> = mine["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|decision| {
            let word = |name: &str| decision[name].as_str().unwrap().to_owned();
            (
                word("action"),
                word("outcome"),
                word("selector"),
                word("rule"),
            )
        })
        .collect();
    let row = |selector: &str, rule: &str| {
        (
            "deny".to_owned(),
            "denied".to_owned(),
            selector.to_owned(),
            rule.to_owned(),
        )
    };
    assert_eq!(
        rules,
        [row(READER, "default"), row(DEPLOY, "ask-for-deploy")]
    );
    let theirs = other.done("audit_list", json!({})).await;
    assert_eq!(theirs["decisions"], json!([]));
    assert!(!client.transcript.contains("secret-rule"));
    assert!(!client.transcript.contains("/usr/bin/other"));
}

/// While the person's lock holds, every tool says the same: stop and ask them.
#[tokio::test(start_paused = true)]
async fn a_lock_is_told_by_every_tool() {
    let world = World::new().await;
    let (daemon, person) = world.logged_in().await;
    person.lock().await.unwrap();
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    let selector = json!({ "selector": DEPLOY });
    let targets = client.done("target_list", json!({})).await;
    for target in targets["targets"].as_array().unwrap() {
        assert_eq!(target["needs"], json!(["unlock"]), "{targets}");
    }
    let status = client.done("status", json!({})).await;
    let told = client.done("policy_explain", selector.clone()).await;
    assert_eq!(told["needs"], json!(["unlock"]));
    let refusal = client.refused("lease_create", selector.clone()).await;
    for says in [
        &targets["next"],
        &status["next"],
        &told["next"],
        &refusal["fix"],
    ] {
        let says = says.as_str().unwrap();
        assert!(says.contains("locked the broker"), "{says}");
        assert!(says.contains("ask them"), "{says}");
    }
    // A login that waits opens nothing yet.
    person.login_begin(None).await.unwrap();
    let told = client.done("policy_explain", selector.clone()).await;
    assert_eq!(told["needs"], json!(["unlock"]));
    assert_eq!(
        client.refused("lease_create", selector).await["code"],
        json!("locked")
    );
}

/// Without a daemon the list is the same, and each call says what mends it.
#[tokio::test]
async fn the_degraded_server_lists_the_same_and_says_what_mends_it() {
    let world = World::new().await;
    let mut client = Client::legacy(&door(&world.daemon()), json!({})).await;
    let tools = client.ask("tools/list", json!({})).await["result"]["tools"].to_string();

    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let server = degraded("no daemon\u{1b} runs", "run `aegis-broker daemon`").serve(theirs);
    let server = tokio::spawn(async move { drop(server.await.unwrap().waiting().await) });
    let (input, mut output) = tokio::io::split(ours);
    let mut lines = BufReader::new(input).lines();
    let mut answers = Vec::new();
    let requests = [
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": { "name": "t", "version": "0" } } }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": "status", "arguments": { "any": 1 } } }),
        json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {
            "name": "exec", "arguments": {} } }),
        json!({ "jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": { "name": 7 } }),
        json!({ "jsonrpc": "2.0", "id": 5, "method": "nobody/knows" }),
    ];
    for request in requests {
        output
            .write_all(format!("{request}\n").as_bytes())
            .await
            .unwrap();
        let line = lines.next_line().await.unwrap().unwrap();
        answers.push(serde_json::from_str::<Value>(&line).unwrap());
    }
    assert_eq!(answers[0]["result"]["protocolVersion"], json!("2025-06-18"));
    assert_eq!(answers[1]["result"]["tools"].to_string(), tools);
    let refusal = &content(&answers[2])["error"];
    assert_eq!(refusal["code"], json!("daemon_unavailable"));
    assert_eq!(refusal["message"], json!("no daemon runs"));
    assert_eq!(refusal["fix"], json!("run `aegis-broker daemon`"));
    assert_eq!(answers[3]["error"]["code"], json!(-32602));
    assert_eq!(answers[4]["error"]["code"], json!(-32602));
    assert_eq!(answers[5]["error"]["code"], json!(-32601));
    drop((lines, output));
    server.await.unwrap();
}
