//! One RPC try on its way through the server.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::HeaderMap;
use connectrpc::{ConnectError, RequestContext};

use crate::audit::Entry;
use crate::check::Checks;
use crate::clock::Moment;
use crate::dpop::{self, Claimed};
use crate::errors::{Reason, Refusal};
use crate::journal::{Carrier, RequestRecord};
use crate::web::Refused;

/// How a try came here.
#[derive(Clone, Debug)]
pub(crate) struct Road {
    pub(crate) peer: IpAddr,
    /// The address that was called, as `htu` must say it.
    pub(crate) url: String,
    /// Fingerprint of the certificate that the connection's other end has shown and has the key of.
    pub(crate) certificate: Option<Arc<str>>,
}

/// What is known of a try before its message is decoded.
#[derive(Debug)]
pub(crate) struct Call {
    /// The RPC's name.
    pub(crate) method: &'static str,
    pub(crate) request_id: String,
    pub(crate) road: Road,
    pub(crate) headers: HeaderMap,
    pub(crate) at: Moment,
    /// What judges `iat`.
    pub(crate) proof_clock: Moment,
    /// The checks it has to pass.
    pub(crate) checks: Checks,
    // Written step by step while the call is judged; never held across an await.
    trace: Mutex<Trace>,
}

/// What is learned on the way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    pub(crate) carrier: Carrier,
    pub(crate) proof: Option<String>,
    pub(crate) claimed: Claimed,
    /// The audit event to be, if the call is refused from here on.
    pub(crate) entry: Entry,
    /// The nonce to hand out.
    pub(crate) nonce: Option<String>,
    /// `ok` or a Connect code, once the service has decided.
    pub(crate) result: Option<&'static str>,
    pub(crate) reason: Option<&'static str>,
}

impl Call {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another fact about the request"
    )]
    pub(crate) fn new(
        method: &'static str,
        request_id: String,
        road: Road,
        headers: HeaderMap,
        at: Moment,
        proof_clock: Moment,
        checks: Checks,
        body_proof: Option<String>,
    ) -> Self {
        let header_proof = headers
            .get("dpop")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let carrier = match (&body_proof, headers.contains_key("dpop")) {
            (None, false) => Carrier::None,
            (Some(_), false) => Carrier::Body,
            (None, true) => Carrier::Header,
            (Some(_), true) => Carrier::Both,
        };
        let proof = body_proof.or(header_proof);
        let claimed = proof.as_deref().map(dpop::peek).unwrap_or_default();
        let entry = Entry {
            request_id: request_id.clone(),
            ..Entry::default()
        };
        Self {
            method,
            request_id,
            road,
            headers,
            at,
            proof_clock,
            checks,
            trace: Mutex::new(Trace {
                carrier,
                proof,
                claimed,
                entry,
                ..Trace::default()
            }),
        }
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a proof that came in a binary body.
    pub(crate) fn note_proof(&self, jwt: &str) {
        let mut trace = self.trace();
        if trace.carrier == Carrier::None {
            trace.carrier = Carrier::Body;
            trace.claimed = dpop::peek(jwt);
            trace.proof = Some(jwt.to_owned());
        }
    }

    /// Notes a proof by certificate: its nonce is what a `jti` is elsewhere.
    pub(crate) fn note_nonce(&self, nonce: &str) {
        let plain = nonce.len() <= 128 && nonce.bytes().all(|byte| byte.is_ascii_graphic());
        if plain {
            self.trace().claimed.jti = Some(nonce.to_owned());
        }
    }

    /// Notes and words a refusal.
    pub(crate) fn refuse(&self, refusal: Refusal) -> ConnectError {
        let mut trace = self.trace();
        trace.result = Some(refusal.code.as_str());
        trace.reason = refusal.reason.map(Reason::as_str);
        drop(trace);
        refusal.into_error(&self.request_id)
    }

    pub(crate) fn record(&self, result: &str, reason: Option<&str>) -> RequestRecord {
        let trace = self.trace().clone();
        let principal = Some(trace.entry.principal).filter(|principal| !principal.is_empty());
        RequestRecord {
            seq: 0,
            at: self.at.system_time(),
            method: self.method.to_owned(),
            request_id: self.request_id.clone(),
            carrier: trace.carrier,
            jti: trace.claimed.jti,
            htm: trace.claimed.htm,
            htu: trace.claimed.htu,
            jkt: trace.claimed.jkt,
            proof: trace.proof,
            principal,
            result: result.to_owned(),
            reason: reason.map(str::to_owned),
        }
    }
}

/// The call behind a handler's context, or why it was refused before.
pub(crate) fn of(context: &RequestContext) -> Result<Arc<Call>, ConnectError> {
    if let Some(Refused(error)) = context.extensions().get::<Refused>() {
        return Err(error.clone());
    }
    context
        .extensions()
        .get::<Arc<Call>>()
        .cloned()
        .ok_or_else(|| ConnectError::internal("request came around the web layer"))
}
