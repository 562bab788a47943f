//! `BeginSpiffeBootstrap` and `CompleteSpiffeBootstrap`: a bootstrap token becomes an SVID.

use crate::access::{Caller, Purpose};
use crate::call::Call;
use crate::errors::{Reason, Refusal};
use crate::proto::{
    BeginSpiffeBootstrapRequest, BeginSpiffeBootstrapResponse, CompleteSpiffeBootstrapRequest,
    CompleteSpiffeBootstrapResponse,
};
use crate::spiffe_ca::{Bearer, CHALLENGE_LIFETIME, Request, Svid};
use crate::state::Shared;
use crate::wire;

impl Shared {
    pub(super) fn begin_bootstrap(
        &self,
        call: &Call,
        request: &BeginSpiffeBootstrapRequest,
    ) -> Result<BeginSpiffeBootstrapResponse, Refusal> {
        if request.tenant_id.is_empty() {
            return Err(Refusal::missing("tenant_id"));
        }
        if request.workload_name.is_empty() {
            return Err(Refusal::missing("workload_name"));
        }
        let spiffe_id = self
            .spiffe_ca
            .id(&request.tenant_id, &request.workload_name);
        let spiffe_id = spiffe_id.ok_or_else(|| {
            Refusal::new(Reason::TypeMismatch, "name is no segment of a SPIFFE ID")
                .field("workload_name")
        })?;
        let proof = request.request_proof.as_option();
        let caller = self.admit(call, proof, &request.tenant_id, Purpose::Bootstrap)?;

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        state.faults.check_ledger(call.method)?;
        let made = state
            .challenges
            .begin(bearer(&caller), spiffe_id.clone(), now);
        let (challenge_id, challenge_token) = made.ok_or_else(|| {
            Refusal::new(Reason::RateLimited, "too many challenges").retry_after(60)
        })?;
        state.secret("challenge_token", &challenge_token);
        let mut entry = call.trace().entry.clone();
        (entry.action, entry.outcome) = ("spiffe.begin", "ok");
        state.ledger.append(entry, now);
        Ok(BeginSpiffeBootstrapResponse {
            challenge_id,
            challenge_token,
            spiffe_id,
            expires_in_seconds: i32::try_from(CHALLENGE_LIFETIME.as_secs()).unwrap_or(i32::MAX),
            ..Default::default()
        })
    }

    pub(super) fn complete_bootstrap(
        &self,
        call: &Call,
        request: &CompleteSpiffeBootstrapRequest,
    ) -> Result<CompleteSpiffeBootstrapResponse, Refusal> {
        let present = [
            ("tenant_id", request.tenant_id.is_empty()),
            ("challenge_id", request.challenge_id.is_empty()),
            ("challenge_token", request.challenge_token.is_empty()),
            ("csr_der", request.csr_der.is_empty()),
        ];
        if let Some((field, _)) = present.into_iter().find(|(_, empty)| *empty) {
            return Err(Refusal::missing(field));
        }
        let proof = request.request_proof.as_option();
        let caller = self.admit(call, proof, &request.tenant_id, Purpose::Bootstrap)?;

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        let spiffe_id = state.challenges.check(
            &request.challenge_id,
            &request.challenge_token,
            &bearer(&caller),
            now,
            call.checks,
        )?;
        let wanted = Request::read(&request.csr_der, &spiffe_id, call.checks)
            .map_err(|check| Refusal::from(check).field("csr_der"))?;
        state.faults.check_ledger(call.method)?;
        // A key that nobody could use ends here at the latest.
        let issued = self
            .spiffe_ca
            .sign(&wanted, &spiffe_id, self.clock.real())
            .ok_or_else(|| {
                Refusal::new(Reason::CsrInvalid, "csr key cannot be certified").field("csr_der")
            })?;
        // Nothing was done where something was refused: only what succeeds uses a challenge up.
        state.challenges.use_up(&request.challenge_id);
        let lives = issued.not_after.since(self.clock.real());
        let svid = Svid {
            fingerprint: issued.fingerprint.clone(),
            session_id: caller.token.session_id.clone(),
            not_after: now.plus(lives),
        };
        state.svids.insert(svid, now);
        let mut entry = call.trace().entry.clone();
        (entry.action, entry.outcome) = ("spiffe.complete", "ok");
        state.ledger.append(entry, now);
        Ok(CompleteSpiffeBootstrapResponse {
            svid_chain: vec![issued.certificate],
            mtls_fingerprint: issued.fingerprint,
            trust_bundle: vec![self.spiffe_ca.root().to_vec()],
            not_after: wire::timestamp(issued.not_after).into(),
            ..Default::default()
        })
    }
}

fn bearer(caller: &Caller) -> Bearer {
    Bearer {
        tenant_id: caller.token.tenant_id.clone(),
        principal: caller.token.principal.clone(),
        session_id: caller.token.session_id.clone(),
    }
}
