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
    /// Where it comes from, for grants and for who may decide. In no record.
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
