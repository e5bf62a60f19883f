//! The connection to the Redis that nodes share: one Redis, the master that Sentinels name, or a Redis Cluster.
//!
//! One multiplexed connection carries all commands of the node. A task of its own connects, checks what Redis promises, and
//! watches: the first command that fails for the connection's sake, or is not answered in time, ends the connection, and until
//! there is a new one every command is refused at once. (`redis`'s own `ConnectionManager` reconnects too, but lets each command
//! wait for that.)

mod connect;
mod info;
mod script;
mod watcher;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};

use crate::{
    config::RedisConfig,
    lifecycle::Tasks,
    telemetry::{Counter, Metrics, labels::RedisOutcome},
};

use connect::{Connector, RedisConnection};
pub use script::{RedisScript, ScriptCall};

/// The connection to Redis; a cheap clone.
#[derive(Clone)]
pub struct RedisClient {
    shared: Arc<Shared>,
}

/// Whether Redis can be used, with the reason when it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisState {
    /// It answers.
    Ready,
    /// The reason.
    NotReady(String),
}

/// Why Redis cannot be used as configured, and what to do; waiting does not mend it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RedisOpenError(pub String);

/// Why a command was not done, or is not known to have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisCallError {
    /// Redis is away: the command was not sent.
    #[error("Redis is away: {0}")]
    Away(String),
    /// It was sent, and no answer came: nobody knows whether it was done.
    #[error("Redis did not answer: {0}")]
    Unknown(String),
    /// `[redis] max_in_flight` commands were on their way for `[redis] timeout`: it was not sent.
    #[error("too many commands are on their way to Redis ([redis] max_in_flight)")]
    Busy,
    /// Redis refused it: it was not done.
    #[error("Redis refused a command: {code} {text}")]
    Refused {
        /// The first word of its error, as `OOM` or `NOPERM`.
        code: String,
        /// The rest.
        text: String,
    },
    /// The answer is none that the command has.
    #[error("Redis answered something else than expected: {0}")]
    Unexpected(String),
}

/// What the clones share.
struct Shared {
    prefix: String,
    timeout: Duration,
    /// `None`: Redis is away.
    connection: ArcSwapOption<RedisConnection>,
    state: watch::Sender<RedisState>,
    /// How many there have been.
    connections: AtomicU64,
    /// The texts of the scripts that Redis is to know.
    scripts: Mutex<Vec<&'static str>>,
    /// Told when the connection was lost.
    lost: Notify,
    in_flight: Semaphore,
    max_in_flight: usize,
    counters: CommandCounters,
}

/// `redis_commands` by outcome, looked up once.
struct CommandCounters {
    done: Counter,
    refused: Counter,
    away: Counter,
    unknown: Counter,
}

impl RedisClient {
    /// Connects, and goes on connecting whenever Redis is away. Redis that cannot be reached is no error: the state says it.
    ///
    /// # Errors
    /// What waiting cannot mend: files of TLS, a refused password, a version below 7, a `maxmemory-policy` that drops keys.
    pub async fn start(config: &RedisConfig, tasks: &Tasks, metrics: &Arc<Metrics>) -> Result<Self, RedisOpenError> {
        let connector = Connector::new(config).await?;
        let of = |outcome| metrics.redis_commands.get_or_create_owned(&outcome);
        let shared = Arc::new(Shared {
            prefix: config.prefix.clone(),
            timeout: config.timeout,
            connection: ArcSwapOption::empty(),
            state: watch::Sender::new(RedisState::NotReady("not connected yet".into())),
            connections: AtomicU64::new(0),
            scripts: Mutex::default(),
            lost: Notify::new(),
            in_flight: Semaphore::new(config.max_in_flight),
            max_in_flight: config.max_in_flight,
            counters: CommandCounters {
                done: of(RedisOutcome::Done),
                refused: of(RedisOutcome::Refused),
                away: of(RedisOutcome::Away),
                unknown: of(RedisOutcome::Unknown),
            },
        });
        watcher::start(connector, shared.clone(), config, tasks, metrics).await?;
        Ok(Self { shared })
    }

    /// Whether Redis can be used.
    pub fn state(&self) -> watch::Receiver<RedisState> {
        self.shared.state.subscribe()
    }

    /// What each key begins with, a colon behind it: two gateways on one Redis differ by it.
    pub fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// How many connections there have been: where it grows, Redis was away, and may have lost what it had acknowledged.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Runs one command, within `[redis] timeout`; while Redis is away it fails at once.
    ///
    /// # Errors
    /// [`RedisCallError`].
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisCallError> {
        let value = self.shared.call(1, |mut connection| async move { connection.run(command).await }).await?;
        read(value)
    }

    /// Runs commands that are sent together, each with an outcome of its own. They are done in order, but in a Redis Cluster
    /// only those of one slot are.
    pub async fn run_all(&self, commands: &[Cmd]) -> Vec<Result<Value, RedisCallError>> {
        if commands.is_empty() {
            return Vec::new();
        }
        let run = |mut connection: RedisConnection| async move { connection.run_all(commands).await };
        match self.shared.call(commands.len(), run).await {
            Ok(values) => values.into_iter().map(|value| value.and_then(read)).collect(),
            Err(error) => commands.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Has Redis know these scripts from now on, on this connection and on each later one, before anything else is sent: of calls
    /// that are sent together none is then passed over for a script that is not there, and done behind the others.
    pub async fn learn(&self, scripts: &[&'static RedisScript]) {
        let shared = &self.shared;
        let texts = scripts.iter().map(|script| script.text());
        shared.scripts.lock().unwrap_or_else(PoisonError::into_inner).extend(texts);
        let Some(connection) = shared.connection.load_full() else { return };
        let mut of_its_own = (*connection).clone();
        match tokio::time::timeout(shared.timeout, shared.load_scripts(&mut of_its_own)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => shared.lose(&connection, &error.to_string()),
            Err(_) => shared.lose(&connection, "no answer within [redis] timeout"),
        }
    }

    /// Runs a script; Redis gets its text if it does not know it.
    ///
    /// # Errors
    /// [`RedisCallError`].
    pub async fn run_script<T: FromRedisValue>(&self, call: &ScriptCall) -> Result<T, RedisCallError> {
        match self.run(call.by_hash()).await {
            Err(error) if error.is_unknown_script() => self.run(&call.by_text()).await,
            outcome => outcome,
        }
    }

    /// As [`RedisClient::run_all`], for scripts.
    pub async fn run_scripts(&self, calls: &[ScriptCall]) -> Vec<Result<Value, RedisCallError>> {
        let commands: Vec<_> = calls.iter().map(|call| call.by_hash().clone()).collect();
        let mut outcomes = self.run_all(&commands).await;
        let is_unknown =
            |outcome: &Result<_, RedisCallError>| outcome.as_ref().is_err_and(RedisCallError::is_unknown_script);
        let unknown: Vec<usize> = (0..calls.len()).filter(|at| is_unknown(&outcomes[*at])).collect();
        let commands: Vec<_> = unknown.iter().map(|at| calls[*at].by_text()).collect();
        for (at, outcome) in unknown.into_iter().zip(self.run_all(&commands).await) {
            outcomes[at] = outcome;
        }
        outcomes
    }
}

impl RedisCallError {
    /// Redis has no script of this hash: it was restarted.
    fn is_unknown_script(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "NOSCRIPT")
    }

    /// Of an error that says nothing of the connection.
    fn refused(error: &RedisError) -> Self {
        let code = error.code().unwrap_or("ERR").to_owned();
        Self::Refused { code, text: error.detail().unwrap_or(error.category()).to_owned() }
    }
}

impl Shared {
    /// Where the user may not load scripts, each is sent when Redis says that it does not know it.
    async fn load_scripts(&self, connection: &mut RedisConnection) -> Result<(), RedisError> {
        let texts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for text in texts {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(text);
            match connection.run_on_masters(&command).await {
                Ok(_) => {}
                Err(error) if matches!(fault(&error), Fault::Command) => {
                    tracing::warn!(
                        %error,
                        "this user may not SCRIPT LOAD: where Redis forgets its scripts while nodes push, pushes may change their order"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Runs `call` for `commands` commands on the connection, if there is one.
    async fn call<T, F>(&self, commands: usize, call: impl FnOnce(RedisConnection) -> F) -> Result<T, RedisCallError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let outcome = self.call_in_time(commands, call).await;
        let counter = match &outcome {
            Ok(_) => &self.counters.done,
            Err(RedisCallError::Unknown(_)) => &self.counters.unknown,
            Err(RedisCallError::Away(_)) => &self.counters.away,
            Err(_) => &self.counters.refused,
        };
        counter.inc_by(commands as u64);
        outcome
    }

    async fn call_in_time<T, F>(
        &self,
        commands: usize,
        call: impl FnOnce(RedisConnection) -> F,
    ) -> Result<T, RedisCallError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let Some(connection) = self.connection.load_full() else { return Err(self.away()) };
        let deadline = Instant::now() + self.timeout;
        let permits = u32::try_from(commands.min(self.max_in_flight)).unwrap_or(u32::MAX);
        let Ok(permit) = tokio::time::timeout_at(deadline, self.in_flight.acquire_many(permits)).await else {
            return Err(RedisCallError::Busy);
        };
        let answer = tokio::time::timeout_at(deadline, call((*connection).clone())).await;
        drop(permit);
        let error = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => {
                let reason = format!("no answer within {} ([redis] timeout)", humantime::format_duration(self.timeout));
                self.lose(&connection, &reason);
                return Err(RedisCallError::Unknown(reason));
            }
        };
        match fault(&error) {
            Fault::Command => Err(RedisCallError::refused(&error)),
            Fault::Server => {
                self.lose(&connection, &error.to_string());
                Err(RedisCallError::Away(error.to_string()))
            }
            Fault::Connection => {
                self.lose(&connection, &error.to_string());
                Err(RedisCallError::Unknown(error.to_string()))
            }
        }
    }

    /// Ends the connection, unless another one has taken its place.
    fn lose(&self, connection: &Arc<RedisConnection>, reason: &str) {
        let before = self.connection.compare_and_swap(&Some(Arc::clone(connection)), None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, connection)) {
            self.state.send_replace(RedisState::NotReady(reason.to_owned()));
            self.lost.notify_one();
        }
    }

    fn away(&self) -> RedisCallError {
        match &*self.state.borrow() {
            RedisState::NotReady(reason) => RedisCallError::Away(reason.clone()),
            RedisState::Ready => RedisCallError::Away("it is being connected".into()),
        }
    }
}

/// What an error says.
enum Fault {
    /// The command is wrong, or not allowed; others may be done.
    Command,
    /// This server does nothing now, and has not done this.
    Server,
    /// The connection broke: the command may have been done.
    Connection,
}

fn fault(error: &RedisError) -> Fault {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain,
        )
        | ErrorKind::ClusterConnectionNotFound => Fault::Server,
        ErrorKind::Io | ErrorKind::Parse => Fault::Connection,
        _ if error.is_unrecoverable_error() => Fault::Connection,
        _ => Fault::Command,
    }
}

/// Reads an answer as what it must be.
fn read<T: FromRedisValue>(value: Value) -> Result<T, RedisCallError> {
    let value = value.extract_error().map_err(|error| RedisCallError::refused(&error))?;
    redis::from_redis_value(value).map_err(|error| RedisCallError::Unexpected(error.to_string()))
}
