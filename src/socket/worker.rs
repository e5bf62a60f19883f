//! What the connections of one thread share.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    client_socket::ClientSocket, heartbeat::Heartbeat, join::Authorizer, live::LiveConfig, rooms::RoomRules,
    upstream::Upstream,
};
use crate::{
    cluster::{Directory, Peers},
    hub::Shard,
    push::NameRule,
    store::Store,
    telemetry::Metrics,
};

/// Bytes that one read takes from a socket at most.
const READ: usize = 16 * 1024;

/// A worker thread's shard, and what its connections need beside it.
pub(super) struct Worker {
    pub(super) shard: Rc<Shard<ClientSocket>>,
    pub(super) heartbeat: Heartbeat,
    pub(super) authorizer: Authorizer,
    pub(super) names: NameRule,
    pub(super) rooms: RoomRules,
    pub(super) upstream: Upstream,
    /// `None`: nothing is stored for clients.
    pub(super) store: Option<Store>,
    /// Before a store that did not answer is asked again.
    pub(super) store_retry: Duration,
    /// The other nodes; `None`: they are not asked.
    pub(super) peers: Option<Peers>,
    /// Which node holds which cards and rooms; `None`: nobody asks for that.
    pub(super) directory: Option<Directory>,
    /// `[socket] max_message`, in bytes.
    pub(super) max_message: usize,
    pub(super) live: LiveConfig,
    pub(super) metrics: Arc<Metrics>,
    /// Where reads land first: a connection owns a buffer only while a message is incomplete.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// A drain is under way, and has to be told of connections that open all the same.
    pub(super) draining: Cell<bool>,
    pub(super) opened_while_draining: Notify,
    started: Instant,
}

impl Worker {
    pub(super) fn new(
        shard: Rc<Shard<ClientSocket>>,
        live: LiveConfig,
        authorizer: Authorizer,
        names: NameRule,
        rooms: RoomRules,
        upstream: Upstream,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let settings = live.now();
        let config = &settings.config;
        Self {
            shard,
            heartbeat: Heartbeat::new(config),
            authorizer,
            names,
            rooms,
            upstream,
            store: None,
            store_retry: Duration::from_secs(1),
            peers: None,
            directory: None,
            max_message: config.max_message,
            live,
            metrics: Arc::clone(metrics),
            scratch: RefCell::new(vec![0; READ].into()),
            draining: Cell::new(false),
            opened_while_draining: Notify::new(),
            started: Instant::now(),
        }
    }

    /// With the streams of this store, which is asked again after `retry` where it does not answer.
    pub(super) fn keeping(self, store: Option<Store>, store_retry: Duration) -> Self {
        Self { store, store_retry, ..self }
    }

    /// Who is in a room is asked of these nodes, too.
    pub(super) fn asking(self, peers: Option<Peers>) -> Self {
        Self { peers, ..self }
    }

    /// Cards and rooms are written down there before a client is in them.
    pub(super) fn announcing(self, directory: Option<Directory>) -> Self {
        Self { directory, ..self }
    }

    /// Since the worker started.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
