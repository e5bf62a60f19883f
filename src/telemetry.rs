//! Log lines and metrics.

mod log;
mod metrics;

pub use log::{LogError, init};
pub use metrics::{Count, Counted, Level, Metrics};
