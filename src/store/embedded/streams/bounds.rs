//! What leaves by itself: pushes whose time is over or that are too many, devices that stay away, streams that nobody needs.

use super::StreamIndex;
use crate::{config::StreamBounds, push::AddressKind};

/// A stream without pushes and cursors is kept so long after its last use, in seconds: who comes back within it finds its epoch.
const KEEP_EMPTY: u32 = 600;

impl StreamIndex {
    /// Takes the oldest pushes of a stream out that are beyond its bounds: first what is over at `now`.
    pub(super) fn trim(&mut self, slot: u32, now: u32) {
        if self.is_beyond_bounds(slot) {
            self.expire(slot, now);
        }
        let Self { limits, slots, uses, totals, drops, .. } = self;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let StreamBounds { max_entries, max_bytes, .. } = limits.bounds(stream.section);
        // one push has room whatever its size is
        while (stream.len() > max_entries || stream.bytes() > max_bytes)
            && stream.len() > 1
            && let Some((seq, removed)) = stream.remove_oldest()
        {
            uses.remove(removed.place().segment);
            totals.entries -= 1;
            totals.bytes -= u64::from(removed.bytes);
            drops.pushed_out += u64::from(stream.is_waited_for(seq));
        }
    }

    fn is_beyond_bounds(&self, slot: u32) -> bool {
        self.stream(slot).is_some_and(|stream| {
            let StreamBounds { max_entries, max_bytes, .. } = self.limits.bounds(stream.section);
            stream.len() > max_entries || stream.bytes() > max_bytes
        })
    }

    /// Looks at the next `most` streams, round and round: what is over at `now` (seconds since 1970) goes.
    pub(in crate::store::embedded) fn walk(&mut self, most: usize, now: u32) {
        for _ in 0..most.min(self.slots.len()) {
            self.walked = if self.walked + 1 < self.slots.len() { self.walked + 1 } else { 0 };
            self.expire(self.walked as u32, now);
        }
        self.revocations.expire(now, &mut self.uses);
        self.claims.expire(u64::from(now) * 1000, &mut self.uses);
    }

    /// Streams, those that are gone counted: a walk of so many looks at each.
    pub(in crate::store::embedded) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// What is over in one stream goes, and the stream itself where nobody needs it.
    pub(super) fn expire(&mut self, slot: u32, now: u32) {
        let Self { limits, slots, uses, totals, drops, .. } = self;
        let Some(stream) = slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let mut expired = Vec::new();
        stream.remove_expired(now, |seq, entry| {
            uses.remove(entry.place().segment);
            totals.entries -= 1;
            totals.bytes -= u64::from(entry.bytes);
            expired.push(seq);
        });
        // a room's history ends so, whoever read it
        let is_card = stream.address().kind == AddressKind::Card;
        drops.expired += expired.iter().filter(|seq| is_card && stream.is_waited_for(**seq)).count() as u64;
        if !stream.devices().is_empty() {
            stream.devices_mut().retain(|device| {
                let keep = now.saturating_sub(device.seen()) < limits.device_idle;
                if !keep {
                    uses.remove(device.segment);
                    totals.devices -= 1;
                }
                keep
            });
        }
        let idle = now.saturating_sub(stream.used);
        let is_needed = stream.len() > 0 || !stream.devices().is_empty() || idle < KEEP_EMPTY.min(limits.device_idle);
        if !is_needed {
            self.forget(slot);
        }
    }
}
