//! Under which names a command finds a credential in its environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use crate::model::{ErrorCode, Field, FieldValue, Material, MaterialKind, Refusal};

/// Of a prefix, in bytes.
const MAX_PREFIX: usize = 32;

/// What the variables of a credential begin with, where the person says so: `DB` makes `DB_HOST`.
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
    pub(super) fn add(
        &mut self,
        material: &Material,
        prefix: Option<&Prefix>,
    ) -> Result<(), Refusal> {
        for field in &material.fields {
            match prefix {
                Some(Prefix(prefix)) => self.set(&own_name(prefix, &field.name), field)?,
                None if material.kind == MaterialKind::GenericSecret => {
                    self.set(&own_name("AEGIS", &field.name), field)?;
                }
                None => {
                    for name in usual_names(material, &field.name) {
                        self.set(name, field)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, field: &Field) -> Result<(), Refusal> {
        if self.0.iter().any(|(other, _)| other == name) {
            return Err(Refusal::new(ErrorCode::Usage)
                .with_message(&format!("two credentials would set {name}"))
                .with_fix("give one of them a prefix: --use SELECTOR=PREFIX"));
        }
        if steers_programs(name) {
            return Err(Refusal::new(ErrorCode::Usage)
                .with_message(&format!("{name} would steer the command: it is not set"))
                .with_fix("use another prefix"));
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

/// `PREFIX_FIELD`; what no variable's name holds is `_`.
fn own_name(prefix: &str, field: &str) -> String {
    let field = field.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    });
    prefix.chars().chain(['_']).chain(field).collect()
}

/// The field names of a generic secret are the issuer's: with no prefix may they become what the
/// loader, a shell or an interpreter obeys.
fn steers_programs(name: &str) -> bool {
    const WORDS: [&str; 5] = [
        "BASH_ENV",
        "NODE_OPTIONS",
        "JAVA_TOOL_OPTIONS",
        "GIT_SSH_COMMAND",
        "GIT_EXEC_PATH",
    ];
    const BEGINNINGS: [&str; 6] = ["LD_", "DYLD_", "PYTHON", "PERL5", "RUBY", "BASH_FUNC"];
    WORDS.contains(&name) || BEGINNINGS.iter().any(|begin| name.starts_with(begin))
}

/// What the provider's own tools look for.
fn usual_names(material: &Material, field: &str) -> &'static [&'static str] {
    match (material.kind, field) {
        (MaterialKind::GcpAccessToken, "access_token") => {
            &["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]
        }
        (MaterialKind::GcpAccessToken, "project_id") => &["GOOGLE_CLOUD_PROJECT"],
        (MaterialKind::AwsSessionCredentials, "access_key_id") => &["AWS_ACCESS_KEY_ID"],
        (MaterialKind::AwsSessionCredentials, "secret_access_key") => &["AWS_SECRET_ACCESS_KEY"],
        (MaterialKind::AwsSessionCredentials, "session_token") => &["AWS_SESSION_TOKEN"],
        (MaterialKind::AwsSessionCredentials, "region") => &["AWS_REGION", "AWS_DEFAULT_REGION"],
        (MaterialKind::GithubToken, "token") => &["GH_TOKEN", "GITHUB_TOKEN"],
        (MaterialKind::GithubToken, "host") => &["GH_HOST"],
        (MaterialKind::KubernetesToken, "token") => &["KUBE_TOKEN"],
        (MaterialKind::KubernetesToken, "api_server") => &["KUBE_HOST"],
        (MaterialKind::KubernetesToken, "ca_certificate_pem") => &["KUBE_CLUSTER_CA_CERT_DATA"],
        (MaterialKind::KubernetesToken, "namespace") => &["KUBE_NAMESPACE"],
        (MaterialKind::DatabaseLogin, field) if is_mysql(material) => match field {
            "host" => &["MYSQL_HOST"],
            "port" => &["MYSQL_TCP_PORT"],
            "username" => &["MYSQL_USER"],
            "password" => &["MYSQL_PWD"],
            "database" => &["MYSQL_DATABASE"],
            _ => &[],
        },
        (MaterialKind::DatabaseLogin, "host") => &["PGHOST"],
        (MaterialKind::DatabaseLogin, "port") => &["PGPORT"],
        (MaterialKind::DatabaseLogin, "database") => &["PGDATABASE"],
        (MaterialKind::DatabaseLogin, "username") => &["PGUSER"],
        (MaterialKind::DatabaseLogin, "password") => &["PGPASSWORD"],
        (MaterialKind::DatabaseLogin, "sslmode") => &["PGSSLMODE"],
        (MaterialKind::GcpSubjectToken, "subject_token") => &["AEGIS_SUBJECT_TOKEN"],
        (MaterialKind::GcpSubjectToken, "audience") => &["AEGIS_AUDIENCE"],
        (
            MaterialKind::GcpAccessToken
            | MaterialKind::AwsSessionCredentials
            | MaterialKind::GithubToken
            | MaterialKind::KubernetesToken
            | MaterialKind::DatabaseLogin
            | MaterialKind::GenericSecret
            | MaterialKind::GcpSubjectToken,
            _,
        ) => &[],
    }
}

fn is_mysql(material: &Material) -> bool {
    material.field("engine").is_some_and(
        |field| matches!(&field.value, FieldValue::Public(engine) if &**engine == "mysql"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretString;
    use crate::time::UnixTime;

    fn material(kind: MaterialKind, fields: &[(&str, &str)]) -> Material {
        let field = |(name, value): &(&str, &str)| Field {
            name: Box::from(*name),
            value: FieldValue::Secret(SecretString::copy_from(value)),
        };
        let mut material = Material {
            kind,
            fields: fields.iter().map(field).collect(),
            expires_at: UnixTime::from_millis(0),
        };
        for field in &mut material.fields {
            if &*field.name == "engine" {
                field.value = FieldValue::Public(Box::from("mysql"));
            }
        }
        material
    }

    fn names(variables: Variables) -> Vec<String> {
        let name = |(name, _): (OsString, OsString)| name.into_string().unwrap();
        variables.into_iter().map(name).collect()
    }

    /// Every kind has a name for each of its secrets.
    #[test]
    fn the_usual_names_are_the_providers() {
        type Row = (
            MaterialKind,
            &'static [(&'static str, &'static str)],
            &'static [&'static str],
        );
        #[rustfmt::skip]
        let rows: [Row; 8] = [
            (MaterialKind::GcpAccessToken, &[("access_token", "t"), ("token_type", "Bearer")], &["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]),
            (MaterialKind::AwsSessionCredentials, &[("access_key_id", "a"), ("secret_access_key", "b"), ("session_token", "c"), ("region", "d")],
             &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"]),
            (MaterialKind::GithubToken, &[("token", "t"), ("host", "h"), ("login", "l")], &["GH_TOKEN", "GITHUB_TOKEN", "GH_HOST"]),
            (MaterialKind::KubernetesToken, &[("token", "t"), ("api_server", "s")], &["KUBE_TOKEN", "KUBE_HOST"]),
            (MaterialKind::DatabaseLogin, &[("host", "h"), ("port", "1"), ("username", "u"), ("password", "p")], &["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD"]),
            (MaterialKind::DatabaseLogin, &[("engine", "mysql"), ("host", "h"), ("password", "p")], &["MYSQL_HOST", "MYSQL_PWD"]),
            (MaterialKind::GenericSecret, &[("api-key", "k"), ("path", "p")], &["AEGIS_API_KEY", "AEGIS_PATH"]),
            (MaterialKind::GcpSubjectToken, &[("subject_token", "t")], &["AEGIS_SUBJECT_TOKEN"]),
        ];
        for (kind, fields, expected) in rows {
            let mut variables = Variables::default();
            variables.add(&material(kind, fields), None).unwrap();
            assert_eq!(names(variables), expected);
        }
    }

    /// A hostile issuer chooses the names of a generic secret's fields: with no prefix that a person
    /// may give do they become what the loader, a shell or an interpreter obeys.
    #[test]
    fn no_field_steers_the_command() {
        for (prefix, field) in [
            ("LD", "preload"),
            ("LD_LIBRARY", "path"),
            ("BASH", "env"),
            ("NODE", "options"),
            ("PYTHONSTARTUP", "x"),
            ("GIT_SSH", "command"),
        ] {
            let prefix = Prefix::parse(prefix).unwrap();
            let material = material(MaterialKind::GenericSecret, &[(field, "/tmp/evil")]);
            let refused = Variables::default().add(&material, Some(&prefix));
            assert_eq!(refused.unwrap_err().code, ErrorCode::Usage, "{prefix:?}");
        }
        let nul = material(MaterialKind::GenericSecret, &[("a", "b\0c")]);
        let refused = Variables::default().add(&nul, None);
        assert_eq!(refused.unwrap_err().code, ErrorCode::Usage);
    }

    #[test]
    fn a_prefix_is_a_word_of_capitals() {
        assert!(Prefix::parse(&"A".repeat(32)).is_ok() && Prefix::parse("DB_2").is_ok());
        for bad in ["", "_A", "1A", "a", "A-B", "A=B", "Ä", &"A".repeat(33)] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }
}
