//! What waits for nsqd's acknowledgement: pushes that were not sent, and commands that were, answered in their order.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::{queue::PublishError, telemetry::Counted};

/// Commands without an answer at once: far below the 10,000 where tokio-nsq would make us wait.
pub(super) const WINDOW: usize = 1000;

/// One record and who waits for it.
pub(super) struct Push {
    pub(super) record: Bytes,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
    /// It may be what nsqd closed a connection for: it goes alone.
    pub(super) suspect: bool,
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _counted: Counted,
}

impl Push {
    fn end(self, result: Result<(), PublishError>) {
        // nobody waits any more: the record was published or not all the same
        let _ = self.answer.send(result);
    }
}

/// All of them; `sent` and `waiting` are in the order of their deadlines.
#[derive(Default)]
pub(super) struct Pending {
    /// Not sent.
    waiting: VecDeque<Push>,
    /// Sent, not answered; as many for each command as `commands` says.
    sent: VecDeque<Push>,
    commands: VecDeque<usize>,
}

impl Pending {
    pub(super) fn add(&mut self, push: Push) {
        self.waiting.push_back(push);
    }

    pub(super) fn all_answered(&self) -> bool {
        self.commands.is_empty()
    }

    /// How many pushes the next command takes, 0 for none now: as many as `batch` bytes hold, a suspect alone.
    pub(super) fn next(&mut self, batch: usize, limit: usize) -> usize {
        if self.commands.len() >= WINDOW || self.sent.front().is_some_and(|push| push.suspect) {
            return 0;
        }
        // an nsqd after a failover may take less than the one before
        while let Some(push) = self.waiting.pop_front_if(|push| push.record.len() > limit) {
            let bytes = push.record.len();
            push.end(Err(PublishError::TooLarge { bytes, limit }));
        }
        match self.waiting.front() {
            None => return 0,
            Some(push) if push.suspect => return usize::from(self.commands.is_empty()),
            Some(_) => {}
        }
        // "MPUB <topic>\n" and two lengths, with a topic of 64
        let mut bytes = 78;
        let fits = self.waiting.iter().take_while(|push| {
            bytes += 4 + push.record.len();
            !push.suspect && bytes <= batch && push.record.len() <= limit
        });
        fits.count().max(1)
    }

    /// The records of the next command.
    pub(super) fn records(&self, count: usize) -> impl Iterator<Item = Vec<u8>> {
        self.waiting.iter().take(count).map(|push| push.record.to_vec())
    }

    /// The next command, of `count` pushes, was sent.
    pub(super) fn went(&mut self, count: usize) {
        self.sent.extend(self.waiting.drain(..count));
        self.commands.push_back(count);
    }

    /// nsqd acknowledged the oldest command; false when there was none.
    pub(super) fn acknowledged(&mut self) -> bool {
        let Some(count) = self.commands.pop_front() else { return false };
        self.sent.drain(..count).for_each(|push| push.end(Ok(())));
        true
    }

    /// The connection ended. What was sent goes again, in its order; `refused`: nsqd lives, so the oldest command may be the
    /// reason, and is it for sure when it went alone.
    pub(super) fn lost(&mut self, refused: bool) {
        let oldest = self.commands.front().copied().unwrap_or(0);
        if refused {
            if let Some(push) = self.sent.pop_front_if(|push| push.suspect) {
                let bytes = push.record.len();
                tracing::warn!(bytes, "nsqd closes the connection on a record; its push is refused");
                push.end(Err(PublishError::Unavailable("nsqd refuses this record; its log says why".into())));
            } else {
                self.sent.iter_mut().take(oldest).for_each(|push| push.suspect = true);
            }
        }
        self.commands.clear();
        while let Some(push) = self.sent.pop_back() {
            self.waiting.push_front(push);
        }
    }

    /// Ends what waited too long; true when something that was sent did, so that the connection cannot be trusted.
    pub(super) fn expire(&mut self, now: Instant, reason: Option<&str>) -> bool {
        let mut overdue = false;
        if self.sent.front().is_some_and(|push| push.deadline <= now) {
            overdue = true;
            self.lost(false);
        }
        while let Some(push) = self.waiting.pop_front_if(|push| push.deadline <= now) {
            push.end(Err(match reason {
                Some(reason) => PublishError::Unavailable(reason.to_owned()),
                None => PublishError::TimedOut,
            }));
        }
        overdue
    }

    /// When something expires first.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.sent.front(), self.waiting.front()].into_iter().flatten().map(|push| push.deadline).min()
    }

    /// The queue is closed.
    pub(super) fn end(&mut self) {
        let unanswered = self.sent.drain(..).chain(self.waiting.drain(..));
        unanswered.for_each(|push| push.end(Err(PublishError::Unavailable("the gateway is stopping".into()))));
        self.commands.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::telemetry::Level;

    type Answer = oneshot::Receiver<Result<(), PublishError>>;

    fn add(pending: &mut Pending, bytes: usize) -> Answer {
        let (answer, answered) = oneshot::channel();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let record = Bytes::from(vec![0; bytes]);
        let _counted = Counted::new(&Level::default());
        pending.add(Push { record, deadline, answer, suspect: false, _permit: permit, _counted });
        answered
    }

    #[test]
    fn what_waits_is_gathered_up_to_the_batch() {
        let mut pending = Pending::default();
        let mut answers: Vec<Answer> = (0..3).map(|_| add(&mut pending, 100)).collect();
        assert_eq!(pending.next(78 + 208, 1000), 2);
        pending.went(2);
        assert_eq!(pending.next(10, 1000), 1, "a record larger than the batch goes alone");
        pending.went(1);
        assert!(pending.acknowledged());
        assert_eq!(answers[1].try_recv(), Ok(Ok(())));
        assert!(answers[2].try_recv().is_err());
        assert!(pending.acknowledged());
        assert!(!pending.acknowledged());
        assert_eq!(answers[2].try_recv(), Ok(Ok(())));
    }

    #[test]
    fn only_the_push_that_kills_twice_fails() {
        let mut pending = Pending::default();
        let mut answers: Vec<Answer> = (0..4).map(|_| add(&mut pending, 100)).collect();
        pending.went(3);
        pending.went(1);
        pending.lost(true);
        for _ in 0..2 {
            assert_eq!(pending.next(10_000, 1000), 1, "a suspect goes alone");
            pending.went(1);
            assert_eq!(pending.next(10_000, 1000), 0, "and nothing beside it");
            assert!(pending.acknowledged());
        }
        assert_eq!(pending.next(10_000, 1000), 1);
        pending.went(1);
        pending.lost(true);
        assert!(matches!(answers[2].try_recv(), Ok(Err(PublishError::Unavailable(_)))));
        assert_eq!(pending.next(10_000, 1000), 1);
        pending.went(1);
        assert!(pending.acknowledged());
        for at in [0, 1, 3] {
            assert_eq!(answers[at].try_recv(), Ok(Ok(())));
        }
    }

    #[test]
    fn a_dead_nsqd_makes_no_suspects() {
        let mut pending = Pending::default();
        let _answers: Vec<Answer> = (0..2).map(|_| add(&mut pending, 100)).collect();
        pending.went(2);
        pending.lost(false);
        assert_eq!(pending.next(10_000, 1000), 2);
    }

    #[test]
    fn each_push_ends_by_its_own_deadline() {
        let mut pending = Pending::default();
        let mut first = add(&mut pending, 100);
        assert!(!pending.expire(Instant::now(), None));
        assert!(!pending.expire(Instant::now() + Duration::from_secs(9), Some("nsqd is away")));
        assert_eq!(first.try_recv(), Ok(Err(PublishError::Unavailable("nsqd is away".into()))));
        let mut second = add(&mut pending, 100);
        pending.went(1);
        assert!(pending.expire(Instant::now() + Duration::from_secs(9), None));
        assert_eq!(second.try_recv(), Ok(Err(PublishError::TimedOut)));
    }
}
