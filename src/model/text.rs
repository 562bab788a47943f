use std::fmt;
use std::sync::Arc;

/// Text from a server, a peer or the file system, made safe to show: without control and
/// bidirectional characters and those that show nothing, and cut to a bound (HY-12).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CleanText(Arc<str>);

impl CleanText {
    /// Drops what may not be shown and keeps at most `max` characters of the rest.
    pub fn new(text: &str, max: usize) -> Self {
        let clean: String = text.chars().filter(|c| is_shown(*c)).take(max).collect();
        Self(Arc::from(clean))
    }

    /// The text, when nothing had to be dropped or cut; else `None`.
    pub fn exact(text: &str, max: usize) -> Option<Self> {
        let shown = text.chars().all(is_shown) && text.chars().count() <= max;
        shown.then(|| Self(Arc::from(text)))
    }

    /// Whether a character may be shown.
    pub fn shows(character: char) -> bool {
        is_shown(character)
    }

    /// The clean text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CleanText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CleanText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}'
            // Fillers of Hangul, which are blank, and selectors of a glyph's variant.
            | '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}'
            | '\u{180b}'..='\u{180f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{e0100}'..='\u{e01ef}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// One word as a POSIX shell reads it, quoted where it must be.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:+,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HY-12, OA-14: nothing that steers a terminal or a reader's eye survives.
    #[test]
    fn controls_and_invisible_characters_are_dropped() {
        let hostile = "a\u{1b}[31mb\r\n\u{202e}c\u{200b}d\u{9b}e\u{feff}";
        assert_eq!(CleanText::new(hostile, 256).as_str(), "a[31mbcde");
        assert_eq!(CleanText::exact(hostile, 256), None);
    }

    /// HY-12: what takes no room on the screen cannot make two texts look the same.
    #[test]
    fn characters_without_width_are_dropped() {
        let ranges = [
            '\u{34f}'..='\u{34f}',
            '\u{115f}'..='\u{1160}',
            '\u{180b}'..='\u{180f}',
            '\u{3164}'..='\u{3164}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{ffa0}'..='\u{ffa0}',
            '\u{e0100}'..='\u{e01ef}',
        ];
        for character in ranges.into_iter().flatten() {
            assert!(!CleanText::shows(character), "{:x}", u32::from(character));
        }
    }

    #[test]
    fn the_bound_counts_characters() {
        assert_eq!(CleanText::new("äöüß", 3).as_str(), "äöü");
        assert_eq!(CleanText::exact("äöü", 3).unwrap().as_str(), "äöü");
        assert_eq!(CleanText::exact("äöüß", 3), None);
    }
}
