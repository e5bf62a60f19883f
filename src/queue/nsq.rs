//! nsqd as the queue: the only place that knows tokio-nsq, which consumes and whose traps docs/adr tells; publishing is our own.
//!
//! Records go to the topic `<topic>.live`, which each node reads through a durable channel of its own; raw pushes of other
//! NSQ clients come from `<topic>` through a channel that all nodes share.
//!
//! ```text
//! publish ─▶ publisher (one session at a time, FIFO acks) ─▶ nsqd ─▶ link (one for each nsqd) ─▶ jobs
//!                                    nsqlookupd ─▶ fleet (which links there are) ┘
//! ```

mod admin;
mod fleet;
mod hand;
mod health;
mod link;
mod nsqds;
mod pending;
pub mod protocol;
mod publisher;
mod sentinel;
mod session;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};
use tokio_nsq::{NSQChannel, NSQTopic};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    admin::{Admin, Daemon},
    health::Health,
};
use super::{BackendControl, Control as QueueControl, Jobs, OpenError, Publisher as QueuePublisher, Queue};
use crate::{bundles, config, lifecycle::Tasks, telemetry::Metrics};

pub use admin::forget_node;
pub(crate) use hand::Hand;
pub use publisher::Publisher;

/// Longest wait for a TCP connection to an nsqd.
const CONNECT: Duration = Duration::from_secs(2);
/// Waits between attempts to connect.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A connection that lived this long was a good one: the next is made without a wait.
const LIVED: Duration = Duration::from_secs(5);

/// Waits between tries: each twice as long as the one before, and spread, so that nodes do not come back in step.
struct Backoff {
    next: Duration,
}

impl Backoff {
    fn new() -> Self {
        Self { next: SHORTEST_WAIT }
    }

    fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST_WAIT);
        wait.mul_f64(0.5 + fastrand::f64())
    }
}

/// See [`super::open`].
///
/// # Errors
/// A name that NSQ does not take, or no nsqd to talk to.
pub async fn open(
    config: &config::Queue,
    node: &config::NodeId,
    members: watch::Receiver<Vec<String>>,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<Queue, OpenError> {
    if config.nsqd.is_empty() {
        return Err(OpenError("[queue] nsqd is empty; name at least one nsqd (host:port) to publish to".into()));
    }
    let admin = Admin::new(config.lookup_timeout).map_err(OpenError)?;
    let (health, state) = Health::new(metrics.clone());
    let (backlog, has_backlog) = watch::channel(false);
    tasks.spawn_until_done("nsq health", {
        let (state, cancelled) = (state.clone(), tasks.cancelled());
        async move {
            cancelled.run_until_cancelled(health::tell(state)).await;
        }
    });
    let live = admin::live(config);
    let base =
        Base { config: Arc::new(config.clone()), node: node.as_str().into(), admin, health, metrics: metrics.clone() };
    // whoever joins the moment that the node serves must get what any node publishes from then on; an nsqd that is away now
    // has nothing to miss, and gets the channel once it is back
    if let Err(error) = base.admin.lay_everywhere(config, &live, node.as_str()).await {
        tracing::debug!(error, "nsq: not every nsqd has the node's channel yet");
    }
    // separate: the publisher and the links outlive the hand-outs
    let (closing, tracker) = (tasks.cancelled().child_token(), TaskTracker::new());
    let publisher = publisher::start(&base, members, &live, &closing, &tracker, tasks);
    let start = |group: &'static str, name: &str, channel: &str, bound: usize| {
        let (jobs, bundles) = bundles::channel(bound);
        let stop = closing.child_token();
        let hands = Arc::new(Semaphore::new(bound));
        let names = (topic(name)?, self::channel(channel)?);
        let (own, hold) = ((group == "live").then(|| backlog.clone()), Arc::default());
        let setup = link::Setup {
            base: base.clone(),
            group,
            topic: name.into(),
            channel: channel.into(),
            names,
            own,
            started: Instant::now(),
            hold,
            max_in_flight: bound,
            hands: hands.clone(),
            client_id: format!("{}-{:016x}", node.as_str(), fastrand::u64(..)),
        };
        let pausing = TaskTracker::new();
        let life = fleet::Life {
            jobs,
            stopped: stop.clone(),
            closing: closing.clone(),
            pausing: pausing.clone(),
            tracker: tracker.clone(),
            tasks: tasks.clone(),
        };
        fleet::start(setup, life);
        pausing.close();
        Ok::<_, OpenError>((Jobs { bundles }, Side { hands, bound, stop, pausing }))
    };
    let (jobs, live_side) = start("live", &live, node.as_str(), config.max_in_flight)?;
    // a raw push is published before it is finished, so that more in hand than may be published would only be refused
    let bound = config.max_in_flight.min(config.max_publishes.div_ceil(2));
    let (raw, raw_side) = start("raw", &config.topic, &config.channel, bound)?;
    let backend = Control { publisher: publisher.clone(), closing, tracker, live: live_side, raw: raw_side };
    Ok(Queue {
        publisher: QueuePublisher::Nsq(publisher),
        jobs,
        raw: Some(raw),
        control: QueueControl { state, backlog: has_backlog, backend: BackendControl::Nsq(backend) },
    })
}

fn topic(name: &str) -> Result<Arc<NSQTopic>, OpenError> {
    NSQTopic::new(name).ok_or_else(|| OpenError(format!("NSQ takes no topic {name:?}; correct [queue] topic")))
}

fn channel(name: &str) -> Result<Arc<NSQChannel>, OpenError> {
    let fault = || OpenError(format!("NSQ takes no channel {name:?}; correct [queue] channel or [node] id"));
    NSQChannel::new(name).ok_or_else(fault)
}

/// What all parts need.
#[derive(Clone)]
struct Base {
    config: Arc<config::Queue>,
    node: Arc<str>,
    admin: Admin,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Base {
    /// The configured nsqds.
    fn daemons(&self) -> Vec<Daemon> {
        let http = self.config.nsqd_http.iter().cloned().map(Some).chain(std::iter::repeat(None));
        self.config.nsqd.iter().cloned().zip(http).map(|(tcp, http)| Daemon { tcp, http }).collect()
    }

    fn rebuilt(&self, side: &'static str, address: &str, reason: &str) {
        tracing::warn!(side, nsqd = address, reason, "nsq: the connection is built anew");
        self.metrics.queue_rebuilds.get_or_create(&[("side", side)]).inc();
    }

    fn shared(&self) -> tokio_nsq::NSQConfigShared {
        tokio_nsq::NSQConfigShared::new()
            .set_flush_interval(self.config.flush_interval)
            .set_backoff_max_wait(Duration::from_secs(2))
            .set_backoff_healthy_after(Duration::from_secs(5))
            // two and a half heartbeats
            .set_read_timeout(Some(Duration::from_secs(75)))
            .set_user_agent(concat!("oxipush/", env!("CARGO_PKG_VERSION")))
    }
}

/// The jobs of one topic, as [`Control`] sees them.
struct Side {
    /// A permit for each job that is in hand.
    hands: Arc<Semaphore>,
    bound: usize,
    stop: CancellationToken,
    /// Who has yet to stop.
    pausing: TaskTracker,
}

impl Side {
    /// Hands out no more.
    async fn stop(&self) {
        self.stop.cancel();
        self.pausing.wait().await;
    }
}

/// See [`super::Control`].
pub(crate) struct Control {
    publisher: Publisher,
    closing: CancellationToken,
    tracker: TaskTracker,
    live: Side,
    raw: Side,
}

impl Control {
    pub(crate) async fn stop_jobs(&self) {
        self.stop_raw().await;
        self.live.stop().await;
    }

    pub(crate) async fn stop_raw(&self) {
        self.raw.stop().await;
    }

    pub(crate) async fn close(self, within: Duration) {
        let deadline = Instant::now() + within;
        let idle = async {
            self.stop_jobs().await;
            for side in [&self.live, &self.raw] {
                let _ = side.hands.acquire_many(u32::try_from(side.bound).unwrap_or(u32::MAX)).await;
            }
            self.publisher.idle().await;
        };
        if timeout_at(deadline, idle).await.is_err() {
            tracing::warn!("nsq: closed with jobs in hand; nsqd gives them out again after its --msg-timeout");
        }
        self.closing.cancel();
        self.tracker.close();
        // the last FINs need their flush even when nothing is left of the time
        let deadline = deadline.max(Instant::now() + Duration::from_secs(1));
        if timeout_at(deadline, self.tracker.wait()).await.is_err() {
            tracing::warn!("nsq: its connections did not end in time");
        }
    }
}
