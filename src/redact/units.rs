//! The ways in which a character can be written.

/// Readings of one place: plain, and one for each way of escaping that fits.
const MAX_READINGS: usize = 8;

/// Backslashes in a row that escape one character: JSON within JSON.
const MAX_BACKSLASHES: usize = 4;

/// Further rounds of percent encoding that are undone.
const MAX_PERCENT_ROUNDS: usize = 2;

/// From `&` to `;` at most, both counted.
const MAX_ENTITY: usize = 12;

/// One reading: some bytes of a value, and how many bytes of text they are written with.
#[derive(Clone, Copy, Default)]
pub(super) struct Unit {
    bytes: [u8; 4],
    count: usize,
    written: usize,
}

impl Unit {
    const fn byte(byte: u8, written: usize) -> Self {
        Self {
            bytes: [byte, 0, 0, 0],
            count: 1,
            written,
        }
    }

    fn character(character: char, written: usize) -> Self {
        let mut bytes = [0; 4];
        let count = character.encode_utf8(&mut bytes).len();
        Self {
            bytes,
            count,
            written,
        }
    }

    /// What it stands for: 1 to 4 bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.count).unwrap_or_default()
    }

    /// How many bytes of text it takes.
    pub(super) const fn written(&self) -> usize {
        self.written
    }
}

/// All readings of one place, the plain one first.
#[derive(Default)]
pub(super) struct Readings {
    units: [Unit; MAX_READINGS],
    count: usize,
}

impl Readings {
    fn add(&mut self, unit: Unit) {
        if let Some(place) = self.units.get_mut(self.count) {
            *place = unit;
            self.count = self.count.saturating_add(1);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().take(self.count)
    }
}

/// More text is needed to say.
pub(super) struct Undecided;

/// How the beginning of `text` can be read; nothing where it is empty for good.
pub(super) fn read(text: &[u8], is_last: bool) -> Result<Readings, Undecided> {
    let mut readings = Readings::default();
    let Some(&first) = text.first() else {
        return if is_last {
            Ok(readings)
        } else {
            Err(Undecided)
        };
    };
    readings.add(Unit::byte(first, 1));
    let escaped = match first {
        b'%' => percent(text, &mut readings),
        b'\\' => backslash(text, &mut readings),
        b'&' => entity(text, &mut readings),
        b'+' => {
            // A form's space.
            readings.add(Unit::byte(b' ', 1));
            Ok(())
        }
        _ => Ok(()),
    };
    match escaped {
        Err(Undecided) if !is_last => Err(Undecided),
        Ok(()) | Err(Undecided) => Ok(readings),
    }
}

/// `%41`, `%2541`, `%252541`, and `%25%34%31`, where the digits were encoded too.
fn percent(text: &[u8], readings: &mut Readings) -> Result<(), Undecided> {
    let mut at = 1_usize;
    for round in 0..=MAX_PERCENT_ROUNDS {
        let Some((high, after)) = digit(text, at, round)? else {
            return Ok(());
        };
        let Some((low, after)) = digit(text, after, round)? else {
            return Ok(());
        };
        let byte = (high << 4) | low;
        readings.add(Unit::byte(byte, after));
        if byte != b'%' {
            return Ok(());
        }
        at = after;
    }
    Ok(())
}

/// A hexadecimal digit and where it ends; after the first round it may be encoded itself.
fn digit(text: &[u8], at: usize, round: usize) -> Result<Option<(u8, usize)>, Undecided> {
    let byte = *text.get(at).ok_or(Undecided)?;
    let after = at.saturating_add(1);
    let (character, after) = match byte {
        b'%' if round > 0 => match number(text, after, 2, 16)? {
            Some(number) => (char::from_u32(number), after.saturating_add(2)),
            None => return Ok(None),
        },
        _ => (Some(char::from(byte)), after),
    };
    let digit = character.and_then(|character| character.to_digit(16));
    let digit = digit.and_then(|digit| u8::try_from(digit).ok());
    Ok(digit.map(|digit| (digit, after)))
}

/// `\n`, `\"`, `\u0041`, `\x41`, and the same after more backslashes.
fn backslash(text: &[u8], readings: &mut Readings) -> Result<(), Undecided> {
    let run = text.iter().take_while(|byte| **byte == b'\\').count();
    for pairs in [2, MAX_BACKSLASHES] {
        if pairs <= run {
            readings.add(Unit::byte(b'\\', pairs));
        }
    }
    if run > MAX_BACKSLASHES {
        return Ok(());
    }
    let kind = *text.get(run).ok_or(Undecided)?;
    let after = run.saturating_add(1);
    let simple = match kind {
        b'"' | b'/' | b'\'' => kind,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'x' => {
            if let Some(byte) = number(text, after, 2, 16)?
                && let Ok(byte) = u8::try_from(byte)
            {
                readings.add(Unit::byte(byte, after.saturating_add(2)));
            }
            return Ok(());
        }
        b'u' => return unicode(text, run, readings),
        _ => return Ok(()),
    };
    readings.add(Unit::byte(simple, after));
    Ok(())
}

/// After `\u`: four digits, of which two in a row may make one character.
fn unicode(text: &[u8], run: usize, readings: &mut Readings) -> Result<(), Undecided> {
    let after = run.saturating_add(1);
    let Some(high) = number(text, after, 4, 16)? else {
        return Ok(());
    };
    let written = after.saturating_add(4);
    if let Some(character) = char::from_u32(high) {
        readings.add(Unit::character(character, written));
        return Ok(());
    }
    let second = text.get(written..).unwrap_or_default();
    for place in 0..after {
        let expected = if place < run { b'\\' } else { b'u' };
        match second.get(place) {
            None => return Err(Undecided),
            Some(byte) if *byte == expected => {}
            Some(_) => return Ok(()),
        }
    }
    if let Some(low) = number(second, after, 4, 16)?
        && let (Ok(high), Ok(low)) = (u16::try_from(high), u16::try_from(low))
        && let Some(Ok(character)) = char::decode_utf16([high, low]).next()
    {
        let written = written.saturating_add(after).saturating_add(4);
        readings.add(Unit::character(character, written));
    }
    Ok(())
}

/// `&amp;`, `&#65;`, `&#x41;`.
fn entity(text: &[u8], readings: &mut Readings) -> Result<(), Undecided> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'#';
    let inner = text.get(1..).unwrap_or_default();
    let len = inner.iter().take_while(|byte| is_part(byte)).count();
    let written = len.saturating_add(2);
    match inner.get(len) {
        _ if written > MAX_ENTITY => return Ok(()),
        None => return Err(Undecided),
        Some(b';') => {}
        Some(_) => return Ok(()),
    }
    let name = inner.get(..len).unwrap_or_default();
    let character = match name {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        [b'#', b'x' | b'X', digits @ ..] => code_point(digits, 16),
        [b'#', digits @ ..] => code_point(digits, 10),
        _ => None,
    };
    if let Some(character) = character {
        readings.add(Unit::character(character, written));
    }
    Ok(())
}

fn code_point(digits: &[u8], radix: u32) -> Option<char> {
    let digits = std::str::from_utf8(digits).ok()?;
    char::from_u32(u32::from_str_radix(digits, radix).ok()?)
}

/// The number of so many digits; `None` where these are none.
fn number(text: &[u8], at: usize, digits: usize, radix: u32) -> Result<Option<u32>, Undecided> {
    let mut number = 0_u32;
    for place in at..at.saturating_add(digits) {
        let byte = *text.get(place).ok_or(Undecided)?;
        let Some(digit) = char::from(byte).to_digit(radix) else {
            return Ok(None);
        };
        number = number.saturating_mul(radix).saturating_add(digit);
    }
    Ok(Some(number))
}
