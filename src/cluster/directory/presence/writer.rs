//! Writes who is in the rooms of this node, and takes out what nodes that are gone have written.
//!
//! One round at a time: what changed in all partitions is sent together, a script for each. Changes are written once all living nodes
//! have written what they hold; until then, and while Redis is away, this node tells its own clients alone.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use redis::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        keys::{DirectoryKeys, PARTITIONS},
        scripts::{PRESENCE, number_of, parts_of, text_of},
    },
    PresenceNews,
    held::{CardChange, HeldCards, RoomCard},
};
use crate::{
    cluster::GoneNode,
    push::unix_millis,
    redis_client::{RedisClient, RedisState, ScriptCall},
    wire::dialect::PresenceChange,
};

/// Cards that one script writes.
const CARDS: usize = 256;
/// Before what was not written is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// For what is to be written when the node stops.
const LAST: Duration = Duration::from_secs(1);

pub(super) struct PresenceWriter {
    node: Arc<str>,
    lease: Duration,
    redis: RedisClient,
    keys: DirectoryKeys,
    held: Arc<HeldCards>,
    readers: watch::Receiver<Vec<String>>,
    gone: watch::Receiver<Vec<GoneNode>>,
    news: mpsc::Sender<Vec<PresenceNews>>,
    partitions: Vec<PresencePartition>,
    /// The number of the last script.
    number: u64,
    /// The connections to Redis that there have been, as of the last round.
    connections: u64,
    /// Nodes that are gone, and what they wrote may be there still.
    left_behind: BTreeSet<String>,
    /// Nodes that were gone when it was last looked.
    seen_gone: Vec<String>,
}

/// What the writer knows of a partition.
#[derive(Default)]
struct PresencePartition {
    /// Redis has all that this node has written.
    is_complete: bool,
    /// Changes of which nobody knows whether they were written, with the number of their script.
    unknown: Option<(u64, Vec<CardChange>)>,
    /// Since when changes cannot be written.
    waits_since: Option<Instant>,
}

/// An answer of the script.
enum ScriptAnswer<'a> {
    /// It was done.
    Done { now: u64, text: &'a str, members: &'a [Value] },
    /// Other nodes have not written what they hold.
    Wait,
    /// Redis does not have what this node wrote.
    Begin,
}

impl PresenceWriter {
    pub(super) fn new(
        node: &str,
        lease: Duration,
        redis: RedisClient,
        held: Arc<HeldCards>,
        readers: watch::Receiver<Vec<String>>,
        gone: watch::Receiver<Vec<GoneNode>>,
        news: mpsc::Sender<Vec<PresenceNews>>,
    ) -> Self {
        Self {
            node: node.into(),
            lease,
            keys: DirectoryKeys::new(redis.prefix()),
            // larger than any of a process before this one
            number: unix_millis() * 1000,
            connections: redis.connections(),
            redis,
            held,
            readers,
            gone,
            news,
            partitions: (0..PARTITIONS).map(|_| PresencePartition::default()).collect(),
            left_behind: BTreeSet::new(),
            seen_gone: Vec::new(),
        }
    }

    /// Writes until it is told to stop, and then what is left, for a moment at most.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut checks = interval(self.lease / 3);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut state = self.redis.state();
        let (mut readers, mut gone) = (self.readers.clone(), self.gone.clone());
        let held = Arc::clone(&self.held);
        let mut stops_at = None;
        let mut again;
        let mut check = true;
        loop {
            let is_ready = *state.borrow_and_update() == RedisState::Ready;
            if is_ready {
                again = !self.write_all(check).await;
            } else {
                again = false;
                self.tell_here(0..PARTITIONS).await;
            }
            if stopping.is_cancelled() {
                let end = *stops_at.get_or_insert_with(|| Instant::now() + LAST);
                if self.held.is_written() || Instant::now() >= end {
                    return;
                }
                again = true;
            }
            check = false;
            // all cancel-safe: what changed is kept
            tokio::select! {
                () = held.changed() => {}
                _ = checks.tick() => check = true,
                Ok(()) = state.changed() => {}
                Ok(()) = readers.changed() => {}
                Ok(()) = gone.changed() => {}
                () = stopping.cancelled(), if !stopping.is_cancelled() => {}
                () = sleep(RETRY), if again => {}
            }
        }
    }

    /// Writes what can be written; `false`: something has to be tried again. `check`: also looks whether Redis has lost what it had.
    async fn write_all(&mut self, mut check: bool) -> bool {
        let connections = self.redis.connections();
        if connections != self.connections {
            // Redis may be another one now, or have lost what it had acknowledged
            self.connections = connections;
            self.partitions.iter_mut().for_each(|state| state.is_complete = false);
        }
        self.begin().await;
        for state in self.partitions.iter_mut().filter(|state| !state.is_complete) {
            state.waits_since.get_or_insert_with(Instant::now);
        }
        while self.round(std::mem::take(&mut check)).await {}
        let waits: Vec<_> = self
            .partitions
            .iter()
            .map(|state| state.waits_since.is_some_and(|since| since.elapsed() > self.lease))
            .collect();
        let is_done = self.partitions.iter().all(|state| state.is_complete && state.waits_since.is_none());
        self.tell_here((0..PARTITIONS).filter(|at| waits[*at])).await;
        is_done & self.take_out_gone().await
    }

    /// Writes all that this node has written before to the partitions where Redis may not have it.
    async fn begin(&mut self) {
        let incomplete: Vec<_> = (0..PARTITIONS).filter(|at| !self.partitions[*at].is_complete).collect();
        let calls: Vec<_> = incomplete.iter().map(|at| self.call(*at, None, "begin", &[]).1).collect();
        let mut restores = Vec::new();
        for (at, answer) in incomplete.into_iter().zip(self.redis.run_scripts(&calls).await) {
            let Ok(answer) = answer else { continue };
            let ScriptAnswer::Done { now, text, members } = read(&answer) else { continue };
            let (number, digits) = text.split_once(':').unwrap_or_default();
            let number = number.parse().unwrap_or(0);
            // the clock was set back since the last process
            self.number = self.number.max(number);
            if let Some((unknown, changes)) = self.partitions[at].unknown.take()
                && number == unknown
            {
                self.tell(self.held.written(at, changes, digits.as_bytes(), now)).await;
            }
            if digits == "taken" {
                self.held.taken_out(at);
            }
            self.held.found(at, members.iter().filter_map(|member| RoomCard::from_member(text_of(member))).collect());
            restores.push((at, self.held.restored(at)));
        }
        self.restore(restores).await;
    }

    /// Writes what this node has written before.
    async fn restore(&mut self, mut restores: Vec<(usize, Vec<CardChange>)>) {
        while !restores.is_empty() {
            let mut calls = Vec::new();
            let mut sent = Vec::new();
            for (at, mut changes) in restores.drain(..) {
                let rest = changes.split_off(changes.len().min(CARDS));
                let what = if rest.is_empty() { "complete" } else { "restore" };
                calls.push(self.call(at, None, what, &changes).1);
                sent.push((at, rest));
            }
            for ((at, rest), answer) in sent.into_iter().zip(self.redis.run_scripts(&calls).await) {
                let is_written = answer.is_ok_and(|answer| matches!(read(&answer), ScriptAnswer::Done { .. }));
                if is_written && rest.is_empty() {
                    self.partitions[at].is_complete = true;
                } else if is_written {
                    restores.push((at, rest));
                }
            }
        }
    }

    /// Writes some of what changed, in all partitions if `check`; `true`: more is to be written.
    async fn round(&mut self, check: bool) -> bool {
        let mut calls = Vec::new();
        let mut sent = Vec::new();
        let mut is_more = false;
        for at in 0..PARTITIONS {
            if !self.partitions[at].is_complete {
                continue;
            }
            let (changes, more) = self.held.take(at, CARDS);
            if changes.is_empty() && !check {
                continue;
            }
            let (number, call) = self.call(at, None, "changes", &changes);
            calls.push(call);
            sent.push((at, number, changes));
            is_more |= more;
        }
        if calls.is_empty() {
            return false;
        }
        let mut news = Vec::new();
        for ((at, number, changes), answer) in sent.into_iter().zip(self.redis.run_scripts(&calls).await) {
            let state = &mut self.partitions[at];
            let Ok(answer) = answer else {
                self.held.failed(at, changes.clone());
                (state.unknown, state.is_complete) = (Some((number, changes)), false);
                is_more = false;
                continue;
            };
            match read(&answer) {
                ScriptAnswer::Done { now, text, .. } => {
                    state.waits_since = None;
                    news.extend(self.held.written(at, changes, text.as_bytes(), now));
                }
                ScriptAnswer::Wait => {
                    state.waits_since.get_or_insert_with(Instant::now);
                    self.held.failed(at, changes);
                    is_more = false;
                }
                ScriptAnswer::Begin => {
                    state.is_complete = false;
                    self.held.failed(at, changes);
                }
            }
        }
        self.tell(news).await;
        is_more
    }

    /// Takes out what nodes wrote that are gone, if this node is the first of the living; `false`: some is left.
    async fn take_out_gone(&mut self) -> bool {
        let gone: Vec<_> = self.gone.borrow().iter().map(|node| node.id.clone()).collect();
        let readers = self.readers.borrow().clone();
        self.left_behind.extend(gone.iter().filter(|node| !self.seen_gone.contains(node)).cloned());
        self.left_behind.retain(|node| !readers.contains(node));
        // one that came back may be gone again before it was left out there
        self.seen_gone = gone.into_iter().filter(|node| !readers.contains(node)).collect();
        if readers.first().map(String::as_str) != Some(&*self.node) {
            // should this node become the first, it does so again
            return true;
        }
        for node in self.left_behind.clone() {
            if !self.take_out(&node).await {
                return false;
            }
            self.left_behind.remove(&node);
        }
        true
    }

    async fn take_out(&mut self, node: &str) -> bool {
        let mut left: Vec<(usize, Vec<CardChange>)> = (0..PARTITIONS).map(|at| (at, Vec::new())).collect();
        while !left.is_empty() {
            let calls: Vec<_> =
                left.iter().map(|(at, changes)| self.call(*at, Some(node), "take", changes).1).collect();
            let mut more = Vec::new();
            let mut news = Vec::new();
            let mut is_done = true;
            for ((at, changes), answer) in left.drain(..).zip(self.redis.run_scripts(&calls).await) {
                let Ok(answer) = answer else {
                    is_done = false;
                    continue;
                };
                let ScriptAnswer::Done { now, text, members } = read(&answer) else {
                    is_done = false;
                    continue;
                };
                let is_news = changes.into_iter().zip(text.bytes()).filter(|(_, digit)| digit & 2 == 2);
                news.extend(is_news.map(|(CardChange { of, .. }, _)| {
                    let change = PresenceChange { room: of.room, card: of.card, came: false, node: node.into() };
                    PresenceNews::Cluster { change, at: now, is_told_here: false }
                }));
                let members = members.iter().filter_map(|member| RoomCard::from_member(text_of(member)));
                let next: Vec<_> = members.map(|of| CardChange { of, holds: false }).collect();
                if !next.is_empty() {
                    more.push((at, next));
                }
            }
            self.tell(news).await;
            if !is_done {
                return false;
            }
            left = more;
        }
        true
    }

    /// Tells this node's own clients what cannot be written.
    async fn tell_here(&self, partitions: impl IntoIterator<Item = usize>) {
        let news = partitions.into_iter().flat_map(|at| self.held.tell_here(at)).collect();
        self.tell(news).await;
    }

    async fn tell(&self, news: Vec<PresenceNews>) {
        if !news.is_empty() {
            // nobody hears when the gateway has ended
            let _ = self.news.send(news).await;
        }
    }

    /// The script for a partition, of this node or of one that is gone, with its number.
    fn call(&mut self, at: usize, gone: Option<&str>, what: &str, changes: &[CardChange]) -> (u64, ScriptCall) {
        self.number += 1;
        let node = gone.unwrap_or(&self.node);
        let rooms: Vec<_> = changes.iter().map(|change| self.keys.present(at, &change.of.room)).collect();
        let own = [self.keys.presence_nodes(at), self.keys.presence_of(at, node), self.keys.presence_script(at, node)];
        let keys: Vec<&[u8]> = own.iter().chain(&rooms).map(Vec::as_slice).collect();
        let readers = self.readers.borrow().clone();
        let mut call = PRESENCE.with_keys(&keys).arg(node).arg(what).arg(self.number).arg(readers.len());
        for reader in readers {
            call = call.arg(reader);
        }
        for CardChange { of, holds } in changes {
            call = call.arg(of.member()).arg(&*of.card).arg(u8::from(*holds));
        }
        (self.number, call)
    }
}

fn read(answer: &Value) -> ScriptAnswer<'_> {
    match parts_of(answer) {
        [done, now, rest @ ..] if number_of(done) == 1 => ScriptAnswer::Done {
            now: number_of(now).unsigned_abs(),
            text: rest.first().map_or("", text_of),
            members: rest.get(1).map_or(&[], parts_of),
        },
        [done, ..] if number_of(done) == 0 => ScriptAnswer::Wait,
        _ => ScriptAnswer::Begin,
    }
}
