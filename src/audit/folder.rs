use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::chain::{Hash, Head, SegmentKey};
use super::{line, wire};

/// Where the writer's lock is.
const LOCK: &str = "lock";
/// Where the anchor is.
const ANCHOR: &str = "anchor";
/// Where the next anchor is written before it takes the old one's name.
const NEW_ANCHOR: &str = "anchor.new";
/// An anchor has at most 20 digits, two hashes and the words around them.
const MAX_ANCHOR: u64 = 256;
/// Names tried for one torn line's side file. Only repeated crashes while one is moved, or
/// somebody's clutter, use up more than one.
const MAX_TORN_NAMES: u32 = 100;

/// Why a folder may not hold the audit log.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It could not be made or looked at.
    #[error("the audit folder {} could not be made or read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or a link stands there; links are not followed.
    #[error("{} is not a folder (links are not followed)", .0.display())]
    NotAFolder(PathBuf),
    /// Another user owns it.
    #[error("the audit folder {} belongs to another user", .0.display())]
    NotOurs(PathBuf),
    /// Others may enter it.
    #[error("the audit folder {} is open to others (mode {mode:04o}, wanted 0700)", path.display())]
    OpenToOthers {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Makes the folder with mode 0700 if it is absent, then checks it without following links:
/// a folder, ours, no group or other bits.
pub(super) fn prepare(path: &Path) -> Result<(), FolderError> {
    let io = |source| FolderError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(io)?;
        }
        Err(error) => return Err(io(error)),
    }
    let found = fs::symlink_metadata(path).map_err(io)?;
    if !found.is_dir() {
        return Err(FolderError::NotAFolder(path.to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(FolderError::NotOurs(path.to_owned()));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FolderError::OpenToOthers {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Takes the writer's lock for as long as the file stays open; `None` when another has it.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = private()
        .create(true)
        .truncate(false)
        .open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// The path of a segment.
pub(super) fn segment_path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("audit-{segment:06}.jsonl"))
}

/// The numbers of the segments there are, ascending. Other files are nobody's business.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"))
            .and_then(|digits| digits.parse::<u64>().ok());
        if let Some(number) = number
            && segment_path(folder, number).file_name() == Some(&name)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes a segment that was not there before, for appending.
pub(super) fn create_segment(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Opens a file of the log for reading, without following links and without waiting for a FIFO.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
        .open(path)?;
    regular(file)
}

/// Opens a file of ours for writing at given places or cutting, without following links.
pub(super) fn open_writable(path: &Path) -> io::Result<File> {
    regular(private().open(path)?)
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

/// Writes the folder's entries to disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The anchor's path.
pub(super) fn anchor_path(folder: &Path) -> PathBuf {
    folder.join(ANCHOR)
}

/// Why there is no anchor to go by, as a sentence of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnchorFault {
    Missing,
    Malformed,
}

/// Reads the anchor with its MAC.
pub(super) fn read_anchor(folder: &Path) -> io::Result<Result<(Head, Hash), AnchorFault>> {
    let path = anchor_path(folder);
    let file = match open_regular(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(AnchorFault::Missing));
        }
        Err(error) if is_link(&path) || error.kind() == io::ErrorKind::InvalidInput => {
            return Ok(Err(AnchorFault::Malformed));
        }
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_ANCHOR).read_to_end(&mut bytes)?;
    Ok(wire::anchor(&bytes).ok_or(AnchorFault::Malformed))
}

/// Whether a link stands there: for telling a planted link from a failing disk.
pub(super) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// Replaces the anchor. A crash leaves the old one or the new one, whole.
pub(super) fn write_anchor(folder: &Path, head: &Head, key: &SegmentKey) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(160);
    line::anchor(&mut bytes, head, &key.anchor_mac(head))?;
    let new = folder.join(NEW_ANCHOR);
    let mut file = private().create(true).truncate(true).open(&new)?;
    file.write_all(&bytes)?;
    // Else the new name could reach the disk before what it names.
    file.sync_data()?;
    fs::rename(&new, anchor_path(folder))
}

/// Puts a torn line into a file of its own, on disk when this returns.
pub(super) fn keep_torn(folder: &Path, segment: u64, torn: &[u8]) -> io::Result<PathBuf> {
    for attempt in 0..MAX_TORN_NAMES {
        let path = folder.join(format!("torn-{segment:06}-{attempt}"));
        match private().create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(torn)?;
                file.sync_all()?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .mode(0o600)
        .custom_flags(flags(OFlags::NOFOLLOW));
    options
}

/// The flags as the standard library takes them.
fn flags(flags: OFlags) -> i32 {
    // Linux's open flags fit; if one ever did not, none would be set and the checks after
    // opening would still hold.
    i32::try_from(flags.bits()).unwrap_or(0)
}
