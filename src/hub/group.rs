//! The live connections of one card in one shard.

use std::rc::Rc;

use super::client::Client;

/// Most cards have one connection: that costs no allocation.
pub(super) enum Group<S> {
    One(Rc<Client<S>>),
    Many(Vec<Rc<Client<S>>>),
}

impl<S> Group<S> {
    pub(super) fn new(client: Rc<Client<S>>) -> Self {
        client.position.set(0);
        Self::One(client)
    }

    pub(super) fn clients(&self) -> &[Rc<Client<S>>] {
        match self {
            Self::One(client) => std::slice::from_ref(client),
            Self::Many(clients) => clients,
        }
    }

    pub(super) fn add(&mut self, client: Rc<Client<S>>) {
        match self {
            Self::One(first) => {
                client.position.set(1);
                *self = Self::Many(vec![Rc::clone(first), client]);
            }
            Self::Many(clients) => {
                client.position.set(clients.len() as u32);
                clients.push(client);
            }
        }
    }

    /// Takes `client` out; `true`: nobody is left. The last one moves to its position, so that no search is needed.
    pub(super) fn remove(&mut self, client: &Client<S>) -> bool {
        match self {
            Self::One(_) => true,
            Self::Many(clients) => {
                let position = client.position.get() as usize;
                clients.swap_remove(position);
                if let Some(moved) = clients.get(position) {
                    moved.position.set(position as u32);
                }
                if clients.capacity() > 16 && clients.len() * 4 < clients.capacity() {
                    clients.shrink_to(clients.len() * 2);
                }
                clients.is_empty()
            }
        }
    }
}
