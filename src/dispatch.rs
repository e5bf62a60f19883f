//! From job to outcome: decoded, split by card over the lanes, offered through the hub, finished.

use std::{sync::Arc, time::Duration};

use crate::{config, hub::Hub, lifecycle::Tasks, queue::Jobs, telemetry::Metrics};

/// The running processors.
pub struct Dispatch;

impl Dispatch {
    /// Starts `[queue] processors` lanes on `jobs`. With `hold`, what comes first waits that long (touched meanwhile), so
    /// that clients can rejoin after a restart.
    pub fn start(
        _config: &config::Queue,
        _jobs: Jobs,
        _hub: Hub,
        _hold: Option<Duration>,
        _tasks: &Tasks,
        _metrics: &Arc<Metrics>,
    ) -> Self {
        todo!()
    }

    /// Ends a replay hold: what it holds is requeued. Then waits until the jobs' end was reached and each job in hand is
    /// finished or requeued, `within` at most.
    pub async fn drain(self, _within: Duration) {
        todo!()
    }
}
