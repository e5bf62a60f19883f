//! Pushes that are to be stored: they wait in a queue of this node, and go to Redis together, in order.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::Value;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    RedisStore, SharedRedisStore,
    keys::{address_bytes, bytes_of, number_of},
    millis, scripts, store_error,
};
use crate::{
    push::{Address, Epoch, Push, PushId, Selection, StoredPush, StreamEntry, unix_millis},
    record,
    redis_client::ScriptCall,
    store::{Appended, Claimed, NewPush, StoreError},
    telemetry::labels::{AppendOutcome, DropReason},
};

/// No push beyond this, whatever the bounds allow.
const LARGEST: usize = 16 << 20;
/// What a push that waits costs beside its content, about.
const OVERHEAD: usize = 512;
/// What is sent together at most: appends to streams, and bytes of them about.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// So many changes of one partition are kept, about.
pub(super) const CHANGES_KEPT: usize = 4096;

/// A push on its way to Redis.
struct WaitingPush {
    new: NewPush,
    bytes: usize,
    /// Nobody waits any longer: it is not sent after that.
    deadline: Instant,
    answer: oneshot::Sender<Result<Appended, StoreError>>,
}

/// Those that wait, and those that are being stored, within `[store] max_appends` and `memory_bytes`.
pub(super) struct AppendQueue {
    max_appends: usize,
    memory_bytes: usize,
    waiting: Mutex<WaitingPushes>,
    filled: Notify,
}

#[derive(Default)]
struct WaitingPushes {
    queue: VecDeque<WaitingPush>,
    /// Those that are being stored counted.
    pushes: usize,
    /// Of them.
    bytes: usize,
    is_closed: bool,
}

impl AppendQueue {
    pub(super) fn new(max_appends: usize, memory_bytes: usize) -> Self {
        Self { max_appends, memory_bytes, waiting: Mutex::default(), filled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, WaitingPushes> {
        // every change is whole before anything in it can panic
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that wait, up to a batch; a push to more streams than that is one by itself.
    fn take(&self) -> Vec<WaitingPush> {
        let mut waiting = self.lock();
        let mut taken = Vec::new();
        let (mut streams, mut bytes) = (0, 0);
        while streams < BATCH && bytes < BATCH_BYTES {
            let fits = |next: &mut WaitingPush| taken.is_empty() || streams + stream_count(&next.new.push) <= BATCH;
            let Some(push) = waiting.queue.pop_front_if(fits) else { break };
            // one to nobody takes a place, too
            streams += stream_count(&push.new.push).max(1);
            bytes += push.bytes;
            taken.push(push);
        }
        taken
    }

    /// Takes nothing more where it `closes`; whether nothing waits then.
    fn is_closed_and_empty(&self, closes: bool) -> bool {
        let mut waiting = self.lock();
        waiting.is_closed |= closes;
        waiting.is_closed && waiting.queue.is_empty()
    }

    /// These do not wait any more.
    fn settle(&self, pushes: usize, bytes: usize) {
        let mut waiting = self.lock();
        waiting.pushes -= pushes;
        waiting.bytes -= bytes;
    }
}

impl RedisStore {
    /// See [`crate::store::Store::append_all`].
    pub(in crate::store) fn append_all(
        &self,
        pushes: Vec<NewPush>,
    ) -> Vec<Result<impl Future<Output = Result<Appended, StoreError>> + Send + use<>, StoreError>> {
        let shared = &self.shared;
        let deadline = shared.deadline();
        let state = shared.check();
        let mut waiting = shared.appends.lock();
        let outcomes: Vec<_> = pushes
            .into_iter()
            .map(|new| {
                state.clone()?;
                let outcome = shared.appends.admit(&mut waiting, new, deadline)?;
                Ok(answered(outcome, deadline))
            })
            .collect();
        drop(waiting);
        shared.appends.filled.notify_one();
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64;
        if refused > 0 {
            let outcome = if state.is_err() { AppendOutcome::Failed } else { AppendOutcome::Refused };
            shared.count(outcome, refused);
        }
        outcomes
    }
}

impl AppendQueue {
    fn admit(
        &self,
        waiting: &mut WaitingPushes,
        new: NewPush,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<Appended, StoreError>>, StoreError> {
        let bytes = new.push.content.bytes().len() + OVERHEAD;
        let limit = LARGEST.min(self.memory_bytes);
        if bytes > limit {
            return Err(StoreError::TooLarge { bytes, limit });
        }
        // each stream gets a record of its own
        let bytes = bytes * stream_count(&new.push).max(1);
        if waiting.is_closed {
            return Err(StoreError::Unavailable("the gateway is stopping".into()));
        }
        if waiting.pushes >= self.max_appends {
            return Err(StoreError::Full("too many pushes wait for the store ([store] max_appends): try again later"));
        }
        if waiting.bytes > 0 && waiting.bytes + bytes > self.memory_bytes {
            return Err(StoreError::Full("too much waits for the store ([store] memory_bytes): try again later"));
        }
        let (answer, outcome) = oneshot::channel();
        waiting.pushes += 1;
        waiting.bytes += bytes;
        waiting.queue.push_back(WaitingPush { new, bytes, deadline, answer });
        Ok(outcome)
    }
}

async fn answered<T>(outcome: oneshot::Receiver<Result<T, StoreError>>, deadline: Instant) -> Result<T, StoreError> {
    match timeout_at(deadline, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(StoreError::Unavailable("it was closed before it answered".into())),
        Err(_) => Err(StoreError::Unavailable("it did not answer within [store] timeout".into())),
    }
}

/// Stores what waits until it is told to stop, and then what still waits.
pub(super) async fn run(shared: Arc<SharedRedisStore>, stopping: CancellationToken) {
    loop {
        let batch = shared.appends.take();
        if !batch.is_empty() {
            shared.store(batch).await;
            continue;
        }
        if shared.appends.is_closed_and_empty(stopping.is_cancelled()) {
            return;
        }
        tokio::select! {
            () = stopping.cancelled() => {}
            () = shared.appends.filled.notified() => {}
        }
    }
}

/// A push of a batch, and what has become of it.
struct StoringPush {
    push: Push,
    claim: Option<[u8; 16]>,
    answer: oneshot::Sender<Result<Appended, StoreError>>,
    outcome: Option<Result<Appended, StoreError>>,
    /// Its idempotency key said so, and its streams are not asked.
    was_done: bool,
}

impl SharedRedisStore {
    /// Claims the idempotency keys of a batch, then appends its pushes to their streams, then says that the claims are fulfilled.
    async fn store(&self, mut batch: Vec<WaitingPush>) {
        let (count, bytes) = (batch.len(), batch.iter().map(|push| push.bytes).sum());
        let now = Instant::now();
        // of the others, who asked was told already that nobody knows; looked at once, since claims are answered in order
        batch.retain(|push| push.deadline > now && !push.answer.is_closed());
        let claims: Vec<_> =
            batch.iter().filter_map(|push| push.new.claim.map(|claim| (push.new.push.id, claim))).collect();
        let mut claimed = self.claim_all(&claims).await.into_iter();
        let mut pushes = Vec::with_capacity(count);
        for waiting in batch {
            let WaitingPush { new: NewPush { mut push, claim }, answer, .. } = waiting;
            let outcome = match claim.and_then(|_| claimed.next()) {
                Some(Ok(Claimed::Done(id))) => Some(Ok(Appended::Before(id))),
                // the streams know which of them have it
                Some(Ok(Claimed::Pending(id))) => {
                    push.id = id;
                    None
                }
                Some(Ok(Claimed::New)) | None => None,
                Some(Err(error)) => Some(Err(error)),
            };
            let was_done = matches!(outcome, Some(Ok(_)));
            pushes.push(StoringPush { push, claim: claim.map(|claim| claim.key), answer, outcome, was_done });
        }
        self.append_to_streams(&mut pushes).await;
        let fulfilled: Vec<_> = pushes
            .iter()
            .filter(|push| matches!(push.outcome, Some(Ok(_))))
            .filter_map(|push| push.claim.filter(|_| !push.was_done))
            .collect();
        let counted = |wanted: fn(&Result<Appended, StoreError>) -> bool| {
            pushes.iter().filter(|push| push.outcome.as_ref().is_some_and(wanted)).count() as u64
        };
        self.count(AppendOutcome::Stored, counted(|outcome| matches!(outcome, Ok(Appended::New { .. }))));
        self.count(AppendOutcome::Failed, counted(|outcome| matches!(outcome, Err(StoreError::Unavailable(_)))));
        let is_refused = |outcome: &Result<_, StoreError>| {
            outcome.as_ref().is_err_and(|error| !matches!(error, StoreError::Unavailable(_)))
        };
        self.count(AppendOutcome::Refused, counted(is_refused));
        for push in pushes {
            let unknown = || Err(StoreError::Unavailable("Redis did not say what became of the push".into()));
            let _ = push.answer.send(push.outcome.unwrap_or_else(unknown));
        }
        self.appends.settle(count, bytes);
        self.fulfil_all(&fulfilled).await;
    }

    async fn append_to_streams(&self, pushes: &mut [StoringPush]) {
        let mut calls = Vec::new();
        for push in pushes.iter().filter(|push| push.outcome.is_none()) {
            calls.extend(self.append_calls(&push.push, push.claim.is_some()));
        }
        // in turns, so that what else is asked of Redis comes in between
        let mut answers = Vec::with_capacity(calls.len());
        for together in calls.chunks(BATCH) {
            answers.extend(self.client.run_scripts(together).await);
        }
        let mut answers = answers.into_iter();
        let (mut pushed_out, mut expired) = (0, 0);
        for storing in pushes.iter_mut().filter(|push| push.outcome.is_none()) {
            let streams = stream_count(&storing.push);
            let mut entries = Vec::with_capacity(streams);
            let mut error = None;
            for answer in answers.by_ref().take(streams) {
                match answer {
                    Ok(Value::Array(fields)) if fields.len() >= 6 => {
                        pushed_out += number_of(&fields[4]);
                        expired += number_of(&fields[5]);
                        entries.push(entry(&fields));
                    }
                    Ok(other) => {
                        error.get_or_insert(StoreError::Unavailable(format!("Redis answered {other:?}")));
                    }
                    Err(failed) => {
                        error.get_or_insert(store_error(&failed));
                    }
                }
            }
            storing.outcome = Some(match error {
                Some(error) => Err(error),
                None => Ok(appended(&storing.push, &entries)),
            });
        }
        for (reason, pushes) in [(DropReason::PushedOut, pushed_out), (DropReason::Expired, expired)] {
            if pushes > 0 {
                self.metrics.drops.get_or_create(&reason).inc_by(pushes);
            }
        }
    }

    /// One call for each stream of a push.
    fn append_calls(&self, push: &Push, has_claim: bool) -> Vec<ScriptCall> {
        match push.target.selection() {
            Selection::Cards([card]) => vec![self.append_call(&Address::Card(card.clone()), push, has_claim)],
            Selection::Room(room) => vec![self.append_call(&Address::Room(room.clone()), push, has_claim)],
            Selection::Cards(cards) => {
                let mut of_one = push.clone();
                cards
                    .iter()
                    .map(|card| {
                        // each stream has what its readers need: not the names of the others
                        of_one.target.cards = vec![card.clone()];
                        self.append_call(&Address::Card(card.clone()), &of_one, has_claim)
                    })
                    .collect()
            }
            Selection::App(_) | Selection::Everyone | Selection::Nobody => Vec::new(),
        }
    }

    fn append_call(&self, address: &Address, push: &Push, has_claim: bool) -> ScriptCall {
        let keys = self.keys.stream(address);
        let bounds = self.bounds(address);
        let ttl = push.deadline.map_or_else(|| millis(bounds.ttl), |at| at.saturating_sub(unix_millis()).max(1));
        // Redis Cluster's client sends a command again whose connection broke
        let may_be_tried_again = has_claim || self.is_cluster;
        scripts::APPEND
            .with_keys(&[&keys.meta, &keys.entries, &keys.devices, &self.keys.changes(keys.partition), &keys.gone])
            .arg(&push.id.to_bytes()[..])
            .arg(&record::encode(push)[..])
            .arg(ttl)
            .arg(push.collapse_key.as_deref().unwrap_or_default())
            .arg(bounds.max_entries)
            .arg(bounds.max_bytes)
            .arg(bounds.max_age.map_or(0, millis))
            .arg(Epoch::random().to_string())
            .arg(if may_be_tried_again { "1" } else { "" })
            .arg(address_bytes(address))
            .arg(millis(self.config.device_idle))
            .arg(CHANGES_KEPT)
            .arg(millis(self.config.idempotency_ttl))
    }

    pub(super) fn count(&self, outcome: AppendOutcome, appends: u64) {
        if appends > 0 {
            self.metrics.store_appends.get_or_create(&outcome).inc_by(appends);
        }
    }
}

fn stream_count(push: &Push) -> usize {
    match push.target.selection() {
        Selection::Cards(cards) => cards.len(),
        Selection::Room(_) => 1,
        Selection::App(_) | Selection::Everyone | Selection::Nobody => 0,
    }
}

/// What has become of a push in its streams: it has a place, or had one that is gone.
fn appended(push: &Push, places: &[Option<StreamEntry>]) -> Appended {
    let entries: Vec<_> = places.iter().copied().flatten().collect();
    if entries.is_empty() && !places.is_empty() {
        return Appended::Before(push.id);
    }
    let mut push = push.clone();
    if entries.len() < places.len() {
        let mut place = places.iter();
        push.target.cards.retain(|_| place.next().is_some_and(Option::is_some));
    }
    Appended::New { id: push.id, wake: Some(Box::new(StoredPush { push, entries })) }
}

/// Epoch, seq, previous seq, previous id; `None`: it is gone.
fn entry(fields: &[Value]) -> Option<StreamEntry> {
    let seq = number_of(&fields[1]);
    (seq > 0).then(|| StreamEntry {
        epoch: epoch_of(&fields[0]),
        seq,
        previous: number_of(&fields[2]),
        previous_id: id_of(&fields[3]),
    })
}

/// As [`Epoch`] shows it; 0, which no stream has, where it is none.
pub(super) fn epoch_of(value: &Value) -> Epoch {
    let text = std::str::from_utf8(bytes_of(value)).ok();
    text.and_then(Epoch::parse).unwrap_or(Epoch::from_u32(0))
}

/// [`PushId::NIL`] where there is none.
pub(super) fn id_of(value: &Value) -> PushId {
    <[u8; 16]>::try_from(bytes_of(value)).map_or(PushId::NIL, PushId::from_bytes)
}
