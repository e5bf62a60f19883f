//! What waits for connections as one: the frames of pushes, or a frame of another kind.

use std::{io, iter, rc::Rc, time::Instant};

use bytes::Bytes;
use bytestring::ByteString;

use super::{client::Sink, samples::WriteSample};
use crate::{
    push::{Address, Epoch, Push},
    telemetry::Metrics,
    wire::{
        dialect::{Dialect, StreamState},
        frame::Frame,
    },
};

/// What waits as one: the frames of pushes, or a frame of another kind. One allocation for all connections of a shard.
#[derive(Debug)]
pub struct Item {
    bytes: Bytes,
    /// Pushes: may be dropped by policy. An answer, a ping or a close may not.
    push: bool,
    /// Where each push but the last ends in `bytes`.
    ends: Box<[u32]>,
    collapse_key: Option<ByteString>,
    /// A push that leaves for no socket from then on, in milliseconds since 1970.
    deadline: Option<u64>,
    /// A push of a stream: no policy drops it, for the client would miss it.
    stream: Option<Box<ItemPlace>>,
    /// Of a sampled push: tells when it is dropped.
    sample: Option<Box<WriteSample>>,
}

/// Where a push of a stream stands, and how the client is told of that if the push itself does not leave any more.
#[derive(Debug)]
pub(super) struct ItemPlace {
    pub(super) address: Address,
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    pub(super) dialect: Dialect,
}

impl Item {
    fn new(bytes: Bytes, push: bool) -> Self {
        Self { bytes, push, ends: Box::default(), collapse_key: None, deadline: None, stream: None, sample: None }
    }

    /// A push's frame. From `deadline` on, in milliseconds since 1970, it does not leave.
    pub fn push(frame: &Frame, collapse_key: Option<ByteString>, deadline: Option<u64>) -> Rc<Self> {
        Rc::new(Self { collapse_key, deadline, ..Self::new(frame.bytes().clone(), true) })
    }

    /// The frame of a push of `address`'s stream. What waits of a collapse key is replaced in the store, not here.
    pub(super) fn stored(frame: &Frame, push: &Push, place: ItemPlace) -> Rc<Self> {
        let stream = Some(Box::new(place));
        Rc::new(Self { deadline: push.deadline, stream, ..Self::new(frame.bytes().clone(), true) })
    }

    /// The frames of pushes to the same connections, which leave together.
    pub fn pushes<'a>(frames: impl Iterator<Item = &'a Frame> + Clone) -> Rc<Self> {
        Self::frames(frames.map(|frame| (frame, 1)))
    }

    /// As [`Item::pushes`], with frames of several pushes: each with how many it is.
    pub fn frames<'a>(frames: impl Iterator<Item = (&'a Frame, usize)> + Clone) -> Rc<Self> {
        let mut those = frames.clone();
        if let (Some((frame, count)), None) = (those.next(), those.next()) {
            return Self::packed(frame, count);
        }
        let size = frames.clone().map(|(frame, _)| frame.bytes().len()).sum();
        let mut bytes = Vec::with_capacity(size);
        let mut ends = Vec::new();
        for (frame, count) in frames {
            bytes.extend_from_slice(frame.bytes());
            // all of a frame's pushes end with it
            ends.extend(iter::repeat_n(bytes.len() as u32, count));
        }
        ends.pop();
        Rc::new(Self { ends: ends.into(), ..Self::new(bytes.into(), true) })
    }

    /// One frame of `count` pushes.
    pub fn packed(frame: &Frame, count: usize) -> Rc<Self> {
        // all of them end with it
        let ends = vec![frame.bytes().len() as u32; count.saturating_sub(1)];
        Rc::new(Self { ends: ends.into(), ..Self::new(frame.bytes().clone(), true) })
    }

    /// An answer, ping or close.
    pub fn control(frame: &Frame) -> Rc<Self> {
        Rc::new(Self::new(frame.bytes().clone(), false))
    }

    /// A new item: of a sampled push, which is offered since then, it is measured how long it waits.
    pub(super) fn measured_since(mut self: Rc<Self>, offered: Option<Instant>, metrics: &Metrics) -> Rc<Self> {
        if let Some(offered) = offered
            && let Some(item) = Rc::get_mut(&mut self)
        {
            item.sample = Some(WriteSample::new(offered, metrics));
        }
        self
    }

    /// Of a sampled push of a stream: its place there.
    pub(super) fn sampled_place(&self) -> Option<&ItemPlace> {
        self.sample.as_ref().and(self.stream.as_deref())
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A push.
    pub(super) fn is_push(&self) -> bool {
        self.push
    }

    /// A push that a policy may drop: not one of a stream.
    pub(super) fn is_droppable(&self) -> bool {
        self.push && self.stream.is_none()
    }

    /// A push of this address's stream.
    pub(super) fn is_of_stream(&self, address: &Address) -> bool {
        self.stream.as_ref().is_some_and(|place| place.address == *address)
    }

    /// What is sent in its place, now that its end has come: the `prev` of the next one names it. `None`: nothing.
    pub(super) fn skipped(&self) -> Option<Rc<Self>> {
        let ItemPlace { address, epoch, seq, dialect } = &**self.stream.as_ref()?;
        let (epoch, seq, dialect) = (*epoch, *seq, *dialect);
        let frame = dialect.stream(&StreamState { address, epoch, seq, waiting: 0 })?;
        let stream = Some(Box::new(ItemPlace { address: address.clone(), epoch, seq, dialect }));
        Some(Rc::new(Self { stream, ..Self::new(frame.bytes().clone(), false) }))
    }

    pub(super) fn collapse_key(&self) -> Option<&ByteString> {
        self.collapse_key.as_ref()
    }

    /// Its end has come, at `now` in milliseconds since 1970.
    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Sends it past the outbox, where nothing waits: what the kernel takes whole at once never stands there.
    ///
    /// # Errors
    /// It was not sent whole: what [`super::Outbox::send_rest`] goes on with.
    pub(super) fn send(&self, sink: &impl Sink) -> Result<(), io::Result<usize>> {
        match sink.try_write(&self.bytes) {
            Ok(taken) if taken == self.len() => Ok(()),
            part => Err(part),
        }
    }

    /// How many pushes it is.
    pub(super) fn push_count(&self) -> u64 {
        self.pushes_within(self.len() as u32)
    }

    /// How many of them are whole in its first `written` bytes.
    pub(super) fn pushes_within(&self, written: u32) -> u64 {
        let ended = self.ends.partition_point(|end| *end <= written) as u64;
        u64::from(self.push) * (ended + u64::from(written as usize == self.len()))
    }
}
