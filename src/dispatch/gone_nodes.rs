//! Takes what waits for nodes that are gone, and sends it to where their clients are now.
//!
//! The first of the living nodes does it, by their ids. Should two think so for a moment, each push is taken by one of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::BUNDLE;
use crate::{
    config::Config,
    lifecycle::{Deadline, Tasks},
    queue::{
        Job, Jobs,
        nsq::{NodeTopicReader, NodeTopics},
        record::{self, Record},
    },
    routing::{RoutedPublisher, RoutedPush},
    telemetry::Metrics,
};

/// Nothing more comes for a gone node for so long, beside the time in which others may take it for living.
const QUIET: Duration = Duration::from_secs(30);
/// Before a push is taken again that the queue did not take.
const REQUEUE: Duration = Duration::from_secs(1);
/// What the last acknowledgements get.
const CLOSE: Duration = Duration::from_secs(2);

/// Starts to take what waits for the nodes of `gone`, while this node is the first of `readers`, which are those that hold clients.
pub(crate) fn drain_gone_nodes(
    config: &Config,
    topics: NodeTopics,
    gone: watch::Receiver<Vec<String>>,
    readers: watch::Receiver<Vec<String>>,
    publisher: RoutedPublisher,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) {
    let drains = GoneNodes {
        own: config.node.id.as_str().to_owned(),
        quiet: QUIET + config.directory.lease * 2,
        topics,
        publisher,
        tasks: tasks.clone(),
        metrics: Arc::clone(metrics),
        drained: BTreeMap::new(),
    };
    let cancelled = tasks.cancelled();
    tasks.spawn_until_done("gone nodes", async move {
        cancelled.run_until_cancelled(drains.run(gone, readers)).await;
    });
}

struct GoneNodes {
    own: String,
    quiet: Duration,
    topics: NodeTopics,
    publisher: RoutedPublisher,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    /// Those that are worked off, or were: what stops it.
    drained: BTreeMap<String, CancellationToken>,
}

impl GoneNodes {
    async fn run(mut self, mut gone: watch::Receiver<Vec<String>>, mut readers: watch::Receiver<Vec<String>>) {
        loop {
            let is_first = readers.borrow_and_update().first() == Some(&self.own);
            let wanted = if is_first { gone.borrow_and_update().clone() } else { Vec::new() };
            self.drain_only(&wanted);
            // both cancel-safe
            let changed = tokio::select! {
                changed = gone.changed() => changed,
                changed = readers.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn drain_only(&mut self, wanted: &[String]) {
        self.drained.retain(|node, stop| {
            let goes_on = wanted.contains(node);
            if !goes_on {
                stop.cancel();
            }
            goes_on
        });
        for node in wanted {
            if self.drained.contains_key(node) {
                continue;
            }
            let reader = match self.topics.read(node) {
                Ok(reader) => reader,
                Err(error) => {
                    tracing::warn!(node, "what waits for a gone node cannot be read: {error}");
                    continue;
                }
            };
            let stop = self.tasks.cancelled().child_token();
            self.drained.insert(node.clone(), stop.clone());
            let drain = GoneNode {
                node: node.as_str().into(),
                quiet: self.quiet,
                publisher: self.publisher.clone(),
                metrics: Arc::clone(&self.metrics),
            };
            self.tasks.spawn_until_done(format!("gone node {node}"), drain.run(reader, stop));
        }
    }
}

struct GoneNode {
    node: Arc<str>,
    quiet: Duration,
    publisher: RoutedPublisher,
    metrics: Arc<Metrics>,
}

impl GoneNode {
    async fn run(self, mut reader: NodeTopicReader, stop: CancellationToken) {
        let sent = stop.run_until_cancelled(self.drain(&mut reader.jobs)).await;
        if let Some(sent) = sent.filter(|sent| *sent > 0) {
            tracing::info!(node = &*self.node, pushes = sent, "what waited for a gone node was sent on");
        }
        reader.close(Deadline::after(CLOSE)).await;
    }

    /// Sends on what comes, until nothing has come for long enough; how many pushes.
    async fn drain(&self, jobs: &mut Jobs) -> u64 {
        let mut sent = 0;
        while let Ok(true) = timeout(self.quiet, jobs.ready()).await {
            let taken: Vec<_> = jobs.waiting(BUNDLE).map(|job| self.send_on(job)).collect();
            sent += taken.len() as u64;
            join_all(taken).await;
        }
        sent
    }

    /// A push is on its way when this returns; its job ends when it is awaited.
    fn send_on(&self, job: Job) -> impl Future<Output = ()> + use<> {
        let hops = record::peek(&job.record).map_or(0, |peek| peek.hops).saturating_add(1);
        let push = match record::decode(job.record.clone()) {
            Ok(Record::Push(push)) => Some(RoutedPush::SentOn { push, hops, except: Arc::clone(&self.node) }),
            Ok(Record::Stored(stored)) => Some(RoutedPush::Stored(*stored)),
            // its clients are gone, and orders do not go to single nodes
            Ok(Record::Disconnect(_) | Record::Rebalance(_) | Record::Presence(_)) | Err(_) => None,
        };
        let published = push.map(|push| self.publisher.publish(push));
        let drained = self.metrics.directory_drained.clone();
        async move {
            if let Some(published) = published
                && let Err(error) = published.await
            {
                tracing::debug!("a push for a gone node was not sent on: {error}");
                return job.requeue(REQUEUE);
            }
            drained.inc();
            job.finish();
        }
    }
}
