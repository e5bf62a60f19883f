//! One processor: finds the shards that have clients of each part, and sends them theirs, in order.

use std::{mem, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::BUNDLE;
use crate::{
    bundles::Bundles,
    hub::{ClientId, DisconnectPart, Hub, Part, Recipients, Work},
    push::{Address, ClientSelector},
    telemetry::{Metrics, labels::DropReason},
};

/// Works until nobody can send any more.
pub(super) async fn run(mut inbox: Bundles<Work>, hub: Hub, metrics: Arc<Metrics>, within: Duration) {
    let nobody = metrics.drops.get_or_create_owned(&DropReason::NoConnection);
    let mut taken = Vec::with_capacity(BUNDLE);
    let mut router = Router::new(hub);
    while let Some(some) = inbox.some(BUNDLE).await {
        taken.extend(some);
        for work in &taken {
            match work {
                Work::Part(part) => {
                    nobody.inc_by(router.route(part));
                }
                Work::Disconnect(part) => router.route_disconnect(part),
            }
        }
        for (shard, bundle) in router.bundles.iter_mut().enumerate().filter(|(_, bundle)| !bundle.is_empty()) {
            let Err(bundle) = router.hub.try_send(shard, mem::take(bundle)) else { continue };
            // too late, the bundle is dropped here, and so its jobs come again
            if timeout(within, router.hub.send(shard, bundle)).await.is_err() {
                tracing::warn!(shard, "a shard took no part within job_timeout");
            }
        }
        taken.drain(..).for_each(Work::done);
    }
}

/// Makes the shards' parts out of a lane's.
struct Router {
    hub: Hub,
    /// For each shard what is ready to be sent.
    bundles: Vec<Vec<Work>>,
    /// For each shard the addresses of the part that is being routed; empty before and after.
    addresses: Vec<Vec<Address>>,
}

impl Router {
    fn new(hub: Hub) -> Self {
        let shards = hub.workers();
        Self { hub, bundles: (0..shards).map(|_| Vec::new()).collect(), addresses: vec![Vec::new(); shards] }
    }

    /// Makes of a part one for each shard that has clients of it; how many of its addresses no shard has.
    fn route(&mut self, part: &Part) -> u64 {
        match part.recipients() {
            Recipients::Address(address) => {
                let shards = self.hub.shards(address);
                self.add_to_each(shards, part);
                u64::from(shards == 0)
            }
            Recipients::Addresses(addresses) => self.split(part, addresses),
            Recipients::Everyone | Recipients::Panic => {
                self.add_to_each(self.all_shards(), part);
                0
            }
        }
    }

    /// A part for the same recipients to each of `shards`, a bit for each.
    fn add_to_each(&mut self, shards: u64, part: &Part) {
        for shard in bits(shards) {
            self.bundles[shard].push(Part::new(Arc::clone(part.fanout()), part.recipients().clone()).into());
        }
    }

    /// A part of an order to each shard that may have clients of it.
    fn route_disconnect(&mut self, part: &DisconnectPart) {
        let shards = match &part.run().order().selector {
            ClientSelector::Card(card) => self.hub.shards(&Address::Card(card.clone())),
            ClientSelector::App(_) | ClientSelector::Subject(_) => self.all_shards(),
            // the part of an id that was made up may name a shard that this node has not
            ClientSelector::Client(id) => {
                let place = self.hub.place(ClientId::from_bytes(*id));
                place.and_then(|(shard, _)| 1_u64.checked_shl(shard as u32)).unwrap_or(0) & self.all_shards()
            }
        };
        for shard in bits(shards) {
            self.bundles[shard].push(Work::Disconnect(DisconnectPart::new(Arc::clone(part.run()))));
        }
    }

    /// A bit for each.
    fn all_shards(&self) -> u64 {
        u64::MAX >> (u64::BITS as usize - self.hub.workers())
    }

    /// A part to each shard, for those of `addresses` that it has.
    fn split(&mut self, part: &Part, addresses: &[Address]) -> u64 {
        let mut nowhere = 0;
        for address in addresses {
            let shards = self.hub.shards(address);
            nowhere += u64::from(shards == 0);
            for shard in bits(shards) {
                self.addresses[shard].push(address.clone());
            }
        }
        for (addresses, bundle) in self.addresses.iter_mut().zip(&mut self.bundles) {
            if !addresses.is_empty() {
                let recipients = Recipients::Addresses(mem::take(addresses));
                bundle.push(Part::new(Arc::clone(part.fanout()), recipients).into());
            }
        }
        nowhere
    }
}

/// The places of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = word.trailing_zeros();
        (place < u64::BITS).then(|| {
            word &= word - 1;
            place as usize
        })
    })
}
