//! The end of a whole session at the issuer (`aegis.md` 6): tokens, keys and leases at once.

use super::leases::call;
use super::transport::Rpc;
use super::wire::{self, RevokeAccessRequest, RevokeAccessResponse};
use super::{Inner, success};
use crate::broker::ports::{Failure, RevokeReason, Session, Tries};

/// What of the caller's own access is to end.
const SESSION: &str = "session";

/// Ends the session. A server that does not know the call answers `unimplemented`: then nobody
/// can confirm anything, and the caller is told so.
pub(super) async fn revoke(
    inner: &Inner,
    session: &Session,
    reason: RevokeReason,
    tries: &Tries,
) -> Result<(), Failure> {
    let encode = |proof: Option<wire::RequestProof<'_>>, body: &mut _| {
        let message = RevokeAccessRequest {
            tenant_id: session.tenant.as_str(),
            target: SESSION,
            reason: reason.as_str(),
            request_proof: proof,
        };
        wire::encode(&message, body)
    };
    let call = call(Rpc::RevokeAccess, session, &encode);
    inner
        .ask(call, tries, |reply| {
            success::<RevokeAccessResponse>(reply).map(|_counts| ())
        })
        .await
}
