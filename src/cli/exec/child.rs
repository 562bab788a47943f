//! The command itself: started with what was found before our hardening, told of signals, and
//! waited for.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io, thread};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::names::Variables;
use super::output::{Filter, Streams};
use crate::cli::render;
use crate::daemon::hardening;
use crate::model::{CleanText, ErrorCode, Refusal};

/// As a shell says it: not there, there and not to be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

/// What a shell adds to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// What is passed on whoever was told. Where that was the whole process group, as a shell that
/// hangs up does it, the command hears it twice: nothing here says who sent a signal to whom, after
/// a hang-up there is no terminal left to ask, and twice is better than never.
const PASSED_ON: [Signal; 4] = [Signal::HUP, Signal::TERM, Signal::USR1, Signal::USR2];

/// What a terminal tells the command as well, being in the same process group. While that is in the
/// foreground they are taken for the terminal's: one for us alone is not passed on then.
const OF_A_TERMINAL: [Signal; 2] = [Signal::INT, Signal::QUIT];

/// Turns of the runtime after which a signal that was there before them has come through: one takes
/// it from the system, one passes it to its task, and one that to us.
const TURNS: u8 = 4;

/// Runs the command to its end, then `after`, and answers with the command's status: its own, or
/// 128 and the signal's number; 127 or 126 where it could not be started, after saying so. A signal
/// that comes after the command's end is for us, who do not wait for `after` any longer.
///
/// # Errors
/// `internal` where the system has no place for a runtime or a handler of signals; then `after` is
/// dropped.
pub(super) fn run(
    command: &[OsString],
    variables: Variables,
    filter: Filter,
    after: impl FnOnce() + Send + 'static,
) -> Result<ExitCode, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(&error))?;
    runtime.block_on(async {
        let mut signals = signals().map_err(|error| failed(&error))?;
        let (ended, streams) = match start(command, variables, filter) {
            Ok((mut child, streams)) => {
                (attend(&mut child, &mut signals).await, Some(streams))
            }
            Err(error) => (Ok(not_started(command, &error)), None),
        };
        leave(after, &mut signals).await;
        if let Some(streams) = streams {
            tokio::select! {
                is_masked = streams.ended() => if is_masked {
                    render::progress("aegis-broker: a credential was in the output and is masked\n");
                },
                // What the command left running may write for ever.
                Some(_signal) = signals.recv() => {}
            }
        }
        ended.map_err(|error| failed(&error))
    })
}

fn start(
    command: &[OsString],
    variables: Variables,
    filter: Filter,
) -> io::Result<(Child, Streams)> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program);
    child.args(arguments).envs(variables);
    // Of the person's own command neither the files nor the core are ours to bound.
    let pipes = filter.lay(&mut child)?;
    let started = hardening::as_found(|| child.spawn())?;
    // Our copies of the command's ends go, so that its end is the streams'.
    drop(child);
    Ok((started, pipes.flow()?))
}

/// Whether the command is somewhere that it is looked for. Whether it can be started is seen then.
pub(super) fn is_there(command: &[OsString]) -> bool {
    let Some(program) = command.first() else {
        return false;
    };
    if program.as_encoded_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    // Without a PATH the system looks in places of its own.
    env::var_os("PATH")
        .is_none_or(|path| env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

/// As a shell says it.
pub(super) fn not_found(command: &[OsString]) -> ExitCode {
    not_started(command, &io::ErrorKind::NotFound.into())
}

/// Waits for its end and passes on what it would not hear otherwise.
async fn attend(child: &mut Child, signals: &mut mpsc::Receiver<Signal>) -> io::Result<ExitCode> {
    let mut is_said = false;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status_of(status?)),
            Some(signal) = signals.recv() => {
                // Not reaped yet, so that the number is still its own.
                let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
                let heard = OF_A_TERMINAL.contains(&signal) && is_in_foreground();
                if let (Some(pid), false) = (pid, heard)
                    && let Err(error) = pass_on(pid, signal)
                    && !std::mem::replace(&mut is_said, true)
                {
                    render::progress(&format!(
                        "aegis-broker: the command cannot be told of signals: {error}\n"
                    ));
                }
            }
        }
    }
}

/// A command that became another user's, as `sudo` does, is not ours to tell.
fn pass_on(pid: Pid, signal: Signal) -> Result<(), Errno> {
    match kill_process(pid, signal) {
        // It has ended this moment: the wait for it says so next.
        Err(Errno::SRCH) => Ok(()),
        told => told,
    }
}

/// Does what is left, until it is done or a signal says not to wait.
async fn leave(after: impl FnOnce() + Send + 'static, signals: &mut mpsc::Receiver<Signal>) {
    // What the command was told too, such as the Ctrl-C that ended it, is no word to us.
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
    while signals.try_recv().is_ok() {}
    let (done, is_done) = oneshot::channel::<()>();
    let started = thread::Builder::new().spawn(move || {
        after();
        drop(done);
    });
    // Without a thread `after` is dropped, and `is_done` ends at once.
    drop(started);
    tokio::select! {
        _ended = is_done => {}
        Some(_signal) = signals.recv() => render::progress(
            "aegis-broker: the end of the leases is not waited for; they end with this process\n",
        ),
    }
}

/// Whether our terminal, whatever standard input is, tells our whole process group.
fn is_in_foreground() -> bool {
    let terminal = open("/dev/tty", OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let foreground = terminal.and_then(tcgetpgrp);
    foreground.is_ok_and(|foreground| foreground == getpgrp())
}

/// All signals of both kinds, in one place. What was ignored when we started stays so, for us and
/// the command: handled by us it would be the default for the command, and `nohup` in vain.
fn signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(8);
    let ignored = ignored(&fs::read_to_string("/proc/self/status")?);
    for number in PASSED_ON.into_iter().chain(OF_A_TERMINAL) {
        if is_in(ignored, number) {
            continue;
        }
        let mut heard = signal(SignalKind::from_raw(number.as_raw()))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while heard.recv().await.is_some() && sender.send(number).await.is_ok() {}
        });
    }
    Ok(receiver)
}

/// The set `SigIgn` of `/proc/PID/status`: signal 1 is the lowest bit. Empty without that line.
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}

fn is_in(set: u64, signal: Signal) -> bool {
    u32::try_from(signal.as_raw())
        .ok()
        .and_then(|number| set.checked_shr(number.checked_sub(1)?))
        .is_some_and(|rest| rest & 1 == 1)
}

fn status_of(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status
        .code()
        .or_else(|| Some(BY_SIGNAL.saturating_add(status.signal()?)))
        .and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(NOT_STARTED))
}

fn not_started(command: &[OsString], error: &io::Error) -> ExitCode {
    let name = command.first().map(|name| name.to_string_lossy());
    let name = CleanText::new(&name.unwrap_or_default(), 256);
    render::progress(&format!("aegis-broker: {name}: {error}\n"));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_STARTED
    })
}

fn failed(error: &io::Error) -> Refusal {
    Refusal::new(ErrorCode::Internal)
        .with_message(&format!("the command cannot be attended to: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let set = ignored("SigBlk:\t0000000000000003\nSigIgn:\t0000000000001001\nSigCgt:\tff\n");
        assert!(is_in(set, Signal::HUP) && is_in(set, Signal::PIPE));
        assert!(!is_in(set, Signal::INT) && !is_in(set, Signal::TERM));
        assert_eq!((ignored(""), ignored("SigIgn:\tx")), (0, 0));
    }
}
