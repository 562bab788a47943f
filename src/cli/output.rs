//! The shapes a credential is written in.

use std::io::Write as _;

use crate::model::{CleanText, ErrorCode, Field, FieldValue, Material, Refusal};
use crate::secret::{BufferFull, SecretBuffer};
use crate::socket::client::{ClientReply, Delivery};

use super::render;

/// The words that are no field's name.
const JSON: &str = "json";
const ENV: &str = "env";
const VALUE: &str = "value";

/// How a credential is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// The whole answer, one JSON object.
    Json,
    /// `AEGIS_NAME='value'` lines for a shell's `eval` or an env file.
    Env,
    /// The main field's value: the kind's, or the field of that name, or the only one.
    Value,
    /// That field's value.
    Field(Box<str>),
}

impl std::str::FromStr for Format {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            JSON => Self::Json,
            ENV => Self::Env,
            VALUE => Self::Value,
            name => Self::Field(Box::from(name)),
        })
    }
}

/// Refuses to write a secret to a terminal unless the person wants to see it. Made before
/// anything is asked, so that no redemption is spent.
pub(super) fn check_terminal(reveal: bool) -> Result<(), Refusal> {
    if render::output_is_terminal() && !reveal {
        return Err(ErrorCode::TerminalRefused.into());
    }
    Ok(())
}

/// Writes a credential and nothing else.
pub(super) fn write(format: &Format, reply: &ClientReply<Delivery>) -> Result<(), Refusal> {
    let material = &reply.view.material;
    match format {
        Format::Json => render::secret(&json(reply.expose_json())?),
        Format::Env => {
            let Lines { buffer, left_out } = env(material)?;
            for name in left_out {
                render::progress(&format!(
                    "aegis-broker: {name} is left out, it has more than one line; use --format json\n"
                ));
            }
            render::secret(&buffer)
        }
        Format::Value => render::secret(&value(main_field(material)?)?),
        Format::Field(name) => {
            let field = material
                .field(name)
                .ok_or_else(|| no_such_field(material))?;
            render::secret(&value(field)?)
        }
    }
}

/// The whole answer and a line feed; what would steer a terminal or a reader's eye is escaped, so
/// that it is the same JSON and harmless to look at (HY-13). Such characters are in strings only:
/// JSON has them nowhere else.
fn json(answer: &[u8]) -> Result<SecretBuffer, Refusal> {
    let text = std::str::from_utf8(answer).map_err(|_error| Refusal::from(ErrorCode::Internal))?;
    // Six characters for one byte, at worst.
    let mut buffer = SecretBuffer::with_capacity(text.len().saturating_mul(6).saturating_add(1));
    for part in text.split_inclusive(|c| !CleanText::shows(c)) {
        let hidden = part.chars().next_back().filter(|c| !CleanText::shows(*c));
        let shown = part.trim_end_matches(|c| Some(c) == hidden);
        buffer.extend(shown.as_bytes()).map_err(full)?;
        for unit in hidden
            .iter()
            .flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec())
        {
            write!(buffer, "\\u{unit:04x}").map_err(|_full| Refusal::from(ErrorCode::Internal))?;
        }
    }
    buffer.extend(b"\n").map_err(full)?;
    Ok(buffer)
}

/// The field that a caller who wants a single value means.
fn main_field(material: &Material) -> Result<&Field, Refusal> {
    let named = material.kind.main_field().unwrap_or(VALUE);
    match (material.field(named), material.fields.as_slice()) {
        (Some(field), _) | (None, [field]) => Ok(field),
        (None, _) => Err(Refusal::new(ErrorCode::Usage)
            .with_message("this credential has no single value")
            .with_fix(&what_to_name(material))),
    }
}

fn no_such_field(material: &Material) -> Refusal {
    Refusal::new(ErrorCode::Usage)
        .with_message("this credential has no such field")
        .with_fix(&what_to_name(material))
}

/// The fields that can be named. The words of the other formats are none.
fn what_to_name(material: &Material) -> String {
    let names: Vec<&str> = material
        .fields
        .iter()
        .map(|field| &*field.name)
        .filter(|name| ![JSON, ENV].contains(name))
        .collect();
    if names.is_empty() {
        return "use --format json".to_owned();
    }
    format!(
        "name a field with --format: {}; or have all of them with --format json",
        names.join(", ")
    )
}

fn exposed(field: &Field) -> &str {
    match &field.value {
        FieldValue::Public(text) => text,
        FieldValue::Secret(secret) => secret.expose(),
    }
}

/// A value and a line feed. What would steer a terminal or end the line early is for JSON.
fn value(field: &Field) -> Result<SecretBuffer, Refusal> {
    let text = exposed(field);
    check_controls(text)?;
    let mut buffer = SecretBuffer::with_capacity(text.len().saturating_add(1));
    buffer.extend(text.as_bytes()).map_err(full)?;
    buffer.extend(b"\n").map_err(full)?;
    Ok(buffer)
}

/// A credential as lines, and the names of what fits into none.
#[derive(Debug)]
struct Lines {
    buffer: SecretBuffer,
    left_out: Vec<String>,
}

/// Every field as `NAME='value'`, quoted for a POSIX shell. What is public and has several lines,
/// such as a certificate, is left out: readers of env files take each line for a variable.
fn env(material: &Material) -> Result<Lines, Refusal> {
    let mut variables: Vec<(String, &str)> = Vec::new();
    let mut left_out = Vec::new();
    let mut length = 0_usize;
    for field in &material.fields {
        let (name, text) = (variable(OURS, &field.name), exposed(field));
        if matches!(field.value, FieldValue::Public(_)) && check_controls(text).is_err() {
            left_out.push(name);
            continue;
        }
        check_controls(text)?;
        if variables.iter().any(|(other, _)| *other == name) {
            return Err(Refusal::new(ErrorCode::Usage)
                .with_message("two fields of this credential have the same variable name")
                .with_fix("use --format json"));
        }
        // A quote becomes four characters, at worst.
        let quoted = text.len().saturating_mul(4).saturating_add(4);
        length = length.saturating_add(name.len()).saturating_add(quoted);
        variables.push((name, text));
    }
    let mut buffer = SecretBuffer::with_capacity(length);
    for (name, text) in variables {
        quote(&mut buffer, &name, text).map_err(full)?;
    }
    Ok(Lines { buffer, left_out })
}

fn quote(buffer: &mut SecretBuffer, name: &str, text: &str) -> Result<(), BufferFull> {
    buffer.extend(name.as_bytes())?;
    buffer.extend(b"='")?;
    for (index, part) in text.split('\'').enumerate() {
        if index > 0 {
            buffer.extend(br"'\''")?;
        }
        buffer.extend(part.as_bytes())?;
    }
    buffer.extend(b"'\n")
}

/// The prefix of every variable's name here. The names of a generic secret's fields are the
/// issuer's, and an issuer must not set `PATH` or `LD_PRELOAD`.
pub(super) const OURS: &str = "AEGIS";

/// `PREFIX_FIELD`: `access_token` is `AEGIS_ACCESS_TOKEN`; what no variable's name holds is `_`.
pub(super) fn variable(prefix: &str, field: &str) -> String {
    let field = field.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    });
    prefix.chars().chain(['_']).chain(field).collect()
}

/// HY-13: no control character leaves in a line.
fn check_controls(text: &str) -> Result<(), Refusal> {
    if text.chars().any(char::is_control) {
        return Err(Refusal::new(ErrorCode::Usage)
            .with_message("a value of this credential has control characters")
            .with_fix("use --format json"));
    }
    Ok(())
}

fn full(_: BufferFull) -> Refusal {
    ErrorCode::Internal.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MaterialKind;
    use crate::secret::SecretString;
    use crate::time::UnixTime;

    fn material(kind: MaterialKind, fields: &[(&str, &str)]) -> Material {
        let field = |(name, value): &(&str, &str)| Field {
            name: Box::from(*name),
            value: FieldValue::Secret(SecretString::copy_from(value)),
        };
        Material {
            kind,
            fields: fields.iter().map(field).collect(),
            expires_at: UnixTime::from_millis(0),
        }
    }

    fn generic(fields: &[(&str, &str)]) -> Material {
        material(MaterialKind::GenericSecret, fields)
    }

    #[test]
    fn variables_are_quoted_for_a_shell() {
        let text = env(&generic(&[
            ("access_token", "ya29.x"),
            ("client-id", "it's $HOME `id` \\ \"x\""),
            ("1st", ""),
        ]))
        .unwrap();
        assert_eq!(
            std::str::from_utf8(text.buffer.expose()).unwrap(),
            "AEGIS_ACCESS_TOKEN='ya29.x'\nAEGIS_CLIENT_ID='it'\\''s $HOME `id` \\ \"x\"'\nAEGIS_1ST=''\n"
        );
    }

    /// HY-13: a value cannot become a second line, in any shape that is lines.
    #[test]
    fn values_with_control_characters_are_refused() {
        for bad in ["a\nPATH=/tmp", "a\r", "a\0", "\u{1b}[31m", "\u{9b}31m"] {
            let material = generic(&[("value", bad)]);
            assert_eq!(env(&material).unwrap_err().code, ErrorCode::Usage);
            assert_eq!(
                value(&material.fields[0]).unwrap_err().code,
                ErrorCode::Usage
            );
        }
    }

    /// HY-13: a certificate keeps nobody from the token beside it, and adds no line.
    #[test]
    fn a_public_value_of_several_lines_is_left_out() {
        let mut kubernetes = material(
            MaterialKind::KubernetesToken,
            &[
                ("token", "t"),
                ("ca_certificate_pem", ""),
                ("namespace", "n"),
            ],
        );
        kubernetes.fields[1].value = FieldValue::Public(Box::from("-----BEGIN\nPATH=/tmp\n"));
        let lines = env(&kubernetes).unwrap();
        assert_eq!(
            lines.buffer.expose(),
            b"AEGIS_TOKEN='t'\nAEGIS_NAMESPACE='n'\n"
        );
        assert_eq!(lines.left_out, ["AEGIS_CA_CERTIFICATE_PEM"]);
    }

    /// HY-13: JSON on a terminal is harmless, and the same JSON.
    #[test]
    fn json_is_the_same_value_without_what_steers_a_terminal() {
        let value =
            serde_json::json!({ "a\u{9b}": "\u{9b}31m\u{9b}\u{202e}x\u{7f}", "ä": "\u{e0001}€" });
        let told = json(value.to_string().as_bytes()).unwrap();
        let told = std::str::from_utf8(told.expose()).unwrap();
        let line = told.strip_suffix('\n').unwrap();
        assert!(line.chars().all(CleanText::shows), "{line}");
        assert!(
            line.contains("€") && line.contains("\\udb40\\udc01"),
            "{line}"
        );
        let again: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn two_fields_of_one_variable_are_refused() {
        let material = generic(&[("a-b", "1"), ("a.b", "2")]);
        assert_eq!(env(&material).unwrap_err().code, ErrorCode::Usage);
    }

    /// The names of a generic secret's fields are the issuer's: none of them becomes a variable
    /// that a shell, the loader or an interpreter looks at.
    #[test]
    fn no_field_names_a_variable_of_somebody_else() {
        for name in ["path", "LD_PRELOAD", "bash_env", "1", "-", "_"] {
            let text = env(&generic(&[(name, "x")])).unwrap();
            let text = std::str::from_utf8(text.buffer.expose()).unwrap();
            assert!(text.starts_with("AEGIS_"), "{text}");
        }
    }

    #[test]
    fn the_main_field_is_the_kinds_or_the_only_one() {
        let gcp = material(
            MaterialKind::GcpAccessToken,
            &[("project", "p"), ("access_token", "t")],
        );
        assert_eq!(&*main_field(&gcp).unwrap().name, "access_token");
        assert_eq!(&*main_field(&generic(&[("x", "1")])).unwrap().name, "x");
        let two = main_field(&generic(&[("x", "1"), ("y", "2")])).unwrap_err();
        assert!(two.fix().contains(": x, y;"), "{}", two.fix());
        let named = generic(&[("user", "u"), ("value", "v")]);
        assert_eq!(&*main_field(&named).unwrap().name, "value");
    }

    /// What is told as a fix works: fields that are called like a format cannot be named.
    #[test]
    fn only_fields_that_can_be_named_are_offered() {
        let some = main_field(&generic(&[("json", "1"), ("user", "2"), ("env", "3")])).unwrap_err();
        assert!(some.fix().contains(": user;"), "{}", some.fix());
        let none = main_field(&generic(&[("json", "1"), ("env", "2")])).unwrap_err();
        assert_eq!(none.fix(), "use --format json");
    }
}
