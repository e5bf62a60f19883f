//! What clients say and do, told to the back end: docs/events.md.
//!
//! ```text
//! message ──▶ journal on the disk ──▶ webhook            [events] url
//!         │                      └──▶ gRPC Events        the embedded queue
//!         └─▶ nsqd: <topic>.events                       [queue] backend = nsq
//! others ───▶ buffer in memory ─────▶ the same three
//! all ──────▶ watchers: who only watches
//! ```
//!
//! A client's message is durable before the client hears `received`, and told at least once. The other kinds are best effort:
//! bounded in memory, counted where they find no room.

mod buffer;
mod drops;
mod error;
mod event;
mod journal;
mod nsq;
mod reader;
mod watchers;
mod webhook;

use std::sync::{Arc, atomic::AtomicBool};

use futures_util::future::Either;
use tokio_util::sync::CancellationToken;

pub use crate::config::EventKind;
pub use error::EventError;
pub use event::Event;
pub(crate) use reader::{EventReadError, EventReader, ToldEvent};
pub(crate) use watchers::EventWatcher;

use crate::{
    config::{Backend, Config, EventKinds},
    lifecycle::{Deadline, Service, Tasks},
    queue::{Destination, Publisher},
    telemetry::{Counter, Metrics, labels::EventOutcome},
};
use buffer::EventBuffer;
use journal::{Journal, JournalOptions, OpenJournal};
use watchers::Watchers;
use webhook::Webhook;

/// Why events cannot be told as configured, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("[events] {0}")]
pub struct EventsConfigError(String);

/// Where events go.
enum EventSink {
    /// Nothing is told.
    Nowhere,
    /// The journal, which the webhook reads.
    Webhook(Journal),
    /// The journal, which one reader of the gRPC stream reads.
    Stream(Journal),
    /// nsqd.
    Nsq(Publisher),
}

/// Tells events; a cheap clone for each who does.
#[derive(Clone)]
pub struct Events {
    core: Arc<EventsCore>,
}

struct EventsCore {
    node: String,
    /// What the back end is told of.
    kinds: EventKinds,
    sink: EventSink,
    buffer: Arc<EventBuffer>,
    watchers: Watchers,
    /// A reader of the gRPC stream has the messages.
    is_read: Arc<AtomicBool>,
    accepted: Counter,
    delivered: Counter,
}

/// Ends what tells the back end.
pub struct EventsControl {
    finishing: CancellationToken,
    deliveries: Service,
    journal: Service,
}

impl Events {
    /// Events of a node; `publisher` is its queue's. Opens the journal where one is needed, and starts what reads it.
    ///
    /// # Errors
    /// The journal's folder, or the webhook's certificates, cannot be used.
    pub async fn start(
        config: &Config,
        publisher: &Publisher,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, EventsControl), EventsConfigError> {
        let settings = &config.events;
        let control = EventsControl {
            finishing: CancellationToken::new(),
            deliveries: tasks.service(),
            journal: tasks.service(),
        };
        let count = |outcome| metrics.events.get_or_create_owned(&outcome);
        let options = JournalOptions::of(config);
        let is_there = options.dir.is_dir();
        let sink = if settings.kinds.is_empty() {
            EventSink::Nowhere
        } else if settings.url.is_some() {
            EventSink::Webhook(Journal::start(options.clone(), OpenJournal::Now, &control.journal, metrics).await?)
        } else if config.queue.backend == Backend::Nsq {
            EventSink::Nsq(publisher.clone())
        } else {
            let open = if is_there { OpenJournal::Now } else { OpenJournal::WhenNeeded };
            EventSink::Stream(Journal::start(options.clone(), open, &control.journal, metrics).await?)
        };
        if is_there && matches!(sink, EventSink::Nowhere | EventSink::Nsq(_)) {
            let dir = options.dir.display().to_string();
            tracing::warn!(dir, "messages of clients may wait there that nobody reads any more: see docs/events.md");
        }
        let core = EventsCore {
            node: config.node.id.as_str().to_owned(),
            kinds: settings.kinds,
            sink,
            buffer: Arc::new(EventBuffer::new(settings.buffer, count(EventOutcome::Full))),
            watchers: Watchers::new(settings.max_watchers, settings.buffer, count(EventOutcome::Unread)),
            is_read: Arc::default(),
            accepted: count(EventOutcome::Accepted),
            delivered: count(EventOutcome::Delivered),
        };
        let events = Self { core: Arc::new(core) };
        events.start_deliveries(config, &control, metrics)?;
        Ok((events, control))
    }

    fn start_deliveries(
        &self,
        config: &Config,
        control: &EventsControl,
        metrics: &Arc<Metrics>,
    ) -> Result<(), EventsConfigError> {
        let core = &self.core;
        let finishing = control.finishing.clone();
        let stopping = control.deliveries.stopping().clone();
        match &core.sink {
            EventSink::Webhook(journal) => {
                let webhook = Webhook::new(config, journal.clone(), core.buffer.clone(), metrics)?;
                control.deliveries.spawn_until_done("events webhook", async move {
                    stopping.run_until_cancelled(webhook.run(finishing)).await;
                });
            }
            EventSink::Nsq(publisher) => {
                let forward = nsq::forward(publisher.clone(), core.buffer.clone(), metrics.clone(), finishing);
                control.deliveries.spawn_until_done("events to nsqd", async move {
                    stopping.run_until_cancelled(forward).await;
                });
            }
            EventSink::Nowhere | EventSink::Stream(_) => {}
        }
        let stopping = control.deliveries.stopping().clone();
        let finishing = control.finishing.clone();
        let drops = drops::tell(self.clone(), metrics.clone());
        control.deliveries.spawn_until_done("events of drops", async move {
            tokio::select! {
                () = drops => {}
                () = finishing.cancelled() => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(())
    }

    /// That tell nobody: for tests of what comes before.
    pub fn nobody() -> Self {
        let core = EventsCore {
            node: String::new(),
            kinds: EventKinds::default(),
            sink: EventSink::Nowhere,
            buffer: Arc::new(EventBuffer::new(1, Counter::default())),
            watchers: Watchers::new(0, 1, Counter::default()),
            is_read: Arc::default(),
            accepted: Counter::default(),
            delivered: Counter::default(),
        };
        Self { core: Arc::new(core) }
    }

    /// Whether anybody is told of this kind: an event of another need not be made. Of messages: whether they are taken.
    pub fn wants(&self, kind: EventKind) -> bool {
        self.core.kinds.has(kind) || (kind != EventKind::Message && self.core.watchers.wants(kind))
    }

    /// Tells an event, best effort, and never waits: where there is no room it is dropped and counted.
    pub fn tell(&self, event: Event) {
        let core = &self.core;
        let json = event.encode(&core.node);
        core.watchers.show(event.kind, &json);
        if core.kinds.has(event.kind) {
            core.buffer.put(event.kind, event.lane(), json);
        }
    }

    /// Tells a client's message. It is on its way when this returns, and durable when the future is.
    ///
    /// # Errors
    /// [`EventError`]; after `Unavailable` or `TimedOut` it may be told all the same.
    pub fn message(&self, event: Event) -> impl Future<Output = Result<(), EventError>> + Send + use<> {
        let core = &self.core;
        let kind = event.kind;
        let json = event.encode(&core.node);
        let shown = core.watchers.wants(kind).then(|| (core.watchers.clone(), json.clone()));
        let kept = match &core.sink {
            _ if !core.kinds.has(kind) => Err(EventError::Unsupported),
            EventSink::Nowhere => Err(EventError::Unsupported),
            EventSink::Webhook(journal) | EventSink::Stream(journal) => {
                Ok(Either::Left(journal.append(event.lane(), json)))
            }
            EventSink::Nsq(publisher) => {
                let published = publisher.publish(Destination::Events, json);
                let accepted = core.accepted.clone();
                let delivered = core.delivered.clone();
                Ok(Either::Right(async move {
                    published.await?;
                    accepted.inc();
                    delivered.inc();
                    Ok(())
                }))
            }
        };
        async move {
            kept?.await?;
            if let Some((watchers, json)) = shown {
                watchers.show(kind, &json);
            }
            Ok(())
        }
    }

    /// Shows events of `kinds` from now on to one who only watches; none: all kinds.
    ///
    /// # Errors
    /// There are `[events] max_watchers` of them.
    pub(crate) fn watch(&self, kinds: EventKinds) -> Result<EventWatcher, EventReadError> {
        let kinds = if kinds.is_empty() { EventKinds::ALL } else { kinds };
        self.core.watchers.open(kinds).ok_or(EventReadError::TooMany)
    }

    /// Reads events for the back end, which acknowledges messages by their position; none of `kinds`: all that are configured.
    ///
    /// # Errors
    /// They go elsewhere, or another has them.
    pub(crate) fn read(&self, kinds: EventKinds) -> Result<EventReader, EventReadError> {
        let core = &self.core;
        let EventSink::Stream(journal) = &core.sink else {
            return Err(EventReadError::Elsewhere(match core.sink {
                EventSink::Webhook(_) => "to the webhook ([events] url)",
                EventSink::Nsq(_) => "to the NSQ topic <[queue] topic>.events",
                EventSink::Nowhere | EventSink::Stream(_) => "nowhere ([events] kinds is empty)",
            }));
        };
        if let Some(kind) = EventKind::ALL.into_iter().find(|kind| kinds.has(*kind) && !core.kinds.has(*kind)) {
            return Err(EventReadError::NotTold(kind));
        }
        let kinds = if kinds.is_empty() { core.kinds } else { kinds };
        EventReader::open(kinds, journal, &core.buffer, &core.is_read, &core.delivered)
    }
}

impl EventsControl {
    /// Tells what can be told until the deadline; then closes the journal, whose messages come after the next start. Call it once
    /// no more events come.
    pub async fn close(self, deadline: Deadline) {
        self.finishing.cancel();
        if !self.deliveries.ended(deadline).await {
            tracing::warn!(
                "some events were not told in time: messages come after the next start, the other kinds are lost"
            );
            self.deliveries.stop();
        }
        if !self.journal.stop_within(deadline).await {
            tracing::warn!("the events' log was not closed in time: some messages may come again");
        }
    }
}
