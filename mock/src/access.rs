//! Who is calling: token, proof, tenant, throttle, in this order.

use std::sync::Arc;

use crate::call::Call;
use crate::check::Check;
use crate::dpop::{self, Expected, Proof};
use crate::encoding::sha256;
use crate::errors::{Reason, Refusal};
use crate::fault::FaultKind;
use crate::identity::tokens::TokenRecord;
use crate::policy::NonceMode;
use crate::proto::RequestProof;
use crate::state::Shared;

const MAX_TOKEN: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

impl Scheme {
    fn by_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("bearer") {
            Some(Self::Bearer)
        } else if name.eq_ignore_ascii_case("dpop") {
            Some(Self::Dpop)
        } else {
            None
        }
    }
}

/// A caller who has shown a token and the key it is bound to.
pub(crate) struct Caller {
    pub(crate) token: Arc<TokenRecord>,
}

impl Shared {
    /// Admits the caller of an RPC that needs a broker token.
    pub(crate) fn admit(
        &self,
        call: &Call,
        body: Option<&RequestProof>,
        tenant_id: &str,
    ) -> Result<Caller, Refusal> {
        let (scheme, secret) = credential(call)?;
        let token = self.state().tokens.find(&sha256(secret.as_bytes()));
        let Some(token) = token else {
            return Err(Refusal::new(
                Reason::TokenInvalid,
                "token is not one of ours",
            ));
        };
        let mut trace = call.trace();
        trace.entry.principal.clone_from(&token.principal);
        trace.entry.tenant_id.clone_from(&token.tenant_id);
        trace.entry.session_id.clone_from(&token.session_id);
        drop(trace);
        let now = self.clock.now();
        let checks = call.checks;
        checks.require(Check::TokenAlive, now < token.expires_at)?;
        checks.require(Check::SessionAlive, now < token.session_expires_at)?;

        let proof = check_proof(call, body, Some((scheme, secret)))?;
        checks.require(Check::ProofBinding, proof.thumbprint == token.jkt)?;
        check_key_name(call, &proof, &token.pop_key_id)?;
        self.check_fresh(call, &proof, true)?;

        checks.require(Check::Tenant, tenant_id == token.tenant_id)?;
        self.throttle(&token)?;
        Ok(Caller { token })
    }

    /// Checks the proof of an RPC that needs no broker token.
    pub(crate) fn admit_without_token(
        &self,
        call: &Call,
        body: Option<&RequestProof>,
    ) -> Result<Proof, Refusal> {
        let proof = check_proof(call, body, None)?;
        self.check_fresh(call, &proof, false)?;
        Ok(proof)
    }

    /// Checks the nonce and uses up the `jti`.
    fn check_fresh(&self, call: &Call, proof: &Proof, needs_nonce: bool) -> Result<(), Refusal> {
        let now = self.clock.now();
        let mut state = self.state();
        let mode = state.policy.server.nonce;
        let forced = state
            .faults
            .take(call.method, &[FaultKind::NonceOnce, FaultKind::NonceAlways]);
        if forced.is_some() {
            let mode = match mode {
                NonceMode::Off => NonceMode::Window,
                NonceMode::Window | NonceMode::SingleUse => mode,
            };
            return Err(Refusal::use_nonce(state.nonces.next(mode, now)));
        }
        let (check, fresh) = match &proof.nonce {
            Some(nonce) => (Check::NonceCurrent, state.nonces.accept(mode, nonce, now)),
            None => (
                Check::NoncePresent,
                mode == NonceMode::Off || !needs_nonce || !state.policy.strictness.nonce_required,
            ),
        };
        if !call.checks.pass(check, fresh) {
            return Err(Refusal::use_nonce(state.nonces.next(mode, now)));
        }
        let first = state
            .replays
            .consume(proof, call.proof_clock.unix_seconds());
        let first = first || !state.policy.strictness.replay;
        Ok(call.checks.require(Check::Replay, first)?)
    }

    fn throttle(&self, token: &TokenRecord) -> Result<(), Refusal> {
        let now = self.clock.now();
        let mut state = self.state();
        let limits = state.policy.throttle.clone();
        if !limits.enabled {
            return Ok(());
        }
        let principal = format!("principal {} {}", token.tenant_id, token.principal);
        let tenant = format!("tenant {}", token.tenant_id);
        state
            .throttle
            .count(principal, limits.per_principal_minute, now)
            .and_then(|()| state.throttle.count(tenant, limits.per_tenant_minute, now))
            .map_err(rate_limited)
    }
}

pub(crate) fn rate_limited(seconds: u32) -> Refusal {
    Refusal::new(Reason::RateLimited, "too many calls").retry_after(seconds)
}

/// The `kid` of a proof, if it has one, must name the registered key.
pub(crate) fn check_key_name(call: &Call, proof: &Proof, pop_key_id: &str) -> Result<(), Check> {
    let named = proof.kid.as_ref().is_none_or(|kid| kid == pop_key_id);
    call.checks.require(Check::ProofKeyName, named)
}

/// The one token in `Authorization`.
fn credential(call: &Call) -> Result<(Scheme, &str), Check> {
    let mut values = call.headers.get_all("authorization").iter();
    let value = values.next();
    call.checks.require(Check::TokenPresent, value.is_some())?;
    let (name, token) = value
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split_once(' '))
        .unwrap_or_default();
    let scheme = Scheme::by_name(name);
    let one_token = !token.is_empty()
        && token.len() <= MAX_TOKEN
        && token.bytes().all(|b| b.is_ascii_graphic())
        && values.next().is_none();
    call.checks
        .require(Check::TokenForm, scheme.is_some() && one_token)?;
    Ok((scheme.unwrap_or(Scheme::Bearer), token))
}

/// The token of a call whose token is not proven by a key.
pub(crate) fn bearer(call: &Call) -> Result<&str, Refusal> {
    match credential(call)? {
        (Scheme::Bearer, token) => Ok(token),
        (Scheme::Dpop, _) => Err(Refusal::new(
            Reason::TokenInvalid,
            "a Bearer token is required",
        )),
    }
}

/// Finds the one proof and checks it by itself.
fn check_proof(
    call: &Call,
    body: Option<&RequestProof>,
    token: Option<(Scheme, &str)>,
) -> Result<Proof, Check> {
    let checks = call.checks;
    let jwt = carried(call, body, token.map(|(scheme, _)| scheme))?;
    call.note_proof(jwt);
    let expected = Expected {
        method: "POST",
        url: &call.url,
        token: token.map(|(_, token)| token),
        now: call.proof_clock.unix_seconds(),
    };
    let proof = dpop::verify(jwt, &expected, checks)?;
    let nonce = body
        .map(|body| &body.nonce)
        .filter(|nonce| !nonce.is_empty());
    let same = nonce.is_none_or(|nonce| proof.nonce.as_ref() == Some(nonce));
    checks.require(Check::ProofNonceField, same)?;
    let mut trace = call.trace();
    trace.entry.proof_type = "dpop_jwt";
    trace.entry.key_thumbprint.clone_from(&proof.thumbprint);
    trace.entry.proof_jti.clone_from(&proof.jti);
    drop(trace);
    Ok(proof)
}

/// The one proof: where the token's scheme says, or anywhere beside none.
fn carried<'a>(
    call: &'a Call,
    body: Option<&'a RequestProof>,
    scheme: Option<Scheme>,
) -> Result<&'a str, Check> {
    let checks = call.checks;
    let headers = call.headers.get_all("dpop").iter().count();
    checks.require(Check::ProofPresent, body.is_some() || headers > 0)?;
    let placed = match (body, headers) {
        (Some(_), 0) => scheme != Some(Scheme::Dpop),
        (None, 1) => scheme != Some(Scheme::Bearer),
        // None at all has passed only where nobody looks for one.
        (_, headers) => headers == 0,
    };
    checks.require(Check::ProofPlace, placed)?;
    if let Some(body) = body {
        return from_body(call, body);
    }
    let header = call.headers.get("dpop");
    Ok(header
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default())
}

fn from_body<'a>(call: &Call, body: &'a RequestProof) -> Result<&'a str, Check> {
    let checks = call.checks;
    checks.require(Check::ProofKind, body.proof_type == "dpop_jwt")?;
    checks.require(Check::ProofOneKind, body.mtls_fingerprint.is_empty())?;
    checks.require(Check::ProofPresent, !body.dpop_jwt.is_empty())?;
    Ok(&body.dpop_jwt)
}
