//! The search itself: every needle that begins somewhere is followed until it ends or fails, from
//! one piece of text to the next.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::needles::{Needle, Values, is_digit};
use super::units::{Undecided, Unit, read};

/// What stands for a value. Shorter than the shortest one, so that it holds none.
pub const MASK: &[u8] = b"[***]";

/// Steps that each byte of text may cost. Ordinary text costs one or two; a value that consists of
/// one character, in a text that does too, could cost as many as it is long.
pub const WORK_PER_BYTE: u64 = 256;

/// What may be spent beyond that, in all.
const WORK_AHEAD: u64 = 1 << 20;

/// Bytes in a row that may stand between two characters: a line's end, and what begins the next.
const MAX_GAP: u8 = 4;

/// So many digits in a row look like a line of base64, in which a value can begin with the last one.
const LINE_OF_DIGITS: usize = 16;

/// One stream of text from which values are taken out. What it holds back is wiped.
pub struct Redactor {
    values: Arc<Values>,
    /// One bit for each pair that begins a needle, and for each first byte of one.
    begins: Box<[u64; 1024]>,
    firsts: [u64; 4],
    /// The text from `base` on, which counts from the beginning of the stream.
    held: Zeroizing<Vec<u8>>,
    base: usize,
    /// Where no needle was tried yet, and how many digits of base64 stand before it in a row.
    next: usize,
    run: usize,
    waiting: Vec<Thread>,
    ranges: Vec<Range>,
    hits: Vec<u32>,
    work: u64,
    allowed: u64,
    overrun: bool,
}

/// What a stream held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// How often each value was found, by its number.
    pub hits: Vec<u32>,
    /// The text was made to cost more than it may: all of it was masked from some place on.
    pub overrun: bool,
}

impl Findings {
    /// The values that were found.
    pub fn found(&self) -> impl Iterator<Item = usize> {
        let hits = self.hits.iter().enumerate();
        hits.filter(|(_, hits)| **hits > 0).map(|(value, _)| value)
    }

    /// Whether nothing was masked.
    pub fn is_clean(&self) -> bool {
        !self.overrun && self.found().next().is_none()
    }
}

/// A needle that has fitted so far.
#[derive(Clone, Copy)]
struct Thread {
    needle: usize,
    start: usize,
    at: usize,
    matched: usize,
    gap: u8,
}

/// What is masked.
struct Range {
    from: usize,
    to: usize,
    /// Value, from, to.
    finds: Vec<(usize, usize, usize)>,
}

impl Redactor {
    /// A stream from which these values are taken out.
    pub fn new(values: Arc<Values>) -> Self {
        let mut begins = Box::new([0_u64; 1024]);
        let mut firsts = [0_u64; 4];
        for [first, second] in values.pairs() {
            note(begins.as_mut_slice(), [first, second]);
            note(&mut firsts, [0, first]);
        }
        Self {
            hits: vec![0; values.len()],
            values,
            begins,
            firsts,
            held: Zeroizing::default(),
            base: 0,
            next: 0,
            run: 0,
            waiting: Vec::new(),
            ranges: Vec::new(),
            work: 0,
            allowed: WORK_AHEAD,
            overrun: false,
        }
    }

    /// Takes the next piece and appends to `out` what is safe to show by now.
    pub fn push(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if self.overrun {
            return;
        }
        let len = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let more = len.saturating_mul(WORK_PER_BYTE);
        self.allowed = self.allowed.saturating_add(more);
        self.hold(text);
        self.search(false);
        self.show(false, out);
    }

    /// The end of the text: appends the rest of it to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Findings {
        if !self.overrun {
            self.search(true);
            self.show(true, out);
        }
        self.findings()
    }

    /// The text goes on, and nobody will see it: what may be the beginning of a value is left out.
    pub fn cut(mut self, out: &mut Vec<u8>) -> Findings {
        if !self.overrun {
            let end = self.settled(true);
            self.held.truncate(end.saturating_sub(self.base));
            self.waiting.clear();
            self.next = end;
            self.show(true, out);
        }
        self.findings()
    }

    fn findings(self) -> Findings {
        Findings {
            hits: self.hits,
            overrun: self.overrun,
        }
    }

    /// Grows by copying, so that what was there is wiped.
    fn hold(&mut self, text: &[u8]) {
        let len = self.held.len().saturating_add(text.len());
        if len > self.held.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(len.saturating_mul(2)));
            larger.extend_from_slice(&self.held);
            self.held = larger;
        }
        self.held.extend_from_slice(text);
    }

    fn end(&self) -> usize {
        self.base.saturating_add(self.held.len())
    }

    fn from(&self, at: usize) -> &[u8] {
        let place = at.saturating_sub(self.base);
        self.held.get(place..).unwrap_or_default()
    }

    fn search(&mut self, is_last: bool) {
        for thread in std::mem::take(&mut self.waiting) {
            self.follow(thread, is_last);
        }
        while self.next < self.end() && !self.overrun {
            let Ok(needles) = self.beginnings(is_last) else {
                break;
            };
            let start = self.next;
            self.run = match self.from(start).first() {
                Some(byte) if is_digit(*byte) => self.run.saturating_add(1),
                Some(_) | None => 0,
            };
            self.next = start.saturating_add(1);
            for needle in needles {
                let thread = Thread {
                    needle,
                    start,
                    at: start,
                    matched: 0,
                    gap: 0,
                };
                self.follow(thread, is_last);
            }
        }
    }

    /// The needles that may begin at `next`.
    fn beginnings(&mut self, is_last: bool) -> Result<Vec<usize>, Undecided> {
        self.spend();
        let text = self.from(self.next);
        if let [first, second, ..] = text
            && !is_special(*first)
            && !is_special(*second)
        {
            // Ordinary text, nearly always.
            return Ok(self.of_pair([*first, *second]).to_vec());
        }
        // Only where the text looks like lines of digits: else every line's last character would
        // wait for the next line.
        let gap = if self.run < LINE_OF_DIGITS {
            0
        } else {
            MAX_GAP
        };
        let mut needles = Vec::new();
        for unit in read(text, is_last)?.iter() {
            let after = text.get(unit.written()..).unwrap_or_default();
            match *unit.bytes() {
                [first] if !has(&self.firsts, [0, first]) => {}
                [first] => self.seconds(first, after, gap, is_last, &mut needles)?,
                [first, second, ..] => needles.extend(self.of_pair([first, second])),
                [] => {}
            }
        }
        needles.sort_unstable();
        needles.dedup();
        Ok(needles)
    }

    fn seconds(
        &self,
        first: u8,
        text: &[u8],
        gap: u8,
        is_last: bool,
        needles: &mut Vec<usize>,
    ) -> Result<(), Undecided> {
        for unit in read(text, is_last)?.iter() {
            if let Some(second) = unit.bytes().first() {
                needles.extend(self.of_pair([first, *second]));
                if matches!(second, b'\r' | b'\n')
                    && let Some(gap) = gap.checked_sub(1)
                {
                    let after = text.get(unit.written()..).unwrap_or_default();
                    self.seconds(first, after, gap, is_last, needles)?;
                }
            }
        }
        Ok(())
    }

    fn of_pair(&self, pair: [u8; 2]) -> &[usize] {
        if has(self.begins.as_slice(), pair) {
            self.values.beginning_with(pair)
        } else {
            &[]
        }
    }

    /// Follows one needle through what is there, in every reading of it.
    fn follow(&mut self, thread: Thread, is_last: bool) {
        let values = Arc::clone(&self.values);
        let Some(needle) = values.needle(thread.needle) else {
            return;
        };
        let mut threads = vec![thread];
        while let Some(thread) = threads.pop() {
            self.spend();
            if self.overrun {
                return;
            }
            if thread.matched == needle.len() {
                self.end_of(thread, needle, is_last);
                continue;
            }
            let Ok(readings) = read(self.from(thread.at), is_last) else {
                self.waiting.push(thread);
                continue;
            };
            let moved = readings
                .iter()
                .filter_map(|unit| thread.after(unit, needle));
            threads.extend(moved);
        }
    }

    /// A needle was found to its end.
    fn end_of(&mut self, thread: Thread, needle: &Needle, is_last: bool) {
        let mut to = thread.at;
        if needle.has_trail {
            match self.from(to).first() {
                None if !is_last => return self.waiting.push(thread),
                Some(byte) if is_digit(*byte) => to = to.saturating_add(1),
                Some(_) | None => {}
            }
        }
        let mut from = thread.start;
        let before = from.checked_sub(1).filter(|before| *before >= self.base);
        if needle.has_lead
            && let Some(before) = before
            && self.from(before).first().copied().is_some_and(is_digit)
        {
            from = before;
        }
        self.mask(needle.value, from, to);
    }

    /// Joins it with what is masked already and touches it.
    fn mask(&mut self, value: usize, from: usize, to: usize) {
        let mut joined = Range {
            from,
            to,
            finds: vec![(value, from, to)],
        };
        let (touching, mut apart): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ranges)
            .into_iter()
            .partition(|range| range.from <= to && from <= range.to);
        for range in touching {
            joined.from = joined.from.min(range.from);
            joined.to = joined.to.max(range.to);
            joined.finds.extend(range.finds);
        }
        apart.push(joined);
        apart.sort_unstable_by_key(|range| range.from);
        self.ranges = apart;
    }

    /// Up to where nothing can be found any more.
    fn settled(&self, is_cut: bool) -> usize {
        let started = self.waiting.iter().map(|thread| thread.start);
        let limit = started.fold(self.next, usize::min);
        // A needle that begins next may reach back by one character.
        let before = limit.saturating_sub(1);
        let reaches_back =
            before >= self.base && self.from(before).first().copied().is_some_and(is_digit);
        if reaches_back && !is_cut {
            before
        } else {
            limit
        }
    }

    /// Appends what is settled, and forgets it.
    fn show(&mut self, is_last: bool, out: &mut Vec<u8>) {
        if self.overrun {
            out.extend_from_slice(MASK);
            self.held = Zeroizing::default();
            self.ranges.clear();
            return;
        }
        let limit = if is_last {
            self.end()
        } else {
            self.settled(false)
        };
        let mut shown = self.base;
        let is_over = |range: &Range| is_last || range.to <= limit;
        while self.ranges.first().is_some_and(is_over) {
            let range = self.ranges.remove(0);
            self.copy(shown, range.from, out);
            out.extend_from_slice(MASK);
            shown = shown.max(range.to);
            self.count(&range);
        }
        let open = self.ranges.first().map_or(limit, |range| range.from);
        let until = limit.min(open).max(shown);
        self.copy(shown, until, out);
        self.forget(until);
    }

    fn copy(&self, from: usize, to: usize, out: &mut Vec<u8>) {
        let len = to.saturating_sub(from);
        out.extend_from_slice(self.from(from).get(..len).unwrap_or_default());
    }

    /// Drops the text before that place.
    fn forget(&mut self, until: usize) {
        let gone = until.saturating_sub(self.base).min(self.held.len());
        let left = self.held.len().saturating_sub(gone);
        self.held.copy_within(gone.., 0);
        if let Some(rest) = self.held.get_mut(left..) {
            rest.fill(0);
        }
        self.held.truncate(left);
        self.base = self.base.saturating_add(gone);
    }

    /// The longest of those that hold each other.
    fn count(&mut self, range: &Range) {
        let mut counted: Vec<(usize, usize, usize)> = Vec::new();
        let mut finds = range.finds.clone();
        finds.sort_unstable_by_key(|(_, from, to)| (*from, usize::MAX.saturating_sub(*to)));
        for (value, from, to) in finds {
            let is_inside = counted.iter().any(|(other, outer_from, outer_to)| {
                let inside = *outer_from <= from && to <= *outer_to;
                let is_equal = *outer_from == from && *outer_to == to;
                inside && (!is_equal || *other == value)
            });
            if !is_inside {
                counted.push((value, from, to));
                if let Some(hits) = self.hits.get_mut(value) {
                    *hits = hits.saturating_add(1);
                }
            }
        }
    }

    fn spend(&mut self) {
        self.work = self.work.saturating_add(1);
        if self.work > self.allowed {
            self.overrun = true;
            self.waiting.clear();
        }
    }
}

impl Thread {
    /// Where it is after this unit, if that fits.
    fn after(self, unit: &Unit, needle: &Needle) -> Option<Self> {
        let at = self.at.saturating_add(unit.written());
        let bytes = unit.bytes();
        if needle.goes_on_with(self.matched, bytes) {
            return Some(Self {
                at,
                matched: self.matched.saturating_add(bytes.len()),
                gap: 0,
                ..self
            });
        }
        (self.matched > 0 && self.gap < MAX_GAP && needle.skips(bytes)).then(|| Self {
            at,
            gap: self.gap.saturating_add(1),
            ..self
        })
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

/// Whether a byte can be read in more than one way, or stand between two digits.
fn is_special(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\' | b'&' | b'+' | b'\r' | b'\n')
}

/// Word and bit of a pair in a table of bits.
fn place_of([first, second]: [u8; 2]) -> (usize, u64) {
    let word = (usize::from(first) << 2) | (usize::from(second) >> 6);
    (word, 1 << (second & 63))
}

fn note(table: &mut [u64], pair: [u8; 2]) {
    let (word, bit) = place_of(pair);
    if let Some(word) = table.get_mut(word) {
        *word |= bit;
    }
}

fn has(table: &[u64], pair: [u8; 2]) -> bool {
    let (word, bit) = place_of(pair);
    table.get(word).is_some_and(|word| word & bit != 0)
}
