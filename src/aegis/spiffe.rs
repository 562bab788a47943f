//! What keeps a session alive without the person (`aegis.md` 6 and 8): an SVID for its bootstrap
//! token, and tokens and further SVIDs for that, over TLS with it as client certificate.
//!
//! Keys are made here for each of them and never leave memory. A certificate is believed only where
//! `svid` believes it; a token only where it is what was asked for, and for no more than the session
//! has.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::device::{Asked, believe, broker_token};
use super::error::{AegisError, TokenFault};
use super::transport::{Call, Reply, Rpc, deadline};
use super::wire::{
    self, BeginBootstrapRequest, BeginBootstrapResponse, BrokerTokenResponse,
    CompleteBootstrapRequest, CompleteBootstrapResponse, ExchangeWorkloadRequest,
};
use super::{Inner, Renewing, bad, half, success};
use crate::broker::ports::{Failure, Identity, Session, Tries};
use crate::dpop::{DpopError, ProofKey};
use crate::model::{MAX_TOKEN_TTL, PopKeyId, Principal, Scope, SessionId, TenantId};
use crate::secret::SecretString;
use crate::svid::{IdentityKey, SpiffeId, Svid};

/// The scope of a bootstrap token, which is no scope of a lease.
pub(super) const BOOTSTRAP: &str = "spiffe.bootstrap";

/// Random bytes of the nonce of one exchange: 128 bits at least (`aegis.md` 8).
const NONCE_BYTES: usize = 24;

/// Of a challenge's name and token, in bytes.
const MAX_CHALLENGE: usize = 4096;

/// Certificates of a chain; `svid` looks at no more.
const MAX_CHAIN: usize = 8;

/// What was asked of the issuer that a certificate proves.
struct Challenge {
    id: String,
    token: SecretString,
    spiffe_id: SpiffeId,
}

/// Whose token and proofs a bootstrap's two calls carry.
struct Bearer<'a> {
    tenant: &'a TenantId,
    token: &'a SecretString,
    key: &'a ProofKey,
}

/// The first SVID of a session.
pub(super) async fn bootstrap(
    inner: &Inner,
    session: &Session,
    tries: &Tries,
) -> Result<Identity, Failure> {
    let refused = |error| inner.refused(Rpc::BeginBootstrap.during(), error);
    let token = session
        .bootstrap
        .as_ref()
        .ok_or_else(|| refused(AegisError::Request("no bootstrap token")))?;
    let bearer = Bearer {
        tenant: &session.tenant,
        token,
        key: &session.key,
    };
    certify(inner, &bearer, deadline(), tries).await
}

/// The next SVID of a session: a bootstrap token by the one there is, then as the first one.
pub(super) async fn renew_identity(
    inner: &Inner,
    session: &Session,
    by: &Arc<Identity>,
    tries: &Tries,
) -> Result<Identity, Failure> {
    let deadline = deadline();
    let asked = Exchange {
        session,
        by,
        // The session's own key: another one would take its place at the issuer.
        key: &session.key,
        scopes: &[BOOTSTRAP.to_owned()],
        deadline,
    };
    let token = exchange(inner, &asked, tries, |answer, _reply| {
        bootstrap_token(session, answer)
    })
    .await?;
    let bearer = Bearer {
        tenant: &session.tenant,
        token: &token,
        key: &session.key,
    };
    certify(inner, &bearer, deadline, tries).await
}

/// The next token of a session, of a key made for it.
pub(super) async fn renew_session(
    inner: &Inner,
    session: &Session,
    by: &Arc<Identity>,
    tries: &Tries,
) -> Result<Session, Failure> {
    let refused = |error| inner.refused(Rpc::ExchangeSvid.during(), error);
    let key = ProofKey::generate().map_err(|error| refused(error.into()))?;
    let key = Arc::new(key);
    let pop_key_id = PopKeyId::parse(key.id())
        .ok()
        .ok_or_else(|| refused(AegisError::Request("pop_key_id")))?;
    let scopes: Vec<String> = session.scopes.iter().map(Scope::to_string).collect();
    let asked = Exchange {
        session,
        by,
        key: &key,
        scopes: &scopes,
        deadline: deadline(),
    };
    exchange(inner, &asked, tries, |answer, reply| {
        renewed(session, &key, &pop_key_id, answer, reply)
    })
    .await
}

/// One exchange over TLS with an SVID.
struct Exchange<'a> {
    session: &'a Session,
    by: &'a Arc<Identity>,
    /// What the token will be bound to.
    key: &'a ProofKey,
    scopes: &'a [String],
    deadline: Instant,
}

async fn exchange<T>(
    inner: &Inner,
    asked: &Exchange<'_>,
    tries: &Tries,
    read: impl Fn(BrokerTokenResponse, &Reply) -> Result<T, AegisError>,
) -> Result<T, Failure> {
    let fingerprint = &*asked.by.svid.fingerprint;
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        // Another one for every try: a nonce is good once.
        let nonce = nonce().ok().ok_or(wire::WireError)?;
        let message = ExchangeWorkloadRequest {
            tenant_id: asked.session.tenant.as_str(),
            mode: "mtls",
            mtls_fingerprint: fingerprint,
            nonce: &nonce,
            requested_scopes: asked.scopes,
            requested_ttl_seconds: inner
                .settings
                .renewing
                .as_ref()
                .map_or(MAX_TOKEN_TTL.as_secs(), |renewing| {
                    renewing.token_ttl.as_secs()
                }),
            pop_key_id: fingerprint,
            pop_jwk: wire::Jwk {
                kty: "EC",
                crv: "P-256",
                x: asked.key.x(),
                y: asked.key.y(),
            },
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = Call {
        rpc: Rpc::ExchangeSvid,
        key: Some(asked.key),
        token: None,
        identity: Some(asked.by),
        encode: &encode,
        deadline: asked.deadline,
    };
    inner
        .ask(call, tries, |reply| read(success(reply)?, reply))
        .await
}

fn nonce() -> Result<String, AegisError> {
    let mut random = [0; NONCE_BYTES];
    rand::fill(&mut random).ok().ok_or(DpopError::Randomness)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

/// A token for the session there is, and for no other and no more.
fn renewed(
    session: &Session,
    key: &Arc<ProofKey>,
    pop_key_id: &PopKeyId,
    answer: BrokerTokenResponse,
    reply: &Reply,
) -> Result<Session, AegisError> {
    let token = broker_token(answer.broker_token)?;
    let info = answer
        .token_info
        .ok_or(AegisError::Token(TokenFault::InfoMissing))?;
    let asked = Asked {
        thumbprint: key.thumbprint(),
        pop_key_id,
        tenant: &session.tenant,
        scopes: &session.scopes,
        token_ttl: MAX_TOKEN_TTL,
    };
    let believed = believe(&asked, info, reply)?;
    if believed.principal != session.principal {
        return Err(bad("principal"));
    }
    let same = |now: &SessionId| session.session_id.as_ref().is_none_or(|was| was == now);
    if !believed.session_id.as_ref().is_none_or(same) {
        return Err(bad("session_id"));
    }
    Ok(Session {
        principal: session.principal.clone(),
        tenant: session.tenant.clone(),
        session_id: session.session_id.clone(),
        token,
        key: Arc::clone(key),
        pop_key_id: pop_key_id.clone(),
        scopes: believed.scopes,
        expires_at: reply.sent.boot.plus(believed.life),
        expires_at_unix: reply.sent.unix.plus(believed.life),
        renew_at: reply.sent.boot.plus(half(believed.life)),
        // A session never gets longer.
        ends_at: session.ends_at,
        bootstrap: None,
        binding_checked: true,
    })
}

/// A token that can bootstrap and nothing else, bound to the session's key.
fn bootstrap_token(
    session: &Session,
    answer: BrokerTokenResponse,
) -> Result<SecretString, AegisError> {
    let token = broker_token(answer.broker_token)?;
    let fault = |fault| AegisError::Token(fault);
    let info = answer.token_info.ok_or(fault(TokenFault::InfoMissing))?;
    if info.thumbprint.as_deref() != Some(session.key.thumbprint()) {
        return Err(fault(TokenFault::Thumbprint));
    }
    if info.binding.as_deref() != Some("jkt") {
        return Err(fault(TokenFault::Binding));
    }
    if info.tenant_id.as_deref() != Some(session.tenant.as_str()) {
        return Err(fault(TokenFault::Tenant));
    }
    let ours = info.principal.as_deref().map(Principal::parse);
    if !ours.is_some_and(|found| found.is_ok_and(|found| found == session.principal)) {
        return Err(bad("principal"));
    }
    let granted = info.granted_scopes.unwrap_or_default();
    if granted.iter().any(|scope| scope != BOOTSTRAP) {
        return Err(fault(TokenFault::Scope));
    }
    Ok(token)
}

/// Challenge, request, certificate.
async fn certify(
    inner: &Inner,
    bearer: &Bearer<'_>,
    deadline: Instant,
    tries: &Tries,
) -> Result<Identity, Failure> {
    let refused = |error| inner.refused(Rpc::BeginBootstrap.during(), error);
    let renewing = inner
        .settings
        .renewing
        .as_ref()
        .ok_or_else(|| refused(AegisError::Request("no bundle of authorities")))?;
    let challenge = begin(inner, bearer, renewing, deadline, tries).await?;
    let key = IdentityKey::generate().map_err(|error| refused(error.into()))?;
    let request = key
        .request(&challenge.spiffe_id)
        .map_err(|error| refused(error.into()))?;
    let request = STANDARD.encode(request);
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = CompleteBootstrapRequest {
            tenant_id: bearer.tenant.as_str(),
            challenge_id: &challenge.id,
            challenge_token: challenge.token.expose(),
            csr_der: &request,
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = Call {
        rpc: Rpc::CompleteBootstrap,
        key: Some(bearer.key),
        token: Some(bearer.token),
        identity: None,
        encode: &encode,
        deadline,
    };
    let read = |reply: &Reply| certified(renewing, &challenge, &key, reply);
    let (svid, life, sent) = inner.ask(call, tries, read).await?;
    Ok(Identity {
        key,
        svid,
        expires_at: sent.plus(life),
        renew_at: sent.plus(half(life)),
    })
}

async fn begin(
    inner: &Inner,
    bearer: &Bearer<'_>,
    renewing: &Renewing,
    deadline: Instant,
    tries: &Tries,
) -> Result<Challenge, Failure> {
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = BeginBootstrapRequest {
            tenant_id: bearer.tenant.as_str(),
            workload_name: &renewing.workload_name,
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = Call {
        rpc: Rpc::BeginBootstrap,
        key: Some(bearer.key),
        token: Some(bearer.token),
        identity: None,
        encode: &encode,
        deadline,
    };
    inner.ask(call, tries, challenged).await
}

fn challenged(reply: &Reply) -> Result<Challenge, AegisError> {
    let answer: BeginBootstrapResponse = success(reply)?;
    let legal = |text: &str| {
        (1..=MAX_CHALLENGE).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    Ok(Challenge {
        id: answer
            .challenge_id
            .filter(|id| legal(id))
            .ok_or(bad("challenge_id"))?,
        token: answer
            .challenge_token
            .map(|token| token.0)
            .filter(|token| legal(token.expose()))
            .ok_or(bad("challenge_token"))?,
        spiffe_id: answer
            .spiffe_id
            .and_then(|id| SpiffeId::parse(&id).ok())
            .ok_or(bad("spiffe_id"))?,
    })
}

/// The certificates, and how long they are good for from when they were asked for. Their dates are
/// seen from the server's clock, where it shows one: it is the one that judges them.
fn certified(
    renewing: &Renewing,
    challenge: &Challenge,
    key: &IdentityKey,
    reply: &Reply,
) -> Result<(Svid, Duration, crate::time::Timestamp), AegisError> {
    let answer: CompleteBootstrapResponse = success(reply)?;
    if answer.svid_chain.len() > MAX_CHAIN {
        return Err(bad("svid_chain"));
    }
    let chain = answer
        .svid_chain
        .iter()
        .map(|one| STANDARD.decode(one).ok())
        .collect::<Option<Vec<_>>>()
        .ok_or(bad("svid_chain"))?;
    let now = reply.date.unwrap_or(reply.sent.unix);
    let svid = Svid::verified(chain, &renewing.bundle, key, &challenge.spiffe_id, now)?;
    if answer.mtls_fingerprint.as_deref() != Some(&*svid.fingerprint) {
        return Err(bad("mtls_fingerprint"));
    }
    let life = reply.server_now().until(svid.not_after);
    Ok((svid, life, reply.sent.boot))
}
