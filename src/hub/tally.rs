//! A shard's counts of one turn: the shared counters are touched once a turn, not once a connection.

use std::cell::Cell;

use crate::telemetry::{
    Counter, Metrics,
    labels::{DropReason, OfferOutcome},
};

macro_rules! tally {
    ($($field:ident => $family:ident[$label:expr];)*) => {
        pub(super) struct Tally {
            pub(super) deliveries: Cell<u64>,
            $(pub(super) $field: Cell<u64>,)*
            counters: TallyCounters,
        }

        struct TallyCounters { deliveries: Counter, $($field: Counter),* }

        impl Tally {
            pub(super) fn new(metrics: &Metrics) -> Self {
                Self {
                    deliveries: Cell::new(0),
                    $($field: Cell::new(0),)*
                    counters: TallyCounters {
                        deliveries: metrics.deliveries.clone(),
                        $($field: metrics.$family.get_or_create_owned(&$label),)*
                    },
                }
            }

            /// Adds what was counted to the shared counters.
            pub(super) fn publish(&self) {
                flush(&self.deliveries, &self.counters.deliveries);
                $(flush(&self.$field, &self.counters.$field);)*
            }
        }
    };
}

tally! {
    queued => offers[OfferOutcome::Queued];
    slow => offers[OfferOutcome::Slow];
    gone => offers[OfferOutcome::Gone];
    dropped => drops[DropReason::DropOldest];
    conflated => drops[DropReason::Conflated];
    evicted => drops[DropReason::Slow];
    closed => drops[DropReason::Closed];
    expired => drops[DropReason::Expired];
}

fn flush(here: &Cell<u64>, shared: &Counter) {
    let counted = here.take();
    if counted > 0 {
        shared.inc_by(counted);
    }
}

/// Adds `n` to a count of this turn.
pub(super) fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get() + n);
}
