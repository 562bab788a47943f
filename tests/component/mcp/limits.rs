//! Peers that send or read badly (LM): answered or closed, and nobody else notices.

use std::time::Duration;

use aegis_broker::mcp::door::Door;
use aegis_mock::FaultKind;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, door, url_dialogs};
use crate::world::{CREATE, DEPLOY, World};

const MAX_LINE: usize = 1024 * 1024;

/// The last line of a conversation that the door ends: an error without an id.
async fn farewell(mut client: Client) {
    let error = client.line().await.unwrap();
    assert_eq!(error["error"]["code"], json!(-32600), "{error}");
    assert_eq!(error["id"], Value::Null, "{error}");
    assert_eq!(client.line().await, None);
    client.ended().await;
}

/// A line of 1 MiB is taken, one byte more ends the conversation with an answer, be it whole,
/// endless, or behind others.
#[tokio::test(start_paused = true)]
async fn a_line_that_is_too_long_is_answered_and_ends_the_conversation() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let of_length = |length: usize| {
        let frame = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":""}}"#;
        let padding = "x".repeat(length - frame.len());
        frame.replace(r#""x":"""#, &format!(r#""x":"{padding}""#))
    };
    let mut fits = Client::legacy(&door, json!({})).await;
    fits.bytes(format!("{}\n", of_length(MAX_LINE)).as_bytes())
        .await;
    assert_eq!(fits.line().await.unwrap()["result"], json!({}));

    let mut whole = Client::legacy(&door, json!({})).await;
    let mut bytes = of_length(MAX_LINE + 1).into_bytes();
    bytes.push(b'\n');
    whole.bytes(&bytes).await;
    farewell(whole).await;

    let mut endless = Client::connect(&door);
    endless.bytes(b"{").await;
    endless.bytes(&vec![b' '; 17 * MAX_LINE]).await;
    farewell(endless).await;

    let mut behind = Client::legacy(&door, json!({})).await;
    let id = behind.request("ping", json!({})).await;
    behind.bytes(&vec![b' '; 2 * MAX_LINE]).await;
    assert_eq!(behind.line().await.unwrap()["id"], json!(id));
    farewell(behind).await;
    assert_eq!(fits.ask("ping", json!({})).await["result"], json!({}));
}

/// LM: a short line can still be a large tree, and what is kept of it for as long as the connection
/// lives is bounded: 1024 values are taken, one more is not. Punctuation inside of text is none.
#[tokio::test(start_paused = true)]
async fn a_line_with_too_many_values_is_answered_and_ends_the_conversation() {
    let world = World::new().await;
    let door = door(&world.daemon());
    // What the rest of the line has is counted too.
    let rest = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":["#;
    let rest = rest.matches(['{', ':', ',', '[']).count();
    let with = |values: usize| {
        let zeros = vec![0; values - rest + 1];
        json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "x": zeros } })
    };
    let mut fits = Client::legacy(&door, json!({})).await;
    fits.say(&with(1024)).await;
    assert_eq!(fits.line().await.unwrap()["result"], json!({}));
    let text = ",:[{\"".repeat(2000);
    let answer = fits.ask("ping", json!({ "x": text })).await;
    assert_eq!(answer["result"], json!({}));

    let mut crowded = Client::legacy(&door, json!({})).await;
    crowded.say(&with(1025)).await;
    farewell(crowded).await;
    let mut first = Client::connect(&door);
    first.say(&with(100_000)).await;
    farewell(first).await;
}

/// LM: what came whole before a line that is too much is answered, also where both came at once.
#[tokio::test(start_paused = true)]
async fn a_line_that_is_too_much_takes_none_before_it_along() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let call = json!({
        "jsonrpc": "2.0",
        "id": "whole",
        "method": "tools/call",
        "params": { "name": "status", "arguments": {} },
    });
    let crowded = json!(vec![0; 1025]);
    let overlong = " ".repeat(MAX_LINE + 1);
    for too_much in [crowded.to_string(), overlong] {
        let mut client = Client::legacy(&door, json!({})).await;
        client
            .bytes(format!("{call}\n{too_much}\n{call}\n").as_bytes())
            .await;
        let lines = [client.line().await.unwrap(), client.line().await.unwrap()];
        let ids = lines.each_ref().map(|line| &line["id"]);
        assert!(ids.contains(&&json!("whole")), "{lines:?}");
        assert!(ids.contains(&&Value::Null), "{lines:?}");
        assert_eq!(client.line().await, None);
        client.ended().await;
    }
}

/// PE-4: a connection ends with the process that made it, whoever else holds the socket.
#[tokio::test(start_paused = true)]
async fn a_conversation_ends_with_its_process() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let mut client = Client::legacy(&door, json!({})).await;
    client.done("status", json!({})).await;
    client.peer.exit();
    assert_eq!(client.line().await, None);
    client.ended().await;
}

/// SP-9: what looks like HTTP is refused and the connection closed.
#[tokio::test(start_paused = true)]
async fn http_is_refused() {
    let world = World::new().await;
    let mut client = Client::connect(&door(&world.daemon()));
    client
        .bytes(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n{}")
        .await;
    farewell(client).await;
}

/// What is JSON but no message is answered without an id; what is not even that is ignored, as
/// all of MCP's libraries do.
#[tokio::test(start_paused = true)]
async fn what_is_no_message_harms_nobody() {
    let world = World::new().await;
    let mut client = Client::legacy(&door(&world.daemon()), json!({})).await;
    let binary: Vec<u8> = (0..=u8::MAX).filter(|byte| *byte != b'\n').collect();
    for line in [
        &binary[..],
        b"",
        b"\xff\xfe",
        b"not json",
        b"{\"half\":",
        b"\r",
    ] {
        client.bytes(line).await;
        client.bytes(b"\n").await;
    }
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    let batch = json!([{ "jsonrpc": "2.0", "id": 1, "method": "ping" }]);
    for message in [
        batch,
        json!({ "id": 2 }),
        json!(3),
        json!({ "jsonrpc": "1.0", "id": 4, "method": "ping" }),
    ] {
        client.say(&message).await;
        let answer = client.line().await.unwrap();
        assert_eq!(answer["error"]["code"], json!(-32600), "{message}");
        assert!(answer["id"].is_null(), "{answer}");
    }
    let deep = |depth| format!("{}{}\n", "[".repeat(depth), "]".repeat(depth));
    client.bytes(deep(1000).as_bytes()).await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    client.bytes(deep(100_000).as_bytes()).await;
    farewell(client).await;
}

/// A peer that asks for nothing within ten seconds goes, whatever else it says, and so does one
/// whose line stays half.
#[tokio::test(start_paused = true)]
async fn silence_and_half_lines_end_in_time() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let rows: [(&[u8], u64); 6] = [
        (b"", 10),
        (b"\n", 10),
        (b"not json\n", 10),
        (
            b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\"}\n",
            10,
        ),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n", 10),
        (b"{\"jsonrpc\"", 5),
    ];
    for (bytes, seconds) in rows {
        let mut client = Client::connect(&door);
        let begun = Instant::now();
        client.bytes(bytes).await;
        assert_eq!(client.line().await, None);
        assert_eq!(begun.elapsed().as_secs(), seconds);
        client.ended().await;
    }
    let mut client = Client::legacy(&door, json!({})).await;
    world.after(Duration::from_mins(10)).await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    let begun = Instant::now();
    client.bytes(b"{").await;
    world.after(Duration::from_secs(4)).await;
    client.bytes(b"\"jsonrpc\"").await;
    assert_eq!(
        client.line().await,
        None,
        "a line's time does not start anew"
    );
    assert_eq!(begun.elapsed().as_secs(), 5);
}

/// Twenty thousand requests that nobody reads the answers of: reading stops, others are served,
/// and every answer comes once they are read.
#[tokio::test]
async fn a_flood_that_is_read_late_is_answered_whole() {
    const REQUESTS: usize = 20_000;
    let world = World::new().await;
    let door = door(&world.daemon());
    let mut flood = Client::legacy(&door, json!({})).await;
    let mut other = Client::legacy(&door, json!({})).await;
    let mut output = flood.take_output();
    let writing = tokio::spawn(async move {
        for id in 0..REQUESTS {
            let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"ping\"}}\n");
            tokio::io::AsyncWriteExt::write_all(&mut output, line.as_bytes())
                .await
                .unwrap();
        }
        output
    });
    for _ in 0..100 {
        other.done("status", json!({})).await;
    }
    assert!(!writing.is_finished(), "the door reads on without bound");
    let mut seen = vec![false; REQUESTS];
    for _ in 0..REQUESTS {
        let answer = flood.line_unkept().await.unwrap();
        let id = usize::try_from(answer["id"].as_u64().unwrap()).unwrap();
        assert!(!std::mem::replace(&mut seen[id], true), "twice: {id}");
        assert_eq!(answer["result"], json!({}));
    }
    drop(writing.await.unwrap());
}

/// A peer that never reads is given up after half a minute, and the door can close.
#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_given_up() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let mut deaf = Client::legacy(&door, json!({})).await;
    let begun = Instant::now();
    let mut output = deaf.take_output();
    let writing = tokio::spawn(async move {
        for id in 1_u64.. {
            let line = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list" });
            let line = format!("{line}\n").into_bytes();
            if tokio::io::AsyncWriteExt::write_all(&mut output, &line)
                .await
                .is_err()
            {
                break;
            }
        }
    });
    writing.await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(30));
    assert!(begun.elapsed() < Duration::from_secs(40));
    deaf.ended().await;
}

/// At shutdown a conversation ends, whether its peer reads or not.
#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_every_conversation() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let silent = Client::connect(&door);
    silent.shutdown.cancel();
    silent.ended().await;
    let idle = Client::legacy(&door, json!({})).await;
    idle.shutdown.cancel();
    idle.ended().await;
}

/// MC-2, T4: whatever clients leave behind when they go (calls that wait, dialogs that nobody
/// answers, calls that were cancelled), nothing of it runs on.
#[tokio::test(start_paused = true)]
async fn nothing_runs_on_for_clients_that_are_gone() {
    let world = World::new().await;
    let daemon = world.daemon();
    let door = door(&daemon);
    let person = daemon.connect();
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let mut counts = Vec::new();
    let mut busiest = 0;
    // The first round opens the connections to the server that the others share.
    for clients in [1, 1, 16] {
        let mut here = Vec::new();
        for _ in 0..clients {
            let mut dialog = Client::legacy(&door, url_dialogs()).await;
            dialog.dialog().await;
            let mut waiting = Client::connect(&door);
            let login = json!({ "name": "login", "arguments": {} });
            let asked = waiting.call_modern(login.clone(), &url_dialogs()).await;
            let mut back = login;
            back["requestState"] = asked["requestState"].clone();
            back["inputResponses"] = json!({ "aegis_login": { "action": "accept" } });
            let back = Client::modern(back, &url_dialogs());
            let id = waiting.request("tools/call", back.clone()).await;
            let cancelled = json!({
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": { "requestId": id },
            });
            waiting.say(&cancelled).await;
            waiting.request("tools/call", back).await;
            here.extend([dialog, waiting]);
        }
        busiest = tasks();
        for client in here {
            client.hang_up().await;
        }
        person.login_cancel(None).await.unwrap();
        world.after(Duration::from_mins(5)).await;
        counts.push(tasks());
    }
    assert!(busiest > counts[1] + 16, "{busiest}: nothing ran at all");
    assert_eq!(counts[1], counts[2]);
}

/// IN-3, PE-8: a hundred peers use the same ids; each gets its own answer.
#[tokio::test(start_paused = true)]
async fn equal_ids_on_a_hundred_connections_do_not_cross() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::legacy(&door, json!({})).await);
    }
    let selector = |number: usize| format!("gcp/app-{number}/account");
    for round in 0..10 {
        for (number, client) in clients.iter_mut().enumerate() {
            let arguments = json!({ "selector": selector(number + round) });
            let params = json!({ "name": "policy_explain", "arguments": arguments });
            client.request("tools/call", params).await;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.line().await.unwrap();
            assert_eq!(answer["id"], json!(round + 2));
            let told = &answer["result"]["structuredContent"]["result"]["selector"];
            assert_eq!(*told, json!(selector(number + round)));
        }
    }
}

/// LM: a call too many on one connection is told so, and a cancellation still arrives.
#[tokio::test(start_paused = true)]
async fn a_call_too_many_is_told_so_and_cancellations_still_arrive() {
    let world = World::new().await;
    let (daemon, _connection) = world.logged_in().await;
    let door = Door::new(daemon.handle.clone(), None, 1).unwrap();
    let mut client = Client::legacy(&door, json!({})).await;
    world.mock.fault(CREATE, FaultKind::Stall, 1);
    let arguments = json!({ "selector": DEPLOY });
    let params = json!({ "name": "lease_create", "arguments": arguments });
    let stalled = client.request("tools/call", params).await;
    world
        .mock
        .wait_for_request(|request| request.method == CREATE)
        .await;
    let refusal = client.refused("status", json!({})).await;
    assert_eq!(refusal["code"], json!("rate_limited"));
    assert_eq!(refusal["retry_after_s"], json!(1));
    let cancelled = json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": { "requestId": stalled },
    });
    client.say(&cancelled).await;
    // MC-2: not a word about the cancelled call, and its place is free at once.
    client.done("status", json!({})).await;
    world.after(Duration::from_mins(1)).await;
    client.done("status", json!({})).await;
}

/// LM: sixty new leases at once, then ten a second, whatever becomes of them.
#[tokio::test(start_paused = true)]
async fn new_leases_are_counted_for_each_client() {
    let world = World::new().await;
    let door = door(&world.daemon());
    let mut greedy = Client::legacy(&door, json!({})).await;
    let mut modest = Client::legacy(&door, json!({})).await;
    let code = |refusal: &Value| refusal["code"].as_str().unwrap().to_owned();
    let arguments = json!({ "selector": DEPLOY });
    for _ in 0..60 {
        let refusal = greedy.refused("lease_create", arguments.clone()).await;
        assert_eq!(code(&refusal), "login_required");
    }
    let refusal = greedy.refused("lease_create", arguments.clone()).await;
    assert_eq!(code(&refusal), "rate_limited");
    assert_eq!(refusal["retry_after_s"], json!(1));
    assert_eq!(refusal["do_not_retry"], json!(false));
    let refusal = modest.refused("lease_create", arguments.clone()).await;
    assert_eq!(code(&refusal), "login_required");
    world.after(Duration::from_secs(1)).await;
    let refusal = greedy.refused("lease_create", arguments).await;
    assert_eq!(code(&refusal), "login_required");
}

/// LM: an id that is used again while its request is under way ends the conversation: the library
/// would drop one of the answers, and nobody could count what is left to do.
#[tokio::test(start_paused = true)]
async fn an_id_that_is_used_again_ends_the_conversation() {
    let world = World::new().await;
    let (daemon, _connection) = world.logged_in().await;
    world.mock.fault(CREATE, FaultKind::Stall, 1);
    let mut client = Client::legacy(&door(&daemon), json!({})).await;
    let call = json!({
        "jsonrpc": "2.0",
        "id": "again",
        "method": "tools/call",
        "params": { "name": "lease_create", "arguments": { "selector": DEPLOY } },
    });
    client.say(&call).await;
    world
        .mock
        .wait_for_request(|request| request.method == CREATE)
        .await;
    client.say(&call).await;
    farewell(client).await;
}
