//! Revocations that outlive the server.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use aegis_mock::{Mock, Options, StateFileError};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::client::{Client, GCP, random, scope};
use crate::control::Control;
use crate::device::all;

/// A folder that ends with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("aegis-mock-state-{}", random()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// In a folder that the server has to make.
    fn file(&self) -> PathBuf {
        self.0.join("made/revocations")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in the system's folder for such things.
        drop(fs::remove_dir_all(&self.0));
    }
}

async fn spawn(state: &Path) -> Mock {
    aegis_mock::spawn(with(state)).await.unwrap()
}

fn with(state: &Path) -> Options {
    Options {
        state: Some(state.to_owned()),
        ..Options::default()
    }
}

/// The same key at another server, logged in there.
async fn again(client: Client, mock: &Mock) -> Client {
    let mut next = Client::new(mock);
    next.key = client.key;
    let codes = next.begin(&everything()).await;
    mock.approve(codes.text("/userCode")).unwrap();
    next.take_token(codes.text("/deviceCode")).await;
    next
}

fn everything() -> Value {
    let scopes = ["create", "redeem", "revoke"].map(|action| scope(action, GCP));
    json!({ "requestedScopes": scopes })
}

#[tokio::test]
async fn a_revoked_lease_is_revoked_after_a_restart() {
    let folder = Folder::new();
    let file = folder.file();
    let mock = spawn(&file).await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let [revoked, live] = [
        client
            .lease(
                GCP,
                &json!({"maxRedemptions": 2, "purpose": "private words"}),
            )
            .await,
        client.lease(GCP, &json!({})).await,
    ];
    let redeemed = client.redeem(&revoked).await;
    let secret = redeemed.text("/credential/gcpAccessToken/accessToken");
    assert_eq!(client.revoke(&revoked).await.reason(), "ok");
    let told: Vec<String> = mock.secrets().into_iter().map(|one| one.value).collect();
    mock.stop().await;

    // Nothing secret is in it, and nobody else reads it.
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(&client.key.thumbprint()),
        "the search is blind"
    );
    let hidden = [revoked.as_str(), live.as_str(), "private words"];
    assert_eq!(told.len(), 3);
    for secret in told.iter().map(String::as_str).chain(hidden) {
        assert!(!text.contains(secret));
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);

    let mock = spawn(&file).await;
    let client = again(client, &mock).await;
    assert_eq!(client.whoami("gcp", secret).await, 401);
    assert_eq!(client.redeem(&revoked).await.reason(), "lease_revoked");
    let answer = client.revoke(&revoked).await;
    assert_eq!(answer.body["alreadyTerminal"], true);
    assert_eq!(answer.text("/lease/state"), "revoked");
    assert_eq!(answer.text("/lease/leaseId"), revoked);
    assert_eq!(answer.text("/lease/target/account"), GCP[2]);
    assert_eq!(answer.body["lease"]["redemptionsUsed"], 1);
    // What lived ended with the server: its material, too.
    assert_eq!(client.redeem(&live).await.reason(), "lease_not_found");
    // To another key it is as unknown as one that never was.
    let stranger = Client::logged_in(&mock, &[GCP]).await;
    assert_eq!(stranger.redeem(&revoked).await.reason(), "lease_not_found");
    mock.stop().await;

    // Once more: what was read is written again with what is new.
    let mock = spawn(&file).await;
    let client = again(client, &mock).await;
    let next = client.lease(GCP, &json!({})).await;
    assert_eq!(client.revoke(&next).await.reason(), "ok");
    mock.stop().await;
    let mock = spawn(&file).await;
    let client = again(client, &mock).await;
    for id in [revoked, next] {
        assert_eq!(client.redeem(&id).await.reason(), "lease_revoked");
    }
}

/// Many at once share a write, and none is answered before it.
#[tokio::test]
async fn revocations_at_once_are_all_saved() {
    let folder = Folder::new();
    let file = folder.file();
    let mock = spawn(&file).await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let mut leases = Vec::new();
    for _ in 0..20 {
        leases.push(client.lease(GCP, &json!({})).await);
    }
    let next = std::cell::Cell::new(0);
    let answers = all(20, || {
        let lease = &leases[next.replace(next.get() + 1)];
        client.revoke(lease)
    })
    .await;
    assert!(answers.iter().all(|answer| answer.reason() == "ok"));
    mock.stop().await;
    let mock = spawn(&file).await;
    let client = again(client, &mock).await;
    for lease in &leases {
        assert_eq!(client.redeem(lease).await.reason(), "lease_revoked");
    }
}

/// What cannot be saved is not said to be done; it holds all the same, and asking again saves it.
/// The audit chain has both: that the lease ended, and that the answer was another.
#[tokio::test]
async fn a_revocation_that_cannot_be_saved_is_to_be_asked_for_again() {
    let folder = Folder::new();
    let file = folder.file();
    let mock = spawn(&file).await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let lease = client.lease(GCP, &json!({})).await;
    // Where the new file would be written.
    let in_the_way = file.with_file_name("revocations.new");
    fs::create_dir(&in_the_way).unwrap();
    let answer = client.revoke(&lease).await;
    assert_eq!((answer.status, answer.reason()), (503, "unavailable"));
    let told: Vec<_> = mock
        .audit()
        .into_iter()
        .filter(|event| event.action == "lease.revoke" && event.lease_id == lease)
        .map(|event| event.outcome)
        .collect();
    assert_eq!(told, ["ok", "error"]);
    assert_eq!(client.redeem(&lease).await.reason(), "lease_revoked");
    fs::remove_dir(&in_the_way).unwrap();
    let answer = client.revoke(&lease).await;
    assert_eq!(answer.body["alreadyTerminal"], true);
    mock.stop().await;
    let mock = spawn(&file).await;
    let client = again(client, &mock).await;
    assert_eq!(client.redeem(&lease).await.reason(), "lease_revoked");
}

/// LM: a file that cannot be trusted is named and left alone; never is it taken for none.
#[tokio::test]
async fn a_file_that_cannot_be_trusted_is_refused() {
    let folder = Folder::new();
    let good = folder.0.join("good");
    let mock = spawn(&good).await;
    let client = Client::logged_in(&mock, &[GCP]).await;
    let lease = client.lease(GCP, &json!({})).await;
    assert_eq!(client.revoke(&lease).await.reason(), "ok");
    mock.stop().await;
    let whole = fs::read(&good).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;

    let path = |name: &str| folder.0.join(name);
    let write = |name: &str, bytes: &[u8], mode: u32| {
        fs::write(path(name), bytes).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("empty", b"", 0o600);
    write("cut", &whole[..whole.len() - 1], 0o600);
    write("flipped", &flipped, 0o600);
    write("no text", &[0xff; 64], 0o600);
    write("of all", &whole, 0o644);
    write("of the group", &whole, 0o620);
    write("large", &vec![b' '; 4 * 1024 * 1024 + 1], 0o600);
    fs::create_dir(path("folder")).unwrap();
    symlink(&good, path("link")).unwrap();
    let mut rows = vec![
        ("empty", "is damaged"),
        ("cut", "is damaged"),
        ("flipped", "is damaged"),
        ("no text", "is damaged"),
        ("of all", "others may read"),
        ("of the group", "others may read"),
        ("large", "larger than 4 MiB"),
        ("folder", "no plain file"),
        ("link", "state file"),
    ];
    write("a stranger's", &whole, 0o600);
    // Only root can give a file away; the others have no such file in a folder of their own.
    if chown(path("a stranger's"), Some(12_345), None).is_ok() {
        rows.push(("a stranger's", "another user's"));
    }
    for (name, words) in rows {
        let refused = aegis_mock::spawn(with(&path(name))).await.unwrap_err();
        let told = refused.to_string();
        assert!(told.contains(words), "{name}: {told}");
        assert!(told.contains(name), "{name}: {told}");
    }
    assert_eq!(fs::read(path("flipped")).unwrap(), flipped);
    assert_eq!(fs::read(&good).unwrap(), whole);
    // The control: the file that these were made from is a good one.
    spawn(&good).await.stop().await;
}

#[tokio::test]
async fn two_servers_do_not_share_a_file() {
    let folder = Folder::new();
    let first = spawn(&folder.file()).await;
    let refused = aegis_mock::spawn(with(&folder.file())).await.unwrap_err();
    assert!(matches!(
        refused,
        aegis_mock::SpawnError::State(StateFileError::InUse { .. })
    ));
    first.stop().await;
    spawn(&folder.file()).await.stop().await;
}

/// The program with a state file, and where it listens.
async fn program(state: &Path) -> (Child, Value) {
    let mut child = command(state).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

fn command(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aegis-mock"));
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
            "--state",
        ])
        .arg(state)
        .kill_on_drop(true);
    command
}

/// Approves over control, as from another process.
pub(crate) async fn log_in(client: &mut Client, addresses: &Value) {
    let text = |name: &str| addresses[name].as_str().unwrap();
    let control = Control::new(text("control"), text("control_token"));
    let codes = client.begin(&everything()).await;
    let code = json!({"userCode": codes.text("/userCode")});
    assert_eq!(control.post("approve", code).await, 200);
    client.take_token(codes.text("/deviceCode")).await;
}

/// Nothing but the answer stands between the revocation and the end of the process.
#[tokio::test]
async fn a_revocation_that_was_answered_survives_sigkill() {
    let folder = Folder::new();
    let (mut child, addresses) = program(&folder.file()).await;
    let mut client = Client::at(addresses["api"].as_str().unwrap());
    log_in(&mut client, &addresses).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        let lease = client.lease(GCP, &json!({"maxRedemptions": 2})).await;
        assert_eq!(client.redeem(&lease).await.reason(), "ok");
        assert_eq!(client.revoke(&lease).await.reason(), "ok");
        leases.push(lease);
    }
    child.kill().await.unwrap();
    // What a write that was cut off leaves is in nobody's way.
    fs::write(folder.0.join("made/revocations.new"), "half").unwrap();

    let (_child, addresses) = program(&folder.file()).await;
    let mut next = Client::at(addresses["api"].as_str().unwrap());
    next.key = client.key;
    log_in(&mut next, &addresses).await;
    for lease in &leases {
        assert_eq!(next.redeem(lease).await.reason(), "lease_revoked");
    }
    let lease = next.lease(GCP, &json!({})).await;
    assert_eq!(next.revoke(&lease).await.reason(), "ok");
    assert!(!folder.0.join("made/revocations.new").exists());
}

#[tokio::test]
async fn the_program_does_not_start_on_a_damaged_file_and_says_why() {
    let folder = Folder::new();
    let file = folder.0.join("state");
    fs::write(&file, "nothing was revoked").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let ended = command(&file).output().await.unwrap();
    assert!(!ended.status.success());
    assert!(ended.stdout.is_empty());
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(
        said.contains("is damaged") && said.contains("state"),
        "{said}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"nothing was revoked");
}
