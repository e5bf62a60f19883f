//! The clients of one shard, and what they are members of.

use std::{
    cell::{Ref, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use super::{
    Client, ClientId, ClientKey, Core,
    fanout::Recipients,
    group::{ByKind, Groups},
    membership::{JoinTime, Membership},
    slab::Slab,
};
use crate::{push::AddressKind, wire::dialect::Dialect};

pub(super) struct Registry<S> {
    core: Arc<Core>,
    shard: usize,
    clients: RefCell<Slab<Client<S>>>,
    groups: RefCell<Groups<S>>,
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
            left: RefCell::new(None),
        }
    }

    /// From now on clients leave because the node does.
    pub(super) fn send_away(&self) {
        self.left.borrow_mut().get_or_insert_default();
    }

    pub(super) fn insert(&self, sink: S, dialect: Dialect) -> Rc<Client<S>> {
        let client = Client::new(sink, dialect);
        let key = self.clients.borrow_mut().insert(Rc::clone(&client));
        let _ = client.key.set(key);
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
        self.core.metrics.connections.dec();
        true
    }

    pub(super) fn get(&self, key: ClientKey) -> Option<Rc<Client<S>>> {
        self.clients.borrow().get(key).cloned()
    }

    fn now(&self) -> JoinTime {
        JoinTime::at(self.core.started.elapsed())
    }

    /// Whether it joined its card longer than `age` ago.
    pub(super) fn joined_before(&self, client: &Client<S>, age: Duration) -> bool {
        let memberships = client.memberships.borrow();
        memberships.card().is_some_and(|card| card.since.is_older_than(age, self.now()))
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

    /// Puts it into the group of `card`, out of that of the card it was in.
    pub(super) fn join(&self, client: &Rc<Client<S>>, card: &str, app: &str) {
        let is_there = client.memberships.borrow().card().is_some_and(|joined| *joined.name == *card);
        if !is_there {
            self.leave_card(client);
            let membership = self.enter(client, AddressKind::Card, card);
            client.memberships.borrow_mut().set_card(membership);
        }
        client.memberships.borrow_mut().set_app(app);
    }

    /// `false`: it is in the room already.
    pub(super) fn subscribe(&self, client: &Rc<Client<S>>, room: &str) -> bool {
        if client.memberships.borrow().is_in_room(room) {
            return false;
        }
        let membership = self.enter(client, AddressKind::Room, room);
        client.memberships.borrow_mut().add_room(membership);
        true
    }

    /// `false`: it was not in the room.
    pub(super) fn unsubscribe(&self, client: &Client<S>, room: &str) -> bool {
        let taken = client.memberships.borrow_mut().take_room(room);
        let was_there = taken.is_some();
        if let Some(membership) = taken {
            self.exit(AddressKind::Room, membership);
        }
        was_there
    }

    /// `false`: it had joined none.
    pub(super) fn leave_card(&self, client: &Client<S>) -> bool {
        let taken = client.memberships.borrow_mut().take_card();
        let had_joined = taken.is_some();
        if let Some(membership) = taken {
            self.exit(AddressKind::Card, membership);
        }
        had_joined
    }

    /// Takes it out of all its groups.
    pub(super) fn leave_all(&self, client: &Client<S>) {
        self.leave_card(client);
        let rooms = client.memberships.borrow_mut().take_rooms();
        for room in rooms {
            self.exit(AddressKind::Room, room);
        }
        if let Some(left) = &mut *self.left.borrow_mut() {
            left.any = true;
        }
    }

    fn enter(&self, client: &Rc<Client<S>>, kind: AddressKind, name: &str) -> Membership {
        let name = self.core.index.enter(kind, name, self.shard);
        let position = self.groups.borrow_mut().add(kind, &name, client);
        self.count_groups();
        Membership { name, position, since: self.now() }
    }

    fn exit(&self, kind: AddressKind, membership: Membership) {
        let Membership { name, position, .. } = membership;
        let removed = self.groups.borrow_mut().remove(kind, &name, position);
        if let Some(moved) = removed.moved {
            moved.memberships.borrow_mut().set_position(kind, &name, position);
        }
        let mut left = self.left.borrow_mut();
        // a shard whose clients are sent away goes on to want their pushes: they wait for the clients' return
        self.core.index.leave(kind, &name, self.shard, removed.was_last && left.is_none());
        if let Some(left) = &mut *left {
            left.names.get_mut(kind).insert(name);
        }
        self.count_groups();
    }

    pub(super) fn groups(&self) -> Ref<'_, Groups<S>> {
        self.groups.borrow()
    }

    /// All clients, as the loop that offers wants them: one allocation for a burst to an app or to everyone.
    pub(super) fn clients(&self) -> Vec<Rc<Client<S>>> {
        self.clients.borrow().values().cloned().collect()
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
