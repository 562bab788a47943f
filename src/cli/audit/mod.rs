//! `aegis-broker audit`: look at the chained log.
//!
//! Which log: of a folder that is named, else of the daemon that runs, which says where it writes,
//! else the configured one. Which it was is always said.
//! `verify` asks the daemon, which holds the key of the log's MACs; without a daemon it checks
//! the chain alone. `show` and `export` read the files. `reconcile` is the daemon's, which is logged
//! in.

mod export;

mod reconcile;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::{Context, render};
use crate::audit::Keys;
use crate::audit::verify as log;
use crate::config::{self, ConfigError, Overrides, ProcessEnvironment};
use crate::model::{CleanText, ErrorCode, ProofJti, Refusal, RequestId};
use crate::socket::client::Client;

/// How many records are shown where nobody says.
const NEWEST: &str = "20";

/// Of a path that is shown, in characters.
const MAX_PATH: usize = 4096;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show the newest records
    Show(Show),
    /// Check that the log is what was written, with the daemon's key where it runs
    Verify(Verify),
    /// Compare the log with the issuer's record; exit status 68 if somebody else used the login
    Reconcile,
    /// Write the whole log as a table for an incident report
    Export(Export),
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// How many
    #[arg(long, value_name = "COUNT", default_value = NEWEST)]
    last: usize,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// The log in `audit` of this state folder, without the daemon
    #[arg(long, value_name = "FOLDER", conflicts_with = "audit_dir")]
    state_dir: Option<PathBuf>,
    /// The log in this very folder, without the daemon
    #[arg(long, value_name = "FOLDER")]
    audit_dir: Option<PathBuf>,
}

impl Folder {
    /// The folder that was named, if one was.
    fn named(&self) -> Option<PathBuf> {
        let state_dir = self.state_dir.as_ref();
        let of_state = state_dir.map(|state_dir| state_dir.join("audit"));
        self.audit_dir.clone().or(of_state)
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Show(arguments) => show(context, arguments),
        Command::Reconcile => reconcile::run(context),
        Command::Export(arguments) => {
            let folder = match arguments.folder.named() {
                Some(folder) => folder,
                None => current_folder(context)?,
            };
            say_which(&shown(&folder));
            export::run(context, &folder)
        }
        Command::Verify(arguments) => match arguments.folder.named() {
            Some(folder) => verify_here(context, &folder),
            None => verify(context),
        },
    }
}

fn show(context: &Context, arguments: &Show) -> Result<(), Refusal> {
    let folder = match arguments.folder.named() {
        Some(folder) => folder,
        None => current_folder(context)?,
    };
    // Beside the records, which are one a line also where they are JSON.
    say_which(&shown(&folder));
    let entries = log::read(&folder, arguments.last).map_err(not_read)?;
    let line = if context.json { object } else { row };
    entries
        .iter()
        .try_for_each(|entry| render::data(line(entry).as_bytes()))
}

fn say_which(folder: &CleanText) {
    render::progress(&format!("the audit log in {folder}\n"));
}

/// Where the daemon that runs keeps the log, else where one would.
fn current_folder(context: &Context) -> Result<PathBuf, Refusal> {
    match daemon(context)? {
        Some(mut daemon) => folder_of(&mut daemon),
        None => configured_folder(),
    }
}

/// The daemon, if one runs.
fn daemon(context: &Context) -> Result<Option<Client>, Refusal> {
    let nowhere = config::runtime_dir(&ProcessEnvironment::new()).is_err();
    if context.socket.is_none() && nowhere {
        // Without a place for its socket there is none.
        return Ok(None);
    }
    match context.connect() {
        Ok(daemon) => Ok(Some(daemon)),
        Err(refusal) if refusal.code == ErrorCode::DaemonUnreachable => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Where this daemon keeps the log.
fn folder_of(daemon: &mut Client) -> Result<PathBuf, Refusal> {
    daemon.status()?.view.audit_folder.ok_or_else(|| {
        Refusal::new(ErrorCode::Io)
            .with_message("the daemon cannot say in plain text where its audit log is")
            .with_fix(NAME_IT)
    })
}

const NAME_IT: &str = "name the folder with --state-dir or --audit-dir";

/// Where the log of the configured daemon is: as configured, else in its usual place.
fn configured_folder() -> Result<PathBuf, Refusal> {
    let paths = super::files(Overrides::default(), NAME_IT)?;
    match config::load(&paths, &Overrides::default(), &ProcessEnvironment::new()) {
        Ok(config) => Ok(config.audit_dir),
        Err(ConfigError::Missing(_)) => Ok(paths.state_dir.join("audit")),
        Err(error) => Err(error.refusal()),
    }
}

/// A path as a person may see it, and find it from anywhere.
fn shown(path: &Path) -> CleanText {
    let absolute = std::path::absolute(path);
    let path = absolute.as_deref().unwrap_or(path);
    CleanText::new(&path.to_string_lossy(), MAX_PATH)
}

fn unreadable(error: &log::Unreadable) -> Refusal {
    Refusal::new(ErrorCode::Io).with_error(error)
}

/// The members of a record that are there, by name, in a fixed order.
fn members(entry: &log::Entry) -> Vec<(&'static str, String)> {
    let record = &entry.record;
    let peer = record.peer.as_ref();
    let text = |text: &CleanText| text.as_str().to_owned();
    [
        ("seq", Some(entry.seq.to_string())),
        ("at", Some(entry.at.to_string())),
        ("action", Some(record.action.as_str().to_owned())),
        ("outcome", Some(record.outcome.as_str().to_owned())),
        ("profile", record.profile.as_ref().map(ToString::to_string)),
        (
            "selector",
            record
                .selector
                .as_ref()
                .map(|selector| selector.short().to_owned()),
        ),
        (
            "lease_id",
            record.lease_id.as_ref().map(ToString::to_string),
        ),
        (
            "exposure",
            record.exposure.map(|exposure| exposure.as_str().to_owned()),
        ),
        ("rule", record.rule.as_ref().map(text)),
        ("reason", record.reason.as_ref().map(text)),
        (
            "principal",
            record.principal.as_ref().map(ToString::to_string),
        ),
        ("pid", peer.map(|peer| peer.process.pid.to_string())),
        ("exe", peer.and_then(|peer| peer.exe.as_ref()).map(text)),
        (
            "request_id",
            record.trace.request_id.as_ref().map(ToString::to_string),
        ),
        (
            "proof_jti",
            record.trace.proof_jti.as_ref().map(ToString::to_string),
        ),
        (EARLIER_TRIES, earlier_tries(entry)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

const EARLIER_TRIES: &str = "earlier_tries";

/// Request id and `jti` of each try before the last one.
fn earlier_tries(entry: &log::Entry) -> Option<String> {
    let tries = entry.record.trace.earlier.iter().map(|one| {
        let id = one.request_id.as_ref().map_or("-", RequestId::as_str);
        let jti = one.proof_jti.as_ref().map_or("-", ProofJti::as_str);
        format!("{id}/{jti}")
    });
    Some(tries.collect::<Vec<_>>().join(",")).filter(|tries| !tries.is_empty())
}

/// For people: the time, what and how, then the rest by name.
fn row(entry: &log::Entry) -> String {
    let members = members(entry);
    let cells = members.iter().map(|(name, value)| match *name {
        "seq" | "at" | "action" | "outcome" => value.clone(),
        name => format!("{name}={value}"),
    });
    let mut line = cells.collect::<Vec<_>>().join("  ");
    line.push('\n');
    line
}

/// For programs: one JSON object a line.
fn object(entry: &log::Entry) -> String {
    let members = members(entry).into_iter().map(|(name, value)| {
        let value = match (name, value.parse::<u64>()) {
            ("seq" | "pid", Ok(number)) => number.into(),
            (EARLIER_TRIES, _) => earlier_objects(entry),
            _ => serde_json::Value::String(value),
        };
        (name.to_owned(), value)
    });
    let mut line = serde_json::Value::Object(members.collect()).to_string();
    line.push('\n');
    line
}

/// The same, with the members that are known.
fn earlier_objects(entry: &log::Entry) -> serde_json::Value {
    let tries = entry.record.trace.earlier.iter().map(|one| {
        let request_id = one.request_id.as_ref().map(RequestId::as_str);
        let proof_jti = one.proof_jti.as_ref().map(ProofJti::as_str);
        let members = [("request_id", request_id), ("proof_jti", proof_jti)];
        let members = members.into_iter();
        let known = members.filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
        known.collect::<serde_json::Map<_, _>>()
    });
    tries.collect()
}

fn verify(context: &Context) -> Result<(), Refusal> {
    let Some(mut daemon) = daemon(context)? else {
        if !context.json {
            render::progress("no daemon answers, so only the chain is checked\n");
        }
        return verify_here(context, &configured_folder()?);
    };
    let folder = folder_of(&mut daemon)?;
    let report = daemon.audit_verify()?.view;
    if let Some(damage) = &report.damage {
        return Err(damaged(&damage.what, &damage.file, damage.line));
    }
    let found = Found {
        records: report.records,
        keyed: report.keyed,
        torn_tail: report.torn_tail,
    };
    found.render(context, &folder)
}

/// Checks the chain without the daemon's key.
fn verify_here(context: &Context, folder: &Path) -> Result<(), Refusal> {
    let report = log::verify(folder, &Keys::none()).map_err(|error| unreadable(&error))?;
    if let Some(damage) = &report.damage {
        return Err(damaged(damage.what, damage.file.display(), damage.line));
    }
    if report.records == 0 {
        // Every run of a daemon writes some: an empty log is a wrong folder, or was emptied.
        let message = format!("there is no audit log in {}", folder.display());
        return Err(Refusal::new(ErrorCode::Io)
            .with_message(&message)
            .with_fix(NAME_IT));
    }
    let found = Found {
        records: report.records,
        keyed: report.keyed,
        torn_tail: report.torn_tail,
    };
    found.render(context, folder)
}

/// What was found in a log without damage.
struct Found {
    records: u64,
    keyed: u64,
    torn_tail: bool,
}

impl Found {
    fn render(&self, context: &Context, folder: &Path) -> Result<(), Refusal> {
        let folder = shown(folder);
        if context.json {
            let object = serde_json::json!({
                "folder": folder.as_str(),
                "verdict": verdict(self.records, self.keyed),
                "records": self.records,
                "keyed": self.keyed,
                "torn_tail": self.torn_tail,
            });
            return render::json(object.to_string().as_bytes());
        }
        say_which(&folder);
        render::data(describe(self.records, self.keyed, self.torn_tail).as_bytes())
    }
}

fn not_read(error: log::ReadError) -> Refusal {
    match error {
        log::ReadError::Unreadable(error) => unreadable(&error),
        log::ReadError::Damaged(found) => damaged(found.what, found.file.display(), found.line),
    }
}

fn damaged(what: impl Display, file: impl Display, line: u64) -> Refusal {
    let message = format!("the audit log does not verify: {what} at {file}:{line}");
    Refusal::new(ErrorCode::AuditDamaged).with_message(&message)
}

/// `keyed` is said only when every record's MAC was checked: an unkeyed chain can be rewritten
/// by whoever can write the file (AU-7).
const fn verdict(records: u64, keyed: u64) -> &'static str {
    if keyed == records && keyed > 0 {
        "keyed"
    } else {
        "chained"
    }
}

fn describe(records: u64, keyed: u64, torn_tail: bool) -> String {
    let verdict = verdict(records, keyed);
    let checked = if keyed == records {
        String::new()
    } else {
        format!(", {keyed} of them checked with a key")
    };
    let torn = if torn_tail {
        "; a crash left half a line at the end"
    } else {
        ""
    };
    format!("{verdict}: {records} records{checked}{torn}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ports::{AuditAction, AuditOutcome, AuditRecord, CallTrace, Try};
    use crate::time::UnixTime;

    /// AU-9: every try of a call is shown, with what is known of it; none where there was one.
    #[test]
    fn every_try_of_a_call_is_shown() {
        let one = |id: Option<&str>, jti: Option<&str>| Try {
            request_id: id.map(|id| RequestId::parse(id).unwrap()),
            proof_jti: jti.map(|jti| ProofJti::parse(jti).unwrap()),
        };
        let mut record = AuditRecord::new(AuditAction::LeaseCreate, AuditOutcome::Ok);
        record.trace = CallTrace::default();
        record.trace.tried(one(None, Some("jti-1")));
        let mut entry = log::Entry {
            seq: 2,
            at: UnixTime::from_millis(0),
            record,
        };
        let name = "earlier_tries";
        assert!(!row(&entry).contains(name) && !object(&entry).contains(name));
        entry.record.trace.tried(one(Some("req-2"), Some("jti-2")));
        entry.record.trace.tried(one(Some("req-3"), Some("jti-3")));
        let text = row(&entry);
        assert!(
            text.contains("  request_id=req-3  proof_jti=jti-3  "),
            "{text}"
        );
        assert!(
            text.ends_with("  earlier_tries=-/jti-1,req-2/jti-2\n"),
            "{text}"
        );
        let object: serde_json::Value = serde_json::from_str(&object(&entry)).unwrap();
        assert_eq!(object["proof_jti"], "jti-3");
        assert_eq!(
            object[name],
            serde_json::json!([
                { "proof_jti": "jti-1" },
                { "request_id": "req-2", "proof_jti": "jti-2" },
            ])
        );
    }

    /// AU-7: a chain without its key is never called good.
    #[test]
    fn keyed_is_said_of_a_log_that_was_checked_whole() {
        assert_eq!(describe(3, 3, false), "keyed: 3 records\n");
        assert!(describe(3, 2, false).starts_with("chained: 3 records, 2 of them"));
        assert!(describe(0, 0, false).starts_with("chained"));
        assert!(describe(3, 3, true).contains("half a line"));
        assert_eq!(verdict(3, 3), "keyed");
        assert_eq!(verdict(3, 2), "chained");
        assert_eq!(verdict(0, 0), "chained");
    }
}
