//! How far the clients of a shard are in the streams of their addresses.
//!
//! Most clients of an address are *level*: they have been sent all that their group has, so one position serves them all. One
//! that joined with something missing, or whose outbox was full, is a *follower*: it has a position of its own and is fed with
//! pages of the store, until it has what the group has. A group that missed something is fed in the same way.

use std::{collections::VecDeque, mem};

use foldhash::fast::{FixedState, RandomState};
use hashbrown::{HashMap, hash_map::Entry};

use super::{ClientKey, index};
use crate::push::{Address, Epoch, PushId, StreamEntry, StreamPage, StreamPosition};

/// Of how many apps a group remembers the newest push.
const SEEN_APPS: usize = 32;

/// The streams of the addresses that a shard has clients of. An address to which nothing was ever stored is not in it.
#[derive(Default)]
pub(super) struct GroupStreams {
    groups: HashMap<Address, GroupStream, RandomState>,
    /// Addresses with somebody to feed, each once.
    due: VecDeque<Address>,
    /// Those of which a page could not be read.
    failed: Vec<Address>,
    /// Pages that were asked for and did not come yet.
    asked: usize,
    /// Clients of which the store could not say yet where they begin, by their addresses.
    unplaced: HashMap<Address, Vec<ClientKey>, RandomState>,
}

/// How far the clients of one address are.
pub(super) struct GroupStream {
    /// Of those that are level.
    position: StreamPosition,
    /// The newest push that it heard of.
    newest: u64,
    seen: SeenEntries,
    /// By numbers of the shard's own: no client can choose them, and a test finds them in the same order again.
    followers: HashMap<ClientKey, Follower, FixedState>,
    /// Behind which places pages were asked for.
    asked: Vec<u64>,
    /// The store was asked for the newest push.
    asks_head: bool,
    /// The store has no such stream any more, as far as was heard.
    is_gone: bool,
    is_due: bool,
}

/// How far a client is that is behind, or ahead of what its group was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Follower {
    /// It was sent all up to this.
    pub(super) position: u64,
    /// The newest push that it got, or said it has.
    pub(super) last: u64,
}

impl Follower {
    /// Where a client begins is not known yet: it is sent nothing, and nothing is read for it.
    const UNPLACED: Self = Self { position: u64::MAX, last: u64::MAX };

    /// What it was sent: all up to this.
    pub(super) fn sent(self) -> u64 {
        if self.is_unplaced() { 0 } else { self.position }
    }

    pub(super) fn is_unplaced(self) -> bool {
        self == Self::UNPLACED
    }
}

/// The newest pushes that a group was sent, by whom they were for: what `prev` is made of.
#[derive(Default)]
struct SeenEntries {
    /// For all clients.
    all: u64,
    /// For clients of one app, where there were such.
    apps: Vec<(Box<str>, u64)>,
}

/// Up to where a client was sent a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentTo {
    /// `None`: there is no stream, as far as the shard knows.
    pub epoch: Option<Epoch>,
    /// All up to this.
    pub seq: u64,
}

/// What is to be done with a push that came for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryStep {
    /// It is the next one: offer it to those that are level, then [`GroupStream::advance`].
    Offer,
    /// The group has had it.
    Copy,
    /// One before it is missing: it will be read with that.
    Later,
    /// It is of another epoch, or behind another push: what the store has must be asked.
    Foreign,
}

impl GroupStreams {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.unplaced.is_empty()
    }

    pub(super) fn get(&self, address: &Address) -> Option<&GroupStream> {
        self.groups.get(address)
    }

    pub(super) fn get_mut(&mut self, address: &Address) -> Option<&mut GroupStream> {
        self.groups.get_mut(address)
    }

    /// The stream of an address, and whether it was not known before: its clients have nothing of it then.
    pub(super) fn begin(&mut self, address: &Address, epoch: Epoch) -> (&mut GroupStream, bool) {
        match self.groups.entry(address.clone()) {
            Entry::Occupied(known) => (known.into_mut(), false),
            Entry::Vacant(new) => {
                let start = StreamPosition { epoch, seq: 0, id: PushId::NIL };
                (new.insert(GroupStream::of(start, self.unplaced.remove(address))), true)
            }
        }
    }

    /// The first client of an address stands at `head`.
    pub(super) fn begin_at(&mut self, address: &Address, head: StreamPosition) {
        if !self.groups.contains_key(address) {
            let unplaced = self.unplaced.remove(address);
            self.groups.insert(address.clone(), GroupStream::of(head, unplaced));
        }
    }

    /// Where a client begins in the stream of an address, if there is one, is told later.
    /// `true`: it was level before.
    pub(super) fn unplace(&mut self, address: &Address, client: ClientKey) -> bool {
        if let Some(stream) = self.groups.get_mut(address) {
            return stream.set_follower(client, Follower::UNPLACED);
        }
        let waiting = self.unplaced.entry(address.clone()).or_default();
        let is_new = !waiting.contains(&client);
        if is_new {
            waiting.push(client);
        }
        is_new
    }

    pub(super) fn is_unplaced(&self, address: &Address, client: ClientKey) -> bool {
        match self.groups.get(address) {
            Some(stream) => stream.follower(client) == Some(Follower::UNPLACED),
            None => self.unplaced.get(address).is_some_and(|waiting| waiting.contains(&client)),
        }
    }

    /// It is known now, or the client is gone. Whether it was not.
    pub(super) fn place(&mut self, address: &Address, client: ClientKey) -> bool {
        if let Some(stream) = self.groups.get_mut(address) {
            let is_unplaced = stream.follower(client) == Some(Follower::UNPLACED);
            return is_unplaced && stream.remove_follower(client);
        }
        let Some(waiting) = self.unplaced.get_mut(address) else { return false };
        let before = waiting.len();
        waiting.retain(|key| *key != client);
        let was_one = waiting.len() < before;
        if waiting.is_empty() {
            self.unplaced.remove(address);
        }
        was_one
    }

    /// The address has no clients any more, or no stream.
    pub(super) fn end(&mut self, address: &Address) -> Option<GroupStream> {
        let ended = self.groups.remove(address);
        index::shrink(&mut self.groups);
        ended
    }

    /// Somebody at this address is to be fed.
    pub(super) fn set_due(&mut self, address: &Address) {
        if let Some(stream) = self.groups.get_mut(address)
            && !mem::replace(&mut stream.is_due, true)
        {
            self.due.push_back(address.clone());
        }
    }

    /// The next address with somebody to feed, while fewer than `most` pages are asked for.
    pub(super) fn next_due(&mut self, most: usize) -> Option<Address> {
        if self.asked >= most {
            return None;
        }
        loop {
            let address = self.due.pop_front()?;
            // it may have ended since
            if let Some(stream) = self.groups.get_mut(&address) {
                stream.is_due = false;
                return Some(address);
            }
        }
    }

    /// Pages that may still be asked for.
    pub(super) fn left(&self, most: usize) -> usize {
        most.saturating_sub(self.asked)
    }

    /// A page behind `after` is asked for.
    pub(super) fn ask(&mut self, address: &Address, after: u64) {
        if let Some(stream) = self.groups.get_mut(address) {
            stream.asked.push(after);
            self.asked += 1;
        }
    }

    /// It came, or cannot be had.
    pub(super) fn answered(&mut self, address: &Address, after: u64) {
        self.asked = self.asked.saturating_sub(1);
        if let Some(stream) = self.groups.get_mut(address) {
            stream.asked.retain(|asked| *asked != after);
        }
    }

    /// A page could not be read: it is asked for again after [`GroupStreams::retry`].
    pub(super) fn failed(&mut self, address: Address) {
        self.failed.push(address);
    }

    /// What could not be read is asked for again.
    pub(super) fn retry(&mut self) {
        for address in mem::take(&mut self.failed) {
            self.set_due(&address);
        }
    }
}

impl GroupStream {
    fn at(position: StreamPosition) -> Self {
        Self {
            position,
            newest: position.seq,
            seen: SeenEntries { all: position.seq, apps: Vec::new() },
            followers: HashMap::default(),
            asked: Vec::new(),
            asks_head: false,
            is_gone: false,
            is_due: false,
        }
    }

    /// With clients that begin somewhere else.
    fn of(position: StreamPosition, unplaced: Option<Vec<ClientKey>>) -> Self {
        let mut stream = Self::at(position);
        let unplaced = unplaced.unwrap_or_default().into_iter();
        stream.followers.extend(unplaced.map(|client| (client, Follower::UNPLACED)));
        stream
    }

    /// The newest that the group was given or heard of: a store that has less was cut back.
    pub(super) fn known(&self) -> StreamPosition {
        if self.newest == self.position.seq {
            return self.position;
        }
        StreamPosition { seq: self.newest, id: PushId::NIL, ..self.position }
    }

    /// The store ends before what was heard of.
    pub(super) fn is_beyond(&self, page: &StreamPage) -> bool {
        self.newest > page.head && page.end == page.head
    }

    /// What those have that are level.
    pub(super) fn position(&self) -> StreamPosition {
        self.position
    }

    /// The group itself missed something.
    pub(super) fn lags(&self) -> bool {
        self.newest > self.position.seq
    }

    /// A push came.
    pub(super) fn take(&mut self, entry: &StreamEntry, id: PushId) -> EntryStep {
        self.is_gone = false;
        if entry.epoch != self.position.epoch {
            return EntryStep::Foreign;
        }
        if entry.seq == self.position.seq && self.is_another(id) {
            return EntryStep::Foreign;
        }
        // another one at an earlier place is found as the store is looked through
        if entry.seq <= self.position.seq {
            return EntryStep::Copy;
        }
        self.newest = self.newest.max(entry.seq);
        if entry.previous != self.position.seq {
            return EntryStep::Later;
        }
        if self.is_another(entry.previous_id) { EntryStep::Foreign } else { EntryStep::Offer }
    }

    /// What stands at the group's position is not what it had there.
    pub(super) fn is_another(&self, id: PushId) -> bool {
        let is_known = self.position.id != PushId::NIL && self.position.seq > 0;
        is_known && id != self.position.id
    }

    /// The store has less than the group was given, or something else: it was cut back, unless this is late.
    pub(super) fn is_cut_back(&self, head: StreamPosition) -> bool {
        let StreamPosition { epoch, seq, .. } = self.position;
        head.epoch == epoch && (head.seq < seq || head.seq == seq && self.is_another(head.id))
    }

    /// All that are level were offered this, which is for clients of `app`, or for all.
    pub(super) fn advance(&mut self, position: StreamPosition, app: Option<&str>) {
        self.saw(position.seq, app);
        self.reach(position);
    }

    /// They have nothing to get up to there.
    pub(super) fn reach(&mut self, position: StreamPosition) {
        self.position = position;
        self.newest = self.newest.max(position.seq);
    }

    /// A push for clients of `app`, or for all, was offered to them.
    pub(super) fn saw(&mut self, seq: u64, app: Option<&str>) {
        let Some(app) = app else {
            self.seen.all = seq;
            // what was for some before is older
            self.seen.apps.clear();
            return;
        };
        match self.seen.apps.iter_mut().find(|(known, _)| **known == *app) {
            Some((_, newest)) => *newest = seq,
            None => self.seen.apps.push((app.into(), seq)),
        }
        if self.seen.apps.len() > SEEN_APPS {
            // a smaller `prev` is no gap
            self.seen.apps.remove(0);
        }
    }

    /// The newest push that a client was sent that is level and of the apps for which `is_of` holds.
    pub(super) fn prev(&self, is_of: impl Fn(&str) -> bool) -> u64 {
        let of_apps = self.seen.apps.iter().filter(|(app, _)| is_of(app)).map(|(_, seq)| *seq);
        of_apps.fold(self.seen.all, u64::max)
    }

    /// The store has none: there is no stream any more.
    pub(super) fn no_head(&mut self) {
        self.asks_head = false;
        self.is_gone = true;
    }

    /// There is nothing to read: it was deleted, and nothing was heard since.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// It is of another epoch.
    pub(super) fn is_foreign(&self, head: StreamPosition) -> bool {
        head.epoch != self.position.epoch
    }

    /// The store was asked for its newest push, and has not answered.
    pub(super) fn asks_head(&self) -> bool {
        self.asks_head
    }

    /// The store has this as its newest, in the same epoch.
    pub(super) fn heard_of_seq(&mut self, seq: u64) {
        self.newest = self.newest.max(seq);
    }

    /// The store has this as its newest. Whether it is of another epoch.
    pub(super) fn heard_of(&mut self, head: StreamPosition) -> bool {
        self.asks_head = false;
        self.is_gone = false;
        if head.epoch != self.position.epoch {
            return true;
        }
        self.newest = self.newest.max(head.seq);
        // what was foreign is read again
        if self.newest > self.position.seq {
            self.position.id = PushId::NIL;
        }
        false
    }

    /// The numbers begin anew: all are level, and have nothing of it.
    pub(super) fn renew(&mut self, epoch: Epoch, newest: u64) {
        let asked = mem::take(&mut self.asked);
        let is_due = self.is_due;
        // who has no place yet has none in these either
        let unplaced = self.followers.iter().filter(|(_, follower)| follower.is_unplaced()).map(|(client, _)| *client);
        let unplaced = unplaced.collect();
        *self = Self::of(StreamPosition { epoch, seq: 0, id: PushId::NIL }, Some(unplaced));
        (self.newest, self.asked, self.is_due) = (newest, asked, is_due);
    }

    /// The store is to be asked for its newest push; `false`: it is asked already.
    pub(super) fn ask_head(&mut self) -> bool {
        !mem::replace(&mut self.asks_head, true)
    }

    /// A page behind `after` is on its way.
    pub(super) fn is_asked(&self, after: u64) -> bool {
        self.asked.contains(&after)
    }

    pub(super) fn follower(&self, client: ClientKey) -> Option<Follower> {
        self.followers.get(&client).copied()
    }

    pub(super) fn followers(&self) -> impl Iterator<Item = (ClientKey, Follower)> {
        self.followers.iter().map(|(client, follower)| (*client, *follower))
    }

    /// It is no longer level, or further; `true`: it was level before.
    pub(super) fn set_follower(&mut self, client: ClientKey, follower: Follower) -> bool {
        self.followers.insert(client, follower).is_none()
    }

    /// It is level, or gone; `true`: it was a follower.
    pub(super) fn remove_follower(&mut self, client: ClientKey) -> bool {
        let was_one = self.followers.remove(&client).is_some();
        if self.followers.is_empty() {
            self.followers = HashMap::default();
        }
        was_one
    }

    /// Those that are behind what the group has or heard of.
    pub(super) fn is_behind(&self, follower: Follower) -> bool {
        follower.position < self.newest
    }
}
