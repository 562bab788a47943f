//! The relay floor: what it costs to move bytes from one process to another and on to a third,
//! with nobody reading them. Both parts are children of the tool.

use std::fs::File;
use std::io::{self, BufRead as _, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use crate::args::Failed;

/// What the shim's relay takes in one read.
const BUFFER: usize = 64 * 1024;

/// Moves bytes between stdio and `socket` until stdin ends: a thread each way.
pub(crate) fn relay(socket: &Path) -> Result<(), Failed> {
    let mut echo = UnixStream::connect(socket)?;
    let mut from_echo = echo.try_clone()?;
    let (mut input, mut output) = stdio()?;
    let back = thread::Builder::new().spawn(move || pump(&mut from_echo, &mut output))?;
    pump(&mut input, &mut echo)?;
    echo.shutdown(Shutdown::Write)?;
    back.join()
        .map_err(|_panic| "a thread of the relay failed")??;
    Ok(())
}

/// Standard input and output without the standard library's buffers.
fn stdio() -> io::Result<(File, File)> {
    let own = |fd: io::Result<OwnedFd>| fd.map(File::from);
    Ok((
        own(io::stdin().as_fd().try_clone_to_owned())?,
        own(io::stdout().as_fd().try_clone_to_owned())?,
    ))
}

/// Not `io::copy`, which lets the kernel do it where it can: the shim cannot count on that.
fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}

/// Answers every line on `socket` with the first line of stdin, until stdin ends. Says when it
/// listens.
pub(crate) fn echo(socket: &Path) -> Result<(), Failed> {
    let mut input = io::stdin().lock();
    let mut reply = Vec::new();
    input.read_until(b'\n', &mut reply)?;
    let listener = UnixListener::bind(socket)?;
    thread::Builder::new().spawn(move || accept(&listener, &reply))?;
    io::stdout().write_all(b"ready\n")?;
    // Whatever comes: the tool that started us is gone, or wants us to go.
    input.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn accept(listener: &UnixListener, reply: &[u8]) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        let reply = reply.to_vec();
        drop(thread::Builder::new().spawn(move || answer(stream, &reply))?);
    }
}

fn answer(mut stream: UnixStream, reply: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let lines = buffer.iter().take(length).filter(|byte| **byte == b'\n');
        for _ in lines {
            stream.write_all(reply)?;
        }
    }
}
