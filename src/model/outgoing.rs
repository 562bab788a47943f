use core::net::IpAddr;
use std::fmt;

use url::{Host, Url};

/// The longest address, in bytes.
const MAX_URL: usize = 8 * 1024;

/// Headers that a caller may set on one request, and bytes of all of them.
const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Rounds of percent-decoding after which a path is still looked at.
const ROUNDS: usize = 3;

/// What a caller never sets: credentials, framing, and what is between two hops (HY-14). Nothing
/// offers a compression, since nothing here undoes one.
const OURS: [&str; 20] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
];

/// And what begins so.
const OURS_BEGINNING: [&str; 4] = ["proxy-", "sec-", "x-forwarded-", "cookie"];

/// A method of HTTP that the broker sends (RFC 9110 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpMethod {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl HttpMethod {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Patch,
        Self::Delete,
    ];

    /// The word on the wire, case-sensitive.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// The method of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }
}

/// A request that a caller wants sent with a credential, before there is one in it. Parsed once:
/// what the limits are applied to is what is sent (PO-6).
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing {
    method: HttpMethod,
    url: Url,
    headers: Headers,
    body: Box<str>,
}

/// Names in lower case, and values.
type Headers = Vec<(Box<str>, Box<str>)>;

/// Why a request is not one that may be sent. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutgoingError {
    /// Not one of the six methods.
    #[error("`method` is GET, HEAD, POST, PUT, PATCH or DELETE")]
    Method,
    /// Something about the address.
    #[error("`url` {0}")]
    Url(&'static str),
    /// Something about a header.
    #[error("`headers` {0}")]
    Header(&'static str),
    /// A body where none belongs.
    #[error("`body` does not belong to GET and HEAD")]
    Body,
}

impl Outgoing {
    /// Reads a request.
    ///
    /// # Errors
    /// [`OutgoingError`]. Refused are also addresses that different programs read differently:
    /// with user information, a fragment, a backslash, `.` and `..` in any encoding, empty
    /// segments, or a host that is not written in its usual form.
    pub fn parse<'a>(
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
        body: Option<&str>,
    ) -> Result<Self, OutgoingError> {
        let method = HttpMethod::parse(method).ok_or(OutgoingError::Method)?;
        let body: Box<str> = Box::from(body.unwrap_or_default());
        if !body.is_empty() && matches!(method, HttpMethod::Get | HttpMethod::Head) {
            return Err(OutgoingError::Body);
        }
        Ok(Self {
            method,
            url: address(url).map_err(OutgoingError::Url)?,
            headers: self::headers(headers).map_err(OutgoingError::Header)?,
            body,
        })
    }

    /// How.
    pub const fn method(&self) -> HttpMethod {
        self.method
    }

    /// Where to, normalised.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// The host in its usual form: lower case, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port, also where the address names none.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The address that the host is, where it is no name.
    pub fn literal(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
        }
    }

    /// Whether it is https.
    pub fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The caller's headers, names in lower case, none twice, none of ours.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The body; empty where there is none.
    pub fn body(&self) -> &str {
        &self.body
    }
}

/// Method and host. Query, headers and body are the caller's and stay out of logs.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.host())
    }
}

fn address(text: &str) -> Result<Url, &'static str> {
    if text.len() > MAX_URL {
        return Err("is longer than 8 KiB");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds characters that have to be percent-encoded");
    }
    let rest = text.strip_prefix("https://");
    let rest = rest.or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or("must begin with https://")?;
    if rest.contains('#') {
        return Err("has a fragment, which is not sent");
    }
    let authority_ends = rest.find(['/', '?', '\\']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(authority_ends).unwrap_or_default();
    if authority.contains('@') {
        return Err("holds user information: the credential is put in by the broker");
    }
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let path = normal_path(if path.is_empty() { "/" } else { path })?;
    if !query.unwrap_or_default().bytes().all(is_query) {
        return Err("has a query with characters that have to be percent-encoded");
    }
    let scheme = if text.starts_with("https") {
        "https"
    } else {
        "http"
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let whole = format!("{scheme}://{authority}{path}{query}");
    let Ok(url) = Url::parse(&whole) else {
        return Err("is not an address");
    };
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let usual = [host.to_owned(), format!("{host}:{port}")];
    let is_usual = usual.contains(&authority.to_ascii_lowercase());
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || host.ends_with('.') || !is_usual || !host.bytes().all(is_host) {
        return Err("must name its host in the usual form: a name or an address, and a port");
    }
    if url.path() != path {
        return Err("has a path with characters that have to be percent-encoded");
    }
    Ok(url)
}

/// A path in its one form: what needs no encoding is not encoded, and what does in capitals.
///
/// # Errors
/// What is wrong, to follow the key's name: dots as segments in any encoding, empty segments, bad
/// encodings, characters that no path has.
pub(super) fn normal_path(path: &str) -> Result<String, &'static str> {
    const DOTS: &str = "has a path with . or .. in it, or something that can be read so";
    let mut normal = String::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let (high, low) = (rest.next().unwrap_or_default(), rest.next());
            let byte = hex(high, low.unwrap_or_default()).ok_or("has a bad percent-encoding")?;
            if is_unreserved(byte) {
                normal.push(byte.into());
            } else {
                let digits = char::from_digit(u32::from(byte >> 4), 16)
                    .into_iter()
                    .chain(char::from_digit(u32::from(byte & 15), 16));
                normal.push('%');
                normal.extend(digits.map(|digit| digit.to_ascii_uppercase()));
            }
        } else if byte == b'/' || is_query(byte) && byte != b'?' {
            normal.push(byte.into());
        } else {
            return Err("has a path with characters that have to be percent-encoded");
        }
    }
    if !normal.starts_with('/') {
        return Err("has a path that does not begin with /");
    }
    if normal.contains("//") {
        return Err("has an empty segment in its path");
    }
    let mut seen = normal.clone();
    for _ in 0..ROUNDS {
        if seen.split(['/', '\\']).any(is_dots) {
            return Err(DOTS);
        }
        if seen.chars().any(char::is_control) {
            return Err("has a control character in its path");
        }
        seen = decoded(&seen);
    }
    Ok(normal)
}

/// Also with a parameter behind, which some servers drop first.
fn is_dots(segment: &str) -> bool {
    let name = segment.split(';').next().unwrap_or_default();
    matches!(name, "." | "..")
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        bytes.push(match (byte, after) {
            (b'%', [high, low, after @ ..]) => match hex(*high, *low) {
                Some(byte) => {
                    rest = after;
                    byte
                }
                None => b'%',
            },
            (byte, _) => *byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)?.saturating_mul(16).saturating_add(digit(low)?)).ok()
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §3.4, and the percent sign.
fn is_query(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@/?%".contains(&byte)
}

/// RFC 9110 §5.6.2.
pub(super) fn is_header_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(legal)
}

/// Whether a caller may not set a header, its name in lower case.
pub(super) fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || OURS_BEGINNING.iter().any(|start| name.starts_with(start))
}

fn headers<'a>(
    given: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Headers, &'static str> {
    let mut headers = Headers::new();
    let mut bytes = 0_usize;
    for (name, value) in given {
        if !is_header_name(name) {
            return Err("have a name that is none");
        }
        let printable = |byte: u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
        if !value.bytes().all(printable) || value.trim() != value {
            return Err("have a value that is not printable ASCII");
        }
        let name = name.to_ascii_lowercase();
        if is_ours(&name) {
            return Err("hold one that only the broker sets: credentials, Host and framing");
        }
        if headers.iter().any(|(other, _)| **other == *name) {
            return Err("hold one twice");
        }
        bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
        if headers.len() >= MAX_HEADERS || bytes > MAX_HEADER_BYTES {
            return Err("are at most 32, with 8 KiB in all");
        }
        headers.push((Box::from(name), Box::from(value)));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(url: &str) -> Result<Outgoing, OutgoingError> {
        Outgoing::parse("GET", url, [], None)
    }

    /// PO-6: one form of every address, and it is the one that is sent.
    #[test]
    fn addresses_are_normalised_once() {
        let rows = [
            ("https://api.example.com", "https://api.example.com/"),
            ("https://API.example.com:443/a", "https://api.example.com/a"),
            (
                "https://a.example:8443/%7euser/%2f%c3%a4?q=%2e",
                "https://a.example:8443/~user/%2F%C3%A4?q=%2e",
            ),
            ("http://127.0.0.1:80/x/", "http://127.0.0.1/x/"),
            ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/"),
            (
                "https://a.example/a.b/..c/...?x=../y",
                "https://a.example/a.b/..c/...?x=../y",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(get(text).unwrap().url().as_str(), expected, "{text}");
        }
        let outgoing = get("https://API.example.com/a").unwrap();
        assert_eq!((outgoing.host(), outgoing.port()), ("api.example.com", 443));
    }

    /// IN-18: what two programs could read differently is not sent at all.
    #[test]
    fn ambiguous_addresses_are_refused() {
        for text in [
            "",
            "api.example.com/a",
            "ftp://a.example/",
            "HTTPS://a.example/",
            "https:/a.example/",
            "https:a.example/",
            "https:///a.example/",
            "https://user@a.example/",
            "https://user:pass@a.example/",
            "https://@a.example/",
            "https://a.example@evil.example/",
            "https://a.example:443@evil.example/",
            "https://a.example\\@evil.example/",
            "https://a.example\\evil/",
            "https://a.example#@evil.example/",
            "https://a.example/#x",
            "https://a.example./",
            "https://a.example:/",
            "https://a.example:0443/",
            "https://a.example:99999/",
            "https://a%2eexample/",
            "https://*.example/",
            "https://ä.example/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://127.1/",
            "https://[::ffff:7f00:1%25eth0]/",
            "https://a.example/a/../b",
            "https://a.example/a/./b",
            "https://a.example/a/..",
            "https://a.example/a/%2e%2e/b",
            "https://a.example/a/.%2E/b",
            "https://a.example/a/%252e%252e/b",
            "https://a.example/a%2f..%2fb",
            "https://a.example/a%5c..%5cb",
            "https://a.example/a/..;x/b",
            "https://a.example/a/..%3bx/b",
            "https://a.example//a",
            "https://a.example/a//b",
            "https://a.example/a\\b",
            "https://a.example/a%",
            "https://a.example/a%2",
            "https://a.example/a%zz",
            "https://a.example/a%00b",
            "https://a.example/a%0d%0ab",
            "https://a.example/a b",
            "https://a.example/a\r\nHost: b",
            "https://a.example/a\tb",
            "https://a.example/<a>",
            "https://a.example/?<a>",
        ] {
            assert!(matches!(get(text), Err(OutgoingError::Url(_))), "{text:?}");
        }
        assert!(get(&format!("https://a.example/{}", "a".repeat(MAX_URL))).is_err());
    }

    /// HY-14, HY-13: credentials, Host, framing and hop-by-hop headers are not the caller's, and
    /// no value ends its line.
    #[test]
    fn headers_of_ours_and_broken_ones_are_refused() {
        let with = |name: &str, value: &str| {
            Outgoing::parse("POST", "https://a.example/", [(name, value)], Some("x"))
        };
        let outgoing = with("Content-Type", "text/plain; a=\"b\"").unwrap();
        let headers: Vec<_> = outgoing.headers().collect();
        assert_eq!(headers, [("content-type", "text/plain; a=\"b\"")]);
        assert!(with("X-Amz-Target", "Service.Action").is_ok());
        for name in OURS {
            let name = name.to_ascii_uppercase();
            let refused = matches!(with(&name, "x"), Err(OutgoingError::Header(_)));
            assert!(refused, "{name}");
        }
        for (name, value) in [
            ("Proxy-Authorization", "x"),
            ("Sec-Fetch-Site", "x"),
            ("X-Forwarded-For", "x"),
            ("Cookie2", "x"),
            ("", "x"),
            ("a b", "x"),
            ("a:", "x"),
            ("a\r\nb", "x"),
            ("a", "x\r\nHost: b"),
            ("a", "x\n"),
            ("a", "x\0"),
            ("a", " x"),
            ("a", "ä"),
        ] {
            let refused = matches!(with(name, value), Err(OutgoingError::Header(_)));
            assert!(refused, "{name:?}: {value:?}");
        }
        let twice = [("a", "1"), ("A", "2")];
        assert!(Outgoing::parse("GET", "https://a.example/", twice, None).is_err());
        let names: Vec<_> = (0..=MAX_HEADERS).map(|n| format!("a{n}")).collect();
        let many = names.iter().map(|name| (name.as_str(), "x"));
        assert!(Outgoing::parse("GET", "https://a.example/", many, None).is_err());
    }

    #[test]
    fn methods_are_words_and_bodies_belong_to_some() {
        for method in ["get", "CONNECT", "TRACE", "", "GET "] {
            let parsed = Outgoing::parse(method, "https://a.example/", [], None);
            assert_eq!(parsed, Err(OutgoingError::Method), "{method}");
        }
        let parsed = Outgoing::parse("GET", "https://a.example/", [], Some("x"));
        assert_eq!(parsed, Err(OutgoingError::Body));
    }
}
