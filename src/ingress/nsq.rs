//! Raw pushes of other NSQ clients: an ingress like HTTP, where a finished job is the answer.

use super::admission::Admission;
use crate::{config, lifecycle::Tasks, queue::Jobs};

/// Takes `raw` until its end: each push admitted, published, then finished; what cannot be is finished, counted and logged.
pub fn start(_config: &config::Queue, _raw: Jobs, _admission: Admission, _tasks: &Tasks) -> Inlet {
    todo!()
}

/// Stub.
pub struct Inlet;
impl Inlet {
    /// Stub.
    pub async fn drained(self, _within: std::time::Duration) {
        todo!()
    }
}
