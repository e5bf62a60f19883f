//! What became of the last pushes, by their ids.

use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::labels::DropReason;
use crate::push::{Address, Epoch, PushId, Selection, StoredPush, unix_millis};

/// Pushes that share a lock, of which the oldest makes room.
const BUCKET: usize = 8;
/// Looks at a lock that another thread has; each has it for some tens of nanoseconds.
const LOOKS: usize = 64;
/// Places in streams that are remembered of one push.
const MOST_PLACES: usize = 16;

/// The last pushes that this node has accepted, or that came to it, each with its way.
///
/// A note never waits for long: where its lock stays taken it is left out, and those pushes whose notes may be missing are marked.
#[derive(Debug)]
pub(crate) struct PushTraces {
    buckets: Box<[TraceBucket]>,
}

#[derive(Debug, Default)]
struct TraceBucket {
    traces: Mutex<Vec<PushTrace>>,
    /// When a note was last left out, in milliseconds since 1970; 0: never.
    missed: AtomicU64,
}

/// What one node knows of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PushTrace {
    /// The push's; its time is when it was accepted.
    pub(crate) id: PushId,
    /// Where it came in, if that was at this node.
    pub(crate) source: Option<&'static str>,
    /// Milliseconds from then until the queue, or the store, had it for good.
    pub(crate) published_in: Option<u64>,
    /// Milliseconds until the first shard had offered it to its clients.
    pub(crate) offered_in: Option<u64>,
    /// Connections that it was offered to and that had room for it.
    pub(crate) offered: u64,
    /// How often it was dropped, by reason.
    pub(crate) dropped: Vec<(DropReason, u64)>,
    /// Its places in streams: the first of them, where it has many.
    pub(crate) places: Vec<TracedPlace>,
    /// No note of it was left out.
    pub(crate) is_complete: bool,
}

/// A place of a stored push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TracedPlace {
    /// The card, or the room.
    pub(crate) address: Address,
    /// Of which numbering.
    pub(crate) epoch: Epoch,
    /// Its number.
    pub(crate) seq: u64,
}

impl PushTrace {
    fn new(id: PushId) -> Self {
        Self {
            id,
            source: None,
            published_in: None,
            offered_in: None,
            offered: 0,
            dropped: Vec::new(),
            places: Vec::new(),
            is_complete: true,
        }
    }

    fn count_dropped(&mut self, reason: DropReason, times: u64) {
        match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += times,
            None => self.dropped.push((reason, times)),
        }
    }
}

impl PushTraces {
    /// Of about the last `most` pushes; 0: of none.
    pub(crate) fn new(most: usize) -> Self {
        // some buckets fill before others: with two thirds more, nearly all of the last `most` are there
        let buckets = (most + most * 2 / 3).div_ceil(BUCKET);
        Self { buckets: (0..buckets).map(|_| TraceBucket::default()).collect() }
    }

    /// The queue, or the store, has a push for good that came in at this node.
    pub(crate) fn published(&self, id: PushId, source: &'static str) {
        self.note(id, |trace| {
            trace.source = Some(source);
            trace.published_in.get_or_insert_with(|| unix_millis().saturating_sub(id.millis()));
        });
    }

    /// A shard has offered a push, in the turn that began at `now` (ms since 1970): to `offered` connections that had room, and to
    /// `slow` ones that had none.
    pub(crate) fn offered(&self, id: PushId, offered: u64, slow: u64, now: u64) {
        self.note(id, |trace| {
            trace.offered_in.get_or_insert(now.saturating_sub(id.millis()));
            trace.offered += offered;
            if slow > 0 {
                trace.count_dropped(DropReason::Slow, slow);
            }
        });
    }

    /// A push was dropped, `times` times.
    pub(crate) fn dropped(&self, id: PushId, reason: DropReason, times: u64) {
        self.note(id, |trace| trace.count_dropped(reason, times));
    }

    /// A push came from the store.
    pub(crate) fn stored(&self, stored: &StoredPush) {
        let StoredPush { push, entries } = stored;
        self.note(push.id, |trace| {
            let addresses: Vec<Address> = match push.target.selection() {
                Selection::Room(room) => vec![Address::Room(room.clone())],
                _ => push.target.cards.iter().take(MOST_PLACES).cloned().map(Address::Card).collect(),
            };
            let places = addresses.into_iter().zip(entries);
            trace.places =
                places.map(|(address, entry)| TracedPlace { address, epoch: entry.epoch, seq: entry.seq }).collect();
        });
    }

    /// What is known of a push; `None`: nothing, or no more.
    pub(crate) fn get(&self, id: PushId) -> Option<PushTrace> {
        let bucket = self.bucket(id)?;
        let trace = bucket.lock().iter().find(|trace| trace.id == id).cloned()?;
        Some(bucket.marked(trace))
    }

    /// The last pushes, the newest first, `limit` of them at most.
    pub(crate) fn last(&self, limit: usize) -> Vec<PushTrace> {
        let of_bucket = |bucket: &TraceBucket| bucket.lock().iter().map(|trace| trace.id).collect::<Vec<_>>();
        let mut ids: Vec<PushId> = self.buckets.iter().flat_map(of_bucket).collect();
        ids.sort_unstable_by(|one, other| other.cmp(one));
        ids.truncate(limit);
        ids.into_iter().filter_map(|id| self.get(id)).collect()
    }

    fn bucket(&self, id: PushId) -> Option<&TraceBucket> {
        let bits = u128::from_be_bytes(id.to_bytes());
        // ids of other gateways' messages may differ in their high bits alone
        let mixed = ((bits >> 64) as u64 ^ bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (u128::from(mixed) * self.buckets.len() as u128) >> 64;
        self.buckets.get(place as usize)
    }

    /// Changes what is known of a push.
    fn note(&self, id: PushId, change: impl FnOnce(&mut PushTrace)) {
        let Some(bucket) = self.bucket(id) else { return };
        let Some(mut traces) = bucket.try_lock() else {
            bucket.missed.store(unix_millis(), Ordering::Relaxed);
            return;
        };
        if let Some(trace) = traces.iter_mut().find(|trace| trace.id == id) {
            return change(trace);
        }
        if traces.len() < BUCKET {
            traces.push(PushTrace::new(id));
        } else if let Some(oldest) = traces.iter_mut().min_by_key(|trace| trace.id).filter(|oldest| oldest.id < id) {
            *oldest = PushTrace::new(id);
        }
        if let Some(trace) = traces.iter_mut().find(|trace| trace.id == id) {
            change(trace);
        }
    }
}

impl TraceBucket {
    fn lock(&self) -> MutexGuard<'_, Vec<PushTrace>> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Vec<PushTrace>>> {
        for _ in 0..LOOKS {
            match self.traces.try_lock() {
                Ok(traces) => return Some(traces),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => spin_loop(),
            }
        }
        None
    }

    fn marked(&self, trace: PushTrace) -> PushTrace {
        let is_complete = self.missed.load(Ordering::Relaxed) < trace.id.millis().max(1);
        PushTrace { is_complete, ..trace }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(number: u64) -> PushId {
        PushId::from_parts(1_700_000_000_000 + number, u128::from(number.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    #[test]
    fn a_push_is_found_with_all_that_was_noted_of_it() {
        let traces = PushTraces::new(100);
        traces.published(id(1), "http");
        traces.offered(id(1), 2, 0, unix_millis());
        traces.offered(id(1), 1, 3, unix_millis());
        traces.dropped(id(2), DropReason::NoConnection, 1);
        traces.dropped(id(2), DropReason::NoConnection, 1);
        let trace = traces.get(id(1)).unwrap();
        assert_eq!((trace.source, trace.offered), (Some("http"), 3));
        assert_eq!(trace.dropped, [(DropReason::Slow, 3)]);
        assert!(trace.published_in.is_some() && trace.offered_in.is_some() && trace.is_complete);
        assert_eq!(traces.get(id(2)).unwrap().dropped, [(DropReason::NoConnection, 2)]);
        assert_eq!(traces.get(id(3)), None);
        let ids: Vec<_> = traces.last(10).into_iter().map(|trace| trace.id).collect();
        assert_eq!(ids, [id(2), id(1)]);
    }

    #[test]
    fn the_oldest_make_room_and_nearly_all_of_the_last_are_there() {
        let traces = PushTraces::new(1000);
        (0..10_000).for_each(|number| traces.published(id(number), "http"));
        let found = (9000..10_000).filter(|number| traces.get(id(*number)).is_some()).count();
        assert!(found >= 950, "{found} of the last 1000");
        assert!(traces.last(usize::MAX).len() <= 1672);
        // a late note of a push that made room takes nobody's place
        let before: Vec<_> = traces.last(usize::MAX);
        traces.offered(id(0), 1, 0, unix_millis());
        assert_eq!(traces.last(usize::MAX), before);
    }

    #[test]
    fn a_note_that_was_left_out_marks_the_pushes_that_it_may_be_of() {
        let traces = PushTraces::new(1);
        let fresh = PushId::generate();
        traces.published(fresh, "http");
        let bucket = traces.bucket(fresh).unwrap();
        let held = bucket.lock();
        std::thread::scope(|scope| scope.spawn(|| traces.offered(fresh, 1, 0, unix_millis())).join().unwrap());
        drop(held);
        let trace = traces.get(fresh).unwrap();
        assert!(!trace.is_complete && trace.offered == 0);
    }

    #[test]
    fn no_pushes_are_remembered_where_none_are_wanted() {
        let traces = PushTraces::new(0);
        traces.published(id(1), "http");
        assert_eq!((traces.get(id(1)), traces.last(10).len()), (None, 0));
    }
}
