//! Which nodes a push goes to.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::Value;
use tokio::sync::watch;

use super::{
    keys::{DirectoryKeys, PARTITIONS, partition},
    scripts::{FIND, parts_of, text_of},
};
use crate::{push::Address, redis_client::RedisClient};

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
    complete: Box<[Mutex<CompleteNodes>]>,
}

/// The nodes that have written all they hold of a partition.
#[derive(Clone, Default)]
struct CompleteNodes {
    /// As Redis names this set of nodes.
    version: String,
    nodes: Arc<HashSet<Arc<str>>>,
}

impl Lookup {
    pub(super) fn new(redis: RedisClient, readers: watch::Receiver<Vec<String>>) -> Self {
        let complete = (0..PARTITIONS).map(|_| Mutex::default()).collect();
        Self { keys: DirectoryKeys::new(redis.prefix()), redis, readers, complete }
    }

    /// Who holds each of `addresses`.
    pub(super) async fn holders(&self, addresses: &[Address]) -> Vec<HoldingNodes> {
        let mut found = vec![HoldingNodes::AnyNode; addresses.len()];
        // it would be told of everything anyway
        if self.readers.borrow().len() <= 1 {
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
                FIND.with_keys(&keys).arg(&self.known(*partition).version)
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

    /// The nodes of a partition that have written all they hold, if all that hold clients are among them.
    fn complete(&self, partition: usize, version: &str, nodes: &Value) -> Option<Arc<HashSet<Arc<str>>>> {
        let mut known = self.known(partition);
        if let Value::Array(nodes) = nodes {
            let nodes = nodes.iter().map(text_of).map(Arc::from).collect();
            *known = CompleteNodes { version: version.to_owned(), nodes: Arc::new(nodes) };
        }
        // another look-up may have learned of other nodes meanwhile
        if known.version != version {
            return None;
        }
        let complete = Arc::clone(&known.nodes);
        drop(known);
        self.readers.borrow().iter().all(|reader| complete.contains(reader.as_str())).then_some(complete)
    }

    fn known(&self, partition: usize) -> MutexGuard<'_, CompleteNodes> {
        self.complete[partition].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
