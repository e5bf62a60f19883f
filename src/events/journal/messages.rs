//! The messages that are not done with, and where each is on the disk.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use crate::log::Place;

/// What a message counts beside its JSON: its entry's head, its lane's name, and what is kept of it in memory.
pub(super) const MESSAGE_OVERHEAD: u64 = 128;

/// A message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) struct WaitingMessage {
    /// Its position: grows from message to message, and never comes again.
    pub(in crate::events) number: u64,
    /// Messages of one lane are told in order.
    pub(in crate::events) lane: u64,
}

/// What is known of one.
#[derive(Debug)]
pub(super) struct KnownMessage {
    pub(super) place: Place,
    /// As in [`WaitingMessage`].
    pub(super) lane: u64,
    /// Bytes of its JSON.
    pub(super) len: u32,
    /// Its JSON, where that is kept in memory.
    pub(super) json: Option<Bytes>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Messages {
    known: BTreeMap<u64, KnownMessage>,
    /// How many of them are in each segment.
    segments: BTreeMap<u32, u64>,
    bytes: u64,
    in_memory: usize,
    memory_bytes: usize,
}

impl Messages {
    /// That keeps so many bytes of JSON in memory.
    pub(super) fn new(memory_bytes: usize) -> Self {
        Self { memory_bytes, ..Self::default() }
    }

    pub(super) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// Of all, as `[events] max_bytes` counts.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The oldest segment that holds one of them.
    pub(super) fn oldest_segment(&self) -> Option<u32> {
        self.segments.first_key_value().map(|(segment, _)| *segment)
    }

    pub(super) fn insert(&mut self, number: u64, mut message: KnownMessage) {
        let len = message.len as usize;
        if message.json.is_some() && self.in_memory + len > self.memory_bytes {
            message.json = None;
        }
        self.in_memory += message.json.as_ref().map_or(0, Bytes::len);
        self.bytes += u64::from(message.len) + MESSAGE_OVERHEAD;
        *self.segments.entry(message.place.segment).or_default() += 1;
        if let Some(old) = self.known.insert(number, message) {
            self.forget(&old);
        }
    }

    /// Those of `range` are done with.
    pub(super) fn remove(&mut self, range: Range<u64>) -> u64 {
        let mut removed = 0;
        // an acknowledgement is of the oldest, or of few
        while let Some((&number, _)) = self.known.range(range.clone()).next() {
            if let Some(old) = self.known.remove(&number) {
                self.forget(&old);
                removed += 1;
            }
        }
        removed
    }

    /// It was written again.
    pub(super) fn carried(&mut self, number: u64, place: Place) {
        let Some(message) = self.known.get_mut(&number) else { return };
        let old = std::mem::replace(&mut message.place, place);
        *self.segments.entry(place.segment).or_default() += 1;
        self.left(old.segment);
    }

    /// Those behind `after` in order, `most` at most.
    pub(super) fn after(&self, after: u64, most: usize) -> Vec<WaitingMessage> {
        let behind = self.known.range(after.saturating_add(1)..).take(most);
        behind.map(|(number, message)| WaitingMessage { number: *number, lane: message.lane }).collect()
    }

    pub(super) fn get(&self, number: u64) -> Option<&KnownMessage> {
        self.known.get(&number)
    }

    /// Those in a segment.
    pub(super) fn in_segment(&self, segment: u32) -> Vec<(u64, Place)> {
        let there = self.known.iter().filter(|(_, message)| message.place.segment == segment);
        there.map(|(number, message)| (*number, message.place)).collect()
    }

    fn forget(&mut self, message: &KnownMessage) {
        self.bytes -= u64::from(message.len) + MESSAGE_OVERHEAD;
        self.in_memory -= message.json.as_ref().map_or(0, Bytes::len);
        self.left(message.place.segment);
    }

    fn left(&mut self, segment: u32) {
        if let Some(count) = self.segments.get_mut(&segment) {
            *count -= 1;
            if *count == 0 {
                self.segments.remove(&segment);
            }
        }
    }
}
