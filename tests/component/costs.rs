//! What a cached credential costs, counted, not timed: these numbers do not depend on the machine.

use aegis_broker::socket::listener::{self, Limits};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tracing::subscriber::NoSubscriber;

use crate::world::{Peer, World, connect};

const GET: &str = "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"credential.get\",\"params\":{\"selector\":\"gcp/billing-prod/deploy-bot\"}}\n";

/// Requests whose cost is counted.
const COUNTED: u64 = 100;

/// A peer with a buffer of its own that allocates nothing.
struct Client {
    stream: UnixStream,
    buffer: Box<[u8; 4096]>,
}

impl Client {
    async fn get(&mut self) {
        self.stream.write_all(GET.as_bytes()).await.unwrap();
        let mut filled = 0;
        while filled == 0 || self.buffer[filled - 1] != b'\n' {
            let read = self.stream.read(&mut self.buffer[filled..]).await.unwrap();
            assert_ne!(read, 0, "the daemon hung up");
            filled += read;
        }
        assert!(
            self.buffer
                .starts_with(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":")
        );
    }
}

/// "No allocation storm": what one cached `credential.get` allocates from line to line, audit
/// record included, is a small number that stays what it is.
#[test]
fn a_cached_get_allocates_a_handful_of_times() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let home = TempDir::new().unwrap();
    let socket = home.path().join("s");
    let (world, mut client) = runtime.block_on(async {
        let world = World::new().await;
        let handle = world.plain_daemon();
        let connection = connect(&handle, &Peer::new());
        world.log_in(&connection).await;
        let limits = Limits {
            connections: 8,
            in_flight: 8,
        };
        let listener = UnixListener::bind(&socket).unwrap();
        drop(tokio::spawn(listener::serve(
            listener,
            handle,
            limits,
            CancellationToken::new(),
        )));
        let stream = UnixStream::connect(&socket).await.unwrap();
        let mut client = Client {
            stream,
            buffer: Box::new([0; 4096]),
        };
        // Makes the lease, and gives every buffer its size.
        for _ in 0..COUNTED {
            client.get().await;
        }
        (world, client)
    });
    // The log of the other tests would be counted.
    let _quiet = tracing::subscriber::set_default(NoSubscriber::default());
    let used = allocation_counter::measure(|| {
        runtime.block_on(async {
            for _ in 0..COUNTED {
                client.get().await;
            }
        });
    });
    let (count, bytes) = (used.count_total / COUNTED, used.bytes_total / COUNTED);
    assert!(
        count <= 6,
        "{count} allocations and {bytes} bytes a request"
    );
    drop(world);
}
