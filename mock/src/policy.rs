//! The policy file: who may do what, and how strict the server is.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::check::{Check, Checks};
use crate::{idp, scope, spiffe_ca};

/// The built-in policy is the documented sample.
const BUILT_IN: &str = include_str!("../../config/aegis-mock.toml");

/// The longest policy file that is read, in bytes. The sample has an eighth of it.
pub const MAX_POLICY_BYTES: u64 = 64 * 1024;

const MAX_SESSION: u32 = 8 * 60 * 60;
/// More calls a minute than any machine makes.
const MAX_CALLS: u32 = 1_000_000;
/// For each subject so many points in time are kept.
const MAX_SPIKE: u32 = 10_000;
const MAX_FACTOR: u32 = 100;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    #[serde(default)]
    pub(crate) server: Server,
    #[serde(default)]
    pub(crate) throttle: Throttle,
    #[serde(default)]
    pub(crate) anomaly: Anomaly,
    #[serde(default)]
    pub(crate) strictness: Strictness,
    #[serde(default, rename = "tenant")]
    pub(crate) tenants: Vec<Tenant>,
    #[serde(default, rename = "user")]
    pub(crate) users: Vec<User>,
    #[serde(default, rename = "client")]
    clients: Vec<Client>,
    #[serde(default, rename = "issuer")]
    pub(crate) issuers: Vec<Issuer>,
    #[serde(default, rename = "workload")]
    pub(crate) workloads: Vec<Workload>,
    #[serde(default, rename = "grant")]
    grants: Vec<Grant>,
    #[serde(default, rename = "deny")]
    denials: Vec<Denial>,
    #[serde(default, rename = "credential")]
    pub(crate) credentials: Vec<Credential>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    pub(crate) nonce: NonceMode,
    #[serde(deserialize_with = "bounded::<_, 1, 60>")]
    pub(crate) interval_seconds: u32,
    pub(crate) allow_providerless_scopes: bool,
    #[serde(deserialize_with = "trust_domain")]
    pub(crate) trust_domain: String,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            nonce: NonceMode::Window,
            interval_seconds: 5,
            allow_providerless_scopes: false,
            trust_domain: "aegis.example".to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NonceMode {
    Window,
    SingleUse,
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Throttle {
    pub(crate) enabled: bool,
    #[serde(deserialize_with = "bounded::<_, 1, MAX_CALLS>")]
    pub(crate) per_principal_minute: u32,
    #[serde(deserialize_with = "bounded::<_, 1, MAX_CALLS>")]
    pub(crate) per_tenant_minute: u32,
    #[serde(deserialize_with = "bounded::<_, 1, MAX_CALLS>")]
    pub(crate) begin_per_address_minute: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            enabled: true,
            per_principal_minute: 600,
            per_tenant_minute: 3000,
            begin_per_address_minute: 30,
        }
    }
}

/// What counts as a spike within a minute, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "the contract's name of the key")]
pub(crate) struct Anomaly {
    pub(crate) on_anomaly: OnAnomaly,
    #[serde(deserialize_with = "bounded::<_, 1, MAX_SPIKE>")]
    pub(crate) issuances_per_minute: u32,
    #[serde(deserialize_with = "bounded::<_, 1, MAX_SPIKE>")]
    pub(crate) denials_per_minute: u32,
    #[serde(deserialize_with = "bounded::<_, 1, MAX_SPIKE>")]
    pub(crate) replays_per_minute: u32,
    #[serde(deserialize_with = "bounded::<_, 1, MAX_FACTOR>")]
    pub(crate) tenant_factor: u32,
}

impl Default for Anomaly {
    fn default() -> Self {
        Self {
            on_anomaly: OnAnomaly::Alert,
            issuances_per_minute: 30,
            denials_per_minute: 10,
            replays_per_minute: 3,
            tenant_factor: 5,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnAnomaly {
    Alert,
    Throttle,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in the file"
)]
pub(crate) struct Strictness {
    pub(crate) field_names: bool,
    pub(crate) protocol_version: bool,
    pub(crate) nonce_required: bool,
    pub(crate) scope_grammar: bool,
    pub(crate) ttl_range: bool,
    pub(crate) host: bool,
    pub(crate) origin: bool,
    pub(crate) no_store: bool,
    pub(crate) replay: bool,
}

impl Default for Strictness {
    fn default() -> Self {
        Self {
            field_names: true,
            protocol_version: true,
            nonce_required: true,
            scope_grammar: true,
            ttl_range: true,
            host: true,
            origin: true,
            no_store: true,
            replay: true,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tenant {
    pub(crate) id: String,
    #[serde(default, deserialize_with = "scopes")]
    pub(crate) default_scopes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    pub(crate) uid: String,
    pub(crate) tenants: Vec<String>,
    #[serde(default)]
    pub(crate) role: Option<String>,
    #[serde(
        default = "max_session",
        deserialize_with = "bounded::<_, 1, MAX_SESSION>"
    )]
    pub(crate) max_session_seconds: u32,
}

/// A program that people sign in for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) redirect_uris: Vec<String>,
}

/// Whose workload tokens are taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issuer {
    /// Below this server's own address.
    #[serde(deserialize_with = "issuer_path")]
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) replay: Replay,
}

/// Whether a workload token is good again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Replay {
    /// Never.
    #[default]
    Refuse,
    /// With the same key.
    Bind,
}

/// A workload, as its issuer and as we know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    #[serde(deserialize_with = "issuer_path")]
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) principal: String,
    pub(crate) tenant: String,
    #[serde(default)]
    pub(crate) role: Option<String>,
    #[serde(default, deserialize_with = "scopes")]
    pub(crate) scopes: Vec<String>,
}

fn max_session() -> u32 {
    MAX_SESSION
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Create,
    Redeem,
    Revoke,
}

impl Action {
    /// The scope that carries this action.
    pub(crate) fn scope(self, selector: &str) -> String {
        let action = match self {
            Self::Create => "create",
            Self::Redeem => "redeem",
            Self::Revoke => "revoke",
        };
        format!("credential.lease.{action}:{selector}")
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    principal: String,
    actions: Vec<Action>,
    #[serde(deserialize_with = "selector")]
    selector: String,
    #[serde(default, deserialize_with = "bounded_if_there::<_, 30, 3600>")]
    max_ttl_seconds: Option<u32>,
    #[serde(default, deserialize_with = "bounded_if_there::<_, 1, 10>")]
    max_redemptions: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Denial {
    principal: String,
    actions: Vec<Action>,
    #[serde(deserialize_with = "selector")]
    selector: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawCredential")]
pub(crate) struct Credential {
    selector: String,
    pub(crate) kind: CredentialKind,
    pub(crate) fields: BTreeMap<String, String>,
}

/// One whose fields may not be those of its kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCredential {
    #[serde(deserialize_with = "selector")]
    selector: String,
    kind: CredentialKind,
    fields: BTreeMap<String, String>,
}

impl TryFrom<RawCredential> for Credential {
    type Error = &'static str;

    fn try_from(raw: RawCredential) -> Result<Self, Self::Error> {
        let credential = Self {
            selector: raw.selector,
            kind: raw.kind,
            fields: raw.fields,
        };
        if !credential.is_complete() {
            return Err("the fields are not those of the kind");
        }
        Ok(credential)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CredentialKind {
    GcpAccessToken,
    AwsSessionCredentials,
    GithubToken,
    KubernetesToken,
    DatabaseLogin,
    GenericSecret,
    GcpSubjectToken,
}

impl CredentialKind {
    /// The fields of a credential of this kind, sorted, all of them required; `None` where any
    /// will do.
    fn fields(self) -> Option<&'static [&'static str]> {
        Some(match self {
            Self::GcpAccessToken => &["access_token", "project_id", "service_account_email"],
            Self::AwsSessionCredentials => &[
                "access_key_id",
                "region",
                "role_arn",
                "secret_access_key",
                "session_token",
            ],
            Self::GithubToken => &["host", "login", "permissions", "repositories", "token"],
            Self::KubernetesToken => &[
                "api_server",
                "ca_certificate_pem",
                "namespace",
                "service_account",
                "token",
            ],
            Self::DatabaseLogin => &[
                "database", "engine", "host", "password", "port", "sslmode", "username",
            ],
            Self::GcpSubjectToken => &["audience", "subject_token", "token_type"],
            Self::GenericSecret => return None,
        })
    }
}

/// A policy file that cannot be used: no TOML, an unknown key, or a value that is of the wrong
/// type or out of its bounds. It names the line.
#[derive(Debug, thiserror::Error)]
#[error("policy file: {0}")]
pub struct PolicyError(#[from] toml::de::Error);

/// A number from `LEAST` to `MOST`.
fn bounded<'de, D: Deserializer<'de>, const LEAST: u32, const MOST: u32>(
    deserializer: D,
) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number)
        .ok()
        .filter(|number| (LEAST..=MOST).contains(number))
        .ok_or_else(|| D::Error::custom(format_args!("{number} is not in {LEAST} to {MOST}")))
}

fn bounded_if_there<'de, D: Deserializer<'de>, const LEAST: u32, const MOST: u32>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    bounded::<D, LEAST, MOST>(deserializer).map(Some)
}

fn selector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let selector = String::deserialize(deserializer)?;
    if scope::is_selector(&selector) {
        return Ok(selector);
    }
    Err(D::Error::custom("the selector is malformed"))
}

fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let domain = String::deserialize(deserializer)?;
    if spiffe_ca::is_trust_domain(&domain) {
        return Ok(domain);
    }
    Err(D::Error::custom("a trust domain is of a-z 0-9 . _ -"))
}

/// `/idp` or one segment below it.
fn issuer_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let path = String::deserialize(deserializer)?;
    let name = path.strip_prefix(idp::ISSUER);
    let fits = name == Some("")
        || name
            .and_then(|name| name.strip_prefix('/'))
            .is_some_and(scope::is_segment);
    if fits {
        return Ok(path);
    }
    Err(D::Error::custom("an issuer is /idp or one name below it"))
}

fn scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let scopes = Vec::<String>::deserialize(deserializer)?;
    if scopes.iter().all(|one| scope::check(one, false).is_ok()) {
        return Ok(scopes);
    }
    Err(D::Error::custom("a scope is malformed"))
}

impl Policy {
    /// Reads a file, or the built-in policy for `None`.
    ///
    /// # Errors
    /// Where the text is no policy; nothing is guessed.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, PolicyError> {
        Ok(toml::from_str(text.unwrap_or(BUILT_IN))?)
    }

    pub(crate) fn tenant(&self, id: &str) -> Option<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.id == id)
    }

    pub(crate) fn user(&self, uid: &str) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
    }

    pub(crate) fn client(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    pub(crate) fn issuer(&self, url: &str) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| issuer.url == url)
    }

    pub(crate) fn credential(&self, selector: &str) -> Option<&Credential> {
        self.credentials.iter().find(|c| c.selector == selector)
    }

    /// Default deny, a denial wins, and one grant must allow all of it.
    pub(crate) fn permits(
        &self,
        principal: &str,
        action: Action,
        selector: &str,
        ttl_seconds: u32,
        redemptions: u32,
        checks: Checks,
    ) -> bool {
        let denied = self.denials.iter().any(|denial| {
            denial.principal == principal
                && denial.actions.contains(&action)
                && denial.selector == selector
        });
        let granted = self.grants.iter().any(|grant| {
            let short = grant.max_ttl_seconds.is_none_or(|max| ttl_seconds <= max);
            let few = grant.max_redemptions.is_none_or(|max| redemptions <= max);
            grant.principal == principal
                && grant.actions.contains(&action)
                && grant.selector == selector
                && checks.pass(Check::GrantTtl, short)
                && checks.pass(Check::GrantRedemptions, few)
        });
        checks.pass(Check::PolicyDenial, !denied) && checks.pass(Check::PolicyGrant, granted)
    }
}

impl Credential {
    fn is_complete(&self) -> bool {
        let named = match self.kind.fields() {
            Some(fields) => self.fields.keys().eq(fields),
            None => !self.fields.is_empty(),
        };
        named
            && self
                .fields
                .iter()
                .all(|(name, value)| match (self.kind, name.as_str()) {
                    (CredentialKind::DatabaseLogin, "port") => value.parse::<u16>().is_ok(),
                    (CredentialKind::GithubToken, "permissions") => {
                        list(value).all(|item| item.contains('='))
                    }
                    _ => true,
                })
    }
}

/// The items of a field that holds several, separated by commas.
pub(crate) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The paths of all keys: `user.role` and so on. The fields of credentials
    /// are data.
    fn keys(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(table) if path != "credential.fields" => {
                for (key, value) in table {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    keys(value, &path, found);
                    found.insert(path);
                }
            }
            toml::Value::Array(items) => {
                for item in items {
                    keys(item, path, found);
                }
            }
            toml::Value::Table(_)
            | toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {}
        }
    }

    #[test]
    fn the_sample_file_has_every_key_and_every_default() {
        let policy = Policy::parse(None).unwrap();
        assert_eq!(policy.server, Server::default());
        assert_eq!(policy.throttle, Throttle::default());
        assert_eq!(policy.anomaly, Anomaly::default());
        assert_eq!(policy.strictness, Strictness::default());

        let (mut in_file, mut in_code) = (BTreeSet::new(), BTreeSet::new());
        keys(
            &BUILT_IN.parse::<toml::Table>().unwrap().into(),
            "",
            &mut in_file,
        );
        keys(&toml::Value::try_from(&policy).unwrap(), "", &mut in_code);
        assert_eq!(in_file, in_code);
    }

    /// The reader names every key it knows, also those that are left out where they are unset.
    #[test]
    fn the_sample_file_has_every_key_that_is_read() {
        let sample = BUILT_IN.parse::<toml::Table>().unwrap();
        let known = |text: &str| -> BTreeSet<String> {
            let error = Policy::parse(Some(text)).unwrap_err().to_string();
            let (_, keys) = error.split_once("unknown field `zz`, expected").unwrap();
            let keys = keys.split('`').skip(1).step_by(2);
            keys.map(str::to_owned).collect()
        };
        let parts = known("zz = 1");
        assert_eq!(parts, sample.keys().cloned().collect());
        for part in parts {
            let (header, tables) = match sample[&part].as_array() {
                Some(tables) => (format!("[[{part}]]"), tables.clone()),
                None => (format!("[{part}]"), vec![sample[&part].clone()]),
            };
            let tables = tables.iter().map(|table| table.as_table().unwrap());
            let shown: BTreeSet<String> = tables.flat_map(toml::Table::keys).cloned().collect();
            assert_eq!(known(&format!("{header}\nzz = 1\n")), shown, "{part}");
        }
    }

    /// What the comments above a key say of it: bounds and default.
    fn said_of<'a>(lines: &[&'a str], at: usize) -> String {
        let above = lines[..at].iter().rev();
        let mut comment: Vec<&'a str> = above
            .take_while(|line| line.starts_with('#'))
            .copied()
            .collect();
        comment.reverse();
        comment.join(" ").replace("# ", "")
    }

    /// The number between these words.
    fn number(text: &str, before: &str, after: &str) -> Option<i64> {
        let (_, rest) = text.split_once(before)?;
        let (digits, _) = rest.split_once(after)?;
        digits.parse().ok()
    }

    fn with(lines: &[&str], at: usize, line: &str) -> String {
        let mut lines = lines.to_vec();
        lines[at] = line;
        lines.join("\n")
    }

    /// Each key is explained where it first occurs, and each switch and number with its default,
    /// which is what holds without the line; each number with its bounds, which hold.
    #[test]
    fn every_key_is_documented_with_its_default_and_bounds_and_they_hold() {
        let lines: Vec<&str> = BUILT_IN.lines().collect();
        let mut seen = BTreeSet::new();
        let (mut numbers, mut switches) = (0, 0);
        for (at, line) in lines.iter().enumerate() {
            let Some((key, value)) = line.split_once(" = ") else {
                continue;
            };
            if line.starts_with('#') || !seen.insert(key) {
                continue;
            }
            let said = said_of(&lines, at);
            assert!(!said.is_empty(), "{key} is not explained");
            let same = |text: &str| {
                let policy = |text| toml::Value::try_from(Policy::parse(Some(text)).unwrap());
                policy(text).unwrap() == policy(BUILT_IN).unwrap()
            };
            if value == "true" || value == "false" {
                switches += 1;
                assert!(said.contains(&format!("Default: {value}.")), "{key}");
                assert!(same(&with(&lines, at, "")), "{key}");
            }
            let Ok(here) = value.parse::<i64>() else {
                continue;
            };
            numbers += 1;
            let least = number(&said, "From ", " to ").unwrap_or_else(|| panic!("{key}: {said}"));
            let most = number(&said, &format!("From {least} to "), ".").unwrap();
            if let Some(default) = number(&said, "Default: ", ".") {
                assert_eq!(here, default, "{key}");
                assert!(same(&with(&lines, at, "")), "{key}");
            } else {
                assert!(said.contains("Default: no limit of its own."), "{key}");
            }
            for fits in [least, most] {
                let text = with(&lines, at, &format!("{key} = {fits}"));
                assert!(Policy::parse(Some(&text)).is_ok(), "{key} = {fits}");
            }
            for wrong in [least - 1, most + 1, i64::MIN, i64::MAX] {
                let text = with(&lines, at, &format!("{key} = {wrong}"));
                let error = Policy::parse(Some(&text)).unwrap_err().to_string();
                assert!(error.contains(&format!("line {},", at + 1)), "{error}");
                assert!(
                    error.contains(&format!("not in {least} to {most}")),
                    "{error}"
                );
            }
        }
        assert_eq!((numbers, switches), (11, 11));
    }

    /// `aegis.md` 13.
    #[test]
    fn the_numbers_of_the_contract_hold_by_default() {
        let limits = Throttle::default();
        let found = [
            limits.per_principal_minute,
            limits.per_tenant_minute,
            limits.begin_per_address_minute,
            Server::default().interval_seconds,
            max_session(),
        ];
        assert_eq!(found, [600, 3000, 30, 5, 8 * 60 * 60]);
        assert!(limits.enabled);
        let spikes = Anomaly::default();
        let found = [
            spikes.issuances_per_minute,
            spikes.denials_per_minute,
            spikes.replays_per_minute,
            spikes.tenant_factor,
        ];
        assert_eq!(found, [30, 10, 3, 5]);
    }

    #[test]
    fn an_empty_file_is_strict_and_permits_nothing() {
        let policy = Policy::parse(Some("")).unwrap();
        assert_eq!(policy.strictness, Strictness::default());
        let selector = "provider:gcp:app:billing-prod:account:deploy-bot";
        let checks = Checks::default();
        assert!(!policy.permits("user:u-demo", Action::Create, selector, 300, 1, checks));
    }

    #[test]
    fn unknown_keys_and_senseless_values_are_refused() {
        let rows = [
            ("unknown table", "[limits]\n"),
            ("unknown key", "[server]\ninterval = 5\n"),
            ("unknown mode", "[server]\nnonce = \"never\"\n"),
            ("no interval", "[server]\ninterval_seconds = 0\n"),
            (
                "unknown action",
                "[[grant]]\nprincipal = \"p\"\nactions = [\"use\"]\nselector = \"provider:a:app:b:account:c\"\n",
            ),
            (
                "wildcard",
                "[[grant]]\nprincipal = \"p\"\nactions = []\nselector = \"provider:a:app:b:account:*\"\n",
            ),
            ("no trust domain", "[server]\ntrust_domain = \"A/b\"\n"),
            (
                "an issuer elsewhere",
                "[[issuer]]\nurl = \"https://issuer.example\"\n",
            ),
            ("an issuer deeper", "[[issuer]]\nurl = \"/idp/a/b\"\n"),
            (
                "a wildcard for a workload",
                "[[workload]]\nissuer = \"/idp\"\nsubject = \"s\"\nprincipal = \"p\"\ntenant = \"t\"\nscopes = [\"*\"]\n",
            ),
            ("unknown reaction", "[anomaly]\non_anomaly = \"stop\"\n"),
            (
                "a port that is none",
                "[[credential]]\nselector = \"provider:a:app:b:account:c\"\nkind = \"database_login\"\nfields = { database = \"\", engine = \"\", host = \"\", password = \"\", port = \"70000\", sslmode = \"\", username = \"\" }\n",
            ),
            (
                "half a credential",
                "[[credential]]\nselector = \"provider:a:app:b:account:c\"\nkind = \"gcp_access_token\"\nfields = {}\n",
            ),
        ];
        for (name, text) in rows {
            let error = Policy::parse(Some(text)).unwrap_err().to_string();
            assert!(error.contains("at line "), "{name}: {error}");
        }
    }

    #[test]
    fn one_grant_must_allow_all_of_it_and_a_denial_wins() {
        let policy = Policy::parse(Some(
            r#"
            [[grant]]
            principal = "user:a"
            actions = ["create"]
            selector = "provider:p:app:b:account:c"
            max_ttl_seconds = 60
            [[grant]]
            principal = "user:a"
            actions = ["create", "redeem"]
            selector = "provider:p:app:b:account:c"
            max_redemptions = 1
            max_ttl_seconds = 30
            [[grant]]
            principal = "user:a"
            actions = ["create"]
            selector = "provider:p:app:b:account:d"
            [[deny]]
            principal = "user:a"
            actions = ["create"]
            selector = "provider:p:app:b:account:d"
            "#,
        ))
        .unwrap();
        let allowed = |principal, action, account, ttl, redemptions| {
            let selector = scope::selector("p", "b", account);
            let checks = Checks::default();
            policy.permits(principal, action, &selector, ttl, redemptions, checks)
        };
        assert!(allowed("user:a", Action::Create, "c", 60, 10));
        assert!(allowed("user:a", Action::Redeem, "c", 30, 1));
        assert!(!allowed("user:a", Action::Redeem, "c", 60, 1));
        assert!(!allowed("user:a", Action::Redeem, "c", 30, 2));
        assert!(!allowed("user:a", Action::Create, "c", 61, 1));
        assert!(!allowed("user:b", Action::Create, "c", 30, 1));
        assert!(!allowed("user:a", Action::Create, "d", 30, 1));
    }
}
