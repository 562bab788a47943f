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
}
