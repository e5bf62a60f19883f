//! How long sampled pushes take from one stage of their way to the next.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Metrics;
use crate::push::{PushId, unix_millis};

/// How many published pushes are remembered until they are offered; of others their id says when they were accepted.
const REMEMBERED: usize = 256;

/// When sampled pushes were published.
pub(super) struct PublishTimes(Mutex<Vec<Option<PublishTime>>>);

#[derive(Clone, Copy)]
struct PublishTime {
    id: PushId,
    at: Instant,
}

impl PublishTimes {
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![None; REMEMBERED]))
    }

    /// In place of one that was published before.
    fn set(&self, id: PushId, at: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[place(id)] = Some(PublishTime { id, at });
    }

    fn get(&self, id: PushId) -> Option<Instant> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times[place(id)].filter(|time| time.id == id).map(|time| time.at)
    }
}

fn place(id: PushId) -> usize {
    (id.sample_number() % REMEMBERED as u64) as usize
}

impl Metrics {
    /// A push was published: the queue has it for good since `at`. Nothing is done for one that is not sampled.
    pub(crate) fn published(&self, id: PushId, at: Instant) {
        if id.is_sampled() {
            self.publish_times.set(id, at);
        }
    }

    /// A shard has offered a sampled push to its clients at `at`. Where this node has not published it, or has forgotten when,
    /// its time is that since it was accepted.
    pub(crate) fn offered(&self, id: PushId, at: Instant) {
        let waited = match self.publish_times.get(id) {
            Some(published) => at.saturating_duration_since(published),
            None => Duration::from_millis(unix_millis().saturating_sub(id.millis())),
        };
        self.offer_seconds.observe(waited.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(millis: u64, number: u128) -> PushId {
        PushId::from_parts(millis, number * u128::from(PushId::SAMPLED_ONE_IN))
    }

    fn offered(metrics: &Metrics) -> (f64, f64) {
        let text = metrics.text();
        let number = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
            line.trim().parse().unwrap_or_else(|_| panic!("{line}"))
        };
        (number("oxipush_offer_seconds_sum"), number("oxipush_offer_seconds_count"))
    }

    #[test]
    fn an_offer_is_measured_from_its_publish_or_else_from_its_acceptance() {
        let metrics = Metrics::new();
        let now = Instant::now();
        let published = sampled(unix_millis() - 60_000, 1);
        metrics.published(published, now);
        metrics.offered(published, now + Duration::from_secs(2));
        assert_eq!(offered(&metrics), (2.0, 1.0));
        // each shard tells of its part
        metrics.offered(published, now + Duration::from_secs(3));
        assert_eq!(offered(&metrics), (5.0, 2.0));
        metrics.offered(sampled(unix_millis() - 60_000, 2), now);
        let (sum, count) = offered(&metrics);
        assert!((65.0..66.0).contains(&sum) && count == 3.0, "{sum}");
        // one in its place
        metrics.published(sampled(0, 1 + REMEMBERED as u128), now);
        metrics.offered(published, now);
        let (sum, _) = offered(&metrics);
        assert!((125.0..127.0).contains(&sum), "{sum}");
    }
}
