//! Finds secrets in bytes, whole or in pieces, plain or encoded. It holds them masked, so that a
//! process that looks through its own memory does not find what it looks for.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The shortest piece of a secret that counts: what one vector register holds.
pub(crate) const PIECE: usize = 16;

/// Of a piece, so many bytes are looked up at once.
const FIRST: usize = 8;

const MASK: u8 = 0x5a;

/// A name, and a secret that nobody can read.
pub(crate) type Masked = (String, Vec<u8>);

/// How often something was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) whole: usize,
    /// Sixteen bytes of it or more in a row, but not all.
    pub(crate) pieces: usize,
}

/// By name.
pub(crate) type Sightings = BTreeMap<String, Sighting>;

/// What is looked for.
pub(crate) struct Canaries {
    needles: Vec<Masked>,
    /// By its first bytes, each place in a needle where a piece can begin.
    starts: HashMap<[u8; FIRST], Vec<(usize, usize)>>,
    /// Whether a piece can begin with these two, which is known without a hash.
    can_begin: Vec<bool>,
}

impl Canaries {
    pub(crate) fn new(needles: Vec<Masked>) -> Self {
        let mut starts: HashMap<_, Vec<_>> = HashMap::new();
        let mut can_begin = vec![false; 1 << 16];
        for (needle, (name, masked)) in needles.iter().enumerate() {
            assert!(masked.len() >= PIECE, "{name} is too short to be found");
            for (offset, piece) in masked.windows(PIECE).enumerate() {
                let first = *piece.first_chunk::<FIRST>().unwrap();
                starts.entry(first).or_default().push((needle, offset));
                let two = [first[0] ^ MASK, first[1] ^ MASK];
                can_begin[usize::from(u16::from_le_bytes(two))] = true;
            }
        }
        Self {
            needles,
            starts,
            can_begin,
        }
    }

    /// What of them is in there.
    pub(crate) fn seen_in(&self, bytes: &[u8]) -> Sightings {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut seen = Sightings::new();
        let mut at = 0;
        while at + PIECE <= bytes.len() {
            // Most of a memory is empty.
            if bytes[at..].starts_with(&ZEROS) {
                at += ZEROS.len() - 1;
                continue;
            }
            let two = [bytes[at], bytes[at + 1]];
            if !self.can_begin[usize::from(u16::from_le_bytes(two))] {
                at += 1;
                continue;
            }
            at += self.run_at(&bytes[at..], &mut seen).max(1);
        }
        seen
    }

    /// How many bytes of a needle these begin with, at least a piece of it; else 0.
    fn run_at(&self, bytes: &[u8], seen: &mut Sightings) -> usize {
        let first = bytes
            .first_chunk::<FIRST>()
            .unwrap()
            .map(|byte| byte ^ MASK);
        let starts = self.starts.get(&first);
        let runs = starts.into_iter().flatten().map(|(needle, offset)| {
            let rest = &self.needles[*needle].1[*offset..];
            let equal = |(byte, masked): &(&u8, &u8)| **byte ^ MASK == **masked;
            let length = bytes.iter().zip(rest).take_while(equal).count();
            (length, *needle)
        });
        let Some((length, needle)) = runs.max().filter(|(length, _)| *length >= PIECE) else {
            return 0;
        };
        let (name, masked) = &self.needles[needle];
        let sighting = seen.entry(name.clone()).or_default();
        if length == masked.len() {
            sighting.whole += 1;
        } else {
            sighting.pieces += 1;
        }
        length
    }
}

/// A secret as it is.
pub(crate) fn plain(name: &str, secret: &str) -> Masked {
    masked(name.to_owned(), secret)
}

/// A secret in every form in which it could get somewhere, itself among them.
pub(crate) fn in_every_form(name: &str, secret: &str) -> Vec<Masked> {
    let mut forms = vec![("plain", secret.to_owned())];
    // Each of the three ways in which base64 can cut it, without the ends that its neighbours share.
    for before in 0..3 {
        let moved = [&b"..."[..before], secret.as_bytes()].concat();
        for (form, engine) in [("base64", STANDARD_NO_PAD), ("base64url", URL_SAFE_NO_PAD)] {
            let encoded = engine.encode(&moved);
            let shared = if before == 0 { 0 } else { 4 };
            let own = encoded
                .chars()
                .skip(shared)
                .take(encoded.len() - shared - 1);
            forms.push((form, own.collect()));
        }
    }
    let each = |form: fn(u8) -> String| secret.bytes().map(form).collect::<String>();
    forms.push(("hex", each(|byte| format!("{byte:02x}"))));
    forms.push(("hex", each(|byte| format!("{byte:02X}"))));
    forms.push(("percent", each(|byte| format!("%{byte:02x}"))));
    forms.push(("percent", each(|byte| format!("%{byte:02X}"))));
    forms.push(("json", each(|byte| format!("\\u{byte:04x}"))));
    let mut known = Vec::new();
    for (form, text) in forms {
        let mut called = name.to_owned();
        write!(called, " ({form})").unwrap();
        let form = masked(called, &text);
        if known.iter().all(|(_, bytes): &Masked| *bytes != form.1) {
            known.push(form);
        }
    }
    known
}

/// The text again.
pub(crate) fn unmasked(masked: &[u8]) -> String {
    masked.iter().map(|byte| char::from(byte ^ MASK)).collect()
}

fn masked(name: String, secret: &str) -> Masked {
    (name, secret.bytes().map(|byte| byte ^ MASK).collect())
}

/// The search finds what is there, whole and in pieces, in every form, and nothing else.
#[test]
fn a_search_finds_whole_secrets_and_pieces() {
    let secret = "canary_AAbb>>ddEEffGG??hhIIjjKKllMMnn_0123456789";
    let needles = in_every_form("it", secret);
    let count = needles.len();
    assert_eq!(count, 12, "one form is another one");
    let search = Canaries::new(needles.clone());
    for needle in &needles {
        let text = unmasked(&needle.1).into_bytes();
        let embedded = [&[0; 9000], &text[..], b"....", &text[3..22], b".."].concat();
        let seen = search.seen_in(&embedded);
        assert_eq!(seen[&needle.0].whole, 1, "{seen:?}");
        // A piece may be one of another form too.
        let pieces: usize = seen.values().map(|sighting| sighting.pieces).sum();
        assert_eq!(pieces, 1, "{seen:?}");
        let short = search.seen_in(&text[3..18]);
        assert!(short.is_empty(), "{short:?}");
    }
    assert!(search.seen_in(secret.to_lowercase().as_bytes()).is_empty());
    let own = needles.iter().flat_map(|(_, masked)| masked.clone());
    let own: Vec<u8> = own.collect();
    assert!(search.seen_in(&own).is_empty(), "it would find itself");
}
