//! Nothing secret where it does not belong.

use aegis_broker::model::HolderClass;

use crate::world::{DEPLOY, READER, World, create, get};

/// HY-3, HY-4, DG-9, DP-16: neither the audit folder nor any log nor the `Debug` of anything a door
/// is given holds a secret or a proof, through a whole life and after logout.
#[tokio::test(start_paused = true)]
async fn no_secret_is_shown_recorded_or_logged() {
    let world = World::new().await;
    let daemon = world.daemon();
    let connection = daemon.connect();
    let mut shown = vec![format!("{:?}", daemon.handle), format!("{connection:?}")];
    let mut show = |text: String| shown.push(text);
    show(format!("{:?}", connection.login_begin(None).await));
    show(format!("{:?}", connection.status().await));
    show(format!("{:?}", get(&connection, DEPLOY).await));
    let code = world.mock.pending_user_codes().pop().unwrap();
    world.mock.approve(&code).unwrap();
    show(format!("{:?}", connection.login_wait(None).await));
    show(format!("{:?}", connection.status().await));
    show(format!("{:?}", connection.targets(None).await));
    for target in [DEPLOY, READER] {
        let delivery = get(&connection, target).await.unwrap();
        show(format!("{delivery:?} {:?}", delivery.material));
        let lease = create(&connection, target, 2, HolderClass::None)
            .await
            .unwrap();
        show(format!("{lease:?}"));
        let id = lease.lease_id;
        show(format!("{:?}", connection.lease_redeem(id.clone()).await));
        show(format!("{:?}", connection.leases().await));
        show(format!("{:?}", connection.lease_revoke(id.clone()).await));
        show(format!("{:?}", connection.lease_redeem(id).await));
    }
    show(format!("{:?}", connection.audit_verify().await));
    show(format!("{:?}", connection.logout(None).await));
    show(format!("{:?}", get(&connection, DEPLOY).await));
    show(format!("{:?}", connection.lock().await));
    daemon.stop().await;
    let kinds: Vec<_> = world.canaries().into_iter().map(|(kind, _)| kind).collect();
    for kind in [
        "device_code",
        "broker_token",
        "access_token",
        "password",
        "proof",
    ] {
        assert!(kinds.iter().any(|found| found == kind), "{kind}");
    }
    world.assert_nothing_secret_in(&shown.join("\n"));
}
