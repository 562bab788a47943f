//! `RevokeBrokerAccess`: a caller ends its own token, key or session.

use crate::access::Purpose;
use crate::call::Call;
use crate::errors::{Reason, Refusal};
use crate::proto::{RevokeBrokerAccessRequest, RevokeBrokerAccessResponse};
use crate::revoke::{Cause, Ended};
use crate::state::Shared;

impl Shared {
    pub(super) fn revoke_access(
        &self,
        call: &Call,
        request: &RevokeBrokerAccessRequest,
    ) -> Result<RevokeBrokerAccessResponse, Refusal> {
        if request.tenant_id.is_empty() {
            return Err(Refusal::missing("tenant_id"));
        }
        let known = matches!(request.target.as_str(), "token" | "pop_key" | "session");
        if !known {
            return Err(
                Refusal::new(Reason::TargetMalformed, "token, pop_key or session").field("target"),
            );
        }
        let reason = super::service::revoke_reason(&request.reason)?;
        let proof = request.request_proof.as_option();
        let caller = self.admit(call, proof, &request.tenant_id, Purpose::Access)?;
        let token = &caller.token;

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.expire_leases(now);
        state.faults.check_ledger(call.method)?;
        let cause = Cause {
            entry: call.trace().entry.clone(),
            reason,
        };
        let ended = match request.target.as_str() {
            "token" => state.revoke_token(token, &cause, now),
            "pop_key" => {
                let key = token.binding.thumbprint();
                state.revoke_key(&token.tenant_id, key, &token.principal, &cause, now)
            }
            _ => state
                .end_session(&token.session_id, &cause, now)
                .unwrap_or_default(),
        };
        Ok(message(ended))
    }
}

fn message(ended: Ended) -> RevokeBrokerAccessResponse {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    RevokeBrokerAccessResponse {
        tokens: count(ended.tokens),
        keys: count(ended.keys),
        leases: count(ended.leases),
        ..Default::default()
    }
}
