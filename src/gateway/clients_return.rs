//! Ends the queue's replay hold once all clients that were there before the start are back.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{hub::Hub, lifecycle::Tasks, queue::ReplayHold};

/// How often the clients are counted.
const STEP: Duration = Duration::from_millis(20);
/// A count that takes long is made so rarely that it takes this part of a core at most.
const SHARE: u32 = 10;

/// Looks at the clients until they are back, or the hold is over otherwise.
pub(super) fn follow(hold: ReplayHold, hub: Hub, tasks: &Tasks) {
    let cancelled = tasks.cancelled();
    tasks.spawn_until_done("replay hold", async move {
        cancelled.run_until_cancelled(end_in_time(hold, hub)).await;
    });
}

async fn end_in_time(hold: ReplayHold, hub: Hub) {
    let mut pause = STEP;
    while !hold.is_over() {
        sleep(pause).await;
        let census = hub.census();
        if census.connections > 0 {
            hold.somebody_is_here();
            if hold.missing().is_empty() {
                return;
            }
        }
        // cheap, and false for most of the time
        if hold.missing().is_empty() || census.groups + census.rooms < hold.missing().addresses() {
            continue;
        }
        let begun = Instant::now();
        if hub.address_counts().covers(hold.missing()) {
            tracing::info!(addresses = hold.missing().addresses(), "the clients of before the start are back");
            return hold.end();
        }
        pause = STEP.max(begun.elapsed() * SHARE);
    }
}
