//! Calls to etcd: each under a time-out, each failure told as what to do about it.

mod client;

use std::{error::Error as _, future::Future, sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::{config, telemetry::Metrics};
pub(super) use client::{Client, Error, KeepAlive};

/// etcd pings a connection's other side no more often than this (its own least is 5 s).
const PING: Duration = Duration::from_secs(10);

/// How often a closed TLS connection is tried again to learn why.
const ALERT_TRIES: u32 = 5;

/// A handshake record with a broken hello, which TLS answers with an alert.
const TLS_HELLO: [u8; 10] = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];

/// How etcd is reached; a cheap clone.
#[derive(Clone)]
pub(super) struct Etcd {
    pub(super) config: Arc<config::Cluster>,
    pub(super) metrics: Arc<Metrics>,
}

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// etcd did not answer, or could not just now: trying again may help.
    Away(String),
    /// It will not do this for us: someone must change the configuration.
    Refused(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Away(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

impl Etcd {
    pub(super) fn new(config: &config::Cluster, metrics: &Arc<Metrics>) -> Self {
        Self { config: Arc::new(config.clone()), metrics: metrics.clone() }
    }

    /// The endpoints, for messages.
    pub(super) fn name(&self) -> String {
        self.config.etcd.join(", ")
    }

    /// A new client, once at least one endpoint was reached.
    pub(super) async fn connect(&self) -> Result<Client, Fault> {
        match self.try_connect().await {
            Err(fault) => Err(self.diagnose(fault).await),
            client => client,
        }
    }

    async fn try_connect(&self) -> Result<Client, Fault> {
        let endpoints = self.endpoints().await?;
        // the balanced channel keeps connection errors to itself, so they are looked for first
        self.probe(&endpoints).await?;
        let user = &self.config.user;
        let login = (!user.is_empty()).then(|| (user.clone(), self.config.password.clone()));
        self.call("connect", Client::connect(endpoints, login)).await
    }

    /// `future` within `[cluster] timeout`; a failure is counted.
    pub(super) async fn call<T>(
        &self,
        what: &'static str,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        let fault = match tokio::time::timeout(self.config.timeout, future).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => fault(what, &error),
            Err(_) => {
                Fault::Away(format!("{what}: no answer within {}", humantime::format_duration(self.config.timeout)))
            }
        };
        self.metrics.etcd_errors.inc();
        Err(fault)
    }

    /// Tells TLS on one side only, or a refused certificate, from an etcd that is away.
    pub(super) async fn diagnose(&self, fault: Fault) -> Fault {
        let Fault::Away(why) = fault else { return fault };
        if self.config.etcd.iter().any(|endpoint| endpoint.starts_with("https://")) && why.contains("closed") {
            // TLS 1.3 tells a refused client certificate after the handshake, and whether tonic passes the alert on is a
            // matter of luck: try it more than once. A proxy whose etcd is away looks the same without the alert.
            for _ in 0..ALERT_TRIES {
                if let Err(Fault::Refused(why)) = self.ask().await {
                    return Fault::Refused(why);
                }
            }
            return Fault::Away(format!(
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
                    return Fault::Refused(format!("etcd at {endpoint} speaks TLS: {advice}"));
                }
            } else if let Some(address) = endpoint.strip_prefix("https://")
                && answers(address, b"GET /health HTTP/1.0\r\n\r\n", within).await == Some(*b"HTTP/")
            {
                let advice = "write http://, or give etcd a certificate";
                return Fault::Refused(format!("etcd at {endpoint} does not speak TLS: {advice}"));
            }
        }
        Fault::Away(why)
    }

    /// Any question over a new connection.
    async fn ask(&self) -> Result<(), Fault> {
        let endpoints = self.endpoints().await?;
        let mut client = self.call("connect", Client::connect(endpoints, None)).await?;
        self.call("ask for the status", client.status()).await
    }

    async fn tls(&self) -> Result<Option<ClientTlsConfig>, Fault> {
        if !self.config.etcd.iter().any(|endpoint| endpoint.starts_with("https://")) {
            return Ok(None);
        }
        if let Some(plain) = self.config.etcd.iter().find(|endpoint| !endpoint.starts_with("https://")) {
            return Err(Fault::Refused(format!(
                "[cluster] etcd: {plain} is not https:// as others are; use one for all"
            )));
        }
        let Some(ca) = &self.config.tls_ca else {
            return Err(Fault::Refused(
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
    async fn endpoints(&self) -> Result<Vec<Endpoint>, Fault> {
        let tls = self.tls().await?;
        let endpoint = |url: &String| {
            let endpoint = Endpoint::from_shared(url.clone()).and_then(|endpoint| match &tls {
                Some(tls) => endpoint.tls_config(tls.clone()),
                None => Ok(endpoint),
            });
            let endpoint =
                endpoint.map_err(|error| Fault::Refused(format!("{url}: {}", chain(&Error::Transport(error)))))?;
            let endpoint = endpoint.connect_timeout(self.config.timeout).http2_keep_alive_interval(PING);
            Ok(endpoint.keep_alive_timeout(self.config.timeout).keep_alive_while_idle(true))
        };
        self.config.etcd.iter().map(endpoint).collect()
    }

    /// Whether an endpoint can be connected to; else why none can.
    async fn probe(&self, endpoints: &[Endpoint]) -> Result<(), Fault> {
        let mut faults = Vec::new();
        for (url, endpoint) in self.config.etcd.iter().zip(endpoints) {
            let connecting = async { endpoint.connect().await.map_err(Error::from) };
            match self.call("connect", connecting).await {
                Ok(_) => return Ok(()),
                Err(Fault::Away(why)) => faults.push(Fault::Away(format!("{url}: {why}"))),
                Err(Fault::Refused(why)) => faults.push(Fault::Refused(format!("{url}: {why}"))),
            }
        }
        // one that may come back outweighs one that is configured wrongly
        let away = faults.iter().position(|fault| matches!(fault, Fault::Away(_))).unwrap_or(0);
        match faults.into_iter().nth(away) {
            Some(fault) => Err(fault),
            None => Err(Fault::Refused("[cluster] etcd names no endpoint".into())),
        }
    }
}

/// Waits that grow with each failed try, and differ between nodes.
pub(super) struct Backoff {
    tries: u32,
    most: Duration,
}

impl Backoff {
    pub(super) fn new(most: Duration) -> Self {
        Self { tries: 0, most }
    }

    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    pub(super) fn next(&mut self) -> Duration {
        let whole = Duration::from_millis(250 << self.tries.min(10)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

fn fault(what: &str, error: &Error) -> Fault {
    let text = chain(error);
    let says = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    let advice = if says(&["authentication failed", "invalid auth token"]) {
        "check [cluster] user and password"
    } else if says(&["user name is empty"]) {
        "etcd asks for a login: set [cluster] user and password"
    } else if says(&["authentication is not enabled"]) {
        "etcd knows no logins: leave [cluster] user and password empty"
    } else if says(&["permission denied"]) {
        "grant the user readwrite on the keys that begin with [cluster] prefix (and with /gopusher/, if gopusher_key is set)"
    } else if says(&["UnknownIssuer"]) {
        "its certificate is not signed by [cluster] tls_ca"
    } else if says(&["InvalidContentType", "corrupt message"]) {
        "it does not speak TLS: write http://, or give etcd a certificate"
    } else if says(&["fatal alert", "CertificateRequired"]) {
        "it refuses our certificate: check [cluster] tls_cert and tls_key"
    } else if says(&["invalid peer certificate", "InvalidCertificate"]) {
        "its certificate is not valid for this address: check [cluster] etcd and tls_ca"
    } else if says(&["private key", "InvalidCertificateEncoding", "parse PEM", "no certificate"]) {
        "check the files [cluster] tls_ca, tls_cert and tls_key"
    } else {
        return Fault::Away(format!("{what}: {text}"));
    };
    Fault::Refused(format!("{what}: {text}: {advice}"))
}

/// An etcd error with what it came from; its own display leaves the causes out.
fn chain(error: &Error) -> String {
    match error {
        Error::Status(status) => causes(status.message().to_owned(), status.source()),
        Error::Transport(transport) => causes(String::new(), transport.source()),
        Error::Ended => error.to_string(),
    }
}

fn causes(first: String, mut cause: Option<&dyn std::error::Error>) -> String {
    let mut parts = vec![first];
    while let Some(error) = cause {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        cause = error.source();
    }
    parts.retain(|part| !part.is_empty());
    match parts.is_empty() {
        true => "transport error".to_owned(),
        false => parts.join(": "),
    }
}

async fn file(key: &str, path: &std::path::Path) -> Result<Vec<u8>, Fault> {
    tokio::fs::read(path)
        .await
        .map_err(|error| Fault::Refused(format!("[cluster] {key} = {}: {error}", path.display())))
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
