//! This node's key in etcd, kept there by one task.
//!
//! It is either *held* (a lease that is kept alive, with the key under it) or not; whatever goes wrong while it is held ends
//! in *not held*, from where [`Registration::register`] tries again after a growing wait. A lease that outlived a lost
//! connection is taken up again, so that a short outage leaves the key untouched.

mod key;
mod lease;
mod namesake;

use std::time::Duration;

use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    addresses::Addresses,
    etcd::{Backoff, Client, Etcd, Fault},
    node::Standing,
};
use key::{Key, Obstacle};
use lease::Lease;

/// How often a predecessor's lease, or a survivor's work on our channel, is looked at.
const LOOK: Duration = Duration::from_millis(300);

pub(super) struct Registration {
    etcd: Etcd,
    key: Key,
    standings: watch::Receiver<Standing>,
    members: watch::Receiver<Vec<String>>,
    remarks: watch::Sender<Vec<String>>,
    say: watch::Sender<Vec<String>>,
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
        standings: watch::Receiver<Standing>,
        say: watch::Sender<Vec<String>>,
        members: watch::Receiver<Vec<String>>,
    ) -> Self {
        Self {
            key: Key::new(etcd.clone(), id, addresses, reads_channel),
            standings,
            members,
            remarks: watch::Sender::new(Vec::new()),
            say,
            lease: None,
            held: None,
            etcd,
        }
    }

    /// Where others add lines to the details.
    pub(super) fn remarks(&self) -> watch::Sender<Vec<String>> {
        self.remarks.clone()
    }

    /// The first try, which may refuse the node's start. An etcd that is away is no error.
    pub(super) async fn join(&mut self) -> Result<(), String> {
        loop {
            match self.register().await {
                Ok(()) => return Ok(()),
                Err(Obstacle::Fault(Fault::Refused(why))) => return Err(format!("etcd refuses this node: {why}")),
                Err(obstacle @ Obstacle::Fault(Fault::Away(_))) => {
                    let (why, _) = self.tell_obstacle(&obstacle);
                    tracing::warn!("{why}; the node serves without and tries again");
                    return Ok(());
                }
                Err(Obstacle::BeingDeleted) => {
                    tracing::info!("a survivor is deleting this node's old channel; waiting for it");
                    tokio::time::sleep(LOOK).await;
                }
                Err(Obstacle::Taken(other)) => match other.outlived(&self.etcd).await {
                    Ok(true) => {}
                    Ok(false) => return Err(other.to_string()),
                    // the next turn says what is wrong with etcd
                    Err(fault) => tracing::debug!("while waiting for a predecessor's lease: {fault}"),
                },
            }
        }
    }

    /// Keeps the registration until `stop`, then takes it back.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(self.etcd.config.max_backoff);
        loop {
            if self.held.is_some() {
                backoff.reset();
                let Some(lost) = self.hold(&stop).await else { break };
                self.etcd.metrics.registered.set(0);
                tracing::warn!(node = self.key.node.id, "the registration is lost: {lost}; registering again");
                self.tell(&format!("not registered: {lost}"));
            }
            let wait = backoff.next();
            // dropped half-way, the lease's id is known for the revocation below, or the lease ends by itself
            let again = async {
                tokio::time::sleep(wait).await;
                self.register().await
            };
            let tried = tokio::select! {
                () = stop.cancelled() => break,
                tried = again => tried,
            };
            if let Err(obstacle) = tried {
                let (why, news) = self.tell_obstacle(&obstacle);
                // the same again and again through a long outage would drown the log
                match news {
                    true => tracing::warn!(node = self.key.node.id, "{why}"),
                    false => tracing::debug!(node = self.key.node.id, "{why}"),
                }
            }
        }
        self.revoke().await;
    }

    /// One try to have the key.
    async fn register(&mut self) -> Result<(), Obstacle> {
        let mut client = self.etcd.connect().await?;
        let lease = self.living(&mut client).await?;
        let standing = *self.standings.borrow_and_update();
        self.key.claim(&mut client, lease.id, standing).await?;
        self.held = Some(lease);
        self.etcd.metrics.registered.set(1);
        let node = &self.key.node;
        tracing::info!(node = node.id, phase = node.phase, key = self.key.name(), "registered in etcd");
        self.tell_registered();
        Ok(())
    }

    /// The lease of before, if it still lives; else a new one.
    async fn living(&mut self, client: &mut Client) -> Result<Lease, Fault> {
        if let Some(id) = self.lease {
            if let Some(lease) = Lease::keep(&self.etcd, client, id).await? {
                return Ok(lease);
            }
            self.lease = None;
        }
        let id = Lease::grant(&self.etcd, client).await?;
        self.lease = Some(id);
        let lease = Lease::keep(&self.etcd, client, id).await?;
        lease.ok_or_else(|| Fault::Away("keep the lease alive: it ended at once".into()))
    }

    /// Keeps what is held; returns why it is held no longer, or `None` when told to stop.
    async fn hold(&mut self, stop: &CancellationToken) -> Option<Fault> {
        let mut lease = self.held.take()?;
        let mut pulse = tokio::time::interval(self.etcd.config.lease / 3);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut remarks = self.remarks.subscribe();
        let (mut standings_end, mut members_end) = (false, false);
        loop {
            // the branches only wait; the calls follow one after the other, each within its time-out
            let kept = tokio::select! {
                () = stop.cancelled() => {
                    self.held = Some(lease);
                    return None;
                }
                _ = pulse.tick() => lease.beat().await,
                changed = self.standings.changed(), if !standings_end => {
                    standings_end = changed.is_err();
                    let standing = *self.standings.borrow_and_update();
                    self.key.put(&mut lease.client, lease.id, standing).await
                }
                changed = self.members.changed(), if !members_end => {
                    members_end = changed.is_err();
                    let listed = self.members.borrow().contains(&self.key.node.id);
                    match listed {
                        true => Ok(()),
                        false => self.key.check(&mut lease.client, lease.id).await,
                    }
                }
                _ = remarks.changed() => Ok(()),
            };
            match kept {
                Ok(()) => self.tell_registered(),
                Err(fault) => return Some(fault),
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
            Ok(mut client) => self.etcd.call("revoke the lease", client.lease_revoke(lease)).await,
            Err(fault) => Err(fault),
        };
        match revoked {
            Ok(()) => tracing::info!(node = self.key.node.id, "deregistered from etcd"),
            Err(fault) => tracing::warn!("the registration ends with its lease: {fault}"),
        }
    }

    /// Tells why the node is not registered; that, and whether it is news.
    fn tell_obstacle(&self, obstacle: &Obstacle) -> (String, bool) {
        let why = match obstacle {
            Obstacle::Fault(Fault::Away(why)) => {
                format!("etcd ({}) is away (start it, or correct [cluster] etcd): {why}", self.etcd.name())
            }
            Obstacle::Fault(Fault::Refused(why)) => format!("etcd refuses this node: {why}"),
            Obstacle::BeingDeleted => "a survivor is deleting this node's old channel".to_owned(),
            Obstacle::Taken(other) => other.to_string(),
        };
        let status = format!("not registered: {why}");
        let news = self.tell(&status);
        (status, news)
    }

    fn tell_registered(&self) {
        self.tell(&format!("registered as {} ({})", self.key.node.id, self.key.node.phase));
    }

    /// Whether that is news.
    fn tell(&self, status: &str) -> bool {
        let members = self.members.borrow().join(", ");
        let mut lines = vec![format!("cluster: {status}")];
        if !members.is_empty() {
            lines.push(format!("cluster: nodes: {members}"));
        }
        lines.extend(self.remarks.borrow().iter().map(|remark| format!("cluster: {remark}")));
        self.say.send_if_modified(|now| {
            let differs = *now != lines;
            *now = lines;
            differs
        })
    }
}
