//! A client that knows lines of JSON and nothing of MCP's libraries.

use std::sync::Arc;
use std::time::Duration;

use aegis_broker::mcp::door::Door;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::world::{Daemon, Peer};

/// Past every deadline of the door; only a hang takes so long.
const PATIENCE: Duration = Duration::from_mins(5);

/// Calls at once on one connection, as configured where nobody says otherwise.
pub(crate) const IN_FLIGHT: usize = 64;

pub(crate) const LEGACY: &str = "2025-11-25";
pub(crate) const MODERN: &str = "2026-07-28";

/// A client that can show an address.
pub(crate) fn url_dialogs() -> Value {
    json!({ "elicitation": { "url": {} } })
}

pub(crate) fn door(daemon: &Daemon) -> Door {
    Door::new(daemon.handle.clone(), None, IN_FLIGHT).unwrap()
}

/// One connection to `mcp.sock`.
pub(crate) struct Client {
    input: BufReader<OwnedReadHalf>,
    output: Option<OwnedWriteHalf>,
    pub(crate) peer: Peer,
    pub(crate) shutdown: CancellationToken,
    conversation: JoinHandle<()>,
    next_id: u64,
    /// Every byte that came.
    pub(crate) transcript: String,
}

impl Client {
    /// A process of its own, connected; nothing is said yet.
    pub(crate) fn connect(door: &Door) -> Self {
        Self::connect_as(door, Peer::new())
    }

    pub(crate) fn connect_as(door: &Door, peer: Peer) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let shutdown = CancellationToken::new();
        let conversation = door.clone().converse(
            theirs,
            peer.facts.clone(),
            Arc::new(peer.process.clone()),
            shutdown.clone(),
        );
        let conversation = tokio::spawn(conversation);
        let (input, output) = ours.into_split();
        Self {
            input: BufReader::new(input),
            output: Some(output),
            peer,
            shutdown,
            conversation,
            next_id: 1,
            transcript: String::new(),
        }
    }

    /// A legacy client past its handshake.
    pub(crate) async fn legacy(door: &Door, capabilities: Value) -> Self {
        let mut client = Self::connect(door);
        client.initialize(LEGACY, capabilities).await;
        client
    }

    pub(crate) async fn initialize(&mut self, version: &str, capabilities: Value) -> Value {
        let itself = json!({ "name": "t", "version": "0" });
        self.introduce(version, capabilities, itself).await
    }

    /// A handshake with what the client says of itself.
    pub(crate) async fn introduce(
        &mut self,
        version: &str,
        capabilities: Value,
        itself: Value,
    ) -> Value {
        let params = json!({
            "protocolVersion": version,
            "capabilities": capabilities,
            "clientInfo": itself,
        });
        let answer = self.ask("initialize", params).await;
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
            .await;
        answer
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        let output = self.output.as_mut().unwrap();
        // A door that has closed meanwhile is seen when reading.
        drop(output.write_all(bytes).await);
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        self.bytes(format!("{message}\n").as_bytes()).await;
    }

    /// Sends a request and says under which id.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
            .await;
        id
    }

    /// The next line; `None` once the door has closed.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.input.read_line(&mut line)).await;
        let read = read.expect("the door neither answers nor closes");
        if read.unwrap_or(0) == 0 {
            return None;
        }
        self.transcript.push_str(&line);
        Some(serde_json::from_str(&line).unwrap())
    }

    /// The next line, without a place in the transcript.
    pub(crate) async fn line_unkept(&mut self) -> Option<Value> {
        let line = self.line().await;
        self.transcript.clear();
        line
    }

    /// The sending half, for a task that writes while another reads.
    pub(crate) fn take_output(&mut self) -> OwnedWriteHalf {
        self.output.take().unwrap()
    }

    /// A request and its answer; nothing else may come between.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params).await;
        let answer = self.line().await.unwrap();
        assert_eq!(answer["id"], json!(id), "{answer}");
        answer
    }

    /// Calls a tool as a legacy client and gives its structured content.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        content(&self.ask("tools/call", params).await)
    }

    /// The result of a tool.
    pub(crate) async fn done(&mut self, tool: &str, arguments: Value) -> Value {
        let content = self.call(tool, arguments).await;
        assert!(content["result"].is_object(), "{content}");
        content["result"].clone()
    }

    /// The refusal of a tool.
    pub(crate) async fn refused(&mut self, tool: &str, arguments: Value) -> Value {
        let content = self.call(tool, arguments).await;
        assert!(content["error"].is_object(), "{content}");
        content["error"].clone()
    }

    /// A modern request's parameters.
    pub(crate) fn modern(mut params: Value, capabilities: &Value) -> Value {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": { "name": "t", "version": "0" },
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        });
        params
    }

    /// Calls a tool as a modern client and gives the whole result.
    pub(crate) async fn call_modern(&mut self, params: Value, capabilities: &Value) -> Value {
        let params = Self::modern(params, capabilities);
        self.ask("tools/call", params).await["result"].clone()
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        self.output = None;
    }

    /// A login of the newer era that is refused.
    pub(crate) async fn refused_modern(&mut self, params: Value, capabilities: &Value) {
        let answer = self.call_modern(params, capabilities).await;
        assert_eq!(answer["isError"], json!(true), "{answer}");
    }

    /// A login of the older era that opens a dialog; the dialog's id.
    pub(crate) async fn dialog(&mut self) -> Value {
        let login = json!({ "name": "login", "arguments": {} });
        self.request("tools/call", login).await;
        let lines = [self.line().await.unwrap(), self.line().await.unwrap()];
        let mut dialogs = lines.into_iter().filter(|line| line["method"].is_string());
        dialogs.next().expect("no dialog was opened")["id"].clone()
    }

    /// Hangs up and waits until the door has noticed.
    pub(crate) async fn hang_up(self) -> Peer {
        drop((self.input, self.output));
        end_of(self.conversation).await;
        self.peer
    }

    /// Waits until the door has ended the conversation by itself.
    pub(crate) async fn ended(self) -> Peer {
        end_of(self.conversation).await;
        self.peer
    }
}

async fn end_of(conversation: JoinHandle<()>) {
    let end = timeout(PATIENCE, conversation).await;
    end.expect("the conversation does not end").unwrap();
}

/// The structured content of a tool's answer, which is its text too (T8).
pub(crate) fn content(answer: &Value) -> Value {
    let result = &answer["result"];
    let content = result["structuredContent"].clone();
    assert!(content.is_object(), "{answer}");
    let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, content);
    let refused = result["isError"] == json!(true);
    assert_eq!(content["error"].is_object(), refused, "{answer}");
    assert_eq!(content["result"].is_object(), !refused, "{answer}");
    content
}
