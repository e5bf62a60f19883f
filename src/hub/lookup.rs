//! What back ends ask of a shard: which clients an address has.

use std::{borrow::Cow, net::IpAddr};

use bytestring::ByteString;
use tokio::sync::oneshot;

use super::{ClientId, ClientKey, Hub, Work};
use crate::push::Address;

/// One client as a back end sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Its name over all nodes.
    pub id: ClientId,
    /// The cards that it joined, each with its app.
    pub cards: Vec<(ByteString, ByteString)>,
    /// How it speaks.
    pub dialect: Cow<'static, str>,
    /// Since when it is a member of the address, or of its first one, in milliseconds since 1970.
    pub since: u64,
    /// Bytes that wait for it.
    pub outbox: usize,
    /// Where it connects from, as far as that is known.
    pub address: Option<IpAddr>,
}

/// A question to one shard.
pub struct ClientLookup {
    pub(super) wanted: WantedClients,
    pub(super) answer: oneshot::Sender<Vec<ClientInfo>>,
}

/// Which clients a question is about.
pub(super) enum WantedClients {
    /// Those of an address, in the order of their ids.
    Of {
        address: Address,
        /// Only those behind this one.
        after: Option<ClientId>,
        limit: usize,
    },
    /// The one of this key.
    One(ClientKey),
}

impl Hub {
    /// Clients of an address on this node, in the order of their ids, at most `limit` behind `after`. A shard that is gone has
    /// none.
    pub async fn clients(&self, address: &Address, after: Option<ClientId>, limit: usize) -> Vec<ClientInfo> {
        let shards = self.shards(address);
        let mut answers = Vec::new();
        for shard in (0..self.workers()).filter(|shard| shards >> shard & 1 == 1) {
            let (answer, answered) = oneshot::channel();
            let wanted = WantedClients::Of { address: address.clone(), after, limit };
            let lookup = ClientLookup { wanted, answer };
            self.send(shard, vec![Work::Lookup(lookup)]).await;
            answers.push(answered);
        }
        let mut found = Vec::new();
        for answer in answers {
            found.extend(answer.await.unwrap_or_default());
        }
        found.sort_unstable_by_key(|client| client.id);
        found.truncate(limit);
        found
    }

    /// The client of this id, since it joined first; `None`: it is not, or no more, of this node.
    pub async fn client(&self, id: ClientId) -> Option<ClientInfo> {
        let (shard, key) = self.place(id).filter(|(shard, _)| *shard < self.workers())?;
        let (answer, answered) = oneshot::channel();
        self.send(shard, vec![Work::Lookup(ClientLookup { wanted: WantedClients::One(key), answer })]).await;
        answered.await.unwrap_or_default().pop()
    }
}
