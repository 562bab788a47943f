//! `aegis-broker policy`: look at the policy file, without a daemon and without asking for anything.
//!
//! The decision is the core's own code; what a running daemon has in memory may be older than the
//! file.

mod replay;

use std::path::PathBuf;

use serde_json::json;

use super::{Context, render};
use crate::broker::lint::{Finding, Finds, lint};
use crate::broker::policy::{Decision, Policy, Question};
use crate::config::{self, Config, ConfigError, Overrides, ProcessEnvironment};
use crate::model::{
    Action, CleanText, Effect, ErrorCode, Exposure, FileHash, NoRule, OnLeak, Origin, PeerFacts,
    ProcessId, Refusal, Rule, Selector,
};

/// Of a path or a program's name that is asked about, in characters.
const MAX_PATH: usize = 4096;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check the file: mistakes with their place, and rules that can have no effect
    Check(Check),
    /// Say what the file would decide, and by which rule
    Explain(Explain),
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Also decide again what the audit log in this folder has, or the configured one: what of it
    /// the file would change
    #[arg(long, value_name = "FOLDER")]
    #[expect(
        clippy::option_option,
        reason = "clap's way to say: whether it is there, and whether with a folder"
    )]
    replay: Option<Option<PathBuf>>,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// For what: provider/app/account
    #[arg(value_parser = selector)]
    selector: Selector,
    /// For a program with this executable
    #[arg(long, value_name = "PATH", value_parser = name)]
    exe: Option<CleanText>,
    /// Below a program of this name; may be given several times
    #[arg(long, value_name = "NAME", value_parser = name)]
    under: Vec<CleanText>,
    /// In this control group, which says the unit of systemd too: as in /proc/PID/cgroup
    #[arg(long, value_name = "GROUP", value_parser = name)]
    cgroup: Option<CleanText>,
    /// With an executable of this hash, as sha256sum writes it
    #[arg(long, value_name = "HASH", value_parser = hash)]
    sha256: Option<FileHash>,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, clap::Args)]
struct Files {
    /// The configuration, which has the catalogue
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The policy, instead of the configured one
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

fn selector(text: &str) -> Result<Selector, String> {
    Selector::parse(text).map_err(|error| error.to_string())
}

fn name(text: &str) -> Result<CleanText, String> {
    CleanText::exact(text, MAX_PATH).ok_or_else(|| "it is printable text".to_owned())
}

fn hash(text: &str) -> Result<FileHash, String> {
    FileHash::parse(text).ok_or_else(|| "it is 64 hexadecimal digits".to_owned())
}

pub(super) fn run(context: &Context, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Check(arguments) => check(context, arguments),
        Command::Explain(arguments) => explain(context, arguments),
    }
}

/// Catalogue and rules, as a daemon would read them now.
fn read(files: &Files) -> Result<(Config, Vec<Rule>), Refusal> {
    let overrides = Overrides {
        config_file: files.config.clone(),
        policy_file: files.policy.clone(),
        ..Overrides::default()
    };
    let fix = "name the files with --config and --policy";
    let paths = super::files(overrides.clone(), fix)?;
    let refused = |error: ConfigError| error.refusal();
    let here = ProcessEnvironment::new();
    let config = config::load(&paths, &overrides, &here).map_err(refused)?;
    let rules = config::load_named_policy(&config.policy_file).map_err(refused)?;
    Ok((config, rules))
}

fn check(context: &Context, arguments: &Check) -> Result<(), Refusal> {
    let (config, rules) = read(&arguments.files)?;
    let findings = lint(&rules, &config.profile.targets);
    let count = rules.len();
    let replayed = match &arguments.replay {
        Some(folder) => {
            let folder = folder.as_ref().unwrap_or(&config.audit_dir);
            Some(replay::of(folder, rules)?)
        }
        None => None,
    };
    let file = CleanText::new(&config.policy_file.to_string_lossy(), MAX_PATH);
    if context.json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "rule": finding.rule.as_str(), "what": in_words(finding) }))
            .collect();
        let object = json!({
            "file": file.as_str(),
            "rules": count,
            "findings": findings,
            "replay": replayed.as_ref().map(replay::Outcome::json),
        });
        return render::json(object.to_string().as_bytes());
    }
    for finding in &findings {
        let line = format!("rule \"{}\": {}\n", finding.rule, in_words(finding));
        render::data(line.as_bytes())?;
    }
    render::progress(&format!(
        "{file}: {count} rules, no mistake, {} to look at\n",
        findings.len()
    ));
    match replayed {
        Some(outcome) => outcome.show(),
        None => Ok(()),
    }
}

fn in_words(finding: &Finding) -> String {
    match &finding.what {
        Finds::NoTarget(pattern) => format!("{pattern} matches no target of the configuration"),
        Finds::Wide(pattern, count) => format!(
            "{pattern} is of any provider: {count} targets today, and whatever is added later"
        ),
        Finds::Redundant(pattern, wider) => {
            format!("{pattern} says no more than {wider}, which stands beside it")
        }
        Finds::NoAction(action) => {
            format!("none of its targets has the action {}", action.as_str())
        }
        Finds::Covered(by) => {
            format!("never decides: rule \"{by}\" does, for all that both match")
        }
    }
}

/// What can be wanted of a target: the word, the actions it takes, and how far material travels.
const WANTED: [(&str, &[Action], Exposure); 4] = [
    ("lease create", &[Action::Create], Exposure::Use),
    ("exec", &[Action::Create, Action::Redeem], Exposure::Exec),
    ("get", &[Action::Create, Action::Redeem], Exposure::Reveal),
    ("lease revoke", &[Action::Revoke], Exposure::Use),
];

fn explain(context: &Context, arguments: &Explain) -> Result<(), Refusal> {
    let (config, rules) = read(&arguments.files)?;
    let selector = &arguments.selector;
    let targets = &config.profile.targets;
    let target = targets.iter().find(|target| target.selector == *selector);
    let is_decoy = target.ok_or(ErrorCode::TargetUnknown)?.decoy;
    let policy = Policy::new(rules);
    // The process is nobody's: no rule asks for its number.
    let peer = PeerFacts {
        process: ProcessId { pid: 0, started: 0 },
        exe: arguments.exe.clone(),
        ancestors: arguments.under.clone(),
        origin: Origin {
            cgroup: arguments.cgroup.clone(),
            exe_hash: arguments.sha256,
            ..Origin::default()
        },
    };
    let decided = WANTED.map(|(wanted, actions, exposure)| {
        let question = Question {
            peer: &peer,
            selector,
            actions,
            exposure,
        };
        let decision = if is_decoy {
            Decision {
                effect: Effect::Deny,
                rule: NoRule::Decoy.into(),
                max_ttl: None,
                on_leak: OnLeak::Record,
            }
        } else {
            policy.decide(question)
        };
        (wanted, decision)
    });
    if context.json {
        let decisions: Vec<_> = decided
            .iter()
            .map(|(wanted, decision)| {
                json!({
                    "for": wanted,
                    "effect": word(decision.effect),
                    "rule": decision.rule.as_str(),
                    "max_ttl_s": decision.max_ttl.map(|ttl| ttl.as_secs()),
                })
            })
            .collect();
        let object = json!({ "selector": selector.short(), "decisions": decisions });
        return render::json(object.to_string().as_bytes());
    }
    for (wanted, decision) in decided {
        let limit = decision
            .max_ttl
            .map(|ttl| format!("\tat most {} s", ttl.as_secs()))
            .unwrap_or_default();
        let line = format!(
            "{wanted}\t{}\t{}{limit}\n",
            word(decision.effect),
            decision.rule
        );
        render::data(line.as_bytes())?;
    }
    Ok(())
}

pub(super) const fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Ask => "ask",
        Effect::Deny => "deny",
    }
}
