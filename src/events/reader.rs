//! A back end that reads the journal and acknowledges messages by their position.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::sleep};

use super::{
    EventKind,
    buffer::{BufferedEvents, EventBuffer},
    journal::Journal,
};
use crate::{config::EventKinds, telemetry::Counter};

/// Messages that are read at once.
const PAGE: usize = 256;
/// How often a disk is tried that cannot be read.
const RETRY: Duration = Duration::from_secs(1);

/// Why events are not read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EventReadError {
    /// Where they go.
    #[error("events go {0} here; only watching them (watch) is possible")]
    Elsewhere(&'static str),
    /// There is one already.
    #[error("another reader has the events of this node: there is one at a time; end that one, or only watch (watch)")]
    Taken,
    /// There are as many who watch as may be.
    #[error("[events] max_watchers watch already; end some")]
    TooMany,
    /// It was asked for and is not configured.
    #[error("`kinds` has {}, which [events] kinds has not: add it there, or only watch (watch)", .0.word())]
    NotTold(EventKind),
    /// It was acknowledged and not sent.
    #[error("`ack` is beyond the last position that was sent here")]
    NotSent,
}

/// An event for the back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToldEvent {
    /// To acknowledge it by; 0: it is of a kind that is not.
    pub(crate) position: u64,
    /// Its JSON.
    pub(crate) json: Bytes,
}

/// One at a time; dropped, what it did not acknowledge comes again to the next.
pub(crate) struct EventReader {
    journal: Journal,
    arrived: watch::Receiver<()>,
    kinds: EventKinds,
    /// The position of the last message that was given out.
    given: u64,
    /// All up to it are done with.
    acknowledged: u64,
    /// `None` only while it is dropped.
    others: Option<BufferedEvents>,
    buffer: Arc<EventBuffer>,
    is_read: Arc<AtomicBool>,
    delivered: Counter,
}

impl EventReader {
    pub(super) fn open(
        kinds: EventKinds,
        journal: &Journal,
        buffer: &Arc<EventBuffer>,
        is_read: &Arc<AtomicBool>,
        delivered: &Counter,
    ) -> Result<Self, EventReadError> {
        if is_read.swap(true, Ordering::AcqRel) {
            return Err(EventReadError::Taken);
        }
        Ok(Self {
            arrived: journal.watch(),
            journal: journal.clone(),
            kinds,
            given: 0,
            acknowledged: 0,
            others: buffer.take(),
            buffer: buffer.clone(),
            is_read: is_read.clone(),
            delivered: delivered.clone(),
        })
    }

    /// What comes next, at least one; no more than `most` messages. Cancel-safe.
    pub(crate) async fn next(&mut self, most: usize) -> Vec<ToldEvent> {
        loop {
            self.arrived.borrow_and_update();
            if let Some(told) = self.messages(most).await {
                return told;
            }
            tokio::select! {
                _ = self.arrived.changed(), if most > 0 => {}
                event = other(&mut self.others) => {
                    if self.kinds.has(event.kind) {
                        self.delivered.inc();
                        return vec![ToldEvent { position: 0, json: event.json.clone() }];
                    }
                }
            }
        }
    }

    /// Messages that wait; `None`: there are none.
    async fn messages(&mut self, most: usize) -> Option<Vec<ToldEvent>> {
        if !self.kinds.has(EventKind::Message) {
            return None;
        }
        loop {
            let waiting = self.journal.after(self.given, most.min(PAGE));
            let last = waiting.last()?.number;
            match self.journal.read(waiting.iter().map(|message| message.number).collect()).await {
                Ok(found) => {
                    self.given = last;
                    // what is damaged is passed over
                    if !found.is_empty() {
                        return Some(found.into_iter().map(|(position, json)| ToldEvent { position, json }).collect());
                    }
                }
                Err(error) => {
                    tracing::warn!(error, "messages of clients cannot be read now");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// All messages up to `position` are done with. How many of them waited.
    ///
    /// # Errors
    /// It was not sent to this reader.
    pub(crate) fn acknowledge(&mut self, position: u64) -> Result<u64, EventReadError> {
        if position > self.given {
            return Err(EventReadError::NotSent);
        }
        if position <= self.acknowledged {
            return Ok(0);
        }
        self.acknowledged = position;
        let done = self.journal.acknowledge(std::iter::once(0..position + 1));
        self.delivered.inc_by(done);
        Ok(done)
    }
}

async fn other(events: &mut Option<BufferedEvents>) -> super::buffer::BufferedEvent {
    match events {
        Some(events) => match events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        if let Some(others) = self.others.take() {
            self.buffer.give_back(others);
        }
        self.is_read.store(false, Ordering::Release);
    }
}
