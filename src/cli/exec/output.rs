//! What the command says, on its way through us: without the values that it was given.

use std::io::{self, PipeReader, Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use tokio::process::Command;
use tokio::sync::oneshot;

use crate::redact::{Findings, Redactor, Values};

/// One read. What a pipe holds.
const CHUNK: usize = 64 * 1024;

/// Which of the two streams pass through us, and what is taken out of them.
pub(super) struct Filter {
    values: Arc<Values>,
    is_wanted: Wanted,
}

/// Which streams are looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Both.
    Both,
    /// Those that no person reads as they come: whatever is no terminal.
    Piped,
    /// None.
    Neither,
}

impl Wanted {
    fn has(self, is_terminal: bool) -> bool {
        match self {
            Self::Both => true,
            Self::Piped => !is_terminal,
            Self::Neither => false,
        }
    }
}

/// The streams of a command that runs.
pub(super) struct Streams(Vec<oneshot::Receiver<Findings>>);

/// The ends of the command's pipes that are ours.
pub(super) struct Pipes {
    values: Arc<Values>,
    output: Option<PipeReader>,
    errors: Option<PipeReader>,
}

impl Filter {
    /// Takes these values out of those streams.
    pub(super) fn new(values: Values, is_wanted: Wanted) -> Self {
        Self {
            values: Arc::new(values),
            is_wanted,
        }
    }

    /// Gives the command pipes of ours where a stream is to pass through us.
    ///
    /// # Errors
    /// Where the system has none.
    pub(super) fn lay(self, command: &mut Command) -> io::Result<Pipes> {
        use std::io::IsTerminal as _;
        let Self { values, is_wanted } = self;
        let mut pipe = |is_terminal: bool, set: fn(&mut Command, Stdio)| {
            if !is_wanted.has(is_terminal) {
                return Ok(None);
            }
            let (ours, theirs) = io::pipe()?;
            set(command, theirs.into());
            Ok::<_, io::Error>(Some(ours))
        };
        Ok(Pipes {
            values,
            output: pipe(io::stdout().is_terminal(), |command, theirs| {
                command.stdout(theirs);
            })?,
            errors: pipe(io::stderr().is_terminal(), |command, theirs| {
                command.stderr(theirs);
            })?,
        })
    }
}

impl Pipes {
    /// Passes on what comes, each stream on a thread of its own, until nobody can write any more.
    ///
    /// # Errors
    /// Where the system has no thread.
    pub(super) fn flow(self) -> io::Result<Streams> {
        let Self {
            values,
            output,
            errors,
        } = self;
        let mut streams = Vec::new();
        if let Some(from) = output {
            streams.push(flow(from, io::stdout(), Arc::clone(&values))?);
        }
        if let Some(from) = errors {
            streams.push(flow(from, io::stderr(), values)?);
        }
        Ok(Streams(streams))
    }
}

impl Streams {
    /// Waits for their ends, which is that of everybody who has them: of what the command left
    /// running too. Says whether anything was masked.
    pub(super) async fn ended(self) -> bool {
        let mut is_masked = false;
        for stream in self.0 {
            is_masked |= stream.await.is_ok_and(|findings| !findings.is_clean());
        }
        is_masked
    }
}

fn flow(
    from: PipeReader,
    to: impl Write + Send + 'static,
    values: Arc<Values>,
) -> io::Result<oneshot::Receiver<Findings>> {
    let (tell, ended) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        // Nobody waits any more where we were told to leave.
        drop(tell.send(pass_on(from, to, values)));
    })?;
    Ok(ended)
}

/// Ends also where nobody reads what is passed on: then the command is told by its own writing.
fn pass_on(mut from: impl Read, mut to: impl Write, values: Arc<Values>) -> Findings {
    let mut redactor = Redactor::new(values);
    let mut chunk = vec![0; CHUNK];
    let mut out = Vec::new();
    loop {
        let len = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_broken) => break,
        };
        redactor.push(chunk.get(..len).unwrap_or_default(), &mut out);
        if to.write_all(&out).and_then(|()| to.flush()).is_err() {
            return redactor.cut(&mut Vec::new());
        }
        out.clear();
    }
    let findings = redactor.finish(&mut out);
    // The last there is; who does not read it misses it.
    drop(to.write_all(&out).and_then(|()| to.flush()));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretString;

    fn values() -> Arc<Values> {
        let mut values = Values::new();
        values.add(&SecretString::copy_from("hunter2-hunter2"));
        Arc::new(values)
    }

    /// HY-11: what the command was given comes out of neither stream.
    #[test]
    fn values_are_taken_out_of_a_stream() {
        let mut out = Vec::new();
        let findings = pass_on(&b"a hunter2-hunter2 b"[..], &mut out, values());
        assert_eq!(out, b"a [***] b");
        assert_eq!(findings.hits, [1]);
    }

    /// A reader that leaves ends the passing on, so that the command hears of it.
    #[test]
    fn a_stream_that_nobody_reads_ends() {
        let full: &mut [u8] = &mut [0; 4];
        let endless = io::repeat(b'x');
        assert!(pass_on(endless, full, values()).is_clean());
    }

    #[test]
    fn streams_are_looked_through_as_asked() {
        for (wanted, terminal, piped) in [
            (Wanted::Both, true, true),
            (Wanted::Piped, false, true),
            (Wanted::Neither, false, false),
        ] {
            assert_eq!((wanted.has(true), wanted.has(false)), (terminal, piped));
        }
    }
}
