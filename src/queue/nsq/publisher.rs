//! Publishing: one task owns one producer at a time, to the first nsqd of the list that is up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_nsq::{NSQEvent, NSQTopic};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Base, LIVED, LONGEST_WAIT, SHORTEST_WAIT,
    health::Status,
    pending::{Pending, Push},
    session::{MAX_MESSAGE, Maker, Session},
};
use crate::{
    lifecycle::Tasks,
    queue::PublishError,
    telemetry::{Counted, Metrics},
};

/// How soon after its last answer an nsqd that stops is seen to be gone.
const FAREWELL: Duration = Duration::from_millis(100);
/// Requests taken from the inbox at once.
const TAKE: usize = 1024;

/// See [`crate::queue::Publisher`].
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: mpsc::Sender<Push>,
    permits: Arc<Semaphore>,
    bound: usize,
    timeout: Duration,
    limit: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Publisher {
    /// The record is on its way when this returns.
    pub(crate) fn publish(
        &self,
        record: Bytes,
    ) -> Result<impl Future<Output = Result<(), PublishError>> + use<>, PublishError> {
        let shared = Arc::clone(&self.shared);
        let (bytes, limit) = (record.len(), shared.limit.load(Ordering::Relaxed));
        if bytes > limit {
            return Err(PublishError::TooLarge { bytes, limit });
        }
        if bytes == 0 {
            return Err(PublishError::Unavailable("nsqd takes no empty record".into()));
        }
        let full = PublishError::Full("[queue] max_publishes wait for nsqd already; try again later");
        let Ok(permit) = shared.permits.clone().try_acquire_owned() else { return Err(full) };
        let started = Instant::now();
        let (answer, answered) = oneshot::channel();
        let deadline = started + shared.timeout;
        let _counted = Counted::new(&shared.metrics.publishes);
        let push = Push { record, deadline, answer, suspect: false, _permit: permit, _counted };
        let closed = || PublishError::Unavailable("the gateway is stopping".into());
        shared.inbox.try_send(push).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        Ok(async move {
            let result = answered.await.unwrap_or_else(|_| Err(closed()));
            if result.is_ok() {
                shared.metrics.publish_seconds.observe(started.elapsed().as_secs_f64());
            }
            result
        })
    }

    /// Resolves once nothing waits for an acknowledgement.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(self.shared.bound).unwrap_or(u32::MAX);
        let _ = self.shared.permits.acquire_many(all).await;
    }
}

/// Starts the publisher; it ends with `closing`.
pub(super) fn start(
    base: &Base,
    members: watch::Receiver<Vec<String>>,
    topic: Arc<NSQTopic>,
    closing: &CancellationToken,
    tracker: &TaskTracker,
    tasks: &Tasks,
) -> Publisher {
    let bound = base.config.max_publishes;
    let (inbox, requests) = mpsc::channel(bound);
    let limit = Arc::new(AtomicUsize::new(MAX_MESSAGE));
    base.health.set("publisher", "", Status::Ill("the publisher was not connected yet".into()));
    let maker = Arc::new(Maker { base: base.clone(), daemons: base.daemons(), limit: limit.clone(), members });
    let publisher = Publisher {
        shared: Arc::new(Shared {
            inbox,
            permits: Arc::new(Semaphore::new(bound)),
            bound,
            timeout: base.config.publish_timeout,
            limit,
            metrics: base.metrics.clone(),
        }),
    };
    let actor = Actor {
        maker,
        topic,
        requests,
        taken: Vec::with_capacity(TAKE),
        pending: Pending::default(),
        closing: closing.clone(),
        // as long as the task lives its inbox stays open
        _publisher: publisher.clone(),
    };
    tasks.spawn_until_done("nsq publisher", tracker.track_future(actor.run()));
    publisher
}

/// Why a session ended.
enum End {
    /// The queue is closed.
    Closed,
    /// nsqd is gone, or answers no more.
    Gone(&'static str),
    /// nsqd lives but the connection ended: it may have refused what was sent.
    Cut(&'static str),
    /// An nsqd that stands before this one is up again.
    Return,
}

struct Actor {
    maker: Arc<Maker>,
    topic: Arc<NSQTopic>,
    requests: mpsc::Receiver<Push>,
    taken: Vec<Push>,
    pending: Pending,
    closing: CancellationToken,
    _publisher: Publisher,
}

impl Actor {
    async fn run(mut self) {
        let mut pause = Duration::ZERO;
        while let Some(session) = self.connect(pause).await {
            let started = Instant::now();
            let address = self.maker.daemons[session.index].tcp.clone();
            let (refused, reason) = match self.serve(session).await {
                End::Closed => break,
                End::Return => {
                    tracing::info!(from = address, "nsq: an earlier nsqd of the list is back");
                    continue;
                }
                End::Gone(reason) => (false, reason),
                End::Cut(reason) => (true, reason),
            };
            self.pending.lost(refused);
            // an nsqd that refuses everything is not asked in a hurry
            pause = match started.elapsed() > LIVED {
                true => Duration::ZERO,
                false => (pause * 2).clamp(SHORTEST_WAIT / 4, LONGEST_WAIT),
            };
            self.maker.base.rebuilt("publisher", &address, reason);
        }
        self.requests.close();
        while let Ok(push) = self.requests.try_recv() {
            self.pending.add(push);
        }
        self.pending.end();
    }

    /// A session, while pushes gather and expire; `None` once the queue is closed.
    async fn connect(&mut self, pause: Duration) -> Option<Session> {
        let (maker, closing) = (self.maker.clone(), self.closing.clone());
        let making = maker.any(pause);
        tokio::pin!(making);
        loop {
            let deadline = self.deadline();
            // cancel-safe: recv_many takes nothing when another branch wins
            tokio::select! {
                biased;
                () = closing.cancelled() => return None,
                session = &mut making => return Some(session),
                _ = self.requests.recv_many(&mut self.taken, TAKE) => self.take(),
                () = sleep_until(deadline) => {
                    self.pending.expire(Instant::now(), Some("no nsqd is reachable"));
                }
            }
        }
    }

    async fn serve(&mut self, mut session: Session) -> End {
        let (maker, closing) = (self.maker.clone(), self.closing.clone());
        let better = maker.better(session.index);
        let timer = sleep_until(self.deadline());
        tokio::pin!(better, timer);
        let mut returning = false;
        loop {
            if returning && self.pending.all_answered() {
                return End::Return;
            }
            if !returning && !session.broken {
                self.send(&mut session).await;
            }
            // cancel-safe: consume and recv_many are channel reads, a sentinel loses at most a heartbeat
            tokio::select! {
                biased;
                () = closing.cancelled() => return End::Closed,
                event = session.producer.consume() => match event {
                    Some(NSQEvent::Ok()) if self.pending.acknowledged() => {}
                    Some(NSQEvent::Ok()) => return End::Gone("it acknowledged more than was sent"),
                    Some(NSQEvent::Healthy()) => return End::Cut("the connection was cut"),
                    Some(NSQEvent::Unhealthy() | NSQEvent::Message(_)) => {}
                    // an nsqd that exits refuses too, for no fault of the record
                    None => return match timeout(FAREWELL, session.sentinel.gone()).await {
                        Ok(()) => End::Gone("it is stopping"),
                        Err(_) => End::Cut("it answered with an error"),
                    },
                },
                _ = self.requests.recv_many(&mut self.taken, TAKE) => self.take(),
                () = session.sentinel.gone() => return End::Gone("it is gone"),
                () = &mut better, if !returning => returning = true,
                () = &mut timer => {
                    if self.pending.expire(Instant::now(), None) {
                        return End::Gone("it did not acknowledge within publish_timeout");
                    }
                    // a push that comes later has a later deadline than this
                    timer.as_mut().reset(self.deadline());
                }
            }
        }
    }

    /// Sends what waits, as far as the window lets it.
    async fn send(&mut self, session: &mut Session) {
        let batch = self.maker.base.config.batch_bytes;
        let limit = self.maker.limit.load(Ordering::Relaxed);
        loop {
            let count = self.pending.next(batch, limit);
            let sent = match count {
                0 => return,
                // both only put it in tokio-nsq's channel of 10,000, which the window never fills
                1 => {
                    let record = self.pending.records(1).next().unwrap_or_default();
                    session.producer.publish(&self.topic, record).await
                }
                _ => {
                    let records = self.pending.records(count).collect();
                    session.producer.publish_multiple(&self.topic, records).await
                }
            };
            if sent.is_err() {
                session.broken = true;
                return;
            }
            self.pending.went(count);
        }
    }

    fn take(&mut self) {
        for push in self.taken.drain(..) {
            self.pending.add(push);
        }
    }

    fn deadline(&self) -> Instant {
        self.pending.deadline().unwrap_or_else(|| Instant::now() + self.maker.base.config.publish_timeout)
    }
}
