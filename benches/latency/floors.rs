//! What physics asks for, as children of the tool: the same bytes, the same JSON work, the same
//! kind of runtime, and nothing that a credential needs.

use std::io::{BufRead as _, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use crate::args::Failed;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    #[expect(dead_code, reason = "read because the daemon reads it")]
    jsonrpc: &'a str,
    id: u64,
    #[expect(dead_code, reason = "read because the daemon reads it")]
    method: &'a str,
    #[expect(dead_code, reason = "read because the daemon reads it")]
    #[serde(borrow)]
    params: Params<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params<'a> {
    #[expect(dead_code, reason = "read because the daemon reads it")]
    selector: &'a str,
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    id: u64,
    result: &'a Value,
}

/// Answers every line on `socket` with the result that stands in the first line of stdin, until
/// stdin ends. Says when it listens.
pub(crate) fn serve(socket: &Path) -> Result<(), Failed> {
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    drop(input);
    let result = Arc::new(serde_json::from_str(&line)?);
    let (over, ended) = oneshot::channel::<()>();
    let watch = std::thread::Builder::new().spawn(move || {
        // Whatever comes: the tool that started us is gone, or wants us to go.
        drop(std::io::stdin().lock().read_to_end(&mut Vec::new()));
        drop(over);
    })?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = UnixListener::bind(socket)?;
            std::io::stdout().write_all(b"ready\n")?;
            tokio::select! {
                result = accept(&listener, &result) => result,
                _ = ended => Ok(()),
            }
        })?;
    drop(watch);
    Ok(())
}

async fn accept(listener: &UnixListener, result: &Arc<Value>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let result = Arc::clone(result);
        drop(tokio::spawn(async move { converse(stream, &result).await }));
    }
}

async fn converse(mut stream: UnixStream, result: &Value) -> std::io::Result<()> {
    let mut chunk = [0; 4096];
    let mut input = Vec::with_capacity(4096);
    let mut output = Vec::with_capacity(4096);
    loop {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        input.extend_from_slice(chunk.get(..length).unwrap_or_default());
        while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
            let line = input.get(..end).unwrap_or_default();
            let request: Request<'_> = serde_json::from_slice(line)?;
            output.clear();
            let reply = Reply {
                jsonrpc: "2.0",
                id: request.id,
                result,
            };
            serde_json::to_writer(&mut output, &reply)?;
            output.push(b'\n');
            stream.write_all(&output).await?;
            input.drain(..=end);
        }
    }
}
