//! The login through a model's client: one flow for everybody, shown as well as the client can.

use std::time::Duration;

use aegis_broker::model::ErrorCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, content, door, url_dialogs};
use crate::world::{BEGIN, World, code, is_logged_in, user_code};

const QUESTION: &str = "aegis_login";

/// What the person or time does to a login.
type End = fn(&aegis_mock::Mock, &str);

fn login() -> Value {
    json!({ "name": "login", "arguments": {} })
}

/// The same call with what the dialog came to.
fn back(state: &Value, action: &str) -> Value {
    json!({
        "name": "login",
        "arguments": {},
        "requestState": state,
        "inputResponses": { QUESTION: { "action": action } },
    })
}

/// The user code of a result that asks the person, which is all in its message too.
fn asked(result: &Value, world: &World) -> String {
    assert_eq!(result["resultType"], json!("input_required"), "{result}");
    let question = &result["inputRequests"][QUESTION];
    assert_eq!(question["method"], json!("elicitation/create"));
    assert_eq!(question["params"]["mode"], json!("url"));
    let url = question["params"]["url"].as_str().unwrap();
    assert!(url.starts_with(world.mock.api().as_str()) || url.starts_with("http://127.0.0.1"));
    let message = question["params"]["message"].as_str().unwrap();
    let (_, rest) = message.split_once("compare the code: ").unwrap();
    let (code, _) = rest.split_once('.').unwrap();
    assert!(message.contains("http://127.0.0.1"), "{message}");
    code.to_owned()
}

/// DG-7, DG-9, DG-13: without a dialog the code and the address come as words; every client and
/// the command line join one flow; approval signs all of them in.
#[tokio::test(start_paused = true)]
async fn every_client_joins_one_flow_and_is_shown_its_code() {
    let world = World::new().await;
    let daemon = world.daemon();
    let door = door(&daemon);
    let person = daemon.connect();
    let code = user_code(&person.login_begin(None).await.unwrap());
    let mut transcripts = String::new();
    let mut clients = Vec::new();
    for capabilities in [
        json!({}),
        json!({ "elicitation": {} }),
        json!({ "elicitation": { "form": {} } }),
    ] {
        let mut client = Client::legacy(&door, capabilities).await;
        for _ in 0..2 {
            let answer = client.done("login", json!({})).await;
            assert_eq!(answer["status"], json!("pending"));
            assert_eq!(answer["device"]["user_code"], json!(code));
            let uri = answer["device"]["verification_uri"].as_str().unwrap();
            let next = answer["next"].as_str().unwrap();
            assert!(next.contains(&code) && next.contains(uri), "{next}");
        }
        let refusal = client
            .refused("lease_create", json!({ "selector": crate::world::DEPLOY }))
            .await;
        assert_eq!(refusal["login"]["user_code"], json!(code));
        clients.push(client);
    }
    world.mock.approve(&code).unwrap();
    assert!(is_logged_in(&person.login_wait(None).await.unwrap()));
    for mut client in clients {
        let answer = client.done("login", json!({})).await;
        assert_eq!(answer["status"], json!("already_signed_in"));
        assert_eq!(answer["principal"], json!("user:u-demo"));
        transcripts.push_str(&client.transcript);
    }
    assert_eq!(world.tries(BEGIN).len(), 1);
    world.assert_nothing_secret_in(&transcripts);
}

/// Two hundred calls at once begin one login (DG-13).
#[tokio::test(start_paused = true)]
async fn two_hundred_calls_begin_one_login() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = Client::legacy(&door, json!({})).await;
        client.request("tools/call", login()).await;
        clients.push(client);
    }
    let mut codes = std::collections::BTreeSet::new();
    for client in &mut clients {
        let answer = content(&client.line().await.unwrap());
        codes.insert(answer["result"]["device"]["user_code"].to_string());
    }
    assert_eq!(codes.len(), 1);
    assert_eq!(world.tries(BEGIN).len(), 1);
}

/// T3, T5, T13: in the newer era the result asks, the client comes back, and the call waits for
/// the person, telling so to whoever wants to know; nothing comes after the answer.
#[tokio::test(start_paused = true)]
async fn a_modern_client_comes_back_and_waits() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let dialogs = url_dialogs();
    let first = client.call_modern(login(), &dialogs).await;
    let code = asked(&first, &world);
    let mut params = Client::modern(back(&first["requestState"], "accept"), &dialogs);
    params["_meta"]["progressToken"] = json!("token-7");
    let id = client.request("tools/call", params).await;
    let mut progress = Vec::new();
    let answer = loop {
        let line = client.line().await.unwrap();
        if line["id"] == json!(id) {
            break line;
        }
        assert_eq!(line["method"], json!("notifications/progress"), "{line}");
        assert_eq!(line["params"]["progressToken"], json!("token-7"));
        progress.push(line["params"]["progress"].as_f64().unwrap());
        if progress.len() == 2 {
            world.mock.approve(&code).unwrap();
        }
    };
    assert!(progress.len() >= 2);
    assert!(progress.is_sorted_by(|a, b| a < b), "{progress:?}");
    let answer = content(&answer);
    assert_eq!(answer["result"]["status"], json!("signed_in"));
    let params = Client::modern(json!({ "name": "status", "arguments": {} }), &dialogs);
    let status = content(&client.ask("tools/call", params).await);
    assert_eq!(status["result"]["login"]["state"], json!("logged_in"));
    world.assert_nothing_secret_in(&client.transcript);
}

/// A call waits for 45 s at most, and the next one can go on. AP-8: that a dialog was accepted signs
/// nobody in, only the person at the page does.
#[tokio::test(start_paused = true)]
async fn a_wait_ends_after_45_seconds() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let dialogs = url_dialogs();
    let first = client.call_modern(login(), &dialogs).await;
    let code = asked(&first, &world);
    let begun = Instant::now();
    let waited = client
        .call_modern(back(&first["requestState"], "accept"), &dialogs)
        .await;
    assert_eq!(begun.elapsed().as_secs(), 45);
    let waited = &waited["structuredContent"]["result"];
    assert_eq!(waited["status"], json!("pending"));
    assert_eq!(waited["device"]["user_code"], json!(code));
    let second = client.call_modern(login(), &dialogs).await;
    assert_eq!(asked(&second, &world), code);
    world.mock.approve(&code).unwrap();
    let answer = client
        .call_modern(back(&second["requestState"], "accept"), &dialogs)
        .await;
    let answer = &answer["structuredContent"]["result"];
    assert_eq!(answer["status"], json!("signed_in"));
}

/// MC-2: a wait that is cancelled is not answered, and costs nobody the login.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_cancelled_is_not_answered() {
    let world = World::new().await;
    let daemon = world.daemon();
    let mut client = Client::connect(&door(&daemon));
    let dialogs = url_dialogs();
    let first = client.call_modern(login(), &dialogs).await;
    let code = asked(&first, &world);
    let params = Client::modern(back(&first["requestState"], "accept"), &dialogs);
    let id = client.request("tools/call", params).await;
    let cancelled = json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": { "requestId": id },
    });
    client.say(&cancelled).await;
    world.after(Duration::from_mins(1)).await;
    let status = Client::modern(json!({ "name": "status", "arguments": {} }), &dialogs);
    client.ask("tools/call", status).await;
    world.mock.approve(&code).unwrap();
    let view = daemon.connect().login_wait(None).await.unwrap();
    assert!(is_logged_in(&view));
}

/// T13, T15: no ends the flow of the client that started it alone; a missing or senseless answer
/// is asked for again; what is not ours is not looked at.
#[tokio::test(start_paused = true)]
async fn a_no_ends_an_own_flow_and_no_answer_is_asked_for_again() {
    let world = World::new().await;
    let daemon = world.daemon();
    let mut client = Client::connect(&door(&daemon));
    let dialogs = url_dialogs();
    let mut state = client.call_modern(login(), &dialogs).await["requestState"].clone();
    for responses in [
        json!(null),
        json!({}),
        json!({ "other": { "action": "accept" } }),
        json!({ QUESTION: {} }),
        json!({ QUESTION: { "action": "later" } }),
        json!({ QUESTION: "accept" }),
    ] {
        let mut params = login();
        params["requestState"] = state;
        if !responses.is_null() {
            params["inputResponses"] = responses.clone();
        }
        let again = client.call_modern(params, &dialogs).await;
        asked(&again, &world);
        state = again["requestState"].clone();
    }
    let refused = client.call_modern(back(&state, "decline"), &dialogs).await;
    let refusal = &refused["structuredContent"]["error"];
    assert_eq!(refusal["code"], json!("login_cancelled"));
    assert_eq!(refusal["do_not_retry"], json!(true));
    assert_eq!(
        code(daemon.connect().login_wait(None).await),
        Some(ErrorCode::LoginRequired),
        "nobody is logging in any more"
    );
    let next = client.call_modern(login(), &dialogs).await;
    asked(&next, &world);
    assert_eq!(world.tries(BEGIN).len(), 2);
}

/// DG-14: a no of one client leaves the flow to those who joined it, in both eras.
#[tokio::test(start_paused = true)]
async fn a_no_withdraws_only_the_client_that_says_it() {
    let world = World::new().await;
    let daemon = world.daemon();
    let door = door(&daemon);
    let dialogs = url_dialogs();
    let mut starter = Client::connect(&door);
    let first = starter.call_modern(login(), &dialogs).await;
    let code = asked(&first, &world);
    let person = daemon.connect();
    person.login_begin(None).await.unwrap();
    let refused = starter
        .call_modern(back(&first["requestState"], "cancel"), &dialogs)
        .await;
    assert_eq!(refused["isError"], json!(true));
    let mut old = Client::legacy(&door, dialogs).await;
    let id = old.request("tools/call", login()).await;
    let mut asked_for = None;
    for _ in 0..2 {
        let line = old.line().await.unwrap();
        if line["method"] == json!("elicitation/create") {
            asked_for = Some(line["id"].clone());
        } else {
            assert_eq!(line["id"], json!(id));
        }
    }
    let no =
        json!({ "jsonrpc": "2.0", "id": asked_for.unwrap(), "result": { "action": "decline" } });
    old.say(&no).await;
    old.done("status", json!({})).await;
    world.mock.approve(&code).unwrap();
    assert!(is_logged_in(&person.login_wait(None).await.unwrap()));
}

/// T14: what a client brings back from an older login ends no newer one, in either era; the dialog
/// of a login that is over makes room for the next one's.
#[tokio::test(start_paused = true)]
async fn a_no_to_an_older_login_ends_no_newer_one() {
    let world = World::new().await;
    let daemon = world.daemon();
    let door = door(&daemon);
    let dialogs = url_dialogs();
    let person = daemon.connect();
    let mut modern = Client::connect(&door);
    let first = modern.call_modern(login(), &dialogs).await;
    person.login_cancel(None).await.unwrap();
    modern.refused_modern(login(), &dialogs).await;
    let second = modern.call_modern(login(), &dialogs).await;
    let code = asked(&second, &world);
    let stale = back(&first["requestState"], "decline");
    modern.refused_modern(stale, &dialogs).await;
    world.mock.approve(&code).unwrap();
    assert!(is_logged_in(&person.login_wait(None).await.unwrap()));
    person.logout(None).await.unwrap();

    let mut legacy = Client::legacy(&door, dialogs).await;
    let older = legacy.dialog().await;
    person.login_cancel(None).await.unwrap();
    legacy.refused("login", json!({})).await;
    legacy.dialog().await;
    let no = json!({ "jsonrpc": "2.0", "id": older, "result": { "action": "decline" } });
    legacy.say(&no).await;
    let status = legacy.done("status", json!({})).await;
    assert_eq!(status["login"]["state"], json!("awaiting_approval"));
}

/// T11, T13: an older client is asked beside the answer, once, and may answer or not.
#[tokio::test(start_paused = true)]
async fn a_legacy_dialog_is_opened_once_and_never_waited_for() {
    let world = World::new().await;
    let daemon = world.daemon();
    let mut client = Client::legacy(&door(&daemon), url_dialogs()).await;
    client.request("tools/call", login()).await;
    let (mut dialogs, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let line = client.line().await.unwrap();
        if line["method"].is_string() {
            dialogs.push(line);
        } else {
            answers.push(content(&line));
        }
    }
    assert_eq!(dialogs[0]["method"], json!("elicitation/create"));
    let params = &dialogs[0]["params"];
    assert_eq!(params["mode"], json!("url"));
    assert_eq!(params["elicitationId"].as_str().unwrap().len(), 32);
    let code = answers[0]["result"]["device"]["user_code"]
        .as_str()
        .unwrap();
    assert!(params["message"].as_str().unwrap().contains(code));
    // It never answers: later calls are answered all the same, and open nothing more.
    for _ in 0..3 {
        let answer = client.done("login", json!({})).await;
        assert_eq!(answer["status"], json!("pending"));
    }
    world.mock.approve(code).unwrap();
    assert!(is_logged_in(
        &daemon.connect().login_wait(None).await.unwrap()
    ));
    let answer = client.done("login", json!({})).await;
    assert_eq!(answer["status"], json!("already_signed_in"));
}

/// A legacy client that declines ends its own flow; the next call says so once, and only the one
/// after begins another.
#[tokio::test(start_paused = true)]
async fn a_legacy_no_is_told_once_before_there_is_another_login() {
    let world = World::new().await;
    let daemon = world.daemon();
    let mut client = Client::legacy(&door(&daemon), url_dialogs()).await;
    client.request("tools/call", login()).await;
    let mut dialog = None;
    for _ in 0..2 {
        let line = client.line().await.unwrap();
        if line["method"].is_string() {
            dialog = Some(line["id"].clone());
        }
    }
    let no = json!({ "jsonrpc": "2.0", "id": dialog.unwrap(), "result": { "action": "decline" } });
    client.say(&no).await;
    world.after(Duration::from_secs(1)).await;
    let refusal = client.refused("login", json!({})).await;
    assert_eq!(refusal["code"], json!("login_cancelled"));
    assert_eq!(world.tries(BEGIN).len(), 1);
    client.request("tools/call", login()).await;
    client.line().await.unwrap();
    client.line().await.unwrap();
    assert_eq!(world.tries(BEGIN).len(), 2);
}

/// DG-4: what the person or time decided is final: it is told with `do_not_retry`, and no new
/// login begins by itself.
#[tokio::test(start_paused = true)]
async fn a_denied_or_expired_login_is_told_as_final() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let dialogs = url_dialogs();
    let ends: [(End, &str); 2] = [
        (|mock, code| mock.deny(code).unwrap(), "access_denied"),
        (|mock, code| mock.expire(code).unwrap(), "expired_token"),
    ];
    for (round, (end, word)) in ends.into_iter().enumerate() {
        let first = client.call_modern(login(), &dialogs).await;
        end(&world.mock, &asked(&first, &world));
        let refused = client
            .call_modern(back(&first["requestState"], "accept"), &dialogs)
            .await;
        let refusal = &refused["structuredContent"]["error"];
        assert_eq!(refusal["code"], json!(word));
        assert_eq!(refusal["do_not_retry"], json!(true));
        assert_eq!(world.tries(BEGIN).len(), round + 1);
    }
}

/// DG-4: a login that failed says nothing about the one that the person began since.
#[tokio::test(start_paused = true)]
async fn a_failure_is_not_told_once_the_person_went_on_by_themselves() {
    let world = World::new().await;
    let daemon = world.daemon();
    let person = daemon.connect();
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    let deny = async |client: &mut Client| {
        let shown = client.done("login", json!({})).await;
        let denied = shown["device"]["user_code"].as_str().unwrap();
        world.mock.deny(denied).unwrap();
        let end = person.login_wait(None).await;
        assert_eq!(code(end), Some(ErrorCode::AccessDenied));
        user_code(&person.login_begin(None).await.unwrap())
    };
    let theirs = deny(&mut client).await;
    let shown = client.done("login", json!({})).await;
    assert_eq!(shown["device"]["user_code"], json!(theirs));
    world.mock.approve(&theirs).unwrap();
    assert!(is_logged_in(&person.login_wait(None).await.unwrap()));
    person.logout(None).await.unwrap();

    let theirs = deny(&mut client).await;
    world.mock.approve(&theirs).unwrap();
    assert!(is_logged_in(&person.login_wait(None).await.unwrap()));
    let answer = client.done("login", json!({})).await;
    assert_eq!(answer["status"], json!("already_signed_in"));
}

/// T14: a state is good once, whole, and where it was made: altered, replayed, made up or of
/// another run it is refused, and a new call works.
#[tokio::test(start_paused = true)]
async fn a_request_state_is_good_once_and_whole() {
    let world = World::new().await;
    let daemon = world.daemon();
    let mut client = Client::connect(&door(&daemon));
    let mut elsewhere = Client::connect(&door(&daemon));
    let dialogs = url_dialogs();
    let first = client.call_modern(login(), &dialogs).await;
    let good = first["requestState"].as_str().unwrap().to_owned();
    let foreign = elsewhere.call_modern(login(), &dialogs).await["requestState"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut altered = good.clone().into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    let (cut, _) = good.split_at(good.len() - 1);
    let cut = cut.to_owned();
    let spent = good.clone();
    let code = asked(&first, &world);
    world.mock.approve(&code).unwrap();
    let answer = client
        .call_modern(back(&json!(good), "accept"), &dialogs)
        .await;
    let answer = &answer["structuredContent"]["result"];
    assert_eq!(answer["status"], json!("signed_in"));
    let rows = [
        ("replayed", spent),
        ("of another run", foreign),
        ("altered", altered),
        ("cut", cut),
        ("empty", String::new()),
        ("made up", "rs1.AAAA.BBBB".to_owned()),
        ("long", "x".repeat(100_000)),
    ];
    for (name, state) in rows {
        let refused = client
            .call_modern(back(&json!(state), "accept"), &dialogs)
            .await;
        let refusal = &refused["structuredContent"]["error"];
        assert_eq!(refusal["code"], json!("invalid_request"), "{name}");
        assert_eq!(refusal["reason_code"], json!("request_state"), "{name}");
    }
    let answer = client.call_modern(login(), &dialogs).await;
    let answer = &answer["structuredContent"]["result"];
    assert_eq!(answer["status"], json!("already_signed_in"));
}

/// LM: a client that only ever calls `login` is handed so many dialogs, then words.
#[tokio::test(start_paused = true)]
async fn dialogs_are_counted_and_then_there_are_words() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let dialogs = url_dialogs();
    for _ in 0..8 {
        let result = client.call_modern(login(), &dialogs).await;
        asked(&result, &world);
    }
    let result = client.call_modern(login(), &dialogs).await;
    let told = &result["structuredContent"]["result"];
    assert_eq!(told["status"], json!("pending"));
    assert_eq!(result["resultType"], json!("complete"));
    world.after(Duration::from_secs(10)).await;
    asked(&client.call_modern(login(), &dialogs).await, &world);
}

/// T3, T11: only what this request's client declares counts, whatever an earlier one did.
#[tokio::test(start_paused = true)]
async fn capabilities_are_those_of_the_request() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    let rows = [
        (json!({}), false),
        (url_dialogs(), true),
        (json!({ "elicitation": {} }), false),
        (json!({ "elicitation": { "form": {} } }), false),
        (json!({ "elicitation": { "form": {}, "url": {} } }), true),
    ];
    for (capabilities, asks) in rows {
        let result = client.call_modern(login(), &capabilities).await;
        let asked = result["resultType"] == json!("input_required");
        assert_eq!(asked, asks, "{capabilities}");
    }
}
