//! Calls to etcd: each under a time-out, each failure told as what to do about it.

mod client;
mod error;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{self, Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::{config, lifecycle::Backoff, telemetry::Metrics};
pub(super) use client::{EtcdClient, KeepAlive};
pub(super) use error::{CallError, EtcdError};

/// etcd pings a connection's other side no more often than this (its own least is 5 s).
const PING: Duration = Duration::from_secs(10);

/// The first wait before it is tried again; `[cluster] max_backoff` is the longest.
const SHORTEST_WAIT: Duration = Duration::from_millis(125);

/// How often a closed TLS connection is tried again to learn why.
const ALERT_TRIES: u32 = 5;

/// A handshake record with a broken hello, which TLS answers with an alert.
const TLS_HELLO: [u8; 10] = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];

/// How etcd is reached; a cheap clone.
#[derive(Clone)]
pub(super) struct Etcd {
    pub(super) config: Arc<config::ClusterConfig>,
    pub(super) metrics: Arc<Metrics>,
}

impl Etcd {
    pub(super) fn new(config: &config::ClusterConfig, metrics: &Arc<Metrics>) -> Self {
        Self { config: Arc::new(config.clone()), metrics: metrics.clone() }
    }

    /// Waits between tries to reach it.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(SHORTEST_WAIT, self.config.max_backoff)
    }

    /// The endpoints, for messages.
    pub(super) fn name(&self) -> String {
        self.config.etcd.join(", ")
    }

    /// A new client, once at least one endpoint was reached.
    pub(super) async fn connect(&self) -> Result<EtcdClient, EtcdError> {
        match self.try_connect().await {
            Err(error) => Err(self.diagnose(error).await),
            client => client,
        }
    }

    async fn try_connect(&self) -> Result<EtcdClient, EtcdError> {
        let endpoints = self.endpoints().await?;
        // the balanced channel keeps connection errors to itself, so they are looked for first
        self.probe(&endpoints).await?;
        let user = &self.config.user;
        let login = (!user.is_empty()).then(|| (user.clone(), self.config.password.clone()));
        self.call("connect", EtcdClient::connect(endpoints, login)).await
    }

    /// `future` within `[cluster] timeout`; a failure is counted.
    pub(super) async fn call<T>(
        &self,
        what: &'static str,
        future: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, EtcdError> {
        let error = match tokio::time::timeout(self.config.timeout, future).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => EtcdError::of(what, &error),
            Err(_) => {
                EtcdError::Away(format!("{what}: no answer within {}", humantime::format_duration(self.config.timeout)))
            }
        };
        self.metrics.etcd_errors.inc();
        Err(error)
    }

    /// Tells TLS on one side only, or a refused certificate, from an etcd that is away.
    pub(super) async fn diagnose(&self, error: EtcdError) -> EtcdError {
        let EtcdError::Away(why) = error else { return error };
        if self.config.etcd.iter().any(|endpoint| endpoint.starts_with("https://")) && why.contains("closed") {
            // TLS 1.3 tells a refused client certificate after the handshake, and whether tonic passes the alert on is a
            // matter of luck: try it more than once. A proxy whose etcd is away looks the same without the alert.
            for _ in 0..ALERT_TRIES {
                if let Err(EtcdError::Refused(why)) = self.ask().await {
                    return EtcdError::Refused(why);
                }
            }
            return EtcdError::Away(format!(
                "{why} (if this stays, etcd may refuse our certificate: check [cluster] tls_cert and tls_key)"
            ));
        }
        for endpoint in &self.config.etcd {
            let within = self.config.timeout;
            if let Some(address) = endpoint.strip_prefix("http://") {
                if answers(address, &TLS_HELLO, within)
                    .await
                    .is_some_and(|answer| matches!(answer, [0x15 | 0x16, 3, ..]))
                {
                    let advice = "write https:// and set [cluster] tls_ca";
                    return EtcdError::Refused(format!("etcd at {endpoint} speaks TLS: {advice}"));
                }
            } else if let Some(address) = endpoint.strip_prefix("https://")
                && answers(address, b"GET /health HTTP/1.0\r\n\r\n", within).await == Some(*b"HTTP/")
            {
                let advice = "write http://, or give etcd a certificate";
                return EtcdError::Refused(format!("etcd at {endpoint} does not speak TLS: {advice}"));
            }
        }
        EtcdError::Away(why)
    }

    /// Any question over a new connection.
    async fn ask(&self) -> Result<(), EtcdError> {
        let endpoints = self.endpoints().await?;
        let mut client = self.call("connect", EtcdClient::connect(endpoints, None)).await?;
        self.call("ask for the status", client.status()).await
    }

    async fn tls(&self) -> Result<Option<ClientTlsConfig>, EtcdError> {
        if !self.config.etcd.iter().any(|endpoint| endpoint.starts_with("https://")) {
            return Ok(None);
        }
        if let Some(plain) = self.config.etcd.iter().find(|endpoint| !endpoint.starts_with("https://")) {
            return Err(EtcdError::Refused(format!(
                "[cluster] etcd: {plain} is not https:// as others are; use one for all"
            )));
        }
        let Some(ca) = &self.config.tls_ca else {
            return Err(EtcdError::Refused(
                "etcd by https:// needs [cluster] tls_ca, the file of its certificate authority".into(),
            ));
        };
        let mut options = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file("tls_ca", ca).await?));
        if let (Some(cert), Some(key)) = (&self.config.tls_cert, &self.config.tls_key) {
            options = options.identity(Identity::from_pem(file("tls_cert", cert).await?, file("tls_key", key).await?));
        }
        Ok(Some(options))
    }

    /// All endpoints, with what holds for each connection.
    async fn endpoints(&self) -> Result<Vec<Endpoint>, EtcdError> {
        let tls = self.tls().await?;
        let endpoint = |url: &String| {
            let refused = |error: transport::Error, remedy| {
                EtcdError::Refused(format!("{url}: {}: {remedy}", CallError::Transport(error).with_causes()))
            };
            let mut endpoint =
                Endpoint::from_shared(url.clone()).map_err(|error| refused(error, "correct [cluster] etcd"))?;
            if let Some(tls) = &tls {
                let configured = endpoint.tls_config(tls.clone());
                endpoint = configured
                    .map_err(|error| refused(error, "check the files [cluster] tls_ca, tls_cert and tls_key"))?;
            }
            let endpoint = endpoint.connect_timeout(self.config.timeout).http2_keep_alive_interval(PING);
            Ok(endpoint.keep_alive_timeout(self.config.timeout).keep_alive_while_idle(true))
        };
        self.config.etcd.iter().map(endpoint).collect()
    }

    /// Whether an endpoint can be connected to; else why none can.
    async fn probe(&self, endpoints: &[Endpoint]) -> Result<(), EtcdError> {
        let mut errors = Vec::new();
        for (url, endpoint) in self.config.etcd.iter().zip(endpoints) {
            let connecting = async { endpoint.connect().await.map_err(CallError::from) };
            match self.call("connect", connecting).await {
                Ok(_) => return Ok(()),
                Err(EtcdError::Away(why)) => errors.push(EtcdError::Away(format!("{url}: {why}"))),
                Err(EtcdError::Refused(why)) => errors.push(EtcdError::Refused(format!("{url}: {why}"))),
            }
        }
        // one that may come back outweighs one that is configured wrongly
        let away = errors.iter().position(|error| matches!(error, EtcdError::Away(_))).unwrap_or(0);
        match errors.into_iter().nth(away) {
            Some(error) => Err(error),
            None => Err(EtcdError::Refused("[cluster] etcd names no endpoint".into())),
        }
    }
}

async fn file(key: &str, path: &std::path::Path) -> Result<Vec<u8>, EtcdError> {
    tokio::fs::read(path)
        .await
        .map_err(|error| EtcdError::Refused(format!("[cluster] {key} = {}: {error}", path.display())))
}

/// The first bytes of what listens at `address` says to `question`.
async fn answers(address: &str, question: &[u8], within: Duration) -> Option<[u8; 5]> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address.trim_end_matches('/')).await.ok()?;
        stream.write_all(question).await.ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(within, ask).await.ok().flatten()
}
