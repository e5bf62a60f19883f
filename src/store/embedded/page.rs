//! Pages of a stream, read beside the store's thread.

use std::io;

use bytes::Bytes;

use super::{
    EmbeddedStore,
    entry::{AddressRef, MOVED, PUSH, PushForm},
    shared::unix_seconds,
    streams::PagePlan,
    writer::address_ref,
};
use crate::{
    log::Place,
    push::{Address, Epoch, PageEntry, Push, PushId, StreamPage, unix_millis},
    record::{self, Record},
};

/// A push may be moved on while it is read: so often it is looked for again.
const TRIES: u32 = 3;

impl EmbeddedStore {
    /// See [`crate::store::Store::read_pages`].
    pub(in crate::store) fn read(
        &self,
        address: &Address,
        epoch: Epoch,
        after: u64,
        entries: usize,
        bytes: usize,
    ) -> io::Result<Option<StreamPage>> {
        let of = address_ref(address);
        let plan = self.shared.lock().streams.page(of, epoch, after, entries.max(1), unix_seconds());
        let Some(PagePlan { places, more, head, head_id }) = plan else { return Ok(None) };
        let now = unix_millis();
        let mut page = StreamPage {
            address: address.clone(),
            epoch,
            after,
            after_id: PushId::NIL,
            entries: Vec::with_capacity(places.len()),
            end: head,
            end_id: head_id,
            head,
        };
        let mut last = None;
        let mut size = 0;
        let mut is_whole = !more;
        for (seq, place) in places {
            let found = match self.push_at(of, epoch, seq, place) {
                // what is before it can be read
                Err(_) if last.is_some() => {
                    is_whole = false;
                    break;
                }
                found => found?,
            };
            let Some((push, len)) = found else { continue };
            if !page.entries.is_empty() && size + len > bytes {
                is_whole = false;
                break;
            }
            last = Some((seq, push.id));
            if push.deadline.is_some_and(|deadline| deadline <= now) {
                continue;
            }
            size += len;
            page.entries.push(PageEntry { seq, push });
        }
        match last {
            Some((seq, id)) if !is_whole => (page.end, page.end_id) = (seq, id),
            // none of those that were asked for is there any more: what is behind them is read at once
            None if !is_whole => return self.read(address, epoch, after, entries.saturating_mul(2), bytes),
            _ => {}
        }
        Ok(Some(page))
    }

    /// The push that stands at `seq`, with its bytes; `None`: it has gone meanwhile, or is lost.
    fn push_at(
        &self,
        address: AddressRef<'_>,
        epoch: Epoch,
        seq: u64,
        place: Place,
    ) -> io::Result<Option<(Push, usize)>> {
        let mut place = place;
        for _ in 0..TRIES {
            let found = (self.read)(place)?.and_then(|(kind, body)| push_in(kind, &body));
            if let Some(found) = found {
                return Ok(Some(found));
            }
            let by_now = self.shared.lock().streams.place(address, epoch, seq);
            match by_now.filter(|by_now| *by_now != place) {
                Some(moved) => place = moved,
                None => break,
            }
        }
        let mut locked = self.shared.lock();
        if locked.streams.lose(address, seq, place) {
            self.shared.show(&mut locked);
            drop(locked);
            tracing::error!(seq, "a stored push is missing from the store's log: did the disk fail?");
        }
        Ok(None)
    }
}

/// The push in an entry's body.
fn push_in(kind: u8, body: &Bytes) -> Option<(Push, usize)> {
    if kind != PUSH && kind != MOVED {
        return None;
    }
    let record = body.slice_ref(PushForm::read(body)?.record);
    let len = record.len();
    match record::decode(record) {
        Ok(Record::Push(push)) => Some((push, len)),
        Ok(Record::Stored(_) | Record::Disconnect(_) | Record::Rebalance(_) | Record::Presence(_)) | Err(_) => None,
    }
}
