//! Takes what waits in the topics of nodes that are gone, and sends it to every node.
//!
//! All living nodes do so: each push is taken by one of them. One that is only cut off from etcd reads its topic too; of what another
//! one takes it gets its copy through the topic of all.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::BUNDLE;
use crate::{
    cluster::GoneNode,
    config::Config,
    lifecycle::{Deadline, Tasks},
    queue::{
        Destination, Job, Jobs, Publisher,
        nsq::{NodeTopicReader, NodeTopics},
        record::{self, Record},
    },
    telemetry::{Counter, Metrics},
};

/// Before a push is taken again that the queue did not take.
const REQUEUE: Duration = Duration::from_secs(1);
/// What the last acknowledgements get.
const CLOSE: Duration = Duration::from_secs(2);

/// Starts to take what waits for the nodes of `gone`.
pub(crate) fn drain_gone_nodes(
    config: &Config,
    topics: NodeTopics,
    gone: watch::Receiver<Vec<GoneNode>>,
    publisher: Publisher,
    tasks: &Tasks,
    metrics: &Metrics,
) {
    let drains = GoneNodes {
        max_hops: config.directory.max_hops,
        topics,
        publisher,
        tasks: tasks.clone(),
        drained: metrics.directory_drained.clone(),
        read: BTreeMap::new(),
    };
    let cancelled = tasks.cancelled();
    tasks.spawn_until_done("gone nodes", async move {
        cancelled.run_until_cancelled(drains.run(gone)).await;
    });
}

struct GoneNodes {
    max_hops: u32,
    topics: NodeTopics,
    publisher: Publisher,
    tasks: Tasks,
    drained: Counter,
    /// Those whose topics are read, each with what stops that.
    read: BTreeMap<String, CancellationToken>,
}

impl GoneNodes {
    async fn run(mut self, mut gone: watch::Receiver<Vec<GoneNode>>) {
        loop {
            let wanted: Vec<_> =
                gone.borrow_and_update().iter().filter(|node| node.is_read).map(|node| node.id.clone()).collect();
            self.read_only(&wanted);
            if gone.changed().await.is_err() {
                return;
            }
        }
    }

    fn read_only(&mut self, wanted: &[String]) {
        self.read.retain(|node, stop| {
            let goes_on = wanted.contains(node);
            if !goes_on {
                stop.cancel();
            }
            goes_on
        });
        for node in wanted {
            if self.read.contains_key(node) {
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
            self.read.insert(node.clone(), stop.clone());
            let (max_hops, publisher, drained) = (self.max_hops, self.publisher.clone(), self.drained.clone());
            let drain = GoneNodeDrain { max_hops, publisher, drained };
            self.tasks.spawn_until_done(format!("gone node {node}"), drain.run(reader, stop));
        }
    }
}

/// Of one node.
struct GoneNodeDrain {
    max_hops: u32,
    publisher: Publisher,
    drained: Counter,
}

impl GoneNodeDrain {
    async fn run(self, mut reader: NodeTopicReader, stop: CancellationToken) {
        stop.run_until_cancelled(self.drain(&mut reader.jobs)).await;
        reader.close(Deadline::after(CLOSE)).await;
    }

    async fn drain(&self, jobs: &mut Jobs) {
        while jobs.ready().await {
            // they are on their way in this order when they are awaited
            let taken: Vec<_> = jobs.waiting(BUNDLE).map(|job| self.send_on(job)).collect();
            join_all(taken).await;
        }
    }

    /// A push is on its way when this returns; its job ends when it is awaited.
    fn send_on(&self, job: Job) -> impl Future<Output = ()> + use<> {
        let record = self.for_every_node(&job.record);
        let published = record.map(|record| self.publisher.publish(Destination::Live, record));
        let drained = self.drained.clone();
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

    /// The record, which no node sends on; `None`: it is for nobody.
    fn for_every_node(&self, record: &Bytes) -> Option<Bytes> {
        match record::decode(record.clone()) {
            Ok(Record::Push(push)) => Some(record::encode_routed(&push, self.max_hops + 1, fastrand::u64(1..))),
            Ok(Record::Stored(_)) => Some(record.clone()),
            // orders do not go to single nodes, and who is in a room is asked anew by who comes
            Ok(Record::Disconnect(_) | Record::Rebalance(_) | Record::Presence(_)) | Err(_) => None,
        }
    }
}
