//! One point in time for a whole stop, handed down to each of its steps.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, error::Elapsed, timeout_at};

/// When something must be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// That long from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The earlier one of this and `time` from now.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        self.min(Self::after(time))
    }

    /// The later one of this and `time` from now: for a step that needs a moment even where nothing is left.
    #[must_use]
    pub fn granting(self, time: Duration) -> Self {
        self.max(Self::after(time))
    }

    /// The future's output, if it comes in time.
    ///
    /// # Errors
    /// It did not; the future is dropped.
    pub async fn timeout<F: Future>(self, future: F) -> Result<F::Output, Elapsed> {
        timeout_at(self.0, future).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_shared_by_the_steps_of_a_stop() {
        let deadline = Deadline::after(Duration::from_secs(10));
        assert!(deadline.timeout(tokio::time::sleep(Duration::from_secs(4))).await.is_ok());
        assert_eq!(deadline.remaining(), Duration::from_secs(6));
        assert_eq!(deadline.within(Duration::from_secs(1)).remaining(), Duration::from_secs(1));
        assert_eq!(deadline.within(Duration::from_secs(60)), deadline);
        assert!(deadline.timeout(std::future::pending::<()>()).await.is_err());
        assert_eq!(deadline.remaining(), Duration::ZERO);
        assert_eq!(deadline.granting(Duration::from_secs(1)).remaining(), Duration::from_secs(1));
    }
}
