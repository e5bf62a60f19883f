//! What waits for nsqd's acknowledgement: pushes that were not sent, and commands that were, answered in their order.

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};

use super::copies::PublishWaiter;
use super::{protocol, topics::Topics};
use crate::queue::{Destination, PublishError};

/// Requests taken at once.
const TAKE: usize = 1024;
/// Commands without an answer at once.
const WINDOW: usize = 1000;
/// What an nsqd has to answer in, also where its pushes have waited for so long that their own time is over before.
const LEAST: Duration = Duration::from_secs(1);

/// One copy of a record and who waits for it.
pub(super) struct PendingPublish {
    pub(super) destination: Destination,
    pub(super) record: Bytes,
    pub(super) deadline: Instant,
    pub(super) waiter: PublishWaiter,
    pub(super) permit: OwnedSemaphorePermit,
}

/// All of them; `sent` and `waiting` are in the order of their deadlines.
pub(super) struct Pending {
    requests: mpsc::Receiver<PendingPublish>,
    taken: Vec<PendingPublish>,
    /// Not sent.
    waiting: VecDeque<PendingPublish>,
    /// Sent, not answered; as many for each command as `commands` says.
    sent: VecDeque<PendingPublish>,
    commands: VecDeque<SentCommand>,
}

struct SentCommand {
    pushes: usize,
    /// When its nsqd is not trusted any more.
    due: Instant,
}

impl Pending {
    pub(super) fn new(requests: mpsc::Receiver<PendingPublish>) -> Self {
        Self {
            requests,
            taken: Vec::with_capacity(TAKE),
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            commands: VecDeque::new(),
        }
    }

    /// Waits for requests and takes them. Cancel-safe: it takes nothing until it ends.
    pub(super) async fn gather(&mut self) {
        self.requests.recv_many(&mut self.taken, TAKE).await;
        for push in self.taken.drain(..) {
            // what another publisher passed on may be older
            let at = match self.waiting.back() {
                Some(last) if last.deadline > push.deadline => {
                    self.waiting.partition_point(|waiting| waiting.deadline <= push.deadline)
                }
                _ => self.waiting.len(),
            };
            self.waiting.insert(at, push);
        }
    }

    /// Nothing is published here for `reason`, and something is elsewhere: copies of what is on its way there end, and the rest
    /// is passed on. What `pass_on` gives back stays.
    pub(super) fn give_up(&mut self, reason: &str, mut pass_on: impl FnMut(PendingPublish) -> Option<PendingPublish>) {
        for push in std::mem::take(&mut self.waiting) {
            if push.waiter.has_other() {
                push.waiter.resolve(Err(PublishError::Unavailable(reason.to_owned())));
            } else if let Some(push) = pass_on(push) {
                self.waiting.push_back(push);
            }
        }
    }

    pub(super) fn all_answered(&self) -> bool {
        self.commands.is_empty()
    }

    /// Writes the next command to `out`: as many pushes for one destination as `batch` bytes hold, at least one. False when there
    /// is none to write now. What has more than `limit` bytes is refused.
    pub(super) fn send(&mut self, out: &mut BytesMut, topics: &Topics, batch: usize, limit: usize) -> bool {
        if self.commands.len() >= WINDOW {
            return false;
        }
        // an nsqd after a failover may take less than the one before
        while let Some(push) = self.waiting.pop_front_if(|push| push.record.len() > limit) {
            let bytes = push.record.len();
            push.waiter.resolve(Err(PublishError::TooLarge { bytes, limit }));
        }
        let Some(first) = self.waiting.front() else { return false };
        let destination = first.destination.clone();
        let due = first.deadline.max(Instant::now() + LEAST);
        // the count of an MPUB
        let mut bytes = 4;
        let fits = self.waiting.iter().take_while(|push| {
            bytes += 4 + push.record.len();
            bytes <= batch && push.record.len() <= limit && push.destination == destination
        });
        let count = fits.count().max(1);
        protocol::publish(out, &topics.of(&destination), self.waiting.range(..count).map(|push| &push.record));
        self.sent.extend(self.waiting.drain(..count));
        self.commands.push_back(SentCommand { pushes: count, due });
        true
    }

    /// nsqd acknowledged the oldest command; false when there was none.
    pub(super) fn acknowledged(&mut self) -> bool {
        let Some(command) = self.commands.pop_front() else { return false };
        self.sent.drain(..command.pushes).for_each(|push| push.waiter.resolve(Ok(())));
        true
    }

    /// The connection ended: what was sent goes again, in its order.
    pub(super) fn lost(&mut self) {
        self.commands.clear();
        while let Some(push) = self.sent.pop_back() {
            self.waiting.push_front(push);
        }
    }

    /// Ends what waited too long; true when something that was sent did, so that the connection cannot be trusted.
    pub(super) fn expire(&mut self, now: Instant, reason: Option<&str>) -> bool {
        let mut overdue = false;
        if self.commands.front().is_some_and(|command| command.due <= now) {
            overdue = true;
            self.lost();
        }
        while let Some(push) = self.waiting.pop_front_if(|push| push.deadline <= now) {
            push.waiter.resolve(Err(match reason {
                Some(reason) => PublishError::Unavailable(reason.to_owned()),
                None => PublishError::TimedOut,
            }));
        }
        overdue
    }

    /// When something expires first.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sent = self.commands.front().map(|command| command.due);
        [sent, self.waiting.front().map(|push| push.deadline)].into_iter().flatten().min()
    }

    /// The queue is closed.
    pub(super) fn end(&mut self) {
        self.requests.close();
        while let Ok(push) = self.requests.try_recv() {
            self.waiting.push_back(push);
        }
        let unanswered = self.sent.drain(..).chain(self.waiting.drain(..));
        unanswered
            .for_each(|push| push.waiter.resolve(Err(PublishError::Unavailable("the gateway is stopping".into()))));
        self.commands.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::{
        config,
        queue::waiter::{Acknowledgement, Waiter},
        telemetry::Metrics,
    };

    fn add(pending: &mut Pending, bytes: usize) -> Acknowledgement {
        let (waiter, outcome) = Waiter::new(&Arc::new(Metrics::new()));
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let record = Bytes::from(vec![0; bytes]);
        let destination = Destination::Live;
        let waiter = PublishWaiter::One(waiter);
        pending.waiting.push_back(PendingPublish { destination, record, deadline, waiter, permit });
        outcome
    }

    fn topics() -> Topics {
        let config = config::load(None, [("OXIPUSH__QUEUE__TOPIC".to_owned(), "t".to_owned())]).unwrap();
        Topics::new(&config.queue)
    }

    fn none() -> Pending {
        Pending::new(mpsc::channel(1).1)
    }

    /// The pushes of the next command; 0 for none.
    fn send(pending: &mut Pending, batch: usize, limit: usize) -> usize {
        let sent = pending.send(&mut BytesMut::new(), &topics(), batch, limit);
        if sent { pending.commands.back().unwrap().pushes } else { 0 }
    }

    #[test]
    fn what_waits_is_gathered_up_to_the_batch() {
        let mut pending = none();
        assert_eq!(send(&mut pending, 1000, 1000), 0);
        let mut answers: Vec<Acknowledgement> = (0..3).map(|_| add(&mut pending, 100)).collect();
        assert_eq!(send(&mut pending, 4 + 208, 1000), 2);
        assert_eq!(send(&mut pending, 10, 1000), 1, "a record larger than the batch goes alone");
        assert!(pending.acknowledged());
        assert_eq!(answers[1].try_recv(), Ok(Ok(())));
        assert!(answers[2].try_recv().is_err());
        assert!(pending.acknowledged());
        assert!(!pending.acknowledged());
        assert_eq!(answers[2].try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_record_that_is_too_large_is_refused_and_the_others_go() {
        let mut pending = none();
        let mut answers: Vec<Acknowledgement> = [100, 300, 100, 300].map(|bytes| add(&mut pending, bytes)).into();
        assert_eq!(send(&mut pending, 10_000, 1000), 4);
        // nsqd told its limit
        pending.lost();
        assert_eq!(send(&mut pending, 10_000, 200), 1);
        assert_eq!(send(&mut pending, 10_000, 200), 1);
        assert_eq!(send(&mut pending, 10_000, 200), 0);
        assert!(pending.acknowledged() && pending.acknowledged());
        for (at, answer) in answers.iter_mut().enumerate() {
            let expected = match at % 2 {
                0 => Ok(()),
                _ => Err(PublishError::TooLarge { bytes: 300, limit: 200 }),
            };
            assert_eq!(answer.try_recv(), Ok(expected));
        }
    }

    #[test]
    fn what_was_sent_goes_again_in_its_order() {
        let mut pending = none();
        let _answers: Vec<Acknowledgement> = [1, 2, 3].map(|bytes| add(&mut pending, bytes)).into();
        assert_eq!(send(&mut pending, 4 + 11, 1000), 2);
        pending.lost();
        let mut out = BytesMut::new();
        assert!(pending.send(&mut out, &topics(), 10_000, 1000));
        assert_eq!(out[..], b"MPUB t.live\n\0\0\0\x16\0\0\0\x03\0\0\0\x01\0\0\0\0\x02\0\0\0\0\0\x03\0\0\0"[..]);
        assert!(pending.acknowledged());
        assert!(pending.all_answered());
    }

    #[test]
    fn each_push_ends_by_its_own_deadline() {
        let mut pending = none();
        let mut first = add(&mut pending, 100);
        assert!(!pending.expire(Instant::now(), None));
        assert!(!pending.expire(Instant::now() + Duration::from_secs(9), Some("nsqd is away")));
        assert_eq!(first.try_recv(), Ok(Err(PublishError::Unavailable("nsqd is away".into()))));
        let mut second = add(&mut pending, 100);
        assert_eq!(send(&mut pending, 1000, 1000), 1);
        assert!(pending.expire(Instant::now() + Duration::from_secs(9), None));
        assert_eq!(second.try_recv(), Ok(Err(PublishError::TimedOut)));
    }
}
