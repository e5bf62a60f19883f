//! What the store writes into its log: the form of its entries' bodies.
//!
//! All numbers are little-endian. A name is its length (u16) and its UTF-8; an address is its kind (u8: 0 a card, 1 a room) and
//! its name. The kinds are other numbers than the queue's and the journal's, so that no log can be taken for another.

use crate::{
    push::{AddressKind, Epoch, PushId},
    store::Claim,
};

/// A push that is stored: whether a claim follows (u8), the claim, how many places follow (u32), the places; then the record
/// (proto/record.proto). A place: which of the record's cards (u32), epoch (u32), seq (u64), the seq appended before it (u64),
/// until when it is kept (u32, seconds since 1970).
pub(super) const PUSH: u8 = 48;
/// The same again, with the places that are still needed, because its segment goes.
pub(super) const MOVED: u8 = 49;
/// A stream as it is: its address, epoch (u32), head (u64), the head's id (16 bytes), numbers behind the head that are not given
/// again (u32).
pub(super) const STREAM: u8 = 50;
/// A push or a stream is deleted: the address, epoch (u32), seq (u64; 0: the stream).
pub(super) const DELETED: u8 = 51;
/// An idempotency key: the claim, the id (16 bytes), whether the queue or the store has its push (u8).
pub(super) const CLAIM: u8 = 52;
/// Tokens of a subject are refused: the second (u64), until when that is to be known (u32, seconds since 1970), the subject.
pub(super) const REVOKED: u8 = 53;
/// Of all streams that stand before it: what their epochs are mixed with (u32; 0: they stay), numbers that are not given (u32).
pub(super) const RENEWED: u8 = 54;
/// A device is forgotten: its card's name, whether it was declared (u8), its name.
pub(super) const FORGOTTEN: u8 = 55;
/// Cursors: for each of some streams the card's name, epoch (u32), how many devices (u16), and for each whether it was declared
/// (u8), its name, seq (u64), when it was heard of (u32, seconds since 1970).
pub(super) const CURSORS: u8 = 176;
/// A process begins: the machine's boot id (16 bytes), whether pushes are acknowledged before a sync (u8).
pub(super) const BEGUN: u8 = 177;
/// A process ended in order.
pub(super) const CLOSED: u8 = 178;

const CARD: u8 = 0;
const ROOM: u8 = 1;

/// Bytes of a place in a PUSH.
pub(super) const PLACE: usize = 28;

/// Where a push stands in a stream, as a PUSH has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlaceForm {
    /// Which of the record's cards; 0 for a room.
    pub(super) card: u32,
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    /// The seq that was appended before it; 0: it is the first. In a MOVED the head of the stream.
    pub(super) previous: u64,
    /// Seconds since 1970.
    pub(super) until: u32,
}

/// An address whose name is not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressRef<'a> {
    pub(super) kind: AddressKind,
    pub(super) name: &'a str,
}

impl<'a> AddressRef<'a> {
    pub(super) fn card(name: &'a str) -> Self {
        Self { kind: AddressKind::Card, name }
    }

    pub(super) fn room(name: &'a str) -> Self {
        Self { kind: AddressKind::Room, name }
    }
}

/// A PUSH or MOVED, read.
pub(super) struct PushForm<'a> {
    pub(super) claim: Option<Claim>,
    /// [`PlaceForm`]s.
    places: &'a [u8],
    pub(super) record: &'a [u8],
}

impl<'a> PushForm<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut body = Body(body);
        let claim = if body.byte()? == 0 { None } else { Some(body.claim()?) };
        let count = body.u32()? as usize;
        let places = body.take(count.checked_mul(PLACE)?)?;
        Some(Self { claim, places, record: body.0 })
    }

    pub(super) fn places(&self) -> impl Iterator<Item = PlaceForm> + use<'a> {
        let mut places = Body(self.places);
        std::iter::from_fn(move || {
            Some(PlaceForm {
                card: places.u32()?,
                epoch: Epoch::from_u32(places.u32()?),
                seq: places.u64()?,
                previous: places.u64()?,
                until: places.u32()?,
            })
        })
    }

    pub(super) fn count(&self) -> usize {
        self.places.len() / PLACE
    }
}

/// What stands before the record in a PUSH.
pub(super) fn push_head(claim: Option<&Claim>, places: impl ExactSizeIterator<Item = PlaceForm>) -> Vec<u8> {
    let mut head = Vec::with_capacity(37 + places.len() * PLACE);
    match claim {
        Some(claim) => {
            head.push(1);
            write_claim(&mut head, claim);
        }
        None => head.push(0),
    }
    head.extend_from_slice(&(places.len() as u32).to_le_bytes());
    for PlaceForm { card, epoch, seq, previous, until } in places {
        head.extend_from_slice(&card.to_le_bytes());
        head.extend_from_slice(&epoch.to_u32().to_le_bytes());
        head.extend_from_slice(&seq.to_le_bytes());
        head.extend_from_slice(&previous.to_le_bytes());
        head.extend_from_slice(&until.to_le_bytes());
    }
    head
}

/// A STREAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamForm<'a> {
    pub(super) address: AddressRef<'a>,
    pub(super) epoch: Epoch,
    pub(super) head: u64,
    pub(super) head_id: PushId,
    pub(super) burned: u32,
}

impl<'a> StreamForm<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut body = Body(body);
        Some(Self {
            address: body.address()?,
            epoch: Epoch::from_u32(body.u32()?),
            head: body.u64()?,
            head_id: body.id()?,
            burned: body.u32()?,
        })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40 + self.address.name.len());
        write_address(&mut bytes, self.address);
        bytes.extend_from_slice(&self.epoch.to_u32().to_le_bytes());
        bytes.extend_from_slice(&self.head.to_le_bytes());
        bytes.extend_from_slice(&self.head_id.to_bytes());
        bytes.extend_from_slice(&self.burned.to_le_bytes());
        bytes
    }
}

/// A DELETED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeletedForm<'a> {
    pub(super) address: AddressRef<'a>,
    pub(super) epoch: Epoch,
    /// 0: the stream.
    pub(super) seq: u64,
}

impl<'a> DeletedForm<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut body = Body(body);
        Some(Self { address: body.address()?, epoch: Epoch::from_u32(body.u32()?), seq: body.u64()? })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_address(&mut bytes, self.address);
        bytes.extend_from_slice(&self.epoch.to_u32().to_le_bytes());
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes
    }
}

/// A CLAIM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClaimForm {
    pub(super) claim: Claim,
    pub(super) id: PushId,
    pub(super) done: bool,
}

impl ClaimForm {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut body = Body(body);
        Some(Self { claim: body.claim()?, id: body.id()?, done: body.byte()? != 0 })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(49);
        write_claim(&mut bytes, &self.claim);
        bytes.extend_from_slice(&self.id.to_bytes());
        bytes.push(self.done.into());
        bytes
    }
}

/// A REVOKED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RevokedForm<'a> {
    pub(super) subject: &'a str,
    /// Since 1970.
    pub(super) second: u64,
    /// Seconds since 1970.
    pub(super) until: u32,
}

impl<'a> RevokedForm<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut body = Body(body);
        Some(Self { second: body.u64()?, until: body.u32()?, subject: body.name()? })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.second.to_le_bytes());
        bytes.extend_from_slice(&self.until.to_le_bytes());
        write_name(&mut bytes, self.subject);
        bytes
    }
}

/// A RENEWED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RenewedForm {
    /// 0: the epochs stay.
    pub(super) salt: u32,
    pub(super) skipped: u32,
}

impl RenewedForm {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut body = Body(body);
        Some(Self { salt: body.u32()?, skipped: body.u32()? })
    }

    pub(super) fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.salt.to_le_bytes());
        bytes[4..].copy_from_slice(&self.skipped.to_le_bytes());
        bytes
    }

    /// The epoch of a stream that had `epoch`.
    pub(super) fn epoch(self, epoch: Epoch) -> Epoch {
        if self.salt == 0 {
            return epoch;
        }
        // a bijection of the numbers but 0, so that two epochs of one stream stay two
        let mixed = epoch.to_u32() ^ self.salt;
        Epoch::from_u32(if mixed == 0 { self.salt } else { mixed })
    }
}

/// A device, as FORGOTTEN and CURSORS name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceForm<'a> {
    pub(super) declared: bool,
    pub(super) name: &'a str,
}

/// A FORGOTTEN.
pub(super) fn read_forgotten(body: &[u8]) -> Option<(&str, DeviceForm<'_>)> {
    let mut body = Body(body);
    Some((body.name()?, DeviceForm { declared: body.byte()? != 0, name: body.name()? }))
}

/// See [`read_forgotten`].
pub(super) fn write_forgotten(card: &str, device: DeviceForm<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_name(&mut bytes, card);
    bytes.push(device.declared.into());
    write_name(&mut bytes, device.name);
    bytes
}

/// A device's cursor in a CURSORS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CursorForm<'a> {
    pub(super) device: DeviceForm<'a>,
    pub(super) seq: u64,
    /// Seconds since 1970.
    pub(super) seen: u32,
}

/// Appends a stream's cursors to the body of a CURSORS.
pub(super) fn write_cursors<'a>(
    body: &mut Vec<u8>,
    card: &str,
    epoch: Epoch,
    cursors: impl ExactSizeIterator<Item = CursorForm<'a>>,
) {
    write_name(body, card);
    body.extend_from_slice(&epoch.to_u32().to_le_bytes());
    body.extend_from_slice(&(cursors.len() as u16).to_le_bytes());
    for CursorForm { device, seq, seen } in cursors {
        body.push(device.declared.into());
        write_name(body, device.name);
        body.extend_from_slice(&seq.to_le_bytes());
        body.extend_from_slice(&seen.to_le_bytes());
    }
}

/// Gives each cursor of a CURSORS to `found`, with its card and epoch; what does not have that form ends it.
pub(super) fn read_cursors<'a>(body: &'a [u8], mut found: impl FnMut(&'a str, Epoch, CursorForm<'a>)) {
    let mut body = Body(body);
    let mut read = || {
        let card = body.name()?;
        let epoch = Epoch::from_u32(body.u32()?);
        for _ in 0..body.u16()? {
            let device = DeviceForm { declared: body.byte()? != 0, name: body.name()? };
            found(card, epoch, CursorForm { device, seq: body.u64()?, seen: body.u32()? });
        }
        Some(())
    };
    while read().is_some() {}
}

/// A BEGUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BegunForm {
    /// Zeros: unknown.
    pub(super) boot: [u8; 16],
    pub(super) syncs_later: bool,
}

impl BegunForm {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut body = Body(body);
        Some(Self { boot: *body.take(16)?.first_chunk()?, syncs_later: body.byte()? != 0 })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        [&self.boot[..], &[self.syncs_later.into()]].concat()
    }
}

fn write_claim(bytes: &mut Vec<u8>, claim: &Claim) {
    bytes.extend_from_slice(&claim.key);
    bytes.extend_from_slice(&claim.body.to_le_bytes());
    bytes.extend_from_slice(&claim.deadline.to_le_bytes());
}

fn write_address(bytes: &mut Vec<u8>, address: AddressRef<'_>) {
    bytes.push(match address.kind {
        AddressKind::Card => CARD,
        AddressKind::Room => ROOM,
    });
    write_name(bytes, address.name);
}

/// Names are bounded by `[push] max_name` long before a u16.
fn write_name(bytes: &mut Vec<u8>, name: &str) {
    bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
}

/// What is left of an entry's body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn id(&mut self) -> Option<PushId> {
        self.take(16)?.first_chunk().map(|bytes| PushId::from_bytes(*bytes))
    }

    fn name(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(len.into())?).ok()
    }

    fn address(&mut self) -> Option<AddressRef<'a>> {
        let kind = match self.byte()? {
            CARD => AddressKind::Card,
            ROOM => AddressKind::Room,
            _ => return None,
        };
        Some(AddressRef { kind, name: self.name()? })
    }

    fn claim(&mut self) -> Option<Claim> {
        Some(Claim { key: *self.take(16)?.first_chunk()?, body: self.u64()?, deadline: self.u64()? })
    }
}
