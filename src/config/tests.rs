use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{RawConfig, RawPolicy};
use super::load::{Source, parse, read};
use super::policy::parse_policy;
use super::{
    Config, ConfigError, Environment, Limits, Overrides, PathError, Paths, ProcessEnvironment,
    load, load_policy, runtime_dir,
};
use crate::model::{
    Action, Effect, Exposure, Gate, HttpMethod, Injection, InjectionScheme, PeerPattern, Rule,
    Selector,
};

const CONFIG: &str = include_str!("../../config/aegis-broker.toml");
const POLICY: &str = include_str!("../../config/policy.example.toml");

/// The surroundings as a test wants them.
#[derive(Debug, Default)]
struct TestEnvironment {
    home: Option<&'static str>,
    runtime_dir: Option<&'static str>,
    user_runtime_dir: Option<&'static str>,
    hostname: Option<&'static str>,
}

impl Environment for TestEnvironment {
    fn config_home(&self) -> Option<PathBuf> {
        Some(Path::new(self.home?).join(".config"))
    }

    fn state_home(&self) -> Option<PathBuf> {
        Some(Path::new(self.home?).join(".local/state"))
    }

    fn runtime_dir(&self) -> Option<PathBuf> {
        self.runtime_dir.map(PathBuf::from)
    }

    fn user_runtime_dir(&self) -> Option<PathBuf> {
        self.user_runtime_dir.map(PathBuf::from)
    }

    fn hostname(&self) -> Option<String> {
        self.hostname.map(str::to_owned)
    }
}

fn desktop() -> TestEnvironment {
    TestEnvironment {
        home: Some("/home/you"),
        runtime_dir: Some("/run/user/1000"),
        user_runtime_dir: Some("/run/user/1000"),
        hostname: Some("this-host"),
    }
}

fn config(text: &str) -> Result<Config, ConfigError> {
    let environment = desktop();
    let overrides = Overrides::default();
    let paths = Paths::resolve(&environment, &overrides).unwrap();
    let source = Source::new(Path::new("/etc/test.toml"), text);
    parse(&source, &paths, &overrides, &environment)
}

fn policy(text: &str) -> Result<Vec<Rule>, ConfigError> {
    parse_policy(&Source::new(Path::new("/etc/policy.toml"), text))
}

/// The least that is a configuration.
const LEAST: &str = r#"
[profiles.work]
base_url = "https://aegis.example.com"
tenant_id = "business-default"
[[profiles.work.target]]
selector = "gcp/billing-prod/deploy-bot"
"#;

/// The text with the defaults that depend on the machine put in.
fn uncommented(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .collect();
    lines.join("\n")
}

fn repeated(count: u32, part: impl Fn(u32) -> String) -> String {
    (0..count).map(part).collect()
}

/// The keys that serde knows of a table, from its own complaint about one it does not know.
fn known_keys<T: serde::de::DeserializeOwned>(text: &str) -> BTreeSet<String> {
    let error = toml::from_str::<T>(text).err().unwrap();
    let (_, expected) = error.message().split_once(", expected ").unwrap();
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(String::from)
        .collect()
}

fn keys_of(value: &toml::Value) -> BTreeSet<String> {
    value.as_table().unwrap().keys().cloned().collect()
}

#[test]
fn the_shipped_configuration_lists_every_key() {
    let shipped: toml::Value = toml::from_str(&uncommented(CONFIG)).unwrap();
    let profile = &shipped["profiles"]["work"];
    let rows = [
        ("top", "x = 1", &shipped),
        ("limits", "[limits]\nx = 1", &shipped["limits"]),
        ("gate", "[gate]\nx = 1", &shipped["gate"]),
        ("profile", "[profiles.work]\nx = 1", profile),
        (
            "target",
            "[[profiles.work.target]]\nx = 1",
            &profile["target"][0],
        ),
    ];
    for (name, unknown, table) in rows {
        assert_eq!(keys_of(table), known_keys::<RawConfig>(unknown), "{name}");
    }
}

/// Some keys of an injection table go with one scheme only: they are shown with a blank before.
#[test]
fn the_shipped_configuration_lists_every_key_of_an_injection() {
    let text = "[[profiles.w.target]]\n[profiles.w.target.inject]\nx = 1";
    let known = known_keys::<RawConfig>(text);
    assert!(known.len() > 10, "{known:?}");
    for key in known {
        let shown = |mark: &str| CONFIG.contains(&format!("\n{mark}{key} = "));
        assert!(shown("#") || shown("# "), "{key}");
    }
}

fn injection(keys: &str) -> Result<Injection, ConfigError> {
    let text = format!("{LEAST}\n[profiles.work.target.inject]\n{keys}\n");
    let config = config(&text)?;
    Ok(config.profile.targets[0].inject.as_deref().unwrap().clone())
}

/// PO-4: each scheme with the keys that it takes.
#[test]
fn injections_are_read_whole() {
    let host = "hosts = [\"a.example\", \"b.example:8443\"]";
    let field = Some(Box::from("f"));
    let rows = [
        (
            "scheme = \"bearer\"\nfield = \"f\"",
            InjectionScheme::Bearer {
                field: field.clone(),
            },
        ),
        (
            "scheme = \"basic\"\nuser = \"u\"",
            InjectionScheme::Basic {
                user: Some(Box::from("u")),
                field: None,
            },
        ),
        (
            "scheme = \"header\"\nheader = \"X-Key\"\nfield = \"f\"",
            InjectionScheme::Header {
                name: Box::from("x-key"),
                field,
            },
        ),
        (
            "scheme = \"aws-sigv4\"\nregion = \"eu-central-1\"\nservice = \"sts\"",
            InjectionScheme::AwsSigV4 {
                region: Box::from("eu-central-1"),
                service: Box::from("sts"),
            },
        ),
    ];
    for (keys, scheme) in rows {
        let injection = injection(&format!("{host}\n{keys}")).unwrap();
        assert_eq!(injection.scheme, scheme);
        assert_eq!(injection.hosts.len(), 2);
        assert_eq!(injection.methods, [HttpMethod::Get, HttpMethod::Head]);
        assert_eq!(
            (injection.max_request, injection.max_response),
            (65_536, 65_536)
        );
    }
}

/// OA-7, HY-14: what is wrong with an injection is told with its key and place.
#[test]
fn each_mistake_in_an_injection_names_its_key() {
    let good = "hosts = [\"a.example\"]\nscheme = \"bearer\"";
    let hosts = |hosts: &str| format!("hosts = {hosts}\nscheme = \"bearer\"");
    let rows = [
        (format!("{good}\nhost = \"x\""), "host"),
        ("scheme = \"bearer\"".to_owned(), "inject.hosts"),
        ("hosts = [\"a.example\"]".to_owned(), "inject.scheme"),
        (
            "hosts = [\"a.example\"]\nscheme = \"cookie\"".to_owned(),
            "inject.scheme",
        ),
        (hosts("[]"), "inject.hosts"),
        (hosts("\"a.example\""), "inject.hosts"),
        (hosts("[\"*.example\"]"), "inject.hosts"),
        (hosts("[\"https://a.example\"]"), "inject.hosts"),
        (hosts("[\"127.0.0.1:1\"]"), "inject.hosts"),
        (hosts("[\"10.0.0.1\"]"), "inject.hosts"),
        (hosts("[\"a.example\", \"A.example:443\"]"), "inject.hosts"),
        (format!("{good}\nmethods = [\"TRACE\"]"), "inject.methods"),
        (format!("{good}\npaths = [\"a\"]"), "inject.paths"),
        (format!("{good}\npaths = [\"/a/../b\"]"), "inject.paths"),
        (format!("{good}\nmax_request = 0"), "inject.max_request"),
        (
            format!("{good}\nmax_response = 262145"),
            "inject.max_response",
        ),
        (format!("{good}\nuser = \"x\""), "inject.user"),
        (format!("{good}\nheader = \"x\""), "inject.header"),
        (format!("{good}\nregion = \"x\""), "inject.region"),
        (
            "hosts = [\"a.example\"]\nscheme = \"header\"".to_owned(),
            "inject.header",
        ),
        (
            "hosts = [\"a.example\"]\nscheme = \"header\"\nheader = \"Cookie\"".to_owned(),
            "inject.header",
        ),
        (
            "hosts = [\"a.example\"]\nscheme = \"basic\"\nuser = \"a:b\"".to_owned(),
            "inject.user",
        ),
        (
            "hosts = [\"a.example\"]\nscheme = \"aws-sigv4\"\nregion = \"x\"".to_owned(),
            "inject.service",
        ),
    ];
    for (keys, key) in rows {
        let Err(ConfigError::Mistake(mistake)) = injection(&keys) else {
            panic!("{keys} was taken");
        };
        assert!(mistake.place.is_some(), "{keys}");
        assert!(mistake.key.unwrap().ends_with(key), "{keys}");
    }
}

#[test]
fn the_shipped_configuration_is_the_defaults() {
    let defaults = config(LEAST).unwrap();
    assert_eq!(config(CONFIG).unwrap(), defaults);
    let mut spelled_out = config(&uncommented(CONFIG)).unwrap();
    let bundle = spelled_out.profile.svid.bundle_file.take();
    assert_eq!(
        bundle.unwrap(),
        Path::new("/etc/aegis-broker/spiffe-bundle.pem")
    );
    let network = std::mem::take(&mut spelled_out.profile.network);
    assert_eq!(
        network.proxy.unwrap().auth_file.unwrap(),
        Path::new("/home/you/.config/aegis-broker/proxy-auth")
    );
    assert_eq!(
        network.ca_file.unwrap(),
        Path::new("/etc/ssl/company-ca.pem")
    );
    assert_eq!(
        network.login_origin.unwrap().as_str(),
        "https://login.example.com/"
    );
    let description = spelled_out.profile.targets[0].description.take();
    assert_eq!(description.unwrap().as_str(), "Deploys the billing service");
    let inject = spelled_out.profile.targets[0].inject.take().unwrap();
    let least = "hosts = [\"compute.googleapis.com\"]\nscheme = \"bearer\"";
    assert_eq!(*inject, injection(least).unwrap());
    assert_eq!(spelled_out, defaults);
}

#[test]
fn defaults_are_as_documented() {
    let Config {
        profile,
        limits,
        gate,
        audit_dir,
        policy_file,
    } = config(LEAST).unwrap();
    assert_eq!(
        audit_dir,
        Path::new("/home/you/.local/state/aegis-broker/audit")
    );
    assert_eq!(
        policy_file,
        Path::new("/home/you/.config/aegis-broker/policy.toml")
    );
    assert_eq!(limits, Limits::default());
    assert_eq!(gate, Gate::default());
    assert!(gate.denial_pause && !gate.decoy_locks && gate.lock_after_idle.is_none());
    assert_eq!(profile.name.as_str(), "work");
    assert_eq!(profile.base_url.as_str(), "https://aegis.example.com/");
    assert_eq!(profile.token_ttl, Duration::from_mins(10));
    assert_eq!(
        profile.client_display_name.as_str(),
        "Aegis Broker on this-host"
    );
    assert!(!profile.allow_insecure_loopback && !profile.allow_missing_token_info);
    let target = &profile.targets[0];
    assert_eq!(target.actions, Action::ALL);
    assert_eq!(target.ttl, Duration::from_mins(5));
}

#[test]
fn http_is_for_loopback_addresses_where_allowed() {
    let with = |url: &str, allow: bool| {
        config(&format!(
            "[profiles.w]\nbase_url = \"{url}\"\ntenant_id = \"t\"\nallow_insecure_loopback = {allow}\n[[profiles.w.target]]\nselector = \"a/b/c\"\n"
        ))
    };
    for url in [
        "http://127.0.0.1:8443",
        "http://127.8.9.1/x",
        "http://[::1]:80",
    ] {
        assert!(with(url, true).is_ok(), "{url}");
        assert!(with(url, false).is_err(), "{url}");
    }
    for url in [
        "http://localhost:1",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
        "http://[::2]",
        "ftp://127.0.0.1",
        "unix:/run/x",
        "data:x",
    ] {
        assert!(with(url, true).is_err(), "{url}");
    }
}

/// LM: an idle time is a minute to a day, or none.
#[test]
fn the_gate_is_configured() {
    let idle = |text: &str| {
        let text = format!("[gate]\nlock_after_idle = \"{text}\"\n{LEAST}");
        config(&text).unwrap().gate.lock_after_idle
    };
    assert_eq!(idle("1m"), Some(Duration::from_mins(1)));
    assert_eq!(idle("24h"), Some(Duration::from_hours(24)));
    assert_eq!(idle("never"), None);
    let decoy = "[[profiles.work.target]]\nselector = \"aws/root/admin\"\ndecoy = true\n";
    let config = config(&format!(
        "[gate]\ndecoy_locks = true\ndenial_pause = false\n{LEAST}{decoy}"
    ));
    let Config { gate, profile, .. } = config.unwrap();
    assert!(gate.decoy_locks && !gate.denial_pause);
    let decoys: Vec<_> = profile.targets.iter().map(|target| target.decoy).collect();
    assert_eq!(decoys, [false, true]);
    assert_eq!(profile.targets[1].scopes().count(), 0, "never asked for");
}

/// A mistake names file, place and key, and quotes no value.
#[test]
fn each_mistake_in_the_configuration_names_its_key() {
    const P: &str = "[profiles.work]\n";
    const GOOD: &str = "base_url = \"https://a.example\"\ntenant_id = \"t\"\n";
    const T: &str = "[[profiles.work.target]]\nselector = \"a/b/c\"\n";
    let in_profile = |line: &str| format!("{P}{GOOD}{line}\n{T}");
    let in_target = |line: &str| format!("{P}{GOOD}{T}{line}\n");
    let url = |url: &str| format!("{P}base_url = \"{url}\"\ntenant_id = \"t\"\n{T}");
    let many = repeated(33, |n| {
        format!("[[profiles.work.target]]\nselector = \"a/b/hunter2{n}\"\n")
    });
    let rows: &[(&str, String, &str)] = &[
        ("empty", String::new(), ": `profiles` is missing"),
        (
            "unknown top key",
            format!("hunter = 1\n{P}{GOOD}{T}"),
            ":1:1: `hunter` is not a known key",
        ),
        (
            "unknown profile key",
            in_profile("hunter = \"hunter2\""),
            ":4:1: `hunter` is not a known key",
        ),
        (
            "unknown target key",
            in_target("hunter = \"hunter2\""),
            ":6:1: `hunter` is not a known key",
        ),
        (
            "unknown limit",
            format!("[limits]\nhunter = 1\n{P}{GOOD}{T}"),
            ":2:1: `hunter`",
        ),
        (
            "key twice",
            in_profile("tenant_id = \"hunter2\""),
            ":4:1: duplicate key",
        ),
        ("no toml", "base_url = hunter2\n".to_owned(), ":1:12: "),
        ("open string", "base_url = \"hunter2\n".to_owned(), ":1:"),
        (
            "profiles is text",
            "profiles = \"hunter2\"".to_owned(),
            ":1:12: `profiles` has the wrong type, expected a map",
        ),
        (
            "profiles is text with a trap",
            "profiles = \"x, expected hunter2\"".to_owned(),
            ":1:12: `profiles` has the wrong type, expected a map",
        ),
        (
            "profile is text",
            "[profiles]\nwork = \"hunter2\"".to_owned(),
            ":2:8: `work` has the wrong type",
        ),
        (
            "limits is a number",
            format!("limits = 7331\n{P}{GOOD}{T}"),
            ":1:10: `limits` has the wrong type",
        ),
        (
            "target is a table",
            format!("{P}{GOOD}target = 7331\n"),
            ":4:10: `target` has the wrong type",
        ),
        (
            "two profiles",
            format!("{P}{GOOD}{T}[profiles.zome]\n{GOOD}"),
            ":6:11: `profiles` has more than one profile: several profiles are not supported yet",
        ),
        (
            "profile name",
            "[profiles.\"hunter2 x\"]\n".to_owned(),
            ":1:11: `profiles` profile name must be",
        ),
        (
            "an mtls_url without tls",
            in_profile("mtls_url = \"http://127.0.0.1:7461\""),
            ":4:12: `profiles.work.mtls_url` is http",
        ),
        (
            "a workload name with a slash",
            in_profile("workload_name = \"../hunter2\""),
            ":4:17: `profiles.work.workload_name` must be 1 to 64",
        ),
        (
            "a relative ca_file",
            in_profile("ca_file = \"hunter2.pem\""),
            ":4:11: `profiles.work.ca_file` must be an absolute path",
        ),
        (
            "a login origin with a path",
            in_profile("login_origin = \"https://a.example/hunter2\""),
            ":4:16: `profiles.work.login_origin` must be `https`, a host and perhaps a port",
        ),
        (
            "a login origin without tls",
            in_profile("login_origin = \"http://hunter2.example\""),
            ":4:16: `profiles.work.login_origin` must be `https`",
        ),
        (
            "a proxy of another kind",
            in_profile("proxy = \"socks5://hunter2.example\""),
            ":4:9: `profiles.work.proxy` must be `http` or `https`",
        ),
        (
            "a proxy with a password",
            in_profile("proxy = \"http://u:hunter2@p.example\""),
            ":4:9: `profiles.work.proxy` must not hold a user name or password",
        ),
        (
            "credentials for no proxy",
            in_profile("proxy_auth_file = \"/hunter2\""),
            ":4:19: `profiles.work.proxy_auth_file` is of no use without `proxy`",
        ),
        (
            "no base_url",
            format!("{P}tenant_id = \"t\"\n{T}"),
            ":1:11: `profiles.work.base_url` is missing",
        ),
        (
            "no tenant",
            format!("{P}base_url = \"https://a.example\"\n{T}"),
            ":1:11: `profiles.work.tenant_id` is missing",
        ),
        (
            "no target",
            format!("{P}{GOOD}"),
            ":1:11: `profiles.work.target` is missing",
        ),
        (
            "url is a number",
            format!("{P}base_url = 7331\ntenant_id = \"t\"\n{T}"),
            ":2:12: `profiles.work.base_url` must be text",
        ),
        (
            "url is no url",
            url("hunter2"),
            ":2:12: `profiles.work.base_url` must be an address",
        ),
        (
            "url with user",
            url("https://hunter2@a.example"),
            ":2:12: `profiles.work.base_url` must not hold a user",
        ),
        (
            "url with password",
            url("https://:hunter2@a.example"),
            "`profiles.work.base_url` must not hold a user",
        ),
        (
            "url with query",
            url("https://a.example/?hunter2"),
            "`profiles.work.base_url` must not have a query",
        ),
        (
            "url with fragment",
            url("https://a.example/#hunter2"),
            "`profiles.work.base_url` must not have a query or a fragment",
        ),
        (
            "url without tls",
            url("http://hunter2.example"),
            "`profiles.work.base_url` must be https",
        ),
        (
            "loopback not allowed",
            url("http://127.0.0.1"),
            "`profiles.work.base_url` is http: on a loopback address that takes allow_insecure_loopback",
        ),
        (
            "tenant alphabet",
            format!("{P}base_url = \"https://a.example\"\ntenant_id = \"hunter2 \"\n{T}"),
            ":3:13: `profiles.work.tenant_id` is wrong: tenant id",
        ),
        (
            "flag is text",
            in_profile("allow_insecure_loopback = \"hunter2\""),
            "`profiles.work.allow_insecure_loopback` must be true or false",
        ),
        (
            "flag is a number",
            in_profile("allow_missing_token_info = 7331"),
            "`profiles.work.allow_missing_token_info` must be true or false",
        ),
        (
            "ttl too short",
            in_profile("token_ttl = \"59s\""),
            "`profiles.work.token_ttl` must be a duration like \"90s\" or \"5m\", from 1m to 15m",
        ),
        (
            "ttl too long",
            in_profile("token_ttl = \"16m\""),
            "`profiles.work.token_ttl` must be",
        ),
        (
            "ttl overflows",
            in_profile("token_ttl = \"99999999999999999h\""),
            "`profiles.work.token_ttl` must be",
        ),
        (
            "ttl without unit",
            in_profile("token_ttl = \"600\""),
            "`profiles.work.token_ttl` must be",
        ),
        (
            "ttl signed",
            in_profile("token_ttl = \"+10m\""),
            "`profiles.work.token_ttl` must be",
        ),
        (
            "ttl is a number",
            in_profile("token_ttl = 600"),
            "`profiles.work.token_ttl` must be",
        ),
        (
            "name too long",
            in_profile(&format!(
                "client_display_name = \"{}\"",
                "hunter2".repeat(10)
            )),
            "`profiles.work.client_display_name` must be 1 to 64",
        ),
        (
            "name with control",
            in_profile("client_display_name = \"hunter2\\u001b\""),
            "`profiles.work.client_display_name` must be 1 to 64",
        ),
        (
            "name blank",
            in_profile("client_display_name = \" \""),
            "`profiles.work.client_display_name` must be 1 to 64",
        ),
        (
            "renew",
            in_profile("renew = \"hunter2\""),
            "`profiles.work.renew` must be \"svid\" or \"login\"",
        ),
        (
            "no selector",
            format!("{P}{GOOD}[[profiles.work.target]]\n"),
            ":4:1: `profiles.work.target.selector` is missing",
        ),
        (
            "selector wildcard",
            format!("{P}{GOOD}[[profiles.work.target]]\nselector = \"a/hunter2/*\"\n"),
            ":5:12: `profiles.work.target.selector` is wrong: a selector names exactly one account",
        ),
        (
            "selector twice",
            format!("{P}{GOOD}{T}{T}"),
            "`profiles.work.target.selector` is there twice",
        ),
        (
            "description too long",
            in_target(&format!("description = \"{}\"", "hunter2".repeat(30))),
            "`profiles.work.target.description` must be 1 to 200",
        ),
        (
            "no action",
            in_target("actions = []"),
            "`profiles.work.target.actions` must be a list of at least one",
        ),
        (
            "unknown action",
            in_target("actions = [\"create\", \"hunter2\"]"),
            ":6:11: `profiles.work.target.actions` has an unknown action",
        ),
        (
            "action twice",
            in_target("actions = [\"create\", \"create\"]"),
            "`profiles.work.target.actions` has an action twice",
        ),
        (
            "action is a number",
            in_target("actions = [7331]"),
            "`profiles.work.target.actions` must be a list",
        ),
        (
            "lease too short",
            in_target("ttl = \"29s\""),
            "`profiles.work.target.ttl` must be a duration like \"90s\" or \"5m\", from 30s to 1h",
        ),
        (
            "lease too long",
            in_target("ttl = \"61m\""),
            "`profiles.work.target.ttl` must be",
        ),
        (
            "99 scopes",
            format!("{P}{GOOD}{many}"),
            "`profiles.work.target` is one too many: a login asks for at most 96 scopes",
        ),
        (
            "no connections",
            format!("[limits]\nconnections = 0\n{P}{GOOD}{T}"),
            ":2:15: `limits.connections` must be a whole number from 1 to 4096",
        ),
        (
            "negative",
            format!("[limits]\nin_flight_per_connection = -7331\n{P}{GOOD}{T}"),
            "`limits.in_flight_per_connection` must be a whole number from 1 to 1024",
        ),
        (
            "no boolean of the gate",
            format!("[gate]\ndecoy_locks = \"hunter2\"\n{P}{GOOD}{T}"),
            ":2:15: `gate.decoy_locks` must be true or false",
        ),
        (
            "a boolean of the gate",
            format!("[gate]\ndenial_pause = 7331\n{P}{GOOD}{T}"),
            "`gate.denial_pause` must be true or false",
        ),
        (
            "idle for less than a minute",
            format!("[gate]\nlock_after_idle = \"59s\"\n{P}{GOOD}{T}"),
            "`gate.lock_after_idle` must be a duration like \"90s\" or \"5m\", from 1m to 24h",
        ),
        (
            "idle for more than a day",
            format!("[gate]\nlock_after_idle = \"1441m\"\n{P}{GOOD}{T}"),
            "`gate.lock_after_idle` must be a duration",
        ),
        (
            "a decoy is a word",
            in_target("decoy = \"hunter2\""),
            "`profiles.work.target.decoy` must be true or false",
        ),
        (
            "decoys only",
            in_target("decoy = true"),
            "`profiles.work.target` has decoys only",
        ),
        (
            "relative audit folder",
            format!("audit_dir = \"hunter2\"\n{P}{GOOD}{T}"),
            ":1:13: `audit_dir` must be an absolute path",
        ),
        (
            "relative policy",
            format!("policy_file = \"~/hunter2\"\n{P}{GOOD}{T}"),
            ":1:15: `policy_file` must be an absolute path",
        ),
    ];
    for (name, text, wanted) in rows {
        let message = config(text)
            .err()
            .unwrap_or_else(|| panic!("{name} was taken"))
            .to_string();
        check_message(name, &message, "/etc/test.toml", wanted);
    }
    let most = repeated(32, |n| {
        format!("[[profiles.work.target]]\nselector = \"a/b/c{n}\"\n")
    });
    assert!(config(&format!("{P}{GOOD}{most}")).is_ok());
}

fn check_message(name: &str, message: &str, file: &str, wanted: &str) {
    assert!(message.starts_with(file), "{name}: {message}");
    assert!(message.contains(wanted), "{name}: {message}");
    assert!(!message.contains("hunter2"), "{name}: {message}");
    assert!(!message.contains("7331"), "{name}: {message}");
    assert!(!message.contains('\n'), "{name}: {message}");
}

#[test]
fn the_example_policy_is_read() {
    let rules = policy(POLICY).unwrap();
    let ids: Vec<_> = rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "terraform-deploys",
            "agent-sandbox",
            "revoke-anything",
            "never-root"
        ]
    );
    let first = &rules[0];
    assert_eq!(
        (first.effect, first.expose),
        (Effect::Allow, Exposure::Reveal)
    );
    assert_eq!(first.actions, Action::ALL);
    assert_eq!(first.max_ttl, Some(Duration::from_mins(10)));
    assert!(matches!(
        first.peers[..],
        [PeerPattern::Exe(_), PeerPattern::Under(_)]
    ));
    assert_eq!(rules[2].actions, [Action::Revoke]);
    // A deny has no ceiling: it matches every exposure.
    assert_eq!(
        (rules[3].effect, rules[3].expose),
        (Effect::Deny, Exposure::Reveal)
    );
    let root = Selector::parse("aws/prod/root").unwrap();
    assert!(rules[3].selectors[0].matches(&root));
    assert!(!rules[1].selectors[0].matches(&root));
}

#[test]
fn the_example_policy_shows_every_key() {
    let shown: toml::Value = toml::from_str(POLICY).unwrap();
    assert_eq!(keys_of(&shown), known_keys::<RawPolicy>("x = 1"));
    let rules = shown["rule"].as_array().unwrap();
    let keys = rules.iter().flat_map(keys_of).collect();
    assert_eq!(known_keys::<RawPolicy>("[[rule]]\nx = 1"), keys);
    let peers = rules
        .iter()
        .filter_map(|rule| rule.get("peers")?.as_array());
    let keys = peers.flatten().flat_map(keys_of).collect();
    assert_eq!(
        known_keys::<RawPolicy>("[[rule]]\npeers = [{ x = 1 }]"),
        keys
    );
}

/// PO-7: a policy with a mistake is refused whole; the message names file, place and key.
#[test]
fn each_mistake_in_the_policy_names_its_key() {
    let with = |lines: &str| format!("[[rule]]\nid = \"a\"\n{lines}\n");
    let allow = |line: &str| {
        with(&format!(
            "effect = \"allow\"\nselectors = [\"a/b/c\"]\nexpose = \"use\"\n{line}"
        ))
    };
    let deny = |line: &str| {
        with(&format!(
            "effect = \"deny\"\nselectors = [\"a/b/c\"]\n{line}"
        ))
    };
    let rest = "effect = \"deny\"\nselectors = [\"a/b/c\"]\n";
    let rows: &[(&str, String, &str)] = &[
        (
            "unknown top key",
            "hunter = 1".to_owned(),
            ":1:1: `hunter` is not a known key",
        ),
        (
            "unknown rule key",
            allow("remember = \"hunter2\""),
            ":6:1: `remember` is not a known key",
        ),
        (
            "rule is a table",
            "rule = 7331".to_owned(),
            ":1:8: `rule` has the wrong type",
        ),
        (
            "no id",
            format!("[[rule]]\n{rest}"),
            ":1:1: `rule.id` is missing",
        ),
        (
            "id alphabet",
            format!("[[rule]]\nid = \"hunter2 \"\n{rest}"),
            ":2:6: `rule.id` must be 1 to 64",
        ),
        (
            "id empty",
            format!("[[rule]]\nid = \"\"\n{rest}"),
            "`rule.id` must be 1 to 64",
        ),
        (
            "id too long",
            format!("[[rule]]\nid = \"{}\"\n{rest}", "a".repeat(65)),
            "`rule.id` must be 1 to 64",
        ),
        (
            "id reserved",
            format!("[[rule]]\nid = \"default\"\n{rest}"),
            "`rule.id` is a word that records use where no rule decided",
        ),
        (
            "id of another decision",
            format!("[[rule]]\nid = \"catalogue\"\n{rest}"),
            "`rule.id` is a word that records use where no rule decided",
        ),
        (
            "id twice",
            format!("{0}{0}", deny("")),
            ":7:6: `rule.id` is there twice",
        ),
        (
            "no effect",
            with("selectors = [\"a/b/c\"]"),
            ":1:1: `rule.effect` is missing",
        ),
        (
            "unknown effect",
            with("effect = \"hunter2\""),
            ":3:10: `rule.effect` must be \"allow\"",
        ),
        (
            "no selectors",
            with("effect = \"deny\""),
            "`rule.selectors` is missing",
        ),
        (
            "empty selectors",
            with("effect = \"deny\"\nselectors = []"),
            "`rule.selectors` must be a list of at least one",
        ),
        (
            "selector is text",
            with("effect = \"deny\"\nselectors = \"hunter2\""),
            "`rule.selectors` must be a list",
        ),
        (
            "partial wildcard",
            with("effect = \"deny\"\nselectors = [\"a/b/hunter2*\"]"),
            ":4:13: `rule.selectors` has an entry that is not provider/app/account",
        ),
        (
            "allow without expose",
            with("effect = \"allow\"\nselectors = [\"a/b/c\"]"),
            "`rule.expose` is missing",
        ),
        (
            "ask without expose",
            with("effect = \"ask\"\nselectors = [\"a/b/c\"]"),
            "`rule.expose` is missing",
        ),
        (
            "deny with expose",
            deny("expose = \"use\""),
            ":5:10: `rule.expose` makes no sense",
        ),
        (
            "deny with max_ttl",
            deny("max_ttl = \"5m\""),
            ":5:11: `rule.max_ttl` makes no sense",
        ),
        (
            "unknown expose",
            with("effect = \"allow\"\nselectors = [\"a/b/c\"]\nexpose = \"hunter2\""),
            "`rule.expose` must be \"use\"",
        ),
        (
            "unknown action",
            allow("actions = [\"hunter2\"]"),
            "`rule.actions` has an unknown action",
        ),
        (
            "no action",
            allow("actions = []"),
            "`rule.actions` must be a list",
        ),
        ("no peers", allow("peers = []"), "`rule.peers` is empty"),
        (
            "peers is text",
            allow("peers = \"hunter2\""),
            ":6:9: `peers` has the wrong type",
        ),
        (
            "unknown peer key",
            allow("peers = [{ uid = 0 }]"),
            "`uid` is not a known key",
        ),
        (
            "peer without condition",
            allow("peers = [{}]"),
            ":6:10: `rule.peers` needs exactly one",
        ),
        (
            "peer with two conditions",
            allow("peers = [{ exe = \"/a\", under = \"b\" }]"),
            "`rule.peers` needs exactly one",
        ),
        (
            "relative exe",
            allow("peers = [{ exe = \"hunter2\" }]"),
            "`rule.peers.exe` must be an absolute path",
        ),
        (
            "exe with control",
            allow("peers = [{ exe = \"/hunter2\\n\" }]"),
            "`rule.peers.exe` must be 1 to 4096",
        ),
        (
            "under with a path",
            allow("peers = [{ under = \"/hunter2\" }]"),
            "`rule.peers.under` must be a program's name",
        ),
        (
            "a unit that is none",
            allow("peers = [{ unit = \"hunter2\" }]"),
            "`rule.peers.unit` must be the name of a service or a scope",
        ),
        (
            "relative control group",
            allow("peers = [{ cgroup = \"hunter2\" }]"),
            "`rule.peers.cgroup` must be an absolute path",
        ),
        (
            "control group with a slash",
            allow("peers = [{ cgroup = \"/hunter2/\" }]"),
            "`rule.peers.cgroup` must not end in a slash",
        ),
        (
            "a hash that is none",
            allow("peers = [{ sha256 = \"hunter2\" }]"),
            ":6:21: `rule.peers.sha256` must be 64 hexadecimal digits",
        ),
        (
            "ttl too long",
            allow("max_ttl = \"2h\""),
            "`rule.max_ttl` must be a duration",
        ),
        (
            "too many rules",
            repeated(1001, |n| format!("[[rule]]\nid = \"r{n}\"\n{rest}")),
            "`rule` is one too many",
        ),
    ];
    for (name, text, wanted) in rows {
        let message = policy(text)
            .err()
            .unwrap_or_else(|| panic!("{name} was taken"))
            .to_string();
        check_message(name, &message, "/etc/policy.toml", wanted);
    }
    assert_eq!(policy("").unwrap(), []);
    assert!(policy(&allow("max_ttl = \"1h\"")).is_ok());
}

fn file_with_mode(folder: &Path, text: &str, mode: u32) -> PathBuf {
    let file = folder.join(format!("file-{mode:o}.toml"));
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    file
}

/// PO-1: no policy file means no rules; a file that others may write means nothing at all.
#[test]
fn files_that_others_may_write_are_refused() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(load_policy(&home.path().join("absent.toml")).unwrap(), []);
    for mode in [0o600, 0o644, 0o444] {
        let file = file_with_mode(home.path(), POLICY, mode);
        assert_eq!(load_policy(&file).unwrap().len(), 4, "{mode:o}");
    }
    for mode in [0o620, 0o602, 0o666, 0o777] {
        let message = load_policy(&file_with_mode(home.path(), POLICY, mode))
            .unwrap_err()
            .to_string();
        assert!(message.contains("may be written by others"), "{message}");
        assert!(
            message.contains(&format!("file-{mode:o}.toml")),
            "{message}"
        );
    }
    let link = home.path().join("link.toml");
    std::os::unix::fs::symlink(home.path().join("file-666.toml"), &link).unwrap();
    assert!(load_policy(&link).is_err());
    assert!(load_policy(home.path()).is_err());
    assert!(matches!(
        read(Path::new("/dev/zero")),
        Err(ConfigError::Unsafe {
            what: "is not a regular file",
            ..
        })
    ));
    let large = file_with_mode(home.path(), &"#".repeat(1024 * 1024 + 1), 0o640);
    assert!(
        load_policy(&large)
            .unwrap_err()
            .to_string()
            .ends_with("is larger than 1 MiB")
    );
    let binary = home.path().join("binary.toml");
    fs::write(&binary, b"\xff\xfe").unwrap();
    assert!(
        load_policy(&binary)
            .unwrap_err()
            .to_string()
            .ends_with("is not UTF-8 text")
    );
    if rustix::process::geteuid().is_root() {
        let foreign = file_with_mode(home.path(), POLICY, 0o640);
        std::os::unix::fs::chown(&foreign, Some(12_345), None).unwrap();
        let message = load_policy(&foreign).unwrap_err().to_string();
        assert!(message.ends_with("belongs to another user"), "{message}");
    }
}

#[test]
fn flags_go_before_the_file_and_the_file_before_defaults() {
    let home = tempfile::tempdir().unwrap();
    let text = format!("audit_dir = \"/file/audit\"\npolicy_file = \"/file/policy\"\n{LEAST}");
    let mut overrides = Overrides {
        config_file: Some(file_with_mode(home.path(), &text, 0o600)),
        ..Overrides::default()
    };
    let environment = desktop();
    let loaded = |overrides: &Overrides| {
        let paths = Paths::resolve(&environment, overrides).unwrap();
        load(&paths, overrides, &environment).unwrap()
    };
    let from_file = loaded(&overrides);
    assert_eq!(from_file.audit_dir, Path::new("/file/audit"));
    assert_eq!(from_file.policy_file, Path::new("/file/policy"));
    overrides.policy_file = Some(PathBuf::from("/flag/policy"));
    let from_flags = loaded(&overrides);
    assert_eq!(from_flags.policy_file, Path::new("/flag/policy"));
    overrides.config_file = Some(home.path().join("absent"));
    let paths = Paths::resolve(&environment, &overrides).unwrap();
    let error = load(&paths, &overrides, &environment).unwrap_err();
    assert!(matches!(error, ConfigError::Missing(_)), "{error}");
}

#[test]
fn the_runtime_folder_is_never_a_shared_place() {
    let rows = [
        (
            Some("/run/user/7"),
            Some("/run/user/8"),
            Ok("/run/user/7/aegis-broker"),
        ),
        (None, Some("/run/user/8"), Ok("/run/user/8/aegis-broker")),
        (None, None, Err(PathError::NoRuntimeDir)),
    ];
    for (from_variable, from_uid, wanted) in rows {
        let environment = TestEnvironment {
            runtime_dir: from_variable,
            user_runtime_dir: from_uid,
            ..desktop()
        };
        assert_eq!(runtime_dir(&environment), wanted.map(PathBuf::from));
    }
    assert!(PathError::NoRuntimeDir.to_string().contains("--socket"));
}

#[test]
fn without_a_home_everything_has_to_be_named() {
    let environment = TestEnvironment::default();
    let mut overrides = Overrides::default();
    assert_eq!(
        Paths::resolve(&environment, &overrides),
        Err(PathError::NoHome)
    );
    overrides.config_file = Some(PathBuf::from("/c"));
    overrides.policy_file = Some(PathBuf::from("/p"));
    overrides.state_dir = Some(PathBuf::from("/s"));
    assert_eq!(
        Paths::resolve(&environment, &overrides),
        Err(PathError::NoRuntimeDir)
    );
    overrides.runtime_dir = Some(PathBuf::from("/r"));
    let paths = Paths::resolve(&environment, &overrides).unwrap();
    assert_eq!(paths.runtime_dir, Path::new("/r"));
    assert_eq!(paths.state_dir, Path::new("/s"));
}

/// The display name stays within its bound whatever the machine is called.
#[test]
fn a_hostile_hostname_is_cleaned_and_cut() {
    let environment = TestEnvironment {
        hostname: Some(
            "evil\u{1b}[31m-a-very-long-name-that-does-not-end-before-the-sixty-fourth-character",
        ),
        ..desktop()
    };
    let overrides = Overrides::default();
    let paths = Paths::resolve(&environment, &overrides).unwrap();
    let source = Source::new(Path::new("/etc/test.toml"), LEAST);
    let config = parse(&source, &paths, &overrides, &environment).unwrap();
    let name = config.profile.client_display_name;
    assert!(name.as_str().starts_with("Aegis Broker on evil[31m-a"));
    assert_eq!(name.as_str().chars().count(), 64);
}

#[test]
fn the_process_has_surroundings() {
    let environment = ProcessEnvironment::new();
    if let Some(folder) = environment.user_runtime_dir() {
        assert!(folder.is_dir());
    }
    assert!(
        environment
            .config_home()
            .is_none_or(|folder| folder.is_absolute())
    );
    assert!(
        environment
            .hostname()
            .is_none_or(|name| !name.contains('\n'))
    );
}
