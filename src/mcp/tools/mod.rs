//! The tools: one file each, with its words and what it asks of the core. The list is the same
//! for everybody and never changes, so that a client may keep it.
//!
//! [`degraded`] is the server that stands in when there is no daemon: the same list, and one
//! answer to every call.

mod audit_list;

pub mod degraded;

mod http_request;

mod lease_create;

mod lease_list;

mod lease_revoke;

mod login;

mod logout;

mod policy_explain;

mod status;

mod target_list;

use std::future::Future;
use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, JsonObject, Tool, ToolAnnotations,
};
use rmcp::schemars::JsonSchema;
use rmcp::schemars::generate::SchemaSettings;
use rmcp::service::{RequestContext, RoleServer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::reply;
use super::server::Peer;
use super::wire::{Need, Reply};
use crate::broker::handle::{PolicyView, Standing};
use crate::model::{CleanText, Effect, ErrorCode, MAX_REASON, Refusal, Selector};

pub(super) use login::Flow;

/// A tool's name. The variants are in the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    AuditList,
    HttpRequest,
    LeaseCreate,
    LeaseList,
    LeaseRevoke,
    Login,
    Logout,
    PolicyExplain,
    Status,
    TargetList,
}

impl Name {
    /// All of them, sorted by their words.
    pub(super) const ALL: [Self; 10] = [
        Self::AuditList,
        Self::HttpRequest,
        Self::LeaseCreate,
        Self::LeaseList,
        Self::LeaseRevoke,
        Self::Login,
        Self::Logout,
        Self::PolicyExplain,
        Self::Status,
        Self::TargetList,
    ];

    /// The word on the wire.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::AuditList => "audit_list",
            Self::HttpRequest => "http_request",
            Self::LeaseCreate => "lease_create",
            Self::LeaseList => "lease_list",
            Self::LeaseRevoke => "lease_revoke",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::PolicyExplain => "policy_explain",
            Self::Status => "status",
            Self::TargetList => "target_list",
        }
    }

    /// The tool of that word.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    fn tool(self) -> Tool {
        match self {
            Self::AuditList => audit_list::tool(),
            Self::HttpRequest => http_request::tool(),
            Self::LeaseCreate => lease_create::tool(),
            Self::LeaseList => lease_list::tool(),
            Self::LeaseRevoke => lease_revoke::tool(),
            Self::Login => login::tool(),
            Self::Logout => logout::tool(),
            Self::PolicyExplain => policy_explain::tool(),
            Self::Status => status::tool(),
            Self::TargetList => target_list::tool(),
        }
    }
}

/// Every tool, sorted by name.
pub(super) fn list() -> Vec<Tool> {
    Name::ALL.into_iter().map(Name::tool).collect()
}

/// Does what a tool is for. A no is a result: the model is to read it.
pub(super) async fn call(
    name: Name,
    peer: &Arc<Peer>,
    request: CallToolRequestParams,
    context: RequestContext<RoleServer>,
) -> CallToolResponse {
    let arguments = request.arguments.unwrap_or_default();
    let result = match name {
        Name::AuditList => answer(arguments, |none| audit_list::call(peer, none)).await,
        Name::HttpRequest => answer(arguments, |it| http_request::call(peer, it)).await,
        Name::LeaseCreate => answer(arguments, |it| lease_create::call(peer, it)).await,
        Name::LeaseList => answer(arguments, |none| lease_list::call(peer, none)).await,
        Name::LeaseRevoke => answer(arguments, |it| lease_revoke::call(peer, it)).await,
        Name::Login => {
            let round = login::Round {
                state: request.request_state,
                responses: request.input_responses,
            };
            return match taken(arguments) {
                Ok(none) => login::call(peer, none, round, &context).await,
                Err(refusal) => reply::refused(&refusal).into(),
            };
        }
        Name::Logout => answer(arguments, |none| logout::call(peer, none)).await,
        Name::PolicyExplain => answer(arguments, |it| policy_explain::call(peer, it)).await,
        Name::Status => answer(arguments, |none| status::call(peer, none)).await,
        Name::TargetList => answer(arguments, |none| target_list::call(peer, none)).await,
    };
    result.into()
}

async fn answer<A, R, F>(arguments: JsonObject, tool: impl FnOnce(A) -> F) -> CallToolResult
where
    A: DeserializeOwned,
    R: Serialize,
    F: Future<Output = Result<R, Refusal>>,
{
    let outcome = match taken(arguments) {
        Ok(arguments) => tool(arguments).await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(result) => reply::done(result),
        Err(refusal) => reply::refused(&refusal),
    }
}

/// The arguments as a type. What is wrong with them is quoted: they hold no secret.
fn taken<A: DeserializeOwned>(arguments: JsonObject) -> Result<A, Refusal> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| wrong(&error.to_string()))
}

fn wrong(message: &str) -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest).with_message(message)
}

fn selector(text: &str) -> Result<Selector, Refusal> {
    Selector::parse(text)
        .map_err(|error| Refusal::new(ErrorCode::SelectorInvalid).with_message(&error.to_string()))
}

fn reason(text: &str) -> Result<CleanText, Refusal> {
    CleanText::exact(text, MAX_REASON).ok_or_else(|| {
        let message = format!("`reason` is at most {MAX_REASON} printable characters");
        wrong(&message)
    })
}

/// Counts one more new lease of a peer's, or says when there may be one (LM).
fn take_lease(peer: &Peer) -> Result<(), Refusal> {
    let taken = peer.shared.leases.take(peer.process, Instant::now());
    taken.map_err(|wait| Refusal {
        retry_after: Some(wait),
        ..Refusal::new(ErrorCode::RateLimited)
    })
}

/// What is missing before a lease can be made; nothing where nothing can help.
fn needs(policy: &PolicyView) -> Vec<Need> {
    let mut needs = Vec::new();
    if policy.create.effect == Effect::Deny {
        return needs;
    }
    match policy.standing {
        Standing::Locked => needs.push(Need::Unlock),
        Standing::LoggedOut => needs.push(Need::Login),
        Standing::NotGranted => needs.push(Need::NewLogin),
        Standing::Granted => {}
    }
    if policy.create.effect == Effect::Ask {
        needs.push(Need::Approval);
    }
    needs
}

/// What a tool does to the world. Hints for the client's dialogs (MC-8); each is set, because
/// what is left out counts as destructive and open.
#[derive(Debug, Clone, Copy)]
enum Touch {
    /// Looks only, and only at the broker.
    Nothing,
    /// Adds something at the issuer.
    Adds,
    /// Does at some host whatever it is asked for.
    Acts,
    /// Ends something at the issuer; doing it twice does no more.
    Ends,
}

/// A tool that takes `A` and answers `R` in the one envelope.
fn describe<A: JsonSchema, R: JsonSchema>(
    name: Name,
    title: &'static str,
    description: &'static str,
    touch: Touch,
) -> Tool {
    let annotations = match touch {
        Touch::Nothing => (true, false, true, false),
        Touch::Adds => (false, false, false, true),
        Touch::Acts => (false, true, false, true),
        Touch::Ends => (false, true, true, true),
    };
    let (read_only, destructive, idempotent, open_world) = annotations;
    Tool::new(name.as_str(), description, schema::<A>(Contract::Taken))
        .with_title(title)
        .with_raw_output_schema(schema::<Reply<R>>(Contract::Written))
        .with_annotations(
            ToolAnnotations::with_title(title)
                .read_only(read_only)
                .destructive(destructive)
                .idempotent(idempotent)
                .open_world(open_world),
        )
}

/// Which side of a type a schema describes.
#[derive(Debug, Clone, Copy)]
enum Contract {
    Taken,
    Written,
}

/// The schema of `T`, whole and without references (MC-7), in words every client knows: some
/// refuse number formats they have not heard of, and the type's own name says nothing.
fn schema<T: JsonSchema>(contract: Contract) -> Arc<JsonObject> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let settings = match contract {
        Contract::Taken => settings,
        Contract::Written => settings.for_serialize(),
    };
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema.remove("description");
    let mut value = schema.to_value();
    drop_formats(&mut value);
    match value {
        Value::Object(object) => Arc::new(object),
        // A schema of a struct is an object.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Arc::default()
        }
    }
}

/// Drops `format` where it is a keyword, not a property of that name.
fn drop_formats(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.get("format").is_some_and(Value::is_string) {
                object.remove("format");
            }
            object.values_mut().for_each(drop_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_formats),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/mcp-tools.md");

    const HEAD: &str = "# MCP tools

What the broker offers to models on `mcp.sock`, and through `aegis-broker mcp` to every MCP client.
This page is written by the code: a test holds it equal to what `tools/list` says.

The list is the same for every client and never changes.
Every answer but one is one object with exactly one of two members: `result`, shown below for each tool, or `error`, which is the same for all of them.
The one: a client of MCP 2026-07-28 that can show an address may get `input_required` from `login`, with the address and a state, and brings the state back with the person's answer in the same call.
No tool takes or returns a secret.
";

    /// One member of an object, and those inside it.
    fn members(schema: &Value, at: &str, rows: &mut String) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        for (name, property) in properties {
            let is_required = schema["required"]
                .as_array()
                .is_some_and(|names| names.iter().any(|required| required == name));
            let (inner, path) = match property["type"].as_str() {
                Some("array") => (&property["items"], format!("{at}{name}[]")),
                _ => (property, format!("{at}{name}")),
            };
            let words = inner["enum"].as_array().map(|words| {
                let words: Vec<_> = words
                    .iter()
                    .map(|word| format!("`{}`", word.as_str().unwrap()))
                    .collect();
                format!(" {}", words.join(", "))
            });
            let bound = |low: &str, high: &str| {
                let end = |name: &str| inner[name].as_u64().map(|end| end.to_string());
                match (end(low), end(high)) {
                    (None, None) => String::new(),
                    (from, to) => {
                        format!(" {}…{}", from.unwrap_or_default(), to.unwrap_or_default())
                    }
                }
            };
            writeln!(
                rows,
                "| `{path}` | {}{}{}{} | {} | {} |",
                inner["type"].as_str().unwrap(),
                words.unwrap_or_default(),
                bound("minimum", "maximum"),
                bound("minLength", "maxLength"),
                if is_required { "yes" } else { "" },
                property["description"]
                    .as_str()
                    .unwrap_or_default()
                    .replace('\n', " "),
            )
            .unwrap();
            members(inner, &format!("{path}."), rows);
        }
    }

    fn table(schema: &Value, must: &str) -> String {
        let mut rows = String::new();
        members(schema, "", &mut rows);
        if rows.is_empty() {
            return " none\n".to_owned();
        }
        format!("\n\n| name | type | {must} | meaning |\n|---|---|---|---|\n{rows}")
    }

    fn page() -> String {
        let mut page = HEAD.to_owned();
        let mut error = Value::Null;
        for tool in list() {
            let hints = tool.annotations.unwrap();
            let output = Value::Object(tool.output_schema.unwrap().as_ref().clone());
            error = output["properties"]["error"].clone();
            write!(
                page,
                "\n## `{}`\n\n{}.\n{}\n\nRead-only: {}. Destructive: {}. Idempotent: {}. Open world: {}.\n\nArguments:{}\nResult:{}",
                tool.name,
                tool.title.unwrap(),
                tool.description.unwrap(),
                hints.read_only_hint.unwrap(),
                hints.destructive_hint.unwrap(),
                hints.idempotent_hint.unwrap(),
                hints.open_world_hint.unwrap(),
                table(&Value::Object(tool.input_schema.as_ref().clone()), "required"),
                table(&output["properties"]["result"], "always"),
            )
            .unwrap();
        }
        write!(page, "\n## The member `error`{}", table(&error, "always")).unwrap();
        page
    }

    /// docs/mcp-tools.md says what the list says. Where it does not, this prints the page as it
    /// should be.
    #[test]
    fn the_page_says_what_the_list_says() {
        let page = page();
        assert!(page == DOCUMENT, "docs/mcp-tools.md should be:\n{page}");
    }

    /// T6: sorted, and every word leads back to its tool.
    #[test]
    fn the_list_is_sorted_and_every_name_is_known() {
        let names: Vec<_> = list().into_iter().map(|tool| tool.name).collect();
        assert!(names.is_sorted());
        for name in &names {
            assert_eq!(Name::parse(name).unwrap().as_str(), name);
        }
        assert_eq!(Name::parse("exec"), None);
    }
}
