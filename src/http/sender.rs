use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, Method};

use super::answer::{self, Known};
use super::credential;
use super::resolve::{AddressRefused, Checked, NoAddress, Resolve, is_caused_by};
use crate::broker::ports::{HttpAnswer, HttpFailure, HttpJob, HttpSender, PortFuture};
use crate::model::{HttpMethod, may_dial_literal};

/// For a connection, and for a request from its first byte to the last one of its answer (LM).
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const WHOLE_LIMIT: Duration = Duration::from_secs(30);

/// Of all headers of an answer, in bytes (LM).
const MAX_HEADERS: u32 = 64 * 1024;

/// Sends requests over a client of its own, which is made when there is one to send.
#[derive(Clone)]
pub struct Sender {
    resolver: Checked,
    /// A mutex of std: held for a few instructions, never across an await.
    client: Arc<Mutex<Option<Client>>>,
}

impl Sender {
    /// One that looks names up there.
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver: Checked(resolver),
            client: Arc::default(),
        }
    }

    fn client(&self) -> Result<Client, HttpFailure> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let made = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .dns_resolver(self.resolver.clone())
            .user_agent(concat!("aegis-broker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .pool_max_idle_per_host(0)
            .http2_max_header_list_size(MAX_HEADERS)
            .build()
            .map_err(|_error| HttpFailure::Internal)?;
        *client = Some(made.clone());
        Ok(made)
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl HttpSender for Sender {
    fn send(&self, job: HttpJob) -> PortFuture<Result<HttpAnswer, HttpFailure>> {
        let client = self.client();
        Box::pin(async move {
            let sent = send(client?, job);
            tokio::time::timeout(WHOLE_LIMIT, sent)
                .await
                .unwrap_or(Err(HttpFailure::Timeout))
        })
    }

    fn drop_connections(&self) {
        let client = self
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(client);
    }
}

async fn send(client: Client, job: HttpJob) -> Result<HttpAnswer, HttpFailure> {
    // A name is looked at when it is resolved; an address is one already.
    if job
        .outgoing
        .literal()
        .is_some_and(|address| !may_dial_literal(address))
    {
        return Err(HttpFailure::AddressRefused);
    }
    let known = Known::new(&job.known);
    let outgoing = &job.outgoing;
    let request = client
        .request(method(outgoing.method()), outgoing.url().clone())
        .headers(credential::headers(&job)?)
        .body(outgoing.body().to_owned());
    let response = request.send().await.map_err(|error| fault(&error))?;
    answer::read(response, job.injection.max_response, &known).await
}

const fn method(method: HttpMethod) -> Method {
    match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Delete => Method::DELETE,
    }
}

fn fault(error: &reqwest::Error) -> HttpFailure {
    if is_caused_by::<AddressRefused>(error) {
        return HttpFailure::AddressRefused;
    }
    if is_caused_by::<NoAddress>(error) {
        return HttpFailure::NoAddress;
    }
    if error.is_connect() || error.is_builder() {
        return HttpFailure::Unreachable;
    }
    if error.is_timeout() {
        return HttpFailure::Timeout;
    }
    HttpFailure::Protocol
}
