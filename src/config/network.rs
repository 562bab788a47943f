use std::path::PathBuf;

use url::Url;

use super::file::{Raw, RawProfile};
use super::load::{ConfigError, Source};
use super::paths::Environment;

/// How the Aegis service is reached, and what is believed of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// A file of PEM certificates: then only these authorities are trusted, not the system's.
    pub ca_file: Option<PathBuf>,
    /// The one origin where a login's code may be typed; any https origin where it is `None`.
    pub login_origin: Option<Url>,
    /// The HTTP proxy in front of it; none where it is `None`, whatever the environment says.
    pub proxy: Option<Proxy>,
}

/// An HTTP proxy for https, which goes through it as a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Without user, path, query and fragment.
    pub url: Url,
    /// A file with `user:password`, where it asks for one.
    pub auth_file: Option<PathBuf>,
}

/// What an SVID of this host takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidSettings {
    /// A PEM file of the authorities whose SVIDs are believed; without it there are none.
    pub bundle_file: Option<PathBuf>,
    /// Where a client certificate is taken: https; `base_url` where not said.
    pub mtls_url: Url,
    /// What this host is called in its SPIFFE id: one segment of it.
    pub workload_name: String,
}

/// Of one profile.
pub(super) fn svid(
    source: &Source<'_>,
    key: impl Fn(&str) -> String,
    raw: &RawProfile,
    base_url: &Url,
    environment: &dyn Environment,
) -> Result<SvidSettings, ConfigError> {
    let bundle_file = match &raw.spiffe_bundle_file {
        Some(raw) => Some(source.absolute_path(&key("spiffe_bundle_file"), raw)?),
        None => None,
    };
    let mtls_url = match &raw.mtls_url {
        // With a path, where the service has one; never without TLS.
        Some(raw) => {
            let url = source.base_url(&key("mtls_url"), raw, false)?;
            if url.scheme() != "https" {
                return Err(source.mistake(Some(raw.span()), &key("mtls_url"), "must be https"));
            }
            url
        }
        None => base_url.clone(),
    };
    let workload_name = match &raw.workload_name {
        Some(raw) => {
            let name = source.text(&key("workload_name"), raw)?;
            if !is_segment(name) {
                let what = "must be 1 to 64 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`";
                return Err(source.mistake(Some(raw.span()), &key("workload_name"), what));
            }
            name.to_owned()
        }
        None => environment
            .hostname()
            .filter(|name| is_segment(name))
            .unwrap_or_else(|| "host".to_owned()),
    };
    Ok(SvidSettings {
        bundle_file,
        mtls_url,
        workload_name,
    })
}

/// One segment of a SPIFFE id's path.
fn is_segment(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && !matches!(text, "." | "..") && text.bytes().all(legal)
}

/// Of one profile.
pub(super) fn network(
    source: &Source<'_>,
    key: impl Fn(&str) -> String,
    raw: &RawProfile,
) -> Result<Network, ConfigError> {
    let path = |name: &str, raw: Option<&Raw>| match raw {
        Some(raw) => source.absolute_path(&key(name), raw).map(Some),
        None => Ok(None),
    };
    let login_origin = match &raw.login_origin {
        Some(raw) => Some(origin(source, &key("login_origin"), raw, &["https"])?),
        None => None,
    };
    let auth_file = path("proxy_auth_file", raw.proxy_auth_file.as_ref())?;
    let proxy = match (&raw.proxy, auth_file) {
        (Some(raw), auth_file) => Some(Proxy {
            url: origin(source, &key("proxy"), raw, &["http", "https"])?,
            auth_file,
        }),
        (None, None) => None,
        (None, Some(_)) => {
            let place = raw.proxy_auth_file.as_ref().map(Raw::span);
            let what = "is of no use without `proxy`";
            return Err(source.mistake(place, &key("proxy_auth_file"), what));
        }
    };
    Ok(Network {
        ca_file: path("ca_file", raw.ca_file.as_ref())?,
        login_origin,
        proxy,
    })
}

/// Scheme, host and port, and nothing else.
fn origin(source: &Source<'_>, key: &str, raw: &Raw, schemes: &[&str]) -> Result<Url, ConfigError> {
    let wrong = |what: String| source.mistake(Some(raw.span()), key, what);
    let shape = || {
        let scheme = schemes.join("` or `");
        wrong(format!("must be `{scheme}`, a host and perhaps a port"))
    };
    let url = Url::parse(source.text(key, raw)?).map_err(|_error| shape())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("must not hold a user name or password".to_owned()));
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if bare && url.host().is_some() && schemes.contains(&url.scheme()) {
        Ok(url)
    } else {
        Err(shape())
    }
}
