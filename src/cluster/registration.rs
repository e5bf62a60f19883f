//! This node's key in etcd, kept there by one task.
//!
//! It is either *held* (a lease that is kept alive, with the key under it) or not; whatever goes wrong while it is held ends
//! in *not held*, from where [`Registration::register`] tries again after a growing wait. A lease that outlived a lost
//! connection is taken up again, so that a short outage leaves the key untouched.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Phase;

use super::{
    addresses::Addresses,
    etcd::{Backoff, Etcd, Fault},
    node::{Entry, Keys, Node, phase_name},
};

/// How often a predecessor's lease, or a survivor's work on our channel, is looked at.
const LOOK: Duration = Duration::from_millis(300);

pub(super) struct Registration {
    etcd: Etcd,
    keys: Keys,
    node: Node,
    /// Whether the node has a channel that someone must delete should it never return.
    reads_channel: bool,
    /// gopusher's key form, if asked for.
    gopusher: Option<String>,
    phases: watch::Receiver<Phase>,
    members: watch::Receiver<Vec<String>>,
    remarks: watch::Sender<Vec<String>>,
    say: watch::Sender<Vec<String>>,
    lease: Option<i64>,
    held: Option<Held>,
    status: String,
}

/// What a registered node has.
struct Held {
    client: Client,
    lease: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// Why the key is not ours.
enum Obstacle {
    Fault(Fault),
    /// A node of the same id has it.
    Taken(Box<Other>),
    /// A survivor is deleting our channel.
    BeingDeleted,
}

/// A namesake.
struct Other {
    node: Option<Node>,
    lease: i64,
}

impl From<Fault> for Obstacle {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Registration {
    pub(super) fn new(
        etcd: Etcd,
        id: &str,
        addresses: &Addresses,
        reads_channel: bool,
        phases: watch::Receiver<Phase>,
        say: watch::Sender<Vec<String>>,
        members: watch::Receiver<Vec<String>>,
    ) -> Self {
        let gopusher = etcd.config.gopusher_key.as_ref();
        Self {
            keys: Keys::new(&etcd.config.prefix, id),
            node: Node::new(id, addresses, etcd.config.weight),
            reads_channel,
            gopusher: gopusher.map(|key| format!("/gopusher/{}/{}", key.trim_matches('/'), addresses.socket)),
            phases,
            members,
            remarks: watch::Sender::new(Vec::new()),
            say,
            lease: None,
            held: None,
            status: String::new(),
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
                Err(Obstacle::Fault(Fault::Away(why))) => {
                    tracing::warn!(
                        etcd = self.etcd.name(),
                        "etcd is away: {why}; the node serves without and tries again"
                    );
                    self.note(format!("not registered: etcd ({}) is away: {why}", self.etcd.name()));
                    return Ok(());
                }
                Err(Obstacle::BeingDeleted) => {
                    tracing::info!("a survivor is deleting this node's old channel; waiting for it");
                    tokio::time::sleep(LOOK).await;
                }
                Err(Obstacle::Taken(other)) => match self.outlive(&other).await {
                    Ok(true) => {}
                    Ok(false) => return Err(self.taken(&other)),
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
                tracing::warn!(node = self.node.id, "the registration is lost: {lost}; registering again");
                self.note(format!("not registered: {lost}"));
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
                let why = match obstacle {
                    Obstacle::Fault(Fault::Away(why)) => {
                        format!("not registered: etcd ({}) is away: {why}", self.etcd.name())
                    }
                    Obstacle::Fault(Fault::Refused(why)) => format!("not registered: etcd refuses this node: {why}"),
                    Obstacle::BeingDeleted => {
                        "not registered: a survivor is deleting this node's old channel".to_owned()
                    }
                    Obstacle::Taken(other) => format!("not registered: {}", self.taken(&other)),
                };
                tracing::warn!(node = self.node.id, "{why}");
                self.note(why);
            }
        }
        self.revoke().await;
    }

    /// One try to have the key.
    async fn register(&mut self) -> Result<(), Obstacle> {
        let mut client = self.etcd.connect().await?;
        let (lease, keeper, answers) = match self.resume(&mut client).await? {
            Some(held) => held,
            None => {
                let ttl = self.etcd.config.lease.as_secs().max(1) as i64;
                let granted = self.etcd.call("grant a lease", client.lease_grant(ttl, None)).await;
                let granted = match granted {
                    Ok(granted) => granted,
                    Err(fault) => return Err(self.etcd.diagnose(fault).await.into()),
                };
                self.lease = Some(granted.id());
                let kept = self.etcd.call("keep the lease alive", client.lease_keep_alive(granted.id())).await?;
                (granted.id(), kept.0, kept.1)
            }
        };
        let phase = *self.phases.borrow_and_update();
        self.claim(&mut client, lease, phase).await?;
        self.held = Some(Held { client, lease, keeper, answers });
        self.etcd.metrics.registered.set(1);
        tracing::info!(node = self.node.id, phase = phase_name(phase), key = self.keys.node, "registered in etcd");
        self.registered();
        Ok(())
    }

    /// The lease of before, if it still lives.
    async fn resume(&mut self, client: &mut Client) -> Result<Option<(i64, LeaseKeeper, LeaseKeepAliveStream)>, Fault> {
        let Some(lease) = self.lease else { return Ok(None) };
        let kept = tokio::time::timeout(self.etcd.config.timeout, client.lease_keep_alive(lease)).await;
        match kept {
            Ok(Ok((keeper, answers))) => Ok(Some((lease, keeper, answers))),
            Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => {
                self.lease = None;
                Ok(None)
            }
            Ok(Err(error)) => self.etcd.call("keep the lease alive", async { Err(error) }).await,
            Err(_) => Err(Fault::Away("keep the lease alive: no answer in time".into())),
        }
    }

    /// Writes the key if it is absent or this process's own.
    async fn claim(&mut self, client: &mut Client, lease: i64, phase: Phase) -> Result<(), Obstacle> {
        let keys = self.keys.clone();
        let absent = |key: &str| Compare::create_revision(key, CompareOp::Equal, 0);
        let look = [TxnOp::get(keys.node.as_str(), None), TxnOp::get(keys.deleting.as_str(), None)];
        let txn = Txn::new()
            .when([absent(&keys.node), absent(&keys.deleting)])
            .and_then(self.puts(lease, phase))
            .or_else(look);
        let answer = self.etcd.call("claim the node id", client.txn(txn)).await?;
        if answer.succeeded() {
            return Ok(());
        }
        let mut found = answer.op_responses().into_iter().map(first);
        let (node, deleting) = (found.next().flatten(), found.next().flatten());
        let Some(there) = node else {
            return Err(match deleting {
                Some(_) => Obstacle::BeingDeleted,
                None => Fault::Away("claim the node id: the key changed meanwhile".into()).into(),
            });
        };
        let node = Node::parse(there.value());
        let ours =
            there.lease() == lease || node.as_ref().is_some_and(|node| node.incarnation == self.node.incarnation);
        if !ours {
            return Err(Obstacle::Taken(Box::new(Other { node, lease: there.lease() })));
        }
        let unchanged = Compare::mod_revision(keys.node.as_str(), CompareOp::Equal, there.mod_revision());
        let txn = Txn::new().when([unchanged]).and_then(self.puts(lease, phase));
        match self.etcd.call("put the node's key", client.txn(txn)).await?.succeeded() {
            true => Ok(()),
            false => Err(Fault::Away("put the node's key: it changed meanwhile".into()).into()),
        }
    }

    /// What etcd shall hold of this node in `phase`.
    fn puts(&mut self, lease: i64, phase: Phase) -> Vec<TxnOp> {
        self.node.phase = phase_name(phase).to_owned();
        let under = || Some(PutOptions::new().with_lease(lease));
        let mut puts = vec![TxnOp::put(self.keys.node.as_str(), self.node.json(), under())];
        if self.reads_channel {
            puts.push(TxnOp::put(self.keys.roster.as_str(), Entry::default().json(), None));
        }
        if let Some(key) = &self.gopusher {
            puts.push(match phase {
                Phase::Serving => {
                    TxnOp::put(key.as_str(), format!("{} weight={}", self.node.socket, self.node.weight), under())
                }
                Phase::Starting | Phase::Leaving | Phase::Draining => TxnOp::delete(key.as_str(), None),
            });
        }
        puts
    }

    /// Keeps what is held; returns why it is held no longer, or `None` when told to stop.
    async fn hold(&mut self, stop: &CancellationToken) -> Option<Fault> {
        let mut held = self.held.take()?;
        let mut pulse = tokio::time::interval(self.etcd.config.lease / 3);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut remarks = self.remarks.subscribe();
        let (mut phases_end, mut members_end) = (false, false);
        loop {
            // the branches only wait; the calls follow one after the other, each within its time-out
            let kept = tokio::select! {
                () = stop.cancelled() => {
                    self.held = Some(held);
                    return None;
                }
                _ = pulse.tick() => self.beat(&mut held).await,
                changed = self.phases.changed(), if !phases_end => {
                    phases_end = changed.is_err();
                    self.put(&mut held).await
                }
                changed = self.members.changed(), if !members_end => {
                    members_end = changed.is_err();
                    self.check(&mut held).await
                }
                _ = remarks.changed() => Ok(()),
            };
            match kept {
                Ok(()) => self.registered(),
                Err(fault) => return Some(fault),
            }
        }
    }

    async fn beat(&self, held: &mut Held) -> Result<(), Fault> {
        let beat = async {
            held.keeper.keep_alive().await?;
            held.answers.message().await
        };
        match self.etcd.call("keep the lease alive", beat).await? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            Some(_) => Err(Fault::Away("the lease ended".into())),
            None => Err(Fault::Away("etcd ended the lease's stream".into())),
        }
    }

    /// Writes the phase, if the key is still ours.
    async fn put(&mut self, held: &mut Held) -> Result<(), Fault> {
        let phase = *self.phases.borrow_and_update();
        let ours = Compare::lease(self.keys.node.as_str(), CompareOp::Equal, held.lease);
        let txn = Txn::new().when([ours]).and_then(self.puts(held.lease, phase));
        match self.etcd.call("put the node's key", held.client.txn(txn)).await?.succeeded() {
            true => {
                tracing::info!(node = self.node.id, phase = phase_name(phase), "phase written to etcd");
                Ok(())
            }
            false => Err(Fault::Away("the key is not this node's any more".into())),
        }
    }

    /// Someone may have deleted the key though the lease lives.
    async fn check(&self, held: &mut Held) -> Result<(), Fault> {
        if self.members.borrow().contains(&self.node.id) {
            return Ok(());
        }
        let got = self.etcd.call("read the node's key", held.client.get(self.keys.node.as_str(), None)).await?;
        match got.kvs().first().is_some_and(|kv| kv.lease() == held.lease) {
            true => Ok(()),
            false => Err(Fault::Away("the key was deleted".into())),
        }
    }

    /// Waits for the end of a killed predecessor's lease. False: the other one lives, its lease is being kept alive.
    async fn outlive(&self, other: &Other) -> Result<bool, Fault> {
        if other.lease == 0 {
            return Ok(false);
        }
        let mut client = self.etcd.connect().await?;
        let (mut last, mut risen, begun) = (i64::MAX, 0, Instant::now());
        loop {
            let answer = self.etcd.call("look at a lease", client.lease_time_to_live(other.lease, None)).await?;
            if answer.ttl() <= 0 {
                return Ok(true);
            }
            if last == i64::MAX {
                tracing::info!(node = self.node.id, seconds = answer.ttl(), "waiting for a predecessor's lease to end");
            }
            // a new leader of etcd lengthens all leases once: only the second rise is a sign of life
            risen += u32::from(answer.ttl() > last);
            last = answer.ttl();
            let most = Duration::from_secs(2 * answer.granted_ttl().max(1).unsigned_abs()) + self.etcd.config.timeout;
            if risen >= 2 || begun.elapsed() > most {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn revoke(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        self.etcd.metrics.registered.set(0);
        let mut client = match self.held.take() {
            Some(held) => held.client,
            None => match self.etcd.connect().await {
                Ok(client) => client,
                Err(fault) => {
                    tracing::warn!("the registration ends with its lease, as etcd is away: {fault}");
                    return;
                }
            },
        };
        match self.etcd.call("revoke the lease", client.lease_revoke(lease)).await {
            Ok(_) => tracing::info!(node = self.node.id, "deregistered from etcd"),
            Err(fault) => tracing::warn!("the registration ends with its lease: {fault}"),
        }
    }

    fn taken(&self, other: &Other) -> String {
        let id = &self.node.id;
        match (&other.node, other.lease) {
            (_, 0) => format!(
                "the key {} is there without a lease, so no node wrote it: delete it (etcdctl del {0})",
                self.keys.node
            ),
            (Some(node), _) => format!(
                "the node id {id} is taken by a living node (socket {}, http {}, grpc {}, oxipush {}): give this one another \
                 [node] id, or stop that one",
                node.socket, node.http, node.grpc, node.version
            ),
            (None, _) => format!("the key {} is kept by something that is no oxipush node", self.keys.node),
        }
    }

    fn registered(&mut self) {
        self.note(format!("registered as {} ({})", self.node.id, self.node.phase));
    }

    fn note(&mut self, status: String) {
        self.status = status;
        let members = self.members.borrow().join(", ");
        let mut lines = vec![format!("cluster: {}", self.status)];
        if !members.is_empty() {
            lines.push(format!("cluster: nodes: {members}"));
        }
        lines.extend(self.remarks.borrow().iter().map(|remark| format!("cluster: {remark}")));
        self.say.send_if_modified(|now| {
            let differs = *now != lines;
            *now = lines;
            differs
        });
    }
}

fn first(response: TxnOpResponse) -> Option<KeyValue> {
    match response {
        TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next(),
        _ => None,
    }
}
