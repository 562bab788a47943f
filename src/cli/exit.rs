//! Exit statuses.

use std::process::ExitCode;

use super::render;
use crate::model::ErrorCode;

/// The status of a command that ended with that code (sysexits).
pub(super) fn of(code: ErrorCode) -> ExitCode {
    ExitCode::from(code.exit_status())
}

/// What clap has to say: help and version are data and succeed, a mistake is `usage`.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if error.use_stderr() {
        render::progress(&text);
        of(ErrorCode::Usage)
    } else if render::data(text.as_bytes()).is_ok() {
        ExitCode::SUCCESS
    } else {
        of(ErrorCode::Io)
    }
}
