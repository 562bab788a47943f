//! Exit statuses.

use std::process::ExitCode;

use crate::model::ErrorCode;

/// The status of a command that ended with that code (sysexits).
pub(super) fn of(code: ErrorCode) -> ExitCode {
    ExitCode::from(code.exit_status())
}
