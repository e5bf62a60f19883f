//! How long to wait before something is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Waits between tries: each about twice as long as the one before, up to a bound, and spread at random, so that many do not
/// come back in step. It never ends: who bounds the number of tries counts them.
#[derive(Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    waits: ExponentialBackoff,
}

impl Backoff {
    /// Waits between `shortest` and `longest`.
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, waits: waits(shortest, longest) }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.waits.next().map_or(self.longest, |wait| wait.min(self.longest))
    }

    /// A try went well: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.waits = waits(self.shortest, self.longest);
    }
}

/// The jitter adds up to as much again: half the bound leaves the longest waits spread too.
fn waits(shortest: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(shortest)
        .with_max_delay((longest / 2).max(shortest))
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_bound_and_begin_anew_after_a_success() {
        let bounds = Duration::from_millis(50)..=Duration::from_secs(1);
        let mut backoff = Backoff::new(*bounds.start(), *bounds.end());
        for _ in 0..3 {
            let waits: Vec<_> = (0..40).map(|_| backoff.next_wait()).collect();
            assert!(waits.iter().all(|wait| bounds.contains(wait)), "{waits:?}");
            assert!(waits[0] <= 2 * *bounds.start() && waits[39] >= *bounds.end() / 2, "{waits:?}");
            backoff.reset();
        }
        let first = || Backoff::new(*bounds.start(), *bounds.end()).next_wait();
        assert!((0..100).any(|_| first() != first()), "the waits are not spread");
    }
}
