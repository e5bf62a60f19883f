//! `[socket]` as it is now: what a reload replaces, and all workers read.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::{bucket::Allowance, config::SocketConfig};

/// A cheap clone of what is replaced as a whole.
#[derive(Clone)]
pub(super) struct LiveConfig(Arc<ArcSwap<SocketSettings>>);

/// `[socket]`, and what follows from it.
pub(super) struct SocketSettings {
    pub(super) config: SocketConfig,
    /// What a client may send.
    pub(super) messages: Allowance,
    /// Handshakes of one address.
    pub(super) handshakes: Allowance,
}

impl LiveConfig {
    pub(super) fn new(config: SocketConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(SocketSettings::new(config))))
    }

    /// As it is at this moment; not to be kept.
    pub(super) fn now(&self) -> Guard<Arc<SocketSettings>> {
        self.0.load()
    }

    pub(super) fn replace(&self, config: SocketConfig) {
        self.0.store(Arc::new(SocketSettings::new(config)));
    }
}

impl SocketSettings {
    fn new(config: SocketConfig) -> Self {
        Self {
            messages: Allowance::new(config.max_messages_per_second, u32::from(config.message_burst)),
            handshakes: Allowance::new(config.handshake_rate, config.handshake_burst),
            config,
        }
    }
}
