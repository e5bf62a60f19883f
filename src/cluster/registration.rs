//! This node's key in etcd, kept there by one task.
//!
//! It is either *held* (a lease that is kept alive, with the key under it) or not; whatever goes wrong while it is held ends
//! in *not held*, from where [`Registration::register`] tries again after a growing wait. A lease that outlived a lost
//! connection is taken up again, so that a short outage leaves the key untouched.

mod id_conflict;
mod key;
mod lease;

use std::time::Duration;

use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    addresses::Addresses,
    etcd::{Etcd, EtcdClient, EtcdError},
    node::NodeStatus,
};
use key::{ClaimError, NodeKey};
use lease::Lease;

/// How often a predecessor's lease, or a survivor's work on our channel, is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

pub(super) struct Registration {
    etcd: Etcd,
    key: NodeKey,
    statuses: watch::Receiver<NodeStatus>,
    members: watch::Receiver<Vec<String>>,
    notes: watch::Sender<Vec<String>>,
    details: watch::Sender<Vec<String>>,
    /// The lease that may live, whether it is held or not: to be taken up again, and revoked in the end.
    lease: Option<i64>,
    held: Option<Lease>,
}

impl Registration {
    pub(super) fn new(
        etcd: Etcd,
        id: &str,
        addresses: &Addresses,
        reads_channel: bool,
        statuses: watch::Receiver<NodeStatus>,
        details: watch::Sender<Vec<String>>,
        members: watch::Receiver<Vec<String>>,
    ) -> Self {
        Self {
            key: NodeKey::new(etcd.clone(), id, addresses, reads_channel),
            statuses,
            members,
            notes: watch::Sender::new(Vec::new()),
            details,
            lease: None,
            held: None,
            etcd,
        }
    }

    /// Of a node that does this only; empty: all.
    pub(super) fn with_roles(mut self, roles: Vec<String>) -> Self {
        self.key.node.roles = roles;
        self
    }

    /// Where others add lines to the details.
    pub(super) fn notes(&self) -> watch::Sender<Vec<String>> {
        self.notes.clone()
    }

    /// The first try, which may refuse the node's start. An etcd that is away is no error.
    pub(super) async fn join(&mut self) -> Result<(), String> {
        loop {
            match self.register().await {
                Ok(()) => return Ok(()),
                Err(ClaimError::Etcd(EtcdError::Refused(why))) => return Err(format!("etcd refuses this node: {why}")),
                Err(error @ ClaimError::Etcd(EtcdError::Away(_))) => {
                    let (why, _) = self.report_failure(&error);
                    tracing::warn!("{why}; the node serves without and tries again");
                    return Ok(());
                }
                Err(ClaimError::BeingDeleted) => {
                    tracing::info!("a survivor is deleting this node's old channel; waiting for it");
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(ClaimError::Taken(other)) => match other.outlived(&self.etcd).await {
                    Ok(true) => {}
                    Ok(false) => return Err(other.to_string()),
                    // the next turn says what is wrong with etcd
                    Err(error) => tracing::debug!("while waiting for a predecessor's lease: {error}"),
                },
            }
        }
    }

    /// Keeps the registration until `stop`, then takes it back.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = self.etcd.backoff();
        loop {
            if self.held.is_some() {
                backoff.reset();
                let Some(lost) = self.hold(&stop).await else { break };
                self.etcd.metrics.registered.set(0);
                tracing::warn!(node = self.key.node.id, "the registration is lost: {lost}; registering again");
                self.show(&format!("not registered: {lost}"));
            }
            let wait = backoff.next_wait();
            // dropped half-way, the lease's id is known for the revocation below, or the lease ends by itself
            let again = async {
                tokio::time::sleep(wait).await;
                self.register().await
            };
            let tried = tokio::select! {
                () = stop.cancelled() => break,
                tried = again => tried,
            };
            if let Err(error) = tried {
                let (why, news) = self.report_failure(&error);
                // the same again and again through a long outage would drown the log
                if news {
                    tracing::warn!(node = self.key.node.id, "{why}");
                } else {
                    tracing::debug!(node = self.key.node.id, "{why}");
                }
            }
        }
        self.revoke().await;
    }

    /// One try to have the key.
    async fn register(&mut self) -> Result<(), ClaimError> {
        let mut client = self.etcd.connect().await?;
        let lease = self.living(&mut client).await?;
        let status = *self.statuses.borrow_and_update();
        self.key.claim(&mut client, lease.id, status).await?;
        self.held = Some(lease);
        self.etcd.metrics.registered.set(1);
        let node = &self.key.node;
        tracing::info!(node = node.id, phase = node.phase, key = self.key.name(), "registered in etcd");
        self.show_registered();
        Ok(())
    }

    /// The lease of before, if it still lives; else a new one.
    async fn living(&mut self, client: &mut EtcdClient) -> Result<Lease, EtcdError> {
        if let Some(id) = self.lease {
            if let Some(lease) = Lease::keep(&self.etcd, client, id).await? {
                return Ok(lease);
            }
            self.lease = None;
        }
        let id = Lease::grant(&self.etcd, client).await?;
        self.lease = Some(id);
        let lease = Lease::keep(&self.etcd, client, id).await?;
        lease.ok_or_else(|| EtcdError::Away("keep the lease alive: it ended at once".into()))
    }

    /// Keeps what is held; returns why it is held no longer, or `None` when told to stop.
    async fn hold(&mut self, stop: &CancellationToken) -> Option<EtcdError> {
        let mut lease = self.held.take()?;
        let mut keep_alive = tokio::time::interval(self.etcd.config.lease / 3);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notes = self.notes.subscribe();
        let mut statuses_end = false;
        let mut members_end = false;
        loop {
            // the branches only wait; the calls follow one after the other, each within its time-out
            let kept = tokio::select! {
                () = stop.cancelled() => {
                    self.held = Some(lease);
                    return None;
                }
                _ = keep_alive.tick() => lease.keep_alive().await,
                changed = self.statuses.changed(), if !statuses_end => {
                    statuses_end = changed.is_err();
                    let status = *self.statuses.borrow_and_update();
                    self.key.put(&mut lease.client, lease.id, status).await
                }
                changed = self.members.changed(), if !members_end => {
                    members_end = changed.is_err();
                    let listed = self.members.borrow().contains(&self.key.node.id);
                    if listed { Ok(()) } else { self.key.check(&mut lease.client, lease.id).await }
                }
                _ = notes.changed() => Ok(()),
            };
            match kept {
                Ok(()) => self.show_registered(),
                Err(error) => return Some(error),
            }
        }
    }

    async fn revoke(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        self.etcd.metrics.registered.set(0);
        let client = match self.held.take() {
            Some(held) => Ok(held.client),
            None => self.etcd.connect().await,
        };
        let revoked = match client {
            Ok(mut client) => {
                // should it fail, the others take the node for one that may live
                let _ = self.key.stop(&mut client).await;
                self.etcd.call("revoke the lease", client.lease_revoke(lease)).await
            }
            Err(error) => Err(error),
        };
        match revoked {
            Ok(()) => tracing::info!(node = self.key.node.id, "deregistered from etcd"),
            Err(error) => tracing::warn!("the registration ends with its lease: {error}"),
        }
    }

    /// Tells why the node is not registered; that, and whether it is news.
    fn report_failure(&self, error: &ClaimError) -> (String, bool) {
        let why = match error {
            ClaimError::Etcd(EtcdError::Away(why)) => {
                format!("etcd ({}) is away (start it, or correct [cluster] etcd): {why}", self.etcd.name())
            }
            ClaimError::Etcd(EtcdError::Refused(why)) => format!("etcd refuses this node: {why}"),
            ClaimError::BeingDeleted => "a survivor is deleting this node's old channel".to_owned(),
            ClaimError::Taken(other) => other.to_string(),
        };
        let status = format!("not registered: {why}");
        let news = self.show(&status);
        (status, news)
    }

    fn show_registered(&self) {
        self.show(&format!("registered as {} ({})", self.key.node.id, self.key.node.phase));
    }

    /// Shows it in the details; whether that is news.
    fn show(&self, status: &str) -> bool {
        let members = self.members.borrow().join(", ");
        let mut lines = vec![format!("cluster: {status}")];
        if !members.is_empty() {
            lines.push(format!("cluster: nodes: {members}"));
        }
        lines.extend(self.notes.borrow().iter().map(|note| format!("cluster: {note}")));
        self.details.send_if_modified(|now| {
            let differs = *now != lines;
            *now = lines;
            differs
        })
    }
}
