//! One processor: finds the shards of each card and sends them their parts, in order.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::BUNDLE;
use crate::{
    bundles::Bundles,
    hub::{Cards, Hub, Part},
    telemetry::{Metrics, labels::DropReason},
};

/// Works until nobody can send `parts` any more.
pub(super) async fn run(mut parts: Bundles<Part>, hub: Hub, metrics: Arc<Metrics>, within: Duration) {
    let nobody = metrics.drops.get_or_create_owned(&DropReason::NoConnection);
    let mut taken = Vec::with_capacity(BUNDLE);
    let mut places = vec![Vec::new(); hub.workers()];
    let mut bundles: Vec<Vec<Part>> = (0..hub.workers()).map(|_| Vec::new()).collect();
    while let Some(some) = parts.some(BUNDLE).await {
        taken.extend(some);
        for part in &taken {
            nobody.inc_by(route(part, &hub, &mut places, &mut bundles));
        }
        for (shard, bundle) in bundles.iter_mut().enumerate().filter(|(_, bundle)| !bundle.is_empty()) {
            let Err(bundle) = hub.try_send(shard, std::mem::take(bundle)) else { continue };
            // too late, the bundle is dropped here, and so its jobs come again
            if timeout(within, hub.send(shard, bundle)).await.is_err() {
                tracing::warn!(shard, "a shard took no part within job_timeout");
            }
        }
        taken.drain(..).for_each(Part::done);
    }
}

/// Makes of a part one for each shard that holds cards of it; how many of its cards no shard holds. `places` is empty before
/// and after.
fn route(part: &Part, hub: &Hub, places: &mut [Vec<u32>], bundles: &mut [Vec<Part>]) -> u64 {
    let (fanout, cards) = (part.fanout(), part.cards());
    let push = fanout.push();
    let mut without = 0;
    for nth in 0..cards.count(push) {
        let place = cards.place(nth);
        let mut holders = hub.shards(&push.target.cards[place]);
        without += u64::from(holders == 0);
        while holders != 0 {
            places[holders.trailing_zeros() as usize].push(place as u32);
            holders &= holders - 1;
        }
    }
    for (places, bundle) in places.iter_mut().zip(bundles).filter(|(places, _)| !places.is_empty()) {
        let cards = match places.len() == push.target.cards.len() {
            true => Cards::All,
            false => Cards::Some(places.clone()),
        };
        places.clear();
        bundle.push(Part::new(Arc::clone(fanout), cards));
    }
    without
}
