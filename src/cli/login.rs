//! `aegis-broker login`: the device login (RFC 8628), shown and waited for.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{Context, render};
use crate::model::{
    Action, DeviceView, ErrorCode, LoginPhase, LoginView, ProfileName, Refusal, Scope, Selector,
};
use crate::socket::client::ClientReply;
use crate::time::{Clock as _, SystemClock};

/// How often the time that is left is shown anew.
const REFRESH: Duration = Duration::from_secs(1);

/// How many selectors are listed: what scrolls past is not compared with the page.
const MAX_LISTED: usize = 16;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The profile, where not the configured one
    #[arg(long, value_name = "NAME", value_parser = super::profile)]
    profile: Option<ProfileName>,
    /// Only start the login and show its code
    #[arg(long, conflicts_with = "cancel")]
    no_wait: bool,
    /// End the login that is running
    #[arg(long)]
    cancel: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Refusal> {
    let profile = arguments.profile.as_ref();
    if arguments.cancel {
        let reply = context.connect()?.login_cancel(profile)?;
        return finish(context, &reply);
    }
    let begun = context.connect()?.login_begin(profile)?;
    let LoginPhase::AwaitingApproval(device) = &begun.view.phase else {
        return finish(context, &begun);
    };
    render::progress(&invitation(&begun.view.profile, device));
    if context.json {
        render::json(begun.expose_json())?;
    }
    if arguments.no_wait {
        return Ok(());
    }
    // Connected here, so that a daemon that is gone is said before any waiting begins.
    let mut waiting = context.connect()?;
    let (ended, end) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever waits below does so until this is sent.
            drop(ended.send(waiting.login_wait(profile)));
        });
        let answer = wait(&end, device);
        finish(context, &answer?)
    })
}

type Answer = Result<ClientReply<LoginView>, Refusal>;

/// Waits for the answer and counts down meanwhile, in place, where there is a terminal.
fn wait(end: &mpsc::Receiver<Answer>, device: &DeviceView) -> Answer {
    let lost = || Err(ErrorCode::Internal.into());
    if !render::progress_is_terminal() {
        return end.recv().unwrap_or_else(|_| lost());
    }
    loop {
        let left = SystemClock.now().unix.until(device.expires_at);
        render::progress(&format!("\r\x1b[Kwaiting, {} left", minutes(left)));
        let answer = match end.recv_timeout(REFRESH) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => lost(),
        };
        render::progress("\r\x1b[K");
        return answer;
    }
}

fn finish(context: &Context, reply: &ClientReply<LoginView>) -> Result<(), Refusal> {
    render::progress(&format!("{}\n", outcome(&reply.view)));
    if context.json {
        render::json(reply.expose_json())?;
    }
    Ok(())
}

/// What the person is about to approve, and where (DG-7, DG-8). Every part of it is bounded, and
/// clean by its type.
fn invitation(profile: &ProfileName, device: &DeviceView) -> String {
    let complete = device
        .verification_uri_complete
        .as_ref()
        .map(|uri| format!("  or open        {uri}\n                 (the code is in it)\n"))
        .unwrap_or_default();
    format!(
        "to log in to profile {profile}, on any device:\n  open           {}\n  and enter      {}\n{complete}\
         the page names {} as what asks{}\
         approve only if the page shows this code and name and asks for no more than that. \
         Ctrl-C stops the waiting, not the login.\n",
        device.verification_uri,
        device.user_code,
        device.client_display_name,
        request(&device.scopes)
    )
}

/// The requested scopes, by selector: the rest of a line, and lines.
fn request(scopes: &[Scope]) -> String {
    if scopes.is_empty() {
        return ", for no leases at all\n".to_owned();
    }
    let mut actions: BTreeMap<&Selector, Vec<Action>> = BTreeMap::new();
    for scope in scopes {
        actions
            .entry(&scope.selector)
            .or_default()
            .push(scope.action);
    }
    let mut text = String::from(", for leases of\n");
    for (selector, actions) in actions.iter().take(MAX_LISTED) {
        let actions: Vec<_> = actions.iter().map(|action| action.as_str()).collect();
        text = format!("{text}  {} ({})\n", selector.short(), actions.join(", "));
    }
    match actions.len().saturating_sub(MAX_LISTED) {
        0 => text,
        more => {
            format!("{text}  and {more} more: `aegis-broker login --no-wait --json` lists them\n")
        }
    }
}

fn outcome(view: &LoginView) -> String {
    match &view.phase {
        LoginPhase::LoggedOut => "logged out".to_owned(),
        LoginPhase::Locked => "locked".to_owned(),
        LoginPhase::AwaitingApproval(_) => "awaiting approval".to_owned(),
        LoginPhase::LoggedIn {
            principal,
            token_expires_at,
            ..
        } => format!("logged in as {principal} until {token_expires_at}"),
    }
}

fn minutes(left: Duration) -> String {
    let seconds = left.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CleanText;
    use crate::time::UnixTime;

    /// DG-7, DG-8: also where nothing is asked for, no line is left hanging.
    #[test]
    fn the_invitation_names_address_code_and_device_and_what_ctrl_c_does() {
        let mut device = DeviceView {
            user_code: CleanText::new("ABCD-EFGH", 64),
            verification_uri: CleanText::new("https://login.example/device", 2048),
            verification_uri_complete: None,
            expires_at: UnixTime::from_millis(0),
            client_display_name: CleanText::new("Aegis Broker on host-01", 64),
            scopes: Vec::new(),
        };
        let profile = ProfileName::parse("work").unwrap();
        let text = invitation(&profile, &device);
        assert!(text.contains("to log in to profile work"), "{text}");
        assert!(text.contains("https://login.example/device\n"));
        assert!(text.contains("ABCD-EFGH\n"));
        let asks = "\nthe page names Aegis Broker on host-01 as what asks, for no leases at all\n";
        assert!(text.contains(asks), "{text}");
        assert!(text.contains("Ctrl-C stops the waiting, not the login"));
        assert!(!text.contains("the code is in it"));
        device.verification_uri_complete = Some(CleanText::new(
            "https://login.example/device?user_code=ABCD-EFGH",
            2048,
        ));
        assert!(invitation(&profile, &device).contains("?user_code=ABCD-EFGH\n"));
    }

    /// DG-8: what is asked for is listed by selector, and no list is endless.
    #[test]
    fn the_invitation_lists_what_is_asked_for_within_bounds() {
        let scopes_of = |count: usize| -> Vec<Scope> {
            let selectors = (0..count).map(|number| format!("gcp/app-{number:02}/reader"));
            let selectors = selectors.map(|text| Selector::parse(&text).unwrap());
            selectors
                .flat_map(|selector| {
                    Action::ALL.map(|action| Scope {
                        action,
                        selector: selector.clone(),
                    })
                })
                .collect()
        };
        let text = request(&scopes_of(1));
        assert!(
            text.ends_with("  gcp/app-00/reader (create, redeem, revoke)\n"),
            "{text}"
        );
        let text = request(&scopes_of(MAX_LISTED));
        assert_eq!(text.lines().count(), MAX_LISTED + 1);
        let text = request(&scopes_of(MAX_LISTED + 2));
        assert_eq!(text.lines().count(), MAX_LISTED + 2);
        assert!(text.contains("  and 2 more: "), "{text}");
    }

    #[test]
    fn the_time_left_is_minutes_and_seconds() {
        assert_eq!(minutes(Duration::from_secs(599)), "9:59");
        assert_eq!(minutes(Duration::ZERO), "0:00");
    }
}
