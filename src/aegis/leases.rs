//! Leases (`aegis.md` 9 and 10): create, redeem, revoke.

use std::ops::RangeInclusive;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::AegisError;
use super::transport::{Call, Encode, Reply, Rpc, deadline};
use super::wire::{
    self, CreateRequest, CreateResponse, CreatedName, Lease, RedeemRequest, RedeemResponse,
    RevokeRequest, RevokeResponse, TargetIn,
};
use super::{Inner, bad, material, success};
use crate::broker::ports::{
    CreateLease, CreatedLease, Failure, RedeemedLease, RevokeReason, Session, Tries,
};
use crate::dpop::DpopError;
use crate::model::{
    CleanText, LeaseId, MAX_LEASE_TTL, MAX_REASON, MAX_REDEMPTIONS, MIN_LEASE_TTL, Material,
    Selector,
};

/// Lifetimes that may be asked for, and what any material is believed to live at most.
const TTL: RangeInclusive<Duration> = MIN_LEASE_TTL..=MAX_LEASE_TTL;

/// Redemptions that may be asked for.
const REDEMPTIONS: RangeInclusive<u32> = 1..=MAX_REDEMPTIONS;

/// Random bytes of an idempotency key: 24 characters, 22 at least (`aegis.md` 9).
const IDEMPOTENCY_BYTES: usize = 18;

pub(super) async fn create(
    inner: &Inner,
    session: &Session,
    request: &CreateLease,
    tries: &Tries,
) -> Result<CreatedLease, Failure> {
    let idempotency_key = check(request)
        .and_then(|()| idempotency_key())
        .map_err(|error| inner.refused(Rpc::Create.during(), error))?;
    let (provider, app, account) = request.selector.parts();
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = CreateRequest {
            tenant_id: session.tenant.as_str(),
            target: wire::TargetOut {
                provider,
                app,
                account,
            },
            requested_ttl_seconds: request.ttl.as_secs(),
            max_redemptions: request.max_redemptions,
            purpose: request.purpose.as_ref().map(CleanText::as_str),
            idempotency_key: &idempotency_key,
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = call(Rpc::Create, session, &encode);
    let mut made = None;
    let answer = inner
        .ask(call, tries, |reply| created(request, reply, &mut made))
        .await;
    answer.map_err(|failure| Failure { made, ..failure })
}

/// What the contract allows to be asked.
fn check(request: &CreateLease) -> Result<(), AegisError> {
    if !TTL.contains(&request.ttl) {
        return Err(AegisError::Request("lease lifetime out of range"));
    }
    if !REDEMPTIONS.contains(&request.max_redemptions) {
        return Err(AegisError::Request("redemptions out of range"));
    }
    let too_long = request
        .purpose
        .as_ref()
        .is_some_and(|purpose| purpose.as_str().chars().count() > MAX_REASON);
    if too_long {
        return Err(AegisError::Request("purpose too long"));
    }
    Ok(())
}

fn idempotency_key() -> Result<String, AegisError> {
    let mut random = [0; IDEMPOTENCY_BYTES];
    rand::fill(&mut random).ok().ok_or(DpopError::Randomness)?;
    Ok(format!("ik_{}", URL_SAFE_NO_PAD.encode(random)))
}

/// What the answer says was made; its name comes out as `made` first, whatever is wrong with the rest.
fn created(
    request: &CreateLease,
    reply: &Reply,
    made: &mut Option<LeaseId>,
) -> Result<CreatedLease, AegisError> {
    let named = made_name(reply);
    *made = named.clone().or(made.take());
    let lease = success::<CreateResponse>(reply)?
        .lease
        .ok_or(bad("lease"))?;
    let lease_id = named.ok_or(bad("lease_id"))?;
    if lease.state.as_deref() != Some("active") {
        return Err(bad("state"));
    }
    let target = lease.target.as_ref();
    if !target.is_some_and(|target| is_for(target, &request.selector)) {
        return Err(bad("target"));
    }
    // Counted from before the request was sent, and never more than asked for (LC-2, LC-3).
    let end = lease.expires_at.ok_or(bad("expires_at"))?.0;
    let begin = lease
        .created_at
        .map_or_else(|| reply.server_now(), |created| created.0);
    let life = begin.until(end).min(request.ttl);
    if life.is_zero() {
        return Err(bad("expires_at"));
    }
    let max_redemptions = match lease.max_redemptions.0 {
        None | Some(0) => request.max_redemptions,
        Some(count) => u32::try_from(count)
            .ok()
            .ok_or(bad("max_redemptions"))?
            .min(request.max_redemptions),
    };
    Ok(CreatedLease {
        lease_id,
        expires_at: reply.sent.boot.plus(life),
        expires_at_unix: reply.sent.unix.plus(life),
        max_redemptions,
    })
}

fn made_name(reply: &Reply) -> Option<LeaseId> {
    let named: CreatedName = wire::decode(reply.body.expose()).ok()?;
    LeaseId::parse(&named.lease.lease_id).ok()
}

fn is_for(target: &TargetIn, selector: &Selector) -> bool {
    (&*target.provider, &*target.app, &*target.account) == selector.parts()
}

pub(super) async fn redeem(
    inner: &Inner,
    session: &Session,
    lease_id: &LeaseId,
    selector: &Selector,
    tries: &Tries,
) -> Result<RedeemedLease, Failure> {
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = RedeemRequest {
            tenant_id: session.tenant.as_str(),
            lease_id: lease_id.as_str(),
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = call(Rpc::Redeem, session, &encode);
    let read = |reply: &Reply| redeemed(lease_id, selector, reply);
    inner.ask(call, tries, read).await
}

fn redeemed(
    lease_id: &LeaseId,
    selector: &Selector,
    reply: &Reply,
) -> Result<RedeemedLease, AegisError> {
    let answer: RedeemResponse = success(reply)?;
    let credential = answer.credential.ok_or(bad("credential"))?;
    if let Some(lease) = &answer.lease {
        check_redeemed(lease, lease_id, selector)?;
    }
    let lease_end = answer.lease.as_ref().and_then(|lease| lease.expires_at);
    let end = [credential.expires_at, lease_end]
        .into_iter()
        .flatten()
        .map(|end| end.0)
        .min()
        .ok_or(bad("expires_at"))?;
    let life = reply.server_now().until(end).min(*TTL.end());
    if life.is_zero() {
        return Err(bad("expires_at"));
    }
    let used = answer.lease.and_then(|lease| lease.redemptions_used.0);
    let (kind, fields) = material::fields(credential)?;
    Ok(RedeemedLease {
        material: Material {
            kind,
            fields,
            expires_at: reply.sent.unix.plus(life),
        },
        expires_at: reply.sent.boot.plus(life),
        // This redemption is one of them, whatever the server forgot to say.
        redemptions_used: used
            .and_then(|used| u32::try_from(used).ok())
            .unwrap_or(1)
            .max(1),
    })
}

/// A redeemed lease is the one asked for, for what it was made, and alive or just used up.
fn check_redeemed(
    lease: &Lease,
    lease_id: &LeaseId,
    selector: &Selector,
) -> Result<(), AegisError> {
    if lease
        .lease_id
        .as_deref()
        .is_some_and(|id| id != lease_id.as_str())
    {
        return Err(bad("lease_id"));
    }
    if let Some(target) = &lease.target
        && !is_for(target, selector)
    {
        return Err(bad("target"));
    }
    match lease.state.as_deref() {
        None | Some("" | "active" | "exhausted") => Ok(()),
        Some(_) => Err(bad("state")),
    }
}

pub(super) async fn revoke(
    inner: &Inner,
    session: &Session,
    lease_id: &LeaseId,
    reason: RevokeReason,
    tries: &Tries,
) -> Result<(), Failure> {
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = RevokeRequest {
            tenant_id: session.tenant.as_str(),
            lease_id: lease_id.as_str(),
            reason: reason.as_str(),
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = call(Rpc::Revoke, session, &encode);
    let read = |reply: &Reply| revoked(lease_id, reply);
    inner.ask(call, tries, read).await
}

/// Only an answer that says so confirms a revocation.
fn revoked(lease_id: &LeaseId, reply: &Reply) -> Result<(), AegisError> {
    let answer: RevokeResponse = success(reply)?;
    let Some(lease) = answer.lease else {
        return match answer.already_terminal {
            Some(true) => Ok(()),
            Some(false) | None => Err(bad("lease")),
        };
    };
    if lease
        .lease_id
        .as_deref()
        .is_some_and(|id| id != lease_id.as_str())
    {
        return Err(bad("lease_id"));
    }
    match lease.state.as_deref() {
        Some("revoked" | "expired") => Ok(()),
        _ => Err(bad("state")),
    }
}

/// A call with a session's token and proofs of its key.
pub(super) fn call<'a>(rpc: Rpc, session: &'a Session, encode: &'a Encode<'a>) -> Call<'a> {
    Call {
        rpc,
        key: Some(&session.key),
        token: Some(&session.token),
        identity: None,
        encode,
        deadline: deadline(),
    }
}
