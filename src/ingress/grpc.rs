//! The gRPC API (proto/rpc.proto), health and reflection, on `[grpc] listen`.

use std::{io, net::SocketAddr, sync::Arc};

use super::admission::Admission;
use crate::{config::Config, lifecycle::Tasks, telemetry::Metrics};

/// A bound listener that does not serve yet.
pub struct Bound;

/// The serving workers.
pub struct Serving;

impl Bound {
    /// Binds `[grpc] listen`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(_config: &Config, _admission: Admission, _metrics: &Arc<Metrics>) -> io::Result<Self> {
        todo!()
    }

    /// Stub.
    pub fn new(_l: std::net::TcpListener, _c: &Config, _a: Admission, _m: &Arc<Metrics>) -> io::Result<Self> {
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
