use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use crate::time::{Clock as _, SystemClock, Timestamp};

/// One answer. A debug build on a busy machine starts in a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The end, once the client has hung up: the daemon has answered everything by then.
const END_WITHIN: Duration = Duration::from_secs(20);

/// The longest line that is read: some thirty times the list of tools, the longest answer.
const MAX_LINE: usize = 1024 * 1024;

/// What is read after the client has hung up: nothing, or a few lines of why it ended badly.
const MAX_REST: usize = 64 * 1024;

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
        let mut command = Command::new(std::env::current_exe()?);
        let mut client = Self::spawn(command.arg("mcp").arg("--socket").arg(socket))?;
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

    fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = streams else {
            return Err(io::Error::other("a stream is missing"));
        };
        Ok(Self {
            child,
            input: Some(input),
            output: BufReader::new(output),
            errors,
            transcript: String::new(),
            next: 0,
        })
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
    /// written to standard error. One that does not end, or not quietly, is killed.
    pub(super) fn finish(self) -> io::Result<String> {
        self.finish_within(END_WITHIN)
    }

    fn finish_within(mut self, limit: Duration) -> io::Result<String> {
        let deadline = SystemClock.now().boot.plus(limit);
        drop(self.input.take());
        let mut rest = self.output.buffer().to_vec();
        read_rest(self.output.get_mut(), &mut rest, deadline)?;
        read_rest(&mut self.errors, &mut rest, deadline)?;
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        wait_for(&process, deadline)?;
        if !self.child.wait()?.success() {
            return Err(io::Error::other("it did not end cleanly"));
        }
        let rest = String::from_utf8(rest).map_err(io::Error::other)?;
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
        let deadline = SystemClock.now().boot.plus(ANSWER_WITHIN);
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if self.output.buffer().is_empty() {
                wait_for(self.output.get_ref(), deadline)?;
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

/// Reads to the end, which comes before the deadline and with at most [`MAX_REST`] bytes.
fn read_rest(
    from: &mut (impl Read + AsFd),
    rest: &mut Vec<u8>,
    deadline: Timestamp,
) -> io::Result<()> {
    let mut chunk = [0; 4096];
    loop {
        wait_for(&*from, deadline)?;
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        rest.extend_from_slice(chunk.get(..length).unwrap_or_default());
        if rest.len() > MAX_REST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// Waits until `source` is readable or closed. Past the deadline nothing is, however much of it
/// there would be.
fn wait_for(source: impl AsFd, deadline: Timestamp) -> io::Result<()> {
    let mut source = [PollFd::new(&source, PollFlags::IN)];
    let ready = retry_on_intr(|| {
        let left = SystemClock.now().boot.until(deadline);
        if left.is_zero() {
            return Ok(0);
        }
        let left = Timespec::try_from(left).map_err(|_too_long| Errno::INVAL)?;
        poll(&mut source, Some(&left))
    })?;
    if ready == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(script: &str, limit: Duration) -> io::Result<String> {
        let mut shell = Command::new("sh");
        let client = McpClient::spawn(shell.arg("-c").arg(script)).unwrap();
        client.finish_within(limit)
    }

    /// The limit is for all there is to wait for, not for each piece of it.
    #[test]
    fn what_never_ends_is_given_up() {
        let rows = [
            ("silent", "exec sleep 600"),
            ("closed", "exec sleep 600 >&- 2>&-"),
            ("dripping", "while sleep 0.01; do echo; done"),
            ("errors", "exec >&-; while sleep 0.01; do echo >&2; done"),
        ];
        for (name, script) in rows {
            let given_up = finished(script, Duration::from_millis(200)).unwrap_err();
            assert_eq!(given_up.kind(), io::ErrorKind::TimedOut, "{name}");
        }
    }

    #[test]
    fn what_babbles_is_given_up() {
        for script in ["exec yes", "exec yes >&2"] {
            let given_up = finished(script, END_WITHIN).unwrap_err();
            assert_eq!(given_up.kind(), io::ErrorKind::FileTooLarge, "{script}");
        }
    }

    /// The control: what ends is heard out, up to what it says about its end.
    #[test]
    fn what_ends_is_heard_out() {
        let script = "cat; echo said; echo why >&2";
        assert_eq!(finished(script, END_WITHIN).unwrap(), "said\nwhy\n");
        let failed = finished("exit 3", END_WITHIN).unwrap_err();
        assert_eq!(failed.to_string(), "it did not end cleanly");
    }
}
