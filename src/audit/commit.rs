//! Group commit: what the appender wrote reaches the disk, then the anchor, from a thread of its
//! own that sleeps on a channel while nothing is written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::chain::{Head, SegmentKey};
use super::folder;

/// How long the thread waits for company before it syncs. AU-1 allows 100 ms from write to disk;
/// the other half is for the sync itself (its measured tail is 8 ms).
const GATHER: Duration = Duration::from_millis(50);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Something was written; a second word ends the wait for company.
    Sync,
    /// The last sync failed: try again, with what it may have lost.
    Repair(Unsynced),
    /// Sync now and say whether it went well. After a failed sync it comes with what that may
    /// have lost.
    Flush(Option<Unsynced>, SyncSender<bool>),
    /// The log goes on in another file; the one before was synced to its end.
    Begin(Segment),
}

/// How far a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its last line.
    pub(super) head: Head,
    /// Its whole lines, in bytes.
    pub(super) len: u64,
}

/// A segment, and how far disk and anchor have it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) synced: Mark,
}

/// The end of a segment that the disk may not have.
#[derive(Debug)]
pub(super) struct Unsynced {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
}

/// What appender and thread share. Nothing here makes the appender wait.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) folder: PathBuf,
    pub(super) key: SegmentKey,
    /// How far the kernel has the segment; the newest mark takes the place of the one before.
    pub(super) written: ArrayQueue<Mark>,
    /// Lines that disk and anchor have.
    pub(super) synced_count: AtomicU64,
    /// Bytes of the segment that the disk has.
    pub(super) synced_len: AtomicU64,
    /// The thread was told already.
    pub(super) sync_requested: AtomicBool,
    /// It was told not to wait for company, too.
    pub(super) hurry_requested: AtomicBool,
    /// The last sync failed: nothing may be delivered until one works.
    pub(super) sync_failed: AtomicBool,
    /// Held by the thread for a whole sync. Who takes it stands for a disk that hangs.
    pub(super) turn: Mutex<()>,
}

impl Shared {
    pub(super) fn new(folder: PathBuf, key: SegmentKey, synced: Mark) -> Self {
        Self {
            folder,
            key,
            written: ArrayQueue::new(1),
            synced_count: AtomicU64::new(synced.head.count),
            synced_len: AtomicU64::new(synced.len),
            sync_requested: AtomicBool::new(false),
            hurry_requested: AtomicBool::new(false),
            sync_failed: AtomicBool::new(false),
            turn: Mutex::new(()),
        }
    }
}

/// The thread's own part.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    segment: Segment,
    /// How far the kernel has it, as last seen.
    written: Mark,
    repair: Option<Unsynced>,
    waiting: Vec<SyncSender<bool>>,
}

impl Syncer {
    pub(super) fn new(shared: Arc<Shared>, segment: Segment) -> Self {
        Self {
            shared,
            written: segment.synced,
            segment,
            repair: None,
            waiting: Vec::new(),
        }
    }

    /// Ends, after a last sync, when the log is dropped.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let may_wait = matches!(order, Order::Sync);
            self.take(order);
            // Time is up, or the log was dropped: either way, sync.
            if may_wait && let Ok(next) = orders.recv_timeout(GATHER) {
                self.take(next);
            }
            self.settle();
        }
        self.settle();
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Sync => {}
            Order::Repair(unsynced) => self.repair = Some(unsynced),
            Order::Flush(unsynced, waiting) => {
                self.repair = unsynced.or(self.repair.take());
                self.waiting.push(waiting);
            }
            Order::Begin(segment) => {
                self.written = segment.synced;
                self.segment = segment;
            }
        }
    }

    fn settle(&mut self) {
        let done = self.commit();
        for waiting in self.waiting.drain(..) {
            if waiting.send(done).is_err() {
                tracing::debug!("nobody waits for the audit flush any more");
            }
        }
    }

    /// Brings disk and anchor up to what is written now. Returns whether that worked; a failure
    /// is logged here and closes delivery until a later try works.
    fn commit(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let _turn = shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the look: what is written after it asks anew.
        shared.sync_requested.store(false, Ordering::SeqCst);
        shared.hurry_requested.store(false, Ordering::SeqCst);
        if let Some(written) = shared.written.pop() {
            self.written = written;
        }
        let had_failed = shared.sync_failed.load(Ordering::SeqCst);
        if !had_failed && self.written == self.segment.synced {
            return true;
        }
        if had_failed && self.repair.is_none() {
            // A sync alone could report success for bytes that are lost.
            return false;
        }
        match self.sync() {
            Ok(()) => {
                self.repair = None;
                self.segment.synced = self.written;
                let Mark { head, len } = self.written;
                shared.synced_count.store(head.count, Ordering::SeqCst);
                shared.synced_len.store(len, Ordering::SeqCst);
                shared.sync_failed.store(false, Ordering::SeqCst);
                if had_failed {
                    tracing::info!("the audit log syncs again");
                }
                true
            }
            Err(error) => {
                if !had_failed {
                    tracing::error!(%error, "the audit log could not be synced, delivery is closed");
                }
                self.repair = None;
                shared.sync_failed.store(true, Ordering::SeqCst);
                false
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let Segment { path, file, .. } = &self.segment;
        let found = file.metadata()?;
        if found.nlink() == 0 || found.len() < self.written.len {
            return Err(io::Error::other("the segment was removed or cut"));
        }
        if let Some(Unsynced { start, bytes }) = &self.repair {
            // After a failed sync Linux calls the pages clean and drops them, and a second sync
            // would report success for bytes that are lost. The same bytes in the same place
            // make them dirty again.
            let again = folder::open_writable(path)?;
            let same = again.metadata()?;
            if (same.dev(), same.ino()) != (found.dev(), found.ino()) {
                return Err(io::Error::other("the segment was replaced"));
            }
            again.write_all_at(bytes, *start)?;
            again.sync_data()?;
        }
        file.sync_data()?;
        // A file that moved away would still sync.
        let named = fs::symlink_metadata(path)?;
        if (named.dev(), named.ino()) != (found.dev(), found.ino()) {
            return Err(io::Error::other("the segment was replaced"));
        }
        folder::write_anchor(&self.shared.folder, &self.written.head, &self.shared.key)
    }
}
