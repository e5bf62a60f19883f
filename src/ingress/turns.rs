//! In which order a caller's live pushes go to the queue where some of them wait for their idempotency keys first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The turns of one caller's pushes. As long as none was given, all go to the queue at once.
#[derive(Default)]
pub(super) struct PublishTurns {
    /// Told once the turn that was given last is over.
    last: Mutex<Option<oneshot::Receiver<()>>>,
}

/// The turn of one push, which comes once those before it are over. One that is dropped is over.
pub(super) struct PublishTurn {
    before: Option<oneshot::Receiver<()>>,
    _over: oneshot::Sender<()>,
}

impl PublishTurns {
    /// Whether every turn is over, so that a push needs none.
    pub(super) fn are_over(&self) -> bool {
        let mut last = self.last();
        let is_over = last.as_mut().is_none_or(|last| last.try_recv() != Err(oneshot::error::TryRecvError::Empty));
        if is_over {
            *last = None;
        }
        is_over
    }

    /// The turn behind all that were given.
    pub(super) fn give(&self) -> PublishTurn {
        let (over, next) = oneshot::channel();
        let before = self.last().replace(next);
        PublishTurn { before, _over: over }
    }

    fn last(&self) -> MutexGuard<'_, Option<oneshot::Receiver<()>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PublishTurn {
    /// Returns once the turns before are over.
    pub(super) async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // a turn that is over is dropped
            let _ = before.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_turn_comes_once_those_before_it_are_over() {
        let turns = PublishTurns::default();
        assert!(turns.are_over());
        let (mut first, mut second, mut third) = (turns.give(), turns.give(), turns.give());
        assert!(!turns.are_over());
        assert_eq!(first.come().now_or_never(), Some(()));
        let mut waiting = Box::pin(second.come());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        drop(first);
        assert_eq!(waiting.now_or_never(), Some(()));
        let mut waiting = Box::pin(third.come());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        // given up
        drop(second);
        assert_eq!(waiting.now_or_never(), Some(()));
        assert!(!turns.are_over());
        drop(third);
        assert!(turns.are_over() && turns.are_over());
    }
}
