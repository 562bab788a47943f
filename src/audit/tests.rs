#![expect(
    clippy::type_complexity,
    reason = "a table's type says what its columns are"
)]

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::chain::{Hash, Head, SegmentKey};
use super::log::Opened;
use super::scan::fault;
use super::verify::{read, verify};
use super::{FileAuditLog, FolderError, Keys, OpenError, folder, line, wire};
use crate::broker::ports::{
    AuditAction, AuditError, AuditLog as _, AuditOutcome, AuditRecord, AuditReport, CallTrace,
    KeyStore, KeyStoreError, MAX_EARLIER_TRIES, Try,
};
use crate::cases::{many, many_by};
use crate::model::{
    Action, CleanText, Exposure, FileHash, LeaseId, Origin, PeerFacts, Principal, ProcessId,
    ProfileName, ProofJti, RequestId, Selector, SessionId,
};
use crate::secret::SecretString;
use crate::time::{Now, Timestamp, UnixTime};

/// A key store as the test wants it: it keeps or forgets, and can be shared by several starts.
#[derive(Debug, Default)]
struct TestStore {
    is_persistent: bool,
    secrets: Mutex<HashMap<String, String>>,
}

impl TestStore {
    fn persistent() -> Self {
        Self {
            is_persistent: true,
            secrets: Mutex::default(),
        }
    }
}

impl KeyStore for TestStore {
    fn kind(&self) -> &'static str {
        "test"
    }

    fn load(&self, name: &str) -> Result<Option<SecretString>, KeyStoreError> {
        let secrets = self.secrets.lock().map_err(|_poisoned| KeyStoreError)?;
        Ok(secrets.get(name).map(|text| SecretString::copy_from(text)))
    }

    fn store(&self, name: &str, secret: SecretString) -> Result<(), KeyStoreError> {
        let mut secrets = self.secrets.lock().map_err(|_poisoned| KeyStoreError)?;
        secrets.insert(name.to_owned(), secret.expose().to_owned());
        Ok(())
    }

    fn is_persistent(&self) -> bool {
        self.is_persistent
    }
}

/// 2026-11-22T10:00:00Z and that many seconds.
fn at(seconds: u64) -> Now {
    Now {
        boot: Timestamp::from_millis(seconds * 1000),
        unix: UnixTime::from_millis((1_795_341_600 + seconds) * 1000),
    }
}

/// Records of every action, with few and many fields, and text that JSON escapes.
fn sample(index: usize) -> AuditRecord {
    let action = AuditAction::ALL[index % AuditAction::ALL.len()];
    let outcome = [AuditOutcome::Ok, AuditOutcome::Denied, AuditOutcome::Error][index % 3];
    let mut record = AuditRecord::new(action, outcome);
    record.profile = Some(ProfileName::parse("work").unwrap());
    if index.is_multiple_of(2) {
        record.peer = Some(Arc::new(PeerFacts {
            process: ProcessId {
                pid: 4711,
                started: 98_765,
            },
            exe: Some(CleanText::new(r#"/opt/"quoted" \ päth/tool"#, 512)),
            ancestors: vec![CleanText::new("bash", 64), CleanText::new("a\"b", 64)],
            origin: Origin {
                cgroup: (index.is_multiple_of(4)).then(|| CleanText::new("/a \"b\"/c.service", 64)),
                exe_hash: (index.is_multiple_of(6)).then(|| FileHash::new([0xa5; 32])),
                ..Origin::default()
            },
        }));
        record.actions = Action::ALL[..index / 2 % 4].to_vec().into();
        record.selector = Some(Selector::parse("gcp/billing-prod/deploy-bot").unwrap());
        record.lease_id = Some(LeaseId::parse(&format!("lse_{index}")).unwrap());
        record.lease_expires_at = Some(at(300).unix);
    }
    if index.is_multiple_of(3) {
        record.exposure = Some(Exposure::Reveal);
        record.rule = Some(CleanText::new("deploy", 64));
        record.reason = Some(CleanText::new("user_request", 64));
        record.principal = Some(Principal::parse("user:u-demo").unwrap());
        record.session_id = Some(SessionId::parse("ses_1").unwrap());
        record.trace = CallTrace {
            request_id: Some(RequestId::parse("req-1").unwrap()),
            proof_jti: Some(ProofJti::parse("jti-1").unwrap()),
            earlier: tries(index % 4),
        };
    }
    record
}

/// That many tries, without an answer, without a proof, with both.
fn tries(count: usize) -> Vec<Try> {
    let one = |index: usize| Try {
        request_id: (index != 0).then(|| RequestId::parse(&format!("req-0{index}")).unwrap()),
        proof_jti: (index != 1).then(|| ProofJti::parse(&format!("jti-0{index}")).unwrap()),
    };
    (0..count).map(one).collect()
}

fn seconds(index: usize) -> u64 {
    u64::try_from(index).unwrap()
}

fn opened(folder: &Path, store: &dyn KeyStore) -> Opened {
    FileAuditLog::open(folder, store, at(0)).unwrap()
}

fn key_of(log: &FileAuditLog) -> SegmentKey {
    log.shared().key.clone()
}

fn new_folder() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("audit");
    (home, folder)
}

/// A log at rest, as bytes that can be changed and written elsewhere.
#[derive(Clone)]
struct Copied {
    segments: Vec<Vec<Vec<u8>>>,
    anchor: Option<Vec<u8>>,
}

impl Copied {
    fn of(folder: &Path) -> Self {
        let segments = folder::segments(folder).unwrap();
        Self {
            segments: segments
                .into_iter()
                .map(|number| {
                    let bytes = fs::read(folder::segment_path(folder, number)).unwrap();
                    bytes
                        .split_inclusive(|b| *b == b'\n')
                        .map(Vec::from)
                        .collect()
                })
                .collect(),
            anchor: Some(fs::read(folder::anchor_path(folder)).unwrap()),
        }
    }

    fn write(&self, folder: &Path) {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        for (lines, number) in self.segments.iter().zip(1..) {
            fs::write(folder::segment_path(folder, number), lines.concat()).unwrap();
        }
        if let Some(anchor) = &self.anchor {
            fs::write(folder::anchor_path(folder), anchor).unwrap();
        }
    }

    fn verify(&self, keys: &Keys) -> AuditReport {
        let (_home, folder) = new_folder();
        self.write(&folder);
        verify(&folder, keys).unwrap()
    }
}

/// A log of several daemon starts, with the keys of all of them.
fn build(starts: &[usize], store: &dyn KeyStore, segment_bytes: u64) -> (Copied, Keys) {
    let (_home, folder) = new_folder();
    let mut keys = Vec::new();
    let mut index = 0;
    for count in starts {
        let Opened { mut log, .. } =
            FileAuditLog::open_with(&folder, store, at(0), segment_bytes).unwrap();
        keys.push(key_of(&log));
        for _ in 0..*count {
            log.append(&sample(index), at(1)).unwrap();
            index += 1;
        }
    }
    (Copied::of(&folder), Keys::of(keys))
}

/// Signs the log from that line on anew, as somebody would who does not have the key.
fn forge(log: &Copied, segment: usize, from: usize, own_id: bool, edit: bool) -> Copied {
    let forger = SegmentKey::for_start(&TestStore::default()).unwrap();
    let mut forged = log.clone();
    let mut head = Head::EMPTY;
    let mut scratch = Vec::new();
    for (number, lines) in forged.segments.iter_mut().enumerate() {
        for (index, bytes) in lines.iter_mut().enumerate() {
            let is_before = (number, index) < (segment, from);
            let mut out = Vec::new();
            let hash = if index == 0 {
                let mut header = wire::header(bytes, &mut scratch).unwrap();
                if own_id {
                    header.content.key_id = forger.id();
                }
                line::header(&mut out, header.seq, header.at, &header.content, &head.hash).unwrap();
                Hash::of(&out)
            } else {
                let mut record = wire::record(bytes, &mut scratch).unwrap();
                if edit {
                    record.content.reason = Some(CleanText::new("forged", 64));
                }
                line::record(&mut out, record.seq, record.at, &record.content, &head.hash).unwrap();
                Hash::of(&out)
            };
            if is_before {
                let hash = match wire::record(bytes, &mut scratch) {
                    Some(record) => record.hash,
                    None => wire::header(bytes, &mut scratch).unwrap().hash,
                };
                head = Head {
                    count: head.count + 1,
                    hash,
                };
                continue;
            }
            line::seal(&mut out, &hash, &forger.line_mac(&hash));
            *bytes = out;
            head = Head {
                count: head.count + 1,
                hash,
            };
        }
    }
    let mut anchor = Vec::new();
    line::anchor(&mut anchor, &head, &forger.anchor_mac(&head)).unwrap();
    forged.anchor = Some(anchor);
    forged
}

/// One altered copy: what was done, where the check has to point, and whether it takes a key to
/// see it.
struct Row {
    name: String,
    copy: Copied,
    file: String,
    line: u64,
    needs_key: bool,
}

fn file_of(segment: usize) -> String {
    format!("audit-{:06}.jsonl", segment + 1)
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    text.replacen(from, to, 1).into_bytes()
}

/// Every kind of alteration, at every line of `log`.
fn rows(log: &Copied, other: &Copied) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: String, segment: usize, line: usize, edit: &dyn Fn(&mut Copied)| {
        let mut copy = log.clone();
        edit(&mut copy);
        rows.push(Row {
            needs_key: name.starts_with("mac"),
            name,
            copy,
            file: file_of(segment),
            line: u64::try_from(line).unwrap() + 1,
        });
    };
    let last_segment = log.segments.len() - 1;
    for (s, lines) in log.segments.iter().enumerate() {
        let last = lines.len() - 1;
        for (l, bytes) in lines.iter().enumerate() {
            let name = |what: &str| format!("{what} at {}:{}", s + 1, l + 1);
            // 106 bytes of seal and a line feed end each line.
            let sealed = bytes.len() - 107;
            let spots = [
                ("flip first byte", 0),
                ("flip in the sequence", 7),
                ("flip in the time", 30),
                ("flip in the content", 60),
                ("flip in prev", sealed - 10),
                ("flip in hash", sealed + 20),
                ("mac flip", sealed + 70),
                ("flip the brace", bytes.len() - 2),
            ];
            for (what, spot) in spots {
                row(name(what), s, l, &|copy| copy.segments[s][l][spot] ^= 1);
            }
            let after_removal = if l < last {
                (s, l)
            } else if s < last_segment {
                (s + 1, 0)
            } else {
                (s, l)
            };
            row(name("remove"), after_removal.0, after_removal.1, &|copy| {
                copy.segments[s].remove(l);
            });
            row(name("duplicate"), s, l + 1, &|copy| {
                copy.segments[s].insert(l + 1, bytes.clone());
            });
            row(name("insert a foreign line"), s, l + 1, &|copy| {
                copy.segments[s].insert(l + 1, other.segments[0][1].clone());
            });
            // A foreign first line could begin a log; the second then does not follow it.
            let place = usize::from(l > 0);
            let shown = if (s, l) == (0, 0) { 1 } else { l };
            row(name("replace by a foreign line"), s, shown, &|copy| {
                copy.segments[s][l] = other.segments[0][place].clone();
            });
            row(name("blank line before"), s, l, &|copy| {
                copy.segments[s].insert(l, b"\n".to_vec());
            });
            let encodings: [(&str, &dyn Fn(&[u8]) -> Vec<u8>); 7] = [
                ("blank after a colon", &|b| {
                    replaced(b, "\"at\":", "\"at\": ")
                }),
                ("blank at the end", &|b| replaced(b, "}\n", "} \n")),
                ("carriage return", &|b| replaced(b, "}\n", "}\r\n")),
                ("escaped letter", &|b| replaced(b, "\"at\"", "\"\\u0061t\"")),
                ("number as a float", &|b| {
                    replaced(b, ",\"at\"", ".0,\"at\"")
                }),
                ("unknown field", &|b| {
                    replaced(b, ",\"prev\"", ",\"x\":1,\"prev\"")
                }),
                ("null field", &|b| {
                    replaced(b, ",\"prev\"", ",\"rule\":null,\"prev\"")
                }),
            ];
            for (what, encode) in encodings {
                row(name(what), s, l, &|copy| {
                    copy.segments[s][l] = encode(bytes);
                });
            }
            row(name("swapped fields"), s, l, &|copy| {
                let text = String::from_utf8(bytes.clone()).unwrap();
                let (seq, rest) = text.split_once(',').unwrap();
                let (time, rest) = rest.split_once(',').unwrap();
                let seq = seq.trim_start_matches('{');
                copy.segments[s][l] = format!("{{{time},{seq},{rest}").into_bytes();
            });
            if l < last {
                row(name("swap with the next"), s, l, &|copy| {
                    copy.segments[s].swap(l, l + 1);
                });
                row(name("lose the line feed"), s, l, &|copy| {
                    copy.segments[s][l].pop();
                });
            }
            if l > 0 {
                row(name("cut off the head before"), s, 0, &|copy| {
                    copy.segments[s].drain(..l);
                });
                row(name("splice another log"), s, l, &|copy| {
                    copy.segments[s].truncate(l);
                    copy.segments[s].extend(other.segments[0][1..].iter().cloned());
                });
                row(
                    name("cut off the tail from"),
                    after_tail(s, l, last_segment).0,
                    after_tail(s, l, last_segment).1,
                    &|copy| {
                        copy.segments[s].truncate(l);
                    },
                );
            }
            row(name("cut within"), s, l, &|copy| {
                copy.segments[s].truncate(l + 1);
                copy.segments[s][l].truncate(bytes.len() / 2);
            });
        }
        let name = |what: &str| format!("{what} of segment {}", s + 1);
        row(name("emptying"), s, 0, &|copy| copy.segments[s].clear());
        if s < last_segment {
            row(name("removal"), s, 0, &|copy| {
                // What follows moves up, as a renaming forger would have it.
                copy.segments.remove(s);
            });
            row(name("swap"), s, 0, &|copy| copy.segments.swap(s, s + 1));
            row(
                name("moving the last line to the next"),
                s + 1,
                0,
                &|copy| {
                    let line = copy.segments[s].pop().unwrap();
                    copy.segments[s + 1].insert(0, line);
                },
            );
        }
        // A foreign first segment could be a log, until its anchor or what follows is looked at.
        let total: usize = log.segments.iter().map(Vec::len).sum();
        let shown = match (s, total <= other.segments[0].len()) {
            (0, true) => (0, total - 1),
            (0, false) => (1, 0),
            _ => (s, 0),
        };
        row(name("a foreign log instead"), shown.0, shown.1, &|copy| {
            copy.segments[s] = other.segments[0].clone();
        });
    }
    if last_segment > 0 {
        let end = log.segments[last_segment - 1].len();
        row(
            "the last segment removed".to_owned(),
            last_segment - 1,
            end,
            &|copy| {
                copy.segments.pop();
            },
        );
    }
    anchor_rows(log, other, &mut rows);
    rows
}

fn after_tail(segment: usize, line: usize, last_segment: usize) -> (usize, usize) {
    if segment < last_segment {
        (segment + 1, 0)
    } else {
        (segment, line)
    }
}

fn anchor_rows(log: &Copied, other: &Copied, rows: &mut Vec<Row>) {
    let anchor = log.anchor.clone().unwrap();
    let other = other.anchor.clone().unwrap();
    let (head, mac) = wire::anchor(&anchor).unwrap();
    let encoded = |head: &Head| {
        let mut bytes = Vec::new();
        line::anchor(&mut bytes, head, &mac).unwrap();
        bytes
    };
    let count = head.count;
    let fewer = encoded(&Head {
        count: count - 1,
        ..head
    });
    let more = encoded(&Head {
        count: count + 1,
        ..head
    });
    let mut flipped_mac = anchor.clone();
    let spot = flipped_mac.len() - 10;
    flipped_mac[spot] ^= 1;
    let end = (
        file_of(log.segments.len() - 1),
        u64::try_from(log.segments.last().unwrap().len()).unwrap(),
    );
    let anchor_file = ("anchor".to_owned(), 1);
    let beyond = (end.0, end.1 + 1);
    // Without a key, another anchor within the log is only another hash.
    let is_longer = wire::anchor(&other).unwrap().0.count > count;
    let foreign = if is_longer { &beyond } else { &anchor_file };
    let table: [(&str, Option<Vec<u8>>, &(String, u64), bool); 9] = [
        ("anchor lost", None, &anchor_file, false),
        ("anchor emptied", Some(Vec::new()), &anchor_file, false),
        (
            "anchor cut",
            Some(anchor[..40].to_vec()),
            &anchor_file,
            false,
        ),
        (
            "anchor re-encoded",
            Some(replaced(&anchor, ":", ": ")),
            &anchor_file,
            false,
        ),
        (
            "anchor with a tail",
            Some([anchor.clone(), b"x".to_vec()].concat()),
            &anchor_file,
            false,
        ),
        (
            "anchor with another mac",
            Some(flipped_mac),
            &anchor_file,
            true,
        ),
        ("anchor of fewer lines", Some(fewer), &anchor_file, true),
        ("anchor of more lines", Some(more), &beyond, false),
        ("anchor of another log", Some(other), foreign, !is_longer),
    ];
    for (name, anchor, (file, line), needs_key) in table {
        rows.push(Row {
            name: name.to_owned(),
            copy: Copied {
                anchor,
                ..log.clone()
            },
            file: file.clone(),
            line: *line,
            needs_key,
        });
    }
}

/// Logs of different make: one start, several starts, rotation by size, a persistent key.
fn logs() -> Vec<(&'static str, Copied, Keys)> {
    let forgetful = TestStore::default();
    let persistent = TestStore::persistent();
    [
        ("one start", build(&[6], &forgetful, 1 << 20)),
        ("three starts", build(&[2, 3, 2], &forgetful, 1 << 20)),
        ("rotated by size", build(&[7], &forgetful, 1500)),
        ("persistent key", build(&[3, 2], &persistent, 1 << 20)),
    ]
    .into_iter()
    .map(|(name, (log, keys))| (name, log, keys))
    .collect()
}

/// AU-3, AU-4, AU-6, AU-9: every alteration of every line of four logs is found, at the right
/// place; the untouched log passes.
#[test]
fn every_altered_copy_is_found_at_its_first_bad_line() {
    let (other, _) = build(&[8], &TestStore::default(), 1 << 20);
    let mut altered = 0;
    for (log_name, log, keys) in logs() {
        let untouched = log.verify(&keys);
        assert_eq!(untouched.damage, None, "{log_name}");
        assert_eq!(untouched.keyed, untouched.records, "{log_name}");
        assert!(!untouched.torn_tail, "{log_name}");
        let mut names = BTreeSet::new();
        for row in rows(&log, &other) {
            assert!(
                names.insert(row.name.clone()),
                "{} is there twice",
                row.name
            );
            let (_home, folder) = new_folder();
            row.copy.write(&folder);
            let found = verify(&folder, &keys)
                .unwrap()
                .damage
                .unwrap_or_else(|| panic!("{log_name}: {} was not found", row.name));
            assert_eq!(
                (
                    found.file.file_name().unwrap().to_str().unwrap(),
                    found.line
                ),
                (row.file.as_str(), row.line),
                "{log_name}: {}: {}",
                row.name,
                found.what
            );
            if !row.needs_key {
                let report = verify(&folder, &Keys::none()).unwrap();
                assert!(
                    report.damage.is_some(),
                    "{log_name}: {} without key",
                    row.name
                );
            }
            altered += 1;
        }
    }
    assert!(altered >= 180, "{altered} altered copies");
}

/// AU-7: who rewrites the log without its key is found by who holds the key; to others the log
/// is "chained, not keyed".
#[test]
fn a_rewritten_chain_is_found_by_the_holder_of_the_key() {
    for (name, log, keys) in logs() {
        for (segment, from) in [(0, 1), (0, 2), (log.segments.len() - 1, 1)] {
            let forged = forge(&log, segment, from, false, true);
            let found = forged.verify(&keys).damage.unwrap();
            assert_eq!(found.what, fault::MAC, "{name}");
            assert_eq!(
                (
                    found.file.file_name().unwrap().to_str().unwrap(),
                    found.line
                ),
                (file_of(segment).as_str(), u64::try_from(from).unwrap() + 1),
                "{name}"
            );
            let report = forged.verify(&Keys::none());
            assert_eq!((report.damage, report.keyed), (None, 0), "{name}");
        }
        // With a key id of the forger's own, the records are no longer keyed by ours.
        let report = forge(&log, 0, 0, true, true).verify(&keys);
        assert_eq!((report.damage, report.keyed), (None, 0), "{name}");
        assert!(report.records > 0, "{name}");
    }
}

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// AU-4, AU-7: a running daemon finds what an offline check cannot: a whole rewrite with another
/// key, an anchor put back, lines cut off together with their anchor.
#[test]
fn the_running_writer_finds_what_only_it_can_know() {
    type Attack = fn(&Path, &Copied);
    let attacks: [(&str, Attack, &str); 5] = [
        (
            "rewritten under another key",
            |folder, log| overwrite(folder, &forge(log, 0, 0, true, true)),
            fault::KEY,
        ),
        (
            "anchor put back",
            |folder, _| {
                let key = SegmentKey::for_start(&TestStore::default()).unwrap();
                folder::write_anchor(folder, &Head::EMPTY, &key).unwrap();
            },
            fault::ANCHOR_OLD,
        ),
        (
            "tail cut with its anchor",
            |folder, log| {
                let mut cut = log.clone();
                cut.segments[0].truncate(3);
                let line = wire::record(&cut.segments[0][2], &mut Vec::new()).unwrap();
                let mut anchor = Vec::new();
                let head = Head {
                    count: line.seq,
                    hash: line.hash,
                };
                line::anchor(&mut anchor, &head, &line.mac).unwrap();
                cut.anchor = Some(anchor);
                overwrite(folder, &cut);
            },
            fault::ANCHOR_MAC,
        ),
        (
            "anchor removed",
            |folder, _| fs::remove_file(folder::anchor_path(folder)).unwrap(),
            fault::ANCHOR_MISSING,
        ),
        (
            "segment cut",
            |folder, _| {
                let file = folder::open_writable(&folder::segment_path(folder, 1)).unwrap();
                file.set_len(1000).unwrap();
            },
            fault::TORN,
        ),
    ];
    for (name, attack, what) in attacks {
        let (_home, folder) = new_folder();
        let Opened { mut log, .. } = opened(&folder, &TestStore::default());
        for index in 0..5 {
            log.append(&sample(index), at(1)).unwrap();
        }
        log.flush().unwrap();
        let report = in_runtime(log.verify()).unwrap();
        assert_eq!((report.damage, report.keyed), (None, 5), "{name}");
        attack(&folder, &Copied::of(&folder));
        let report = in_runtime(log.verify()).unwrap();
        assert_eq!(report.damage.unwrap().what, what, "{name}");
    }
}

/// Changes files in place, as somebody would under a running writer.
fn overwrite(folder: &Path, copy: &Copied) {
    for (lines, number) in copy.segments.iter().zip(1..) {
        fs::write(folder::segment_path(folder, number), lines.concat()).unwrap();
    }
    fs::write(folder::anchor_path(folder), copy.anchor.as_ref().unwrap()).unwrap();
}

/// AU-3: what is read is what was recorded, newest last; headers are not records.
#[test]
fn records_read_back_as_they_were_written() {
    let (_home, folder) = new_folder();
    let store = TestStore::default();
    for start in 0..3 {
        let Opened { mut log, .. } = opened(&folder, &store);
        for index in 0..10 {
            log.append(&sample(start * 10 + index), at(seconds(index)))
                .unwrap();
        }
    }
    let entries = read(&folder, 1000).unwrap();
    assert_eq!(entries.len(), 30);
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(entry.record, sample(index), "{index}");
        assert_eq!(entry.at, at(seconds(index % 10)).unix);
    }
    // Three headers came before the last record.
    assert_eq!(entries[29].seq, 33);
    let newest = read(&folder, 12).unwrap();
    assert_eq!(newest, entries[18..]);
    assert!(read(&folder, 0).unwrap().is_empty());
}

/// HY-12, AU-3: no text of a peer makes a line that the reader would refuse, or two lines; nor do
/// the longest names that a server can give.
#[test]
fn overlong_and_hostile_text_is_cut_to_a_line_that_reads() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } = opened(&folder, &TestStore::default());
    let mut record = sample(0);
    let one_try = Try {
        request_id: Some(RequestId::parse(&"r".repeat(128)).unwrap()),
        proof_jti: Some(ProofJti::parse(&"j".repeat(256)).unwrap()),
    };
    record.trace.earlier = vec![one_try.clone(); MAX_EARLIER_TRIES + 3];
    record.trace.request_id = one_try.request_id;
    record.trace.proof_jti = one_try.proof_jti;
    record.lease_id = Some(LeaseId::parse(&"l".repeat(128)).unwrap());
    record.session_id = Some(SessionId::parse(&"s".repeat(128)).unwrap());
    record.principal = Some(Principal::parse(&"p".repeat(256)).unwrap());
    record.profile = Some(ProfileName::parse(&"p".repeat(32)).unwrap());
    let long = CleanText::new(&"\"\u{1f980}\\\n".repeat(9000), usize::MAX);
    record.rule = Some(long.clone());
    record.reason = Some(long.clone());
    record.actions = vec![Action::Redeem; 9].into();
    record.lease_expires_at = Some(UnixTime::from_millis(u64::MAX));
    record.peer = Some(Arc::new(PeerFacts {
        process: ProcessId {
            pid: i32::MIN,
            started: u64::MAX,
        },
        exe: Some(long.clone()),
        ancestors: vec![long.clone(); 40],
        origin: Origin {
            cgroup: Some(long),
            exe_hash: Some(FileHash::new([255; 32])),
            ..Origin::default()
        },
    }));
    log.append(&record, at(1)).unwrap();
    drop(log);
    let entries = read(&folder, 10).unwrap();
    let trace = &entries[0].record.trace;
    assert_eq!(trace.earlier.len(), MAX_EARLIER_TRIES);
    let peer = entries[0].record.peer.as_ref().unwrap();
    assert_eq!(peer.ancestors.len(), 16);
    assert_eq!(peer.exe.as_ref().unwrap().as_str().chars().count(), 512);
    let cgroup = peer.origin.cgroup.as_ref().unwrap();
    assert_eq!(cgroup.as_str().chars().count(), 512);
    assert_eq!(verify(&folder, &Keys::none()).unwrap().damage, None);
}

/// AU-4: at rest the anchor equals the head.
#[test]
fn the_anchor_equals_the_head_at_rest() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } = opened(&folder, &TestStore::default());
    let anchored = || folder::read_anchor(&folder).unwrap().unwrap().0;
    assert_eq!(anchored().count, 1);
    for index in 0..5 {
        log.append(&sample(index), at(1)).unwrap();
    }
    log.flush().unwrap();
    assert_eq!(anchored(), log.bound().head);
    log.append(&sample(5), at(1)).unwrap();
    let head = log.bound().head;
    drop(log);
    assert_eq!(anchored(), head);
    assert_eq!(head.count, 7);
}

/// AU-6, AU-7: each start opens a segment; a key store that forgets means a fresh key each time,
/// one that keeps means the same.
#[test]
fn each_start_opens_a_segment_under_the_right_key() {
    for (store, keys_wanted) in [(TestStore::default(), 3), (TestStore::persistent(), 1)] {
        let (_home, folder) = new_folder();
        let mut ids = BTreeSet::new();
        for _ in 0..3 {
            let Opened { mut log, .. } = opened(&folder, &store);
            ids.insert(key_of(&log).id().text());
            log.append(&sample(0), at(1)).unwrap();
        }
        assert_eq!(ids.len(), keys_wanted);
        assert_eq!(folder::segments(&folder).unwrap(), [1, 2, 3]);
        let report = verify(&folder, &Keys::from_store(&store).unwrap()).unwrap();
        let keyed = if store.is_persistent { 3 } else { 0 };
        assert_eq!((report.records, report.keyed), (3, keyed));
        assert_eq!(report.damage, None);
    }
}

/// AU-7: a key that does not read is an error, not a reason for a silent new one.
#[test]
fn a_key_that_does_not_read_is_refused() {
    let store = TestStore::persistent();
    store
        .store("audit/mac", SecretString::copy_from("short"))
        .unwrap();
    let (_home, folder) = new_folder();
    let error = FileAuditLog::open(&folder, &store, at(0)).unwrap_err();
    assert!(matches!(error, OpenError::Key(_)), "{error}");
}

/// A key store that is there for so many calls, and then gone or locked.
#[derive(Debug)]
struct FailingStore {
    store: TestStore,
    calls_left: Mutex<u32>,
}

impl FailingStore {
    fn called(&self) -> Result<&TestStore, KeyStoreError> {
        let mut left = self.calls_left.lock().unwrap();
        *left = left.checked_sub(1).ok_or(KeyStoreError)?;
        Ok(&self.store)
    }
}

impl KeyStore for FailingStore {
    fn kind(&self) -> &'static str {
        "failing"
    }

    fn load(&self, name: &str) -> Result<Option<SecretString>, KeyStoreError> {
        self.called()?.load(name)
    }

    fn store(&self, name: &str, secret: SecretString) -> Result<(), KeyStoreError> {
        self.called()?.store(name, secret)
    }

    fn is_persistent(&self) -> bool {
        true
    }
}

/// AU-7, HY-10: a key store that fails, at whichever call, is an error that leaves the log as it
/// was, with a log and without one; no other key is made in its place. Once it works again the log
/// goes on under its key.
#[test]
fn a_key_store_that_fails_leaves_the_log_alone() {
    for has_log in [false, true] {
        let (_home, folder) = new_folder();
        let store = TestStore::persistent();
        if has_log {
            let Opened { mut log, .. } = opened(&folder, &store);
            log.append(&sample(0), at(1)).unwrap();
        }
        let mut store = FailingStore {
            store,
            calls_left: Mutex::new(0),
        };
        let listed = || folder::segments(&folder).unwrap();
        let before = has_log.then(listed);
        // A key that is there takes one call, a new one two.
        for calls in 0..if has_log { 1 } else { 2 } {
            store.calls_left = Mutex::new(calls);
            let error = FileAuditLog::open(&folder, &store, at(2)).unwrap_err();
            assert!(matches!(error, OpenError::Key(_)), "{calls}: {error}");
            assert_eq!(listed(), before.clone().unwrap_or_default(), "{calls}");
        }
        store.calls_left = Mutex::new(9);
        drop(opened(&folder, &store));
        let keys = Keys::from_store(&store).unwrap();
        let report = verify(&folder, &keys).unwrap();
        assert_eq!(report.damage, None);
        assert_eq!(report.keyed, report.records);
    }
}

/// AU-3: one writer.
#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let (_home, folder) = new_folder();
    let store = TestStore::default();
    let first = opened(&folder, &store);
    let error = FileAuditLog::open(&folder, &store, at(0)).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    drop(first);
    drop(opened(&folder, &store));
}

/// AU-3: files 0600, the folder 0700.
#[test]
fn files_are_private() {
    let (_home, folder) = new_folder();
    drop(opened(&folder, &TestStore::default()));
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

/// AU-3: the folder is checked without following links.
#[test]
fn a_folder_that_is_not_private_and_ours_is_refused() {
    let store = TestStore::default();
    let open = |folder: &Path| match FileAuditLog::open(folder, &store, at(0)) {
        Err(OpenError::Folder(error)) => error,
        other => panic!("{other:?}"),
    };
    let (home, folder) = new_folder();
    fs::create_dir(&folder).unwrap();
    for mode in [0o755, 0o750, 0o701, 0o770, 0o1777] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        let error = open(&folder);
        assert!(
            matches!(error, FolderError::OpenToOthers { mode: found, .. } if found == mode),
            "{error}"
        );
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let link = home.path().join("link");
    symlink(&folder, &link).unwrap();
    assert!(matches!(open(&link), FolderError::NotAFolder(_)));
    let dangling = home.path().join("dangling");
    symlink(home.path().join("nowhere"), &dangling).unwrap();
    assert!(matches!(open(&dangling), FolderError::NotAFolder(_)));
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(open(&file), FolderError::NotAFolder(_)));
    let foreign = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&folder, Some(12_345), None).unwrap();
        folder
    } else {
        PathBuf::from("/usr")
    };
    assert!(matches!(open(&foreign), FolderError::NotOurs(_)));
}

/// AU-3: links and FIFOs in the place of the log's files are not followed or waited for.
#[test]
fn links_in_the_folder_are_not_followed() {
    let (home, folder) = new_folder();
    drop(opened(&folder, &TestStore::default()));
    let target = home.path().join("target");
    for file in [
        folder::segment_path(&folder, 1),
        folder::anchor_path(&folder),
    ] {
        fs::rename(&file, &target).unwrap();
        symlink(&target, &file).unwrap();
        let damage = verify(&folder, &Keys::none()).unwrap().damage.unwrap();
        assert_eq!((damage.file, damage.line), (file.clone(), 1));
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let damage = verify(&folder, &Keys::none()).unwrap().damage.unwrap();
        assert_eq!((damage.file, damage.line), (file.clone(), 1));
        fs::remove_file(&file).unwrap();
        fs::rename(&target, &file).unwrap();
    }
}

/// AU-5: damage is fatal at the next start, and nothing is changed.
#[test]
fn a_damaged_log_is_not_opened() {
    let (other, _) = build(&[8], &TestStore::default(), 1 << 20);
    let (log, _) = build(&[3, 3], &TestStore::default(), 1 << 20);
    for row in rows(&log, &other).into_iter().filter(|row| !row.needs_key) {
        let (_home, folder) = new_folder();
        row.copy.write(&folder);
        let before = folder::segments(&folder).unwrap();
        let error = FileAuditLog::open(&folder, &TestStore::default(), at(0)).unwrap_err();
        assert!(
            matches!(error, OpenError::Damaged(_)),
            "{}: {error}",
            row.name
        );
        assert_eq!(folder::segments(&folder).unwrap(), before, "{}", row.name);
    }
}

/// AU-6: a segment that is full is followed by the next under the same chain.
#[test]
fn rotation_keeps_the_chain() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } =
        FileAuditLog::open_with(&folder, &TestStore::default(), at(0), 2000).unwrap();
    for index in 0..60 {
        log.append(&sample(index), at(1)).unwrap();
    }
    let report = in_runtime(log.verify()).unwrap();
    assert_eq!(
        (report.damage, report.records, report.keyed),
        (None, 60, 60)
    );
    drop(log);
    assert!(folder::segments(&folder).unwrap().len() > 5);
    let report = verify(&folder, &Keys::none()).unwrap();
    assert_eq!((report.damage, report.records, report.keyed), (None, 60, 0));
    assert_eq!(read(&folder, 100).unwrap().len(), 60);
}

/// AU-1: a write that fails closes delivery; when the disk takes bytes again, so does the log,
/// and no line is lost or torn.
#[test]
fn a_failed_write_is_an_error_and_the_log_recovers() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } = opened(&folder, &TestStore::default());
    log.append(&sample(0), at(1)).unwrap();
    log.flush().unwrap();
    let full = Arc::new(File::options().append(true).open("/dev/full").unwrap());
    let good = log.divert(full);
    for _ in 0..3 {
        assert_eq!(log.append(&sample(1), at(2)), Err(AuditError));
    }
    // The part of a line that a full disk took.
    {
        use std::io::Write as _;
        (&*good).write_all(b"{\"seq\":3,\"at").unwrap();
    }
    drop(log.divert(good));
    log.append(&sample(2), at(3)).unwrap();
    let report = in_runtime(log.verify()).unwrap();
    assert_eq!((report.damage, report.records), (None, 2));
}

/// AU-1: a batch reaches the kernel in one write, or not at all: then the chain goes on from what
/// the kernel has.
#[test]
fn a_batch_is_written_whole_or_gone_whole() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } = opened(&folder, &TestStore::default());
    let stage_three = |log: &mut FileAuditLog| {
        for index in 0..3 {
            log.stage(&sample(index), at(1)).unwrap();
        }
    };
    let before = log.bound().len;
    stage_three(&mut log);
    let segment = folder::segment_path(&folder, 1);
    assert_eq!(fs::metadata(&segment).unwrap().len(), before);
    log.write().unwrap();
    let written = log.bound().len;
    assert_eq!(fs::metadata(&segment).unwrap().len(), written);

    let full = Arc::new(File::options().append(true).open("/dev/full").unwrap());
    let good = log.divert(full);
    stage_three(&mut log);
    assert_eq!(log.write(), Err(AuditError));
    assert_eq!(log.write(), Err(AuditError), "it takes nothing yet");
    drop(log.divert(good));
    assert_eq!(log.write(), Ok(()), "nothing is left of the batch");
    assert_eq!(log.bound().len, written);
    assert_eq!(fs::metadata(&segment).unwrap().len(), written);
    stage_three(&mut log);
    log.write().unwrap();
    let report = in_runtime(log.verify()).unwrap();
    assert_eq!((report.damage, report.records), (None, 6));
}

/// AU-1: a sync that fails closes delivery until one works; nothing written before is lost.
#[test]
fn a_failed_sync_closes_delivery_until_one_works() {
    let (home, folder) = new_folder();
    let Opened { mut log, .. } = opened(&folder, &TestStore::default());
    log.append(&sample(0), at(1)).unwrap();
    let away = home.path().join("away");
    let rows: [(&str, &dyn Fn(), &dyn Fn()); 2] = [
        (
            "folder removed",
            &|| fs::rename(&folder, &away).unwrap(),
            &|| fs::rename(&away, &folder).unwrap(),
        ),
        (
            "anchor cannot be written",
            &|| fs::create_dir(folder.join("anchor.new")).unwrap(),
            &|| fs::remove_dir(folder.join("anchor.new")).unwrap(),
        ),
    ];
    for (index, (name, fail, heal)) in rows.into_iter().enumerate() {
        log.flush().unwrap();
        // Nobody else syncs between the write and the failure.
        let turn = log.shared().turn.lock().unwrap();
        fail();
        drop(turn);
        // In the kernel, not on disk: that is known only after the sync.
        log.append(&sample(1), at(2)).unwrap();
        assert_eq!(log.flush(), Err(AuditError), "{name}");
        assert_eq!(log.append(&sample(2), at(3)), Err(AuditError), "{name}");
        heal();
        log.flush().unwrap();
        log.append(&sample(3), at(4)).unwrap();
        let report = in_runtime(log.verify()).unwrap();
        let records = 1 + 2 * (u64::try_from(index).unwrap() + 1);
        assert_eq!((report.damage, report.records), (None, records), "{name}");
    }
    drop(log);
    assert_eq!(verify(&folder, &Keys::none()).unwrap().damage, None);
}

/// AU-1: while the disk hangs, what it has not got is bounded; when it answers, delivery goes on.
#[test]
fn a_disk_that_hangs_closes_delivery_before_memory_grows() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } = opened(&folder, &TestStore::default());
    let shared = Arc::clone(log.shared());
    let turn = shared.turn.lock().unwrap();
    let mut taken = 0;
    while log.append(&sample(0), at(1)).is_ok() {
        taken += 1;
        assert!(taken < 20_000, "nothing bounds it");
    }
    drop(turn);
    log.flush().unwrap();
    log.append(&sample(1), at(2)).unwrap();
    let report = in_runtime(log.verify()).unwrap();
    assert_eq!((report.damage, report.records), (None, taken + 1));
}

/// The room that a hanging disk or a crowd took is given back once two syncs in a row needed little.
#[test]
fn the_room_that_a_crowd_took_is_given_back() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } = opened(&folder, &TestStore::default());
    let shared = Arc::clone(log.shared());
    let turn = shared.turn.lock().unwrap();
    while log.room() < 1024 * 1024 {
        log.append(&sample(0), at(1)).unwrap();
    }
    drop(turn);
    let mut rooms = Vec::new();
    for index in 0..3 {
        log.flush().unwrap();
        log.append(&sample(index), at(2)).unwrap();
        rooms.push(log.room());
    }
    let [crowd, little, quiet] = rooms[..] else {
        panic!("{rooms:?}");
    };
    assert!(crowd >= 1024 * 1024 && little == crowd, "{rooms:?}");
    assert!(quiet <= 64 * 1024, "{rooms:?}");
    // What was kept is what the disk lacks.
    log.flush().unwrap();
    let report = in_runtime(log.verify()).unwrap();
    assert_eq!(report.damage, None);
}

/// AU-1: while the disk hangs, neither the end of a segment nor the end of the log waits for it
/// without limit; when it answers, the next segment begins.
#[test]
fn a_disk_that_hangs_does_not_hold_the_writer() {
    let (_home, folder) = new_folder();
    let Opened { mut log, .. } =
        FileAuditLog::open_with(&folder, &TestStore::default(), at(0), 2000).unwrap();
    log.wait_at_most(Duration::ZERO);
    let shared = Arc::clone(log.shared());
    let turn = shared.turn.lock().unwrap();
    let mut taken: u64 = 0;
    while log.append(&sample(0), at(1)).is_ok() {
        taken += 1;
        assert!(taken < 100, "the segment does not end");
    }
    assert_eq!(log.append(&sample(0), at(1)), Err(AuditError));
    drop(turn);
    log.wait_at_most(Duration::MAX);
    log.flush().unwrap();
    log.append(&sample(1), at(2)).unwrap();
    assert_eq!(folder::segments(&folder).unwrap().len(), 2);
    let report = in_runtime(log.verify()).unwrap();
    assert_eq!((report.damage, report.records), (None, taken + 1));
    log.wait_at_most(Duration::ZERO);
    let turn = shared.turn.lock().unwrap();
    drop(log);
    drop(turn);
}

/// AU-1: a segment that was removed, cut or replaced under the writer closes delivery.
#[test]
fn a_segment_changed_under_the_writer_closes_delivery() {
    let rows: [(&str, fn(&Path)); 3] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("cut", |path| {
            folder::open_writable(path).unwrap().set_len(10).unwrap();
        }),
        ("replaced", |path| {
            let bytes = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (name, change) in rows {
        let (_home, folder) = new_folder();
        let Opened { mut log, .. } = opened(&folder, &TestStore::default());
        log.flush().unwrap();
        change(&folder::segment_path(&folder, 1));
        log.append(&sample(0), at(1)).unwrap();
        assert_eq!(log.flush(), Err(AuditError), "{name}");
        assert_eq!(log.append(&sample(1), at(2)), Err(AuditError), "{name}");
    }
}

fn lease(
    action: AuditAction,
    outcome: AuditOutcome,
    id: &str,
    expires: Option<u64>,
) -> AuditRecord {
    let mut record = AuditRecord::new(action, outcome);
    record.lease_id = Some(LeaseId::parse(id).unwrap());
    record.lease_expires_at = expires.map(|seconds| at(seconds).unix);
    record.selector = Some(Selector::parse("gcp/billing-prod/deploy-bot").unwrap());
    record
}

/// LC-10: leases that the log shows open are handed to the next start, and only those.
#[test]
fn leases_left_open_are_found_by_the_next_start() {
    use AuditAction::{Deliver, LeaseCreate, LeaseRedeem, LeaseRevoke};
    use AuditOutcome::{Denied, Error, Ok};
    let (_home, folder) = new_folder();
    let store = TestStore::default();
    let Opened { mut log, .. } = opened(&folder, &store);
    for record in [
        lease(LeaseCreate, Ok, "left-open", Some(300)),
        lease(LeaseCreate, Ok, "revoked", Some(300)),
        lease(LeaseRevoke, Ok, "revoked", None),
        lease(LeaseCreate, Ok, "revoke-failed", Some(200)),
        lease(LeaseRevoke, Error, "revoke-failed", None),
        lease(LeaseCreate, Ok, "unknown-there", Some(300)),
        AuditRecord {
            reason: Some(CleanText::new("lease_not_found", 64)),
            ..lease(LeaseRevoke, Denied, "unknown-there", None)
        },
        lease(LeaseCreate, Ok, "revoke-denied", Some(250)),
        lease(LeaseRevoke, Denied, "revoke-denied", None),
        lease(LeaseCreate, Ok, "expired", Some(50)),
        lease(LeaseCreate, Denied, "never-made", Some(300)),
        lease(LeaseCreate, Error, "made-otherwise", Some(350)),
        lease(Deliver, Ok, "delivered-only", Some(400)),
        lease(LeaseRedeem, Ok, "without-expiry", None),
    ] {
        log.append(&record, at(10)).unwrap();
    }
    drop(log);
    let found = FileAuditLog::open(&folder, &store, at(100))
        .unwrap()
        .open_leases;
    let found: Vec<_> = found
        .iter()
        .map(|lease| (lease.lease_id.as_str(), lease.expires_at))
        .collect();
    assert_eq!(
        found,
        [
            ("revoke-failed", at(200).unix),
            ("revoke-denied", at(250).unix),
            ("left-open", at(300).unix),
            ("made-otherwise", at(350).unix),
            ("delivered-only", at(400).unix),
            ("without-expiry", at(3610).unix),
        ]
    );
    // LC-2: at its end a lease is over.
    let found = FileAuditLog::open(&folder, &store, at(300))
        .unwrap()
        .open_leases;
    assert_eq!(found.len(), 3);
}

/// AP-11: the next start knows whom each profile was last logged in as.
#[test]
fn the_last_principal_of_a_profile_survives_until_logout() {
    let (_home, folder) = new_folder();
    let store = TestStore::default();
    let record = |action, outcome, profile: &str, principal: &str| AuditRecord {
        profile: Some(ProfileName::parse(profile).unwrap()),
        principal: Some(Principal::parse(principal).unwrap()),
        ..AuditRecord::new(action, outcome)
    };
    let Opened { mut log, .. } = opened(&folder, &store);
    for record in [
        record(AuditAction::Login, AuditOutcome::Ok, "work", "user:first"),
        record(AuditAction::Login, AuditOutcome::Ok, "work", "user:second"),
        record(
            AuditAction::Login,
            AuditOutcome::Denied,
            "work",
            "user:third",
        ),
        record(AuditAction::Login, AuditOutcome::Ok, "home", "user:other"),
    ] {
        log.append(&record, at(1)).unwrap();
    }
    drop(log);
    let Opened {
        mut log,
        last_principals,
        ..
    } = opened(&folder, &store);
    let found: Vec<_> = last_principals
        .iter()
        .map(|(profile, principal)| (profile.as_str(), principal.as_str()))
        .collect();
    assert_eq!(found, [("home", "user:other"), ("work", "user:second")]);
    log.append(
        &record(AuditAction::Logout, AuditOutcome::Ok, "work", "user:second"),
        at(2),
    )
    .unwrap();
    drop(log);
    let left = opened(&folder, &store).last_principals;
    assert_eq!(left.len(), 1);
}

/// The state of a disk after a crash: all files as they are, the last segment cut at `keep`.
fn crashed(folder: &Path, keep: u64) -> (TempDir, PathBuf) {
    let (home, copy) = new_folder();
    fs::create_dir(&copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let last = *folder::segments(&copy).unwrap().last().unwrap();
    let file = folder::open_writable(&folder::segment_path(&copy, last)).unwrap();
    file.set_len(keep).unwrap();
    (home, copy)
}

/// How often each log of the property below is crashed.
const CRASHES: u32 = 16;

/// A folder in memory where there is one: these logs are thrown away, and a disk is slow.
fn quick_folder() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir());
    let home = home.unwrap();
    let folder = home.path().join("audit");
    (home, folder)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..many_by(CRASHES) })]

    /// AU-4, AU-5: whatever of the unsynced tail a crash leaves, the log reopens, keeps every
    /// whole line, moves a torn one aside, and verifies; and the next crash finds it so.
    #[test]
    fn a_crash_at_any_byte_of_the_unsynced_tail_is_survived(
        rounds in prop::collection::vec((0_usize..3, 0_usize..4), 1..3),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), usize::try_from(CRASHES).unwrap()),
        is_persistent: bool,
    ) {
        let store = TestStore { is_persistent, ..TestStore::default() };
        let (mut home, mut folder) = quick_folder();
        let mut records = 0;
        // All rounds but the last crash once.
        let (last, earlier) = (rounds.len() - 1, cuts.len() - (rounds.len() - 1));
        let (once, often) = (cuts.get(earlier..).unwrap(), cuts.get(..earlier).unwrap());
        for (round, (synced, unsynced)) in rounds.into_iter().enumerate() {
            let Opened { mut log, .. } = opened(&folder, &store);
            for index in 0..synced {
                log.append(&sample(index), at(1)).unwrap();
            }
            log.flush().unwrap();
            // While the turn is ours nobody syncs.
            let shared = Arc::clone(log.shared());
            let turn = shared.turn.lock().unwrap();
            let safe = log.bound().len;
            for index in 0..unsynced {
                log.append(&sample(index), at(1)).unwrap();
            }
            let spots = usize::try_from(log.bound().len - safe).unwrap() + 1;
            let keep = |cut: &prop::sample::Index| safe + u64::try_from(cut.index(spots)).unwrap();
            if round < last {
                let crash = crashed(&folder, keep(&once[round]));
                drop(turn);
                drop(log);
                records = survived(&crash.1, &store, records)?;
                (home, folder) = crash;
            } else {
                let crashes: Vec<_> = often.iter().map(|cut| crashed(&folder, keep(cut))).collect();
                drop(turn);
                drop(log);
                for (_home, crash) in crashes {
                    survived(&crash, &store, records)?;
                }
            }
        }
        drop(home);
    }
}

/// A crash left this of a log that had `before` records: verifies it, opens it, verifies it again.
/// Returns how many records there are.
fn survived(folder: &Path, store: &TestStore, before: u64) -> Result<u64, TestCaseError> {
    let segments = folder::segments(folder).unwrap();
    let bytes = fs::read(folder::segment_path(folder, *segments.last().unwrap())).unwrap();
    let whole = bytes.split(|byte| *byte == b'\n').count() - 1;
    let is_torn = !bytes.ends_with(b"\n");
    // The first line is the header.
    let records = before + u64::try_from(whole).unwrap() - 1;
    let report = verify(folder, &Keys::none()).unwrap();
    prop_assert_eq!((report.damage, report.torn_tail), (None, is_torn));
    prop_assert_eq!(report.records, records);
    let Opened { log, torn_tail, .. } = opened(folder, store);
    prop_assert_eq!(torn_tail.is_some(), is_torn);
    if let Some(torn) = torn_tail {
        let tail: Vec<_> = bytes.rsplit(|byte| *byte == b'\n').next().unwrap().to_vec();
        prop_assert_eq!(fs::read(torn).unwrap(), tail);
    }
    drop(log);
    let report = verify(folder, &Keys::none()).unwrap();
    prop_assert_eq!((report.damage, report.torn_tail), (None, false));
    prop_assert_eq!(report.records, records);
    Ok(records)
}

prop_compose! {
    /// A record of anything that a record can hold.
    fn any_record()(
        action in prop::sample::select(&AuditAction::ALL),
        outcome in prop::sample::select(&[AuditOutcome::Ok, AuditOutcome::Denied, AuditOutcome::Error][..]),
        peer in prop::option::of((any::<i32>(), any::<u64>(), prop::option::of(".{0,40}"), prop::collection::vec(".{0,9}", 0..4))),
        selector in prop::option::of("[a-z0-9][a-z0-9._-]{0,9}"),
        expires in prop::option::of(any::<u64>()),
        exposure in prop::option::of(prop::sample::select(&Exposure::ALL)),
        texts in [prop::option::of(r#"["\\a-z\u{e4}\n]{0,40}"#), prop::option::of(".{0,40}")],
        ids in [prop::option::of("[A-Za-z0-9._-]{1,20}"), prop::option::of("[A-Za-z0-9._-]{1,20}"), prop::option::of("[A-Za-z0-9._-]{1,20}")],
        earlier in 0..=MAX_EARLIER_TRIES,
    ) -> AuditRecord {
        let peer = peer.map(|(pid, started, exe, ancestors)| Arc::new(PeerFacts {
            process: ProcessId { pid, started },
            exe: exe.map(|text| CleanText::new(&text, 512)),
            ancestors: ancestors.iter().map(|text| CleanText::new(text, 64)).collect(),
            origin: Origin::default(),
        }));
        let [rule, reason] = texts;
        let [lease, principal, request] = ids;
        AuditRecord {
            profile: ProfileName::parse("work").ok(),
            peer,
            selector: selector.map(|part| Selector::from_parts(&part, "a", &part).unwrap()),
            lease_id: lease.map(|text| LeaseId::parse(&text).unwrap()),
            lease_expires_at: expires.map(UnixTime::from_millis),
            exposure,
            rule: rule.map(|text| CleanText::new(&text, 64)),
            reason: reason.map(|text| CleanText::new(&text, 200)),
            principal: principal.as_deref().map(|text| Principal::parse(text).unwrap()),
            session_id: principal.map(|text| SessionId::parse(&text).unwrap()),
            trace: CallTrace {
                request_id: request.map(|text| RequestId::parse(&text).unwrap()),
                proof_jti: None,
                earlier: tries(earlier),
            },
            ..AuditRecord::new(action, outcome)
        }
    }
}

proptest! {
    #![proptest_config(many())]

    /// AU-3: a record's line is read as what was written, and with any byte of it changed it is not
    /// read, or not as that: its hash or its MAC is another one.
    #[test]
    fn a_line_reads_back_as_written_and_not_otherwise(
        record in any_record(),
        seq: u64,
        millis: u64,
        place: prop::sample::Index,
        flip in 1_u8..,
    ) {
        let at = UnixTime::from_millis(millis);
        let (prev, mac) = (Hash::of(b"before"), Hash::of(b"mac"));
        let mut bytes = Vec::new();
        line::record(&mut bytes, seq, at, &record, &prev).unwrap();
        let hash = Hash::of(&bytes);
        line::seal(&mut bytes, &hash, &mac);
        let mut scratch = Vec::new();
        let read = wire::record(&bytes, &mut scratch).unwrap();
        prop_assert_eq!((read.seq, read.at, read.content, read.prev), (seq, at, record, prev));
        prop_assert_eq!((read.hash, read.computed, read.mac), (hash, hash, mac));
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        if let Some(read) = wire::record(&bytes, &mut scratch) {
            prop_assert!(read.hash != read.computed || read.mac != mac);
        }
    }
}

/// AU-5: a start that died before its segment's header was whole left a crash, not damage.
#[test]
fn a_torn_header_of_the_last_segment_is_a_crash() {
    for keep in [0, 1, 100] {
        let (_home, folder) = new_folder();
        let store = TestStore::default();
        let Opened { mut log, .. } = opened(&folder, &store);
        log.append(&sample(0), at(1)).unwrap();
        drop(log);
        let anchor = fs::read(folder::anchor_path(&folder)).unwrap();
        drop(opened(&folder, &store));
        fs::write(folder::anchor_path(&folder), anchor).unwrap();
        let (_home, copy) = crashed(&folder, keep);
        let report = verify(&copy, &Keys::none()).unwrap();
        assert_eq!((report.damage, report.torn_tail), (None, true), "{keep}");
        let Opened { log, torn_tail, .. } = opened(&copy, &store);
        assert!(torn_tail.is_some(), "{keep}");
        drop(log);
        assert_eq!(folder::segments(&copy).unwrap(), [1, 2], "{keep}");
        let report = verify(&copy, &Keys::none()).unwrap();
        assert_eq!((report.damage, report.torn_tail), (None, false), "{keep}");
    }
}

/// AU-9: a folder without a log has nothing to check; one that is absent cannot be read.
#[test]
fn an_empty_folder_has_no_records_and_no_damage() {
    let home = tempfile::tempdir().unwrap();
    let report = verify(home.path(), &Keys::none()).unwrap();
    assert_eq!((report.records, report.damage), (0, None));
    assert!(read(home.path(), 5).unwrap().is_empty());
    assert!(verify(&home.path().join("absent"), &Keys::none()).is_err());
}
