//! The RPCs of `IdentityGatewayService`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};

use crate::access::{self, rate_limited};
use crate::audit::Entry;
use crate::call::{self, Call};
use crate::check::Check;
use crate::clock::Moment;
use crate::encoding::{random_id, random_secret, random_user_code, sha256};
use crate::errors::{Reason, Refusal};
use crate::fault::FaultKind;
use crate::identity::device::{LIFETIME, Login, Logins, Poll, Standing, Wish};
use crate::identity::issue::Wanted;
use crate::identity::sessions::Start;
use crate::identity::tokens::Binding;
use crate::identity::wish;
use crate::policy::Policy;
use crate::proto::{
    ApproveMcpOauthDeviceAuthorizationRequest, ApproveMcpOauthDeviceAuthorizationResponse,
    BeginMcpOauthDeviceAuthorizationRequest, BeginMcpOauthDeviceAuthorizationResponse,
    ExchangeMcpOauthDeviceAuthorizationRequest, ExchangeMcpOauthDeviceAuthorizationResponse,
    IdentityGatewayService,
};
use crate::scope;
use crate::state::{Shared, State};
use crate::throttle::Throttle;
use crate::{ControlError, wire};

const MAX_NAME: usize = 64;
/// Wrong user codes in a minute from one address.
const MAX_GUESSES: u32 = 5;
/// The RPC that the page stands in for.
const APPROVE: &str = "ApproveMcpOauthDeviceAuthorization";
/// The person of the built-in policy.
pub(crate) const DEMO_UID: &str = "u-demo";

/// The identity half of the server.
#[derive(Debug)]
pub(crate) struct Identity(pub(crate) Arc<Shared>);

#[expect(
    refining_impl_trait,
    reason = "the generated trait says `impl Encodable`"
)]
impl IdentityGatewayService for Identity {
    async fn begin_mcp_oauth_device_authorization(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, BeginMcpOauthDeviceAuthorizationRequest>,
    ) -> ServiceResult<BeginMcpOauthDeviceAuthorizationResponse> {
        let call = call::of(&context)?;
        let answer = self.0.begin(&call, request.to_owned_message());
        self.0.finish(&call, "login.begin", answer)
    }

    async fn approve_mcp_oauth_device_authorization(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ApproveMcpOauthDeviceAuthorizationRequest>,
    ) -> ServiceResult<ApproveMcpOauthDeviceAuthorizationResponse> {
        let call = call::of(&context)?;
        let request = request.to_owned_message();
        let action = if request.approve {
            "login.approve"
        } else {
            "login.deny"
        };
        let answer = self.0.decide(&call, &request);
        self.0.finish(&call, action, answer)
    }

    async fn exchange_mcp_oauth_device_authorization(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ExchangeMcpOauthDeviceAuthorizationRequest>,
    ) -> ServiceResult<ExchangeMcpOauthDeviceAuthorizationResponse> {
        let call = call::of(&context)?;
        let answer = self.0.exchange(&call, &request.to_owned_message());
        self.0.finish_proven(&call, "login.exchange", answer)
    }
}

impl Shared {
    /// Notes the outcome of a call and words it for the wire.
    pub(crate) fn finish<M>(
        &self,
        call: &Call,
        action: &'static str,
        answer: Result<M, Refusal>,
    ) -> ServiceResult<M> {
        match answer {
            Ok(message) => {
                call.trace().result = Some("ok");
                Response::ok(message)
            }
            Err(refusal) => {
                self.audit_refusal(call, action, &refusal);
                Err(call.refuse(refusal))
            }
        }
    }

    /// The same for a call with a proof: every success of one hands out the next nonce.
    pub(crate) fn finish_proven<M>(
        &self,
        call: &Call,
        action: &'static str,
        answer: Result<M, Refusal>,
    ) -> ServiceResult<M> {
        if answer.is_ok() {
            let now = self.clock.now();
            let mut state = self.state();
            let mode = state.policy.server.nonce;
            call.trace().nonce = state.nonces.next(mode, now);
        }
        self.finish(call, action, answer)
    }

    fn begin(
        &self,
        call: &Call,
        request: BeginMcpOauthDeviceAuthorizationRequest,
    ) -> Result<BeginMcpOauthDeviceAuthorizationResponse, Refusal> {
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        if request.tenant_id.is_empty() {
            return Err(Refusal::missing("tenant_id"));
        }
        if state.policy.throttle.enabled {
            let limit = state.policy.throttle.begin_per_address_minute;
            state
                .throttle
                .count(format!("begin {}", call.road.peer), limit, now)
                .map_err(rate_limited)?;
        }
        let Some(tenant) = state.policy.tenant(&request.tenant_id) else {
            return Err(Refusal::new(Reason::TenantMismatch, "tenant is not open"));
        };
        call.trace().entry.tenant_id.clone_from(&tenant.id);

        let scopes = if request.requested_scopes.is_empty() {
            tenant.default_scopes.clone()
        } else {
            request.requested_scopes
        };
        let scopes = wish::scopes(scopes, &state.policy, call.checks)?;
        let ttl_seconds = wish::ttl(request.requested_ttl_seconds, &state.policy)?;
        if request.client_display_name.chars().count() > MAX_NAME
            || request.client_display_name.chars().any(char::is_control)
        {
            return Err(
                Refusal::new(Reason::TypeMismatch, "name is at most 64 printable letters")
                    .field("client_display_name"),
            );
        }
        let jkt = wish::key(request.pop_jwk.as_option())?;
        call.trace().entry.key_thumbprint.clone_from(&jkt);
        wish::key_id(&request.pop_key_id)?;
        let pop_key_id = request.pop_key_id;
        state.faults.check_ledger(call.method)?;
        state
            .keys
            .register(&tenant.id, &pop_key_id, &jkt)
            .map_err(wish::unregistered)?;

        let device_code = random_secret("mdc_");
        let mut user_code = random_user_code();
        while state.logins.has_user_code(&user_code) {
            user_code = random_user_code();
        }
        let interval_seconds = state.policy.server.interval_seconds;
        let wish = Wish {
            user_code: user_code.clone(),
            client_name: request.client_display_name,
            tenant_id: request.tenant_id,
            scopes,
            ttl_seconds,
            jkt,
            pop_key_id,
        };
        let login = Login::begin(wish, interval_seconds, now);
        let mut entry = call.trace().entry.clone();
        (entry.action, entry.outcome) = ("login.begin", "ok");
        state.ledger.append(entry, now);
        state
            .logins
            .insert(sha256(device_code.as_bytes()), login, now);
        state.secret("device_code", &device_code);

        let page = format!("{}/device", wire::origin(&self.api));
        Ok(BeginMcpOauthDeviceAuthorizationResponse {
            device_code,
            verification_uri_complete: format!("{page}?user_code={user_code}"),
            user_code,
            verification_uri: page,
            interval_seconds: wire::int32(interval_seconds),
            expires_in_seconds: i32::try_from(LIFETIME.as_secs()).unwrap_or(i32::MAX),
            ..Default::default()
        })
    }

    fn decide(
        &self,
        call: &Call,
        request: &ApproveMcpOauthDeviceAuthorizationRequest,
    ) -> Result<ApproveMcpOauthDeviceAuthorizationResponse, Refusal> {
        let uid = self.console_person(call)?;
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        call.trace().entry.principal = format!("user:{uid}");
        let login = if request.device_code.is_empty() {
            if request.user_code.is_empty() {
                return Err(Refusal::missing("user_code"));
            }
            let guess = Guess {
                user_code: &request.user_code,
                uid: &uid,
                peer: call.road.peer,
                most: self.guesses(MAX_GUESSES),
            };
            guess.find(&mut state.logins, &mut state.throttle, &state.policy, now)?
        } else {
            let code = sha256(request.device_code.as_bytes());
            state
                .logins
                .by_device_code(&code, now)
                .filter(|login| may_decide(&state.policy, &uid, login))
                .ok_or_else(unknown_code)?
        };
        let mut entry = call.trace().entry.clone();
        entry.tenant_id.clone_from(&login.wish.tenant_id);
        entry.key_thumbprint.clone_from(&login.wish.jkt);
        call.trace().entry = entry.clone();
        state.faults.check_ledger(call.method)?;
        let approved = decide(login, &uid, request.approve, now)
            .map_err(|reason| Refusal::new(reason, "code has been used"))?;
        (entry.action, entry.outcome) = decision(request.approve, approved);
        state.ledger.append(entry, now);
        let status = if approved {
            "approved"
        } else {
            "access_denied"
        };
        Ok(ApproveMcpOauthDeviceAuthorizationResponse {
            approved,
            status: status.to_owned(),
            ..Default::default()
        })
    }

    /// Approves or denies as a person of the policy.
    pub(crate) fn decide_by_control(
        &self,
        user_code: &str,
        uid: &str,
        approve: bool,
    ) -> Result<(), ControlError> {
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        let login = state.logins.by_user_code(user_code);
        let login = login.ok_or(ControlError::UnknownUserCode)?;
        if !may_decide(&state.policy, uid, login) {
            return Err(ControlError::NotAMember);
        }
        let approved = match decide(login, uid, approve, now) {
            Ok(approved) => approved,
            Err(_used) => return Err(ControlError::NotPending),
        };
        let (action, outcome) = decision(approve, approved);
        let entry = entry_of(login, action, outcome, uid, random_id("req_"));
        state.ledger.append(entry, now);
        if approved == approve {
            Ok(())
        } else {
            Err(ControlError::NotPending)
        }
    }

    /// What a person who entered a code on the page is asked to judge, and whether there is
    /// anything left to decide. Guessing is limited.
    pub(crate) fn look_up_on_page(
        &self,
        user_code: &str,
        uid: &str,
        peer: IpAddr,
    ) -> Result<(Wish, Standing), Refusal> {
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        let guess = Guess {
            user_code,
            uid,
            peer,
            most: self.guesses(MAX_GUESSES),
        };
        let login = guess.find(&mut state.logins, &mut state.throttle, &state.policy, now)?;
        Ok((login.wish.clone(), login.standing(now)))
    }

    /// What was entered before, while it is remembered.
    pub(crate) fn remembered_on_page(&self, user_code: &str) -> Option<Wish> {
        let mut state = self.state();
        let login = state.logins.by_user_code(user_code);
        login.map(|login| login.wish.clone())
    }

    /// Approves or denies a pending device authorization. What is found otherwise stays as it is
    /// and is what is answered; [`Standing::Pending`] says that the person's word now holds.
    pub(crate) fn decide_on_page(
        &self,
        user_code: &str,
        uid: &str,
        approve: bool,
        request_id: &str,
    ) -> Result<Standing, Refusal> {
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        let login = state.logins.by_user_code(user_code);
        let login = login.filter(|login| may_decide(&state.policy, uid, login));
        let login = login.ok_or_else(unknown_code)?;
        let standing = login.standing(now);
        let mut approved = false;
        if standing == Standing::Pending {
            state.faults.check_ledger(APPROVE)?;
            approved = decide(login, uid, approve, now)
                .map_err(|reason| Refusal::new(reason, "code has been used"))?;
        }
        let (action, mut outcome) = decision(approve, approved);
        if standing != Standing::Pending {
            outcome = "denied";
        }
        let entry = entry_of(login, action, outcome, uid, request_id.to_owned());
        state.ledger.append(entry, now);
        Ok(standing)
    }

    /// Ends a code's life.
    pub(crate) fn expire_by_control(&self, user_code: &str) -> Result<(), ControlError> {
        let now = self.clock.now();
        let mut state = self.state();
        let login = state.logins.by_user_code(user_code);
        login.ok_or(ControlError::UnknownUserCode)?.expire(now);
        Ok(())
    }

    fn exchange(
        &self,
        call: &Call,
        request: &ExchangeMcpOauthDeviceAuthorizationRequest,
    ) -> Result<ExchangeMcpOauthDeviceAuthorizationResponse, Refusal> {
        if request.device_code.is_empty() {
            return Err(Refusal::missing("device_code"));
        }
        let proof = self.admit_without_token(call, request.request_proof.as_option())?;

        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        let code = sha256(request.device_code.as_bytes());
        let Some(login) = state.logins.by_device_code(&code, now) else {
            return Err(Refusal::new(Reason::DeviceCodeUnknown, "no such code"));
        };
        call.trace()
            .entry
            .tenant_id
            .clone_from(&login.wish.tenant_id);
        let named = request.pop_key_id.is_empty() || request.pop_key_id == login.wish.pop_key_id;
        let bound = named && proof.thumbprint == login.wish.jkt;
        call.checks.require(Check::ProofBinding, bound)?;
        access::check_key_name(call, &proof, &login.wish.pop_key_id)?;

        if login.is_approved(now) {
            let fault = state.faults.take(call.method, &[FaultKind::ApprovedFirst]);
            if fault.is_some() {
                call.trace().reason = Some("approved");
                return Ok(status("approved", 0));
            }
        }
        let is_pending = login.is_pending(now);
        let fault = state.faults.take(call.method, &[FaultKind::SlowDown]);
        if fault.is_none() && !is_pending {
            state.faults.check_ledger(call.method)?;
        }
        let poll = if fault.is_some() {
            login.slow_down()
        } else {
            login
                .poll(now)
                .map_err(|reason| Refusal::new(reason, "code has been used"))?
        };
        let (word, interval_seconds) = match poll {
            Poll::Approved { uid } => {
                let wish = login.wish.clone();
                return self.start_session(call, state, wish, &uid, now);
            }
            Poll::Pending { interval_seconds } => ("authorization_pending", interval_seconds),
            Poll::SlowDown { interval_seconds } => ("slow_down", interval_seconds),
            Poll::Denied => ("access_denied", 0),
            Poll::Expired => ("expired_token", 0),
        };
        call.trace().reason = Some(word);
        if interval_seconds == 0 {
            let mut entry = call.trace().entry.clone();
            (entry.action, entry.outcome) = ("login.exchange", "denied");
            state.ledger.append(entry, now);
        }
        Ok(status(word, interval_seconds))
    }

    /// An approved login becomes a session, and its first tokens.
    fn start_session(
        &self,
        call: &Call,
        state: &mut State,
        wish: Wish,
        uid: &str,
        now: Moment,
    ) -> Result<ExchangeMcpOauthDeviceAuthorizationResponse, Refusal> {
        let user = state.policy.user(uid);
        let user = user.ok_or_else(|| Refusal::new(Reason::PolicyDenied, "no such person"))?;
        if state.keys.is_revoked(&wish.tenant_id, &wish.jkt) {
            return Err(Check::KeyAlive.into());
        }
        let start = Start {
            tenant_id: wish.tenant_id,
            principal: format!("user:{uid}"),
            role: user.role.clone(),
            scopes: wish.scopes.clone(),
            jkt: wish.jkt.clone(),
            lasts: Duration::from_secs(user.max_session_seconds.into()),
            id_token: None,
        };
        let session = state.broker_sessions.start(start, now);
        let (bootstrap, leases): (Vec<String>, Vec<String>) = wish
            .scopes
            .into_iter()
            .partition(|scope| scope == scope::BOOTSTRAP);
        let beside = !bootstrap.is_empty() && !leases.is_empty();
        let binding = Binding::Key(wish.jkt);
        let bootstrap_token = if beside {
            self.issue_bootstrap(state, &session, binding.clone(), &wish.pop_key_id, now)
        } else {
            String::new()
        };
        let wanted = Wanted {
            scopes: if leases.is_empty() { bootstrap } else { leases },
            ttl_seconds: wish.ttl_seconds,
            binding,
            pop_key_id: wish.pop_key_id,
        };
        let (token, info) = self.issue(call, state, &session, wanted, "login.exchange", now);
        Ok(ExchangeMcpOauthDeviceAuthorizationResponse {
            status: "success".to_owned(),
            broker_token: token,
            token_info: info.into(),
            bootstrap_token,
            ..Default::default()
        })
    }
}

fn unknown_code() -> Refusal {
    Refusal::new(Reason::DeviceCodeUnknown, "no such code")
}

/// Whether that person belongs to the tenant that the login is for.
fn may_decide(policy: &Policy, uid: &str, login: &Login) -> bool {
    policy
        .user(uid)
        .is_some_and(|user| user.tenants.contains(&login.wish.tenant_id))
}

/// A user code that a person entered.
struct Guess<'a> {
    user_code: &'a str,
    uid: &'a str,
    peer: IpAddr,
    /// How often that address may be wrong in a minute.
    most: u32,
}

impl Guess<'_> {
    /// The login with that code. Wrong codes are limited, and over the limit a right one is worth
    /// no more than a wrong one.
    fn find<'a>(
        &self,
        logins: &'a mut Logins,
        throttle: &mut Throttle,
        policy: &Policy,
        now: Moment,
    ) -> Result<&'a mut Login, Refusal> {
        let guesses = format!("guess {}", self.peer);
        throttle
            .check(&guesses, self.most, now)
            .map_err(rate_limited)?;
        let login = logins.by_user_code(self.user_code);
        if let Some(login) = login.filter(|login| may_decide(policy, self.uid, login)) {
            return Ok(login);
        }
        throttle
            .count(guesses, self.most, now)
            .map_err(rate_limited)?;
        Err(unknown_code())
    }
}

/// What the audit says of a person's decision.
fn entry_of(
    login: &Login,
    action: &'static str,
    outcome: &'static str,
    uid: &str,
    request_id: String,
) -> Entry {
    Entry {
        tenant_id: login.wish.tenant_id.clone(),
        action,
        outcome,
        principal: format!("user:{uid}"),
        key_thumbprint: login.wish.jkt.clone(),
        request_id,
        ..Entry::default()
    }
}

/// Whether the code is approved afterwards.
fn decide(login: &mut Login, uid: &str, approve: bool, now: Moment) -> Result<bool, Reason> {
    if approve {
        return login.approve(uid, now);
    }
    login.deny().map(|()| false)
}

/// Action and outcome for the audit.
fn decision(approve: bool, approved: bool) -> (&'static str, &'static str) {
    match (approve, approved) {
        (true, true) => ("login.approve", "ok"),
        (true, false) => ("login.approve", "denied"),
        (false, _) => ("login.deny", "ok"),
    }
}

fn status(word: &str, interval_seconds: u32) -> ExchangeMcpOauthDeviceAuthorizationResponse {
    ExchangeMcpOauthDeviceAuthorizationResponse {
        status: word.to_owned(),
        interval_seconds: wire::int32(interval_seconds),
        ..Default::default()
    }
}
