//! A host on a loopback port that answers each connection as a test says, and tells what it heard.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What follows the answer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The connection ends.
    Close,
    /// Nothing more comes, and it stays open.
    Silence,
    /// The last byte again and again.
    More,
}

pub(super) struct Host {
    pub(super) address: SocketAddr,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Host {
    /// One that answers what `answer` makes of a request's text.
    pub(super) async fn start(
        answer: impl Fn(&str) -> (Vec<u8>, After) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, heard) = mpsc::unbounded_channel();
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tell, answer) = (tell.clone(), Arc::clone(&answer));
                tokio::spawn(async move { serve(stream, &tell, &*answer).await });
            }
        });
        Self { address, heard }
    }

    /// One that says yes, with that body.
    pub(super) async fn with_body(body: &'static str) -> Self {
        Self::start(move |_| (ok(body.as_bytes()), After::Close)).await
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request that it heard.
    pub(super) async fn request(&mut self) -> String {
        self.heard.recv().await.unwrap()
    }

    /// How many it heard that nobody has asked for.
    pub(super) fn unheard(&mut self) -> usize {
        std::iter::from_fn(|| self.heard.try_recv().ok()).count()
    }
}

/// An answer with that body.
pub(super) fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn serve(
    mut stream: TcpStream,
    tell: &mpsc::UnboundedSender<String>,
    answer: &(impl Fn(&str) -> (Vec<u8>, After) + Send + Sync),
) {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    while !is_whole(&String::from_utf8_lossy(&text)) {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(len) => text.extend_from_slice(&chunk[..len]),
        }
    }
    let request = String::from_utf8_lossy(&text).into_owned();
    let (bytes, after) = answer(&request);
    // Its test may be over.
    drop(tell.send(request));
    let mut written = stream.write_all(&bytes).await;
    let last = [*bytes.last().unwrap_or(&b'x'); 4096];
    while after == After::More && written.is_ok() {
        written = stream.write_all(&last).await;
    }
    if after == After::Silence {
        std::future::pending::<()>().await;
    }
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
