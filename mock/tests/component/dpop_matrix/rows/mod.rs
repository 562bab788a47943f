//! The table: every row is a proof, or a request around one, and the check that judges it.

mod carriers;
mod claims;
mod encoding;
mod good;
mod headers;

use aegis_mock::Check;
use serde_json::{Value, json};

use super::draft::{Carrier, Draft, scheme};
use super::scene::{NonceRule, Rpc};
use crate::client::{Client, now};

pub(crate) type Forge = Box<dyn Fn(&mut Draft<'_>, Carrier)>;

/// Which RPCs a row is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Every,
    WithToken,
    WithoutToken,
}

/// One request, and what becomes of it.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What it is derived from.
    pub(crate) source: &'static str,
    /// The check that catches it; `None` where it is good.
    pub(crate) check: Option<Check>,
    pub(crate) forge: Forge,
    on: On,
    carrier: Option<Carrier>,
    rule: Option<NonceRule>,
}

impl Row {
    fn new(name: &'static str, source: &'static str, check: Option<Check>, forge: Forge) -> Self {
        Self {
            name,
            source,
            check,
            forge,
            on: On::Every,
            carrier: None,
            rule: None,
        }
    }

    fn with_token(mut self) -> Self {
        self.on = On::WithToken;
        self
    }

    fn without_token(mut self) -> Self {
        self.on = On::WithoutToken;
        self
    }

    /// Only there: HTTP cannot carry it as a header's value, or it is about the message.
    fn in_body(mut self) -> Self {
        self.carrier = Some(Carrier::Body);
        self
    }

    fn in_header(mut self) -> Self {
        self.carrier = Some(Carrier::Header);
        self
    }

    fn under(mut self, rule: NonceRule) -> Self {
        self.rule = Some(rule);
        self
    }

    pub(crate) fn applies(&self, rpc: Rpc, carrier: Carrier, rule: NonceRule) -> bool {
        let on = match self.on {
            On::Every => true,
            On::WithToken => rpc.has_token(),
            On::WithoutToken => !rpc.has_token(),
        };
        let repeats = self.check == Some(Check::Replay) && rpc.ends_its_token();
        on && !repeats
            && self.carrier.is_none_or(|only| only == carrier)
            && self.rule.is_none_or(|only| only == rule)
    }
}

fn bad(name: &'static str, source: &'static str, check: Check, forge: Forge) -> Row {
    Row::new(name, source, Some(check), forge)
}

fn good(name: &'static str, source: &'static str, forge: Forge) -> Row {
    Row::new(name, source, None, forge)
}

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    let parts = [
        encoding::syntax(),
        encoding::documents(),
        headers::headers(),
        headers::keys(),
        headers::signatures(),
        claims::methods_and_urls(),
        claims::identifiers_and_times(),
        claims::token_hashes_and_nonces(),
        carriers::numbers_of_proofs(),
        carriers::tokens(),
        carriers::bodies(),
        good::good_ones(),
    ];
    parts.into_iter().flatten().collect()
}

/// Any change.
fn with(change: impl Fn(&mut Draft<'_>) + 'static) -> Forge {
    Box::new(move |draft, _| change(draft))
}

/// Any change of the JWS.
fn jws(spoil: fn(&str) -> String) -> Forge {
    with(move |draft| draft.spoil = Some(spoil))
}

/// The three parts of the JWS, put together in another way.
fn parts(spoil: fn([&str; 3]) -> String) -> Forge {
    with(move |draft| draft.spoil_parts(spoil))
}

/// A claim of this value.
fn claim(name: &'static str, value: Value) -> Forge {
    with(move |draft| draft.payload[name] = value.clone())
}

fn no_claim(name: &'static str) -> Forge {
    with(move |draft| remove(&mut draft.payload, name))
}

/// A claim whose value is no value of JSON, or not as `serde_json` would write it.
fn raw_claim(name: &'static str, value: &'static str) -> Forge {
    with(move |draft| {
        let mut payload = draft.payload.clone();
        payload.as_object_mut().unwrap().remove(name);
        draft.payload_bytes = Some(before(&payload, name, value).into_bytes());
    })
}

/// A claim twice, and the one that counts where only one is looked at is good.
fn claim_twice(name: &'static str, other: &'static str) -> Forge {
    with(move |draft| {
        let mut payload = draft.payload.clone();
        let good = payload.as_object_mut().unwrap().remove(name).unwrap();
        let first = before(&payload, name, other);
        let first: Value = serde_json::from_str(&first).unwrap();
        draft.payload_bytes = Some(before(&first, name, &good.to_string()).into_bytes());
    })
}

fn payload(text: impl Fn(&str) -> String + 'static) -> Forge {
    with(move |draft| {
        let text = text(&draft.payload.to_string());
        draft.payload_bytes = Some(text.into_bytes());
    })
}

fn header(text: impl Fn(&str) -> String + 'static) -> Forge {
    with(move |draft| {
        let text = text(&draft.header.to_string());
        draft.header_bytes = Some(text.into_bytes());
    })
}

/// A header member of this value.
fn head(name: &'static str, value: Value) -> Forge {
    with(move |draft| draft.header[name] = value.clone())
}

fn no_head(name: &'static str) -> Forge {
    with(move |draft| remove(&mut draft.header, name))
}

/// A member of the key of this value.
fn jwk(name: &'static str, value: Value) -> Forge {
    with(move |draft| draft.header["jwk"][name] = value.clone())
}

fn no_jwk(name: &'static str) -> Forge {
    with(move |draft| remove(&mut draft.header["jwk"], name))
}

/// An `htu` made of the URL that is called.
fn htu(change: fn(&str) -> String) -> Forge {
    with(move |draft| {
        let url = draft.payload["htu"].as_str().unwrap().to_owned();
        draft.payload["htu"] = json!(change(&url));
    })
}

/// Another host is called; `{}` in the `htu` stands for the path.
fn host(host: &'static str, htu: &'static str) -> Forge {
    with(move |draft| {
        draft.host = Some(host);
        let path = Client::path(draft.rpc.method());
        draft.payload["htu"] = json!(htu.replace("{}", &path));
    })
}

/// Issued so many seconds from now.
fn iat(seconds: i64) -> Forge {
    with(move |draft| {
        let now = i64::try_from(now()).unwrap();
        draft.payload["iat"] = json!(now + seconds);
    })
}

/// What stands in `Authorization`, made of the scheme that belongs there and the token.
fn authorization(values: fn(&str, &str) -> Vec<String>) -> Forge {
    Box::new(move |draft, carrier| {
        draft.authorization = Some(values(scheme(carrier), &draft.token));
    })
}

/// A member of `requestProof`.
fn member(name: &'static str, value: Value) -> Forge {
    with(move |draft| draft.members[name] = value.clone())
}

fn body(spoil: fn(&str) -> String) -> Forge {
    with(move |draft| draft.body = Some(spoil))
}

fn remove(value: &mut Value, name: &str) {
    value.as_object_mut().unwrap().remove(name).unwrap();
}

/// The object with one more member, in front.
fn before(object: &Value, name: &str, value: &str) -> String {
    object
        .to_string()
        .replacen('{', &format!("{{\"{name}\":{value},"), 1)
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .unwrap()
}

fn split(jws: &str) -> [&str; 3] {
    let parts: Vec<&str> = jws.split('.').collect();
    parts.try_into().unwrap()
}
