use std::fmt;

use super::CleanText;

/// A local process, told apart from a later one with the same number by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

/// What the kernel says about the process at the other end of a connection. Only the uid was
/// checked for access; the rest are hints for records, prompts and narrowing rules (PE-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Which process.
    pub process: ProcessId,
    /// Its executable, where the kernel shows it.
    pub exe: Option<CleanText>,
    /// The base names of its ancestors' executables, nearest first, at most 16 (PE-5, PE-6).
    pub ancestors: Vec<CleanText>,
    /// Where it comes from, for grants, for rules and for who may decide. In records stand its control
    /// group and the hash of its executable.
    pub origin: Origin,
}

impl PeerFacts {
    /// Whether it is that process, or came from it.
    pub fn is_or_is_below(&self, process: ProcessId) -> bool {
        self.process == process
            || self
                .origin
                .ancestors
                .iter()
                .any(|ancestor| ancestor.process == process)
    }
}

/// Where a process comes from, as it was when it connected. Hints, like all of it (PE-3); what the
/// kernel does not show is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file of its executable: another one under the same path is another file.
    pub exe_file: Option<FileId>,
    /// The processes above it, nearest first, at most 16 (PE-5).
    pub ancestors: Vec<Ancestor>,
    /// The leader of its session (`setsid(2)`): in a terminal, the shell there.
    pub session_leader: Option<ProcessId>,
    /// Whether it has a controlling terminal.
    pub has_terminal: bool,
    /// Its control group, `/` first: which unit of systemd it belongs to. Read only where a rule asks
    /// for it.
    pub cgroup: Option<CleanText>,
    /// What its executable holds. Read only where a rule asks for it, and not of a large one.
    pub exe_hash: Option<FileHash>,
}

impl Origin {
    /// The innermost unit of systemd that the control group is in: a service or a scope.
    pub fn unit(&self) -> Option<&str> {
        self.cgroup
            .as_ref()?
            .as_str()
            .rsplit('/')
            .find(|name| UNITS.iter().any(|kind| name.ends_with(kind)))
    }
}

/// The kinds of units that processes are in.
const UNITS: [&str; 2] = [".service", ".scope"];

/// The SHA-256 of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileHash([u8; 32]);

impl FileHash {
    /// The one of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits, the letters small, as `sha256sum` writes them.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let (pairs, _) = digits.as_chunks::<2>();
        let mut hash = [0; 32];
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?;
        }
        Some(Self(hash))
    }
}

fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => text.checked_sub(b'0'),
        b'a'..=b'f' => text.checked_sub(b'a')?.checked_add(10),
        _ => None,
    }
}

impl fmt::Display for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One of the processes above another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Which process.
    pub process: ProcessId,
    /// The base name of its executable.
    pub name: Option<CleanText>,
}

/// A file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// On which device.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_as_it_is_written() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(FileHash::parse(&text).unwrap().to_string(), text);
        let (long, short) = (format!("{text}0"), "0".repeat(63));
        for bad in [
            "",
            &short,
            &long,
            &text.to_uppercase(),
            &text.replace('0', "g"),
        ] {
            assert_eq!(FileHash::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_unit_is_the_innermost_service_or_scope() {
        let rows = [
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-a.service",
                Some("app-a.service"),
            ),
            (
                "/user.slice/user-1000.slice/session-2.scope",
                Some("session-2.scope"),
            ),
            ("/system.slice/cron.service/payload", Some("cron.service")),
            ("/user.slice", None),
            ("/", None),
        ];
        for (cgroup, unit) in rows {
            let origin = Origin {
                cgroup: Some(CleanText::new(cgroup, 256)),
                ..Origin::default()
            };
            assert_eq!(origin.unit(), unit, "{cgroup}");
        }
        assert_eq!(Origin::default().unit(), None);
    }
}
