//! The life of the process: its phases, its named tasks, the services that they make up, and what a stop and a retry need.

mod backoff;
mod deadline;
mod phases;
mod service;
mod tasks;
mod worker_watch;

pub use backoff::Backoff;
pub use deadline::Deadline;
pub use phases::{Phase, Phases};
pub use service::Service;
pub use tasks::{Death, Died, Tasks};
pub use worker_watch::{Pulse, WorkerWatch};
