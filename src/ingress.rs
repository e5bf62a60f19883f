//! Where pushes come in: HTTP, gRPC and raw NSQ, through one admission; and where back ends ask.

pub(crate) mod admission;
mod claims;
pub(crate) mod client_pushes;
mod compat;
pub(crate) mod disconnects;
pub(crate) mod draft;
mod event_kinds;
pub(crate) mod grpc;
pub(crate) mod http;
mod limits;
pub(crate) mod nodes;
pub(crate) mod nsq;
mod options;
pub(crate) mod peers;
pub(crate) mod queries;
pub(crate) mod readiness;
pub(crate) mod rebalances;
pub(crate) mod refusal;
pub(crate) mod scopes;
pub(crate) mod streams;
mod timed_stream;
mod turns;
mod wakes;

use admission::Admission;
use disconnects::Disconnects;
use nodes::Nodes;
use queries::Queries;
use readiness::NodeReadiness;
use rebalances::Rebalances;
use streams::Streams;

use crate::{auth::Keys, config::NodeRoles, events::Events, lifecycle::WorkerWatch};

/// What HTTP and gRPC serve from; a cheap clone.
#[derive(Clone)]
pub(crate) struct Api {
    /// What the node does.
    pub roles: NodeRoles,
    /// Who may push and ask.
    pub keys: Keys,
    /// Where pushes go.
    pub admission: Admission,
    /// Where orders to end clients go.
    pub disconnects: Disconnects,
    /// What can be asked.
    pub queries: Queries,
    /// The cluster's nodes, and where clients connect.
    pub nodes: Nodes,
    /// Where orders to move clients to other nodes go.
    pub rebalances: Rebalances,
    /// What is stored.
    pub streams: Streams,
    /// What back ends are told.
    pub events: Events,
    /// Whether the node should get requests.
    pub readiness: NodeReadiness,
    /// Whether its workers turn.
    pub watch: WorkerWatch,
}
