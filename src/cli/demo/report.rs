use std::time::Duration;

use serde_json::{Value, json};

use super::mcp_client::REVISION;

/// What the demonstration showed. Holds no secret: of the material, names only.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// As whom the login was approved, as the server wrote it down.
    pub(super) principal: String,
    /// The decision came from the server's page, as the server wrote it down.
    pub(super) at_the_page: bool,
    /// How often the daemon asked before it was approved.
    pub(super) polls: usize,
    /// The lease's name and its states at the server, in order.
    pub(super) lease_id: String,
    /// See there.
    pub(super) lease_states: Vec<String>,
    /// For what material was delivered.
    pub(super) selector: String,
    /// Its fields' names.
    pub(super) fields: Vec<String>,
    /// HTTP status of `whoami` while the lease lived.
    pub(super) whoami_before: u16,
    /// HTTP status after it was revoked.
    pub(super) whoami_after: u16,
    /// The server's reason for refusing the proof sent again.
    pub(super) replay: String,
    /// The code for the selector that the server does not grant.
    pub(super) outside_grant: String,
    /// The code for the selector that is not in the broker's catalogue.
    pub(super) outside_catalogue: String,
    /// What the model's client saw.
    pub(super) mcp: Mcp,
    /// The local chain verified.
    pub(super) verified: bool,
    /// With the key that the daemon holds.
    pub(super) keyed: bool,
    /// Events of the server's that were matched to local records, one to one.
    pub(super) reconciled: usize,
    /// How long each step took.
    pub(super) timings: Vec<(&'static str, Duration)>,
}

/// What a model's client saw over stdio, and what it did not.
#[derive(Debug, Clone, Default)]
pub(super) struct Mcp {
    /// The tools it was offered.
    pub(super) tools: usize,
    /// The states of its lease at the server, in order.
    pub(super) lease_states: Vec<String>,
    /// Bytes that it said and heard.
    pub(super) transcript_bytes: usize,
    /// Secrets in the server's journal, each of which was looked for.
    pub(super) secrets: usize,
    /// How many of them the search finds in the journal itself: all, or the search is blind.
    pub(super) found_in_journal: usize,
    /// How many of them it finds in the transcript.
    pub(super) found_in_transcript: usize,
}

impl Report {
    /// One JSON object.
    pub(super) fn to_json(&self) -> Value {
        let timings: serde_json::Map<String, Value> = self
            .timings
            .iter()
            .map(|(step, took)| {
                let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                ((*step).to_owned(), json!(millis))
            })
            .collect();
        let approved_by = if self.at_the_page {
            "a person at the server's page"
        } else {
            "the demonstration itself"
        };
        json!({
            "ok": true,
            "login": {
                "principal": self.principal,
                "approved_by": approved_by,
                "polls": self.polls,
            },
            "lease": { "id": self.lease_id, "states": self.lease_states },
            "delivered": { "selector": self.selector, "fields": self.fields },
            "whoami": { "before": self.whoami_before, "after_revoke": self.whoami_after },
            "refused": {
                "replayed_proof": self.replay,
                "outside_grant": self.outside_grant,
                "outside_catalogue": self.outside_catalogue,
            },
            "mcp": {
                "revision": REVISION,
                "tools": self.mcp.tools,
                "lease_states": self.mcp.lease_states,
                "transcript_bytes": self.mcp.transcript_bytes,
                "secrets_looked_for": self.mcp.secrets,
                "found_in_journal": self.mcp.found_in_journal,
                "found_in_transcript": self.mcp.found_in_transcript,
            },
            "audit": {
                "verified": self.verified,
                "keyed": self.keyed,
                "reconciled": self.reconciled > 0,
                "events": self.reconciled,
            },
            "timings_ms": timings,
        })
    }
}
