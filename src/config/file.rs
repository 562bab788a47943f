//! The files as serde sees them. The only place here that derives serde traits.
//!
//! Each value is kept raw with its place: that way a value of the wrong type is reported under
//! its key and never quoted, as serde's own messages would.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// A value with its place in the text.
pub(super) type Raw = Spanned<toml::Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) audit_dir: Option<Raw>,
    pub(super) policy_file: Option<Raw>,
    #[serde(default)]
    pub(super) profiles: BTreeMap<Spanned<String>, RawProfile>,
    pub(super) limits: Option<RawLimits>,
    pub(super) gate: Option<RawGate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProfile {
    pub(super) base_url: Option<Raw>,
    pub(super) tenant_id: Option<Raw>,
    pub(super) allow_insecure_loopback: Option<Raw>,
    pub(super) allow_missing_token_info: Option<Raw>,
    pub(super) token_ttl: Option<Raw>,
    pub(super) client_display_name: Option<Raw>,
    pub(super) renew: Option<Raw>,
    pub(super) spiffe_bundle_file: Option<Raw>,
    pub(super) mtls_url: Option<Raw>,
    pub(super) workload_name: Option<Raw>,
    pub(super) ca_file: Option<Raw>,
    pub(super) login_origin: Option<Raw>,
    pub(super) proxy: Option<Raw>,
    pub(super) proxy_auth_file: Option<Raw>,
    #[serde(default)]
    pub(super) target: Vec<Spanned<RawTarget>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub(super) selector: Option<Raw>,
    pub(super) description: Option<Raw>,
    pub(super) actions: Option<Raw>,
    pub(super) ttl: Option<Raw>,
    pub(super) inject: Option<Spanned<RawInject>>,
    pub(super) decoy: Option<Raw>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGate {
    pub(super) decoy_locks: Option<Raw>,
    pub(super) denial_pause: Option<Raw>,
    pub(super) lock_after_idle: Option<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInject {
    pub(super) hosts: Option<Raw>,
    pub(super) scheme: Option<Raw>,
    pub(super) header: Option<Raw>,
    pub(super) user: Option<Raw>,
    pub(super) field: Option<Raw>,
    pub(super) region: Option<Raw>,
    pub(super) service: Option<Raw>,
    pub(super) methods: Option<Raw>,
    pub(super) paths: Option<Raw>,
    pub(super) max_request: Option<Raw>,
    pub(super) max_response: Option<Raw>,
    pub(super) allow_insecure_loopback: Option<Raw>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) connections: Option<Raw>,
    pub(super) in_flight_per_connection: Option<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    #[serde(default)]
    pub(super) rule: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) id: Option<Raw>,
    pub(super) effect: Option<Raw>,
    pub(super) selectors: Option<Raw>,
    pub(super) actions: Option<Raw>,
    pub(super) peers: Option<Vec<Spanned<RawPeer>>>,
    pub(super) expose: Option<Raw>,
    pub(super) max_ttl: Option<Raw>,
    pub(super) on_leak: Option<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    pub(super) exe: Option<Raw>,
    pub(super) under: Option<Raw>,
    pub(super) unit: Option<Raw>,
    pub(super) cgroup: Option<Raw>,
    pub(super) sha256: Option<Raw>,
}
