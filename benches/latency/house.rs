//! A bundled server, a daemon that is logged in to it and holds material, and their folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use aegis_broker::model::{LoginPhase, Selector};
use aegis_broker::socket::client::Client;
use aegis_mock::{Background, Mock, Options};

use crate::args::Failed;
use crate::clock::nanos;
use crate::daemon::Daemon;

/// What the timed requests ask for: the first account of every house.
pub(crate) const SELECTOR: &str = "gcp/billing-prod/deploy-bot";

/// A login is renewed after this, so that no token and no lease of it ends within a round.
const FRESH: Duration = Duration::from_mins(6);

/// How a house is furnished.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Furniture {
    /// Selectors whose material is held.
    pub(crate) accounts: u16,
    /// Leases in all, those of the accounts included.
    pub(crate) leases: u16,
    /// What may be done with each; a login asks for at most 96 such things.
    pub(crate) actions: &'static [&'static str],
}

impl Furniture {
    /// One account, of which everything may be done, and its lease.
    pub(crate) const PLAIN: Self = Self {
        accounts: 1,
        leases: 1,
        actions: &["create", "redeem", "revoke"],
    };

    fn names(self) -> impl Iterator<Item = String> {
        (0..self.accounts).map(|index| match index {
            0 => "deploy-bot".to_owned(),
            _ => format!("deploy-bot-{index}"),
        })
    }

    /// A token as long as a real one, so that a reply is about as long as a real one.
    fn server_policy(self) -> String {
        let (filler, actions) = ("x".repeat(300), self.actions);
        let each = self.names().map(|name| {
            format!(
                r#"
[[grant]]
principal = "user:u-demo"
actions = {actions:?}
selector = "provider:gcp:app:billing-prod:account:{name}"
[[credential]]
selector = "provider:gcp:app:billing-prod:account:{name}"
kind = "gcp_access_token"
fields = {{ access_token = "mock-gcp-{{random}}-{filler}", service_account_email = "deploy-bot@billing-prod.example", project_id = "billing-prod" }}
"#
            )
        });
        let all: Vec<_> = std::iter::once(SERVER_POLICY.to_owned())
            .chain(each)
            .collect();
        all.concat()
    }

    pub(crate) fn config(self, mock: &Mock) -> String {
        let profile = format!(
            r#"[profiles.bench]
base_url = "{}"
tenant_id = "business-default"
allow_insecure_loopback = true
client_display_name = "aegis-broker bench"
token_ttl = "15m"
"#,
            mock.api()
        );
        let actions = self.actions;
        let each = self.names().map(|name| {
            format!(
                r#"
[[profiles.bench.target]]
selector = "gcp/billing-prod/{name}"
actions = {actions:?}
ttl = "14m"
"#
            )
        });
        let all: Vec<_> = std::iter::once(profile).chain(each).collect();
        all.concat()
    }
}

const SERVER_POLICY: &str = r#"
[server]
interval_seconds = 1
[throttle]
enabled = false
[[tenant]]
id = "business-default"
[[user]]
uid = "u-demo"
tenants = ["business-default"]
role = "org_admin"
"#;

const BROKER_POLICY: &str = r#"[[rule]]
id = "bench"
effect = "allow"
selectors = ["gcp/billing-prod/*"]
expose = "reveal"
"#;

/// Dropped, all of it is ended and the folder is gone.
#[derive(Debug)]
pub(crate) struct House {
    daemon: Daemon,
    furniture: Furniture,
    logged_in: u64,
    server: Background,
    folder: tempfile::TempDir,
}

impl House {
    /// Starts server and daemon, logs in, approves, and makes the leases whose material is held.
    pub(crate) fn start(bin: &Path, furniture: Furniture) -> Result<Self, Failed> {
        let mut house = Self::start_logged_out(bin, furniture)?;
        house.log_in()?;
        Ok(house)
    }

    /// The same without a login.
    pub(crate) fn start_logged_out(bin: &Path, furniture: Furniture) -> Result<Self, Failed> {
        let folder = tempfile::Builder::new()
            .prefix("aegis-broker-bench-")
            .tempdir()?;
        let server = Background::start(Options {
            policy_toml: Some(furniture.server_policy()),
            ..Options::default()
        })?;
        furnish(folder.path(), &furniture.config(&server.mock))?;
        Ok(Self {
            daemon: Daemon::start(bin, folder.path())?,
            furniture,
            logged_in: 0,
            server,
            folder,
        })
    }

    pub(crate) fn server(&self) -> &Background {
        &self.server
    }

    pub(crate) fn daemon(&self) -> (&Path, u32) {
        (self.daemon.socket(), self.daemon.id())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Logs in again if the last time was long ago. True if it did.
    pub(crate) fn keep_logged_in(&mut self) -> Result<bool, Failed> {
        let age = Duration::from_nanos(nanos().saturating_sub(self.logged_in));
        if age < FRESH {
            return Ok(false);
        }
        self.log_in_again()?;
        Ok(true)
    }

    /// Ends what the login was used for, calls under way included, and logs in.
    pub(crate) fn log_in_again(&mut self) -> Result<(), Failed> {
        Client::connect(self.daemon.socket())?.logout(None)?;
        self.log_in()
    }

    /// Kills the daemon. What it held is left to the next one.
    pub(crate) fn kill(&mut self) -> Result<(), Failed> {
        self.daemon.kill()?;
        Ok(std::fs::remove_file(self.folder.path().join("notify"))?)
    }

    /// Starts the next one.
    pub(crate) fn start_again(&mut self, bin: &Path) -> Result<(), Failed> {
        self.daemon = Daemon::start(bin, self.folder.path())?;
        Ok(())
    }

    pub(crate) fn log_in(&mut self) -> Result<(), Failed> {
        let mut client = Client::connect(self.daemon.socket())?;
        let LoginPhase::AwaitingApproval(device) = client.login_begin(None)?.view.phase else {
            return Err("the daemon shows no code".into());
        };
        self.server.mock.approve(device.user_code.as_str())?;
        let LoginPhase::LoggedIn { .. } = client.login_wait(None)?.view.phase else {
            return Err("the daemon is not logged in".into());
        };
        for name in self.furniture.names() {
            let selector = Selector::parse(&format!("gcp/billing-prod/{name}"))?;
            client.credential(&selector, None, None, None)?;
        }
        let selector = Selector::parse(SELECTOR)?;
        for _ in self.furniture.accounts..self.furniture.leases {
            client.lease_create(&selector, None, None, None, None)?;
        }
        self.logged_in = nanos();
        Ok(())
    }

    /// Ends everything and says so if something did not end well.
    pub(crate) fn stop(mut self) -> Result<(), Failed> {
        self.daemon.stop()?;
        Ok(self.folder.close()?)
    }
}

/// Writes what a daemon finds in its folder.
pub(crate) fn furnish(folder: &Path, config: &str) -> io::Result<()> {
    write(&folder.join("config.toml"), config)?;
    write(&folder.join("policy.toml"), BROKER_POLICY)
}

/// Writes a new file of our own.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
