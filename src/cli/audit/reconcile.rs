//! `audit reconcile`: what did somebody else do with this login, and what does the issuer not know?

use crate::cli::{Context, render};
use crate::model::{ErrorCode, Refusal};
use crate::socket::client::Reconciled;

/// What stands where a name is not known.
const UNKNOWN: &str = "-";

pub(super) fn run(context: &Context) -> Result<(), Refusal> {
    let reply = context.connect()?.audit_reconcile()?;
    if context.json {
        render::json(reply.expose_json())?;
    } else {
        render::data(describe(&reply.view).as_bytes())?;
    }
    if reply.view.foreign > 0 {
        let message = format!(
            "somebody else has used this login: {} events that no call of ours explains",
            reply.view.foreign
        );
        return Err(Refusal::new(ErrorCode::ForeignUse).with_message(&message));
    }
    Ok(())
}

fn describe(found: &Reconciled) -> String {
    let mut text = format!(
        "{} events of our sessions, {} of them foreign; {} calls that the issuer does not know; {} \
         events of other sessions\n",
        found.compared, found.foreign, found.missing, found.elsewhere
    );
    let known = |name: &Option<_>| {
        name.as_ref()
            .map_or_else(|| UNKNOWN.to_owned(), ToString::to_string)
    };
    for event in &found.foreign_events {
        let (target, request) = (known(&event.target), known(&event.request_id));
        add(
            &mut text,
            format_args!(
                "foreign  {}  {}  {}  {target}  {request}",
                event.at, event.action, event.outcome
            ),
        );
    }
    for call in &found.missing_calls {
        let ids: Vec<String> = call.request_ids.iter().map(ToString::to_string).collect();
        let ids = if ids.is_empty() {
            UNKNOWN.to_owned()
        } else {
            ids.join(",")
        };
        add(
            &mut text,
            format_args!("missing  {}  {}  {ids}", call.at, call.action),
        );
    }
    if !found.complete {
        text.push_str("not all: one of the two records is longer than what is compared\n");
    }
    text
}

fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&line.to_string());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CleanText;
    use crate::socket::client::{ForeignEvent, MissingCall};
    use crate::time::UnixTime;

    /// AU-9: each finding is a line with what it takes to ask the issuer about it.
    #[test]
    fn findings_are_named_one_a_line() {
        let text = |text: &str| CleanText::new(text, 64);
        let at = UnixTime::from_millis(1_795_341_600_000);
        let found = Reconciled {
            compared: 9,
            foreign: 1,
            foreign_events: vec![ForeignEvent {
                at,
                action: text("lease.create"),
                outcome: text("ok"),
                target: None,
                request_id: Some(text("req_1")),
            }],
            missing: 1,
            missing_calls: vec![MissingCall {
                at,
                action: text("lease.redeem"),
                request_ids: vec![text("req_2"), text("req_3")],
            }],
            elsewhere: 0,
            complete: false,
        };
        let shown = describe(&found);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("9 events of our sessions, 1 of them foreign; 1 calls"));
        assert_eq!(
            lines[1],
            "foreign  2026-11-22T10:00:00.000Z  lease.create  ok  -  req_1"
        );
        assert_eq!(
            lines[2],
            "missing  2026-11-22T10:00:00.000Z  lease.redeem  req_2,req_3"
        );
        assert!(lines[3].starts_with("not all"));
    }
}
