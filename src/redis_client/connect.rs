//! Connecting to one Redis, to the master that Sentinels name, or to a Redis Cluster.

use std::{cmp::Reverse, collections::BTreeMap, fmt, path::Path, time::Duration};

use futures_util::{FutureExt, StreamExt, future, stream::FuturesUnordered};
use redis::{
    Arg, AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo},
};

use crate::config::{RedisConfig, RedisUrl};

use super::RedisOpenError;

/// How often a Redis Cluster's client tries a command again that a node passed on, or could not do at the moment.
const CLUSTER_RETRIES: u32 = 5;
/// Milliseconds between these tries.
const CLUSTER_RETRY_WAITS: (u64, u64) = (10, 100);

/// A connection; a cheap clone.
#[derive(Clone)]
pub(super) enum RedisConnection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To each node of a Redis Cluster.
    Cluster(ClusterConnection),
}

impl RedisConnection {
    /// Runs one command. An error of the server is one here too.
    pub(super) async fn run(&mut self, command: &Cmd) -> RedisResult<Value> {
        let value = match self {
            Self::Single(connection) => connection.send_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        };
        value?.extract_error()
    }

    /// Runs commands that are sent together; the outer error is the connection's.
    pub(super) async fn run_all(&mut self, commands: &[Cmd]) -> RedisResult<Vec<Result<Value, super::RedisCallError>>> {
        match self {
            Self::Single(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let values = connection.send_packed_commands(&pipeline, 0, commands.len()).await?;
                first_server_fault(&values)?;
                Ok(values.into_iter().map(Ok).collect())
            }
            // its client sends what is asked for at once in any order: those of one slot are one pipeline, and the slots go beside
            // each other
            Self::Cluster(connection) => {
                let run = |group: Vec<usize>| {
                    let mut connection = connection.clone();
                    async move {
                        let mut pipeline = Pipeline::with_capacity(group.len());
                        for at in &group {
                            pipeline.add_command(commands[*at].clone());
                        }
                        let values = match connection.req_packed_commands(&pipeline, 0, group.len()).await {
                            Ok(values) => values,
                            Err(error) => return group.into_iter().map(|at| (at, Err(error.clone()))).collect(),
                        };
                        let mut outcomes = Vec::with_capacity(group.len());
                        for (at, value) in group.into_iter().zip(values) {
                            let mut outcome = value.extract_error();
                            if outcome.as_ref().is_err_and(RedisError::is_cluster_error) {
                                // a pipeline is not passed on to the node that its slot moved to; a command is
                                let again = connection.req_packed_command(&commands[at]).await;
                                outcome = again.and_then(Value::extract_error);
                            }
                            outcomes.push((at, outcome));
                        }
                        outcomes
                    }
                };
                let groups = future::join_all(by_slot(commands).into_iter().map(run)).await;
                let mut outcomes: Vec<_> = groups.into_iter().flatten().collect();
                outcomes.sort_unstable_by_key(|(at, _)| *at);
                let mut answers = Vec::with_capacity(outcomes.len());
                for (_, outcome) in outcomes {
                    match outcome {
                        Ok(value) => answers.push(Ok(value)),
                        Err(error) => match super::fault(&error) {
                            super::Fault::Command => answers.push(Err(super::RedisCallError::refused(&error))),
                            super::Fault::Server | super::Fault::Connection => return Err(error),
                        },
                    }
                }
                Ok(answers)
            }
        }
    }

    /// Runs a command on each master; one answer for each.
    pub(super) async fn run_on_masters(&mut self, command: &Cmd) -> RedisResult<Vec<Value>> {
        match self {
            Self::Single(connection) => Ok(vec![connection.send_packed_command(command).await?.extract_error()?]),
            Self::Cluster(connection) => {
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                match connection.route_command(command.clone(), masters).await?.extract_error()? {
                    Value::Map(answers) => Ok(answers.into_iter().map(|(_, answer)| answer).collect()),
                    answer => Ok(vec![answer]),
                }
            }
        }
    }

    /// Whether it says that it is a replica; `false` where the user may not ask.
    async fn is_replica(&mut self) -> RedisResult<bool> {
        let mut command = redis::cmd("INFO");
        command.arg("replication");
        match self.run(&command).await {
            Ok(answer) => {
                let info: String = redis::from_redis_value(answer)?;
                Ok(info.lines().any(|line| line.trim_end() == "role:slave"))
            }
            Err(error) if matches!(super::fault(&error), super::Fault::Command) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it answers; in a Redis Cluster each master.
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        let command = redis::cmd("PING");
        match self {
            Self::Single(connection) => connection.send_packed_command(&command).await?.extract_error()?,
            Self::Cluster(connection) => {
                let policy = Some(ResponsePolicy::AllSucceeded);
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, policy));
                connection.route_command(command, masters).await?.extract_error()?
            }
        };
        Ok(())
    }
}

/// The commands whose keys have the same hash tag, by their places.
fn by_slot(commands: &[Cmd]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (at, command) in commands.iter().enumerate() {
        groups.entry(hash_tag(command)).or_default().push(at);
    }
    groups.into_values().collect()
}

/// What a Redis Cluster hashes of a command's first key: what stands in its braces.
fn hash_tag(command: &Cmd) -> Vec<u8> {
    let words: Vec<&[u8]> =
        command.args_iter().take(4).map(|arg| if let Arg::Simple(bytes) = arg { bytes } else { &[] }).collect();
    let is_script = words.first().is_some_and(|name| name.starts_with(b"EVAL"));
    let key = words.get(if is_script { 3 } else { 1 }).copied().unwrap_or_default();
    let tag = key.split(|byte| *byte == b'{').nth(1).and_then(|rest| rest.split(|byte| *byte == b'}').next());
    tag.unwrap_or(key).to_vec()
}

/// A server that does nothing at the moment says so to each command of a pipeline.
fn first_server_fault(values: &[Value]) -> RedisResult<()> {
    for value in values {
        if let Value::ServerError(error) = value {
            let error = RedisError::from(error.clone());
            if matches!(super::fault(&error), super::Fault::Server) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Where Redis is, and how it is reached.
pub(super) struct Connector {
    place: RedisPlace,
    timeout: Duration,
    options: AsyncConnectionConfig,
}

enum RedisPlace {
    Single { url: RedisUrl, client: Box<Client> },
    Sentinels(Box<Sentinels>),
    Cluster { urls: Vec<RedisUrl>, client: Box<ClusterClient> },
}

struct Sentinels {
    clients: Vec<(RedisUrl, Client)>,
    master: String,
    tls: bool,
    credentials: RedisConnectionInfo,
    certificates: TlsCertificates,
}

/// What Sentinels say.
struct NamedMasters {
    /// The one that most of them name first.
    urls: Vec<RedisUrl>,
    /// Why the first that named none did not.
    error: Option<ConnectError>,
}

struct NamedMaster {
    url: RedisUrl,
    /// So many Sentinels name it, and of them this one stands first in `[redis] url`.
    by: usize,
    first: usize,
}

/// A connection, and to what.
pub(super) struct Connected {
    pub(super) connection: RedisConnection,
    /// For messages; of a Sentinel's master what tells another one from it.
    pub(super) place: String,
}

impl Connector {
    /// # Errors
    /// A file of TLS cannot be read or used.
    pub(super) async fn new(config: &RedisConfig) -> Result<Self, RedisOpenError> {
        let certificates = certificates(config).await?;
        let credentials = credentials(&config.user, config.password.expose(), &config.urls);
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.timeout))
            // each call has a time-out of its own, which also ends the connection
            .set_response_timeout(None)
            .set_pipeline_buffer_size(config.max_in_flight);
        let place = if config.cluster {
            let nodes: Vec<_> =
                config.urls.iter().map(|url| info(url, &credentials)).collect::<RedisResult<_>>().map_err(unusable)?;
            let mut builder = ClusterClientBuilder::new(nodes)
                .connection_timeout(config.timeout)
                .response_timeout(config.timeout)
                .overall_response_timeout(None)
                .retries(CLUSTER_RETRIES)
                .min_retry_wait(CLUSTER_RETRY_WAITS.0)
                .max_retry_wait(CLUSTER_RETRY_WAITS.1);
            if config.urls.iter().any(|url| url.tls) {
                builder = builder.tls(TlsMode::Secure).certs(certificates);
            }
            RedisPlace::Cluster { urls: config.urls.clone(), client: Box::new(builder.build().map_err(unusable)?) }
        } else if let Some(master) = &config.sentinel_master {
            // a Sentinel has no databases
            let of_sentinels = credentials_of(&config.sentinel_user, config.sentinel_password.expose());
            let client = |url: &RedisUrl| Ok((url.clone(), client(url, &of_sentinels, &certificates)?));
            RedisPlace::Sentinels(Box::new(Sentinels {
                clients: config.urls.iter().map(client).collect::<RedisResult<_>>().map_err(unusable)?,
                master: master.clone(),
                tls: config.urls.iter().any(|url| url.tls),
                credentials,
                certificates,
            }))
        } else {
            let url = config.urls.first().ok_or_else(|| RedisOpenError("url: there is none".into()))?.clone();
            let client = client(&url, &credentials, &certificates).map_err(unusable)?;
            RedisPlace::Single { url, client: Box::new(client) }
        };
        Ok(Self { place, timeout: config.timeout, options })
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Connected, ConnectError> {
        match &self.place {
            RedisPlace::Single { url, client } => self.connect_to(client, url.to_string()).await,
            RedisPlace::Sentinels(sentinels) => self.connect_to_named(sentinels).await,
            RedisPlace::Cluster { client, .. } => {
                let place = self.to_string();
                let connection = self.in_time(&place, client.get_async_connection()).await?;
                Ok(Connected { connection: RedisConnection::Cluster(connection), place })
            }
        }
    }

    async fn connect_to(&self, client: &Client, place: String) -> Result<Connected, ConnectError> {
        let connection = client.get_multiplexed_async_connection_with_config(&self.options);
        let connection = self.in_time(&place, connection).await?;
        Ok(Connected { connection: RedisConnection::Single(connection), place })
    }

    /// To the first of the masters that the Sentinels name that says that it is one.
    async fn connect_to_named(&self, sentinels: &Sentinels) -> Result<Connected, ConnectError> {
        let NamedMasters { urls, error } = self.named_masters(sentinels).await;
        let mut first_error = None;
        for url in urls {
            match self.connect_to_master(sentinels, &url).await {
                Ok(connected) => return Ok(connected),
                Err(error) => first_error.get_or_insert(error),
            };
        }
        let nobody = || ConnectError { text: "no Sentinel is named".into(), is_final: true };
        Err(first_error.or(error).unwrap_or_else(nobody))
    }

    async fn connect_to_master(&self, sentinels: &Sentinels, url: &RedisUrl) -> Result<Connected, ConnectError> {
        let client = client(url, &sentinels.credentials, &sentinels.certificates)?;
        let mut connected = self.connect_to(&client, url.to_string()).await?;
        if self.in_time(&connected.place, connected.connection.is_replica()).await? {
            let text = format!("{url}, which a Sentinel names as the master, says that it is a replica");
            return Err(ConnectError { text, is_final: false });
        }
        Ok(connected)
    }

    /// With Sentinels: another master than that at `place`, if they name one before it that says that it is one. While no Sentinel
    /// answers, the master is the one that was.
    pub(super) async fn other_master(&self, place: &str) -> Option<String> {
        let RedisPlace::Sentinels(sentinels) = &self.place else { return None };
        for url in self.named_masters(sentinels).await.urls {
            if url.to_string() == place {
                return None;
            }
            if let Ok(other) = self.connect_to_master(sentinels, &url).await {
                return Some(other.place);
            }
        }
        None
    }

    /// Asks all Sentinels, since one may be behind or apart from the others, until more than half of them name the same master.
    async fn named_masters(&self, sentinels: &Sentinels) -> NamedMasters {
        let mut answers = FuturesUnordered::new();
        for (nth, (url, client)) in sentinels.clients.iter().enumerate() {
            answers.push(self.ask_sentinel(sentinels, url, client).map(move |answer| (nth, answer)));
        }
        let mut named: Vec<NamedMaster> = Vec::new();
        let mut error = None;
        while let Some((nth, answer)) = answers.next().await {
            let url = match answer {
                Ok(url) => url,
                Err(failed) => {
                    error.get_or_insert(failed);
                    continue;
                }
            };
            let at = named.iter().position(|known| known.url == url).unwrap_or_else(|| {
                named.push(NamedMaster { url, by: 0, first: nth });
                named.len() - 1
            });
            let master = &mut named[at];
            master.by += 1;
            master.first = master.first.min(nth);
            if master.by * 2 > sentinels.clients.len() {
                break;
            }
        }
        named.sort_by_key(|master| (Reverse(master.by), master.first));
        NamedMasters { urls: named.into_iter().map(|master| master.url).collect(), error }
    }

    async fn ask_sentinel(
        &self,
        sentinels: &Sentinels,
        url: &RedisUrl,
        client: &Client,
    ) -> Result<RedisUrl, ConnectError> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&sentinels.master);
        let place = format!("Sentinel {url}");
        let ask = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&self.options).await?;
            command.query_async::<Option<(String, u16)>>(&mut connection).await
        };
        match self.in_time(&place, ask).await? {
            Some((host, port)) => Ok(RedisUrl { host, port, tls: sentinels.tls, database: sentinels.credentials.db() }),
            None => Err(ConnectError {
                text: format!("{place} knows no master {:?} ([redis] sentinel_master)", sentinels.master),
                is_final: false,
            }),
        }
    }

    async fn in_time<T>(&self, place: &str, call: impl Future<Output = RedisResult<T>>) -> Result<T, ConnectError> {
        // the handshake and the first commands may take a time-out each
        match tokio::time::timeout(self.timeout * 2, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ConnectError::at(place, &error)),
            Err(_) => Err(ConnectError { text: format!("{place} does not answer"), is_final: false }),
        }
    }
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |urls: &mut dyn Iterator<Item = &RedisUrl>| urls.map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match &self.place {
            RedisPlace::Single { url, .. } => write!(f, "{url}"),
            RedisPlace::Sentinels(sentinels) => {
                let urls = list(&mut sentinels.clients.iter().map(|(url, _)| url));
                write!(f, "master {} of the Sentinels {urls}", sentinels.master)
            }
            RedisPlace::Cluster { urls, .. } => write!(f, "Redis Cluster at {}", list(&mut urls.iter())),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct ConnectError {
    pub(super) text: String,
    /// Waiting does not mend it.
    pub(super) is_final: bool,
}

impl ConnectError {
    /// What `error` means of the server at `place`.
    pub(super) fn at(place: &str, error: &RedisError) -> Self {
        let text = error.to_string();
        let refused = ["WRONGPASS", "NOAUTH", "NOPERM"].iter().any(|code| text.contains(code))
            || error.kind() == redis::ErrorKind::AuthenticationFailed;
        // rustls' words
        let untrusted = text.contains("invalid peer certificate");
        let unasked = text.contains("received corrupt message");
        let advice = if refused {
            ": check [redis] user and password, and what the ACL allows"
        } else if untrusted {
            ": its certificate is not signed by [redis] tls_ca, or not for this name"
        } else if unasked {
            ": does it speak TLS there? redis:// is without"
        } else {
            ""
        };
        Self { text: format!("{place}: {text}{advice}"), is_final: refused || untrusted || unasked }
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        Self { text: error.to_string(), is_final: false }
    }
}

fn unusable(error: RedisError) -> RedisOpenError {
    RedisOpenError(format!("{error}: check url, tls_ca, tls_cert and tls_key"))
}

fn credentials(user: &str, password: &str, urls: &[RedisUrl]) -> RedisConnectionInfo {
    credentials_of(user, password).set_db(urls.first().map_or(0, |url| url.database))
}

fn credentials_of(user: &str, password: &str) -> RedisConnectionInfo {
    let mut credentials = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2);
    if !user.is_empty() {
        credentials = credentials.set_username(user);
    }
    if !password.is_empty() {
        credentials = credentials.set_password(password);
    }
    credentials
}

fn info(url: &RedisUrl, credentials: &RedisConnectionInfo) -> RedisResult<ConnectionInfo> {
    let address = if url.tls {
        ConnectionAddr::TcpTls { host: url.host.clone(), port: url.port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(url.host.clone(), url.port)
    };
    Ok(address.into_connection_info()?.set_redis_settings(credentials.clone()))
}

fn client(url: &RedisUrl, credentials: &RedisConnectionInfo, certificates: &TlsCertificates) -> RedisResult<Client> {
    let info = info(url, credentials)?;
    if url.tls { Client::build_with_tls(info, certificates.clone()) } else { Client::open(info) }
}

async fn certificates(config: &RedisConfig) -> Result<TlsCertificates, RedisOpenError> {
    let root_cert = match &config.tls_ca {
        Some(path) => Some(file("tls_ca", path).await?),
        None => None,
    };
    let client_tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: file("tls_cert", cert).await?,
            client_key: file("tls_key", key).await?,
        }),
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

async fn file(key: &str, path: &Path) -> Result<Vec<u8>, RedisOpenError> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| RedisOpenError(format!("{key}: {} cannot be read: {error}", path.display())))
}
