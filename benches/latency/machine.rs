//! What the figures were taken on, and what a process used.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where and with what.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) facts: Vec<(&'static str, String)>,
}

impl Machine {
    pub(crate) fn look(bin: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let model = line_of("/proc/cpuinfo", "model name").unwrap_or_default();
        let system = line_of("/etc/os-release", "PRETTY_NAME").unwrap_or_default();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        Self {
            facts: vec![
                ("machine", format!("{cpus} × {model}")),
                (
                    "kernel",
                    format!(
                        "Linux {}, {system}",
                        first_line("/proc/sys/kernel/osrelease")
                    ),
                ),
                (
                    "compiler",
                    said(Command::new(rustc).arg("--version")).unwrap_or_else(unknown),
                ),
                ("commit", commit().unwrap_or_else(unknown)),
                (
                    "profile",
                    if cfg!(debug_assertions) {
                        "debug: these figures mean nothing"
                    } else {
                        "bench (release, thin LTO, overflow checks)"
                    }
                    .to_owned(),
                ),
                ("daemon", build(bin)),
                ("load before", load()),
            ],
        }
    }
}

/// Which build of the daemon it is: packages leave the bundled server out.
fn build(bin: &Path) -> String {
    let version = said(Command::new(bin).arg("--version")).unwrap_or_else(unknown);
    let has_server = said(Command::new(bin).args(["demo", "--help"])).is_some();
    let features = if has_server {
        "default features (with the bundled server)"
    } else {
        "no default features, as packaged"
    };
    let size = fs::metadata(bin).map_or(0, |file| file.len());
    format!("{version}, {features}, {size} bytes")
}

/// The load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = first_line("/proc/loadavg");
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_default();
    format!("{} {} {}", next(), next(), next())
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        said(
            Command::new("git")
                .arg("-C")
                .arg(env!("CARGO_MANIFEST_DIR"))
                .args(arguments),
        )
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let note = if changed.is_empty() {
        ""
    } else {
        " and uncommitted changes"
    };
    Some(format!("{commit}{note}"))
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn line_of(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    let value = line.split_once([':', '='])?.1;
    Some(value.trim().trim_matches('"').to_owned())
}

/// What a process used, over all its threads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Nanoseconds on a processor; zero where the kernel does not count them.
    pub(crate) cpu: u64,
    /// How often a thread went to sleep by itself.
    pub(crate) waits: u64,
    /// How often a thread was made to wait for another one.
    pub(crate) preemptions: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Self {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return Self::default();
        };
        let each = threads
            .flatten()
            .map(|thread| Self::of_task(&thread.path()));
        each.fold(Self::default(), Self::plus)
    }

    /// Of the caller's thread alone.
    pub(crate) fn of_this_thread() -> Self {
        Self::of_task(Path::new("/proc/thread-self"))
    }

    fn of_task(path: &Path) -> Self {
        let file = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        let cpu = file("schedstat");
        let cpu = cpu.split(' ').next().and_then(|text| text.parse().ok());
        let status = file("status");
        Self {
            cpu: cpu.unwrap_or(0),
            waits: number(&status, "voluntary_ctxt_switches:"),
            preemptions: number(&status, "nonvoluntary_ctxt_switches:"),
        }
    }

    pub(crate) fn of_all(pids: &[u32]) -> Self {
        let each = pids.iter().map(|pid| Self::of(*pid));
        each.fold(Self::default(), Self::plus)
    }

    /// A thread that ended between the two took its share with it.
    pub(crate) fn since(self, earlier: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            waits: self.waits.saturating_sub(earlier.waits),
            preemptions: self.preemptions.saturating_sub(earlier.preemptions),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            waits: self.waits.saturating_add(other.waits),
            preemptions: self.preemptions.saturating_add(other.preemptions),
        }
    }
}

/// What a line of a file below `/proc/PID` counts, in whatever unit it does.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// What a process holds on to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// KiB that are its own and nobody else's. The kernel tells them of a hardened process to
    /// root alone.
    pub(crate) private: Option<u64>,
    /// Open descriptors; the kernel tells them since Linux 6.2.
    pub(crate) descriptors: Option<u64>,
    pub(crate) threads: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Self {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let private = file("smaps_rollup").ok().map(|rollup| {
            let clean = number(&rollup, "Private_Clean:");
            clean.saturating_add(number(&rollup, "Private_Dirty:"))
        });
        let descriptors = fs::metadata(format!("/proc/{pid}/fd")).map_or(0, |folder| folder.len());
        Self {
            private,
            descriptors: Some(descriptors).filter(|count| *count > 0),
            threads: number(&file("status").unwrap_or_default(), "Threads:"),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |count: Option<u64>| count.map_or("–".to_owned(), |count| count.to_string());
        write!(
            f,
            "{} KiB private, {} descriptors, {} threads",
            known(self.private),
            known(self.descriptors),
            self.threads
        )
    }
}
