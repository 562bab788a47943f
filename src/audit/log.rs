use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::chain::{Hash, Head, Keys, SegmentKey};
use super::commit::{self, Shared, State, Wake};
use super::folder::{self, FolderError};
use super::history::History;
use super::line::{self, Header, MAX_LINE};
use super::scan::{self, Bound, Scanned, Torn, Unreadable};
use crate::broker::ports::{
    AuditDamage, AuditError, AuditLog, AuditRecord, AuditReport, KeyStore, KeyStoreError,
    OpenLease, PortFuture,
};
use crate::model::{Principal, ProfileName};
use crate::time::{Now, UnixTime};

/// When a segment is full: some 14,000 records, read in well under a second.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// How much may be in the kernel and not on disk. Group commits keep it to a few KiB, a crowd of
/// callers to a few times [`HURRY`]; only a disk that hangs lets it grow to this, and then nothing
/// more is delivered until it answers. A crowd writes some 25 MB/s: this is 0.25 s of it. Less than
/// a segment, because the append that begins a new one waits for the disk.
const MAX_UNSYNCED: usize = 6 * 1024 * 1024;

/// With every so much written, the thread stops waiting for company and syncs. At the pace of a
/// crowd its wait alone would fill [`MAX_UNSYNCED`].
const HURRY: usize = 256 * 1024;

/// Wakes that may wait for the thread. Appends send one at a time; the rest is for flushes.
const WAKES: usize = 4;

/// The audit log of a running daemon: the only writer of its folder.
///
/// Dropping it syncs what is left, so that at rest the anchor equals the head (AU-4); the keys
/// are wiped then.
pub struct FileAuditLog {
    shared: Arc<Shared>,
    keys: Arc<Keys>,
    /// The first segment of this process.
    own: u64,
    key_persistent: bool,
    segment_bytes: u64,
    /// Where each line is formatted. Holds no secret.
    line: Vec<u8>,
    wakes: Option<SyncSender<Wake>>,
    thread: Option<JoinHandle<()>>,
    /// The lock ends with the file.
    _lock: File,
}

/// A log ready for records, and what earlier runs left.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: FileAuditLog,
    /// Leases that may still work at the issuer, soonest end first (LC-10).
    pub open_leases: Vec<OpenLease>,
    /// Where the torn last line of a crash was moved to, if there was one (AU-5).
    pub torn_tail: Option<PathBuf>,
    /// Whom each profile was last logged in as, and not logged out since (AP-11).
    pub last_principals: BTreeMap<ProfileName, Principal>,
}

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is not one to keep a log in.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Another process writes it.
    #[error("another process writes the audit log in {}", .0.display())]
    Locked(PathBuf),
    /// What is there is not what was written. Nothing was changed.
    #[error("the audit log is damaged: {}, line {}: {}", .0.file.display(), .0.line, .0.what)]
    Damaged(AuditDamage),
    /// What is there could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A file could not be made or written.
    #[error("the audit log in {} could not be opened", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no key to be had.
    #[error("the key of the audit log could not be read or made")]
    Key(#[from] KeyStoreError),
}

impl FileAuditLog {
    /// Checks the whole log in `folder`, made if absent, and begins a new segment. Takes time
    /// with the size of the log and waits for the disk; call it from a thread that may block.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was written then, except that a torn last line may have been moved.
    pub fn open(folder: &Path, key_store: &dyn KeyStore, now: Now) -> Result<Opened, OpenError> {
        Self::open_with(folder, key_store, now, SEGMENT_BYTES)
    }

    pub(super) fn open_with(
        folder: &Path,
        key_store: &dyn KeyStore,
        now: Now,
        segment_bytes: u64,
    ) -> Result<Opened, OpenError> {
        let io = |source| OpenError::Io {
            path: folder.to_owned(),
            source,
        };
        folder::prepare(folder)?;
        let lock = folder::lock(folder)
            .map_err(io)?
            .ok_or_else(|| OpenError::Locked(folder.to_owned()))?;
        let key = SegmentKey::for_start(key_store)?;
        let keys = Arc::new(Keys::of([key.clone()]));
        let mut history = History::default();
        let found = scan::scan(folder, &keys, None, &mut |line| history.note(line))?;
        let Scanned {
            report,
            head,
            mut last_segment,
            torn,
        } = found;
        if let Some(damage) = report.damage {
            return Err(OpenError::Damaged(damage));
        }
        let torn_tail = match torn {
            Some(torn) => {
                if torn.whole == 0 {
                    last_segment = last_segment.saturating_sub(1);
                }
                Some(move_torn(folder, &torn).map_err(io)?)
            }
            None => None,
        };
        if last_segment == 0 {
            // Before the first line, so that a log without an anchor is always damage.
            folder::write_anchor(folder, &Head::EMPTY, &key).map_err(io)?;
        } else {
            // A crash may have left lines that only the kernel has.
            folder::open_regular(&folder::segment_path(folder, last_segment))
                .and_then(|file| file.sync_all())
                .map_err(io)?;
        }
        let own = last_segment.saturating_add(1);
        let key_persistent = key_store.is_persistent();
        let state =
            begin_segment(folder, own, &head, &key, key_persistent, now.unix).map_err(io)?;
        folder::write_anchor(folder, &state.head, &key).map_err(io)?;
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            key,
            turn: Mutex::new(()),
            state: Mutex::new(state),
        });
        let (wakes, woken) = sync_channel(WAKES);
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("audit-sync".to_owned())
                .spawn(move || commit::run(&shared, &woken))
                .map_err(io)?
        };
        let (open_leases, last_principals) = history.finish(now.unix);
        Ok(Opened {
            log: Self {
                shared,
                keys,
                own,
                key_persistent,
                segment_bytes,
                line: Vec::with_capacity(MAX_LINE),
                wakes: Some(wakes),
                thread: Some(thread),
                _lock: lock,
            },
            open_leases,
            torn_tail,
            last_principals,
        })
    }

    /// Waits until everything appended so far is on disk and in the anchor.
    ///
    /// # Errors
    /// [`AuditError`] when it could not be brought there.
    pub fn flush(&self) -> Result<(), AuditError> {
        let (done, wait) = sync_channel(1);
        let wakes = self.wakes.as_ref().ok_or(AuditError)?;
        wakes
            .send(Wake::Flush(done))
            .map_err(|_thread_is_gone| AuditError)?;
        match wait.recv() {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(AuditError),
        }
    }

    /// Ends the full segment on disk and begins the next. The one place where an append waits
    /// for the disk.
    fn rotate(&self, at: UnixTime) -> io::Result<()> {
        let turn = self.shared.turn();
        if !self.shared.commit(&turn) {
            return Err(io::Error::other("the full segment could not be synced"));
        }
        let (head, next) = {
            let state = self.shared.state();
            (state.head, state.segment.saturating_add(1))
        };
        let begun = begin_segment(
            &self.shared.folder,
            next,
            &head,
            &self.shared.key,
            self.key_persistent,
            at,
        )?;
        let mut state = self.shared.state();
        // Empty since the commit; kept because growing a wiping buffer anew is dear.
        let mut unsynced = std::mem::take(&mut state.unsynced);
        unsynced.clear();
        *state = State {
            // The disk has the header; the anchor follows with the next sync.
            synced: head,
            unsynced,
            ..begun
        };
        Ok(())
    }

    /// Formats the record after the current head and hands it to the kernel in one write.
    fn write(&mut self, record: &AuditRecord, at: UnixTime) -> io::Result<()> {
        let mut state = self.shared.state();
        if state.write_failed {
            // Cuts off what a failed write may have left.
            state.file.set_len(state.len)?;
        }
        if state.unsynced.len() >= MAX_UNSYNCED {
            return Err(io::Error::other("the disk does not keep up"));
        }
        let seq = state.head.count.saturating_add(1);
        self.line.clear();
        line::record(&mut self.line, seq, at, record, &state.head.hash)?;
        let hash = seal(&mut self.line, &self.shared.key)?;
        let len = u64::try_from(self.line.len()).map_err(io::Error::other)?;
        write_once(&state.file, &self.line)?;
        state.write_failed = false;
        state.head = Head { count: seq, hash };
        state.len = state.len.saturating_add(len);
        let before = state.unsynced.len() / HURRY;
        state.unsynced.extend_from_slice(&self.line);
        let is_much = state.unsynced.len() / HURRY > before;
        self.request_sync(&mut state, is_much);
        Ok(())
    }

    /// Wakes the thread, unless it was told already; a second word ends its wait for company.
    fn request_sync(&self, state: &mut State, at_once: bool) {
        if state.sync_requested && !at_once {
            return;
        }
        // A full channel means that the thread is about to sync anyway; a closed one that it
        // panicked, which then shows as delivery closed.
        match self.wakes.as_ref().map(|wakes| wakes.try_send(Wake::Sync)) {
            Some(Ok(())) => state.sync_requested = true,
            Some(Err(std::sync::mpsc::TrySendError::Full(_))) => {}
            Some(Err(std::sync::mpsc::TrySendError::Disconnected(_))) | None => {
                state.sync_failed = true;
            }
        }
    }

    pub(super) fn bound(&self) -> Bound {
        let state = self.shared.state();
        Bound {
            head: state.head,
            synced: state.synced.count,
            segment: state.segment,
            len: state.len,
            own: self.own,
            key: self.shared.key.clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl AuditLog for FileAuditLog {
    fn append(&mut self, record: &AuditRecord, now: Now) -> Result<(), AuditError> {
        let (is_full, had_failed) = {
            let mut state = self.shared.state();
            if state.sync_failed {
                // Each attempt to deliver is an attempt to get well.
                self.request_sync(&mut state, false);
                return Err(AuditError);
            }
            (state.len >= self.segment_bytes, state.write_failed)
        };
        let result = if is_full {
            self.rotate(now.unix)
                .and_then(|()| self.write(record, now.unix))
        } else {
            self.write(record, now.unix)
        };
        match result {
            Ok(()) => {
                if had_failed {
                    tracing::info!("the audit log is written again");
                }
                Ok(())
            }
            Err(error) => {
                self.shared.state().write_failed = true;
                if !had_failed {
                    tracing::error!(%error, "the audit log could not be written, delivery is closed");
                }
                Err(AuditError)
            }
        }
    }

    fn verify(&self) -> PortFuture<Result<AuditReport, AuditError>> {
        let folder = self.shared.folder.clone();
        let keys = Arc::clone(&self.keys);
        let bound = self.bound();
        Box::pin(async move {
            let check = tokio::task::spawn_blocking(move || {
                scan::scan(&folder, &keys, Some(&bound), &mut |_line| {})
            });
            match check.await {
                Ok(Ok(found)) => Ok(found.report),
                Ok(Err(error)) => {
                    tracing::error!(error = %error.source, path = %error.path.display(), "the audit log could not be read");
                    Err(AuditError)
                }
                Err(error) => {
                    tracing::error!(
                        is_panic = error.is_panic(),
                        "the audit check did not finish"
                    );
                    Err(AuditError)
                }
            }
        })
    }
}

impl Drop for FileAuditLog {
    fn drop(&mut self) {
        // The thread syncs what is left and ends when the channel closes.
        self.wakes = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the audit sync thread panicked");
        }
    }
}

impl fmt::Debug for FileAuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileAuditLog")
            .field("folder", &self.shared.folder)
            .finish_non_exhaustive()
    }
}

/// Makes the segment with its header, on disk when this returns. A segment that could not be
/// begun is removed again.
fn begin_segment(
    folder: &Path,
    segment: u64,
    after: &Head,
    key: &SegmentKey,
    key_persistent: bool,
    at: UnixTime,
) -> io::Result<State> {
    let header = Header {
        segment,
        key_id: key.id(),
        key_persistent,
    };
    let seq = after.count.saturating_add(1);
    let mut bytes = Vec::with_capacity(512);
    line::header(&mut bytes, seq, at, &header, &after.hash)?;
    let hash = seal(&mut bytes, key)?;
    let path = folder::segment_path(folder, segment);
    let file = folder::create_segment(&path)?;
    let written = write_once(&file, &bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| folder::sync_folder(folder));
    if let Err(error) = written {
        fs::remove_file(&path)?;
        return Err(error);
    }
    let head = Head { count: seq, hash };
    Ok(State {
        segment,
        path,
        file: Arc::new(file),
        len: u64::try_from(bytes.len()).map_err(io::Error::other)?,
        head,
        synced: head,
        unsynced: Vec::new(),
        sync_requested: false,
        sync_failed: false,
        write_failed: false,
    })
}

/// Ends the line in `bytes`, so far up to `prev`, and returns its hash.
fn seal(bytes: &mut Vec<u8>, key: &SegmentKey) -> io::Result<Hash> {
    let hash = Hash::of(bytes);
    line::seal(bytes, &hash, &key.line_mac(&hash));
    if bytes.len() > MAX_LINE {
        return Err(io::Error::other("the line is longer than a reader accepts"));
    }
    Ok(hash)
}

/// All of it in one write, or an error.
fn write_once(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    loop {
        match file.write(bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            // Disk full, quota or file size limit: the next write would say which.
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Moves the torn line of a crash out of the way, the copy first.
fn move_torn(folder: &Path, torn: &Torn) -> io::Result<PathBuf> {
    let kept = folder::keep_torn(folder, torn.segment, &torn.bytes)?;
    let path = folder::segment_path(folder, torn.segment);
    if torn.whole == 0 {
        fs::remove_file(path)?;
    } else {
        let file = folder::open_writable(&path)?;
        file.set_len(torn.whole)?;
        file.sync_all()?;
    }
    folder::sync_folder(folder)?;
    Ok(kept)
}
