//! The parts of a request, one at a time: `cargo bench --bench micro`.
//!
//! What the library shows, and two small private files that lean on nothing else of it and are
//! compiled in here. The wire format is private to the socket door and is measured, with
//! everything else, by `latency`.

#[path = "../src/socket/frame.rs"]
#[expect(dead_code, reason = "the daemon uses more of it")]
mod frame;

#[path = "../src/dpop/thumbprint.rs"]
#[expect(dead_code, unused_imports, reason = "its tests run elsewhere")]
mod thumbprint;

use std::cell::RefCell;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aegis_broker::audit::FileAuditLog;
use aegis_broker::broker::effect::Effect;
use aegis_broker::broker::event::{ConnectionId, CredentialRequest, Door, Event, Request, Ticket};
use aegis_broker::broker::policy::{Policy, Question};
use aegis_broker::broker::ports::{
    Answer, AuditAction, AuditLog as _, AuditOutcome, AuditRecord, CallTrace, CreatedLease,
    DeviceAuthorization, DeviceExchange, RedeemedLease, Session,
};
use aegis_broker::broker::state::{Resumed, Settings, State};
use aegis_broker::dpop::{Htm, Htu, Nonce, Proof, ProofClaims, ProofKey, TokenHash};
use aegis_broker::keystore::MemoryKeyStore;
use aegis_broker::model::{
    Action, CleanText, Effect as PolicyEffect, Exposure, Field, FieldValue, Gate, HolderClass,
    LeaseId, Material, MaterialKind, Origin, PeerFacts, PopKeyId, Principal, ProcessId,
    ProfileName, Rule, Scope, Selector, SelectorPattern, SessionId, Target, TenantId,
};
use aegis_broker::secret::SecretString;
use aegis_broker::time::{Clock as _, Now, SystemClock, Timestamp, UnixTime};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use url::Url;

/// As in the daemon: what is freed is wiped, and that has its price.
#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

type Failed = Box<dyn std::error::Error>;

const SELECTOR: &str = "gcp/billing-prod/deploy-bot";

const CANONICAL: &str = "provider:gcp:app:billing-prod:account:deploy-bot";

/// A benchmark whose setting-up fails has nothing to measure and says why.
fn set_up<T>(made: Result<T, Failed>) -> T {
    #[expect(clippy::panic, reason = "criterion takes no errors")]
    made.unwrap_or_else(|error| panic!("{error}"))
}

fn proofs(criterion: &mut Criterion) {
    let made = || -> Result<_, Failed> {
        let url = "https://aegis.example.com/aegis.v1.BrokerService/RedeemCredentialLease";
        let bare = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_no_detail| "no key could be made")?;
        Ok((
            ProofKey::generate()?,
            bare,
            Htu::new(&Url::parse(url)?)?,
            Nonce::parse("eyJ7S_zG.eyJH0-Z.HX4w-7v")?,
            TokenHash::of(&SecretString::copy_from("an access token")),
        ))
    };
    let (key, bare, htu, nonce, token_hash) = set_up(made());
    let claims = ProofClaims {
        htm: Htm::Post,
        htu: &htu,
        issued_at: now().unix,
        nonce: Some(&nonce),
        token_hash: Some(&token_hash),
    };
    let proof = set_up(Proof::sign(&key, &claims).map_err(Into::into));
    let message = proof.jwt().rsplit_once('.').unwrap_or_default().0;
    let random = SystemRandom::new();
    let mut group = criterion.benchmark_group("dpop");
    group.bench_function("signature alone", |bencher| {
        bencher.iter(|| bare.sign(&random, black_box(message.as_bytes())));
    });
    group.bench_function("proof", |bencher| {
        bencher.iter(|| Proof::sign(&key, black_box(&claims)));
    });
    group.bench_function("key and thumbprint", |bencher| {
        bencher.iter(ProofKey::generate);
    });
    group.bench_function("thumbprint", |bencher| {
        bencher.iter(|| thumbprint::ec_p256(black_box(key.x()), black_box(key.y())));
    });
    group.bench_function("token hash", |bencher| {
        let token = SecretString::copy_from(&"x".repeat(900));
        bencher.iter(|| TokenHash::of(black_box(&token)));
    });
    group.finish();
}

fn selectors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("selector");
    for (name, text) in [("short", SELECTOR), ("canonical", CANONICAL)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Selector::parse(black_box(text)));
        });
    }
    group.finish();
}

/// A request as long as a usual one, as it comes off the socket.
fn frames(criterion: &mut Criterion) {
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"credential.get\",\"params\":{{\"selector\":\"{SELECTOR}\"}}}}\n"
    );
    let mut decoder = frame::LineDecoder::default();
    let mut whole = true;
    criterion.bench_function("frame", |bencher| {
        bencher.iter(|| {
            decoder.push(black_box(line.as_bytes()));
            whole &= matches!(decoder.next_line(), Ok(Some(_)));
            whole &= matches!(decoder.next_line(), Ok(None));
        });
    });
    assert!(whole, "a line did not come out as it went in");
}

fn rule(id: &str, pattern: &str) -> Result<Rule, Failed> {
    Ok(Rule {
        id: text(id),
        effect: PolicyEffect::Allow,
        selectors: vec![SelectorPattern::parse(pattern)?],
        actions: Action::ALL.to_vec(),
        peers: Vec::new(),
        expose: Exposure::Reveal,
        max_ttl: None,
        on_leak: aegis_broker::model::OnLeak::Record,
    })
}

/// The rule that fits stands last.
fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    let selector = set_up(Selector::parse(SELECTOR).map_err(Into::into));
    let peer = peer();
    for count in [10, 100] {
        let rules = (1..count)
            .map(|index| rule("other", &format!("gcp/app-{index}/*")))
            .chain([rule("this", SELECTOR)])
            .collect();
        let policy = Policy::new(set_up(rules));
        group.bench_function(format!("{count} rules"), |bencher| {
            bencher.iter(|| {
                policy.decide(black_box(Question {
                    peer: &peer,
                    selector: &selector,
                    actions: &[Action::Create, Action::Redeem],
                    exposure: Exposure::Reveal,
                }))
            });
        });
    }
    group.finish();
}

fn core(criterion: &mut Criterion) {
    let (mut state, selector) = set_up(serving());
    let request = get(&selector);
    let mut effects = Vec::new();
    let mut ticket = 100;
    criterion.bench_function("State::step, cached get", |bencher| {
        bencher.iter(|| {
            ticket += 1;
            let event = Event::Requested {
                ticket: Ticket(ticket),
                connection: ConnectionId(1),
                profile: None,
                request: Request::Credential(request.clone()),
            };
            effects.clear();
            state.step(event, black_box(begin()), &mut effects);
        });
    });
    let delivered = matches!(
        effects.as_slice(),
        [Effect::Audit(_), Effect::Reply { answer: Ok(_), .. }]
    );
    assert!(delivered, "the last get was not a cached one");
}

fn log(criterion: &mut Criterion) {
    let made = || -> Result<_, Failed> {
        let folder = tempfile::tempdir()?;
        let opened =
            FileAuditLog::open(&folder.path().join("audit"), &MemoryKeyStore::new(), now())?;
        let record = AuditRecord {
            profile: Some(ProfileName::parse("work")?),
            peer: Some(Arc::new(peer())),
            selector: Some(Selector::parse(SELECTOR)?),
            lease_id: Some(LeaseId::parse("lse_01HZX3K9V7")?),
            lease_expires_at: Some(now().unix),
            exposure: Some(Exposure::Reveal),
            rule: Some(text("deploy")),
            principal: Some(Principal::parse("user:u-demo")?),
            session_id: Some(SessionId::parse("ses_01HZX3K9V7")?),
            ..AuditRecord::new(AuditAction::Deliver, AuditOutcome::Ok)
        };
        Ok((folder, opened.log, record))
    };
    let (_folder, mut log, record) = set_up(made());
    let mut written = true;
    // The line alone: its text, its hash, its MAC. What is staged is written between the batches.
    let log_line = RefCell::new(&mut log);
    criterion.bench_function("audit line", |bencher| {
        bencher.iter_batched(
            || assert!(log_line.borrow_mut().write().is_ok()),
            |()| {
                log_line
                    .borrow_mut()
                    .stage(black_box(&record), now())
                    .is_ok()
            },
            BatchSize::NumIterations(64),
        );
    });
    assert!(log.write().is_ok(), "a line of the last batch was refused");
    criterion.bench_function("audit append", |bencher| {
        bencher.iter(|| written &= log.append(black_box(&record), now()).is_ok());
    });
    assert!(written, "the disk did not keep up, so this says nothing");
}

/// A core that is logged in and holds the material of one lease.
fn serving() -> Result<(State, Selector), Failed> {
    let selector = Selector::parse(SELECTOR)?;
    let settings = Settings {
        profile: ProfileName::parse("work")?,
        tenant: TenantId::parse("business-default")?,
        client_display_name: text("bench"),
        token_ttl: Duration::from_mins(10),
        renews: false,
        targets: vec![Target {
            selector: selector.clone(),
            description: None,
            actions: Action::ALL.to_vec(),
            ttl: Duration::from_mins(5),
            decoy: false,
            inject: None,
        }],
        gate: Gate::default(),
        key_store: "memory",
        audit_folder: PathBuf::from("/state/audit"),
    };
    let policy = Policy::new(vec![rule("all", "*/*/*")?]);
    let mut state = State::new(settings, policy, Resumed::default(), begin());
    let connection = ConnectionId(1);
    let peer = Arc::new(peer());
    drive(
        &mut state,
        Event::ConnectionOpened {
            connection,
            peer,
            door: Door::Programs,
        },
        begin(),
    )?;
    drive(&mut state, asked(1, Request::LoginBegin), begin())?;
    // The first poll comes with the interval, not before.
    let poll = state.next_deadline().ok_or("no poll is due")?;
    let at_poll = Now {
        boot: poll,
        ..begin()
    };
    drive(&mut state, Event::TimerFired, at_poll)?;
    drive(
        &mut state,
        asked(2, Request::Credential(get(&selector))),
        at_poll,
    )?;
    Ok((state, selector))
}

/// One event and everything that follows from it, with an issuer that says yes.
fn drive(state: &mut State, event: Event, now: Now) -> Result<(), Failed> {
    let mut events = vec![event];
    let mut effects = Vec::new();
    while let Some(event) = events.pop() {
        state.step(event, now, &mut effects);
        for effect in effects.drain(..) {
            events.extend(issuer(effect)?);
        }
    }
    Ok(())
}

fn issuer(effect: Effect) -> Result<Option<Event>, Failed> {
    Ok(match effect {
        Effect::BeginDeviceAuthorization {
            generation,
            request,
        } => Some(Event::DeviceAuthorizationAnswered {
            generation,
            answer: answer(DeviceAuthorization {
                request,
                device_code: SecretString::copy_from("device-code"),
                user_code: text("ABCD-EFGH"),
                verification_uri: text("https://aegis.example.com/device"),
                verification_uri_complete: None,
                interval: Duration::from_secs(1),
                expires_at: later(),
                expires_at_unix: begin().unix.plus(Duration::from_mins(10)),
                key: Arc::new(ProofKey::generate()?),
                pop_key_id: PopKeyId::parse("pop-bench")?,
            }),
        }),
        Effect::ExchangeDeviceAuthorization {
            generation,
            authorization,
        } => Some(Event::DeviceExchangeAnswered {
            generation,
            answer: answer(DeviceExchange::Success(Box::new(session(&authorization)?))),
        }),
        Effect::CreateLease {
            lease, generation, ..
        } => Some(Event::LeaseCreateAnswered {
            lease,
            generation,
            answer: answer(CreatedLease {
                lease_id: LeaseId::parse("lse_01HZX3K9V7")?,
                expires_at: later(),
                expires_at_unix: begin().unix.plus(Duration::from_mins(5)),
                max_redemptions: 1,
            }),
        }),
        Effect::RedeemLease {
            lease, generation, ..
        } => Some(Event::LeaseRedeemAnswered {
            lease,
            generation,
            answer: answer(RedeemedLease {
                material: material(),
                expires_at: later(),
                redemptions_used: 1,
            }),
        }),
        Effect::Audit(_)
        | Effect::Reply { .. }
        | Effect::RevokeLease { .. }
        | Effect::ListAuditEvents { .. }
        | Effect::ReadOwnCalls { .. }
        | Effect::RevokeAccess { .. }
        | Effect::SendHttp { .. }
        | Effect::BootstrapIdentity { .. }
        | Effect::RenewIdentity { .. }
        | Effect::RenewSession { .. }
        | Effect::WatchProcess { .. }
        | Effect::AbandonLogin
        | Effect::DropConnections
        | Effect::AbandonCalls { .. }
        | Effect::Stop { .. } => None,
    })
}

fn session(authorization: &DeviceAuthorization) -> Result<Session, Failed> {
    Ok(Session {
        principal: Principal::parse("user:u-demo")?,
        tenant: TenantId::parse("business-default")?,
        session_id: Some(SessionId::parse("ses_01HZX3K9V7")?),
        token: SecretString::copy_from("token"),
        key: Arc::clone(&authorization.key),
        pop_key_id: authorization.pop_key_id.clone(),
        scopes: Action::ALL
            .iter()
            .map(|action| {
                Ok(Scope {
                    action: *action,
                    selector: Selector::parse(SELECTOR)?,
                })
            })
            .collect::<Result<_, Failed>>()?,
        expires_at: begin().boot.plus(Duration::from_mins(10)),
        expires_at_unix: begin().unix.plus(Duration::from_mins(10)),
        renew_at: begin().boot.plus(Duration::from_mins(5)),
        ends_at: begin().boot.plus(Duration::from_hours(8)),
        bootstrap: None,
        binding_checked: true,
    })
}

fn material() -> Material {
    Material {
        kind: MaterialKind::GenericSecret,
        fields: vec![Field {
            name: Box::from("value"),
            value: FieldValue::Secret(SecretString::copy_from("a secret")),
        }],
        expires_at: begin().unix.plus(Duration::from_mins(5)),
    }
}

fn asked(ticket: u64, request: Request) -> Event {
    Event::Requested {
        ticket: Ticket(ticket),
        connection: ConnectionId(1),
        profile: None,
        request,
    }
}

fn get(selector: &Selector) -> CredentialRequest {
    CredentialRequest {
        selector: selector.clone(),
        min_valid_for: Duration::ZERO,
        reason: None,
        holder: HolderClass::None,
    }
}

fn answer<T>(outcome: T) -> Answer<T> {
    Answer {
        trace: CallTrace::default(),
        outcome: Ok(outcome),
    }
}

fn text(text: &str) -> CleanText {
    CleanText::new(text, 64)
}

fn peer() -> PeerFacts {
    PeerFacts {
        process: ProcessId {
            pid: 4711,
            started: 98_765,
        },
        exe: Some(text("/usr/bin/terraform")),
        ancestors: ["bash", "claude", "bash", "systemd"].map(text).to_vec(),
        origin: Origin::default(),
    }
}

fn now() -> Now {
    SystemClock.now()
}

/// When the core's little world begins.
fn begin() -> Now {
    Now {
        boot: Timestamp::from_millis(1_000_000),
        unix: UnixTime::from_millis(1_795_341_600_000),
    }
}

fn later() -> Timestamp {
    begin().boot.plus(Duration::from_mins(5))
}

criterion_group!(benches, proofs, selectors, frames, decisions, core, log);
criterion_main!(benches);
