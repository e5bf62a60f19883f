//! The HTTP API (gopusher's, and more), on `[http] listen`.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::admission::Admission;
use crate::{config::Config, lifecycle::Tasks, telemetry::Metrics};

/// A bound listener that does not serve yet.
pub struct Bound;

/// The serving workers.
pub struct Serving;

impl Bound {
    /// Binds `[http] listen`. `details` are lines that `/readyz` shows beside the queue's state (the cluster's).
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(
        _config: &Config,
        _admission: Admission,
        _details: watch::Receiver<Vec<String>>,
        _metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        todo!()
    }

    /// Stub.
    pub fn new(
        _l: std::net::TcpListener,
        _c: &Config,
        _a: Admission,
        _d: watch::Receiver<Vec<String>>,
        _s: SocketAddr,
        _m: &Arc<Metrics>,
    ) -> io::Result<Self> {
        todo!()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Serves.
    pub fn serve(self, _tasks: &Tasks) -> Serving {
        todo!()
    }
}

impl Serving {
    /// Answers what came in and ends.
    pub async fn stop(self) {
        todo!()
    }
}
