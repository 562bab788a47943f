//! Hashes of peers' executables, for rules that name one. A hint like all that is known of a peer
//! (PE-3): it says which file was started, not whose code runs in it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{Mode, OFlags, openat};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::model::FileHash;

/// A larger executable has no hash: agents that bundle their runtime are below this, and half a
/// second is long enough for a connection to wait.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Hashes that are remembered (LM): more than a person has programs that ask. Past that all are
/// forgotten; finding one again takes some milliseconds.
const MAX_KNOWN: usize = 256;

/// One read.
const CHUNK: usize = 64 * 1024;

/// What a file was when it was hashed: with another of these it is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileState {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// `None` for what is no file, and for one that is too large.
    fn of(file: &File) -> Option<Self> {
        let found = file.metadata().ok()?;
        (found.is_file() && found.len() <= MAX_BYTES).then(|| Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// What is known. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct ExeHashes {
    /// Locked to look up or to add one.
    known: Arc<Mutex<HashMap<FileState, FileHash>>>,
    /// One file is read at a time, so that many peers of one program read it once.
    turn: Arc<Semaphore>,
}

impl Default for ExeHashes {
    fn default() -> Self {
        Self {
            known: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl ExeHashes {
    /// The hash of the executable of the process with this folder; `None` where the kernel does not
    /// show it, where it is too large, and where it changes meanwhile.
    pub(super) async fn of(&self, folder: &OwnedFd) -> Option<FileHash> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat(folder, "exe", flags, Mode::empty()).ok()?);
        self.of_file(file).await
    }

    async fn of_file(&self, file: File) -> Option<FileHash> {
        let state = FileState::of(&file)?;
        if let Some(hash) = self.known(&state) {
            return Some(hash);
        }
        let _turn = self.turn.acquire().await.ok()?;
        if let Some(hash) = self.known(&state) {
            return Some(hash);
        }
        let hash = spawn_blocking(move || {
            let hash = hash(&file).ok()?;
            (FileState::of(&file) == Some(state)).then_some(hash)
        });
        let hash = hash.await.ok()??;
        self.learn(state, hash);
        Some(hash)
    }

    fn known(&self, state: &FileState) -> Option<FileHash> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(state).copied()
    }

    fn learn(&self, state: FileState, hash: FileHash) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(state, hash);
    }
}

/// Reads no further than the bound, whatever the file has become.
fn hash(file: &File) -> io::Result<FileHash> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    let mut file = file.take(MAX_BYTES);
    loop {
        let length = file.read(&mut chunk)?;
        let Some(read) = chunk.get(..length).filter(|read| !read.is_empty()) else {
            break;
        };
        context.update(read);
    }
    let hash = context.finish();
    let hash: [u8; 32] = hash.as_ref().try_into().map_err(io::Error::other)?;
    Ok(FileHash::new(hash))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn known(hashes: &ExeHashes) -> usize {
        hashes.known.lock().unwrap().len()
    }

    /// PE-3: as `sha256sum` says it; read once while it stays what it is, and again when it does not.
    #[tokio::test]
    async fn a_file_is_hashed_once_for_each_state() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let hashes = ExeHashes::default();
        let of =
            async |file: &tempfile::NamedTempFile| hashes.of_file(file.reopen().unwrap()).await;
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of(&file).await, FileHash::parse(empty));
        file.write_all(b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for _ in 0..2 {
            assert_eq!(of(&file).await, FileHash::parse(abc));
            assert_eq!(known(&hashes), 2);
        }
    }

    /// LM: a file of the bound is hashed as far as its size goes, one that is a byte longer is not;
    /// what is no file never is.
    #[tokio::test]
    async fn what_is_too_large_has_no_hash() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_BYTES).unwrap();
        assert!(FileState::of(file.as_file()).is_some());
        file.as_file().set_len(MAX_BYTES + 1).unwrap();
        let hashes = ExeHashes::default();
        assert_eq!(hashes.of_file(file.reopen().unwrap()).await, None);
        let folder = File::open(std::env::temp_dir()).unwrap();
        assert_eq!(hashes.of_file(folder).await, None);
        assert_eq!(known(&hashes), 0);
    }

    /// LM: one more than are remembered makes all of them go.
    #[test]
    fn what_is_remembered_is_bounded() {
        let hashes = ExeHashes::default();
        let state = |inode| FileState {
            device: 1,
            inode,
            bytes: 1,
            modified: (0, 0),
            changed: (0, 0),
        };
        for inode in 0..u64::try_from(MAX_KNOWN).unwrap() {
            hashes.learn(state(inode), FileHash::new([0; 32]));
        }
        assert_eq!(known(&hashes), MAX_KNOWN);
        hashes.learn(state(u64::MAX), FileHash::new([1; 32]));
        assert_eq!(known(&hashes), 1);
        assert_eq!(hashes.known(&state(u64::MAX)), Some(FileHash::new([1; 32])));
    }
}
