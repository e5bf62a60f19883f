//! One node's connection, and the questions that wait for its answers.

use std::time::Duration;

use tokio::{sync::Semaphore, time::Instant};
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::error::{PeerError, PeersConfigError, is_of_connection};
use crate::{
    config::PeersConfig,
    proto::peers::{Answer, Question, peers_client::PeersClient},
};

/// A connection on which an answer is awaited, and that is silent, is pinged after this, and given up after as much again.
const PING: Duration = Duration::from_secs(5);
/// Bytes that the other side may send ahead of what is read.
const WINDOW: u32 = 1 << 20;

/// Opens connections to nodes, all in the same way.
pub(super) struct PeerLinks {
    key: PeerKeySender,
    tls: Option<ClientTlsConfig>,
    connect_timeout: Duration,
    max_answer: usize,
    max_questions: usize,
}

/// Sends the shared key with each question.
#[derive(Clone)]
struct PeerKeySender(Option<AsciiMetadataValue>);

impl Interceptor for PeerKeySender {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

impl PeerLinks {
    pub(super) fn new(config: &PeersConfig) -> Result<Self, PeersConfigError> {
        let key = config.key.as_ref().map(|key| format!("Bearer {}", key.expose()).parse::<AsciiMetadataValue>());
        let mut key = key.transpose().map_err(|error| PeersConfigError::new(error.to_string()))?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        let tls = config.tls.as_ref().map(|tls| {
            let options = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(Identity::from_pem(&tls.cert, tls.key.expose()));
            match &tls.name {
                Some(name) => options.domain_name(name.clone()),
                None => options,
            }
        });
        let links = Self {
            key: PeerKeySender(key),
            tls,
            connect_timeout: config.timeout,
            max_answer: config.max_answer,
            max_questions: config.max_questions,
        };
        // what is wrong with the files is told as the node starts
        links.endpoint("127.0.0.1:1").map_err(PeersConfigError::new)?;
        Ok(links)
    }

    /// A link to a node at host:port; nothing is connected yet.
    pub(super) fn open(&self, address: &str) -> Result<PeerLink, PeerError> {
        let channel = self.endpoint(address).map_err(PeerError::Away)?.connect_lazy();
        let client =
            PeersClient::with_interceptor(channel, self.key.clone()).max_decoding_message_size(self.max_answer);
        Ok(PeerLink { address: address.to_owned(), client, places: Semaphore::new(self.max_questions) })
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, String> {
        let told = |error: &dyn std::error::Error| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|error| told(&error))?;
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(|error| told(&error))?;
        }
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .tcp_nodelay(true);
        Ok(endpoint)
    }
}

/// One node's connection, made anew whenever it is needed and not there.
pub(super) struct PeerLink {
    address: String,
    client: PeersClient<InterceptedService<Channel, PeerKeySender>>,
    places: Semaphore,
}

impl PeerLink {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Asks, until `deadline`.
    pub(super) async fn ask(&self, question: &Question, deadline: Instant) -> Result<Answer, PeerError> {
        let _place = self.places.try_acquire().map_err(|_| PeerError::Busy)?;
        match tokio::time::timeout_at(deadline, self.ask_once(question, deadline)).await {
            // the other side closes a connection that was idle, which may cross a question: a new one takes it
            Ok(Err(status)) if is_of_connection(&status) => {
                if deadline <= Instant::now() {
                    return Err(PeerError::Late);
                }
                let again = tokio::time::timeout_at(deadline, self.ask_once(question, deadline)).await;
                again.map_err(|_| PeerError::Late)?.map_err(|status| PeerError::of(&status))
            }
            Ok(answer) => answer.map_err(|status| PeerError::of(&status)),
            Err(_) => Err(PeerError::Late),
        }
    }

    async fn ask_once(&self, question: &Question, deadline: Instant) -> Result<Answer, Status> {
        let mut request = Request::new(question.clone());
        // it need not work on once nobody waits
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        self.client.clone().ask(request).await.map(tonic::Response::into_inner)
    }
}
