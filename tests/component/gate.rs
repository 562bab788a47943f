//! What the broker does by itself: decoys, pauses for callers that are denied again and again, and
//! a lock when nobody comes.

use std::time::Duration;

use aegis_broker::broker::handle::{LeaseRequest, ModelConnection};
use aegis_broker::broker::policy::Policy;
use aegis_broker::broker::ports::{AuditAction, AuditOutcome, AuditRecord};
use aegis_broker::model::{
    Action, CleanText, Effect, ErrorCode, Exposure, Gate, HolderClass, LeaseView, LoginPhase,
    Refusal, Rule, SelectorPattern,
};

use crate::world::{DEPLOY, Daemon, Peer, READER, World, code, create, get, secret, selector};

/// Looks like the rest.
const DECOY: &str = "gcp/billing-prod/root-admin";
/// What no rule allows.
const DENIED: &str = "gcp/billing-prod/off-limits";

const MINUTE: Duration = Duration::from_mins(1);

async fn world(gate: Gate) -> World {
    let mut world = World::with_targets(&[DEPLOY, DECOY, READER, DENIED]).await;
    world.decoys = vec![DECOY];
    world.gate = gate;
    world
}

/// Allows everything but what is off limits, the decoy too.
fn rules(daemon: &Daemon) {
    let rule = |id: &str, effect, pattern: &str| Rule {
        id: CleanText::new(id, 64),
        effect,
        selectors: vec![SelectorPattern::parse(pattern).unwrap()],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: None,
        on_leak: aegis_broker::model::OnLeak::Record,
    };
    let rules = vec![
        rule("all", Effect::Allow, "*/*/*"),
        rule("not-that", Effect::Deny, DENIED),
    ];
    daemon.handle.replace_policy(Policy::new(rules)).unwrap();
}

async fn model_create(model: &ModelConnection, target: &str) -> Result<LeaseView, Refusal> {
    let request = LeaseRequest {
        selector: selector(target),
        ttl: None,
        max_redemptions: 1,
        reason: None,
        holder: HolderClass::Client,
    };
    model.lease_create(request).await
}

fn records(world: &World, daemon: &Daemon, action: AuditAction) -> Vec<AuditRecord> {
    daemon.sink.flush().unwrap();
    let mut records = world.records();
    records.retain(|record| record.action == action);
    records
}

/// A refusal as its caller reads it, with one name for what was asked for.
fn read(refusal: &Refusal, target: &str) -> String {
    format!("{refusal:?} {}", refusal.fix()).replace(target, "THAT")
}

/// Every way to ask for a target, at both doors.
async fn ask_every_way(daemon: &Daemon, target: &str) -> Vec<String> {
    // A caller each: nobody is denied often.
    let (first, second) = (daemon.connect(), daemon.connect());
    let model = daemon.connect_model();
    let mut told = vec![
        read(&get(&first, target).await.unwrap_err(), target),
        read(
            &create(&second, target, 1, HolderClass::None)
                .await
                .unwrap_err(),
            target,
        ),
        read(&model_create(&model, target).await.unwrap_err(), target),
    ];
    let mine = model.decisions().await.unwrap();
    let mine = mine.iter().map(|decision| {
        let rule = decision.rule.as_ref().map(CleanText::as_str);
        // The rule that denies is another one's, or none.
        let rule = rule.map(|rule| rule.replace("not-that", "default"));
        format!("{} {} {rule:?}", decision.action, decision.outcome)
    });
    told.extend(mine);
    told
}

/// A decoy is never given out, whatever the rules say, and is never asked for at the issuer; to its
/// caller it is a denial like any other, before the login, with it and under a lock, and the log
/// has a record of its own kind for each touch.
#[tokio::test(start_paused = true)]
async fn a_decoy_is_refused_like_anything_else_and_recorded_like_nothing_else() {
    let world = world(Gate::default()).await;
    let daemon = world.daemon();
    rules(&daemon);
    let person = daemon.connect();
    let mut touched = 0;
    for stage in ["logged out", "logged in", "locked"] {
        match stage {
            "logged in" => world.log_in(&person).await,
            "locked" => drop(person.lock().await.unwrap()),
            _ => {}
        }
        let calls = world.mock.requests().len();
        let decoy = ask_every_way(&daemon, DECOY).await;
        touched += 3;
        let denied = ask_every_way(&daemon, DENIED).await;
        assert_eq!(decoy[..3], denied[..3], "{stage}");
        if stage != "locked" {
            assert!(decoy[0].contains("PolicyDenied"), "{stage}: {}", decoy[0]);
            assert_eq!(decoy[3..], denied[3..], "{stage}");
        }
        assert_eq!(world.mock.requests().len(), calls, "{stage}");
        let records = records(&world, &daemon, AuditAction::Decoy);
        assert_eq!(records.len(), touched, "{stage}");
        for record in records {
            assert_eq!(record.outcome, AuditOutcome::Denied);
            assert_eq!(record.rule.unwrap().as_str(), "decoy");
            assert_eq!(record.selector, Some(selector(DECOY)));
            assert!(record.peer.is_some());
        }
    }
    let secrets = world.mock.secrets();
    assert!(!format!("{:?}", world.mock.leases()).contains("root-admin"));
    assert!(!secrets.is_empty(), "the control: there was a login");
}

/// A decoy stands in the catalogue, and in what a model may ask for, as what can be had does; the
/// login does not ask for it.
#[tokio::test(start_paused = true)]
async fn a_decoy_looks_real() {
    let world = world(Gate::default()).await;
    let (daemon, person) = world.logged_in().await;
    let LoginPhase::LoggedIn { scopes, .. } = person.login_wait(None).await.unwrap().phase else {
        panic!("not logged in");
    };
    assert!(scopes.iter().all(|scope| scope.selector != selector(DECOY)));
    for policy in ["everything", "one target"] {
        if policy == "one target" {
            let rule = Rule {
                id: CleanText::new("one", 64),
                effect: Effect::Allow,
                selectors: vec![SelectorPattern::parse(DEPLOY).unwrap()],
                actions: Action::ALL.to_vec(),
                peers: Vec::new(),
                expose: Exposure::Exec,
                max_ttl: Some(MINUTE),
                on_leak: aegis_broker::model::OnLeak::Record,
            };
            daemon
                .handle
                .replace_policy(Policy::new(vec![rule]))
                .unwrap();
        }
        let listed = person.targets(None).await.unwrap();
        let entry = |target: &str| {
            let found = listed
                .iter()
                .find(|entry| entry.selector == selector(target));
            let found = found.unwrap();
            (found.actions.clone(), found.granted)
        };
        assert_eq!(entry(DECOY), entry(DEPLOY), "{policy}");
        let model = daemon.connect_model();
        let offers = model.offers().await.unwrap();
        let offer = |target: &str| {
            let wanted = selector(target);
            let mut found = offers
                .iter()
                .find(|offer| offer.policy.selector == wanted)
                .unwrap()
                .policy
                .clone();
            found.selector = selector(DEPLOY);
            found
        };
        assert_eq!(offer(DECOY), offer(DEPLOY), "{policy}");
        let explained = model.explain(selector(DECOY)).await.unwrap();
        assert_eq!(explained.create, offer(DEPLOY).create, "{policy}");
    }
    // Who may have nothing is not offered one either.
    daemon
        .handle
        .replace_policy(Policy::new(Vec::new()))
        .unwrap();
    assert!(daemon.connect_model().offers().await.unwrap().is_empty());
    assert!(
        records(&world, &daemon, AuditAction::Decoy).is_empty(),
        "looking is not asking"
    );
}

/// Where it is configured, a decoy that is asked for locks the broker for everybody, at the issuer
/// too; where it is not, nobody else notices.
#[tokio::test(start_paused = true)]
async fn a_decoy_locks_the_broker_where_it_is_to() {
    for locks in [false, true] {
        let world = world(Gate {
            decoy_locks: locks,
            ..Gate::default()
        })
        .await;
        let (daemon, person) = world.logged_in().await;
        let material = secret(&get(&person, DEPLOY).await.unwrap());
        let caller = daemon.connect();
        let told = get(&caller, DECOY).await;
        assert_eq!(code(told), Some(ErrorCode::PolicyDenied), "{locks}");
        if locks {
            world.wait_for_a_revocation().await;
        }
        let expected = locks.then_some(ErrorCode::Locked);
        assert_eq!(code(get(&person, DEPLOY).await), expected, "{locks}");
        let status = world.whoami("gcp", &material).await;
        assert_eq!(status, if locks { 401 } else { 200 }, "{locks}");
        let locked = records(&world, &daemon, AuditAction::Lock);
        let reasons: Vec<_> = locked
            .iter()
            .map(|record| record.reason.as_ref().unwrap().as_str())
            .collect();
        assert_eq!(reasons, if locks { vec!["decoy"] } else { vec![] });
        if locks {
            assert!(locked[0].peer.is_some(), "it says who");
            world.log_in(&person).await;
            get(&person, DEPLOY).await.unwrap();
        }
    }
}

/// LM, `aegis.md` 14 and 17.13: the fifth denial in a minute pauses its caller for a minute, at both
/// doors, for what is in memory too; others, and ways to end things, are not affected.
#[tokio::test(start_paused = true)]
async fn a_caller_that_is_denied_again_and_again_is_paused() {
    let world = world(Gate::default()).await;
    let (daemon, person) = world.logged_in().await;
    rules(&daemon);
    let caller = daemon.connect();
    let lease = create(&caller, READER, 1, HolderClass::None).await.unwrap();
    let model = daemon.connect_model();
    model_create(&model, READER).await.unwrap();
    get(&caller, DEPLOY).await.unwrap();
    for denial in 0..5 {
        let told = [
            code(get(&caller, DENIED).await),
            code(model_create(&model, DENIED).await),
        ];
        assert_eq!(told, [Some(ErrorCode::PolicyDenied); 2], "{denial}");
    }
    for refusal in [
        get(&caller, DEPLOY).await.unwrap_err(),
        caller
            .lease_redeem(lease.lease_id.clone())
            .await
            .unwrap_err(),
        model_create(&model, READER).await.unwrap_err(),
        // A decoy gives itself away by nothing.
        get(&caller, DECOY).await.unwrap_err(),
    ] {
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert_eq!(refusal.reason_code.unwrap().as_str(), "denial_pause");
        let wait = refusal.retry_after.unwrap();
        assert!(wait <= MINUTE && wait > MINUTE / 2, "{wait:?}");
    }
    get(&person, DEPLOY).await.unwrap();
    caller.status().await.unwrap();
    caller.lease_revoke(lease.lease_id).await.unwrap();
    let pauses = records(&world, &daemon, AuditAction::CallerPause);
    assert_eq!(pauses.len(), 2, "one each");
    assert!(pauses.iter().all(|record| record.peer.is_some()));
    world.after(MINUTE).await;
    get(&caller, DEPLOY).await.unwrap();
    model_create(&model, READER).await.unwrap();
}

/// LM: four denials do not pause, another policy forgives, and a configuration key turns it off.
#[tokio::test(start_paused = true)]
async fn a_pause_is_not_begun_too_soon_and_can_be_turned_off() {
    for pauses in [true, false] {
        let world = world(Gate {
            denial_pause: pauses,
            ..Gate::default()
        })
        .await;
        let (daemon, _person) = world.logged_in().await;
        rules(&daemon);
        let caller = daemon.connect_as(&Peer::new());
        for _ in 0..4 {
            get(&caller, DENIED).await.unwrap_err();
        }
        get(&caller, DEPLOY).await.unwrap();
        get(&caller, DENIED).await.unwrap_err();
        let expected = pauses.then_some(ErrorCode::RateLimited);
        assert_eq!(code(get(&caller, DEPLOY).await), expected, "{pauses}");
        rules(&daemon);
        get(&caller, DEPLOY).await.unwrap();
    }
}

/// HY-7, LC-7: a broker that nobody uses for the configured time locks itself, revokes and wipes;
/// a use in between puts that off, looking does not.
#[tokio::test(start_paused = true)]
async fn a_broker_that_is_not_used_locks_itself() {
    let world = world(Gate {
        lock_after_idle: Some(2 * MINUTE),
        ..Gate::default()
    })
    .await;
    let (daemon, person) = world.logged_in().await;
    world.after(MINUTE + MINUTE / 2).await;
    let material = secret(&get(&person, DEPLOY).await.unwrap());
    world.after(MINUTE + MINUTE / 2).await;
    person.status().await.unwrap();
    assert_eq!(world.whoami("gcp", &material).await, 200);
    world.after(Duration::from_secs(29)).await;
    assert_eq!(person.status().await.unwrap().live_leases, 1);
    world.after(Duration::from_secs(2)).await;
    assert_eq!(world.whoami("gcp", &material).await, 401);
    let refused = get(&person, DEPLOY).await;
    assert_eq!(code(refused), Some(ErrorCode::Locked));
    let locked = records(&world, &daemon, AuditAction::Lock);
    assert_eq!(locked.len(), 1);
    assert_eq!(locked[0].reason.as_ref().unwrap().as_str(), "idle");
    assert_eq!(locked[0].peer, None, "nobody asked");
    let events = world.mock.audit();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event.reason == "locked")
        .map(|event| event.action.as_str())
        .collect();
    assert_eq!(told, ["lease.revoke", "session.end"]);
    world.nothing_is_sent_for(10 * MINUTE).await;
}
