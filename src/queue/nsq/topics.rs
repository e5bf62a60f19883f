//! The topics' names, all made of `[queue] topic`.

use std::borrow::Cow;

use crate::{config, queue::Destination};

/// See the module.
pub(super) struct Topics {
    /// Other NSQ clients write to it.
    pub(super) raw: String,
    /// Of the gateways' own records.
    pub(super) live: String,
    /// Of events, for back ends.
    events: String,
    /// Where an nsqd has to publish to show that it works.
    pub(super) ping: String,
    /// The same, where its last write to its disk failed.
    pub(super) disk: String,
}

impl Topics {
    pub(super) fn new(config: &config::QueueConfig) -> Self {
        let raw = config.topic.clone();
        Self {
            live: format!("{raw}.live"),
            events: format!("{raw}.events"),
            ping: format!("{raw}.ping"),
            disk: format!("{raw}.disk"),
            raw,
        }
    }

    /// Where records for `destination` are published.
    pub(super) fn of(&self, destination: &Destination) -> Cow<'_, str> {
        match destination {
            Destination::Live => (&self.live).into(),
            Destination::Node(id) => self.of_node(id).into(),
            Destination::Events => (&self.events).into(),
        }
    }

    /// Of the records for one node alone.
    pub(super) fn of_node(&self, id: &str) -> String {
        format!("{}.node.{id}", self.raw)
    }
}
