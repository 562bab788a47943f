//! What is taken of a host's answer: bounded, and without any value that the broker knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use reqwest::Response;
use reqwest::header::HeaderMap;

use crate::broker::ports::{HttpAnswer, HttpFailure};
use crate::model::{CleanText, FieldValue, Material};
use crate::redact::{Findings, Redactor, Values};

/// Headers that are passed on, and bytes of all of them.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// What is about the connection or for the broker alone: cookies are credentials, and the length
/// is that of the body before anything was masked.
const KEPT_BACK: [&str; 13] = [
    "alt-svc",
    "authentication-info",
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The known values, and whose each is.
pub(super) struct Known {
    values: Arc<Values>,
    /// The place of the material that each value is of.
    owners: Vec<usize>,
}

impl Known {
    pub(super) fn new(materials: &[Arc<Material>]) -> Self {
        let mut values = Values::new();
        let mut owners = Vec::new();
        for (place, material) in materials.iter().enumerate() {
            for field in &material.fields {
                if let FieldValue::Secret(secret) = &field.value {
                    values.add(secret);
                    owners.push(place);
                }
            }
        }
        Self {
            values: Arc::new(values),
            owners,
        }
    }

    fn redactor(&self) -> Redactor {
        Redactor::new(Arc::clone(&self.values))
    }
}

/// What was found in an answer so far.
struct Found<'k> {
    known: &'k Known,
    leaked: BTreeSet<usize>,
    masked: bool,
}

impl Found<'_> {
    fn note(&mut self, findings: &Findings) {
        self.masked |= !findings.is_clean();
        let owners = findings
            .found()
            .filter_map(|value| self.known.owners.get(value));
        self.leaked.extend(owners.copied());
    }
}

/// Reads an answer to its end, or as far as `max_body` bytes go.
pub(super) async fn read(
    mut response: Response,
    max_body: usize,
    known: &Known,
) -> Result<HttpAnswer, HttpFailure> {
    let mut found = Found {
        known,
        leaked: BTreeSet::new(),
        masked: false,
    };
    let status = response.status().as_u16();
    let headers = headers(response.headers(), &mut found);
    let mut redactor = known.redactor();
    let mut body = Vec::new();
    let mut left = max_body;
    let truncated = loop {
        match response.chunk().await {
            Ok(None) => break false,
            Ok(Some(chunk)) => {
                let taken = chunk.get(..left).unwrap_or(&chunk);
                redactor.push(taken, &mut body);
                left = left.saturating_sub(taken.len());
                if taken.len() < chunk.len() {
                    break true;
                }
            }
            Err(_error) => return Err(HttpFailure::Protocol),
        }
    };
    let findings = if truncated {
        redactor.cut(&mut body)
    } else {
        redactor.finish(&mut body)
    };
    found.note(&findings);
    Ok(HttpAnswer {
        status,
        headers,
        body,
        truncated,
        masked: found.masked,
        leaked: found.leaked.into_iter().collect(),
    })
}

fn headers(headers: &HeaderMap, found: &mut Found<'_>) -> Vec<(Box<str>, Box<str>)> {
    let mut kept = Vec::new();
    let mut bytes = 0_usize;
    for (name, value) in headers {
        if KEPT_BACK.contains(&name.as_str()) {
            continue;
        }
        let name = masked(name.as_str().as_bytes(), found);
        let value = masked(value.as_bytes(), found);
        bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
        if kept.len() >= MAX_HEADERS || bytes > MAX_HEADER_BYTES {
            break;
        }
        kept.push((name, value));
    }
    kept
}

fn masked(text: &[u8], found: &mut Found<'_>) -> Box<str> {
    let mut redactor = found.known.redactor();
    let mut out = Vec::with_capacity(text.len());
    redactor.push(text, &mut out);
    let findings = redactor.finish(&mut out);
    found.note(&findings);
    let text = CleanText::new(&String::from_utf8_lossy(&out), MAX_HEADER_BYTES);
    Box::from(text.as_str())
}
