//! What a redemption yields (`aegis.md` 10): which fields a kind of material has, which of them are
//! secret, and what of an answer is taken for one.

use super::bad;
use super::error::AegisError;
use super::wire::{Credential, Part, Parts};
use crate::model::{CleanText, Field, FieldValue, MaterialKind};
use crate::secret::SecretString;

/// Fields of a generic secret, and how long a field's name may be.
const MAX_FIELDS: usize = 64;
const MAX_FIELD_NAME: usize = 64;

/// Of a value that may be shown, in characters; a certificate in PEM is longer.
const MAX_PUBLIC: usize = 4096;
const MAX_PEM: usize = 64 * 1024;

/// What stands in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A secret of one line, which must be there.
    Secret,
    /// A text that may be shown and must be there: a secret is of no use without it.
    Name,
    /// A text that may be shown.
    Text,
    /// A certificate: a text of many lines.
    Pem,
    /// A TCP port.
    Port,
    /// Texts without blanks; shown with one between them.
    List,
    /// Names with values; shown as `name=value`, with a blank between them.
    Pairs,
}

/// The fields of a kind, in the contract's order; those of a generic secret are the issuer's.
const fn shape_of(kind: MaterialKind) -> Option<&'static [(&'static str, Shape)]> {
    use Shape::{List, Name, Pairs, Pem, Port, Secret, Text};
    Some(match kind {
        MaterialKind::GcpAccessToken => &[
            ("access_token", Secret),
            ("token_type", Text),
            ("service_account_email", Text),
            ("project_id", Text),
            ("scopes", List),
        ],
        MaterialKind::AwsSessionCredentials => &[
            ("access_key_id", Name),
            ("secret_access_key", Secret),
            ("session_token", Secret),
            ("region", Text),
            ("role_arn", Text),
        ],
        MaterialKind::GithubToken => &[
            ("token", Secret),
            ("host", Text),
            ("login", Text),
            ("repositories", List),
            ("permissions", Pairs),
        ],
        MaterialKind::KubernetesToken => &[
            ("token", Secret),
            ("api_server", Text),
            ("ca_certificate_pem", Pem),
            ("namespace", Text),
            ("service_account", Text),
        ],
        MaterialKind::DatabaseLogin => &[
            ("engine", Text),
            ("host", Text),
            ("port", Port),
            ("database", Text),
            ("username", Name),
            ("password", Secret),
            ("sslmode", Text),
        ],
        MaterialKind::GcpSubjectToken => &[
            ("subject_token", Secret),
            ("token_type", Text),
            ("audience", Text),
        ],
        MaterialKind::GenericSecret => return None,
    })
}

/// Moves the material into its fields; `kind` must name the one member that is there.
pub(super) fn fields(credential: Credential) -> Result<(MaterialKind, Vec<Field>), AegisError> {
    let kind = credential
        .kind
        .as_deref()
        .and_then(MaterialKind::parse)
        .ok_or(bad("kind"))?;
    let parts = credential
        .into_only()
        .filter(|(member, _)| *member == kind)
        .map(|(_, parts)| parts)
        .ok_or(bad("material"))?;
    let fields = match shape_of(kind) {
        Some(shape) => shaped(parts, shape)?,
        None => generic(parts)?,
    };
    Ok((kind, fields))
}

fn shaped(
    mut parts: Parts,
    shape: &'static [(&'static str, Shape)],
) -> Result<Vec<Field>, AegisError> {
    let mut fields = Vec::with_capacity(shape.len());
    for (name, shape) in shape {
        let part = parts.take(name).ok().ok_or(bad(name))?;
        if let Some(value) = value(part, *shape).ok_or(bad(name))? {
            fields.push(Field {
                name: Box::from(*name),
                value,
            });
        }
    }
    Ok(fields)
}

/// The value of a part that is there and not empty; `None` within where none need be, `None` where
/// it is out of shape.
#[expect(clippy::option_option, reason = "out of shape, left out, there")]
fn value(part: Option<Part>, shape: Shape) -> Option<Option<FieldValue>> {
    let must_be_there = matches!(shape, Shape::Secret | Shape::Name);
    let Some(part) = part.filter(|part| !part.is_empty()) else {
        return (!must_be_there).then_some(None);
    };
    let shown = |text: &str| {
        let clean = CleanText::exact(text, MAX_PUBLIC)?;
        Some(FieldValue::Public(Box::from(clean.as_str())))
    };
    let value = match (shape, part) {
        (Shape::Secret, Part::Text(secret)) => {
            let plain = |byte: u8| !matches!(byte, 0 | b'\r' | b'\n');
            let is_line = secret.expose().bytes().all(plain);
            is_line.then_some(FieldValue::Secret(secret))
        }
        (Shape::Name | Shape::Text, Part::Text(text)) => shown(text.expose()),
        (Shape::Pem, Part::Text(text)) => pem(text.expose()),
        (Shape::Port, Part::Number(port)) => u16::try_from(port).ok().and_then(port_value),
        (Shape::Port, Part::Text(port)) => port.expose().parse().ok().and_then(port_value),
        (Shape::List, Part::List(texts)) => {
            let words: Vec<&str> = texts.iter().map(SecretString::expose).collect();
            words
                .iter()
                .all(|word| is_word(word))
                .then(|| words.join(" "))
                .and_then(|text| shown(&text))
        }
        (Shape::Pairs, Part::Map(pairs)) => {
            let words: Vec<String> = pairs
                .iter()
                .map(|(name, value)| format!("{name}={}", value.expose()))
                .collect();
            words
                .iter()
                .all(|word| is_word(word))
                .then(|| words.join(" "))
                .and_then(|text| shown(&text))
        }
        (
            Shape::Secret
            | Shape::Name
            | Shape::Text
            | Shape::Pem
            | Shape::Port
            | Shape::List
            | Shape::Pairs,
            _,
        ) => None,
    };
    value.map(Some)
}

fn port_value(port: u16) -> Option<FieldValue> {
    (port > 0).then(|| FieldValue::Public(port.to_string().into()))
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && !word.contains(' ')
}

/// Printable ASCII in lines (RFC 7468).
fn pem(text: &str) -> Option<FieldValue> {
    let legal = |byte: u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\r' | b'\n');
    let is_pem = text.len() <= MAX_PEM && text.bytes().all(legal);
    is_pem.then(|| FieldValue::Public(Box::from(text)))
}

fn generic(mut parts: Parts) -> Result<Vec<Field>, AegisError> {
    let Ok(Some(Part::Map(mut secrets))) = parts.take("fields") else {
        return Err(bad("fields"));
    };
    // A map of the wire has no order; callers see one.
    secrets.sort_by(|(a, _), (b, _)| a.cmp(b));
    if secrets.is_empty() || secrets.len() > MAX_FIELDS {
        return Err(bad("fields"));
    }
    secrets
        .into_iter()
        .map(|(name, value)| {
            if !is_field_name(&name) || value.is_empty() {
                return Err(bad("fields"));
            }
            Ok(Field {
                name: name.into(),
                value: FieldValue::Secret(value),
            })
        })
        .collect()
}

fn is_field_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_FIELD_NAME).contains(&name.len()) && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::wire;
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

    /// As the wire has it, and as callers will.
    fn read(kind: &str, member: &str, parts: &Value) -> Option<Vec<String>> {
        let body = json!({ "kind": kind, member: parts }).to_string();
        let credential: Credential = wire::decode(body.as_bytes()).ok()?;
        let (read, fields) = fields(credential).ok()?;
        assert_eq!(read.as_str(), kind);
        let shown = |field: &Field| match &field.value {
            FieldValue::Public(text) => format!("{}: {text}", field.name),
            FieldValue::Secret(text) => format!("{}, secret: {}", field.name, text.expose()),
        };
        Some(fields.iter().map(shown).collect())
    }

    /// `aegis.md` 10: every kind with every field, in both of proto-JSON's spellings.
    #[test]
    fn every_kind_has_its_fields() {
        #[rustfmt::skip]
        let rows = [
            ("gcp_access_token", "gcpAccessToken",
             json!({"accessToken": "t", "tokenType": "Bearer", "serviceAccountEmail": "a@b", "projectId": "p", "scopes": ["s1", "s2"]}),
             vec!["access_token, secret: t", "token_type: Bearer", "service_account_email: a@b", "project_id: p", "scopes: s1 s2"]),
            ("aws_session_credentials", "awsSessionCredentials",
             json!({"accessKeyId": "ASIA", "secretAccessKey": "s", "sessionToken": "t", "region": "eu-central-1", "roleArn": "arn:r"}),
             vec!["access_key_id: ASIA", "secret_access_key, secret: s", "session_token, secret: t", "region: eu-central-1", "role_arn: arn:r"]),
            ("github_token", "github_token",
             json!({"token": "t", "host": "h", "login": "l", "repositories": ["a/b", "a/c"], "permissions": {"contents": "write", "metadata": "read"}}),
             vec!["token, secret: t", "host: h", "login: l", "repositories: a/b a/c", "permissions: contents=write metadata=read"]),
            ("kubernetes_token", "kubernetesToken",
             json!({"token": "t", "api_server": "https://k:6443", "caCertificatePem": PEM, "namespace": "n", "serviceAccount": "s"}),
             vec!["token, secret: t", "api_server: https://k:6443", "ca_certificate_pem: -----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "namespace: n", "service_account: s"]),
            ("database_login", "database_login",
             json!({"engine": "postgres", "host": "h", "port": 5432, "database": "d", "username": "u", "password": "p", "sslmode": "verify-full"}),
             vec!["engine: postgres", "host: h", "port: 5432", "database: d", "username: u", "password, secret: p", "sslmode: verify-full"]),
            ("gcp_subject_token", "gcpSubjectToken",
             json!({"subjectToken": "t", "tokenType": "urn:x", "audience": "//a"}),
             vec!["subject_token, secret: t", "token_type: urn:x", "audience: //a"]),
            ("generic_secret", "genericSecret",
             json!({"fields": {"b": "1", "a": "2\n"}}),
             vec!["a, secret: 2\n", "b, secret: 1"]),
        ];
        for (kind, member, parts, expected) in &rows {
            assert_eq!(
                read(kind, member, parts).as_deref(),
                Some(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{kind}"
            );
        }
        let kinds: Vec<_> = rows.iter().map(|(kind, ..)| *kind).collect();
        for kind in MaterialKind::ALL {
            assert!(kinds.contains(&kind.as_str()), "{}", kind.as_str());
            // What a single value means is a secret of that kind.
            let main = kind.main_field();
            assert!(main.is_none_or(|main| {
                shape_of(kind).is_some_and(|shape| shape.contains(&(main, Shape::Secret)))
            }));
        }
    }

    /// The protocol's page lists what there is.
    #[test]
    fn the_page_lists_every_field() {
        let page = include_str!("../../docs/socket-protocol.md");
        for kind in MaterialKind::ALL {
            let Some(shape) = shape_of(kind) else {
                continue;
            };
            let names = |secret: bool| {
                let fields = shape
                    .iter()
                    .filter(|(_, s)| (*s == Shape::Secret) == secret);
                let names: Vec<_> = fields.map(|(name, _)| format!("`{name}`")).collect();
                names.join(", ")
            };
            let alone = kind.main_field();
            let alone = alone.map_or_else(|| "–".to_owned(), |name| format!("`{name}`"));
            let (kind, secret, other) = (kind.as_str(), names(true), names(false));
            let row = format!("| `{kind}` | {secret} | {other} | {alone} |\n");
            assert!(page.contains(&row), "missing: {row}");
        }
    }

    /// What need not be there may be left out, null, or what proto-JSON writes for nothing.
    #[test]
    fn what_says_nothing_is_left_out() {
        let bare = json!({"username": "u", "password": "p"});
        let full = json!({"engine": "", "host": null, "port": 0, "username": "u", "password": "p", "unknown": [1, {"a": null}]});
        for parts in [bare, full] {
            let fields = read("database_login", "databaseLogin", &parts);
            let expected = ["username: u", "password, secret: p"];
            assert_eq!(fields.unwrap(), expected);
        }
        let token = json!({"token": "t", "repositories": [], "permissions": {}});
        let fields = read("github_token", "githubToken", &token);
        assert_eq!(fields.unwrap(), ["token, secret: t"]);
        let port = json!({"username": "u", "password": "p", "port": "65535"});
        let fields = read("database_login", "databaseLogin", &port);
        assert_eq!(fields.unwrap().first().unwrap(), "port: 65535");
    }

    /// HY-13, HY-17: what is out of shape is refused, whichever field it is in.
    #[test]
    fn what_is_out_of_shape_is_refused() {
        #[rustfmt::skip]
        let rows = [
            ("aws_session_credentials", json!({"secretAccessKey": "s", "sessionToken": "t"})),
            ("aws_session_credentials", json!({"accessKeyId": "A", "secretAccessKey": "s"})),
            ("aws_session_credentials", json!({"accessKeyId": "A\n", "secretAccessKey": "s", "sessionToken": "t"})),
            ("aws_session_credentials", json!({"accessKeyId": "A", "secretAccessKey": "s\r", "sessionToken": "t"})),
            ("github_token", json!({"token": ["t"]})),
            ("github_token", json!({"token": "t", "repositories": "a/b"})),
            ("github_token", json!({"token": "t", "repositories": ["a b"]})),
            ("github_token", json!({"token": "t", "repositories": [""]})),
            ("github_token", json!({"token": "t", "repositories": [1]})),
            ("github_token", json!({"token": "t", "permissions": {"a": "b c"}})),
            ("github_token", json!({"token": "t", "permissions": {"a\u{202e}": "b"}})),
            ("kubernetes_token", json!({"token": "t", "caCertificatePem": "\u{1b}[2J"})),
            ("kubernetes_token", json!({"token": "t", "caCertificatePem": "é"})),
            ("kubernetes_token", json!({"token": "t", "caCertificatePem": "a".repeat(64 * 1024 + 1)})),
            ("database_login", json!({"username": "u"})),
            ("database_login", json!({"username": "u", "password": "p", "port": 65536})),
            ("database_login", json!({"username": "u", "password": "p", "port": -1})),
            ("database_login", json!({"username": "u", "password": "p", "port": 1.5})),
            ("database_login", json!({"username": "u", "password": "p", "port": "ssh"})),
            ("database_login", json!({"username": "u", "password": "p", "host": true})),
            ("gcp_subject_token", json!({})),
            ("generic_secret", json!({"fields": {"a": ["b"]}})),
        ];
        for (kind, parts) in rows {
            assert_eq!(read(kind, kind, &parts), None, "{kind} {parts}");
        }
    }
}
