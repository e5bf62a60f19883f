//! Events of what was not delivered: one for each reason and second in which something was dropped.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{Event, EventKind, Events};
use crate::telemetry::{Metrics, labels::DropReason};

/// How often the counters are read.
const EVERY: Duration = Duration::from_secs(1);

/// Tells them; never ends.
pub(super) async fn tell(events: Events, metrics: Arc<Metrics>) {
    let mut told = vec![0; DropReason::ALL.len()];
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted = events.wants(EventKind::Drops);
        for (reason, told) in DropReason::ALL.iter().zip(&mut told) {
            let dropped = metrics.drops.get(reason).map_or(0, |counter| counter.get());
            let count = dropped - std::mem::replace(told, dropped);
            if wanted && count > 0 {
                let data = format!(r#"{{"reason":"{}","count":{count}}}"#, reason.word());
                events.tell(Event { data: Some(data.into()), ..Event::new(EventKind::Drops) });
            }
        }
    }
}
