//! `aegis-broker status`: how everything stands.

use super::{Context, render};
use crate::model::{LoginPhase, Refusal};
use crate::socket::client::Status;

pub(super) fn run(context: &Context) -> Result<(), Refusal> {
    let reply = context.connect()?.status()?;
    if context.json {
        render::json(reply.expose_json())
    } else {
        render::data(describe(&reply.view).as_bytes())
    }
}

fn describe(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        text = format!("{text}{name:<12}{value}\n");
    };
    line("daemon", &format!("{} {}", status.product, status.version));
    line("profile", &status.login.profile);
    match &status.login.phase {
        LoginPhase::LoggedOut => line("login", &"logged out; run `aegis-broker login`"),
        LoginPhase::Locked => line("login", &"locked; run `aegis-broker login`"),
        LoginPhase::AwaitingApproval(device) => {
            line("login", &"awaiting approval");
            line("open", &device.verification_uri);
            line("code", &device.user_code);
            line("asks", &device.client_display_name);
            line("until", &device.expires_at);
        }
        LoginPhase::LoggedIn {
            principal,
            token_expires_at,
            scopes,
            binding_checked,
        } => {
            line("login", &format!("as {principal} until {token_expires_at}"));
            line("scopes", &scopes.len());
            if status.renewal.as_str() == "svid" {
                line(
                    "note",
                    &"the next token comes by itself while the session lasts",
                );
            }
            if !binding_checked {
                line(
                    "note",
                    &"the server did not confirm the token's binding to our key",
                );
            }
        }
    }
    if let Some(lost) = &status.lost {
        let note = format!("the last login was lost at {}: {}", lost.at, lost.reason);
        line("note", &note);
    }
    line("leases", &status.live_leases);
    if status.unconfirmed_revocations > 0 {
        let count = status.unconfirmed_revocations;
        let note =
            format!("{count} leases may be live at the issuer still: not confirmed as ended");
        line("note", &note);
    }
    if status.irrevocable_targets > 0 {
        let count = status.irrevocable_targets;
        line(
            "note",
            &format!("leases of {count} targets can only run out"),
        );
    }
    line("rules", &status.policy_rules);
    line("key store", &status.key_store);
    if let Some(folder) = &status.audit_folder {
        line("audit", &folder.display());
    }
    line("connections", &status.connections);
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::{CleanText, LoginView, ProfileName};
    use crate::socket::client::LostSession;
    use crate::time::UnixTime;

    #[test]
    fn a_status_is_a_few_lines() {
        let status = Status {
            product: CleanText::new("aegis-broker", 64),
            version: CleanText::new("0.1.0", 64),
            api: 1,
            login: LoginView {
                profile: ProfileName::parse("work").unwrap(),
                phase: LoginPhase::LoggedOut,
            },
            live_leases: 0,
            unconfirmed_revocations: 2,
            irrevocable_targets: 0,
            connections: 1,
            key_store: CleanText::new("memory", 64),
            policy_rules: 3,
            renewal: CleanText::new("login", 64),
            lost: Some(LostSession {
                reason: CleanText::new("key_suspect", 64),
                at: UnixTime::from_millis(1_795_341_600_000),
            }),
            audit_folder: Some(PathBuf::from("/state/audit")),
        };
        let text = describe(&status);
        assert!(text.starts_with("daemon      aegis-broker 0.1.0\nprofile     work\n"));
        assert!(text.contains("logged out; run `aegis-broker login`"));
        assert!(text.contains("2 leases may be live at the issuer still: not confirmed as ended"));
        assert!(text.contains("\naudit       /state/audit\n"));
        assert!(text.contains(
            "\nnote        the last login was lost at 2026-11-22T10:00:00.000Z: key_suspect\n"
        ));
    }
}
