//! The clients of one shard, and what they are members of.

use std::{
    cell::{Ref, RefCell, RefMut},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use super::{
    Client, ClientId, ClientInfo, ClientKey, ClientLookup, Core, Sink,
    catch_up::StreamQuestions,
    fanout::Recipients,
    group::{ByKind, Groups},
    lookup::WantedClients,
    membership::{JoinTime, JoinedCard, Membership},
    presence::Presence,
    slab::Slab,
    streams::GroupStreams,
};
use crate::{
    push::{Address, AddressKind, NameSample, unix_millis},
    wire::{
        close::Close,
        dialect::{Dialect, PresentCards},
    },
};

pub(super) struct Registry<S> {
    core: Arc<Core>,
    shard: usize,
    clients: RefCell<Slab<Client<S>>>,
    groups: RefCell<Groups<S>>,
    streams: RefCell<GroupStreams>,
    /// Once the node sends its clients away: what those that left since were members of.
    left: RefCell<Option<LeftAddresses>>,
}

/// Addresses whose clients left because the node does.
#[derive(Default)]
struct LeftAddresses {
    names: ByKind<HashSet<Arc<str>, RandomState>>,
    /// One left at least. For which app is not noted: a push to an app is kept for the next process then, and may come twice.
    any: bool,
}

impl LeftAddresses {
    fn has(&self, recipients: &Recipients) -> bool {
        match recipients {
            Recipients::Everyone => self.any,
            some => some.addresses().iter().any(|address| self.names.get(address.kind()).contains(address.name())),
        }
    }
}

impl<S> Registry<S> {
    pub(super) fn new(core: Arc<Core>, shard: usize) -> Self {
        Self {
            core,
            shard,
            clients: RefCell::new(Slab::new()),
            groups: RefCell::new(Groups::new()),
            streams: RefCell::default(),
            left: RefCell::new(None),
        }
    }

    /// From now on clients leave because the node does.
    pub(super) fn send_away(&self) {
        self.left.borrow_mut().get_or_insert_default();
    }

    pub(super) fn insert(&self, sink: S, dialect: Dialect) -> Rc<Client<S>> {
        let client = Client::new(sink, dialect);
        self.core.not_merging.fetch_add((!client.merges()).into(), Ordering::AcqRel);
        let key = self.clients.borrow_mut().insert(Rc::clone(&client));
        client.key.set(key);
        self.core.connections.fetch_add(1, Ordering::Relaxed);
        self.core.metrics.connections.inc();
        client
    }

    /// `false`: it was removed already.
    pub(super) fn remove(&self, client: &Client<S>) -> bool {
        if self.clients.borrow_mut().remove(client.key()).is_none() {
            return false;
        }
        self.leave_all(client);
        self.core.connections.fetch_sub(1, Ordering::Relaxed);
        self.core.not_merging.fetch_sub((!client.merges()).into(), Ordering::AcqRel);
        self.core.metrics.connections.dec();
        true
    }

    pub(super) fn get(&self, key: ClientKey) -> Option<Rc<Client<S>>> {
        self.clients.borrow().get(key).cloned()
    }

    fn now(&self) -> JoinTime {
        JoinTime::at(self.core.started.elapsed())
    }

    /// Whether it joined this card, or any as this app, or any at all, longer than `age` ago.
    pub(super) fn joined_before(
        &self,
        client: &Client<S>,
        is_meant: impl Fn(&JoinedCard) -> bool,
        age: Duration,
    ) -> bool {
        let now = self.now();
        let memberships = client.memberships.borrow();
        memberships.cards().any(|card| is_meant(card) && card.membership.since.is_older_than(age, now))
    }

    /// The number of the client with this id, if it is of this shard.
    pub(super) fn place(&self, id: ClientId) -> Option<ClientKey> {
        self.core.process.place(id).filter(|(shard, _)| *shard == self.shard).map(|(_, key)| key)
    }

    pub(super) fn id(&self, client: &Client<S>) -> ClientId {
        self.core.process.id(self.shard, client.key())
    }

    pub(super) fn keys(&self) -> Vec<ClientKey> {
        self.clients.borrow().keys().collect()
    }

    pub(super) fn connections(&self, card: &str) -> usize {
        self.core.index.clients(AddressKind::Card, card)
    }

    /// Puts it into the group of `card`, beside those that it is in; or changes as which app it is there.
    pub(super) fn join(&self, client: &Rc<Client<S>>, card: &str, app: &str) {
        if client.has_joined(card) {
            return client.memberships.borrow_mut().set_app(card, app);
        }
        let membership = self.enter(client, AddressKind::Card, card);
        let name = Arc::clone(&membership.name);
        client.memberships.borrow_mut().add_card(membership, app);
        if let Some(presence) = self.presence() {
            self.each_present_room(presence, client, |room| presence.enter(room, &name));
        }
    }

    /// `false`: it is in the room already.
    pub(super) fn subscribe(&self, client: &Rc<Client<S>>, room: &str) -> bool {
        if client.memberships.borrow().is_in_room(room) {
            return false;
        }
        let membership = self.enter(client, AddressKind::Room, room);
        if let Some(presence) = self.presence_of(room) {
            self.each_card(client, |card| presence.enter(&membership.name, card));
        }
        if client.merges() {
            self.core.index.count_merging(AddressKind::Room, room, true);
        }
        client.memberships.borrow_mut().add_room(membership);
        true
    }

    /// `false`: it was not in the room.
    pub(super) fn unsubscribe(&self, client: &Client<S>, room: &str) -> bool {
        let taken = client.memberships.borrow_mut().take_room(room);
        let was_there = taken.is_some();
        if let Some(membership) = taken {
            self.exit_room(client, membership);
        }
        was_there
    }

    /// `false`: it had not joined it.
    pub(super) fn leave_card(&self, client: &Client<S>, card: &str) -> bool {
        let taken = client.memberships.borrow_mut().take_card(card);
        let had_joined = taken.is_some();
        if let Some(membership) = taken {
            self.exit_card(client, membership);
        }
        had_joined
    }

    /// `false`: it had joined none.
    pub(super) fn leave_cards(&self, client: &Client<S>) -> bool {
        let had_joined = client.is_joined();
        // a borrow of its own for each: exits look at the client
        while let Some(membership) = { client.memberships.borrow_mut().take_first_card() } {
            self.exit_card(client, membership);
        }
        had_joined
    }

    /// Takes it out of all its groups.
    pub(super) fn leave_all(&self, client: &Client<S>) {
        let rooms = client.memberships.borrow_mut().take_rooms();
        for room in rooms {
            self.exit_room(client, room);
        }
        self.leave_cards(client);
        if let Some(left) = &mut *self.left.borrow_mut() {
            left.any = true;
        }
    }

    fn exit_card(&self, client: &Client<S>, membership: Membership) {
        if let Some(presence) = self.presence() {
            self.each_present_room(presence, client, |room| presence.exit(room, &membership.name));
        }
        self.exit(client, AddressKind::Card, membership);
    }

    fn exit_room(&self, client: &Client<S>, membership: Membership) {
        if client.merges() {
            self.core.index.count_merging(AddressKind::Room, &membership.name, false);
        }
        if let Some(presence) = self.presence_of(&membership.name) {
            self.each_card(client, |card| presence.exit(&membership.name, card));
        }
        self.exit(client, AddressKind::Room, membership);
    }

    fn presence(&self) -> Option<&Presence> {
        self.core.presence.get()
    }

    fn presence_of(&self, room: &str) -> Option<&Presence> {
        self.presence().filter(|presence| presence.covers(room))
    }

    fn each_present_room(&self, presence: &Presence, client: &Client<S>, each: impl Fn(&Arc<str>)) {
        let memberships = client.memberships.borrow();
        let rooms = memberships.rooms().iter().map(|room| &room.name);
        rooms.filter(|room| presence.covers(room)).for_each(each);
    }

    fn each_card(&self, client: &Client<S>, each: impl Fn(&Arc<str>)) {
        client.memberships.borrow().cards().map(JoinedCard::name).for_each(each);
    }

    /// Clients of an address as a back end sees them, in the order of their ids.
    pub(super) fn look_up(&self, lookup: &ClientLookup) -> Vec<ClientInfo>
    where
        S: Sink,
    {
        let (address, after, limit) = match &lookup.wanted {
            WantedClients::Of { address, after, limit } => (address, after, limit),
            WantedClients::One(key) => {
                let client = self.get(*key);
                return client.iter().map(|client| self.describe(self.id(client), client, None, self.now())).collect();
            }
        };
        let groups = self.groups.borrow();
        let clients = groups.clients(address.kind(), address.name()).iter();
        let mut found: Vec<_> = clients
            .map(|client| (self.id(client), client))
            .filter(|(id, _)| after.is_none_or(|after| *id > after))
            .collect();
        if found.len() > *limit {
            found.select_nth_unstable_by_key(*limit, |(id, _)| *id);
            found.truncate(*limit);
        }
        found.sort_unstable_by_key(|(id, _)| *id);
        let now = self.now();
        found.into_iter().map(|(id, client)| self.describe(id, client, Some(address), now)).collect()
    }

    fn describe(&self, id: ClientId, client: &Client<S>, address: Option<&Address>, now: JoinTime) -> ClientInfo
    where
        S: Sink,
    {
        let memberships = client.memberships.borrow();
        let since = match address {
            None => memberships.cards().next().map(|joined| joined.membership.since),
            Some(Address::Card(card)) => memberships.joined(card).map(|joined| joined.membership.since),
            Some(Address::Room(name)) => {
                memberships.rooms().iter().find(|room| *room.name == **name).map(|room| room.since)
            }
        };
        let age = since.map_or(Duration::ZERO, |since| since.age(now));
        ClientInfo {
            id,
            cards: client.cards(),
            dialect: client.dialect().label().into(),
            since: unix_millis().saturating_sub(age.as_millis() as u64),
            outbox: client.waiting(),
            address: client.sink.address(),
        }
    }

    pub(super) fn set_merges(&self, client: &Client<S>, merges: bool) {
        if client.merges() == merges {
            return;
        }
        if !merges {
            self.core.not_merging.fetch_add(1, Ordering::AcqRel);
        }
        client.set_merges(merges);
        for room in client.memberships.borrow().rooms() {
            self.core.index.count_merging(AddressKind::Room, &room.name, merges);
        }
        if merges {
            self.core.not_merging.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn enter(&self, client: &Rc<Client<S>>, kind: AddressKind, name: &str) -> Membership {
        let name = self.core.index.enter(kind, name, self.shard);
        let position = self.groups.borrow_mut().add(kind, &name, client);
        self.count_groups();
        Membership { name, position, since: self.now() }
    }

    fn exit(&self, client: &Client<S>, kind: AddressKind, membership: Membership) {
        let Membership { name, position, .. } = membership;
        let removed = self.groups.borrow_mut().remove(kind, &name, position);
        if let Some(moved) = removed.moved {
            moved.memberships.borrow_mut().set_position(kind, &name, position);
        }
        self.leave_stream(client, kind, &name, removed.was_last);
        let mut left = self.left.borrow_mut();
        // a shard whose clients are sent away goes on to want their pushes: they wait for the clients' return
        let was_last = self.core.index.leave(kind, &name, self.shard, removed.was_last && left.is_none());
        if was_last && let Some(tell) = self.core.address_left.get() {
            tell(kind, &name);
        }
        if let Some(left) = &mut *left {
            left.names.get_mut(kind).insert(name);
        }
        self.count_groups();
    }

    /// It gets no more of the stream of an address that it is no member of any more, nor what waits of it.
    fn leave_stream(&self, client: &Client<S>, kind: AddressKind, name: &str, was_last: bool) {
        let mut streams = self.streams.borrow_mut();
        // as nearly always
        if streams.is_empty() {
            return;
        }
        let address = kind.of(name);
        if streams.place(&address, client.key()) {
            client.set_behind(false);
        }
        if streams.get_mut(&address).is_some_and(|stream| stream.remove_follower(client.key())) {
            client.set_behind(false);
        }
        if was_last {
            streams.end(&address);
        }
        // where the node sends it away, what waits leaves first
        if client.label() != Close::Drain.label() {
            client.outbox.borrow_mut().forget_stream(&address);
        }
        if client.is_behind() {
            // there may be room now for what it follows elsewhere
            client.addresses().iter().for_each(|address| streams.set_due(address));
        }
    }

    pub(super) fn streams(&self) -> RefMut<'_, GroupStreams> {
        self.streams.borrow_mut()
    }

    /// Where the store is asked; `None`: there is none.
    pub(super) fn catch_up(&self) -> Option<&StreamQuestions> {
        self.core.catch_up.get()
    }

    pub(super) fn groups(&self) -> Ref<'_, Groups<S>> {
        self.groups.borrow()
    }

    /// All clients that pushes may be for, as the loop that offers wants them: one allocation for a burst to an app or to
    /// everyone.
    pub(super) fn let_in(&self) -> Vec<Rc<Client<S>>> {
        self.clients.borrow().values().filter(|client| client.is_let_in()).cloned().collect()
    }

    pub(super) fn present_sample(&self, room: &str) -> Option<NameSample> {
        self.presence_of(room).map(|presence| presence.sample(room))
    }

    pub(super) fn has_presence(&self, room: &str) -> bool {
        self.presence_of(room).is_some()
    }

    pub(super) fn present(&self, room: &str) -> Option<PresentCards> {
        self.presence()?.present(room)
    }

    /// Its number.
    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// The node sends its clients away.
    pub(super) fn is_leaving(&self) -> bool {
        self.left.borrow().is_some()
    }

    /// A client of `recipients` was sent away, and is gone.
    pub(super) fn has_left(&self, recipients: &Recipients) -> bool {
        self.left.borrow().as_ref().is_some_and(|left| left.has(recipients))
    }

    fn count_groups(&self) {
        self.core.metrics.groups.set(self.core.index.groups(AddressKind::Card) as i64);
    }
}
