use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::chain::{Hash, Head, Keys, SegmentKey};
use super::commit::{Mark, Order, Segment, Shared, Syncer, Unsynced};
use super::folder::{self, FolderError};
use super::history::{Calls, History};
use super::line::{self, Header, MAX_LINE};
use super::scan::{self, Bound, Scanned, Torn, Unreadable};
use super::wire::Line;
use crate::broker::ports::{
    AuditDamage, AuditError, AuditLog, AuditRecord, AuditReport, KeyStore, KeyStoreError,
    OpenLease, OwnCalls, PortFuture,
};
use crate::model::{Principal, ProfileName};
use crate::time::{Now, UnixTime};

/// When a segment is full: some 14,000 records, read in well under a second.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// How much may be in the kernel and not on disk. Group commits keep it to a few KiB, a crowd of
/// callers to a few times [`HURRY`]; only a disk that hangs lets it grow to this, and then nothing
/// more is delivered until it answers. A crowd writes some 25 MB/s: this is 0.25 s of it. Less than
/// a segment, because the append that begins a new one waits for the disk.
const MAX_UNSYNCED: u64 = 6 * 1024 * 1024;

/// With every so much written, the thread stops waiting for company and syncs. At the pace of a
/// crowd its wait alone would fill [`MAX_UNSYNCED`].
const HURRY: u64 = 256 * 1024;

/// Room for the batch of a crowd: 64 usual lines. A larger one makes it grow once.
const BATCH: usize = 64 * 1024;

/// Room for what the disk may not have that is kept while little is written.
const ROOM: usize = 64 * 1024;

/// Orders that may wait for the thread: two of the appends, a flush, a repair at the end.
const ORDERS: usize = 4;

/// How long the writer, which is the core's thread, waits for the disk where it must: at the end of
/// a segment and of the log. Far over what a disk that works takes, under heavy load too, and short
/// enough that a daemon whose disk hangs still answers, and stops.
const DISK_LIMIT: Duration = Duration::from_secs(5);

/// The audit log of a running daemon: the only writer of its folder.
///
/// Dropping it syncs what is left, so that at rest the anchor equals the head (AU-4); the keys
/// are wiped then. Where the disk hangs that is left to its thread after 5 s; until the thread ends
/// no other process can open the log.
pub struct FileAuditLog {
    shared: Arc<Shared>,
    tail: Tail,
    keys: Arc<Keys>,
    /// The first segment of this process.
    own: u64,
    key_persistent: bool,
    segment_bytes: u64,
    patience: Duration,
    orders: Option<SyncSender<Order>>,
    thread: Option<Thread>,
    /// The full segment is on its way to the disk: its answer.
    ending: Option<Receiver<bool>>,
    /// The lock ends with the file.
    _lock: Arc<File>,
}

/// The thread that syncs, and what closes when it ends.
struct Thread {
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

/// The segment that is written, as only the appender knows it.
struct Tail {
    segment: u64,
    path: PathBuf,
    file: Arc<File>,
    /// How far the kernel has it.
    written: Mark,
    /// How far it goes with the batch.
    staged: Mark,
    /// Lines that the kernel does not have yet. Holds no secret.
    batch: Vec<u8>,
    /// What the kernel has and the disk may not have. Trimmed with each request for a sync.
    unsynced: Vec<u8>,
    /// There was little of it at the last such trim.
    had_little: bool,
    /// The last write failed and may have left a part of a line behind.
    write_failed: bool,
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
            .map(Arc::new)
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
        let tail = begin_segment(folder, own, &head, &key, key_persistent, now.unix).map_err(io)?;
        folder::write_anchor(folder, &tail.written.head, &key).map_err(io)?;
        let shared = Arc::new(Shared::new(folder.to_owned(), key, tail.written));
        let (orders, received) = sync_channel(ORDERS);
        let thread = {
            let syncer = Syncer::new(Arc::clone(&shared), tail.as_segment());
            let (ends, ended) = sync_channel(0);
            let lock = Arc::clone(&lock);
            let handle = std::thread::Builder::new()
                .name("audit-sync".to_owned())
                .spawn(move || {
                    let _at_the_end: (SyncSender<()>, _) = (ends, lock);
                    syncer.run(&received);
                })
                .map_err(io)?;
            Thread { handle, ended }
        };
        let (open_leases, last_principals) = history.finish(now.unix);
        Ok(Opened {
            log: Self {
                shared,
                tail,
                keys,
                own,
                key_persistent,
                segment_bytes,
                patience: DISK_LIMIT,
                orders: Some(orders),
                thread: Some(thread),
                ending: None,
                _lock: lock,
            },
            open_leases,
            torn_tail,
            last_principals,
        })
    }

    /// Waits until everything appended so far is on disk and in the anchor, 5 s at most.
    ///
    /// # Errors
    /// [`AuditError`] when it could not be brought there in that time.
    pub fn flush(&self) -> Result<(), AuditError> {
        let done = self.begin_flush()?;
        match done.recv_timeout(self.patience) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(AuditError),
        }
    }

    /// Asks for everything to be brought to the disk; the answer says whether that worked.
    fn begin_flush(&self) -> Result<Receiver<bool>, AuditError> {
        let (done, wait) = sync_channel(1);
        let has_failed = self.shared.sync_failed.load(Ordering::SeqCst);
        let unsynced = has_failed.then(|| self.unsynced());
        let orders = self.orders.as_ref().ok_or(AuditError)?;
        orders
            .try_send(Order::Flush(unsynced, done))
            .map_err(|_full_or_gone| AuditError)?;
        Ok(wait)
    }

    /// Brings the full segment to the disk. Waits for that once; where the disk hangs, each later
    /// try only looks whether it has answered by now.
    fn end_segment(&mut self) -> io::Result<()> {
        let failed = || io::Error::other("the full segment could not be synced");
        let (done, patience) = match self.ending.take() {
            Some(done) => (done, Duration::ZERO),
            None => (
                self.begin_flush().map_err(|AuditError| failed())?,
                self.patience,
            ),
        };
        match done.recv_timeout(patience) {
            Ok(true) => Ok(()),
            Ok(false) | Err(RecvTimeoutError::Disconnected) => Err(failed()),
            Err(RecvTimeoutError::Timeout) => {
                self.ending = Some(done);
                Err(io::Error::other("the disk does not answer"))
            }
        }
    }

    /// Ends the full segment on disk and begins the next. The one place where an append waits
    /// for the disk.
    fn rotate(&mut self, at: UnixTime) -> io::Result<()> {
        self.end_segment()?;
        let mut begun = begin_segment(
            &self.shared.folder,
            self.tail.segment.saturating_add(1),
            &self.tail.written.head,
            &self.shared.key,
            self.key_persistent,
            at,
        )?;
        // The disk has the header; the anchor follows with the next sync.
        let Mark { len, .. } = begun.written;
        self.shared.synced_len.store(len, Ordering::SeqCst);
        // Growing a wiping buffer anew is dear.
        std::mem::swap(&mut begun.batch, &mut self.tail.batch);
        std::mem::swap(&mut begun.unsynced, &mut self.tail.unsynced);
        begun.unsynced.clear();
        self.tail = begun;
        let orders = self.orders.as_ref().ok_or_else(thread_is_gone)?;
        // The thread has just answered the last order.
        orders
            .try_send(Order::Begin(self.tail.as_segment()))
            .map_err(|_closed| thread_is_gone())
    }

    /// What the kernel has and the disk may not have, in bytes.
    fn unsynced_len(&self) -> u64 {
        let synced = self.shared.synced_len.load(Ordering::SeqCst);
        self.tail.written.len.saturating_sub(synced)
    }

    /// The same, as a copy.
    fn unsynced(&self) -> Unsynced {
        let bytes = self.tail.unsynced.clone();
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Unsynced {
            start: self.tail.written.len.saturating_sub(len),
            bytes,
        }
    }

    /// Closes delivery until a write works, and says so the first time.
    fn failed(&mut self, error: &io::Error) -> AuditError {
        if !std::mem::replace(&mut self.tail.write_failed, true) {
            tracing::error!(%error, "the audit log could not be written, delivery is closed");
        }
        AuditError
    }

    /// Formats the record at the end of the batch.
    fn stage_line(&mut self, record: &AuditRecord, at: UnixTime) -> io::Result<()> {
        if self.unsynced_len() >= MAX_UNSYNCED {
            return Err(io::Error::other("the disk does not keep up"));
        }
        let Tail { staged, batch, .. } = &mut self.tail;
        let start = batch.len();
        let seq = staged.head.count.saturating_add(1);
        let sealed = line::record(batch, seq, at, record, &staged.head.hash)
            .and_then(|()| seal(batch, start, &self.shared.key));
        match sealed {
            Ok((hash, len)) => {
                staged.head = Head { count: seq, hash };
                staged.len = staged.len.saturating_add(len);
                Ok(())
            }
            Err(error) => {
                batch.truncate(start);
                Err(error)
            }
        }
    }

    /// Whether the log takes records, as far as is known without one. After a failed write it is
    /// tried with bytes that are cut off again.
    fn stand(&mut self) -> Result<(), AuditError> {
        if self.shared.sync_failed.load(Ordering::SeqCst) {
            self.request_repair();
            return Err(AuditError);
        }
        let tail = &mut self.tail;
        if !tail.write_failed {
            return Ok(());
        }
        let len = tail.written.len;
        let tried = tail
            .file
            .set_len(len)
            .and_then(|()| write_once(&tail.file, &PROBE))
            .and_then(|()| tail.file.set_len(len));
        tail.write_failed = tried.is_err();
        tried.map_err(|_error| AuditError)
    }

    /// Hands the batch to the kernel in one write.
    fn write_batch(&mut self) -> io::Result<()> {
        let tail = &mut self.tail;
        if tail.write_failed {
            // Cuts off what a failed write may have left.
            tail.file.set_len(tail.written.len)?;
        }
        write_once(&tail.file, &tail.batch)?;
        tail.write_failed = false;
        let before = self.unsynced_len() / HURRY;
        self.tail.written = self.tail.staged;
        let is_much = self.unsynced_len() / HURRY > before;
        self.tail.unsynced.extend_from_slice(&self.tail.batch);
        self.shared.written.force_push(self.tail.written);
        self.request_sync(is_much);
        Ok(())
    }

    /// Wakes the thread, unless it was told already; a second word, once, ends its wait for company.
    fn request_sync(&mut self, at_once: bool) {
        let is_requested = self.shared.sync_requested.swap(true, Ordering::SeqCst);
        if is_requested && (!at_once || self.shared.hurry_requested.swap(true, Ordering::SeqCst)) {
            return;
        }
        if !is_requested {
            self.trim();
        }
        self.order(Order::Sync);
    }

    /// Each attempt to deliver is an attempt to get well.
    fn request_repair(&self) {
        if !self.shared.sync_requested.swap(true, Ordering::SeqCst) {
            self.order(Order::Repair(self.unsynced()));
        }
    }

    fn order(&self, order: Order) {
        // A full channel means that the thread is about to sync anyway; a closed one that it
        // panicked, which then shows as delivery closed.
        match self.orders.as_ref().map(|orders| orders.try_send(order)) {
            Some(Ok(()) | Err(TrySendError::Full(_))) => {}
            Some(Err(TrySendError::Disconnected(_))) | None => {
                self.shared.sync_failed.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Forgets what the disk has by now. The room of a crowd is given back when it has gone: a crowd
    /// would only have it made again, and once is little at the start of each segment.
    fn trim(&mut self) {
        let len = usize::try_from(self.unsynced_len()).unwrap_or(usize::MAX);
        let unsynced = &mut self.tail.unsynced;
        let held = unsynced.len();
        drop(unsynced.drain(..held.saturating_sub(len)));
        let is_little = held <= ROOM;
        if std::mem::replace(&mut self.tail.had_little, is_little) && is_little {
            unsynced.shrink_to(ROOM);
        }
    }

    pub(super) fn bound(&self) -> Bound {
        let Mark { head, len } = self.tail.written;
        Bound {
            head,
            synced: self.shared.synced_count.load(Ordering::SeqCst),
            segment: self.tail.segment,
            len,
            own: self.own,
            key: self.shared.key.clone(),
        }
    }

    /// One pass over the whole log on a thread that may block, in which each good line is noted.
    fn look<T: Default + Send + 'static>(
        &self,
        note: fn(&mut T, &Line<AuditRecord>),
    ) -> PortFuture<Result<(AuditReport, T), AuditError>> {
        let folder = self.shared.folder.clone();
        let keys = Arc::clone(&self.keys);
        let bound = self.bound();
        Box::pin(async move {
            let check = tokio::task::spawn_blocking(move || {
                let mut notes = T::default();
                scan::scan(&folder, &keys, Some(&bound), &mut |line| {
                    note(&mut notes, line);
                })
                .map(|found| (found.report, notes))
            });
            match check.await {
                Ok(Ok(found)) => Ok(found),
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

    /// What is held for the copy of what the disk may not have, in bytes.
    #[cfg(test)]
    pub(super) const fn room(&self) -> usize {
        self.tail.unsynced.capacity()
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits for the disk that long from now on.
    #[cfg(test)]
    pub(super) const fn wait_at_most(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Writes go to `file` from now on; returns where they went.
    #[cfg(test)]
    pub(super) fn divert(&mut self, file: Arc<File>) -> Arc<File> {
        std::mem::replace(&mut self.tail.file, file)
    }
}

impl AuditLog for FileAuditLog {
    fn stage(&mut self, record: &AuditRecord, now: Now) -> Result<(), AuditError> {
        if self.shared.sync_failed.load(Ordering::SeqCst) {
            self.request_repair();
            return Err(AuditError);
        }
        // Between batches only, so that a batch is in one segment.
        let is_full = self.tail.batch.is_empty() && self.tail.written.len >= self.segment_bytes;
        let staged = if is_full {
            self.rotate(now.unix)
        } else {
            Ok(())
        }
        .and_then(|()| self.stage_line(record, now.unix));
        staged.map_err(|error| self.failed(&error))
    }

    fn write(&mut self) -> Result<(), AuditError> {
        if self.tail.batch.is_empty() {
            return self.stand();
        }
        let had_failed = self.tail.write_failed;
        let written = self.write_batch();
        self.tail.batch.clear();
        // Where the write failed, the chain goes on from what the kernel has.
        self.tail.staged = self.tail.written;
        match written {
            Ok(()) if had_failed => {
                tracing::info!("the audit log is written again");
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn verify(&self) -> PortFuture<Result<AuditReport, AuditError>> {
        let found = self.look(|(), _line| {});
        Box::pin(async move { found.await.map(|(report, ())| report) })
    }

    fn calls(&self) -> PortFuture<Result<OwnCalls, AuditError>> {
        let found = self.look(Calls::note);
        Box::pin(async move {
            let (report, calls) = found.await?;
            Ok(calls.finish(report.damage.is_some()))
        })
    }
}

impl Drop for FileAuditLog {
    fn drop(&mut self) {
        // The thread syncs what is left and ends when the channel closes.
        if self.shared.sync_failed.load(Ordering::SeqCst) {
            self.order(Order::Repair(self.unsynced()));
        }
        self.orders = None;
        let Some(Thread { handle, ended }) = self.thread.take() else {
            return;
        };
        if ended.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the disk does not answer: the end of the audit log may not be on it");
        } else if handle.join().is_err() {
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
) -> io::Result<Tail> {
    let header = Header {
        segment,
        key_id: key.id(),
        key_persistent,
    };
    let seq = after.count.saturating_add(1);
    let mut batch = Vec::with_capacity(BATCH);
    line::header(&mut batch, seq, at, &header, &after.hash)?;
    let (hash, len) = seal(&mut batch, 0, key)?;
    let path = folder::segment_path(folder, segment);
    let file = folder::create_segment(&path)?;
    let written = write_once(&file, &batch)
        .and_then(|()| file.sync_all())
        .and_then(|()| folder::sync_folder(folder));
    if let Err(error) = written {
        fs::remove_file(&path)?;
        return Err(error);
    }
    batch.clear();
    let head = Head { count: seq, hash };
    let written = Mark { head, len };
    Ok(Tail {
        segment,
        path,
        file: Arc::new(file),
        written,
        staged: written,
        batch,
        unsynced: Vec::new(),
        had_little: false,
        write_failed: false,
    })
}

impl Tail {
    /// What the thread has to know of it.
    fn as_segment(&self) -> Segment {
        Segment {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            synced: self.written,
        }
    }
}

fn thread_is_gone() -> io::Error {
    io::Error::other("the thread that syncs is gone")
}

/// Ends the line that begins at `start`, so far up to `prev`, and returns its hash and length.
fn seal(bytes: &mut Vec<u8>, start: usize, key: &SegmentKey) -> io::Result<(Hash, u64)> {
    let hash = Hash::of(bytes.get(start..).unwrap_or_default());
    line::seal(bytes, &hash, &key.line_mac(&hash));
    let len = bytes.len().saturating_sub(start);
    if len > MAX_LINE {
        return Err(io::Error::other("the line is longer than a reader accepts"));
    }
    Ok((hash, u64::try_from(len).map_err(io::Error::other)?))
}

/// What a disk that was full is tried with: more than a record takes. Should a crash leave it, it
/// is a torn last line (AU-5).
const PROBE: [u8; 4096] = [b' '; 4096];

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
