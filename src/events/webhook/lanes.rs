//! What waits for the webhook, card by card: a card's events go in order, one batch of them at a time.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::{events::buffer::BufferedEvent, lifecycle::Backoff};

/// An event that waits.
#[derive(Debug)]
pub(super) enum LaneEvent {
    /// In the journal, by its position.
    Message(u64),
    /// In memory.
    Other(BufferedEvent),
}

/// What is known of one card.
#[derive(Default)]
struct WebhookLane {
    waiting: VecDeque<LaneEvent>,
    /// A batch of it is in flight.
    is_in_flight: bool,
    /// It is not tried before.
    retry_at: Option<Instant>,
    /// Since it failed last.
    backoff: Option<Backoff>,
}

/// See the module.
#[derive(Default)]
pub(super) struct WebhookLanes {
    lanes: HashMap<u64, WebhookLane>,
    /// Those that have events, none in flight, and nothing to wait for.
    ready: VecDeque<u64>,
    retries: BTreeSet<(Instant, u64)>,
}

impl WebhookLanes {
    /// One more event of a lane.
    pub(super) fn add(&mut self, lane: u64, event: LaneEvent) {
        let found = self.lanes.entry(lane).or_default();
        found.waiting.push_back(event);
        if found.waiting.len() == 1 && !found.is_in_flight && found.retry_at.is_none() {
            self.ready.push_back(lane);
        }
    }

    /// Whether a batch can be taken.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// At most so many events of the lane that has waited longest; it is in flight from now on.
    pub(super) fn take(&mut self, most: usize) -> Option<(u64, Vec<LaneEvent>)> {
        let id = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&id)?;
        lane.is_in_flight = true;
        let count = lane.waiting.len().min(most);
        Some((id, lane.waiting.drain(..count).collect()))
    }

    /// A batch is done with, but for `left`, which were not sent.
    pub(super) fn done(&mut self, id: u64, left: Vec<LaneEvent>) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.is_in_flight = false;
        lane.backoff = None;
        put_back(lane, left);
        if lane.waiting.is_empty() {
            self.lanes.remove(&id);
        } else {
            self.ready.push_back(id);
        }
    }

    /// A batch comes again, after a wait that grows from `first`, made once.
    pub(super) fn failed(&mut self, id: u64, batch: Vec<LaneEvent>, first: impl FnOnce() -> Backoff) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.is_in_flight = false;
        put_back(lane, batch);
        if lane.waiting.is_empty() {
            self.lanes.remove(&id);
            return;
        }
        let wait = lane.backoff.get_or_insert_with(first).next_wait();
        let at = Instant::now() + wait;
        lane.retry_at = Some(at);
        self.retries.insert((at, id));
    }

    /// A batch comes again as soon as any can: it was not its own fault.
    pub(super) fn put_back(&mut self, id: u64, batch: Vec<LaneEvent>) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.is_in_flight = false;
        put_back(lane, batch);
        self.ready.push_front(id);
    }

    /// When the next lane has waited long enough after a failure.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }

    /// Lanes that have waited long enough are ready.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((at, id)) = self.retries.pop_first() {
            if at > now {
                self.retries.insert((at, id));
                return;
            }
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.retry_at = None;
                self.ready.push_back(id);
            }
        }
    }
}

fn put_back(lane: &mut WebhookLane, events: Vec<LaneEvent>) {
    for event in events.into_iter().rev() {
        lane.waiting.push_front(event);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn numbers(events: &[LaneEvent]) -> Vec<u64> {
        let number = |event: &LaneEvent| match event {
            LaneEvent::Message(number) => *number,
            LaneEvent::Other(_) => 0,
        };
        events.iter().map(number).collect()
    }

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(10))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lanes_events_go_in_order_one_batch_at_a_time_whatever_fails() {
        let mut lanes = WebhookLanes::default();
        for number in 1..=5 {
            lanes.add(7, LaneEvent::Message(number));
        }
        lanes.add(8, LaneEvent::Message(6));
        let (seven, batch) = lanes.take(3).unwrap();
        assert_eq!((seven, numbers(&batch)), (7, vec![1, 2, 3]));
        let (eight, other) = lanes.take(3).unwrap();
        assert_eq!((eight, numbers(&other)), (8, vec![6]));
        assert!(lanes.take(3).is_none(), "the rest of 7 waits for its batch");
        lanes.add(7, LaneEvent::Message(7));
        assert!(!lanes.is_ready());
        lanes.done(8, Vec::new());
        lanes.failed(7, batch, backoff);
        assert!(!lanes.is_ready());
        let at = lanes.next_retry().unwrap();
        tokio::time::advance(at - Instant::now()).await;
        lanes.wake(Instant::now());
        let (_, mut batch) = lanes.take(100).unwrap();
        assert_eq!(numbers(&batch), [1, 2, 3, 4, 5, 7]);
        // only the first two were sent
        let left = batch.split_off(2);
        lanes.done(7, left);
        let (_, batch) = lanes.take(100).unwrap();
        assert_eq!(numbers(&batch), [3, 4, 5, 7]);
        lanes.put_back(7, batch);
        assert_eq!(numbers(&lanes.take(1).unwrap().1), [3]);
        lanes.done(7, Vec::new());
        lanes.take(100).unwrap();
        lanes.done(7, Vec::new());
        assert!(lanes.lanes.is_empty() && lanes.ready.is_empty() && lanes.next_retry().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_fails_again_waits_longer_and_one_that_did_well_begins_anew() {
        let mut lanes = WebhookLanes::default();
        lanes.add(7, LaneEvent::Message(1));
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (_, batch) = lanes.take(1).unwrap();
            lanes.failed(7, batch, backoff);
            let at = lanes.next_retry().unwrap();
            waits.push(at - Instant::now());
            tokio::time::advance(at - Instant::now()).await;
            lanes.wake(Instant::now());
        }
        assert!(waits[0] < Duration::from_secs(3) && waits[7] >= Duration::from_secs(5), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)), "{waits:?}");
        lanes.take(1).unwrap();
        lanes.done(7, vec![LaneEvent::Message(2)]);
        let (_, batch) = lanes.take(1).unwrap();
        lanes.failed(7, batch, backoff);
        assert!(lanes.next_retry().unwrap() - Instant::now() < Duration::from_secs(3));
    }
}
