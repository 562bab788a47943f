use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::{Spanned, Value};
use url::{Host, Url};

use super::file::{Raw, RawConfig, RawGate, RawLimits, RawProfile, RawTarget};
use super::inject::injection;
use super::network::{Network, SvidSettings, network, svid};
use super::paths::{Environment, Overrides, Paths};
use crate::model::{
    Action, CleanText, ErrorCode, Gate, MAX_DISPLAY_NAME, MAX_LEASE_TTL, MAX_SCOPES, MAX_TOKEN_TTL,
    MIN_LEASE_TTL, MIN_TOKEN_TTL, ProfileName, Refusal, Selector, Target, TenantId,
};

/// The largest file that is read. A thousand targets fit several times over.
const MAX_FILE: u64 = 1024 * 1024;

/// How long a lease may be asked to live.
pub(super) const LEASE_TTL: RangeInclusive<Duration> = MIN_LEASE_TTL..=MAX_LEASE_TTL;
const DEFAULT_LEASE_TTL: Duration = Duration::from_mins(5);

/// How long an access token may be asked to live (LM).
const TOKEN_TTL: RangeInclusive<Duration> = MIN_TOKEN_TTL..=MAX_TOKEN_TTL;
const DEFAULT_TOKEN_TTL: Duration = Duration::from_mins(10);

/// Connections on `broker.sock` at once (LM): far more than a desktop's programs; beyond a few
/// thousand the limit on open files comes first.
const CONNECTIONS: RangeInclusive<u64> = 1..=4096;
const DEFAULT_CONNECTIONS: u32 = 256;

/// Requests under way on one connection (LM).
const IN_FLIGHT: RangeInclusive<u64> = 1..=1024;
const DEFAULT_IN_FLIGHT: u32 = 64;

/// How long nobody may use the broker before it locks itself: shorter would lock between two
/// commands, longer than a day is never.
const IDLE: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24);

/// What stands where it never does.
const NEVER: &str = "never";

/// How serde's messages begin that quote a value, up to their last ", expected ".
const QUOTING: [&str; 3] = ["invalid type: ", "invalid value: ", "invalid length "];

/// A target's description, in characters.
const MAX_DESCRIPTION: usize = 200;

/// The whole configuration, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The one profile.
    pub profile: Profile,
    /// Bounds on what the doors take.
    pub limits: Limits,
    /// What is done about callers that go wrong.
    pub gate: Gate,
    /// Where the audit log is.
    pub audit_dir: PathBuf,
    /// Where the policy is; it may be absent, which allows nothing.
    pub policy_file: PathBuf,
}

/// One place to log in to, and what may be asked for there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: ProfileName,
    /// Of the Aegis service: https, or http on a loopback address where allowed; without user
    /// information, query and fragment.
    pub base_url: Url,
    /// The tenant to log in to.
    pub tenant_id: TenantId,
    /// Whether http is accepted on loopback addresses.
    pub allow_insecure_loopback: bool,
    /// Whether a login is accepted whose binding the server does not confirm.
    pub allow_missing_token_info: bool,
    /// How long an access token is asked to live, 1 to 15 min.
    pub token_ttl: Duration,
    /// What the approval page calls us, at most 64 characters.
    pub client_display_name: CleanText,
    /// What happens when the access token ends.
    pub renew: Renew,
    /// What an SVID takes.
    pub svid: SvidSettings,
    /// How the service is reached.
    pub network: Network,
    /// What may be asked for; at least one, no selector twice, at most 96 scopes in total.
    pub targets: Vec<Target>,
}

/// What happens when the access token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// The next one comes by itself for as long as the session lasts, by an SVID; the person logs
    /// in again where that cannot be had.
    Svid,
    /// The person logs in again.
    Login,
}

/// Bounds on what each of the two sockets takes (LM).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, 1 to 4096; 256 unless configured.
    pub connections: u32,
    /// Requests under way on one connection, 1 to 1024; 64 unless configured.
    pub in_flight_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: DEFAULT_CONNECTIONS,
            in_flight_per_connection: DEFAULT_IN_FLIGHT,
        }
    }
}

/// Why a file was not taken. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("there is no configuration file {}", .0.display())]
    Missing(PathBuf),
    /// There is no such policy file, although one was named.
    #[error("there is no policy file {}", .0.display())]
    NoPolicy(PathBuf),
    /// It cannot be read.
    #[error("{} could not be read", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have written it, or it is not a file of text.
    #[error("{} {what}", file.display())]
    Unsafe {
        /// Which.
        file: PathBuf,
        /// What is wrong, fits after the file's name.
        what: &'static str,
    },
    /// Something in it is wrong.
    #[error(transparent)]
    Mistake(#[from] Mistake),
}

impl ConfigError {
    /// How a person is told: `config_invalid`, and what to do about it.
    pub fn refusal(&self) -> Refusal {
        let fix = match self {
            Self::Missing(_) => {
                "write one; config/aegis-broker.toml shows every key. To look around first, run \
                 `aegis-broker demo`"
            }
            Self::NoPolicy(_) => "name a file that is there, or leave --policy out",
            Self::Unreadable { .. } | Self::Unsafe { .. } => {
                "make it a readable file that only you can write"
            }
            Self::Mistake(_) => {
                "correct the key that is named; config/aegis-broker.toml and \
                 config/policy.example.toml show all of them"
            }
        };
        Refusal::new(ErrorCode::ConfigInvalid)
            .with_error(self)
            .with_fix(fix)
    }
}

/// Something wrong in a file: where, under which key, and what. Never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// In which file.
    pub file: PathBuf,
    /// Line and column, from 1, where they are known.
    pub place: Option<(usize, usize)>,
    /// Under which key, where one is to blame.
    pub key: Option<String>,
    /// What.
    pub what: Cow<'static, str>,
}

impl std::error::Error for Mistake {}

/// `file:line:column: key what`.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        match &self.key {
            Some(key) => write!(f, ": `{key}` {}", self.what),
            None => write!(f, ": {}", self.what),
        }
    }
}

/// Reads the configuration.
///
/// # Errors
/// [`ConfigError`]: the file is absent, unreadable, open to others' writing or not ours, or has a
/// mistake.
pub fn load(
    paths: &Paths,
    overrides: &Overrides,
    environment: &dyn Environment,
) -> Result<Config, ConfigError> {
    let file = &paths.config_file;
    let text = read(file)?.ok_or_else(|| ConfigError::Missing(file.clone()))?;
    parse(&Source::new(file, &text), paths, overrides, environment)
}

/// From text to configuration.
pub(super) fn parse(
    source: &Source<'_>,
    paths: &Paths,
    overrides: &Overrides,
    environment: &dyn Environment,
) -> Result<Config, ConfigError> {
    let raw: RawConfig = source.decode()?;
    let mut profiles = raw.profiles.into_iter();
    let (name, profile) = profiles.next().ok_or_else(|| {
        source.mistake(
            None,
            "profiles",
            "is missing: name a profile with [profiles.NAME]",
        )
    })?;
    if let Some((second, _)) = profiles.next() {
        let later = name.span().start.max(second.span().start);
        return Err(source.mistake(
            Some(later..later),
            "profiles",
            "has more than one profile: several profiles are not supported yet",
        ));
    }
    let audit_dir = optional(raw.audit_dir.as_ref(), |raw| {
        source.absolute_path("audit_dir", raw)
    })?;
    let policy_file = optional(raw.policy_file.as_ref(), |raw| {
        source.absolute_path("policy_file", raw)
    })?;
    Ok(Config {
        profile: self::profile(source, &name, &profile, environment)?,
        limits: limits(source, &raw.limits.unwrap_or_default())?,
        gate: gate(source, &raw.gate.unwrap_or_default())?,
        audit_dir: audit_dir.unwrap_or_else(|| paths.state_dir.join("audit")),
        policy_file: overrides
            .policy_file
            .clone()
            .or(policy_file)
            .unwrap_or_else(|| paths.policy_file.clone()),
    })
}

fn profile(
    source: &Source<'_>,
    name: &Spanned<String>,
    raw: &RawProfile,
    environment: &dyn Environment,
) -> Result<Profile, ConfigError> {
    let place = name.span();
    let name = ProfileName::parse(name.get_ref())
        .map_err(|error| source.mistake(Some(place.clone()), "profiles", error.to_string()))?;
    let key = |key: &str| format!("profiles.{name}.{key}");
    let missing = |key: &str| {
        source.mistake(
            Some(place.clone()),
            &format!("profiles.{name}.{key}"),
            "is missing",
        )
    };
    let flag = |raw: Option<&Raw>, name: &str| match raw {
        Some(raw) => source.boolean(&key(name), raw),
        None => Ok(false),
    };

    let allow_insecure_loopback = flag(
        raw.allow_insecure_loopback.as_ref(),
        "allow_insecure_loopback",
    )?;
    let base_url = raw.base_url.as_ref().ok_or_else(|| missing("base_url"))?;
    let base_url = source.base_url(&key("base_url"), base_url, allow_insecure_loopback)?;
    let tenant_id = raw.tenant_id.as_ref().ok_or_else(|| missing("tenant_id"))?;
    let tenant_id = source.parsed(&key("tenant_id"), tenant_id, TenantId::parse)?;
    let client_display_name = match &raw.client_display_name {
        Some(raw) => source.clean(&key("client_display_name"), raw, MAX_DISPLAY_NAME)?,
        None => display_name(environment),
    };
    let renew = match &raw.renew {
        None => Renew::Svid,
        Some(raw) => match source.text(&key("renew"), raw)? {
            "svid" => Renew::Svid,
            "login" => Renew::Login,
            _ => {
                let what = "must be \"svid\" or \"login\"";
                return Err(source.mistake(Some(raw.span()), &key("renew"), what));
            }
        },
    };
    let svid = svid(source, key, raw, &base_url, environment)?;

    let mut targets = Vec::with_capacity(raw.target.len());
    let mut selectors = HashSet::new();
    let mut scopes = 0_usize;
    for raw in &raw.target {
        let target = target(source, &key("target"), raw)?;
        scopes = scopes.saturating_add(target.scopes().count());
        if scopes > MAX_SCOPES {
            return Err(source.mistake(
                Some(raw.span()),
                &key("target"),
                "is one too many: a login asks for at most 96 scopes, one for each action of each target",
            ));
        }
        if !selectors.insert(target.selector.clone()) {
            return Err(source.mistake(
                Some(raw.span()),
                &key("target.selector"),
                "is there twice",
            ));
        }
        targets.push(target);
    }
    if targets.is_empty() {
        return Err(missing("target"));
    }
    if targets.iter().all(|target| target.decoy) {
        return Err(source.mistake(
            Some(place),
            &key("target"),
            "has decoys only: a login needs something to ask for",
        ));
    }
    Ok(Profile {
        base_url,
        tenant_id,
        allow_insecure_loopback,
        allow_missing_token_info: flag(
            raw.allow_missing_token_info.as_ref(),
            "allow_missing_token_info",
        )?,
        token_ttl: match &raw.token_ttl {
            Some(raw) => source.duration(&key("token_ttl"), raw, &TOKEN_TTL)?,
            None => DEFAULT_TOKEN_TTL,
        },
        client_display_name,
        renew,
        svid,
        network: network(source, key, raw)?,
        targets,
        name,
    })
}

/// `Aegis Broker on <hostname>`, within the bound.
fn display_name(environment: &dyn Environment) -> CleanText {
    let name = match environment.hostname() {
        Some(host) if !host.is_empty() => format!("Aegis Broker on {host}"),
        Some(_) | None => "Aegis Broker".to_owned(),
    };
    CleanText::new(&name, MAX_DISPLAY_NAME)
}

fn target(source: &Source<'_>, key: &str, raw: &Spanned<RawTarget>) -> Result<Target, ConfigError> {
    let place = raw.span();
    let raw = raw.get_ref();
    let key = |name: &str| format!("{key}.{name}");
    let selector = raw
        .selector
        .as_ref()
        .ok_or_else(|| source.mistake(Some(place), &key("selector"), "is missing"))?;
    Ok(Target {
        selector: source.parsed(&key("selector"), selector, Selector::parse)?,
        description: optional(raw.description.as_ref(), |raw| {
            source.clean(&key("description"), raw, MAX_DESCRIPTION)
        })?,
        actions: match &raw.actions {
            Some(raw) => source.actions(&key("actions"), raw)?,
            None => Action::ALL.to_vec(),
        },
        ttl: match &raw.ttl {
            Some(raw) => source.duration(&key("ttl"), raw, &LEASE_TTL)?,
            None => DEFAULT_LEASE_TTL,
        },
        inject: raw
            .inject
            .as_ref()
            .map(|raw| injection(source, &key("inject"), raw).map(Arc::new))
            .transpose()?,
        decoy: match &raw.decoy {
            Some(raw) => source.boolean(&key("decoy"), raw)?,
            None => false,
        },
    })
}

fn gate(source: &Source<'_>, raw: &RawGate) -> Result<Gate, ConfigError> {
    let default = Gate::default();
    Ok(Gate {
        decoy_locks: match &raw.decoy_locks {
            Some(raw) => source.boolean("gate.decoy_locks", raw)?,
            None => default.decoy_locks,
        },
        denial_pause: match &raw.denial_pause {
            Some(raw) => source.boolean("gate.denial_pause", raw)?,
            None => default.denial_pause,
        },
        lock_after_idle: match &raw.lock_after_idle {
            Some(raw) if raw.get_ref().as_str() == Some(NEVER) => None,
            Some(raw) => Some(source.duration("gate.lock_after_idle", raw, &IDLE)?),
            None => default.lock_after_idle,
        },
    })
}

fn limits(source: &Source<'_>, raw: &RawLimits) -> Result<Limits, ConfigError> {
    let default = Limits::default();
    Ok(Limits {
        connections: match &raw.connections {
            Some(raw) => source.number("limits.connections", raw, &CONNECTIONS)?,
            None => default.connections,
        },
        in_flight_per_connection: match &raw.in_flight_per_connection {
            Some(raw) => source.number("limits.in_flight_per_connection", raw, &IN_FLIGHT)?,
            None => default.in_flight_per_connection,
        },
    })
}

/// Reads a file that only its owner can have written: ours or root's, and without write
/// permission for others. `None` when there is no such file. Links are followed; it is the file
/// behind them that counts.
pub(super) fn read(file: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let refused = |what| ConfigError::Unsafe {
        file: file.to_owned(),
        what,
    };
    let kind = match std::fs::metadata(file) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    // Opening a FIFO would wait.
    if !kind.is_file() {
        return Err(refused("is not a regular file"));
    }
    let opened = File::open(file).map_err(unreadable)?;
    let found = opened.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(refused("is not a regular file"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0 {
        return Err(refused("belongs to another user"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(refused(
            "may be written by others: take that away with chmod go-w",
        ));
    }
    let mut bytes = Vec::new();
    opened
        .take(MAX_FILE.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_FILE) {
        return Err(refused("is larger than 1 MiB"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(refused("is not UTF-8 text")),
    }
}

/// Applies `read` where there is something.
pub(super) fn optional<T>(
    raw: Option<&Raw>,
    read: impl FnOnce(&Raw) -> Result<T, ConfigError>,
) -> Result<Option<T>, ConfigError> {
    raw.map(read).transpose()
}

/// A file's text, and how its mistakes are told.
pub(super) struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text }
    }

    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| self.toml_mistake(&error))
    }

    pub(super) fn mistake(
        &self,
        place: Option<Range<usize>>,
        key: &str,
        what: impl Into<Cow<'static, str>>,
    ) -> ConfigError {
        ConfigError::Mistake(Mistake {
            file: self.file.to_owned(),
            place: place.map(|place| self.place(place.start)),
            key: Some(key.to_owned()),
            what: what.into(),
        })
    }

    /// Line and column of a byte, both from 1, the column in characters.
    fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
        let column = before.get(start..).unwrap_or_default().chars().count();
        (line, column.saturating_add(1))
    }

    /// What toml says, without the values that it quotes.
    fn toml_mistake(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message();
        let (key, what) = if let Some(rest) = message.strip_prefix("unknown field `") {
            let (key, expected) = rest.split_once('`').unwrap_or((rest, ""));
            let key = CleanText::new(key, 64).as_str().to_owned();
            (
                Some(key),
                Cow::Owned(format!("is not a known key{expected}")),
            )
        } else if let Some((_, expected)) = message.rsplit_once(", expected ")
            && QUOTING.iter().any(|start| message.starts_with(start))
        {
            let key = error.span().and_then(|span| self.key_before(span.start));
            (
                key,
                Cow::Owned(format!("has the wrong type, expected {expected}")),
            )
        } else {
            (
                None,
                Cow::Owned(CleanText::new(message, 200).as_str().to_owned()),
            )
        };
        ConfigError::Mistake(Mistake {
            file: self.file.to_owned(),
            place: error.span().map(|span| self.place(span.start)),
            key,
            what,
        })
    }

    /// The key whose value starts there, as it is written.
    fn key_before(&self, offset: usize) -> Option<String> {
        let before = self.text.get(..offset)?;
        let line = before.rsplit('\n').next()?;
        let key = line.split('=').next()?.trim();
        let is_key = !key.is_empty()
            && key.len() <= 64
            && key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        is_key.then(|| key.to_owned())
    }

    pub(super) fn text<'r>(&self, key: &str, raw: &'r Raw) -> Result<&'r str, ConfigError> {
        raw.get_ref()
            .as_str()
            .ok_or_else(|| self.mistake(Some(raw.span()), key, "must be text in quotes"))
    }

    pub(super) fn boolean(&self, key: &str, raw: &Raw) -> Result<bool, ConfigError> {
        raw.get_ref()
            .as_bool()
            .ok_or_else(|| self.mistake(Some(raw.span()), key, "must be true or false"))
    }

    pub(super) fn number(
        &self,
        key: &str,
        raw: &Raw,
        range: &RangeInclusive<u64>,
    ) -> Result<u32, ConfigError> {
        raw.get_ref()
            .as_integer()
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| range.contains(number))
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| {
                let what = format!(
                    "must be a whole number from {} to {}",
                    range.start(),
                    range.end()
                );
                self.mistake(Some(raw.span()), key, what)
            })
    }

    /// A number with a unit: `30s`, `10m`, `1h`.
    pub(super) fn duration(
        &self,
        key: &str,
        raw: &Raw,
        range: &RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        raw.get_ref()
            .as_str()
            .and_then(parse_duration)
            .filter(|duration| range.contains(duration))
            .ok_or_else(|| {
                let what = format!(
                    "must be a duration like \"90s\" or \"5m\", from {} to {}",
                    ShownDuration(*range.start()),
                    ShownDuration(*range.end())
                );
                self.mistake(Some(raw.span()), key, what)
            })
    }

    /// Text that needs no cleaning, 1 to `max` characters.
    pub(super) fn clean(&self, key: &str, raw: &Raw, max: usize) -> Result<CleanText, ConfigError> {
        let text = self.text(key, raw)?;
        CleanText::exact(text, max)
            .filter(|text| !text.as_str().trim().is_empty())
            .ok_or_else(|| {
                let what = format!("must be 1 to {max} printable characters");
                self.mistake(Some(raw.span()), key, what)
            })
    }

    /// Text that `parse` accepts; its error says what is wrong without quoting.
    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        key: &str,
        raw: &Raw,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(self.text(key, raw)?)
            .map_err(|error| self.mistake(Some(raw.span()), key, format!("is wrong: {error}")))
    }

    /// At least one piece of text.
    pub(super) fn texts<'r>(&self, key: &str, raw: &'r Raw) -> Result<Vec<&'r str>, ConfigError> {
        raw.get_ref()
            .as_array()
            .filter(|list| !list.is_empty())
            .and_then(|list| list.iter().map(Value::as_str).collect())
            .ok_or_else(|| {
                self.mistake(
                    Some(raw.span()),
                    key,
                    "must be a list of at least one text in quotes",
                )
            })
    }

    /// At least one action, none twice.
    pub(super) fn actions(&self, key: &str, raw: &Raw) -> Result<Vec<Action>, ConfigError> {
        let mut actions = Vec::new();
        for word in self.texts(key, raw)? {
            match Action::parse(word) {
                Some(action) if !actions.contains(&action) => actions.push(action),
                Some(_) => {
                    return Err(self.mistake(Some(raw.span()), key, "has an action twice"));
                }
                None => {
                    return Err(self.mistake(
                        Some(raw.span()),
                        key,
                        "has an unknown action: there are \"create\", \"redeem\" and \"revoke\"",
                    ));
                }
            }
        }
        Ok(actions)
    }

    pub(super) fn absolute_path(&self, key: &str, raw: &Raw) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(self.text(key, raw)?);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(self.mistake(Some(raw.span()), key, "must be an absolute path"))
        }
    }

    pub(super) fn base_url(
        &self,
        key: &str,
        raw: &Raw,
        allow_insecure_loopback: bool,
    ) -> Result<Url, ConfigError> {
        let wrong = |what: &'static str| self.mistake(Some(raw.span()), key, what);
        let Ok(url) = Url::parse(self.text(key, raw)?) else {
            return Err(wrong("must be an address like https://aegis.example.com"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("must not hold a user name or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must not have a query or a fragment"));
        }
        match (url.scheme(), url.host()) {
            ("https", Some(_)) => Ok(url),
            ("http", Some(host)) if is_loopback(&host) => {
                if allow_insecure_loopback {
                    Ok(url)
                } else {
                    Err(wrong(
                        "is http: on a loopback address that takes allow_insecure_loopback = true",
                    ))
                }
            }
            _ => Err(wrong(
                "must be https; http is for loopback addresses (127.0.0.1, [::1]) only",
            )),
        }
    }
}

/// A literal loopback address. A name could lead anywhere.
fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(_) => false,
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let seconds = [("s", 1_u64), ("m", 60), ("h", 3600)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (digits, seconds) = seconds?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// A duration of whole seconds as the files write it.
struct ShownDuration(Duration);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds % 3600, seconds % 60) {
            (0, _) => write!(f, "{}h", seconds / 3600),
            (_, 0) => write!(f, "{}m", seconds / 60),
            _ => write!(f, "{seconds}s"),
        }
    }
}
