//! This node among others: its etcd registration, and the channels of nodes that are gone.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::{
    config::Config,
    lifecycle::{Phases, Tasks},
    telemetry::Metrics,
};

/// Where the node's listeners really listen.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// `[socket] listen`.
    pub socket: SocketAddr,
    /// `[http] listen`.
    pub http: SocketAddr,
    /// `[grpc] listen`.
    pub grpc: SocketAddr,
}

/// The node's place in the cluster.
pub struct Cluster {
    /// Lines for `/readyz`: whether the node is registered, and why not.
    pub details: watch::Receiver<Vec<String>>,
}

/// Why a node cannot be part of the cluster; it must not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClusterError(pub String);

impl Cluster {
    /// Claims the node's id and registers it, following `phases`. Without `[cluster] etcd` nothing is done. While etcd is
    /// away it goes on without and tries again.
    ///
    /// # Errors
    /// The id is taken by a living node; credentials are refused; an address cannot be advertised.
    pub async fn join(
        _config: &Config,
        _listeners: Listeners,
        _phases: Phases,
        _tasks: &Tasks,
        _metrics: &Arc<Metrics>,
    ) -> Result<Self, ClusterError> {
        todo!()
    }

    /// Takes the registration back: the last thing a node does.
    pub async fn leave(self) {
        todo!()
    }
}
