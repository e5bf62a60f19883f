//! Where readers begin, and how far they are.

use super::{StreamIndex, device_form, devices::Device, stream::IndexedStream};
use crate::{
    config::StreamStart,
    push::{Epoch, Resume},
    store::{
        AttachError, Attached, DeviceInfo, DeviceKey, Reader, StreamInfo,
        embedded::{
            entry::{AddressRef, DeviceForm},
            limits::StoreLimits,
        },
    },
};

/// What a reader's resume says of its place.
struct ResumedReader {
    /// It has all up to this.
    has: Option<u64>,
    reset: bool,
}

impl StreamIndex {
    /// See [`crate::store::Store::attach`].
    pub(in crate::store::embedded) fn attach(
        &mut self,
        address: AddressRef<'_>,
        reader: Reader<'_>,
        now: u32,
    ) -> Result<Attached, AttachError> {
        let Some(slot) = self.slot(address) else { return Ok(Attached::NoStream) };
        let Self { limits, slots, totals, uses, .. } = self;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else {
            return Ok(Attached::NoStream);
        };
        let Some(head) = stream.position() else { return Ok(Attached::NoStream) };
        let (Reader::Device(_, resume) | Reader::Room(resume)) = reader;
        let resumed = resumed(stream, resume);
        let mut save = false;
        let from = match reader {
            Reader::Room(_) if resumed.reset => resumed.has.unwrap_or_else(|| oldest(stream)),
            Reader::Room(_) => resumed.has.unwrap_or(head.seq),
            Reader::Device(key, _) => {
                let form = device_form(key);
                match stream.devices_mut().iter_mut().find(|device| device.is(form)) {
                    Some(device) => {
                        save = device.look_in(now);
                        resumed.has.unwrap_or(device.seq())
                    }
                    None => {
                        let start = match key {
                            _ if resumed.reset || stream.devices().is_empty() => StreamStart::Oldest,
                            DeviceKey::Declared(_) => limits.new_device,
                            DeviceKey::App(_) => limits.new_app,
                        };
                        let start = if start == StreamStart::Oldest { oldest(stream) } else { head.seq };
                        let from = resumed.has.unwrap_or(start);
                        let replaced = make_room(stream, limits, now)?;
                        replaced.iter().for_each(|device| uses.remove(device.segment));
                        totals.devices += 1;
                        totals.devices -= u64::from(replaced.is_some());
                        stream.devices_mut().push(Device::new(form, from, now));
                        save = true;
                        from
                    }
                }
            }
        };
        stream.used = now;
        let waiting = stream.after(from).filter(|(_, entry)| entry.until > now).count() as u64;
        // where nothing is left in between, who has less has all the same
        let from = if waiting == 0 { head.seq } else { from };
        if save {
            self.save_later(slot);
        }
        Ok(Attached::At { head, from, waiting, reset: resumed.reset })
    }

    /// See [`crate::store::Store::register`].
    pub(in crate::store::embedded) fn register(&mut self, card: &str, device: DeviceForm<'_>, seq: u64, now: u32) {
        self.advance(card, device, seq, now, |_| false);
    }

    /// See [`crate::store::Store::ack`]. Whether its cursor is to be written.
    pub(in crate::store::embedded) fn acknowledge(
        &mut self,
        card: &str,
        device: DeviceForm<'_>,
        epoch: Epoch,
        seq: u64,
        now: u32,
    ) -> bool {
        // what was of numbers that are no more says nothing of those that are
        let is_of_stream = self.find(AddressRef::card(card)).is_some_and(|stream| stream.epoch == epoch);
        is_of_stream && self.advance(card, device, seq, now, |known| known.advance(seq, now))
    }

    /// A device that is known is changed as `moved` says; another begins at `seq`.
    fn advance(
        &mut self,
        card: &str,
        form: DeviceForm<'_>,
        seq: u64,
        now: u32,
        moved: impl FnOnce(&mut Device) -> bool,
    ) -> bool {
        let Some(slot) = self.slot(AddressRef::card(card)) else { return false };
        let Self { limits, slots, totals, uses, .. } = self;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return false };
        let seq_there = seq.min(stream.head);
        let head = stream.head;
        let save = match stream.devices_mut().iter_mut().find(|device| device.is(form)) {
            Some(device) => {
                let save = moved(device);
                // nobody has what was never there
                device.cut_back(head);
                save
            }
            None => {
                let Ok(replaced) = make_room(stream, limits, now) else { return false };
                replaced.iter().for_each(|device| uses.remove(device.segment));
                totals.devices += 1;
                totals.devices -= u64::from(replaced.is_some());
                stream.devices_mut().push(Device::new(form, seq_there, now));
                true
            }
        };
        stream.used = now;
        if save {
            self.save_later(slot);
        }
        save
    }

    /// See [`crate::store::Store::describe`].
    pub(in crate::store::embedded) fn describe(&self, address: AddressRef<'_>, now: u32) -> Option<StreamInfo> {
        let stream = self.find(address)?;
        let devices = stream.devices().iter().map(|device| {
            let DeviceForm { declared, name } = device.form();
            let idle = std::time::Duration::from_secs(now.saturating_sub(device.seen()).into());
            DeviceInfo { name: name.to_owned().into(), declared, seq: device.seq(), idle }
        });
        Some(StreamInfo {
            head: stream.position()?,
            first: stream.first().unwrap_or(stream.head + 1),
            entries: stream.len() as u64,
            bytes: stream.bytes(),
            devices: devices.collect(),
        })
    }
}

/// Where a reader begins that gets all that is there.
fn oldest(stream: &IndexedStream) -> u64 {
    stream.first().map_or(stream.head, |first| first - 1)
}

fn resumed(stream: &IndexedStream, resume: Option<Resume>) -> ResumedReader {
    let Some(Resume { epoch, seq, id }) = resume else { return ResumedReader { has: None, reset: false } };
    let is_there = seq <= stream.head;
    let holds = epoch == stream.epoch && is_there && id.is_none_or(|id| !stream.differs(seq, id));
    // in another epoch the same push at the same number says that the reader has what was before it
    let is_known = is_there && id.is_some_and(|id| stream.has(seq, id));
    ResumedReader { has: (holds || is_known).then_some(seq), reset: !holds }
}

/// Sees to it that one device more has room: who makes it.
fn make_room(stream: &mut IndexedStream, limits: &StoreLimits, now: u32) -> Result<Option<Device>, AttachError> {
    let devices = stream.devices();
    if devices.len() < limits.max_devices {
        return Ok(None);
    }
    let idlest = devices.iter().enumerate().min_by_key(|(_, device)| device.seen());
    let idlest = idlest.filter(|(_, device)| now.saturating_sub(device.seen()) >= limits.device_idle);
    match idlest.map(|(at, _)| at) {
        Some(at) => Ok(Some(stream.devices_mut().swap_remove(at))),
        None => Err(AttachError::TooManyDevices(limits.max_devices)),
    }
}
