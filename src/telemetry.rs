//! Log lines and metrics.

mod limit;
mod log;
mod metrics;
mod spool;

pub use log::{LogError, finish, init, root_cause, say};
pub use metrics::{Count, Counted, Level, Metrics};
