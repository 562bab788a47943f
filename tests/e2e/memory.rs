//! Looks for secrets in the memory of a daemon: from outside, which takes a root, or from inside,
//! in a daemon that this suite's own program becomes, with the same code and the same allocator.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;

use aegis_broker::daemon;
use serde_json::{Value, json};

use super::evidence::canaries::{Canaries, Masked, Sighting, Sightings, plain};
use super::house::{Daemon, House, PATIENCE, Peer, SELECTOR};

/// In the surroundings of a daemon that looks at itself: where it is told to.
pub(crate) const LOOK: &str = "AEGIS_E2E_LOOK";

/// A memory that can be read.
struct Memory {
    mem: File,
    maps: PathBuf,
}

impl Memory {
    fn of(process: &str) -> Self {
        Self {
            mem: File::open(format!("/proc/{process}/mem")).unwrap(),
            maps: PathBuf::from(format!("/proc/{process}/maps")),
        }
    }

    /// What is in everything that can be written: heap, stacks, data. `own` is this process's.
    fn look(&self, canaries: &Canaries, own: bool) -> Sightings {
        let maps = fs::read_to_string(&self.maps).unwrap();
        let mut all = Sightings::new();
        for (start, length) in maps.lines().filter_map(writable) {
            let mut bytes = vec![0; length];
            // A thread may have ended meanwhile, and its stack with it.
            if self.mem.read_exact_at(&mut bytes, start).is_err() {
                continue;
            }
            if own {
                blank_itself(&mut bytes, start);
            }
            for (name, seen) in canaries.seen_in(&bytes) {
                let sighting = all.entry(name).or_default();
                sighting.whole += seen.whole;
                sighting.pieces += seen.pieces;
            }
        }
        all
    }
}

/// Start and length of a mapping that the process writes to.
fn writable(line: &str) -> Option<(u64, usize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    words.next()?.starts_with("rw").then_some(())?;
    let start = u64::from_str_radix(start, 16).unwrap();
    let end = u64::from_str_radix(end, 16).unwrap();
    Some((start, usize::try_from(end - start).unwrap()))
}

/// Takes out of a copy of a mapping the place where the copy itself is.
fn blank_itself(bytes: &mut [u8], start: u64) {
    let here = u64::try_from(bytes.as_ptr().addr()).unwrap();
    let length = u64::try_from(bytes.len()).unwrap();
    if here < start + length && start < here + length {
        let from = usize::try_from(here.saturating_sub(start)).unwrap();
        let to = usize::try_from((here + length - start).min(length)).unwrap();
        bytes[from..to].fill(0);
    }
}

/// A daemon that can be looked into.
pub(crate) struct Subject {
    pub(crate) daemon: Daemon,
    inside: Option<BufReader<UnixStream>>,
}

impl Subject {
    /// The program as it is shipped.
    pub(crate) fn shipped(house: &House) -> Self {
        Self {
            daemon: house.daemon(),
            inside: None,
        }
    }

    /// This suite's program, as a daemon that looks at itself when it is told to. `test` is the one
    /// that calls [`serve`] where it finds [`LOOK`].
    pub(crate) fn of_itself(house: &House, test: &str) -> Self {
        house.make_runtime();
        let program = house.copy_of(&std::env::current_exe().unwrap());
        let mut command = Command::new(program);
        house.surround(&mut command);
        let socket = house.path("look");
        let listener = UnixListener::bind(&socket).unwrap();
        house.hand_over(&socket);
        command
            .args(["--exact", test, "--nocapture"])
            .env(LOOK, &socket);
        let daemon = house.start(&mut command, "trace");
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            daemon,
            inside: Some(BufReader::new(stream)),
        }
    }

    /// How often each of these secrets is in its memory now.
    pub(crate) fn look_for(&mut self, secrets: &[(String, String)]) -> Sightings {
        let masked: Vec<Masked> = secrets
            .iter()
            .map(|(name, secret)| plain(name, secret))
            .collect();
        let Some(inside) = &mut self.inside else {
            let pid = self.daemon.pid().to_string();
            return Memory::of(&pid).look(&Canaries::new(masked), false);
        };
        let answer = tell(inside, &json!({ "look_for": masked }));
        let seen: BTreeMap<String, (usize, usize)> = serde_json::from_value(answer).unwrap();
        let sighting = |(whole, pieces)| Sighting { whole, pieces };
        seen.into_iter()
            .map(|(name, seen)| (name, sighting(seen)))
            .collect()
    }

    /// SIGTERM, and the end of it.
    pub(crate) fn stop(self) -> ExitStatus {
        // One that looks at itself waits for orders until there is nobody who could give any.
        drop(self.inside);
        self.daemon.stop()
    }

    /// Has a thread of it fetch a credential, and panic with it in hand and in the message. False
    /// where that cannot be had: the shipped program has no such weakness.
    pub(crate) fn panic(&mut self) -> bool {
        let Some(inside) = &mut self.inside else {
            return false;
        };
        assert_eq!(tell(inside, &json!("panic")), json!("panicked"));
        true
    }
}

fn tell(inside: &mut BufReader<UnixStream>, what: &Value) -> Value {
    let line = format!("{what}\n");
    inside.get_mut().write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    inside.read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// Is a daemon, and looks at itself whenever that is asked for at `told`.
pub(crate) fn serve(told: &Path) {
    // Before it is hardened: after that nobody without rights may open it, itself included.
    let memory = Memory::of("self");
    daemon::hardening::harden_process().unwrap();
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let options = daemon::Options {
        config: Some(home.join("config.toml")),
        policy: Some(home.join("policy.toml")),
        ..daemon::Options::default()
    };
    let serving = thread::spawn(move || daemon::run(options));
    let orders = UnixStream::connect(told).unwrap();
    let mut answers = orders.try_clone().unwrap();
    for order in BufReader::new(orders).lines() {
        let order: Value = serde_json::from_str(&order.unwrap()).unwrap();
        let answer = if order == json!("panic") {
            panic_in_a_thread();
            json!("panicked")
        } else {
            let masked: Vec<Masked> = serde_json::from_value(order["look_for"].clone()).unwrap();
            let seen = memory.look(&Canaries::new(masked), true);
            let pair = |(name, seen): (String, Sighting)| (name, (seen.whole, seen.pieces));
            let seen: BTreeMap<_, _> = seen.into_iter().map(pair).collect();
            json!(seen)
        };
        answers.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    assert!(serving.join().unwrap().is_ok());
}

fn panic_in_a_thread() {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap());
    let fetching = thread::spawn(move || {
        let mut peer = Peer::connect(&runtime.join("aegis-broker").join("broker.sock"));
        let answer = peer.ask("credential.get", &json!({ "selector": SELECTOR }));
        let token = answer["result"]["fields"]["access_token"].as_str().unwrap();
        // What a careless line of ours would do.
        panic!("cannot use {token}");
    });
    assert!(fetching.join().is_err());
}
