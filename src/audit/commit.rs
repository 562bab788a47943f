//! Group commit: what the appender wrote reaches the disk, then the anchor, from a thread of its
//! own that sleeps on a channel while nothing is written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chain::{Head, SegmentKey};
use super::folder;

/// How long the thread waits for company before it syncs. AU-1 allows 100 ms from write to disk;
/// the other half is for the sync itself (its measured tail is 8 ms).
const GATHER: Duration = Duration::from_millis(50);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Wake {
    /// Something was written, or a failed sync is to be tried again.
    Sync,
    /// Sync now and say when it is done and whether it went well.
    Flush(SyncSender<bool>),
}

/// What appender and thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) folder: PathBuf,
    pub(super) key: SegmentKey,
    /// Held by whoever syncs, for the whole sync, so that anchors never go backwards. Taken
    /// before `state`, never while holding it.
    pub(super) turn: Mutex<()>,
    /// Held for one write or one look, never during a sync.
    pub(super) state: Mutex<State>,
}

/// Where the log stands.
#[derive(Debug)]
pub(super) struct State {
    pub(super) segment: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// Whole lines of the segment that the kernel has, in bytes.
    pub(super) len: u64,
    /// The last line that the kernel has.
    pub(super) head: Head,
    /// The last line that the disk and the anchor have.
    pub(super) synced: Head,
    /// The end of the segment that the disk may not have. Empties with each sync.
    pub(super) unsynced: Vec<u8>,
    /// The thread was told already.
    pub(super) sync_requested: bool,
    /// The last sync failed: nothing may be delivered until one works.
    pub(super) sync_failed: bool,
    /// The last write failed and may have left a part of a line behind.
    pub(super) write_failed: bool,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else syncs.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings disk and anchor up to what is written now. Returns whether that worked; a failure
    /// is logged here and closes delivery until a later try works.
    pub(super) fn commit(&self, _turn: &MutexGuard<'_, ()>) -> bool {
        let (job, had_failed) = {
            let mut state = self.state();
            state.sync_requested = false;
            if state.synced == state.head && !state.sync_failed {
                return true;
            }
            (Job::of(&state), state.sync_failed)
        };
        let result = self.sync(&job);
        let mut state = self.state();
        match result {
            Ok(()) => {
                state.synced = job.head;
                let done = job.unsynced_len.min(state.unsynced.len());
                drop(state.unsynced.drain(..done));
                state.sync_failed = false;
                if had_failed {
                    tracing::info!("the audit log syncs again");
                }
                true
            }
            Err(error) => {
                if !had_failed {
                    tracing::error!(%error, "the audit log could not be synced, delivery is closed");
                }
                state.sync_failed = true;
                false
            }
        }
    }

    fn sync(&self, job: &Job) -> io::Result<()> {
        let found = job.file.metadata()?;
        if found.nlink() == 0 || found.len() < job.len {
            return Err(io::Error::other("the segment was removed or cut"));
        }
        if let Some(unsynced) = &job.rewrite {
            // After a failed sync Linux calls the pages clean and drops them, and a second sync
            // would report success for bytes that are lost. The same bytes in the same place
            // make them dirty again.
            let again = folder::open_writable(&job.path)?;
            let same = again.metadata()?;
            if (same.dev(), same.ino()) != (found.dev(), found.ino()) {
                return Err(io::Error::other("the segment was replaced"));
            }
            let start = u64::try_from(unsynced.len())
                .ok()
                .and_then(|unsynced| job.len.checked_sub(unsynced))
                .ok_or_else(|| io::Error::other("the segment is shorter than its end"))?;
            again.write_all_at(unsynced, start)?;
            again.sync_data()?;
        }
        job.file.sync_data()?;
        // A file that moved away would still sync.
        let named = fs::symlink_metadata(&job.path)?;
        if (named.dev(), named.ino()) != (found.dev(), found.ino()) {
            return Err(io::Error::other("the segment was replaced"));
        }
        folder::write_anchor(&self.folder, &job.head, &self.key)
    }
}

/// One sync: what it covers.
struct Job {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    head: Head,
    unsynced_len: usize,
    rewrite: Option<Vec<u8>>,
}

impl Job {
    fn of(state: &State) -> Self {
        Self {
            path: state.path.clone(),
            file: Arc::clone(&state.file),
            len: state.len,
            head: state.head,
            unsynced_len: state.unsynced.len(),
            rewrite: state.sync_failed.then(|| state.unsynced.clone()),
        }
    }
}

/// The thread: ends, after a last sync, when the log is dropped.
pub(super) fn run(shared: &Shared, wakes: &Receiver<Wake>) {
    while let Ok(wake) = wakes.recv() {
        let waiting = match wake {
            Wake::Flush(waiting) => Some(waiting),
            Wake::Sync => match wakes.recv_timeout(GATHER) {
                Ok(Wake::Flush(waiting)) => Some(waiting),
                // Time is up, or the log was dropped: either way, sync.
                Ok(Wake::Sync) | Err(_) => None,
            },
        };
        let done = shared.commit(&shared.turn());
        if let Some(waiting) = waiting
            && waiting.send(done).is_err()
        {
            tracing::debug!("nobody waits for the audit flush any more");
        }
    }
    shared.commit(&shared.turn());
}
