//! Log lines and metrics.

mod log;
mod metrics;

pub use log::{LogError, init, root_cause};
pub use metrics::{Count, Counted, Level, Metrics};
