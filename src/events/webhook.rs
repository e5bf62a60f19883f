//! The webhook: events POSTed in batches, card by card.
//!
//! A card's batches go one after the other; those of different cards at once, as many as `[events] max_in_flight`. So one that
//! hangs holds its card alone, until `[events] timeout`. What was not taken goes again: a card's batch after a wait of its own,
//! all of them after a common one where there is nobody to connect to.

mod lanes;
mod request;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hashbrown::HashMap;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::{
    lanes::{LaneEvent, WebhookLanes},
    request::{WebhookAnswer, WebhookClient, array},
};
use super::{EventsConfigError, buffer::EventBuffer, journal::Journal};
use crate::{
    config::Config,
    lifecycle::Backoff,
    telemetry::{
        Counter, Metrics,
        labels::{EventOutcome, EventRequestOutcome},
    },
};

/// The shortest wait before events go again.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// A request has about so many bytes at most.
const BATCH_BYTES: usize = 1 << 20;
/// Messages whose lanes are looked up at once.
const PAGE: usize = 1024;

/// See the module.
pub(super) struct Webhook {
    journal: Journal,
    buffer: Arc<EventBuffer>,
    client: WebhookClient,
    /// Events in one request.
    batch: usize,
    max_in_flight: usize,
    max_backoff: Duration,
    delivered: Counter,
    refused: Counter,
    metrics: Arc<Metrics>,
}

/// A batch that was sent, or could not be.
struct SentBatch {
    lane: u64,
    /// What was tried.
    events: Vec<LaneEvent>,
    /// What there was no room for in the request.
    left: Vec<LaneEvent>,
    answer: WebhookAnswer,
}

impl Webhook {
    pub(super) fn new(
        config: &Config,
        journal: Journal,
        buffer: Arc<EventBuffer>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, EventsConfigError> {
        let events = &config.events;
        let url = events.url.clone().ok_or_else(|| EventsConfigError("url: it is empty".into()))?;
        Ok(Self {
            journal,
            buffer,
            client: WebhookClient::new(config, url)?,
            batch: events.batch,
            max_in_flight: events.max_in_flight,
            max_backoff: events.max_backoff.max(SHORTEST_WAIT),
            delivered: metrics.events.get_or_create_owned(&EventOutcome::Delivered),
            refused: metrics.events.get_or_create_owned(&EventOutcome::Refused),
            metrics: metrics.clone(),
        })
    }

    /// Until `finishing`, and then until nothing can be sent at once any more.
    pub(super) async fn run(self, finishing: CancellationToken) {
        let Some(mut others) = self.buffer.take() else { return };
        let mut arrived = self.journal.watch();
        let mut lanes = WebhookLanes::default();
        let mut in_flight = FuturesUnordered::new();
        // the position of the last message that is in a lane
        let mut seen = 0;
        let mut away = self.backoff();
        let mut paused_until: Option<Instant> = None;
        loop {
            arrived.borrow_and_update();
            let page = self.journal.after(seen, PAGE);
            let has_more = page.len() == PAGE;
            for message in page {
                seen = message.number;
                lanes.add(message.lane, LaneEvent::Message(message.number));
            }
            let now = Instant::now();
            lanes.wake(now);
            let is_paused = paused_until.is_some_and(|until| until > now);
            while !is_paused
                && in_flight.len() < self.max_in_flight
                && let Some((lane, events)) = lanes.take(self.batch)
            {
                in_flight.push(self.send(lane, events));
            }
            let can_send = lanes.is_ready() && !is_paused;
            let is_idle = in_flight.is_empty() && !can_send && !has_more && others.is_empty();
            let wake_at = paused_until.filter(|_| is_paused).into_iter().chain(lanes.next_retry()).min();
            // cancel-safe, all of them
            tokio::select! {
                biased;
                Some(sent) = in_flight.next() => {
                    let is_away = matches!(sent.answer, WebhookAnswer::Away(_));
                    self.settle(sent, &mut lanes);
                    paused_until = if is_away {
                        paused_until.filter(|until| *until > Instant::now()).or_else(|| Some(Instant::now() + away.next_wait()))
                    } else {
                        away.reset();
                        None
                    };
                }
                Some(event) = others.recv() => {
                    let lane = self.journal.lane(&event.lane);
                    lanes.add(lane, LaneEvent::Other(event));
                }
                () = finishing.cancelled(), if is_idle => return,
                _ = arrived.changed(), if !has_more => {}
                () = tokio::task::yield_now(), if has_more => {}
                () = until(wake_at) => {}
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(SHORTEST_WAIT, self.max_backoff)
    }

    async fn send(&self, lane: u64, mut events: Vec<LaneEvent>) -> SentBatch {
        let numbers = events.iter().filter_map(|event| match event {
            LaneEvent::Message(number) => Some(*number),
            LaneEvent::Other(_) => None,
        });
        let messages: HashMap<u64, Bytes> = match self.journal.read(numbers.collect()).await {
            Ok(found) => found.into_iter().collect(),
            Err(error) => {
                let answer = WebhookAnswer::Failed(format!("messages cannot be read now: {error}"));
                return SentBatch { lane, events, left: Vec::new(), answer };
            }
        };
        // what is damaged is not there
        let json = |event: &LaneEvent| match event {
            LaneEvent::Message(number) => messages.get(number).cloned(),
            LaneEvent::Other(event) => Some(event.json.clone()),
        };
        let mut bodies = Vec::with_capacity(events.len());
        let mut bytes = 0;
        let mut count = 0;
        for event in &events {
            if let Some(json) = json(event) {
                if !bodies.is_empty() && bytes + json.len() > BATCH_BYTES {
                    break;
                }
                bytes += json.len();
                bodies.push(json);
            }
            count += 1;
        }
        let left = events.split_off(count);
        let answer = if bodies.is_empty() {
            WebhookAnswer::Taken
        } else {
            let answer = self.client.post(array(&bodies)).await;
            let outcome = match answer {
                WebhookAnswer::Taken => EventRequestOutcome::Taken,
                WebhookAnswer::Refused(_) => EventRequestOutcome::Refused,
                WebhookAnswer::Failed(_) | WebhookAnswer::Away(_) => EventRequestOutcome::Failed,
            };
            self.metrics.event_requests.get_or_create(&outcome).inc();
            answer
        };
        SentBatch { lane, events, left, answer }
    }

    fn settle(&self, sent: SentBatch, lanes: &mut WebhookLanes) {
        let SentBatch { lane, mut events, left, answer } = sent;
        match answer {
            WebhookAnswer::Taken => {
                self.done(&events, &self.delivered);
                lanes.done(lane, left);
            }
            WebhookAnswer::Refused(error) => {
                tracing::warn!(error, events = events.len(), "[events] url refuses events: they are dropped");
                self.done(&events, &self.refused);
                lanes.done(lane, left);
            }
            WebhookAnswer::Failed(error) => {
                tracing::warn!(
                    error,
                    events = events.len(),
                    "[events] url does not take events of a card now: they go again"
                );
                events.extend(left);
                lanes.failed(lane, self.kept(events), || self.backoff());
            }
            WebhookAnswer::Away(error) => {
                tracing::warn!(error, "[events] url cannot be reached: events go again later");
                events.extend(left);
                lanes.put_back(lane, events);
            }
        }
    }

    /// What of a batch that failed is kept: events in memory only while there is space, so that those of a card that the webhook
    /// does not take cost other cards nothing.
    fn kept(&self, events: Vec<LaneEvent>) -> Vec<LaneEvent> {
        if !self.buffer.is_half_full() {
            return events;
        }
        let count = events.len();
        let kept: Vec<_> = events.into_iter().filter(|event| matches!(event, LaneEvent::Message(_))).collect();
        self.buffer.count_dropped(count - kept.len());
        kept
    }

    /// They do not come again.
    fn done(&self, events: &[LaneEvent], count: &Counter) {
        count.inc_by(events.len() as u64);
        self.journal.acknowledge(events.iter().filter_map(|event| match event {
            LaneEvent::Message(number) => Some(*number..*number + 1),
            LaneEvent::Other(_) => None,
        }));
    }
}

/// Never, for no time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
