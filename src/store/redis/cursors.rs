//! How far devices are: kept here for a moment, the newest of each, and written together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytestring::ByteString;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{RedisStore, SharedRedisStore, device::DeviceField, millis, scripts};
use crate::{
    push::{Address, Epoch},
    redis_client::RedisState,
    store::{DeviceKey, StoreError},
};

/// A cursor is written this long after it moved: a crash repeats what was acknowledged since.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// Cards whose cursors are written together.
const BATCH: usize = 256;

/// Where a device is.
#[derive(Clone, Copy)]
struct MovedCursor {
    /// `None`: it was there when the stream began, and has nothing of it.
    epoch: Option<Epoch>,
    seq: u64,
}

type MovedDevices = HashMap<DeviceField, MovedCursor>;

/// What is to be written.
pub(super) struct CursorQueue {
    /// Cards whose cursors wait at most, and idempotency keys: `[store] max_acks`. While Redis is away no more are kept, and what is
    /// acknowledged of others comes again.
    most: usize,
    waiting: Mutex<WaitingCursors>,
}

#[derive(Default)]
struct WaitingCursors {
    cards: HashMap<ByteString, MovedDevices>,
    /// Idempotency keys of live pushes that the queue has.
    fulfilled: Vec<[u8; 16]>,
    /// Nobody knows whether streams were cut back: what clients acknowledge may be of pushes that are not there any more.
    is_held: bool,
}

impl CursorQueue {
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, WaitingCursors> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, card: &str, device: DeviceField, moved: MovedCursor) {
        let mut waiting = self.lock();
        if waiting.is_held && moved.epoch.is_some() {
            return;
        }
        if !waiting.cards.contains_key(card) && waiting.cards.len() >= self.most {
            return;
        }
        let devices = waiting.cards.entry(card.into()).or_default();
        match devices.get_mut(&device) {
            Some(known) if known.epoch == moved.epoch => known.seq = known.seq.max(moved.seq),
            // that it was there says less than what it has
            Some(known) if moved.epoch.is_some() => *known = moved,
            Some(_) => {}
            None => drop(devices.insert(device, moved)),
        }
    }

    pub(super) fn fulfil(&self, key: [u8; 16]) {
        let mut waiting = self.lock();
        // a key that is not told is published again by a retry, under the same id
        if waiting.fulfilled.len() < self.most {
            waiting.fulfilled.push(key);
        }
    }

    /// Redis was away, and may have been cut back: what was acknowledged is forgotten, and nothing is taken until
    /// [`CursorQueue::release`]. Clients acknowledge again what they get again.
    pub(super) fn hold(&self) {
        let mut waiting = self.lock();
        waiting.is_held = true;
        waiting.cards.values_mut().for_each(|devices| devices.retain(|_, moved| moved.epoch.is_none()));
        waiting.cards.retain(|_, devices| !devices.is_empty());
    }

    /// The streams that this node reads were looked at.
    pub(super) fn release(&self) {
        self.lock().is_held = false;
    }

    fn take(&self) -> (Vec<(ByteString, MovedDevices)>, Vec<[u8; 16]>) {
        let mut waiting = self.lock();
        let cards: Vec<_> = waiting.cards.keys().take(BATCH).cloned().collect();
        let taken = cards.into_iter().filter_map(|card| waiting.cards.remove_entry(&card)).collect();
        let keys = waiting.fulfilled.len().saturating_sub(BATCH);
        (taken, waiting.fulfilled.split_off(keys))
    }

    /// These could not be written.
    fn put_back(&self, cards: Vec<(ByteString, MovedDevices)>, keys: Vec<[u8; 16]>) {
        for (card, devices) in cards {
            for (device, moved) in devices {
                self.put(&card, device, moved);
            }
        }
        keys.into_iter().for_each(|key| self.fulfil(key));
    }
}

impl RedisStore {
    /// See [`crate::store::Store::register`].
    pub(in crate::store) fn register(&self, card: &str, device: DeviceKey<'_>, seq: u64) {
        self.shared.cursors.put(card, DeviceField::of(device), MovedCursor { epoch: None, seq });
    }

    /// See [`crate::store::Store::ack`].
    pub(in crate::store) fn ack(&self, card: &str, device: DeviceKey<'_>, epoch: Epoch, seq: u64) {
        self.shared.cursors.put(card, DeviceField::of(device), MovedCursor { epoch: Some(epoch), seq });
    }

    /// See [`crate::store::Store::forget_device`].
    pub(in crate::store) async fn forget_device(&self, card: &str, device: DeviceKey<'_>) -> Result<bool, StoreError> {
        let field = DeviceField::of(device);
        if let Some(devices) = self.shared.cursors.lock().cards.get_mut(card) {
            devices.remove(&field);
        }
        let keys = self.shared.keys.stream(&Address::Card(card.into()));
        let mut command = redis::cmd("HDEL");
        command.arg(&keys.devices).arg(&field.0);
        let removed: u64 = self.shared.client.run(&command).await.map_err(|error| super::store_error(&error))?;
        Ok(removed > 0)
    }
}

/// Writes cursors until it is told to stop, and then what still waits.
pub(super) async fn run(shared: Arc<SharedRedisStore>, stopping: CancellationToken) {
    let mut clock = tokio::time::interval(SAVE_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = stopping.run_until_cancelled(clock.tick()).await.is_none();
        while shared.write_cursors().await {}
        if is_last {
            return;
        }
    }
}

impl SharedRedisStore {
    /// Writes some of what waits; `false`: there is nothing more, or Redis is away.
    async fn write_cursors(&self) -> bool {
        // a new connection may be to a Redis that was cut back: what was acknowledged before is not written to that
        if *self.state.borrow() != RedisState::Ready || !self.knows_connection() {
            return false;
        }
        let (cards, fulfilled) = self.cursors.take();
        if cards.is_empty() && fulfilled.is_empty() {
            return false;
        }
        let calls: Vec<_> = cards
            .iter()
            .map(|(card, devices)| {
                let keys = self.keys.stream(&Address::Card(card.clone()));
                let call = scripts::CURSORS
                    .with_keys(&[&keys.meta, &keys.devices])
                    .arg(self.config.max_devices)
                    .arg(millis(self.config.device_idle));
                devices.iter().fold(call, |call, (device, moved)| {
                    let epoch = moved.epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
                    call.arg(&device.0).arg(epoch).arg(moved.seq)
                })
            })
            .collect();
        let mut failed = Vec::new();
        let mut error = None;
        for (card, outcome) in cards.into_iter().zip(self.client.run_scripts(&calls).await) {
            if let Err(refused) = outcome {
                failed.push(card);
                error = Some(refused);
            }
        }
        self.fulfil_all(&fulfilled).await;
        let Some(error) = error else { return true };
        tracing::debug!(%error, cards = failed.len(), "cursors were not written; they are tried again");
        self.cursors.put_back(failed, Vec::new());
        false
    }
}
