//! What the threads of a run share: its clock, the numbers given to pushes, and how far it is.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::layout::Layout;

/// Wakes whoever sends.
type Wake = Box<dyn Fn() + Send + Sync>;

/// Shared by the senders, the receivers and the one who watches.
pub(crate) struct Shared {
    epoch: Instant,
    /// Tells this run's markers from an earlier run's.
    pub(crate) run: u16,
    pub(crate) layout: Layout,
    /// For each target the number of its next push.
    next: Vec<AtomicU32>,
    /// Deliveries that count: each once, and not those to slow clients.
    delivered: AtomicU64,
    last_delivery: AtomicU64,
    /// At so many deliveries the sender is woken.
    goal: AtomicU64,
    wake: Mutex<Option<Wake>>,
    pub(crate) joined: AtomicUsize,
    /// Joins of connections that came back.
    pub(crate) rejoined: AtomicU64,
    pub(crate) last_join: AtomicU64,
    /// Connects and joins that failed for good.
    pub(crate) failed: AtomicUsize,
    /// Connections that the server ended.
    pub(crate) closed: AtomicUsize,
    pub(crate) churn: AtomicBool,
    pub(crate) sent: AtomicU64,
    pub(crate) accepted: AtomicU64,
    /// Pushes that were not accepted as far as is known: (target, number).
    refused: Mutex<Vec<(u32, u32)>>,
    /// What went wrong, and how often.
    mishaps: Mutex<BTreeMap<String, u64>>,
}

impl Shared {
    pub(crate) fn new(layout: Layout) -> Self {
        let run = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |time| (time.as_millis() as u64 ^ u64::from(std::process::id()).wrapping_mul(0x9e37)) as u16);
        Self {
            epoch: Instant::now(),
            run,
            layout,
            next: (0..layout.targets()).map(|_| AtomicU32::new(0)).collect(),
            delivered: AtomicU64::new(0),
            last_delivery: AtomicU64::new(0),
            goal: AtomicU64::new(u64::MAX),
            wake: Mutex::new(None),
            joined: AtomicUsize::new(0),
            rejoined: AtomicU64::new(0),
            last_join: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            churn: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: Mutex::new(Vec::new()),
            mishaps: Mutex::new(BTreeMap::new()),
        }
    }

    /// ns since the run began.
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    pub(crate) fn targets(&self) -> u32 {
        self.next.len() as u32
    }

    /// Numbers the next push to a target. From now on it is under way.
    pub(crate) fn number(&self, target: u32) -> u32 {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.next[target as usize].fetch_add(1, Ordering::SeqCst)
    }

    /// How many pushes to a target were numbered.
    pub(crate) fn numbered(&self, target: u32) -> u32 {
        self.next[target as usize].load(Ordering::SeqCst)
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::SeqCst)
    }

    pub(crate) fn last_delivery(&self) -> u64 {
        self.last_delivery.load(Ordering::SeqCst)
    }

    /// So many more deliveries, the last of them at `now`.
    pub(crate) fn deliver(&self, count: u64, now: u64) {
        self.last_delivery.fetch_max(now, Ordering::SeqCst);
        let delivered = self.delivered.fetch_add(count, Ordering::SeqCst) + count;
        let goal = self.goal.load(Ordering::SeqCst);
        if delivered >= goal
            && self.goal.compare_exchange(goal, u64::MAX, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            && let Some(wake) = lock(&self.wake).as_ref()
        {
            wake();
        }
    }

    /// Who is woken when a goal is reached.
    pub(crate) fn set_wake(&self, wake: Wake) {
        *lock(&self.wake) = Some(wake);
    }

    /// Whether so many deliveries were counted; if not, the sender will be woken once they are.
    pub(crate) fn reached(&self, goal: u64) -> bool {
        if self.delivered() >= goal {
            return true;
        }
        self.goal.store(goal, Ordering::SeqCst);
        self.delivered() >= goal
    }

    pub(crate) fn refuse(&self, target: u32, seq: u32, why: &str) {
        lock(&self.refused).push((target, seq));
        self.mishap(why);
    }

    /// What was refused, by target, sorted.
    pub(crate) fn refused(&self) -> BTreeMap<u32, Vec<u32>> {
        let mut refused = BTreeMap::<u32, Vec<u32>>::new();
        for &(target, seq) in lock(&self.refused).iter() {
            refused.entry(target).or_default().push(seq);
        }
        refused.values_mut().for_each(|seqs| seqs.sort_unstable());
        refused
    }

    pub(crate) fn mishap(&self, what: &str) {
        /// Different texts that are kept.
        const MAX: usize = 50;
        let mut mishaps = lock(&self.mishaps);
        if let Some(count) = mishaps.get_mut(what) {
            *count += 1;
        } else if mishaps.len() < MAX {
            mishaps.insert(what.into(), 1);
        }
    }

    pub(crate) fn mishaps(&self) -> BTreeMap<String, u64> {
        lock(&self.mishaps).clone()
    }
}

/// A duration in the run's unit.
pub(crate) fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// A thread that panicked ends the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
