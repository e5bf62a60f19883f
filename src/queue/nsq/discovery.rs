//! Which nsqds are consumed from: the configured ones, and those that nsqlookupd knows.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    admin::NsqdAddress,
    consumer::{Consumer, TopicContext},
    health::PartHealth,
};
use crate::{
    bundles,
    lifecycle::Service,
    queue::{Job, Jobs},
};

/// A consumer that runs.
struct RunningConsumer {
    /// The generation of its connection, 0 without one.
    connected: watch::Receiver<u64>,
    closing: CancellationToken,
}

/// Starts the consumers of one topic.
pub(super) fn start(topic: TopicContext, connections: &Service) -> Jobs {
    start_all(vec![topic], connections)
}

/// Starts the consumers of topics that share their bounds, and whose jobs come as those of one.
pub(super) fn start_all(topics: Vec<TopicContext>, connections: &Service) -> Jobs {
    let bound = topics.iter().map(|topic| topic.consumers.max_in_flight).max().unwrap_or(1);
    let (jobs, bundles) = bundles::channel(bound);
    for topic in topics {
        start_into(topic, jobs.clone(), connections);
    }
    Jobs { bundles }
}

/// Starts the consumers of one topic, and with nsqlookupd the task that keeps their set.
fn start_into(topic: TopicContext, jobs: mpsc::Sender<Vec<Job>>, connections: &Service) {
    let configured = topic.nsq.nsqds();
    let spawner = Spawner { topic, jobs, connections: connections.clone() };
    if spawner.topic.nsq.config.lookupd.is_empty() {
        let nsqds = configured.len();
        for nsqd in configured {
            spawner.spawn(nsqd, nsqds);
        }
        return;
    }
    let topic = &spawner.topic;
    topic.nsq.health.set(&topic.group, "", PartHealth::Unhealthy("no nsqlookupd was asked yet".into()));
    let name = format!("nsq {} discovery", topic.group);
    let configured = configured.into_iter().map(|address| ConfiguredNsqd { address, listed_as: None }).collect();
    connections.spawn(name, Discovery { spawner, configured, consumers: BTreeMap::new() }.run());
}

/// Starts consumers.
struct Spawner {
    topic: TopicContext,
    jobs: mpsc::Sender<Vec<Job>>,
    connections: Service,
}

impl Spawner {
    /// One for this nsqd, which is one of `nsqds`.
    fn spawn(&self, nsqd: NsqdAddress, nsqds: usize) -> RunningConsumer {
        let share = (self.topic.consumers.max_in_flight / nsqds.max(1)).max(1);
        let closing = self.connections.stopping().child_token();
        let name = format!("nsq {} consumer {}", self.topic.group, nsqd.tcp);
        let consumer = Consumer::new(self.topic.clone(), nsqd, share, self.jobs.clone(), closing.clone());
        let connected = consumer.connected();
        // it may end before the others: see Discovery::reconcile
        self.connections.spawn_until_done(name, consumer.run());
        RunningConsumer { connected, closing }
    }
}

/// Asks the nsqlookupds again and again.
struct Discovery {
    spawner: Spawner,
    configured: Vec<ConfiguredNsqd>,
    /// By the address that their nsqd has in nsqlookupd, where that is known.
    consumers: BTreeMap<String, RunningConsumer>,
}

/// A configured nsqd, which nsqlookupd may know by another address.
struct ConfiguredNsqd {
    address: NsqdAddress,
    /// The TCP address that it has in nsqlookupd, once it was asked for it.
    listed_as: Option<String>,
}

impl ConfiguredNsqd {
    /// The key of its consumer.
    fn key(&self) -> &str {
        self.listed_as.as_ref().unwrap_or(&self.address.tcp)
    }
}

/// What the nsqlookupds know.
#[derive(Default)]
struct DiscoveredNsqds {
    /// The nsqds that have the topic, by TCP address.
    nsqds: BTreeMap<String, NsqdAddress>,
    /// Whether every nsqlookupd answered.
    by_all: bool,
}

impl Discovery {
    async fn run(mut self) {
        let closing = self.spawner.connections.stopping().clone();
        let stopped = self.spawner.topic.consumers.stopped.clone();
        loop {
            // cancel-safe: a question that is cut short leaves nothing behind
            tokio::select! {
                () = closing.cancelled() => return,
                // the jobs' end is only seen once this lets go of its sender
                () = stopped.cancelled() => break,
                () = self.round() => {}
            }
        }
        drop(self);
        closing.cancelled().await;
    }

    async fn round(&mut self) {
        let topic = &self.spawner.topic;
        let none_yet = self.consumers.is_empty();
        let (found, ()) = tokio::join!(ask(topic, none_yet), identify(topic, &mut self.configured));
        let interval = topic.nsq.config.lookup_interval;
        self.reconcile(found);
        sleep(interval).await;
    }

    /// A consumer ends only when no nsqlookupd lists its nsqd and it is not connected: an nsqlookupd that was restarted lists
    /// nothing for a while.
    fn reconcile(&mut self, found: DiscoveredNsqds) {
        let Self { spawner, configured, consumers } = self;
        let topic = &spawner.topic;
        // one that was consumed from before it was known by another address
        for one in configured.iter().filter(|one| one.key() != one.address.tcp) {
            if let Some(consumer) = consumers.remove(&one.address.tcp)
                && let Some(second) = consumers.insert(one.key().to_owned(), consumer)
            {
                second.closing.cancel();
            }
        }
        let all_known = found.by_all && !found.nsqds.is_empty();
        let wanted = wanted(configured, found.nsqds);
        let unsure = |tcp: &str| configured.iter().any(|one| one.address.http.is_none() && one.address.tcp == tcp);
        consumers.retain(|tcp, consumer| {
            let gone = all_known && (*consumer.connected.borrow() == 0 || unsure(tcp));
            let kept = wanted.contains_key(tcp) || !gone;
            if !kept {
                tracing::info!(nsqd = tcp, topic = topic.name, "nsq: nsqlookupd lists it no more");
                consumer.closing.cancel();
            }
            kept
        });
        let nsqds = wanted.len();
        for (tcp, nsqd) in wanted {
            consumers.entry(tcp).or_insert_with_key(|tcp| {
                tracing::info!(nsqd = tcp, topic = topic.name, "nsq: consumed from");
                spawner.spawn(nsqd, nsqds)
            });
        }
        // "" stood for no nsqd; without nsqlookupd the configured ones are consumed from
        topic.nsq.health.forget(&topic.group, "");
    }
}

/// Asks the configured nsqds for their address in nsqlookupd that were not asked yet, or did not answer.
async fn identify(topic: &TopicContext, configured: &mut [ConfiguredNsqd]) {
    let unknown = configured.iter_mut().filter(|one| one.listed_as.is_none()).map(async |one| {
        if let Some(http) = &one.address.http {
            one.listed_as = topic.nsq.admin.listed_as(http).await;
        }
    });
    join_all(unknown).await;
}

/// Asks all nsqlookupds; one answer is enough.
async fn ask(topic: &TopicContext, none_yet: bool) -> DiscoveredNsqds {
    let admin = &topic.nsq.admin;
    let config = &topic.nsq.config;
    if none_yet {
        // nsqlookupd learns of a topic from an nsqd that has it
        let channels = std::slice::from_ref(&topic.channel);
        let created = config.nsqd_http.iter().map(|http| admin.create_channels(http, &topic.name, channels));
        for error in join_all(created).await.into_iter().filter_map(Result::err) {
            tracing::debug!(error, "nsq: no channel was made there");
        }
    }
    let mut all = DiscoveredNsqds { by_all: true, ..DiscoveredNsqds::default() };
    for answer in join_all(config.lookupd.iter().map(|lookupd| admin.lookup(lookupd, &topic.name))).await {
        match answer {
            Ok(found) => all.nsqds.extend(found.into_iter().map(|nsqd| (nsqd.tcp.clone(), nsqd))),
            Err(error) => {
                tracing::debug!(error, "nsq: nsqlookupd did not answer");
                all.by_all = false;
            }
        }
    }
    all
}

/// The nsqds to consume from, by their address in nsqlookupd where that is known: those found, and those configured. Of a
/// configured one without `nsqd_http` that address is unknown, so it may be among those found: then only what was found counts.
fn wanted(configured: &[ConfiguredNsqd], found: BTreeMap<String, NsqdAddress>) -> BTreeMap<String, NsqdAddress> {
    let sure = |one: &&ConfiguredNsqd| one.listed_as.is_some() || found.is_empty();
    let sure: Vec<_> = configured.iter().filter(sure).map(|one| (one.key().to_owned(), one.address.clone())).collect();
    found.into_iter().chain(sure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_nsqds_are_wanted_beside_the_found_ones_and_each_only_once() {
        let nsqd = |tcp: &str| NsqdAddress { tcp: tcp.into(), http: None };
        let configured =
            |tcp, listed_as: Option<&str>| ConfiguredNsqd { address: nsqd(tcp), listed_as: listed_as.map(Into::into) };
        for (what, configured, found, expected) in [
            ("nsqlookupd is away", vec![configured("a:1", None)], vec![], vec![("a:1", "a:1")]),
            ("found under its name", vec![configured("a:1", Some("a:1"))], vec!["a:1"], vec![("a:1", "a:1")]),
            (
                "found by another",
                vec![configured("a:1", Some("10.0.0.1:1"))],
                vec!["10.0.0.1:1"],
                vec![("10.0.0.1:1", "a:1")],
            ),
            ("perhaps the same", vec![configured("a:1", None)], vec!["10.0.0.1:1"], vec![("10.0.0.1:1", "10.0.0.1:1")]),
            (
                "not registered there",
                vec![configured("a:1", Some("a:1"))],
                vec!["b:1"],
                vec![("a:1", "a:1"), ("b:1", "b:1")],
            ),
        ] {
            let found = found.into_iter().map(|tcp| (tcp.to_owned(), nsqd(tcp))).collect();
            let wanted = wanted(&configured, found);
            let wanted: Vec<_> = wanted.iter().map(|(key, nsqd)| (&**key, &*nsqd.tcp)).collect();
            assert_eq!(wanted, expected, "{what}");
        }
    }
}
