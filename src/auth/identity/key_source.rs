//! Where the issuer's key set comes from: it is fetched at the start, now and then, and when a token names a key that it lacks.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    IdentityConfigError, IdentityError, http,
    key::VerifyingKey,
    key_set::{KeyChoice, KeySet},
    token::{TokenHead, TokenRules},
};
use crate::{
    config::{JwksSource, TokenConfig},
    lifecycle::Tasks,
    telemetry::{
        Metrics,
        labels::{IdentityOutcome, JwksFetchOutcome},
    },
};

/// The key set as it was fetched last. A cheap clone.
#[derive(Clone)]
pub(super) struct KeySource {
    state: watch::Receiver<KeySourceState>,
    wanted: Arc<Notify>,
    /// The longest that a token waits for the fetch that may bring its key.
    patience: Duration,
    pub(super) from: JwksSource,
}

#[derive(Clone, Default)]
struct KeySourceState {
    /// The last good set; `None`: there was none yet.
    keys: Option<Arc<KeySet>>,
    /// Fetches that began, and that ended.
    begun: u64,
    ended: u64,
    /// Whether the last one that ended brought a good set.
    is_good: bool,
}

/// Fetches the set, alone: one fetch at a time.
struct KeyFetcher {
    from: JwksSource,
    client: reqwest::Client,
    rules: Arc<TokenRules>,
    timeout: Duration,
    max_bytes: usize,
    max_keys: usize,
    min_interval: Duration,
    refresh: Duration,
    metrics: Arc<Metrics>,
}

impl KeySource {
    /// Begins to fetch the set that `[token] jwks` names, as a task that ends with the last clone. `known` is used until then.
    pub(super) fn start(
        from: &JwksSource,
        config: &TokenConfig,
        rules: &Arc<TokenRules>,
        known: Option<KeySet>,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, IdentityConfigError> {
        let client = http::client(config.jwks_ca.as_deref(), config.jwks_timeout)
            .map_err(|what| IdentityConfigError::Key { key: "jwks_ca", what: what.into() })?;
        let fetcher = KeyFetcher {
            from: from.clone(),
            client,
            rules: rules.clone(),
            timeout: config.jwks_timeout,
            max_bytes: config.jwks_max_bytes,
            max_keys: config.jwks_max_keys,
            min_interval: config.jwks_min_interval,
            refresh: config.jwks_refresh.max(config.jwks_min_interval),
            metrics: metrics.clone(),
        };
        let keys = known.map(Arc::new);
        // the first fetch begins now
        let (sender, state) = watch::channel(KeySourceState { keys, begun: 1, ..KeySourceState::default() });
        let wanted = Arc::new(Notify::new());
        let source = Self {
            state,
            wanted: wanted.clone(),
            patience: config.jwks_min_interval + config.jwks_timeout,
            from: from.clone(),
        };
        let cancelled = tasks.cancelled();
        tasks.spawn_until_done("token keys", async move {
            let _ = cancelled.run_until_cancelled(fetcher.follow(sender, wanted)).await;
        });
        Ok(source)
    }

    pub(super) fn choose(&self, head: &TokenHead) -> KeyChoice {
        match &self.state.borrow().keys {
            Some(keys) => keys.choose(head),
            None => KeyChoice::Unknown,
        }
    }

    /// The set's keys, if there are any yet, for tokens that must be something else.
    pub(super) fn known(&self, rules: &TokenRules) -> Option<KeySet> {
        self.state.borrow().keys.as_ref().map(|keys| keys.with_rules(rules))
    }

    /// The key that a set will have which is fetched after now.
    pub(super) async fn wait(mut self, head: &TokenHead) -> Result<Arc<VerifyingKey>, IdentityError> {
        let (began, has_keys) = {
            let state = self.state.borrow();
            (state.begun, state.keys.is_some())
        };
        // without any keys the fetch under way, if there is one, decides; the next is begun without being asked for
        let deciding = if has_keys { began + 1 } else { began };
        if has_keys {
            self.wanted.notify_one();
        }
        let is_decided = |state: &KeySourceState| {
            state.ended >= deciding
                || state.keys.as_ref().is_some_and(|keys| !matches!(keys.choose(head), KeyChoice::Unknown))
        };
        let waited = timeout(self.patience, self.state.wait_for(is_decided)).await;
        let is_good = matches!(&waited, Ok(Ok(state)) if state.is_good);
        drop(waited);
        match self.choose(head) {
            KeyChoice::Key(key) => Ok(key),
            KeyChoice::Refused(error) => Err(error),
            KeyChoice::Unknown if is_good => {
                let message = "the token's key (kid) is none that its issuer publishes: get a new token";
                Err(IdentityError::new(IdentityOutcome::UnknownKey, message))
            }
            KeyChoice::Unknown => {
                Err(IdentityError::away("the keys that verify tokens cannot be had now: come back in a moment"))
            }
        }
    }
}

impl KeyFetcher {
    /// Until nobody has the source any more.
    async fn follow(self, state: watch::Sender<KeySourceState>, wanted: Arc<Notify>) {
        loop {
            let next = Instant::now() + self.min_interval;
            let fetched = timeout(self.timeout, self.fetch()).await;
            let fetched = fetched.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
            let is_good = fetched.is_ok();
            self.tell(&fetched);
            state.send_modify(|state| {
                state.ended = state.begun;
                state.is_good = is_good;
                if let Ok(keys) = fetched {
                    state.keys = Some(Arc::new(keys));
                }
            });
            let pause = if is_good { self.refresh - self.min_interval } else { Duration::ZERO };
            tokio::select! {
                () = state.closed() => return,
                () = sleep_until(next) => {}
            }
            tokio::select! {
                () = state.closed() => return,
                () = sleep(pause) => {}
                () = wanted.notified() => {}
            }
            state.send_modify(|state| state.begun += 1);
        }
    }

    fn tell(&self, fetched: &Result<KeySet, String>) {
        let outcome = match fetched {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "the key set was fetched");
                JwksFetchOutcome::Good
            }
            Err(error) => {
                tracing::warn!(
                    error,
                    "[token] jwks: the key set cannot be had; the last good one is used, if there is one"
                );
                JwksFetchOutcome::Failed
            }
        };
        self.metrics.jwks_fetches.get_or_create(&outcome).inc();
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let json = match &self.from {
            JwksSource::Url(url) => {
                let response = self.client.get(url).header("accept", "application/json").send().await;
                let response = response.map_err(|error| http::chain(&error))?;
                if response.status() != reqwest::StatusCode::OK {
                    let status = response.status();
                    let remedy = if status.is_redirection() { "; give the URL that it leads to" } else { "" };
                    return Err(format!("it answered {status}{remedy}"));
                }
                http::body(response, self.max_bytes).await?
            }
            JwksSource::File(path) => read(path, self.max_bytes).await?,
        };
        KeySet::read(&json, self.max_keys, &self.rules)
    }
}

async fn read(path: &Path, max: usize) -> Result<Vec<u8>, String> {
    let unreadable = |error| format!("{} cannot be read: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    if !file.metadata().await.map_err(unreadable)?.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).await.map_err(unreadable)?;
    if bytes.len() > max {
        return Err(format!("{} has more than {max} bytes", path.display()));
    }
    Ok(bytes)
}
