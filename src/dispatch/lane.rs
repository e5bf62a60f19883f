//! One processor: finds the shards of each card and sends them their parts, in order.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use crate::{
    hub::{Cards, Hub, Parcel},
    telemetry::Metrics,
};

/// Works until nobody can send `parts` any more.
pub(super) async fn run(mut parts: mpsc::Receiver<Parcel>, hub: Hub, metrics: Arc<Metrics>, within: Duration) {
    let nobody = metrics.drops.get_or_create_owned(&[("reason", "no_connection")]);
    let mut shards = vec![Vec::new(); hub.workers()];
    while let Some(part) = parts.recv().await {
        let (post, cards) = (part.post(), part.cards());
        let push = post.push();
        let count = cards.count(push);
        let mut without = 0;
        for nth in 0..count {
            let place = cards.place(nth);
            let mut holders = hub.shards(&push.target.cards[place]);
            without += u64::from(holders == 0);
            while holders != 0 {
                shards[holders.trailing_zeros() as usize].push(place as u32);
                holders &= holders - 1;
            }
        }
        nobody.inc_by(without);
        for (shard, places) in shards.iter_mut().enumerate().filter(|(_, places)| !places.is_empty()) {
            let cards = match places.len() == push.target.cards.len() {
                true => Cards::All,
                false => Cards::Some(places.clone()),
            };
            places.clear();
            let Err(parcel) = hub.try_send(shard, Parcel::new(Arc::clone(post), cards)) else { continue };
            // too late, the part is dropped here, and so the job comes again
            if timeout(within, hub.send(shard, parcel)).await.is_err() {
                tracing::warn!(shard, "a shard took no part within job_timeout");
            }
        }
        part.done();
    }
}
