//! What must not be seen outside of where it belongs, looked for everywhere.

use std::fs;
use std::path::Path;

use aegis_mock::FaultKind;
use serde_json::{Value, json};

use super::evidence::canaries::{Canaries, Sighting, Sightings, in_every_form, unmasked};
use super::evidence::{figure, times};
use super::house::{House, SELECTOR, files, find};
use super::memory::{self, LOOK, Subject};

/// HY-9: what libraries say of requests, frames and arguments is not logged, whatever the level.
/// The control: our own lines of that level are.
#[test]
fn libraries_stay_quiet_at_every_log_level() {
    const LIBRARIES: [&str; 6] = ["rmcp", "reqwest", "hyper", "hyper_util", "h2", "rustls"];
    let house = House::new();
    let wanted = LIBRARIES.map(|library| format!("{library}=trace"));
    let level = format!("trace,{}", wanted.join(","));
    let daemon = house.start(&mut house.daemon_command(), &level);
    house.log_in();
    house.material();
    let mut model = house.connect_model();
    model.ask("tools/list", &json!({}));
    drop(model);
    assert!(daemon.stop().success());
    let log = fs::read_to_string(house.path("daemon.log")).unwrap();
    let is_quiet = |word: &&str| ["TRACE", "DEBUG", "INFO"].contains(word);
    let quiet = log.lines().filter(|line| {
        line.split_whitespace()
            .nth(1)
            .as_ref()
            .is_some_and(is_quiet)
    });
    let (libraries, ours): (Vec<_>, Vec<_>) = quiet.partition(|line| {
        line.split_whitespace().any(|word| {
            let target = word.split([':', '{']).next();
            word.contains(':') && target.is_some_and(|target| LIBRARIES.contains(&target))
        })
    });
    assert!(libraries.is_empty(), "{libraries:#?}");
    assert!(
        ours.iter().any(|line| line.contains("DEBUG aegis_broker")),
        "{log}"
    );
}

/// HY-4, PE-7, DG-9, MC-4: device code, token, material and proofs are in no form and no piece
/// anywhere but where they belong, at any log level, also where a program asked badly, a server
/// misbehaved or a thread panicked with a credential in its message.
#[test]
fn secrets_stay_out_of_everything_that_can_be_seen() {
    if let Some(told) = std::env::var_os(LOOK) {
        return memory::serve(Path::new(&told));
    }
    let house = House::new();
    let name = "leaks::secrets_stay_out_of_everything_that_can_be_seen";
    let mut subject = Subject::of_itself(&house, name);
    let mut model = house.connect_model();
    model.ask("tools/call", &json!({ "name": "login", "arguments": {} }));
    house.log_in();
    house.material();
    assert!(subject.panic());
    let mut shown = Vec::new();
    let mut show = |arguments: &[&str]| {
        let output = house.run(&[arguments, &["--json"]].concat());
        shown.push((arguments.join(" "), output.stdout));
        shown.push((arguments.join(" "), output.stderr));
    };
    let made = house.json(&["lease", "create", SELECTOR]);
    let id = find(&made, "lease_id").unwrap();
    house.json(&["lease", "redeem", &id]);
    for arguments in [
        &["lease", "redeem", &id][..],
        &["lease", "list"],
        &["status"],
        &["get", "gcp/nobody/knows"],
        &["audit", "show"],
        &["audit", "verify"],
        &["lease", "revoke", &id],
    ] {
        show(arguments);
    }
    for kind in [FaultKind::BadJson, FaultKind::WrongTarget] {
        house.server.mock.fault("RedeemCredentialLease", kind, 2);
        let made = house.json(&["lease", "create", SELECTOR]);
        show(&["lease", "redeem", &find(&made, "lease_id").unwrap()]);
    }
    let tool = json!({ "name": "lease_create", "arguments": { "selector": SELECTOR } });
    model.ask("tools/call", &tool);
    let tools = ["status", "target_list", "lease_list", "audit_recent"];
    for tool in tools {
        model.ask("tools/call", &json!({ "name": tool, "arguments": {} }));
    }
    let running = process(subject.daemon.pid());
    show(&["logout"]);
    shown.push(("transcript".to_owned(), model.transcript.into_bytes()));
    assert!(subject.stop().success());

    let log = fs::read_to_string(house.path("daemon.log")).unwrap();
    assert!(log.contains("DEBUG aegis_broker"), "not verbose: {log}");
    assert!(log.contains("a mistake of ours"), "no panic: {log}");
    let canaries = everything_secret(&house);
    for (place, bytes) in running.into_iter().chain(on_disk(&house)).chain(shown) {
        let seen = canaries.seen_in(&bytes);
        assert!(seen.is_empty(), "{place}: {seen:?}");
    }
}

/// The control: the same search through the same places finds what was put there, in every form.
#[test]
fn a_secret_that_is_put_somewhere_is_seen_there() {
    const SECRET: &str = "planted-NK4wXlRHyuXEbYz7FqDA";
    let house = House::new();
    house.make_runtime();
    fs::create_dir_all(house.audit()).unwrap();
    let forms = in_every_form("planted", SECRET);
    let canaries = Canaries::new(forms.clone());
    for (form, masked) in forms {
        let text = unmasked(&masked);
        let argument = format!("x{text}x");
        let mut shell = std::process::Command::new("sh");
        let mut waiting = shell
            .args(["-c", "read line", &argument])
            .env_clear()
            .env("PLANTED", &argument)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let running = process(waiting.id());
        drop(waiting.stdin.take());
        waiting.wait().unwrap();
        for place in ["cmdline", "environ"] {
            let (_, bytes) = running.iter().find(|(name, _)| name == place).unwrap();
            assert!(!canaries.seen_in(bytes).is_empty(), "{form} in {place}");
        }
        let files = [
            house.path("daemon.log"),
            house.path("daemon.out"),
            house.audit().join("segment"),
            house.runtime().join("file"),
            house.path(".config-file"),
        ];
        for file in &files {
            fs::write(file, format!("line\nbefore {text} after\n")).unwrap();
        }
        let named = house.path(&text.replace('\\', "_"));
        fs::write(&named, "").unwrap();
        let seen: Vec<_> = on_disk(&house)
            .into_iter()
            .filter(|(_, bytes)| !canaries.seen_in(bytes).is_empty())
            .map(|(place, _)| place)
            .collect();
        for file in &files {
            let place = file.display().to_string();
            assert!(seen.contains(&place), "{form} in {place}: {seen:?}");
        }
        // The name of one that is called so, too, but for JSON's backslashes.
        assert_eq!(seen.contains(&"names".to_owned()), !form.contains("json"));
        fs::remove_file(named).unwrap();
    }
}

/// All that was handed out or shown as a proof, in every form.
fn everything_secret(house: &House) -> Canaries {
    let secrets = secrets(house);
    for kind in ALL {
        assert!(secrets.iter().any(|(one, _)| one == kind), "no {kind}");
    }
    let proofs = house.server.mock.requests().into_iter();
    let signatures = proofs.filter_map(|request| {
        let proof = request.proof?;
        let signature = proof.rsplit('.').next()?;
        Some(("proof".to_owned(), signature.to_owned()))
    });
    let all = secrets.iter().cloned().chain(signatures);
    Canaries::new(
        all.flat_map(|(kind, secret)| in_every_form(&kind, &secret))
            .collect(),
    )
}

/// What the kernel shows of a process. What it does not show to this user it shows to nobody else.
fn process(pid: u32) -> Vec<(String, Vec<u8>)> {
    let mut shown = Vec::new();
    for name in ["cmdline", "comm", "environ", "maps", "status", "mountinfo"] {
        if let Ok(bytes) = fs::read(format!("/proc/{pid}/{name}")) {
            shown.push((name.to_owned(), bytes));
        }
    }
    for folder in ["fd", "map_files", "task"] {
        let entries = fs::read_dir(format!("/proc/{pid}/{folder}"));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            let shows = match folder {
                "task" => fs::read(path.join("comm")).ok(),
                _ => fs::read_link(&path)
                    .ok()
                    .map(|link| link.into_os_string().into_encoded_bytes()),
            };
            shown.extend(shows.map(|bytes| (path.display().to_string(), bytes)));
        }
    }
    shown
}

/// Every file of the house but its programs, and the names of all.
fn on_disk(house: &House) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut names = Vec::new();
    for (path, bytes) in files(house.folder.path()) {
        let place = path.display().to_string();
        names.extend_from_slice(place.as_bytes());
        names.push(b'\n');
        if !bytes.starts_with(b"\x7fELF") {
            found.push((place, bytes));
        }
    }
    found.push(("names".to_owned(), names));
    found
}

/// What the server has handed out, by kind.
fn secrets(house: &House) -> Vec<(String, String)> {
    let secrets = house.server.mock.secrets().into_iter();
    secrets.map(|secret| (secret.kind, secret.value)).collect()
}

fn whole(seen: &Sightings, kind: &str) -> usize {
    seen.get(kind).map_or(0, |sighting| sighting.whole)
}

/// A daemon that is asked over its socket, and its memory looked through.
struct Looked<'a> {
    house: &'a House,
    subject: Subject,
    report: Vec<String>,
    looks: usize,
    logged_in: bool,
}

impl Looked<'_> {
    fn ask(&self, method: &str) -> Value {
        self.house.ask(method, &json!({}))
    }

    fn get(&self) -> Value {
        self.house
            .ask("credential.get", &json!({ "selector": SELECTOR }))
    }

    fn begin(&self) -> String {
        let shown = self.ask("login.begin");
        find(&shown, "user_code").unwrap_or_else(|| panic!("{shown}"))
    }

    fn log_in(&self) {
        let code = self.begin();
        self.house.server.mock.approve(&code).unwrap();
        let done = self.ask("login.wait");
        assert!(done["result"].is_object(), "{done}");
    }

    fn fault(&self, method: &str, kind: FaultKind) {
        self.house.server.mock.fault(method, kind, 1);
    }

    /// The control: these are there, whole, while they are held.
    fn holds(&mut self, kinds: &[&str]) {
        let seen = self.subject.look_for(&secrets(self.house));
        for kind in kinds {
            assert!(whole(&seen, kind) > 0, "no {kind} in {seen:?}: blind");
        }
    }

    /// None of these kinds is there any more, whole or in pieces, whoever it was handed to; the token
    /// is, where it is not among them: what was looked through is the memory of somebody who is
    /// logged in.
    fn holds_no(&mut self, kinds: &[&str], after: &str) {
        let all = secrets(self.house);
        let seen = self.subject.look_for(&all);
        let gone = all
            .iter()
            .filter(|(kind, _)| kinds.contains(&kind.as_str()));
        let gone = gone.count();
        assert!(gone >= kinds.len(), "{after}: nothing to look for");
        let report = format!("{after}: {gone} values gone, seen {seen:?}");
        self.report.push(report);
        self.looks += 1;
        for kind in kinds {
            let sighting = seen.get(*kind).copied().unwrap_or_default();
            assert_eq!(sighting, Sighting::default(), "{kind}: {:#?}", self.report);
        }
        let is_logged_in = !kinds.contains(&TOKEN) && self.logged_in;
        assert!(!is_logged_in || whole(&seen, TOKEN) > 0, "{after}: blind");
    }
}

const CODE: &str = "device_code";
const TOKEN: &str = "broker_token";
const MATERIAL: &str = "access_token";
const ALL: [&str; 3] = [CODE, TOKEN, MATERIAL];

/// HY-6, HY-7, DG-9, HY-4: device code, token and material are in the daemon's memory while they are
/// held and not after, however their time ends. The shipped program is looked into from outside,
/// which takes root; the same code in this suite's program looks at itself, as an ordinary user.
#[test]
fn secrets_leave_the_memory_when_their_time_ends() {
    if let Some(told) = std::env::var_os(LOOK) {
        return memory::serve(Path::new(&told));
    }
    let name = "leaks::secrets_leave_the_memory_when_their_time_ends";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let house = House::of_nobody();
            live_and_forget(&house, Subject::of_itself(&house, name), "the own memory");
        });
        if rustix::process::geteuid().is_root() {
            let house = House::of_nobody();
            live_and_forget(&house, Subject::shipped(&house), "the shipped program");
        }
    });
}

fn live_and_forget(house: &House, subject: Subject, whose: &str) {
    let mut at = Looked {
        house,
        subject,
        report: Vec::new(),
        looks: 0,
        logged_in: false,
    };
    for _ in 0..times(1, 50) {
        a_life(&mut at);
    }
    let looks = at.looks;
    figure(&format!(
        "{looks} looks into {whose}: 0 whole secrets, 0 pieces"
    ));
}

fn a_life(at: &mut Looked<'_>) {
    let mock = &at.house.server.mock;
    // A login that is cancelled, one that is denied, one that the server answers wrongly.
    at.begin();
    at.holds(&[CODE]);
    at.ask("login.cancel");
    at.holds_no(&[CODE], "a cancelled login");
    let code = at.begin();
    mock.deny(&code).unwrap();
    assert_eq!(
        at.ask("login.wait")["error"]["data"]["code"],
        "access_denied"
    );
    at.holds_no(&[CODE], "a denied login");
    at.fault(
        "ExchangeMcpOauthDeviceAuthorization",
        FaultKind::WrongThumbprint,
    );
    let code = at.begin();
    mock.approve(&code).unwrap();
    let failed = at.ask("login.wait");
    assert_eq!(
        failed["error"]["data"]["code"], "aegis_protocol",
        "{failed}"
    );
    at.holds_no(&[CODE, TOKEN], "a login that failed");

    // Material, and how it ends while the token stays.
    at.log_in();
    at.logged_in = true;
    at.holds_no(&[CODE], "a login");
    let got = at.get();
    at.holds(&[TOKEN, MATERIAL]);
    let id = find(&got, "lease_id").unwrap();
    at.house.ask("lease.revoke", &json!({ "lease_id": id }));
    at.holds_no(&[MATERIAL], "a revocation");
    for _ in 0..50 {
        let id = find(&at.get(), "lease_id").unwrap();
        at.house.ask("lease.revoke", &json!({ "lease_id": id }));
    }
    at.holds_no(&[MATERIAL], "50 more revocations");
    for kind in [FaultKind::WrongTarget, FaultKind::CloseAfterCommit] {
        // One with each of two leases.
        mock.fault("RedeemCredentialLease", kind, 2);
        let refused = at.get();
        assert!(refused["error"].is_object(), "{refused}");
        at.holds_no(&[MATERIAL], "redemptions that failed");
    }
    at.fault("RedeemCredentialLease", FaultKind::ShortExpiry);
    assert!(at.get()["result"].is_object());
    a_second_passes(at);
    at.holds_no(&[MATERIAL], "an expiry");
    if at.subject.panic() {
        let leases = at.ask("lease.list");
        let id = find(&leases, "lease_id").unwrap();
        at.house.ask("lease.revoke", &json!({ "lease_id": id }));
        at.holds_no(&[MATERIAL], "a panic, and a revocation");
    }

    // How the token ends.
    at.get();
    at.logged_in = false;
    at.ask("logout");
    at.holds_no(&ALL, "a logout");
    at.log_in();
    at.get();
    at.ask("lock");
    at.holds_no(&ALL, "a lock");
    at.fault(
        "ExchangeMcpOauthDeviceAuthorization",
        FaultKind::ShortExpiry,
    );
    at.log_in();
    let failed = at.begin();
    mock.deny(&failed).unwrap();
    at.ask("login.wait");
    at.holds_no(&ALL, "a token's end, and a renewal that was denied");
}

/// The server asks for a second before the next try, and the broker obeys: what lives for one is
/// over then (LC-2).
fn a_second_passes(at: &Looked<'_>) {
    let mock = &at.house.server.mock;
    mock.fault("CreateCredentialLease", FaultKind::RateLimited, 1);
    let made = at
        .house
        .ask("lease.create", &json!({ "selector": SELECTOR }));
    assert!(made["result"].is_object(), "{made}");
}
