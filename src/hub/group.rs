//! The live clients of one address in one shard.

use std::{rc::Rc, slice, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{client::Client, index};
use crate::push::{Address, AddressKind};

/// Something for each kind of address.
#[derive(Default)]
pub(super) struct ByKind<T> {
    pub(super) cards: T,
    pub(super) rooms: T,
}

impl<T> ByKind<T> {
    pub(super) fn get(&self, kind: AddressKind) -> &T {
        match kind {
            AddressKind::Card => &self.cards,
            AddressKind::Room => &self.rooms,
        }
    }

    pub(super) fn get_mut(&mut self, kind: AddressKind) -> &mut T {
        match kind {
            AddressKind::Card => &mut self.cards,
            AddressKind::Room => &mut self.rooms,
        }
    }
}

/// The groups of a shard.
pub(super) struct Groups<S>(ByKind<HashMap<Arc<str>, Group<S>, RandomState>>);

impl<S> Groups<S> {
    pub(super) fn new() -> Self {
        Self(ByKind { cards: HashMap::default(), rooms: HashMap::default() })
    }

    /// The clients of an address.
    pub(super) fn clients(&self, kind: AddressKind, name: &str) -> &[Rc<Client<S>>] {
        self.0.get(kind).get(name).map_or(&[], Group::clients)
    }

    /// Those that have clients.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        let ByKind { cards, rooms } = &self.0;
        let cards = cards.keys().map(|card| AddressKind::Card.of(card));
        cards.chain(rooms.keys().map(|room| AddressKind::Room.of(room)))
    }

    /// Puts `client` into a group; its position there.
    pub(super) fn add(&mut self, kind: AddressKind, name: &Arc<str>, client: &Rc<Client<S>>) -> u32 {
        let groups = self.0.get_mut(kind);
        if let Some(group) = groups.get_mut(name) {
            return group.add(Rc::clone(client));
        }
        groups.insert(Arc::clone(name), Group::One(Rc::clone(client)));
        0
    }

    /// Takes the client at `position` out of a group.
    pub(super) fn remove(&mut self, kind: AddressKind, name: &str, position: u32) -> Removed<S> {
        let groups = self.0.get_mut(kind);
        let Some(group) = groups.get_mut(name) else { return Removed { was_last: true, moved: None } };
        let moved = group.remove(position);
        let was_last = group.clients().is_empty();
        if was_last {
            groups.remove(name);
            index::shrink(groups);
        }
        Removed { was_last, moved }
    }
}

/// What a removal did.
pub(super) struct Removed<S> {
    /// The group is no more.
    pub(super) was_last: bool,
    /// Who has the position now that became free.
    pub(super) moved: Option<Rc<Client<S>>>,
}

/// Most cards have one client: that costs no allocation.
enum Group<S> {
    One(Rc<Client<S>>),
    Many(Vec<Rc<Client<S>>>),
}

impl<S> Group<S> {
    fn clients(&self) -> &[Rc<Client<S>>] {
        match self {
            Self::One(client) => slice::from_ref(client),
            Self::Many(clients) => clients,
        }
    }

    fn add(&mut self, client: Rc<Client<S>>) -> u32 {
        match self {
            Self::One(first) => {
                *self = Self::Many(vec![Rc::clone(first), client]);
                1
            }
            Self::Many(clients) => {
                clients.push(client);
                clients.len() as u32 - 1
            }
        }
    }

    /// The last client moves to the free position, so that no search is needed.
    fn remove(&mut self, position: u32) -> Option<Rc<Client<S>>> {
        let clients = match self {
            Self::One(_) => {
                *self = Self::Many(Vec::new());
                return None;
            }
            Self::Many(clients) => clients,
        };
        clients.swap_remove(position as usize);
        let moved = clients.get(position as usize).cloned();
        if clients.capacity() > 16 && clients.len() * 4 < clients.capacity() {
            clients.shrink_to(clients.len() * 2);
        }
        moved
    }
}
