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
use tokio_util::sync::CancellationToken;

use super::{
    LIVED, LONGEST_WAIT, NsqContext, SHORTEST_WAIT, backoff,
    nsqds::{ConnectedNsqd, MAX_MESSAGE, Nsqds},
    pending::{Pending, PendingPublish},
    producer::{ProducerError, ProducerEvent},
    protocol::SizeLimit,
};
use crate::{
    lifecycle::{Backoff, Service},
    queue::{Destination, PublishError, waiter::Waiter},
    telemetry::{Metrics, labels::NsqSide},
};

/// See [`crate::queue::Publisher`].
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<PublisherShared>,
}

struct PublisherShared {
    inbox: mpsc::Sender<PendingPublish>,
    /// One for each publish that waits.
    permits: Arc<Semaphore>,
    max_publishes: usize,
    timeout: Duration,
    /// Bytes of a record that the nsqd takes which is published to.
    max_record: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Publisher {
    /// The record is on its way when this returns.
    pub(crate) fn publish(
        &self,
        destination: Destination,
        record: Bytes,
    ) -> Result<impl Future<Output = Result<(), PublishError>> + use<>, PublishError> {
        let shared = &self.shared;
        let bytes = record.len();
        let limit = shared.max_record.load(Ordering::Relaxed);
        if bytes > limit {
            return Err(PublishError::TooLarge { bytes, limit });
        }
        if bytes == 0 {
            return Err(PublishError::Unavailable("nsqd takes no empty record".into()));
        }
        let full = PublishError::Full("[queue] max_publishes wait for nsqd already; try again later");
        let Ok(permit) = shared.permits.clone().try_acquire_owned() else { return Err(full) };
        let (waiter, outcome) = Waiter::new(&shared.metrics);
        let deadline = Instant::now() + shared.timeout;
        let publish = PendingPublish { destination, record, deadline, waiter, _permit: permit };
        let closed = || PublishError::Unavailable("the gateway is stopping".into());
        shared.inbox.try_send(publish).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        Ok(async move { outcome.await.unwrap_or_else(|_| Err(closed())) })
    }

    /// Resolves once nothing waits for an acknowledgement.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(self.shared.max_publishes).unwrap_or(u32::MAX);
        let _ = self.shared.permits.acquire_many(all).await;
    }
}

/// Starts the publisher; it ends with the other connections.
pub(super) fn start(nsq: &NsqContext, members: watch::Receiver<Vec<String>>, connections: &Service) -> Publisher {
    let max_publishes = nsq.config.max_publishes;
    let (inbox, requests) = mpsc::channel(max_publishes);
    let publisher = Publisher {
        shared: Arc::new(PublisherShared {
            inbox,
            permits: Arc::new(Semaphore::new(max_publishes)),
            max_publishes,
            timeout: nsq.config.publish_timeout,
            max_record: AtomicUsize::new(MAX_MESSAGE),
            metrics: nsq.metrics.clone(),
        }),
    };
    let task = PublisherTask {
        nsq: nsq.clone(),
        nsqds: Nsqds::new(nsq.clone(), members),
        pending: Pending::new(requests),
        closing: connections.stopping().clone(),
        publisher: publisher.clone(),
    };
    connections.spawn("nsq publisher", task.run());
    publisher
}

/// Why a connection is not used any more.
enum ConnectionEnd {
    /// The queue is closed.
    Closed,
    /// It is gone.
    Lost {
        reason: String,
        /// Whether nsqd acknowledged anything over it.
        acknowledged: bool,
    },
    /// nsqd does not acknowledge, or refuses for a reason of its own.
    Failed(String),
    /// nsqd told a limit that some of what was sent passes.
    Limit(SizeLimit),
    /// An nsqd that stands before this one works: the connection to it.
    Better(ConnectedNsqd),
}

struct PublisherTask {
    nsq: NsqContext,
    nsqds: Nsqds,
    pending: Pending,
    closing: CancellationToken,
    /// As long as the task lives its inbox stays open.
    publisher: Publisher,
}

impl PublisherTask {
    async fn run(mut self) {
        // an nsqd that ends every connection is not asked in a hurry
        let mut backoff = Backoff::new(SHORTEST_WAIT / 4, LONGEST_WAIT);
        let mut pause = Duration::ZERO;
        let mut reason = "no nsqd was reached yet".to_owned();
        let mut better = None;
        loop {
            let connected = match better.take() {
                Some(connected) => connected,
                None => match self.connect(pause, reason).await {
                    Some(connected) => connected,
                    None => break,
                },
            };
            let started = Instant::now();
            let index = connected.index;
            self.publisher.shared.max_record.store(connected.max_record, Ordering::Relaxed);
            let end = self.serve(connected).await;
            self.pending.lost();
            let address = self.nsqds.address(index).to_owned();
            let short = started.elapsed() <= LIVED;
            reason = match end {
                ConnectionEnd::Closed => break,
                ConnectionEnd::Better(connected) => {
                    let nsqd = self.nsqds.address(connected.index);
                    tracing::info!(nsqd, from = address, "nsq: an earlier nsqd of the list is back");
                    better = Some(connected);
                    pause = Duration::ZERO;
                    reason = CHANGING.into();
                    continue;
                }
                ConnectionEnd::Limit(limit) => {
                    tracing::info!(
                        nsqd = address,
                        ?limit,
                        "nsq: nsqd told its limit; what passes it is refused from now on"
                    );
                    self.nsqds.learn(index, limit);
                    pause = Duration::ZERO;
                    reason = CHANGING.into();
                    continue;
                }
                ConnectionEnd::Lost { reason, acknowledged } => {
                    self.nsqds.lost(index);
                    // one that greets and then closes, again and again
                    if short && !acknowledged {
                        self.nsqds.failed(index);
                    }
                    reason
                }
                ConnectionEnd::Failed(reason) => {
                    self.nsqds.failed(index);
                    reason
                }
            };
            if short {
                pause = backoff.next_wait();
            } else {
                backoff.reset();
                pause = Duration::ZERO;
            }
            self.nsq.rebuilt(NsqSide::Publisher, &address, &reason);
            reason = format!("nsqd {address}: {reason}");
        }
        self.pending.end();
    }

    /// A connection to an nsqd that works, while pushes gather and expire for `reason`; `None` once the queue is closed.
    async fn connect(&mut self, mut pause: Duration, mut reason: String) -> Option<ConnectedNsqd> {
        let Self { nsqds, pending, closing, .. } = self;
        let nsqds = &*nsqds;
        let mut backoff = backoff();
        loop {
            let connecting = async move {
                sleep(pause).await;
                nsqds.first_that_works().await
            };
            tokio::pin!(connecting);
            let connected = loop {
                let deadline = pending.deadline();
                // cancel-safe: what is gathered is kept at once
                tokio::select! {
                    biased;
                    () = closing.cancelled() => return None,
                    connected = &mut connecting => break connected,
                    () = pending.gather() => {}
                    () = until(deadline) => {
                        pending.expire(Instant::now(), Some(&reason));
                    }
                }
            };
            match connected {
                Ok(connected) => {
                    // what has no time left is not this nsqd's to answer
                    pending.expire(Instant::now(), Some(&reason));
                    return Some(connected);
                }
                Err(why) => reason = why,
            }
            pause = backoff.next_wait();
        }
    }

    async fn serve(&mut self, connected: ConnectedNsqd) -> ConnectionEnd {
        let Self { nsq, nsqds, pending, closing, .. } = self;
        let ConnectedNsqd { index, mut producer, max_record, max_batch } = connected;
        let find_better = nsqds.better(index);
        tokio::pin!(find_better);
        let mut better = None;
        let mut acknowledged = false;
        loop {
            if pending.all_answered()
                && let Some(better) = better
            {
                return ConnectionEnd::Better(better);
            }
            if better.is_none() {
                while let Some(out) = producer.out(max_batch) {
                    if !pending.send(out, &nsq.topics, max_batch, max_record) {
                        break;
                    }
                }
            }
            let deadline = pending.deadline();
            // cancel-safe: see Producer::step and Pending::gather
            tokio::select! {
                biased;
                () = closing.cancelled() => return ConnectionEnd::Closed,
                step = producer.step() => match step {
                    Ok(ProducerEvent::Written) => {}
                    Ok(ProducerEvent::Acknowledged) if pending.acknowledged() => acknowledged = true,
                    Ok(ProducerEvent::Acknowledged) => {
                        let reason = "it acknowledged more than was sent".into();
                        return ConnectionEnd::Lost { reason, acknowledged };
                    }
                    Err(ProducerError::Lost(reason)) => return ConnectionEnd::Lost { reason, acknowledged },
                    Err(ProducerError::Refused(error)) => return match error.limit {
                        // a limit that was kept is not the reason
                        Some(limit @ SizeLimit::Record(bytes)) if bytes < max_record => ConnectionEnd::Limit(limit),
                        Some(limit @ SizeLimit::Batch(bytes)) if bytes < max_batch => ConnectionEnd::Limit(limit),
                        _ => ConnectionEnd::Failed(format!("it refuses: {}", error.words)),
                    },
                },
                () = pending.gather() => {}
                found = &mut find_better, if better.is_none() => better = Some(found),
                () = until(deadline) => if pending.expire(Instant::now(), None) {
                    return ConnectionEnd::Failed("it did not acknowledge within publish_timeout".into());
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
