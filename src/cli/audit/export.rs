//! `audit export`: the log as the table that an incident report asks for, with the columns that the
//! Aegis documentation names.

use std::path::Path;

use super::not_read;
use crate::audit::verify::{Entry, visit};
use crate::audit::{AuditAction, AuditOutcome};
use crate::cli::{Context, render};
use crate::config::{self, Overrides, ProcessEnvironment};
use crate::model::{CleanText, ProfileName, Refusal, TenantId};

/// Its columns, in the order of the documentation.
const COLUMNS: [&str; 7] = [
    "timestamp_utc",
    "tenant_id",
    "principal_id",
    "endpoint",
    "request_id",
    "error_code",
    "impact_summary",
];

/// Where something happened that was no call to Aegis.
const LOCAL: &str = "local";

type Row = [String; COLUMNS.len()];

/// Writes every record of the log in `folder`, the oldest first: comma-separated with a line of
/// names (RFC 4180), or one JSON object a line.
pub(super) fn run(context: &Context, folder: &Path) -> Result<(), Refusal> {
    let tenant = configured_tenant();
    let line: fn(&Row) -> String = if context.json { object } else { csv };
    let mut written = if context.json {
        Ok(())
    } else {
        render::data(csv(&COLUMNS.map(str::to_owned)).as_bytes())
    };
    visit(folder, &mut |entry| {
        if written.is_ok() {
            written = render::data(line(&row(&entry, tenant.as_ref())).as_bytes());
        }
    })
    .map_err(not_read)?;
    written
}

/// The log names profiles; which tenant that is, only the configuration says.
fn configured_tenant() -> Option<(ProfileName, TenantId)> {
    let paths = crate::cli::files(Overrides::default(), super::NAME_IT).ok()?;
    let config = config::load(&paths, &Overrides::default(), &ProcessEnvironment::new()).ok()?;
    Some((config.profile.name, config.profile.tenant_id))
}

fn row(entry: &Entry, tenant: Option<&(ProfileName, TenantId)>) -> Row {
    let record = &entry.record;
    let tenant = tenant
        .filter(|(profile, _)| Some(profile) == record.profile.as_ref())
        .map(|(_, tenant)| tenant.to_string());
    let failed = record.outcome != AuditOutcome::Ok;
    let error = record
        .reason
        .as_ref()
        .filter(|_| failed)
        .map(CleanText::to_string);
    [
        entry.at.to_string(),
        tenant.unwrap_or_default(),
        text(record.principal.as_ref()),
        endpoint(record.action, record.trace.is_empty()).to_owned(),
        text(record.trace.request_id.as_ref()),
        error.unwrap_or_default(),
        summary(entry),
    ]
}

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Which method of Aegis it was.
const fn endpoint(action: AuditAction, is_local: bool) -> &'static str {
    if is_local {
        return LOCAL;
    }
    match action {
        AuditAction::LoginBegin => "IdentityGatewayService/BeginMcpOauthDeviceAuthorization",
        AuditAction::Login => "IdentityGatewayService/ExchangeMcpOauthDeviceAuthorization",
        AuditAction::SessionEnd => "BrokerService/RevokeBrokerAccess",
        AuditAction::SessionRenew => "BrokerService/ExchangeWorkloadToken",
        AuditAction::IdentityRenew => "BrokerService/CompleteSpiffeBootstrap",
        AuditAction::LeaseCreate => "BrokerService/CreateCredentialLease",
        AuditAction::LeaseRedeem => "BrokerService/RedeemCredentialLease",
        AuditAction::LeaseRevoke => "BrokerService/RevokeCredentialLease",
        AuditAction::Reconcile => "BrokerService/ListBrokerAuditEvents",
        AuditAction::Start
        | AuditAction::Stop
        | AuditAction::PolicyLoad
        | AuditAction::KeyStoreChoice
        | AuditAction::Logout
        | AuditAction::Lock
        | AuditAction::Deliver
        | AuditAction::HttpRequest
        | AuditAction::HttpResponse
        | AuditAction::Leak
        | AuditAction::Deny
        | AuditAction::Decoy
        | AuditAction::CallerPause => LOCAL,
    }
}

/// What it means, in one line: what was done to what, by whom, and until when that reaches.
fn summary(entry: &Entry) -> String {
    let record = &entry.record;
    let mut said = format!("{} {}", record.action.as_str(), record.outcome.as_str());
    let mut add = |what: &str, value: String| {
        if !value.is_empty() {
            said.push_str(what);
            said.push_str(&value);
        }
    };
    add(" for ", text(record.selector.as_ref()));
    add(", lease ", text(record.lease_id.as_ref()));
    add(" until ", text(record.lease_expires_at.as_ref()));
    let exe = record.peer.as_ref().and_then(|peer| peer.exe.as_ref());
    add(", asked for by ", text(exe));
    add(", rule ", text(record.rule.as_ref()));
    said
}

fn csv(row: &Row) -> String {
    let mut line = row
        .iter()
        .map(|cell| quoted(cell))
        .collect::<Vec<_>>()
        .join(",");
    line.push_str("\r\n");
    line
}

/// A cell of RFC 4180; one that a spreadsheet would take for a formula becomes text.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@']);
    if formula || cell.contains([',', '"', '\r', '\n']) {
        let guard = if formula { "'" } else { "" };
        format!("\"{guard}{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

fn object(row: &Row) -> String {
    let members = COLUMNS.iter().zip(row);
    let object: serde_json::Map<String, serde_json::Value> = members
        .map(|(name, cell)| ((*name).to_owned(), cell.as_str().into()))
        .collect();
    let mut line = serde_json::Value::Object(object).to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ports::AuditRecord;
    use crate::model::{LeaseId, Principal, RequestId, Selector};
    use crate::time::UnixTime;

    fn entry() -> Entry {
        let mut record = AuditRecord::new(AuditAction::LeaseCreate, AuditOutcome::Denied);
        record.profile = ProfileName::parse("work").ok();
        record.principal = Principal::parse("user:u-demo").ok();
        record.selector = Selector::parse("gcp/billing-prod/deploy-bot").ok();
        record.lease_id = LeaseId::parse("lse_1").ok();
        record.reason = Some(CleanText::new("policy_denied", 64));
        record.trace.request_id = RequestId::parse("req_1").ok();
        Entry {
            seq: 2,
            at: UnixTime::from_millis(1_795_341_600_000),
            record,
        }
    }

    fn tenant(profile: &str) -> (ProfileName, TenantId) {
        (
            ProfileName::parse(profile).unwrap(),
            TenantId::parse("business-default").unwrap(),
        )
    }

    /// `aegis.md` 11: the columns of an incident report.
    #[test]
    fn a_record_is_a_row_of_the_incident_table() {
        let row = row(&entry(), Some(&tenant("work")));
        assert_eq!(
            csv(&row),
            "2026-11-22T10:00:00.000Z,business-default,user:u-demo,\
             BrokerService/CreateCredentialLease,req_1,policy_denied,\
             \"lease.create denied for provider:gcp:app:billing-prod:account:deploy-bot, lease lse_1\"\r\n"
        );
        let object: serde_json::Value = serde_json::from_str(&object(&row)).unwrap();
        assert_eq!(object["error_code"], "policy_denied");
        assert_eq!(object.as_object().unwrap().len(), COLUMNS.len());
    }

    /// Of a record of another profile no tenant is claimed, and what was no call is local.
    #[test]
    fn nothing_is_claimed_that_is_not_known() {
        let mut entry = entry();
        entry.record.trace.request_id = None;
        let row = row(&entry, Some(&tenant("other")));
        assert_eq!((row[1].as_str(), row[3].as_str()), ("", LOCAL));
    }

    /// A cell cannot begin another column, another row or a formula.
    #[test]
    fn cells_stay_cells() {
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
