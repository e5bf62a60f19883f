//! From the log's entries to what an earlier process left: read once, at the start.
//!
//! Each push names the seq before it in its stream: where that is missing, the stream gets a new epoch, so that its readers are
//! told. Where damage may have taken the newest push of a stream, which nothing names, numbers are left out: none is given twice.

use super::{StreamIndex, clean::places, devices::Device, stream::IndexedStream};
use crate::{
    log::{Damage, Entry},
    push::Epoch,
    record::peek,
    store::embedded::{
        entry::{
            AddressRef, BEGUN, BegunForm, CLAIM, CLOSED, CURSORS, ClaimForm, CursorForm, DELETED, DeletedForm,
            FORGOTTEN, MOVED, PUSH, PlaceForm, PushForm, RENEWED, REVOKED, RenewedForm, RevokedForm, STREAM,
            StreamForm, read_cursors, read_forgotten,
        },
        limits::StoreLimits,
    },
};

/// Numbers that every stream leaves out after a damage: as many as may have been given behind the newest push that is left, those
/// that a failing disk burned counted.
const SKIPPED: u32 = 1 << 20;

/// What is known of a stream's numbers.
#[derive(Clone, Copy, Default)]
struct ReplayedChain {
    /// The newest that is known to have been given.
    known: u64,
    /// The number of the entry that was the first to name the stream, and named a push before it.
    open_at: Option<u64>,
    /// A push is missing that another names.
    is_broken: bool,
}

/// See the module.
pub(in crate::store::embedded) struct StreamReplay {
    streams: StreamIndex,
    /// By stream.
    chains: Vec<ReplayedChain>,
    begun: Option<BegunForm>,
    closed: bool,
    unknown: u64,
}

/// What an earlier process left.
pub(in crate::store::embedded) struct RestoredStreams {
    pub(in crate::store::embedded) streams: StreamIndex,
    /// What the log is to be told of all streams that are there.
    pub(in crate::store::embedded) renewed: Option<RenewedForm>,
    /// STREAMs of those that have new epochs by themselves.
    pub(in crate::store::embedded) broken: Vec<(u32, Vec<u8>)>,
    /// Pushes that damage took, at most.
    pub(in crate::store::embedded) lost: u64,
    /// Entries that this version does not know.
    pub(in crate::store::embedded) unknown: u64,
    /// The machine stopped before a sync.
    pub(in crate::store::embedded) is_cut: bool,
}

impl StreamReplay {
    pub(in crate::store::embedded) fn new(limits: StoreLimits) -> Self {
        Self { streams: StreamIndex::new(limits), chains: Vec::new(), begun: None, closed: false, unknown: 0 }
    }

    /// Takes the log's next entry in; `now` in seconds since 1970.
    pub(in crate::store::embedded) fn entry(&mut self, entry: &Entry<'_>, now: u32) {
        if self.read(entry, now).is_none() {
            self.unknown += 1;
        }
    }

    fn read(&mut self, entry: &Entry<'_>, now: u32) -> Option<()> {
        let (body, segment) = (entry.body, entry.place.segment);
        match entry.kind {
            PUSH | MOVED => self.push(entry, now)?,
            STREAM => self.stream(&StreamForm::read(body)?, segment, now),
            DELETED => {
                let DeletedForm { address, seq, .. } = DeletedForm::read(body)?;
                match self.streams.slot(address) {
                    Some(slot) if seq == 0 => self.streams.forget(slot),
                    Some(slot) => drop(self.streams.remove(slot, seq)),
                    None => {}
                }
            }
            CURSORS => read_cursors(body, |card, epoch, cursor| self.cursor(card, epoch, &cursor, segment, now)),
            CLAIM => {
                let (claims, uses) = self.streams.claims();
                claims.restore(&ClaimForm::read(body)?, segment, uses);
            }
            REVOKED => {
                let revoked = RevokedForm::read(body)?;
                let most = self.streams.limits.max_revocations;
                let (revocations, uses) = self.streams.revocations();
                revocations.keep(&revoked, segment, most, uses);
            }
            RENEWED => self.renew(RenewedForm::read(body)?),
            FORGOTTEN => {
                let (card, device) = read_forgotten(body)?;
                self.streams.forget_device(card, device);
            }
            BEGUN => {
                self.begun = Some(BegunForm::read(body)?);
                self.closed = false;
                self.streams.begun(segment);
            }
            CLOSED => self.closed = true,
            _ => return None,
        }
        Some(())
    }

    /// The stream of an address, which begins here if nothing named it before.
    fn slot(&mut self, address: AddressRef<'_>, epoch: Epoch, now: u32) -> u32 {
        if let Some(slot) = self.streams.slot(address) {
            return slot;
        }
        let slot = self.streams.create(address, epoch, now);
        self.chains.resize(self.chains.len().max(slot as usize + 1), ReplayedChain::default());
        self.chains[slot as usize] = ReplayedChain::default();
        slot
    }

    fn push(&mut self, entry: &Entry<'_>, now: u32) -> Option<()> {
        let form = PushForm::read(entry.body)?;
        let peeked = peek(form.record)?;
        for (address, place) in places(&form, &peeked) {
            let slot = self.slot(address, place.epoch, now);
            if entry.kind == PUSH {
                self.link(slot, &place, entry.number);
            } else {
                let chain = &mut self.chains[slot as usize];
                chain.known = chain.known.max(place.previous).max(place.seq);
            }
            let stored = self.streams.stored_at(entry, &form, &peeked, &place);
            let StreamIndex { slots, uses, .. } = &mut self.streams;
            let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { continue };
            stream.epoch = place.epoch;
            if place.seq >= stream.head {
                uses.change(&mut stream.head_segment, entry.place.segment);
                stream.restore_head(place.seq, peeked.id, 0);
            }
            // bounds are looked at once all is there: what is over by now must not push out what is not
            self.streams.insert(slot, &stored);
        }
        if let Some(claim) = form.claim {
            let (claims, uses) = self.streams.claims();
            claims.restore(&ClaimForm { claim, id: peeked.id, done: true }, entry.place.segment, uses);
        }
        Some(())
    }

    /// Whether a push follows on what is known of its stream.
    fn link(&mut self, slot: u32, place: &PlaceForm, number: u64) {
        let Some(stream) = self.streams.stream(slot) else { return };
        // the one before was deleted or forgotten
        if stream.epoch != place.epoch && place.previous == 0 {
            self.streams.empty(slot);
            self.streams.stream_mut(slot).into_iter().for_each(|stream| stream.begin_again(place.epoch));
            self.chains[slot as usize] = ReplayedChain::default();
        }
        let chain = &mut self.chains[slot as usize];
        if place.previous > chain.known {
            if chain.known == 0 {
                chain.open_at = Some(number);
            } else {
                chain.is_broken = true;
            }
        }
        chain.known = chain.known.max(place.seq);
    }

    fn stream(&mut self, form: &StreamForm<'_>, segment: u32, now: u32) {
        let slot = self.slot(form.address, form.epoch, now);
        let StreamIndex { slots, uses, .. } = &mut self.streams;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        if form.epoch != stream.epoch {
            cut_back(stream);
        }
        stream.epoch = form.epoch;
        if form.head >= stream.head {
            stream.restore_head(form.head, form.head_id, form.burned);
            uses.change(&mut stream.head_segment, segment);
        }
        self.chains[slot as usize] = ReplayedChain { known: stream.head, open_at: None, is_broken: false };
    }

    fn cursor(&mut self, card: &str, epoch: Epoch, cursor: &CursorForm<'_>, segment: u32, now: u32) {
        let slot = self.slot(AddressRef::card(card), epoch, now);
        let StreamIndex { slots, uses, totals, .. } = &mut self.streams;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let devices = stream.devices_mut();
        let at = devices.iter().position(|device| device.is(cursor.device)).unwrap_or_else(|| {
            totals.devices += 1;
            devices.push(Device::new(cursor.device, cursor.seq, cursor.seen));
            devices.len() - 1
        });
        let device = &mut devices[at];
        device.restore(cursor.seq, cursor.seen);
        uses.change(&mut device.segment, segment);
    }

    /// All streams that are known by now have other epochs, or leave numbers out.
    fn renew(&mut self, renewed: RenewedForm) {
        for stream in self.streams.slots.iter_mut().flatten() {
            let epoch = renewed.epoch(stream.epoch);
            if epoch != stream.epoch {
                cut_back(stream);
            }
            stream.epoch = epoch;
            stream.burned = stream.burned.saturating_add(renewed.skipped);
        }
    }

    /// All entries were read; `damages`: what could not be. `boot`: of this run of the machine.
    pub(in crate::store::embedded) fn end(
        mut self,
        damages: &[Damage],
        boot: Option<[u8; 16]>,
        now: u32,
    ) -> RestoredStreams {
        let new = || damages.iter().filter(|damage| damage.synced && !damage.known);
        let may_be_a_push = |damage: &&Damage| matches!(damage.kind, Some(PUSH | MOVED | STREAM | RENEWED) | None);
        let skipped = if new().any(|damage| may_be_a_push(&damage)) { SKIPPED } else { 0 };
        let pushes = new().filter(|damage| matches!(damage.kind, Some(PUSH | MOVED) | None));
        let lost = pushes.map(|damage| (damage.numbers.end - damage.numbers.start).max(1)).sum();
        let is_cut = self.begun.is_some_and(|begun| {
            let same_run = boot.is_some_and(|boot| boot == begun.boot);
            begun.syncs_later && !self.closed && !same_run
        });
        let salt = if is_cut { fastrand::u32(1..) } else { 0 };
        let renewed = (is_cut || skipped > 0).then_some(RenewedForm { salt, skipped });
        renewed.into_iter().for_each(|renewed| self.renew(renewed));
        let mut broken = Vec::new();
        for slot in 0..self.streams.slots.len() as u32 {
            let chain = self.chains.get(slot as usize).copied().unwrap_or_default();
            let opened_behind =
                |open_at: u64| new().any(|damage| may_be_a_push(&damage) && damage.numbers.start < open_at);
            let Some(stream) = self.streams.stream_mut(slot) else { continue };
            if stream.head == 0 {
                // cursors of a stream that damage took, or that was forgotten
                self.streams.forget(slot);
                continue;
            }
            let head = stream.head;
            if chain.is_broken || chain.known > head || chain.open_at.is_some_and(opened_behind) {
                stream.epoch = Epoch::random();
                let next = stream.next_seq();
                stream.burned += u32::try_from((chain.known + 1).saturating_sub(next)).unwrap_or(0);
                broken.push((slot, StreamIndex::form(stream).bytes()));
            }
            cut_back(stream);
            self.streams.expire(slot, now);
            self.streams.trim(slot, now);
        }
        let (claims, uses) = self.streams.claims();
        claims.restored(u64::from(now) * 1000, uses);
        let (revocations, uses) = self.streams.revocations();
        revocations.expire(now, uses);
        // what left was counted by the process before
        self.streams.take_drops();
        broken.retain(|(slot, _)| self.streams.stream(*slot).is_some());
        RestoredStreams { streams: self.streams, renewed, broken, lost, unknown: self.unknown, is_cut }
    }
}

/// The numbers begin anew behind the head: nobody has what comes there.
fn cut_back(stream: &mut IndexedStream) {
    let head = stream.head;
    if !stream.devices().is_empty() {
        stream.devices_mut().iter_mut().for_each(|device| device.cut_back(head));
    }
}
