//! The topics of single nodes, `<topic>.node.<id>`: of one that is gone another node takes what waits there.

use super::{NsqContext, TopicConsumers, consumer::TopicContext, discovery, health::GONE_NODE};
use crate::{
    lifecycle::{Deadline, Service, Tasks},
    queue::{Jobs, OpenError},
};

/// What is in flight of one gone node at once.
const IN_FLIGHT: usize = 256;

/// Opens them.
pub struct NodeTopics {
    nsq: NsqContext,
    tasks: Tasks,
}

/// Reads the topic of a node that is gone, through that node's channel: should it come back, each push goes to one of both.
pub struct NodeTopicReader {
    /// What waits there.
    pub jobs: Jobs,
    consumers: TopicConsumers,
    connections: Service,
}

impl NodeTopics {
    pub(super) fn new(nsq: NsqContext, tasks: &Tasks) -> Self {
        Self { nsq, tasks: tasks.clone() }
    }

    /// Reads the topic of `node`.
    ///
    /// # Errors
    /// An id that NSQ does not take.
    pub fn read(&self, node: &str) -> Result<NodeTopicReader, OpenError> {
        let connections = self.tasks.service();
        let consumers = TopicConsumers::new(IN_FLIGHT.min(self.nsq.config.max_in_flight));
        let group = format!("{GONE_NODE}{node}");
        let topic = self.nsq.topics.of_node(node);
        let topic = TopicContext::new(&self.nsq, &group, &topic, node, None, consumers.clone())?;
        Ok(NodeTopicReader { jobs: discovery::start(topic, &connections), consumers, connections })
    }
}

impl NodeTopicReader {
    /// Takes no more; what was taken already can still be finished until the deadline.
    pub async fn close(self, deadline: Deadline) {
        let Self { jobs, consumers, connections } = self;
        drop(jobs);
        let idle = async {
            consumers.stop().await;
            consumers.idle().await;
        };
        let _ = deadline.timeout(idle).await;
        connections.stop_within(deadline).await;
    }
}
