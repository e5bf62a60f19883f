//! Publishing: a task for each copy owns one connection at a time, to the first nsqd of the list that works and that no other
//! of these tasks has.

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
    copies::{MOST, PublishWaiter, PublisherPlaces},
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
    /// Of the task for each copy.
    inboxes: Vec<PublisherInbox>,
    max_publishes: usize,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

/// What one publisher task takes.
struct PublisherInbox {
    requests: mpsc::Sender<PendingPublish>,
    /// One for each publish that waits.
    permits: Arc<Semaphore>,
    /// Bytes of a record that the nsqd takes which is published to.
    max_record: AtomicUsize,
}

impl PublisherInbox {
    fn new(max_publishes: usize) -> (Self, mpsc::Receiver<PendingPublish>) {
        let (requests, inbox) = mpsc::channel(max_publishes);
        let permits = Arc::new(Semaphore::new(max_publishes));
        (Self { requests, permits, max_record: AtomicUsize::new(MAX_MESSAGE) }, inbox)
    }

    /// Takes what another task had taken; it comes back where too much waits here.
    fn take_over(&self, mut push: PendingPublish) -> Option<PendingPublish> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return Some(push) };
        push.permit = permit;
        match self.requests.try_send(push) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(push) | mpsc::error::TrySendError::Closed(push)) => Some(push),
        }
    }
}

impl Publisher {
    /// The record is on its way when this returns.
    pub(crate) fn publish(
        &self,
        destination: Destination,
        record: Bytes,
    ) -> Result<impl Future<Output = Result<(), PublishError>> + use<>, PublishError> {
        let shared = &self.shared;
        let inboxes = match destination {
            Destination::Live | Destination::Node(_) => &shared.inboxes[..],
            Destination::Events => &shared.inboxes[..1],
        };
        let bytes = record.len();
        let limits = inboxes.iter().map(|inbox| inbox.max_record.load(Ordering::Relaxed));
        let limit = limits.min().unwrap_or(MAX_MESSAGE);
        if bytes > limit {
            return Err(PublishError::TooLarge { bytes, limit });
        }
        if bytes == 0 {
            return Err(PublishError::Unavailable("nsqd takes no empty record".into()));
        }
        let (waiter, outcome) = Waiter::new(&shared.metrics);
        let deadline = Instant::now() + shared.timeout;
        match inboxes {
            [one] => {
                let permit = one.permits.clone().try_acquire_owned().map_err(|_| FULL)?;
                let waiter = PublishWaiter::One(waiter);
                let publish = PendingPublish { destination, record, deadline, waiter, permit };
                one.requests.try_send(publish).map_err(|error| match error {
                    mpsc::error::TrySendError::Full(_) => FULL,
                    mpsc::error::TrySendError::Closed(_) => closed(),
                })?;
            }
            several => {
                let permits = several.iter().map(|inbox| inbox.permits.clone().try_acquire_owned().ok());
                let permits: Vec<_> = permits.collect();
                if permits.iter().all(Option::is_none) {
                    return Err(FULL);
                }
                let waiters = PublishWaiter::copies(waiter, &shared.metrics.copies_missing);
                for ((inbox, permit), waiter) in several.iter().zip(permits).zip(waiters) {
                    // one that hangs must not keep the others from taking more
                    let Some(permit) = permit else {
                        waiter.resolve(Err(FULL));
                        continue;
                    };
                    let (destination, record) = (destination.clone(), record.clone());
                    let publish = PendingPublish { destination, record, deadline, waiter, permit };
                    if let Err(error) = inbox.requests.try_send(publish) {
                        error.into_inner().waiter.resolve(Err(closed()));
                    }
                }
            }
        }
        Ok(async move { outcome.await.unwrap_or_else(|_| Err(closed())) })
    }

    /// Resolves once nothing waits for an acknowledgement.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(self.shared.max_publishes).unwrap_or(u32::MAX);
        for inbox in &self.shared.inboxes {
            let _ = inbox.permits.acquire_many(all).await;
        }
    }
}

const FULL: PublishError = PublishError::Full("[queue] max_publishes wait for nsqd already; try again later");

fn closed() -> PublishError {
    PublishError::Unavailable("the gateway is stopping".into())
}

/// Starts the publisher; it ends with the other connections.
pub(super) fn start(nsq: &NsqContext, members: watch::Receiver<Vec<String>>, connections: &Service) -> Publisher {
    let max_publishes = nsq.config.max_publishes;
    let copies = nsq.config.copies.clamp(1, MOST);
    let (inboxes, requests): (Vec<_>, Vec<_>) = (0..copies).map(|_| PublisherInbox::new(max_publishes)).unzip();
    let timeout = nsq.config.publish_timeout;
    let shared = PublisherShared { inboxes, max_publishes, timeout, metrics: nsq.metrics.clone() };
    let publisher = Publisher { shared: Arc::new(shared) };
    let places = PublisherPlaces::new();
    for (number, requests) in requests.into_iter().enumerate() {
        let task = PublisherTask {
            number,
            nsq: nsq.clone(),
            nsqds: Nsqds::new(nsq.clone(), members.clone(), number, places.clone()),
            places: places.clone(),
            pending: Pending::new(requests),
            closing: connections.stopping().clone(),
            publisher: publisher.clone(),
        };
        connections.spawn(format!("nsq publisher {number}"), task.run());
    }
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
    /// Of the copy that it publishes.
    number: usize,
    nsq: NsqContext,
    nsqds: Nsqds,
    places: PublisherPlaces,
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
            self.publisher.shared.inboxes[self.number].max_record.store(connected.max_record, Ordering::Relaxed);
            let end = self.serve(connected).await;
            self.pending.lost();
            let address = self.nsqds.address(index).to_owned();
            let short = started.elapsed() <= LIVED;
            reason = match end {
                ConnectionEnd::Closed => break,
                ConnectionEnd::Better(connected) => {
                    if self.places.choose(self.number, connected.index) {
                        let nsqd = self.nsqds.address(connected.index);
                        tracing::info!(nsqd, from = address, "nsq: an earlier nsqd of the list is back");
                        better = Some(connected);
                    }
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
        self.places.release(self.number);
        let Self { number, nsqds, places, pending, closing, publisher, .. } = self;
        let nsqds = &*nsqds;
        let inboxes = &publisher.shared.inboxes;
        let mut changes = places.watch();
        let away_at = Instant::now() + AWAY_AFTER;
        let mut is_away = false;
        let mut backoff = backoff();
        loop {
            let connecting = async move {
                sleep(pause).await;
                nsqds.first_that_works().await
            };
            tokio::pin!(connecting);
            let connected = loop {
                if let Some(substitute) = places.substitute(*number, inboxes.len()) {
                    pending.give_up(&reason, |push| inboxes[substitute].take_over(push));
                }
                let deadline = pending.deadline();
                // cancel-safe: what is gathered is kept at once
                tokio::select! {
                    biased;
                    () = closing.cancelled() => return None,
                    connected = &mut connecting => break connected,
                    () = pending.gather() => {}
                    () = changes.changed() => {}
                    () = sleep_until(away_at), if !is_away => {
                        is_away = true;
                        places.set_away(*number);
                    }
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
            if !is_away {
                is_away = true;
                places.set_away(*number);
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

/// A publisher that has found no nsqd for so long lets the other copies do.
const AWAY_AFTER: Duration = Duration::from_millis(500);

/// Why a push is not published whose time ends between two connections.
const CHANGING: &str = "the connection to nsqd is being changed; try again";

/// Never, for no deadline.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
