//! The only place that writes, but for the relay of `mcp`: standard output is data, standard error
//! is progress.
//!
//! Both are written without a buffer of ours: the library's own would keep a secret for as long
//! as the process lives.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;

use super::Context;
use crate::model::{ErrorCode, Refusal};
use crate::secret::SecretBuffer;
use crate::socket::client;

/// Writes data to standard output.
pub(super) fn data(bytes: &[u8]) -> Result<(), Refusal> {
    write_all(rustix::stdio::stdout(), bytes).map_err(|error| {
        Refusal::new(ErrorCode::Io)
            .with_message(&format!("standard output cannot be written: {error}"))
    })
}

/// Writes secret data to standard output.
pub(super) fn secret(text: &SecretBuffer) -> Result<(), Refusal> {
    data(text.expose())
}

/// Writes a line of text for people to standard output.
#[cfg(feature = "mock")]
pub(super) fn line(text: &str) -> Result<(), Refusal> {
    data(text.as_bytes())?;
    data(b"\n")
}

/// Writes a JSON object and a line feed to standard output.
pub(super) fn json(object: &[u8]) -> Result<(), Refusal> {
    data(object)?;
    data(b"\n")
}

/// Writes progress to standard error. A stream that is closed there is no reason to stop.
pub(super) fn progress(text: &str) {
    drop(write_all(rustix::stdio::stderr(), text.as_bytes()));
}

/// Whether standard output is a terminal.
pub(super) fn output_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal.
pub(super) fn progress_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Says what ending a session came to.
pub(super) fn ended(
    context: &Context,
    what: &str,
    reply: &client::ClientReply<client::Ended>,
) -> Result<(), Refusal> {
    if context.json {
        return json(reply.expose_json());
    }
    let revoked = reply.view.revoked;
    let noun = if revoked == 1 { "lease" } else { "leases" };
    let mut text = format!("{what}; {revoked} {noun} revoked");
    if reply.view.unconfirmed > 0 {
        text = format!(
            "{text}, {} not confirmed: they are tried again, else run out",
            reply.view.unconfirmed
        );
    }
    if reply.view.session == client::SessionEnd::Unconfirmed {
        text = format!(
            "{text}; the end of the login is not confirmed by the server: its token and key are \
             wiped here, and end there by themselves"
        );
    }
    progress(&format!("{text}\n"));
    Ok(())
}

/// Says what went wrong: to people on standard error, with `--json` as data.
pub(super) fn refusal(context: &Context, refusal: &Refusal) {
    if context.json {
        // The exit status says the rest where standard output is closed.
        drop(data(&client::refusal_json(refusal)));
    } else {
        refusal_as_text(refusal);
    }
}

/// Says what went wrong to people, on standard error.
pub(super) fn refusal_as_text(refusal: &Refusal) {
    progress(&in_words(refusal));
}

fn in_words(refusal: &Refusal) -> String {
    let mut text = format!("error: {}", refusal.message());
    if let Some(reason) = &refusal.reason_code {
        text = format!("{text} ({reason})");
    }
    text = format!("{text}\nhint: {}\n", refusal.fix());
    if let Some(after) = refusal.retry_after {
        text = format!("{text}hint: try again in {} s\n", after.as_secs());
    }
    if let Some(login) = &refusal.login {
        text = format!(
            "{text}hint: a login of {} is running: open {} and compare the code {}\n",
            login.client_display_name, login.verification_uri, login.user_code
        );
    }
    if let Some(request_id) = &refusal.request_id {
        text = format!("{text}request id: {request_id}\n");
    }
    text
}

fn write_all(stream: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&stream, bytes))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CleanText, DeviceView};
    use crate::time::UnixTime;

    /// DG-7, DG-8: whoever needs a login that runs already is shown what there is to compare.
    #[test]
    fn a_login_that_runs_is_named_with_what_to_compare() {
        let device = DeviceView {
            user_code: CleanText::new("ABCD-EFGH", 64),
            verification_uri: CleanText::new("https://login.example/device", 2048),
            verification_uri_complete: None,
            expires_at: UnixTime::from_millis(0),
            client_display_name: CleanText::new("Aegis Broker on host-01", 64),
            scopes: Vec::new(),
        };
        let refusal = Refusal {
            login: Some(Box::new(device)),
            ..Refusal::new(ErrorCode::LoginRequired)
        };
        let text = in_words(&refusal);
        assert!(
            text.ends_with(
                "\nhint: a login of Aegis Broker on host-01 is running: open \
                 https://login.example/device and compare the code ABCD-EFGH\n"
            ),
            "{text}"
        );
    }
}
