//! Denials at both doors, as their callers read them.

use serde_json::{Value, json};

use crate::house::{Daemon, House, Peer, SELECTOR};

/// What no rule allows.
const DENIED: &str = "gcp/billing-prod/off-limits";
const DECOY: &str = "gcp/billing-prod/root-admin";
/// In the catalogue without the action create.
const REDEEM_ONLY: &str = "gcp/billing-prod/redeem-only";
const UNKNOWN: &str = "gcp/elsewhere/nobody";

/// A rule's name and its pattern, which no caller is told of.
const INTERNALS: [&str; 4] = ["hunter-rule", "*/*", "off-*", "max_ttl"];

fn house(gate: &str) -> (House, Daemon) {
    let house = House::new();
    let target = |selector: &str, more: &str| {
        format!("[[profiles.work.target]]\nselector = \"{selector}\"\n{more}\n")
    };
    let config = [
        format!("[gate]\n{gate}\n"),
        house.config(),
        target(DENIED, ""),
        target(DECOY, "decoy = true"),
        target(REDEEM_ONLY, "actions = [\"redeem\"]"),
    ];
    house.write("config.toml", &config.concat());
    let rules = format!(
        "[[rule]]\nid = \"hunter-rule-all\"\neffect = \"allow\"\nselectors = [\"*/*/*\"]\nexpose = \"reveal\"\n\
         [[rule]]\nid = \"hunter-rule-no\"\neffect = \"deny\"\nselectors = [\"{DENIED}\"]\n"
    );
    house.write("policy.toml", &rules);
    let daemon = house.daemon();
    (house, daemon)
}

/// A refusal of the socket: `data`, with the message beside.
fn of_socket(peer: &mut Peer, method: &str, params: &Value) -> Value {
    let answer = peer.ask(method, params);
    let mut data = answer["error"]["data"].clone();
    assert!(data.is_object(), "{method}: {answer}");
    data["message"] = answer["error"]["message"].clone();
    data
}

/// A refusal of a model's tool.
fn of_tool(model: &mut Peer, tool: &str, arguments: &Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments });
    let answer = model.ask("tools/call", &params);
    let error = answer["result"]["structuredContent"]["error"].clone();
    assert!(error.is_object(), "{tool}: {answer}");
    error
}

/// PO-2: the one shape, and nothing of the policy in it.
fn check_shape(name: &str, refusal: &Value, code: &str) {
    const ALWAYS: [&str; 5] = ["code", "message", "retryable", "do_not_retry", "fix"];
    const SOMETIMES: [&str; 4] = ["reason_code", "retry_after_s", "request_id", "login"];
    let members = refusal.as_object().unwrap();
    for member in ALWAYS {
        assert!(
            members.contains_key(member),
            "{name}: no {member}: {refusal}"
        );
    }
    for member in members.keys() {
        let known = ALWAYS.contains(&&**member) || SOMETIMES.contains(&&**member);
        assert!(known, "{name}: {member}");
    }
    assert_eq!(refusal["code"], code, "{name}: {refusal}");
    let flag = |member: &str| refusal[member].as_bool().unwrap();
    assert!(!(flag("retryable") && flag("do_not_retry")), "{name}");
    assert!(!refusal["fix"].as_str().unwrap().is_empty(), "{name}");
    for internal in INTERNALS {
        assert!(!refusal.to_string().contains(internal), "{name}: {refusal}");
    }
}

/// One denial at both doors: of one shape, and with the same words for programs.
fn at_both_doors(name: &str, socket: &Value, tool: &Value, code: &str, fix: &str) {
    for refusal in [socket, tool] {
        check_shape(name, refusal, code);
        let said = refusal["fix"].as_str().unwrap();
        assert!(said.contains(fix), "{name}: {said}");
    }
    for member in ["reason_code", "retryable", "do_not_retry", "message"] {
        assert_eq!(socket[member], tool[member], "{name}: {member}");
    }
    let waits = |refusal: &Value| refusal["retry_after_s"].is_u64();
    assert_eq!(waits(socket), waits(tool), "{name}");
}

/// PO-2: every denial that both doors can give has one shape at both, says what would fix it
/// exactly, and nothing of the policy: neither a rule's name nor its patterns.
#[test]
fn denials_have_one_shape_at_both_doors() {
    let (house, _daemon) = house("denial_pause = false");
    let (mut peer, mut model) = (house.connect(), house.connect_model());
    let mut ask = |name: &str, params: &Value, code: &str, fix: &str| {
        let socket = of_socket(&mut peer, "lease.create", params);
        let tool = of_tool(&mut model, "lease_create", params);
        at_both_doors(name, &socket, &tool, code, fix);
        (socket, tool)
    };
    let wants = |selector: &str| json!({ "selector": selector });
    ask(
        "nobody is logged in",
        &wants(SELECTOR),
        "login_required",
        "login",
    );
    house.log_in();
    let rule = format!("allows create for {DENIED}, with expose = \"use\"");
    let scope = "credential.lease.create:provider:gcp:app:billing-prod:account:redeem-only";
    let short = json!({ "selector": SELECTOR, "ttl_s": 29 });
    let denied = ask("a rule denies", &wants(DENIED), "policy_denied", &rule);
    let decoy = ask(
        "a decoy",
        &wants(DECOY),
        "policy_denied",
        &rule.replace(DENIED, DECOY),
    );
    ask(
        "not in the catalogue",
        &wants(UNKNOWN),
        "target_unknown",
        UNKNOWN,
    );
    ask(
        "not in the login",
        &wants(REDEEM_ONLY),
        "scope_not_granted",
        scope,
    );
    ask(
        "not a selector",
        &wants("gcp/*/x"),
        "selector_invalid",
        "provider/app/account",
    );
    ask("too short", &short, "invalid_request", "compare");
    for (decoy, denied) in [(&decoy.0, &denied.0), (&decoy.1, &denied.1)] {
        let renamed = decoy.to_string().replace(DECOY, DENIED);
        assert_eq!(renamed, denied.to_string(), "nothing tells a decoy");
    }
    house.server.mock.fault(
        "CreateCredentialLease",
        aegis_mock::FaultKind::Unavailable,
        99,
    );
    ask(
        "the issuer is away",
        &wants(SELECTOR),
        "aegis_unavailable",
        "",
    );
    house.server.mock.fault(
        "CreateCredentialLease",
        aegis_mock::FaultKind::Unavailable,
        0,
    );
    let nothing = json!({ "lease_id": "lse_nothing" });
    let socket = of_socket(&mut peer, "lease.revoke", &nothing);
    let tool = of_tool(&mut model, "lease_revoke", &nothing);
    at_both_doors("no such lease", &socket, &tool, "lease_not_found", "lease");
    house.json(&["lock"]);
    let mut ask = |name: &str, params: &Value, code: &str| {
        let socket = of_socket(&mut peer, "lease.create", params);
        let tool = of_tool(&mut model, "lease_create", params);
        at_both_doors(name, &socket, &tool, code, "login");
    };
    ask("locked", &wants(SELECTOR), "locked");
    ask("a decoy under a lock", &wants(DECOY), "locked");
}

/// PO-2: what only programs can be denied has the same shape.
#[test]
fn denials_of_programs_have_the_same_shape() {
    let (house, _daemon) = house("denial_pause = false");
    house.log_in();
    let mut peer = house.connect();
    let ended = |peer: &mut Peer, redeem: bool| {
        let lease = peer.ask("lease.create", &json!({ "selector": SELECTOR }));
        let id = json!({ "lease_id": lease["result"]["lease_id"] });
        let method = if redeem {
            "lease.redeem"
        } else {
            "lease.revoke"
        };
        assert!(peer.ask(method, &id)["result"].is_object());
        id
    };
    let (used, revoked) = (ended(&mut peer, true), ended(&mut peer, false));
    let get = |selector: &str| json!({ "selector": selector });
    let rows = [
        (
            "get",
            "credential.get",
            get(DENIED),
            "policy_denied",
            "with expose = \"reveal\"",
        ),
        (
            "get a decoy",
            "credential.get",
            get(DECOY),
            "policy_denied",
            DECOY,
        ),
        (
            "get what is not listed",
            "credential.get",
            get(UNKNOWN),
            "target_unknown",
            UNKNOWN,
        ),
        (
            "get without the scope",
            "credential.get",
            get(REDEEM_ONLY),
            "scope_not_granted",
            ":redeem-only",
        ),
        ("used up", "lease.redeem", used, "lease_exhausted", "lease"),
        ("revoked", "lease.redeem", revoked, "lease_revoked", "lease"),
        (
            "no profile",
            "credential.get",
            json!({ "selector": SELECTOR, "profile": "other" }),
            "profile_unknown",
            "profile",
        ),
        (
            "no method",
            "secrets.dump",
            json!({}),
            "method_unknown",
            "docs",
        ),
        (
            "too long",
            "credential.get",
            json!({ "selector": SELECTOR, "min_valid_for_s": 3601 }),
            "invalid_request",
            "",
        ),
        (
            "longer than any lease",
            "credential.get",
            json!({ "selector": SELECTOR, "min_valid_for_s": 3600 }),
            "invalid_request",
            "shorter",
        ),
    ];
    for (name, method, params, code, fix) in rows {
        let refusal = of_socket(&mut peer, method, &params);
        check_shape(name, &refusal, code);
        let said = refusal["fix"].as_str().unwrap();
        assert!(said.contains(fix), "{name}: {said}");
    }
}

/// LM, `aegis.md` 17.13: a process that goes on asking for what it is denied is told when to come
/// back, at both doors alike, also for what it could have; another process is served.
#[test]
fn a_pause_says_how_long_it_lasts_at_both_doors() {
    let (house, _daemon) = house("denial_pause = true");
    house.log_in();
    let (mut peer, mut model) = (house.connect(), house.connect_model());
    for _ in 0..5 {
        of_socket(&mut peer, "lease.create", &json!({ "selector": DENIED }));
    }
    // Both connections are this process's.
    let params = json!({ "selector": SELECTOR });
    let socket = of_socket(&mut peer, "lease.create", &params);
    let tool = of_tool(&mut model, "lease_create", &params);
    at_both_doors("paused", &socket, &tool, "rate_limited", "wait");
    assert_eq!(socket["reason_code"], "denial_pause");
    let wait = socket["retry_after_s"].as_u64().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let got = house.run(&["get", SELECTOR]);
    assert!(got.status.success(), "a process of its own");
    let log = std::fs::read_to_string(house.path("daemon.log")).unwrap();
    assert!(
        log.contains("denied too often"),
        "the person can read of it"
    );
    let shown = house.run(&["audit", "show", "--last", "20"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.matches("caller.pause").count(), 1, "{shown}");
}
