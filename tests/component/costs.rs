//! What a credential and an idle hour cost, counted, not timed: these numbers do not depend on the
//! machine.

use std::collections::BTreeSet;
use std::time::Duration;

use aegis_broker::socket::listener::{self, Limits};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tracing::subscriber::NoSubscriber;

use crate::world::{CREATE, DEPLOY, Peer, REDEEM, REVOKE, World, connect, get};

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
    // One more for the whole run: a buffer of records that grows.
    let (count, most) = (used.count_total, 6 * COUNTED + COUNTED / 10);
    assert!(
        count <= most,
        "{count} allocations and {} bytes for {COUNTED} requests",
        used.bytes_total
    );
    drop(world);
}

/// DP-11: any number of requests for a credential are two calls to the issuer, its end is a third;
/// each has one signature. AU-1: each delivery has its own write, so that none waits for the next.
#[tokio::test(start_paused = true)]
async fn a_hundred_gets_cost_two_calls_and_their_writes() {
    let world = World::new().await;
    let (daemon, connection) = world.logged_in().await;
    get(&connection, DEPLOY).await.unwrap();
    let before = daemon.sink.writes();
    for _ in 0..COUNTED {
        get(&connection, DEPLOY).await.unwrap();
    }
    let writes = u64::try_from(daemon.sink.writes() - before).unwrap();
    assert_eq!(writes, COUNTED);
    connection.logout(None).await.unwrap();
    let sent = [CREATE, REDEEM, REVOKE].map(|method| world.tries(method));
    assert_eq!(sent.each_ref().map(Vec::len), [1, 1, 1]);
    let proofs: BTreeSet<_> = sent.into_iter().flatten().map(|one| one.jti).collect();
    assert_eq!(proofs.len(), 3, "a proof for each");
    daemon.stop().await;
}

/// Wake-ups of the core in an hour: none while nothing is held, none while no deadline of what is
/// held is due, one for each of them, none once all of it has ended and has left the list.
#[tokio::test(start_paused = true)]
async fn an_idle_hour_wakes_nobody() {
    const HOUR: Duration = Duration::from_hours(1);
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    connection.status().await.unwrap();
    let woken = async |how_long| {
        let before = world.looks_at_the_clock();
        world.after(how_long).await;
        world.looks_at_the_clock() - before
    };
    assert_eq!(woken(HOUR).await, 0, "logged out");

    world.log_in(&connection).await;
    drop(get(&connection, DEPLOY).await.unwrap());
    assert_eq!(woken(Duration::from_mins(4)).await, 0, "nothing is due");
    let held = woken(Duration::from_mins(26)).await;
    // The lease's end at the latest, the token's, and the end of its place in the list; two looks
    // each time: what has ended, and when to wake next.
    assert!((1..=8).contains(&held), "{held}");
    assert_eq!(woken(HOUR).await, 0, "lease and token have ended");
    daemon.stop().await;
}
