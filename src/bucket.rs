//! A token bucket: so many a second, and a burst beyond that after a pause.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How many tokens there are: `rate` in a second come back, and a bucket that nobody took from holds `burst` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// The time in which one token comes back, in nanoseconds; 0: there is no bound.
    interval: u64,
    /// The time in which an empty bucket is full again, in nanoseconds.
    depth: u64,
}

impl Allowance {
    /// `rate` tokens in a second, 0: no bound; `burst` at once, at least 1.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let interval = 1_000_000_000_u64.checked_div(u64::from(rate)).map_or(0, |interval| interval.max(1));
        // below 2^62: at most a second for each token of 32 bits
        Self { interval, depth: interval * u64::from(burst.max(1)) }
    }

    /// Whether every take is admitted.
    pub(crate) fn is_unbounded(self) -> bool {
        self.interval == 0
    }
}

/// A bucket of tokens; the default one is full. It is the time at which it will be full again, so it needs no upkeep. Its owner
/// passes `now`, the time since any beginning that stays the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// In nanoseconds.
    full_at: u64,
}

impl Bucket {
    /// Takes `tokens`, or none of them. More than the burst are admitted where the bucket is full, and leave it in debt: a batch
    /// passes, and costs all it holds.
    ///
    /// # Errors
    /// The time after which they will be there, if nobody takes others.
    pub(crate) fn take(&mut self, tokens: u32, now: Duration, allowance: Allowance) -> Result<(), Duration> {
        let now = nanoseconds(now);
        let begin = self.full_at.max(now);
        let full_at = begin.saturating_add(allowance.interval.saturating_mul(u64::from(tokens)));
        // full, or not emptied by this
        let admitted_from = full_at.saturating_sub(allowance.depth).min(begin);
        if admitted_from > now {
            return Err(Duration::from_nanos(admitted_from - now));
        }
        self.full_at = full_at;
        Ok(())
    }

    /// Whether nothing was taken that has not come back: such a bucket may be forgotten.
    pub(crate) fn is_full(self, now: Duration) -> bool {
        self.full_at <= nanoseconds(now)
    }
}

/// A [`Bucket`] that several threads take from, without a lock.
#[derive(Debug, Default)]
pub(crate) struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// As [`Bucket::take`].
    ///
    /// # Errors
    /// As [`Bucket::take`].
    pub(crate) fn take(&self, tokens: u32, now: Duration, allowance: Allowance) -> Result<(), Duration> {
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            let mut bucket = Bucket { full_at: before };
            bucket.take(tokens, now, allowance)?;
            match self.0.compare_exchange_weak(before, bucket.full_at, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => before = current,
            }
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn admitted(bucket: &mut Bucket, tries: u32, now: Duration, allowance: Allowance) -> u32 {
        (0..tries).map(|_| u32::from(bucket.take(1, now, allowance).is_ok())).sum()
    }

    #[test]
    fn a_burst_is_admitted_at_once_and_then_as_many_as_come_back() {
        let allowance = Allowance::new(10, 50);
        let mut bucket = Bucket::default();
        assert_eq!(admitted(&mut bucket, 100, MS * 5000, allowance), 50);
        assert_eq!(bucket.take(1, MS * 5000, allowance), Err(MS * 100));
        assert_eq!(admitted(&mut bucket, 100, MS * 6000, allowance), 10);
        assert!(!bucket.is_full(MS * 10_000) && bucket.is_full(MS * 11_000));
        assert_eq!(admitted(&mut bucket, 100, MS * 1_000_000, allowance), 50);
    }

    #[test]
    fn who_keeps_to_the_rate_is_admitted_for_ever_also_where_time_bunches_it() {
        let allowance = Allowance::new(10, 300);
        let mut bucket = Bucket::default();
        for second in 0..10_000 {
            assert_eq!(admitted(&mut bucket, 10, MS * second * 1000, allowance), 10);
        }
        // 20 s of them at once
        assert_eq!(admitted(&mut bucket, 200, MS * 10_020_000, allowance), 200);
    }

    #[test]
    fn more_than_the_burst_waits_for_a_full_bucket_and_leaves_it_in_debt() {
        let allowance = Allowance::new(10, 5);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(20, MS * 1000, allowance), Ok(()));
        assert_eq!(bucket.take(1, MS * 1000, allowance), Err(MS * 1600));
        assert_eq!(bucket.take(20, MS * 2000, allowance), Err(MS * 1000));
        assert_eq!(bucket.take(20, MS * 3000, allowance), Ok(()));
    }

    #[test]
    fn a_rate_of_zero_is_no_bound() {
        let allowance = Allowance::new(0, 1);
        let mut bucket = Bucket::default();
        assert!(allowance.is_unbounded());
        assert_eq!(admitted(&mut bucket, 100_000, MS, allowance), 100_000);
        assert!(!Allowance::new(u32::MAX, u32::MAX).is_unbounded());
    }

    #[test]
    fn threads_that_share_a_bucket_share_its_tokens() {
        let allowance = Allowance::new(1, 1000);
        let bucket = SharedBucket::default();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(1, MS, allowance).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
