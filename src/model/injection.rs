use core::net::IpAddr;

use super::outgoing::{is_header_name, is_ours, normal_path};
use super::{HttpMethod, Outgoing, is_public};

/// The largest request body that a table may allow, in bytes: a line of a door holds it.
pub const MAX_HTTP_REQUEST: usize = 64 * 1024;

/// The largest response body that a table may let through, in bytes: the answer's line holds it
/// with every character escaped.
pub const MAX_HTTP_RESPONSE: usize = 256 * 1024;

/// The most hosts, paths or methods of one table.
pub const MAX_BOUND: usize = 32;

/// Where a target's credential may be put into a request, and how. The same table is what is
/// injected by and what is enforced (PO-4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The hosts; at least one.
    pub hosts: Vec<BoundHost>,
    /// How the credential is put in.
    pub scheme: InjectionScheme,
    /// The methods; at least one.
    pub methods: Vec<HttpMethod>,
    /// Where paths may begin; at least one.
    pub paths: Vec<PathPrefix>,
    /// The largest request body, in bytes.
    pub max_request: usize,
    /// How much of a response body is let through, in bytes.
    pub max_response: usize,
}

/// How a credential is put into a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InjectionScheme {
    /// `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer {
        /// Which field of the material; its main one where not said.
        field: Option<Box<str>>,
    },
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The name; the material's field `username` where not said.
        user: Option<Box<str>>,
        /// Which field is the password; the main one where not said.
        field: Option<Box<str>>,
    },
    /// A header of that name.
    Header {
        /// Its name, in lower case.
        name: Box<str>,
        /// Which field; the main one where not said.
        field: Option<Box<str>>,
    },
    /// AWS Signature Version 4 with session credentials: the secret itself is not sent.
    AwsSigV4 {
        /// The region that is signed for.
        region: Box<str>,
        /// The service that is signed for.
        service: Box<str>,
    },
}

/// One host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundHost {
    host: Box<str>,
    port: u16,
    is_loopback: bool,
}

/// Where a path may begin: whole segments of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPrefix(Box<str>);

/// Why a request does not go with a target's credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unbound {
    /// Another host, port or scheme.
    Host,
    /// Another method.
    Method,
    /// A path outside.
    Path,
    /// The body is too large.
    TooLarge,
    /// The caller set the header that the credential goes into.
    Header,
}

impl Unbound {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Host,
        Self::Method,
        Self::Path,
        Self::TooLarge,
        Self::Header,
    ];

    /// The finer word of the refusal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host_not_bound",
            Self::Method => "method_not_bound",
            Self::Path => "path_not_bound",
            Self::TooLarge => "request_too_large",
            Self::Header => "header_is_injected",
        }
    }
}

impl Injection {
    /// Whether a request may carry the credential.
    ///
    /// # Errors
    /// [`Unbound`]: the first thing that does not fit.
    pub fn admits(&self, outgoing: &Outgoing) -> Result<(), Unbound> {
        if !self.hosts.iter().any(|host| host.is_of(outgoing)) {
            return Err(Unbound::Host);
        }
        if !self.methods.contains(&outgoing.method()) {
            return Err(Unbound::Method);
        }
        if !self.paths.iter().any(|path| path.begins(outgoing)) {
            return Err(Unbound::Path);
        }
        if outgoing.body().len() > self.max_request {
            return Err(Unbound::TooLarge);
        }
        let is_injected = |name: &str| match &self.scheme {
            InjectionScheme::Header { name: ours, .. } => **ours == *name,
            InjectionScheme::Bearer { .. }
            | InjectionScheme::Basic { .. }
            | InjectionScheme::AwsSigV4 { .. } => false,
        };
        if outgoing.headers().any(|(name, _)| is_injected(name)) {
            return Err(Unbound::Header);
        }
        Ok(())
    }
}

impl BoundHost {
    /// Reads `host` or `host:port`; 443 where no port is said.
    ///
    /// # Errors
    /// What is wrong, to follow the key's name. A loopback address needs `allow_loopback`, and is
    /// then reached by http too; other addresses that are not public, and names of this machine,
    /// are refused.
    pub fn parse(text: &str, allow_loopback: bool) -> Result<Self, &'static str> {
        const SHAPE: &str = "has an entry that is not a host in its usual form, with or without a \
                             port";
        let address = format!("https://{text}/");
        let outgoing = Outgoing::parse("GET", &address, [], None).map_err(|_error| SHAPE)?;
        if outgoing.url().path() != "/" || outgoing.url().query().is_some() {
            return Err(SHAPE);
        }
        let host = outgoing.host();
        let is_loopback = match outgoing.literal() {
            Some(address) if address.is_loopback() && allow_loopback => true,
            Some(address) if address.is_loopback() => {
                return Err("has a loopback address: that takes allow_insecure_loopback = true");
            }
            Some(address) if !is_public(address) => {
                return Err("has an address that is not of the public network");
            }
            None if host == "localhost" || host.ends_with(".localhost") => {
                return Err("has a name of this machine: write its address");
            }
            Some(_) | None => false,
        };
        Ok(Self {
            host: Box::from(host),
            port: outgoing.port(),
            is_loopback,
        })
    }

    fn is_of(&self, outgoing: &Outgoing) -> bool {
        *self.host == *outgoing.host()
            && self.port == outgoing.port()
            && (outgoing.is_secure() || self.is_loopback)
    }

    /// As a person writes it.
    pub fn shown(&self) -> String {
        if self.port == 443 {
            return self.host.to_string();
        }
        format!("{}:{}", self.host, self.port)
    }
}

impl PathPrefix {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong, to follow the key's name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        normal_path(text).map(|path| Self(Box::from(path)))
    }

    /// The path itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn begins(&self, outgoing: &Outgoing) -> bool {
        let Self(prefix) = self;
        match outgoing.url().path().strip_prefix(&**prefix) {
            None => false,
            Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'),
        }
    }
}

/// Whether a table may put a credential into a header of that name.
pub fn is_injectable_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    is_header_name(&name) && (name == "authorization" || !is_ours(&name))
}

/// Whether the broker may dial that address for a host that is a literal.
pub fn may_dial_literal(address: IpAddr) -> bool {
    address.is_loopback() || is_public(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injection() -> Injection {
        Injection {
            hosts: ["api.example.com", "127.0.0.1:8080"]
                .map(|host| BoundHost::parse(host, true).unwrap())
                .to_vec(),
            scheme: InjectionScheme::Header {
                name: Box::from("x-api-key"),
                field: None,
            },
            methods: vec![HttpMethod::Get, HttpMethod::Post],
            paths: ["/v1/a", "/v2/"]
                .map(|path| PathPrefix::parse(path).unwrap())
                .to_vec(),
            max_request: 4,
            max_response: 4,
        }
    }

    /// PO-4, HY-14: host, port, scheme, method, path, size and header, each by itself.
    #[test]
    fn a_request_must_fit_in_every_way() {
        let rows = [
            ("GET", "https://api.example.com/v1/a", Ok(())),
            ("GET", "https://api.example.com:443/v1/a/b?c", Ok(())),
            ("GET", "https://API.EXAMPLE.COM/v2/x", Ok(())),
            ("GET", "https://api.example.com/v2/", Ok(())),
            ("GET", "https://api.example.com/%761/a", Ok(())),
            ("GET", "http://127.0.0.1:8080/v1/a", Ok(())),
            ("GET", "https://127.0.0.1:8080/v1/a", Ok(())),
            ("GET", "http://api.example.com:443/v1/a", Err(Unbound::Host)),
            ("GET", "http://api.example.com/v1/a", Err(Unbound::Host)),
            (
                "GET",
                "https://api.example.com:8443/v1/a",
                Err(Unbound::Host),
            ),
            ("GET", "https://127.0.0.1/v1/a", Err(Unbound::Host)),
            ("GET", "https://127.0.0.2:8080/v1/a", Err(Unbound::Host)),
            ("GET", "https://example.com/v1/a", Err(Unbound::Host)),
            ("GET", "https://xapi.example.com/v1/a", Err(Unbound::Host)),
            (
                "GET",
                "https://api.example.com.evil.test/v1/a",
                Err(Unbound::Host),
            ),
            (
                "DELETE",
                "https://api.example.com/v1/a",
                Err(Unbound::Method),
            ),
            ("GET", "https://api.example.com/v1/ab", Err(Unbound::Path)),
            ("GET", "https://api.example.com/v1", Err(Unbound::Path)),
            ("GET", "https://api.example.com/v2", Err(Unbound::Path)),
            ("GET", "https://api.example.com/V1/a", Err(Unbound::Path)),
            (
                "GET",
                "https://api.example.com/v1/a%2Fb",
                Err(Unbound::Path),
            ),
            ("GET", "https://api.example.com/", Err(Unbound::Path)),
        ];
        for (method, url, expected) in rows {
            let outgoing = Outgoing::parse(method, url, [], None).unwrap();
            assert_eq!(injection().admits(&outgoing), expected, "{method} {url}");
        }
        let post = |headers: &[(&'static str, &'static str)], body| {
            let url = "https://api.example.com/v1/a";
            let headers = headers.iter().copied();
            let outgoing = Outgoing::parse("POST", url, headers, Some(body)).unwrap();
            injection().admits(&outgoing)
        };
        assert_eq!(post(&[], "1234"), Ok(()));
        assert_eq!(post(&[], "12345"), Err(Unbound::TooLarge));
        assert_eq!(post(&[("X-Api-Key", "x")], ""), Err(Unbound::Header));
    }

    /// OA-7, OA-17: a host that is bound is public, or loopback where the table says so.
    #[test]
    fn hosts_are_public_or_loopback_by_permission() {
        for host in [
            "api.example.com",
            "API.example.com:8443",
            "8.8.8.8",
            "[2606:4700::1111]:1",
        ] {
            assert!(BoundHost::parse(host, false).is_ok(), "{host}");
        }
        for host in ["127.0.0.1:1", "[::1]", "127.9.9.9"] {
            assert!(BoundHost::parse(host, false).is_err(), "{host}");
            assert!(BoundHost::parse(host, true).is_ok(), "{host}");
        }
        for host in [
            "",
            "*.example.com",
            "https://a.example",
            "a.example/",
            "a.example/x",
            "a.example?x",
            "user@a.example",
            "a.example.",
            "a.example:",
            "10.0.0.1",
            "169.254.169.254",
            "localhost",
            "x.localhost",
            "[fd00::1]",
        ] {
            assert!(BoundHost::parse(host, true).is_err(), "{host}");
        }
    }
}
