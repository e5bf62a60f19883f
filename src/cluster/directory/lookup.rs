//! Which nodes a push goes to.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::Value;
use tokio::{sync::watch, time::Instant};

use super::{
    keys::{DirectoryKeys, PARTITIONS, partition},
    scripts::{LOOK_UP, parts_of, text_of},
};
use crate::{cluster::GoneNode, push::Address, redis_client::RedisClient};

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldingNodes {
    /// The directory does not know it now: any node may.
    AnyNode,
    /// These nodes alone; there may be none.
    Nodes(Vec<Arc<str>>),
}

pub(super) struct Lookup {
    redis: RedisClient,
    keys: DirectoryKeys,
    /// The nodes that hold clients, as etcd tells.
    readers: watch::Receiver<Vec<String>>,
    gone: watch::Receiver<Vec<GoneNode>>,
    trust: Mutex<Trust>,
    complete: Box<[Mutex<CompleteNodes>]>,
}

/// The nodes that have written all they hold of a partition.
#[derive(Clone, Default)]
struct CompleteNodes {
    /// As Redis names this set of nodes.
    version: String,
    nodes: Arc<HashSet<Arc<str>>>,
}

/// Whether Redis is believed. Behind a new connection there may be another one, or one that has lost its last writes: until each node
/// has written again what it holds, or has lost its lease, it is not.
struct Trust {
    connections: u64,
    from: Instant,
    /// What a node has for that.
    distrust: Duration,
}

impl Trust {
    fn holds(&mut self, connections: u64) -> bool {
        if connections != self.connections {
            // the first one is as good as any
            if self.connections > 0 {
                self.from = Instant::now() + self.distrust;
            }
            self.connections = connections;
        }
        self.from <= Instant::now()
    }
}

impl Lookup {
    pub(super) fn new(
        redis: RedisClient,
        readers: watch::Receiver<Vec<String>>,
        gone: watch::Receiver<Vec<GoneNode>>,
        distrust: Duration,
    ) -> Self {
        let trust = Mutex::new(Trust { connections: redis.connections(), from: Instant::now(), distrust });
        let complete = (0..PARTITIONS).map(|_| Mutex::default()).collect();
        Self { keys: DirectoryKeys::new(redis.prefix()), redis, readers, gone, trust, complete }
    }

    /// Who holds each of `addresses`.
    pub(super) async fn holders(&self, addresses: &[Address]) -> Vec<HoldingNodes> {
        let mut found = vec![HoldingNodes::AnyNode; addresses.len()];
        // a single node would be told of everything anyway
        if self.readers.borrow().len() <= 1 || !self.is_trusted() {
            return found;
        }
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, address) in addresses.iter().enumerate() {
            places.entry(partition(address.kind(), address.name())).or_default().push(place);
        }
        let calls: Vec<_> = places
            .iter()
            .map(|(partition, places)| {
                let holders: Vec<_> =
                    places.iter().map(|place| self.keys.holders(*partition, &addresses[*place])).collect();
                let nodes = self.keys.nodes(*partition);
                let keys: Vec<&[u8]> = std::iter::once(&*nodes).chain(holders.iter().map(Vec::as_slice)).collect();
                LOOK_UP.with_keys(&keys).arg(&self.known(*partition).version)
            })
            .collect();
        let answers = self.redis.run_scripts(&calls).await;
        for ((partition, places), answer) in places.into_iter().zip(answers) {
            let Ok(answer) = answer else { continue };
            let [version, nodes, holders @ ..] = parts_of(&answer) else { continue };
            let Some(complete) = self.complete(partition, text_of(version), nodes) else { continue };
            for (place, holders) in places.into_iter().zip(holders) {
                let names = parts_of(holders).iter().map(text_of);
                found[place] = HoldingNodes::Nodes(names.filter_map(|name| complete.get(name).cloned()).collect());
            }
        }
        found
    }

    fn is_trusted(&self) -> bool {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner).holds(self.redis.connections())
    }

    /// The nodes of a partition that have written all they hold, if all that may hold clients are among them.
    fn complete(&self, partition: usize, version: &str, nodes: &Value) -> Option<Arc<HashSet<Arc<str>>>> {
        let mut known = self.known(partition);
        if let Value::Array(nodes) = nodes {
            let nodes = nodes.iter().map(text_of).map(Arc::from).collect();
            *known = CompleteNodes { version: version.to_owned(), nodes: Arc::new(nodes) };
        }
        // what was known when it was asked is not any more
        if known.version != version {
            return None;
        }
        let complete = Arc::clone(&known.nodes);
        drop(known);
        let has = |node: &str| complete.contains(node);
        // one that is only cut off from etcd still has its clients
        let are_all_there = self.readers.borrow().iter().all(|node| has(node))
            && self.gone.borrow().iter().all(|node| !node.may_live || has(&node.id));
        are_all_there.then_some(complete)
    }

    fn known(&self, partition: usize) -> MutexGuard<'_, CompleteNodes> {
        self.complete[partition].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
