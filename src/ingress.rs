//! Where pushes come in: HTTP, gRPC and raw NSQ, through one admission; and where back ends ask.

pub(crate) mod admission;
pub(crate) mod client_pushes;
mod compat;
pub(crate) mod disconnects;
pub(crate) mod draft;
pub(crate) mod grpc;
pub(crate) mod http;
mod limits;
pub(crate) mod nsq;
pub(crate) mod queries;
pub(crate) mod readiness;
pub(crate) mod refusal;
pub(crate) mod scopes;
mod timed_stream;

use admission::Admission;
use disconnects::Disconnects;
use queries::Queries;
use readiness::NodeReadiness;

use crate::{auth::Keys, events::Events};

/// What HTTP and gRPC serve from; a cheap clone.
#[derive(Clone)]
pub(crate) struct Api {
    /// Who may push and ask.
    pub keys: Keys,
    /// Where pushes go.
    pub admission: Admission,
    /// Where orders to end clients go.
    pub disconnects: Disconnects,
    /// What can be asked.
    pub queries: Queries,
    /// What back ends are told.
    pub events: Events,
    /// Whether the node should get requests.
    pub readiness: NodeReadiness,
}
