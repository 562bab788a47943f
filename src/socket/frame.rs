//! Lines out of bytes, bounded. Pure: no I/O, no clock.

/// The longest request line, without its line feed. A request names a selector and a reason;
/// the rest is room for what later methods carry.
pub(super) const MAX_LINE: usize = 256 * 1024;

/// An empty decoder keeps at most this much memory between lines.
const KEEP: usize = 16 * 1024;

/// Why no further line can be read from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// Longer than [`MAX_LINE`].
    #[error("the line is longer than 256 KiB")]
    TooLong,
    /// A web page or a proxy found the socket (SP-9).
    #[error("this is not an HTTP server")]
    Http,
}

/// Takes bytes as they come and gives lines, each without its line feed. Holds at most one line
/// and one piece of input. After an error it must be dropped.
#[derive(Debug, Default)]
pub(super) struct LineDecoder {
    buffer: Vec<u8>,
    /// Up to here lines were given out.
    taken: usize,
    /// Up to here there is no line feed beyond `taken`.
    scanned: usize,
}

impl LineDecoder {
    /// Adds what was read. Call it only when [`next_line`](Self::next_line) had nothing left.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.scanned = self.scanned.saturating_sub(self.taken);
        self.taken = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, if there is one.
    ///
    /// # Errors
    /// [`FrameError`]; the bytes after it are never looked at.
    pub(super) fn next_line(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        let feed = unseen.iter().position(|byte| *byte == b'\n');
        let end = match feed {
            Some(at) => self.scanned.saturating_add(at),
            None => self.buffer.len(),
        };
        let start = self.taken;
        let line = self.buffer.get(start..end).unwrap_or_default();
        if line.len() > MAX_LINE {
            return Err(FrameError::TooLong);
        }
        if feed.is_none() {
            self.scanned = end;
            return Ok(None);
        }
        if is_http(line) {
            return Err(FrameError::Http);
        }
        self.taken = end.saturating_add(1);
        self.scanned = self.taken;
        Ok(Some(line))
    }

    /// Whether a line has begun and not ended.
    pub(super) fn has_begun(&self) -> bool {
        self.buffer.len() > self.taken
    }
}

/// Whether a line could be the first of an HTTP request (RFC 9112 §3): a method of capital
/// letters, a target, and the protocol's name. No JSON text begins with a capital letter.
fn is_http(line: &[u8]) -> bool {
    line.first().is_some_and(u8::is_ascii_uppercase)
        && line.windows(6).any(|window| window == b" HTTP/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut decoder = LineDecoder::default();
        let mut lines = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(line) = decoder.next_line()? {
                lines.push(line.to_vec());
            }
        }
        Ok(lines)
    }

    proptest! {
        #![proptest_config(crate::cases::many())]

        /// IN-16: however the bytes are cut, the lines are the same.
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_arrive(
            bytes in proptest::collection::vec(
                prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..120),
            cuts in proptest::collection::vec(1_usize..20, 1..20),
        ) {
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let lines = all(&pieces);
            prop_assert_eq!(&lines, &all(&[&bytes]));
            if let Ok(lines) = lines {
                let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                expected.pop();
                prop_assert_eq!(lines, expected);
            }
        }
    }

    /// LM: 256 KiB is a line, one byte more is not, with or without its end.
    #[test]
    fn the_bound_is_exact() {
        let longest = [vec![b'a'; MAX_LINE], b"\n".to_vec()].concat();
        assert_eq!(all(&[&longest]).unwrap().len(), 1);
        let longer = [vec![b'a'; MAX_LINE + 1], b"\n".to_vec()].concat();
        assert_eq!(all(&[&longer]), Err(FrameError::TooLong));
        let chunks: Vec<&[u8]> = longer[..=MAX_LINE].chunks(4096).collect();
        assert_eq!(all(&chunks), Err(FrameError::TooLong));
        assert_eq!(all(&chunks[..MAX_LINE / 4096]), Ok(Vec::new()));
    }

    #[test]
    fn a_begun_line_is_known_to_be_begun() {
        let mut decoder = LineDecoder::default();
        assert!(!decoder.has_begun());
        decoder.push(b"{}\n{");
        assert_eq!(decoder.next_line(), Ok(Some(&b"{}"[..])));
        assert_eq!(decoder.next_line(), Ok(None));
        assert!(decoder.has_begun());
        decoder.push(b"}\n");
        assert_eq!(decoder.next_line(), Ok(Some(&b"{}"[..])));
        assert!(!decoder.has_begun());
    }

    /// An idle connection does not keep the memory of its longest line.
    #[test]
    fn memory_of_a_long_line_is_given_back() {
        let mut decoder = LineDecoder::default();
        decoder.push(&[vec![b' '; MAX_LINE], b"\n".to_vec()].concat());
        assert!(decoder.next_line().unwrap().is_some());
        decoder.push(b"");
        assert!(decoder.buffer.capacity() <= KEEP);
    }

    /// SP-9: what a browser or a proxy would send is told apart from JSON.
    #[test]
    fn http_requests_are_recognised() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "POST /rpc HTTP/1.0\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
        ] {
            assert_eq!(all(&[line.as_bytes()]), Err(FrameError::Http), "{line}");
        }
        for line in ["{\"a\":\"GET / HTTP/1.1\"}\n", "GET\n", "\n", "[]\n"] {
            assert_eq!(all(&[line.as_bytes()]).unwrap().len(), 1, "{line}");
        }
    }
}
