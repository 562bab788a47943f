//! `aegis-broker policy`: look at the policy file, without a daemon and without asking for anything.
//!
//! The decision is the core's own code; what a running daemon has in memory may be older than the
//! file.

use std::path::PathBuf;

use serde_json::json;

use super::{Context, render};
use crate::broker::lint::{Finding, Finds, lint};
use crate::broker::policy::{Policy, Question};
use crate::config::{self, Config, ConfigError, Overrides, ProcessEnvironment};
use crate::model::{
    Action, CleanText, Effect, ErrorCode, Exposure, Origin, PeerFacts, ProcessId, Refusal, Rule,
    Selector,
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
    let file = CleanText::new(&config.policy_file.to_string_lossy(), MAX_PATH);
    if context.json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "rule": finding.rule.as_str(), "what": in_words(finding) }))
            .collect();
        let object = json!({
            "file": file.as_str(),
            "rules": rules.len(),
            "findings": findings,
        });
        return render::json(object.to_string().as_bytes());
    }
    for finding in &findings {
        let line = format!("rule \"{}\": {}\n", finding.rule, in_words(finding));
        render::data(line.as_bytes())?;
    }
    render::progress(&format!(
        "{file}: {} rules, no mistake, {} to look at\n",
        rules.len(),
        findings.len()
    ));
    Ok(())
}

fn in_words(finding: &Finding) -> String {
    match &finding.what {
        Finds::NoTarget(pattern) => format!("{pattern} matches no target of the configuration"),
        Finds::Wide(pattern, count) => format!(
            "{pattern} is of any provider: {count} targets today, and whatever is added later"
        ),
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
    if !targets.iter().any(|target| target.selector == *selector) {
        return Err(ErrorCode::TargetUnknown.into());
    }
    let policy = Policy::new(rules);
    // The process is nobody's: no rule asks for its number.
    let peer = PeerFacts {
        process: ProcessId { pid: 0, started: 0 },
        exe: arguments.exe.clone(),
        ancestors: arguments.under.clone(),
        origin: Origin::default(),
    };
    let decided = WANTED.map(|(wanted, actions, exposure)| {
        let question = Question {
            peer: &peer,
            selector,
            actions,
            exposure,
        };
        (wanted, policy.decide(question))
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

const fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Ask => "ask",
        Effect::Deny => "deny",
    }
}
