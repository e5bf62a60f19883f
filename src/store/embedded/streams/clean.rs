//! What of an old segment is still needed, so that it can be written again at the head and the segment can go.

use std::collections::BTreeMap;

use super::{StoredAt, StreamIndex, stream::IndexedStream};
use crate::{
    log::{Entry, Place},
    record::{PeekedSelection, RecordPeek, peek},
    store::embedded::entry::{
        AddressRef, BEGUN, CLAIM, CURSORS, ClaimForm, MOVED, PUSH, PlaceForm, PushForm, REVOKED, RevokedForm, STREAM,
        StreamForm, push_head, read_cursors,
    },
};

/// A push that lives on.
pub(in crate::store::embedded) struct LivePush {
    /// The body of a MOVED: what stands before the record, and the record.
    pub(in crate::store::embedded) head: Vec<u8>,
    pub(in crate::store::embedded) record: Vec<u8>,
    /// Which streams have it, under which numbers.
    streams: Vec<(u32, u64)>,
    from: Place,
}

/// The addresses of a record's streams, in order.
pub(super) fn addresses<'a>(peeked: &RecordPeek<'a>) -> impl Iterator<Item = AddressRef<'a>> + use<'a> {
    let (first, rest, is_card) = match peeked.selection {
        PeekedSelection::Cards(cards) => (Some(cards.first()), Some(cards.rest()), true),
        PeekedSelection::Room(room) => (Some(room), None, false),
        PeekedSelection::App(_) | PeekedSelection::Everyone | PeekedSelection::Disconnect => (None, None, false),
    };
    first.into_iter().chain(rest.into_iter().flatten()).map(move |name| {
        // a name that is none is no stream's
        let name = std::str::from_utf8(name).unwrap_or_default();
        if is_card { AddressRef::card(name) } else { AddressRef::room(name) }
    })
}

/// The places of a push beside their addresses.
pub(super) fn places<'a>(
    form: &PushForm<'a>,
    peeked: &RecordPeek<'a>,
) -> impl Iterator<Item = (AddressRef<'a>, PlaceForm)> + use<'a> {
    let mut addresses = addresses(peeked).enumerate();
    // places stand in the order of their cards
    form.places().filter_map(move |place| {
        let (_, address) = addresses.find(|(at, _)| *at as u32 == place.card)?;
        Some((address, place))
    })
}

/// Bytes of an entry that each of its streams answers for.
pub(in crate::store::embedded) fn share(body: usize, streams: usize) -> u32 {
    /// What the log adds to an entry.
    const HEAD: usize = 32;
    u32::try_from((body + HEAD) / streams.max(1)).unwrap_or(u32::MAX).max(1)
}

impl StreamIndex {
    /// Looks at an entry of a segment that is to go. Streams, cursors, claims and revocations that it tells are told again:
    /// `streams` gets the STREAMs, the others are among what is to be written.
    pub(in crate::store::embedded) fn leave(
        &mut self,
        entry: &Entry<'_>,
        streams: &mut BTreeMap<u32, Vec<u8>>,
    ) -> Option<LivePush> {
        let segment = entry.place.segment;
        match entry.kind {
            PUSH | MOVED => return self.leave_push(entry, streams),
            STREAM => {
                if let Some(form) = StreamForm::read(entry.body) {
                    self.leave_stream(form.address, segment, streams);
                }
            }
            CURSORS => read_cursors(entry.body, |card, _, cursor| {
                let Some(slot) = self.slot(AddressRef::card(card)) else { return };
                let device = self
                    .stream_mut(slot)
                    .and_then(|stream| stream.devices_mut().iter_mut().find(|device| device.is(cursor.device)));
                if let Some(device) = device.filter(|device| device.segment == segment) {
                    device.write_again();
                    self.save_later(slot);
                }
            }),
            BEGUN => self.begun_untold |= segment == self.begun_segment,
            CLAIM => {
                if let Some(form) = ClaimForm::read(entry.body) {
                    self.claims.leave(form.claim.key, segment);
                }
            }
            REVOKED => {
                if let Some(form) = RevokedForm::read(entry.body) {
                    self.revocations.leave(form.subject, segment);
                }
            }
            _ => {}
        }
        None
    }

    fn leave_push(&mut self, entry: &Entry<'_>, streams: &mut BTreeMap<u32, Vec<u8>>) -> Option<LivePush> {
        let form = PushForm::read(entry.body)?;
        let peeked = peek(form.record)?;
        if let Some(claim) = &form.claim {
            self.claims.leave(claim.key, entry.place.segment);
        }
        let mut live = Vec::new();
        let mut places_left = Vec::new();
        for (address, place) in places(&form, &peeked) {
            self.leave_stream(address, entry.place.segment, streams);
            let Some(slot) = self.slot(address) else { continue };
            let Some(stream) = self.stream(slot) else { continue };
            if stream.get(place.seq).is_some_and(|there| there.place() == entry.place) {
                live.push((slot, place.seq));
                // what it is behind tells a replay how far the stream was
                places_left.push(PlaceForm { epoch: stream.epoch, previous: stream.head, ..place });
            }
        }
        (!live.is_empty()).then(|| LivePush {
            head: push_head(None, places_left.into_iter()),
            record: form.record.to_vec(),
            streams: live,
            from: entry.place,
        })
    }

    /// The stream's STREAM, if this segment tells its head.
    fn leave_stream(&self, address: AddressRef<'_>, segment: u32, streams: &mut BTreeMap<u32, Vec<u8>>) {
        let Some(slot) = self.slot(address) else { return };
        if let Some(stream) = self.stream(slot).filter(|stream| stream.head_segment == segment) {
            streams.entry(slot).or_insert_with(|| Self::form(stream).bytes());
        }
    }

    pub(super) fn form(stream: &IndexedStream) -> StreamForm<'_> {
        StreamForm {
            address: stream.address(),
            epoch: stream.epoch,
            head: stream.head,
            head_id: stream.head_id,
            burned: stream.burned,
        }
    }

    /// What a segment held and was not found in it is lost; streams, cursors, claims and revocations that it told are told again.
    pub(in crate::store::embedded) fn give_up(&mut self, segment: u32, streams: &mut BTreeMap<u32, Vec<u8>>) {
        for slot in 0..self.slots.len() as u32 {
            let Some(stream) = self.stream(slot) else { continue };
            if stream.head_segment == segment {
                streams.insert(slot, Self::form(stream).bytes());
            }
            let there = stream.after(0).filter(|(_, entry)| entry.place().segment == segment);
            let gone: Vec<u64> = there.map(|(seq, _)| seq).collect();
            for seq in gone {
                self.drops.lost += u64::from(self.remove(slot, seq));
            }
            let Some(stream) = self.stream_mut(slot).filter(|stream| !stream.devices().is_empty()) else { continue };
            let mut is_told_there = false;
            for device in stream.devices_mut().iter_mut().filter(|device| device.segment == segment) {
                device.write_again();
                is_told_there = true;
            }
            if is_told_there {
                self.save_later(slot);
            }
        }
        self.claims.leave_all(segment);
        self.revocations.leave_all(segment);
        self.begun_untold |= self.begun_segment == segment;
    }

    /// The log has the push again, at `place`.
    pub(in crate::store::embedded) fn moved(&mut self, push: &LivePush, place: Place) {
        for (slot, seq) in &push.streams {
            let Self { slots, uses, .. } = self;
            let Some(stream) = slots.get_mut(*slot as usize).and_then(Option::as_deref_mut) else { continue };
            if stream.get(*seq).is_some_and(|entry| entry.place() == push.from) {
                stream.set_place(*seq, place);
                uses.remove(push.from.segment);
                uses.add(place.segment);
            }
        }
    }

    /// The store has too much: what an entry holds goes.
    pub(in crate::store::embedded) fn push_out(&mut self, entry: &Entry<'_>) {
        if !matches!(entry.kind, PUSH | MOVED) {
            return;
        }
        let Some(form) = PushForm::read(entry.body) else { return };
        let Some(peeked) = peek(form.record) else { return };
        for (address, place) in places(&form, &peeked) {
            let Some(slot) = self.slot(address) else { continue };
            let Some(stream) = self.stream(slot) else { continue };
            let is_there = stream.get(place.seq).is_some_and(|there| there.place() == entry.place);
            let is_waited_for = stream.is_waited_for(place.seq);
            if is_there && self.remove(slot, place.seq) {
                self.drops.pushed_out += u64::from(is_waited_for);
            }
        }
    }

    /// The log has the streams' heads in `segment`.
    pub(in crate::store::embedded) fn told(&mut self, stream: u32, segment: u32) {
        let Self { slots, uses, .. } = self;
        if let Some(stream) = slots.get_mut(stream as usize).and_then(Option::as_deref_mut) {
            uses.change(&mut stream.head_segment, segment);
        }
    }

    /// Whether the log is to be told again which process has it.
    pub(in crate::store::embedded) fn take_begun_untold(&mut self) -> bool {
        std::mem::take(&mut self.begun_untold)
    }

    /// The log says in `segment` which process has it.
    pub(in crate::store::embedded) fn begun(&mut self, segment: u32) {
        let Self { uses, begun_segment, .. } = self;
        uses.change(begun_segment, segment);
    }

    /// As an entry of the log says it.
    pub(super) fn stored_at(
        &self,
        entry: &Entry<'_>,
        form: &PushForm<'_>,
        peeked: &RecordPeek<'_>,
        place: &PlaceForm,
    ) -> StoredAt {
        StoredAt {
            seq: place.seq,
            id: peeked.id,
            place: entry.place,
            until: place.until,
            bytes: share(entry.body.len(), form.count()),
            collapse: self.collapse_hash(peeked.collapse_key),
        }
    }
}
