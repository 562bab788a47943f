//! The part of the state that uses a credential without handing it out: a request that the broker
//! sends itself, only where the target's injection table says, and what is made of its answer.
//!
//! Invariant: the record of the request is written before it leaves (AU-1), a second one says what
//! came of it. The material goes to the port and to nobody else.

use std::sync::Arc;

use super::effect::Effect;
use super::event::{HttpRequest, Reply};
use super::leases::{LeaseKey, Waiter};
use super::ports::{
    AuditAction, AuditOutcome, AuditRecord, HttpAnswer, HttpFailure, HttpJob, RevokeReason,
};
use super::serve::Wanted;
use super::state::{Asker, State};
use crate::model::{
    Action, CleanText, ErrorCode, Exposure, Injection, LeaseView, Material, OnLeak, Outgoing,
    Refusal, Selector, Unbound,
};
use crate::time::Now;

/// Requests under way at once, all callers together (LM): each may hold a response for 30 s.
pub const MAX_USES: usize = 64;

/// When there are too many, a caller is told to come back after this long.
const FULL_RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// What a waiter wants done with the material in place of being given it.
#[derive(Debug, Clone)]
pub struct Sending {
    outgoing: Arc<Outgoing>,
    injection: Arc<Injection>,
    on_leak: OnLeak,
}

/// A request under way: who hears of it, and whose values it was looked through for.
#[derive(Debug)]
pub struct Use {
    asker: Asker,
    rule: CleanText,
    selector: Selector,
    lease: LeaseView,
    /// What was asked of whom.
    what: CleanText,
    /// The leases of the job's known values, in their order.
    known: Vec<LeaseKey>,
    on_leak: OnLeak,
}

impl State {
    /// `http.request`: policy first, then the table, then a lease as for `credential.get`.
    pub(super) fn http_request(
        &mut self,
        asker: &Asker,
        request: HttpRequest,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let wanted = Wanted {
            selector: &request.selector,
            actions: &[Action::Create, Action::Redeem],
            exposure: Exposure::Use,
        };
        let Some(passed) = self.gate(asker, &wanted, effects) else {
            return;
        };
        let injection = self
            .targets
            .get(&request.selector)
            .and_then(|target| target.inject.as_ref().map(Arc::clone));
        let refusal = match &injection {
            None => Some(not_injected()),
            Some(injection) => injection
                .admits(&request.outgoing)
                .err()
                .map(|unbound| not_bound(unbound, injection)),
        };
        let refusal = refusal.or_else(|| (self.uses >= MAX_USES).then(full));
        if let Some(refusal) = refusal {
            return self.deny(
                asker,
                Some(&request.selector),
                &passed.rule,
                refusal,
                effects,
            );
        }
        let Some(injection) = injection else {
            return;
        };
        let on_leak = passed.on_leak;
        let waiter = Waiter {
            exposure: Exposure::Use,
            sending: Some(Sending {
                outgoing: request.outgoing,
                injection,
                on_leak,
            }),
            ..passed.waiter(asker, request.holder)
        };
        self.share(request.selector, waiter, request.reason, now, effects);
    }

    /// The material is there: the record, then the request.
    pub(super) fn send(
        &mut self,
        sending: &Sending,
        waiter: &Waiter,
        lease: LeaseView,
        material: &Arc<Material>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let outgoing = &sending.outgoing;
        let what = format!("{} {}", outgoing.method().as_str(), outgoing.host());
        let (known, values) = self.leases.known(now.boot).into_iter().unzip();
        let usage = Use {
            asker: waiter.asker(),
            rule: waiter.rule.clone(),
            selector: lease.selector.clone(),
            lease,
            what: CleanText::new(&what, 200),
            known,
            on_leak: sending.on_leak,
        };
        effects.push(Effect::Audit(Box::new(AuditRecord {
            reason: Some(usage.what.clone()),
            ..self.use_record(&usage, AuditAction::HttpRequest, AuditOutcome::Ok)
        })));
        self.uses = self.uses.saturating_add(1);
        effects.push(Effect::SendHttp {
            usage: Arc::new(usage),
            job: HttpJob {
                injection: Arc::clone(&sending.injection),
                outgoing: Arc::clone(outgoing),
                material: Arc::clone(material),
                known: values,
                at: now.unix,
            },
        });
    }

    pub(super) fn http_answered(
        &mut self,
        usage: &Use,
        outcome: Result<HttpAnswer, HttpFailure>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.uses = self.uses.saturating_sub(1);
        let (audit, word) = match &outcome {
            Ok(answer) => (AuditOutcome::Ok, format!("status_{}", answer.status)),
            Err(failure) => (AuditOutcome::Error, failure.as_str().to_owned()),
        };
        effects.push(Effect::Audit(Box::new(AuditRecord {
            reason: Some(CleanText::new(&word, 64)),
            ..self.use_record(usage, AuditAction::HttpResponse, audit)
        })));
        match outcome {
            Ok(answer) => {
                for place in &answer.leaked {
                    if let Some(key) = usage.known.get(*place) {
                        self.leaked(usage, *key, now, effects);
                    }
                }
                self.reply(usage.asker.ticket, Reply::Http(Box::new(answer)), effects);
            }
            Err(failure) => self.refuse(usage.asker.ticket, failure.refusal(), effects),
        }
    }

    /// A value of that lease was in a response. It is masked; whoever sent it has it all the same.
    fn leaked(&mut self, usage: &Use, key: LeaseKey, now: Now, effects: &mut Vec<Effect>) {
        let lease = self.leases.get(key);
        let Some(view) = lease.and_then(|lease| lease.view(now.boot)) else {
            return;
        };
        effects.push(Effect::Audit(Box::new(AuditRecord {
            selector: Some(view.selector),
            lease_id: Some(view.lease_id),
            reason: Some(usage.what.clone()),
            ..self.use_record(usage, AuditAction::Leak, AuditOutcome::Ok)
        })));
        match usage.on_leak {
            OnLeak::Record => {}
            OnLeak::Revoke => self.release(key, RevokeReason::Released, now, effects),
        }
    }

    fn use_record(&self, usage: &Use, action: AuditAction, outcome: AuditOutcome) -> AuditRecord {
        AuditRecord {
            peer: Some(Arc::clone(&usage.asker.peer)),
            selector: Some(usage.selector.clone()),
            lease_id: Some(usage.lease.lease_id.clone()),
            exposure: Some(Exposure::Use),
            rule: Some(usage.rule.clone()),
            ..self.record(action, outcome)
        }
    }
}

fn full() -> Refusal {
    Refusal {
        retry_after: Some(FULL_RETRY_AFTER),
        ..Refusal::new(ErrorCode::RateLimited)
    }
}

fn not_injected() -> Refusal {
    Refusal::new(ErrorCode::PolicyDenied)
        .with_reason("not_bound")
        .with_message("the configuration binds this credential to no host")
        .with_fix("the person adds an `inject` table to the target and starts the daemon again")
}

/// The hosts, methods and paths of the table are no secret to who may use the credential there.
fn not_bound(unbound: Unbound, injection: &Injection) -> Refusal {
    let (message, fix) = match unbound {
        Unbound::Host => {
            let hosts: Vec<_> = injection
                .hosts
                .iter()
                .map(crate::model::BoundHost::shown)
                .collect();
            (
                "the credential is not for that host and port, or not without TLS",
                format!("send it to {}", hosts.join(", ")),
            )
        }
        Unbound::Method => {
            let methods: Vec<_> = injection.methods.iter().map(|it| it.as_str()).collect();
            (
                "the credential is not for that method",
                format!("use {}", methods.join(", ")),
            )
        }
        Unbound::Path => {
            let paths: Vec<_> = injection
                .paths
                .iter()
                .map(crate::model::PathPrefix::as_str)
                .collect();
            (
                "the credential is not for that path",
                format!("use a path below {}", paths.join(", ")),
            )
        }
        Unbound::TooLarge => (
            "the body is too large",
            format!("send at most {} bytes", injection.max_request),
        ),
        Unbound::Header => (
            "the header that the broker puts the credential into is not the caller's",
            "leave it out".to_owned(),
        ),
    };
    Refusal::new(ErrorCode::PolicyDenied)
        .with_reason(unbound.as_str())
        .with_message(message)
        .with_fix(&fix)
}
