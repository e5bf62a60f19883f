//! `[queue] copies = 2`: each push at two nsqds, so that one that is lost takes nothing with it.
//!
//! Two publishers work side by side, each on an nsqd that the other has not. A push is accepted once both nsqds acknowledged
//! it. While one publisher finds no nsqd, it ends its copies at once: what the other nsqd holds is accepted, and counted as
//! `copies_missing`.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{
    queue::{PublishError, waiter::Waiter},
    telemetry::Counter,
};

/// The most copies of a push.
pub(super) const MOST: usize = 2;

/// Where a publisher publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PublisherPlace {
    /// The nsqd's place in the list.
    nsqd: Option<usize>,
    /// It looks for an nsqd, and has not found one soon.
    is_away: bool,
}

/// Where each publisher publishes: no two at one nsqd. A cheap clone.
#[derive(Clone)]
pub(super) struct PublisherPlaces(Arc<watch::Sender<[PublisherPlace; MOST]>>);

impl PublisherPlaces {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// Whether no other publisher than this has the nsqd.
    pub(super) fn is_free(&self, publisher: usize, nsqd: usize) -> bool {
        is_free(&self.0.borrow(), publisher, nsqd)
    }

    /// Whether a publisher that has an nsqd may leave it for this one: no other of `publishers` looks for one, which would get
    /// it sooner and leaves nothing.
    pub(super) fn may_move(&self, publisher: usize, nsqd: usize, publishers: usize) -> bool {
        let places = self.0.borrow();
        is_free(&places, publisher, nsqd) && places[..publishers].iter().all(|place| place.nsqd.is_some())
    }

    /// This publisher has this nsqd from now on, unless another has it.
    pub(super) fn choose(&self, publisher: usize, nsqd: usize) -> bool {
        self.0.send_if_modified(|places| {
            let free = is_free(places, publisher, nsqd);
            if free {
                places[publisher] = PublisherPlace { nsqd: Some(nsqd), is_away: false };
            }
            free
        })
    }

    /// This publisher has no nsqd any more.
    pub(super) fn release(&self, publisher: usize) {
        self.0.send_modify(|places| places[publisher].nsqd = None);
    }

    /// This publisher found none.
    pub(super) fn set_away(&self, publisher: usize) {
        self.0.send_modify(|places| places[publisher].is_away = true);
    }

    /// Another of `publishers` that is not away, while this one is: nobody does so at the same time for the other.
    pub(super) fn substitute(&self, publisher: usize, publishers: usize) -> Option<usize> {
        let places = self.0.borrow();
        places[publisher].is_away.then(|| (0..publishers).find(|other| !places[*other].is_away)).flatten()
    }

    /// To wait for changes.
    pub(super) fn watch(&self) -> PlacesWatch {
        PlacesWatch(self.0.subscribe())
    }
}

fn is_free(places: &[PublisherPlace; MOST], publisher: usize, nsqd: usize) -> bool {
    places.iter().enumerate().all(|(other, place)| other == publisher || place.nsqd != Some(nsqd))
}

/// Waits for changes of the places.
pub(super) struct PlacesWatch(watch::Receiver<[PublisherPlace; MOST]>);

impl PlacesWatch {
    /// Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Who waits for one copy of a push, or for its only one.
pub(super) enum PublishWaiter {
    One(Waiter),
    Copy(CopyWaiter),
}

impl PublishWaiter {
    /// Those of two copies, whose outcome is told to `waiter`; `missing` counts those of which one was published only.
    pub(super) fn copies(waiter: Waiter, missing: &Counter) -> [Self; MOST] {
        let state = CopiesState { waiter: Some(waiter), first: None, missing: missing.clone() };
        let state = Arc::new(Mutex::new(state));
        [Self::Copy(CopyWaiter(state.clone())), Self::Copy(CopyWaiter(state))]
    }

    /// This copy was published, or will not be.
    pub(super) fn resolve(self, outcome: Result<(), PublishError>) {
        match self {
            Self::One(waiter) => waiter.resolve(outcome),
            Self::Copy(copy) => copy.resolve(outcome),
        }
    }

    /// Whether another copy is published, or on its way.
    pub(super) fn has_other(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::Copy(copy) => !matches!(copy.state().first, Some(Err(_))),
        }
    }
}

/// The waiter of one of two copies.
pub(super) struct CopyWaiter(Arc<Mutex<CopiesState>>);

struct CopiesState {
    waiter: Option<Waiter>,
    /// What became of the copy that ended first.
    first: Option<Result<(), PublishError>>,
    missing: Counter,
}

impl CopyWaiter {
    fn state(&self) -> std::sync::MutexGuard<'_, CopiesState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(self, outcome: Result<(), PublishError>) {
        let mut state = self.state();
        let Some(first) = state.first.take() else {
            state.first = Some(outcome);
            return;
        };
        let Some(waiter) = state.waiter.take() else { return };
        if first.is_ok() != outcome.is_ok() {
            state.missing.inc();
        }
        drop(state);
        waiter.resolve(if outcome.is_ok() { outcome } else { first });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_push_is_accepted_once_both_copies_ended_and_one_was_published() {
        let away = || Err(PublishError::Unavailable("away".into()));
        for (first, second, expected, missing) in [
            (Ok(()), Ok(()), Ok(()), 0),
            (Ok(()), away(), Ok(()), 1),
            (away(), Ok(()), Ok(()), 1),
            (Err(PublishError::TimedOut), away(), Err(PublishError::TimedOut), 0),
        ] {
            let metrics = Arc::new(Metrics::new());
            let (waiter, mut outcome) = Waiter::new(&metrics);
            let [one, other] = PublishWaiter::copies(waiter, &metrics.copies_missing);
            assert!(other.has_other());
            let is_published = first.is_ok();
            one.resolve(first);
            assert_eq!(other.has_other(), is_published);
            assert!(outcome.try_recv().is_err(), "it waits for both");
            other.resolve(second);
            assert_eq!(outcome.try_recv(), Ok(expected));
            assert_eq!(metrics.copies_missing.get(), missing);
        }
    }

    #[test]
    fn no_two_publishers_have_one_nsqd_and_only_one_that_is_away_gives_up() {
        let places = PublisherPlaces::new();
        assert!(places.choose(0, 3) && !places.choose(1, 3) && places.choose(1, 4) && places.choose(0, 3));
        places.release(0);
        assert!(places.is_free(1, 3) && !places.is_free(0, 4));
        assert!(!places.may_move(1, 2, 2), "the other looks for one");
        assert_eq!(places.substitute(0, 2), None, "it may find one soon");
        places.set_away(0);
        assert_eq!((places.substitute(0, 2), places.substitute(1, 2)), (Some(1), None));
        places.set_away(1);
        assert_eq!((places.substitute(0, 2), places.substitute(1, 2)), (None, None));
        assert!(places.choose(1, 3));
        assert_eq!((places.substitute(0, 2), places.substitute(1, 2)), (Some(1), None));
        assert!(places.choose(0, 5) && places.may_move(0, 2, 2) && !places.may_move(0, 3, 2));
    }
}
