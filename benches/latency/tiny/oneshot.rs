//! The least that a command which asks a socket can be: `oneshot SOCKET REQUEST` connects, says
//! the request, and writes the line that comes back to standard output.

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let socket = arguments.next().unwrap_or_default();
    let request = arguments.next().unwrap_or_default();
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut reply = Vec::with_capacity(4096);
    BufReader::with_capacity(4096, stream).read_until(b'\n', &mut reply)?;
    io::stdout().write_all(&reply)
}
