use toml::Spanned;

use super::file::{Raw, RawInject};
use super::load::{ConfigError, Source, optional};
use crate::model::{
    BoundHost, HttpMethod, Injection, InjectionScheme, MAX_BOUND, MAX_HTTP_REQUEST,
    MAX_HTTP_RESPONSE, PathPrefix, is_injectable_header,
};

/// A field's name, a region, a service, a user: in characters.
const MAX_NAME: usize = 64;

const DEFAULT_MAX_RESPONSE: usize = 64 * 1024;

/// Reads a target's injection table.
pub(super) fn injection(
    source: &Source<'_>,
    key: &str,
    raw: &Spanned<RawInject>,
) -> Result<Injection, ConfigError> {
    let place = raw.span();
    let raw = raw.get_ref();
    let key = |name: &str| format!("{key}.{name}");
    let needed = |raw: &Option<Raw>, name: &str| match raw {
        Some(raw) => Ok(raw.clone()),
        None => Err(source.mistake(Some(place.clone()), &key(name), "is missing")),
    };
    let allow_loopback = optional(raw.allow_insecure_loopback.as_ref(), |raw| {
        source.boolean(&key("allow_insecure_loopback"), raw)
    })?;
    let allow_loopback = allow_loopback.unwrap_or(false);
    let hosts = list(
        source,
        &key("hosts"),
        &needed(&raw.hosts, "hosts")?,
        |text| BoundHost::parse(text, allow_loopback),
    )?;
    let methods = optional(raw.methods.as_ref(), |raw| {
        list(source, &key("methods"), raw, |text| {
            HttpMethod::parse(text)
                .ok_or("has a method that is none of GET, HEAD, POST, PUT, PATCH and DELETE")
        })
    })?;
    let paths = optional(raw.paths.as_ref(), |raw| {
        list(source, &key("paths"), raw, PathPrefix::parse)
    })?;
    let bytes = |raw: &Option<Raw>, name: &str, most: usize| {
        optional(raw.as_ref(), |raw| {
            let most = u64::try_from(most).unwrap_or(u64::MAX);
            source.number(&key(name), raw, &(1..=most))
        })
        .map(|bytes| bytes.and_then(|bytes| usize::try_from(bytes).ok()))
    };
    Ok(Injection {
        hosts,
        scheme: scheme(source, &key, raw, &needed(&raw.scheme, "scheme")?)?,
        methods: methods.unwrap_or_else(|| vec![HttpMethod::Get, HttpMethod::Head]),
        paths: match paths {
            Some(paths) => paths,
            None => vec![
                PathPrefix::parse("/")
                    .map_err(|what| source.mistake(Some(place.clone()), &key("paths"), what))?,
            ],
        },
        max_request: bytes(&raw.max_request, "max_request", MAX_HTTP_REQUEST)?
            .unwrap_or(MAX_HTTP_REQUEST),
        max_response: bytes(&raw.max_response, "max_response", MAX_HTTP_RESPONSE)?
            .unwrap_or(DEFAULT_MAX_RESPONSE),
    })
}

fn scheme(
    source: &Source<'_>,
    key: &dyn Fn(&str) -> String,
    raw: &RawInject,
    scheme: &Raw,
) -> Result<InjectionScheme, ConfigError> {
    let name = |raw: &Option<Raw>, name: &str| {
        optional(raw.as_ref(), |raw| {
            let text = source.clean(&key(name), raw, MAX_NAME)?;
            Ok(Box::<str>::from(text.as_str()))
        })
    };
    let needed = |given: &Option<Raw>, of: &str| match name(given, of)? {
        Some(text) => Ok(text),
        None => Err(source.mistake(
            Some(scheme.span()),
            &key(of),
            "is missing: this scheme needs it",
        )),
    };
    let word = source.text(&key("scheme"), scheme)?;
    let takes: &[&str] = match word {
        "bearer" => &["field"],
        "basic" => &["field", "user"],
        "header" => &["field", "header"],
        "aws-sigv4" => &["region", "service"],
        _ => {
            return Err(source.mistake(
                Some(scheme.span()),
                &key("scheme"),
                "must be \"bearer\", \"basic\", \"header\" or \"aws-sigv4\"",
            ));
        }
    };
    let given = [
        ("header", &raw.header),
        ("user", &raw.user),
        ("field", &raw.field),
        ("region", &raw.region),
        ("service", &raw.service),
    ];
    for (name, raw) in given {
        if let (Some(raw), false) = (raw, takes.contains(&name)) {
            return Err(source.mistake(
                Some(raw.span()),
                &key(name),
                "makes no sense with this scheme",
            ));
        }
    }
    let field = name(&raw.field, "field")?;
    Ok(match word {
        "basic" => {
            let user = name(&raw.user, "user")?;
            if let (Some(raw), true) = (&raw.user, user.as_ref().is_some_and(|it| it.contains(':')))
            {
                // RFC 7617 §2: it would end there.
                return Err(source.mistake(
                    Some(raw.span()),
                    &key("user"),
                    "must not hold a colon",
                ));
            }
            InjectionScheme::Basic { user, field }
        }
        "header" => {
            let name = needed(&raw.header, "header")?.to_ascii_lowercase();
            if !is_injectable_header(&name) {
                let place = raw.header.as_ref().map(Spanned::span);
                return Err(source.mistake(
                    place,
                    &key("header"),
                    "must be a header's name, and none of framing, cookies and proxies",
                ));
            }
            InjectionScheme::Header {
                name: Box::from(name),
                field,
            }
        }
        "aws-sigv4" => InjectionScheme::AwsSigV4 {
            region: needed(&raw.region, "region")?,
            service: needed(&raw.service, "service")?,
        },
        _ => InjectionScheme::Bearer { field },
    })
}

/// 1 to 32 entries, none twice.
fn list<T: PartialEq>(
    source: &Source<'_>,
    key: &str,
    raw: &Raw,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, ConfigError> {
    let mut found = Vec::new();
    for text in source.texts(key, raw)? {
        let entry = parse(text).map_err(|what| source.mistake(Some(raw.span()), key, what))?;
        if found.contains(&entry) {
            return Err(source.mistake(Some(raw.span()), key, "has an entry twice"));
        }
        if found.len() >= MAX_BOUND {
            return Err(source.mistake(Some(raw.span()), key, "has more than 32 entries"));
        }
        found.push(entry);
    }
    Ok(found)
}
