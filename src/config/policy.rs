use std::collections::HashSet;
use std::path::Path;

use toml::Spanned;

use super::file::{Raw, RawPeer, RawPolicy, RawRule};
use super::load::{ConfigError, LEASE_TTL, Source, optional, read};
use crate::model::{
    Action, CleanText, Effect, Exposure, FileHash, NoRule, OnLeak, PeerPattern, Rule,
    SelectorPattern,
};

/// More rules than a person keeps in mind; a decision looks at each (0.45 µs for ten).
const MAX_RULES: usize = 1000;

/// A rule's name, in characters.
const MAX_ID: usize = 64;

/// Linux's longest path, in bytes.
const MAX_EXE: usize = 4096;

/// Linux's longest file name, in bytes.
const MAX_NAME: usize = 255;

/// Reads the policy. No file means no rules, and no rules allow nothing (PO-1).
///
/// # Errors
/// [`ConfigError`]: the file is unreadable, open to others' writing or not ours, or has a
/// mistake. Then nothing of it is taken (PO-7).
pub fn load_policy(file: &Path) -> Result<Vec<Rule>, ConfigError> {
    match read(file)? {
        Some(text) => parse_policy(&Source::new(file, &text)),
        None => Ok(Vec::new()),
    }
}

/// Reads a policy that somebody named: then no file is a mistake, not a policy.
///
/// # Errors
/// As [`load_policy`], and [`ConfigError::NoPolicy`].
pub fn load_named_policy(file: &Path) -> Result<Vec<Rule>, ConfigError> {
    let text = read(file)?.ok_or_else(|| ConfigError::NoPolicy(file.to_owned()))?;
    parse_policy(&Source::new(file, &text))
}

/// From text to rules.
pub(super) fn parse_policy(source: &Source<'_>) -> Result<Vec<Rule>, ConfigError> {
    let raw: RawPolicy = source.decode()?;
    let mut ids = HashSet::new();
    let mut rules = Vec::with_capacity(raw.rule.len());
    for raw in &raw.rule {
        if rules.len() == MAX_RULES {
            return Err(source.mistake(Some(raw.span()), "rule", "is one too many: at most 1000"));
        }
        let rule = rule(source, raw)?;
        if !ids.insert(rule.id.clone()) {
            let place = raw.get_ref().id.as_ref().map(Spanned::span);
            return Err(source.mistake(place, "rule.id", "is there twice"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(source: &Source<'_>, raw: &Spanned<RawRule>) -> Result<Rule, ConfigError> {
    let place = raw.span();
    let RawRule {
        id,
        effect,
        selectors,
        actions,
        peers,
        expose,
        max_ttl,
        on_leak,
    } = raw.get_ref();
    let needed = |raw: &'_ Option<Raw>, key: &str| match raw {
        Some(raw) => Ok(raw.clone()),
        None => Err(source.mistake(Some(place.clone()), key, "is missing")),
    };
    let id = self::id(source, &needed(id, "rule.id")?)?;
    let effect = self::effect(source, &needed(effect, "rule.effect")?)?;
    let selectors_raw = needed(selectors, "rule.selectors")?;
    let selectors = source
        .texts("rule.selectors", &selectors_raw)?
        .into_iter()
        .map(|text| {
            SelectorPattern::parse(text).map_err(|_wildcards_are_fine_here| {
                source.mistake(
                    Some(selectors_raw.span()),
                    "rule.selectors",
                    "has an entry that is not provider/app/account, where each part may be * as a whole",
                )
            })
        })
        .collect::<Result<_, _>>()?;
    let expose = match effect {
        // Said by omission it would reveal by omission.
        Effect::Allow | Effect::Ask => exposure(source, &needed(expose, "rule.expose")?)?,
        Effect::Deny => match expose {
            None => Exposure::Reveal,
            Some(raw) => {
                return Err(source.mistake(
                    Some(raw.span()),
                    "rule.expose",
                    "makes no sense with effect = \"deny\", which denies every exposure",
                ));
            }
        },
    };
    if let (Effect::Deny, Some(raw)) = (effect, max_ttl) {
        return Err(source.mistake(
            Some(raw.span()),
            "rule.max_ttl",
            "makes no sense with effect = \"deny\", which denies every lease",
        ));
    }
    if let (Effect::Deny, Some(raw)) = (effect, on_leak) {
        return Err(source.mistake(
            Some(raw.span()),
            "rule.on_leak",
            "makes no sense with effect = \"deny\", which lets nothing leak",
        ));
    }
    Ok(Rule {
        id,
        effect,
        selectors,
        actions: match actions {
            Some(raw) => source.actions("rule.actions", raw)?,
            None => Action::ALL.to_vec(),
        },
        peers: match peers {
            // An empty list would match everybody; that is said by leaving the key out.
            Some(peers) if peers.is_empty() => {
                return Err(source.mistake(
                    Some(place),
                    "rule.peers",
                    "is empty: leave it out to match every peer",
                ));
            }
            Some(peers) => peers
                .iter()
                .map(|raw| peer(source, raw))
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        },
        expose,
        max_ttl: optional(max_ttl.as_ref(), |raw| {
            source.duration("rule.max_ttl", raw, &LEASE_TTL)
        })?,
        on_leak: optional(on_leak.as_ref(), |raw| self::on_leak(source, raw))?.unwrap_or_default(),
    })
}

fn id(source: &Source<'_>, raw: &Raw) -> Result<CleanText, ConfigError> {
    let wrong = |what: &'static str| source.mistake(Some(raw.span()), "rule.id", what);
    let text = source.text("rule.id", raw)?;
    if NoRule::ALL.iter().any(|word| word.as_str() == text) {
        return Err(wrong(
            "is a word that records use where no rule decided: take another",
        ));
    }
    let is_id = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    CleanText::exact(text, MAX_ID)
        .filter(|_| is_id)
        .ok_or_else(|| {
            wrong("must be 1 to 64 characters: letters, digits, dot, underscore and dash")
        })
}

fn effect(source: &Source<'_>, raw: &Raw) -> Result<Effect, ConfigError> {
    match source.text("rule.effect", raw)? {
        "allow" => Ok(Effect::Allow),
        "ask" => Ok(Effect::Ask),
        "deny" => Ok(Effect::Deny),
        _ => Err(source.mistake(
            Some(raw.span()),
            "rule.effect",
            "must be \"allow\", \"ask\" or \"deny\"",
        )),
    }
}

fn exposure(source: &Source<'_>, raw: &Raw) -> Result<Exposure, ConfigError> {
    Exposure::parse(source.text("rule.expose", raw)?).ok_or_else(|| {
        source.mistake(
            Some(raw.span()),
            "rule.expose",
            "must be \"use\", \"exec\" or \"reveal\"",
        )
    })
}

fn on_leak(source: &Source<'_>, raw: &Raw) -> Result<OnLeak, ConfigError> {
    OnLeak::parse(source.text("rule.on_leak", raw)?).ok_or_else(|| {
        source.mistake(
            Some(raw.span()),
            "rule.on_leak",
            "must be \"record\" or \"revoke\"",
        )
    })
}

fn peer(source: &Source<'_>, raw: &Spanned<RawPeer>) -> Result<PeerPattern, ConfigError> {
    let RawPeer {
        exe,
        under,
        unit,
        cgroup,
        sha256,
    } = raw.get_ref();
    match (exe, under, unit, cgroup, sha256) {
        (Some(raw), None, None, None, None) => {
            path(source, "rule.peers.exe", raw).map(PeerPattern::Exe)
        }
        (None, Some(raw), None, None, None) => {
            let what = "must be a program's name without a path";
            name(source, "rule.peers.under", raw, what).map(PeerPattern::Under)
        }
        (None, None, Some(raw), None, None) => {
            let what = "must be the name of a service or a scope";
            let unit = name(source, "rule.peers.unit", raw, what)?;
            let is_one = [".service", ".scope"]
                .iter()
                .any(|kind| unit.as_str().ends_with(kind));
            if is_one {
                Ok(PeerPattern::Unit(unit))
            } else {
                Err(source.mistake(Some(raw.span()), "rule.peers.unit", what))
            }
        }
        (None, None, None, Some(raw), None) => {
            let group = path(source, "rule.peers.cgroup", raw)?;
            if group.as_str().ends_with('/') {
                return Err(source.mistake(
                    Some(raw.span()),
                    "rule.peers.cgroup",
                    "must not end in a slash: what is below is meant too",
                ));
            }
            Ok(PeerPattern::Cgroup(group))
        }
        (None, None, None, None, Some(raw)) => {
            let text = source.text("rule.peers.sha256", raw)?;
            FileHash::parse(text)
                .map(PeerPattern::Sha256)
                .ok_or_else(|| {
                    source.mistake(
                        Some(raw.span()),
                        "rule.peers.sha256",
                        "must be 64 hexadecimal digits, as sha256sum writes them",
                    )
                })
        }
        _ => Err(source.mistake(
            Some(raw.span()),
            "rule.peers",
            "needs exactly one of exe, under, unit, cgroup and sha256 in each entry",
        )),
    }
}

fn path(source: &Source<'_>, key: &str, raw: &Raw) -> Result<CleanText, ConfigError> {
    let path = source.clean(key, raw, MAX_EXE)?;
    if path.as_str().starts_with('/') {
        Ok(path)
    } else {
        Err(source.mistake(Some(raw.span()), key, "must be an absolute path"))
    }
}

fn name(
    source: &Source<'_>,
    key: &str,
    raw: &Raw,
    what: &'static str,
) -> Result<CleanText, ConfigError> {
    let name = source.clean(key, raw, MAX_NAME)?;
    if name.as_str().contains('/') {
        return Err(source.mistake(Some(raw.span()), key, what));
    }
    Ok(name)
}
