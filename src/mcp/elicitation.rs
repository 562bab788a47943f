//! How a login is put before the person through their MCP client: a dialog with the address where
//! the client can show one, words everywhere. An answer to a dialog is no consent and no proof:
//! `accept` means "will open it" (AP-8).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction, InputRequest,
    InputRequiredResult, InputResponses, ProtocolVersion, RequestStateCodec, SealOptions,
};
use rmcp::service::{RequestContext, RoleServer};
use tokio::time::Instant;
use url::Url;

use super::wire::LoginState;
use crate::model::{DeviceView, ErrorCode, MAX_CODE_LIFE, Refusal};

/// The name of our one question.
const QUESTION: &str = "aegis_login";

/// How long a client may take to come back with an answer.
const STATE_LIVES: Duration = MAX_CODE_LIFE;

/// States that were used and could still be shown again, some 3 MiB of them. Each client gets eight
/// at once and six a minute: room for some 330 busy ones. Past it a state is refused until the
/// oldest of these has ended.
const MAX_SPENT: usize = 32 * 1024;

/// How this request's client can be shown an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Showing {
    /// It asks the person itself and calls again (2026-07-28).
    InputRequired,
    /// We ask it to ask the person, beside the answer (before 2026-07-28).
    Dialog,
    /// In words only.
    Words,
}

impl Showing {
    /// By the era and the capabilities of this very request.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Self {
        let url = context
            .client_capabilities()
            .and_then(|capabilities| capabilities.elicitation)
            .is_some_and(|elicitation| elicitation.url.is_some());
        let modern = context
            .protocol_version()
            .is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        match (url, modern) {
            (false, _) => Self::Words,
            (true, true) => Self::InputRequired,
            (true, false) => Self::Dialog,
        }
    }
}

/// What the person is shown: the code to compare stands beside the address (DG-7), and what the
/// page calls us (DG-8).
pub(super) fn message(device: &DeviceView) -> String {
    format!(
        "Log in to Aegis at {} and compare the code: {}. It ends at {}. The page names {} as what \
         asks. Approve it only if you asked for it.",
        device.verification_uri, device.user_code, device.expires_at, device.client_display_name
    )
}

/// The address to open. Whether it may be shown was decided when it came in (OA-15).
pub(super) fn address(device: &DeviceView) -> Option<Url> {
    let text = device
        .verification_uri_complete
        .as_ref()
        .unwrap_or(&device.verification_uri);
    Url::parse(text.as_str()).ok()
}

/// The question in its newer form.
pub(super) fn input_required(device: &DeviceView, url: &Url, state: String) -> InputRequiredResult {
    let question = ElicitRequest::new(ElicitRequestParams::UrlElicitationParams {
        meta: None,
        message: message(device),
        url: url.to_string(),
        // Gone in this revision; the library still has the field.
        elicitation_id: String::new(),
    });
    let questions = [(QUESTION.to_owned(), InputRequest::Elicitation(question))];
    InputRequiredResult::new(Some(questions.into()), Some(state))
}

/// What the client brought back from our question; `None` when it is missing or no answer.
pub(super) fn answer(responses: Option<&InputResponses>) -> Option<ElicitationAction> {
    let answer = responses?.get(QUESTION)?;
    serde_json::from_value::<ElicitResult>(answer.clone())
        .ok()
        .map(|result| result.action)
}

/// A name nobody guesses: 128 random bits in hexadecimal.
pub(super) fn random_name() -> Option<String> {
    let mut random = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    let mut name = String::with_capacity(32);
    for byte in random {
        // Writing to a string does not fail.
        write!(name, "{byte:02x}").ok()?;
    }
    Some(name)
}

/// What a client carries from one call of `login` to the next. Sealed for this run of the daemon,
/// which has one profile, for this user and this tool; used once; no secret inside.
#[derive(Debug)]
pub(super) struct States {
    codec: RequestStateCodec,
    /// Whom and what they are for.
    bound: String,
    /// Ends are counted from here. The codec counts too, on the wall clock: that one can be set,
    /// this one stands still while the machine sleeps.
    started: Instant,
    /// Used ones, until they end by themselves. Behind a lock for a few instructions without an
    /// `await`.
    spent: Mutex<HashMap<String, Instant>>,
}

/// Why a state is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateError {
    /// Not ours, not for this, altered, or too old.
    Invalid,
    /// Ours, and used before.
    Spent,
    /// Perhaps good, but too many were used lately; there is room after that long.
    Full(Duration),
}

impl From<StateError> for Refusal {
    /// Whether a state is not ours or was used is told alike: to the client it is good or it is not.
    fn from(error: StateError) -> Self {
        let refusal = match error {
            StateError::Invalid | StateError::Spent => Self::new(ErrorCode::InvalidRequest)
                .with_message("this request state is not valid, or was used before")
                .with_fix("call login again without a request state"),
            StateError::Full(wait) => Self {
                retry_after: Some(wait),
                ..Self::new(ErrorCode::RateLimited)
            }
            .with_message("too many request states were used lately")
            // By then this one may have ended.
            .with_fix(
                "wait as long as retry_after_s says, then call login without a request state",
            ),
        };
        refusal.with_reason("request_state")
    }
}

impl States {
    /// # Errors
    /// `internal` without randomness.
    pub(super) fn new() -> Result<Self, Refusal> {
        let mut key = vec![0_u8; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_no_detail| Refusal::from(ErrorCode::Internal))?;
        let codec = RequestStateCodec::try_new(key)
            .map_err(|_no_detail| Refusal::from(ErrorCode::Internal))?;
        Ok(Self {
            codec,
            bound: format!("{}/login", rustix::process::geteuid().as_raw()),
            started: Instant::now(),
            spent: Mutex::new(HashMap::new()),
        })
    }

    /// A state for the login with that code; `None` without randomness.
    pub(super) fn seal(&self, flow: &str, now: Instant) -> Option<String> {
        let ends_after = now.saturating_duration_since(self.started) + STATE_LIVES;
        let state = LoginState {
            nonce: random_name()?,
            flow: flow.to_owned(),
            ends_after_s: ends_after.as_secs(),
        };
        let options = SealOptions::new()
            .associated_data(self.bound.as_bytes())
            .ttl(STATE_LIVES);
        self.codec.seal_json_with(&state, &options).ok()
    }

    /// The code of the login that a state was sealed for. Uses it up.
    pub(super) fn open(&self, sealed: &str, now: Instant) -> Result<String, StateError> {
        let state: LoginState = self
            .codec
            .open_json_with(sealed, self.bound.as_bytes())
            .map_err(|_no_detail| StateError::Invalid)?;
        if now.saturating_duration_since(self.started).as_secs() >= state.ends_after_s {
            return Err(StateError::Invalid);
        }
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.contains_key(&state.nonce) {
            return Err(StateError::Spent);
        }
        if spent.len() >= MAX_SPENT {
            spent.retain(|_, until| *until > now);
            if spent.len() >= MAX_SPENT {
                let room = spent.values().min().map_or(now, |first| *first);
                return Err(StateError::Full(room.saturating_duration_since(now)));
            }
        }
        spent.insert(state.nonce, now + STATE_LIVES);
        Ok(state.flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CleanText;
    use crate::time::UnixTime;

    /// T14: a state opens once, for whom it was made, and in time.
    #[tokio::test(start_paused = true)]
    async fn a_state_opens_once_for_its_user_and_in_time() {
        let states = States::new().unwrap();
        let now = Instant::now();
        let sealed = states.seal("ABCD-EFGH", now).unwrap();
        let other_user = States {
            codec: states.codec.clone(),
            bound: "4711/login".to_owned(),
            started: states.started,
            spent: Mutex::default(),
        };
        assert_eq!(other_user.open(&sealed, now), Err(StateError::Invalid));
        let other_run = States::new().unwrap();
        assert_eq!(other_run.open(&sealed, now), Err(StateError::Invalid));
        assert_eq!(states.open(&sealed, now).as_deref(), Ok("ABCD-EFGH"));
        assert_eq!(states.open(&sealed, now), Err(StateError::Spent));
        let late = states.seal("ABCD-EFGH", now).unwrap();
        let end = now + STATE_LIVES;
        assert_eq!(states.open(&late, end), Err(StateError::Invalid));
        let in_time = end - Duration::from_secs(1);
        assert_eq!(states.open(&late, in_time).as_deref(), Ok("ABCD-EFGH"));
        for text in [
            "",
            "rs1",
            "rs1.a.b",
            sealed.trim_start_matches('r'),
            "\u{1f511}",
        ] {
            assert_eq!(states.open(text, now), Err(StateError::Invalid), "{text}");
        }
    }

    /// LM: used states are remembered up to a number and up to their end, whichever comes first.
    #[tokio::test(start_paused = true)]
    async fn used_states_are_remembered_until_they_end_by_themselves() {
        let states = States::new().unwrap();
        let now = Instant::now();
        let wait = STATE_LIVES / 3;
        {
            let mut spent = states.spent.lock().unwrap();
            spent.insert("first".to_owned(), now + wait);
            for number in 1..MAX_SPENT {
                spent.insert(number.to_string(), now + STATE_LIVES);
            }
        }
        let sealed = states.seal("ABCD-EFGH", now).unwrap();
        let soon = now + wait - Duration::from_secs(1);
        assert_eq!(
            states.open(&sealed, soon),
            Err(StateError::Full(Duration::from_secs(1)))
        );
        assert_eq!(states.open(&sealed, now + wait).as_deref(), Ok("ABCD-EFGH"));
        assert_eq!(states.spent.lock().unwrap().len(), MAX_SPENT);
        let later = now + STATE_LIVES;
        let sealed = states.seal("ABCD-EFGH", later).unwrap();
        assert_eq!(states.open(&sealed, later).as_deref(), Ok("ABCD-EFGH"));
        assert_eq!(states.spent.lock().unwrap().len(), 2);
    }

    /// LM: "full" is told as what it is, with when to come back; what is no good, without why.
    #[test]
    fn a_full_memory_is_no_fault_of_the_state() {
        let wait = Duration::from_mins(5);
        let full = Refusal::from(StateError::Full(wait));
        assert_eq!(full.code, ErrorCode::RateLimited);
        assert_eq!(full.retry_after, Some(wait));
        assert!(full.fix().contains("retry_after_s"), "{}", full.fix());
        let [invalid, spent] = [StateError::Invalid, StateError::Spent].map(Refusal::from);
        assert_eq!(invalid.code, ErrorCode::InvalidRequest);
        assert_eq!(invalid, spent);
    }

    /// DG-7, DG-8, MC-9: a dialog has the address with the code in it, and beside it the code to compare
    /// and what the page calls us; what is no address gets no dialog.
    #[test]
    fn a_dialog_has_the_address_and_what_to_compare() {
        let device = |uri: &str| DeviceView {
            user_code: CleanText::new("ABCD-EFGH", 64),
            verification_uri: CleanText::new(uri, 2048),
            verification_uri_complete: None,
            expires_at: UnixTime::from_millis(0),
            client_display_name: CleanText::new("Aegis Broker on host-01", 64),
            scopes: Vec::new(),
        };
        assert_eq!(address(&device("--help")), None);
        let plain = address(&device("https://login.example/device")).unwrap();
        assert_eq!(plain.as_str(), "https://login.example/device");
        let complete = DeviceView {
            verification_uri_complete: Some(CleanText::new("https://login.example/d?c=A", 2048)),
            ..device("https://login.example/device")
        };
        assert_eq!(address(&complete).unwrap().query(), Some("c=A"));
        let message = message(&complete);
        assert!(message.contains("ABCD-EFGH"), "{message}");
        assert!(message.contains("Aegis Broker on host-01"), "{message}");
    }
}
