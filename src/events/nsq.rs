//! The kinds other than `message` on their way to nsqd.

use std::sync::Arc;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::buffer::EventBuffer;
use crate::{
    queue::{Destination, Publisher},
    telemetry::{Metrics, labels::EventOutcome},
};

/// Events that wait for nsqd's acknowledgement at once: a small part of `[queue] max_publishes`, which pushes need.
const TOGETHER: usize = 64;

/// Publishes what comes into `buffer`, until `finishing` and it is empty. What nsqd does not take is dropped and counted.
pub(super) async fn forward(
    publisher: Publisher,
    buffer: Arc<EventBuffer>,
    metrics: Arc<Metrics>,
    finishing: CancellationToken,
) {
    let Some(mut events) = buffer.take() else { return };
    let delivered = metrics.events.get_or_create_owned(&EventOutcome::Delivered);
    let failed = metrics.events.get_or_create_owned(&EventOutcome::Failed);
    let mut under_way = FuturesUnordered::new();
    loop {
        // both cancel-safe
        tokio::select! {
            biased;
            Some((event, outcome)) = under_way.next() => {
                // its place is free only now
                drop(event);
                match outcome {
                    Ok(()) => delivered.inc(),
                    Err(error) => {
                        tracing::warn!(%error, "nsqd did not take an event");
                        failed.inc()
                    }
                };
            }
            Some(event) = events.recv(), if under_way.len() < TOGETHER => {
                let published = publisher.publish(Destination::Events, event.json.clone());
                under_way.push(async move { (event, published.await) });
            }
            () = finishing.cancelled(), if under_way.is_empty() => return,
        }
    }
}
