//! A look at the raw body before the generated decoder sees it.
//!
//! The decoder accepts both spellings of a field and promises no more. Here
//! unknown names, names in another case, both spellings at once, repeated
//! names and values of the wrong type are refused.

use crate::encoding::from_any_base64;
use crate::errors::{Reason, Refusal};
use crate::json::Json;

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

const MAX_DEPTH: u8 = 64;

struct Field {
    number: u64,
    name: &'static str,
    json: &'static str,
    repeated: bool,
    kind: Kind,
}

enum Kind {
    Text,
    Bytes,
    Bool,
    Int32,
    Int64,
    Message(&'static str),
}

/// An RPC this server offers.
#[derive(Clone, Copy)]
pub(crate) struct Method {
    path: &'static str,
    input: &'static str,
}

impl Method {
    pub(crate) fn by_path(path: &str) -> Option<Self> {
        METHODS
            .iter()
            .find(|(known, _)| *known == path)
            .map(|&(path, input)| Self { path, input })
    }

    pub(crate) fn is_offered(name: &str) -> bool {
        METHODS
            .iter()
            .any(|(path, _)| path.rsplit('/').next() == Some(name))
    }

    /// `CreateCredentialLease` and so on.
    pub(crate) fn name(self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Checks a JSON body.
    pub(crate) fn check_json(self, body: &Json) -> Result<(), Refusal> {
        check_object(self.input, body, "")
    }

    /// Checks a binary body.
    pub(crate) fn check_proto(self, body: &[u8]) -> Result<(), Refusal> {
        check_wire(self.input, body, MAX_DEPTH)
    }
}

fn fields(message: &str) -> &'static [Field] {
    MESSAGES
        .iter()
        .find(|(name, _)| *name == message)
        .map_or(&[], |(_, fields)| fields)
}

fn mismatch(field: &str) -> Refusal {
    Refusal::new(Reason::TypeMismatch, "a value is not of the field's type").field(field)
}

fn check_object(message: &str, value: &Json, path: &str) -> Result<(), Refusal> {
    let Json::Object(members) = value else {
        return Err(mismatch(path));
    };
    let mut seen = Vec::new();
    for (name, value) in members {
        let Some(field) = fields(message)
            .iter()
            .find(|field| name == field.name || name == field.json)
        else {
            // Said back only if it looks like a name.
            let plain =
                name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            return Err(
                Refusal::new(Reason::UnknownField, "no such field").field(if plain {
                    join(path, name)
                } else {
                    path.to_owned()
                }),
            );
        };
        let here = join(path, field.name);
        if seen.contains(&field.number) {
            return Err(Refusal::new(Reason::DuplicateField, "a field is given twice").field(here));
        }
        seen.push(field.number);
        match value {
            Json::Null => {}
            Json::List(items) if field.repeated => {
                for item in items {
                    check_value(field, item, &here)?;
                }
            }
            Json::Bool | Json::Number(_) | Json::Text(_) | Json::List(_) | Json::Object(_) => {
                if field.repeated {
                    return Err(mismatch(&here));
                }
                check_value(field, value, &here)?;
            }
        }
    }
    Ok(())
}

fn check_value(field: &Field, value: &Json, path: &str) -> Result<(), Refusal> {
    let fits = match &field.kind {
        Kind::Text => value.text().is_some(),
        Kind::Bytes => value
            .text()
            .is_some_and(|text| from_any_base64(text).is_some()),
        Kind::Bool => matches!(value, Json::Bool),
        Kind::Int32 => integer(value).is_some_and(|number| i32::try_from(number).is_ok()),
        Kind::Int64 => integer(value).is_some(),
        Kind::Message(name) => return check_object(name, value, path),
    };
    if fits { Ok(()) } else { Err(mismatch(path)) }
}

/// proto3 JSON takes numbers as text, too.
fn integer(value: &Json) -> Option<i64> {
    value
        .integer()
        .or_else(|| value.text().and_then(|text| text.parse().ok()))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn check_wire(message: &str, mut bytes: &[u8], depth: u8) -> Result<(), Refusal> {
    let malformed = || mismatch("");
    let depth = depth.checked_sub(1).ok_or_else(malformed)?;
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes).ok_or_else(malformed)?;
        let number = tag >> 3;
        let Some(field) = fields(message).iter().find(|f| f.number == number) else {
            return Err(Refusal::new(Reason::UnknownField, "no such field"));
        };
        if !field.repeated {
            if seen.contains(&number) {
                return Err(
                    Refusal::new(Reason::DuplicateField, "a field is given twice")
                        .field(field.name),
                );
            }
            seen.push(number);
        }
        match (&field.kind, tag & 7) {
            (Kind::Bool | Kind::Int32 | Kind::Int64, 0) => {
                varint(&mut bytes).ok_or_else(malformed)?;
            }
            (Kind::Text | Kind::Bytes, 2) => {
                chunk(&mut bytes).ok_or_else(malformed)?;
            }
            (Kind::Message(name), 2) => {
                let inner = chunk(&mut bytes).ok_or_else(malformed)?;
                check_wire(name, inner, depth)?;
            }
            _ => return Err(mismatch(field.name)),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn chunk<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(bytes)?).ok()?;
    let (chunk, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = "/aegis.v1.BrokerService/CreateCredentialLease";

    fn check(body: &str) -> Result<(), &'static str> {
        let body = Json::parse(body.as_bytes()).unwrap();
        let method = Method::by_path(CREATE).unwrap();
        let refusal = method.check_json(&body);
        refusal.map_err(|refusal| refusal.reason.unwrap().as_str())
    }

    /// CN-5.
    #[test]
    fn json_bodies_are_read_one_way() {
        let rows = [
            (
                "lower camel",
                r#"{"tenantId":"a","requestedTtlSeconds":30}"#,
                Ok(()),
            ),
            (
                "snake",
                r#"{"tenant_id":"a","requested_ttl_seconds":30}"#,
                Ok(()),
            ),
            ("number as text", r#"{"requestedTtlSeconds":"30"}"#, Ok(())),
            (
                "null is absent",
                r#"{"tenantId":null,"target":null}"#,
                Ok(()),
            ),
            ("nothing", "{}", Ok(())),
            (
                "both spellings",
                r#"{"tenantId":"a","tenant_id":"a"}"#,
                Err("duplicate_field"),
            ),
            (
                "same twice",
                r#"{"tenantId":"a","tenantId":"a"}"#,
                Err("duplicate_field"),
            ),
            (
                "twice with null",
                r#"{"tenantId":null,"tenantId":"a"}"#,
                Err("duplicate_field"),
            ),
            (
                "escaped twice",
                r#"{"tenantId":"a","\u0074enantId":"a"}"#,
                Err("duplicate_field"),
            ),
            (
                "nested twice",
                r#"{"target":{"app":"a","app":"a"}}"#,
                Err("duplicate_field"),
            ),
            ("unknown", r#"{"admin":true}"#, Err("unknown_field")),
            (
                "nested unknown",
                r#"{"target":{"apps":"a"}}"#,
                Err("unknown_field"),
            ),
            ("upper camel", r#"{"TenantId":"a"}"#, Err("unknown_field")),
            ("upper", r#"{"TENANT_ID":"a"}"#, Err("unknown_field")),
            (
                "another message's",
                r#"{"leaseId":"a"}"#,
                Err("unknown_field"),
            ),
            ("number for text", r#"{"tenantId":1}"#, Err("type_mismatch")),
            (
                "list for text",
                r#"{"tenantId":["a"]}"#,
                Err("type_mismatch"),
            ),
            (
                "text for message",
                r#"{"target":"gcp/a/b"}"#,
                Err("type_mismatch"),
            ),
            (
                "fraction",
                r#"{"requestedTtlSeconds":30.5}"#,
                Err("type_mismatch"),
            ),
            (
                "too large",
                r#"{"requestedTtlSeconds":2147483648}"#,
                Err("type_mismatch"),
            ),
            ("not an object", "[]", Err("type_mismatch")),
        ];
        for (name, body, expected) in rows {
            assert_eq!(check(body), expected, "{name}");
        }
    }

    #[test]
    fn binary_bodies_are_read_as_strictly() {
        let method = Method::by_path(CREATE).unwrap();
        let reason = |body: &[u8]| {
            let refusal = method.check_proto(body);
            refusal.map_err(|refusal| refusal.reason.unwrap().as_str())
        };
        assert_eq!(reason(b"\x0a\x01a\x18\x1e"), Ok(()));
        assert_eq!(reason(b"\x0a\x01a\x0a\x01a"), Err("duplicate_field"));
        assert_eq!(reason(b"\x7a\x01a"), Err("unknown_field"));
        assert_eq!(reason(b"\x12\x03\x7a\x01a"), Err("unknown_field"));
        assert_eq!(reason(b"\x08\x01"), Err("type_mismatch"));
        assert_eq!(reason(b"\x0a\x05a"), Err("type_mismatch"));
    }
}
