//! The store's state behind its lock: what ingress, dispatch and sockets call.
//!
//! The lock is held for moments, never over disk or network.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use tokio::sync::{oneshot, watch};

use super::{
    limits::StoreLimits,
    order::{StoreAnswer, StoreOrder, WaitingAppend},
    streams::{ClaimState, StoreDrops, StreamIndex},
};
use crate::{
    push::{PushId, unix_millis},
    record,
    store::{Appended, Claim, Claimed, NewPush, StoreError, StoreState},
    telemetry::{
        Metrics,
        labels::{AppendOutcome, DropReason},
    },
};

/// A cursor is written down this long after it moved, if nothing else is written before.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// What a push that waits costs beside its bytes, about.
const OVERHEAD: usize = 256;

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u32 {
    u32::try_from(unix_millis() / 1000).unwrap_or(u32::MAX)
}

/// See the module.
pub(super) struct SharedStore {
    pub(super) limits: StoreLimits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) state: watch::Sender<StoreState>,
    wake: Condvar,
    locked: Mutex<LockedStore>,
}

/// What the lock guards.
pub(super) struct LockedStore {
    pub(super) streams: StreamIndex,
    orders: VecDeque<StoreOrder>,
    /// Those that are being written counted.
    appends: usize,
    /// Of them.
    append_bytes: usize,
    /// Who waits for a push of the same idempotency key.
    followers: HashMap<[u8; 16], Vec<StoreAnswer<Appended>>>,
    /// Why nothing is taken.
    refusing: Option<String>,
    closing: bool,
    /// Cursors or claims have changed: they are written then at the latest.
    save_by: Option<Instant>,
    /// The store's thread waits: it must be woken.
    parked: bool,
}

/// What one turn of the thread deals with.
pub(super) struct StoreTurn {
    pub(super) orders: Vec<StoreOrder>,
    /// Cursors are to be written even if nothing else is.
    pub(super) saves: bool,
    /// Nothing comes after it.
    pub(super) last: bool,
}

impl SharedStore {
    pub(super) fn new(
        limits: StoreLimits,
        streams: StreamIndex,
        state: watch::Sender<StoreState>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let locked = LockedStore {
            streams,
            orders: VecDeque::new(),
            appends: 0,
            append_bytes: 0,
            followers: HashMap::new(),
            refusing: None,
            closing: false,
            save_by: None,
            parked: false,
        };
        Self { limits, metrics, state, wake: Condvar::new(), locked: Mutex::new(locked) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LockedStore> {
        // every change is whole before anything in it can panic
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut locked: MutexGuard<'_, LockedStore>) {
        let wake = std::mem::take(&mut locked.parked);
        drop(locked);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Shows the levels, and counts what left.
    pub(super) fn show(&self, locked: &mut LockedStore) {
        let totals = locked.streams.totals();
        self.metrics.store_entries.set(totals.entries as i64);
        self.metrics.store_bytes.set(totals.bytes as i64);
        self.metrics.store_streams.set(totals.streams as i64);
        self.metrics.store_devices.set(totals.devices as i64);
        let StoreDrops { expired, pushed_out, lost } = locked.streams.take_drops();
        for (reason, pushes) in
            [(DropReason::Expired, expired), (DropReason::PushedOut, pushed_out), (DropReason::Lost, lost)]
        {
            if pushes > 0 {
                self.metrics.drops.get_or_create(&reason).inc_by(pushes);
            }
        }
    }

    // what the log must know of

    /// Takes pushes in, all before the store's thread sees the first.
    pub(super) fn append_all(
        &self,
        pushes: Vec<NewPush>,
    ) -> Vec<Result<oneshot::Receiver<Result<Appended, StoreError>>, StoreError>> {
        let encoded: Vec<_> = pushes.into_iter().map(|new| (record::encode(&new.push), new)).collect();
        let now = unix_millis();
        let mut locked = self.lock();
        let admitted = encoded.into_iter().map(|(record, NewPush { push, claim })| {
            let (answer, outcome) = oneshot::channel();
            let append = WaitingAppend { push, record, claim, answer };
            self.admit(&mut locked, append, now).map(|()| outcome)
        });
        let admitted: Vec<_> = admitted.collect();
        self.wake(locked);
        let refused = admitted.iter().filter(|one| one.is_err()).count() as u64;
        if refused > 0 {
            self.count(AppendOutcome::Refused, refused);
        }
        admitted
    }

    fn admit(&self, locked: &mut LockedStore, mut append: WaitingAppend, now: u64) -> Result<(), StoreError> {
        let bytes = append.record.len();
        let limit = self.limits.largest();
        if bytes > limit {
            return Err(StoreError::TooLarge { bytes, limit });
        }
        locked.check()?;
        if let Some(claim) = &append.claim {
            let (claims, uses) = locked.streams.claims();
            match claims.look(claim, now, uses)? {
                Some((ClaimState::Done, id)) => {
                    let _ = append.answer.send(Ok(Appended::Before(id)));
                    return Ok(());
                }
                Some((ClaimState::Writing, _)) => {
                    locked.followers.entry(claim.key).or_default().push(append.answer);
                    return Ok(());
                }
                // nobody knows whether the log has the first try
                Some((ClaimState::Pending, id)) => append.go_on_as(id),
                None => {}
            }
        }
        if locked.appends >= self.limits.max_appends {
            return Err(StoreError::Full("too many pushes wait for the store ([store] max_appends): try again later"));
        }
        if locked.append_bytes > 0 && locked.append_bytes + bytes + OVERHEAD > self.limits.memory_bytes {
            return Err(StoreError::Full("too much waits for the disk ([store] memory_bytes): try again later"));
        }
        if let Some(claim) = &append.claim {
            let (claims, uses) = locked.streams.claims();
            claims.begin(claim, append.push.id, uses);
        }
        locked.appends += 1;
        locked.append_bytes += bytes + OVERHEAD;
        locked.orders.push_back(StoreOrder::Append(append));
        Ok(())
    }

    /// See [`crate::store::Store::claim`].
    pub(super) fn claim(
        &self,
        id: PushId,
        claim: Claim,
    ) -> Result<oneshot::Receiver<Result<Claimed, StoreError>>, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let mut locked = self.lock();
        locked.check()?;
        let (claims, uses) = locked.streams.claims();
        match claims.look(&claim, unix_millis(), uses)? {
            Some((ClaimState::Done, id)) => drop(answer.send(Ok(Claimed::Done(id)))),
            Some((ClaimState::Writing | ClaimState::Pending, id)) => drop(answer.send(Ok(Claimed::Pending(id)))),
            None => {
                claims.begin(&claim, id, uses);
                locked.orders.push_back(StoreOrder::Claim { id, claim, answer });
            }
        }
        self.wake(locked);
        Ok(outcome)
    }

    /// See [`crate::store::Store::fulfil`].
    pub(super) fn fulfil(&self, key: [u8; 16]) {
        let mut locked = self.lock();
        let (claims, _) = locked.streams.claims();
        if claims.fulfil(key) {
            self.save(locked);
        }
    }

    /// Takes in what is asked for beside pushes.
    pub(super) fn order<T>(
        &self,
        order: impl FnOnce(StoreAnswer<T>) -> StoreOrder,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let mut locked = self.lock();
        locked.check()?;
        if locked.orders.len() >= 2 * self.limits.max_appends {
            return Err(StoreError::Full("too much waits for the store ([store] max_appends): try again later"));
        }
        locked.orders.push_back(order(answer));
        self.wake(locked);
        Ok(outcome)
    }

    /// Cursors or claims have changed: they are written soon.
    pub(super) fn save(&self, mut locked: MutexGuard<'_, LockedStore>) {
        if locked.save_by.is_none() {
            locked.save_by = Some(Instant::now() + SAVE_AFTER);
            self.wake(locked);
        }
    }

    /// They are written at once.
    pub(super) fn save_now(&self, mut locked: MutexGuard<'_, LockedStore>) {
        locked.save_by = Some(Instant::now());
        self.wake(locked);
    }

    pub(super) fn begin_close(&self) {
        let mut locked = self.lock();
        locked.closing = true;
        self.wake(locked);
    }

    // the store's thread

    /// Waits for something to do, at most until `until`.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let mut locked = self.lock();
        loop {
            let due = until.into_iter().chain(locked.save_by).min();
            if locked.has_work() || due.is_some_and(|due| due <= Instant::now()) {
                return;
            }
            locked = self.park(locked, due);
        }
    }

    /// Whether [`SharedStore::wait`] would return at once.
    pub(super) fn has_work(&self) -> bool {
        let locked = self.lock();
        locked.has_work() || locked.save_by.is_some_and(|due| due <= Instant::now())
    }

    /// Waits until `until`, or until the store is to close; `true`: it is.
    pub(super) fn wait_to_retry(&self, until: Instant) -> bool {
        let mut locked = self.lock();
        while !locked.closing && Instant::now() < until {
            locked = self.park(locked, Some(until));
        }
        locked.closing
    }

    fn park<'a>(
        &'a self,
        mut locked: MutexGuard<'a, LockedStore>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, LockedStore> {
        locked.parked = true;
        let mut locked = match until {
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.wake.wait_timeout(locked, left).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.wake.wait(locked).unwrap_or_else(PoisonError::into_inner),
        };
        locked.parked = false;
        locked
    }

    /// What is to be done now; of what waits to be written about so many bytes.
    pub(super) fn begin(&self, bytes: usize) -> StoreTurn {
        let mut locked = self.lock();
        let mut orders = Vec::new();
        let mut taken = 0;
        while taken < bytes
            && let Some(order) = locked.orders.pop_front()
        {
            taken += order.bytes();
            let ends = order.ends_turn();
            orders.push(order);
            if ends {
                break;
            }
        }
        let last = locked.closing && locked.orders.is_empty();
        let saves = last || locked.save_by.is_some_and(|due| due <= Instant::now());
        if saves || !orders.is_empty() {
            locked.save_by = None;
        }
        StoreTurn { orders, saves, last }
    }

    /// Nothing is taken until [`SharedStore::accept`], and what waits is refused.
    pub(super) fn refuse(&self, reason: &str) {
        let mut locked = self.lock();
        locked.refusing = Some(reason.to_owned());
        let orders = std::mem::take(&mut locked.orders);
        drop(locked);
        let state = StoreState::NotReady(reason.to_owned());
        self.state.send_if_modified(|now| {
            let changes = *now != state;
            now.clone_from(&state);
            changes
        });
        self.refuse_all(orders.into(), &StoreError::Unavailable(reason.to_owned()));
    }

    /// Pushes are taken again.
    pub(super) fn accept(&self) {
        self.lock().refusing = None;
        self.state.send_replace(StoreState::Ready);
    }

    /// Tells who asked for these that the log has not taken them.
    pub(super) fn refuse_all(&self, orders: Vec<StoreOrder>, error: &StoreError) {
        let mut followers = Vec::new();
        let mut appends = 0;
        let mut locked = self.lock();
        for order in &orders {
            if let Some(claim) = order.claim() {
                let (claims, uses) = locked.streams.claims();
                match error {
                    StoreError::Unavailable(_) => claims.unknown(claim.key),
                    _ => claims.failed(claim.key, uses),
                }
                followers.extend(locked.followers.remove(&claim.key).unwrap_or_default());
            }
            appends += u64::from(matches!(order, StoreOrder::Append(_)));
            locked.settle(order);
        }
        drop(locked);
        let outcome =
            if matches!(error, StoreError::Unavailable(_)) { AppendOutcome::Failed } else { AppendOutcome::Refused };
        if appends > 0 {
            self.count(outcome, appends);
        }
        orders.into_iter().for_each(|order| order.refuse(error.clone()));
        followers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
    }

    pub(super) fn count(&self, outcome: AppendOutcome, appends: u64) {
        self.metrics.store_appends.get_or_create(&outcome).inc_by(appends);
    }
}

impl LockedStore {
    fn has_work(&self) -> bool {
        !self.orders.is_empty() || self.closing
    }

    /// Whether anything is taken.
    fn check(&self) -> Result<(), StoreError> {
        if self.closing {
            return Err(StoreError::Unavailable("the gateway is stopping".into()));
        }
        match &self.refusing {
            Some(reason) => Err(StoreError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    /// It does not wait any more.
    pub(super) fn settle(&mut self, order: &StoreOrder) {
        if let StoreOrder::Append(append) = order {
            self.appends -= 1;
            self.append_bytes -= append.record.len() + OVERHEAD;
        }
    }

    /// Who waits for the push of a key.
    pub(super) fn take_followers(&mut self, key: &[u8; 16]) -> Vec<StoreAnswer<Appended>> {
        self.followers.remove(key).unwrap_or_default()
    }

    /// What is not written yet is written soon.
    pub(super) fn save_again(&mut self) {
        self.save_by.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }
}
