//! How an outcome of ours becomes a tool's result: one envelope for answers and refusals, in
//! structured form and the same as text.

use rmcp::model::CallToolResult;
use serde::Serialize;

use super::wire::{RefusalReply, Reply};
use crate::model::{CleanText, ErrorCode, Refusal, Unbound};

/// What a model is to do while the person's lock holds.
pub(super) const LOCKED: &str =
    "the person locked the broker: stop and ask them; call login only when they agree";

/// What the tool did.
pub(super) fn done<T: Serialize>(result: T) -> CallToolResult {
    let reply = Reply {
        result: Some(result),
        error: None,
    };
    match serde_json::to_value(&reply) {
        Ok(value) => CallToolResult::structured(value),
        // Nothing of ours fails to serialise; should it, the model is told so and no more.
        Err(_no_detail) => refused(&ErrorCode::Internal.into()),
    }
}

/// Why it did not. A result and not an error of the protocol: the model is to read it.
pub(super) fn refused(refusal: &Refusal) -> CallToolResult {
    say_no(for_model(refusal))
}

/// The same where only the person can say whether there is to be another try, unless it is
/// something that passes by itself.
pub(super) fn refused_for_good(refusal: &Refusal) -> CallToolResult {
    let mut reply = for_model(refusal);
    reply.do_not_retry = !refusal.code.is_retryable();
    say_no(reply)
}

fn say_no(error: RefusalReply) -> CallToolResult {
    let reply = Reply::<()> {
        result: None,
        error: Some(error),
    };
    CallToolResult::structured_error(serde_json::to_value(&reply).unwrap_or_default())
}

/// A refusal whose fix is something a model can do, where the code's own is a command.
fn for_model(refusal: &Refusal) -> RefusalReply {
    let mut reply = RefusalReply::from(refusal);
    if let Some(fix) = fix_for_model(refusal.code) {
        match &refusal.fix {
            None => fix.clone_into(&mut reply.fix),
            // What the person is asked for, exactly.
            Some(exact) if is_for_the_person(refusal) => {
                reply.fix = format!("{fix}: {exact}");
            }
            Some(_) => {}
        }
    }
    reply
}

/// Whether a refusal's own fix is something that a model can only pass on. What keeps a request
/// from going with a credential, it can put right by itself.
fn is_for_the_person(refusal: &Refusal) -> bool {
    let reason = refusal.reason_code.as_ref().map(CleanText::as_str);
    let is_unbound = Unbound::ALL
        .map(Unbound::as_str)
        .iter()
        .any(|word| Some(*word) == reason);
    let by_code = matches!(
        refusal.code,
        ErrorCode::PolicyDenied | ErrorCode::ScopeNotGranted | ErrorCode::TargetUnknown
    );
    by_code && !is_unbound
}

const fn fix_for_model(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::LoginRequired => "call login, and show the person its address and code",
        ErrorCode::AccessDenied | ErrorCode::ExpiredToken | ErrorCode::LoginCancelled => {
            "stop and ask the person; call login again only when they want to log in"
        }
        ErrorCode::Locked => LOCKED,
        ErrorCode::InvalidRequest => "compare the arguments with the tool's input schema",
        ErrorCode::SelectorInvalid => {
            "name exactly one account as provider/app/account; target_list shows what there is"
        }
        ErrorCode::TargetUnknown => {
            "call target_list; what is not in it has to be added by the person"
        }
        ErrorCode::PolicyDenied | ErrorCode::ApprovalUnavailable => {
            "call policy_explain for the rule, then ask the person; only they can change the policy"
        }
        ErrorCode::ScopeNotGranted => {
            "ask the person to add the action to the target and to start the daemon again"
        }
        ErrorCode::LeaseNotFound => "call lease_list for the leases of this client",
        ErrorCode::LeaseExpired | ErrorCode::LeaseRevoked | ErrorCode::LeaseExhausted => {
            "create a new lease with lease_create"
        }
        ErrorCode::RateLimited => "wait as long as retry_after_s says, then try again",
        ErrorCode::PrincipalChanged
        | ErrorCode::MethodUnknown
        | ErrorCode::ProfileUnknown
        | ErrorCode::AegisDenied
        | ErrorCode::AegisUnavailable
        | ErrorCode::TargetUnavailable
        | ErrorCode::AegisProtocol
        | ErrorCode::AuditUnavailable
        | ErrorCode::AuditDamaged
        | ErrorCode::ForeignUse
        | ErrorCode::ShuttingDown
        | ErrorCode::DaemonUnreachable
        | ErrorCode::DaemonUnavailable
        | ErrorCode::AlreadyRunning
        | ErrorCode::RuntimeFolderUnsafe
        | ErrorCode::ConfigInvalid
        | ErrorCode::TerminalRefused
        | ErrorCode::Usage
        | ErrorCode::Io
        | ErrorCode::DemoFailed
        | ErrorCode::Internal => return None,
    })
}
