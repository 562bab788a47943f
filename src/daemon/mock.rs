use aegis_mock::Mock;
use url::Url;

use crate::model::{ErrorCode, Refusal};

/// The bundled server in this process, for `--mock`. Stops when dropped.
#[derive(Debug)]
pub(super) struct BundledServer {
    mock: Mock,
}

impl BundledServer {
    /// Starts it on free loopback ports.
    ///
    /// # Errors
    /// `internal` when it cannot listen.
    pub(super) async fn start() -> Result<Self, Refusal> {
        let mock = aegis_mock::spawn(aegis_mock::Options {
            control: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0))),
            ..aegis_mock::Options::default()
        })
        .await
        .map_err(|error| {
            Refusal::new(ErrorCode::Internal)
                .with_message(&format!("the bundled server does not start: {error}"))
        })?;
        Ok(Self { mock })
    }

    /// Where it answers.
    pub(super) fn url(&self) -> &Url {
        self.mock.api()
    }

    /// How a person approves a login there, until it has a page: one line for a shell. The token
    /// in it opens the bundled server only.
    pub(super) fn how_to_approve(&self) -> String {
        let control = self.mock.control().map(Url::as_str).unwrap_or_default();
        format!(
            "curl -sS -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' -d '{{\"userCode\":\"CODE\"}}' {control}_ctl/approve",
            self.mock.control_token()
        )
    }
}
