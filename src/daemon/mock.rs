use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aegis_mock::{Mock, SpawnError, StateFileError};
use url::Url;

use super::build::Plan;
use crate::config::{Config, Limits, Network, Paths, Profile, Renew, SvidSettings};
use crate::model::{
    Action, BoundHost, CleanText, Effect, ErrorCode, Exposure, Gate, HttpMethod, Injection,
    InjectionScheme, MAX_HTTP_RESPONSE, OnLeak, PathPrefix, ProfileName, Refusal, Rule, Selector,
    SelectorPattern, Target, TenantId,
};

/// The bundled server's state file, in the folder that the audit log's is in.
const REVOCATIONS: &str = "mock-revocations";

/// The bundled server in this process, for `--mock`. Stops when dropped.
#[derive(Debug)]
pub(super) struct BundledServer {
    mock: Mock,
}

/// Starts the bundled server where the plan wants it, and points the plan at it. The server runs
/// until what is returned is dropped; what it revoked is kept beside the audit log.
///
/// # Errors
/// `internal` when it cannot listen. `io_error` when the file with what it revoked cannot be used,
/// `already_running` when another daemon's server uses it.
pub(super) async fn join(mut plan: Plan) -> Result<(Plan, Option<BundledServer>), Refusal> {
    if !plan.mock {
        return Ok((plan, None));
    }
    let revocations = plan.config.audit_dir.with_file_name(REVOCATIONS);
    let server = BundledServer::start(revocations).await?;
    let profile = &mut plan.config.profile;
    profile.base_url = server.url().clone();
    profile.allow_insecure_loopback = true;
    for target in &mut profile.targets {
        if target.selector.parts().0 == PROVIDER && target.inject.is_none() {
            target.inject = injection(server.url()).map(Arc::new);
        }
    }
    tracing::info!(
        url = %profile.base_url,
        "the bundled server is up; approve a login at {}device, as {} with the password {}, or with: {}",
        server.url(),
        server.mock.demo_name(),
        server.mock.demo_password(),
        server.how_to_approve()
    );
    Ok((plan, Some(server)))
}

impl BundledServer {
    /// Starts it on free loopback ports.
    ///
    /// # Errors
    /// As [`join`].
    async fn start(revocations: PathBuf) -> Result<Self, Refusal> {
        let mock = aegis_mock::spawn(aegis_mock::Options {
            control: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0))),
            state: Some(revocations),
            ..aegis_mock::Options::default()
        })
        .await
        .map_err(|error| no_server(&error))?;
        Ok(Self { mock })
    }

    /// Where it answers.
    fn url(&self) -> &Url {
        self.mock.api()
    }

    /// How a login is approved there without the page: one line for a shell. The token in it opens
    /// the bundled server only, as the password of the page does.
    fn how_to_approve(&self) -> String {
        let control = self.mock.control().map(Url::as_str).unwrap_or_default();
        format!(
            "curl -sS -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' -d '{{\"userCode\":\"CODE\"}}' {control}_ctl/approve",
            self.mock.control_token()
        )
    }
}

fn no_server(error: &SpawnError) -> Refusal {
    let code = match error {
        SpawnError::State(StateFileError::InUse { .. }) => ErrorCode::AlreadyRunning,
        SpawnError::State(_) => ErrorCode::Io,
        SpawnError::Policy(_)
        | SpawnError::NotLoopback(_)
        | SpawnError::Listen { .. }
        | SpawnError::Thread(_)
        | SpawnError::Tls(_)
        | SpawnError::Url(_) => ErrorCode::Internal,
    };
    Refusal::new(code).with_error(error)
}

/// What the bundled server's demo user is granted, and so what `--mock` offers.
const CATALOGUE: [&str; 3] = [
    "gcp/billing-prod/deploy-bot",
    "gcp/billing-staging/deploy-bot",
    "generic/demo-db/reader",
];

/// The configuration of `--mock` where none is named: the bundled server's tenant and a catalogue
/// of its demo credentials. Its audit log is kept apart from that of real use.
///
/// # Errors
/// `internal` when these constants were no configuration.
pub(super) fn config(paths: &Paths) -> Result<Config, Refusal> {
    let targets = CATALOGUE
        .into_iter()
        .map(|selector| {
            Ok(Target {
                selector: Selector::parse(selector).map_err(|_error| constant())?,
                description: None,
                actions: Action::ALL.to_vec(),
                ttl: Duration::from_mins(5),
                decoy: false,
                inject: None,
            })
        })
        .collect::<Result<_, Refusal>>()?;
    Ok(Config {
        profile: Profile {
            name: ProfileName::parse("mock").map_err(|_error| constant())?,
            // Replaced by the server's own address as soon as it has one.
            base_url: Url::parse("http://127.0.0.1/").map_err(|_error| constant())?,
            tenant_id: TenantId::parse("business-default").map_err(|_error| constant())?,
            allow_insecure_loopback: true,
            allow_missing_token_info: false,
            token_ttl: Duration::from_mins(10),
            client_display_name: CleanText::new("aegis-broker --mock", 64),
            renew: Renew::Login,
            svid: SvidSettings {
                bundle_file: None,
                mtls_url: Url::parse("https://127.0.0.1/").map_err(|_error| constant())?,
                workload_name: "mock".to_owned(),
            },
            network: Network::default(),
            targets,
        },
        limits: Limits::default(),
        gate: Gate::default(),
        audit_dir: paths.state_dir.join("mock-audit"),
        policy_file: paths.policy_file.clone(),
    })
}

/// The policy of `--mock` where none is named: its demo credentials for everybody of this user.
///
/// # Errors
/// `internal` when these constants were no policy.
pub(super) fn rules() -> Result<Vec<Rule>, Refusal> {
    let selectors = CATALOGUE
        .into_iter()
        .map(|selector| SelectorPattern::parse(selector).map_err(|_error| constant()))
        .collect::<Result<_, Refusal>>()?;
    Ok(vec![Rule {
        id: CleanText::new("mock", 64),
        effect: Effect::Allow,
        selectors,
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: None,
        on_leak: OnLeak::Record,
    }])
}

/// Whose credentials the bundled server takes at its `whoami`.
const PROVIDER: &str = "gcp";

/// Where those may be used: at the bundled server itself.
fn injection(server: &Url) -> Option<Injection> {
    let host = format!("{}:{}", server.host_str()?, server.port()?);
    Some(Injection {
        hosts: vec![BoundHost::parse(&host, true).ok()?],
        scheme: InjectionScheme::Bearer { field: None },
        methods: vec![HttpMethod::Get],
        paths: vec![PathPrefix::parse("/fake/gcp/whoami").ok()?],
        max_request: 1,
        max_response: MAX_HTTP_RESPONSE,
    })
}

fn constant() -> Refusal {
    Refusal::new(ErrorCode::Internal).with_message("a constant of --mock is malformed")
}
