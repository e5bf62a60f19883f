//! Publishing: one task owns one connection at a time, to the first nsqd of the list that works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Backoff, Base, LIVED, LONGEST_WAIT, SHORTEST_WAIT,
    nsqds::{Chosen, MAX_MESSAGE, Nsqds},
    pending::{Pending, Push},
    protocol::Bound,
    session::{Ended, Step},
};
use crate::{
    lifecycle::Tasks,
    queue::{PublishError, waiter::Waiter},
    telemetry::Metrics,
};

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
        let shared = &self.shared;
        let (bytes, limit) = (record.len(), shared.limit.load(Ordering::Relaxed));
        if bytes > limit {
            return Err(PublishError::TooLarge { bytes, limit });
        }
        if bytes == 0 {
            return Err(PublishError::Unavailable("nsqd takes no empty record".into()));
        }
        let full = PublishError::Full("[queue] max_publishes wait for nsqd already; try again later");
        let Ok(permit) = shared.permits.clone().try_acquire_owned() else { return Err(full) };
        let (waiter, outcome) = Waiter::new(&shared.metrics);
        let push = Push { record, deadline: Instant::now() + shared.timeout, waiter, _permit: permit };
        let closed = || PublishError::Unavailable("the gateway is stopping".into());
        shared.inbox.try_send(push).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        Ok(async move { outcome.await.unwrap_or_else(|_| Err(closed())) })
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
    topic: &str,
    closing: &CancellationToken,
    tracker: &TaskTracker,
    tasks: &Tasks,
) -> Publisher {
    let bound = base.config.max_publishes;
    let (inbox, requests) = mpsc::channel(bound);
    let publisher = Publisher {
        shared: Arc::new(Shared {
            inbox,
            permits: Arc::new(Semaphore::new(bound)),
            bound,
            timeout: base.config.publish_timeout,
            limit: Arc::new(AtomicUsize::new(MAX_MESSAGE)),
            metrics: base.metrics.clone(),
        }),
    };
    let actor = Actor {
        base: base.clone(),
        nsqds: Nsqds::new(base.clone(), members),
        topic: topic.into(),
        pending: Pending::new(requests),
        closing: closing.clone(),
        publisher: publisher.clone(),
    };
    tasks.spawn_until_done("nsq publisher", tracker.track_future(actor.run()));
    publisher
}

/// Why a session ended.
enum End {
    /// The queue is closed.
    Closed,
    /// The connection is gone.
    Lost(String),
    /// nsqd does not acknowledge, or refuses for a reason of its own.
    Failed(String),
    /// nsqd told a bound that some of what was sent passes.
    Bound(Bound),
    /// An nsqd that stands before this one works.
    Return,
}

struct Actor {
    base: Base,
    nsqds: Nsqds,
    topic: Box<str>,
    pending: Pending,
    closing: CancellationToken,
    /// As long as the task lives its inbox stays open.
    publisher: Publisher,
}

impl Actor {
    async fn run(mut self) {
        let (mut pause, mut reason) = (Duration::ZERO, "no nsqd was reached yet".to_owned());
        while let Some(chosen) = self.connect(pause, reason).await {
            let (started, index) = (Instant::now(), chosen.index);
            self.publisher.shared.limit.store(chosen.record, Ordering::Relaxed);
            let end = self.serve(chosen).await;
            self.pending.lost();
            let address = self.nsqds.address(index).to_owned();
            reason = match end {
                End::Closed => break,
                End::Return => {
                    tracing::info!(from = address, "nsq: an earlier nsqd of the list is back");
                    (pause, reason) = (Duration::ZERO, CHANGING.into());
                    continue;
                }
                End::Bound(bound) => {
                    tracing::info!(
                        nsqd = address,
                        ?bound,
                        "nsq: nsqd told its bound; what passes it is refused from now on"
                    );
                    self.nsqds.learn(index, bound);
                    (pause, reason) = (Duration::ZERO, CHANGING.into());
                    continue;
                }
                End::Lost(reason) => {
                    self.nsqds.lost(index);
                    reason
                }
                End::Failed(reason) => {
                    self.nsqds.failed(index);
                    reason
                }
            };
            // an nsqd that ends every connection is not asked in a hurry
            pause = match started.elapsed() > LIVED {
                true => Duration::ZERO,
                false => (pause * 2).clamp(SHORTEST_WAIT / 4, LONGEST_WAIT),
            };
            self.base.rebuilt("publisher", &address, &reason);
            reason = format!("nsqd {address}: {reason}");
        }
        self.pending.end();
    }

    /// A connection to an nsqd that works, while pushes gather and expire for `reason`; `None` once the queue is closed.
    async fn connect(&mut self, mut pause: Duration, mut reason: String) -> Option<Chosen> {
        let Self { nsqds, pending, closing, .. } = self;
        let nsqds = &*nsqds;
        let mut backoff = Backoff::new();
        loop {
            let choosing = async move {
                sleep(pause).await;
                nsqds.choose().await
            };
            tokio::pin!(choosing);
            let chosen = loop {
                let deadline = pending.deadline();
                // cancel-safe: what is gathered is kept at once
                tokio::select! {
                    biased;
                    () = closing.cancelled() => return None,
                    chosen = &mut choosing => break chosen,
                    () = pending.gather() => {}
                    () = until(deadline) => {
                        pending.expire(Instant::now(), Some(&reason));
                    }
                }
            };
            match chosen {
                Ok(chosen) => {
                    // what has no time left is not this nsqd's to answer
                    pending.expire(Instant::now(), Some(&reason));
                    return Some(chosen);
                }
                Err(why) => reason = why,
            }
            pause = backoff.next();
        }
    }

    async fn serve(&mut self, chosen: Chosen) -> End {
        let Self { nsqds, pending, closing, topic, .. } = self;
        let Chosen { index, mut session, record, batch } = chosen;
        let better = nsqds.better(index);
        tokio::pin!(better);
        let mut returning = false;
        loop {
            if returning && pending.all_answered() {
                return End::Return;
            }
            if !returning {
                while let Some(out) = session.out(batch) {
                    if !pending.send(out, topic, batch, record) {
                        break;
                    }
                }
            }
            let deadline = pending.deadline();
            // cancel-safe: see Session::step and Pending::gather
            tokio::select! {
                biased;
                () = closing.cancelled() => return End::Closed,
                step = session.step() => match step {
                    Ok(Step::Written) => {}
                    Ok(Step::Acknowledged) if pending.acknowledged() => {}
                    Ok(Step::Acknowledged) => return End::Lost("it acknowledged more than was sent".into()),
                    Err(Ended::Lost(reason)) => return End::Lost(reason),
                    Err(Ended::Refused(refusal)) => return match refusal.bound {
                        // a bound that was kept is not the reason
                        Some(bound @ Bound::Record(limit)) if limit < record => End::Bound(bound),
                        Some(bound @ Bound::Batch(limit)) if limit < batch => End::Bound(bound),
                        _ => End::Failed(format!("it refuses: {}", refusal.words)),
                    },
                },
                () = pending.gather() => {}
                () = &mut better, if !returning => returning = true,
                () = until(deadline) => if pending.expire(Instant::now(), None) {
                    return End::Failed("it did not acknowledge within publish_timeout".into());
                },
            }
        }
    }
}

/// Why a push is not published whose time ends between two connections.
const CHANGING: &str = "the connection to nsqd is being changed; try again";

/// Never, for no deadline.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
