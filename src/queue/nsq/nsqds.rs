//! Which nsqd a publisher publishes to: the first of the list that works and that no other publisher has.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    NsqContext,
    admin::NsqdAddress,
    channels,
    copies::PublisherPlaces,
    health::{PUBLISHER, PartHealth},
    producer::Producer,
    protocol::SizeLimit,
};
use crate::lifecycle::Backoff;

/// nsqd's default `--max-msg-size`, until it is known to be another.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// How long a connection or a probe may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// An nsqd that has not answered for this long is left to go on while the next of the list is tried.
const STAGGER: Duration = Duration::from_millis(250);
/// The longest penalty of an nsqd that fails again and again, in times of the first.
const LONGEST_PENALTY: u32 = 64;

/// The nsqds of `[queue] nsqd`.
pub(super) struct Nsqds {
    nsq: NsqContext,
    list: Vec<Nsqd>,
    /// Whose channels are created before the first record comes.
    members: watch::Receiver<Vec<String>>,
    /// Whose they are: the number of the publisher.
    publisher: usize,
    places: PublisherPlaces,
}

/// One nsqd, and what is known of it.
struct Nsqd {
    address: NsqdAddress,
    penalty: Option<Penalty>,
    /// How long the penalties are: longer each time it fails again soon.
    penalties: Backoff,
    /// The limits that it told by refusing what passes them, since it runs.
    max_record: Option<usize>,
    max_batch: Option<usize>,
}

/// It did not do what it should: it is the last to be chosen for a while, and only after an acknowledged probe.
#[derive(Clone, Copy)]
struct Penalty {
    until: Instant,
    wait: Duration,
}

impl Nsqd {
    fn is_last(&self) -> bool {
        self.penalty.is_some_and(|penalty| penalty.until > Instant::now())
    }
}

/// A connection to an nsqd that worked when it was made.
pub(super) struct ConnectedNsqd {
    /// Its place in the list.
    pub(super) index: usize,
    pub(super) producer: Producer,
    /// Bytes of a record and of a batch that it takes.
    pub(super) max_record: usize,
    pub(super) max_batch: usize,
}

impl Nsqds {
    pub(super) fn new(
        nsq: NsqContext,
        members: watch::Receiver<Vec<String>>,
        publisher: usize,
        places: PublisherPlaces,
    ) -> Self {
        let first = nsq.config.return_after;
        let nsqd = |address| Nsqd {
            address,
            penalty: None,
            penalties: Backoff::new(first, first * LONGEST_PENALTY),
            max_record: None,
            max_batch: None,
        };
        let list = nsq.nsqds().into_iter().map(nsqd).collect();
        let nsqds = Self { nsq, list, members, publisher, places };
        nsqds.tell(PartHealth::Unhealthy("the publisher was not connected yet".into()));
        nsqds
    }

    /// Tells how this publisher is.
    fn tell(&self, health: PartHealth) {
        self.nsq.health.set(PUBLISHER, &self.publisher.to_string(), health);
    }

    pub(super) fn address(&self, index: usize) -> &str {
        &self.list[index].address.tcp
    }

    /// This nsqd did not acknowledge, or refused for a reason of its own.
    pub(super) fn failed(&mut self, index: usize) {
        let now = Instant::now();
        let nsqd = &mut self.list[index];
        if nsqd.penalty.is_some_and(|before| before.until + before.wait <= now) {
            nsqd.penalties.reset();
        }
        let wait = nsqd.penalties.next_wait();
        nsqd.penalty = Some(Penalty { until: now + wait, wait });
    }

    /// This nsqd's connection ended: it may come back with other limits.
    pub(super) fn lost(&mut self, index: usize) {
        let nsqd = &mut self.list[index];
        nsqd.max_record = None;
        nsqd.max_batch = None;
    }

    /// This nsqd told a limit.
    pub(super) fn learn(&mut self, index: usize, limit: SizeLimit) {
        match limit {
            SizeLimit::Record(limit) => self.list[index].max_record = Some(limit),
            SizeLimit::Batch(limit) => self.list[index].max_batch = Some(limit),
        }
    }

    /// Tries the nsqds in their order; one that does not answer does not keep the next from being tried.
    pub(super) async fn first_that_works(&self) -> Result<ConnectedNsqd, String> {
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.retain(|index| self.places.is_free(self.publisher, *index));
        order.sort_by_key(|&index| self.list[index].is_last());
        let mut next = order.into_iter();
        let mut tries = FuturesUnordered::new();
        let mut reasons = Vec::new();
        loop {
            match next.next() {
                Some(index) => tries.push(self.try_one(index)),
                None if tries.is_empty() => break,
                None => {}
            }
            match timeout(STAGGER, tries.next()).await {
                Ok(Some(Ok(connected))) if self.places.choose(self.publisher, connected.index) => {
                    tracing::info!(nsqd = self.address(connected.index), "publishing");
                    self.tell(PartHealth::Healthy);
                    return Ok(connected);
                }
                Ok(Some(Ok(connected))) => {
                    reasons.push(format!("{} (it has the other copies)", self.address(connected.index)));
                }
                Ok(Some(Err(reason))) => reasons.push(reason),
                Ok(None) | Err(_) => {}
            }
        }
        let reasons = reasons.join(", ");
        if self.nsq.config.copies == 1 {
            let reason = format!("no nsqd to publish to: {reasons}; start nsqd or correct [queue] nsqd");
            self.tell(PartHealth::Unhealthy(reason.clone()));
            return Err(reason);
        }
        let reason = format!("no nsqd for one of two copies: {reasons}; start nsqd or correct [queue] nsqd");
        self.tell(PartHealth::Away(reason.clone()));
        Err(reason)
    }

    async fn try_one(&self, index: usize) -> Result<ConnectedNsqd, String> {
        if self.list[index].penalty.is_some() {
            self.probe(index).await?;
        }
        self.prepare(index).await
    }

    /// Connects to an nsqd, and creates every living node's channel there.
    async fn prepare(&self, index: usize) -> Result<ConnectedNsqd, String> {
        let nsqd = &self.list[index];
        let producer = self.connect(&nsqd.address).await?;
        let mut max_record = MAX_MESSAGE;
        if let Some(http) = &nsqd.address.http {
            self.create_channels(http).await;
            max_record = self.nsq.admin.max_message(http).await.unwrap_or(MAX_MESSAGE);
        }
        Ok(ConnectedNsqd {
            index,
            producer,
            max_record: nsqd.max_record.unwrap_or(max_record),
            max_batch: nsqd.max_batch.unwrap_or(usize::MAX).min(self.nsq.config.batch_bytes),
        })
    }

    async fn connect(&self, nsqd: &NsqdAddress) -> Result<Producer, String> {
        let within = HANDSHAKE.min(self.nsq.config.rebuild_after);
        match timeout(within, Producer::connect(&nsqd.tcp, &self.nsq.node)).await {
            Ok(Ok(producer)) => Ok(producer),
            Ok(Err(reason)) => Err(format!("{} ({reason})", nsqd.tcp)),
            Err(_) => Err(format!("{} (no answer within {})", nsqd.tcp, humantime::format_duration(within))),
        }
    }

    /// Whether this nsqd takes a record. That it accepts a connection says nothing: the kernel does so for a process that
    /// hangs. A probe goes to a topic of its own, through the same code and to the same disk as a push.
    async fn probe(&self, index: usize) -> Result<(), String> {
        let address = &self.list[index].address;
        let producer = self.connect(address).await?;
        match timeout(HANDSHAKE, producer.probe(&self.nsq.topics.ping)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(format!("{} ({reason})", address.tcp)),
            Err(_) => Err(format!("{} (it acknowledges nothing)", address.tcp)),
        }
    }

    /// Every living node's channel is there before the first record is.
    async fn create_channels(&self, http: &str) {
        let NsqContext { config, admin, topics, node, .. } = &self.nsq;
        let mut nodes = self.members.borrow().clone();
        // alone at one nsqd, only its own channel can be missing
        let may_miss_some = self.list.len() + config.lookupd.len() > 1 || !config.roles.has_socket();
        if nodes.is_empty() && may_miss_some {
            nodes.extend(channels::known(admin, config, STAGGER).await);
        }
        if config.roles.has_socket() && !nodes.iter().any(|known| **known == **node) {
            nodes.push(node.to_string());
        }
        if let Err(error) = admin.create_channels(http, &topics.live, &nodes).await {
            tracing::warn!(
                error,
                "nsq: no channel was made through nsqd_http; the consumers will, once they subscribe"
            );
        }
    }

    /// Resolves once an nsqd before `index` works and is connected, and this node consumes from it: what is published where
    /// nobody reads yet comes late, and behind what is published later elsewhere. Never for the first.
    pub(super) async fn better(&self, index: usize) -> ConnectedNsqd {
        if index == 0 {
            return std::future::pending().await;
        }
        loop {
            sleep(self.nsq.config.return_after).await;
            for (before, nsqd) in self.list[..index].iter().enumerate() {
                let read = self.nsq.health.works("live", &nsqd.address.tcp);
                // nsqlookupd may know it by another address: then nobody can tell
                if self.places.may_move(self.publisher, before, self.nsq.config.copies)
                    && read != Some(false)
                    && !nsqd.is_last()
                    && self.probe(before).await.is_ok()
                    && let Ok(connected) = self.prepare(before).await
                {
                    return connected;
                }
            }
        }
    }
}
