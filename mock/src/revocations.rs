//! The state file: which leases were revoked, so that a restart does not forget it.
//!
//! Everything else ends with the process: its signing key, its tokens, its leases and their
//! material. So the file takes nothing back that would be good otherwise; it lets the server say
//! `lease_revoked` where it would know nothing. It holds no secret, and leases by their hash.
//!
//! A file is replaced whole: written beside, synced, renamed. Its first line has the hash of the
//! rest; what does not fit it is refused, and never taken for "nothing was revoked".

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use connectrpc::ErrorCode;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::broker::leases::Lease;
use crate::clock::Moment;
use crate::encoding::{Hash, base64url, from_base64url, sha256};
use crate::errors::Refusal;
use crate::proto::Target;
use crate::scope;
use crate::state::Shared;

const FORMAT: &str = "aegis-mock-revocations-1";
/// The newest are kept. An older one is forgotten, and its lease then as unknown as one that never
/// was: no less refused.
pub(crate) const MAX_LEASES: usize = 2048;
/// The largest file that is read: [`MAX_LEASES`] of the longest names are 2 MiB.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A state file that cannot be used. Nothing is guessed from it, and it stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It cannot be read, or what lies beside it not be made.
    #[error("state file {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error("state file {}: {why}", path.display())]
    Unsafe {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is not as it was written. Without it the server would not know what was revoked.
    #[error("state file {}: it is damaged; move it away to begin anew", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// Another server writes it.
    #[error("state file {}: another server uses it", path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
}

/// A revoked lease, without its name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// SHA-256 of the lease id, base64url.
    lease: String,
    tenant: String,
    principal: String,
    /// Thumbprint of the key that it was made with.
    jkt: String,
    session: String,
    selector: String,
    created_ms: i64,
    expires_ms: i64,
    revoked_ms: i64,
    max_redemptions: u32,
    redemptions_used: u32,
}

impl Record {
    fn of(hash: &Hash, lease: &Lease) -> Option<Self> {
        Some(Self {
            lease: base64url(hash),
            tenant: lease.tenant_id.clone(),
            principal: lease.principal.clone(),
            jkt: lease.jkt.clone(),
            session: lease.session_id.clone(),
            selector: lease.selector.clone(),
            created_ms: lease.created_at.unix_millis(),
            expires_ms: lease.expires_at.unix_millis(),
            revoked_ms: lease.revoked_at?.unix_millis(),
            max_redemptions: lease.max_redemptions,
            redemptions_used: lease.redemptions_used,
        })
    }

    /// The lease, whose name is not known until somebody says it.
    fn into_lease(self) -> Option<(Hash, Lease)> {
        let hash: Hash = from_base64url(&self.lease)?.try_into().ok()?;
        let target = target(&self.selector)?;
        let lease = Lease {
            id: String::new(),
            tenant_id: self.tenant,
            principal: self.principal,
            jkt: self.jkt,
            session_id: self.session,
            target,
            selector: self.selector,
            created_at: Moment::from_unix_millis(self.created_ms),
            expires_at: Moment::from_unix_millis(self.expires_ms),
            max_redemptions: self.max_redemptions,
            redemptions_used: self.redemptions_used,
            purpose: String::new(),
            revoked_at: Some(Moment::from_unix_millis(self.revoked_ms)),
        };
        Some((hash, lease))
    }
}

/// The parts of a selector.
fn target(selector: &str) -> Option<Target> {
    if !scope::is_selector(selector) {
        return None;
    }
    let mut parts = selector.split(':').skip(1).step_by(2).map(str::to_owned);
    Some(Target {
        provider: parts.next()?,
        app: parts.next()?,
        account: parts.next()?,
        ..Target::default()
    })
}

/// Where revocations are kept.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// Held as long as this server runs.
    _lock: File,
    /// How many saves were asked for.
    asked: AtomicU64,
    /// Up to which of them the file has all. The write holds it, and not whoever asked for that, who
    /// may hang up: one writer at a time; who waited may find it done.
    saved: Arc<Mutex<u64>>,
}

impl StateFile {
    /// Opens the file and reads it; one that is not there is empty.
    ///
    /// # Errors
    /// Where it is damaged, somebody else's, in use, or larger than 4 MiB.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<(Hash, Lease)>), StateFileError> {
        let failed = |source| StateFileError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(folder).map_err(failed)?;
        }
        let lock = lock(path)?;
        let leases = match open_for_reading(path) {
            Ok(file) => read(path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let file = Self {
            path: path.to_owned(),
            _lock: lock,
            asked: AtomicU64::new(0),
            saved: Arc::default(),
        };
        Ok((file, leases))
    }
}

impl Shared {
    /// Has every revocation so far on disk, if there is a state file. What is revoked stays so
    /// where that fails: the caller is told to ask again.
    ///
    /// # Errors
    /// `unavailable` where the file cannot be written.
    pub(crate) async fn save_revocations(self: &Arc<Self>) -> Result<(), Refusal> {
        let Some(file) = &self.state_file else {
            return Ok(());
        };
        let mine = file.asked.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let saved = Arc::clone(&file.saved).lock_owned().await;
        if *saved >= mine {
            return Ok(());
        }
        let shared = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || shared.write_revocations(saved));
        writing.await.unwrap_or_else(|_panicked| Err(unsaved()))
    }

    /// Writes the file, in that turn.
    fn write_revocations(&self, mut saved: OwnedMutexGuard<u64>) -> Result<(), Refusal> {
        let Some(file) = &self.state_file else {
            return Ok(());
        };
        // Whoever asked by now has changed the leases before.
        let all = file.asked.load(Ordering::SeqCst);
        write(&file.path, &self.revoked()).map_err(|error| {
            tracing::error!(%error, path = %file.path.display(), "cannot save a revocation");
            unsaved()
        })?;
        *saved = all;
        Ok(())
    }

    /// The revoked leases, the newest revocations first.
    fn revoked(&self) -> Vec<Record> {
        let mut records: Vec<Record> = {
            let state = self.state();
            let revoked = state.leases.revoked(self.clock.now());
            revoked
                .filter_map(|(hash, lease)| Record::of(&hash, lease))
                .collect()
        };
        records.sort_by_key(|record| std::cmp::Reverse(record.revoked_ms));
        records.truncate(MAX_LEASES);
        records
    }
}

fn unsaved() -> Refusal {
    Refusal::bare(ErrorCode::Unavailable, "the revocation cannot be saved")
}

/// `path` with something at its end.
fn beside(path: &Path, tail: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(tail);
    PathBuf::from(name)
}

/// One server per file. The lock is a file of its own, because the other one is replaced.
fn lock(path: &Path) -> Result<File, StateFileError> {
    let failed = |source| StateFileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(no_follow());
    let file = options.open(beside(path, ".lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateFileError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn no_follow() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

/// Opens it without waiting for a pipe's other end, and never through a link.
fn open_for_reading(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn read(path: &Path, file: File) -> Result<Vec<(Hash, Lease)>, StateFileError> {
    let failed = |source| StateFileError::Io {
        path: path.to_owned(),
        source,
    };
    let found = file.metadata().map_err(failed)?;
    let why = if !found.is_file() {
        Some("it is no plain file")
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        Some("it is another user's")
    } else if found.mode() & 0o077 != 0 {
        Some("others may read or write it; its mode must be 0600")
    } else if found.len() > MAX_BYTES {
        Some("it is larger than 4 MiB")
    } else {
        None
    };
    if let Some(why) = why {
        return Err(StateFileError::Unsafe {
            path: path.to_owned(),
            why,
        });
    }
    let mut text = String::new();
    let damaged = || StateFileError::Damaged {
        path: path.to_owned(),
    };
    match file.take(MAX_BYTES).read_to_string(&mut text) {
        Ok(_) => parse(&text).ok_or_else(damaged),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged()),
        Err(error) => Err(failed(error)),
    }
}

fn parse(text: &str) -> Option<Vec<(Hash, Lease)>> {
    let (head, body) = text.split_once('\n')?;
    if head != header(body) {
        return None;
    }
    let records: Vec<Record> = serde_json::from_str(body).ok()?;
    if records.len() > MAX_LEASES {
        return None;
    }
    records.into_iter().map(Record::into_lease).collect()
}

fn header(body: &str) -> String {
    format!("{FORMAT} {}", base64url(&sha256(body.as_bytes())))
}

/// Puts a file in the place of the one before, or leaves that.
fn write(path: &Path, records: &[Record]) -> io::Result<()> {
    let body = serde_json::to_string(records)?;
    let text = format!("{}\n{body}", header(&body));
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let beside = beside(path, ".new");
    // What a crash left.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The new name is on disk, too.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::encoding::random_id;
    use crate::policy::Policy;

    fn record(revoked_ms: i64) -> Record {
        Record {
            lease: base64url(&sha256(revoked_ms.to_string().as_bytes())),
            tenant: "t".repeat(128),
            principal: "u".repeat(256),
            jkt: base64url(&[1; 32]),
            session: "ses_1".to_owned(),
            selector: format!("provider:{0}:app:{0}:account:{0}", "s".repeat(63)),
            created_ms: 1,
            expires_ms: i64::MAX,
            revoked_ms,
            max_redemptions: 10,
            redemptions_used: 10,
        }
    }

    fn text(records: &[Record]) -> String {
        let body = serde_json::to_string(records).unwrap();
        format!("{}\n{body}", header(&body))
    }

    /// A folder that ends with the test.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            // What stays is in the system's folder for such things.
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// Who hangs up during a write does not wait for it any more; the next write does.
    #[test]
    fn a_caller_that_hangs_up_leaves_its_turn_to_its_write() {
        let folder = Folder(std::env::temp_dir().join(random_id("aegis-mock-revocations-")));
        let path = folder.0.join("revocations");
        let (file, _) = StateFile::open(&path).unwrap();
        let api = "http://127.0.0.1:1/".parse().unwrap();
        let shared = Arc::new(Shared::new(api, Policy::parse(None).unwrap(), Some(file)));
        let turn = || shared.state_file.as_ref().unwrap().saved.try_lock().is_ok();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let entered = runtime.enter();
        // The write has to look at the leases, and cannot yet.
        let busy = shared.state();
        let mut revoking = Box::pin(shared.save_revocations());
        let mut context = Context::from_waker(Waker::noop());
        assert!(revoking.as_mut().poll(&mut context).is_pending());
        drop(revoking);
        assert!(!turn(), "two would write one file");
        drop(busy);
        drop(entered);
        runtime.block_on(shared.save_revocations()).unwrap();
        assert!(turn());
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&[]));
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let whole = text(&[record(1), record(2)]);
        let leases = parse(&whole).unwrap();
        assert_eq!(leases.len(), 2);
        assert_eq!(leases[0].0, sha256(b"1"));
        assert_eq!(leases[1].1.revoked_at, Some(Moment::from_unix_millis(2)));
        // Any byte, anywhere, and any length.
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(parse(&changed).is_none(), "{at}");
            assert!(parse(whole.get(..at).unwrap()).is_none(), "{at}");
        }
        assert!(parse(&format!("{whole} ")).is_none());
    }

    #[test]
    fn a_file_that_says_more_than_it_may_is_no_file() {
        let with = |change: fn(&mut Record)| {
            let mut record = record(1);
            change(&mut record);
            text(&[record])
        };
        let rows = [
            ("hash", with(|record| record.lease = "AAAA".to_owned())),
            ("selector", with(|record| record.selector = "*".to_owned())),
            ("unknown", {
                let body = r#"[{"leases":1}]"#;
                format!("{}\n{body}", header(body))
            }),
        ];
        for (name, text) in rows {
            assert!(parse(&text).is_none(), "{name}");
        }
    }

    #[test]
    fn the_most_that_is_written_is_read_again() {
        let mut records: Vec<Record> = (0..2048).map(record).collect();
        let longest = text(&records);
        assert!(u64::try_from(longest.len()).unwrap() <= MAX_BYTES);
        assert_eq!(parse(&longest).unwrap().len(), MAX_LEASES);
        records.push(record(-1));
        assert!(parse(&text(&records)).is_none());
    }
}
