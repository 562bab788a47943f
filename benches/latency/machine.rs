//! What the figures were taken on, and what a process used.

use std::fs;
use std::process::Command;

/// Where and with what.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) facts: Vec<(&'static str, String)>,
}

impl Machine {
    pub(crate) fn look() -> Self {
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
                        "bench (release, thin LTO, overflow checks), default features"
                    }
                    .to_owned(),
                ),
                ("load before", load()),
            ],
        }
    }
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
        let mut used = Self::default();
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return used;
        };
        for thread in threads.flatten() {
            let path = thread.path();
            let file = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            let cpu = file("schedstat");
            let cpu = cpu.split(' ').next().and_then(|text| text.parse().ok());
            let status = file("status");
            used = used.plus(Self {
                cpu: cpu.unwrap_or(0),
                waits: number(&status, "voluntary_ctxt_switches:"),
                preemptions: number(&status, "nonvoluntary_ctxt_switches:"),
            });
        }
        used
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

/// What a line of `/proc/PID/status` counts.
fn number(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        .unwrap_or(0)
}
