//! One pass over the whole log: every line, the chain, the MACs and the anchor.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::chain::{Hash, Head, Keys, SegmentKey, same};
use super::folder::{self, AnchorFault};
use super::line::{Header, MAX_LINE};
use super::wire::{self, Line};
use crate::broker::ports::{AuditDamage, AuditRecord, AuditReport};

/// The closed set of what can be wrong.
pub(super) mod fault {
    pub(in super::super) const NOT_A_FILE: &str = "not a regular file";
    pub(in super::super) const SEGMENT_MISSING: &str = "a segment is missing";
    pub(in super::super) const HEADER: &str = "not the header of this segment";
    pub(in super::super) const KEY: &str =
        "the segment names another key than the one it was opened with";
    pub(in super::super) const LINE: &str = "not a line as the broker writes it";
    pub(in super::super) const TOO_LONG: &str = "the line is longer than 16 KiB";
    pub(in super::super) const TORN: &str = "the line is cut off";
    pub(in super::super) const SEQUENCE: &str = "the sequence number is not the next one";
    pub(in super::super) const CHAIN: &str = "the line does not follow the one before it";
    pub(in super::super) const HASH: &str = "the hash does not fit the line";
    pub(in super::super) const MAC: &str = "the mac does not fit the line";
    pub(in super::super) const SHORT: &str = "the log ends before its anchor";
    pub(in super::super) const UNANCHORED: &str = "the line is not the one that the anchor names";
    pub(in super::super) const ANCHOR_MISSING: &str = "the anchor is missing";
    pub(in super::super) const ANCHOR_MALFORMED: &str = "not an anchor as the broker writes it";
    pub(in super::super) const ANCHOR_MAC: &str = "the mac does not fit the anchor";
    pub(in super::super) const ANCHOR_OLD: &str = "the anchor is older than the last sync";
}

/// A file of the log could not be read: neither good nor damaged is known.
#[derive(Debug, thiserror::Error)]
#[error("{} could not be read", path.display())]
pub struct Unreadable {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What a running writer knows about its own log, and so can demand of it.
#[derive(Debug)]
pub(super) struct Bound {
    /// The last line that it wrote.
    pub(super) head: Head,
    /// How many lines it has synced; no anchor may say less.
    pub(super) synced: u64,
    /// The segment it was writing, and how long that was.
    pub(super) segment: u64,
    pub(super) len: u64,
    /// The first segment that it opened; from there on all carry its key.
    pub(super) own: u64,
    pub(super) key: SegmentKey,
}

/// What a pass found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) report: AuditReport,
    /// The last good line.
    pub(super) head: Head,
    /// The highest segment there is; 0 for none.
    pub(super) last_segment: u64,
    pub(super) torn: Option<Torn>,
}

/// The torn last line of a crash (AU-5).
#[derive(Debug)]
pub(super) struct Torn {
    pub(super) segment: u64,
    /// How much of the segment is whole lines; 0 where even the header was torn.
    pub(super) whole: u64,
    pub(super) bytes: Vec<u8>,
}

/// Checks the log in `folder`, up to `bound` where a writer gives one, and shows each good
/// record to `visit`.
pub(super) fn scan(
    folder: &Path,
    keys: &Keys,
    bound: Option<&Bound>,
    visit: &mut dyn FnMut(&Line<AuditRecord>),
) -> Result<Scanned, Unreadable> {
    // The anchor first: the log only grows, so it is never behind an anchor read before it.
    let anchor = folder::read_anchor(folder).map_err(|source| Unreadable {
        path: folder::anchor_path(folder),
        source,
    })?;
    let mut segments = folder::segments(folder).map_err(|source| Unreadable {
        path: folder.to_owned(),
        source,
    })?;
    segments.retain(|number| *number > 0 && bound.is_none_or(|bound| *number <= bound.segment));
    let mut scan = Scan {
        folder,
        keys,
        bound,
        anchor,
        visit,
        head: Head::EMPTY,
        place: (folder::segment_path(folder, 1), 0),
        records: 0,
        keyed: 0,
        torn: None,
        buffer: Vec::with_capacity(MAX_LINE),
        scratch: Vec::with_capacity(MAX_LINE),
    };
    let damage = match scan.run(&segments) {
        Ok(()) => None,
        Err(Stop::Damaged(damage)) => Some(damage),
        Err(Stop::Unreadable(error)) => return Err(error),
    };
    Ok(Scanned {
        report: AuditReport {
            records: scan.records,
            keyed: scan.keyed,
            torn_tail: scan.torn.is_some() && damage.is_none(),
            damage,
        },
        head: scan.head,
        last_segment: segments.last().copied().unwrap_or(0),
        torn: scan.torn,
    })
}

enum Stop {
    Damaged(AuditDamage),
    Unreadable(Unreadable),
}

struct Scan<'a> {
    folder: &'a Path,
    keys: &'a Keys,
    bound: Option<&'a Bound>,
    anchor: Result<(Head, Hash), AnchorFault>,
    visit: &'a mut dyn FnMut(&Line<AuditRecord>),
    head: Head,
    /// File and line of the last good line.
    place: (PathBuf, u64),
    records: u64,
    keyed: u64,
    torn: Option<Torn>,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

impl Scan<'_> {
    fn run(&mut self, segments: &[u64]) -> Result<(), Stop> {
        for (number, expected) in segments.iter().zip(1..) {
            if *number != expected {
                let path = folder::segment_path(self.folder, expected);
                return Err(damaged(&path, 1, fault::SEGMENT_MISSING));
            }
            self.segment(*number, segments.last() == Some(number))?;
        }
        self.end(segments.is_empty())
    }

    fn segment(&mut self, number: u64, is_last: bool) -> Result<(), Stop> {
        let path = folder::segment_path(self.folder, number);
        self.place = (path.clone(), 0);
        let unreadable = |source| {
            Stop::Unreadable(Unreadable {
                path: path.clone(),
                source,
            })
        };
        let file = match folder::open_regular(&path) {
            Ok(file) => file,
            Err(error) if folder::is_link(&path) || error.kind() == io::ErrorKind::InvalidInput => {
                return Err(damaged(&path, 1, fault::NOT_A_FILE));
            }
            Err(error) => return Err(unreadable(error)),
        };
        let limit = match self.bound {
            Some(bound) if bound.segment == number => bound.len,
            Some(_) | None => u64::MAX,
        };
        let may_be_torn = is_last && self.bound.is_none();
        let mut reader = BufReader::new(file.take(limit));
        let mut key = None;
        let mut whole = 0;
        for line in 1.. {
            self.buffer.clear();
            let read = reader
                .by_ref()
                .take(u64::try_from(MAX_LINE).unwrap_or(u64::MAX))
                .read_until(b'\n', &mut self.buffer)
                .map_err(unreadable)?;
            let is_whole = self.buffer.ends_with(b"\n");
            if !is_whole && read >= MAX_LINE {
                return Err(damaged(&path, line, fault::TOO_LONG));
            }
            // An empty last segment is a header torn at its first byte.
            if !is_whole && may_be_torn && (read > 0 || line == 1) {
                self.torn = Some(Torn {
                    segment: number,
                    whole,
                    bytes: self.buffer.clone(),
                });
                return Ok(());
            }
            if line == 1 && read == 0 {
                return Err(damaged(&path, line, fault::HEADER));
            }
            if read == 0 {
                return Ok(());
            }
            if !is_whole {
                return Err(damaged(&path, line, fault::TORN));
            }
            if line == 1 {
                key = self.header(number, &path)?;
            } else {
                self.record(line, &path, key.as_ref())?;
            }
            whole = whole.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            self.place.1 = line;
        }
        Ok(())
    }

    fn header(&mut self, number: u64, path: &Path) -> Result<Option<SegmentKey>, Stop> {
        let Some(line) = wire::header(&self.buffer, &mut self.scratch) else {
            return Err(damaged(path, 1, fault::HEADER));
        };
        let Header {
            segment,
            key_id,
            key_persistent: _,
        } = line.content;
        if segment != number {
            return Err(damaged(path, 1, fault::HEADER));
        }
        if let Some(bound) = self.bound
            && number >= bound.own
            && key_id != bound.key.id()
        {
            return Err(damaged(path, 1, fault::KEY));
        }
        let key = self.keys.get(&key_id).cloned();
        self.follow(1, path, &line, key.as_ref())?;
        Ok(key)
    }

    fn record(&mut self, number: u64, path: &Path, key: Option<&SegmentKey>) -> Result<(), Stop> {
        let Some(line) = wire::record(&self.buffer, &mut self.scratch) else {
            return Err(damaged(path, number, fault::LINE));
        };
        self.follow(number, path, &line, key)?;
        self.records += 1;
        if key.is_some() {
            self.keyed += 1;
        }
        (self.visit)(&line);
        Ok(())
    }

    /// Whether the line follows the last good one and is what was written.
    fn follow<T>(
        &mut self,
        number: u64,
        path: &Path,
        line: &Line<T>,
        key: Option<&SegmentKey>,
    ) -> Result<(), Stop> {
        if Some(line.seq) != self.head.count.checked_add(1) {
            return Err(damaged(path, number, fault::SEQUENCE));
        }
        if line.prev != self.head.hash {
            return Err(damaged(path, number, fault::CHAIN));
        }
        if line.hash != line.computed {
            return Err(damaged(path, number, fault::HASH));
        }
        if let Some(key) = key
            && !same(&key.line_mac(&line.hash), &line.mac)
        {
            return Err(damaged(path, number, fault::MAC));
        }
        let head = Head {
            count: line.seq,
            hash: line.hash,
        };
        if let Ok((anchor, mac)) = &self.anchor
            && anchor.count == head.count
        {
            if let Some(key) = key
                && !same(&key.anchor_mac(anchor), mac)
            {
                return Err(self.anchor_damaged(fault::ANCHOR_MAC));
            }
            if anchor.hash != head.hash {
                return Err(damaged(path, number, fault::UNANCHORED));
            }
        }
        self.head = head;
        Ok(())
    }

    fn end(&self, is_empty: bool) -> Result<(), Stop> {
        let (anchor, mac) = match &self.anchor {
            Ok(anchor) => anchor,
            Err(AnchorFault::Missing) if is_empty && self.bound.is_none() => return Ok(()),
            Err(AnchorFault::Missing) => return Err(self.anchor_damaged(fault::ANCHOR_MISSING)),
            Err(AnchorFault::Malformed) => {
                return Err(self.anchor_damaged(fault::ANCHOR_MALFORMED));
            }
        };
        if anchor.count == 0 && anchor.hash != Hash::GENESIS {
            return Err(self.anchor_damaged(fault::ANCHOR_MALFORMED));
        }
        let (path, line) = &self.place;
        let Some(bound) = self.bound else {
            if anchor.count > self.head.count {
                return Err(damaged(path, line.saturating_add(1), fault::SHORT));
            }
            return Ok(());
        };
        if self.head.count < bound.head.count {
            return Err(damaged(path, line.saturating_add(1), fault::SHORT));
        }
        if self.head != bound.head {
            return Err(damaged(path, *line, fault::CHAIN));
        }
        if anchor.count < bound.synced {
            return Err(self.anchor_damaged(fault::ANCHOR_OLD));
        }
        // Written while we were reading: the line is not at hand, the MAC is.
        if anchor.count > bound.head.count && !same(&bound.key.anchor_mac(anchor), mac) {
            return Err(self.anchor_damaged(fault::ANCHOR_MAC));
        }
        Ok(())
    }

    fn anchor_damaged(&self, what: &'static str) -> Stop {
        damaged(&folder::anchor_path(self.folder), 1, what)
    }
}

fn damaged(file: &Path, line: u64, what: &'static str) -> Stop {
    Stop::Damaged(AuditDamage {
        file: file.to_owned(),
        line,
        what,
    })
}
