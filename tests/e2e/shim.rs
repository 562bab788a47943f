//! `aegis-broker mcp` between a client and a door that the test holds: bytes, ends, descriptors.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use tempfile::TempDir;

use super::house::{BROKER, PATIENCE};
use super::line_client::LineClient;

/// A runtime folder with the test in the daemon's place.
struct Desk {
    folder: TempDir,
    listener: UnixListener,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("aegis-e2e-")
            .tempdir()
            .unwrap();
        let ours = folder.path().join("aegis-broker");
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o700)).unwrap();
        let listener = UnixListener::bind(ours.join("mcp.sock")).unwrap();
        Self { folder, listener }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("aegis-broker/mcp.sock")
    }

    /// As little of an environment as clients hand over.
    fn command(&self) -> Command {
        let mut command = Command::new(BROKER);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .arg("mcp")
            .arg("--socket")
            .arg(self.socket())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The shim's connection.
    fn accept(&self) -> UnixStream {
        let limit = Timespec::try_from(PATIENCE).unwrap();
        let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
        assert_eq!(poll(&mut listener, Some(&limit)), Ok(1), "nobody came");
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// Everything that comes out of `from`, once it has ended.
fn drain(mut from: impl std::io::Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (all, received) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        all.send(bytes).unwrap();
    });
    received
}

/// What the shim wrote, and how it ended.
fn end(mut child: Child) -> (Vec<u8>, String, ExitStatus) {
    let output = child.stdout.take().map(drain);
    let errors = drain(child.stderr.take().unwrap());
    let output = output.map(|output| output.recv_timeout(PATIENCE).unwrap());
    let errors = errors.recv_timeout(PATIENCE).unwrap();
    let status = child.wait().unwrap();
    (
        output.unwrap_or_default(),
        String::from_utf8(errors).unwrap(),
        status,
    )
}

/// More than one read, more than a pipe or a socket takes at once, and nothing like a message.
fn noise() -> Vec<u8> {
    (0_u32..300_000)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect()
}

/// Sends everything back until the other side stops sending.
fn echo(stream: UnixStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut input, mut output) = (stream.try_clone().unwrap(), stream);
        let (mut seen, mut buffer) = (Vec::new(), vec![0; 10_000]);
        loop {
            let length = input.read(&mut buffer).unwrap();
            if length == 0 {
                return seen;
            }
            output.write_all(&buffer[..length]).unwrap();
            seen.extend_from_slice(&buffer[..length]);
        }
    })
}

/// T1, MC-1: whatever kinds of descriptors a client hands over, what goes in comes out, both
/// ways, and nothing else does, at any log level.
#[test]
fn bytes_pass_unchanged_over_every_kind_of_descriptor() {
    for kind in ["pipe", "socket", "fifo", "file"] {
        let desk = Desk::new();
        let mut command = desk.command();
        command.env("RUST_LOG", "trace,aegis_broker=trace");
        let noise = noise();
        let mut writer: Option<Box<dyn std::io::Write + Send>> = None;
        let mut reader: Option<Box<dyn std::io::Read + Send>> = None;
        match kind {
            "pipe" => drop(command.stdin(Stdio::piped())),
            "socket" => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let stdin = OwnedFd::from(theirs.try_clone().unwrap());
                command.stdin(stdin).stdout(OwnedFd::from(theirs));
                reader = Some(Box::new(ours.try_clone().unwrap()));
                writer = Some(Box::new(HalfClosing(ours)));
            }
            "fifo" => {
                let path = desk.folder.path().join("fifo");
                let made = Command::new("mkfifo").arg(&path).status().unwrap();
                assert!(made.success());
                // Open for both, so that neither opening waits for the other.
                let both = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .unwrap();
                command.stdin(fs::File::open(&path).unwrap());
                writer = Some(Box::new(both));
            }
            _ => {
                let path = desk.folder.path().join("file");
                fs::write(&path, &noise).unwrap();
                command.stdin(fs::File::open(&path).unwrap());
            }
        }
        let mut child = command.spawn().unwrap();
        // Closes our copies of what the child was given.
        drop(command);
        let daemon = echo(desk.accept());
        if let Some(stdin) = child.stdin.take() {
            writer = Some(Box::new(stdin));
        }
        if let Some(mut writer) = writer {
            let noise = noise.clone();
            std::thread::spawn(move || writer.write_all(&noise).unwrap());
        }
        let reader = reader.map(drain);
        let (mut output, errors, status) = end(child);
        if let Some(reader) = reader {
            output = reader.recv_timeout(PATIENCE).unwrap();
        }
        assert!(status.success(), "{kind}: {status}");
        assert_eq!(errors, "", "{kind}");
        assert!(daemon.join().unwrap() == noise, "{kind}: to the daemon");
        assert!(output == noise, "{kind}: to the client");
    }
}

/// A socket whose sending side is shut down at its end, as a client's is.
struct HalfClosing(UnixStream);

impl std::io::Write for HalfClosing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for HalfClosing {
    fn drop(&mut self) {
        self.0.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

/// T2: `printf request | aegis-broker mcp` gets its answer, also one that comes after the end of
/// the input.
#[test]
fn a_request_without_more_input_gets_its_answer() {
    let desk = Desk::new();
    let mut child = desk.command().stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"request").unwrap();
    let mut daemon = desk.accept();
    let mut request = String::new();
    daemon.read_to_string(&mut request).unwrap();
    assert_eq!(request, "request", "and the end of it");
    daemon.write_all(b"answer").unwrap();
    drop(daemon);
    let (output, _, status) = end(child);
    assert_eq!(output, b"answer");
    assert!(status.success());
}

/// The end of the daemon is the end of the shim, whatever the client does, and told as such: a
/// client shows the line in its log.
#[test]
fn a_daemon_that_hangs_up_ends_the_shim() {
    let desk = Desk::new();
    let mut child = desk.command().stdin(Stdio::piped()).spawn().unwrap();
    let held = child.stdin.take();
    drop(desk.accept());
    let (_, errors, status) = end(child);
    assert_eq!(status.code(), Some(69), "{errors}");
    assert!(
        errors.contains("the daemon ended the connection"),
        "{errors}"
    );
    drop(held);
}

/// MC-3: a client that was killed is gone, even while somebody else holds its end of our input.
#[test]
fn a_killed_parent_is_the_end_of_the_input() {
    let desk = Desk::new();
    let shim = desk.command();
    let mut parent = Command::new("sh");
    parent
        .args(["-c", "exec 3<&0; \"$@\" <&3 & wait", "sh"])
        .arg(shim.get_program())
        .args(shim.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut parent = parent.spawn().unwrap();
    let mut held = parent.stdin.take().unwrap();
    held.write_all(b"x").unwrap();
    let mut daemon = desk.accept();
    let mut seen = [0; 1];
    daemon.read_exact(&mut seen).unwrap();
    parent.kill().unwrap();
    let mut rest = String::new();
    daemon.read_to_string(&mut rest).unwrap();
    daemon.write_all(b"answer").unwrap();
    drop(daemon);
    // The shim held the other end of this pipe as long as it lived.
    let (output, _, _) = end(parent);
    assert_eq!(output, b"answer");
    drop(held);
}

/// Without a daemon, and none to be had, the tools are there and every call says what mends it,
/// in both eras. Nobody is asked who must not be.
#[test]
fn without_a_daemon_every_call_says_what_to_do() {
    let desk = Desk::new();
    let folder = desk.folder.path().join("aegis-broker");
    let elsewhere = folder.join("elsewhere.sock");
    let open = desk.folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let squatter = UnixListener::bind(open.join("mcp.sock")).unwrap();
    // Nobody listens here any more.
    fs::remove_file(folder.join("mcp.sock")).unwrap();
    let rows = [
        (
            "no configuration",
            folder.join("mcp.sock"),
            "ended",
            "aegis-broker daemon",
        ),
        (
            "another name",
            elsewhere,
            "no daemon answers",
            "aegis-broker daemon",
        ),
        (
            "an open folder",
            open.join("mcp.sock"),
            "open to group",
            "0700",
        ),
        (
            "no folder",
            open.join("no/such/mcp.sock"),
            "folder",
            "space and permissions",
        ),
    ];
    for (name, socket, message, fix) in rows {
        let mut command = Command::new(BROKER);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", desk.folder.path())
            .env("RUST_LOG", "trace,rmcp::service=trace")
            .args(["--json", "mcp", "--socket"])
            .arg(socket);
        let mut client = LineClient::start(&mut command);
        // A probe that was given up, as some clients begin.
        client.say(
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#,
        );
        let found = client.ask_modern("server/discover", &json!({}));
        assert!(found["supportedVersions"].is_array(), "{name}: {found}");
        let call = json!({ "name": "status", "arguments": {} });
        let modern = client.ask_modern("tools/call", &call);
        client.close();
        let (errors, status) = client.end();
        assert!(status.success(), "{name}: {errors}");
        assert!(errors.starts_with("error: "), "{name}: {errors}");

        let mut client = LineClient::greeting(&mut command);
        let tools = client.ask("tools/list", &json!({}));
        assert_eq!(tools["tools"].as_array().unwrap().len(), 10, "{name}");
        let legacy = client.ask("tools/call", &call);
        for answer in [modern, legacy] {
            assert_eq!(answer["isError"], true, "{name}: {answer}");
            let error = &answer["structuredContent"]["error"];
            assert_eq!(error["code"], "daemon_unavailable", "{name}: {answer}");
            let text = error.to_string();
            assert!(
                text.contains(message) && text.contains(fix),
                "{name}: {text}"
            );
        }
        client.close();
        assert!(client.end().1.success(), "{name}");
    }
    // What is to be run looks where the shim looked, whatever the terminal says.
    let mut client = LineClient::start(&mut desk.command());
    client.say(super::line_client::INITIALIZE);
    client.close();
    let (errors, _) = client.end();
    let command = errors.split('`').nth(1).expect("a command");
    let mut terminal = Command::new("sh");
    terminal
        .env("HOME", &open)
        .env("XDG_CONFIG_HOME", &open)
        .env("XDG_STATE_HOME", &open);
    let told = terminal.args(["-c", command]).output().unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    let missing = desk
        .folder
        .path()
        .join(".config/aegis-broker/aegis-broker.toml");
    assert!(
        told.contains(missing.to_str().unwrap()),
        "{command}: {told}"
    );
    squatter.set_nonblocking(true).unwrap();
    let nobody = squatter.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}
