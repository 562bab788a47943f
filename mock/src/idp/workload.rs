//! What a workload's identity token is worth: RFC 7519 and RFC 8725, for one audience.

use crate::call::Call;
use crate::check::{Check, Checks};
use crate::clock::Moment;
use crate::encoding::{base64url, from_any_base64url, sha256};
use crate::idp::API_AUDIENCE;
use crate::json::Json;
use crate::jwk::Algorithm;
use crate::policy::{Replay, Workload};
use crate::state::{Shared, State};

/// The longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
/// How far a token may lie in the future, in seconds: clocks differ.
const MAX_LEAD: i64 = 10;
/// The longest that a token may live, in seconds: for so long its use is remembered.
const LONGEST: i64 = 24 * 60 * 60;

/// A token that holds, and the workload that the policy knows it as.
#[derive(Debug)]
pub(crate) struct WorkloadToken {
    pub(crate) workload: Workload,
    pub(crate) replay: Replay,
    /// What it is remembered by: what was signed, because a signature can be written in two ways.
    pub(crate) name: String,
    pub(crate) expires_at: Moment,
}

impl Shared {
    /// Judges a workload token.
    pub(crate) fn workload_token(&self, call: &Call, token: &str) -> Result<WorkloadToken, Check> {
        let now = self.clock.now();
        let state = self.state();
        self.judge(&state, token, now, call.checks)
    }

    fn judge(
        &self,
        state: &State,
        token: &str,
        now: Moment,
        checks: Checks,
    ) -> Result<WorkloadToken, Check> {
        let form = Check::WorkloadForm;
        checks.require(form, token.len() <= MAX_TOKEN)?;
        let parts: Vec<&str> = token.split('.').collect();
        checks.require(form, parts.len() == 3)?;
        let [header_part, claims_part, signature, ..] = parts.as_slice() else {
            return Err(form);
        };
        let header = object(header_part, checks)?;
        let claims = object(claims_part, checks)?;
        let signature = bytes(signature, checks)?;
        let plain = header.member("crit").is_none() && header.member("b64").is_none();
        checks.require(form, plain)?;

        let algorithm = text(&header, "alg").and_then(Algorithm::by_name);
        checks.require(
            Check::WorkloadAlgorithm,
            algorithm == Some(Algorithm::Es256),
        )?;
        let issuer = text(&claims, "iss").and_then(|issuer| {
            let issuers = state.policy.issuers.iter();
            issuers
                .clone()
                .find(|known| self.issuer(&known.url) == issuer)
        });
        checks.require(Check::WorkloadIssuer, issuer.is_some())?;
        let signed = format!("{header_part}.{claims_part}");
        let key = state.idp.keys.key(text(&header, "kid"), now);
        let verified = key.is_some_and(|key| key.verifies(signed.as_bytes(), &signature));
        checks.require(Check::WorkloadSignature, verified)?;
        checks.require(Check::WorkloadAudience, is_for_us(&claims))?;

        let time = |name: &str| claims.member(name).and_then(Json::integer);
        let here = now.unix_seconds();
        let expires = time("exp");
        let alive = expires.is_some_and(|end| here < end);
        checks.require(Check::WorkloadAlive, alive)?;
        let latest = here.saturating_add(MAX_LEAD);
        let made = time("iat").is_some_and(|made| made <= latest);
        let started = match claims.member("nbf") {
            None => true,
            Some(start) => start.integer().is_some_and(|start| start <= latest),
        };
        checks.require(Check::WorkloadStarted, made && started)?;
        let ends = expires.unwrap_or(here);
        let brief = ends <= here.saturating_add(LONGEST);
        checks.require(Check::WorkloadLifetime, brief)?;

        let subject = text(&claims, "sub").unwrap_or_default();
        let known = state.policy.workloads.iter().find(|workload| {
            issuer.is_none_or(|issuer| issuer.url == workload.issuer) && workload.subject == subject
        });
        // Who is nobody is nobody's principal, whatever is checked.
        let known = match known {
            None if checks.make(Check::WorkloadSubject) => None,
            None => state.policy.workloads.first(),
            known => known,
        };
        let workload = known.ok_or(Check::WorkloadSubject)?;
        Ok(WorkloadToken {
            workload: workload.clone(),
            replay: issuer.map_or(Replay::Refuse, |issuer| issuer.replay),
            name: format!("workload {}", base64url(&sha256(signed.as_bytes()))),
            expires_at: Moment::from_unix_millis(ends.saturating_mul(1000)),
        })
    }
}

/// RFC 7519 §4.1.3: one audience, or a list that has it. A token for others too is as good for
/// them, so it is not taken.
fn is_for_us(claims: &Json) -> bool {
    match claims.member("aud") {
        Some(Json::Text(audience)) => audience == API_AUDIENCE,
        Some(Json::List(audiences)) => match audiences.as_slice() {
            [audience] => audience.text() == Some(API_AUDIENCE),
            _ => false,
        },
        _ => false,
    }
}

fn bytes(part: &str, checks: Checks) -> Result<Vec<u8>, Check> {
    let bytes = from_any_base64url(part).ok_or(Check::WorkloadForm)?;
    checks.require(Check::WorkloadForm, base64url(&bytes) == part)?;
    Ok(bytes)
}

fn object(part: &str, checks: Checks) -> Result<Json, Check> {
    let bytes = bytes(part, checks)?;
    let json = Json::parse(&bytes).ok_or(Check::WorkloadForm)?;
    if !matches!(json, Json::Object(_)) {
        return Err(Check::WorkloadForm);
    }
    checks.require(Check::WorkloadForm, !json.has_duplicates())?;
    Ok(json)
}

fn text<'a>(json: &'a Json, name: &str) -> Option<&'a str> {
    json.member(name).and_then(Json::text)
}
