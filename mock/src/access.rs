//! Who is calling: token, proof, tenant, throttle, in this order.

use std::sync::Arc;

use crate::call::Call;
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
        if now >= token.expires_at {
            return Err(Refusal::new(Reason::TokenExpired, "token has expired"));
        }
        if now >= token.session_expires_at {
            return Err(Refusal::new(Reason::SessionEnded, "session has ended"));
        }

        let proof = check_proof(call, body, Some((scheme, secret)))?;
        if proof.thumbprint != token.jkt {
            return Err(Refusal::new(
                Reason::BindingMismatch,
                "proof is by another key than the token's",
            ));
        }
        check_key_id(&proof, &token.pop_key_id)?;
        self.check_fresh(call, &proof, true)?;

        if tenant_id != token.tenant_id {
            return Err(Refusal::new(
                Reason::TenantMismatch,
                "tenant is not the token's",
            ));
        }
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
        let fresh = match &proof.nonce {
            Some(nonce) => state.nonces.accept(mode, nonce, now),
            None => {
                mode == NonceMode::Off || !needs_nonce || !state.policy.strictness.nonce_required
            }
        };
        if !fresh {
            return Err(Refusal::use_nonce(state.nonces.next(mode, now)));
        }
        let first = state
            .replays
            .consume(proof, self.clock.real().unix_seconds());
        if !first && state.policy.strictness.replay {
            return Err(Refusal::new(
                Reason::ProofReplayed,
                "proof has been used before",
            ));
        }
        Ok(())
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
pub(crate) fn check_key_id(proof: &Proof, pop_key_id: &str) -> Result<(), Refusal> {
    match &proof.kid {
        Some(kid) if kid != pop_key_id => Err(Refusal::new(
            Reason::ProofInvalid,
            "proof kid is not the token's pop_key_id",
        )),
        _ => Ok(()),
    }
}

/// The one token in `Authorization`.
fn credential(call: &Call) -> Result<(Scheme, &str), Refusal> {
    let mut values = call.headers.get_all("authorization").iter();
    let Some(value) = values.next() else {
        return Err(Refusal::new(Reason::TokenMissing, "a token is required"));
    };
    let invalid = || Refusal::new(Reason::TokenInvalid, "Authorization is malformed");
    if values.next().is_some() {
        return Err(invalid());
    }
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(invalid)?;
    let scheme = if scheme.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("dpop") {
        Scheme::Dpop
    } else {
        return Err(invalid());
    };
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(invalid());
    }
    Ok((scheme, token))
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
) -> Result<Proof, Refusal> {
    let scheme = token.map(|(scheme, _)| scheme);
    let headers = call.headers.get_all("dpop").iter().count();
    let jwt = match (scheme, body, headers) {
        (Some(Scheme::Bearer) | None, Some(body), 0) => from_body(body)?.to_owned(),
        (Some(Scheme::Dpop) | None, None, 1) => call
            .headers
            .get("dpop")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        (_, None, 0) => return Err(Refusal::new(Reason::ProofMissing, "a proof is required")),
        _ => {
            return Err(Refusal::new(
                Reason::ProofAmbiguous,
                "exactly one proof is required, in one place",
            ));
        }
    };
    call.note_proof(&jwt);
    let expected = Expected {
        method: "POST",
        url: &call.url,
        token: token.map(|(_, token)| token),
        now: call.proof_clock.unix_seconds(),
    };
    let invalid = |message| Refusal::new(Reason::ProofInvalid, message);
    let proof = dpop::verify(&jwt, &expected).map_err(|fault| invalid(fault.message()))?;
    if let Some(body) = body
        && !body.nonce.is_empty()
        && proof.nonce.as_ref() != Some(&body.nonce)
    {
        return Err(invalid("request_proof.nonce is not the proof's nonce"));
    }
    let mut trace = call.trace();
    trace.entry.proof_type = "dpop_jwt";
    trace.entry.key_thumbprint.clone_from(&proof.thumbprint);
    trace.entry.proof_jti.clone_from(&proof.jti);
    drop(trace);
    Ok(proof)
}

fn from_body(body: &RequestProof) -> Result<&str, Refusal> {
    if body.proof_type != "dpop_jwt" {
        return Err(
            Refusal::new(Reason::ProofInvalid, "proof_type is not dpop_jwt")
                .field("request_proof.proof_type"),
        );
    }
    if !body.mtls_fingerprint.is_empty() {
        return Err(Refusal::new(
            Reason::ProofAmbiguous,
            "a proof is either dpop_jwt or mtls",
        ));
    }
    if body.dpop_jwt.is_empty() {
        return Err(Refusal::new(Reason::ProofMissing, "a proof is required"));
    }
    Ok(&body.dpop_jwt)
}
