//! The matrix of selectors: the table that the broker's own reader and policy are judged by, too,
//! asked of the server over the wire. And against a server that leaves out a check.

#[path = "../../../tests/fixtures/selectors.rs"]
mod table;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use aegis_mock::{Check, Mock, Options};
use serde_json::{Value, json};

use self::table::{
    Grant, GrantRow, OTHER_TENANT, PLACES, TENANT, Who, check_table, grants, scopes, split, targets,
};
use crate::client::{Answer, Client, Key, scope};
use crate::evidence::figure;

/// What a refusal could give away of the policy and of who else there is.
const INTERNALS: [&str; 13] = [
    "billing", "deploy", "owner", "nobody", "gcp", "aws", "demo", "other", "business", "deny",
    "denied", "rule", "limit",
];
/// What HTTP says of the codes that refusals here have.
const STATUSES: [(&str, u16); 3] = [
    ("invalid_argument", 400),
    ("permission_denied", 403),
    ("not_found", 404),
];
/// A row where everything is granted.
const GOOD: &str = "create-granted";
const SETTINGS: &str = "[throttle]\nenabled = false\n[strictness]\nhost = true\n";

/// A whole list of scopes, where its entries are not the point. `text` is JSON.
struct ListRow {
    name: &'static str,
    text: String,
    server: &'static str,
    check: Option<Check>,
}

/// LC-1, CN-5.
fn lists() -> Vec<ListRow> {
    let good = scope("create", parts(PLACES[0]));
    let bad = |name, server, check, list: Value| ListRow {
        name,
        text: list.to_string(),
        server,
        check: Some(check),
    };
    let fits = |name, list: Value| ListRow {
        name,
        text: list.to_string(),
        server: "ok",
        check: None,
    };
    let many = |count| json!(vec![&good; count]);
    vec![
        fits("list-of-one", json!([good])),
        fits("list-of-two-equal", json!([good, good])),
        fits("list-of-96", many(96)),
        fits("list-empty-for-the-default", json!([])),
        bad("list-of-97", "scope_malformed", Check::ScopeCount, many(97)),
        bad(
            "list-of-200",
            "scope_malformed",
            Check::ScopeCount,
            many(200),
        ),
        bad(
            "entry-number",
            "type_mismatch",
            Check::Body,
            json!([good, 1]),
        ),
        bad("entry-null", "type_mismatch", Check::Body, json!([null])),
        bad("entry-true", "type_mismatch", Check::Body, json!([true])),
        bad("entry-list", "type_mismatch", Check::Body, json!([[good]])),
        bad(
            "entry-object",
            "type_mismatch",
            Check::Body,
            json!([{"scope": good}]),
        ),
        bad(
            "text-in-place-of-a-list",
            "type_mismatch",
            Check::Body,
            json!(good),
        ),
        bad(
            "object-in-place-of-a-list",
            "type_mismatch",
            Check::Body,
            json!({"0": good}),
        ),
        bad(
            "one-bad-of-two",
            "scope_malformed",
            Check::ScopeSegment,
            json!([good, "credential.lease.create:provider:GCP:app:a:account:b"]),
        ),
        bad(
            "one-wildcard-of-two",
            "scope_wildcard",
            Check::ScopeWildcard,
            json!([good, "*"]),
        ),
        bad(
            "gravest-of-three",
            "scope_wildcard",
            Check::ScopeWildcard,
            json!(["credential.lease.create", "openid", "*"]),
        ),
    ]
}

fn parts(selector: &str) -> [&str; 3] {
    let parts: Vec<&str> = selector.split('/').collect();
    parts.try_into().unwrap()
}

fn canonical(selector: &str) -> String {
    let [provider, app, account] = parts(selector);
    format!("provider:{provider}:app:{app}:account:{account}")
}

/// Two tenants, two people, and these lines.
fn policy(grants: &[Grant], denials: &[Grant]) -> String {
    let mut text = SETTINGS.to_owned();
    for tenant in [TENANT, OTHER_TENANT] {
        let default = scope("create", parts(PLACES[0]));
        write!(
            text,
            "[[tenant]]\nid = \"{tenant}\"\ndefault_scopes = [\"{default}\"]\n"
        )
        .unwrap();
    }
    for uid in ["u-demo", "u-other"] {
        write!(
            text,
            "[[user]]\nuid = \"{uid}\"\ntenants = [\"{TENANT}\", \"{OTHER_TENANT}\"]\n"
        )
        .unwrap();
    }
    for (table, lines) in [("grant", grants), ("deny", denials)] {
        for line in lines {
            let (actions, selector) = split(line.what);
            let actions = json!(actions);
            write!(
                text,
                "[[{table}]]\nprincipal = \"{}\"\nactions = {actions}\nselector = \"{}\"\n",
                line.principal,
                canonical(selector)
            )
            .unwrap();
            if let (Some(ttl), Some(redemptions)) = (line.max_ttl, line.max_redemptions) {
                write!(
                    text,
                    "max_ttl_seconds = {ttl}\nmax_redemptions = {redemptions}\n"
                )
                .unwrap();
            }
        }
    }
    for selector in &PLACES[..4] {
        write!(
            text,
            "[[credential]]\nselector = \"{}\"\nkind = \"generic_secret\"\nfields = {{ password = \"mock-{{random}}\" }}\n",
            canonical(selector)
        )
        .unwrap();
    }
    text
}

async fn spawn(leave_out: Option<Check>) -> Mock {
    let options = Options {
        policy_toml: Some(policy(&[], &[])),
        leave_out,
        ..Options::default()
    };
    aegis_mock::spawn(options).await.unwrap()
}

/// Logs in with the client's key; the client has the token then.
async fn log_in(mock: &Mock, client: &mut Client, uid: &str, tenant: &str, asked: &[&str]) {
    let scopes: Vec<String> = asked
        .iter()
        .flat_map(|what| {
            let (actions, selector) = split(what);
            let scopes = actions
                .into_iter()
                .map(|action| scope(action, parts(selector)));
            scopes.collect::<Vec<_>>()
        })
        .collect();
    let wish = json!({"tenantId": tenant, "requestedScopes": scopes});
    let begun = client.begin(&wish).await;
    assert_eq!(begun.reason(), "ok", "{}", begun.body);
    mock.approve_as(uid, begun.text("/userCode")).unwrap();
    let answer = client.exchange(begun.text("/deviceCode")).await;
    answer.text("/brokerToken").clone_into(&mut client.token);
    client.nonce = answer.header("dpop-nonce").map(str::to_owned);
}

/// Sets the row's scene and makes its call.
async fn make_call(mock: &Mock, client: &mut Client, row: &GrantRow) -> Answer {
    let (actions, selector) = split(row.call);
    let [provider, app, account] = parts(selector);
    let target = json!({"provider": provider, "app": app, "account": account});
    client.key = Key::generate();
    let lease_id = if actions == ["create"] {
        String::new()
    } else {
        let made = Grant {
            what: "create gcp/billing-prod/deploy-bot",
            principal: "user:u-demo",
            max_ttl: None,
            max_redemptions: None,
        };
        mock.set_policy(&policy(std::slice::from_ref(&made), &[]))
            .unwrap();
        log_in(mock, client, "u-demo", TENANT, &[made.what]).await;
        let wish = json!({"maxRedemptions": row.redemptions});
        client.lease([provider, app, account], &wish).await
    };

    mock.set_policy(&policy(&row.grants, &row.denials)).unwrap();
    if matches!(row.who, Who::OtherKey | Who::OtherPerson) {
        client.key = Key::generate();
    }
    let uid = if row.who == Who::OtherPerson {
        "u-other"
    } else {
        "u-demo"
    };
    let tenant = if row.who == Who::InOtherTenant {
        OTHER_TENANT
    } else {
        TENANT
    };
    log_in(mock, client, uid, tenant, &row.asked).await;
    let (method, mut message) = match actions.as_slice() {
        ["create"] => (
            "CreateCredentialLease",
            json!({
                "target": target,
                "requestedTtlSeconds": row.ttl,
                "maxRedemptions": row.redemptions,
            }),
        ),
        ["redeem"] => ("RedeemCredentialLease", json!({"leaseId": lease_id})),
        _ => (
            "RevokeCredentialLease",
            json!({"leaseId": lease_id, "reason": "released"}),
        ),
    };
    message["tenantId"] = json!(row.tenant);
    client.call(method, &message).await
}

fn check_by_name(name: &str) -> Option<Check> {
    let mut all = Check::GRANT.iter().chain(Check::PROOF);
    all.find(|check| check.name() == name).copied()
}

/// A refusal says nothing but its reason's one sentence.
fn check_refusal(name: &str, answer: &Answer, check: Check) {
    let code = answer.text("/code");
    let status = STATUSES.iter().find(|(known, _)| *known == code);
    assert_eq!(
        status.map(|(_, status)| *status),
        Some(answer.status),
        "{name}"
    );

    let message = answer.text("/message");
    if check != Check::Body {
        assert_eq!(message, check.message(), "{name}");
    }
    let told = answer.body["details"][0]["debug"].as_object().unwrap();
    let known = ["reason", "requestId", "field"];
    assert!(
        told.keys().all(|key| known.contains(&key.as_str())),
        "{name}: {told:?}"
    );
    let field = told
        .get("field")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let fields = ["", "target", "requested_scopes"];
    assert!(fields.contains(&field), "{name}: {field}");
    for word in INTERNALS {
        assert!(!message.contains(word), "{name}: {message}");
    }
}

/// Each refusal is recorded with its reason.
fn check_audit(mock: &Mock, refused: &[(&'static str, String, &'static str)]) {
    let denials: HashMap<String, String> = (mock.audit().into_iter())
        .filter(|event| event.outcome == "denied")
        .map(|event| (event.request_id, event.reason))
        .collect();
    for (name, request_id, reason) in refused {
        let recorded = denials.get(request_id).map(String::as_str);
        assert_eq!(recorded, Some(*reason), "{name}");
    }
}

/// Every row of the table that `wanted` takes, and what the server answers.
async fn judge(
    mock: &Mock,
    wanted: impl Fn(&str, Option<Check>) -> bool,
    mut judged: impl FnMut(&'static str, &Answer, &'static str, Option<Check>),
) {
    let mut client = Client::new(mock);
    for row in scopes() {
        let check = check_by_name(row.check);
        if wanted(row.name, check) {
            let answer = client.begin(&json!({"requestedScopes": [row.text]})).await;
            judged(row.name, &answer, row.server, check);
        }
    }
    for row in lists() {
        if wanted(row.name, row.check) {
            let list: Value = serde_json::from_str(&row.text).unwrap();
            let answer = client.begin(&json!({"requestedScopes": list})).await;
            judged(row.name, &answer, row.server, row.check);
        }
    }
    for row in grants() {
        let check = check_by_name(row.check);
        if wanted(row.name, check) {
            let answer = make_call(mock, &mut client, &row).await;
            judged(row.name, &answer, row.server, check);
        }
    }
    let what = "create gcp/billing-prod/deploy-bot";
    let granted = grants().swap_remove(0).grants;
    mock.set_policy(&policy(&granted, &[])).unwrap();
    log_in(mock, &mut client, "u-demo", TENANT, &[what]).await;
    for row in targets() {
        let check = check_by_name(row.check);
        if wanted(row.name, check) {
            let parts = row.parts.each_ref().map(String::as_str);
            let answer = client.create(parts, &json!({})).await;
            judged(row.name, &answer, row.server, check);
        }
    }
}

/// LC-1, LC-9, PO-1, PO-2, IN-29.
#[tokio::test]
async fn scopes_targets_and_grants_are_judged_as_the_table_says() {
    let mock = spawn(None).await;
    let (mut refused, mut accepted) = (Vec::new(), 0);
    judge(
        &mock,
        |_, _| true,
        |name, answer, server, check| {
            assert_eq!(answer.reason(), server, "{name}: {}", answer.body);
            if let Some(check) = check {
                check_refusal(name, answer, check);
                let request_id = answer.header("x-request-id").unwrap().to_owned();
                refused.push((name, request_id, server));
            } else {
                accepted += 1;
            }
        },
    )
    .await;
    assert!(refused.len() >= 230, "only {} refusals", refused.len());
    check_audit(&mock, &refused);
    let refused = refused.len();
    figure(&format!(
        "{refused} scopes, targets and calls refused, {accepted} accepted, as the table says"
    ));
}

/// LC-1: what may be asked for is judged alike wherever a token is made; only that no approver has a
/// default there.
#[tokio::test]
async fn scopes_are_judged_alike_where_tokens_are_minted_and_exchanged() {
    let mock = spawn(None).await;
    let client = Client::new(&mock);
    let id_token = mock.demo_id_token();
    let single = scopes().into_iter().map(|row| {
        let list = json!([row.text]);
        (row.name, list, row.server, check_by_name(row.check))
    });
    let lists = lists().into_iter().map(|row| {
        let list = serde_json::from_str(&row.text).unwrap();
        (row.name, list, row.server, row.check)
    });
    let mut judged = 0;
    for (name, list, server, check) in single.chain(lists) {
        let wish = json!({ "requestedScopes": list });
        let expected = if list == json!([]) {
            "field_missing"
        } else {
            server
        };
        let minted = client.mint(&id_token, &wish).await;
        assert_eq!(minted.reason(), expected, "{name}: {}", minted.body);
        // The scopes are looked at before the token is, which is none here.
        let expected = if expected == "ok" {
            "workload_token_invalid"
        } else {
            expected
        };
        let exchanged = client.exchange_workload("none", &wish).await;
        assert_eq!(exchanged.reason(), expected, "{name}: {}", exchanged.body);
        if let Some(check) = check {
            check_refusal(name, &minted, check);
            check_refusal(name, &exchanged, check);
        }
        judged += 2;
    }
    figure(&format!(
        "{judged} lists of scopes judged at a mint and an exchange as at a login"
    ));
}

/// A table that misses nothing: without a check, some row that names it goes red.
#[tokio::test]
async fn each_check_of_scopes_would_be_missed() {
    for check in Check::GRANT.iter().copied().chain([Check::Body]) {
        let mock = spawn(Some(check)).await;
        let (mut tried, mut red, mut good) = (0, 0, 0);
        judge(
            &mock,
            |name, named| named == Some(check) || name == GOOD,
            |name, answer, server, _| {
                if name == GOOD {
                    // It is the check that makes the difference.
                    good += 1;
                    assert_eq!(answer.reason(), server, "{name} without {check:?}");
                } else {
                    tried += 1;
                    red += u32::from(answer.reason() != server);
                }
            },
        )
        .await;
        assert!(red > 0, "no row of {tried} shows that {check:?} is gone");
        assert!(good > 0);
    }
    let checks = Check::GRANT.len() + 1;
    figure(&format!(
        "{checks} checks of scopes left out one by one: each turned a row red"
    ));
}

#[test]
fn each_row_has_a_name_and_each_check_a_row() {
    check_table();
    let named: Vec<&str> = (scopes().iter().map(|row| row.check))
        .chain(targets().iter().map(|row| row.check))
        .chain(grants().iter().map(|row| row.check))
        .filter(|check| !check.is_empty())
        .collect();
    assert!(named.iter().all(|name| check_by_name(name).is_some()));
    let mut judged: BTreeSet<&str> = named.into_iter().collect();
    judged.extend(lists().iter().filter_map(|row| row.check).map(Check::name));
    let mut all: BTreeSet<&str> = Check::GRANT.iter().copied().map(Check::name).collect();
    all.insert(Check::Body.name());
    assert_eq!(judged, all);
    let lists = lists();
    let names: HashSet<&str> = lists.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), lists.len());
}
