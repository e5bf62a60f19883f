//! The queue that the configuration names.

use std::sync::Arc;

use crate::{
    cluster::{Cluster, ForgetNode},
    config::{self, Backend, Config},
    lifecycle::Tasks,
    queue::{
        self, OpenError, Queue,
        nsq::{NodeTopics, RawTopics},
    },
    telemetry::Metrics,
};

/// The configured queue.
pub(super) struct OpenQueue {
    pub(super) queue: Queue,
    /// With nsqd the topics that others write to.
    pub(super) raw: Option<RawTopics>,
    /// With nsqd and a directory those of the nodes.
    pub(super) node_topics: Option<NodeTopics>,
}

pub(super) async fn open(
    config: &Config,
    cluster: &Cluster,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<OpenQueue, OpenError> {
    match config.queue.backend {
        Backend::Embedded => {
            let queue = queue::embedded::open(&config.queue, tasks, metrics).await?;
            Ok(OpenQueue { queue, raw: None, node_topics: None })
        }
        Backend::Nsq => {
            let readers = cluster.readers.clone();
            let (queue, raw, node_topics) =
                queue::nsq::open(&config.queue, &config.node.id, readers, tasks, metrics).await?;
            Ok(OpenQueue { queue, raw, node_topics })
        }
    }
}

/// How a node that is gone is forgotten: only nsqd keeps something for each node.
pub(super) fn forget_node(config: &config::QueueConfig) -> Option<ForgetNode> {
    if config.backend != Backend::Nsq {
        return None;
    }
    let config = Arc::new(config.clone());
    Some(Box::new(move |node| {
        let config = config.clone();
        Box::pin(async move { queue::nsq::forget_node(&config, &node).await })
    }))
}
