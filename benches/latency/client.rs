//! An MCP client: a server as a child, the ends of its stdio, and the lines that go over them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use crate::args::Failed;
use crate::load::{Exchange, STALLED};

/// The older era's first request, which most clients begin with.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"0"}}}"#;

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The cheapest tool: one question to the core, and no disk or network.
pub(crate) const CALL: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"status","arguments":{}}}"#;

/// The longest line a server may answer with.
const MAX_LINE: usize = 64 * 1024;

/// What a client hands a server for its stdio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdio {
    /// As Python does.
    Pipes,
    /// As Node does.
    Sockets,
}

/// A server that runs, in a process group of its own. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    stdio: Option<Ends>,
}

/// Our ends of its stdio.
#[derive(Debug)]
pub(crate) struct Ends {
    input: File,
    output: File,
}

impl Server {
    pub(crate) fn start(mut command: Command, stdio: Stdio) -> Result<Self, Failed> {
        let (theirs, ours) = ends(stdio)?;
        let child = command
            .stdin(theirs.0)
            .stdout(theirs.1)
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            stdio: Some(ours),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdio(&mut self) -> Result<&mut Ends, Failed> {
        Ok(self.stdio.as_mut().ok_or("the server has no input")?)
    }

    /// Sends the first request. True when the answer is a result.
    pub(crate) fn initialize(&mut self) -> Result<bool, Failed> {
        self.ask(INITIALIZE)
    }

    /// Says that more requests follow.
    pub(crate) fn initialized(&mut self) -> Result<(), Failed> {
        self.stdio()?.say(INITIALIZED)
    }

    /// Sends a request. True when the answer is a result.
    pub(crate) fn ask(&mut self, request: &str) -> Result<bool, Failed> {
        let stdio = self.stdio()?;
        stdio.say(request)?;
        Ok(Exchange::is_result(&stdio.hear()?))
    }

    /// Waits for that long while nobody says anything.
    pub(crate) fn be_quiet(&mut self, time: Duration) -> Result<(), Failed> {
        if self.stdio()?.is_readable(time)? {
            return Err("an idle server said something, or ended".into());
        }
        Ok(())
    }

    /// Closes its input and waits for its end.
    pub(crate) fn end(mut self) -> Result<(), Failed> {
        drop(self.stdio.take());
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("a server ended badly: {status}").into())
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `end` it is gone, and neither does anything.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The server's two descriptors and ours.
fn ends(stdio: Stdio) -> io::Result<((OwnedFd, OwnedFd), Ends)> {
    let ((their_input, our_input), (our_output, their_output)) = match stdio {
        Stdio::Pipes => (pipe()?, pipe()?),
        Stdio::Sockets => (pair()?, pair()?),
    };
    let ours = Ends {
        input: File::from(our_input),
        output: File::from(our_output),
    };
    Ok(((their_input, their_output), ours))
}

/// The end to read from, then the end to write to.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    Ok((one.into(), other.into()))
}

impl Ends {
    fn say(&mut self, line: &str) -> Result<(), Failed> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes())?)
    }

    /// The next line. Nothing follows it, for nothing else was asked.
    fn hear(&mut self) -> Result<Vec<u8>, Failed> {
        let mut line = Vec::new();
        let mut chunk = [0; 8192];
        while line.last() != Some(&b'\n') {
            let length = self.read(&mut chunk)?;
            line.extend_from_slice(chunk.get(..length).unwrap_or_default());
            if length == 0 || line.len() > MAX_LINE {
                return Err("a server ended, or its answer is too long".into());
            }
        }
        Ok(line)
    }

    fn is_readable(&self, within: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(within).map_err(io::Error::other)?;
        let mut output = [PollFd::new(&self.output, PollFlags::IN)];
        Ok(retry_on_intr(|| poll(&mut output, Some(&limit)))? > 0)
    }
}

impl Read for Ends {
    /// Waits with a limit, which pipes do not have of themselves.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_readable(STALLED)? {
            self.output.read(buffer)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}
