//! What keeps the queue from being ready, gathered from its parts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use crate::{queue::QueueState, telemetry::Metrics};

/// A state that lasts this long is logged.
const LASTING: Duration = Duration::from_secs(2);

/// How one part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PartHealth {
    /// It works.
    Healthy,
    /// It waits for an nsqd that is away or cannot write: no harm as long as another of its group works, since nobody publishes
    /// there either.
    Away(String),
    /// It does not work, and the reason.
    Unhealthy(String),
}

/// The group of what publishes.
pub(super) const PUBLISHER: &str = "publisher";

/// By group and name.
type Parts = BTreeMap<(String, String), PartHealth>;

/// The parts' states, and what they make of [`QueueState`].
pub(super) struct Health {
    parts: Mutex<Parts>,
    state: watch::Sender<QueueState>,
    /// What is wrong though the queue can be used.
    notes: watch::Sender<Vec<String>>,
    metrics: Arc<Metrics>,
}

impl Health {
    pub(super) fn new(metrics: Arc<Metrics>) -> (Arc<Self>, watch::Receiver<QueueState>) {
        let (state, watched) = watch::channel(QueueState::NotReady("the queue was not connected yet".into()));
        let notes = watch::Sender::default();
        (Arc::new(Self { parts: Mutex::default(), state, notes, metrics }), watched)
    }

    /// Lines for `/readyz`: what is wrong though the queue can be used.
    pub(super) fn notes(&self) -> watch::Receiver<Vec<String>> {
        self.notes.subscribe()
    }

    /// Part `name` of `group` (publisher, live, raw, a tag's topic) is now `status`.
    pub(super) fn set(&self, group: &str, name: &str, status: PartHealth) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.get(&(group.to_owned(), name.to_owned())) == Some(&status) {
            return;
        }
        match &status {
            PartHealth::Healthy => tracing::debug!(group, name, "nsq: works"),
            PartHealth::Away(reason) | PartHealth::Unhealthy(reason) => {
                tracing::debug!(group, name, reason, "nsq: does not work")
            }
        }
        if group.starts_with(GONE_NODE) {
            return;
        }
        parts.insert((group.to_owned(), name.to_owned()), status);
        self.update(&parts);
    }

    /// Whether part `name` of `group` works; `None` without such a part.
    pub(super) fn works(&self, group: &str, name: &str) -> Option<bool> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.get(&(group.to_owned(), name.to_owned())).map(|status| *status == PartHealth::Healthy)
    }

    /// Part `name` of `group` is no more.
    pub(super) fn forget(&self, group: &str, name: &str) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.remove(&(group.to_owned(), name.to_owned()));
        self.update(&parts);
    }

    fn update(&self, parts: &Parts) {
        let state = overall(parts);
        self.metrics.queue_ready.set(i64::from(state == QueueState::Ready));
        replace(&self.state, state);
        replace(&self.notes, missing_copy(parts).into_iter().collect());
    }
}

/// How groups begin that read what waits for a gone node: this node works without them.
pub(super) const GONE_NODE: &str = "gone node ";

/// Only what differs is news.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|now| {
        let changed = *now != value;
        *now = value;
        changed
    });
}

/// That only one of two publishers works, and why.
fn missing_copy(parts: &Parts) -> Option<String> {
    let publishers = || parts.iter().filter(|((group, _), _)| *group == PUBLISHER).map(|(_, status)| status);
    publishers().find(|status| **status == PartHealth::Healthy)?;
    publishers().find_map(|status| match status {
        PartHealth::Healthy => None,
        PartHealth::Away(reason) | PartHealth::Unhealthy(reason) => {
            Some(format!("the queue: pushes are put at one nsqd, not at two ([queue] copies): {reason}"))
        }
    })
}

/// Logs what the queue's state stays in, until nobody changes it any more. A start passes through several that are no news.
pub(super) async fn log_changes(mut state: watch::Receiver<QueueState>) {
    let mut logged = None;
    while state.changed().await.is_ok() {
        sleep(LASTING).await;
        let now = state.borrow_and_update().clone();
        if logged.as_ref() == Some(&now) {
            continue;
        }
        match &now {
            QueueState::Ready => tracing::info!("the queue is ready"),
            QueueState::NotReady(reason) => tracing::warn!(reason, "the queue is not ready"),
        }
        logged = Some(now);
    }
}

/// As [`log_changes`], of what is wrong though the queue can be used.
pub(super) async fn log_notes(mut notes: watch::Receiver<Vec<String>>) {
    let mut logged = Vec::new();
    while notes.changed().await.is_ok() {
        sleep(LASTING).await;
        let now = notes.borrow_and_update().clone();
        now.iter().filter(|note| !logged.contains(*note)).for_each(|note| tracing::warn!("{note}"));
        if now.is_empty() && !logged.is_empty() {
            tracing::info!("the queue: pushes are put at two nsqds again");
        }
        logged = now;
    }
}

fn overall(parts: &Parts) -> QueueState {
    let works = |group: &str| parts.iter().any(|((of, _), status)| *of == group && *status == PartHealth::Healthy);
    let reasons: Vec<&str> = parts
        .iter()
        .filter_map(|((group, _), status)| match status {
            PartHealth::Healthy => None,
            PartHealth::Away(_) if works(group) => None,
            PartHealth::Away(reason) | PartHealth::Unhealthy(reason) => Some(reason.as_str()),
        })
        .collect();
    if reasons.is_empty() { QueueState::Ready } else { QueueState::NotReady(reasons.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_publishers_is_enough_and_the_other_is_told_of() {
        let (health, state) = Health::new(Arc::new(Metrics::new()));
        let notes = health.notes();
        health.set(PUBLISHER, "0", PartHealth::Healthy);
        assert!(notes.borrow().is_empty());
        health.set(PUBLISHER, "1", PartHealth::Away("b is away".into()));
        assert_eq!(*state.borrow(), QueueState::Ready);
        assert!(notes.borrow()[0].ends_with("([queue] copies): b is away"), "{:?}", notes.borrow());
        health.set(PUBLISHER, "0", PartHealth::Away("a is away".into()));
        assert_eq!(*state.borrow(), QueueState::NotReady("a is away; b is away".into()));
        assert!(notes.borrow().is_empty(), "the state says it");
    }

    #[test]
    fn an_nsqd_that_is_away_matters_only_when_it_is_the_last() {
        let (health, state) = Health::new(Arc::new(Metrics::new()));
        health.set("publisher", "", PartHealth::Healthy);
        health.set("live", "a", PartHealth::Away("a is away".into()));
        assert_eq!(*state.borrow(), QueueState::NotReady("a is away".into()));
        health.set("live", "b", PartHealth::Unhealthy("b is not subscribed".into()));
        assert_eq!(*state.borrow(), QueueState::NotReady("a is away; b is not subscribed".into()));
        health.set("live", "b", PartHealth::Healthy);
        assert_eq!(*state.borrow(), QueueState::Ready);
        health.forget("live", "b");
        assert_eq!(*state.borrow(), QueueState::NotReady("a is away".into()));
    }
}
