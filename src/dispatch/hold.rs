//! The replay hold: after a start with a backlog, clients rejoin first.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    queue::{Job, Jobs},
    telemetry::Level,
};

/// Held jobs are touched this often: well below nsqd's least time-out.
const TOUCH: Duration = Duration::from_secs(2);

/// What a hold left behind.
pub(super) enum Held {
    /// Its time is over: to be dispatched now, in order.
    Over(VecDeque<Job>),
    /// A drain ended it: to be requeued.
    Cut(VecDeque<Job>),
}

/// Keeps `first` and the jobs that follow, at most `max`, for `hold`; more wait in the queue.
pub(super) async fn hold(
    first: Job,
    jobs: &mut Jobs,
    hold: Duration,
    max: usize,
    draining: &CancellationToken,
    in_hand: &Level,
) -> Held {
    in_hand.inc();
    let mut held = VecDeque::from([first]);
    let mut over = std::pin::pin!(sleep(hold));
    let mut touch = interval(TOUCH);
    touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = false;
    loop {
        tokio::select! {
            () = draining.cancelled() => return Held::Cut(held),
            () = &mut over => return Held::Over(held),
            _ = touch.tick() => held.iter().for_each(Job::touch),
            job = jobs.next(), if !ended && held.len() < max => match job {
                Some(job) => {
                    in_hand.inc();
                    held.push_back(job);
                }
                None => ended = true,
            },
        }
    }
}
