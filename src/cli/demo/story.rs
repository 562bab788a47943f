use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aegis_mock::{AuditRecord, FaultKind, LeaseState, Mock, RequestRecord, SecretRecord};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::household::{Household, OUTSIDE, SELECTOR, UNKNOWN};
use super::ledger;
use super::mcp_client::{McpClient, REVISION};
use super::{Failed, Options, Report, Step, render};
use crate::audit::{self, Keys};
use crate::model::{
    DeviceView, ErrorCode, FieldValue, LeaseId, LoginPhase, Material, Refusal, Selector,
};
use crate::secret::SecretString;
use crate::socket::client::Client;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// One HTTP request of the demonstration itself.
const HTTP_WITHIN: Duration = Duration::from_secs(10);

/// A fault that must outlast every retry.
const ALWAYS: u32 = 1000;

/// The whole story. What went before a failed step is undone all the same.
pub(super) fn tell(
    options: Options,
    interrupted: &Arc<AtomicBool>,
    say: &mut dyn FnMut(&str),
) -> Result<Report, Failed> {
    let mut clockwork = Clockwork::new();
    let planted = options.plant_fault;
    let lenient = planted == Some(Step::Replay);
    let mut household =
        Household::start(lenient, interrupted).map_err(|error| Step::Start.failed(error))?;
    if planted == Some(Step::Start) {
        household
            .kill()
            .map_err(|error| Step::Start.failed(error))?;
    }
    let mut client = household
        .connect()
        .map_err(|refusal| Step::Start.failed(refusal))?;
    client
        .status()
        .map_err(|refusal| Step::Start.failed(refusal))?;
    let mut story = Story {
        planted,
        browser: options.browser,
        household,
        client,
        report: Report::default(),
        replay: String::new(),
    };
    clockwork.lap(&mut story.report, Step::Start);
    say("The bundled server and a daemon of your own are up, in a private folder.");

    story.log_in(say)?;
    clockwork.lap(&mut story.report, Step::Login);
    let lease_id = story.create(say)?;
    clockwork.lap(&mut story.report, Step::Lease);
    let material = story.redeem(&lease_id, say)?;
    clockwork.lap(&mut story.report, Step::Delivered);
    story.whoami_before(&material, say)?;
    clockwork.lap(&mut story.report, Step::WhoamiBefore);
    story.replay(say)?;
    clockwork.lap(&mut story.report, Step::Replay);
    story.outside_the_grant(say)?;
    clockwork.lap(&mut story.report, Step::Refused);
    story.revoke(&lease_id, say)?;
    clockwork.lap(&mut story.report, Step::Revoke);
    story.whoami_after(&material, say)?;
    clockwork.lap(&mut story.report, Step::WhoamiAfter);
    story.models(say)?;
    clockwork.lap(&mut story.report, Step::Mcp);
    story.verify(say)?;
    clockwork.lap(&mut story.report, Step::Audit);
    story.reconcile(say)?;
    clockwork.lap(&mut story.report, Step::Reconcile);
    let mut report = story.stop(say)?;
    clockwork.lap(&mut report, Step::Stop);
    Ok(report)
}

struct Story {
    planted: Option<Step>,
    /// A person approves, not the demonstration.
    browser: bool,
    household: Household,
    client: Client,
    report: Report,
    /// The request id of the demonstration's own call: the proof sent again.
    replay: String,
}

impl Story {
    fn is_planted(&self, step: Step) -> bool {
        self.planted == Some(step)
    }

    fn plant(&self, step: Step, method: &str, kind: FaultKind) {
        if self.is_planted(step) {
            self.household.server.mock.fault(method, kind, ALWAYS);
        }
    }

    /// What the server wrote down of calls to that method.
    fn calls(&self, method: &str) -> Vec<RequestRecord> {
        let mut calls = self.household.server.mock.requests();
        calls.retain(|call| call.method == method);
        calls
    }

    fn log_in(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
        let step = Step::Login;
        let failed = |refusal: Refusal| step.failed(refusal);
        let begun = self.client.login_begin(None).map_err(failed)?;
        let LoginPhase::AwaitingApproval(device) = begun.view.phase else {
            return Err(step.failed("the daemon shows no code"));
        };
        say(&format!(
            "Login: the daemon shows the code {} for {}.",
            device.user_code, device.verification_uri
        ));
        let mock = &self.household.server.mock;
        let decided = if self.is_planted(step) {
            mock.deny(device.user_code.as_str())
        } else if self.browser {
            say("       Waiting for you to decide at the server's page.");
            render::progress(&invitation(mock, &device));
            Ok(())
        } else {
            say("       The demonstration approves it by itself; no person was asked.");
            mock.approve(device.user_code.as_str())
        };
        decided.map_err(|error| step.failed(error))?;
        let over = self.client.login_wait(None).map_err(failed)?;
        let LoginPhase::LoggedIn { principal, .. } = over.view.phase else {
            return Err(step.failed("the daemon is not logged in"));
        };
        let polls = self.calls("ExchangeMcpOauthDeviceAuthorization");
        let served = polls
            .iter()
            .find(|call| call.result == "ok" && call.reason.is_none());
        let signed = served.is_some_and(|call| call.proof.is_some());
        step.wants(signed, "the server did not see a proof with the exchange")?;
        let approved = self
            .household
            .server
            .mock
            .audit()
            .into_iter()
            .find(|event| event.action == "login.exchange" && event.outcome == "ok")
            .ok_or_else(|| step.failed("the server recorded no login"))?;
        step.wants(
            approved.principal == principal.as_str(),
            "daemon and server name different people",
        )?;
        self.report.principal = approved.principal;
        self.report.at_the_page = self.approved_at_the_page();
        step.wants(
            self.report.at_the_page == self.browser,
            "the approval came from elsewhere",
        )?;
        self.report.polls = polls.len();
        say(&format!("       Logged in as {principal}."));
        Ok(())
    }

    /// Whether the approval that the server recorded was a form of its page.
    fn approved_at_the_page(&self) -> bool {
        let decided = self.calls("device/decision");
        let events = self.household.server.mock.audit();
        let approved = events
            .iter()
            .find(|event| event.action == "login.approve" && event.outcome == "ok");
        approved.is_some_and(|event| {
            let mut ids = decided.iter().map(|form| &form.request_id);
            ids.any(|id| *id == event.request_id)
        })
    }

    fn create(&mut self, say: &mut dyn FnMut(&str)) -> Result<LeaseId, Failed> {
        let step = Step::Lease;
        self.plant(step, "CreateCredentialLease", FaultKind::Internal);
        let selector = Selector::parse(SELECTOR).map_err(|error| step.failed(error))?;
        let made = self
            .client
            .lease_create(&selector, None, Some(2), Some("demonstration"), None)
            .map_err(|refusal| step.failed(refusal))?;
        let lease_id = made.view.lease_id;
        let state = self.state_at_server(step, &lease_id)?;
        step.wants(
            state == LeaseState::Active,
            "the server holds no active lease",
        )?;
        self.report.lease_id = lease_id.to_string();
        self.report.lease_states.push(word(state));
        say(&format!(
            "Lease: {lease_id} for {SELECTOR}, active at the server."
        ));
        Ok(lease_id)
    }

    fn redeem(
        &mut self,
        lease_id: &LeaseId,
        say: &mut dyn FnMut(&str),
    ) -> Result<SecretString, Failed> {
        let step = Step::Delivered;
        self.plant(step, "RedeemCredentialLease", FaultKind::BadJson);
        let before = self.household.server.mock.secrets().len();
        let delivery = self
            .client
            .lease_redeem(lease_id)
            .map_err(|refusal| step.failed(refusal))?;
        let material: &Material = &delivery.view.material;
        let token = access_token(step, material)?;
        let mut handed_out = self.household.server.mock.secrets();
        drop(handed_out.drain(..before));
        step.wants(
            !handed_out.is_empty() && handed_out.iter().all(|secret| {
                let field = material.field(&secret.kind).map(|field| &field.value);
                matches!(field, Some(FieldValue::Secret(value)) if value.expose() == secret.value)
            }),
            "the material is not what the server handed out",
        )?;
        let redeemed = self.event(step, "lease.redeem", "ok", SELECTOR)?;
        self.report.selector = short(step, &redeemed.target)?;
        self.report.fields = handed_out.into_iter().map(|secret| secret.kind).collect();
        say(&format!(
            "       Redeemed over the socket: {} (values stay out of this story).",
            self.report.fields.join(", ")
        ));
        Ok(token)
    }

    fn whoami_before(
        &mut self,
        material: &SecretString,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), Failed> {
        let step = Step::WhoamiBefore;
        if self.is_planted(step) {
            self.household.server.mock.advance(Duration::from_hours(2));
        }
        self.report.whoami_before = self.whoami(step, material)?;
        step.wants(
            self.report.whoami_before == 200,
            "the material opens nothing",
        )?;
        say("       It opens /fake/gcp/whoami: 200.");
        Ok(())
    }

    /// Sends the daemon's newest proof again, with the token that belongs to it: what somebody
    /// could do who had read both off the wire.
    fn replay(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
        let step = Step::Replay;
        let captured = self
            .calls("RedeemCredentialLease")
            .pop()
            .and_then(|call| call.proof)
            .ok_or_else(|| step.failed("the server wrote no proof down"))?;
        let token = self
            .household
            .server
            .mock
            .secrets()
            .into_iter()
            .rfind(|secret| secret.kind == "broker_token")
            .map(|secret| SecretString::copy_from(&secret.value))
            .ok_or_else(|| step.failed("the server wrote no token down"))?;
        let url = format!(
            "{}aegis.v1.BrokerService/RedeemCredentialLease",
            self.household.server.mock.api()
        );
        let body = json!({
            "tenantId": "business-default",
            "leaseId": self.report.lease_id,
            "requestProof": { "proofType": "dpop_jwt", "dpopJwt": captured },
        });
        let answer = self.household.server.block_on(async {
            http()?
                .post(url)
                .bearer_auth(token.expose())
                .header("Connect-Protocol-Version", "1")
                .header("Content-Type", "application/json")
                .body(body.to_string())
                .send()
                .await?
                .bytes()
                .await
        });
        drop(answer.map_err(|error| step.failed(error.without_url()))?);
        let seen = self
            .calls("RedeemCredentialLease")
            .pop()
            .ok_or_else(|| step.failed("the server saw no replay"))?;
        self.report.replay = seen.reason.unwrap_or(seen.result);
        self.replay = seen.request_id;
        step.wants(
            self.report.replay == "proof_replayed",
            "a proof sent again was not refused as such",
        )?;
        say("Theft: the daemon's own proof and token, sent again by somebody else: refused.");
        Ok(())
    }

    /// What the server does not grant is refused there; what is not in the catalogue is refused
    /// here, and no call for it leaves.
    fn outside_the_grant(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
        let step = Step::Refused;
        let outside = if self.is_planted(step) {
            SELECTOR
        } else {
            OUTSIDE
        };
        let code = self.refused(step, outside)?;
        step.wants(
            code == ErrorCode::AegisDenied,
            "it was refused for another reason",
        )?;
        self.event(step, "lease.create", "denied", OUTSIDE)?;
        code.as_str().clone_into(&mut self.report.outside_grant);
        say(&format!(
            "Denied: {OUTSIDE} is outside the grant: {}.",
            code.as_str()
        ));

        let before = self.household.server.mock.requests().len();
        let code = self.refused(step, UNKNOWN)?;
        step.wants(
            code == ErrorCode::TargetUnknown,
            "it was refused for another reason",
        )?;
        step.wants(
            self.household.server.mock.requests().len() == before,
            "a call for it left the broker",
        )?;
        code.as_str().clone_into(&mut self.report.outside_catalogue);
        say(&format!(
            "        {UNKNOWN} is not in the catalogue: {}, and no call left.",
            code.as_str()
        ));
        Ok(())
    }

    fn refused(&mut self, step: Step, selector: &str) -> Result<ErrorCode, Failed> {
        let selector = Selector::parse(selector).map_err(|error| step.failed(error))?;
        match self.client.credential(&selector, None, None, None) {
            Ok(_) => Err(step.failed("a selector outside the grant was served")),
            Err(refusal) => Ok(refusal.code),
        }
    }

    fn revoke(&mut self, lease_id: &LeaseId, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
        let step = Step::Revoke;
        self.plant(step, "RevokeCredentialLease", FaultKind::Internal);
        self.client
            .lease_revoke(lease_id)
            .map_err(|refusal| step.failed(refusal))?;
        let state = self.state_at_server(step, lease_id)?;
        step.wants(
            state == LeaseState::Revoked,
            "the lease lives on at the server",
        )?;
        self.report.lease_states.push(word(state));
        say("Revoke: done, and confirmed by the server.");
        Ok(())
    }

    fn whoami_after(
        &mut self,
        material: &SecretString,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), Failed> {
        let step = Step::WhoamiAfter;
        let shown = if self.is_planted(step) {
            // A live credential in place of the dead one.
            self.live_material(step)?
        } else {
            SecretString::copy_from(material.expose())
        };
        self.report.whoami_after = self.whoami(step, &shown)?;
        step.wants(
            self.report.whoami_after == 401,
            "the material outlived its lease",
        )?;
        say("       The same material opens nothing any more: 401.");
        Ok(())
    }

    /// What redeeming that lease over the socket yields.
    fn redeemed(&mut self, step: Step, lease_id: &LeaseId) -> Result<SecretString, Failed> {
        let delivery = self
            .client
            .lease_redeem(lease_id)
            .map_err(|refusal| step.failed(refusal))?;
        access_token(step, &delivery.view.material)
    }

    fn live_material(&mut self, step: Step) -> Result<SecretString, Failed> {
        let selector = Selector::parse(SELECTOR).map_err(|error| step.failed(error))?;
        let delivery = self
            .client
            .credential(&selector, None, None, None)
            .map_err(|refusal| step.failed(refusal))?;
        access_token(step, &delivery.view.material)
    }

    /// A model's client is given a handle over stdio; a program redeems it over the socket; and
    /// nothing the client said or heard holds a secret that the server ever handed out.
    fn models(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
        let step = Step::Mcp;
        let failed = |error: std::io::Error| step.failed(error);
        self.plant(step, "CreateCredentialLease", FaultKind::Internal);
        let mut model = McpClient::start(&self.household.models_socket()).map_err(failed)?;
        self.report.mcp.tools = model.tools().map_err(failed)?;
        let status = model.call("status", &json!({})).map_err(failed)?;
        step.wants(
            status.pointer("/login/state") == Some(&json!("logged_in")),
            "it is not told that somebody is logged in",
        )?;
        let wish = json!({ "selector": SELECTOR, "reason": "demonstration" });
        let made = model.call("lease_create", &wish).map_err(failed)?;
        let handle = made.pointer("/lease/lease_id").and_then(Value::as_str);
        let handle = handle.ok_or_else(|| step.failed("it is given no handle"))?;
        let lease_id = LeaseId::parse(handle).map_err(|error| step.failed(error))?;
        let state = self.state_at_server(step, &lease_id)?;
        step.wants(
            state == LeaseState::Active,
            "the server holds no active lease",
        )?;
        self.report.mcp.lease_states.push(word(state));
        say(&format!(
            "Model: an MCP client over stdio ({REVISION}, {} tools) is given the handle {lease_id}.",
            self.report.mcp.tools
        ));
        let material = self.redeemed(step, &lease_id)?;
        let before = self.whoami(step, &material)?;
        step.wants(before == 200, "the material behind it opens nothing")?;
        let handle = json!({ "lease_id": lease_id.as_str() });
        model.call("lease_revoke", &handle).map_err(failed)?;
        let state = self.state_at_server(step, &lease_id)?;
        step.wants(
            state == LeaseState::Revoked,
            "the lease lives on at the server",
        )?;
        self.report.mcp.lease_states.push(word(state));
        let after = self.whoami(step, &material)?;
        step.wants(after == 401, "the material outlived its lease")?;
        say("       A program redeems it over the socket: 200; the client revokes it: 401.");
        let transcript = model.finish().map_err(failed)?;
        self.search(step, &transcript, say)
    }

    /// Looks for every secret of the server's journal in what the model's client said and heard,
    /// and in the journal itself, to see that the search finds what is there.
    fn search(
        &mut self,
        step: Step,
        transcript: &str,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), Failed> {
        let secrets = self.household.server.mock.secrets();
        let journal = serde_json::to_string(&secrets).map_err(|error| step.failed(error))?;
        let seen = &mut self.report.mcp;
        seen.transcript_bytes = transcript.len();
        seen.secrets = secrets.len();
        seen.found_in_journal = count(&secrets, &journal);
        seen.found_in_transcript = count(&secrets, transcript);
        step.wants(
            seen.secrets > 0 && seen.found_in_journal == seen.secrets,
            "the search is blind",
        )?;
        step.wants(
            seen.found_in_transcript == 0,
            "a secret passed the model's client",
        )?;
        say(&format!(
            "       Of {} secrets the server handed out, 0 are in the {} bytes the client saw.",
            seen.secrets, seen.transcript_bytes
        ));
        Ok(())
    }

    fn verify(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
        let step = Step::Audit;
        if self.is_planted(step) {
            tamper(&self.household.audit_folder()).map_err(|error| step.failed(error))?;
        }
        let checked = self
            .client
            .audit_verify()
            .map_err(|refusal| step.failed(refusal))?
            .view;
        step.wants(checked.damage.is_none(), "the local chain does not verify")?;
        step.wants(checked.records > 0, "the local log is empty")?;
        self.report.verified = true;
        self.report.keyed = checked.keyed == checked.records;
        say(&format!(
            "Audit: {} records, chain intact{}.",
            checked.records,
            if self.report.keyed {
                ", every one under the daemon's key"
            } else {
                ""
            }
        ));
        Ok(())
    }

    /// The server's own chain is intact, and each of its events about the daemon has exactly one
    /// record here, with the same request id, proof and outcome, and the other way round. An event of a try
    /// that came before a call's last one has its place in that call's record.
    fn reconcile(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
        let step = Step::Reconcile;
        if self.is_planted(step) {
            self.begin_elsewhere(step)?;
        }
        let events = self.household.server.mock.audit();
        step.wants(!events.is_empty(), "the server recorded nothing")?;
        step.wants(
            ledger::is_intact(&events),
            "the server's own chain does not verify",
        )?;
        let entries = audit::verify::read(&self.household.audit_folder(), usize::MAX)
            .map_err(|error| step.failed(error))?;
        let mut ours = ledger::Ours::of(entries.into_iter());
        // What a person did at the page or was done in their place, and what the thief sent again,
        // is no call of the daemon's.
        let mut forms = self.household.server.mock.requests();
        forms.retain(|request| request.method.starts_with("device/"));
        let (earlier, theirs): (Vec<_>, Vec<_>) = events
            .into_iter()
            .filter(|event| {
                event.action != "login.approve"
                    && event.request_id != self.replay
                    && forms.iter().all(|form| form.request_id != event.request_id)
            })
            .partition(|event| ours.explain(event));
        let theirs = ledger::theirs(theirs.into_iter());
        let extra = ledger::missing(&theirs, &ours.calls);
        step.wants(
            extra == 0,
            "the server has an event that the broker did not record",
        )?;
        let extra = ledger::missing(&ours.calls, &theirs);
        step.wants(
            extra == 0,
            "the broker has a record that the server does not know",
        )?;
        self.report.reconciled = theirs.values().sum::<usize>().saturating_add(earlier.len());
        say(&format!(
            "       {} events at the server, its chain intact, and the same ones here.",
            self.report.reconciled
        ));
        Ok(())
    }

    /// Somebody else begins a login under the daemon's public key: an event at the server that
    /// no call of the daemon's led to.
    fn begin_elsewhere(&self, step: Step) -> Result<(), Failed> {
        let captured = self
            .calls("CreateCredentialLease")
            .pop()
            .and_then(|call| call.proof)
            .ok_or_else(|| step.failed("the server wrote no proof down"))?;
        let header = captured
            .split('.')
            .next()
            .and_then(|header| URL_SAFE_NO_PAD.decode(header).ok())
            .and_then(|header| serde_json::from_slice::<Value>(&header).ok())
            .ok_or_else(|| step.failed("the proof cannot be read"))?;
        let body = json!({
            "tenantId": "business-default",
            "requestedScopes": [format!("credential.lease.create:{}", canonical(step, SELECTOR)?)],
            "popKeyId": header.get("kid"),
            "popJwk": header.get("jwk"),
        });
        let url = format!(
            "{}aegis.v1.IdentityGatewayService/BeginMcpOauthDeviceAuthorization",
            self.household.server.mock.api()
        );
        let answer = self.household.server.block_on(async {
            http()?
                .post(url)
                .header("Connect-Protocol-Version", "1")
                .header("Content-Type", "application/json")
                .body(body.to_string())
                .send()
                .await?
                .error_for_status()
        });
        drop(answer.map_err(|error| step.failed(error.without_url()))?);
        Ok(())
    }

    fn stop(mut self, say: &mut dyn FnMut(&str)) -> Result<Report, Failed> {
        let step = Step::Stop;
        if self.is_planted(step) {
            self.household.kill().map_err(|error| step.failed(error))?;
        } else {
            self.client
                .logout(None)
                .map_err(|refusal| step.failed(refusal))?;
        }
        drop(self.client);
        let status = self.household.stop().map_err(|error| step.failed(error))?;
        step.wants(status.success(), "the daemon did not stop cleanly")?;
        let offline = audit::verify::verify(&self.household.audit_folder(), &Keys::none())
            .map_err(|error| step.failed(error))?;
        step.wants(offline.damage.is_none(), "the log at rest does not verify")?;
        let folder = self.household.folder().to_owned();
        self.household.clean().map_err(|error| step.failed(error))?;
        step.wants(!folder.exists(), "the private folder is still there")?;
        say("Stop:  logged out, daemon stopped, folder gone.");
        Ok(self.report)
    }

    fn state_at_server(&self, step: Step, lease_id: &LeaseId) -> Result<LeaseState, Failed> {
        self.household
            .server
            .mock
            .leases()
            .into_iter()
            .find(|lease| lease.lease_id == lease_id.as_str())
            .map(|lease| lease.state)
            .ok_or_else(|| step.failed("the server does not know the lease"))
    }

    fn whoami(&self, step: Step, material: &SecretString) -> Result<u16, Failed> {
        let url = format!("{}fake/gcp/whoami", self.household.server.mock.api());
        let status = self.household.server.block_on(async {
            Ok::<_, reqwest::Error>(
                http()?
                    .get(url)
                    .bearer_auth(material.expose())
                    .send()
                    .await?
                    .status()
                    .as_u16(),
            )
        });
        let status = status.map_err(|error| step.failed(error.without_url()))?;
        let seen = self.calls("whoami").pop();
        let seen = seen.ok_or_else(|| step.failed("the server wrote no use down"))?;
        let written = match seen.result.as_str() {
            "ok" => 200,
            "unauthenticated" => 401,
            _ => return Err(step.failed("the server wrote something else down")),
        };
        step.wants(
            written == status,
            "the server wrote down another answer than it gave",
        )?;
        Ok(written)
    }

    /// The newest event of the server's about this selector.
    fn event(
        &self,
        step: Step,
        action: &str,
        outcome: &str,
        selector: &str,
    ) -> Result<AuditRecord, Failed> {
        self.household
            .server
            .mock
            .audit()
            .into_iter()
            .rfind(|event| {
                event.action == action
                    && event.outcome == outcome
                    && short(step, &event.target).is_ok_and(|target| target == selector)
            })
            .ok_or_else(|| step.failed("the server recorded no such event"))
    }
}

/// What a person needs who decides in a browser.
fn invitation(mock: &Mock, device: &DeviceView) -> String {
    let address = device.verification_uri_complete.as_ref();
    format!(
        "open          {}\nsign in as    {}\npassword      {}\nand compare   {}\n",
        address.unwrap_or(&device.verification_uri),
        mock.demo_name(),
        mock.demo_password(),
        device.user_code,
    )
}

/// The form in which the report names a selector.
fn short(step: Step, selector: &str) -> Result<String, Failed> {
    let selector = Selector::parse(selector).map_err(|error| step.failed(error))?;
    Ok(selector.short().to_owned())
}

/// The form in which the server names it.
fn canonical(step: Step, selector: &str) -> Result<String, Failed> {
    let selector = Selector::parse(selector).map_err(|error| step.failed(error))?;
    Ok(selector.to_string())
}

/// The secret in the material.
fn access_token(step: Step, material: &Material) -> Result<SecretString, Failed> {
    match material.field("access_token").map(|field| &field.value) {
        Some(FieldValue::Secret(token)) => Ok(SecretString::copy_from(token.expose())),
        Some(FieldValue::Public(_)) | None => Err(step.failed("no access token")),
    }
}

/// The server's word for a state.
fn word(state: LeaseState) -> String {
    let word = serde_json::to_value(state).ok();
    let word = word.as_ref().and_then(Value::as_str);
    word.unwrap_or_default().to_owned()
}

/// How many of those secrets stand in that text.
fn count(secrets: &[SecretRecord], text: &str) -> usize {
    let found = secrets.iter().filter(|secret| text.contains(&secret.value));
    found.count()
}

fn http() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(HTTP_WITHIN)
        .pool_max_idle_per_host(0)
        .build()
}

/// Changes one byte in the middle of the newest segment.
fn tamper(folder: &std::path::Path) -> std::io::Result<()> {
    let newest = std::fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .max()
        .ok_or_else(|| std::io::Error::other("no segment"))?;
    let mut bytes = std::fs::read(&newest)?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    std::fs::write(newest, bytes)
}

/// Takes the time of each step.
struct Clockwork {
    since: Timestamp,
}

impl Clockwork {
    fn new() -> Self {
        Self {
            since: SystemClock.now().boot,
        }
    }

    fn lap(&mut self, report: &mut Report, step: Step) {
        let now = SystemClock.now().boot;
        report.timings.push((step.as_str(), self.since.until(now)));
        self.since = now;
    }
}
