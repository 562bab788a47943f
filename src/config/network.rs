use std::path::PathBuf;

use url::Url;

use super::file::{Raw, RawProfile};
use super::load::{ConfigError, Source};

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
