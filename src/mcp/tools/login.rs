use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolResponse, ElicitationAction, InputResponses, ProgressNotificationParam, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, interval_at, sleep_until};
use url::Url;

use super::{Name, Touch, describe};
use crate::mcp::elicitation::{self, Showing};
use crate::mcp::reply;
use crate::mcp::server::Peer;
use crate::mcp::wire::{DeviceReply, LoginToolReply, NoArguments};
use crate::model::{
    CleanText, DeviceView, ErrorCode, LoginPhase, LoginView, MAX_CODE_LIFE, MAX_USER_CODE, Refusal,
};

/// How long a call waits for the person once their client said they will open the address:
/// clients give a call 60 s.
const WAIT: Duration = Duration::from_secs(45);

/// How often a waiting call says that it still waits.
const PROGRESS: Duration = Duration::from_secs(5);

/// A dialog that nobody answers is taken back when the code has ended.
const DIALOG: Duration = MAX_CODE_LIFE;

const DESCRIPTION: &str = "Starts the person's device login, or joins the one that already runs, and answers with the \
address to open and the code to compare. Show both to the person; only they can approve, in \
their own browser. Never takes or returns a password or token, and never opens a \
browser. Next: when the person says they approved, call login again; it answers signed_in or \
already_signed_in once the issuer knows. After access_denied or expired_token stop and ask the person first.";

pub(super) fn tool() -> Tool {
    describe::<NoArguments, LoginToolReply>(Name::Login, "Log in", DESCRIPTION, Touch::Adds)
}

/// What a client brought along from an earlier call (2026-07-28).
pub(super) struct Round {
    pub(super) state: Option<String>,
    pub(super) responses: Option<InputResponses>,
}

/// A login's outcome, as soon as there is one.
type Outcome = Option<Result<LoginView, Refusal>>;

/// The login that one conversation takes part in. Bounded: one wait at the core for each flow,
/// one flow at a time, one open dialog, one beginning.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// One beginning at a time, also of calls that were cancelled meanwhile.
    beginning: Arc<tokio::sync::Mutex<()>>,
    /// Behind a lock for a few instructions without an `await`.
    watched: Mutex<Option<Watched>>,
    dialog: AtomicBool,
}

/// One device flow whose end we wait for.
#[derive(Debug)]
struct Watched {
    user_code: String,
    outcome: watch::Receiver<Outcome>,
}

pub(super) async fn call(
    peer: &Arc<Peer>,
    _arguments: NoArguments,
    round: Round,
    context: &RequestContext<RoleServer>,
) -> CallToolResponse {
    let answer = match round.state {
        None => begin(peer, context).await,
        Some(sealed) => go_on(peer, &sealed, round.responses.as_ref(), context).await,
    };
    answer.unwrap_or_else(|refusal| reply::refused(&refusal).into())
}

/// The first call, and every later one of a client that only asks how it stands.
async fn begin(
    peer: &Arc<Peer>,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, Refusal> {
    // What came of the last one is said once before there is a next.
    if let Some(refusal) = peer.flow.take_failure()
        && !is_overtaken(peer).await
    {
        return Ok(failed(&refusal));
    }
    let view = join(peer).await?;
    match &view.phase {
        LoginPhase::AwaitingApproval(device) => {
            watch_for_end(peer, device.user_code.as_str());
            Ok(show(peer, device, context))
        }
        LoginPhase::LoggedIn { .. } => Ok(signed_in("already_signed_in", &view)),
        LoginPhase::LoggedOut | LoginPhase::Locked => Err(ErrorCode::LoginRequired.into()),
    }
}

/// Whether somebody has logged in, or begun to, since a login failed: then there is no next one to
/// hold back.
async fn is_overtaken(peer: &Peer) -> bool {
    let status = peer.core.status().await;
    status.is_ok_and(|status| match status.login.phase {
        LoginPhase::AwaitingApproval(_) | LoginPhase::LoggedIn { .. } => true,
        LoginPhase::LoggedOut | LoginPhase::Locked => false,
    })
}

/// A call with what the client's dialog came to.
async fn go_on(
    peer: &Arc<Peer>,
    sealed: &str,
    responses: Option<&InputResponses>,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, Refusal> {
    let user_code = peer.shared.states.open(sealed, Instant::now())?;
    match elicitation::answer(responses) {
        Some(ElicitationAction::Accept) => wait(peer, &user_code, context).await,
        Some(ElicitationAction::Decline | ElicitationAction::Cancel) => {
            withdraw(peer, &user_code).await
        }
        // Missing, or nothing we know: the question stands.
        Some(_) | None => begin(peer, context).await,
    }
}

/// Starts the device login or joins it, in a task of its own: a caller that gives up leaves
/// nothing behind but one beginning.
async fn join(peer: &Arc<Peer>) -> Result<LoginView, Refusal> {
    let turn = Arc::clone(&peer.flow.beginning).lock_owned().await;
    let (sender, answer) = oneshot::channel();
    let peer = Arc::clone(peer);
    tokio::spawn(async move {
        tokio::select! {
            begun = peer.core.login_begin() => drop(sender.send(begun)),
            () = peer.gone.cancelled() => {}
        }
        drop(turn);
    });
    answer.await.unwrap_or(Err(ErrorCode::ShuttingDown.into()))
}

/// Puts the code and the address before the person, in the best way their client has.
fn show(
    peer: &Arc<Peer>,
    device: &DeviceView,
    context: &RequestContext<RoleServer>,
) -> CallToolResponse {
    if let Some(url) = elicitation::address(device) {
        match Showing::of(context) {
            Showing::InputRequired => {
                if let Some(state) = new_state(peer, device) {
                    return elicitation::input_required(device, &url, state).into();
                }
            }
            Showing::Dialog => open_dialog(peer, device, url, context),
            Showing::Words => {}
        }
    }
    pending(device)
}

/// A state for the client to bring back; `None` when it has had too many lately.
fn new_state(peer: &Peer, device: &DeviceView) -> Option<String> {
    let now = Instant::now();
    peer.shared.dialogs.take(peer.process, now).ok()?;
    peer.shared.states.seal(device.user_code.as_str(), now)
}

/// Asks the client to ask the person. The call is answered meanwhile: a client that never shows
/// the dialog is real. At most one is open, and none for a login that is over.
fn open_dialog(
    peer: &Arc<Peer>,
    device: &DeviceView,
    url: Url,
    context: &RequestContext<RoleServer>,
) {
    let Some(name) = elicitation::random_name() else {
        return;
    };
    if peer.flow.dialog.swap(true, Ordering::Relaxed) {
        return;
    }
    let (peer, client) = (Arc::clone(peer), context.peer.clone());
    let (message, user_code) = (elicitation::message(device), device.user_code.clone());
    let mut outcome = watch_for_end(&peer, user_code.as_str());
    tokio::spawn(async move {
        let asked = client.elicit_url_with_timeout(message, url, name, Some(DIALOG));
        let answer = tokio::select! {
            answer = asked => answer.ok(),
            _ = ended(&mut outcome) => None,
            () = peer.gone.cancelled() => None,
        };
        peer.flow.dialog.store(false, Ordering::Relaxed);
        if let Some(ElicitationAction::Decline | ElicitationAction::Cancel) = answer
            && let Err(refusal) = peer.core.login_withdraw(user_code).await
        {
            tracing::debug!(%refusal, "a login was not withdrawn");
        }
    });
}

/// Waits for the end of the login, for at most 45 s, saying so every now and then.
async fn wait(
    peer: &Arc<Peer>,
    user_code: &str,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, Refusal> {
    let mut outcome = watch_for_end(peer, user_code);
    let started = Instant::now();
    let mut ticks = interval_at(started + PROGRESS, PROGRESS);
    let ended = loop {
        tokio::select! {
            biased;
            ended = ended(&mut outcome) => break ended,
            () = sleep_until(started + WAIT) => {
                return still_pending(peer).await;
            }
            now = ticks.tick() => say_waiting(now.duration_since(started), context).await,
        }
    };
    peer.flow.forget();
    match ended {
        Ok(view) if matches!(view.phase, LoginPhase::LoggedIn { .. }) => {
            Ok(signed_in("signed_in", &view))
        }
        Ok(_) => Err(ErrorCode::LoginRequired.into()),
        // It was over before we asked: how, nobody here knows.
        Err(refusal) if refusal.code == ErrorCode::LoginRequired => Err(refusal),
        Err(refusal) => Ok(failed(&refusal)),
    }
}

async fn ended(outcome: &mut watch::Receiver<Outcome>) -> Result<LoginView, Refusal> {
    match outcome.wait_for(Option::is_some).await {
        Ok(ended) => ended
            .clone()
            .unwrap_or_else(|| Err(ErrorCode::Internal.into())),
        // Whoever waited for us is gone with the conversation.
        Err(_closed) => Err(ErrorCode::ShuttingDown.into()),
    }
}

async fn say_waiting(waited: Duration, context: &RequestContext<RoleServer>) {
    let Some(token) = context.meta.get_progress_token() else {
        return;
    };
    let progress = ProgressNotificationParam::new(token, waited.as_secs_f64())
        .with_total(WAIT.as_secs_f64())
        .with_message("waiting for the person to approve the login");
    // A client that is gone is noticed elsewhere.
    drop(context.peer.notify_progress(progress).await);
}

/// How it stands when the wait is over and nothing has happened.
async fn still_pending(peer: &Peer) -> Result<CallToolResponse, Refusal> {
    let view = peer.core.status().await?.login;
    match &view.phase {
        LoginPhase::AwaitingApproval(device) => Ok(pending(device)),
        LoginPhase::LoggedIn { .. } => Ok(signed_in("signed_in", &view)),
        LoginPhase::LoggedOut | LoginPhase::Locked => Err(ErrorCode::LoginRequired.into()),
    }
}

/// The person declined in their client: this caller is out, the others' login goes on.
async fn withdraw(peer: &Peer, user_code: &str) -> Result<CallToolResponse, Refusal> {
    let user_code = CleanText::new(user_code, MAX_USER_CODE);
    let view = peer.core.login_withdraw(user_code).await?;
    peer.flow.forget();
    if matches!(view.phase, LoginPhase::LoggedIn { .. }) {
        return Ok(signed_in("already_signed_in", &view));
    }
    let refusal = Refusal::new(ErrorCode::LoginCancelled)
        .with_message("the person declined to log in from this client");
    Ok(failed(&refusal))
}

/// The end of the login with that code; one wait at the core for all who ask here.
fn watch_for_end(peer: &Arc<Peer>, user_code: &str) -> watch::Receiver<Outcome> {
    let mut watched = peer
        .flow
        .watched
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(earlier) = watched.as_ref()
        && earlier.user_code == user_code
    {
        return earlier.outcome.clone();
    }
    let (sender, outcome) = watch::channel(None);
    *watched = Some(Watched {
        user_code: user_code.to_owned(),
        outcome: outcome.clone(),
    });
    let peer = Arc::clone(peer);
    tokio::spawn(async move {
        tokio::select! {
            ended = peer.core.login_wait() => drop(sender.send(Some(ended))),
            () = peer.gone.cancelled() => {}
        }
    });
    outcome
}

impl Flow {
    /// Why the last login ended without a session, if it did and nobody was told.
    fn take_failure(&self) -> Option<Refusal> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match watched.as_ref()?.outcome.borrow().as_ref()? {
            Ok(_) => None,
            Err(refusal) => Some(refusal.clone()),
        };
        *watched = None;
        // That one means that it was over before we asked: there is nothing to tell.
        failure.filter(|refusal| refusal.code != ErrorCode::LoginRequired)
    }

    /// The last login's end was told.
    fn forget(&self) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn pending(device: &DeviceView) -> CallToolResponse {
    reply::done(LoginToolReply {
        status: "pending",
        device: Some(DeviceReply::from(device)),
        principal: None,
        expires_at: None,
        next: format!(
            "show the person this, word for word: \"{}\" Then call login again when they say \
             they approved it.",
            elicitation::message(device)
        ),
    })
    .into()
}

fn signed_in(status: &'static str, view: &LoginView) -> CallToolResponse {
    let (principal, expires_at) = match &view.phase {
        LoginPhase::LoggedIn {
            principal,
            token_expires_at,
            ..
        } => (
            Some(principal.to_string()),
            Some(token_expires_at.to_string()),
        ),
        LoginPhase::LoggedOut | LoginPhase::Locked | LoginPhase::AwaitingApproval(_) => {
            (None, None)
        }
    };
    reply::done(LoginToolReply {
        status,
        device: None,
        principal,
        expires_at,
        next: "call target_list for what can be asked for, then lease_create".to_owned(),
    })
    .into()
}

/// The login is over without a session. A machine that starts the next one by itself would only
/// annoy the person who has just said no or was not there.
fn failed(refusal: &Refusal) -> CallToolResponse {
    reply::refused_for_good(refusal).into()
}
