//! An MCP client that is a pipe: it writes lines and reads lines, within a limit.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::house::PATIENCE;

/// The older era's first request.
pub(crate) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"line","version":"0"}}}"#;

/// A server as a child process, seen from its client.
#[derive(Debug)]
pub(crate) struct LineClient {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
    next: u64,
}

impl LineClient {
    /// Starts the server.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            lines: lines_of(child.stdout.take().unwrap()),
            errors: lines_of(child.stderr.take().unwrap()),
            child,
            next: 0,
        }
    }

    /// Starts the server and greets it as clients of the older era do.
    pub(crate) fn greeting(command: &mut Command) -> Self {
        let mut client = Self::start(command);
        client.greet();
        client
    }

    /// Greets the server as clients of the older era do.
    pub(crate) fn greet(&mut self) {
        self.say(INITIALIZE);
        let answer = self.answer();
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    }

    pub(crate) fn say(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line; `None` after the last one.
    pub(crate) fn line(&mut self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(Disconnected) => None,
            Err(Timeout) => panic!("neither a line nor an end"),
        }
    }

    /// The next line, which is a message.
    pub(crate) fn answer(&mut self) -> Value {
        let line = self.line().expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a message: {line}"))
    }

    /// One request of the older era, for its result.
    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let request =
            json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params });
        self.say(&request.to_string());
        let answer = self.answer();
        assert_eq!(answer["id"], self.next, "{answer}");
        answer["result"].clone()
    }

    /// One request of the newer era, for its result.
    pub(crate) fn ask_modern(&mut self, method: &str, params: &Value) -> Value {
        let mut params = params.clone();
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "line", "version": "0" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        self.ask(method, &params)
    }

    /// Ends the input.
    pub(crate) fn close(&mut self) {
        drop(self.input.take());
    }

    /// Waits for the server's end: what it still wrote to its standard error, and how it ended.
    pub(crate) fn end(mut self) -> (String, ExitStatus) {
        while self.line().is_some() {}
        let mut errors = String::new();
        while let Ok(line) = self.errors.recv_timeout(PATIENCE) {
            errors = format!("{errors}{line}\n");
        }
        (errors, self.child.wait().unwrap())
    }
}

impl Drop for LineClient {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// The lines of a stream, as they come.
fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (told, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            // Nobody listens any more where a test has seen enough.
            drop(told.send(line.unwrap()));
        }
    });
    lines
}
