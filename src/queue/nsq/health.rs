//! What keeps the queue from being ready, gathered from its parts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use crate::{queue::State, telemetry::Metrics};

/// A state that lasts this long is logged.
const SETTLED: Duration = Duration::from_secs(2);

/// How one part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It works.
    Well,
    /// It waits for an nsqd that is away or cannot write: no harm as long as another of its group works, since nobody publishes
    /// there either.
    Away(String),
    /// It does not work, and the reason.
    Ill(String),
}

/// The parts' states, and what they make of [`State`].
pub(super) struct Health {
    parts: Mutex<BTreeMap<(&'static str, String), Status>>,
    state: watch::Sender<State>,
    metrics: Arc<Metrics>,
}

impl Health {
    pub(super) fn new(metrics: Arc<Metrics>) -> (Arc<Self>, watch::Receiver<State>) {
        let (state, watched) = watch::channel(State::NotReady("the queue was not connected yet".into()));
        (Arc::new(Self { parts: Mutex::default(), state, metrics }), watched)
    }

    /// Part `name` of `group` (publisher, live, raw) is now `status`.
    pub(super) fn set(&self, group: &'static str, name: &str, status: Status) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.get(&(group, name.to_owned())) == Some(&status) {
            return;
        }
        match &status {
            Status::Well => tracing::debug!(group, name, "nsq: works"),
            Status::Away(reason) | Status::Ill(reason) => tracing::debug!(group, name, reason, "nsq: does not work"),
        }
        parts.insert((group, name.to_owned()), status);
        self.tell(&parts);
    }

    /// Whether part `name` of `group` works; `None` without such a part.
    pub(super) fn works(&self, group: &'static str, name: &str) -> Option<bool> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.get(&(group, name.to_owned())).map(|status| *status == Status::Well)
    }

    /// Part `name` of `group` is no more.
    pub(super) fn forget(&self, group: &'static str, name: &str) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.remove(&(group, name.to_owned()));
        self.tell(&parts);
    }

    fn tell(&self, parts: &BTreeMap<(&'static str, String), Status>) {
        let state = judge(parts);
        self.metrics.queue_ready.set(i64::from(state == State::Ready));
        self.state.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }
}

/// Logs what the queue's state settles in, until nobody changes it any more. A start passes through several that are no news.
pub(super) async fn tell(mut state: watch::Receiver<State>) {
    let mut told = None;
    while state.changed().await.is_ok() {
        sleep(SETTLED).await;
        let now = state.borrow_and_update().clone();
        if told.as_ref() == Some(&now) {
            continue;
        }
        match &now {
            State::Ready => tracing::info!("the queue is ready"),
            State::NotReady(reason) => tracing::warn!(reason, "the queue is not ready"),
        }
        told = Some(now);
    }
}

fn judge(parts: &BTreeMap<(&'static str, String), Status>) -> State {
    let works = |group: &str| parts.iter().any(|((of, _), status)| *of == group && *status == Status::Well);
    let reasons: Vec<&str> = parts
        .iter()
        .filter_map(|((group, _), status)| match status {
            Status::Well => None,
            Status::Away(_) if works(group) => None,
            Status::Away(reason) | Status::Ill(reason) => Some(reason.as_str()),
        })
        .collect();
    if reasons.is_empty() { State::Ready } else { State::NotReady(reasons.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nsqd_that_is_away_matters_only_when_it_is_the_last() {
        let (health, state) = Health::new(Arc::new(Metrics::new()));
        health.set("publisher", "", Status::Well);
        health.set("live", "a", Status::Away("a is away".into()));
        assert_eq!(*state.borrow(), State::NotReady("a is away".into()));
        health.set("live", "b", Status::Ill("b is not subscribed".into()));
        assert_eq!(*state.borrow(), State::NotReady("a is away; b is not subscribed".into()));
        health.set("live", "b", Status::Well);
        assert_eq!(*state.borrow(), State::Ready);
        health.forget("live", "b");
        assert_eq!(*state.borrow(), State::NotReady("a is away".into()));
    }
}
