//! nsqd as the queue: consumes through tokio-nsq (docs/adr/0001 lists its defects), publishes over a connection of its own.
//!
//! Records go to the topic `<topic>.live`, which each node reads through a durable channel of its own; raw pushes of other
//! NSQ clients come from `<topic>` through a channel that all nodes share.
//!
//! ```text
//! publish ─▶ publisher (one producer at a time, FIFO acks) ─▶ nsqd ─▶ consumer (one for each nsqd) ─▶ jobs
//!                               nsqlookupd ─▶ discovery (which consumers there are) ┘
//! ```

mod acker;
mod admin;
mod channel_hold;
mod channels;
mod consumer;
mod copies;
mod discovery;
mod health;
mod liveness;
mod node_topics;
mod nsqds;
mod pending;
mod producer;
pub mod protocol;
mod publisher;
mod raw;
mod topics;

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    admin::{Admin, NsqdAddress},
    channel_hold::{ChannelHold, HoldScope},
    consumer::TopicContext,
    health::Health,
    topics::Topics,
};
use super::{
    BackendControl, Control as QueueControl, Jobs, OpenError, Publisher as QueuePublisher, Queue,
    clients_before::ClientsNote,
    replay_hold::{HoldEnd, ReplayHold, StopNote},
};
use crate::{
    config,
    lifecycle::{Backoff, Deadline, Service, Tasks},
    telemetry::{Metrics, labels::NsqSide},
};

pub(crate) use acker::Acker;
pub(crate) use channel_hold::HoldSignals;
pub use channels::forget_node;
pub use node_topics::{NodeTopicReader, NodeTopics};
pub(crate) use publisher::Publisher;
pub(crate) use raw::{Origin, RawControl};
pub use raw::{RawJob, RawTopic, RawTopics};

/// Longest wait for a TCP connection to an nsqd.
const CONNECT: Duration = Duration::from_secs(2);
/// Waits between attempts to connect.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A connection that lived this long was a good one: the next is made without a wait.
const LIVED: Duration = Duration::from_secs(5);

/// Between tries to reach an nsqd.
fn backoff() -> Backoff {
    Backoff::new(SHORTEST_WAIT, LONGEST_WAIT)
}

/// Opens the queue of the node of this id on the nsqds of `[queue] nsqd`, and the topics that others write to beside it. `members` are the ids of
/// the living nodes that hold clients, this one too: the channel of each is created at an nsqd before the first publish there; none
/// are known without a cluster. With a directory the topics of nodes that are gone can be read, too. An nsqd that is away is no error: the state says it. A node that holds no clients reads no channel: its
/// jobs end at once; one that takes no pushes reads no topics of others.
///
/// # Errors
/// A name that NSQ does not take, or no nsqd to talk to.
pub async fn open(
    config: &config::QueueConfig,
    node: &config::NodeId,
    members: watch::Receiver<Vec<String>>,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<(Queue, Option<RawTopics>, Option<NodeTopics>), OpenError> {
    if config.nsqd.is_empty() {
        return Err(OpenError("[queue] nsqd is empty; name at least one nsqd (host:port) to publish to".into()));
    }
    let admin = Admin::new(config.lookup_timeout).map_err(OpenError)?;
    let (health, state) = Health::new(metrics.clone());
    let (backlog, has_backlog) = watch::channel(false);
    tasks.spawn_until_done("nsq health", {
        let (state, notes) = (state.clone(), health.notes());
        let cancelled = tasks.cancelled();
        async move {
            let log = async { tokio::join!(health::log_changes(state), health::log_notes(notes)) };
            cancelled.run_until_cancelled(log).await;
        }
    });
    let nsq = NsqContext {
        config: Arc::new(config.clone()),
        topics: Arc::new(Topics::new(config)),
        node: node.as_str().into(),
        admin,
        health,
        metrics: metrics.clone(),
    };
    // whoever joins the moment that the node serves must get what any node publishes from then on; an nsqd that is away now
    // has nothing to miss, and gets the channel once it is back
    if config.roles.has_socket()
        && let Err(error) = channels::create_everywhere(&nsq.admin, config, node.as_str()).await
    {
        tracing::debug!(error, "nsq: not every nsqd has the node's channel yet");
    }
    // clients of a node that is alone come back to it
    let is_alone = config.roles.has_socket() && members.borrow().len() <= 1;
    let note = || ClientsNote::of_node(&config.dir, node.as_str());
    let stop_note = is_alone.then(|| StopNote::after(note(), config.replay_hold, false));
    let plan = stop_note.as_ref().and_then(StopNote::plan);
    let missing = plan.and_then(|plan| plan.missing.clone());
    let time = plan.map_or(config.replay_hold, |plan| plan.time);
    let scope = if is_alone { HoldScope::All } else { HoldScope::Old };
    let channel_hold = ChannelHold::new(scope, time, missing.is_some(), backlog);
    let end = HoldEnd::Nsq(channel_hold.signals().clone());
    let hold = ReplayHold { missing: missing.unwrap_or_default(), end };
    let own = Some(channel_hold.clone());
    let consumers = TopicConsumers::new(config.max_in_flight);
    let mut own_topics =
        vec![TopicContext::new(&nsq, "live", &nsq.topics.live, node.as_str(), own, consumers.clone())?];
    if config.node_topics {
        // nothing is held in it: whoever its pushes are for may be at another node by now
        let topic = nsq.topics.of_node(node.as_str());
        own_topics.push(TopicContext::new(&nsq, "node", &topic, node.as_str(), None, consumers.clone())?);
    }
    // a raw push is published before it is finished, so that more in flight than may be published would only be refused
    let max_raw = config.max_in_flight.min(config.max_publishes.div_ceil(2));
    let raw = config.roles.has_ingress().then(|| RawContexts::new(&nsq, max_raw)).transpose()?;
    // the publisher and the consumers, which outlive the hand-outs
    let connections = tasks.service();
    let publisher = publisher::start(&nsq, members, &connections);
    let backend = Control {
        hold: channel_hold,
        publisher: publisher.clone(),
        live: consumers,
        raw: raw.iter().flat_map(RawContexts::all).map(|topic| topic.consumers.clone()).collect(),
        connections: connections.clone(),
    };
    let queue = Queue {
        publisher: QueuePublisher::Nsq(publisher),
        jobs: if config.roles.has_socket() { discovery::start_all(own_topics, &connections) } else { Jobs::none() },
        control: QueueControl {
            state,
            notes: nsq.health.notes(),
            backlog: has_backlog,
            hold: config.roles.has_socket().then_some(hold),
            stop_note,
            backend: BackendControl::Nsq(backend),
        },
    };
    let start = |topic: TopicContext| {
        let name = topic.name.clone();
        let consumers = topic.consumers.clone();
        RawTopic { name, jobs: discovery::start(topic, &connections), consumers }
    };
    let raw = raw.map(|RawContexts { pushes, tags }| RawTopics {
        pushes: start(pushes),
        tags: tags.into_iter().map(start).collect(),
    });
    let gone = config.node_topics.then(|| NodeTopics::new(nsq, tasks));
    Ok((queue, raw, gone))
}

/// The topics of other NSQ clients.
struct RawContexts {
    pushes: TopicContext,
    tags: Vec<TopicContext>,
}

impl RawContexts {
    fn new(nsq: &NsqContext, max_in_flight: usize) -> Result<Self, OpenError> {
        let context = |group: &str, topic: &str| {
            TopicContext::new(nsq, group, topic, &nsq.config.channel, None, TopicConsumers::new(max_in_flight))
        };
        let tag = |tag: &String| context(&format!("tag {tag}"), tag);
        let tags = nsq.config.tag_topics.iter().map(tag).collect::<Result<_, _>>()?;
        Ok(Self { pushes: context("raw", &nsq.topics.raw)?, tags })
    }

    fn all(&self) -> impl Iterator<Item = &TopicContext> {
        [&self.pushes].into_iter().chain(&self.tags)
    }
}

/// What all parts need.
#[derive(Clone)]
struct NsqContext {
    config: Arc<config::QueueConfig>,
    topics: Arc<Topics>,
    node: Arc<str>,
    admin: Admin,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl NsqContext {
    /// The configured nsqds.
    fn nsqds(&self) -> Vec<NsqdAddress> {
        let http = self.config.nsqd_http.iter().cloned().map(Some).chain(std::iter::repeat(None));
        self.config.nsqd.iter().cloned().zip(http).map(|(tcp, http)| NsqdAddress { tcp, http }).collect()
    }

    fn rebuilt(&self, side: NsqSide, address: &str, reason: &str) {
        tracing::warn!(side = side.word(), nsqd = address, reason, "nsq: the connection is built anew");
        self.metrics.queue_rebuilds.get_or_create(&side).inc();
    }

    /// What each of tokio-nsq's clients is built with.
    fn tokio_nsq_config(&self) -> tokio_nsq::NSQConfigShared {
        tokio_nsq::NSQConfigShared::new()
            .set_flush_interval(self.config.flush_interval)
            .set_backoff_max_wait(Duration::from_secs(2))
            .set_backoff_healthy_after(Duration::from_secs(5))
            // two and a half heartbeats
            .set_read_timeout(Some(Duration::from_secs(75)))
            .set_user_agent(concat!("oxipush/", env!("CARGO_PKG_VERSION")))
    }
}

/// The consumers of one topic together: what bounds and stops their hand-outs.
#[derive(Clone)]
struct TopicConsumers {
    max_in_flight: usize,
    /// One for each job in flight.
    permits: Arc<Semaphore>,
    stopped: CancellationToken,
    /// Who has yet to stop.
    stopping: TaskTracker,
}

impl TopicConsumers {
    fn new(max_in_flight: usize) -> Self {
        Self {
            max_in_flight,
            permits: Arc::new(Semaphore::new(max_in_flight)),
            stopped: CancellationToken::new(),
            stopping: TaskTracker::new(),
        }
    }

    /// Hands out no more.
    async fn stop(&self) {
        self.stopped.cancel();
        self.stopping.close();
        self.stopping.wait().await;
    }

    /// Resolves once no job is in flight.
    async fn idle(&self) {
        let all = u32::try_from(self.max_in_flight).unwrap_or(u32::MAX);
        let _ = self.permits.acquire_many(all).await;
    }
}

/// See [`super::Control`].
pub(crate) struct Control {
    hold: ChannelHold,
    publisher: Publisher,
    live: TopicConsumers,
    /// Of the raw topic and of the tags'.
    raw: Vec<TopicConsumers>,
    connections: Service,
}

impl Control {
    /// Nothing is handed out yet, since clients are missing.
    pub(crate) fn is_held(&self) -> bool {
        self.hold.is_on()
    }

    pub(crate) async fn stop_jobs(&self) {
        for raw in &self.raw {
            raw.stop().await;
        }
        self.live.stop().await;
    }

    pub(crate) async fn close(self, deadline: Deadline) {
        let idle = async {
            self.stop_jobs().await;
            self.live.idle().await;
            for raw in &self.raw {
                raw.idle().await;
            }
            self.publisher.idle().await;
        };
        if deadline.timeout(idle).await.is_err() {
            tracing::warn!("nsq: closed with jobs in flight; nsqd gives them out again after its --msg-timeout");
        }
        // the last FINs need their flush even when nothing is left of the time
        if !self.connections.stop_within(deadline.granting(Duration::from_secs(1))).await {
            tracing::warn!("nsq: its connections did not end in time");
        }
    }
}
