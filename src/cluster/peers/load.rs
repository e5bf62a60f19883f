//! How much the other nodes have to do.

use std::{sync::Arc, time::Duration};

use super::Peers;
use crate::proto::peers::{LoadAnswer, LoadQuestion, answer::Answer, question::Question};

/// How much one node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLoad {
    /// Its id.
    pub node: String,
    /// Open client connections.
    pub connections: u64,
    /// Client connections that it takes at most.
    pub max_connections: u64,
    /// Its `[cluster] weight`.
    pub weight: u32,
    /// starting, serving, leaving or draining.
    pub phase: String,
    /// What it does of all that a node can do; empty: all.
    pub roles: Vec<String>,
    /// Its program's.
    pub version: String,
    /// Since it was started.
    pub uptime: Duration,
}

impl Peers {
    /// How much the other nodes have to do, in the order of their ids; those that do not answer within `[peers] timeout` are left out.
    pub async fn load(&self) -> Vec<NodeLoad> {
        let take = |answer| match answer {
            Answer::Load(load) => Some(load),
            _ => None,
        };
        let gathered = self.ask_those(Question::Load(LoadQuestion {}), take, |node| node.peers.is_some()).await;
        let load = |(node, answer): (Arc<str>, LoadAnswer)| {
            let LoadAnswer { connections, max_connections, weight, phase, roles, version, uptime } = answer;
            let uptime = Duration::from_millis(uptime);
            NodeLoad { node: node.to_string(), connections, max_connections, weight, phase, roles, version, uptime }
        };
        gathered.answers.into_iter().map(load).collect()
    }
}
