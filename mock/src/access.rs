//! Who is calling: token, proof, tenant, throttle, in this order.

use std::sync::Arc;

use crate::call::Call;
use crate::check::Check;
use crate::clock::Moment;
use crate::dpop::{self, Expected, Proof};
use crate::encoding::{from_base64url, sha256};
use crate::errors::{Reason, Refusal};
use crate::fault::FaultKind;
use crate::identity::tokens::{Binding, TokenRecord};
use crate::policy::NonceMode;
use crate::proto::RequestProof;
use crate::scope;
use crate::spiffe_ca::Svid;
use crate::state::{Shared, State};

const MAX_TOKEN: usize = 16 * 1024;
/// 128 random bits in base64url are 22 characters.
pub(crate) const NONCE: std::ops::RangeInclusive<usize> = 22..=128;

/// Of a token in `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
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

/// What the token of a call has to be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Leases: each call asks for its own scope, later.
    Leases,
    /// Whatever any lease scope is good for.
    Access,
    /// The bootstrap of an SVID.
    Bootstrap,
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
        purpose: Purpose,
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
        self.check_alive(call, &token)?;

        match &token.binding {
            Binding::Key(jkt) => {
                let proof = check_proof(call, body, Some((scheme, secret)))?;
                call.checks
                    .require(Check::ProofBinding, proof.thumbprint == *jkt)?;
                check_key_name(call, &proof, &token.pop_key_id)?;
                self.check_fresh(call, &proof, true)?;
            }
            Binding::Certificate(fingerprint) => {
                check_mtls_alone(call, body, Some(scheme))?;
                self.check_mtls(call, body, Some(fingerprint))?;
            }
        }

        let checks = call.checks;
        checks.require(Check::Tenant, tenant_id == token.tenant_id)?;
        self.throttle(&token.tenant_id, &token.principal)?;
        let bootstraps = token.scopes.iter().any(|scope| scope == scope::BOOTSTRAP);
        match purpose {
            Purpose::Leases => {}
            Purpose::Access => checks.require(Check::BootstrapOnly, !bootstraps)?,
            Purpose::Bootstrap => checks.require(Check::BootstrapScope, bootstraps)?,
        }
        Ok(Caller { token })
    }

    /// Whether a token lives: by itself, by its session, by its key.
    fn check_alive(&self, call: &Call, token: &TokenRecord) -> Result<(), Check> {
        let now = self.clock.now();
        let state = self.state();
        let checks = call.checks;
        let revoked = state.tokens.is_revoked(&token.jti);
        checks.require(Check::TokenCurrent, !revoked)?;
        checks.require(Check::TokenAlive, now < token.expires_at)?;
        let session = state.broker_sessions.get(&token.session_id);
        let alive = session.is_some_and(|session| session.is_alive(now));
        checks.require(Check::SessionAlive, alive)?;
        let key = token.binding.thumbprint();
        let taken_back = state.keys.is_revoked(&token.tenant_id, key);
        checks.require(Check::KeyAlive, !taken_back)?;
        match (&token.binding, session) {
            (Binding::Key(jkt), Some(session)) => session.keys.check(jkt, now, checks),
            _ => Ok(()),
        }
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
        take_nonce_fault(&mut state, call, now)?;
        let mode = state.policy.server.nonce;
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

    /// The SVID that the connection was made with, and what it stands for.
    pub(crate) fn certificate(&self, call: &Call) -> Result<Svid, Check> {
        let now = self.clock.now();
        let state = self.state();
        // A connection proves the key; whose it is, is known by what was issued.
        let svid = call
            .road
            .certificate
            .as_deref()
            .and_then(|fingerprint| state.svids.get(fingerprint))
            .ok_or(Check::CertificateAlive)?;
        call.checks
            .require(Check::CertificateAlive, now < svid.not_after)?;
        Ok(svid.clone())
    }

    /// Checks a proof by certificate and uses up its nonce. `bound` is the certificate that the
    /// token is bound to, where there is a token.
    pub(crate) fn check_mtls(
        &self,
        call: &Call,
        body: Option<&RequestProof>,
        bound: Option<&str>,
    ) -> Result<(), Refusal> {
        let checks = call.checks;
        let body = body.ok_or(Check::ProofPresent)?;
        call.note_nonce(&body.nonce);
        checks.require(Check::MtlsKind, body.proof_type == "mtls")?;
        checks.require(Check::MtlsAlone, body.dpop_jwt.is_empty())?;
        let svid = self.certificate(call)?;
        let same = bound.is_none_or(|bound| bound == svid.fingerprint);
        checks.require(Check::CertificateBinding, same)?;
        let named = body.mtls_fingerprint == svid.fingerprint;
        checks.require(Check::CertificateField, named)?;
        checks.require(Check::MtlsNonce, is_nonce(&body.nonce))?;

        let mut trace = call.trace();
        trace.entry.proof_type = "mtls";
        trace.entry.key_thumbprint.clone_from(&svid.fingerprint);
        trace.entry.proof_jti.clone_from(&body.nonce);
        drop(trace);
        let now = self.clock.now();
        let mut state = self.state();
        take_nonce_fault(&mut state, call, now)?;
        let name = format!("mtls {}\n{}", svid.fingerprint, body.nonce);
        let first = state.once.take(&name, svid.not_after, now);
        let first = first || !state.policy.strictness.replay;
        Ok(checks.require(Check::MtlsReplay, first)?)
    }

    /// Counts a call of that principal.
    pub(crate) fn throttle(&self, tenant_id: &str, principal: &str) -> Result<(), Refusal> {
        let now = self.clock.now();
        let mut state = self.state();
        if let Some(seconds) = state.ledger.monitor.pause(tenant_id, principal, now) {
            return Err(rate_limited(seconds));
        }
        let limits = state.policy.throttle.clone();
        if !limits.enabled {
            return Ok(());
        }
        let principal = format!("principal {tenant_id} {principal}");
        let tenant = format!("tenant {tenant_id}");
        state
            .throttle
            .count(principal, limits.per_principal_minute, now)
            .and_then(|()| state.throttle.count(tenant, limits.per_tenant_minute, now))
            .map_err(rate_limited)
    }
}

/// Refuses whatever nonce there is, where a test wants that.
fn take_nonce_fault(state: &mut State, call: &Call, now: Moment) -> Result<(), Refusal> {
    let forced = state
        .faults
        .take(call.method, &[FaultKind::NonceOnce, FaultKind::NonceAlways]);
    if forced.is_none() {
        return Ok(());
    }
    let mode = match state.policy.server.nonce {
        NonceMode::Off => NonceMode::Window,
        mode @ (NonceMode::Window | NonceMode::SingleUse) => mode,
    };
    Err(Refusal::use_nonce(state.nonces.next(mode, now)))
}

/// Whether that is long enough for 128 random bits, and plain.
pub(crate) fn is_nonce(text: &str) -> bool {
    NONCE.contains(&text.len()) && from_base64url(text).is_some_and(|bytes| bytes.len() >= 16)
}

pub(crate) fn rate_limited(seconds: u32) -> Refusal {
    Refusal::new(Reason::RateLimited, "too many calls").retry_after(seconds)
}

/// The `kid` of a proof, if it has one, must name the registered key.
pub(crate) fn check_key_name(call: &Call, proof: &Proof, pop_key_id: &str) -> Result<(), Check> {
    let named = proof.kid.as_ref().is_none_or(|kid| kid == pop_key_id);
    call.checks.require(Check::ProofKeyName, named)
}

/// A proof by certificate is in the body, and there is no other anywhere.
pub(crate) fn check_mtls_alone(
    call: &Call,
    body: Option<&RequestProof>,
    scheme: Option<Scheme>,
) -> Result<(), Check> {
    let headers = call.headers.contains_key("dpop");
    call.checks
        .require(Check::ProofPresent, body.is_some() || headers)?;
    let alone = !headers && scheme != Some(Scheme::Dpop);
    call.checks.require(Check::MtlsAlone, alone)
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
        url: &call.road.url,
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
