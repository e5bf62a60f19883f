//! The life of the process: its phases, its named tasks, the services that they make up, and what a stop and a retry need.

mod backoff;
mod deadline;
mod liveness;
mod phases;
mod service;
mod tasks;

pub use backoff::Backoff;
pub use deadline::Deadline;
pub use liveness::{Liveness, Pulse};
pub use phases::{Phase, Phases};
pub use service::Service;
pub use tasks::{Death, Died, Tasks};
