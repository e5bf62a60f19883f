//! The task that connects, says what Redis promises, and watches the connection.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    config::RedisConfig,
    lifecycle::{Backoff, Tasks},
    telemetry::{Counter, Gauge, Metrics},
};

use super::{
    RedisOpenError, RedisState, Shared,
    connect::{ConnectError, Connected, Connector, RedisConnection},
    info::{Durability, ServerInfo},
};

/// The first wait before it is tried again; `[redis] max_backoff` is the longest.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// Why a server that was reached is not used.
pub(super) enum ConnectFault {
    /// Waiting does not mend it.
    Final(String),
    /// It may.
    Passing(String),
}

/// Tries once to connect, then starts the task.
///
/// # Errors
/// What waiting does not mend.
pub(super) async fn start(
    connector: Connector,
    shared: Arc<Shared>,
    config: &RedisConfig,
    tasks: &Tasks,
    metrics: &Metrics,
) -> Result<(), RedisOpenError> {
    let mut watcher = Watcher {
        connector,
        shared,
        check_interval: config.check_interval,
        backoff: Backoff::new(SHORTEST_WAIT, config.max_backoff),
        told: None,
        ready: metrics.redis_ready.clone(),
        connects: metrics.redis_connects.clone(),
    };
    let first = match watcher.connect().await {
        Ok(connected) => Some(connected),
        Err(error) if error.is_final => return Err(RedisOpenError(error.text)),
        Err(error) => {
            watcher.is_away(error.text);
            None
        }
    };
    // ready from the first moment, where it is
    let place = first.map(|connected| watcher.publish(connected));
    tasks.spawn("redis connection", watcher.run(place, tasks.cancelled()));
    Ok(())
}

struct Watcher {
    connector: Connector,
    shared: Arc<Shared>,
    check_interval: Duration,
    backoff: Backoff,
    /// The reason of the last line that it is away.
    told: Option<String>,
    ready: Gauge,
    connects: Counter,
}

/// The connection in use, and to what.
struct InUse {
    connection: Arc<RedisConnection>,
    place: String,
}

impl Watcher {
    async fn run(mut self, first: Option<InUse>, cancelled: CancellationToken) {
        let token = cancelled.clone();
        token.run_until_cancelled(self.connect_and_watch(first)).await;
    }

    async fn connect_and_watch(&mut self, mut in_use: Option<InUse>) {
        loop {
            if let Some(connected) = in_use.take() {
                self.watch(&connected).await;
            }
            match self.connect().await {
                Ok(connected) => in_use = Some(self.publish(connected)),
                Err(error) => {
                    self.is_away(error.text);
                    tokio::time::sleep(self.backoff.next_wait()).await;
                }
            }
        }
    }

    /// A connection to a server that is as it must be.
    async fn connect(&self) -> Result<Connected, ConnectError> {
        let mut connected = self.connector.connect().await?;
        let ask = async {
            // who may not even do this is not known there: INFO may be forbidden to who is
            connected.connection.ping().await?;
            let infos = ServerInfo::ask(&mut connected.connection).await?;
            self.shared.load_scripts(&mut connected.connection).await?;
            Ok(infos)
        };
        let infos = match tokio::time::timeout(self.shared.timeout, ask).await {
            Ok(Ok(infos)) => infos,
            Ok(Err(error)) => return Err(ConnectError::at(&connected.place, &error)),
            Err(_) => {
                return Err(ConnectError { text: format!("{} does not answer", connected.place), is_final: false });
            }
        };
        for info in &infos {
            if let Some(fault) = info.fault(matches!(connected.connection, RedisConnection::Cluster(_))) {
                let (what, is_final) = match fault {
                    ConnectFault::Final(what) => (what, true),
                    ConnectFault::Passing(what) => (what, false),
                };
                return Err(ConnectError { text: format!("{}: {what}", connected.place), is_final });
            }
        }
        tell(&connected.place, &infos);
        Ok(connected)
    }

    /// From now on commands go there.
    fn publish(&mut self, connected: Connected) -> InUse {
        let connection = Arc::new(connected.connection);
        self.shared.connections.fetch_add(1, Ordering::AcqRel);
        self.shared.connection.store(Some(Arc::clone(&connection)));
        self.shared.state.send_replace(RedisState::Ready);
        self.ready.set(1);
        self.connects.inc();
        self.backoff.reset();
        self.told = None;
        InUse { connection, place: connected.place }
    }

    /// Returns once the connection is lost.
    async fn watch(&mut self, in_use: &InUse) {
        let mut checks = tokio::time::interval(self.check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks.reset();
        loop {
            tokio::select! {
                () = self.shared.lost.notified() => {}
                _ = checks.tick() => {
                    if let Err(reason) = self.check(in_use).await {
                        self.shared.lose(&in_use.connection, &reason);
                    }
                }
            }
            let current = self.shared.connection.load();
            if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &in_use.connection)) {
                let reason = match &*self.shared.state.borrow() {
                    RedisState::NotReady(reason) => reason.clone(),
                    RedisState::Ready => String::new(),
                };
                self.is_away(format!("{}: {reason}", in_use.place));
                return;
            }
        }
    }

    /// Whether it answers, and still is the master.
    async fn check(&self, in_use: &InUse) -> Result<(), String> {
        let mut connection = (*in_use.connection).clone();
        match tokio::time::timeout(self.shared.timeout, connection.ping()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no answer to a PING within [redis] timeout".into()),
        }
        match self.connector.other_master(&in_use.place).await {
            Some(place) => Err(format!("the Sentinels name another master, {place}")),
            None => Ok(()),
        }
    }

    fn is_away(&mut self, reason: String) {
        self.ready.set(0);
        self.shared.state.send_replace(RedisState::NotReady(reason.clone()));
        if self.told.as_ref() != Some(&reason) {
            tracing::warn!(redis = %self.connector, "Redis is away, and is tried again: {reason}");
            self.told = Some(reason);
        }
    }
}

/// Says what becomes of what Redis acknowledges.
fn tell(place: &str, infos: &[ServerInfo]) {
    let version = infos.iter().find_map(|info| info.version.as_deref()).unwrap_or("unknown");
    tracing::info!(redis = place, version, "connected to Redis");
    if infos.iter().any(|info| !info.is_policy_known()) {
        tracing::warn!(
            redis = place,
            "this user may not ask Redis for INFO: nobody knows whether its maxmemory-policy is noeviction, as it must be"
        );
    }
    match infos.iter().map(|info| info.durability).max() {
        Some(Durability::Always) => {
            tracing::info!(redis = place, "appendfsync always: what Redis acknowledged is on its disk");
        }
        Some(Durability::EverySecond) => tracing::warn!(
            redis = place,
            "appendfsync everysec: a power cut loses what Redis acknowledged in the last second or two; always loses nothing"
        ),
        Some(Durability::System) => tracing::warn!(
            redis = place,
            "appendfsync no: a power cut loses what the system had not written yet (half a minute is usual); always loses nothing"
        ),
        Some(Durability::NoAof) => tracing::warn!(
            redis = place,
            "appendonly no: when Redis ends, what it acknowledged since its last dump is lost; set appendonly yes, appendfsync always"
        ),
        Some(Durability::Unknown) | None => tracing::warn!(
            redis = place,
            "this user may not ask Redis for CONFIG GET appendfsync: nobody knows what a crash of Redis loses"
        ),
    }
}
