//! The shapes a credential is written in.

use crate::model::{ErrorCode, Field, FieldValue, Material, Refusal};
use crate::secret::{BufferFull, SecretBuffer};
use crate::socket::client::{ClientReply, Delivery};

use super::render;

/// How a credential is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// The whole answer, one JSON object.
    Json,
    /// `NAME='value'` lines for a shell's `eval` or an env file.
    Env,
    /// The main field's value.
    Value,
    /// That field's value.
    Field(Box<str>),
}

impl std::str::FromStr for Format {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "json" => Self::Json,
            "env" => Self::Env,
            "value" => Self::Value,
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
        Format::Json => render::json(reply.expose_json()),
        Format::Env => render::secret(&env(material)?),
        Format::Value => render::secret(&value(main_field(material)?)?),
        Format::Field(name) => {
            let field = material
                .field(name)
                .ok_or_else(|| no_such_field(material))?;
            render::secret(&value(field)?)
        }
    }
}

/// The field that a caller who wants a single value means.
fn main_field(material: &Material) -> Result<&Field, Refusal> {
    let named = material.kind.main_field();
    let found = named.and_then(|name| material.field(name));
    match (found, material.fields.as_slice()) {
        (Some(field), _) | (None, [field]) => Ok(field),
        (None, _) => Err(Refusal::new(ErrorCode::Usage)
            .with_message("this credential has no single value")
            .with_fix(&format!("name a field with --format: {}", names(material)))),
    }
}

fn no_such_field(material: &Material) -> Refusal {
    Refusal::new(ErrorCode::Usage)
        .with_message("this credential has no such field")
        .with_fix(&format!("it has: {}", names(material)))
}

fn names(material: &Material) -> String {
    let names: Vec<&str> = material.fields.iter().map(|field| &*field.name).collect();
    names.join(", ")
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

/// Every field as `NAME='value'`, quoted for a POSIX shell.
fn env(material: &Material) -> Result<SecretBuffer, Refusal> {
    let mut variables: Vec<(String, &str)> = Vec::new();
    let mut length = 0_usize;
    for field in &material.fields {
        let (name, text) = (variable(&field.name), exposed(field));
        check_controls(text)?;
        if steers(&name) {
            return Err(Refusal::new(ErrorCode::Usage)
                .with_message(
                    "a field of this credential has the name of a variable that steers programs",
                )
                .with_fix("use --format json, or name a field with --format"));
        }
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
    Ok(buffer)
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

/// `access_token` is `ACCESS_TOKEN`; what no variable name holds is `_`.
fn variable(name: &str) -> String {
    let upper = name.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    });
    let first = name.chars().next().filter(char::is_ascii_digit);
    first.map(|_| '_').into_iter().chain(upper).collect()
}

/// Variables by which a shell, the loader, an interpreter or a tool runs, finds or trusts
/// something: what sudo never passes on, and a few more. The names of a generic secret's fields
/// are the issuer's, and an issuer must not run anything here.
fn steers(variable: &str) -> bool {
    const FAMILIES: [&str; 22] = [
        "LD_",
        "_RLD",
        "DYLD_",
        "GIT_SSH",
        "GIT_ASKPASS",
        "GIT_EXEC",
        "GIT_EXTERNAL",
        "GIT_PAGER",
        "GIT_EDITOR",
        "GIT_SEQUENCE",
        "GIT_CONFIG",
        "GIT_TEMPLATE",
        "GIT_PROXY",
        "GIT_DIR",
        "PYTHON",
        "PERL",
        "RUBY",
        "NODE_OPTIONS",
        "NODE_PATH",
        "JAVA_TOOL",
        "BASH",
        "SSL_CERT_",
    ];
    const NAMES: [&str; 37] = [
        "PATH",
        "HOME",
        "SHELL",
        "IFS",
        "ENV",
        "CDPATH",
        "FPATH",
        "ZDOTDIR",
        "PS0",
        "PS1",
        "PS2",
        "PS4",
        "PROMPT_COMMAND",
        "SHELLOPTS",
        "GLOBIGNORE",
        "NULLCMD",
        "READNULLCMD",
        "EDITOR",
        "VISUAL",
        "PAGER",
        "BROWSER",
        "TERMCAP",
        "TERMINFO",
        "TERMINFO_DIRS",
        "TERMPATH",
        "TMPDIR",
        "TMPPREFIX",
        "NLSPATH",
        "PATH_LOCALE",
        "LOCALDOMAIN",
        "RES_OPTIONS",
        "HOSTALIASES",
        "GCONV_PATH",
        "JDK_JAVA_OPTIONS",
        "LESSOPEN",
        "LESSCLOSE",
        "XDG_RUNTIME_DIR",
    ];
    FAMILIES.iter().any(|family| variable.starts_with(family))
        || variable.ends_with("_PROXY")
        || NAMES.contains(&variable)
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
            std::str::from_utf8(text.expose()).unwrap(),
            "ACCESS_TOKEN='ya29.x'\nCLIENT_ID='it'\\''s $HOME `id` \\ \"x\"'\n_1ST=''\n"
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

    #[test]
    fn two_fields_of_one_variable_are_refused() {
        let material = generic(&[("a-b", "1"), ("a.b", "2")]);
        assert_eq!(env(&material).unwrap_err().code, ErrorCode::Usage);
    }

    /// The names of a generic secret's fields are the issuer's: none of them becomes a variable
    /// that makes the shell, the loader or an interpreter run something.
    #[test]
    fn variables_that_steer_programs_are_refused() {
        for bad in [
            "path",
            "PATH",
            "ld_preload",
            "LD_LIBRARY_PATH",
            "ld.audit",
            "dyld-insert-libraries",
            "ifs",
            "env",
            "bash_env",
            "prompt_command",
            "ps4",
            "shellopts",
            "pythonpath",
            "perl5opt",
            "node_options",
            "git_ssh_command",
            "java_tool_options",
            "https_proxy",
            "ssl_cert_file",
            "home",
        ] {
            let refusal = env(&generic(&[("user", "u"), (bad, "x")])).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::Usage, "{bad}");
        }
        for good in [
            "password",
            "database_path",
            "api_env",
            "ldap_url",
            "proxy_user",
        ] {
            assert!(env(&generic(&[(good, "x")])).is_ok(), "{good}");
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
        assert!(two.fix().ends_with("x, y"), "{}", two.fix());
    }
}
