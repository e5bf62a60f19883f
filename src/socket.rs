//! The clients' side: handshake, join, heartbeat, writes, close codes. The socket leaves actix-web after the handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    config::Config,
    hub::Hub,
    lifecycle::{Phases, Tasks},
    telemetry::Metrics,
};

/// A bound listener that does not serve yet.
pub struct Bound;

/// The serving workers.
pub struct Clients;

impl Bound {
    /// Binds `[socket] listen`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(_config: &Config, _hub: Hub, _phases: Phases, _metrics: &Arc<Metrics>) -> io::Result<Self> {
        todo!()
    }

    /// Where it listens (a port of 0 is settled).
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Serves.
    pub fn serve(self, _tasks: &Tasks) -> Clients {
        todo!()
    }
}

impl Clients {
    /// Refuses new handshakes (503) and closes every connection with 3000: `rate` in a second (0: all at once), each told a
    /// delay of up to `jitter` where its dialect can. Returns when all are gone, `within` at most.
    pub async fn drain(&self, _rate: u32, _jitter: Duration, _within: Duration) {
        todo!()
    }

    /// Ends the workers.
    pub async fn stop(self) {
        todo!()
    }
}
