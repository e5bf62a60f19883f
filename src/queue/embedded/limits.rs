//! The keys of `[queue]` that concern the embedded queue.

use std::time::Duration;

use crate::config;

/// No record beyond this, whatever `max_bytes` allows.
const MAX_RECORD: usize = 16 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct QueueLimits {
    /// Bytes.
    pub(super) max_record: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_publishes: usize,
    pub(super) max_bytes: u64,
    pub(super) max_age: Option<Duration>,
    pub(super) replay_hold: Duration,
    pub(super) memory_bytes: usize,
    pub(super) publish_timeout: Duration,
    pub(super) sync: config::Sync,
}

impl QueueLimits {
    pub(super) fn of(config: &config::QueueConfig) -> Self {
        Self {
            max_record: usize::try_from(config.max_bytes).unwrap_or(usize::MAX).min(MAX_RECORD),
            max_in_flight: config.max_in_flight.max(1),
            max_publishes: config.max_publishes.max(1),
            max_bytes: config.max_bytes,
            max_age: (!config.max_age.is_zero()).then_some(config.max_age),
            replay_hold: config.replay_hold,
            memory_bytes: config.memory_bytes,
            publish_timeout: config.publish_timeout,
            sync: config.sync,
        }
    }
}
