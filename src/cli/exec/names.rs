//! Under which names a command finds a credential in its environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use crate::cli::output::{OURS, variable};
use crate::model::{ErrorCode, Field, FieldValue, Material, MaterialKind, Refusal};

/// Of a prefix, in bytes.
const MAX_PREFIX: usize = 32;

/// What the variables of a credential begin with, where the person says so: `DB` makes `DB_HOST`;
/// of a generic secret `AEGIS_DB_HOST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix(String);

impl Prefix {
    /// Capital letters, digits and `_`, a letter first.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let legal = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
        if begins && text.len() <= MAX_PREFIX && text.bytes().all(legal) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "a prefix is at most {MAX_PREFIX} capital letters, digits and _, a letter first"
        ))
    }
}

/// A command's credentials, by the names of variables. Whoever allocates for an environment frees
/// into the allocator that wipes (HY-6).
#[derive(Default)]
pub(super) struct Variables(Vec<(OsString, OsString)>);

impl Variables {
    /// Adds those of one credential.
    ///
    /// # Errors
    /// `usage` where the names cannot be had, or a value fits into no environment.
    pub(super) fn add(
        &mut self,
        material: &Material,
        prefix: Option<&Prefix>,
    ) -> Result<(), Refusal> {
        let first = self.0.len();
        for field in &material.fields {
            match (prefix, names(material, &field.name)) {
                // Its field names are the issuer's: with our word before them they steer nothing,
                // whatever the prefix makes of them.
                (Some(Prefix(prefix)), _) if material.kind == MaterialKind::GenericSecret => {
                    let ours = variable(OURS, prefix);
                    self.set(first, &variable(&ours, &field.name), field)?;
                }
                // Those of the other kinds are the contract's.
                (Some(Prefix(prefix)), _) => {
                    self.set(first, &variable(prefix, &field.name), field)?;
                }
                (None, Names::Ours) => self.set(first, &variable(OURS, &field.name), field)?,
                (None, Names::Usual(names)) => {
                    for name in names {
                        self.set(first, name, field)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Those from `first` on are of the same credential.
    fn set(&mut self, first: usize, name: &str, field: &Field) -> Result<(), Refusal> {
        match self.0.iter().position(|(other, _)| other == name) {
            Some(other) if other >= first => {
                return Err(Refusal::new(ErrorCode::Usage)
                    .with_message("two fields of this credential have the same variable name")
                    .with_fix("use `aegis-broker get --format json`"));
            }
            Some(_) => {
                return Err(Refusal::new(ErrorCode::Usage)
                    .with_message(&format!("two credentials would set {name}"))
                    .with_fix("give one of them a prefix: --use SELECTOR=PREFIX"));
            }
            None => {}
        }
        let value = match &field.value {
            FieldValue::Public(text) => text,
            FieldValue::Secret(secret) => secret.expose(),
        };
        if value.contains('\0') {
            return Err(Refusal::new(ErrorCode::Usage)
                .with_message("a value of this credential fits into no environment")
                .with_fix("use `aegis-broker get --format json`"));
        }
        let value = OsStr::from_bytes(value.as_bytes()).to_owned();
        self.0.push((name.into(), value));
        Ok(())
    }
}

impl IntoIterator for Variables {
    type Item = (OsString, OsString);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Where a field is found with no prefix.
enum Names {
    /// Where the tools that the table names look for it; nowhere, if they do not.
    Usual(&'static [&'static str]),
    /// Under our own: `AEGIS_FIELD`.
    Ours,
}

fn names(material: &Material, field: &str) -> Names {
    Names::Usual(match (material.kind, field) {
        // gcloud; Terraform's provider.
        (MaterialKind::GcpAccessToken, "access_token") => {
            &["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]
        }
        // Google's client libraries and Terraform's provider.
        (MaterialKind::GcpAccessToken, "project_id") => &["GOOGLE_CLOUD_PROJECT"],
        // The AWS command line and SDKs, which differ in the region's name.
        (MaterialKind::AwsSessionCredentials, "access_key_id") => &["AWS_ACCESS_KEY_ID"],
        (MaterialKind::AwsSessionCredentials, "secret_access_key") => &["AWS_SECRET_ACCESS_KEY"],
        (MaterialKind::AwsSessionCredentials, "session_token") => &["AWS_SESSION_TOKEN"],
        (MaterialKind::AwsSessionCredentials, "region") => &["AWS_REGION", "AWS_DEFAULT_REGION"],
        (MaterialKind::GithubToken, "token") => of_github(public(material, "host")),
        (MaterialKind::GithubToken, "host") => &["GH_HOST"],
        // Terraform's provider; its backend, which is the one to read the namespace. `kubectl`
        // reads none of them.
        (MaterialKind::KubernetesToken, "token") => &["KUBE_TOKEN"],
        (MaterialKind::KubernetesToken, "api_server") => &["KUBE_HOST"],
        (MaterialKind::KubernetesToken, "ca_certificate_pem") => &["KUBE_CLUSTER_CA_CERT_DATA"],
        (MaterialKind::KubernetesToken, "namespace") => &["KUBE_NAMESPACE"],
        (MaterialKind::DatabaseLogin, field) => return of_database(material, field),
        (MaterialKind::GcpSubjectToken, "subject_token" | "audience")
        | (MaterialKind::GenericSecret, _) => return Names::Ours,
        (
            MaterialKind::GcpAccessToken
            | MaterialKind::AwsSessionCredentials
            | MaterialKind::GithubToken
            | MaterialKind::KubernetesToken
            | MaterialKind::GcpSubjectToken,
            _,
        ) => &[],
    })
}

/// Where `gh` looks for a token of that host. Others that look for `GITHUB_TOKEN` mean `github.com`
/// by it, and would send it there.
fn of_github(host: Option<&str>) -> &'static [&'static str] {
    let host = host.map(str::to_ascii_lowercase);
    match host.as_deref() {
        None | Some("github.com") => &["GH_TOKEN", "GITHUB_TOKEN"],
        Some(host) if host.ends_with(".ghe.com") => &["GH_TOKEN"],
        Some(_) => &["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"],
    }
}

/// What libpq looks for, and `mysql` and `mariadb`, which have no variable for user and database.
fn of_database(material: &Material, field: &str) -> Names {
    let engine = public(material, "engine").map(str::to_ascii_lowercase);
    match (engine.as_deref(), field) {
        (Some("postgres" | "postgresql"), field) => Names::Usual(match field {
            "host" => &["PGHOST"],
            "port" => &["PGPORT"],
            "database" => &["PGDATABASE"],
            "username" => &["PGUSER"],
            "password" => &["PGPASSWORD"],
            "sslmode" => &["PGSSLMODE"],
            _ => &[],
        }),
        (Some("mysql" | "mariadb"), "host") => Names::Usual(&["MYSQL_HOST"]),
        (Some("mysql" | "mariadb"), "port") => Names::Usual(&["MYSQL_TCP_PORT"]),
        (Some("mysql" | "mariadb"), "password") => Names::Usual(&["MYSQL_PWD"]),
        (_, _) => Names::Ours,
    }
}

fn public<'a>(material: &'a Material, name: &str) -> Option<&'a str> {
    match &material.field(name)?.value {
        FieldValue::Public(text) => Some(text),
        FieldValue::Secret(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretString;
    use crate::time::UnixTime;

    fn material(kind: MaterialKind, fields: &[(&str, &str)]) -> Material {
        let field = |(name, value): &(&str, &str)| Field {
            name: Box::from(*name),
            value: match *name {
                "engine" | "host" => FieldValue::Public(Box::from(*value)),
                _ => FieldValue::Secret(SecretString::copy_from(value)),
            },
        };
        Material {
            kind,
            fields: fields.iter().map(field).collect(),
            expires_at: UnixTime::from_millis(0),
        }
    }

    fn names_of(variables: Variables) -> Vec<String> {
        let name = |(name, _): (OsString, OsString)| name.into_string().unwrap();
        variables.into_iter().map(name).collect()
    }

    /// Whoever is given a credential can find what is secret of it.
    #[test]
    fn every_kind_has_a_name_for_each_of_its_secrets() {
        for kind in MaterialKind::ALL {
            let secrets: &[&str] = match kind {
                MaterialKind::GcpAccessToken => &["access_token"],
                MaterialKind::AwsSessionCredentials => &["secret_access_key", "session_token"],
                MaterialKind::GithubToken | MaterialKind::KubernetesToken => &["token"],
                MaterialKind::DatabaseLogin => &["password"],
                MaterialKind::GenericSecret => &["whatever"],
                MaterialKind::GcpSubjectToken => &["subject_token"],
            };
            for secret in secrets {
                let mut variables = Variables::default();
                variables
                    .add(&material(kind, &[(secret, "s")]), None)
                    .unwrap();
                assert!(!names_of(variables).is_empty(), "{kind:?}, {secret}");
            }
        }
    }

    #[test]
    fn the_usual_names_are_those_that_tools_look_for() {
        type Row = (
            MaterialKind,
            &'static [(&'static str, &'static str)],
            &'static [&'static str],
        );
        #[rustfmt::skip]
        let rows: [Row; 14] = [
            (MaterialKind::GcpAccessToken, &[("access_token", "t"), ("token_type", "Bearer")], &["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]),
            (MaterialKind::AwsSessionCredentials, &[("access_key_id", "a"), ("secret_access_key", "b"), ("session_token", "c"), ("region", "d")],
             &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"]),
            (MaterialKind::GithubToken, &[("token", "t"), ("login", "l")], &["GH_TOKEN", "GITHUB_TOKEN"]),
            (MaterialKind::GithubToken, &[("token", "t"), ("host", "GitHub.com")], &["GH_TOKEN", "GITHUB_TOKEN", "GH_HOST"]),
            (MaterialKind::GithubToken, &[("token", "t"), ("host", "a.ghe.com")], &["GH_TOKEN", "GH_HOST"]),
            (MaterialKind::GithubToken, &[("token", "t"), ("host", "git.example")], &["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN", "GH_HOST"]),
            (MaterialKind::KubernetesToken, &[("token", "t"), ("api_server", "s")], &["KUBE_TOKEN", "KUBE_HOST"]),
            (MaterialKind::DatabaseLogin, &[("engine", "postgres"), ("host", "h"), ("port", "1"), ("username", "u"), ("password", "p")], &["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD"]),
            (MaterialKind::DatabaseLogin, &[("engine", "PostgreSQL"), ("password", "p")], &["PGPASSWORD"]),
            (MaterialKind::DatabaseLogin, &[("host", "h"), ("port", "1"), ("username", "u"), ("password", "p"), ("engine", "mariadb")],
             &["MYSQL_HOST", "MYSQL_TCP_PORT", "AEGIS_USERNAME", "MYSQL_PWD", "AEGIS_ENGINE"]),
            (MaterialKind::DatabaseLogin, &[("engine", "oracle"), ("host", "h"), ("password", "p")], &["AEGIS_ENGINE", "AEGIS_HOST", "AEGIS_PASSWORD"]),
            (MaterialKind::DatabaseLogin, &[("password", "p")], &["AEGIS_PASSWORD"]),
            (MaterialKind::GenericSecret, &[("api-key", "k"), ("path", "p")], &["AEGIS_API_KEY", "AEGIS_PATH"]),
            (MaterialKind::GcpSubjectToken, &[("subject_token", "t"), ("token_type", "y")], &["AEGIS_SUBJECT_TOKEN"]),
        ];
        for (kind, fields, expected) in rows {
            let mut variables = Variables::default();
            variables.add(&material(kind, fields), None).unwrap();
            assert_eq!(names_of(variables), expected);
        }
    }

    /// A hostile issuer chooses the names of a generic secret's fields: whatever prefix a person
    /// gives, none becomes a variable that the loader, a shell, an interpreter or a tool obeys.
    #[test]
    fn no_field_of_an_issuer_steers_the_command() {
        for (prefix, field) in [("LD", "preload"), ("GIT", "config_count"), ("BASH", "env")] {
            let prefix = Prefix::parse(prefix).unwrap();
            let hostile = material(MaterialKind::GenericSecret, &[(field, "/tmp/evil")]);
            let mut variables = Variables::default();
            variables.add(&hostile, Some(&prefix)).unwrap();
            let names = names_of(variables);
            assert!(
                names.iter().all(|name| name.starts_with("AEGIS_")),
                "{names:?}"
            );
        }
        let prefix = Prefix::parse("DB").unwrap();
        let login = material(MaterialKind::DatabaseLogin, &[("password", "p")]);
        let mut variables = Variables::default();
        variables.add(&login, Some(&prefix)).unwrap();
        assert_eq!(names_of(variables), ["DB_PASSWORD"]);
    }

    #[test]
    fn a_value_with_a_nul_is_refused() {
        let nul = material(MaterialKind::GenericSecret, &[("a", "b\0c")]);
        let refused = Variables::default().add(&nul, None);
        assert_eq!(refused.unwrap_err().code, ErrorCode::Usage);
    }

    /// What is advised helps: a prefix where two credentials meet, not where two fields do.
    #[test]
    fn two_fields_of_one_name_are_not_told_as_two_credentials() {
        let twice = material(MaterialKind::GenericSecret, &[("a-b", "1"), ("a_b", "2")]);
        let fields = Variables::default().add(&twice, None).unwrap_err();
        assert!(
            fields.message().starts_with("two fields"),
            "{}",
            fields.message()
        );
        let once = material(MaterialKind::GenericSecret, &[("a", "1")]);
        let mut variables = Variables::default();
        variables.add(&once, None).unwrap();
        let credentials = variables.add(&once, None).unwrap_err();
        assert!(
            credentials.fix().contains("prefix"),
            "{}",
            credentials.fix()
        );
    }

    #[test]
    fn a_prefix_is_a_word_of_capitals() {
        assert!(Prefix::parse(&"A".repeat(32)).is_ok() && Prefix::parse("DB_2").is_ok());
        for bad in ["", "_A", "1A", "a", "A-B", "A=B", "Ä", &"A".repeat(33)] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }
}
