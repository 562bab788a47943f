use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, ClientBuilder, Proxy};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use url::{Origin, Url};
use zeroize::Zeroizing;

use super::SettingsError;
use crate::secret::SecretString;

/// How the service is reached, and what is believed of it. Without any of it: with the system's
/// authorities, through no proxy, whatever the environment says.
#[derive(Clone, Default)]
pub struct Network {
    /// DER.
    authorities: Option<Vec<Vec<u8>>>,
    login_origin: Option<Origin>,
    proxy: Option<Proxy>,
}

impl Network {
    /// Trusts the authorities of this PEM file alone.
    ///
    /// # Errors
    /// [`SettingsError::Authorities`] where it holds none, or something that is none.
    pub fn trusting(self, pem: &[u8]) -> Result<Self, SettingsError> {
        let wrong = SettingsError::Authorities;
        let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let authorities = authorities.ok().filter(|found| !found.is_empty());
        let authorities = authorities.ok_or(wrong)?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).ok().ok_or(wrong)?;
        }
        let der = |authority: &CertificateDer<'_>| authority.to_vec();
        Ok(Self {
            authorities: Some(authorities.iter().map(der).collect()),
            ..self
        })
    }

    /// Lets a login's code be typed at this origin alone.
    #[must_use]
    pub fn with_login_at(self, origin: &Url) -> Self {
        Self {
            login_origin: Some(origin.origin()),
            ..self
        }
    }

    /// Goes through this HTTP proxy, which only sees a tunnel. `auth` is `user:password`; it goes
    /// into one sensitive header value, which no log shows, and is wiped here.
    ///
    /// # Errors
    /// [`SettingsError::Proxy`] where that is no proxy, or not such a text.
    pub fn through(
        self,
        proxy: &Url,
        auth: Option<&Arc<SecretString>>,
    ) -> Result<Self, SettingsError> {
        let wrong = SettingsError::Proxy;
        let mut through = Proxy::https(proxy.as_str()).ok().ok_or(wrong)?;
        if let Some(auth) = auth {
            through = through.custom_http_auth(basic(auth).ok_or(wrong)?);
        }
        Ok(Self {
            proxy: Some(through),
            ..self
        })
    }

    /// Whether a login's code may be typed there.
    pub(super) fn allows_login_at(&self, origin: &Origin) -> bool {
        self.login_origin.as_ref().is_none_or(|only| only == origin)
    }

    /// The authorities that are trusted instead of the system's, DER.
    pub(super) fn authorities(&self) -> Option<&[Vec<u8>]> {
        self.authorities.as_deref()
    }

    /// Makes a client go this way.
    pub(super) fn apply(&self, client: ClientBuilder) -> ClientBuilder {
        // Also where there is a proxy: the environment's would come beside it.
        let client = client.no_proxy();
        match &self.proxy {
            Some(proxy) => client.proxy(proxy.clone()),
            None => client,
        }
    }

    /// Makes a client trust these authorities. What is no certificate was refused before.
    pub(super) fn trust(&self, client: ClientBuilder) -> ClientBuilder {
        match &self.authorities {
            Some(authorities) => client.tls_certs_only(
                authorities
                    .iter()
                    .filter_map(|der| Certificate::from_der(der).ok()),
            ),
            None => client,
        }
    }
}

/// Holds a password: shows what is set, never to what.
impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("authorities", &self.authorities.is_some())
            .field("login_origin", &self.login_origin.is_some())
            .field("proxy", &self.proxy.is_some())
            .finish()
    }
}

/// RFC 7617 §2: a user without a colon, a colon, a password; no control characters.
fn basic(auth: &SecretString) -> Option<HeaderValue> {
    let text = auth.expose();
    let (user, _password) = text.split_once(':')?;
    if user.is_empty() || text.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let mut value = Zeroizing::new(String::with_capacity(text.len().saturating_mul(2)));
    value.push_str("Basic ");
    STANDARD.encode_string(text, &mut value);
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "canary-proxy-password";

    fn secret(text: &str) -> Arc<SecretString> {
        Arc::new(SecretString::copy_from(text))
    }

    /// HY-4: a proxy's password is in no word of ours, and only text that can be one is taken.
    #[test]
    fn a_proxys_password_does_not_show() {
        let url = Url::parse("http://proxy.example:3128").unwrap();
        let auth = secret(&format!("user:{PASSWORD}"));
        let network = Network::default().through(&url, Some(&auth)).unwrap();
        let shown = format!("{network:?} {:?}", basic(&auth).unwrap());
        assert!(!shown.contains(PASSWORD) && !shown.contains(&STANDARD.encode(PASSWORD)));
        for bad in ["", "user", ":password", "user:pass\nword"] {
            let network = Network::default().through(&url, Some(&secret(bad)));
            assert_eq!(network.err(), Some(SettingsError::Proxy), "{bad:?}");
        }
    }

    #[test]
    fn a_file_without_authorities_is_refused() {
        for pem in [
            "",
            "no certificate",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        ] {
            let trusting = Network::default().trusting(pem.as_bytes());
            assert_eq!(trusting.err(), Some(SettingsError::Authorities), "{pem}");
        }
    }

    /// `login_origin`: an origin is scheme, host and port, all of them.
    #[test]
    fn a_login_leads_to_the_pinned_origin_only() {
        let origin = |url: &str| Url::parse(url).unwrap().origin();
        let pinned = Url::parse("https://login.example").unwrap();
        let network = Network::default().with_login_at(&pinned);
        assert!(network.allows_login_at(&origin("https://login.example:443/device?x=y")));
        for other in [
            "https://login.example:444/",
            "http://login.example/",
            "https://login.example.evil/",
            "https://a.login.example/",
        ] {
            assert!(!network.allows_login_at(&origin(other)), "{other}");
            assert!(
                Network::default().allows_login_at(&origin(other)),
                "{other}"
            );
        }
    }
}
