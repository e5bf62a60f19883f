//! Which streams got pushes, from the lists that each append adds to: what a wake-up that was lost would have told.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redis::Value;
use tokio::time::Instant;

use super::{
    RedisStore, SharedRedisStore,
    append::{CHANGES_KEPT, epoch_of, id_of},
    keys::{PARTITIONS, address_of, bytes_of, number_of},
    scripts, store_error,
};
use crate::{
    push::{Address, StreamPosition},
    redis_client::RedisCallError,
    store::{StoreError, StreamChanges},
};

/// Changes of one partition that are read at once.
const READ: usize = 64;

/// How far this process has read the lists.
#[derive(Default)]
pub(super) struct ChangePlaces(Mutex<ReadChanges>);

#[derive(Default)]
struct ReadChanges {
    /// Of each partition; empty: not read yet.
    places: Vec<Vec<u8>>,
    /// How many connections to Redis there had been when they were read.
    connections: u64,
    /// When it was told that each stream may have changed.
    unknown_at: Option<Instant>,
    /// Read, and beyond what was asked for.
    found: HashMap<Address, StreamPosition>,
}

impl ChangePlaces {
    fn lock(&self) -> MutexGuard<'_, ReadChanges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadChanges {
    /// Reads the answers of `partitions`: which have more; `None`: a list does not reach back to where it was read last.
    fn take_in(
        &mut self,
        partitions: &[u16],
        answers: Vec<Result<Value, RedisCallError>>,
        found: &mut HashMap<Address, StreamPosition>,
        is_wanted: impl Fn(&Address) -> bool,
    ) -> Result<Option<Vec<u16>>, StoreError> {
        let mut more = Vec::new();
        for (partition, answer) in partitions.iter().zip(answers) {
            let Value::Array(fields) = answer.map_err(|error| store_error(&error))? else { continue };
            let [state, place, changes @ ..] = fields.as_slice() else { continue };
            if number_of(state) == 1 {
                return Ok(None);
            }
            if let Some(known) = self.places.get_mut(usize::from(*partition)) {
                *known = bytes_of(place).to_vec();
            }
            if changes.len() >= 4 * READ {
                more.push(*partition);
            }
            found.extend(changes.chunks_exact(4).filter_map(change).filter(|(address, _)| is_wanted(address)));
        }
        Ok(Some(more))
    }
}

impl RedisStore {
    /// See [`crate::store::Store::take_changes`].
    pub(in crate::store) async fn take_changes(
        &self,
        most: usize,
        is_wanted: impl Fn(&Address) -> bool,
    ) -> Result<StreamChanges, StoreError> {
        let shared = &self.shared;
        shared.check()?;
        let connections = shared.client.connections();
        let (places, known_connections) = {
            let read = shared.changes.lock();
            (read.places.clone(), read.connections)
        };
        if places.is_empty() {
            // nobody reads a stream yet that had changed before
            shared.begin_at_ends(connections).await?;
            return Ok(StreamChanges::Some(Vec::new()));
        }
        if known_connections != connections {
            // a Redis that was away may have been cut back, and its lists with it
            shared.cursors.hold();
            shared.begin_at_ends(connections).await?;
            shared.changes.lock().unknown_at = Some(Instant::now());
            return Ok(StreamChanges::Unknown);
        }
        shared.release_cursors();
        let mut found = std::mem::take(&mut shared.changes.lock().found);
        let mut open: Vec<u16> = (0..PARTITIONS).collect();
        while !open.is_empty() && found.len() < most {
            let answers = shared.changes_of(&open).await;
            let more = shared.changes.lock().take_in(&open, answers, &mut found, &is_wanted);
            match more {
                Ok(Some(more)) => open = more,
                Ok(None) => {
                    shared.begin_at_ends(connections).await?;
                    return Ok(StreamChanges::Unknown);
                }
                Err(error) => {
                    // their places have moved on: the next look tells of them
                    shared.changes.lock().found.extend(found);
                    return Err(error);
                }
            }
        }
        let later = found.len().saturating_sub(most);
        let mut found: Vec<_> = found.into_iter().collect();
        shared.changes.lock().found.extend(found.drain(..later));
        Ok(StreamChanges::Some(found))
    }
}

impl SharedRedisStore {
    /// From now on changes are read from the ends of the lists.
    async fn begin_at_ends(&self, connections: u64) -> Result<(), StoreError> {
        let call = |partition| {
            scripts::CHANGES.with_keys(&[&self.keys.changes(partition)]).arg("").arg(READ).arg(CHANGES_KEPT)
        };
        let calls: Vec<_> = (0..PARTITIONS).map(call).collect();
        let answers = self.client.run_scripts(&calls).await.into_iter();
        let end = |answer: Result<Value, RedisCallError>| match answer {
            Ok(Value::Array(fields)) => Ok(fields.get(1).map(|end| bytes_of(end).to_vec()).unwrap_or_default()),
            Ok(other) => Err(StoreError::Unavailable(format!("Redis answered {other:?}"))),
            Err(error) => Err(store_error(&error)),
        };
        let places: Vec<_> = answers.map(end).collect::<Result<_, _>>()?;
        let mut read = self.changes.lock();
        read.places = places;
        read.connections = connections;
        read.found.clear();
        Ok(())
    }

    async fn changes_of(&self, partitions: &[u16]) -> Vec<Result<Value, RedisCallError>> {
        let places = self.changes.lock().places.clone();
        let call = |partition: &u16| {
            let place = places.get(usize::from(*partition)).map(Vec::as_slice).unwrap_or_default();
            scripts::CHANGES.with_keys(&[&self.keys.changes(*partition)]).arg(place).arg(READ).arg(CHANGES_KEPT)
        };
        let calls: Vec<_> = partitions.iter().map(call).collect();
        self.client.run_scripts(&calls).await
    }

    /// The lists were read since the last connection was made, or it is the first.
    pub(super) fn knows_connection(&self) -> bool {
        let read = self.changes.lock();
        let connections = self.client.connections();
        read.connections == connections || read.places.is_empty() && connections <= 1
    }

    /// Acknowledgements are taken again, once the streams that this node reads had time to be looked at.
    fn release_cursors(&self) {
        let mut read = self.changes.lock();
        if read.unknown_at.is_some_and(|at| at.elapsed() >= self.config.sweep_interval) {
            read.unknown_at = None;
            drop(read);
            self.cursors.release();
        }
    }
}

/// Address, epoch, seq, id.
fn change(fields: &[Value]) -> Option<(Address, StreamPosition)> {
    let address = address_of(bytes_of(&fields[0]))?;
    let position = StreamPosition { epoch: epoch_of(&fields[1]), seq: number_of(&fields[2]), id: id_of(&fields[3]) };
    Some((address, position))
}
