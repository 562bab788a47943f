//! The command itself: started with what was found before our hardening, told of signals, and
//! waited for.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::names::Variables;
use crate::cli::render;
use crate::daemon::hardening;
use crate::model::{CleanText, ErrorCode, Refusal};

/// As a shell says it: not there, there and not to be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

/// What a shell adds to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// What we are told and the command is not, unless we tell it.
const PASSED_ON: [Signal; 4] = [Signal::HUP, Signal::TERM, Signal::USR1, Signal::USR2];

/// What a terminal tells the command as well, being in the same process group.
const OF_A_TERMINAL: [Signal; 2] = [Signal::INT, Signal::QUIT];

/// Runs the command to its end and answers with its status: its own, or 128 and the signal's
/// number; 127 or 126 where it could not be started, after saying so.
///
/// # Errors
/// `internal` where the system has no place for a runtime or a handler of signals.
pub(super) fn run(command: &[OsString], variables: Variables) -> Result<ExitCode, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(&error))?;
    runtime.block_on(async {
        let mut signals = signals().map_err(|error| failed(&error))?;
        match start(command, variables) {
            Ok(mut child) => attend(&mut child, &mut signals)
                .await
                .map_err(|error| failed(&error)),
            Err(error) => Ok(not_started(command, &error)),
        }
    })
}

fn start(command: &[OsString], variables: Variables) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program);
    child.args(arguments).envs(variables);
    // Of the person's own command neither the files nor the core are ours to bound.
    hardening::as_found(|| child.spawn())
}

/// Waits for its end and passes on what it would not hear otherwise.
async fn attend(child: &mut Child, signals: &mut mpsc::Receiver<Signal>) -> io::Result<ExitCode> {
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status_of(status?)),
            Some(signal) = signals.recv() => {
                // Not reaped yet, so that the number is still its own.
                let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
                let heard = OF_A_TERMINAL.contains(&signal) && is_in_foreground();
                if let (Some(pid), false) = (pid, heard) {
                    // Where it has ended this moment, `wait` says so next.
                    kill_process(pid, signal).or_else(ended_is_fine)?;
                }
            }
        }
    }
}

fn ended_is_fine(error: rustix::io::Errno) -> io::Result<()> {
    if error == rustix::io::Errno::SRCH {
        return Ok(());
    }
    Err(error.into())
}

/// Whether our terminal, whatever standard input is, tells our whole process group.
fn is_in_foreground() -> bool {
    let terminal = open("/dev/tty", OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let foreground = terminal.and_then(tcgetpgrp);
    foreground.is_ok_and(|foreground| foreground == getpgrp())
}

/// All signals of both kinds, in one place.
fn signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(8);
    for number in PASSED_ON.into_iter().chain(OF_A_TERMINAL) {
        let mut heard = signal(SignalKind::from_raw(number.as_raw()))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while heard.recv().await.is_some() && sender.send(number).await.is_ok() {}
        });
    }
    Ok(receiver)
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
