//! Where pushes come in: HTTP, gRPC and raw NSQ, through one admission; and where back ends ask.

pub mod admission;
pub mod draft;
pub mod grpc;
pub mod http;
mod limits;
pub mod nsq;
pub mod queries;
pub mod readiness;
pub mod refusal;
mod timed_stream;

use admission::Admission;
use queries::Queries;
use readiness::NodeReadiness;

use crate::auth::Keys;

/// What HTTP and gRPC serve from; a cheap clone.
#[derive(Clone)]
pub struct Api {
    /// Who may push and ask.
    pub keys: Keys,
    /// Where pushes go.
    pub admission: Admission,
    /// What can be asked.
    pub queries: Queries,
    /// Whether the node should get requests.
    pub readiness: NodeReadiness,
}
