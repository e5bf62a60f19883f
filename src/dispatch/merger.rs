//! Pushes to a room, or to everyone, that wait for the end of their window to leave as one frame.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tokio::time::Instant;

use crate::{
    config,
    hub::shrink,
    push::Push,
    telemetry::{Counter, Gauge, Metrics, labels::MergeTarget},
};

/// What a push that waits costs beside its content, about.
const ENTRY: usize = 192;

/// What is gathered together: pushes to one room, or to everyone (`None`).
type MergeKey = Option<ByteString>;

/// What all mergers have together.
#[derive(Clone, Default)]
pub(super) struct MergeTotals {
    /// Bytes that wait.
    bytes: Arc<AtomicUsize>,
    /// Pushes that wait.
    waiting: Gauge,
    /// Windows that ended.
    of_rooms: Counter,
    of_everyone: Counter,
}

impl MergeTotals {
    pub(super) fn of(metrics: &Metrics) -> Self {
        Self {
            bytes: Arc::default(),
            waiting: metrics.merging.clone(),
            of_rooms: metrics.merges.get_or_create_owned(&MergeTarget::Room),
            of_everyone: metrics.merges.get_or_create_owned(&MergeTarget::Everyone),
        }
    }
}

/// The windows of one lane that are open.
pub(super) struct Merger {
    window: Duration,
    count: usize,
    /// `[rooms] merge_bytes`, of all lanes together.
    max_bytes: usize,
    /// Of one window: a frame must fit an outbox.
    max_frame: usize,
    totals: MergeTotals,
    windows: HashMap<MergeKey, Window, RandomState>,
    /// When each window ends, by its number: all last equally long, so that they end in the order in which they were opened.
    ends: BTreeMap<u64, (Instant, MergeKey)>,
    next: u64,
}

struct Window {
    number: u64,
    /// At least one; all with the same filter.
    pushes: Vec<Push>,
    bytes: usize,
}

impl Merger {
    /// `None`: merging is off. A frame has no more than `max_frame` bytes of content, but for one push that has more.
    pub(super) fn new(config: &config::RoomsConfig, totals: &MergeTotals, max_frame: usize) -> Option<Self> {
        (!config.merge_window.is_zero()).then(|| Self {
            window: config.merge_window,
            count: config.merge_count,
            max_bytes: config.merge_bytes,
            max_frame,
            totals: totals.clone(),
            windows: HashMap::default(),
            ends: BTreeMap::new(),
            next: 0,
        })
    }

    /// Lets `push` wait at `now`. What is not to wait any longer goes to `ready`, in order.
    pub(super) fn add(&mut self, push: Push, now: Instant, ready: &mut Vec<Vec<Push>>) {
        let key = push.target.room.clone();
        let bytes = push.content.len() + ENTRY;
        let fits = |open: &Window| open.bytes + bytes <= self.max_frame && open.pushes[0].target.app == push.target.app;
        if self.windows.get(&key).is_some_and(|open| !fits(open)) {
            ready.extend(self.take(&key));
        }
        let waiting = self.totals.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.totals.waiting.inc();
        let open = self.windows.entry(key.clone()).or_insert_with(|| {
            self.next += 1;
            self.ends.insert(self.next, (now + self.window, key.clone()));
            Window { number: self.next, pushes: Vec::new(), bytes: 0 }
        });
        open.bytes += bytes;
        open.pushes.push(push);
        if open.pushes.len() >= self.count || waiting > self.max_bytes {
            ready.extend(self.take(&key));
        }
    }

    /// Ends the window of a room, or of everyone: what waited in it.
    pub(super) fn take(&mut self, key: &MergeKey) -> Option<Vec<Push>> {
        let Window { number, pushes, bytes } = self.windows.remove(key)?;
        self.ends.remove(&number);
        self.totals.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.totals.waiting.dec_by(pushes.len() as i64);
        let ended = if key.is_some() { &self.totals.of_rooms } else { &self.totals.of_everyone };
        ended.inc();
        shrink(&mut self.windows);
        Some(pushes)
    }

    /// When the next window ends; `None`: none is open.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first_key_value().map(|(_, (end, _))| *end)
    }

    /// What waited in a window that ends by `now`; `None`: there is none.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<Vec<Push>> {
        let mut first = self.ends.first_entry().filter(|first| first.get().0 <= now)?;
        let key = mem::take(&mut first.get_mut().1);
        self.take(&key)
    }

    /// What waits in any window.
    pub(super) fn take_any(&mut self) -> Option<Vec<Push>> {
        let key = self.ends.first_entry().map(|mut first| mem::take(&mut first.get_mut().1))?;
        self.take(&key)
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        while self.take_any().is_some() {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::push::Target;

    const MAX_BYTES: usize = 8 * (ENTRY + 100);
    const MAX_FRAME: usize = 5 * (ENTRY + 100);

    #[derive(Clone, Debug)]
    enum Step {
        Push { room: Option<u8>, app: Option<u8>, size: usize },
        End { room: Option<u8> },
        Wait { millis: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let room = || proptest::option::of(0..3_u8);
        prop_oneof![
            6 => (room(), proptest::option::of(0..2_u8), 0..200_usize)
                .prop_map(|(room, app, size)| Step::Push { room, app: room.and(app), size }),
            1 => room().prop_map(|room| Step::End { room }),
            3 => (0..30_u64).prop_map(|millis| Step::Wait { millis }),
        ]
    }

    fn name(room: Option<u8>) -> MergeKey {
        room.map(|room| format!("room-{room}").into())
    }

    fn push(room: Option<u8>, app: Option<u8>, size: usize) -> Push {
        let app = app.map(|app| format!("app-{app}").into());
        let target = Target { room: name(room), app, everyone: room.is_none(), ..Target::default() };
        Push { target, ..Push::to("", &"x".repeat(size)) }
    }

    proptest! {
        /// Each push leaves once, with others of its room and its filter, in order, and none later than a window after it came.
        #[test]
        fn whatever_comes_leaves_once_in_order_and_in_time(steps in vec(step(), 1..120), count in 1..6_usize) {
            let window = Duration::from_millis(20);
            let config = config::RoomsConfig {
                merge_window: window,
                merge_count: count,
                merge_bytes: MAX_BYTES,
                ..config::load(None, []).unwrap().rooms
            };
            let totals = MergeTotals::default();
            let mut merger = Merger::new(&config, &totals, MAX_FRAME).unwrap();
            let mut now = Instant::now();
            let mut came: Vec<(Instant, Push)> = Vec::new();
            let mut left: Vec<(Instant, Vec<Push>)> = Vec::new();
            for step in steps {
                let mut ready = Vec::new();
                match step {
                    Step::Push { room, app, size } => {
                        let push = push(room, app, size);
                        came.push((now, push.clone()));
                        merger.add(push, now, &mut ready);
                    }
                    Step::End { room } => ready.extend(merger.take(&name(room))),
                    Step::Wait { millis } => {
                        let until = now + Duration::from_millis(millis);
                        // as the lane's task does
                        while let Some(end) = merger.next_end().filter(|end| *end <= until) {
                            now = end.max(now);
                            while let Some(pushes) = merger.take_ended(now) {
                                left.push((now, pushes));
                            }
                        }
                        now = until;
                    }
                }
                left.extend(ready.into_iter().map(|pushes| (now, pushes)));
                let waiting = came.len() - left.iter().map(|(_, pushes)| pushes.len()).sum::<usize>();
                prop_assert_eq!(merger.windows.values().map(|open| open.pushes.len()).sum::<usize>(), waiting);
                prop_assert!(merger.ends.len() == merger.windows.len());
                let held = merger.windows.values().map(|open| open.bytes).sum::<usize>();
                prop_assert!(held <= MAX_BYTES && totals.bytes.load(Ordering::Relaxed) == held);
            }
            while let Some(pushes) = merger.take_any() {
                left.push((now, pushes));
            }
            prop_assert_eq!((totals.bytes.load(Ordering::Relaxed), totals.waiting.get()), (0, 0));
            for room in [None, Some(0), Some(1), Some(2)] {
                let of_room = |push: &&Push| push.target.room == name(room);
                let expected: Vec<_> = came.iter().map(|(_, push)| push).filter(of_room).map(|push| push.id).collect();
                let got: Vec<_> = left.iter().flat_map(|(_, all)| all).filter(of_room).map(|push| push.id).collect();
                prop_assert_eq!(got, expected);
            }
            for (at, pushes) in &left {
                let targets: HashSet<_> = pushes.iter().map(|push| (&push.target.room, &push.target.app)).collect();
                let size: usize = pushes.iter().map(|push| push.content.len() + ENTRY).sum();
                prop_assert!(targets.len() == 1 && pushes.len() <= count && (pushes.len() == 1 || size <= MAX_FRAME));
                for push in pushes {
                    let (since, _) = came.iter().find(|(_, other)| other.id == push.id).unwrap();
                    prop_assert!(*at <= *since + window);
                }
            }
        }
    }
}
