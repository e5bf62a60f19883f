//! What etcd holds of a node.

use serde::{Deserialize, Serialize};

use super::addresses::Addresses;

/// How a node stands, as it tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeStatus {
    pub(super) phase: NodePhase,
    /// Whether its queue works.
    pub(super) ready: bool,
}

impl NodeStatus {
    /// A node's first.
    pub(super) const FIRST: Self = Self { phase: NodePhase::Starting, ready: false };
}

/// What others read as a node's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodePhase {
    /// It never served.
    Starting,
    /// Clients and pushes may go to it.
    Serving,
    /// Its queue does not work: new clients and pushes go to others.
    Unready,
    /// It leaves.
    Draining,
}

impl NodePhase {
    /// A promise, as [`Node`]'s names are.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Unready => "unready",
            Self::Draining => "draining",
        }
    }
}

/// A node as it is registered: the value of `<prefix>/<id>`. confd's template reads it, so its names are promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its `[node] id`.
    pub id: String,
    /// host:port of `[socket] listen`, as advertised.
    pub socket: String,
    /// host:port of `[http] listen`.
    pub http: String,
    /// host:port of `[grpc] listen`.
    pub grpc: String,
    /// host:port where other nodes ask it; `None`: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<String>,
    /// What it does of all that a node can do; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Its share of the clients, beside those of the others.
    pub weight: u32,
    /// Its program's.
    pub version: String,
    /// starting, serving, unready or draining.
    pub phase: String,
    /// Whether its queue works; nodes of before do not tell.
    #[serde(default)]
    pub ready: Option<bool>,
    /// Another one for each process: tells a node's own key, whose lease it lost sight of, from that of another node of the same id.
    #[serde(default)]
    pub incarnation: String,
}

impl Node {
    pub(super) fn new(id: &str, addresses: &Addresses, weight: u32) -> Self {
        Self {
            id: id.to_owned(),
            socket: addresses.socket.clone(),
            http: addresses.http.clone(),
            grpc: addresses.grpc.clone(),
            peers: addresses.peers.clone(),
            roles: Vec::new(),
            weight,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: NodeStatus::FIRST.phase.name().to_owned(),
            ready: Some(NodeStatus::FIRST.ready),
            incarnation: ulid::Ulid::generate().to_string(),
        }
    }

    pub(super) fn set_status(&mut self, status: NodeStatus) {
        self.phase = status.phase.name().to_owned();
        self.ready = Some(status.ready);
    }

    /// Whether it does this; a node that names no roles does all.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.is_empty() || self.roles.iter().any(|one| one == role)
    }

    /// Whether clients and pushes that another node cannot serve may go to it.
    pub fn is_serving(&self) -> bool {
        self.phase == NodePhase::Serving.name() && self.ready != Some(false)
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("invariant: strings and numbers always serialize")
    }

    /// `None` for what no node wrote.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// The keys of one node.
#[derive(Clone, Debug)]
pub(super) struct NodeKeys {
    pub(super) node: String,
    pub(super) roster: String,
    pub(super) deleting: String,
}

impl NodeKeys {
    pub(super) fn new(prefix: &str, id: &str) -> Self {
        Self {
            node: format!("{}{id}", nodes(prefix)),
            roster: format!("{}{id}", rosters(prefix)),
            deleting: format!("{prefix}-deleting/{id}"),
        }
    }
}

/// The prefix of all nodes' keys.
pub(super) fn nodes(prefix: &str) -> String {
    format!("{prefix}/")
}

/// The prefix of all roster entries.
pub(super) fn rosters(prefix: &str) -> String {
    format!("{prefix}-roster/")
}

/// The value of `<prefix>-roster/<id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RosterEntry {
    /// Since when the node's key is missing, ms since 1970; `None` while it is there.
    #[serde(default)]
    pub(super) gone: Option<u64>,
    /// It has stopped in order: it has no clients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) stopped: bool,
}

impl RosterEntry {
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("invariant: a number always serializes")
    }
}
