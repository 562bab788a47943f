//! A server between the broker and the bundled one that passes everything on, but for one call,
//! which it answers with bytes of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::world::World;

/// Between two bytes of an answer that drips: under any limit on a single read, over the limit of a
/// call within a few of them.
const DRIP: Duration = Duration::from_secs(5);

/// A part of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// The same again and again, for as long as anybody reads.
    Forever(&'static [u8]),
    /// Byte by byte, a few seconds apart.
    Drip(Vec<u8>),
    /// Nothing more comes, and the connection stays.
    Hang,
    Close,
    /// Closes it so that what was sent may be lost.
    Reset,
}

/// The call, and what is answered to it.
type Lie = (String, Vec<Step>);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Liar {
    // Held for a look, never across an await.
    lie: Arc<Mutex<Option<Lie>>>,
    told: Arc<AtomicUsize>,
    elsewhere: Arc<AtomicUsize>,
}

impl Liar {
    /// Stands before the world's server from now on.
    pub(crate) async fn before(world: &mut World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        world.base_url = Url::parse(&url).unwrap();
        let server = world.mock.api().socket_addrs(|| None).unwrap()[0];
        let liar = Self::default();
        let own = liar.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(own.clone().relay(client, server));
            }
        });
        liar
    }

    /// Answers this call so, until it is told otherwise.
    pub(crate) fn lie(&self, method: &str, steps: &[Step]) {
        *self.lie.lock().unwrap() = Some((method.to_owned(), steps.to_vec()));
    }

    pub(crate) fn be_honest(&self) {
        *self.lie.lock().unwrap() = None;
    }

    /// How often it lied.
    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }

    /// How many requests came for a place that only a lie names.
    pub(crate) fn elsewhere(&self) -> usize {
        self.elsewhere.load(Ordering::SeqCst)
    }

    async fn relay(self, client: TcpStream, server: TcpStream) {
        let (mut from_client, to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
        let answers = Arc::clone(&to_client);
        let relaying = tokio::spawn(async move {
            let mut chunk = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = from_server.read(&mut chunk).await {
                let sent = answers.lock().await.write_all(&chunk[..count]).await;
                if sent.is_err() {
                    break;
                }
            }
        });
        while let Some(request) = read_request(&mut from_client).await {
            let end = request.iter().position(|byte| *byte == b'\n').unwrap();
            let line = String::from_utf8_lossy(&request[..end]).into_owned();
            if line.contains("/elsewhere") {
                self.elsewhere.fetch_add(1, Ordering::SeqCst);
            }
            let lie = self.lie.lock().unwrap().clone();
            match lie.filter(|(method, _)| line.contains(&format!("/{method} "))) {
                Some((_, steps)) => {
                    self.told.fetch_add(1, Ordering::SeqCst);
                    let mut to_client = to_client.lock().await;
                    if !tell(&mut to_client, &from_client, &steps).await {
                        break;
                    }
                }
                None if to_server.write_all(&request).await.is_err() => break,
                None => {}
            }
        }
        // Both ends close with their last halves.
        relaying.abort();
    }
}

/// A whole request with its body; `None` at the end.
async fn read_request(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        if let Some(length) = length(&request)
            && request.len() >= length
        {
            return Some(request);
        }
        match from.read(&mut chunk).await {
            Ok(count @ 1..) => request.extend_from_slice(&chunk[..count]),
            Ok(0) | Err(_) => return None,
        }
    }
}

/// Of the request, once its header is there.
fn length(request: &[u8]) -> Option<usize> {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let body = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    Some(end + body.map_or(0, |body| body.parse().unwrap()))
}

/// Whether the connection goes on.
async fn tell(to: &mut OwnedWriteHalf, from: &OwnedReadHalf, steps: &[Step]) -> bool {
    for step in steps {
        let sent = match step {
            Step::Send(bytes) => to.write_all(bytes).await,
            Step::Forever(bytes) => loop {
                if let Err(error) = to.write_all(bytes).await {
                    break Err(error);
                }
            },
            Step::Drip(bytes) => drip(to, bytes).await,
            Step::Hang => {
                // Until the other side has enough.
                drop(from.readable().await);
                return false;
            }
            Step::Close => return false,
            Step::Reset => {
                from.as_ref().set_zero_linger().unwrap();
                return false;
            }
        };
        if sent.is_err() {
            return false;
        }
    }
    true
}

async fn drip(to: &mut OwnedWriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        tokio::time::sleep(DRIP).await;
        to.write_all(&[*byte]).await?;
    }
    Ok(())
}
