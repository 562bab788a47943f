//! JSON-RPC 2.0, strictly: one object a line, an id in every request, no batches, no unknown or
//! repeated keys. The only place of this door where serde is named.
//!
//! `docs/socket-protocol.md` is held equal to this file by its tests.

#![warn(clippy::arithmetic_side_effects)]

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, IgnoredAny};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::API_VERSION;
use super::audit::Reconciled;
use super::audit::wire::ReconciliationOut;
use super::client::{AuditStatus, Damage, Status};
use crate::broker::handle::{
    AuditReport, CredentialRequest, Delivery, EndedView, HttpAnswer, HttpRequest, LeaseRequest,
    LostSession, Reconciliation, SessionEnd, StatusView, TargetView,
};
use crate::model::{
    Action, CleanText, DeviceView, ErrorCode, Exposure, Field, FieldValue, HolderClass, LeaseId,
    LeaseState, LeaseView, LoginPhase, LoginView, MAX_LEASE_TTL, MAX_REASON, MAX_REDEMPTIONS,
    MIN_LEASE_TTL, Material, MaterialKind, Outgoing, Principal, ProfileName, Refusal, RequestId,
    Scope, Selector,
};
use crate::secret::{SecretBuffer, SecretString};
use crate::time::UnixTime;

/// What `broker.status` calls us.
pub(super) const PRODUCT: &str = "aegis-broker";

/// A longer id would be copied into every answer for nothing; a UUID is 36 long.
const MAX_ID: usize = 128;

/// Of a path, in characters: what the kernel takes.
const MAX_PATH: usize = 4096;

/// The longest answer. One that does not fit is a mistake of ours, and said so.
pub(super) const MAX_ANSWER: usize = 1024 * 1024;

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $name:literal ($($param:literal),*);)*) => {
        /// A method of this door.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Method { $($(#[$doc])* $variant,)* }

        impl Method {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name, case-sensitive.
            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The parameters it takes.
            const fn takes(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($param),*],)* }
            }
        }
    };
}

methods! {
    /// How everything stands.
    BrokerStatus = "broker.status" ();
    /// Start or join the device login.
    LoginBegin = "login.begin" ("profile");
    /// Wait for its end.
    LoginWait = "login.wait" ("profile");
    /// End it.
    LoginCancel = "login.cancel" ("profile");
    /// End the session.
    Logout = "logout" ("profile");
    /// End the session and serve nothing.
    Lock = "lock" ();
    /// The catalogue.
    TargetList = "target.list" ("profile");
    /// Material for a selector.
    CredentialGet = "credential.get" ("selector", "min_valid_for_s", "reason", "profile", "holder");
    /// A request with a credential in it.
    HttpRequest = "http.request" ("selector", "method", "url", "headers", "body", "reason", "profile", "holder");
    /// A lease.
    LeaseCreate = "lease.create" ("selector", "ttl_s", "max_redemptions", "reason", "profile", "holder");
    /// Its material.
    LeaseRedeem = "lease.redeem" ("lease_id", "exposure");
    /// Its end.
    LeaseRevoke = "lease.revoke" ("lease_id");
    /// All of them.
    LeaseList = "lease.list" ();
    /// Check the audit log.
    AuditVerify = "audit.verify" ();
    /// Compare it with the issuer's record.
    AuditReconcile = "audit.reconcile" ();
}

/// A request's id, echoed as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Id {
    /// Zero or more.
    Unsigned(u64),
    /// Less than zero.
    Signed(i64),
    /// At most 128 bytes.
    Text(Box<str>),
}

/// A request that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) id: Id,
    pub(super) ask: Ask,
}

/// What is asked for, parsed. Past this line everything is a type.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Status,
    LoginBegin(Option<ProfileName>),
    LoginWait(Option<ProfileName>),
    LoginCancel(Option<ProfileName>),
    Logout(Option<ProfileName>),
    Lock,
    Targets(Option<ProfileName>),
    Credential(Option<ProfileName>, CredentialRequest),
    Http(Option<ProfileName>, HttpRequest),
    LeaseCreate(Option<ProfileName>, LeaseRequest),
    LeaseRedeem(LeaseId, Exposure),
    LeaseRevoke(LeaseId),
    Leases,
    AuditVerify,
    AuditReconcile,
}

/// What is answered.
#[derive(Debug)]
pub(super) enum Outcome {
    Status(StatusView),
    Login(LoginView),
    Ended(EndedView),
    Targets(Vec<TargetView>),
    /// The one that carries material.
    Delivered(Delivery),
    Http(HttpAnswer),
    Lease(LeaseView),
    Leases(Vec<LeaseView>),
    Audit(AuditReport),
    Reconciled(Box<Reconciliation>),
}

/// At which level a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not JSON.
    Parse,
    /// JSON, but not a request.
    Request,
    /// No such method.
    Method,
    /// Not what the method takes.
    Params,
    /// Understood and refused.
    Refused,
}

impl Fault {
    /// The number that JSON-RPC 2.0 §5.1 gives it.
    const fn number(self) -> i32 {
        match self {
            Self::Parse => -32700,
            Self::Request => -32600,
            Self::Method => -32601,
            Self::Params => -32602,
            Self::Refused => -32000,
        }
    }
}

/// One line on its way out.
#[derive(Debug)]
pub(super) struct Answer {
    /// Whose request it answers; `None` where that could not be read.
    pub(super) id: Option<Id>,
    pub(super) content: Result<Outcome, (Fault, Box<Refusal>)>,
}

impl Answer {
    /// A refusal.
    pub(super) fn refusal(id: Option<Id>, fault: Fault, refusal: Refusal) -> Self {
        Self {
            id,
            content: Err((fault, Box::new(refusal))),
        }
    }

    /// Whether a secret is in it.
    pub(super) const fn carries_material(&self) -> bool {
        matches!(self.content, Ok(Outcome::Delivered(_)))
    }

    /// Writes it and a line feed into `buffer`, which is cleared first and replaced by a larger
    /// one where it is too small: nothing ever grows, so no copy of a secret is left behind. An
    /// answer longer than [`MAX_ANSWER`] becomes `internal`.
    pub(super) fn encode(&self, buffer: &mut SecretBuffer) {
        if self.fit(buffer) {
            return;
        }
        let refusal = Refusal::new(ErrorCode::Internal).with_message("the answer is too long");
        // The longest id and a sentence are far below the bound.
        Self::refusal(self.id.clone(), Fault::Refused, refusal).fit(buffer);
    }

    /// Whether it could be written; else the buffer is empty.
    fn fit(&self, buffer: &mut SecretBuffer) -> bool {
        buffer.clear();
        if self.write(buffer).is_ok() {
            return true;
        }
        let mut length = Length(0);
        if self.write(&mut length).is_ok() && length.0 <= MAX_ANSWER {
            *buffer = SecretBuffer::with_capacity(length.0);
            if self.write(buffer).is_ok() {
                return true;
            }
        }
        buffer.clear();
        false
    }

    fn write<W: Write>(&self, out: &mut W) -> Result<(), serde_json::Error> {
        let jsonrpc = "2.0";
        let id = self.id.as_ref();
        match &self.content {
            Ok(outcome) => serde_json::to_writer(
                &mut *out,
                &ResultLine {
                    jsonrpc,
                    id,
                    result: OutcomeWire(outcome),
                },
            )?,
            Err((fault, refusal)) => serde_json::to_writer(
                &mut *out,
                &ErrorLine {
                    jsonrpc,
                    id,
                    error: ErrorOut::new(*fault, refusal),
                },
            )?,
        }
        out.write_all(b"\n").map_err(serde_json::Error::io)
    }
}

/// Counts what would be written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads one line. What is wrong with it is said without quoting it (HY-5).
pub(super) fn decode(line: &[u8]) -> Result<Call, Box<Answer>> {
    match serde_json::from_slice::<Members<Request<'_, Members<Params<'_>>>>>(line) {
        Ok(request) => understand(request.0),
        Err(error) => Err(explain(line, &error)),
    }
}

fn understand(request: Request<'_, Members<Params<'_>>>) -> Result<Call, Box<Answer>> {
    let Some(id) = request.id else {
        return Err(malformed(None, "every request needs an id"));
    };
    if request.jsonrpc != "2.0" {
        return Err(malformed(Some(id), "`jsonrpc` must be \"2.0\""));
    }
    let Some(method) = Method::parse(&request.method) else {
        let refusal = ErrorCode::MethodUnknown.into();
        return Err(Box::new(Answer::refusal(Some(id), Fault::Method, refusal)));
    };
    let params = request.params.map(|params| params.0).unwrap_or_default();
    match ask(method, &params) {
        Ok(ask) => Ok(Call { id, ask }),
        Err((fault, refusal)) => Err(Box::new(Answer::refusal(Some(id), fault, refusal))),
    }
}

/// The slow path: finds out what is wrong with a line that is not a request, and whose it is.
fn explain(line: &[u8], error: &serde_json::Error) -> Box<Answer> {
    let is_json =
        std::str::from_utf8(line).is_ok() && serde_json::from_slice::<IgnoredAny>(line).is_ok();
    if !is_json {
        let refusal = Refusal::new(ErrorCode::InvalidRequest).with_message("the line is not JSON");
        return Box::new(Answer::refusal(None, Fault::Parse, refusal));
    }
    let first = line.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        return malformed(None, "batches are not supported: one request a line");
    }
    if let Ok(Members(request)) = serde_json::from_slice::<Members<Request<'_, IgnoredAny>>>(line) {
        // The envelope is whole, so it is the parameters, unless it is something that counts
        // before them.
        let bare = Request {
            jsonrpc: request.jsonrpc,
            id: request.id.clone(),
            method: request.method,
            params: None,
        };
        let missing_only = |answer: &Answer| match &answer.content {
            Err((fault, _)) => *fault == Fault::Params,
            Ok(_) => false,
        };
        if let Err(answer) = understand(bare)
            && !missing_only(&answer)
        {
            return answer;
        }
        let refusal = Refusal::new(ErrorCode::InvalidRequest).with_message(&format!(
            "the parameters have an unknown, repeated or wrongly typed member at byte {}",
            error.column()
        ));
        return Box::new(Answer::refusal(request.id, Fault::Params, refusal));
    }
    let id = serde_json::from_slice::<Members<OnlyId>>(line)
        .ok()
        .and_then(|request| request.0.id);
    malformed(id, "the line is not a JSON-RPC 2.0 request")
}

fn malformed(id: Option<Id>, message: &str) -> Box<Answer> {
    let refusal = Refusal::new(ErrorCode::InvalidRequest).with_message(message);
    Box::new(Answer::refusal(id, Fault::Request, refusal))
}

fn ask(method: Method, params: &Params<'_>) -> Result<Ask, (Fault, Refusal)> {
    let takes = method.takes();
    if let Some(name) = params.given().find(|name| !takes.contains(name)) {
        return Err(wrong(&format!(
            "{} does not take `{name}`",
            method.as_str()
        )));
    }
    Ok(match method {
        Method::BrokerStatus => Ask::Status,
        Method::LoginBegin => Ask::LoginBegin(params.profile()?),
        Method::LoginWait => Ask::LoginWait(params.profile()?),
        Method::LoginCancel => Ask::LoginCancel(params.profile()?),
        Method::Logout => Ask::Logout(params.profile()?),
        Method::Lock => Ask::Lock,
        Method::TargetList => Ask::Targets(params.profile()?),
        Method::CredentialGet => Ask::Credential(
            params.profile()?,
            CredentialRequest {
                selector: params.selector()?,
                min_valid_for: params.min_valid_for()?,
                reason: params.reason()?,
                holder: params.holder()?,
            },
        ),
        Method::HttpRequest => Ask::Http(
            params.profile()?,
            HttpRequest {
                selector: params.selector()?,
                outgoing: Arc::new(params.outgoing()?),
                reason: params.reason()?,
                holder: params.holder()?,
            },
        ),
        Method::LeaseCreate => Ask::LeaseCreate(
            params.profile()?,
            LeaseRequest {
                selector: params.selector()?,
                ttl: params.ttl()?,
                max_redemptions: params.max_redemptions()?,
                reason: params.reason()?,
                holder: params.holder()?,
            },
        ),
        Method::LeaseRedeem => Ask::LeaseRedeem(params.lease_id()?, params.exposure()?),
        Method::LeaseRevoke => Ask::LeaseRevoke(params.lease_id()?),
        Method::LeaseList => Ask::Leases,
        Method::AuditVerify => Ask::AuditVerify,
        Method::AuditReconcile => Ask::AuditReconcile,
    })
}

fn wrong(message: &str) -> (Fault, Refusal) {
    let refusal = Refusal::new(ErrorCode::InvalidRequest).with_message(message);
    (Fault::Params, refusal)
}

/// A value written as an object. Serde would also take an array for a struct, by position.
#[derive(Debug)]
pub(super) struct Members<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Members<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Members)
            }
        }

        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// The envelope. Unknown and repeated keys are errors of serde's own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a, P> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(default)]
    id: Option<Id>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(default = "Option::default")]
    params: Option<P>,
}

#[derive(Deserialize)]
struct OnlyId {
    #[serde(default)]
    id: Option<Id>,
}

/// Every parameter there is; which of them a method takes stands in its row. `null` is the same
/// as leaving it out. The client writes the same type.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Params<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) selector: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_valid_for_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ttl_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_redemptions: Option<u32>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) holder: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) lease_id: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) exposure: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<Cow<'a, str>>,
    /// Our client sends no requests.
    #[serde(borrow, skip_serializing)]
    pub(super) headers: Option<Vec<Members<HeaderParam<'a>>>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<Cow<'a, str>>,
}

/// One header of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderParam<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
}

impl Params<'_> {
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("profile", self.profile.is_some()),
            ("selector", self.selector.is_some()),
            ("min_valid_for_s", self.min_valid_for_s.is_some()),
            ("ttl_s", self.ttl_s.is_some()),
            ("max_redemptions", self.max_redemptions.is_some()),
            ("reason", self.reason.is_some()),
            ("holder", self.holder.is_some()),
            ("lease_id", self.lease_id.is_some()),
            ("exposure", self.exposure.is_some()),
            ("method", self.method.is_some()),
            ("url", self.url.is_some()),
            ("headers", self.headers.is_some()),
            ("body", self.body.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
    }

    fn profile(&self) -> Result<Option<ProfileName>, (Fault, Refusal)> {
        self.profile
            .as_deref()
            .map(ProfileName::parse)
            .transpose()
            .map_err(|error| wrong(&format!("`profile`: {error}")))
    }

    fn selector(&self) -> Result<Selector, (Fault, Refusal)> {
        let text = self.selector.as_deref();
        let text = text.ok_or_else(|| wrong("`selector` is missing"))?;
        Selector::parse(text).map_err(|error| {
            let refusal = Refusal::new(ErrorCode::SelectorInvalid);
            (Fault::Refused, refusal.with_message(&error.to_string()))
        })
    }

    fn min_valid_for(&self) -> Result<Duration, (Fault, Refusal)> {
        let valid = Duration::from_secs(self.min_valid_for_s.unwrap_or(0));
        if valid > MAX_LEASE_TTL {
            return Err(wrong("`min_valid_for_s` is 0 to 3600"));
        }
        Ok(valid)
    }

    fn ttl(&self) -> Result<Option<Duration>, (Fault, Refusal)> {
        let ttl = self.ttl_s.map(Duration::from_secs);
        if ttl.is_some_and(|ttl| !(MIN_LEASE_TTL..=MAX_LEASE_TTL).contains(&ttl)) {
            return Err(wrong("`ttl_s` is 30 to 3600"));
        }
        Ok(ttl)
    }

    fn max_redemptions(&self) -> Result<u32, (Fault, Refusal)> {
        let count = self.max_redemptions.unwrap_or(1);
        if !(1..=MAX_REDEMPTIONS).contains(&count) {
            return Err(wrong("`max_redemptions` is 1 to 10"));
        }
        Ok(count)
    }

    fn reason(&self) -> Result<Option<CleanText>, (Fault, Refusal)> {
        let Some(text) = self.reason.as_deref() else {
            return Ok(None);
        };
        CleanText::exact(text, MAX_REASON)
            .map(Some)
            .ok_or_else(|| wrong("`reason` is at most 200 printable characters"))
    }

    fn holder(&self) -> Result<HolderClass, (Fault, Refusal)> {
        let Some(text) = self.holder.as_deref() else {
            return Ok(HolderClass::None);
        };
        HolderClass::parse(text)
            .ok_or_else(|| wrong("`holder` is \"none\", \"child\", \"client\" or \"connection\""))
    }

    fn outgoing(&self) -> Result<Outgoing, (Fault, Refusal)> {
        let url = self.url.as_deref();
        let url = url.ok_or_else(|| wrong("`url` is missing"))?;
        let method = self.method.as_deref().unwrap_or("GET");
        let headers = self.headers.iter().flatten();
        let headers = headers.map(|Members(header)| (&*header.name, &*header.value));
        Outgoing::parse(method, url, headers, self.body.as_deref())
            .map_err(|error| wrong(&error.to_string()))
    }

    /// `use` is not among them: material that nobody is given is not asked for here.
    fn exposure(&self) -> Result<Exposure, (Fault, Refusal)> {
        let Some(text) = self.exposure.as_deref() else {
            return Ok(Exposure::Reveal);
        };
        Exposure::parse(text)
            .filter(|exposure| *exposure != Exposure::Use)
            .ok_or_else(|| wrong("`exposure` is \"exec\" or \"reveal\""))
    }

    fn lease_id(&self) -> Result<LeaseId, (Fault, Refusal)> {
        let text = self.lease_id.as_deref();
        let text = text.ok_or_else(|| wrong("`lease_id` is missing"))?;
        LeaseId::parse(text).map_err(|error| wrong(&format!("`lease_id`: {error}")))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer or a string of at most 128 bytes")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Id, E> {
                Ok(Id::Unsigned(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Id, E> {
                Ok(Id::Signed(value))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                if text.len() > MAX_ID {
                    return Err(E::custom("the id is too long"));
                }
                Ok(Id::Text(Box::from(text)))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

// What goes out.

#[derive(Serialize)]
struct ResultLine<'a> {
    jsonrpc: &'static str,
    id: Option<&'a Id>,
    result: OutcomeWire<'a>,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    jsonrpc: &'static str,
    id: Option<&'a Id>,
    error: ErrorOut<'a>,
}

#[derive(Serialize)]
struct ErrorOut<'a> {
    code: i32,
    message: &'a str,
    data: ErrorData<'a>,
}

#[derive(Serialize)]
struct ErrorData<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_code: Option<&'a str>,
    retryable: bool,
    do_not_retry: bool,
    fix: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<DeviceOut<'a>>,
}

impl<'a> ErrorOut<'a> {
    fn new(fault: Fault, refusal: &'a Refusal) -> Self {
        Self {
            code: fault.number(),
            message: refusal.message(),
            data: ErrorData::new(refusal),
        }
    }
}

impl<'a> ErrorData<'a> {
    fn new(refusal: &'a Refusal) -> Self {
        Self {
            code: refusal.code.as_str(),
            reason_code: refusal.reason_code.as_ref().map(CleanText::as_str),
            retryable: refusal.code.is_retryable(),
            do_not_retry: refusal.code.do_not_retry(),
            fix: refusal.fix(),
            // Rounded up: who comes back then is not early.
            retry_after_s: refusal.retry_after.map(|after| {
                let part = u64::from(after.subsec_nanos() > 0);
                after.as_secs().saturating_add(part)
            }),
            request_id: refusal.request_id.as_ref().map(RequestId::as_str),
            login: refusal.login.as_deref().map(DeviceOut::new),
        }
    }
}

/// Anything that shows itself, as a JSON string.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn shown_all<T: fmt::Display>(values: &[T]) -> Vec<Shown<&T>> {
    values.iter().map(Shown).collect()
}

struct OutcomeWire<'a>(&'a Outcome);

impl Serialize for OutcomeWire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Outcome::Status(view) => StatusOut {
                product: PRODUCT,
                version: env!("CARGO_PKG_VERSION"),
                api: API_VERSION,
                login: LoginOut::new(&view.login),
                live_leases: view.live_leases,
                unconfirmed_revocations: view.unconfirmed_revocations,
                irrevocable_targets: view.irrevocable_targets,
                connections: view.connections,
                key_store: view.key_store,
                policy_rules: view.policy_rules,
                renewal: view.renewal,
                lost: view.lost.as_ref().map(|lost| LostOut {
                    reason: lost.reason.as_str(),
                    at: Shown(lost.at),
                }),
                audit_folder: plain_path(&view.audit_folder).map(Shown),
            }
            .serialize(serializer),
            Outcome::Login(view) => LoginOut::new(view).serialize(serializer),
            Outcome::Ended(view) => EndedOut {
                revoked: view.revoked,
                unconfirmed: view.unconfirmed,
                session: view.session.as_str(),
            }
            .serialize(serializer),
            Outcome::Targets(targets) => TargetsOut {
                targets: targets.iter().map(TargetOut::new).collect(),
            }
            .serialize(serializer),
            Outcome::Delivered(delivery) => DeliveryOut {
                lease: LeaseOut::new(&delivery.lease),
                kind: delivery.material.kind.as_str(),
                fields: Fields(&delivery.material),
                secret_fields: SecretNames(&delivery.material),
                expires_at: Shown(delivery.material.expires_at),
            }
            .serialize(serializer),
            Outcome::Http(answer) => HttpOut::new(answer).serialize(serializer),
            Outcome::Lease(view) => LeaseOut::new(view).serialize(serializer),
            Outcome::Leases(leases) => LeasesOut {
                leases: leases.iter().map(LeaseOut::new).collect(),
            }
            .serialize(serializer),
            Outcome::Reconciled(found) => ReconciliationOut::new(found).serialize(serializer),
            Outcome::Audit(report) => AuditOut {
                records: report.records,
                keyed: report.keyed,
                torn_tail: report.torn_tail,
                damage: report.damage.as_ref().map(|damage| DamageOut {
                    file: CleanText::new(&damage.file.to_string_lossy(), 4096),
                    line: damage.line,
                    what: damage.what,
                }),
            }
            .serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct StatusOut<'a> {
    product: &'static str,
    version: &'static str,
    api: u32,
    login: LoginOut<'a>,
    live_leases: usize,
    unconfirmed_revocations: usize,
    irrevocable_targets: usize,
    connections: usize,
    key_store: &'a str,
    policy_rules: usize,
    renewal: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<LostOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_folder: Option<Shown<CleanText>>,
}

/// A path that can be written as text and found again by it; a cleaned one would be another's.
fn plain_path(path: &Path) -> Option<CleanText> {
    CleanText::exact(path.to_str()?, MAX_PATH)
}

#[derive(Serialize)]
struct LoginOut<'a> {
    profile: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionOut<'a>>,
}

const LOGGED_OUT: &str = "logged_out";
const LOCKED: &str = "locked";
const AWAITING_APPROVAL: &str = "awaiting_approval";
const LOGGED_IN: &str = "logged_in";

impl<'a> LoginOut<'a> {
    fn new(view: &'a LoginView) -> Self {
        let (state, device, session) = match &view.phase {
            LoginPhase::LoggedOut => (LOGGED_OUT, None, None),
            LoginPhase::Locked => (LOCKED, None, None),
            LoginPhase::AwaitingApproval(device) => {
                (AWAITING_APPROVAL, Some(DeviceOut::new(device)), None)
            }
            LoginPhase::LoggedIn {
                principal,
                token_expires_at,
                scopes,
                binding_checked,
            } => {
                let session = SessionOut {
                    principal: principal.as_str(),
                    token_expires_at: Shown(*token_expires_at),
                    scopes: shown_all(scopes),
                    binding_checked: *binding_checked,
                };
                (LOGGED_IN, None, Some(session))
            }
        };
        Self {
            profile: view.profile.as_str(),
            state,
            device,
            session,
        }
    }
}

#[derive(Serialize)]
struct SessionOut<'a> {
    principal: &'a str,
    token_expires_at: Shown<UnixTime>,
    scopes: Vec<Shown<&'a Scope>>,
    binding_checked: bool,
}

#[derive(Serialize)]
struct DeviceOut<'a> {
    user_code: &'a str,
    verification_uri: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_uri_complete: Option<&'a str>,
    expires_at: Shown<UnixTime>,
    client_display_name: &'a str,
    scopes: Vec<Shown<&'a Scope>>,
}

impl<'a> DeviceOut<'a> {
    fn new(view: &'a DeviceView) -> Self {
        let complete = view.verification_uri_complete.as_ref();
        Self {
            user_code: view.user_code.as_str(),
            verification_uri: view.verification_uri.as_str(),
            verification_uri_complete: complete.map(CleanText::as_str),
            expires_at: Shown(view.expires_at),
            client_display_name: view.client_display_name.as_str(),
            scopes: shown_all(&view.scopes),
        }
    }
}

#[derive(Serialize)]
struct EndedOut {
    revoked: usize,
    unconfirmed: usize,
    session: &'static str,
}

#[derive(Serialize)]
struct LostOut<'a> {
    reason: &'a str,
    at: Shown<UnixTime>,
}

#[derive(Serialize)]
struct TargetsOut<'a> {
    targets: Vec<TargetOut<'a>>,
}

#[derive(Serialize)]
struct TargetOut<'a> {
    selector: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    actions: Vec<&'static str>,
    granted: bool,
}

impl<'a> TargetOut<'a> {
    fn new(view: &'a TargetView) -> Self {
        Self {
            selector: view.selector.short(),
            description: view.description.as_ref().map(CleanText::as_str),
            actions: view.actions.iter().map(|action| action.as_str()).collect(),
            granted: view.granted,
        }
    }
}

#[derive(Serialize)]
struct LeasesOut<'a> {
    leases: Vec<LeaseOut<'a>>,
}

#[derive(Serialize)]
struct LeaseOut<'a> {
    lease_id: &'a str,
    selector: &'a str,
    state: &'static str,
    holder: &'static str,
    expires_at: Shown<UnixTime>,
    max_redemptions: u32,
    redemptions_used: u32,
    revocable: bool,
}

impl<'a> LeaseOut<'a> {
    fn new(view: &'a LeaseView) -> Self {
        Self {
            lease_id: view.lease_id.as_str(),
            selector: view.selector.short(),
            state: view.state.as_str(),
            holder: view.holder.as_str(),
            expires_at: Shown(view.expires_at),
            max_redemptions: view.max_redemptions,
            redemptions_used: view.redemptions_used,
            revocable: view.revocable,
        }
    }
}

#[derive(Serialize)]
struct DeliveryOut<'a> {
    lease: LeaseOut<'a>,
    kind: &'static str,
    fields: Fields<'a>,
    secret_fields: SecretNames<'a>,
    expires_at: Shown<UnixTime>,
}

/// Names and values of material, as one object. The one place of this door where a secret is
/// exposed to go out.
struct Fields<'a>(&'a Material);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.fields.len()))?;
        for field in &self.0.fields {
            let value = match &field.value {
                FieldValue::Public(text) => text,
                FieldValue::Secret(secret) => secret.expose(),
            };
            map.serialize_entry(&*field.name, value)?;
        }
        map.end()
    }
}

struct SecretNames<'a>(&'a Material);

impl Serialize for SecretNames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_secret = |field: &&Field| matches!(field.value, FieldValue::Secret(_));
        serializer.collect_seq(
            self.0
                .fields
                .iter()
                .filter(is_secret)
                .map(|field| &*field.name),
        )
    }
}

/// What a host said. Nothing of ours is in it, and no value that the broker knows.
#[derive(Serialize)]
struct HttpOut<'a> {
    status: u16,
    headers: Vec<HeaderOut<'a>>,
    body: Cow<'a, str>,
    body_encoding: &'static str,
    truncated: bool,
    masked: bool,
    credential_refused: bool,
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> HttpOut<'a> {
    fn new(answer: &'a HttpAnswer) -> Self {
        // Other controls would take six times their room.
        let is_plain = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r');
        let text = str::from_utf8(&answer.body).ok();
        let text = text.filter(|text| text.as_bytes().iter().all(is_plain));
        let (body, body_encoding) = match text {
            Some(text) => (Cow::Borrowed(text), "text"),
            None => (Cow::Owned(STANDARD.encode(&answer.body)), "base64"),
        };
        Self {
            status: answer.status,
            headers: answer
                .headers
                .iter()
                .map(|(name, value)| HeaderOut { name, value })
                .collect(),
            body,
            body_encoding,
            truncated: answer.truncated,
            masked: answer.masked,
            credential_refused: answer.is_refusal(),
        }
    }
}

#[derive(Serialize)]
struct AuditOut {
    records: u64,
    keyed: u64,
    torn_tail: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<DamageOut>,
}

#[derive(Serialize)]
struct DamageOut {
    #[serde(serialize_with = "text")]
    file: CleanText,
    line: u64,
    what: &'static str,
}

fn text<S: Serializer>(text: &CleanText, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_str())
}

// What the client sends and reads. Answers of a later version may have more members.

/// One request line, with its line feed.
pub(super) fn encode_request(method: Method, params: &Params<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        jsonrpc: &'static str,
        id: u64,
        method: &'static str,
        params: &'a Params<'a>,
    }
    let line = Line {
        jsonrpc: "2.0",
        id: CLIENT_ID,
        method: method.as_str(),
        params,
    };
    // Plain members into memory: there is nothing that could fail.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The client has one request under way at a time, so one id does.
const CLIENT_ID: u64 = 1;

/// The other end does not speak this version of the protocol. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon answered in a way that this version does not understand")]
pub(super) struct Misunderstood;

/// Where the result stands in a reply, or the refusal it is.
pub(super) fn decode_reply(line: &[u8]) -> Result<Result<Range<usize>, Refusal>, Misunderstood> {
    let reply: ReplyIn = read(line)?;
    if reply.jsonrpc != "2.0" {
        return Err(Misunderstood);
    }
    match (reply.id, reply.result, reply.error) {
        (Some(Id::Unsigned(CLIENT_ID)), Some(_), None) => {
            member(line, b"result").map(Ok).ok_or(Misunderstood)
        }
        // Without an id: refused before the request was read.
        (Some(Id::Unsigned(CLIENT_ID)) | None, None, Some(error)) => Ok(Err(error.into_refusal())),
        _ => Err(Misunderstood),
    }
}

/// Where the value of a member of the outermost object stands. The text was parsed before.
fn member(text: &[u8], name: &[u8]) -> Option<Range<usize>> {
    let mut depth = 0_usize;
    let mut string: Option<usize> = None;
    let mut escaped = false;
    let mut last_string = 0..0;
    let mut value: Option<usize> = None;
    for (at, byte) in text.iter().enumerate() {
        if let Some(start) = string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    last_string = start..at;
                    string = None;
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => string = Some(at.saturating_add(1)),
            b'{' | b'[' => depth = depth.saturating_add(1),
            b':' if depth == 1 => {
                let is_it = text.get(last_string.clone()) == Some(name);
                value = is_it.then_some(at.saturating_add(1));
            }
            b',' | b'}' | b']' => {
                if depth == 1
                    && let Some(start) = value
                {
                    return Some(start..at);
                }
                if *byte != b',' {
                    depth = depth.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
    None
}

fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Misunderstood> {
    // The error would quote what it found.
    serde_json::from_slice(text).or(Err(Misunderstood))
}

#[derive(Deserialize)]
struct ReplyIn {
    jsonrpc: String,
    id: Option<Id>,
    result: Option<IgnoredAny>,
    error: Option<ErrorIn>,
}

#[derive(Deserialize)]
struct ErrorIn {
    message: String,
    data: ErrorDataIn,
}

#[derive(Deserialize)]
struct ErrorDataIn {
    code: String,
    reason_code: Option<String>,
    fix: Option<String>,
    retry_after_s: Option<u64>,
    request_id: Option<String>,
    login: Option<DeviceIn>,
}

impl ErrorIn {
    /// A code of a later version is `internal` with that version's own words.
    fn into_refusal(self) -> Refusal {
        let data = self.data;
        let refusal = Refusal::new(ErrorCode::parse(&data.code).unwrap_or(ErrorCode::Internal));
        let fix = data.fix.as_deref().unwrap_or(refusal.code.fix());
        let own_message = self.message == refusal.code.message();
        let own_fix = fix == refusal.code.fix();
        Refusal {
            reason_code: data.reason_code.map(|text| CleanText::new(&text, 64)),
            message: (!own_message).then(|| CleanText::new(&self.message, 512)),
            fix: (!own_fix).then(|| CleanText::new(fix, 512)),
            retry_after: data.retry_after_s.map(Duration::from_secs),
            request_id: data
                .request_id
                .and_then(|text| RequestId::parse(&text).ok()),
            login: data.login.and_then(|login| login.view().ok()).map(Box::new),
            code: refusal.code,
        }
    }
}

/// The `error` object as `--json` prints it, with a line feed.
pub(super) fn encode_refusal(refusal: &Refusal) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        error: Body<'a>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        message: &'a str,
        #[serde(flatten)]
        data: ErrorData<'a>,
    }
    let line = Line {
        error: Body {
            message: refusal.message(),
            data: ErrorData::new(refusal),
        },
    };
    // Plain members into memory: there is nothing that could fail.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

#[derive(Deserialize)]
struct DeviceIn {
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_at: String,
    client_display_name: String,
    scopes: Vec<String>,
}

impl DeviceIn {
    fn view(&self) -> Result<DeviceView, Misunderstood> {
        let complete = self.verification_uri_complete.as_ref();
        Ok(DeviceView {
            user_code: CleanText::new(&self.user_code, 64),
            verification_uri: CleanText::new(&self.verification_uri, 2048),
            verification_uri_complete: complete.map(|uri| CleanText::new(uri, 2048)),
            expires_at: time_in(&self.expires_at)?,
            client_display_name: CleanText::new(&self.client_display_name, 64),
            scopes: scopes_in(&self.scopes)?,
        })
    }
}

#[derive(Deserialize)]
struct LoginIn {
    profile: String,
    state: String,
    device: Option<DeviceIn>,
    session: Option<SessionIn>,
}

#[derive(Deserialize)]
struct SessionIn {
    principal: String,
    token_expires_at: String,
    scopes: Vec<String>,
    binding_checked: bool,
}

impl LoginIn {
    fn view(self) -> Result<LoginView, Misunderstood> {
        let phase = match (self.state.as_str(), self.device, self.session) {
            (LOGGED_OUT, ..) => LoginPhase::LoggedOut,
            (LOCKED, ..) => LoginPhase::Locked,
            (AWAITING_APPROVAL, Some(device), _) => LoginPhase::AwaitingApproval(device.view()?),
            (LOGGED_IN, _, Some(session)) => LoginPhase::LoggedIn {
                principal: Principal::parse(&session.principal).or(Err(Misunderstood))?,
                token_expires_at: time_in(&session.token_expires_at)?,
                scopes: scopes_in(&session.scopes)?,
                binding_checked: session.binding_checked,
            },
            _ => return Err(Misunderstood),
        };
        Ok(LoginView {
            profile: ProfileName::parse(&self.profile).or(Err(Misunderstood))?,
            phase,
        })
    }
}

fn time_in(text: &str) -> Result<UnixTime, Misunderstood> {
    UnixTime::parse_rfc3339(text).ok_or(Misunderstood)
}

fn scopes_in(texts: &[String]) -> Result<Vec<Scope>, Misunderstood> {
    let scopes: Result<_, _> = texts.iter().map(|text| Scope::parse(text)).collect();
    scopes.or(Err(Misunderstood))
}

fn selector_in(text: &str) -> Result<Selector, Misunderstood> {
    Selector::parse(text).or(Err(Misunderstood))
}

#[derive(Deserialize)]
struct StatusIn {
    product: String,
    version: String,
    api: u32,
    login: LoginIn,
    live_leases: u64,
    unconfirmed_revocations: u64,
    irrevocable_targets: u64,
    connections: u64,
    key_store: String,
    policy_rules: u64,
    renewal: String,
    lost: Option<LostIn>,
    audit_folder: Option<String>,
}

#[derive(Deserialize)]
struct LostIn {
    reason: String,
    at: String,
}

/// Version and API of the daemon, before anything else of a status is understood.
pub(super) fn decode_greeting(text: &[u8]) -> Result<(CleanText, u32), Misunderstood> {
    #[derive(Deserialize)]
    struct Greeting {
        version: String,
        api: u32,
    }
    let greeting: Greeting = read(text)?;
    Ok((CleanText::new(&greeting.version, 64), greeting.api))
}

pub(super) fn decode_status(text: &[u8]) -> Result<Status, Misunderstood> {
    let status: StatusIn = read(text)?;
    Ok(Status {
        product: CleanText::new(&status.product, 64),
        version: CleanText::new(&status.version, 64),
        api: status.api,
        login: status.login.view()?,
        live_leases: status.live_leases,
        unconfirmed_revocations: status.unconfirmed_revocations,
        irrevocable_targets: status.irrevocable_targets,
        connections: status.connections,
        key_store: CleanText::new(&status.key_store, 64),
        policy_rules: status.policy_rules,
        renewal: CleanText::new(&status.renewal, 64),
        lost: match status.lost {
            Some(lost) => Some(LostSession {
                reason: CleanText::new(&lost.reason, 64),
                at: UnixTime::parse_rfc3339(&lost.at).ok_or(Misunderstood)?,
            }),
            None => None,
        },
        audit_folder: status
            .audit_folder
            .and_then(|folder| plain_path(Path::new(&folder)))
            .map(|folder| PathBuf::from(folder.as_str())),
    })
}

pub(super) fn decode_login(text: &[u8]) -> Result<LoginView, Misunderstood> {
    read::<LoginIn>(text)?.view()
}

pub(super) fn decode_ended(text: &[u8]) -> Result<EndedView, Misunderstood> {
    #[derive(Deserialize)]
    struct EndedIn {
        revoked: usize,
        unconfirmed: usize,
        session: String,
    }
    let ended: EndedIn = read(text)?;
    Ok(EndedView {
        revoked: ended.revoked,
        unconfirmed: ended.unconfirmed,
        session: SessionEnd::parse(&ended.session).ok_or(Misunderstood)?,
    })
}

pub(super) fn decode_targets(text: &[u8]) -> Result<Vec<TargetView>, Misunderstood> {
    #[derive(Deserialize)]
    struct TargetsIn {
        targets: Vec<TargetIn>,
    }
    #[derive(Deserialize)]
    struct TargetIn {
        selector: String,
        description: Option<String>,
        actions: Vec<String>,
        granted: bool,
    }
    let view = |target: &TargetIn| {
        let actions: Option<_> = target
            .actions
            .iter()
            .map(|word| Action::parse(word))
            .collect();
        Ok(TargetView {
            selector: selector_in(&target.selector)?,
            description: target
                .description
                .as_ref()
                .map(|text| CleanText::new(text, 200)),
            actions: actions.ok_or(Misunderstood)?,
            granted: target.granted,
        })
    };
    read::<TargetsIn>(text)?.targets.iter().map(view).collect()
}

#[derive(Deserialize)]
struct LeaseIn {
    lease_id: String,
    selector: String,
    state: String,
    holder: String,
    expires_at: String,
    max_redemptions: u32,
    redemptions_used: u32,
    revocable: bool,
}

impl LeaseIn {
    fn view(&self) -> Result<LeaseView, Misunderstood> {
        Ok(LeaseView {
            lease_id: LeaseId::parse(&self.lease_id).or(Err(Misunderstood))?,
            selector: selector_in(&self.selector)?,
            state: LeaseState::parse(&self.state).ok_or(Misunderstood)?,
            holder: HolderClass::parse(&self.holder).ok_or(Misunderstood)?,
            expires_at: time_in(&self.expires_at)?,
            max_redemptions: self.max_redemptions,
            redemptions_used: self.redemptions_used,
            revocable: self.revocable,
        })
    }
}

pub(super) fn decode_lease(text: &[u8]) -> Result<LeaseView, Misunderstood> {
    read::<LeaseIn>(text)?.view()
}

pub(super) fn decode_leases(text: &[u8]) -> Result<Vec<LeaseView>, Misunderstood> {
    #[derive(Deserialize)]
    struct LeasesIn {
        leases: Vec<LeaseIn>,
    }
    let leases: LeasesIn = read(text)?;
    leases.leases.iter().map(LeaseIn::view).collect()
}

pub(super) fn decode_delivery(text: &[u8]) -> Result<Delivery, Misunderstood> {
    #[derive(Deserialize)]
    struct DeliveryIn {
        lease: LeaseIn,
        kind: String,
        fields: FieldsIn,
        secret_fields: Vec<String>,
        expires_at: String,
    }
    let delivery: DeliveryIn = read(text)?;
    let field = |(name, value): (Box<str>, SecretString)| {
        let is_secret = delivery
            .secret_fields
            .iter()
            .any(|secret| **secret == *name);
        let value = if is_secret {
            FieldValue::Secret(value)
        } else {
            FieldValue::Public(Box::from(value.expose()))
        };
        Field { name, value }
    };
    Ok(Delivery {
        lease: delivery.lease.view()?,
        material: Arc::new(Material {
            kind: MaterialKind::parse(&delivery.kind).ok_or(Misunderstood)?,
            fields: delivery.fields.0.into_iter().map(field).collect(),
            expires_at: time_in(&delivery.expires_at)?,
        }),
    })
}

/// An object of texts, straight into secrets and in its own order.
struct FieldsIn(Vec<(Box<str>, SecretString)>);

impl<'de> Deserialize<'de> for FieldsIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = FieldsIn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<FieldsIn, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<Box<str>, SecretIn>()? {
                    fields.push((name, value.0));
                }
                Ok(FieldsIn(fields))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

struct SecretIn(SecretString);

impl<'de> Deserialize<'de> for SecretIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = SecretIn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretIn, E> {
                Ok(SecretIn(SecretString::copy_from(text)))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

pub(super) fn decode_reconciled(text: &[u8]) -> Result<Reconciled, Misunderstood> {
    super::audit::wire::decode(text).ok_or(Misunderstood)
}

pub(super) fn decode_audit(text: &[u8]) -> Result<AuditStatus, Misunderstood> {
    #[derive(Deserialize)]
    struct AuditIn {
        records: u64,
        keyed: u64,
        torn_tail: bool,
        damage: Option<DamageIn>,
    }
    #[derive(Deserialize)]
    struct DamageIn {
        file: String,
        line: u64,
        what: String,
    }
    let report: AuditIn = read(text)?;
    Ok(AuditStatus {
        records: report.records,
        keyed: report.keyed,
        torn_tail: report.torn_tail,
        damage: report.damage.map(|damage| Damage {
            file: CleanText::new(&damage.file, 4096),
            line: damage.line,
            what: CleanText::new(&damage.what, 256),
        }),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::broker::handle::{AuditAction, AuditDamage, IssuerEvent, OwnCall, Try};
    use crate::cases::many;
    use crate::model::{ProofJti, SessionId};

    fn faulty(line: &[u8]) -> (i32, ErrorCode, Value) {
        let answer = *decode(line).expect_err("a bad line");
        let mut buffer = SecretBuffer::with_capacity(4096);
        answer.encode(&mut buffer);
        let Err((fault, refusal)) = answer.content else {
            panic!("a refusal");
        };
        let value: Value = serde_json::from_slice(buffer.expose()).unwrap();
        assert_eq!(value["error"]["code"], fault.number());
        (fault.number(), refusal.code, value["id"].clone())
    }

    /// IN-4, SP-9, LM: what is not exactly a request is answered by its fault, under its id
    /// where it has one.
    #[test]
    fn bad_lines_are_answered_by_their_fault() {
        use ErrorCode::{InvalidRequest, MethodUnknown, SelectorInvalid};
        let deep = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"lock\",\"params\":{}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let deep_open = "[".repeat(200_000);
        let long_id = format!(
            r#"{{"jsonrpc":"2.0","id":"{}","method":"lock"}}"#,
            "i".repeat(129)
        );
        let long_reason = get(&format!(r#","reason":"{}""#, "r".repeat(201)));
        let rows: Vec<(&str, Vec<u8>, i32, ErrorCode, Value)> = [
            ("empty", "", -32700, InvalidRequest, Value::Null),
            ("words", "hello", -32700, InvalidRequest, Value::Null),
            ("half a line", r#"{"jsonrpc":"2.0","id":1,"#, -32700, InvalidRequest, Value::Null),
            ("two values", r#"{"jsonrpc":"2.0","id":1,"method":"lock"} {}"#, -32700, InvalidRequest, Value::Null),
            ("endless nesting", &deep_open, -32700, InvalidRequest, Value::Null),
            ("deep parameters", &deep, -32602, InvalidRequest, 1.into()),
            ("number", "7", -32600, InvalidRequest, Value::Null),
            ("null", "null", -32600, InvalidRequest, Value::Null),
            ("batch", r#"[{"jsonrpc":"2.0","id":1,"method":"lock"}]"#, -32600, InvalidRequest, Value::Null),
            ("request by position", r#"["2.0",1,"lock",null]"#, -32600, InvalidRequest, Value::Null),
            ("empty object", "{}", -32600, InvalidRequest, Value::Null),
            ("no version", r#"{"id":1,"method":"lock"}"#, -32600, InvalidRequest, 1.into()),
            ("version 1", r#"{"jsonrpc":"1.0","id":1,"method":"lock"}"#, -32600, InvalidRequest, 1.into()),
            ("version as a number", r#"{"jsonrpc":2.0,"id":1,"method":"lock"}"#, -32600, InvalidRequest, 1.into()),
            ("notification", r#"{"jsonrpc":"2.0","method":"lock"}"#, -32600, InvalidRequest, Value::Null),
            ("id null", r#"{"jsonrpc":"2.0","id":null,"method":"lock"}"#, -32600, InvalidRequest, Value::Null),
            ("id fraction", r#"{"jsonrpc":"2.0","id":1.5,"method":"lock"}"#, -32600, InvalidRequest, Value::Null),
            ("id beyond 64 bits", r#"{"jsonrpc":"2.0","id":18446744073709551616,"method":"lock"}"#, -32600, InvalidRequest, Value::Null),
            ("id object", r#"{"jsonrpc":"2.0","id":{},"method":"lock"}"#, -32600, InvalidRequest, Value::Null),
            ("id of 129 bytes", &long_id, -32600, InvalidRequest, Value::Null),
            ("unknown key", r#"{"jsonrpc":"2.0","id":1,"method":"lock","x":1}"#, -32600, InvalidRequest, 1.into()),
            ("key in capitals", r#"{"jsonrpc":"2.0","id":1,"Method":"lock"}"#, -32600, InvalidRequest, 1.into()),
            ("method twice", r#"{"jsonrpc":"2.0","id":1,"method":"lock","method":"logout"}"#, -32600, InvalidRequest, 1.into()),
            ("id twice", r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"lock"}"#, -32600, InvalidRequest, Value::Null),
            ("unknown method", r#"{"jsonrpc":"2.0","id":"a","method":"exec"}"#, -32601, MethodUnknown, "a".into()),
            ("unknown method, unknown parameters", r#"{"jsonrpc":"2.0","id":1,"method":"exec","params":{"x":1}}"#, -32601, MethodUnknown, 1.into()),
            ("method in capitals", r#"{"jsonrpc":"2.0","id":1,"method":"Lock"}"#, -32601, MethodUnknown, 1.into()),
            ("no parameters", r#"{"jsonrpc":"2.0","id":1,"method":"credential.get"}"#, -32602, InvalidRequest, 1.into()),
            ("parameters by position", r#"{"jsonrpc":"2.0","id":1,"method":"login.begin","params":["work"]}"#, -32602, InvalidRequest, 1.into()),
            ("unknown parameter", &get(r#","x":1"#), -32602, InvalidRequest, 1.into()),
            ("parameter in capitals", &get(r#","Reason":"x""#), -32602, InvalidRequest, 1.into()),
            ("parameter twice", &get(r#","selector":"gcp/a/c""#), -32602, InvalidRequest, 1.into()),
            ("another method's parameter", &get(r#","ttl_s":60"#), -32602, InvalidRequest, 1.into()),
            ("parameter of no method here", r#"{"jsonrpc":"2.0","id":1,"method":"lock","params":{"profile":"x"}}"#, -32602, InvalidRequest, 1.into()),
            ("text for a number", &get(r#","min_valid_for_s":"60""#), -32602, InvalidRequest, 1.into()),
            ("fraction", &get(r#","min_valid_for_s":60.5"#), -32602, InvalidRequest, 1.into()),
            ("negative", &get(r#","min_valid_for_s":-1"#), -32602, InvalidRequest, 1.into()),
            ("too long valid", &get(r#","min_valid_for_s":3601"#), -32602, InvalidRequest, 1.into()),
            ("reason too long", &long_reason, -32602, InvalidRequest, 1.into()),
            ("reason unprintable", &get(r#","reason":"a\u001bb""#), -32602, InvalidRequest, 1.into()),
            ("reason turned around", &get(r#","reason":"a\u202eb""#), -32602, InvalidRequest, 1.into()),
            ("unknown holder", &get(r#","holder":"nobody""#), -32602, InvalidRequest, 1.into()),
            ("profile with a slash", &get(r#","profile":"a/b""#), -32602, InvalidRequest, 1.into()),
            ("ttl too short", &create(r#","ttl_s":29"#), -32602, InvalidRequest, 1.into()),
            ("ttl too long", &create(r#","ttl_s":3601"#), -32602, InvalidRequest, 1.into()),
            ("no redemptions", &create(r#","max_redemptions":0"#), -32602, InvalidRequest, 1.into()),
            ("too many redemptions", &create(r#","max_redemptions":11"#), -32602, InvalidRequest, 1.into()),
            ("redemptions beyond 32 bits", &create(r#","max_redemptions":4294967297"#), -32602, InvalidRequest, 1.into()),
            ("exposure that nobody is given", r#"{"jsonrpc":"2.0","id":1,"method":"lease.redeem","params":{"lease_id":"a","exposure":"use"}}"#, -32602, InvalidRequest, 1.into()),
            ("exposure of another method", &get(r#","exposure":"exec""#), -32602, InvalidRequest, 1.into()),
            ("lease id with a blank", r#"{"jsonrpc":"2.0","id":1,"method":"lease.redeem","params":{"lease_id":"a b"}}"#, -32602, InvalidRequest, 1.into()),
            ("wildcard", r#"{"jsonrpc":"2.0","id":1,"method":"credential.get","params":{"selector":"gcp/a/*"}}"#, -32000, SelectorInvalid, 1.into()),
        ]
        .into_iter()
        .map(|(name, line, number, code, id)| (name, line.as_bytes().to_vec(), number, code, id))
        .chain([
            ("binary", vec![0xff, 0xfe, 0x00], -32700, InvalidRequest, Value::Null),
            ("broken UTF-8 in a text", b"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\",\"method\":\"lock\"}".to_vec(), -32700, InvalidRequest, Value::Null),
        ])
        .collect();
        for (name, line, number, code, id) in rows {
            assert_eq!(faulty(&line), (number, code, id), "{name}");
        }
    }

    fn get(more: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"credential.get","params":{{"selector":"gcp/a/b"{more}}}}}"#
        )
    }

    fn create(more: &str) -> String {
        get(more).replace("credential.get", "lease.create")
    }

    /// The bounds themselves are inside.
    #[test]
    fn requests_are_parsed_into_types() {
        let reason = "r".repeat(200);
        let call = decode(
            create(&format!(
                r#","ttl_s":3600,"max_redemptions":10,"holder":"client","profile":"work","reason":"{reason}""#
            ))
            .as_bytes(),
        )
        .unwrap();
        let expected = LeaseRequest {
            selector: Selector::parse("gcp/a/b").unwrap(),
            ttl: Some(Duration::from_hours(1)),
            max_redemptions: 10,
            reason: CleanText::exact(&reason, 200),
            holder: HolderClass::Client,
        };
        let profile = ProfileName::parse("work").ok();
        assert_eq!(call.id, Id::Unsigned(1));
        assert_eq!(call.ask, Ask::LeaseCreate(profile, expected));
        let call = decode(get(r#","min_valid_for_s":3600,"reason":null"#).as_bytes()).unwrap();
        let expected = CredentialRequest {
            selector: Selector::parse("gcp/a/b").unwrap(),
            min_valid_for: Duration::from_hours(1),
            reason: None,
            holder: HolderClass::None,
        };
        assert_eq!(call.ask, Ask::Credential(None, expected));
    }

    #[test]
    fn every_method_is_understood_by_its_name() {
        for method in Method::ALL {
            let params = Params {
                selector: method
                    .takes()
                    .contains(&"selector")
                    .then(|| "gcp/a/b".into()),
                lease_id: method.takes().contains(&"lease_id").then(|| "lse_1".into()),
                url: (*method == Method::HttpRequest).then(|| "https://a.example/".into()),
                ..Params::default()
            };
            let line = encode_request(*method, &params);
            assert!(decode(&line).is_ok(), "{}", method.as_str());
        }
    }

    /// PE-8: the id comes back as it was written.
    #[test]
    fn ids_are_echoed() {
        let longest = format!("\"{}\"", "i".repeat(128));
        for id in [
            "0",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "\"\"",
            "\"a\\n\\\"\"",
            &longest,
        ] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"lock"}}"#);
            let call = decode(line.as_bytes()).unwrap();
            let answer = Answer::refusal(Some(call.id), Fault::Refused, ErrorCode::Locked.into());
            let mut buffer = SecretBuffer::with_capacity(4096);
            answer.encode(&mut buffer);
            let text = String::from_utf8(buffer.expose().to_vec()).unwrap();
            assert!(text.contains(&format!("\"id\":{id},")), "{text}");
        }
    }

    proptest! {
        #![proptest_config(many())]

        /// IN-16, HY-5: any bytes are either a request or an answer of one line, and what the
        /// answer says is ours.
        #[test]
        fn any_bytes_are_answered_in_one_line(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(answer) = decode(&bytes) {
                let mut buffer = SecretBuffer::with_capacity(64);
                answer.encode(&mut buffer);
                prop_assert_eq!(buffer.expose().split(|byte| *byte == b'\n').count(), 2);
                prop_assert_eq!(buffer.expose().last(), Some(&b'\n'));
            }
        }
    }

    const SEGMENT: &str = "[a-z0-9][a-z0-9._-]{0,9}";

    prop_compose! {
        /// A profile, a request for a credential and one for a lease, of anything that they take.
        fn any_requests()(
            parts in [SEGMENT; 3],
            profile in proptest::option::of("[a-z0-9][a-z0-9_-]{0,9}"),
            valid_s in 0_u64..=3600,
            ttl_s in proptest::option::of(30_u64..=3600),
            max_redemptions in 1_u32..=10,
            reason in proptest::option::of(".{0,40}"),
            holder in prop::sample::select(&HolderClass::ALL),
        ) -> (Option<ProfileName>, CredentialRequest, LeaseRequest) {
            let selector = Selector::parse(&parts.join("/")).unwrap();
            let profile = profile.map(|name| ProfileName::parse(&name).unwrap());
            let reason = reason.map(|text| CleanText::new(&text, MAX_REASON));
            let get = CredentialRequest {
                selector: selector.clone(),
                min_valid_for: Duration::from_secs(valid_s),
                reason: reason.clone(),
                holder,
            };
            let create = LeaseRequest {
                selector,
                ttl: ttl_s.map(Duration::from_secs),
                max_redemptions,
                reason,
                holder,
            };
            (profile, get, create)
        }
    }

    proptest! {
        #![proptest_config(many())]

        /// A request is understood as it was meant, by daemon and client alike.
        #[test]
        fn requests_read_back_as_printed((profile, get, create) in any_requests()) {
            let both = || Params {
                profile: profile.as_ref().map(|name| name.as_str().into()),
                selector: Some(get.selector.short().into()),
                reason: get.reason.as_ref().map(|text| text.as_str().into()),
                holder: Some(get.holder.as_str().into()),
                ..Params::default()
            };
            let of_get = Params {
                min_valid_for_s: Some(get.min_valid_for.as_secs()),
                ..both()
            };
            let of_create = Params {
                ttl_s: create.ttl.map(|ttl| ttl.as_secs()),
                max_redemptions: Some(create.max_redemptions),
                ..both()
            };
            let lines = [
                encode_request(Method::CredentialGet, &of_get),
                encode_request(Method::LeaseCreate, &of_create),
            ];
            let [got, created] = lines.map(|line| decode(&line).map(|call| call.ask).ok());
            prop_assert_eq!(got, Some(Ask::Credential(profile.clone(), get.clone())));
            prop_assert_eq!(created, Some(Ask::LeaseCreate(profile.clone(), create)));
        }
    }

    /// HY-4, HY-5: nothing of the input is in the answer but the id.
    #[test]
    fn errors_do_not_quote_the_input() {
        let canary = "hunter2";
        for line in [
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{canary}"}}"#),
            format!(r#"{{"jsonrpc":"{canary}","id":1,"method":"lock"}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"lock","{canary}":1}}"#),
            get(&format!(r#","{canary}":1"#)),
            get(&format!(r#","holder":"{canary}""#)),
            get(&format!(r#","min_valid_for_s":"{canary}""#)),
            get(&format!(r#","profile":"{canary} ""#)),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"lock" {canary}"#),
            canary.to_owned(),
        ] {
            let mut buffer = SecretBuffer::with_capacity(64);
            decode(line.as_bytes()).unwrap_err().encode(&mut buffer);
            let text = String::from_utf8(buffer.expose().to_vec()).unwrap();
            assert!(!text.contains(canary), "{text}");
        }
    }

    // One of everything, with every optional member there.

    fn at() -> UnixTime {
        UnixTime::parse_rfc3339("2026-11-22T10:00:12.345Z").unwrap()
    }

    fn selector() -> Selector {
        Selector::parse("gcp/billing-prod/deploy-bot").unwrap()
    }

    fn scopes() -> Vec<Scope> {
        vec![Scope {
            action: Action::Create,
            selector: selector(),
        }]
    }

    fn device() -> DeviceView {
        DeviceView {
            user_code: CleanText::new("ABCD-EFGH", 64),
            verification_uri: CleanText::new("https://login.example/device", 2048),
            verification_uri_complete: Some(CleanText::new("https://login.example/d?c=A", 2048)),
            expires_at: at(),
            client_display_name: CleanText::new("Aegis Broker on host-01", 64),
            scopes: scopes(),
        }
    }

    fn login(phase: LoginPhase) -> LoginView {
        LoginView {
            profile: ProfileName::parse("work").unwrap(),
            phase,
        }
    }

    fn phases() -> [LoginPhase; 4] {
        [
            LoginPhase::LoggedOut,
            LoginPhase::Locked,
            LoginPhase::AwaitingApproval(device()),
            LoginPhase::LoggedIn {
                principal: Principal::parse("user:u-demo").unwrap(),
                token_expires_at: at(),
                scopes: scopes(),
                binding_checked: true,
            },
        ]
    }

    fn lease() -> LeaseView {
        LeaseView {
            lease_id: LeaseId::parse("lse_1").unwrap(),
            selector: selector(),
            state: LeaseState::Active,
            holder: HolderClass::None,
            expires_at: at(),
            max_redemptions: 2,
            redemptions_used: 1,
            revocable: true,
        }
    }

    fn status() -> StatusView {
        StatusView {
            login: login(LoginPhase::LoggedOut),
            live_leases: 1,
            unconfirmed_revocations: 2,
            irrevocable_targets: 3,
            connections: 4,
            key_store: "memory",
            policy_rules: 5,
            renewal: "svid",
            lost: Some(LostSession {
                reason: CleanText::new("key_suspect", 64),
                at: at(),
            }),
            audit_folder: PathBuf::from("/state/audit"),
        }
    }

    fn target() -> TargetView {
        TargetView {
            selector: selector(),
            description: Some(CleanText::new("deploys", 200)),
            actions: Action::ALL.to_vec(),
            granted: true,
        }
    }

    const SECRET: &str = "ya29.\"quoted\"\n\u{1f511}";

    fn delivery() -> Delivery {
        let field = |name: &str, value| Field {
            name: Box::from(name),
            value,
        };
        Delivery {
            lease: lease(),
            material: Arc::new(Material {
                kind: MaterialKind::GcpAccessToken,
                fields: vec![
                    field("project", FieldValue::Public(Box::from("billing-prod"))),
                    field(
                        "access_token",
                        FieldValue::Secret(SecretString::copy_from(SECRET)),
                    ),
                ],
                expires_at: at(),
            }),
        }
    }

    fn answered() -> HttpAnswer {
        HttpAnswer {
            status: 401,
            headers: vec![(Box::from("content-type"), Box::from("text/plain"))],
            body: b"a \"b\"\n".to_vec(),
            truncated: true,
            masked: false,
            leaked: Vec::new(),
        }
    }

    /// LM: whatever a body is, its line fits.
    #[test]
    fn the_largest_response_fits_into_an_answer() {
        use crate::model::MAX_HTTP_RESPONSE;
        for byte in [b'"', b'\n', 0, 0x1f, 0xff, b'a'] {
            let answer = HttpAnswer {
                body: vec![byte; MAX_HTTP_RESPONSE],
                headers: vec![(Box::from("a"), Box::from("\"".repeat(16 * 1024)))],
                ..answered()
            };
            let line: Value = serde_json::from_slice(&result(Outcome::Http(answer))).unwrap();
            assert_eq!(line["status"], 401, "{byte}");
        }
        let shown: Value = serde_json::from_slice(&result(Outcome::Http(answered()))).unwrap();
        assert_eq!(shown["body"], "a \"b\"\n");
        assert_eq!(shown["credential_refused"], true);
    }

    /// HY-14: what cannot be a request is refused before anybody is asked.
    #[test]
    fn requests_with_a_credential_are_parsed_whole() {
        let send = |more: &str| {
            let line = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"http.request","params":{{"selector":"gcp/a/b"{more}}}}}"#
            );
            decode(line.as_bytes())
        };
        let call = send(
            r#","url":"https://a.example/x","method":"POST","body":"b","headers":[{"name":"Accept","value":"c"}]"#,
        );
        let Ask::Http(None, request) = call.unwrap().ask else {
            panic!("another request");
        };
        let headers = [("accept", "c")];
        let outgoing = Outgoing::parse("POST", "https://a.example/x", headers, Some("b"));
        assert_eq!(*request.outgoing, outgoing.unwrap());
        for more in [
            "",
            r#","url":"https://a.example/../x""#,
            r#","url":"https://u@a.example/""#,
            r#","url":"https://a.example/","method":"CONNECT""#,
            r#","url":"https://a.example/","headers":[{"name":"Host","value":"b"}]"#,
            r#","url":"https://a.example/","headers":[["Accept","b"]]"#,
            r#","url":"https://a.example/","headers":[{"name":"A","value":"b","x":1}]"#,
            r#","url":"https://a.example/","headers":[{"name":"A","value":"b\r\nHost: c"}]"#,
            r#","url":"https://a.example/","body":"x""#,
        ] {
            assert!(send(more).is_err(), "{more}");
        }
    }

    fn report() -> AuditReport {
        AuditReport {
            records: 12,
            keyed: 7,
            damage: Some(AuditDamage {
                file: PathBuf::from("/state/audit-000001.jsonl"),
                line: 3,
                what: "a line is missing",
            }),
            torn_tail: true,
        }
    }

    fn reconciliation() -> Reconciliation {
        let at = at();
        let one = Try {
            request_id: RequestId::parse("req-1").ok(),
            proof_jti: ProofJti::parse("jti-1").ok(),
        };
        Reconciliation {
            compared: 5,
            foreign: 1,
            foreign_events: vec![IssuerEvent {
                seq: 7,
                at,
                action: CleanText::new("lease.create", 64),
                outcome: CleanText::new("ok", 64),
                session_id: SessionId::parse("ses_1").ok(),
                lease_id: LeaseId::parse("lse_1").ok(),
                target: Some(CleanText::new("provider:a:app:b:account:c", 256)),
                reason: Some(CleanText::new("released", 64)),
                request_id: one.request_id.clone(),
                proof_jti: one.proof_jti.clone(),
            }],
            missing: 1,
            missing_calls: vec![OwnCall {
                at,
                action: AuditAction::LeaseRedeem,
                done: true,
                principal: None,
                session_id: SessionId::parse("ses_1").ok(),
                tries: vec![one],
            }],
            elsewhere: 2,
            complete: true,
        }
    }

    fn refusal() -> Refusal {
        Refusal {
            code: ErrorCode::LoginRequired,
            reason_code: Some(CleanText::new("token_expired", 64)),
            message: Some(CleanText::new("own words", 512)),
            fix: Some(CleanText::new("own fix", 512)),
            retry_after: Some(Duration::from_millis(1500)),
            request_id: RequestId::parse("req-1").ok(),
            login: Some(Box::new(device())),
        }
    }

    fn line(content: Result<Outcome, (Fault, Box<Refusal>)>) -> Vec<u8> {
        let answer = Answer {
            id: Some(Id::Unsigned(CLIENT_ID)),
            content,
        };
        let mut buffer = SecretBuffer::with_capacity(16);
        answer.encode(&mut buffer);
        buffer.expose().to_vec()
    }

    fn result(outcome: Outcome) -> Vec<u8> {
        let line = line(Ok(outcome));
        let span = decode_reply(&line).unwrap().unwrap();
        line[span].to_vec()
    }

    /// The client reads what the door writes.
    #[test]
    fn answers_read_back_as_they_were_written() {
        for phase in phases() {
            let view = login(phase);
            assert_eq!(
                decode_login(&result(Outcome::Login(view.clone()))),
                Ok(view)
            );
        }
        assert_eq!(decode_lease(&result(Outcome::Lease(lease()))), Ok(lease()));
        assert_eq!(
            decode_leases(&result(Outcome::Leases(vec![lease(), lease()]))),
            Ok(vec![lease(), lease()])
        );
        assert_eq!(
            decode_targets(&result(Outcome::Targets(vec![target()]))),
            Ok(vec![target()])
        );
        let ended = EndedView {
            revoked: 3,
            unconfirmed: 1,
            session: SessionEnd::Unconfirmed,
        };
        assert_eq!(decode_ended(&result(Outcome::Ended(ended))), Ok(ended));
        let read = decode_status(&result(Outcome::Status(status()))).unwrap();
        assert_eq!(
            (read.login, read.policy_rules, read.api),
            (status().login, 5, API_VERSION)
        );
        assert_eq!(read.lost, status().lost);
        let found = result(Outcome::Reconciled(Box::new(reconciliation())));
        let found = decode_reconciled(&found).unwrap();
        assert_eq!((found.compared, found.foreign, found.missing), (5, 1, 1));
        assert_eq!((found.elsewhere, found.complete), (2, true));
        assert_eq!(found.foreign_events.len(), 1);
        assert_eq!(found.missing_calls.len(), 1);
        assert_eq!(read.audit_folder, Some(status().audit_folder));
        let status = StatusView {
            audit_folder: PathBuf::from("/state\n/audit"),
            ..status()
        };
        let read = decode_status(&result(Outcome::Status(status))).unwrap();
        assert_eq!(read.audit_folder, None, "no other folder is named instead");
        let read = decode_audit(&result(Outcome::Audit(report()))).unwrap();
        assert_eq!((read.records, read.keyed, read.torn_tail), (12, 7, true));
        assert_eq!(read.damage.unwrap().line, 3);
        let read = decode_delivery(&result(Outcome::Delivered(delivery()))).unwrap();
        assert_eq!(read.lease, lease());
        let names: Vec<&str> = read
            .material
            .fields
            .iter()
            .map(|field| &*field.name)
            .collect();
        assert_eq!(names, ["project", "access_token"]);
        match &read.material.field("access_token").unwrap().value {
            FieldValue::Secret(secret) => assert_eq!(secret.expose(), SECRET),
            FieldValue::Public(_) => panic!("it is a secret"),
        }
        let line = line(Err((Fault::Refused, Box::new(refusal()))));
        let expected = Refusal {
            retry_after: Some(Duration::from_secs(2)),
            ..refusal()
        };
        assert_eq!(decode_reply(&line), Ok(Err(expected)));
    }

    #[test]
    fn an_answer_that_is_too_long_becomes_internal() {
        let leases = vec![lease(); 6000];
        let text = line(Ok(Outcome::Leases(leases)));
        assert_eq!(
            decode_reply(&text).unwrap().unwrap_err().code,
            ErrorCode::Internal
        );
    }

    /// docs/socket-protocol.md says what the code does, no more and no less.
    mod docs {
        use std::collections::BTreeSet;

        use super::*;

        const DOCUMENT: &str = include_str!("../../docs/socket-protocol.md");

        /// The text below a heading, up to the next one.
        fn section(heading: &str) -> &'static str {
            let start = format!("\n### {heading}\n");
            let (_, after) = DOCUMENT
                .split_once(&start)
                .unwrap_or_else(|| panic!("no section {heading}"));
            after.split("\n#").next().unwrap()
        }

        /// The names in the first column of the section's table of that kind.
        fn names(section: &str, kind: &str) -> BTreeSet<String> {
            let Some((_, table)) = section.split_once(&format!("| {kind} | type | meaning |\n"))
            else {
                return BTreeSet::new();
            };
            table
                .lines()
                .take_while(|line| line.starts_with('|'))
                .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
                .map(str::to_owned)
                .collect()
        }

        fn keys(value: &Value) -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        }

        fn sample(outcome: Outcome) -> Value {
            serde_json::from_slice(&result(outcome)).unwrap()
        }

        #[test]
        fn every_method_and_parameter_is_documented() {
            let (_, methods) = DOCUMENT.split_once("\n## Methods\n").unwrap();
            let (methods, _) = methods.split_once("\n## Objects\n").unwrap();
            let documented: Vec<&str> = methods
                .lines()
                .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
                .collect();
            let known: Vec<&str> = Method::ALL.iter().map(|method| method.as_str()).collect();
            assert_eq!(documented, known);
            for method in Method::ALL {
                let takes = method
                    .takes()
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect();
                let section = section(&format!("`{}`", method.as_str()));
                assert_eq!(names(section, "parameter"), takes, "{}", method.as_str());
            }
        }

        #[test]
        fn every_answer_is_documented() {
            let ended = Outcome::Ended(EndedView {
                revoked: 0,
                unconfirmed: 0,
                session: SessionEnd::Confirmed,
            });
            let ended = sample(ended);
            let delivered = sample(Outcome::Delivered(delivery()));
            let rows = [
                ("broker.status", sample(Outcome::Status(status()))),
                ("logout", ended.clone()),
                ("lock", ended),
                ("target.list", sample(Outcome::Targets(vec![target()]))),
                ("credential.get", delivered.clone()),
                ("http.request", sample(Outcome::Http(answered()))),
                ("lease.redeem", delivered),
                ("lease.list", sample(Outcome::Leases(vec![lease()]))),
                ("audit.verify", sample(Outcome::Audit(report()))),
                (
                    "audit.reconcile",
                    sample(Outcome::Reconciled(Box::new(reconciliation()))),
                ),
            ];
            for (method, value) in &rows {
                let section = section(&format!("`{method}`"));
                assert_eq!(names(section, "answer"), keys(value), "{method}");
            }
            for method in [
                "login.begin",
                "login.wait",
                "login.cancel",
                "lease.create",
                "lease.revoke",
            ] {
                let section = section(&format!("`{method}`"));
                assert!(names(section, "answer").is_empty(), "{method}");
                let object = if method.starts_with("login") {
                    "login"
                } else {
                    "a lease"
                };
                assert!(section.contains(object), "{method}");
            }
        }

        #[test]
        fn every_object_is_documented() {
            let mut logins = BTreeSet::new();
            for phase in phases() {
                logins.extend(keys(&sample(Outcome::Login(login(phase)))));
            }
            assert_eq!(names(section("login"), "field"), logins);
            let [_, _, awaiting, logged_in] =
                phases().map(|phase| sample(Outcome::Login(login(phase))));
            let error: Value =
                serde_json::from_slice(&line(Err((Fault::Refused, Box::new(refusal()))))).unwrap();
            let found = sample(Outcome::Reconciled(Box::new(reconciliation())));
            let rows = [
                ("device", &awaiting["device"]),
                ("session", &logged_in["session"]),
                ("lease", &sample(Outcome::Lease(lease()))),
                (
                    "target",
                    &sample(Outcome::Targets(vec![target()]))["targets"][0],
                ),
                ("damage", &sample(Outcome::Audit(report()))["damage"]),
                ("event", &found["foreign_events"][0]),
                ("call", &found["missing_calls"][0]),
                ("error", &error["error"]),
                ("error data", &error["error"]["data"]),
                ("device", &error["error"]["data"]["login"]),
            ];
            for (object, value) in rows {
                assert_eq!(names(section(object), "field"), keys(value), "{object}");
            }
        }

        #[test]
        fn every_word_and_bound_is_documented() {
            let states: Vec<&str> = LeaseState::ALL.iter().map(|state| state.as_str()).collect();
            for word in [LOGGED_OUT, LOCKED, AWAITING_APPROVAL, LOGGED_IN] {
                assert!(section("login").contains(&format!("`{word}`")), "{word}");
            }
            for word in states {
                assert!(section("lease").contains(&format!("`{word}`")), "{word}");
            }
            for method in ["`credential.get`", "`lease.create`"] {
                for class in HolderClass::ALL {
                    assert!(section(method).contains(&format!("`{}`", class.as_str())));
                }
                assert!(section(method).contains(&format!("at most {MAX_REASON} printable")));
            }
            for kind in MaterialKind::ALL {
                assert!(section("`credential.get`").contains(&format!("`{}`", kind.as_str())));
            }
            let bound = format!("0 to {};", MAX_LEASE_TTL.as_secs());
            assert!(section("`credential.get`").contains(&bound));
            let create = section("`lease.create`");
            assert!(create.contains(&format!(
                "{} to {};",
                MIN_LEASE_TTL.as_secs(),
                MAX_LEASE_TTL.as_secs()
            )));
            let bound = format!("1 to {MAX_REDEMPTIONS};");
            assert!(create.contains(&bound));
            assert!(DOCUMENT.contains(&format!("a string of at most {MAX_ID} bytes")));
            let line = format!(
                "at most {} KiB without",
                super::super::super::frame::MAX_LINE / 1024
            );
            assert!(DOCUMENT.contains(&line));
            assert!(DOCUMENT.contains(&format!(
                "An answer is at most {} MiB",
                MAX_ANSWER / 1024 / 1024
            )));
            assert!(DOCUMENT.contains(&format!("this page describes {API_VERSION}.")));
            assert!(section("`broker.status`").contains(&format!("`{PRODUCT}`")));
        }

        /// The table of codes, row by row; and the numbers of JSON-RPC.
        #[test]
        fn every_error_code_is_documented() {
            let (_, table) = DOCUMENT
                .split_once(
                    "| code | exit status | retryable | meaning | fix |\n|---|---|---|---|---|\n",
                )
                .unwrap();
            let documented: Vec<&str> = table.lines().collect();
            let known: Vec<String> = ErrorCode::ALL
                .iter()
                .map(|code| {
                    format!(
                        "| `{}` | {} | {} | {} | {} |",
                        code.as_str(),
                        code.exit_status(),
                        if code.is_retryable() { "yes" } else { "no" },
                        code.message(),
                        code.fix()
                    )
                })
                .collect();
            assert_eq!(documented, known);
            for fault in [
                Fault::Parse,
                Fault::Request,
                Fault::Method,
                Fault::Params,
                Fault::Refused,
            ] {
                assert!(DOCUMENT.contains(&format!("\n| {} | ", fault.number())));
            }
        }
    }
}
