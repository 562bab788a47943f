//! A floor that answers on a socket, as the tool sees it: what it is made of is `floors` and
//! `relay`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::args::{Failed, Part};

/// A floor that answers on a socket: this tool once more.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    socket: PathBuf,
}

impl Floor {
    /// Starts it and tells it in one line what to answer.
    pub(crate) fn start(part: Part, socket: &Path, answer: &[u8]) -> Result<Self, Failed> {
        let child = part
            .command(socket)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let mut floor = Self {
            child,
            socket: socket.to_owned(),
        };
        let input = floor.child.stdin.as_mut().ok_or("the floor has no input")?;
        input.write_all(answer)?;
        let output = floor.child.stdout.take().ok_or("the floor has no output")?;
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        if said != "ready\n" {
            return Err("the floor did not become ready".into());
        }
        drop(UnixStream::connect(socket)?);
        Ok(floor)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Without input it ends by itself.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}
