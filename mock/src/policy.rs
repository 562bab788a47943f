//! The policy file: who may do what, and how strict the server is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Checks};
use crate::scope;

/// The built-in policy is the documented sample.
const BUILT_IN: &str = include_str!("../../config/aegis-mock.toml");

const MAX_SESSION: u32 = 8 * 60 * 60;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    #[serde(default)]
    pub(crate) server: Server,
    #[serde(default)]
    pub(crate) throttle: Throttle,
    #[serde(default)]
    pub(crate) strictness: Strictness,
    #[serde(default, rename = "tenant")]
    pub(crate) tenants: Vec<Tenant>,
    #[serde(default, rename = "user")]
    pub(crate) users: Vec<User>,
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
    pub(crate) interval_seconds: u32,
    pub(crate) allow_providerless_scopes: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            nonce: NonceMode::Window,
            interval_seconds: 5,
            allow_providerless_scopes: false,
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
    pub(crate) per_principal_minute: u32,
    pub(crate) per_tenant_minute: u32,
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
    #[serde(default)]
    pub(crate) default_scopes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    pub(crate) uid: String,
    pub(crate) tenants: Vec<String>,
    #[serde(default)]
    pub(crate) role: Option<String>,
    #[serde(default = "max_session")]
    pub(crate) max_session_seconds: u32,
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
    selector: String,
    #[serde(default)]
    max_ttl_seconds: Option<u32>,
    #[serde(default)]
    max_redemptions: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Denial {
    principal: String,
    actions: Vec<Action>,
    selector: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credential {
    selector: String,
    pub(crate) kind: CredentialKind,
    pub(crate) fields: BTreeMap<String, String>,
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

/// A policy file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, an unknown key or a value of the wrong type.
    #[error("policy file: {0}")]
    Toml(#[from] toml::de::Error),
    /// A value that makes no sense.
    #[error("policy file: {0}")]
    Invalid(&'static str),
}

impl Policy {
    /// Reads a file, or the built-in policy for `None`.
    ///
    /// # Errors
    /// Where the text is no policy; nothing is guessed.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text.unwrap_or(BUILT_IN))?;
        policy.check()?;
        Ok(policy)
    }

    fn check(&self) -> Result<(), PolicyError> {
        let grants = self.grants.iter().map(|grant| &grant.selector);
        let denials = self.denials.iter().map(|denial| &denial.selector);
        let credentials = self.credentials.iter().map(|c| &c.selector);
        if !grants
            .chain(denials)
            .chain(credentials)
            .all(|selector| scope::is_selector(selector))
        {
            return Err(PolicyError::Invalid("a selector is malformed"));
        }
        if !(1..=60).contains(&self.server.interval_seconds) {
            return Err(PolicyError::Invalid("interval_seconds is not in 1 to 60"));
        }
        let sessions = self.users.iter().map(|user| user.max_session_seconds);
        if !sessions.into_iter().all(|s| (1..=MAX_SESSION).contains(&s)) {
            return Err(PolicyError::Invalid(
                "max_session_seconds is not in 1 to 28800",
            ));
        }
        let default_scopes = self.tenants.iter().flat_map(|t| &t.default_scopes);
        if default_scopes
            .into_iter()
            .any(|s| scope::check(s, false).is_err())
        {
            return Err(PolicyError::Invalid("a default scope is malformed"));
        }
        if !self.credentials.iter().all(Credential::is_complete) {
            return Err(PolicyError::Invalid(
                "a credential lacks fields of its kind",
            ));
        }
        Ok(())
    }

    pub(crate) fn tenant(&self, id: &str) -> Option<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.id == id)
    }

    pub(crate) fn user(&self, uid: &str) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
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
            assert!(Policy::parse(Some(text)).is_err(), "{name}");
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
