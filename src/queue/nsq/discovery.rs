//! Which nsqds are consumed from: the configured ones, and those that nsqlookupd knows.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admin::NsqdAddress,
    consumer::{Consumer, TopicContext},
    health::PartHealth,
};
use crate::{lifecycle::Tasks, queue::Job};

/// Where the consumers of one topic run, hand out, and are stopped.
#[derive(Clone)]
pub(super) struct ConsumerTasks {
    pub(super) jobs: mpsc::Sender<Vec<Job>>,
    pub(super) stopped: CancellationToken,
    pub(super) closing: CancellationToken,
    /// Waited for until each consumer has stopped.
    pub(super) stopping: TaskTracker,
    /// Waited for until each consumer has ended.
    pub(super) tracker: TaskTracker,
    pub(super) tasks: Tasks,
}

impl ConsumerTasks {
    fn spawn(&self, topic: &TopicContext, nsqd: NsqdAddress, share: usize) -> RunningConsumer {
        let closing = self.closing.child_token();
        let name = format!("nsq {} consumer {}", topic.group, nsqd.tcp);
        let jobs = self.jobs.clone();
        let stopped = self.stopped.clone();
        let stopping = self.stopping.token();
        let consumer = Consumer::new(topic.clone(), nsqd, share, jobs, stopped, stopping, closing.clone());
        let connected = consumer.connected();
        self.tasks.spawn_until_done(name, self.tracker.track_future(consumer.run()));
        RunningConsumer { connected, closing }
    }
}

/// A consumer that runs.
struct RunningConsumer {
    /// The generation of its connection, 0 without one.
    connected: watch::Receiver<u64>,
    closing: CancellationToken,
}

/// Starts the consumers of one topic, and with nsqlookupd the task that keeps their set.
pub(super) fn start(topic: TopicContext, consumer_tasks: ConsumerTasks) {
    let configured = topic.nsq.nsqds();
    if topic.nsq.config.lookupd.is_empty() {
        let share = (topic.max_in_flight / configured.len().max(1)).max(1);
        for nsqd in configured {
            consumer_tasks.spawn(&topic, nsqd, share);
        }
        return;
    }
    topic.nsq.health.set(topic.group, "", PartHealth::Unhealthy("no nsqlookupd was asked yet".into()));
    let tasks = consumer_tasks.tasks.clone();
    let tracker = consumer_tasks.tracker.clone();
    let name = format!("nsq {} discovery", topic.group);
    let configured = configured.into_iter().map(|address| ConfiguredNsqd { address, listed_as: None }).collect();
    let discovery = Discovery { topic, tasks: consumer_tasks, configured, consumers: BTreeMap::new() };
    tasks.spawn_until_done(name, tracker.track_future(discovery.run()));
}

/// Asks the nsqlookupds again and again.
struct Discovery {
    topic: TopicContext,
    tasks: ConsumerTasks,
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
        let closing = self.tasks.closing.clone();
        let stopped = self.tasks.stopped.clone();
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
        let none_yet = self.consumers.is_empty();
        let (found, ()) = tokio::join!(ask(&self.topic, none_yet), identify(&self.topic, &mut self.configured));
        self.reconcile(found);
        sleep(self.topic.nsq.config.lookup_interval).await;
    }

    /// A consumer ends only when no nsqlookupd lists its nsqd and it is not connected: an nsqlookupd that was restarted lists
    /// nothing for a while.
    fn reconcile(&mut self, found: DiscoveredNsqds) {
        let Self { topic, tasks, configured, consumers } = self;
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
        let share = (topic.max_in_flight / wanted.len().max(1)).max(1);
        for (tcp, nsqd) in wanted {
            consumers.entry(tcp).or_insert_with_key(|tcp| {
                tracing::info!(nsqd = tcp, topic = topic.name, "nsq: consumed from");
                tasks.spawn(topic, nsqd, share)
            });
        }
        // "" stood for no nsqd; without nsqlookupd the configured ones are consumed from
        topic.nsq.health.forget(topic.group, "");
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
