//! The publisher's connections: to the first nsqd of the list that is up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_nsq::{NSQEvent, NSQProducer, NSQProducerConfig};

use super::{Backoff, Base, CONNECT, admin::Daemon, health::Status, sentinel::Sentinel};

/// nsqd's default `--max-msg-size`, until nsqd_http tells another.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// How long a producer may take for its handshake while another nsqd may be up.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often it is tried to return to an nsqd that stands before the one in use.
const RETURN: Duration = Duration::from_secs(5);

/// A connection to one nsqd that was healthy when it was made.
pub(super) struct Session {
    /// Its place in the list.
    pub(super) index: usize,
    pub(super) producer: NSQProducer,
    pub(super) sentinel: Sentinel,
    /// tokio-nsq said that it is disconnected: wait for the event that tells how.
    pub(super) broken: bool,
}

/// Makes sessions.
pub(super) struct Maker {
    pub(super) base: Base,
    pub(super) daemons: Vec<Daemon>,
    /// The bytes of a record that the nsqd in use takes.
    pub(super) limit: Arc<AtomicUsize>,
    /// Whose channels are laid.
    pub(super) members: watch::Receiver<Vec<String>>,
}

impl Maker {
    /// After `pause`, tries the nsqds in their order until one is healthy.
    pub(super) async fn any(&self, pause: Duration) -> Session {
        sleep(pause).await;
        let mut backoff = Backoff::new();
        loop {
            let mut reasons = Vec::new();
            for (index, daemon) in self.daemons.iter().enumerate() {
                match self.one(index, daemon).await {
                    Ok(session) => {
                        tracing::info!(nsqd = daemon.tcp, "publishing");
                        self.base.health.set("publisher", "", Status::Well);
                        return session;
                    }
                    Err(reason) => reasons.push(format!("{} ({reason})", daemon.tcp)),
                }
            }
            let reason = format!("no nsqd to publish to: {}; start nsqd or correct [queue] nsqd", reasons.join(", "));
            self.base.health.set("publisher", "", Status::Ill(reason));
            sleep(backoff.next()).await;
        }
    }

    async fn one(&self, index: usize, daemon: &Daemon) -> Result<Session, String> {
        let mut sentinel = Sentinel::connect(&daemon.tcp, CONNECT).await?;
        if let Some(http) = &daemon.http {
            self.prepare(http).await;
        }
        let shared = self.base.shared().set_client_id(self.base.node.as_ref());
        let mut producer = NSQProducerConfig::new(daemon.tcp.as_str()).set_shared(shared).build();
        let healthy = async {
            loop {
                match producer.consume().await {
                    Some(NSQEvent::Healthy()) => return Ok(()),
                    Some(_) => {}
                    None => return Err("it refused the handshake; is that nsqd's TCP port?".to_owned()),
                }
            }
        };
        let within = HANDSHAKE.min(self.base.config.rebuild_after);
        tokio::select! {
            done = timeout(within, healthy) => match done {
                Ok(done) => done?,
                Err(_) => {
                    self.base.rebuilt("publisher", &daemon.tcp, "no handshake in time");
                    return Err("no handshake in time".into());
                }
            },
            () = sentinel.gone() => return Err("it closed the connection".into()),
        }
        Ok(Session { index, producer, sentinel, broken: false })
    }

    /// Every living node's channel is there before the first record is, and the limit of its size is known.
    async fn prepare(&self, http: &str) {
        let base = &self.base;
        let mut nodes = self.members.borrow().clone();
        if nodes.is_empty() && self.daemons.len() + base.config.lookupd.len() > 1 {
            nodes.extend(base.admin.known_channels(&base.config).await.0);
        }
        if !nodes.iter().any(|node| **node == *base.node) {
            nodes.push(base.node.to_string());
        }
        if let Err(error) = base.admin.lay(http, &super::admin::live(&base.config), &nodes).await {
            tracing::warn!(
                error,
                "nsq: no channel was made through nsqd_http; the consumers will, once they subscribe"
            );
        }
        self.limit.store(base.admin.max_message(http).await.unwrap_or(MAX_MESSAGE), Ordering::Relaxed);
    }

    /// Resolves once an nsqd before `index` is up; never for the first.
    pub(super) async fn better(&self, index: usize) {
        if index == 0 {
            return std::future::pending().await;
        }
        loop {
            sleep(RETURN).await;
            for daemon in &self.daemons[..index] {
                if Sentinel::connect(&daemon.tcp, CONNECT).await.is_ok() {
                    return;
                }
            }
        }
    }
}
