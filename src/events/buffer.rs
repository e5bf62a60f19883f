//! The events of the kinds other than `message` that wait in memory: so many and no more.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{config::EventKind, telemetry::Counter};

/// An event that waits in memory.
#[derive(Debug)]
pub(super) struct BufferedEvent {
    pub(super) kind: EventKind,
    /// Events of one lane are told in order.
    pub(super) lane: ByteString,
    pub(super) json: Bytes,
    /// Its place, until it is told or dropped.
    _place: OwnedSemaphorePermit,
}

/// Where they come out; one reader has it at a time.
pub(super) type BufferedEvents = mpsc::UnboundedReceiver<BufferedEvent>;

/// See the module.
pub(super) struct EventBuffer {
    /// One for each event from its arrival until it was told.
    places: Arc<Semaphore>,
    capacity: usize,
    arrivals: mpsc::UnboundedSender<BufferedEvent>,
    /// While nobody reads.
    idle: Mutex<Option<BufferedEvents>>,
    dropped: Counter,
}

impl EventBuffer {
    /// For so many events; those for which there is no place are counted.
    pub(super) fn new(capacity: usize, dropped: Counter) -> Self {
        let (arrivals, events) = mpsc::unbounded_channel();
        let capacity = capacity.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(capacity)), capacity, arrivals, idle: Mutex::new(Some(events)), dropped }
    }

    /// One more: in place of the oldest while nobody reads and there is no room; else it is dropped where there is none.
    pub(super) fn put(&self, kind: EventKind, lane: ByteString, json: Bytes) {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                self.dropped.inc();
                self.drop_oldest();
                self.places.clone().try_acquire_owned().ok()
            }
        };
        if let Some(place) = place {
            // the receiver is kept here or by its reader, who gives it back
            let _ = self.arrivals.send(BufferedEvent { kind, lane, json, _place: place });
        }
    }

    /// Half of the places are taken.
    pub(super) fn is_half_full(&self) -> bool {
        self.places.available_permits() <= self.capacity / 2
    }

    /// Events that were given up after they were taken.
    pub(super) fn count_dropped(&self, events: usize) {
        self.dropped.inc_by(events as u64);
    }

    fn drop_oldest(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(events) = &mut *idle {
            drop(events.try_recv());
        }
    }

    /// The events for their one reader; `None`: another has them.
    pub(super) fn take(&self) -> Option<BufferedEvents> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The reader has left.
    pub(super) fn give_back(&self, events: BufferedEvents) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(events);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn put(buffer: &EventBuffer, n: u32) {
        buffer.put(EventKind::Joined, "alice".into(), n.to_string().into());
    }

    fn all(events: &mut BufferedEvents) -> Vec<u32> {
        std::iter::from_fn(|| events.try_recv().ok())
            .map(|event| std::str::from_utf8(&event.json).unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn while_nobody_reads_the_newest_wait_and_a_reader_gets_the_oldest_first() {
        let dropped = Counter::default();
        let buffer = EventBuffer::new(3, dropped.clone());
        (0..5).for_each(|n| put(&buffer, n));
        assert_eq!(dropped.get(), 2);
        let mut events = buffer.take().unwrap();
        assert!(buffer.take().is_none(), "there is one reader at a time");
        // what a reader has not taken yet is not taken from it
        put(&buffer, 5);
        assert_eq!((all(&mut events), dropped.get()), (vec![2, 3, 4], 3));
        put(&buffer, 6);
        buffer.give_back(events);
        (7..10).for_each(|n| put(&buffer, n));
        assert_eq!((all(&mut buffer.take().unwrap()), dropped.get()), (vec![7, 8, 9], 4));
    }

    #[test]
    fn an_event_has_its_place_until_it_was_told() {
        let dropped = Counter::default();
        let buffer = EventBuffer::new(1, dropped.clone());
        put(&buffer, 0);
        let mut events = buffer.take().unwrap();
        let under_way = events.try_recv().unwrap();
        put(&buffer, 1);
        assert_eq!(dropped.get(), 1);
        drop(under_way);
        put(&buffer, 2);
        assert_eq!((all(&mut events), dropped.get()), (vec![2], 1));
    }
}
