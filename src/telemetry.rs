//! Log lines and metrics.

pub mod labels;
mod limit;
mod log;
mod metrics;
mod spool;

pub use log::{LogError, finish, init, root_cause, say};
pub use metrics::{Counter, Gauge, GaugeGuard, Metrics};
