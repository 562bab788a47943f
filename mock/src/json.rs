//! JSON read so that nothing is lost: repeated names stay visible.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// How deep a document may nest.
const MAX_DEPTH: u8 = 64;

/// A JSON value with the members of objects in their order, repeated ones too.
pub(crate) enum Json {
    Null,
    Bool,
    Number(Number),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    /// `None` for anything but one well-formed document of bounded depth.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        Self::parse_start(bytes).and_then(|(value, whole)| whole.then_some(value))
    }

    /// The document that `bytes` begin with, and whether that is all of them.
    pub(crate) fn parse_start(bytes: &[u8]) -> Option<(Self, bool)> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = Depth(MAX_DEPTH).deserialize(&mut reader).ok()?;
        Some((value, reader.end().is_ok()))
    }

    /// The member `name`; the first of them if it is there twice.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else {
            return None;
        };
        members
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self {
            return Some(text);
        }
        None
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        if let Self::Number(number) = self {
            return number.as_i64();
        }
        None
    }

    /// Whether any object in here has a name twice.
    pub(crate) fn has_duplicates(&self) -> bool {
        match self {
            Self::Null | Self::Bool | Self::Number(_) | Self::Text(_) => false,
            Self::List(items) => items.iter().any(Self::has_duplicates),
            Self::Object(members) => {
                let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
                names.sort_unstable();
                names.windows(2).any(|pair| pair.first() == pair.last())
                    || members.iter().any(|(_, value)| value.has_duplicates())
            }
        }
    }
}

struct Depth(u8);

impl Depth {
    fn below<E: serde::de::Error>(&self) -> Result<Self, E> {
        let left = self.0.checked_sub(1);
        left.map(Self).ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Json, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value)
            .map(Json::Number)
            .ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self.below::<A::Error>()?)? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            members.push((name, map.next_value_seed(self.below::<A::Error>()?)?));
        }
        if members.len() > usize::from(u16::MAX) {
            return Err(A::Error::custom("too many members"));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_bounded_at_64() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(64).as_bytes()).is_some());
        assert!(Json::parse(nested(66).as_bytes()).is_none());
    }

    #[test]
    fn repeated_names_are_seen_at_any_depth() {
        let parse = |text: &str| Json::parse(text.as_bytes()).unwrap();
        assert!(parse(r#"{"a":1,"a":1}"#).has_duplicates());
        assert!(parse(r#"{"a":[{"b":1,"\u0062":2}]}"#).has_duplicates());
        assert!(!parse(r#"{"a":{"a":1},"b":[{"a":1}]}"#).has_duplicates());
    }

    #[test]
    fn trailing_text_is_refused() {
        assert!(Json::parse(b"{} {}").is_none());
        assert!(Json::parse(b"").is_none());
    }
}
