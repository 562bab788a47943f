//! Reading the log offline: checking it and showing it. Needs no daemon and changes nothing.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use super::chain::Keys;
use super::folder;
use super::line::MAX_LINE;
use super::scan::{self, fault};
use super::wire;
use crate::broker::ports::{AuditDamage, AuditRecord, AuditReport};
use crate::time::UnixTime;

pub use super::scan::Unreadable;

/// Checks the whole log in `folder` with the keys there are. A report whose `keyed` is less than
/// its `records` says "chained, not keyed" about the rest, never "good" (AU-7). A folder without
/// a log has no records and no damage. While a daemon writes, its newest line may be seen half
/// written and is then reported like a crash's.
///
/// # Errors
/// [`Unreadable`] when a file cannot be read; damage is not an error but in the report.
pub fn verify(folder: &Path, keys: &Keys) -> Result<AuditReport, Unreadable> {
    scan::scan(folder, keys, None, &mut |_line| {}).map(|found| found.report)
}

/// One record of the log, with its number and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its sequence number. Numbers that are missing between records are segment headers.
    pub seq: u64,
    /// When it was written.
    pub at: UnixTime,
    /// What happened.
    pub record: AuditRecord,
}

/// Why the log cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A line is not one of ours.
    #[error("{}, line {}: {}", .0.file.display(), .0.line, .0.what)]
    Damaged(AuditDamage),
}

/// The newest records, at most `newest`, oldest first. Only the form of the lines is checked,
/// neither chain nor MACs; a torn last line is left out.
///
/// # Errors
/// [`ReadError`].
pub fn read(folder: &Path, newest: usize) -> Result<Vec<Entry>, ReadError> {
    let segments = folder::segments(folder).map_err(|source| Unreadable {
        path: folder.to_owned(),
        source,
    })?;
    let mut entries = VecDeque::new();
    for segment in segments.into_iter().rev() {
        let wanted = newest.saturating_sub(entries.len());
        if wanted == 0 {
            break;
        }
        for entry in read_segment(&folder::segment_path(folder, segment), wanted)?
            .into_iter()
            .rev()
        {
            entries.push_front(entry);
        }
    }
    Ok(entries.into())
}

/// Shows every record of the whole log to `visit`, the oldest first, and checks it as [`verify`]
/// does. Holds one record at a time.
///
/// # Errors
/// [`ReadError`]: what comes before a damage has been shown by then.
pub fn visit(folder: &Path, visit: &mut dyn FnMut(Entry)) -> Result<(), ReadError> {
    let found = scan::scan(folder, &Keys::none(), None, &mut |line| {
        visit(Entry {
            seq: line.seq,
            at: line.at,
            record: line.content.clone(),
        });
    })?;
    match found.report.damage {
        Some(damage) => Err(ReadError::Damaged(damage)),
        None => Ok(()),
    }
}

fn read_segment(path: &Path, newest: usize) -> Result<VecDeque<Entry>, ReadError> {
    let unreadable = |source: io::Error| Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = folder::open_regular(path).map_err(unreadable)?;
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::with_capacity(MAX_LINE);
    let mut scratch = Vec::with_capacity(MAX_LINE);
    let mut entries = VecDeque::new();
    for number in 1.. {
        bytes.clear();
        let read = reader
            .by_ref()
            .take(u64::try_from(MAX_LINE).unwrap_or(u64::MAX))
            .read_until(b'\n', &mut bytes)
            .map_err(unreadable)?;
        let damaged = |what| {
            ReadError::Damaged(AuditDamage {
                file: path.to_owned(),
                line: number,
                what,
            })
        };
        if !bytes.ends_with(b"\n") {
            if read >= MAX_LINE {
                return Err(damaged(fault::TOO_LONG));
            }
            break;
        }
        if number == 1 {
            wire::header(&bytes, &mut scratch).ok_or_else(|| damaged(fault::HEADER))?;
            continue;
        }
        let line = wire::record(&bytes, &mut scratch).ok_or_else(|| damaged(fault::LINE))?;
        if entries.len() == newest {
            entries.pop_front();
        }
        entries.push_back(Entry {
            seq: line.seq,
            at: line.at,
            record: line.content,
        });
    }
    Ok(entries)
}
