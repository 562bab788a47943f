use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

/// One answer. A debug build on a busy machine starts in a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The longest line that is read.
const MAX_LINE: usize = 1024 * 1024;

/// The revision that is spoken: what most clients in use speak.
pub(super) const REVISION: &str = "2025-11-25";

/// A model's client, as an MCP host would run it: `aegis-broker mcp` as a child process, driven
/// over stdio. Everything that is said and heard is kept.
#[derive(Debug)]
pub(super) struct McpClient {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: ChildStderr,
    transcript: String,
    next: u64,
}

impl McpClient {
    /// Starts it and greets the server.
    pub(super) fn start(socket: &Path) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("mcp")
            .arg("--socket")
            .arg(socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = streams else {
            return Err(io::Error::other("a stream is missing"));
        };
        let mut client = Self {
            child,
            input: Some(input),
            output: BufReader::new(output),
            errors,
            transcript: String::new(),
            next: 0,
        };
        let greeting = json!({
            "protocolVersion": REVISION,
            "capabilities": {},
            "clientInfo": { "name": "aegis-broker demo", "version": env!("CARGO_PKG_VERSION") },
        });
        let answer = client.request("initialize", &greeting)?;
        if answer.get("protocolVersion") != Some(&json!(REVISION)) {
            return Err(io::Error::other("the server speaks another revision"));
        }
        client.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok(client)
    }

    /// How many tools there are.
    pub(super) fn tools(&mut self) -> io::Result<usize> {
        let answer = self.request("tools/list", &json!({}))?;
        let tools = answer.get("tools").and_then(Value::as_array);
        tools
            .map(Vec::len)
            .ok_or_else(|| io::Error::other("the server has no list of tools"))
    }

    /// Calls a tool, for its result; a refusal is an error that names its code.
    pub(super) fn call(&mut self, tool: &str, arguments: &Value) -> io::Result<Value> {
        let call = json!({ "name": tool, "arguments": arguments });
        let answer = self.request("tools/call", &call)?;
        if let Some(result) = answer.pointer("/structuredContent/result") {
            return Ok(result.clone());
        }
        let code = answer.pointer("/structuredContent/error/code");
        let code = code.and_then(Value::as_str).unwrap_or("not understood");
        Err(io::Error::other(format!("{tool}: {code}")))
    }

    /// Hangs up as a client does, and waits for the end: everything that was said, heard and
    /// written to standard error.
    pub(super) fn finish(mut self) -> io::Result<String> {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        self.errors.read_to_string(&mut rest)?;
        if !self.child.wait()?.success() {
            return Err(io::Error::other("it did not end cleanly"));
        }
        Ok(format!("{}{rest}", self.transcript))
    }

    fn request(&mut self, method: &str, params: &Value) -> io::Result<Value> {
        self.next = self.next.saturating_add(1);
        self.say(
            &json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params }),
        )?;
        let line = self.hear()?;
        let answer: Value = serde_json::from_str(&line)?;
        if answer.get("id") != Some(&json!(self.next)) {
            return Err(io::Error::other("the answer is not to the question"));
        }
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(io::Error::other(format!("{method} is refused"))),
        }
    }

    fn say(&mut self, message: &Value) -> io::Result<()> {
        let line = format!("{message}\n");
        self.transcript.push_str(&line);
        match &mut self.input {
            Some(input) => input.write_all(line.as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The next line, within limits.
    fn hear(&mut self) -> io::Result<String> {
        let limit = Timespec::try_from(ANSWER_WITHIN).map_err(io::Error::other)?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if self.output.buffer().is_empty() {
                let mut output = [PollFd::new(self.output.get_ref(), PollFlags::IN)];
                if poll(&mut output, Some(&limit))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            let heard = self.output.fill_buf()?;
            if heard.is_empty() || line.len() > MAX_LINE {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = heard.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(heard.len(), |at| at.saturating_add(1));
            line.extend_from_slice(heard.get(..length).unwrap_or_default());
            self.output.consume(length);
        }
        let line = String::from_utf8(line).map_err(io::Error::other)?;
        self.transcript.push_str(&line);
        Ok(line)
    }
}

impl Drop for McpClient {
    fn drop(&mut self) {
        // Over already where it was finished; else it may not outlive the demonstration.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
