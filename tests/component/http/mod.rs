//! Requests that the broker sends with a credential in them: to which hosts they go, what is in
//! them, and what comes back.

mod answers;
mod host;
mod limits;
mod schemes;

use std::sync::Arc;

use aegis_broker::broker::handle::{Connection, HttpAnswer, HttpRequest};
use aegis_broker::broker::ports::AuditAction;
use aegis_broker::model::{
    BoundHost, HolderClass, HttpMethod, Injection, InjectionScheme, Outgoing, PathPrefix, Refusal,
};

use self::host::Host;
use crate::world::{World, selector};

const BEARER: InjectionScheme = InjectionScheme::Bearer { field: None };

/// A table for one host: every method, everything below `/api`.
fn table(host: &str, scheme: InjectionScheme) -> Injection {
    Injection {
        hosts: vec![BoundHost::parse(host, true).unwrap()],
        scheme,
        methods: vec![HttpMethod::Get, HttpMethod::Post],
        paths: vec![PathPrefix::parse("/api").unwrap()],
        max_request: 1024,
        max_response: 4096,
    }
}

/// A world where a target's credential may be sent to that host.
async fn world(target: &'static str, host: &Host, scheme: InjectionScheme) -> World {
    let mut world = World::with_targets(&[target]).await;
    let injection = table(&host.address.to_string(), scheme);
    world.injections.push((target, Arc::new(injection)));
    world
}

async fn send(
    connection: &Connection,
    target: &str,
    method: &str,
    url: &str,
) -> Result<HttpAnswer, Refusal> {
    let outgoing = Outgoing::parse(method, url, [], None).unwrap();
    send_whole(connection, target, outgoing).await
}

async fn send_whole(
    connection: &Connection,
    target: &str,
    outgoing: Outgoing,
) -> Result<HttpAnswer, Refusal> {
    let request = HttpRequest {
        selector: selector(target),
        outgoing: Arc::new(outgoing),
        reason: None,
        holder: HolderClass::None,
    };
    connection.http_request(None, request).await
}

/// What the log says of requests and leaks, in order.
fn told(world: &World) -> Vec<String> {
    let about = [
        AuditAction::Deliver,
        AuditAction::HttpRequest,
        AuditAction::HttpResponse,
        AuditAction::Leak,
        AuditAction::Deny,
    ];
    let records = world.records().into_iter();
    let records = records.filter(|record| about.contains(&record.action));
    records
        .map(|record| {
            let reason = record.reason.map(|reason| reason.to_string());
            let (action, outcome) = (record.action.as_str(), record.outcome.as_str());
            format!("{action} {outcome} {}", reason.unwrap_or_default())
        })
        .collect()
}

fn text(answer: &HttpAnswer) -> &str {
    str::from_utf8(&answer.body).unwrap()
}

fn reason(answer: Result<HttpAnswer, Refusal>) -> String {
    let refusal = answer.unwrap_err();
    format!("{} {}", refusal.code.as_str(), refusal.reason_code.unwrap())
}
