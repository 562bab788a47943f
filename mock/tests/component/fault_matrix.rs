//! Every kind of fault at every RPC with a proof: it shows itself as its name says, does or leaves
//! undone what that means, and wears off.

use aegis_mock::{FaultKind, Mock};

use crate::client::{Answer, Key};
use crate::dpop_matrix::draft::{Carrier, Draft};
use crate::dpop_matrix::scene::{NonceRule, Rpc, Scene};
use crate::evidence::figure;

/// Where the connection was closed, there is no answer.
type Told = Result<Answer, reqwest::Error>;

/// Those that leave everything undone, and what is said.
const REFUSALS: [(FaultKind, u16, &str); 6] = [
    (FaultKind::Unavailable, 503, "unavailable"),
    (FaultKind::Internal, 500, "internal"),
    (FaultKind::RateLimited, 429, "rate_limited"),
    (FaultKind::NonceOnce, 401, "use_dpop_nonce"),
    (FaultKind::ClockSkew, 401, "proof_invalid"),
    (FaultKind::AuditUnavailable, 503, "audit_unavailable"),
];

/// A good call. What it needs is there before anything is counted.
async fn request(scene: &Scene, rpc: Rpc) -> reqwest::RequestBuilder {
    let draft = Draft::new(scene, rpc).await;
    draft.requests(Carrier::Body).await.1
}

async fn make(scene: &Scene, rpc: Rpc, kind: FaultKind) -> (Told, bool) {
    let request = request(scene, rpc).await;
    let before = traces(&scene.mock);
    scene.mock.fault(rpc.method(), kind, 1);
    let told = scene.client.try_send(request).await;
    (told, traces(&scene.mock) != before)
}

/// What a call leaves behind that does something: events that went well, and secrets.
fn traces(mock: &Mock) -> (usize, usize) {
    let done = mock
        .audit()
        .into_iter()
        .filter(|event| event.outcome == "ok");
    (done.count(), mock.secrets().len())
}

/// It has worn off.
async fn check_good(scene: &Scene, rpc: Rpc, kind: FaultKind) {
    let answer = scene.client.send(request(scene, rpc).await).await;
    assert_eq!(
        answer.reason(),
        "ok",
        "{rpc:?} after {kind:?}: {}",
        answer.body
    );
}

fn issues_a_token(rpc: Rpc) -> bool {
    matches!(rpc, Rpc::Mint | Rpc::ExchangeWorkload)
}

#[tokio::test]
async fn every_fault_shows_itself_at_every_rpc_and_wears_off() {
    let mut shown = 0;
    // A poll of a device login, with its states, has tests of its own.
    for rpc in Rpc::ALL.into_iter().filter(|rpc| *rpc != Rpc::Exchange) {
        let scene = Scene::set(NonceRule::Required, None, Key::generate()).await;
        for (kind, status, reason) in REFUSALS {
            if kind == FaultKind::AuditUnavailable && rpc == Rpc::ListEvents {
                // Nothing is recorded, so nothing can fail.
                continue;
            }
            let (told, done) = make(&scene, rpc, kind).await;
            let told = told.unwrap();
            let what = format!("{rpc:?} {kind:?}");
            assert_eq!((told.status, told.reason()), (status, reason), "{what}");
            assert!(!done, "{what}");
            check_good(&scene, rpc, kind).await;
            shown += 1;
        }
        for (kind, does) in [
            (FaultKind::CloseBefore, false),
            (FaultKind::CloseAfterCommit, true),
        ] {
            let (told, done) = make(&scene, rpc, kind).await;
            assert!(told.is_err(), "{rpc:?} {kind:?}");
            // A listing leaves no trace.
            assert_eq!(done, does && rpc != Rpc::ListEvents, "{rpc:?} {kind:?}");
            check_good(&scene, rpc, kind).await;
            shown += 1;
        }
        for kind in [FaultKind::BadJson, FaultKind::HugeBody] {
            let (told, _) = make(&scene, rpc, kind).await;
            let told = told.unwrap();
            let spoiled = told.body.is_null() || told.text("/status").len() > 10_000_000;
            assert!(told.status == 200 && spoiled, "{rpc:?} {kind:?}");
            check_good(&scene, rpc, kind).await;
            shown += 1;
        }
        if !issues_a_token(rpc) {
            continue;
        }
        for kind in [
            FaultKind::WrongThumbprint,
            FaultKind::WiderScope,
            FaultKind::ShortExpiry,
        ] {
            let (told, _) = make(&scene, rpc, kind).await;
            let told = told.unwrap();
            let info = &told.body["tokenInfo"];
            let wrong = info["thumbprint"] != scene.client.key.thumbprint();
            let wider = info["grantedScopes"].as_array().unwrap().len() > 1;
            let short = info["expiresInSeconds"] == 1;
            let expected = [
                kind == FaultKind::WrongThumbprint,
                kind == FaultKind::WiderScope,
                kind == FaultKind::ShortExpiry,
            ];
            assert_eq!([wrong, wider, short], expected, "{rpc:?} {kind:?}");
            check_good(&scene, rpc, kind).await;
            shown += 1;
        }
    }
    figure(&format!("{shown} faults shown at nine RPCs, each worn off"));
}
