//! Each constraint of the policy on each way to a credential: enforced, or the request fails.

use std::time::Duration;

use aegis_broker::broker::handle::{Connection, CredentialRequest, LeaseRequest, ModelConnection};
use aegis_broker::broker::policy::Policy;
use aegis_broker::model::{
    Action, CleanText, Effect, ErrorCode, Exposure, HolderClass, LeaseId, PeerPattern, Refusal,
    Rule, SelectorPattern,
};

use crate::world::{DEPLOY, Daemon, READER, World, code, selector};

/// A way to a credential, or to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// `credential.get`: seen by who asks.
    Get,
    /// `lease.create`, at the programs' door.
    Create,
    /// The same at the models' door.
    ModelCreate,
    /// `lease.redeem` for a command.
    RedeemForCommand,
    /// `lease.redeem` to be seen.
    Redeem,
    /// `lease.revoke`.
    Revoke,
}

const PATHS: [Path; 6] = [
    Path::Get,
    Path::Create,
    Path::ModelCreate,
    Path::RedeemForCommand,
    Path::Redeem,
    Path::Revoke,
];

fn rule(change: impl FnOnce(&mut Rule)) -> Vec<Rule> {
    let mut rule = Rule {
        id: CleanText::new("one", 16),
        effect: Effect::Allow,
        selectors: vec![SelectorPattern::parse("gcp/*/*").unwrap()],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: None,
        on_leak: aegis_broker::model::OnLeak::Record,
    };
    change(&mut rule);
    vec![rule]
}

/// Everybody at work on one world.
struct Scene {
    daemon: Daemon,
    program: Connection,
    model: ModelConnection,
}

fn lease(ttl: Option<Duration>) -> LeaseRequest {
    LeaseRequest {
        selector: selector(DEPLOY),
        ttl,
        max_redemptions: 1,
        reason: None,
        holder: HolderClass::None,
    }
}

impl Scene {
    fn set(&self, rules: Vec<Rule>) {
        self.daemon
            .handle
            .replace_policy(Policy::new(rules))
            .unwrap();
    }

    /// A lease of ten minutes that a policy without constraints let through.
    async fn lease(&self) -> LeaseId {
        self.set(rule(|_| {}));
        let made = self
            .program
            .lease_create(None, lease(Some(Duration::from_mins(5))))
            .await;
        made.unwrap().lease_id
    }

    /// Goes that way under those rules: how long what came of it lives, where it says so.
    async fn go(&self, path: Path, rules: Vec<Rule>) -> Result<(), Refusal> {
        let id = match path {
            Path::RedeemForCommand | Path::Redeem | Path::Revoke => Some(self.lease().await),
            Path::Get | Path::Create | Path::ModelCreate => None,
        };
        self.set(rules);
        match (path, id) {
            (Path::Get, _) => {
                let request = CredentialRequest {
                    selector: selector(DEPLOY),
                    min_valid_for: Duration::ZERO,
                    reason: None,
                    holder: HolderClass::None,
                };
                self.program.credential(None, request).await.map(drop)
            }
            (Path::Create, _) => self.program.lease_create(None, lease(None)).await.map(drop),
            (Path::ModelCreate, _) => self.model.lease_create(lease(None)).await.map(drop),
            (Path::RedeemForCommand, Some(id)) => {
                let redeemed = self.program.lease_redeem_for(id, Exposure::Exec).await;
                redeemed.map(drop)
            }
            (Path::Redeem, Some(id)) => self.program.lease_redeem(id).await.map(drop),
            (Path::Revoke, Some(id)) => self.program.lease_revoke(id).await.map(drop),
            (Path::RedeemForCommand | Path::Redeem | Path::Revoke, None) => unreachable!(),
        }
    }
}

/// AP-4, IN-8: each constraint × each path, the ones that exist. What a path cannot keep to is
/// refused there; nothing is dropped.
#[tokio::test(start_paused = true)]
async fn every_constraint_holds_on_every_path() {
    use Path::{Create, Get, ModelCreate, Redeem, RedeemForCommand, Revoke};
    type Row = (&'static str, fn(&mut Rule), &'static [Path]);
    let rows: [Row; 11] = [
        ("nothing", |_| {}, &PATHS),
        (
            "another selector",
            |rule| rule.selectors = vec![SelectorPattern::parse(READER).unwrap()],
            &[],
        ),
        ("deny", |rule| rule.effect = Effect::Deny, &[]),
        (
            "expose use",
            |rule| rule.expose = Exposure::Use,
            &[Create, ModelCreate, Revoke],
        ),
        (
            "expose exec",
            |rule| rule.expose = Exposure::Exec,
            &[Create, ModelCreate, RedeemForCommand, Revoke],
        ),
        (
            "create alone",
            |rule| rule.actions = vec![Action::Create],
            &[Create, ModelCreate],
        ),
        (
            "redeem alone",
            |rule| rule.actions = vec![Action::Redeem],
            &[RedeemForCommand, Redeem],
        ),
        (
            "revoke alone",
            |rule| rule.actions = vec![Action::Revoke],
            &[Revoke],
        ),
        (
            "another program",
            |rule| rule.peers = vec![PeerPattern::Exe(CleanText::new("/other", 16))],
            &[],
        ),
        (
            "an unknown unit",
            |rule| rule.peers = vec![PeerPattern::Unit(CleanText::new("a.service", 16))],
            &[],
        ),
        // A lease that lives longer than the rule lets is not redeemed either; one made now is cut.
        (
            "max_ttl",
            |rule| rule.max_ttl = Some(Duration::from_mins(1)),
            &[Get, Create, ModelCreate, Revoke],
        ),
    ];
    let world = World::new().await;
    let (daemon, program) = world.logged_in().await;
    let model = daemon.connect_model();
    let scene = Scene {
        daemon,
        program,
        model,
    };
    for (name, change, open) in rows {
        for path in PATHS {
            let told = scene.go(path, rule(change)).await;
            let expected = (!open.contains(&path)).then_some(ErrorCode::PolicyDenied);
            assert_eq!(code(told), expected, "{name}: {path:?}");
        }
    }
}

/// AP-4, LC-3: what is cut is cut on every path that makes a lease: by the rule's `max_ttl`.
#[tokio::test(start_paused = true)]
async fn a_lease_is_cut_on_every_path_that_makes_one() {
    let world = World::new().await;
    let (daemon, program) = world.logged_in().await;
    let model = daemon.connect_model();
    let scene = Scene {
        daemon,
        program,
        model,
    };
    for path in [Path::Get, Path::Create, Path::ModelCreate] {
        let limit = rule(|rule| rule.max_ttl = Some(Duration::from_mins(1)));
        scene.go(path, limit).await.unwrap();
        let made = world.mock.leases().pop().unwrap();
        let life = made.expires_at.duration_since(made.created_at).unwrap();
        assert_eq!(life, Duration::from_mins(1), "{path:?}");
    }
}
