//! Log lines and metrics.

pub mod labels;
mod limit;
mod log;
mod metrics;
mod process;
mod push_traces;
mod spool;
mod stages;

pub(crate) use log::{finish, init, root_cause, say, set_level};
pub use metrics::Metrics;
pub(crate) use metrics::{Counter, Gauge, GaugeGuard, Histogram};
pub(crate) use push_traces::{PushTrace, PushTraces, TracedPlace};
