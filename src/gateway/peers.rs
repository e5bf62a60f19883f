//! The node among its peers: where they ask it, and whom it asks.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use super::{BACKLOG, BuildError, listen};
use crate::{config::Config, hub::Hub, ingress::peers::PeerListener, lifecycle::Phases, telemetry::Metrics};

/// `[peers] listen`, and where it really listens; `None`: nobody is asked.
pub(super) fn bind(config: &Config) -> Result<Option<(TcpListener, SocketAddr)>, BuildError> {
    config.peers.listen.map(|address| listen("peers", "listen", address, BACKLOG)).transpose()
}

/// Answers for the clients of `hub`, where there is a listener.
pub(super) fn listener(
    bound: Option<TcpListener>,
    config: &Config,
    hub: &Hub,
    phases: &Phases,
    metrics: &Arc<Metrics>,
) -> Result<Option<PeerListener>, BuildError> {
    let Some(bound) = bound else { return Ok(None) };
    hub.remember_orders(config.peers.max_orders);
    Ok(Some(PeerListener::new(bound, config, hub.clone(), phases.clone(), metrics)?))
}
