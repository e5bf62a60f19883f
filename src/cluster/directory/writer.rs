//! Writes this node's entries, and keeps its lease on them.
//!
//! One round at a time: what changed in all partitions is sent together, a script for each. A node counts as one that has written
//! all it holds of a partition from the script on with which that is so. Where it may not be so any more (a new connection, a Redis
//! that was emptied, a lease that ended) all of the partition is written again.

use std::{sync::Arc, time::Duration};

use redis::Value;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    entries::{Entries, EntryChange},
    keys::{DirectoryKeys, PARTITIONS},
    scripts::{WRITE, number_of},
};
use crate::{
    config::DirectoryConfig,
    push::unix_millis,
    redis_client::{RedisCallError, RedisClient, RedisState, ScriptCall},
    telemetry::Gauge,
};

/// Entries that one script writes.
const ENTRIES: usize = 256;
/// Entries that one round writes.
const ROUND: usize = 8192;

pub(super) struct EntryWriter {
    node: Arc<str>,
    redis: RedisClient,
    keys: DirectoryKeys,
    entries: Arc<Entries>,
    lease: Duration,
    rewrite_interval: Duration,
    /// How far off the time may be that a script is sent with: twice as long after it was sent it may still be done.
    tolerance: Duration,
    partitions: Vec<PartitionState>,
    /// The connections to Redis that there have been, as of the last round.
    connections: u64,
    ready: Gauge,
    notes: watch::Sender<Vec<String>>,
}

/// What the writer knows of a partition.
#[derive(Clone, Copy, Default)]
struct PartitionState {
    /// Redis says that this node has written all it holds.
    is_complete: bool,
    /// Some of what it holds is written, and more is to come.
    is_begun: bool,
    /// By how much this server's clock is ahead of the node's, in ms.
    clock_ahead: i64,
}

/// A script that was made for a partition.
struct Write {
    partition: usize,
    changes: Vec<EntryChange>,
    /// Until when the others may rely on this node in the partition, should the script not be done.
    relied_until: Instant,
}

impl EntryWriter {
    pub(super) fn new(
        node: Arc<str>,
        config: &DirectoryConfig,
        tolerance: Duration,
        redis: RedisClient,
        entries: Arc<Entries>,
        ready: Gauge,
        notes: watch::Sender<Vec<String>>,
    ) -> Self {
        Self {
            node,
            keys: DirectoryKeys::new(redis.prefix()),
            connections: redis.connections(),
            redis,
            entries,
            lease: config.lease,
            rewrite_interval: config.rewrite_interval,
            tolerance,
            partitions: vec![PartitionState::default(); PARTITIONS],
            ready,
            notes,
        }
    }

    /// Writes until it is dropped.
    pub(super) async fn run(mut self) {
        let mut renewals = interval(self.lease / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rewrites = interval(self.rewrite_interval / PARTITIONS as u32);
        rewrites.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rewritten = 0;
        let mut state = self.redis.state();
        loop {
            self.await_redis(&mut state).await;
            let entries = Arc::clone(&self.entries);
            // all cancel-safe: what changed is kept by the entries
            let renew = tokio::select! {
                () = entries.changed() => false,
                _ = renewals.tick() => true,
                _ = rewrites.tick() => {
                    self.entries.write_all(rewritten);
                    rewritten = (rewritten + 1) % PARTITIONS;
                    false
                }
                changed = state.changed() => {
                    if changed.is_err() {
                        // the connection is closed for good: the gateway stops
                        std::future::pending::<()>().await;
                    }
                    continue;
                }
            };
            let mut renew = renew;
            while self.round(std::mem::take(&mut renew)).await {}
        }
    }

    /// Waits while Redis is away, and says so.
    async fn await_redis(&self, state: &mut watch::Receiver<RedisState>) {
        if *state.borrow_and_update() == RedisState::Ready {
            return;
        }
        self.ready.set(0);
        self.note("directory: Redis is away, so that every node reads every push".into());
        let _ = state.wait_for(|state| *state == RedisState::Ready).await;
    }

    /// Writes some of what is to be written, and renews all leases if `renew`; `false`: nothing was to be written, or Redis is away.
    async fn round(&mut self, renew: bool) -> bool {
        let connections = self.redis.connections();
        if connections != self.connections {
            // Redis may be another one now, or have lost what it had acknowledged
            self.connections = connections;
            self.all_anew();
        }
        let (writes, calls) = self.writes(renew);
        if writes.is_empty() {
            return false;
        }
        let mut failed = None;
        let mut refused = false;
        for (write, answer) in writes.into_iter().zip(self.redis.run_scripts(&calls).await) {
            match answer {
                Ok(answer) => refused |= !self.answered(write, &answer),
                Err(error) => {
                    self.not_written(write, &error);
                    failed = Some(error);
                }
            }
        }
        if let Some(error) = failed {
            self.ready.set(0);
            self.note(format!(
                "directory: what this node holds cannot be written, so that every node reads every push: {error}"
            ));
            // what was sent may be done until then, and must not be done behind what is sent next
            sleep(self.tolerance * 2).await;
            return false;
        }
        if refused {
            sleep(self.tolerance / 20).await;
        }
        let is_ready = self.partitions.iter().all(|partition| partition.is_complete);
        self.ready.set(i64::from(is_ready));
        if is_ready && self.notes.send_if_modified(|notes| !std::mem::take(notes).is_empty()) {
            tracing::info!("directory: what this node holds is written");
        }
        true
    }

    /// The script was not done, or nobody knows.
    fn not_written(&mut self, write: Write, error: &RedisCallError) {
        let Write { partition, changes, relied_until } = write;
        if !matches!(error, RedisCallError::Unknown(_) | RedisCallError::Unexpected(_)) {
            self.entries.rely_until(partition, relied_until);
        }
        self.entries.failed(partition, changes);
        self.partitions[partition].begin_anew();
        self.entries.write_all(partition);
    }

    /// Shows why every node reads every push; logged where it is news.
    fn note(&self, note: String) {
        let notes = vec![note];
        if *self.notes.borrow() != notes {
            tracing::warn!("{}", notes[0]);
            self.notes.send_replace(notes);
        }
    }

    /// A script for each partition that has something to write, or a lease to renew.
    fn writes(&self, renew: bool) -> (Vec<Write>, Vec<ScriptCall>) {
        let mut writes = Vec::new();
        let mut calls = Vec::new();
        let mut left = ROUND;
        for (partition, state) in self.partitions.iter().enumerate() {
            let (changes, more) = self.entries.take(partition, ENTRIES.min(left));
            left -= changes.len();
            if changes.is_empty() && !renew && (state.is_complete || more) {
                continue;
            }
            let relied_until = self.entries.relied_until(partition);
            self.entries.rely_until(partition, Instant::now() + self.tolerance * 2 + self.lease);
            let holders: Vec<_> = changes.iter().map(|change| self.keys.holders(partition, &change.address)).collect();
            let nodes = self.keys.nodes(partition);
            let keys: Vec<&[u8]> = std::iter::once(&*nodes).chain(holders.iter().map(Vec::as_slice)).collect();
            let sent = unix_millis().saturating_add_signed(state.clock_ahead);
            let mut call = WRITE
                .with_keys(&keys)
                .arg(&*self.node)
                .arg(sent)
                .arg(millis(self.tolerance))
                .arg(millis(self.lease))
                .arg(millis(self.rewrite_interval * 4))
                .arg(state.next_write(more));
            for change in &changes {
                call = call.arg(u8::from(change.holds));
            }
            writes.push(Write { partition, changes, relied_until });
            calls.push(call);
        }
        (writes, calls)
    }

    /// `false`: Redis did not do it.
    fn answered(&mut self, write: Write, answer: &Value) -> bool {
        let Write { partition, changes, .. } = write;
        let numbers: Vec<i64> = match answer {
            Value::Array(fields) => fields.iter().map(number_of).collect(),
            _ => Vec::new(),
        };
        let &[is_done, now, progress] = &numbers[..] else {
            self.entries.failed(partition, changes);
            return false;
        };
        let state = &mut self.partitions[partition];
        if is_done == 0 {
            // it took too long, or the clocks differ: the next is sent by this one
            state.clock_ahead = now.saturating_sub_unsigned(unix_millis());
            self.entries.failed(partition, changes);
            if !state.is_complete {
                state.begin_anew();
                self.entries.write_all(partition);
            }
            return false;
        }
        self.entries.written(partition, changes);
        state.is_complete = progress == 1;
        state.is_begun = progress == 0;
        if progress < 0 {
            self.entries.write_all(partition);
        }
        true
    }

    /// Everything has to be written again.
    fn all_anew(&mut self) {
        for (at, partition) in self.partitions.iter_mut().enumerate() {
            partition.begin_anew();
            self.entries.write_all(at);
        }
    }
}

impl PartitionState {
    /// All of it is to be written.
    fn begin_anew(&mut self) {
        self.is_complete = false;
        self.is_begun = false;
    }

    /// What the script of a partition is told that it writes; `more`: not all that is to be written.
    fn next_write(self, more: bool) -> &'static str {
        match (self.is_complete, self.is_begun, more) {
            (true, ..) => "changes",
            (false, false, true) => "first",
            (false, true, true) => "next",
            (false, true, false) => "last",
            (false, false, false) => "whole",
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
